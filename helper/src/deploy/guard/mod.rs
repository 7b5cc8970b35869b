//! The guard: is a release good that users meet? Judged by NGINX's own figures of it.
//!
//! [`watch`] looks at the figures (responses, errors, failures to connect, times) for as
//! long as its window lasts, and judges them against the limits of `[guard]` and against
//! the old release. Errors and failures to connect end the window as
//! soon as they are certainly too many, in all of it or in its last seconds. Times are judged for each
//! part of the window but the first, in which a release may warm up, and at the end for all of it.

mod chance;
mod figures;
mod times;
mod verdict;

use std::time::Duration;

use shunt_api::{ReleaseName, Upstream};
use tokio::time::Instant;

use crate::clock::Span;
use crate::config::Guard;
use crate::nginx::{Client, NginxError};
use chance::Looks;
use figures::{Figures, Tally};
use verdict::{When, judge};

pub use verdict::Verdict;

/// The time between two looks: short against the second within which a bad release is switched away
/// from, and long against what a look costs NGINX.
const LOOK: Duration = Duration::from_millis(250);

/// The parts of a window: how long a release that was good before can hide that it is not any more.
const PART: Duration = Duration::from_secs(5);

/// With so many responses the old release is known well enough for every comparison.
const ENOUGH: u64 = 300;

/// Somebody else has sent the requests elsewhere while the release was watched: there is nothing to
/// judge, and nothing to take back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overruled {
    /// The release that is active now.
    pub active: Option<ReleaseName>,
}

/// What is watched, from which figures on, and against what.
#[derive(Debug, Clone)]
pub struct Window {
    release: ReleaseName,
    time: Duration,
    /// In all of it.
    new: Tally,
    /// In its present part.
    part: Tally,
    /// How many parts were before.
    parts: u32,
    old: Old,
}

/// The release that the new one is compared with.
#[derive(Debug, Clone)]
enum Old {
    /// The new one gets all requests. What the old one did before, if there was one.
    Before(Option<Figures>),
    /// It goes on, and the new one is its canary.
    Meanwhile(ReleaseName, Tally),
}

impl Window {
    /// After the switch. `before` is NGINX's state just before it: all that the new release does from
    /// then on is judged, be it before the first look.
    ///
    /// The old release gets no requests any more. What it did between `began`, a state when the deploy
    /// began, and `before` is what the new one is compared with; if that was little, what it has done
    /// since it was made.
    #[must_use]
    pub fn after_switch(
        release: &ReleaseName,
        old: Option<&ReleaseName>,
        began: &Upstream,
        before: &Upstream,
        limits: &Guard,
    ) -> Self {
        let old = old.map(|old| {
            let all = Figures::of(before, old.as_str());
            let recent = all.since(&Figures::of(began, old.as_str()));
            if recent.responses >= limits.min_requests.max(ENOUGH) { recent } else { all }
        });
        Self::new(release, before, limits.time, Old::Before(old))
    }

    /// A step of a canary that lasts so long. `before` is NGINX's state just before the release got its
    /// share. Both releases get requests, and are compared by what they do with them.
    #[must_use]
    pub fn canary(
        release: &ReleaseName,
        old: &ReleaseName,
        before: &Upstream,
        time: Duration,
    ) -> Self {
        let tally = Tally::from(Figures::of(before, old.as_str()));
        Self::new(release, before, time, Old::Meanwhile(old.clone(), tally))
    }

    fn new(release: &ReleaseName, before: &Upstream, time: Duration, old: Old) -> Self {
        let new = Tally::from(Figures::of(before, release.as_str()));
        Self { release: release.clone(), time, part: new.clone(), new, parts: 0, old }
    }

    /// Takes NGINX's state as it is now in.
    fn look(&mut self, state: &Upstream) -> Result<(), Overruled> {
        let active = state.active.as_ref();
        let is_so = match &self.old {
            Old::Before(_) => active == Some(&self.release),
            Old::Meanwhile(old, _) => {
                let canary = state.canary.as_ref().map(|canary| &canary.release);
                active == Some(old) && canary == Some(&self.release)
            }
        };
        if !is_so {
            return Err(Overruled { active: active.cloned() });
        }
        let figures = Figures::of(state, self.release.as_str());
        self.part.look(figures.clone());
        self.new.look(figures);
        if let Old::Meanwhile(old, tally) = &mut self.old {
            tally.look(Figures::of(state, old.as_str()));
        }
        Ok(())
    }

    /// Judges what is known, so long after the beginning.
    fn judge(&mut self, limits: &Guard, elapsed: Duration) -> Option<Verdict> {
        let old = match &self.old {
            Old::Before(figures) => figures.as_ref(),
            Old::Meanwhile(_, tally) => Some(tally.sum()),
        };
        if elapsed >= self.time {
            return judge(limits, self.new.sum(), old, When::Over);
        }
        // The whole, and each part.
        let counts = self.time.div_duration_f64(PART).ceil() as u32;
        let looks = Looks::Many(counts.saturating_add(1));
        // After a time without a look, more than one may be over.
        let now = u32::try_from(elapsed.as_secs() / PART.as_secs()).unwrap_or(u32::MAX);
        let is_over = now > self.parts;
        let of_part = match is_over && self.parts > 0 {
            true => When::PartIsOver(looks),
            false => When::Meanwhile(looks),
        };
        let whole = judge(limits, self.new.sum(), old, When::Meanwhile(looks));
        let part = judge(limits, self.part.sum(), old, of_part);
        if is_over {
            self.part.restart();
            self.parts = now;
        }
        let part = part.map(|verdict| match verdict {
            Verdict::Failed(why) => Verdict::Failed(format!("{why}, in the last {}", Span(PART))),
            other => other,
        });
        whole.or(part)
    }
}

/// Where NGINX's state comes from.
pub trait State {
    /// The upstream as it is.
    fn state(&self) -> impl Future<Output = Result<Upstream, NginxError>> + Send;

    /// For how long NGINX may be out of reach.
    fn patience(&self) -> Duration;
}

impl State for Client {
    fn state(&self) -> impl Future<Output = Result<Upstream, NginxError>> + Send {
        Self::state(self)
    }

    fn patience(&self) -> Duration {
        self.limit()
    }
}

/// Watches a release until its window is over, or until it has certainly failed.
///
/// NGINX may be out of reach for as long as one of its calls may take (`nginx_timeout`), as while it
/// is started again; what it counts after that is added to what it had counted before. Out of reach
/// for longer, or a refusal, is [`Verdict::Error`].
///
/// # Errors
///
/// [`Overruled`] when the release does not get the requests any more that it is watched with.
pub async fn watch(
    nginx: &impl State,
    limits: &Guard,
    mut window: Window,
) -> Result<Verdict, Overruled> {
    let start = Instant::now();
    let mut seen = start;
    loop {
        let asked = nginx.state().await;
        let now = Instant::now();
        match asked {
            Ok(state) => {
                seen = now;
                window.look(&state)?;
                if let Some(verdict) = window.judge(limits, now - start) {
                    return Ok(verdict);
                }
            }
            Err(error) if error.is_unreachable() => {
                let gone = now - seen;
                if gone >= nginx.patience() {
                    let why = format!("NGINX is out of reach for {}", Span(gone));
                    return Ok(Verdict::Error(format!("{why}: {error}")));
                }
            }
            Err(error) => return Ok(Verdict::Error(error.to_string())),
        }
        let left = window.time.saturating_sub(now - start);
        tokio::time::sleep(if left.is_zero() { LOOK } else { left.min(LOOK) }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::RequestError;
    use serde_json::{Value, json};
    use std::sync::atomic::{AtomicU32, Ordering};

    fn name(text: &str) -> ReleaseName {
        ReleaseName::new(text).unwrap()
    }

    /// A release that has answered so often, and so often with an error.
    fn release(name: &str, responses: u64, errors: u64) -> Value {
        let good = responses - errors;
        let buckets = [json!({"le": 0.01, "count": responses})];
        json!({
            "name": name, "source": "api", "state": "idle", "servers": [],
            "in_flight": {"requests": 0, "upgraded": 0}, "requests": responses,
            "responses": {"1xx": 0, "2xx": good, "3xx": 0, "4xx": 0, "5xx": errors},
            "connect_failures": 0, "fallbacks": 0,
            "response_time": {"count": responses, "sum": 0.0, "buckets": buckets},
        })
    }

    fn upstream(active: &str, canary: Option<&str>, releases: &[Value]) -> Upstream {
        let canary = canary.map(|release| json!({"release": release, "share": 0.1}));
        serde_json::from_value(json!({
            "name": "web", "generation": 1, "active": active, "previous": null, "canary": canary,
            "hold": null, "holdable": true, "parked": 0, "parked_total": 0, "fallback": false, "switches": 0,
            "releases": releases,
        }))
        .unwrap()
    }

    /// Answers as it is told for each moment, in milliseconds since the first look.
    struct Script<F> {
        start: Instant,
        looks: AtomicU32,
        answer: F,
    }

    impl<F: Fn(u64) -> Result<Upstream, NginxError>> Script<F> {
        fn new(answer: F) -> Self {
            Self { start: Instant::now(), looks: AtomicU32::new(0), answer }
        }

        fn elapsed(&self) -> u64 {
            u64::try_from(self.start.elapsed().as_millis()).unwrap()
        }
    }

    impl<F: Fn(u64) -> Result<Upstream, NginxError> + Sync> State for Script<F> {
        async fn state(&self) -> Result<Upstream, NginxError> {
            self.looks.fetch_add(1, Ordering::SeqCst);
            (self.answer)(self.elapsed())
        }

        fn patience(&self) -> Duration {
            Duration::from_secs(10)
        }
    }

    fn gone() -> NginxError {
        let address = "unix:/run/nginx.sock".parse().unwrap();
        NginxError::Request(RequestError::Broken { address, why: "reset".to_owned() })
    }

    /// After a switch to `v2`, of which nothing is known, for 30 seconds.
    fn switched() -> Window {
        let nothing = upstream("v1", None, &[]);
        Window::after_switch(&name("v2"), None, &nothing, &nothing, &Guard::default())
    }

    /// What a job does can go on in any thread.
    fn sent<T: Send>(job: T) -> T {
        job
    }

    async fn watched<F: Fn(u64) -> Result<Upstream, NginxError> + Sync>(
        window: Window,
        answer: F,
    ) -> (Script<F>, Result<Verdict, Overruled>) {
        let script = Script::new(answer);
        let result = sent(watch(&script, &Guard::default(), window)).await;
        (script, result)
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_release_is_watched_for_the_whole_window_with_a_few_looks_a_second() {
        // 100 requests a second, one in a hundred of which is an error.
        let good = |ms| Ok(upstream("v2", None, &[release("v2", ms / 10, ms / 1000)]));
        let (script, result) = watched(switched(), good).await;
        let verdict = result.unwrap();
        assert!(matches!(verdict, Verdict::Successful(_)), "{verdict}");
        assert_eq!(
            verdict.to_string().split(" (").next(),
            Some("successful: 30 errors in 3000 responses")
        );
        assert_eq!(script.elapsed(), 30_000);
        assert!(script.looks.load(Ordering::SeqCst) <= 30 * 4 + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn p8_a_release_that_turns_bad_has_failed_within_a_second() {
        // 100 requests a second; from the tenth second on each is an error.
        let bad = |ms: u64| {
            let errors = ms.saturating_sub(10_000) / 10;
            Ok(upstream("v2", None, &[release("v2", ms / 10, errors)]))
        };
        let before = upstream("v1", None, &[release("v1", 10_000, 0)]);
        let (new, old) = (name("v2"), name("v1"));
        let guard = Guard::default();
        let window = Window::after_switch(&new, Some(&old), &before, &before, &guard);
        let (script, result) = watched(window, bad).await;
        let verdict = result.unwrap();
        assert!(matches!(verdict, Verdict::Failed(_)), "{verdict}");
        assert!((10_000..11_000).contains(&script.elapsed()), "{}", script.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn p8_a_release_that_was_good_for_long_cannot_hide_that_it_is_not_any_more() {
        // 100 requests a second for ten minutes; two seconds before its end each is an error.
        let turns = 598_000;
        let before = upstream("v1", None, &[]);
        let (new, old) = (name("v2"), name("v1"));
        let window = Window::canary(&new, &old, &before, Duration::from_secs(600));
        let (script, result) = watched(window, |ms| {
            let errors = ms.saturating_sub(turns) / 10;
            Ok(upstream("v1", Some("v2"), &[release("v1", 0, 0), release("v2", ms / 10, errors)]))
        })
        .await;
        let Ok(Verdict::Failed(why)) = result else { panic!("{result:?}") };
        assert!(why.contains("(error_share), in the last 5s"), "{why}");
        let took = script.elapsed() - turns;
        assert!(took < 1000, "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_may_be_slow_at_first() {
        // 100 requests a second. The old release answers at once, the new one only after a while.
        let slow = |ms: u64, quick: u64| {
            let mut new = release("v2", ms / 10, 0);
            new["response_time"]["buckets"] = json!([
                {"le": 0.01, "count": quick}, {"le": 1.0, "count": quick}, {"le": 5.0, "count": ms / 10}
            ]);
            let mut old = release("v1", 1000, 0);
            old["response_time"]["buckets"] = json!([{"le": 0.01, "count": 1000}, {"le": 1.0, "count": 1000}, {"le": 5.0, "count": 1000}]);
            Ok(upstream("v2", None, &[old, new]))
        };
        let before = slow(0, 0).unwrap();
        let window = |time| {
            let (new, old) = (name("v2"), name("v1"));
            let limits = Guard { time: Duration::from_secs(time), ..Guard::default() };
            Window::after_switch(&new, Some(&old), &before, &before, &limits)
        };
        // For three seconds, of seven minutes: less than one in a hundred.
        let (_, result) = watched(window(420), |ms| slow(ms, ms.saturating_sub(3000) / 10)).await;
        assert!(matches!(result, Ok(Verdict::Successful(_))), "{result:?}");
        // For ever.
        let (script, result) = watched(window(420), |ms| slow(ms, 0)).await;
        let Ok(Verdict::Failed(why)) = result else { panic!("{result:?}") };
        assert!(why.contains("99th percentile of its times is 5.0 s"), "{why}");
        assert_eq!(script.elapsed(), 10_000);
        // For all of a short window.
        let (script, result) = watched(window(4), |ms| slow(ms, 0)).await;
        assert!(matches!(result, Ok(Verdict::Failed(_))), "{result:?}");
        assert_eq!(script.elapsed(), 4000);
    }

    #[tokio::test(start_paused = true)]
    async fn errors_before_the_first_look_count() {
        let (script, result) =
            watched(switched(), |_| Ok(upstream("v2", None, &[release("v2", 20, 20)]))).await;
        assert!(matches!(result, Ok(Verdict::Failed(_))), "{result:?}");
        assert_eq!(script.elapsed(), 0);
        // What it did before, as the preview, does not.
        let before = upstream("v1", None, &[release("v2", 20, 20)]);
        let new = name("v2");
        let window = Window::after_switch(&new, None, &before, &before, &Guard::default());
        let (_, result) =
            watched(window, |_| Ok(upstream("v2", None, &[release("v2", 60, 20)]))).await;
        assert!(matches!(result, Ok(Verdict::Successful(_))), "{result:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nginx_may_be_out_of_reach_for_a_moment_and_start_anew() {
        let restarts = |ms: u64| match ms {
            0..10_000 => Ok(upstream("v2", None, &[release("v2", ms / 10, (ms / 10).min(3))])),
            10_000..19_000 => Err(gone()),
            _ => Ok(upstream("v2", None, &[release("v2", (ms - 19_000) / 10, 0)])),
        };
        let (_, result) = watched(switched(), restarts).await;
        let Ok(Verdict::Successful(said)) = result else { panic!("{result:?}") };
        assert!(said.starts_with("3 errors in 2075 responses "), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_of_the_window_nginx_is_waited_for() {
        let late = |ms: u64| match ms {
            0..25_000 => Ok(upstream("v2", None, &[release("v2", 0, 0)])),
            25_000..33_000 => Err(gone()),
            _ => Ok(upstream("v2", None, &[release("v2", 100, 0)])),
        };
        let (script, result) = watched(switched(), late).await;
        assert!(matches!(result, Ok(Verdict::Successful(_))), "{result:?}");
        assert_eq!(script.elapsed(), 33_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_that_cannot_be_watched_is_an_error() {
        let (script, result) = watched(switched(), |ms| match ms {
            0..5000 => Ok(upstream("v2", None, &[])),
            _ => Err(gone()),
        })
        .await;
        let Ok(Verdict::Error(why)) = result else { panic!("{result:?}") };
        assert!(why.contains("out of reach for 10s: ") && why.contains("reset"), "{why}");
        assert!((14_750..15_000).contains(&script.elapsed()), "{}", script.elapsed());
        // A refusal is none that passes.
        let refusal = || NginxError::Refused(shunt_api::Problem::new(404, "no upstream \"web\""));
        let (script, result) = watched(switched(), |_| Err(refusal())).await;
        assert!(matches!(result, Ok(Verdict::Error(_))), "{result:?}");
        assert_eq!(script.elapsed(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn p7_whoever_switches_by_hand_ends_the_window() {
        let (script, result) = watched(switched(), |ms| {
            let active = if ms < 3000 { "v2" } else { "v1" };
            // Everything is wrong with it.
            let errors = ms.saturating_sub(3000);
            Ok(upstream(active, None, &[release("v2", errors, errors)]))
        })
        .await;
        assert_eq!(result, Err(Overruled { active: Some(name("v1")) }));
        assert_eq!(script.elapsed(), 3000);
        // A canary is over when there is another one, or none, or when it got everything.
        for (active, canary) in [("v1", None), ("v1", Some("v3")), ("v2", None), ("v3", Some("v2"))]
        {
            let before = upstream("v1", None, &[]);
            let (new, old) = (name("v2"), name("v1"));
            let window = Window::canary(&new, &old, &before, Duration::from_secs(60));
            let (_, result) = watched(window, |_| Ok(upstream(active, canary, &[]))).await;
            assert_eq!(result, Err(Overruled { active: Some(name(active)) }), "{canary:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_canary_is_compared_with_what_the_old_release_does_meanwhile() {
        // 1000 requests a second, one in ten of which goes to the canary; both have the same trouble.
        let before = upstream("v1", None, &[release("v1", 100_000, 0), release("v2", 100, 100)]);
        let (new, old) = (name("v2"), name("v1"));
        let window = || Window::canary(&new, &old, &before, Duration::from_secs(60));
        let state = |ms: u64, one_in: [u64; 2]| {
            let (old, new) = (ms * 9 / 10, ms / 10);
            let old = release("v1", 100_000 + old, old / one_in[0]);
            let new = release("v2", 100 + new, 100 + new / one_in[1]);
            Ok(upstream("v1", Some("v2"), &[old, new]))
        };
        let (script, result) = watched(window(), |ms| state(ms, [25, 25])).await;
        assert!(matches!(result, Ok(Verdict::Successful(_))), "{result:?}");
        assert_eq!(script.elapsed(), 60_000);
        // Within the limit of 5 %, and still far more than the old one.
        let (_, result) = watched(window(), |ms| state(ms, [250, 25])).await;
        let Ok(Verdict::Failed(why)) = result else { panic!("{result:?}") };
        assert!(why.contains("error_share_ratio"), "{why}");
    }

    #[test]
    fn the_old_release_is_known_by_what_it_did_last_or_by_all_that_it_did() {
        let began = upstream("v1", None, &[release("v1", 1000, 500)]);
        let old_of = |before: &Upstream| {
            let (new, old) = (name("v2"), name("v1"));
            match Window::after_switch(&new, Some(&old), &began, before, &Guard::default()).old {
                Old::Before(Some(figures)) => figures,
                other => panic!("{other:?}"),
            }
        };
        let busy = upstream("v1", None, &[release("v1", 1300, 500)]);
        let idle = upstream("v1", None, &[release("v1", 1299, 500)]);
        // As after a restart of NGINX.
        let anew = upstream("v1", None, &[release("v1", 30, 0)]);
        let all = |state: &Upstream| Figures::of(state, "v1");
        assert_eq!(old_of(&busy), all(&busy).since(&all(&began)));
        assert_eq!(old_of(&idle), all(&idle));
        assert_eq!(old_of(&anew), all(&anew));
    }
}
