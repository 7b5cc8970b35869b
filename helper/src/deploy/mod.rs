//! Jobs on applications. An application ([`app`]) has slots, in which releases run, and a folder
//! ([`releases`]). Of a job ([`jobs`]): what is decided ([`plan`]), what is done ([`engine`], `steps`),
//! what is written down before ([`journal`]), and whether a release is good that users meet
//! ([`guard`]).

pub mod app;
pub mod engine;
mod failure;
pub mod guard;
pub mod jobs;
pub mod journal;
pub mod plan;
pub mod releases;
mod sentence;
mod steps;
