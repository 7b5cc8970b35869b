//! The API against its OpenAPI document: every call, and what each is answered with.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use jsonschema::Validator;
use serde_json::{Value, json};
use shunt_helper::daemon::call::Call;
use shunt_helper::daemon::openapi;

use crate::world::ask::{Answer, Follower, ask};
use crate::world::{World, output, until};

fn committed() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi/daemon.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn the_document_is_made_of_the_types() {
    assert!(openapi::document().unwrap() == committed(), "it is out of date: run \"make openapi\"");
}

/// Lets objects have no properties but those that are named. The document leaves answers open, so that
/// a later version can say more.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            // Where it is put together of several, none of them has all.
            let is_whole =
                !["allOf", "oneOf", "anyOf", "$ref"].iter().any(|k| object.contains_key(*k));
            if object.get("type") == Some(&json!("object")) {
                let key = if is_whole { "additionalProperties" } else { "unevaluatedProperties" };
                object.entry(key).or_insert(Value::Bool(false));
            }
            let parts = ["allOf", "oneOf", "anyOf"];
            for (key, value) in object.iter_mut() {
                if is_whole || !parts.contains(&key.as_str()) {
                    close(value);
                }
            }
        }
        Value::Array(array) => array.iter_mut().for_each(close),
        _ => {}
    }
}

/// The answers of a daemon, as they are held against the document.
struct Checks {
    document: Value,
    socket: PathBuf,
    seen: RefCell<BTreeSet<(String, u16)>>,
}

impl Checks {
    fn new(world: &World) -> Self {
        let (document, socket) = (committed(), world.path("shuntd.sock"));
        Self { document, socket, seen: RefCell::default() }
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(to) => self.document.pointer(to.trim_start_matches('#')).unwrap(),
            None => value,
        }
    }

    fn validator(&self, schema: &Value) -> Validator {
        let mut components = self.document["components"].clone();
        close(&mut components["schemas"]);
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": components,
            "allOf": [schema],
        });
        jsonschema::validator_for(&whole).unwrap()
    }

    #[track_caller]
    fn holds(&self, schema: &Value, value: &Value, about: &str) {
        let errors = self.validator(schema);
        let errors: Vec<_> =
            errors.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert_eq!(errors, [] as [String; 0], "{about}");
    }

    /// Asks, and holds the answer against the document.
    #[track_caller]
    fn ask(&self, call: Call, target: &str, body: &str, status: u16) -> Answer {
        let method = call.method().to_uppercase();
        assert!(is_of(call.path(), target.split('?').next().unwrap()), "{target}");
        let answer = ask(&self.socket, &method, target, body);
        let about = format!("{method} {target} {body}: {answer:?}");
        assert_eq!(answer.status, status, "{about}");
        let known = &self.document["paths"][call.path()][call.method()];
        let response = &known["responses"][status.to_string()];
        assert!(response.is_object(), "the status is not in the document: {about}");
        let content = self.resolve(response)["content"].as_object().unwrap();
        let media = content.get(answer.header("content-type"));
        let media = media.unwrap_or_else(|| panic!("the type is not in the document: {about}"));
        if answer.header("content-type").ends_with("json") {
            self.holds(&media["schema"], &serde_json::from_str(&answer.body).unwrap(), &about);
        }
        if status < 300 && !body.is_empty() {
            let schema = &known["requestBody"]["content"]["application/json"]["schema"];
            self.holds(schema, &serde_json::from_str(body).unwrap(), &about);
        }
        let id = known["operationId"].as_str().unwrap().to_owned();
        self.seen.borrow_mut().insert((id, status));
        answer
    }

    /// Begins a job, and waits for its end.
    #[track_caller]
    fn job(&self, world: &World, call: Call, target: &str, body: &str) -> Vec<Value> {
        let started: Value = serde_json::from_str(&self.ask(call, target, body, 202).body).unwrap();
        let job = started["job"].as_u64().unwrap();
        let events: Vec<_> = Follower::new(&self.socket, job, 0).map(|(_, event)| event).collect();
        let schema = json!({ "$ref": "#/components/schemas/Event" });
        events.iter().for_each(|event| self.holds(&schema, event, "an event"));
        world.idle();
        events
    }
}

#[test]
fn what_the_document_does_not_name_is_noticed() {
    let world = World::new("");
    let checks = Checks::new(&world);
    let job = json!({
        "job": 1, "app": "web", "kind": "deploy", "release": "v1", "since": "2026-01-01T00:00:00Z",
        "took": null, "outcome": null, "text": null,
    });
    let mut details = job.clone();
    details["events"] = json!([]);
    for (name, good) in [
        ("Event", json!({ "id": 1, "at": 2, "event": "line", "step": "build", "text": "x" })),
        ("JobRecord", job),
        ("JobDetails", details),
        ("Started", json!({ "job": 1, "release": "v1" })),
    ] {
        let validator =
            checks.validator(&json!({ "$ref": format!("#/components/schemas/{name}") }));
        assert!(validator.is_valid(&good), "{name}");
        let mut more = good.clone();
        more["more"] = json!(1);
        assert!(!validator.is_valid(&more), "{name}");
        for key in good.as_object().unwrap().keys() {
            let mut other = good.clone();
            other[key] = json!([[]]);
            assert!(!validator.is_valid(&other), "{name}: {key}");
        }
    }
}

/// Whether a path is one of these, with something for each parameter.
fn is_of(template: &str, path: &str) -> bool {
    let (template, path) = (template.split('/'), path.split('/'));
    template.clone().count() == path.clone().count()
        && template.zip(path).all(|(known, part)| known.starts_with('{') || known == part)
}

#[test]
fn every_answer_is_what_the_document_says() {
    let world = World::new("[hooks]\nbuild = [\"sh\", \"-c\", \"echo built\"]");
    let checks = Checks::new(&world);
    let get = |call, target: &str| checks.ask(call, target, "", 200);

    // Before anything has run.
    get(Call::App, "/v1/apps/web");
    checks.ask(Call::Rollback, "/v1/apps/web/rollback", "", 409);
    checks.ask(Call::Promote, "/v1/apps/web/promote", "", 409);
    checks.ask(Call::Abort, "/v1/apps/web/abort", "", 409);
    checks.ask(Call::Deploy, "/v1/apps/web/deploys", "{}", 422);

    let deploy = |name: &str| {
        let args = world.release(name, &[]);
        json!({ "from": args.last().unwrap(), "release": name }).to_string()
    };
    let events = checks.job(&world, Call::Deploy, "/v1/apps/web/deploys", &deploy("v1"));
    for kind in ["began", "step", "done", "line", "ended"] {
        assert!(events.iter().any(|event| event["event"] == kind), "{kind}: {events:?}");
    }
    checks.ask(Call::Deploy, "/v1/apps/web/deploys", &deploy("v1"), 409);
    let sick = world.release("v0", &[("sick", "ill\n")]);
    let sick = json!({ "from": sick.last().unwrap(), "release": "v0" }).to_string();
    let events = checks.job(&world, Call::Deploy, "/v1/apps/web/deploys", &sick);
    assert!(events.iter().any(|event| event["event"] == "failed"), "{events:?}");
    checks.job(&world, Call::Deploy, "/v1/apps/web/deploys", &deploy("v2"));

    // While a job runs.
    world.module.in_flight("v2", 1, 1);
    let begun = checks.ask(Call::Deploy, "/v1/apps/web/deploys", &deploy("v3"), 202);
    let begun: Value = serde_json::from_str(&begun.body).unwrap();
    until("it drains", || {
        let job = world.status()?["job"].clone();
        (job["step"] == "drain").then_some(())
    });
    get(Call::App, "/v1/apps/web");
    get(Call::Metrics, "/metrics");
    checks.ask(Call::Deploy, "/v1/apps/web/deploys", &deploy("v4"), 423);
    checks.ask(Call::Switch, "/v1/apps/web/switch", r#"{"release":"v3"}"#, 423);
    checks.ask(Call::Rollback, "/v1/apps/web/rollback", r#"{"to":"v1"}"#, 423);
    checks.ask(Call::PutCanary, "/v1/apps/web/canary", r#"{"release":"v2","share":0.1}"#, 423);
    checks.ask(Call::DeleteCanary, "/v1/apps/web/canary", "", 423);
    checks.ask(Call::PutHold, "/v1/apps/web/hold", "", 423);
    checks.ask(Call::DeleteHold, "/v1/apps/web/hold", "", 423);
    checks.ask(Call::Prune, "/v1/apps/web/prune", "", 423);
    checks.ask(Call::Abort, "/v1/apps/web/abort", "", 409);
    get(Call::Job, &format!("/v1/jobs/{}", begun["job"]));
    world.module.in_flight("v2", 0, 0);
    world.idle();

    // By hand.
    checks.job(&world, Call::Rollback, "/v1/apps/web/rollback", r#"{"to":"v2"}"#);
    checks.job(&world, Call::Switch, "/v1/apps/web/switch", r#"{"release":"v2"}"#);
    checks.ask(Call::Switch, "/v1/apps/web/switch", r#"{"release":"v7"}"#, 409);
    checks.ask(Call::PutHold, "/v1/apps/web/hold", r#"{"timeout":"5s"}"#, 200);
    get(Call::Apps, "/v1/apps");
    checks.ask(Call::DeleteHold, "/v1/apps/web/hold", "", 200);
    checks.ask(Call::DeleteCanary, "/v1/apps/web/canary", "", 200);
    checks.ask(Call::PutCanary, "/v1/apps/web/canary", r#"{"release":"v7","share":0.1}"#, 409);
    get(Call::Releases, "/v1/apps/web/releases");
    get(Call::Logs, "/v1/apps/web/logs?lines=3");
    get(Call::Logs, "/v1/apps/web/logs?release=v2&hooks=true");
    checks.ask(Call::Prune, "/v1/apps/web/prune", "", 200);
    get(Call::Jobs, "/v1/apps/web/jobs?limit=2");
    get(Call::Job, "/v1/jobs/1");
    get(Call::Events, "/v1/jobs/1/events");
    get(Call::Page, "/");

    // What a deploy does when it waits for a word.
    let guard = World::new("[guard]\ntime = \"60s\"");
    let checks_of_guard = Checks::new(&guard);
    in_the_guard(&guard, &checks_of_guard);
    checks.seen.borrow_mut().extend(checks_of_guard.seen.into_inner());

    // What cannot be read.
    for (call, target, body, status) in [
        (Call::App, "/v1/apps/shop", "", 404),
        (Call::App, "/v1/apps/%FF", "", 400),
        (Call::Releases, "/v1/apps/shop/releases", "", 404),
        (Call::Job, "/v1/jobs/99", "", 404),
        (Call::Job, "/v1/jobs/x", "", 400),
        (Call::Events, "/v1/jobs/99/events", "", 404),
        (Call::Events, "/v1/jobs/x/events", "", 400),
        (Call::Jobs, "/v1/apps/web/jobs?limits=1", "", 400),
        (Call::Logs, "/v1/apps/web/logs?lines=x", "", 400),
        (Call::Logs, "/v1/apps/web/logs?release=v7", "", 404),
        (Call::Deploy, "/v1/apps/web/deploys", "{", 400),
        (Call::Deploy, "/v1/apps/web/deploys", r#"{"form":"x"}"#, 422),
        (Call::Deploy, "/v1/apps/web/deploys", &" ".repeat(3 << 20), 413),
        (Call::PutCanary, "/v1/apps/web/canary", r#"{"release":"v1","share":2}"#, 422),
        (Call::PutHold, "/v1/apps/web/hold", r#"{"timeout":1}"#, 422),
    ] {
        checks.ask(call, target, body, status);
    }
    for (method, target, status) in [("GET", "/v2/", 404), ("PATCH", "/v1/apps", 405)] {
        let answer = ask(&checks.socket, method, target, "");
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }

    // Without NGINX.
    let mut world = world;
    world.module.end();
    get(Call::App, "/v1/apps/web");
    checks.ask(Call::PutHold, "/v1/apps/web/hold", "", 502);
    checks.ask(Call::Prune, "/v1/apps/web/prune", "", 502);
    checks.ask(Call::Logs, "/v1/apps/web/logs", "", 502);

    // Each call was done at least once.
    let seen = checks.seen.into_inner();
    let done = seen.into_iter().filter(|(_, status)| *status < 300);
    let done: BTreeSet<_> = done.map(|(id, _)| id).collect();
    let document = committed();
    let all = Call::ALL.map(|call| {
        let id = &document["paths"][call.path()][call.method()]["operationId"];
        id.as_str().unwrap().to_owned()
    });
    assert_eq!(done, BTreeSet::from(all));
    let paths = document["paths"].as_object().unwrap().values();
    let methods = paths.flat_map(|path| path.as_object().unwrap().keys());
    assert_eq!(methods.filter(|key| *key != "parameters").count(), Call::ALL.len());
}

/// Calls that are for a job that waits in its guard.
fn in_the_guard(world: &World, checks: &Checks) {
    for (release, call, target, code) in [
        ("v1", Call::Promote, "/v1/apps/web/promote", 0),
        ("v2", Call::Abort, "/v1/apps/web/abort", 5),
    ] {
        let deploy = world.begin_deploy(release, &[]);
        until("the guard", || {
            let job = world.status()?["job"].clone();
            (job["step"] == "guard").then_some(())
        });
        checks.ask(call, target, "", 202);
        let output = output(deploy.wait_with_output().unwrap());
        assert_eq!(output.code, code, "{output:?}");
        world.idle();
    }
    // A release that runs beside the active one.
    world.module.in_flight("v1", 1, 0);
    let deploy = world.begin_deploy("v3", &[]);
    until("the guard", || {
        let job = world.status()?["job"].clone();
        (job["step"] == "guard").then_some(())
    });
    checks.ask(Call::Promote, "/v1/apps/web/promote", "", 202);
    until("it drains", || {
        let calls = world.module.calls();
        calls.iter().any(|call| call.contains("wait=drained&release=v1")).then_some(())
    });
    // Somebody switches back, and both run on.
    world.module.switch("v1");
    world.module.in_flight("v1", 0, 0);
    assert_eq!(output(deploy.wait_with_output().unwrap()).code, 5);
    world.idle();
    checks.ask(Call::PutCanary, "/v1/apps/web/canary", r#"{"release":"v3","share":0.1}"#, 200);
    let apps = checks.ask(Call::App, "/v1/apps/web", "", 200);
    assert!(apps.body.contains(r#""canary":{"#), "{apps:?}");
    checks.ask(Call::DeleteCanary, "/v1/apps/web/canary", "", 200);
}

#[test]
fn the_page_has_a_policy_that_lets_its_own_script_run_and_no_other() {
    let world = World::new("");
    let answer = ask(&world.path("shuntd.sock"), "GET", "/", "");
    let policy = answer.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    // The hashes of what is there, not of nothing.
    let of_nothing = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    assert!(!policy.contains(of_nothing), "{policy}");
    for tag in ["<script>", "<style>"] {
        assert_eq!(answer.body.matches(tag).count(), 1, "{tag}");
    }
    // What makes markup of text, and whatever comes from elsewhere.
    for bad in
        ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "://", " src="]
    {
        assert!(!answer.body.contains(bad), "{bad}");
    }
}
