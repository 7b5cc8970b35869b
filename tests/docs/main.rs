//! What the documents say, held against what there is: the reference against the module's tables,
//! every example against real NGINX and the helper's parser, the OpenAPI document against the running
//! module.

#[macro_use]
extern crate shunt_tests;

mod configuration;
mod examples;
mod links;
mod markdown;
mod metrics;
mod openapi;
mod reference;
mod shell;
mod versions;
