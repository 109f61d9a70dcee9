//! Scopes, and what happens at the end of the time limit.

use std::collections::BTreeSet;

use dynamos_abi::function_flags::RESHAPED;
use dynamos_abi::{NONE, Slot};

use super::sim::{
    ADDRESSES, FUNCTIONS, HOW, Sim, WRITABLE, builder, kernel, record, record_of, sim, sim_of,
};
use super::tests::activated;
use super::*;
use crate::budget::Budget;
use crate::testing::with_record;

/// An update that is ready to be activated.
fn ready<'a>(sim: &mut Sim, record: &dynamos_abi::Record<'a>) -> Update<'a> {
    let mut update = Update::new(record).unwrap();
    update.pin(sim).unwrap();
    update.prepare(sim, &kernel(), &mut Budget::new(10_000)).unwrap();
    update
}

/// Runs `test` with a kernel where tasks are in the way for ever, and an update that is ready.
fn with_sleepers(test: impl FnOnce(&mut Sim, Update<'_>)) {
    let bytes = record();
    with_record(&bytes, |record| {
        let mut sim = sim();
        let update = ready(&mut sim, record);
        sim.blocked = 1_000_000;
        test(&mut sim, update);
    });
}

fn way(scope: Scope, on_timeout: OnTimeout) -> Switching {
    Switching { scope, on_timeout, ..HOW }
}

#[test]
fn scope_function_waits_for_nobody() {
    with_sleepers(|sim, mut update| {
        update
            .activate(sim, &ADDRESSES, &WRITABLE, way(Scope::Function, OnTimeout::RollBack))
            .unwrap();
        assert!(sim.is_fully_active());
        assert_eq!((sim.waited, update.scope()), (0, Scope::Function));
    });
}

#[test]
fn scope_function_reverts_for_new_calls_and_drains() {
    let how = way(Scope::Function, OnTimeout::Hold);
    with_sleepers(|sim, mut update| {
        update.activate(sim, &ADDRESSES, &WRITABLE, how).unwrap();
        update.revert(sim, how).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Draining, true));
        assert!(!sim.active && sim.inside, "new calls take edition 0, old ones go on");
        assert_eq!((update.blockers().count(), sim.waited), (20, 100));
        let lines = with_record(&record(), |record| update.blockers().lines(record).to_string());
        assert!(lines.starts_with("20 40\ntask 123 (cat) sleeps in pipe_1\ntask 124"), "{lines}");
        assert_eq!(lines.lines().count(), 17);
        assert!(update.discard(sim).is_err(), "its code must stay");
        // A look does not wait, and is not told.
        let look = Switching { limits: Limits { wait_ms: 0, ..HOW.limits }, ..how };
        let told = sim.log.len();
        update.go_on(sim, look).unwrap();
        assert_eq!((sim.waited, sim.log.len(), update.state()), (100, told, State::Draining));
        sim.blocked = 0;
        update.go_on(sim, look).unwrap();
        assert_eq!(update.state(), State::Reverted);
        update.discard(sim).unwrap();
        assert!(sim.is_pristine());
    });
}

#[test]
fn scope_function_rolls_a_revert_back() {
    let how = way(Scope::Function, OnTimeout::RollBack);
    with_sleepers(|sim, mut update| {
        update.activate(sim, &ADDRESSES, &WRITABLE, how).unwrap();
        assert!(matches!(update.revert(sim, how), Err(Refusal::Blocked { count: 20, .. })));
        assert_eq!(update.state(), State::Active);
        assert!(sim.is_fully_active());
        sim.states.dedup();
        let end = &sim.states[sim.states.len() - 3..];
        assert_eq!(end, [State::Reverting, State::Draining, State::Active]);
    });
}

#[test]
fn what_was_draining_before_a_command_is_so_after_it() {
    with_sleepers(|sim, mut update| {
        update.activate(sim, &ADDRESSES, &WRITABLE, way(Scope::Function, OnTimeout::Hold)).unwrap();
        update.revert(sim, way(Scope::Function, OnTimeout::Hold)).unwrap();
        let again = update.revert(sim, way(Scope::Function, OnTimeout::RollBack));
        assert!(matches!(again, Err(Refusal::Blocked { .. })));
        assert_eq!(update.state(), State::Draining);
        // It can be given up, too.
        update.resume(sim, HOW).unwrap();
        assert!(sim.is_fully_active());
        assert_eq!(update.state(), State::Active);
    });
}

#[test]
fn an_activation_that_is_held_goes_on_or_is_given_up() {
    for give_up in [false, true] {
        with_sleepers(|sim, mut update| {
            let how = way(Scope::System, OnTimeout::Hold);
            update.activate(sim, &ADDRESSES, &WRITABLE, how).unwrap();
            assert_eq!((update.state(), update.is_held()), (State::Transitioning, true));
            assert!(!sim.active && !sim.inside, "edition 0 runs");
            if give_up {
                update.give_up(sim, &HOW.limits).unwrap();
                assert_eq!(update.state(), State::Registered);
                update.discard(sim).unwrap();
                assert!(sim.is_pristine());
            } else {
                let refused = update.go_on(sim, way(Scope::System, OnTimeout::RollBack));
                assert!(refused.is_err() && update.is_held());
                sim.blocked = 0;
                update.go_on(sim, how).unwrap();
                assert!(sim.is_fully_active());
                assert_eq!(update.scope(), Scope::System);
            }
        });
    }
}

#[test]
fn an_activation_is_forced_for_new_calls() {
    with_sleepers(|sim, mut update| {
        let how = way(Scope::System, OnTimeout::ForceNewCalls);
        update.activate(sim, &ADDRESSES, &WRITABLE, how).unwrap();
        assert!(sim.is_fully_active());
        assert_eq!((sim.waited, update.scope()), (100, Scope::Function));
    });
}

#[test]
fn a_revert_of_scope_system_is_held_with_its_editions_running() {
    let bytes = record();
    with_record(&bytes, |record| {
        let mut sim = sim();
        let mut update = activated(&mut sim, record);
        sim.blocked = 1_000_000;
        update.revert(&mut sim, way(Scope::System, OnTimeout::Hold)).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Reverting, true));
        assert!(sim.is_fully_active());
        update.resume(&mut sim, HOW).unwrap();
        assert_eq!(update.state(), State::Active);
        update.revert(&mut sim, way(Scope::System, OnTimeout::Hold)).unwrap();
        update.go_on(&mut sim, way(Scope::System, OnTimeout::ForceNewCalls)).unwrap();
        assert_eq!((update.state(), update.scope()), (State::Draining, Scope::Function));
        sim.blocked = 0;
        update.go_on(&mut sim, HOW).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

#[test]
fn sleepers_are_woken_at_every_try_but_only_if_asked() {
    for signal in [false, true] {
        with_sleepers(|sim, mut update| {
            sim.blocked = 3;
            let how = Switching { signal, ..HOW };
            update.activate(sim, &ADDRESSES, &WRITABLE, how).unwrap();
            assert_eq!(sim.woken, if signal { 3 } else { 0 });
            sim.blocked = 2;
            update.revert(sim, how).unwrap();
            assert_eq!(sim.woken, if signal { 5 } else { 0 });
        });
    }
}

/// Each of these ways is refused before anything is touched, and so is a revert by force; the whole is switched.
fn is_switched_whole(
    record: &dynamos_abi::Record<'_>,
    refused: &[Switching],
    fits: impl Fn(&Refusal<'_>) -> bool,
) {
    let mut sim = sim();
    let mut update = ready(&mut sim, record);
    let before = sim.operations;
    for how in refused {
        let outcome = update.activate(&mut sim, &ADDRESSES, &WRITABLE, *how);
        assert!(outcome.is_err_and(|refusal| fits(&refusal)), "{how:?}");
        assert_eq!((update.state(), sim.operations), (State::Registered, before));
    }
    update.activate(&mut sim, &ADDRESSES, &WRITABLE, HOW).unwrap();
    let force = Switching { on_timeout: OnTimeout::ForceNewCalls, ..HOW };
    assert!(update.revert(&mut sim, force).is_err_and(|refusal| fits(&refusal)));
    assert!(sim.is_fully_active());
    update.revert(&mut sim, HOW).unwrap();
    assert_eq!(update.state(), State::Reverted);
}

#[test]
fn an_update_that_writes_handlers_is_switched_as_a_whole_or_not_at_all() {
    let mut build = builder(FUNCTIONS);
    let slot = Slot { symbol: 0, offset: 0, before: 0, after: NONE, clone: NONE };
    build.0.slots.push(slot);
    with_record(&build.finish("update"), |record| {
        let ways = [
            Switching { scope: Scope::Function, ..HOW },
            Switching { scope: Scope::Function, fresh: true, ..HOW },
            Switching { on_timeout: OnTimeout::ForceNewCalls, ..HOW },
        ];
        is_switched_whole(record, &ways, |refusal| matches!(refusal, Refusal::HandlersNeedSystem));
    });
}

#[test]
fn an_update_whose_parameters_differ_is_not_switched_call_by_call() {
    let mut build = builder(FUNCTIONS);
    build.0.functions[1].flags |= RESHAPED;
    with_record(&build.finish("update"), |record| {
        let ways = [
            Switching { scope: Scope::Function, ..HOW },
            Switching { on_timeout: OnTimeout::ForceNewCalls, ..HOW },
            Switching { scope: Scope::Task, on_timeout: OnTimeout::ForceNewCalls, ..HOW },
        ];
        is_switched_whole(record, &ways, |refusal| matches!(refusal, Refusal::ReshapedNeedsWhole));
    });
}

/// Looks at what is held, as the module does.
fn look<'a>(sim: &mut Sim, update: &mut Update<'a>) -> Result<(), Refusal<'a>> {
    update.go_on(sim, update.as_held(100, false))
}

/// Runs `test` with an update whose parameters differ.
fn reshaped(test: impl Fn(&mut Sim, Update<'_>)) {
    let mut build = builder(FUNCTIONS);
    build.0.functions[1].flags |= RESHAPED;
    with_record(&build.finish("update"), |record| {
        let mut sim = sim();
        let update = ready(&mut sim, record);
        test(&mut sim, update);
    });
}

#[test]
fn calls_that_have_only_to_end_do_so_whatever_the_parameters() {
    // It leaves at another's switch; its redirections come off at once, or late.
    for fails in [BTreeSet::new(), BTreeSet::from([1])] {
        reshaped(|sim, mut update| {
            update.activate(sim, &ADDRESSES, &WRITABLE, HOW).unwrap();
            update.make_ready(sim).unwrap();
            sim.active = false; // by the other one's switch
            update.leave(sim).unwrap();
            sim.blocked = 1000;
            look(sim, &mut update).unwrap();
            assert_eq!((update.state(), update.is_held()), (State::Draining, true));
            // It cannot have calls again: V1's callers may be under way to it.
            assert!(matches!(update.resume(sim, HOW), Err(Refusal::WrongState { .. })));
            // Whoever asks for it to end, in whatever way, does not switch it.
            update.revert(sim, way(Scope::Function, OnTimeout::ForceNewCalls)).unwrap();
            sim.blocked = 0;
            sim.fail = fails.iter().map(|fail| sim.operations + 1 + fail).collect();
            let outcome = look(sim, &mut update);
            assert_eq!(outcome.is_ok(), fails.is_empty());
            if outcome.is_err() {
                assert_eq!(update.state(), State::Reverting);
                look(sim, &mut update).unwrap();
            }
            assert_eq!((update.state(), sim.is_pristine()), (State::Reverted, true));
        });
    }
    // It leaves from below.
    reshaped(|sim, mut update| {
        update.activate(sim, &ADDRESSES, &WRITABLE, HOW).unwrap();
        sim.blocked = 1000;
        update.leave_from_below(sim, way(Scope::System, OnTimeout::Hold)).unwrap();
        assert_eq!((update.state(), update.scope()), (State::Draining, Scope::Function));
        sim.blocked = 0;
        look(sim, &mut update).unwrap();
        assert_eq!((update.state(), sim.is_pristine()), (State::Reverted, true));
    });
}

#[test]
fn tasks_that_move_back_and_on_again_do_not_mix_parameters() {
    reshaped(|sim, mut update| {
        let hold = way(Scope::Task, OnTimeout::Hold);
        update.activate(sim, &ADDRESSES, &WRITABLE, hold).unwrap();
        sim.blocked = 1000;
        update.revert(sim, hold).unwrap();
        assert_eq!(update.state(), State::Reverting);
        let force = way(Scope::Task, OnTimeout::ForceNewCalls);
        for how in [way(Scope::Function, OnTimeout::Hold), force] {
            assert_eq!(update.resume(sim, how), Err(Refusal::ReshapedNeedsWhole));
            assert_eq!((update.state(), sim.toward), (State::Reverting, Some(false)));
        }
        assert_eq!(update.revert(sim, force), Err(Refusal::ReshapedNeedsWhole));
        update.resume(sim, hold).unwrap();
        sim.blocked = 0;
        look(sim, &mut update).unwrap();
        assert!(sim.is_fully_active());
    });
}

/// The record of functions of which one has this name.
fn record_with(name: &str) -> Vec<u8> {
    let mut build = builder(FUNCTIONS);
    let symbol = build.0.functions[1].symbol as usize;
    build.0.symbols[symbol].name = build.0.str(name);
    build.finish("update")
}

#[test]
fn a_revert_is_made_as_the_activation_was_whatever_is_proposed() {
    with_record(&record_with("do_exit"), |record| {
        let mut sim = sim();
        let mut update = ready(&mut sim, record);
        let how = Switching { scope: Scope::Function, ..HOW };
        update.activate(&mut sim, &ADDRESSES, &WRITABLE, how).unwrap();
        update.revert(&mut sim, HOW).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

#[test]
fn what_is_refused_does_not_count_for_what_is_held() {
    let hold = Switching { signal: true, ..way(Scope::Function, OnTimeout::Hold) };
    let refused = Switching { phase_ms: 5, ..way(Scope::Function, OnTimeout::Hold) };
    let no_phases = Err(Refusal::NoPhases);
    with_sleepers(|sim, mut update| {
        assert_eq!(update.activate(sim, &ADDRESSES, &WRITABLE, refused), no_phases);
        update.activate(sim, &ADDRESSES, &WRITABLE, hold).unwrap();
        update.revert(sim, hold).unwrap();
        assert_eq!(update.revert(sim, refused), no_phases);
        assert_eq!(update.resume(sim, refused), no_phases);
        let look = update.as_held(100, false);
        assert_eq!((look.phase_ms, look.signal, look.scope), (0, true, Scope::Function));
        sim.blocked = 0;
        update.go_on(sim, look).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
    // What is not refused does, also where it does not get what it wants.
    with_sleepers(|sim, mut update| {
        let way = |on_timeout, signal| Switching { signal, ..way(Scope::System, on_timeout) };
        update.activate(sim, &ADDRESSES, &WRITABLE, way(OnTimeout::Hold, false)).unwrap();
        assert_eq!(update.go_on(sim, refused), no_phases);
        assert!(!update.as_held(100, false).signal);
        assert!(update.go_on(sim, way(OnTimeout::RollBack, true)).is_err());
        assert!(update.as_held(100, false).signal);
    });
}

#[test]
fn a_function_that_tasks_leave_unseen_is_switched_call_by_call_alone() {
    with_record(&record_with("do_exit"), |record| {
        let mut sim = sim();
        let mut update = ready(&mut sim, record);
        let before = sim.operations;
        for scope in [Scope::System, Scope::Task, Scope::Object] {
            let how = Switching { scope, ..HOW };
            let outcome = update.activate(&mut sim, &ADDRESSES, &WRITABLE, how);
            assert_eq!(outcome, Err(Refusal::LeavesUnseen { function: "do_exit", scope }));
            assert_eq!((update.state(), sim.operations), (State::Registered, before));
        }
        let how = Switching { scope: Scope::Function, ..HOW };
        update.activate(&mut sim, &ADDRESSES, &WRITABLE, how).unwrap();
        update.revert(&mut sim, how).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

#[test]
fn a_function_that_parks_cpus_is_never_switched() {
    with_record(&record_with("native_play_dead"), |record| {
        let mut sim = sim();
        let mut update = ready(&mut sim, record);
        for scope in [Scope::Function, Scope::System] {
            let outcome =
                update.activate(&mut sim, &ADDRESSES, &WRITABLE, Switching { scope, ..HOW });
            assert_eq!(outcome, Err(Refusal::ParksCpus { function: "native_play_dead" }));
        }
        assert_eq!(update.state(), State::Registered);
    });
}

#[test]
fn what_has_never_run_is_not_waited_for() {
    with_sleepers(|sim, mut update| {
        update.activate(sim, &ADDRESSES, &WRITABLE, Switching { fresh: true, ..HOW }).unwrap();
        assert!(sim.is_fully_active());
        assert_eq!((sim.waited, update.scope()), (0, Scope::System), "it is reverted as any other");
        assert!(update.revert(sim, HOW).is_err());
    });
}

#[test]
fn an_update_that_waits_has_touched_nothing() {
    let bytes = record();
    with_record(&bytes, |record| {
        let mut sim = sim();
        let mut update = Update::new(record).unwrap();
        update.await_target(&mut sim).unwrap();
        assert!(update.pin(&mut sim).is_err(), "another begins when the module comes");
        assert!(update.revert(&mut sim, HOW).is_err() && !update.is_held());
        update.discard(&mut sim).unwrap();
        assert!(sim.is_pristine());
        assert_eq!((sim.operations, update.state()), (0, State::Gone));
    });
}

#[test]
fn whoever_interrupts_a_wait_gets_what_was_before() {
    for how in super::tests::ways() {
        with_sleepers(|sim, mut update| {
            sim.interrupt = true;
            let outcome = update.activate(sim, &ADDRESSES, &WRITABLE, how);
            if how.scope.is_single() {
                // Whoever has moved is in the way of giving it up.
                assert!(matches!(outcome, Err(Refusal::Blocked { interrupted: true, .. })));
                assert_eq!((update.state(), update.is_held()), (State::Reverting, true));
                return;
            }
            if how.scope == Scope::System {
                assert!(matches!(outcome, Err(Refusal::Blocked { interrupted: true, .. })));
                assert_eq!(update.state(), State::Registered);
                return;
            }
            outcome.unwrap();
            let outcome = update.revert(sim, how);
            assert!(matches!(outcome, Err(Refusal::Blocked { interrupted: true, .. })));
            assert_eq!(update.state(), State::Active);
            assert!(sim.is_fully_active());
        });
    }
}

/// What waits for nobody is in effect as soon as ftrace has it.
#[test]
fn one_function_alone_is_switched_when_it_is_redirected() {
    let bytes = record_of(1);
    with_record(&bytes, |record| {
        let how = Switching { scope: Scope::Function, ..HOW };
        let begun = |sim: &mut Sim| {
            let mut update = ready(sim, record);
            let outcome = update.activate(sim, &ADDRESSES, &WRITABLE, how);
            (update, outcome)
        };
        let mut sim = sim_of(1);
        let (_, outcome) = begun(&mut sim);
        outcome.unwrap();
        assert!(sim.is_fully_active());

        // 2 pins, 1 write, late, the flip; then the registration. Nobody came by: nobody is waited for.
        let mut sim = sim_of(1);
        (sim.fail, sim.blocked) = (BTreeSet::from([6]), 1000);
        let (update, outcome) = begun(&mut sim);
        assert!(outcome.unwrap_err().to_string().contains("`pipe_0` failed with EBUSY: "));
        assert_eq!((update.state(), sim.active, sim.inside), (State::Registered, false, false));

        assert_eq!(sim.waited, 0);

        // Somebody did, and stays.
        let mut sim = sim_of(1);
        (sim.fail, sim.blocked, sim.late_failure) = (BTreeSet::from([6]), 1000, true);
        let (mut update, outcome) = begun(&mut sim);
        assert!(outcome.unwrap_err().to_string().ends_with("revert again to finish what is left"));
        assert_eq!((update.state(), update.is_held()), (State::Draining, true));
        assert!(matches!(update.resume(&mut sim, HOW), Err(Refusal::WrongState { .. })));
        sim.blocked = 0;
        update.go_on(&mut sim, how).unwrap();
        assert!(update.state() == State::Reverted && sim.is_pristine());
    });
}
