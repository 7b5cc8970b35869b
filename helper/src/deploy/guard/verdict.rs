//! From figures to a verdict: pure.

use std::fmt;

use super::chance::{Looks, Standing, compare, largest};
use super::figures::Figures;
use crate::config::{Guard, Inconclusive};

/// What is left out of the 99th percentile.
const SLOWEST: f64 = 0.01;

/// Fewer errors, or slow responses, than this are not compared with those of the old release: one
/// that had none yet would make any a multiple.
const FEW: u64 = 5;

/// What is said of a release that was watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is within its limits; what was seen.
    Successful(String),
    /// It is not.
    Failed(String),
    /// It cannot be told.
    Inconclusive(String),
    /// It could not be watched.
    Error(String),
}

impl Verdict {
    /// Whether the old release is switched back to.
    #[must_use]
    pub fn switches_back(&self, limits: &Guard) -> bool {
        match self {
            Self::Successful(_) => false,
            Self::Failed(_) | Self::Error(_) => true,
            Self::Inconclusive(_) => limits.inconclusive == Inconclusive::SwitchBack,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Successful(why) => write!(f, "successful: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Inconclusive(why) => write!(f, "inconclusive: {why}"),
            Self::Error(why) => write!(f, "error: {why}"),
        }
    }
}

/// When figures are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// At a look. There is a verdict only if errors, or failures to connect, are certainly too many.
    Meanwhile(Looks),
    /// At the end of a part of the window. Its times count, too.
    PartIsOver(Looks),
    /// At the end of the window: there is a verdict in any case.
    Over,
}

/// Judges what the new release has done, against what the old one did, if there is one.
pub(super) fn judge(
    limits: &Guard,
    new: &Figures,
    old: Option<&Figures>,
    when: When,
) -> Option<Verdict> {
    let (looks, with_times) = match when {
        When::Meanwhile(looks) => (looks, false),
        When::PartIsOver(looks) => (looks, true),
        When::Over => (Looks::One, true),
    };
    let (n, min) = (new.responses, limits.min_requests);
    let old = old.filter(|old| old.responses >= min);
    let mut findings = vec![connect_failures(limits, new)];
    if let Some(old) = old
        && with_times
    {
        findings.push(unanswered(limits, new, old));
    }
    if n >= min {
        findings.push(error_share(limits, new, looks));
        if let Some(old) = old {
            findings.push(error_share_ratio(limits, new, old, looks));
            if with_times {
                findings.push(p99_ratio(limits, new, old, looks));
            }
        }
    }
    // The worst of them, and the first of those.
    let mut worst = (Standing::Within, String::new());
    for finding in findings.into_iter().flatten() {
        if finding.0 > worst.0 {
            worst = finding;
        }
    }
    match worst {
        (Standing::Beyond, why) => Some(Verdict::Failed(why)),
        _ if when != When::Over => None,
        _ if n < min => Some(Verdict::Inconclusive(format!(
            "{}, too few to tell: {min} are needed (min_requests)",
            count(n, "response")
        ))),
        (Standing::Above, why) => {
            Some(Verdict::Inconclusive(format!("{why}; that is not certain")))
        }
        (Standing::Within, _) => Some(Verdict::Successful(summary(new))),
    }
}

/// Where a figure stands, and what is said of it.
type Finding = Option<(Standing, String)>;

/// Each of them is one too many, however few requests there are.
fn connect_failures(limits: &Guard, new: &Figures) -> Finding {
    let (n, limit) = (new.connect_failures, limits.connect_failures?);
    let why = format!(
        "{}, the limit is {limit} (connect_failures)",
        count(n, "failed attempt to connect")
    );
    (n > limit).then_some((Standing::Beyond, why))
}

/// A release that hangs answers with no errors, and in no time. More wait for it than it has answered,
/// and many more than had to wait for the old one; where answers are long, as streams are, many wait
/// for either.
fn unanswered(limits: &Guard, new: &Figures, old: &Figures) -> Finding {
    let (waiting, answered, ratio) = (new.waiting, new.responses, limits.p99_ratio?);
    let hangs = waiting >= limits.min_requests
        && waiting > answered
        && waiting as f64 > ratio * old.waiting as f64;
    let why = format!(
        "{waiting} requests wait for an answer and {answered} have got one; {} waited for the old \
         release (p99_ratio)",
        old.waiting
    );
    hangs.then_some((Standing::Beyond, why))
}

fn error_share(limits: &Guard, new: &Figures, looks: Looks) -> Finding {
    let limit = limits.error_share?;
    let standing = compare(new.errors, new.responses, limit, looks);
    Some((standing, format!("{}, the limit is {} (error_share)", errors(new), Percent(limit))))
}

fn error_share_ratio(limits: &Guard, new: &Figures, old: &Figures, looks: Looks) -> Finding {
    let ratio = limits.error_share_ratio?;
    if new.errors < FEW {
        return None;
    }
    // The old release's share may be larger than it seems.
    let limit = (ratio * largest(old.errors, old.responses)).min(1.0);
    let standing = compare(new.errors, new.responses, limit, looks);
    let why = format!(
        "{}, more than {ratio} times the share of the old release: {} (error_share_ratio)",
        errors(new),
        errors(old)
    );
    Some((standing, why))
}

fn p99_ratio(limits: &Guard, new: &Figures, old: &Figures, looks: Looks) -> Finding {
    let ratio = limits.p99_ratio?;
    let was = old.times.quantile(1.0 - SLOWEST)?;
    // A time that the old release's 99th percentile is certainly not above. There is none if it has
    // not answered often enough.
    let (at_most, _) =
        old.times.ends().find(|(_, slower)| largest(*slower, old.times.count) <= SLOWEST)?;
    // A new process is slower by a millisecond or two in its first seconds, which is a multiple of next
    // to nothing.
    let limit = |was: f64| (ratio * was).max(limits.p99_floor.as_secs_f64());
    let slower = new.times.slower(limit(was));
    if slower < FEW {
        return None;
    }
    let certainly = new.times.certainly_slower(limit(at_most));
    let standing = match compare(certainly, new.times.count, SLOWEST, looks) {
        Standing::Beyond if certainly >= FEW => Standing::Beyond,
        _ => compare(slower, new.times.count, SLOWEST, looks).min(Standing::Above),
    };
    let is = new.times.quantile(1.0 - SLOWEST).map_or_else(
        || "is longer than any that NGINX tells apart".to_owned(),
        |is| format!("is {}", Seconds(is)),
    );
    let was = Seconds(was);
    let why = format!(
        "the 99th percentile of its times {is}, more than {ratio} times that of the old release: \
         {was} (p99_ratio)"
    );
    Some((standing, why))
}

/// What was seen of a good release.
fn summary(new: &Figures) -> String {
    let p99 = new.times.quantile(1.0 - SLOWEST);
    let p99 = p99.map(|p99| format!(", 99th percentile {}", Seconds(p99))).unwrap_or_default();
    format!("{}{p99}", errors(new))
}

fn errors(figures: &Figures) -> String {
    let (errors, responses) = (figures.errors, figures.responses);
    let share = Percent(errors as f64 / responses.max(1) as f64);
    format!("{} in {} ({share})", count(errors, "error"), count(responses, "response"))
}

/// So many of something, as one reads it.
fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// A share as people read it.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2}", self.0 * 100.0);
        write!(f, "{} %", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A time as people read it.
struct Seconds(f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0 * 1000.0;
        match ms {
            ms if ms < 10.0 => write!(f, "{ms:.1} ms"),
            ms if ms < 1000.0 => write!(f, "{ms:.0} ms"),
            ms => write!(f, "{:.1} s", ms / 1000.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::times::tests::{later, times};
    use super::*;
    use proptest::prelude::*;

    const PART: When = When::PartIsOver(Looks::Many(1));

    /// So many responses within 10 ms, and so many within 50, 200 and 500 ms.
    fn figures(counts: [u64; 4], errors: u64) -> Figures {
        let mut all = [0; 16];
        [all[3], all[5], all[7], all[8]] = counts;
        let responses = counts.iter().sum();
        Figures { responses, errors, connect_failures: 0, waiting: 0, times: times(&all) }
    }

    fn quick(responses: u64, errors: u64) -> Figures {
        figures([responses, 0, 0, 0], errors)
    }

    fn judged(new: &Figures, old: Option<&Figures>) -> [String; 2] {
        let said = |when| {
            let verdict = judge(&Guard::default(), new, old, when);
            verdict.map_or_else(|| "not yet".to_owned(), |verdict| verdict.to_string())
        };
        [said(PART), said(When::Over)]
    }

    #[track_caller]
    fn assert_judged(new: &Figures, old: Option<&Figures>, early: &str, at_the_end: &str) {
        let [now, over] = judged(new, old);
        assert!(now.starts_with(early), "{now}");
        assert!(over.starts_with(at_the_end), "{over}");
    }

    #[test]
    fn a_release_without_errors_is_good_at_the_end() {
        let good = "successful: 0 errors in 40 responses (0 %), 99th percentile 10.0 ms";
        for old in [None, Some(&quick(1000, 0))] {
            assert_judged(&quick(40, 0), old, "not yet", good);
        }
    }

    #[test]
    fn few_responses_tell_nothing_but_no_connection_may_fail() {
        let why = "inconclusive: 19 responses, too few to tell: 20 are needed (min_requests)";
        assert_judged(&quick(19, 19), None, "not yet", why);
        let failed = Figures { connect_failures: 1, ..quick(1, 0) };
        let why = "failed: 1 failed attempt to connect, the limit is 0 (connect_failures)";
        assert_judged(&failed, None, why, why);
        let limits = Guard { connect_failures: Some(1), ..Guard::default() };
        assert_eq!(judge(&limits, &failed, None, PART), None);
    }

    #[test]
    fn errors_count_when_they_are_no_chance() {
        assert_judged(&quick(20, 1), None, "not yet", "successful: 1 error in 20 responses (5 %");
        let why = "inconclusive: 2 errors in 20 responses (10 %), the limit is 5 % (error_share); \
                   that is not certain";
        assert_judged(&quick(20, 2), None, "not yet", why);
        assert_judged(&quick(20, 4), None, "not yet", "failed: 4 errors in 20 responses (20 %)");
        assert_judged(&quick(20, 20), None, "failed: 20 errors in 20", "failed: 20 errors in 20");
    }

    #[test]
    fn errors_are_compared_with_those_of_the_old_release() {
        let old = quick(10_000, 10);
        // Below the limit of 5 %.
        assert_judged(&quick(1000, 2), Some(&old), "not yet", "successful");
        assert_judged(&quick(1000, 5), Some(&old), "not yet", "inconclusive: 5 errors in 1000");
        let why = "failed: 30 errors in 1000 responses (3 %), more than 2 times the share of the old \
                   release: 10 errors in 10000 responses (0.1 %) (error_share_ratio)";
        assert_judged(&quick(1000, 30), Some(&old), why, why);
        // One that had none yet does not make a few a multiple.
        assert_judged(&quick(1000, 4), Some(&quick(100_000, 0)), "not yet", "successful");
        // Nor does one that had hardly any requests, or none.
        assert_judged(&quick(1000, 30), Some(&quick(19, 0)), "not yet", "successful");
        assert_judged(&quick(1000, 30), None, "not yet", "successful");
        // What was ill may stay so.
        assert_judged(&quick(1000, 40), Some(&quick(1000, 40)), "not yet", "successful");
    }

    #[test]
    fn times_are_compared_with_those_of_the_old_release() {
        let old = figures([900, 100, 0, 0], 0);
        assert_judged(&figures([900, 100, 0, 0], 0), Some(&old), "not yet", "successful");
        let slow = figures([90, 0, 0, 10], 0);
        let why = "failed: the 99th percentile of its times is 470 ms, more than 2 times that of the \
                   old release: 47 ms (p99_ratio)";
        assert_judged(&slow, Some(&old), why, why);
        let meanwhile = When::Meanwhile(Looks::Many(1));
        assert_eq!(judge(&Guard::default(), &slow, Some(&old), meanwhile), None);
        // How times are spread in a bucket is not known: 49 ms and 51 ms are in neighbouring ones, and
        // so are 21 ms and 99 ms.
        let mut neighbours = [0; 16];
        [neighbours[3], neighbours[6]] = [900, 100];
        let neighbours = Figures { times: times(&neighbours), ..quick(1000, 0) };
        let why = "inconclusive: the 99th percentile of its times is 95 ms, more than 2 times that of \
                   the old release: 47 ms (p99_ratio); that is not certain";
        assert_judged(&neighbours, Some(&old), "not yet", why);
        // A few slow ones may be chance; so may be how fast the old release seems.
        assert_judged(&figures([20, 0, 0, 4], 0), Some(&old), "not yet", "successful");
        assert_judged(&slow, Some(&figures([100, 0, 0, 0], 0)), "not yet", "successful");
    }

    #[test]
    fn a_release_that_hangs_is_noticed() {
        let hangs = Figures { waiting: 500, ..quick(3, 0) };
        let old = Figures { waiting: 10, ..quick(1000, 0) };
        let why = "failed: 500 requests wait for an answer and 3 have got one; 10 waited for the old \
                   release (p99_ratio)";
        assert_judged(&hangs, Some(&old), why, why);
        assert_eq!(judge(&Guard::default(), &hangs, Some(&old), When::Meanwhile(Looks::One)), None);
        // Many streams are open in either, more are answered than wait, there are few, and nobody knows
        // how it was.
        let streams = Figures { waiting: 250, ..quick(1000, 0) };
        assert_judged(&hangs, Some(&streams), "not yet", "inconclusive: 3 responses, too few");
        assert_judged(
            &Figures { waiting: 500, ..quick(500, 0) },
            Some(&old),
            "not yet",
            "successful",
        );
        assert_judged(
            &Figures { waiting: 19, ..quick(3, 0) },
            Some(&old),
            "not yet",
            "inconclusive",
        );
        assert_judged(&hangs, None, "not yet", "inconclusive");
    }

    #[test]
    fn a_multiple_of_next_to_nothing_is_no_fault() {
        let within = |bucket: usize| {
            let mut all = [0; 16];
            all[bucket] = 1000;
            Figures { times: times(&all), ..quick(1000, 0) }
        };
        // 1 ms, then 20 ms, then 100 ms.
        let (old, new, slow) = (within(0), within(4), within(6));
        assert_judged(&new, Some(&old), "not yet", "successful");
        assert_judged(&slow, Some(&old), "failed", "failed: the 99th percentile");
        let limits = Guard { p99_floor: std::time::Duration::ZERO, ..Guard::default() };
        let verdict = judge(&limits, &new, Some(&old), When::Over).unwrap();
        assert!(matches!(verdict, Verdict::Failed(_)), "{verdict}");
    }

    #[test]
    fn what_is_off_does_not_count() {
        let off = Guard {
            error_share: None,
            error_share_ratio: None,
            connect_failures: None,
            p99_ratio: None,
            ..Guard::default()
        };
        let bad = figures([0, 0, 0, 1000], 1000);
        let worst = Figures { connect_failures: 9, waiting: 9999, ..bad };
        let verdict = judge(&off, &worst, Some(&quick(1000, 0)), When::Over).unwrap();
        assert!(matches!(verdict, Verdict::Successful(_)), "{verdict}");
    }

    #[test]
    fn what_is_bad_or_not_known_switches_back() {
        let (limits, why) = (Guard::default(), String::new);
        assert!(!Verdict::Successful(why()).switches_back(&limits));
        assert!(Verdict::Failed(why()).switches_back(&limits));
        assert!(Verdict::Error(why()).switches_back(&limits));
        assert!(!Verdict::Inconclusive(why()).switches_back(&limits));
        let careful = Guard { inconclusive: Inconclusive::SwitchBack, ..limits };
        assert!(Verdict::Inconclusive(why()).switches_back(&careful));
    }

    fn rank(verdict: Option<Verdict>) -> u8 {
        match verdict {
            Some(Verdict::Successful(_)) | None => 0,
            Some(Verdict::Inconclusive(_)) => 1,
            Some(Verdict::Failed(_) | Verdict::Error(_)) => 2,
        }
    }

    prop_compose! {
        fn any_figures()(
            counts in prop::array::uniform4(prop_oneof![0u64..10, 0u64..3000]),
            part in prop_oneof![0.0f64..0.1, 0.0f64..=1.0],
            connect_failures in prop_oneof![4 => Just(0u64), 1 => 0u64..4],
            waiting in prop_oneof![0u64..10, 0u64..3000],
        ) -> Figures {
            let errors = (counts.iter().sum::<u64>() as f64 * part) as u64;
            Figures { connect_failures, waiting, ..figures(counts, errors) }
        }
    }

    prop_compose! {
        fn any_limits()(
            share in 0.0f64..=1.0, ratios in (1.0f64..5.0, 1.0f64..5.0),
            connect_failures in 0u64..3, min_requests in 1u64..100,
        ) -> Guard {
            Guard {
                min_requests,
                error_share: Some(share),
                error_share_ratio: Some(ratios.0),
                p99_ratio: Some(ratios.1),
                connect_failures: Some(connect_failures),
                ..Guard::default()
            }
        }
    }

    fn any_time() -> impl Strategy<Value = When> {
        prop_oneof![Just(When::Meanwhile(Looks::Many(7))), Just(PART), Just(When::Over)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn worse_figures_never_make_a_better_verdict(
            limits in any_limits(), new in any_figures(), old in prop::option::of(any_figures()),
            when in any_time(), more in 1u64..50,
        ) {
            let old = old.as_ref();
            let now = rank(judge(&limits, &new, old, when));
            let worse = |figures: &Figures| rank(judge(&limits, figures, old, when));
            let errors = Figures { errors: (new.errors + more).min(new.responses), ..new.clone() };
            prop_assert!(worse(&errors) >= now, "errors instead of good responses");
            let failures = new.connect_failures + more;
            let failures = Figures { connect_failures: failures, ..new.clone() };
            prop_assert!(worse(&failures) >= now, "more failures to connect");
            let waiting = Figures { waiting: new.waiting + more, ..new.clone() };
            prop_assert!(worse(&waiting) >= now, "more that wait");
            // One bucket further each.
            let times = later(&new.times);
            prop_assert!(worse(&Figures { times, ..new.clone() }) >= now, "slower");
        }

        #[test]
        fn more_errors_never_make_a_better_verdict_either(
            limits in any_limits(), new in any_figures(), old in prop::option::of(any_figures()),
            when in any_time(), more in 1u64..50,
        ) {
            // More responses of any kind can make a release faster, or one that does not hang.
            let limits = Guard { p99_ratio: None, ..limits };
            let now = rank(judge(&limits, &new, old.as_ref(), when));
            let had = new.responses;
            let more = Figures {
                responses: new.responses + more, errors: new.errors + more, ..new
            };
            // As long as there were too few, nothing was told but that.
            if now == 2 || had >= limits.min_requests {
                prop_assert!(rank(judge(&limits, &more, old.as_ref(), when)) >= now);
            }
        }

        #[test]
        fn what_is_early_called_bad_is_bad_at_the_end(
            limits in any_limits(), new in any_figures(), old in prop::option::of(any_figures()),
        ) {
            match judge(&limits, &new, old.as_ref(), PART) {
                None => {}
                Some(Verdict::Failed(_)) => {
                    let at_the_end = judge(&limits, &new, old.as_ref(), When::Over);
                    prop_assert!(matches!(at_the_end, Some(Verdict::Failed(_))));
                }
                other => prop_assert!(false, "{:?}", other),
            }
            prop_assert!(judge(&limits, &new, old.as_ref(), When::Over).is_some());
        }

        #[test]
        fn a_release_that_is_as_the_old_one_is_good(limits in any_limits(), old in any_figures()) {
            let limits = Guard { error_share: None, connect_failures: None, ..limits };
            let verdict = judge(&limits, &old, Some(&old), When::Over).unwrap();
            let known = old.responses >= limits.min_requests;
            prop_assert_eq!(matches!(verdict, Verdict::Successful(_)), known, "{}", verdict);
        }
    }
}
