//! `[[notify]]`: who is told of an application's deploys.

use std::fmt;
use std::path::PathBuf;

use http::Uri;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::{field, schema};

/// A webhook: who is told, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a section, as in [[notify]]")]
pub struct Notify {
    /// Where to.
    pub url: WebhookUrl,
    /// Of what.
    #[serde(default = "usual", deserialize_with = "events")]
    #[schemars(length(min = 1))]
    pub events: Vec<Event>,
    /// The file with a token that is sent along (`Authorization: Bearer`).
    #[serde(default, deserialize_with = "field::absolute")]
    #[schemars(with = "Option<schema::AbsolutePath>")]
    pub token_file: Option<PathBuf>,
}

/// What somebody can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A job began.
    Began,
    /// It is done.
    Done,
    /// It has failed, or how it ended is not known.
    Failed,
    /// A release has had traffic, and it was taken from it again.
    SwitchedBack,
}

fn usual() -> Vec<Event> {
    vec![Event::Done, Event::Failed, Event::SwitchedBack]
}

fn events<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Event>, D::Error> {
    let events = Vec::<Event>::deserialize(d)?;
    match events.is_empty() {
        true => Err(de::Error::custom("needs an event, as in [\"failed\"]")),
        false => Ok(events),
    }
}

/// The address of a webhook. Whoever knows it may post there, as a rule: where it is shown, only
/// the host is.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Uri);

impl WebhookUrl {
    /// All of it.
    #[must_use]
    pub fn secret(&self) -> &Uri {
        &self.0
    }

    fn new(text: &str) -> Result<Self, &'static str> {
        // No error shows the text, which is secret.
        const LIKE: &str = "is not the address of a webhook, as in \"https://host/path\"";
        let uri: Uri = text.parse().map_err(|_| LIKE)?;
        let authority = uri.authority().ok_or(LIKE)?;
        match uri.scheme_str() {
            Some("https" | "http") if !authority.host().is_empty() => {}
            _ => return Err(LIKE),
        }
        if authority.as_str().contains('@') {
            return Err("cannot have user or password, use \"token_file\"");
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.0.authority().map_or("", |a| a.as_str());
        write!(f, "{}://{authority}", self.0.scheme_str().unwrap_or_default())
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookUrl({self}/…)")
    }
}

impl JsonSchema for WebhookUrl {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "WebhookUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^https?://[^@/]+(/.*)?$" })
    }
}

impl<'de> Deserialize<'de> for WebhookUrl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(d)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Notify, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_left_out_has_defaults() {
        let notify = parse("url = \"https://hooks.example/T0/B0/x\"").unwrap();
        assert_eq!(notify.events, [Event::Done, Event::Failed, Event::SwitchedBack]);
        assert_eq!(notify.token_file, None);
        let some = parse("url = \"http://a/\"\nevents = [\"began\", \"switched_back\"]").unwrap();
        assert_eq!(some.events, [Event::Began, Event::SwitchedBack]);
    }

    #[test]
    fn the_path_of_a_webhook_is_shown_nowhere() {
        let notify = parse("url = \"https://hooks.example:8443/T0/secret?key=secret\"").unwrap();
        let shown = format!("{notify:?} {}", notify.url);
        assert!(
            shown.contains("https://hooks.example:8443") && !shown.contains("secret"),
            "{shown}"
        );
        assert_eq!(notify.url.secret().path(), "/T0/secret");
    }

    #[test]
    fn mistakes_are_named() {
        let url = "url = \"https://a/\"\n";
        let cases = [
            ("url = \"hooks.example/x\"".to_owned(), 1, "as in \"https://host/path\""),
            ("url = \"ftp://a/x\"".to_owned(), 1, "as in \"https://host/path\""),
            ("url = \"https:///x\"".to_owned(), 1, "as in \"https://host/path\""),
            ("url = \"https://me:pw@a/\"".to_owned(), 1, "use \"token_file\""),
            (format!("{url}events = []"), 2, "needs an event"),
            (format!("{url}events = [\"ended\"]"), 2, "unknown variant `ended`, expected one of"),
            (format!("{url}token_file = \"token\""), 2, "absolute"),
            (format!("{url}secret = \"x\""), 2, "unknown field `secret`"),
        ];
        for (text, line, said) in cases {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
            assert!(error.contains(&format!("line {line},")), "{text}: {error}");
        }
    }
}
