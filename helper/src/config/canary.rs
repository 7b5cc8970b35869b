//! `[canary]`: a share of the requests first.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use shunt_api::Portion;

use super::{field, schema};

/// How a new release gets more and more of the requests, before it gets them all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a section, as in [canary]")]
pub struct Canary {
    /// One after the other, each with a larger share than the one before.
    #[serde(deserialize_with = "steps")]
    #[schemars(length(min = 1))]
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a step, as in { share = 0.05, time = \"5m\" }")]
pub struct Step {
    /// The share that the new release gets: more than 0, less than 1.
    #[serde(deserialize_with = "share")]
    #[schemars(with = "f64", extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub share: Portion,
    /// How long it is watched with that.
    #[serde(deserialize_with = "field::some_time")]
    #[schemars(with = "schema::SomeTime")]
    pub time: Duration,
}

fn share<'de, D: Deserializer<'de>>(d: D) -> Result<Portion, D::Error> {
    let share = Portion::deserialize(d)?;
    match share.parts() {
        0 => Err(de::Error::custom("share is 0, which sends nothing; the least is 0.0001")),
        Portion::WHOLE => {
            Err(de::Error::custom("share is 1, which is the switch itself: leave this step out"))
        }
        _ => Ok(share),
    }
}

fn steps<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Step>, D::Error> {
    let steps = Vec::<Step>::deserialize(d)?;
    if steps.is_empty() {
        let why = "needs a step, as in [{ share = 0.1, time = \"5m\" }]; for none leave it out";
        return Err(de::Error::custom(why));
    }
    match steps.iter().zip(&steps[1..]).find(|(one, next)| next.share <= one.share) {
        Some((one, next)) => Err(de::Error::custom(format!(
            "each share must be larger than the one before: {} follows {}",
            next.share, one.share
        ))),
        None => Ok(steps),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(steps: &str) -> Result<Canary, String> {
        toml::from_str(&format!("steps = [{steps}]")).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn shares_rise() {
        let text = "{ share = 0.01, time = \"1m\" }, { share = 0.5, time = \"5m\" }";
        let canary = parse(text).unwrap();
        assert_eq!(canary.steps[1].share.parts(), 5000);
        assert_eq!(canary.steps[1].time, Duration::from_secs(300));
        let step = |share: &str| format!("{{ share = {share}, time = \"1s\" }}");
        for (shares, said) in [
            (vec!["0.5", "0.5"], "0.5 follows 0.5"),
            (vec!["0.1", "0.5", "0.2"], "0.2 follows 0.5"),
            (vec!["0.0"], "sends nothing"),
            (vec!["1"], "the switch itself"),
            (vec!["1.5"], "0 to 1"),
            (vec!["0.00001"], "steps of 0.0001"),
            (vec![], "needs a step"),
        ] {
            let steps: Vec<_> = shares.iter().map(|share| step(share)).collect();
            let error = parse(&steps.join(", ")).unwrap_err();
            assert!(error.contains(said), "{shares:?}: {error}");
        }
        assert!(parse("{ share = 0.1, time = \"0s\" }").unwrap_err().contains("longer than"));
        assert!(parse("{ share = 0.1 }").unwrap_err().contains("missing field `time`"));
    }
}
