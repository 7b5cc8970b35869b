//! The variables; and that a request is counted once, whatever way it takes inside of NGINX.

use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, STANDARD, Setup};
use shunt_tests::until;

fn the_variables_name_upstream_release_and_generation(build: &Build) {
    let (a, b) = (Backend::start("a", 1), Backend::start("b", 1));
    let upstream = format!("upstream web {{ shunt;\n{}{} }}", a.lines(), b.lines());
    let nginx = Nginx::start(build, Setup::standard(&upstream));
    let said = || {
        let response = nginx.connect().ask("GET", "/", b"").unwrap();
        response.header("x-shunt").unwrap().to_owned()
    };
    assert_eq!(said(), "web a 1");
    nginx.admin().switch("web", "b", None).unwrap();
    assert_eq!(said(), "web b 2");
}

fn a_request_is_counted_once_whatever_way_it_takes(build: &Build) {
    let (a, dead) = (Backend::start("a", 1), shunt_tests::free_port());
    let more = format!(
        r#"
        upstream web {{ shunt;
            {}
            shunt_release a 127.0.0.1:{dead} max_fails=0;
        }}
        server {{
            listen unix:%FOLDER%/ways.sock;
            location /redirected {{ proxy_intercept_errors on; error_page 404 = /again; proxy_pass http://web/missing; }}
            location /again {{ proxy_pass http://web/; }}
            location /tried {{ try_files /nothing /again; }}
            location /authorised {{ auth_request /auth; proxy_pass http://web/; }}
            location = /auth {{ internal; proxy_pass http://web/; }}
            location /mirrored {{ mirror /copy; proxy_pass http://web/; }}
            location = /copy {{ internal; proxy_pass http://web/; }}
        }}
        "#,
        a.lines()
    );
    let nginx = Nginx::start(build, Setup::standard(&more));
    let ways = shunt_tests::admin::Admin::new(&nginx.path("ways.sock"));
    let requests = || nginx.admin().state("web").release("a").unwrap().requests;
    for way in ["/redirected", "/tried", "/authorised", "/mirrored", "/again"] {
        let before = requests();
        // The dead server makes NGINX try the next one, now and then.
        for _ in 0..4 {
            assert_eq!(ways.ask("GET", way, &[], b"").status, 200, "{way}");
        }
        assert_eq!(requests() - before, 4, "{way}");
    }
    until("nothing is in flight", || {
        (nginx.admin().in_flight("web", "a").total() == 0).then_some(())
    });
}

fn one_request_keeps_its_release_while_it_is_switched(build: &Build) {
    let (a, b) = (Backend::start("a", 1), Backend::start("b", 1));
    let http = format!(
        "{STANDARD} upstream web {{ shunt;\n{}{} }}
         server {{ listen unix:%FOLDER%/ways.sock;
             location / {{ auth_request /auth; proxy_pass http://web; }}
             location = /auth {{ internal; proxy_pass http://web/held; }} }}",
        a.lines(),
        b.lines()
    );
    let nginx = Nginx::start(build, Setup { http, workers: 2 });
    a.hold();
    let socket = nginx.path("ways.sock");
    let asking = std::thread::spawn(move || {
        shunt_tests::admin::Admin::new(&socket).ask("GET", "/", &[], b"").release().to_owned()
    });
    until("the subrequest is held", || (a.held() == 1).then_some(()));
    nginx.admin().switch("web", "b", None).unwrap();
    a.let_go();
    assert_eq!(asking.join().unwrap(), "a");
}

fn addresses_of_every_kind_are_proxied_to(build: &Build) {
    let folder = tempfile::tempdir().unwrap();
    let first = Backend::start("a", 1);
    let unix = Backend::unix("b", 1, folder.path());
    let upstream = format!("upstream web {{ shunt;\n{} }}", first.lines());
    let nginx = Nginx::start(build, Setup::standard(&upstream));
    assert_eq!(nginx.admin().put("web", "b", &unix.addresses).status, 201);
    nginx.admin().switch("web", "b", None).unwrap();
    assert_eq!(nginx.connect().ask("GET", "/", b"").unwrap().release(), "b");
}

fn a_release_that_replaces_the_configured_one_is_served(build: &Build) {
    let a = Backend::start("a", 1);
    let upstream = format!("upstream web {{ shunt;\n{} }}", a.lines());
    let mut nginx = Nginx::start(build, Setup::standard(&upstream));
    let b = Backend::start("b", 1);
    assert_eq!(nginx.admin().put("web", "b", &b.addresses).status, 201);
    // A configuration whose releases are other ones: the first of them is active then.
    let other = nginx.http().replace("shunt_release a", "shunt_release z");
    nginx.set_http(&other);
    nginx.reload();
    assert_eq!(nginx.admin().state("web").active.unwrap().as_str(), "z");
    assert_eq!(nginx.connect().ask("GET", "/", b"").unwrap().status, 200);
    nginx.admin().switch("web", "b", None).unwrap();
    assert_eq!(nginx.connect().ask("GET", "/", b"").unwrap().release(), "b");
}

each_nginx!(
    the_variables_name_upstream_release_and_generation,
    a_request_is_counted_once_whatever_way_it_takes,
    one_request_keeps_its_release_while_it_is_switched,
    addresses_of_every_kind_are_proxied_to,
    a_release_that_replaces_the_configured_one_is_served,
);
