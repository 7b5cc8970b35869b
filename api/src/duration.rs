//! Times as NGINX writes them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A span of time in NGINX's notation: `10`, `30s`, `1m 30s`, `500ms`, `2h`.
///
/// The units are `w d h m s ms`, each at most once, from the largest to the smallest; a number
/// without a unit counts seconds. Source: `ngx_parse_time()` in `src/core/ngx_parse.c`. Years and
/// months are left out: nothing in this API lasts that long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(
    feature = "openapi",
    derive(schemars::JsonSchema),
    schemars(extend("pattern" = "^([0-9]+(w|d|h|m|s|ms) *)*[0-9]+(w|d|h|m|s|ms)?$"))
)]
pub struct NginxTime(Duration);

/// Why a text is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time, write it as in \"30s\", \"1m 30s\" or \"500ms\"")]
pub struct DurationError(pub String);

const UNITS: [(&str, u64); 6] = [
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// The longest time in milliseconds. NGINX's configuration can have a `fail_timeout` of so many
/// seconds, which the API shows and the state file keeps.
const MAX_MS: u64 = u32::MAX as u64 * 1_000;

impl NginxTime {
    /// A whole number of seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// The span as the standard library has it.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Whole seconds; parts of a second are dropped.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }
}

impl From<Duration> for NginxTime {
    fn from(d: Duration) -> Self {
        Self(d)
    }
}

impl FromStr for NginxTime {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let wrong = || DurationError(text.to_owned());
        let mut rest = text;
        let mut total: u64 = 0;
        // The index of the first unit that may still follow.
        let mut allowed = 0;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
            let (unit, after) = after.split_at(letters);
            let unit = if unit.is_empty() {
                // Only the last number may go without a unit.
                if !after.is_empty() {
                    return Err(wrong());
                }
                "s"
            } else {
                unit
            };
            let at = UNITS.iter().position(|(name, _)| *name == unit).ok_or_else(wrong)?;
            if at < allowed {
                return Err(wrong());
            }
            allowed = at + 1;
            total = number
                .checked_mul(UNITS[at].1)
                .and_then(|ms| ms.checked_add(total))
                .filter(|ms| *ms <= MAX_MS)
                .ok_or_else(wrong)?;
            parts += 1;
            rest = after.trim_start_matches(' ');
        }
        if parts == 0 {
            return Err(wrong());
        }
        Ok(Self(Duration::from_millis(total)))
    }
}

impl TryFrom<String> for NginxTime {
    type Error = DurationError;

    fn try_from(s: String) -> Result<Self, DurationError> {
        s.parse()
    }
}

impl From<NginxTime> for String {
    fn from(t: NginxTime) -> String {
        t.to_string()
    }
}

impl fmt::Display for NginxTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if ms.is_multiple_of(1000) { write!(f, "{}s", ms / 1000) } else { write!(f, "{ms}ms") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_nginx_reads_them() {
        let cases = [
            ("0", 0),
            ("10", 10_000),
            ("10s", 10_000),
            ("1m 30s", 90_000),
            ("1m30s", 90_000),
            ("1m30", 90_000),
            ("500ms", 500),
            ("2h", 7_200_000),
            ("1w1d", 8 * 86_400_000),
        ];
        for (text, ms) in cases {
            let time: NginxTime = text.parse().unwrap();
            assert_eq!(time.duration().as_millis(), ms, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            " ",
            "s",
            "-1",
            "1x",
            "1s1m",
            "1s 1s",
            "10 10s",
            "1.5s",
            "99999999999999999999",
            "99999999w",
            "1ms1",
            "5 ",
        ] {
            // Also with a blank at its end.
            assert!(bad.parse::<NginxTime>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_time_is_written_so_that_it_reads_the_same() {
        for text in ["10s", "1500ms", "0s", "4294967295s"] {
            assert_eq!(text.parse::<NginxTime>().unwrap().to_string(), text);
        }
    }
}
