//! Where releases come from.

pub mod folder;
