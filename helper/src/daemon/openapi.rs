//! The daemon's API as an OpenAPI 3.1 document, `docs/openapi/daemon.json`.
//!
//! The calls are those of the router, the schemas are made of the types in [`crate::wire`]. What the calls
//! are answered with stands here; a test holds it against a running daemon.

use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use shunt_api::problem::PROBLEM_JSON;
use shunt_api::{NginxTime, Portion, Problem, ReleaseName, openapi};

use crate::daemon::call::Call;
use crate::wire::{
    AppStatus, Apps, CanaryRequest, DeployRequest, History, HoldRequest, JobDetails, KeptReleases,
    Logs, Pruned, RollbackRequest, Started, SwitchRequest,
};

/// Gives the reference to a type's schema, which the generator keeps.
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What a call is answered with when it is done.
enum Answer {
    /// JSON of a type.
    Json(SchemaOf),
    /// Text of this media type.
    Text(&'static str),
}

/// What a request holds.
struct Body {
    schema: SchemaOf,
    required: bool,
    example: Value,
}

/// A call.
struct Operation {
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    body: Option<Body>,
    done: u16,
    answer: Answer,
    /// Statuses of a call that was refused.
    refused: &'static [u16],
}

/// What any call about an application can be refused with.
const ASKED: &[u16] = &[400, 404];
/// As that, of a call that begins or concerns a job.
const ORDERED: &[u16] = &[400, 403, 404, 409];
/// As that, of one that NGINX is asked in.
const DONE_BY_HAND: &[u16] = &[400, 403, 404, 409, 423, 502];
/// As that, with a body.
const BODY_BY_HAND: &[u16] = &[400, 403, 404, 409, 413, 422, 423, 502];

fn json<T: schemars::JsonSchema>() -> Answer {
    Answer::Json(SchemaGenerator::subschema_for::<T>)
}

fn body<T: schemars::JsonSchema + serde::Serialize>(required: bool, example: &T) -> Option<Body> {
    let mut example = serde_json::to_value(example).unwrap_or_default();
    if let Some(object) = example.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    Some(Body { schema: SchemaGenerator::subschema_for::<T>, required, example })
}

fn name(text: &str) -> Result<ReleaseName, String> {
    ReleaseName::new(text).map_err(|e| e.to_string())
}

fn operation(call: Call) -> Result<Operation, String> {
    let started = || (202, json::<Started>());
    let (id, summary, description, body, (done, answer), refused): (_, _, _, _, _, &[u16]) =
        match call {
            Call::Page => (
                "getPage",
                "A page that shows what runs",
                "For people. It asks for `v1/apps` and the last jobs, relative to where it stands.",
                None,
                (200, Answer::Text("text/html; charset=utf-8")),
                &[],
            ),
            Call::Metrics => (
                "getMetrics",
                "Figures for Prometheus",
                "Jobs, slots, the version, in the text format.",
                None,
                (200, Answer::Text(super::metrics::CONTENT_TYPE)),
                &[],
            ),
            Call::Apps => (
                "getApps",
                "All applications",
                "What runs where, and what each release has in flight.",
                None,
                (200, json::<Apps>()),
                &[],
            ),
            Call::App => (
                "getApp",
                "One application",
                "When NGINX cannot be asked, `nginx_error` says why.",
                None,
                (200, json::<AppStatus>()),
                ASKED,
            ),
            Call::Deploy => (
                "deploy",
                "Begin a deploy",
                "All keys may be left out. The job goes on when the caller leaves.",
                body(
                    true,
                    &DeployRequest {
                        from: Some("/srv/dist".into()),
                        reference: None,
                        release: Some(name("v2")?),
                        slot: None,
                    },
                ),
                started(),
                &[400, 403, 404, 409, 413, 422, 423],
            ),
            Call::Rollback => (
                "rollback",
                "Begin a rollback",
                "Without `to`, or without a body, to the release that was active before.",
                body(false, &RollbackRequest { to: Some(name("v1")?) }),
                started(),
                BODY_BY_HAND,
            ),
            Call::Switch => (
                "switch",
                "Begin a switch to a release that runs",
                "It is asked once for its health.",
                body(true, &SwitchRequest { release: name("v1")? }),
                started(),
                &[400, 403, 404, 409, 413, 422, 423],
            ),
            Call::Promote => (
                "promote",
                "Enough was seen",
                "Ends a canary step, or the guard, that runs, as if its time were over.",
                None,
                started(),
                ORDERED,
            ),
            Call::Abort => (
                "abort",
                "Take the release back",
                "Until the guard of the job that runs is over.",
                None,
                started(),
                ORDERED,
            ),
            Call::PutCanary => (
                "putCanary",
                "Give a release that runs a share of the requests",
                "While no job runs.",
                body(
                    true,
                    &CanaryRequest {
                        release: name("v2")?,
                        share: "0.05".parse::<Portion>().map_err(|e| e.to_string())?,
                    },
                ),
                (200, json::<AppStatus>()),
                BODY_BY_HAND,
            ),
            Call::DeleteCanary => (
                "deleteCanary",
                "End the canary",
                "While no job runs. Nothing changes when there is none.",
                None,
                (200, json::<AppStatus>()),
                DONE_BY_HAND,
            ),
            Call::PutHold => (
                "putHold",
                "Park new requests",
                "While no job runs. Without `timeout`, or without a body, for as long as `[hold]` says.",
                body(
                    false,
                    &HoldRequest {
                        timeout: Some("30s".parse::<NginxTime>().map_err(|e| e.to_string())?),
                    },
                ),
                (200, json::<AppStatus>()),
                BODY_BY_HAND,
            ),
            Call::DeleteHold => (
                "deleteHold",
                "Let parked requests go",
                "While no job runs. Nothing changes when nothing is held.",
                None,
                (200, json::<AppStatus>()),
                DONE_BY_HAND,
            ),
            Call::Releases => (
                "getReleases",
                "The releases on disk",
                "The oldest first.",
                None,
                (200, json::<KeptReleases>()),
                ASKED,
            ),
            Call::Logs => (
                "getLogs",
                "The end of a log",
                "What a release has said, or its hooks. Only for those who may change something.",
                None,
                (200, json::<Logs>()),
                &[400, 403, 404, 409, 502],
            ),
            Call::Prune => (
                "prune",
                "Remove the oldest releases",
                "As a deploy does at its end.",
                None,
                (200, json::<Pruned>()),
                &[400, 403, 404, 423, 502],
            ),
            Call::Jobs => (
                "getJobs",
                "The last jobs of an application",
                "The latest first.",
                None,
                (200, json::<History>()),
                ASKED,
            ),
            Call::Job => (
                "getJob",
                "A job, with what has happened in it",
                "What applications and hooks say is shown to those only who may change something.",
                None,
                (200, json::<JobDetails>()),
                ASKED,
            ),
            Call::Events => (
                "followJob",
                "Follow a job",
                "Server-sent events: the `data` of each is an `Event`, its `id` the event's. With \
                 `Last-Event-ID` those that follow that one. The stream ends with the job.",
                None,
                (200, Answer::Text("text/event-stream")),
                ASKED,
            ),
        };
    Ok(Operation { id, summary, description, body, done, answer, refused })
}

const ABOUT: &str = "\
The API of Shunt's helper `shuntd`, on the unix socket `/run/shunt/shuntd.sock`.

Everybody may look. The kernel says who calls: root, the user of `shuntd`, and the group that it was \
given may change things. `HEAD` is answered as `GET`, without the body. Another method than those of a \
path is answered with 405 and `Allow`, another path with 404, both as `application/problem+json`.";

/// The problems: status, name among the responses, what it says.
const PROBLEMS: [(u16, &str, &str); 8] = [
    (400, "BadRequest", "The path, the query or the body cannot be read."),
    (403, "Forbidden", "The caller may not do this."),
    (404, "NotFound", "No such application or job; or nothing is kept of the log."),
    (409, "Conflict", "As things are, this cannot be done; `detail` says why and what to do."),
    (413, "ContentTooLarge", "The body is too long."),
    (422, "UnprocessableContent", "JSON, but not what the call takes."),
    (
        423,
        "Locked",
        "A job runs, or somebody does something by hand: `detail` says which or who, and since when.",
    ),
    (502, "BadGateway", "NGINX cannot be reached, or it is not known whether it has done it."),
];

/// The document.
///
/// # Errors
///
/// When a type would need two schemas of one name.
pub fn document() -> Result<Value, String> {
    let mut requests = openapi::settings().for_deserialize().into_generator();
    let mut answers = openapi::settings().for_serialize().into_generator();
    let mut paths = Map::new();
    for call in Call::ALL {
        let path = paths.entry(call.path()).or_insert_with(|| path_item(call.path()));
        path[call.method()] = describe(call, operation(call)?, &mut requests, &mut answers);
    }
    let problem = answers.subschema_for::<Problem>().to_value();
    let schemas = openapi::schemas(requests, answers)?;
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Shunt: the helper's API",
            "summary": "Deploys releases, and tells what runs.",
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "version": env!("CARGO_PKG_VERSION"),
        },
        "servers": [{ "url": "/", "description": "The socket of shuntd." }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": parameters(),
            "responses": problems(&problem),
        },
    }))
}

fn describe(
    call: Call,
    operation: Operation,
    requests: &mut SchemaGenerator,
    answers: &mut SchemaGenerator,
) -> Value {
    let mut all = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "description": operation.description,
    });
    let names: &[&str] = match call {
        Call::Logs => &["release", "hooks", "lines"],
        Call::Jobs => &["limit"],
        Call::Events => &["lastEventId"],
        _ => &[],
    };
    if !names.is_empty() {
        let names = names.iter().map(|name| component("parameters", name));
        all["parameters"] = names.collect::<Vec<_>>().into();
    }
    if let Some(Body { schema, required, example }) = operation.body {
        all["requestBody"] = json!({
            "description": "Whatever `Content-Type` says.",
            "content": {
                "application/json": { "schema": schema(requests).to_value(), "example": example },
            },
        });
        if required {
            all["requestBody"]["required"] = true.into();
        }
    }
    let content = match operation.answer {
        Answer::Json(schema) => {
            json!({ "application/json": { "schema": schema(answers).to_value() } })
        }
        Answer::Text(media) => json!({ media: { "schema": { "type": "string" } } }),
    };
    let mut responses = Map::new();
    let done = if operation.done == 202 { "The job that it is." } else { "It is done." };
    let done = if call.method() == "get" { "What was asked for." } else { done };
    responses
        .insert(operation.done.to_string(), json!({ "description": done, "content": content }));
    for (status, name, _) in PROBLEMS.iter().filter(|p| operation.refused.contains(&p.0)) {
        responses.insert(status.to_string(), component("responses", name));
    }
    responses.insert("default".to_owned(), component("responses", "Problem"));
    all["responses"] = responses.into();
    all
}

fn component(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

/// A path with the parameters that stand in it.
fn path_item(path: &str) -> Value {
    let names = ["app", "job"].into_iter().filter(|name| path.contains(&format!("{{{name}}}")));
    let parameters = names.map(|name| component("parameters", name)).collect::<Vec<_>>();
    if parameters.is_empty() { json!({}) } else { json!({ "parameters": parameters }) }
}

fn parameters() -> Value {
    let parameter = |place: &str, name: &str, description: &str, schema: Value| {
        json!({
            "name": name,
            "in": place,
            "required": place == "path",
            "description": description,
            "schema": schema,
        })
    };
    let number = || json!({ "type": "integer", "format": "int64", "minimum": 0 });
    json!({
        "app": parameter("path", "app", "The application's name.", json!({ "type": "string" })),
        "job": parameter("path", "job", "The job's number.", number()),
        "release": parameter(
            "query", "release", "The release; else the active one.", component("schemas", "ReleaseName"),
        ),
        "hooks": parameter("query", "hooks", "Of its hooks.", json!({ "type": "boolean", "default": false })),
        "lines": parameter(
            "query", "lines", "How many lines.",
            json!({ "type": "integer", "format": "int64", "minimum": 0, "default": 100 }),
        ),
        "limit": parameter(
            "query", "limit", "How many jobs.",
            json!({ "type": "integer", "format": "int64", "minimum": 0, "default": 20 }),
        ),
        "lastEventId": parameter("header", "Last-Event-ID", "The last event that is known.", number()),
    })
}

fn problems(problem: &Value) -> Value {
    let response = |description: &str| {
        json!({
            "description": description,
            "content": { PROBLEM_JSON: { "schema": problem } },
        })
    };
    let mut all = Map::new();
    for (_, name, description) in PROBLEMS {
        all.insert(name.to_owned(), response(description));
    }
    all.insert("Problem".to_owned(), response("What should not be, as a disk that is full."));
    all.into()
}
