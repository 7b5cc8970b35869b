//! Every step of a deploy with the runner `systemd`: canaries, hooks, the guard, a word by hand, several
//! applications at a time, and a `shuntd` that is upgraded meanwhile.

use std::io::{BufRead, BufReader};

use shunt_tests::docker::Debian;
use shunt_tests::docker::job::{Ended, Job};
use shunt_tests::docker::site::{RATE, Site};
use shunt_tests::until;

/// Where `make install` has put the sample.
const SAMPLE: &str = "/usr/local/share/doc/shunt/examples/web-systemd.toml";

/// All that is watched lasts until somebody has seen enough, and each hook tells what it is told.
const EVERYTHING: &str = r#"
[canary]
steps = [{ share = 0.2, time = "10m" }, { share = 0.5, time = "10m" }]
[guard]
time = "10m"
[hooks]
build         = ["/srv/hook"]
migrate       = ["/srv/hook"]
before_switch = ["/srv/hook"]
after_switch  = ["/srv/hook"]
after_deploy  = ["/srv/hook"]
on_failure    = ["/srv/hook"]
"#;

/// Fails where the release has a file that says so.
const HOOK: &str = r#"#!/bin/sh
echo "$SHUNT_HOOK of $SHUNT_APP in $SHUNT_ROOT as $(id -un):$(id -gn) in $PWD,\
 $RELEASE of $SHUNT_REVISION in $SHUNT_RELEASE_DIR after $SHUNT_PREVIOUS_RELEASE,\
 slot ${SHUNT_SLOT:-none}, failure ${SHUNT_FAILURE:-none}" >>"/srv/told/$RELEASE"
[ ! -e "fails-in-$SHUNT_HOOK" ]
"#;

/// What a hook has told.
fn told(hook: &str, release: &str, slot: &str, failure: &str) -> String {
    format!(
        "{hook} of web in /srv/web as web:web in /srv/web/releases/{release}, {release} of {release} \
         in /srv/web/releases/{release} after v1, slot {slot}, failure {failure}"
    )
}

fn app(site: &Site, more: &str) -> String {
    let sample = site.server.read(SAMPLE);
    format!(
        "{sample}interval = \"20ms\"\nrelease_header = \"X-Release\"\ndeadline = \"60s\"\n{more}"
    )
}

#[track_caller]
fn deployed(job: Job) -> Ended {
    let ended = job.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    ended
}

/// Waits until this release has answered so many requests since it was made.
#[track_caller]
fn answers(site: &Site, release: &str, count: u64) {
    until(release, || {
        let state = site.state("web");
        (state.release(release)?.responses.successful >= count).then_some(())
    });
}

#[track_caller]
fn order(site: &Site, order: &str) {
    let output = site.shunt(&[order, "web", "--detach"]);
    assert_eq!(output.code, 0, "{output:?}");
}

/// Nothing is left of a release that was not kept.
#[track_caller]
fn is_gone(site: &Site, release: &str, serves: &str) {
    let state = site.state("web");
    assert_eq!(state.active.as_ref().unwrap().as_str(), serves);
    assert!(state.canary.is_none() && state.release(release).is_none(), "{state:?}");
    assert!(!site.server.exists(&format!("/srv/web/releases/{release}")));
    assert_eq!(site.server.run(&["pgrep", "-c", "-x", "server"]).trim(), "1");
    assert_eq!(site.answering(), serves);
}

fn p8_canaries_hooks_guard_promote_and_abort_in_deploys_under_load(debian: Debian) {
    let site = Site::start(debian);
    site.server.write("/srv/hook", HOOK);
    site.server.sh("chmod 755 /srv/hook; install --directory --mode=777 /srv/told");
    for release in ["v1", "v2", "v3", "v4", "v5", "v6"] {
        let _ = site.release(release);
    }
    site.configure_app(&app(&site, ""));
    deployed(site.deploy("web", "v1"));
    site.configure_app(&app(&site, EVERYTHING));
    site.wait_until_idle();
    let watch = site.watch();
    site.wait_for_requests(100);

    // A hook says no at the last moment.
    site.server.write("/srv/web/dist/v2/fails-in-before_switch", "");
    let ended = site.deploy("web", "v2").end();
    assert_eq!(ended.code, 3, "{ended:?}");
    is_gone(&site, "v2", "v1");
    let lines = site.server.read("/srv/told/v2");
    let (before, last) = lines.trim().rsplit_once('\n').unwrap();
    let slot = "127.0.0.1:3002";
    let expected = [
        told("build", "v2", "none", "none"),
        told("migrate", "v2", "none", "none"),
        told("before_switch", "v2", slot, "none"),
    ];
    assert_eq!(before.lines().collect::<Vec<_>>(), expected);
    // The release's folder has gone by then.
    assert!(last.starts_with("on_failure of web in /srv/web as web:web in /srv/web, v2"), "{last}");
    assert!(last.contains("failure hook before_switch"), "{last}");

    // Somebody has seen enough of the canary, or of the release that has all requests.
    let mut job = site.deploy("web", "v3");
    job.reaches("canary");
    answers(&site, "v3", 10);
    order(&site, "abort");
    let ended = job.end();
    assert_eq!(ended.code, 1, "{ended:?}");
    is_gone(&site, "v3", "v1");
    let mut job = site.deploy("web", "v4");
    for step in ["canary", "canary", "guard"] {
        job.reaches(step);
        if step == "canary" {
            answers(&site, "v4", 10);
            order(&site, "promote");
        }
    }
    answers(&site, "v4", 100);
    assert_eq!(site.answering(), "v4");
    order(&site, "abort");
    let ended = job.end();
    assert_eq!(ended.code, 5, "{ended:?}");
    is_gone(&site, "v4", "v1");

    // One that is good.
    let mut job = site.deploy("web", "v5");
    for (step, share) in [("canary", Some(0.2)), ("canary", Some(0.5)), ("guard", None)] {
        job.reaches(step);
        let now = until("the share", || {
            let state = site.state("web");
            let now = state.canary.as_ref().map(|canary| canary.share.to_string().parse().unwrap());
            (now == share).then_some(state)
        });
        let requests =
            |release| now.release(release).map_or(0, |r: &shunt_api::Release| r.requests);
        answers(&site, "v5", requests("v5") + 20);
        let active = if share.is_some() { "v1" } else { "v5" };
        assert_eq!(now.active.unwrap().as_str(), active);
        order(&site, "promote");
    }
    let ended = deployed(job);
    assert_eq!([ended.notes("canary").len(), ended.notes("guard").len()], [2, 1], "{ended:?}");
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    assert!(verdict.releases["v3"] >= 10 && verdict.releases["v4"] >= 100, "{verdict:?}");
    let lines = site.server.read("/srv/told/v5");
    let expected = ["build", "migrate", "before_switch", "after_switch", "after_deploy"]
        .map(|hook| told(hook, "v5", if hook.contains('_') { slot } else { "none" }, "none"));
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);

    // One that turns bad when it has all requests: the guard goes back within a second.
    let mut job = site.deploy("web", "v6");
    for _ in 0..2 {
        job.reaches("canary");
        order(&site, "promote");
    }
    job.reaches("guard");
    let watch = site.watch();
    site.wait_for_requests(100);
    site.server.write("/srv/web/releases/v6/bad", "");
    let ended = job.end();
    assert_eq!(ended.code, 5, "{ended:?}");
    is_gone(&site, "v6", "v5");
    let verdict = watch.end();
    // Of those that began within a second.
    assert!((1..u64::from(RATE)).contains(&verdict.failures), "{verdict:?}");
    assert!(verdict.releases["v5"] > 0, "{verdict:?}");
}

/// Two more applications: `shop` has sockets, as `web` has, and `plain` opens its port itself.
const UNITS: &str = r#"
sed 's|/srv/web|/srv/shop|; s|web@|shop@|g; s|Type=.*|Type=exec|' /etc/systemd/system/web@.service \
    >/etc/systemd/system/shop@.service
cp /etc/systemd/system/web@.socket /etc/systemd/system/shop@.socket
sed 's|Type=.*|Type=notify|' -i /etc/systemd/system/web@.service
cat >/etc/systemd/system/plain@.service <<END
[Unit]
StartLimitIntervalSec=0
[Service]
Type=simple
User=web
WorkingDirectory=/srv/plain/slots/%i
ExecStart=/srv/plain/slots/%i/server
Environment=PORT=%i
END
for app in 'shop 81' 'plain 82'; do
    set -- $app
    echo 'upstream '$1' { shunt; server 127.0.0.1:1; keepalive 32; }
        server {
            listen '$2';
            location / {
                proxy_pass http://'$1';
                proxy_http_version 1.1;
                proxy_set_header Connection $upgrades;
                proxy_set_header Upgrade $http_upgrade;
            }
        }' >/etc/nginx/conf.d/$1.conf
done
echo 'map $http_upgrade $upgrades { default upgrade; "" ""; }' >/etc/nginx/conf.d/map.conf
systemctl daemon-reload
systemctl reload nginx
"#;

fn p8_applications_that_are_deployed_at_the_same_time_do_not_disturb_each_other(debian: Debian) {
    const APPS: [(&str, &str); 3] =
        [("web", "http://server/"), ("shop", "http://server:81/"), ("plain", "http://server:82/")];
    let site = Site::start(debian);
    site.server.sh(UNITS);
    let web = app(&site, "[guard]\ntime = \"0s\"\n");
    let shop = web.replace("\"web\"", "\"shop\"").replace("/srv/web", "/srv/shop");
    let plain = web.replace("\"web\"", "\"plain\"").replace("/srv/web", "/srv/plain");
    let plain = plain.replace("[run]\n", "[run]\nsocket = false\n");
    site.server.write("/etc/shunt/apps/shop.toml", shop.replace(":300", ":400"));
    site.server.write("/etc/shunt/apps/plain.toml", plain.replace(":300", ":500"));
    site.configure_app(&web);
    let _ = site.release("v1");
    for (app, _) in APPS {
        deployed(site.deploy(app, "v1"));
    }
    let watches = APPS.map(|(_, url)| site.watch_at(url));
    site.wait_for_requests(100);

    // All of them are at the same step, and none has ended.
    for (round, release) in ["v2", "v3"].into_iter().enumerate() {
        let folder = site.release(release);
        site.server.write(&format!("{folder}/sick"), "not yet");
        let jobs = APPS.map(|(app, _)| {
            let mut job = site.deploy(app, release);
            job.reaches("health");
            job
        });
        let status = site.shunt(&["status"]).stdout;
        assert_eq!(status.matches(" job ").count(), APPS.len(), "{status}");
        if round == 1 {
            // What becomes of one is nothing to the others.
            let output = site.shunt(&["abort", "shop"]);
            assert_eq!(output.code, 0, "{output:?}");
        }
        for (app, _) in APPS {
            site.server.run(&["rm", "-f", &format!("/srv/{app}/releases/{release}/sick")]);
        }
        for (job, (app, _)) in jobs.into_iter().zip(APPS) {
            let aborted = round == 1 && app == "shop";
            let ended = job.end();
            assert_eq!(ended.code, i32::from(aborted), "{app}: {ended:?}");
            let active = if aborted { "v2" } else { release };
            assert_eq!(site.state(app).active.unwrap().as_str(), active, "{app}");
        }
    }
    site.wait_for_requests(100);
    for (watch, (app, _)) in watches.into_iter().zip(APPS) {
        let verdict = watch.end();
        assert_eq!(verdict.failures, 0, "{app}: {verdict:?}");
        assert!(verdict.releases["v1"] > 0 && verdict.releases["v2"] > 0, "{app}: {verdict:?}");
        assert_eq!(verdict.releases.contains_key("v3"), app != "shop", "{app}: {verdict:?}");
    }
    let units = "systemctl list-units --no-legend --plain --state=active --type=service";
    let units = site.server.sh(&format!("{units} | grep --only-matching '^[a-z]*@[0-9]*'"));
    let running: Vec<_> = units.lines().collect();
    assert_eq!(running, ["plain@5001", "shop@4002", "web@3001"]);
}

fn p9_a_restart_of_shuntd_while_a_release_drains_loses_nothing(debian: Debian) {
    let site = Site::start(debian);
    site.configure_app(&app(&site, ""));
    for release in ["v1", "v2"] {
        let folder = site.release(release);
        site.server.write(&format!("{folder}/endless"), "");
    }
    deployed(site.deploy("web", "v1"));
    let watch = site.watch();
    let download = ["curl", "-sS", "-N", "--fail", "http://server/download"];
    let mut download = site.client.spawn(&download);
    let mut lines = BufReader::new(download.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("more of v1"));
    let mut job = site.deploy("web", "v2");
    job.reaches("drain");
    site.server.run(&["systemctl", "restart", "shuntd.service"]);
    assert_eq!(job.end().code, 8, "who follows it is told that shuntd has gone");
    let drains = || site.shunt(&["status"]).stdout.contains("drain");
    until("it drains again", || drains().then_some(()));
    site.wait_for_requests(100);
    assert!(drains() && site.state("web").release("v1").unwrap().in_flight.requests > 0);
    site.server.run(&["rm", "/srv/web/releases/v1/endless"]);
    assert_eq!(lines.last().unwrap().unwrap(), "all of v1");
    assert!(download.wait().unwrap().success());
    until("it is finished", || {
        let journal = site.server.journal("shuntd.service");
        journal.contains("cut off at the step drain, is finished").then_some(())
    });
    let verdict = watch.end();
    assert_eq!(verdict.failures, 0, "{verdict:?}");
    assert_eq!(site.server.property("web@3001.service", "ActiveState"), "inactive");
    assert_eq!((site.answering(), site.state("web").releases.len()), ("v2".to_owned(), 2));
}

each_debian!(
    p8_canaries_hooks_guard_promote_and_abort_in_deploys_under_load,
    p8_applications_that_are_deployed_at_the_same_time_do_not_disturb_each_other,
    p9_a_restart_of_shuntd_while_a_release_drains_loses_nothing,
);
