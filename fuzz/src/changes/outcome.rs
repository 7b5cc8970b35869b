//! What a change has done, or why it was refused.

use shunt_api::{Call, Problem, Upstream};
use shunt_switch::service::Reply;

use super::step::Base;

/// What a refusal looks like.
pub fn refused(problem: &Problem, base: &Base, generation: u32) {
    assert!(matches!(problem.status, 400 | 404 | 409 | 412 | 422 | 507), "{problem:?}");
    assert!(!problem.detail.is_empty());
    if problem.status == 412 {
        assert!(!matches!(base, Base::Now), "it is based on what is so");
        assert_eq!(problem.upstream.as_ref().map(|u| u.generation), Some(generation));
    }
}

/// What a change has done.
pub fn done(call: &Call, old: &Upstream, now: &Upstream, reply: &Reply) {
    match call {
        Call::PutRelease { release, .. } => {
            assert!(now.release(release.as_str()).is_some());
            let created = old.release(release.as_str()).is_none();
            assert_eq!(reply.status, if created { 201 } else { 200 });
            assert_eq!((&now.active, &now.canary), (&old.active, &old.canary));
            // One that is put anew is no longer what requests fall back to.
            let kept = now.previous == old.previous;
            assert!(kept || (now.previous.is_none() && old.previous.as_ref() == Some(release)));
        }
        Call::DeleteRelease { release, .. } => {
            let gone = old.release(release.as_str()).expect("it was there");
            assert_eq!(gone.in_flight.total(), 0, "deleted under its requests");
            assert!(now.release(release.as_str()).is_none());
            assert_ne!(old.active.as_ref(), Some(release));
            assert_ne!(old.canary.as_ref().map(|c| &c.release), Some(release));
            assert_eq!((&now.active, &now.canary), (&old.active, &old.canary));
        }
        Call::Switch { .. } => {
            let said: shunt_api::SwitchReply =
                serde_json::from_slice(&reply.body).expect("a reply");
            assert_eq!((Some(&said.release), &said.from), (now.active.as_ref(), &old.active));
            if now.active == old.active {
                assert_eq!(now.previous, old.previous);
            } else {
                assert_eq!(now.previous, old.active);
            }
            // A canary that becomes active is none any more, all others stay.
            let stays = old.canary.as_ref().filter(|c| Some(&c.release) != now.active.as_ref());
            assert_eq!(now.canary.as_ref(), stays);
        }
        Call::DeletePrevious { .. } => {
            assert_eq!((&now.active, &now.previous), (&old.active, &None));
        }
        Call::PutCanary { .. } => {
            let canary = now.canary.as_ref().expect("there is one");
            assert_ne!(Some(&canary.release), now.active.as_ref());
            assert_eq!((&now.active, &now.previous), (&old.active, &old.previous));
        }
        Call::DeleteCanary { .. } => assert_eq!(now.canary, None),
        Call::PutHold { .. } => assert!(now.hold.is_some()),
        Call::DeleteHold { .. } => assert_eq!(now.hold, None),
        _ => unreachable!("not among the changes that are made here"),
    }
}
