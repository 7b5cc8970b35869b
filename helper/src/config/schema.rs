//! The JSON Schema of an application's file, `docs/schema/app.json`: what an editor knows of it.
//!
//! It is made of the types that read the file. What they only check while they read is described by
//! types that stand for it here. What one key demands of another is not in the schema; `shunt check`
//! knows it.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};

use super::App;

/// Types that are only there for their schema.
macro_rules! stands_for {
    ($($(#[$doc:meta])* $name:ident: $schema:tt;)*) => {$(
        $(#[$doc])*
        pub enum $name {}

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

const TIME: &str = "^([0-9]+(w|d|h|m|s|ms) *)*[0-9]+(w|d|h|m|s|ms)?$";

stands_for! {
    /// A time as NGINX writes it, as in `1m 30s` or `200ms`.
    Time: { "type": "string", "pattern": TIME };
    /// One that is longer than nothing.
    SomeTime: { "type": "string", "pattern": TIME, "not": { "type": "string", "pattern": "^[0wdhms ]*$" } };
    /// A size in bytes as NGINX writes it, as in `512m`.
    Size: { "type": "string", "pattern": "^0*[1-9][0-9]*[kKmMgG]?$" };
    /// A path that begins at the root.
    AbsolutePath: { "type": "string", "pattern": "^/" };
    /// A text that is not empty.
    Text: { "type": "string", "minLength": 1 };
    /// A program and its arguments.
    Command: { "type": "array", "items": { "type": "string" }, "minItems": 1, "prefixItems": [{ "type": "string", "minLength": 1 }] };
    /// An address that is asked for by HTTP.
    HttpUrl: { "type": "string", "pattern": "^http://[^@/]+(/.*)?$" };
    /// The name of a template of systemd's.
    Unit: { "type": "string", "pattern": "^[A-Za-z0-9:_.-]{1,128}$" };
    /// An image as Docker names it, without or with a tag or digest.
    Image: { "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$" };
    /// The name of a network of Docker's.
    Network: { "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]*$" };
    /// What is mounted into a container, and where.
    Volume: { "type": "string", "pattern": "^[^:]+:/" };
    /// A share, or `off`.
    ShareOrOff: { "anyOf": [{ "type": "number", "minimum": 0, "maximum": 1 }, { "const": "off" }] };
    /// A ratio, or `off`.
    RatioOrOff: { "anyOf": [{ "type": "number", "minimum": 1 }, { "const": "off" }] };
    /// A number of something, or `off`.
    CountOrOff: { "anyOf": [{ "type": "integer", "minimum": 0 }, { "const": "off" }] };
}

/// The addresses of slots; those of somebody else may be names.
pub enum Slots {}

impl JsonSchema for Slots {
    fn schema_name() -> Cow<'static, str> {
        "Slots".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let address = generator.subschema_for::<shunt_api::Address>();
        let host = json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9._-]+:[0-9]+$" });
        let slot = json_schema!({ "anyOf": [address, host] });
        json_schema!({ "type": "array", "items": slot, "minItems": 1, "uniqueItems": true })
    }
}

/// The schema.
#[must_use]
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        // Read by people as well: each key has all of its description in its place.
        settings.inline_subschemas = true;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<App>();
    Tidy.transform(&mut schema);
    let mut head = Map::new();
    head.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    head.insert("title".to_owned(), "An application of Shunt".into());
    merge(&mut head, schema.as_object().cloned().unwrap_or_default());
    let mut schema = Value::Object(head);
    for (what, text) in
        [("default", include_str!("defaults.toml")), ("examples", include_str!("examples.toml"))]
    {
        // A test reads both.
        let values: toml::Table = text.parse().unwrap_or_default();
        add(&mut schema, what, &values);
    }
    schema
}

/// What TOML has no word for, and what the types say only to Rust.
struct Tidy;

impl Transform for Tidy {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        // Those of the types are made for Rust; ours follow.
        object.remove("default");
        object.remove("format");
        if let Some(Value::String(text)) = object.get_mut("description") {
            let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
            *text = paragraphs.collect::<Vec<_>>().join("\n\n");
        }
        // What is left out is not there: nothing is null.
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [one] = types.as_slice() {
                let one = one.clone();
                object.insert("type".to_owned(), one);
            }
        }
        let is_null = |schema: &Value| schema.get("type").is_some_and(|kind| kind == "null");
        if let Some(Value::Array(any)) = object.get_mut("anyOf")
            && any.iter().any(is_null)
        {
            any.retain(|schema| !is_null(schema));
            if let [Value::Object(one)] = any.as_slice() {
                let one = one.clone();
                object.remove("anyOf");
                merge(object, one);
            }
        }
    }
}

/// What a field says of itself comes before what its type says.
fn merge(object: &mut Map<String, Value>, of_the_type: Map<String, Value>) {
    for (key, value) in of_the_type {
        object.entry(key).or_insert(value);
    }
}

/// Adds to each key's schema what stands for it in a table.
fn add(schema: &mut Value, what: &str, values: &toml::Table) {
    for (key, value) in values {
        let Some(property) = schema["properties"].get_mut(key) else { continue };
        let section = match value {
            toml::Value::Table(section) => Some((&mut *property, section)),
            // A section that may be there several times.
            toml::Value::Array(items) => match items.as_slice() {
                [toml::Value::Table(section)] => Some((&mut property["items"], section)),
                _ => None,
            },
            _ => None,
        };
        match section {
            Some((schema, section)) if schema.get("properties").is_some() => {
                add(schema, what, section);
            }
            _ => {
                let Ok(value) = serde_json::to_value(value) else { continue };
                let value = if what == "examples" { Value::Array(vec![value]) } else { value };
                property[what] = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key, as in `run.slots`, with its schema.
    fn keys(schema: &Value) -> Vec<(String, &Value)> {
        let mut found = Vec::new();
        for (key, property) in schema["properties"].as_object().unwrap() {
            let inner = if property["type"] == "array" { &property["items"] } else { property };
            match inner.get("properties") {
                // The keys of a step stand in its own table.
                Some(_) if key != "steps" => found.extend(
                    keys(inner)
                        .into_iter()
                        .map(|(inner, schema)| (format!("{key}.{inner}"), schema)),
                ),
                _ => found.push((key.clone(), property)),
            }
        }
        found
    }

    #[test]
    fn every_key_has_a_description_and_an_example() {
        let document = document();
        let keys = keys(&document);
        assert!(keys.len() > 60, "{}", keys.len());
        for (key, schema) in keys {
            assert!(schema["description"].is_string(), "{key}: {schema}");
            assert!(schema["examples"][0] != Value::Null, "{key}: {schema}");
        }
    }

    /// A table with one key, and what has to stand with it.
    fn with(key: &str, value: &toml::Value) -> toml::Table {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let run = match key {
            "run.unit" | "run.socket" => "unit = \"web\"",
            "run.image" | "run.pull" | "run.port" | "run.network" | "run.volumes"
            | "run.docker" => "image = \"web\"",
            _ => "command = [\"./server\"]",
        };
        let mut table: toml::Table = format!(
            "name = \"web\"\nroot = \"/srv/web\"\nnginx = \"unix:/n\"\n\
            [run]\n{run}\nslots = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n"
        )
        .parse()
        .unwrap();
        let beside = match key {
            "source.ref" | "source.submodules" => "git = \"/srv/git/web\"",
            "source.sha256" => "archive = \"/srv/web.tar.gz\"",
            _ if section == "warm_up" => "requests = [\"/\"]",
            _ if section == "preview" => "url = \"http://127.0.0.1/\"",
            _ if section == "notify" => "url = \"https://hooks.example/\"",
            _ => "",
        };
        let mut inner: toml::Table = beside.parse().unwrap();
        if section.is_empty() {
            table.insert(name.to_owned(), value.clone());
            return table;
        }
        if let Some(toml::Value::Table(there)) = table.get(section) {
            inner.extend(there.clone());
        }
        inner.insert(name.to_owned(), value.clone());
        let inner = toml::Value::Table(inner);
        let inner = if section == "notify" { toml::Value::Array(vec![inner]) } else { inner };
        table.insert(section.to_owned(), inner);
        table
    }

    fn read(table: &toml::Table) -> Result<App, String> {
        App::parse(&table.to_string()).map_err(|e| e.to_string())
    }

    /// The keys of a file of values.
    fn values(text: &str) -> Vec<(String, toml::Value)> {
        let table: toml::Table = text.parse().unwrap();
        let mut found = Vec::new();
        for (key, value) in table {
            let section = match &value {
                toml::Value::Array(items) if items.iter().all(toml::Value::is_table) => &items[0],
                other => other,
            };
            match section {
                toml::Value::Table(section) => {
                    let inner = section.iter().map(|(k, v)| (format!("{key}.{k}"), v.clone()));
                    found.extend(inner);
                }
                _ => found.push((key, value)),
            }
        }
        found
    }

    #[test]
    fn every_default_is_what_the_code_does_without_the_key() {
        let defaults = values(include_str!("defaults.toml"));
        assert!(defaults.len() > 30, "{}", defaults.len());
        for (key, value) in defaults {
            let written = with(&key, &value);
            let mut left_out = written.clone();
            match key.split_once('.') {
                None => {
                    left_out.remove(&key);
                }
                Some((section, name)) => {
                    let inner = match left_out.get_mut(section).unwrap() {
                        toml::Value::Array(items) => &mut items[0],
                        inner => inner,
                    };
                    inner.as_table_mut().unwrap().remove(name).unwrap();
                }
            }
            assert_ne!(written, left_out);
            assert_eq!(read(&written).unwrap(), read(&left_out).unwrap(), "{key}");
        }
    }

    #[test]
    fn every_example_is_accepted_in_its_place() {
        for (key, value) in values(include_str!("examples.toml")) {
            // Nobody has the user of the example on every machine.
            if key == "run.user" {
                continue;
            }
            let table = with(&key, &value);
            // One way to check, one source: what is left is the example's.
            assert!(read(&table).is_ok(), "{key}: {:?}", read(&table));
        }
    }

    #[test]
    fn the_schema_knows_the_same_keys_as_the_types() {
        let document = document();
        let mut sections = vec![(String::new(), &document)];
        for (name, section) in document["properties"].as_object().unwrap() {
            let section = if section["type"] == "array" { &section["items"] } else { section };
            if section.get("properties").is_some() {
                sections.push((name.clone(), section));
            }
        }
        assert!(sections.len() > 10, "{}", sections.len());
        for (name, schema) in sections {
            let key = if name.is_empty() { "no_key".to_owned() } else { format!("{name}.no_key") };
            let error = read(&with(&key, &toml::Value::Boolean(true))).unwrap_err();
            let known = error.split("may stand: ").nth(1).unwrap_or_else(|| panic!("{error}"));
            let known: Vec<&str> = known.split(", ").collect();
            let described: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
            assert_eq!(described, known, "{name}");
            assert_eq!(schema["additionalProperties"], false, "{name}");
        }
    }
}
