//! Phases: edition 0 and V2's never run at a time, whatever fails, stays or refuses.

mod rest;

use std::collections::{BTreeMap, BTreeSet};

use dynamos_abi::HookKind;
use dynamos_abi::edition::{BRIDGE, FINAL, ORIGINAL};
use proptest::prelude::*;

use super::phases_sim::*;
use super::sim::{FUNCTIONS, HOW, builder, kernel, ready};
use super::*;
use crate::budget::Budget;
use crate::testing::with_record;

/// What must hold after every call.
fn check_end(sim: &Sim, update: &Update<'_>) {
    assert_eq!((update.phase().edition, update.running()), (sim.edition, sim.running));
    if update.running().is_some() {
        assert!(update.is_held() && sim.late);
        return;
    }
    match update.state() {
        State::Active => assert!(sim.is_active()),
        State::Transitioning => assert!(update.is_held() && update.is_in_a_phase()),
        State::Reverting => assert!(update.is_held() || sim.edition == ORIGINAL),
        State::Draining => assert!(update.is_held() && sim.edition == ORIGINAL && !sim.carried),
        State::Registered => assert!(sim.redirects == [None; 3] && sim.edition == ORIGINAL),
        State::Reverted => assert!(sim.is_pristine()),
        state => assert_eq!(state, State::Active, "no state to end in"),
    }
}

/// An update's whole life, and the end it comes to when nothing is in its way any more.
fn live(mut sim: Sim, how: Switching, resumes: bool) -> u32 {
    with_record(&record_of(sim.around), |record| {
        let mut update = Update::new(record).unwrap();
        let begun = update
            .pin(&mut sim)
            .and_then(|()| update.prepare(&mut sim, &kernel(), &mut Budget::new(10_000)));
        if begun.is_err() {
            assert!(sim.is_pristine());
            return sim.operations;
        }
        let outcome = activate(&mut sim, &mut update, how);
        assert!(outcome.is_ok() || update.state() != State::Transitioning);
        check_end(&sim, &update);
        for _ in 0..3 {
            if update.state() == State::Transitioning {
                let look = Switching { phase_ms: how.phase_ms, ..LOOK };
                let _ = update.go_on(&mut sim, look);
                check_end(&sim, &update);
            }
            if resumes && update.state() == State::Reverting {
                let _ = update.resume(&mut sim, how);
                check_end(&sim, &update);
            }
            let under_way =
                [State::Active, State::Transitioning, State::Reverting, State::Draining];
            if under_way.contains(&update.state()) {
                let _ = update.revert(&mut sim, how);
                check_end(&sim, &update);
            }
        }
        (sim.fail, sim.sleepers, sim.interrupt) = (BTreeSet::new(), [0; 3], false);
        (sim.slow, sim.rests) = (0, 0);
        sim.says.clear();
        if !matches!(update.state(), State::Registered | State::Reverted) {
            // A hook may have the last word of an earlier one.
            for _ in 0..3 {
                if update.state() == State::Transitioning && !update.is_in_a_phase() {
                    let _ = update.give_up(&mut sim, &HOW.limits);
                } else if !matches!(update.state(), State::Registered | State::Reverted) {
                    let _ = update.revert(&mut sim, HOW_IN_PHASES);
                }
            }
            assert!(matches!(update.state(), State::Registered | State::Reverted));
        }
        update.discard(&mut sim).unwrap();
        assert!(sim.is_pristine() && update.steps().done().is_empty());
        sim.operations
    })
}

#[test]
fn a_life_in_phases() {
    with_update(Sim::new(), |sim, mut update| {
        activate(sim, &mut update, HOW_IN_PHASES).unwrap();
        assert!(sim.is_active() && sim.redirects == [Some(Handler::Steady); 3]);
        assert_eq!(update.scope(), Scope::Function);
        update.revert(sim, HOW_IN_PHASES).unwrap();
        assert!(sim.is_pristine());
        assert_eq!(sim.phases, [BRIDGE, FINAL, BRIDGE, ORIGINAL]);
        use HookKind::*;
        assert_eq!(sim.asked, [Advance, Transfer, AdvanceBack, TransferBack]);
        sim.states.dedup();
        use State::*;
        assert_eq!(
            sim.states,
            [Registered, Transitioning, Active, Reverting, Draining, Reverting, Reverted]
        );
        assert_eq!((sim.waited, sim.log.len()), (0, 4));
    });
}

#[test]
fn hooks_around_the_switches_run_before_the_first_phase_and_after_the_last() {
    use HookKind::*;
    let all =
        [BeforeOn, Advance, Transfer, AfterOn, BeforeOff, AdvanceBack, TransferBack, AfterOff];
    for refused in [None, Some(AfterOn)] {
        let mut sim = Sim { around: true, ..Sim::new() };
        sim.says.extend(refused.map(|hook| (hook, (1, -5))));
        with_record(&record_of(true), |record| {
            let mut update = ready(&mut sim, record);
            let outcome = activate(&mut sim, &mut update, HOW_IN_PHASES);
            if refused.is_some() {
                assert!(matches!(outcome, Err(Refusal::HookRefused { hook: AfterOn, .. })));
                let asked: Vec<_> = all.into_iter().filter(|hook| *hook != BeforeOff).collect();
                assert_eq!(sim.asked, asked);
            } else {
                outcome.unwrap();
                update.revert(&mut sim, HOW_IN_PHASES).unwrap();
                assert_eq!(sim.asked, all);
            }
            assert!(update.state() == State::Reverted && sim.is_pristine());
        });
    }
}

#[test]
fn every_operation_may_fail_and_any_two() {
    for (how, sleepers) in [
        (HOW_IN_PHASES, [0; 3]),
        (HOW_IN_PHASES, [2; 3]),
        (HOW_IN_PHASES, [9, 0, 0]),
        (HOLD, [0, 9, 9]),
        (HOLD, [9; 3]),
    ] {
        let sim = || Sim { sleepers, ..Sim::new() };
        let last = live(sim(), how, false) + 6;
        for first in 1..=last {
            for second in first..=last {
                for resumes in [false, true] {
                    let fail = BTreeSet::from([first, second]);
                    live(Sim { fail: fail.clone(), ..sim() }, how, resumes);
                    live(Sim { fail, around: true, ..sim() }, how, resumes);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_fails_stays_or_refuses(
        fail in proptest::collection::btree_set(1u32..60, 0..8),
        sleepers in proptest::array::uniform3(0u32..30),
        says in proptest::array::uniform4((0u32..9, any::<bool>())),
        slow in 0u32..40,
        around: bool,
        interrupt: bool,
        hold: bool,
        resumes: bool,
    ) {
        use HookKind::*;
        let all = [Advance, Transfer, AdvanceBack, TransferBack];
        let refuses = |which| if matches!(which, Transfer | TransferBack) { -11 } else { 0 };
        let says = all.into_iter().zip(says).filter(|(_, (_, some))| *some);
        let says = says.map(|(which, (times, _))| (which, (times, refuses(which)))).collect();
        let how = if hold { HOLD } else { HOW_IN_PHASES };
        live(Sim { fail, sleepers, says, slow, around, interrupt, ..Sim::new() }, how, resumes);
    }
}

#[test]
fn a_task_asleep_in_edition_0_sends_the_load_back() {
    with_update(Sim { sleepers: [1000, 0, 0], ..Sim::new() }, |sim, mut update| {
        let refusal = activate(sim, &mut update, HOW_IN_PHASES).unwrap_err().to_string();
        assert!(refusal.contains("given up after 100 ms: task 7 (aaaa"), "{refusal}");
        assert_eq!(update.state(), State::Reverted);
        assert_eq!((sim.edition, sim.inside), (ORIGINAL, [true, false, false]));
        assert_eq!(sim.phases, [BRIDGE, ORIGINAL]);
    });
}

#[test]
fn or_it_is_held_in_phase_1_and_goes_on() {
    with_update(Sim { sleepers: [1000, 0, 0], ..Sim::new() }, |sim, mut update| {
        activate(sim, &mut update, HOLD).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Transitioning, true));
        assert_eq!((update.phase().edition, update.blockers().count()), (BRIDGE, 1));
        assert!(update.give_up(sim, &HOW.limits).is_err(), "tasks may be in the bridge");
        update.go_on(sim, LOOK).unwrap();
        assert_eq!(update.phase().edition, BRIDGE);
        assert!(sim.asked.is_empty());
        sim.sleepers = [0; 3];
        update.go_on(sim, LOOK).unwrap();
        assert!(update.state() == State::Active && sim.is_active());
    });
}

#[test]
fn a_load_that_is_held_is_given_up_phase_by_phase() {
    for (sleepers, edition) in [([1000, 0, 0], BRIDGE), ([0, 1000, 0], FINAL)] {
        with_update(Sim { sleepers, ..Sim::new() }, |sim, mut update| {
            activate(sim, &mut update, HOLD).unwrap();
            assert_eq!((update.state(), sim.edition), (State::Transitioning, edition));
            sim.sleepers = [1000, 0, 0];
            update.revert(sim, HOW_IN_PHASES).unwrap();
            assert!(update.state() == State::Reverted && sim.is_pristine());
        });
    }
}

#[test]
fn a_predicate_that_never_holds_sends_the_load_back_or_holds_it() {
    let never = || Sim { says: [(HookKind::Advance, (1000, 0))].into(), ..Sim::new() };
    with_update(never(), |sim, mut update| {
        let refusal = activate(sim, &mut update, HOW_IN_PHASES).unwrap_err().to_string();
        assert!(refusal.starts_with("given up after 100 ms: hook `dynamos_advance` of"));
        assert_eq!((update.state(), sim.carried), (State::Reverted, false));
    });
    with_update(never(), |sim, mut update| {
        activate(sim, &mut update, HOLD).unwrap();
        let not_yet = Some(HookKind::Advance);
        let phase = Phase { edition: BRIDGE, not_yet, ..Phase::default() };
        assert_eq!((update.phase(), update.is_held()), (phase, true));
        sim.says.clear();
        update.go_on(sim, LOOK).unwrap();
        assert!(sim.is_active());
        assert_eq!(update.phase(), Phase { edition: FINAL, ..Phase::default() });
    });
}

#[test]
fn a_transfer_that_refuses_sends_the_load_back() {
    let refuses = || Sim { says: [(HookKind::Transfer, (1, -12))].into(), ..Sim::new() };
    with_update(refuses(), |sim, mut update| {
        let refusal = activate(sim, &mut update, HOLD).unwrap_err().to_string();
        assert_eq!(refusal, "hook `dynamos_transfer` of the update answers -12 (ENOMEM)");
        assert_eq!(update.state(), State::Reverted);
    });
    // The same once it was held.
    with_update(Sim { sleepers: [1000, 0, 0], ..refuses() }, |sim, mut update| {
        activate(sim, &mut update, HOLD).unwrap();
        sim.sleepers = [0; 3];
        assert!(matches!(update.go_on(sim, LOOK), Err(Refusal::HookRefused { result: -12, .. })));
        assert!(update.state() == State::Reverted && sim.is_pristine());
    });
}

#[test]
fn a_transfer_back_that_refuses_leaves_the_update_active() {
    let says = [(HookKind::TransferBack, (1, -16))].into();
    with_update(Sim { says, ..Sim::new() }, |sim, mut update| {
        activate(sim, &mut update, HOW_IN_PHASES).unwrap();
        let refusal = update.revert(sim, HOLD).unwrap_err().to_string();
        assert!(refusal.contains("dynamos_transfer_back"), "{refusal}");
        assert!(update.state() == State::Active && sim.is_active());
        update.revert(sim, HOW_IN_PHASES).unwrap();
        assert!(sim.is_pristine());
    });
}

#[test]
fn a_revert_waits_for_v2s_editions_and_can_be_given_up() {
    with_update(Sim::new(), |sim, mut update| {
        activate(sim, &mut update, HOW_IN_PHASES).unwrap();
        sim.sleepers = [0, 0, 1000];
        assert!(matches!(update.revert(sim, HOW_IN_PHASES), Err(Refusal::Blocked { .. })));
        assert!(update.state() == State::Active && sim.is_active());
        update.revert(sim, HOLD).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Reverting, true));
        assert_eq!(sim.edition, BRIDGE);
        update.resume(sim, HOW_IN_PHASES).unwrap();
        assert!(update.state() == State::Active && sim.is_active());
        update.revert(sim, HOLD).unwrap();
        // The bridge may have sleepers of its own: edition 0 runs then, and they are waited for.
        sim.sleepers = [0, 1000, 0];
        update.go_on(sim, LOOK).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Draining, true));
        assert!(update.resume(sim, HOW_IN_PHASES).is_err() && update.discard(sim).is_err());
        sim.sleepers = [0; 3];
        update.go_on(sim, LOOK).unwrap();
        assert!(update.state() == State::Reverted && sim.is_pristine());
    });
}

#[test]
fn what_refuses_again_and_again_is_told_once() {
    let says = [(HookKind::TransferBack, (1000, -16))].into();
    with_update(Sim { sleepers: [0, 1000, 0], says, ..Sim::new() }, |sim, mut update| {
        // Held in phase 2, interrupted there, and now on its way back.
        sim.interrupt = true;
        assert!(activate(sim, &mut update, HOLD).is_err());
        assert_eq!((update.state(), sim.edition), (State::Reverting, BRIDGE));
        for _ in 0..5 {
            update.go_on(sim, LOOK).unwrap();
        }
        assert_eq!(sim.log.iter().filter(|line| line.contains("transfer_back")).count(), 1);
        sim.says.clear();
        update.revert(sim, HOW_IN_PHASES).unwrap();
        assert_eq!(update.state(), State::Draining, "the bridge has its sleepers");
    });
}

#[test]
fn sleepers_are_woken_where_they_are_waited_for() {
    with_update(Sim { sleepers: [2, 3, 4], ..Sim::new() }, |sim, mut update| {
        let how = Switching { signal: true, ..HOW_IN_PHASES };
        activate(sim, &mut update, how).unwrap();
        assert_eq!(sim.woken, 5);
        sim.sleepers = [0, 3, 4];
        update.revert(sim, how).unwrap();
        assert_eq!(sim.woken, 12);
    });
}

#[test]
fn a_transfer_that_does_not_return_holds_everything() {
    for hold in [false, true] {
        with_update(Sim { slow: 1000, ..Sim::new() }, |sim, mut update| {
            sim.says = [(HookKind::Advance, (0, 1))].into();
            let how = if hold { HOLD } else { HOW_IN_PHASES };
            // The first that is slow is the predicate: nothing depends on it, but its code must stay.
            assert_eq!(activate(sim, &mut update, how).is_ok(), hold);
            assert_eq!((sim.edition, update.running()), (BRIDGE, Some(HookKind::Advance)));
            assert_eq!(update.phase().not_yet, None, "it has said nothing");
            sim.slow = 0;
            update.go_on(sim, LOOK).unwrap();
            let end = if hold { State::Active } else { State::Reverted };
            assert_eq!(update.state(), end);
        });
    }
    with_update(Sim::new(), |sim, mut update| {
        sim.says = [(HookKind::Advance, (1000, 0))].into();
        activate(sim, &mut update, HOLD).unwrap();
        (sim.slow, sim.says) = (1, BTreeMap::new());
        // What was asked is answered, then the transfer is slow.
        update.go_on(sim, LOOK).unwrap();
        sim.slow = 0;
        update.go_on(sim, LOOK).unwrap();
        assert!(update.state() == State::Active && sim.is_active());
    });
}

#[test]
fn what_phases_cannot_have_is_refused_before_anything_is_touched() {
    with_update(Sim::new(), |sim, mut update| {
        let before = sim.operations;
        for how in [HOW, Switching { on_timeout: OnTimeout::ForceNewCalls, ..HOW_IN_PHASES }] {
            let outcome = activate(sim, &mut update, how);
            assert!(matches!(outcome, Err(Refusal::PhasesNeedFunction)), "{how:?}");
        }
        assert_eq!((update.state(), sim.operations), (State::Registered, before));
        activate(sim, &mut update, HOW_IN_PHASES).unwrap();
        let force = Switching { on_timeout: OnTimeout::ForceNewCalls, ..HOW_IN_PHASES };
        assert!(matches!(update.revert(sim, force), Err(Refusal::PhasesNeedFunction)));
        assert!(sim.is_active());
    });
}
