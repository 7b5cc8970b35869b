//! Whether shuntd answers, and knows the application.

use super::{Finding, count};
use crate::config::App;
use crate::wire::Apps;

const CHECK: &str = "shuntd";

/// What came of asking it for all applications.
#[must_use]
pub fn check(asked: &Result<Apps, String>) -> Finding {
    match asked {
        Ok(Apps { apps }) => {
            Finding::ok(CHECK, format!("it answers, and has {}", count(apps.len(), "application")))
        }
        Err(why) => {
            let cure = "systemctl enable --now shuntd.socket shuntd.service; its log: journalctl -u shuntd";
            Finding::problem(CHECK, why, cure)
        }
    }
}

/// It answers, but does not know the application.
#[must_use]
pub fn unknown(app: &App) -> Finding {
    Finding::problem(
        CHECK,
        format!("it does not know {}", app.file.display()),
        "systemctl reload shuntd; its log says what was wrong with it: journalctl -u shuntd",
    )
}
