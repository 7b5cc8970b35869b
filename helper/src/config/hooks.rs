//! `[hooks]`: programs that a deploy runs.

use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, de};

use super::{field, schema};

/// The programs that a deploy runs, each at its moment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a section, as in [hooks]")]
pub struct Hooks {
    /// How long each may take that does not say so itself.
    #[serde(deserialize_with = "field::some_time")]
    #[schemars(with = "schema::SomeTime")]
    pub timeout: Duration,
    /// After the release was fetched: compiles it, installs what it needs.
    pub build: Option<Hook>,
    /// After `build`, while the old release still serves: the database.
    pub migrate: Option<Hook>,
    /// After the release has become healthy.
    pub before_switch: Option<Hook>,
    /// After NGINX has switched.
    pub after_switch: Option<Hook>,
    /// When the deploy is done.
    pub after_deploy: Option<Hook>,
    /// When it has failed.
    pub on_failure: Option<Hook>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(600),
            build: None,
            migrate: None,
            before_switch: None,
            after_switch: None,
            after_deploy: None,
            on_failure: None,
        }
    }
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// After the release was fetched: compiles it, installs what it needs. It may write to the
    /// release, which belongs to the application's user then.
    Build,
    /// After `build`: brings the database to what the release needs, while the old one still serves.
    Migrate,
    /// After the release has become healthy, before it gets traffic.
    BeforeSwitch,
    /// After NGINX has switched.
    AfterSwitch,
    /// When the deploy is done.
    AfterDeploy,
    /// When it has failed; the reason is in `SHUNT_FAILURE`.
    OnFailure,
}

impl When {
    /// All of them, in their order.
    pub const ALL: [Self; 6] = [
        Self::Build,
        Self::Migrate,
        Self::BeforeSwitch,
        Self::AfterSwitch,
        Self::AfterDeploy,
        Self::OnFailure,
    ];

    /// As it is written in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Migrate => "migrate",
            Self::BeforeSwitch => "before_switch",
            Self::AfterSwitch => "after_switch",
            Self::AfterDeploy => "after_deploy",
            Self::OnFailure => "on_failure",
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A program that a deploy runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Program and arguments; relative to the release's folder.
    pub command: Vec<String>,
    /// How long it may take; [`Hooks::timeout`] if left out.
    pub timeout: Option<Duration>,
}

impl Hooks {
    /// The hook that runs then, if there is one.
    #[must_use]
    pub fn at(&self, when: When) -> Option<&Hook> {
        match when {
            When::Build => self.build.as_ref(),
            When::Migrate => self.migrate.as_ref(),
            When::BeforeSwitch => self.before_switch.as_ref(),
            When::AfterSwitch => self.after_switch.as_ref(),
            When::AfterDeploy => self.after_deploy.as_ref(),
            When::OnFailure => self.on_failure.as_ref(),
        }
    }
}

/// A hook as a table.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Program and arguments; relative to the release's folder.
    #[serde(deserialize_with = "field::command")]
    #[schemars(with = "schema::Command")]
    command: Vec<String>,
    /// How long it may take; that of all hooks if left out.
    #[serde(default, deserialize_with = "field::some_optional_time")]
    #[schemars(with = "Option<schema::SomeTime>")]
    timeout: Option<Duration>,
}

impl JsonSchema for Hook {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Hook".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let command = generator.subschema_for::<schema::Command>();
        let table = generator.subschema_for::<Table>();
        json_schema!({ "anyOf": [command, table] })
    }
}

impl<'de> Deserialize<'de> for Hook {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> de::Visitor<'de> for Either {
            type Value = Hook;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a hook, as in [\"npm\", \"ci\"] or { command = [\"npm\", \"ci\"], timeout = \
                     \"5m\" }; for a line of shell, [\"/bin/sh\", \"-c\", \"…\"]",
                )
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Hook, A::Error> {
                let command = field::command(SeqAccessDeserializer::new(seq))?;
                Ok(Hook { command, timeout: None })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Hook, A::Error> {
                let Table { command, timeout } =
                    Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Hook { command, timeout })
            }
        }

        d.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Hooks, String> {
        toml::from_str(text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_hook_is_a_list_or_a_table() {
        let text = "build = [\"npm\", \"ci\"]\nmigrate = { command = [\"./m\"], timeout = \"5m\" }";
        let hooks = parse(text).unwrap();
        let build = hooks.at(When::Build).unwrap();
        assert_eq!(
            (build.command.as_slice(), build.timeout),
            (&["npm".into(), "ci".into()][..], None)
        );
        assert_eq!(hooks.at(When::Migrate).unwrap().timeout, Some(Duration::from_secs(300)));
        assert_eq!(hooks.timeout, Duration::from_secs(600));
        assert!(hooks.at(When::OnFailure).is_none());
    }

    #[test]
    fn every_moment_is_a_field_of_its_name() {
        for when in When::ALL {
            let hooks = parse(&format!("{when} = [\"./{when}\"]")).unwrap();
            let there: Vec<_> = When::ALL.iter().filter(|w| hooks.at(**w).is_some()).collect();
            assert_eq!(there, [&when]);
            assert_eq!(hooks.at(when).unwrap().command, [format!("./{when}")]);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("build = \"npm ci\"", 1, "as in [\"npm\", \"ci\"]"),
            ("build = []", 1, "needs a program"),
            ("build = [1]", 1, "expected a string"),
            ("build = { timeout = \"1m\" }", 1, "missing field `command`"),
            ("build = { command = [\"a\"], time = 1 }", 1, "unknown field `time`"),
            ("build = { command = [\"a\"], timeout = \"0\" }", 1, "longer than nothing"),
            ("\ntimeout = \"soon\"", 2, "is not a time"),
            ("before-switch = [\"a\"]", 1, "unknown field `before-switch`"),
        ];
        for (text, line, said) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
            assert!(error.contains(&format!("line {line},")), "{text}: {error}");
        }
    }
}
