//! The least time of a phase: nothing is carried over before the bridge has taken all calls for so long.

use super::*;

/// How long the bridge is to take all calls; longer than anybody is waited for.
const REST: u32 = 1000;

fn sim() -> Sim {
    Sim { rests: REST, ..Sim::new() }
}

fn resting(how: Switching) -> Switching {
    Switching { phase_ms: REST, ..how }
}

#[test]
fn the_bridge_takes_all_calls_for_its_least_time_on_both_ways() {
    with_update(sim(), |sim, mut update| {
        activate(sim, &mut update, resting(HOW_IN_PHASES)).unwrap();
        // At most a pause between two looks longer.
        let rested = |times: u32| times * REST..times * (REST + HOW.limits.longest_pause_ms);
        assert!(sim.is_active() && rested(1).contains(&sim.waited));
        update.revert(sim, resting(HOW_IN_PHASES)).unwrap();
        assert!(sim.is_pristine() && rested(2).contains(&sim.waited));
        assert_eq!(sim.phases.iter().filter(|edition| **edition == BRIDGE).count(), 6);
    });
}

#[test]
fn held_it_goes_on_when_the_time_is_over() {
    with_update(sim(), |sim, mut update| {
        activate(sim, &mut update, resting(HOLD)).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Transitioning, true));
        let until_ms = Some(u64::from(REST));
        assert_eq!(update.phase(), Phase { edition: BRIDGE, not_yet: None, until_ms });
        update.go_on(sim, resting(LOOK)).unwrap();
        assert_eq!((update.state(), sim.waited), (State::Transitioning, HOW.limits.wait_ms));
        sim.clock = u64::from(REST);
        update.go_on(sim, resting(LOOK)).unwrap();
        assert!(sim.is_active());
        assert_eq!(update.phase(), Phase { edition: FINAL, ..Phase::default() });
    });
}

#[test]
fn who_is_in_the_way_is_told_before_the_time_is_over() {
    with_update(Sim { sleepers: [1000, 0, 0], ..sim() }, |sim, mut update| {
        let refusal = activate(sim, &mut update, resting(HOW_IN_PHASES)).unwrap_err().to_string();
        assert!(refusal.contains("given up after 100 ms: task 7 (aaaa"), "{refusal}");
        assert_eq!((update.state(), sim.waited), (State::Reverted, HOW.limits.wait_ms));
    });
}

#[test]
fn a_predicate_has_its_own_time_after_that() {
    let says = [(HookKind::Advance, (3, 0))].into();
    with_update(Sim { says, ..sim() }, |sim, mut update| {
        activate(sim, &mut update, resting(HOW_IN_PHASES)).unwrap();
        assert!(sim.is_active() && sim.waited > REST);
    });
}

#[test]
fn interrupted_it_goes_back_at_once() {
    with_update(Sim { interrupt: true, ..sim() }, |sim, mut update| {
        let refusal = activate(sim, &mut update, resting(HOLD)).unwrap_err().to_string();
        assert!(refusal.contains("the bridge was to take all calls for longer"), "{refusal}");
        assert!(sim.is_pristine() && update.state() == State::Reverted && sim.asked.is_empty());
    });
}

#[test]
fn what_must_go_and_what_has_not_begun_does_not_wait_for_a_time() {
    with_update(Sim::new(), |sim, mut update| {
        let fresh = Switching { fresh: true, ..resting(HOW_IN_PHASES) };
        activate(sim, &mut update, fresh).unwrap();
        assert!(sim.is_active());
        let must = Switching { must: true, ..resting(HOLD) };
        update.revert(sim, must).unwrap();
        assert!(sim.is_pristine() && sim.waited == 0);
    });
}

#[test]
fn an_update_without_phases_has_no_phase_to_last() {
    with_record(&builder(FUNCTIONS).finish("pipe_fix"), |record| {
        let mut sim = Sim::new();
        let mut update = ready(&mut sim, record);
        let outcome = activate(&mut sim, &mut update, resting(HOW));
        assert!(matches!(outcome, Err(Refusal::NoPhases)));
        assert_eq!(update.state(), State::Registered);
    });
}

proptest! {
    #[test]
    fn whatever_fails_or_stays_nothing_is_carried_early(
        fail in proptest::collection::btree_set(1u32..60, 0..4),
        sleepers in proptest::array::uniform3(0u32..30),
        slow in 0u32..40,
        interrupt: bool,
        hold: bool,
        resumes: bool,
    ) {
        let how = resting(if hold { HOLD } else { HOW_IN_PHASES });
        live(Sim { fail, sleepers, slow, interrupt, ..sim() }, how, resumes);
    }
}
