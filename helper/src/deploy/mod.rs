//! A job: what is decided ([`plan`]), what is done ([`engine`], `steps`), and an application's folder
//! ([`releases`]).

pub mod engine;
pub mod plan;
pub mod releases;
mod steps;
