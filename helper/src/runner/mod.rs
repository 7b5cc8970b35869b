//! What starts and stops processes in slots.

pub mod leader;
pub mod leftover;
pub mod log;
pub mod process;
pub mod user;
