//! A part of the requests, in steps of 1/10,000.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A share between none and all of the requests; on the wire a number from 0 to 1, as in `0.05`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
#[cfg_attr(
    feature = "openapi",
    derive(schemars::JsonSchema),
    schemars(extend("minimum" = 0, "maximum" = 1))
)]
pub struct Portion(u16);

/// Why a number is not a share.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PortionError {
    /// Below 0, above 1, or no number at all.
    #[error("share is {0}, it can be 0 to 1")]
    Range(f64),
    /// Finer than the route can tell apart.
    #[error("share is {0}, it can be given in steps of 0.0001")]
    Fine(f64),
    /// Not a number.
    #[error("{0:?} is not a share, which is as in 0.05")]
    Number(String),
}

impl Portion {
    /// How many parts make the whole.
    pub const WHOLE: u16 = 10_000;

    /// So many parts of [`Portion::WHOLE`]; more than all are all.
    #[must_use]
    pub fn of_parts(parts: u16) -> Self {
        Self(parts.min(Self::WHOLE))
    }

    /// Parts of [`Portion::WHOLE`].
    #[must_use]
    pub const fn parts(self) -> u16 {
        self.0
    }
}

impl TryFrom<f64> for Portion {
    type Error = PortionError;

    fn try_from(share: f64) -> Result<Self, PortionError> {
        if !(0.0..=1.0).contains(&share) {
            return Err(PortionError::Range(share));
        }
        let parts = share * f64::from(Self::WHOLE);
        let whole = parts.round();
        // What a decimal fraction loses in binary is far less than this.
        if (parts - whole).abs() > 1e-6 {
            return Err(PortionError::Fine(share));
        }
        Ok(Self(whole as u16))
    }
}

impl FromStr for Portion {
    type Err = PortionError;

    fn from_str(text: &str) -> Result<Self, PortionError> {
        let share: f64 = text.parse().map_err(|_| PortionError::Number(text.to_owned()))?;
        share.try_into()
    }
}

impl From<Portion> for f64 {
    fn from(portion: Portion) -> Self {
        Self::from(portion.0) / Self::from(Portion::WHOLE)
    }
}

impl fmt::Display for Portion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f64::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "takes an hour, and has nothing for Miri")]
    fn every_step_is_read_back_as_it_was_written() {
        for parts in 0..=Portion::WHOLE {
            let portion = Portion::of_parts(parts);
            let text = serde_json::to_string(&portion).unwrap();
            assert_eq!(serde_json::from_str::<Portion>(&text).unwrap(), portion, "{text}");
        }
        assert_eq!(Portion::of_parts(500).to_string(), "0.05");
    }

    #[test]
    fn what_is_no_share_is_named() {
        for (text, said) in [
            ("-0.1", "share is -0.1, it can be 0 to 1"),
            ("1.0001", "0 to 1"),
            ("0.00005", "steps of 0.0001"),
            ("\"x\"", "invalid type"),
        ] {
            let error = serde_json::from_str::<Portion>(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert!(Portion::try_from(f64::NAN).is_err());
        assert_eq!("0.05".parse::<Portion>().unwrap().parts(), 500);
        assert_eq!("5%".parse::<Portion>(), Err(PortionError::Number("5%".to_owned())));
    }
}
