//! `[guard]`: what a release that users meet may do wrong.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use super::{field, schema};

/// The limits of a new release, after the switch and in each step of a canary.
///
/// An error is a response with a status of 5xx, or a request that fell back to another release.
/// Shares and times count from `min_requests` responses on, failures to connect from the first. The old
/// release's share and times are those of the time before the switch, or of the same time for a canary.
/// A share that may be above its limit by chance is no failure: at the end it is inconclusive.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a section, as in [guard]")]
pub struct Guard {
    /// For how long a release is watched after the switch; not at all if it is nothing. A step of a
    /// canary has a time of its own.
    #[serde(deserialize_with = "field::duration")]
    #[schemars(with = "schema::Time")]
    pub time: Duration,
    /// Fewer responses than this tell nothing.
    #[serde(deserialize_with = "field::at_least_one")]
    #[schemars(range(min = 1))]
    pub min_requests: u64,
    /// The largest share of errors, 0 to 1; `"off"` for no limit.
    #[serde(deserialize_with = "share")]
    #[schemars(with = "schema::ShareOrOff")]
    pub error_share: Option<f64>,
    /// How many times as large as the old release's share of errors it may be; `"off"` for no limit.
    #[serde(deserialize_with = "ratio")]
    #[schemars(with = "schema::RatioOrOff")]
    pub error_share_ratio: Option<f64>,
    /// How many failures to connect are borne; `"off"` for no limit.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "schema::CountOrOff")]
    pub connect_failures: Option<u64>,
    /// How many times as long as the old release's the time may be within which 99 of 100 responses
    /// come, and how many times as many requests may wait when more wait than were answered; `"off"`
    /// for no limit.
    #[serde(deserialize_with = "ratio")]
    #[schemars(with = "schema::RatioOrOff")]
    pub p99_ratio: Option<f64>,
    /// A time that nobody minds: 99 of 100 responses may take as long, however quick the old release was.
    #[serde(deserialize_with = "field::duration")]
    #[schemars(with = "schema::Time")]
    pub p99_floor: Duration,
    /// What follows when it cannot be told whether the release is good.
    pub inconclusive: Inconclusive,
}

/// What follows when it cannot be told whether a release is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Inconclusive {
    /// It stays.
    Proceed,
    /// The old release is switched back to.
    SwitchBack,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(30),
            min_requests: 20,
            error_share: Some(0.05),
            error_share_ratio: Some(2.0),
            connect_failures: Some(0),
            p99_ratio: Some(2.0),
            p99_floor: Duration::from_millis(50),
            inconclusive: Inconclusive::Proceed,
        }
    }
}

fn share<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    or_off(d, |share| (0.0..=1.0).contains(&share), "a share is 0 to 1, as in 0.05, or \"off\"")
}

fn ratio<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    let why = "a ratio is 1 or more, as in 2.0, or \"off\"";
    or_off(d, |ratio| ratio >= 1.0 && ratio.is_finite(), why)
}

fn count<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    let why = "is a whole number, 0 or more, or \"off\"";
    // Beyond this not every number is a float.
    let whole = |n: f64| (0.0..=9_007_199_254_740_992.0).contains(&n) && n.fract() == 0.0;
    Ok(or_off(d, whole, why)?.map(|n| n as u64))
}

/// A number that is good, or `"off"`.
fn or_off<'de, D: Deserializer<'de>>(
    d: D,
    is_good: impl Fn(f64) -> bool,
    why: &'static str,
) -> Result<Option<f64>, D::Error> {
    struct Visitor<F>(F, &'static str);
    impl<F: Fn(f64) -> bool> de::Visitor<'_> for Visitor<F> {
        type Value = Option<f64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number or \"off\"")
        }

        fn visit_f64<E: de::Error>(self, n: f64) -> Result<Option<f64>, E> {
            if (self.0)(n) { Ok(Some(n)) } else { Err(E::custom(self.1)) }
        }

        fn visit_i64<E: de::Error>(self, n: i64) -> Result<Option<f64>, E> {
            self.visit_f64(n as f64)
        }

        fn visit_u64<E: de::Error>(self, n: u64) -> Result<Option<f64>, E> {
            self.visit_f64(n as f64)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<f64>, E> {
            if text == "off" { Ok(None) } else { Err(E::custom(self.1)) }
        }
    }
    d.deserialize_any(Visitor(is_good, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Guard, String> {
        toml::from_str(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_limit_is_a_number_or_off() {
        assert_eq!(parse("").unwrap(), Guard::default());
        let text = "error_share = 1\nerror_share_ratio = \"off\"\nconnect_failures = 3\n\
                    p99_ratio = 1.5\ninconclusive = \"switch_back\"\ntime = \"0\"";
        let guard = parse(text).unwrap();
        assert_eq!((guard.error_share, guard.error_share_ratio), (Some(1.0), None));
        assert_eq!((guard.connect_failures, guard.p99_ratio), (Some(3), Some(1.5)));
        assert_eq!((guard.inconclusive, guard.time), (Inconclusive::SwitchBack, Duration::ZERO));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, said) in [
            ("error_share = 5", "0 to 1"),
            ("error_share = -0.1", "0 to 1"),
            ("error_share = nan", "0 to 1"),
            ("error_share = \"5%\"", "or \"off\""),
            ("error_share = true", "a number or \"off\""),
            ("p99_ratio = 0.5", "1 or more"),
            ("error_share_ratio = inf", "1 or more"),
            ("connect_failures = 1.5", "whole number"),
            ("connect_failures = -1", "0 or more"),
            ("min_requests = 0", "1 or more"),
            ("inconclusive = \"fail\"", "expected `proceed` or `switch_back`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
