use super::*;

const EVENTS: [Event; 9] = [
    Event::Done,
    Event::Failed(Outcome::Failed),
    Event::Failed(Outcome::Unhealthy),
    Event::Failed(Outcome::Hook),
    Event::Failed(Outcome::SwitchedBack),
    Event::Uncertain,
    Event::Limit,
    Event::Overruled,
    Event::Aborted,
];

type Way<'a> = &'a [(Step, Event)];

const ALL: Stages = Stages {
    build: true,
    migrate: true,
    warm_up: true,
    preview: true,
    before_switch: true,
    canary: 2,
    after_switch: true,
    guard: true,
    after_deploy: true,
    on_failure: true,
    keeps: false,
    foreign: false,
};

/// A deploy that makes all of them.
const DEPLOY: Plan = Plan {
    kind: JobKind::Deploy,
    strategy: Strategy::BlueGreen,
    runs: false,
    listens: false,
    has_old: true,
    stages: ALL,
    resumes: None,
};

/// Every plan that there can be, with all stages and with none.
fn plans() -> Vec<Plan> {
    let mut plans = Vec::new();
    for strategy in [Strategy::BlueGreen, Strategy::InPlace] {
        for kind in [JobKind::Deploy, JobKind::Rollback, JobKind::Switch, JobKind::Recover] {
            let all = [false, true].into_iter().flat_map(|has_old| {
                // Whether it runs, or at least its socket listens.
                [(false, false), (false, true), (true, false)].map(|(r, l)| (r, l, has_old))
            });
            for (runs, listens, has_old) in all {
                // A release that is switched to by hand runs, and one that is new does not.
                let possible = match kind {
                    JobKind::Deploy => !runs && !listens,
                    JobKind::Rollback => true,
                    JobKind::Recover => !listens,
                    JobKind::Switch => runs,
                };
                let keeps = Stages { keeps: true, ..Stages::default() };
                let foreign = Stages { foreign: true, ..ALL };
                for stages in [Stages::default(), ALL, keeps, foreign] {
                    let cut_off = [None, Some(Step::Health), Some(Step::Guard), Some(Step::Stop)];
                    let resumes = if kind == JobKind::Recover { &cut_off[..] } else { &[None] };
                    for &resumes in resumes.iter().filter(|_| possible) {
                        let plan = Plan { kind, strategy, runs, listens, has_old, stages, resumes };
                        plans.push(plan);
                    }
                }
            }
        }
    }
    plans
}

/// Calls `f` with every way that every job can go, on which at most three steps do not end well: its
/// steps with their events, and its end.
fn every_way(mut f: impl FnMut(Plan, Way<'_>, Outcome)) {
    fn go(
        plan: Plan,
        phase: Phase,
        bad: usize,
        way: &mut Vec<(Step, Event)>,
        f: &mut impl FnMut(Plan, Way<'_>, Outcome),
    ) {
        let Some(step) = plan.at(phase) else {
            let Phase::Ended(outcome) = phase else { panic!("{plan:?} {way:?} {phase:?}") };
            return f(plan, way, outcome);
        };
        assert!(way.len() < 24, "{plan:?} does not end: {way:?}");
        for event in EVENTS {
            let bad = bad + usize::from(event != Event::Done);
            if bad <= 3 {
                way.push((step, event));
                go(plan, plan.step(phase, event), bad, way, f);
                way.pop();
            }
        }
    }
    let mut ways = 0_u64;
    for plan in plans() {
        go(plan, plan.begin(), 0, &mut Vec::new(), &mut |plan, way, outcome| {
            ways += 1;
            f(plan, way, outcome);
        });
    }
    assert!(ways > 10_000, "{ways}");
}

fn at(way: Way<'_>, step: Step) -> Option<usize> {
    way.iter().position(|(s, _)| *s == step)
}

fn done(way: Way<'_>, step: Step) -> bool {
    way.contains(&(step, Event::Done))
}

#[test]
fn a_deploy_makes_all_that_is_configured_in_order() {
    use Step::*;
    let plan = DEPLOY;
    let blue_green = [
        Fetch,
        Build,
        Migrate,
        Start,
        Health,
        WarmUp,
        Preview,
        BeforeSwitch,
        Canary,
        Canary,
        Switch,
        AfterSwitch,
        Guard,
        Drain,
        Stop,
        Publish,
        AfterDeploy,
        Prune,
    ];
    assert_eq!(plan.way(), blue_green);
    let in_place = [
        Fetch,
        Build,
        Migrate,
        BeforeSwitch,
        Hold,
        Restart,
        Health,
        WarmUp,
        Switch,
        Resume,
        AfterSwitch,
        Guard,
        Stop,
        Publish,
        AfterDeploy,
        Prune,
    ];
    assert_eq!(Plan { strategy: Strategy::InPlace, ..plan }.way(), in_place);
    let rollback = Plan { kind: JobKind::Rollback, ..plan };
    assert_eq!(
        rollback.way(),
        [Start, Health, Switch, AfterSwitch, Drain, Stop, Publish, AfterDeploy]
    );
    let at_once = Plan { listens: true, ..rollback };
    assert_eq!(
        at_once.way(),
        [Start, Switch, Health, AfterSwitch, Drain, Stop, Publish, AfterDeploy]
    );
    // There is nothing to be away from, or nowhere else to wait.
    for other in
        [Plan { has_old: false, ..at_once }, Plan { strategy: Strategy::InPlace, ..at_once }]
    {
        let way = other.way();
        let place = |step| way.iter().position(|s| *s == step);
        assert!(place(Health) < place(Switch), "{way:?}");
    }
    let bare = Plan { stages: Stages::default(), ..plan };
    assert_eq!(bare.way(), [Fetch, Start, Health, Switch, Drain, Stop, Publish, Prune]);
    let keeps = Plan { stages: Stages { keeps: true, ..Stages::default() }, ..plan };
    assert_eq!(keeps.way(), [Fetch, Start, Health, Switch, Drain, Publish, Prune]);
    let foreign = Plan { stages: Stages { foreign: true, ..Stages::default() }, ..plan };
    assert_eq!(foreign.way(), [Start, Health, Switch, Drain]);
    let finishes = Plan { kind: JobKind::Recover, resumes: Some(Guard), ..plan };
    assert_eq!(
        finishes.way(),
        [Start, Health, Switch, Guard, Drain, Stop, Publish, AfterDeploy, Prune]
    );
}

#[test]
fn p8_what_is_not_healthy_is_never_switched_to_but_for_a_rollback_behind_a_socket() {
    every_way(|plan, way, _| {
        for step in [Step::Switch, Step::Canary] {
            let Some(at) = at(way, step) else { continue };
            let before = if plan.is_at_once() { Step::Start } else { Step::Health };
            assert!(done(&way[..at], before), "{plan:?} {way:?}");
        }
    });
}

#[test]
fn p8_what_users_are_on_before_it_is_healthy_is_switched_away_from_if_it_is_not() {
    every_way(|plan, way, outcome| {
        if !plan.is_at_once() || !done(way, Step::Switch) {
            return;
        }
        let Some(health) = at(way, Step::Health) else { return };
        match way[health].1 {
            Event::Done => {}
            Event::Overruled => assert_eq!(outcome, Outcome::Overruled),
            _ => assert_eq!(way[health + 1].0, Step::SwitchBack, "{plan:?} {way:?}"),
        }
        // Until it is, the old release is there to go back to.
        for step in [Step::Drain, Step::Stop, Step::Publish] {
            assert!(!done(way, step) || done(way, Step::Health), "{plan:?} {way:?}");
        }
    });
}

#[test]
fn p9_a_release_that_does_not_come_up_again_is_switched_away_from_while_the_old_one_is_there() {
    every_way(|plan, way, _| {
        let Some(cut_off) = plan.resumes else { return };
        let is_there =
            cut_off != Step::Stop && plan.has_old && plan.strategy == Strategy::BlueGreen;
        let failed =
            |w: &(Step, Event)| matches!(w, (Step::Start | Step::Health, Event::Failed(_)));
        let Some(failed) = way.iter().position(failed) else { return };
        let back = way.get(failed + 1).is_some_and(|(step, _)| *step == Step::SwitchBack);
        assert_eq!(back, is_there, "{plan:?} {way:?}");
    });
}

#[test]
fn the_old_release_is_only_touched_after_the_switch_but_for_a_restart_in_place() {
    every_way(|plan, way, _| {
        for step in [Step::Drain, Step::Stop, Step::Publish, Step::Prune] {
            if let Some(at) = at(way, step) {
                assert!(done(&way[..at], Step::Switch), "{plan:?} {way:?}");
            }
        }
        if let Some(restart) = at(way, Step::Restart) {
            assert_eq!(plan.strategy, Strategy::InPlace);
            assert!(done(&way[..restart], Step::Hold), "{plan:?} {way:?}");
        }
    });
}

#[test]
fn the_old_release_is_stopped_only_when_it_is_drained_or_its_limit_is_reached() {
    every_way(|plan, way, _| {
        let Some(stop) = at(way, Step::Stop) else { return };
        if plan.strategy == Strategy::InPlace {
            return;
        }
        let (step, event) = way[stop - 1];
        assert_eq!(step, Step::Drain, "{plan:?} {way:?}");
        assert!(matches!(event, Event::Done | Event::Limit | Event::Aborted), "{plan:?} {way:?}");
    });
}

#[test]
fn what_was_begun_is_undone_unless_it_may_have_traffic() {
    every_way(|plan, way, outcome| {
        if plan.kind == JobKind::Recover {
            return;
        }
        let begun = match plan.kind {
            JobKind::Deploy => plan.stages.foreign || done(way, Step::Fetch),
            JobKind::Rollback => !plan.runs,
            _ => false,
        };
        let stays = done(way, Step::Switch) && !done(way, Step::SwitchBack);
        let uncertain = outcome == Outcome::Uncertain;
        let undone = at(way, Step::Undo).is_some();
        assert_eq!(undone, begun && !stays && !uncertain, "{plan:?} {way:?} {outcome:?}");
    });
}

#[test]
fn p8_only_the_guard_or_a_person_switches_back_or_a_start_of_what_users_are_on() {
    every_way(|plan, way, outcome| {
        let Some(back) = at(way, Step::SwitchBack) else { return };
        assert!(plan.has_old, "{plan:?} {way:?}");
        let (step, event) = way[back - 1];
        let guard = step == Step::Guard && matches!(event, Event::Failed(_));
        let starts = matches!(step, Step::Start | Step::Health) && plan.can_go_back();
        assert!(guard || starts || event == Event::Aborted, "{plan:?} {way:?}");
        match way[back].1 {
            Event::Done => assert!(
                matches!(outcome, Outcome::SwitchedBack | Outcome::NotSwitchedBack),
                "{way:?} {outcome:?}"
            ),
            Event::Overruled => assert_eq!(outcome, Outcome::Overruled),
            Event::Uncertain => assert_eq!(outcome, Outcome::Uncertain),
            _ => assert_eq!(outcome, Outcome::NotSwitchedBack),
        }
    });
}

#[test]
fn p7_nothing_is_touched_any_more_once_somebody_else_has_switched() {
    every_way(|plan, way, outcome| {
        let Some(switch) = way.iter().position(|w| *w == (Step::Switch, Event::Done)) else {
            return;
        };
        let after = &way[switch + 1..];
        let Some(at) = after.iter().position(|(_, event)| *event == Event::Overruled) else {
            return;
        };
        if matches!(after[at].0, Step::Undo | Step::OnFailure) {
            return;
        }
        let left = &after[at + 1..];
        assert!(left.iter().all(|(step, _)| *step == Step::OnFailure), "{plan:?} {way:?}");
        assert_eq!(outcome, Outcome::Overruled, "{plan:?} {way:?}");
    });
}

#[test]
fn done_is_only_what_users_are_on() {
    every_way(|plan, way, outcome| {
        let switched = done(way, Step::Switch);
        if outcome == Outcome::Done {
            assert!(switched && at(way, Step::SwitchBack).is_none(), "{plan:?} {way:?}");
        }
        let before = [Outcome::Unhealthy, Outcome::Aborted, Outcome::Failed];
        if before.contains(&outcome) {
            assert!(!switched, "{plan:?} {way:?} {outcome:?}");
        }
    });
}

#[test]
fn a_hook_that_fails_after_the_switch_takes_nothing_back_and_is_told() {
    every_way(|plan, way, outcome| {
        let failed = (Step::AfterSwitch, Event::Failed(Outcome::Hook));
        let others = way.iter().filter(|w| **w != failed).all(|(_, event)| *event == Event::Done);
        if way.contains(&failed) && others {
            assert_eq!(outcome, Outcome::Hook, "{plan:?} {way:?}");
            assert!(plan.stages.foreign || done(way, Step::Publish), "{plan:?} {way:?}");
        }
    });
}

#[test]
fn on_failure_is_the_last_step_of_what_has_failed_and_of_nothing_else() {
    every_way(|plan, way, outcome| {
        let last = way.last().is_some_and(|(step, _)| *step == Step::OnFailure);
        let expected = plan.stages.on_failure && outcome != Outcome::Done;
        assert_eq!(last, expected, "{plan:?} {way:?} {outcome:?}");
        let times = way.iter().filter(|(step, _)| *step == Step::OnFailure).count();
        assert_eq!(times, usize::from(last), "{plan:?} {way:?}");
    });
}

#[test]
fn an_abort_that_came_late_is_heard_before_what_cannot_be_taken_back() {
    let plan = DEPLOY;
    let at = |step| Phase::Forward(plan.way().iter().position(|s| *s == step).unwrap(), None);
    assert_eq!(
        plan.step(at(Step::Switch), Event::Aborted),
        Phase::Back(Step::Undo, Outcome::Aborted)
    );
    for step in [Step::Guard, Step::Drain] {
        let back = Phase::Back(Step::SwitchBack, Outcome::SwitchedBack);
        assert_eq!(plan.step(at(step), Event::Aborted), back, "{step}");
    }
}

#[test]
fn what_could_not_be_recovered_is_tried_again() {
    for outcome in [Outcome::Failed, Outcome::Unhealthy, Outcome::Unreachable, Outcome::Uncertain] {
        assert!(keeps_intent(JobKind::Recover, outcome), "{outcome}");
    }
    assert!(keeps_intent(JobKind::Deploy, Outcome::Uncertain));
    for outcome in [Outcome::Done, Outcome::Unhealthy, Outcome::SwitchedBack] {
        assert!(!keeps_intent(JobKind::Deploy, outcome), "{outcome}");
    }
    assert!(!keeps_intent(JobKind::Recover, Outcome::Done));
}
