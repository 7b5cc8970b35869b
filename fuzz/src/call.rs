//! Calls of the API, as they stand in a request's first line.

use shunt_api::call::encode;
use shunt_api::{Call, Method, Problem, Wait};

use crate::{Verdict, reads_the_same};

/// Takes `METHOD path?query`. Whatever is a call can be written so that it reads the same; whatever
/// is not gets a problem with a status that says so.
pub fn run(input: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(input) else { return Verdict::Refused };
    let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
    let method = match method {
        "GET" => Method::Get,
        "PUT" => Method::Put,
        "POST" => Method::Post,
        "DELETE" => Method::Delete,
        _ => Method::Other,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match Call::parse(method, path, query) {
        Ok(call) => {
            // Who may only read may not change anything by another way of writing it.
            assert_eq!(call.is_change(), method != Method::Get, "{text:?}");
            let (path, query) = target_of(&call);
            assert_eq!(Call::parse(method, &path, &query), Ok(call));
            Verdict::Accepted
        }
        Err(error) => {
            assert!(matches!(error.status(), 400 | 404 | 405), "{error}");
            let problem = Problem::new(error.status(), error.to_string());
            assert!(!problem.detail.is_empty());
            reads_the_same(&problem);
            Verdict::Refused
        }
    }
}

/// The path and the query of a call.
fn target_of(call: &Call) -> (String, String) {
    let path = |upstream: &str, rest: &str| format!("/v1/upstreams/{}{rest}", encode(upstream));
    let query = |wait: &Wait| match wait {
        Wait::Drained { release, timeout } => {
            format!("wait=drained&release={release}&timeout={timeout}")
        }
        Wait::Change { generation, timeout } => {
            format!("wait=change&generation={generation}&timeout={timeout}")
        }
    };
    match call {
        Call::Index => ("/v1/".to_owned(), String::new()),
        Call::Upstreams => ("/v1/upstreams".to_owned(), String::new()),
        Call::Upstream { upstream, wait } => {
            (path(upstream, ""), wait.as_ref().map(query).unwrap_or_default())
        }
        Call::PutRelease { upstream, release } | Call::DeleteRelease { upstream, release } => {
            (path(upstream, &format!("/releases/{release}")), String::new())
        }
        Call::Switch { upstream } => (path(upstream, "/switch"), String::new()),
        Call::DeletePrevious { upstream } => (path(upstream, "/previous"), String::new()),
        Call::PutCanary { upstream } | Call::DeleteCanary { upstream } => {
            (path(upstream, "/canary"), String::new())
        }
        Call::PutHold { upstream } | Call::DeleteHold { upstream } => {
            (path(upstream, "/hold"), String::new())
        }
    }
}
