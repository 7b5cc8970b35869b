//! What NGINX needs for an application.

use super::Plan;

impl Plan {
    /// Where NGINX's admin API of this application answers.
    pub(super) fn api(&self) -> String {
        format!("unix:/run/shunt-{}.sock", self.name)
    }

    pub(super) fn nginx(&self) -> String {
        let (name, api) = (&self.name, self.api());
        format!(
            r#"# The application "{name}": a switchable upstream. It stands in the http block, as all files in
# conf.d do. The module is loaded at the top of nginx.conf:
#     load_module modules/ngx_http_shunt_module.so;

shunt_zone  {name}:1m  state=/var/lib/nginx/shunt/{name}.json;

upstream {name} {{
    shunt      zone={name};           # a balancing method, if any, goes above this line
    server     127.0.0.1:1 down;    # until the first deploy; better what serves now, if something does
    keepalive  32;                  # below it
}}

# The admin API, which shuntd calls: only root may change something.
server {{
    listen {api};
    access_log off;
    location / {{ shunt_api write=on; }}
}}

server {{
    listen       80;
    server_name  {name}.example;  # yours

    shunt_hold  {name};             # where new requests wait while it is held

    location / {{
        proxy_pass          http://{name};
        proxy_http_version  1.1;
        proxy_set_header    Connection "";
        proxy_set_header    Host $host;
        proxy_set_header    X-Forwarded-For $proxy_add_x_forwarded_for;
        add_header          X-Release $shunt_release always;
    }}

    # WebSockets.
    location /ws {{
        proxy_pass          http://{name};
        proxy_http_version  1.1;
        proxy_set_header    Upgrade $http_upgrade;
        proxy_set_header    Connection upgrade;
        proxy_set_header    Host $host;
    }}
}}
"#
        )
    }
}
