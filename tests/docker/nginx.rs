//! Debian's NGINX with the module, asked from another machine.

use shunt_tests::docker::Debian;
use shunt_tests::docker::site::Site;

/// How often it is switched under load.
const SWITCHES: usize = 40;

/// So many answers of a release are waited for before it is switched away from for good.
const ANSWERS: u64 = 100;

/// A site with a release in each of two slots; the first is active.
fn two_releases(debian: Debian) -> Site {
    let site = Site::start(debian);
    for (release, port) in [("v1", 3001), ("v2", 3002)] {
        site.run_in_slot(port, release);
        site.put(release, port);
    }
    site.switch("v1");
    site
}

fn p1_p3_switches_between_two_units_by_the_api_lose_no_request(debian: Debian) {
    let site = two_releases(debian);
    let pids = || site.server.run(&["pgrep", "--full", "nginx: "]);
    let before = pids();
    let watch = site.watch();
    site.wait_for_requests(ANSWERS);
    // Whoever asks after the reply is answered by the new release.
    let said = site.client.sh(&format!(
        "token=$(cat /etc/nginx/shunt.token)
         for ((n = 0; n < {SWITCHES}; n++)); do
             release=v$((n % 2 == 0 ? 2 : 1))
             curl -sS --fail-with-body --header \"Authorization: Bearer $token\" \
                 --data '{{\"release\":\"'$release'\"}}' \
                 http://server:8080/v1/upstreams/web/switch >/dev/null
             echo \"$release $(curl -sS --fail http://server/release)\"
         done"
    ));
    for release in ["v1", "v2"] {
        site.switch(release);
        site.wait_for_requests(ANSWERS);
    }
    let verdict = watch.end();

    let answers: Vec<_> = said.lines().collect();
    let expected: Vec<_> = ["v2 v2", "v1 v1"].into_iter().cycle().take(SWITCHES).collect();
    assert_eq!(answers, expected);
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    for release in ["v1", "v2"] {
        assert!(verdict.releases[release] >= ANSWERS, "{verdict:?}");
    }
    assert!(verdict.messages > 0, "{verdict:?}");
    assert_eq!(pids(), before, "no process was started or ended");
}

fn p5_reload_restart_and_loss_of_power_keep_the_active_release(debian: Debian) {
    let site = two_releases(debian);
    site.switch("v2");
    let watch = site.watch_gets();
    site.wait_for_requests(ANSWERS);
    site.server.run(&["systemctl", "reload", "nginx.service"]);
    site.wait_for_requests(ANSWERS);
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "a reload loses none: {verdict:?}");
    assert_eq!(site.answering(), "v2");

    site.server.run(&["systemctl", "restart", "nginx.service"]);
    assert_eq!(site.answering(), "v2");

    site.server.cut_off();
    site.server.power_on();
    site.server.wait_until_booted();
    assert_eq!(site.state("web").active.unwrap().as_str(), "v2");
    site.server.run(&["systemctl", "start", "web@3002.socket"]);
    assert_eq!(site.answering(), "v2");
}

fn p11_over_tcp_nobody_without_the_token_changes_anything(debian: Debian) {
    let site = two_releases(debian);
    let switch = ["--data", r#"{"release":"v2"}"#, "http://server:8080/v1/upstreams/web/switch"];
    let status = ["curl", "-s", "--output", "/dev/null", "--write-out", "%{http_code}"];
    assert_eq!(site.client.run(&[&status[..], &switch].concat()), "401");
    let token = ["--header", "Authorization: Bearer another-token-for-tests"];
    assert_eq!(site.client.run(&[&status[..], &token, &switch].concat()), "401");
    assert_eq!(site.answering(), "v1");
    // Nor over the socket, but for root.
    let socket = ["--unix-socket", "/run/shunt-nginx.sock"];
    let as_web = ["setpriv", "--reuid=web", "--regid=web", "--clear-groups"];
    let command = [&as_web[..], &status, &socket, &switch].concat();
    assert_eq!(site.server.run(&command), "403");
    assert_eq!(site.answering(), "v1");
}

each_debian!(
    p1_p3_switches_between_two_units_by_the_api_lose_no_request,
    p5_reload_restart_and_loss_of_power_keep_the_active_release,
    p11_over_tcp_nobody_without_the_token_changes_anything,
);
