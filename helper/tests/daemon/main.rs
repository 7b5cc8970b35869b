//! The real `shuntd` and `shunt` against a module that is none, to see what real NGINX does rarely:
//! lost answers, people who switch meanwhile, a daemon that is killed in the middle.

mod api;
mod by_hand;
mod check;
mod deploys;
mod doctor;
mod drain;
mod follow;
mod kills;
mod metrics;
mod reload;
mod restarts;
mod rights;
mod service;
mod sockets;
mod steps;
mod world;
