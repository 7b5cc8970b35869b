//! NGINX's configuration: all kinds of balancing, and all that the module has.

use std::path::Path;
use std::process::Command;

use shunt_tests::backend::Backend;

/// A certificate for the server that answers with TLS.
pub fn certificate(folder: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tls", "-days", "2"])
        .arg("-keyout")
        .arg(folder.join("tls.key"))
        .arg("-out")
        .arg(folder.join("tls.crt"))
        .output()
        .expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The `http` block, with this in it besides.
pub fn http(a: &Backend, b: &Backend, tls: &str, more: &str) -> String {
    let methods = [
        ("web", "least_conn;", "keepalive 4;"),
        ("plain", "", ""),
        ("hash", "hash $request_id consistent;", ""),
        ("random", "random two;", ""),
        ("ip", "ip_hash;", ""),
    ];
    let upstreams: String = methods
        .iter()
        .map(|(name, method, keepalive)| {
            // Two zones, so that both ways to find one are taken.
            let zone = if *name == "random" { "zone=other" } else { "zone=shunt" };
            let (a, b) = (a.lines(), b.lines());
            format!("upstream {name} {{ {method} shunt {zone};\n{a}{b}{keepalive} }}\n")
        })
        .collect();
    let locations: String = methods
        .iter()
        .map(|(name, ..)| {
            format!(
                "location /{name} {{ proxy_pass http://{name}; }}
                 location /held/{name} {{ proxy_pass http://{name}; }}
                 location /ws/{name} {{
                     proxy_set_header Upgrade $http_upgrade;
                     proxy_set_header Connection upgrade;
                     proxy_pass http://{name};
                 }}
                 location /missing/{name} {{
                     proxy_intercept_errors on;
                     error_page 404 = @other;
                     proxy_pass http://{name};
                 }}\n"
            )
        })
        .collect();
    let ways = format!("{}{}", a.lines(), b.lines());
    format!(
        r#"
    shunt_zone shunt:1m state=%STATE%;
    shunt_zone other:256k;
    {upstreams}
    upstream ways {{
        shunt zone=shunt;
        {ways}
        shunt_preview $http_x_want;
        shunt_canary_key $http_x_key;
        shunt_fallback on;
        keepalive 4;
    }}
    upstream tls {{
        shunt zone=shunt;
        shunt_release a {tls};
        shunt_release b {tls} weight=2;
    }}
    {more}
    server {{
        listen unix:%FOLDER%/api.sock;
        location / {{ shunt_api write=on; }}
        location = /metrics {{ shunt_metrics; }}
    }}
    server {{
        # A queue for each worker, so that all of them get some.
        listen 127.0.0.1:%PORT% reuseport;
        client_max_body_size 1m;
        add_header X-Shunt "$shunt_upstream $shunt_release $shunt_generation" always;
        add_header X-Worker $pid always;
        add_header X-Reason $shunt_reason always;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        {locations}
        location /ways {{ shunt_hold ways; proxy_pass http://ways; }}
        location /few/ways {{ shunt_hold ways max=5; proxy_pass http://ways; }}
        location /late/ways {{ shunt_hold ways timeout=100ms; proxy_pass http://ways; }}
        location /tls {{ proxy_pass https://tls; }}
        location /missing/tls {{
            proxy_intercept_errors on;
            error_page 404 = @other;
            proxy_pass https://tls;
        }}
        location @other {{ proxy_pass http://plain; }}
    }}
    server {{
        listen {tls} ssl;
        ssl_certificate %FOLDER%/tls.crt;
        ssl_certificate_key %FOLDER%/tls.key;
        location / {{ return 200 "tls"; }}
        location /missing/ {{ return 404; }}
    }}
"#
    )
}
