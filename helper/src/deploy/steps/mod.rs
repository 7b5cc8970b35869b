//! The steps of a job: each does what its name says, or tells why not.

mod check;
mod hook;
mod retire;
mod slot;
mod source;
mod traffic;
mod undo;
mod watched;
