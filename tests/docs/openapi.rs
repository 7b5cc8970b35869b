//! `docs/openapi/module.json` is OpenAPI 3.1, is made of the types, and is what the module does.
//! `docs/openapi/daemon.json` is OpenAPI 3.1, too; the helper's own tests hold it against the daemon.

use jsonschema::Validator;
use roas::v3_1::spec::Spec;
use roas::validation::{Options, Validate};
use serde_json::{Map, Value, json};

mod module;

/// The document.
struct Document(Value);

/// A call in the document.
#[derive(Debug, Clone, PartialEq)]
struct Operation {
    id: String,
    method: String,
    /// With its parameters in braces.
    path: String,
    /// As the document has it.
    body: Value,
}

impl Document {
    /// The module's.
    fn committed() -> Self {
        Self::read("module.json")
    }

    /// One in `docs/openapi/`.
    fn read(name: &str) -> Self {
        let path = crate::markdown::root().join("docs/openapi").join(name);
        let text = std::fs::read_to_string(path).expect(name);
        Self(serde_json::from_str(&text).expect("JSON"))
    }

    /// What a `$ref` refers to; anything else stands for itself.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value.get("$ref").and_then(Value::as_str) {
            Some(to) => {
                let at = self.0.pointer(to.trim_start_matches('#'));
                self.resolve(at.unwrap_or_else(|| panic!("{to} is not there")))
            }
            None => value,
        }
    }

    fn operations(&self) -> Vec<Operation> {
        let paths = self.0["paths"].as_object().expect("paths");
        let mut operations = Vec::new();
        for (path, item) in paths {
            for (method, body) in item.as_object().expect("a path") {
                if method != "parameters" {
                    let id = body["operationId"].as_str().expect("an id").to_owned();
                    let (method, path) = (method.to_uppercase(), path.clone());
                    operations.push(Operation { id, method, path, body: body.clone() });
                }
            }
        }
        operations
    }

    /// The response of an operation that stands there by its status.
    fn response<'a>(&'a self, operation: &'a Operation, status: u16) -> Option<&'a Value> {
        Some(self.resolve(operation.body["responses"].get(status.to_string())?))
    }

    /// A validator of a schema in which nothing may be that the document does not name.
    ///
    /// The document leaves answers open, so that a later version can say more.
    fn validator(&self, schema: &Value) -> Validator {
        let mut components = self.0["components"].clone();
        close(&mut components["schemas"]);
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": components,
            "allOf": [schema],
        });
        jsonschema::validator_for(&whole).expect("a schema")
    }
}

/// Lets objects have no properties but those that are named.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get("type") == Some(&json!("object")) {
                object.entry("additionalProperties").or_insert(Value::Bool(false));
            }
            object.values_mut().for_each(close);
        }
        Value::Array(array) => array.iter_mut().for_each(close),
        _ => {}
    }
}

/// What is wrong with a value.
fn errors(validator: &Validator, value: &Value) -> Vec<String> {
    validator.iter_errors(value).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

/// Where two values differ first.
fn difference(one: &Value, other: &Value, place: &str) -> Option<String> {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let mut names = one.keys().chain(other.keys());
            names.find_map(|name| {
                let place = format!("{place}/{name}");
                match (one.get(name), other.get(name)) {
                    (Some(one), Some(other)) => difference(one, other, &place),
                    _ => Some(place),
                }
            })
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let mut pairs = one.iter().zip(other).enumerate();
            pairs.find_map(|(at, (a, b))| difference(a, b, &format!("{place}/{at}")))
        }
        _ => (one != other).then(|| place.to_owned()),
    }
}

/// What is wrong with an OpenAPI document.
fn complaints(document: &Value) -> Option<String> {
    let spec: Spec = match serde_json::from_value(document.clone()) {
        Ok(spec) => spec,
        Err(error) => return Some(error.to_string()),
    };
    if let Err(error) = spec.validate(Options::new(), None) {
        return Some(error.to_string());
    }
    // What it does not know it would pass over.
    let read = serde_json::to_value(&spec).expect("JSON");
    if let Some(place) = difference(document, &read, "") {
        return Some(format!("something in it is not OpenAPI: {place}"));
    }
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    schemas.iter().find_map(|(name, schema)| {
        let error = jsonschema::draft202012::meta::validate(schema).err()?;
        Some(format!("schema {name}: {error}"))
    })
}

#[test]
fn it_is_made_of_the_types() {
    let made = shunt_api::openapi::document().expect("a document");
    assert!(made == Document::committed().0, "it is out of date: run \"make openapi\"");
}

#[test]
fn it_is_openapi() {
    let document = Document::committed().0;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(complaints(&document), None);
    // A check that finds nothing is none.
    let damage: [(&str, Value); 7] = [
        ("/openapi", json!("2.0")),
        ("/info", json!({})),
        ("/paths/~1v1~1/get/reponses", json!({})),
        ("/paths/~1v1~1/get/operationId", json!("getUpstreams")),
        ("/paths/~1v1~1/get/responses/200/description", json!(7)),
        ("/paths/~1v1~1upstreams~1{upstream}/parameters", json!([])),
        ("/components/schemas/Upstream/properties", json!(["name"])),
    ];
    for (place, value) in damage {
        let mut damaged = document.clone();
        let (parent, name) = place.rsplit_once('/').expect("a place");
        let name = name.replace("~1", "/");
        damaged.pointer_mut(parent).expect("a parent")[name] = value;
        assert!(complaints(&damaged).is_some(), "{place}");
    }
}

#[test]
fn the_daemons_is_openapi() {
    let document = Document::read("daemon.json").0;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(complaints(&document), None);
}

#[test]
fn examples_are_what_their_schemas_say() {
    assert_eq!(good_examples(&Document::committed()), 4);
    assert_eq!(good_examples(&Document::read("daemon.json")), 5);
}

/// How many examples there are, of which each is good.
fn good_examples(document: &Document) -> usize {
    let mut examples = 0;
    for operation in document.operations() {
        let Some(content) = operation.body.pointer("/requestBody/content") else { continue };
        for media in content.as_object().expect("content").values() {
            let validator = document.validator(&media["schema"]);
            assert_eq!(errors(&validator, &media["example"]), [] as [String; 0], "{operation:?}");
            examples += 1;
        }
    }
    examples
}

#[test]
fn what_it_does_not_name_is_noticed() {
    let document = Document::committed();
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let good = json!({ "release": "v2", "from": null, "generation": 7 });
    let validator = document.validator(&reference("SwitchReply"));
    assert_eq!(errors(&validator, &good), [] as [String; 0]);
    let bad: [Map<String, Value>; 4] = [
        [("more".to_owned(), json!(1))].into_iter().collect(),
        [("generation".to_owned(), json!("7"))].into_iter().collect(),
        [("release".to_owned(), json!("a/b"))].into_iter().collect(),
        [("from".to_owned(), json!("..")), ("generation".to_owned(), json!(7))]
            .into_iter()
            .collect(),
    ];
    for change in bad {
        let mut value = good.clone();
        value.as_object_mut().expect("an object").extend(change.clone());
        assert_ne!(errors(&validator, &value), [] as [String; 0], "{change:?}");
    }
    let mut less = good.clone();
    less.as_object_mut().expect("an object").remove("generation");
    assert_ne!(errors(&validator, &less), [] as [String; 0]);
}
