//! Times as people and programs read them: moments in RFC 3339, in UTC, to the second, and spans.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

/// This moment.
#[must_use]
pub fn now() -> String {
    text(Timestamp::now())
}

/// A moment.
#[must_use]
pub fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A span of time as one reads it and writes it into a configuration, rounded to what matters: `101ms`,
/// `2.3s`, `45s`, `1m 30s`, `2h 5m`.
#[derive(Debug, Clone, Copy)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nothing but nothing is shown as nothing.
        let ms = self.0.as_micros().div_ceil(1000);
        let seconds = (ms + 500) / 1000;
        let two = |n: u128, unit: &str, rest: u128, part: &str| match rest {
            0 => format!("{n}{unit}"),
            rest => format!("{n}{unit} {rest}{part}"),
        };
        f.pad(&match (ms, seconds) {
            (0..1000, _) => format!("{ms}ms"),
            (1000..9950, _) if (50..950).contains(&(ms % 1000)) => {
                let tenths = (ms + 50) / 100;
                format!("{}.{}s", tenths / 10, tenths % 10)
            }
            (_, 0..60) => format!("{seconds}s"),
            (_, 60..3600) => two(seconds / 60, "m", seconds % 60, "s"),
            _ => {
                let minutes = (seconds + 30) / 60;
                two(minutes / 60, "h", minutes % 60, "m")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_rounded_to_what_matters() {
        for (micros, text) in [
            (0, "0ms"),
            (3, "1ms"),
            (101_234, "102ms"),
            (999_000, "999ms"),
            (1_000_000, "1s"),
            (1_049_000, "1s"),
            (1_050_000, "1.1s"),
            (1_949_000, "1.9s"),
            (1_951_000, "2s"),
            (2_345_678, "2.3s"),
            (9_960_000, "10s"),
            (10_400_000, "10s"),
            (59_499_000, "59s"),
            (59_987_000, "1m"),
            (90_000_000, "1m 30s"),
            (300_000_000, "5m"),
            (3_599_900_000, "1h"),
            (7_512_000_000, "2h 5m"),
            (360_000_000_000, "100h"),
        ] {
            assert_eq!(Span(Duration::from_micros(micros)).to_string(), text, "{micros}");
        }
    }
}
