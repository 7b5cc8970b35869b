//! A job: what is decided ([`plan`]), what is done ([`engine`], `steps`), whether a release is good
//! that users meet ([`guard`]), and an application's folder ([`releases`]).

pub mod engine;
pub mod guard;
pub mod plan;
pub mod releases;
mod steps;
