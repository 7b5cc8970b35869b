//! Errors as RFC 9457 has them: `application/problem+json`.

use serde::{Deserialize, Serialize};

use crate::state::Upstream;

/// The media type of an error (RFC 9457, section 6.1).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What an error answer says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "openapi", derive(schemars::JsonSchema))]
#[error("{detail}")]
pub struct Problem {
    /// A short name of the kind of error; it stays the same from case to case.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// What was wrong, where, and what to do.
    pub detail: String,
    /// With 412: the upstream as it is now, so that the caller can decide anew without asking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Box<Upstream>>,
}

impl Problem {
    /// An error of the given status.
    #[must_use]
    pub fn new(status: u16, detail: impl Into<String>) -> Self {
        Self { title: title(status).to_owned(), status, detail: detail.into(), upstream: None }
    }
}

/// The title that goes with a status code (RFC 9110, section 15).
fn title(status: u16) -> &'static str {
    match status {
        400 => "bad request",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not found",
        405 => "method not allowed",
        409 => "conflict",
        411 => "length required",
        412 => "precondition failed",
        413 => "content too large",
        414 => "uri too long",
        415 => "unsupported media type",
        422 => "unprocessable content",
        423 => "locked",
        428 => "precondition required",
        500 => "internal server error",
        503 => "service unavailable",
        507 => "insufficient storage",
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_what_rfc_9457_describes() {
        let json = serde_json::to_value(Problem::new(404, "no upstream \"x\"")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"title": "not found", "status": 404, "detail": "no upstream \"x\""})
        );
    }
}
