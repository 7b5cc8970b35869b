//! Bodies: of requests, which the module reads, and of answers, which the helper reads.

use serde::Serialize;
use serde::de::DeserializeOwned;
use shunt_api::{
    Address, CanaryRequest, HoldRequest, Index, Portion, Problem, ReleaseSpec, Server, ServerSpec,
    SwitchReply, SwitchRequest, Upstream, Upstreams,
};
use shunt_switch::table::Member;

use crate::{Verdict, reads_the_same};

/// Whatever is a body is written so that it reads the same. Of a release that passes its check
/// everything is true that NGINX relies on.
pub fn run(input: &[u8]) -> Verdict {
    if let Ok(spec) = serde_json::from_slice::<ReleaseSpec>(input) {
        reads_the_same(&spec);
        match spec.check() {
            Ok(()) => check(&spec),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        return Verdict::Accepted;
    }
    if let Ok(canary) = serde_json::from_slice::<CanaryRequest>(input) {
        reads_the_same(&canary);
        // No share is more than all, or none where some was asked for.
        let share = f64::from(canary.share);
        assert!((0.0..=1.0).contains(&share) && canary.share.parts() <= Portion::WHOLE);
        assert_eq!(Portion::try_from(share), Ok(canary.share));
        return Verdict::Accepted;
    }
    if let Ok(hold) = serde_json::from_slice::<HoldRequest>(input) {
        reads_the_same(&hold);
        match hold.check() {
            Ok(()) => {
                let timeout = hold.timeout.duration();
                assert!(!timeout.is_zero() && timeout <= HoldRequest::MAX.duration());
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        return Verdict::Accepted;
    }
    let others = [
        of::<SwitchRequest>,
        of::<SwitchReply>,
        of::<Problem>,
        of::<Upstream>,
        of::<Upstreams>,
        of::<Index>,
    ];
    // One text can be several of these, so all of them are tried.
    let read = others.iter().filter(|read| read(input)).count();
    if read == 0 { Verdict::Refused } else { Verdict::Accepted }
}

fn of<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(input: &[u8]) -> bool {
    serde_json::from_slice::<T>(input).inspect(reads_the_same).is_ok()
}

fn check(spec: &ReleaseSpec) {
    let servers = &spec.servers;
    assert!((1..=ReleaseSpec::MAX_SERVERS).contains(&servers.len()));
    assert!(servers.iter().any(|s| !s.backup));
    assert!(servers.iter().all(|s| s.weight > 0));
    let weight: u64 = servers.iter().map(|s| u64::from(s.weight)).sum();
    assert!(weight <= u64::from(ServerSpec::MAX_WEIGHT), "{weight}");
    for (i, server) in servers.iter().enumerate() {
        assert!(!servers[..i].iter().any(|other| other.address == server.address));
        let member = Member::from(server);
        let text = server.address.to_string();
        assert_eq!(member.addresses().collect::<Vec<_>>(), [text.as_str()]);
        assert_eq!(text.parse::<Address>().as_ref(), Ok(&server.address));
        // Parts of a second are dropped, all else is kept.
        let shown = Server::from(&member);
        assert_eq!(shown.fail_timeout.as_secs(), server.fail_timeout.as_secs());
        let whole = Server { fail_timeout: shown.fail_timeout, ..Server::from(server.clone()) };
        assert_eq!(shown, whole);
        reads_the_same(&shown);
    }
}
