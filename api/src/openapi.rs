//! The API as an OpenAPI 3.1 document, `docs/openapi/module.json`.
//!
//! The schemas are made of the types, docstrings included. What the calls are, and what they are
//! answered with, stands here; a test holds it against the running module.

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::problem::PROBLEM_JSON;
use crate::{
    CanaryRequest, HoldRequest, Index, MAX_BODY, Problem, ReleaseSpec, SwitchReply, SwitchRequest,
    Upstream, Upstreams,
};

/// Gives the reference to a type's schema, which the generator keeps.
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// A call.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    /// Names in [`parameters`], beside those of the path.
    parameters: &'static [&'static str],
    /// What the request holds, and an example of it.
    body: Option<(SchemaOf, fn() -> Value)>,
    answer: SchemaOf,
    /// Statuses of a call that was done, and when it is this one.
    done: &'static [(u16, &'static str)],
    /// Statuses of a call that was refused.
    refused: &'static [u16],
}

const INDEX: &str = "/v1/";
const UPSTREAMS: &str = "/v1/upstreams";
const UPSTREAM: &str = "/v1/upstreams/{upstream}";
const RELEASE: &str = "/v1/upstreams/{upstream}/releases/{release}";
const SWITCH: &str = "/v1/upstreams/{upstream}/switch";
const PREVIOUS: &str = "/v1/upstreams/{upstream}/previous";
const CANARY: &str = "/v1/upstreams/{upstream}/canary";
const HOLD: &str = "/v1/upstreams/{upstream}/hold";

/// What a change with a body can be refused with.
const REFUSED_BODY: &[u16] = &[400, 401, 403, 404, 409, 411, 412, 413, 422, 503, 507];
/// What a change without one can be refused with.
const REFUSED: &[u16] = &[400, 401, 403, 404, 409, 411, 412, 413, 503, 507];

const OPERATIONS: [Operation; 11] = [
    Operation {
        method: "get",
        path: INDEX,
        id: "getIndex",
        summary: "Versions, workers, room",
        description: "What answers here, how full its zones are, and whether the caller may \
                      change something. `/v1` is the same.",
        parameters: &[],
        body: None,
        answer: SchemaGenerator::subschema_for::<Index>,
        done: &[(200, "The index.")],
        refused: &[400],
    },
    Operation {
        method: "get",
        path: UPSTREAMS,
        id: "getUpstreams",
        summary: "All switchable upstreams",
        description: "In the order of the configuration. `/v1/upstreams/` is the same.",
        parameters: &[],
        body: None,
        answer: SchemaGenerator::subschema_for::<Upstreams>,
        done: &[(200, "The upstreams.")],
        refused: &[400],
    },
    Operation {
        method: "get",
        path: UPSTREAM,
        id: "getUpstream",
        summary: "One upstream, now or when something has come true",
        description: "Without `wait` the answer comes at once. With `wait=drained` it comes when \
                      the release has nothing in flight and gets nothing new; with `wait=change`, \
                      when the upstream is at another generation than the given one. A wait that \
                      ends by its timeout is answered with 200, too: look at the release's \
                      `state`, or at `generation`.",
        parameters: &["wait", "waitRelease", "waitGeneration", "waitTimeout"],
        body: None,
        answer: SchemaGenerator::subschema_for::<Upstream>,
        done: &[(200, "The upstream as it is.")],
        refused: &[400, 404],
    },
    Operation {
        method: "put",
        path: RELEASE,
        id: "putRelease",
        summary: "Add a release, or give one other servers",
        description: "Idempotent: a release that has these servers stays as it is. Other servers \
                      count for new requests at once, those of the active release included; \
                      requests that are in flight stay where they are. A release that the \
                      configuration declares gets these servers until the configuration names \
                      other ones than it does now. 409 when the upstream has 64 releases.",
        parameters: &["ifMatch"],
        body: Some((
            SchemaGenerator::subschema_for::<ReleaseSpec>,
            || json!({ "servers": [{ "address": "127.0.0.1:3002", "weight": 1 }] }),
        )),
        answer: SchemaGenerator::subschema_for::<Upstream>,
        done: &[
            (200, "The release was there; it has these servers now."),
            (201, "The release is new."),
        ],
        refused: REFUSED_BODY,
    },
    Operation {
        method: "delete",
        path: RELEASE,
        id: "deleteRelease",
        summary: "Remove a release",
        description: "409 while it is active or the canary, while it has something in flight, and \
                      for one that NGINX's configuration declares.",
        parameters: &["ifMatch"],
        body: None,
        answer: SchemaGenerator::subschema_for::<Upstream>,
        done: &[(200, "The release is gone.")],
        refused: REFUSED,
    },
    Operation {
        method: "post",
        path: SWITCH,
        id: "switch",
        summary: "Make a release active",
        description: "For all workers at once: a request that starts after the answer goes to this \
                      release. The one that was active becomes the previous one. A canary that \
                      becomes active is no canary any more. Nothing changes when the release is \
                      active already.",
        parameters: &["ifMatch"],
        body: Some((
            SchemaGenerator::subschema_for::<SwitchRequest>,
            || json!({ "release": "v2" }),
        )),
        answer: SchemaGenerator::subschema_for::<SwitchReply>,
        done: &[(200, "The release is active.")],
        refused: REFUSED_BODY,
    },
    Operation {
        method: "delete",
        path: PREVIOUS,
        id: "deletePrevious",
        summary: "Forget the previous release",
        description: "With `shunt_fallback on` requests may fall back to it; from now on they do \
                      not, and it can drain. Nothing changes when there is none.",
        parameters: &["ifMatch"],
        body: None,
        answer: SchemaGenerator::subschema_for::<Upstream>,
        done: &[(200, "There is no previous release.")],
        refused: REFUSED,
    },
    Operation {
        method: "put",
        path: CANARY,
        id: "putCanary",
        summary: "Give a release a share of the requests",
        description: "In place of the canary that there is. 409 for the active release.",
        parameters: &["ifMatch"],
        body: Some((
            SchemaGenerator::subschema_for::<CanaryRequest>,
            || json!({ "release": "v2", "share": 0.05 }),
        )),
        answer: SchemaGenerator::subschema_for::<Upstream>,
        done: &[(200, "The release gets this share.")],
        refused: REFUSED_BODY,
    },
    Operation {
        method: "delete",
        path: CANARY,
        id: "deleteCanary",
        summary: "End the canary",
        description: "Nothing changes when there is none.",
        parameters: &["ifMatch"],
        body: None,
        answer: SchemaGenerator::subschema_for::<Upstream>,
        done: &[(200, "There is no canary.")],
        refused: REFUSED,
    },
    Operation {
        method: "put",
        path: HOLD,
        id: "putHold",
        summary: "Park new requests",
        description: "Where `shunt_hold` names the upstream, new requests wait until the hold \
                      ends: by `DELETE`, or by itself at its timeout. A hold that lasts goes on \
                      until the new timeout.",
        parameters: &["ifMatch"],
        body: Some((SchemaGenerator::subschema_for::<HoldRequest>, || json!({ "timeout": "30s" }))),
        answer: SchemaGenerator::subschema_for::<Upstream>,
        done: &[(200, "The upstream is held.")],
        refused: REFUSED_BODY,
    },
    Operation {
        method: "delete",
        path: HOLD,
        id: "deleteHold",
        summary: "Let parked requests go",
        description: "In the order in which they came. Nothing changes when nothing is held.",
        parameters: &["ifMatch"],
        body: None,
        answer: SchemaGenerator::subschema_for::<Upstream>,
        done: &[(200, "The upstream is not held.")],
        refused: REFUSED,
    },
];

const ABOUT: &str = "\
The API of NGINX's module `ngx_http_shunt_module`, where `shunt_api` stands. The paths begin at that \
location: in `location /shunt/` the index is at `/shunt/v1/`.

Every change raises the upstream's generation by one; it is the `ETag`. `If-Match` makes a change \
conditional on it. A change takes effect whole, or is refused and changes nothing.

`HEAD` is answered as `GET`, without the body. Another method than those of a path is answered with \
405 and `Allow`, another path with 404, both as `application/problem+json`. What NGINX itself refuses \
before the module is asked (a request line that it cannot read, a header that is too long, `allow` and \
`deny`) has NGINX's own page.

Over a unix socket the kernel says who calls: root, and the users that `shunt_api` names, may change \
things. Over TCP only whoever sends the bearer token may.";

/// The problems: status, name among the responses, what it says.
const PROBLEMS: [(u16, &str, &str); 11] = [
    (
        400,
        "BadRequest",
        "The path, the query, `If-Match` or the body cannot be read: an unknown parameter, a name \
         that is none, broken JSON.",
    ),
    (401, "Unauthorized", "Over TCP, a change needs the token."),
    (
        403,
        "Forbidden",
        "Nobody may change anything at this location, or this user may not. Said before it is \
         looked whether there is such an upstream.",
    ),
    (404, "NotFound", "No such upstream with `shunt`, or no such release."),
    (
        409,
        "Conflict",
        "As things are, this cannot be done; `detail` says why and what to do. Also while two NGINX \
         masters run (a binary upgrade), and of a worker that may not write any more, as a reload \
         gave its upstream another zone: connect again.",
    ),
    (
        411,
        "LengthRequired",
        "The body's length is not known in advance: send `Content-Length`, not chunks.",
    ),
    (
        412,
        "PreconditionFailed",
        "The upstream is at another generation than `If-Match` says; `upstream` is what it is now.",
    ),
    (413, "ContentTooLarge", "The body is longer than the 64 KiB that are read."),
    (
        422,
        "UnprocessableContent",
        "JSON, but not what the call takes: an unknown field, a host name, a number out of range.",
    ),
    (
        503,
        "ServiceUnavailable",
        "Another change is being written and takes long: try again. Nothing was changed.",
    ),
    (
        507,
        "InsufficientStorage",
        "The state file cannot be written, or the zone is full. Nothing was changed.",
    ),
];

/// The schemas of a document: of what requests and answers have referred to.
///
/// # Errors
///
/// When a type would need two schemas of one name.
pub fn schemas(
    mut requests: SchemaGenerator,
    mut answers: SchemaGenerator,
) -> Result<Map<String, Value>, String> {
    let mut schemas = requests.take_definitions(true);
    for (name, schema) in answers.take_definitions(true) {
        if schemas.get(&name).is_some_and(|known| *known != schema) {
            return Err(format!("{name} is another type in requests than in answers"));
        }
        schemas.insert(name, schema);
    }
    Ok(schemas)
}

/// The document.
///
/// # Errors
///
/// When a type would need two schemas of one name.
pub fn document() -> Result<Value, String> {
    let mut requests = settings().for_deserialize().into_generator();
    let mut answers = settings().for_serialize().into_generator();

    let mut paths = Map::new();
    for operation in &OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| path_item(operation.path));
        path[operation.method] = operation.describe(&mut requests, &mut answers);
    }
    let problem = answers.subschema_for::<Problem>().to_value();
    let schemas = schemas(requests, answers)?;
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Shunt: the module's API",
            "summary": "Switches an NGINX upstream between releases.",
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "version": env!("CARGO_PKG_VERSION"),
        },
        "servers": [{ "url": "/", "description": "The location of `shunt_api`." }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": parameters(),
            "headers": headers(),
            "responses": problems(&problem),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Over TCP: the content of `token_file`.",
                },
            },
        },
    }))
}

/// How schemas are made that stand in an OpenAPI document.
#[must_use]
pub fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12()
        .with(|s| s.definitions_path = "/components/schemas".into())
        .with_transform(RecursiveTransform(known_format))
}

/// OpenAPI's formats of numbers are `int32` and `int64`; those who make code of the document take others
/// for small ones.
fn known_format(schema: &mut Schema) {
    if schema.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint"))
    {
        schema.insert("format".to_owned(), "int64".into());
    }
}

impl Operation {
    fn is_change(&self) -> bool {
        self.method != "get"
    }

    fn describe(&self, requests: &mut SchemaGenerator, answers: &mut SchemaGenerator) -> Value {
        let mut all = json!({
            "operationId": self.id,
            "summary": self.summary,
            "description": self.description,
        });
        let parameters = self.parameters.iter();
        let parameters = parameters.map(|name| component("parameters", name)).collect::<Vec<_>>();
        if !parameters.is_empty() {
            all["parameters"] = parameters.into();
        }
        if let Some((schema, example)) = self.body {
            let content = json!({ "schema": schema(requests).to_value(), "example": example() });
            all["requestBody"] = json!({
                "description": format!("At most {MAX_BODY} bytes, whatever `Content-Type` says."),
                "required": true,
                "content": { "application/json": content },
            });
        }
        let answer = (self.answer)(answers).to_value();
        let mut responses = Map::new();
        for (status, description) in self.done {
            let mut headers = json!({ "Cache-Control": component("headers", "CacheControl") });
            if self.path != INDEX && self.path != UPSTREAMS {
                headers["ETag"] = component("headers", "ETag");
            }
            responses.insert(
                status.to_string(),
                json!({
                    "description": description,
                    "headers": headers,
                    "content": { "application/json": { "schema": answer } },
                }),
            );
        }
        for (status, name, _) in PROBLEMS.iter().filter(|p| self.refused.contains(&p.0)) {
            responses.insert(status.to_string(), component("responses", name));
        }
        responses.insert("default".to_owned(), component("responses", "Problem"));
        all["responses"] = responses.into();
        if self.is_change() {
            all["security"] = json!([{}, { "token": [] }]);
        }
        all
    }
}

fn component(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

/// A path with the parameters that stand in it.
fn path_item(path: &str) -> Value {
    let names = ["upstream", "release"].into_iter();
    let names = names.filter(|name| path.contains(&format!("{{{name}}}")));
    let parameters = names.map(|name| component("parameters", name)).collect::<Vec<_>>();
    if parameters.is_empty() { json!({}) } else { json!({ "parameters": parameters }) }
}

fn parameters() -> Value {
    let parameter = |place: &str, name: &str, required: bool, description: &str, schema: Value| {
        json!({
            "name": name,
            "in": place,
            "required": required,
            "description": description,
            "schema": schema,
        })
    };
    let text = || json!({ "type": "string" });
    json!({
        "upstream": parameter("path", "upstream", true, "The upstream's name.", text()),
        "release": parameter(
            "path", "release", true, "The release's name.", component("schemas", "ReleaseName"),
        ),
        "wait": parameter(
            "query", "wait", false, "What to wait for.",
            json!({ "type": "string", "enum": ["drained", "change"] }),
        ),
        "waitRelease": parameter(
            "query", "release", false, "With `wait=drained`, and needed there: the release.",
            component("schemas", "ReleaseName"),
        ),
        "waitGeneration": parameter(
            "query", "generation", false,
            "With `wait=change`, and needed there: the generation that the caller knows.",
            json!({ "type": "integer", "format": "int64", "minimum": 0 }),
        ),
        "waitTimeout": parameter(
            "query", "timeout", false, "With `wait`: how long at most, up to `1h`; else `30s`.",
            component("schemas", "NginxTime"),
        ),
        "ifMatch": parameter(
            "header", "If-Match", false,
            "The generation in quotes, several of them, or `*`: the change is made only if the \
             upstream is at one of them.",
            text(),
        ),
    })
}

fn headers() -> Value {
    let header = |description: &str, schema: Value| json!({ "description": description, "required": true, "schema": schema });
    json!({
        "ETag": header(
            "The upstream's generation, in quotes.",
            json!({ "type": "string", "pattern": "^\"[0-9]+\"$" }),
        ),
        "CacheControl": header("Never to be cached.", json!({ "type": "string", "const": "no-store" })),
        "WWWAuthenticate": header("What to authenticate with.", json!({ "type": "string", "const": "Bearer" })),
        "RetryAfter": header(
            "When to try again, in seconds.",
            json!({ "type": "integer", "minimum": 1 }),
        ),
    })
}

fn problems(problem: &Value) -> Value {
    let response = |description: &str, more: &[(&str, &str)]| {
        let mut headers = json!({ "Cache-Control": component("headers", "CacheControl") });
        for (header, name) in more {
            headers[*header] = component("headers", name);
        }
        json!({
            "description": description,
            "headers": headers,
            "content": { PROBLEM_JSON: { "schema": problem } },
        })
    };
    let mut all = Map::new();
    for (status, name, description) in PROBLEMS {
        let more: &[(&str, &str)] = match status {
            401 => &[("WWW-Authenticate", "WWWAuthenticate")],
            412 => &[("ETag", "ETag")],
            503 => &[("Retry-After", "RetryAfter")],
            _ => &[],
        };
        all.insert(name.to_owned(), response(description, more));
    }
    let other =
        "What should not be: the shared memory is damaged, or has no place for an upstream.";
    all.insert("Problem".to_owned(), response(other, &[]));
    all.into()
}
