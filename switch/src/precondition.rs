//! What a change needs before anything is looked at: a body that can be read, and an `If-Match` that
//! holds.

use serde::de::DeserializeOwned;
use shunt_api::Problem;

/// Reads a body: 400 when it is not JSON, 422 when it is not what the call takes.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let status = if error.is_data() { 422 } else { 400 };
        Problem::new(status, format!("in the request body: {error}"))
    })
}

/// Reads `If-Match` (RFC 9110, section 13.1.1) and tells whether this generation matches.
pub fn matches(if_match: &str, generation: u32) -> Result<bool, Problem> {
    if if_match.trim() == "*" {
        return Ok(true);
    }
    let mut found = false;
    for tag in if_match.split(',').map(str::trim) {
        // A weak tag never matches here.
        let (weak, tag) = tag.strip_prefix("W/").map_or((false, tag), |t| (true, t));
        let inner = tag.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        let Some(inner) = inner.filter(|t| !t.contains('"')) else {
            let detail = "header \"If-Match\" must be the generation in quotes, as in \"7\"";
            return Err(Problem::new(400, detail));
        };
        found |= !weak && inner == generation.to_string();
    }
    Ok(found)
}
