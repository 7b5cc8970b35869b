//! The words that the NGINX module and the helper speak to each other.
//!
//! The module serves this API from `shunt_api`; the helper is its client. Everything here is plain
//! data with strict parsing: unknown fields are refused, and a value that exists is a valid one.

#![forbid(unsafe_code)]

pub mod address;
pub mod call;
pub mod change;
pub mod duration;
pub mod name;
#[cfg(feature = "openapi")]
pub mod openapi;
pub mod portion;
pub mod problem;
pub mod state;
pub mod token;

pub use address::{Address, AddressError};
pub use call::{Call, CallError, Method, Wait};
pub use change::{
    CanaryRequest, HoldRequest, ReleaseSpec, ServerSpec, SpecError, SwitchReply, SwitchRequest,
};
pub use duration::{DurationError, NginxTime};
pub use name::{NameError, ReleaseName};
pub use portion::{Portion, PortionError};
pub use problem::Problem;
pub use state::{
    Bucket, Canary, Hold, InFlight, Index, Release, ReleaseState, ResponseTime, Responses, Server,
    Source, Upstream, Upstreams, ZoneUse,
};
pub use token::{Token, TokenError};

/// The longest request body that the API reads, in bytes; a longer one is answered with 413.
pub const MAX_BODY: usize = 64 * 1024;
