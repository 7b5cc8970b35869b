//! How the daemon ends: for good, or until systemd has started it again.

use std::time::Duration;

use crate::log;
use crate::runner::systemd::bus::Bus;

/// How long systemd may take to say. Whoever stops the daemon waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether systemd has told the daemon to end only to start it again at once, as `systemctl restart`
/// and an upgrade of its package do. Then its children need not end: the next daemon takes them over,
/// as after a crash. Its unit lets them live (`KillMode=process`).
pub async fn is_restart() -> bool {
    if !matches!(sd_notify::booted(), Ok(true)) {
        return false;
    }
    match tokio::time::timeout(PATIENCE, Bus::restarts_unit_of(std::process::id())).await {
        Ok(Ok(restarts)) => restarts,
        // Without an answer it is for good: nothing may run on that nobody watches.
        Ok(Err(error)) => {
            log::warning(format_args!("cannot tell whether shuntd is restarted: {error}"));
            false
        }
        Err(_) => {
            log::warning(format_args!(
                "cannot tell whether shuntd is restarted: systemd did not answer in {PATIENCE:?}"
            ));
            false
        }
    }
}
