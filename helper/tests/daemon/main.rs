//! The real `shuntd` and `shunt` against a module that is none, to see what real NGINX does rarely:
//! lost answers, people who switch meanwhile, a daemon that is killed in the middle.

mod by_hand;
mod deploys;
mod drain;
mod reload;
mod restarts;
mod service;
mod world;
