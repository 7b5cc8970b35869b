//! What a soak is told by its environment.

/// For how many seconds it goes on (`TIME`, 60), and what decides what is done, and in which order
/// (`SEED`, random). Nothing, or an empty text, is the default.
///
/// # Errors
///
/// What is no number.
pub fn settings() -> Result<(u64, u64), String> {
    Ok((number("TIME", 60)?, number("SEED", fastrand::u64(..))?))
}

fn number(name: &str, default: u64) -> Result<u64, String> {
    match std::env::var(name).unwrap_or_default().as_str() {
        "" => Ok(default),
        text => text.parse().map_err(|_| format!("{name} must be a number, not {text:?}")),
    }
}
