//! What starts and stops releases in slots: the daemon itself ([`process`]), systemd ([`systemd`]),
//! Docker's Engine ([`docker`]), or somebody else ([`external`]). [`running`] is what all of them have in common.

pub mod docker;
pub mod external;
pub mod holders;
pub mod leader;
pub mod leftover;
pub mod log;
pub mod process;
pub mod running;
pub mod start;
pub mod state;
pub mod systemd;
pub mod tail;
pub mod user;
