//! `nginx -t` finds every mistake and says where it is and what to do.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use shunt_tests::build::{self, Build};
use shunt_tests::nginx::{Nginx, Setup};

/// A configuration, and what NGINX must say of it. `%HERE%` marks the line that must be named.
struct Mistake {
    http: &'static str,
    says: &'static [&'static str],
}

const MISTAKES: &[Mistake] = &[
    Mistake {
        http: "shunt_zone one:1m state=%STATE%;\nshunt_zone two:1m state=%FOLDER%/state/../state//state.json; #%HERE%\n",
        says: &["zone \"one\" has the same state file"],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nshunt; #%HERE%\nserver 255.255.255.255:1; }",
        says: &["address \"255.255.255.255:1\" cannot be read"],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nserver {\nlisten 127.0.0.1:%PORT%;\nlocation / {\nshunt_api write=on token_file=/dev/zero; #%HERE%\n} }",
        says: &["cannot read token file \"/dev/zero\": it is not a file"],
    },
    Mistake {
        http: "upstream web {\nshunt; #%HERE%\nserver 127.0.0.1:1; }",
        says: &["\"shunt\" needs a zone", "add \"shunt_zone shunt:1m;\""],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nshunt; #%HERE%\nleast_conn;\nserver 127.0.0.1:1; }",
        says: &["method of upstream \"web\" must come before \"shunt\""],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nkeepalive 4;\nshunt; #%HERE%\nserver 127.0.0.1:1; }",
        says: &["\"keepalive\" must come after \"shunt\"", "move it below"],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nshunt;\nshunt; #%HERE%\nserver 127.0.0.1:1; }",
        says: &["\"shunt\" directive is duplicate"],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nshunt;\nshunt_release a 127.0.0.1:1;\nshunt_release a 127.0.0.1:1; #%HERE%\n}",
        says: &["duplicate server \"127.0.0.1:1\" in release \"a\""],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nshunt; #%HERE%\nserver 127.0.0.1:1;\nshunt_release default 127.0.0.1:2; }",
        says: &["duplicate release \"default\""],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nshunt;\nshunt_release a 127.0.0.1:99999; #%HERE%\n}",
        says: &["invalid port"],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nshunt;\nshunt_release a/b 127.0.0.1:1; #%HERE%\n}",
        says: &["release name \"a/b\" has a character other than"],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nhash $uri;\nshunt;\nshunt_release a 127.0.0.1:1 backup; #%HERE%\n}",
        says: &["balancing method does not support parameter \"backup\""],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nshunt_release a 127.0.0.1:1; #%HERE%\nshunt; }",
        says: &["\"shunt_release\" must come after \"shunt\""],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nshunt; #%HERE%\n}",
        says: &["no servers: add \"server\" or \"shunt_release\" lines"],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nzone web 64k;\nshunt; #%HERE%\nserver 127.0.0.1:1; }",
        says: &["\"zone\" does not work with \"shunt\"", "remove it"],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nleast_conn;\nshunt; #%HERE%\nserver 127.0.0.1:1;\nzone web 64k; }",
        says: &["\"zone\" does not work with \"shunt\"", "remove it"],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nserver {\nlisten 127.0.0.1:%PORT%;\nlocation / {\nshunt_api write=on; #%HERE%\n} }",
        says: &["\"shunt_api write=on\" on a TCP port needs \"token_file=\""],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nserver {\nlisten 127.0.0.1:%PORT%;\nlocation / {\nshunt_api write=maybe; #%HERE%\n} }",
        says: &["invalid value \"maybe\" of \"write\""],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nserver {\nlisten unix:%FOLDER%/x.sock;\nlocation / {\nshunt_api write=on user=nobody-of-this-name; #%HERE%\n} }",
        says: &["user \"nobody-of-this-name\" does not exist"],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nshunt;\nserver 127.0.0.1:1; }\nshunt_hold web;\nshunt_hold off; #%HERE%\n",
        says: &["\"shunt_hold off\" stands beside another"],
    },
    Mistake {
        http: "shunt_zone shunt:1m;\nupstream web {\nshunt;\nserver 127.0.0.1:1; }\nshunt_hold off;\nshunt_hold web; #%HERE%\n",
        says: &["\"shunt_hold off\" stands beside another"],
    },
    Mistake {
        http: "shunt_zone shunt; #%HERE%\n",
        says: &["invalid zone \"shunt\", write it as \"shunt:1m\""],
    },
    Mistake { http: "shunt_zone shunt:4k; #%HERE%\n", says: &["is too small, give it 32k"] },
    Mistake {
        http: "shunt_zone shunt:1m state=%FOLDER%/state/; #%HERE%\n",
        says: &["\"state=\" needs the path of a file"],
    },
    Mistake {
        http: "shunt_zone a:1m state=%STATE%;\nshunt_zone b:1m state=%STATE%; #%HERE%\n",
        says: &["zone \"a\" has the same state file"],
    },
    Mistake {
        http: "shunt_zone a:1m;\nshunt_zone b:1m;\nupstream web {\nshunt; #%HERE%\nserver 127.0.0.1:1; }",
        says: &["there are several zones, say which"],
    },
];

fn every_mistake_is_named_with_its_line_and_cure(build: &Build) {
    for mistake in MISTAKES {
        let http = mistake.http.to_owned();
        let nginx = Nginx::prepare(build, Setup { http, workers: 1 });
        let (good, said) = nginx.test();
        assert!(!good, "this is accepted:\n{}", mistake.http);
        for what in mistake.says {
            assert!(said.contains(what), "{}\ndoes not say {what:?}:\n{said}", mistake.http);
        }
        let conf = nginx.path("nginx.conf");
        let text = std::fs::read_to_string(&conf).unwrap();
        let line = text.lines().position(|line| line.contains("%HERE%")).unwrap() + 1;
        let place = format!(" in {}:{line}", conf.display());
        assert!(said.contains(&place), "{}\ndoes not name{place}:\n{said}", mistake.http);
    }
}

fn a_zone_that_is_full_names_the_size_that_would_do(build: &Build) {
    let upstreams: String =
        (0..200).map(|i| format!("upstream u{i} {{ shunt; server 127.0.0.1:1; }}\n")).collect();
    let http = format!("shunt_zone shunt:32k;\n{upstreams}");
    let mut nginx = Nginx::prepare(build, Setup { http, workers: 1 });
    let (good, said) = nginx.test();
    assert!(!good && said.contains("do not fit into zone \"shunt\""), "{said}");
    let advice = said.split("\"shunt_zone ").nth(1).and_then(|s| s.split('"').next()).unwrap();
    nginx.set_http(&format!("shunt_zone {advice};\n{upstreams}"));
    let (good, said) = nginx.test();
    assert!(good, "{advice} does not do: {said}");
}

fn what_is_right_is_accepted(build: &Build) {
    for upstream in [
        "upstream web { least_conn; shunt; server 127.0.0.1:1; keepalive 4; }",
        "upstream web { shunt zone=shunt; server 127.0.0.1; server localhost:81 weight=2; }",
        "upstream web { shunt; shunt_release a unix:/run/a.sock; shunt_release b [::1]:80 weight=3 max_fails=0; }",
        "upstream web { server 127.0.0.1:1; shunt; shunt_release blue 127.0.0.1:2 backup; shunt_release blue 127.0.0.1:3; }",
    ] {
        let nginx = Nginx::prepare(build, Setup::standard(upstream));
        let (good, said) = nginx.test();
        assert!(good, "{upstream}\n{said}");
        assert!(!said.contains("[warn]"), "{upstream}\n{said}");
    }
}

fn a_token_that_no_server_asks_for_is_warned_of(build: &Build) {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "correct-horse-battery\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    for (listen, warned) in [
        ("listen unix:%FOLDER%/x.sock;", true),
        ("listen 127.0.0.1:%PORT%;", false),
        ("listen unix:%FOLDER%/x.sock; listen 127.0.0.1:%PORT%;", false),
    ] {
        let http = format!(
            "shunt_zone shunt:1m;\nserver {{ {listen} location / {{\n\
             shunt_api write=on token_file={}; }} }}",
            token.display()
        );
        let nginx = Nginx::prepare(build, Setup { http, workers: 1 });
        let (good, said) = nginx.test();
        assert!(good, "{listen}\n{said}");
        let warning = said.contains("[warn]") && said.contains("\"token_file=\" has no effect");
        assert_eq!(warning, warned, "{listen}\n{said}");
    }
}

/// Compiles a module with a method of its own, `foreign`.
fn foreign_module(build: &Build, folder: &Path) -> PathBuf {
    let built = build::folder().join(&build.version);
    // As Debian's sources lie, or as upstream's do.
    let (objs, source) = match built.join("source") {
        source if source.exists() => (source.join("objs"), source),
        _ => (built.join("objs"), built.join("objs/source")),
    };
    let module = folder.join("foreign.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(&module);
    cc.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/config/foreign.c"));
    cc.arg("-I").arg(objs);
    for headers in ["core", "event", "event/modules", "event/quic", "os/unix", "http"] {
        cc.arg("-I").arg(source.join("src").join(headers));
    }
    for headers in ["http/modules", "http/v2", "http/v3"] {
        cc.arg("-I").arg(source.join("src").join(headers));
    }
    let output = cc.output().expect("cc runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    module
}

fn a_method_of_another_module_is_refused(build: &Build) {
    let folder = tempfile::tempdir().unwrap();
    let module = foreign_module(build, folder.path());
    let start = |upstream: &str| {
        let mut nginx = Nginx::prepare(build, Setup::standard(upstream));
        let load = format!("load_module {};\n{}", module.display(), nginx.main());
        nginx.set_main(&load);
        nginx.test()
    };
    let (good, said) = start("upstream web { foreign; server 127.0.0.1:1; }");
    assert!(good, "{said}");
    let (good, said) = start("upstream web { foreign; shunt; server 127.0.0.1:1; }");
    assert!(!good && said.contains("the one above it is another module's"), "{said}");
}

each_nginx!(
    a_token_that_no_server_asks_for_is_warned_of,
    a_method_of_another_module_is_refused,
    every_mistake_is_named_with_its_line_and_cure,
    a_zone_that_is_full_names_the_size_that_would_do,
    what_is_right_is_accepted,
);
