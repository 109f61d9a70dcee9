//! Never half updated: every operation of a simulated kernel is made to fail, alone and with others.

use std::collections::BTreeSet;

use proptest::prelude::*;

use dynamos_abi::{NONE, Record, Slot};

use super::hooks_tests::Hooks;
use super::sim::*;
use super::*;
use crate::budget::Budget;
use crate::refusal::Name;
use crate::testing::with_record;

const SLOT: Slot = Slot { symbol: 0, offset: 0, before: 0, after: NONE, clone: NONE };

/// Runs an update's whole life, then again without failures; checks what must hold after each call.
pub(super) fn live(sim: &mut Sim, how: Switching) {
    let mut build = builder(sim.redirects.len() as u32);
    sim.hooks.add_to(&mut build);
    with_record(&build.finish("pipe_fix"), |record| {
        let mut update = Update::new(record).unwrap();
        let names = kernel();
        let began =
            update.pin(sim).and_then(|()| update.prepare(sim, &names, &mut Budget::new(10_000)));
        if began.is_err() {
            assert_eq!(update.state(), State::Gone);
            assert!(sim.is_pristine());
            return;
        }
        let outcome = update.activate(sim, &ADDRESSES, &WRITABLE, how);
        check_end(sim, &update, outcome);
        if update.state() == State::Transitioning {
            let outcome = update.go_on(sim, how);
            check_end(sim, &update, outcome);
        }
        if update.state() == State::Active {
            let outcome = update.revert(sim, how);
            check_end(sim, &update, outcome);
        }
        if matches!(update.state(), State::Draining | State::Reverting) {
            let was_held = update.is_held();
            // What was never redirected cannot be resumed.
            let resumed = how.signal && sim.redirects.iter().any(Option::is_some);
            let outcome = if resumed { update.resume(sim, how) } else { update.go_on(sim, how) };
            assert!(was_held || !resumed || outcome.is_err());
            check_end(sim, &update, outcome);
        }
        // Whatever happened, it can be ended once nothing fails any more.
        (sim.fail, sim.blocked, sim.interrupt) = (BTreeSet::new(), 0, false);
        sim.hooks.relent();
        if update.state() == State::Transitioning && !update.is_under_way() {
            update.give_up(sim, &how.limits).unwrap();
        }
        use State::{Active, Draining, Reverting, Transitioning};
        if matches!(update.state(), Active | Reverting | Draining | Transitioning) {
            update.revert(sim, how).unwrap();
        }
        update.discard(sim).unwrap();
        assert!(sim.is_pristine() && update.steps().done().is_empty());
        // And whatever happened, it can begin once more, without a failure.
        update.begin_anew();
        sim.hooks.begin_anew();
        sim.states.clear();
        update.pin(sim).unwrap();
        update.prepare(sim, &names, &mut Budget::new(10_000)).unwrap();
        update.activate(sim, &ADDRESSES, &WRITABLE, HOW).unwrap();
        assert_eq!(update.state(), State::Active);
        update.revert(sim, HOW).unwrap();
        update.discard(sim).unwrap();
        assert!(sim.is_pristine() && update.steps().done().is_empty());
    });
    assert_eq!(sim.wrong, None);
}

fn check_end(sim: &Sim, update: &Update<'_>, outcome: Result<(), Refusal<'_>>) {
    assert_eq!(update.running(), sim.hooks.running);
    if let Some(hook) = update.running() {
        // Nothing is done before it returns, but that calls take one edition.
        assert!(update.is_held());
        assert!(hook == HookKind::BeforeOff || update.state() != State::Active);
        return;
    }
    let by_hook = match outcome {
        Err(Refusal::HookRefused { .. } | Refusal::HookRuns { .. }) => true,
        Err(Refusal::Failed { step, .. }) => matches!(step, Step::Hook(_)),
        _ => false,
    };
    match update.state() {
        State::Active => {
            assert!(sim.is_fully_active() && !sim.others[0]);
            assert!(sim.hooks.is_on());
        }
        State::Transitioning | State::Reverting if update.is_under_way() => {
            assert!(update.is_held() && sim.toward.is_some() && update.scope().is_single());
        }
        State::Transitioning => assert!(update.is_held() && !sim.active && !sim.inside),
        State::Draining => {
            assert!(update.is_held() && !sim.active);
            // What was never redirected may be looked for in vain.
            assert!(sim.inside || sim.redirects == [None]);
        }
        // `after_off` did not begin, or another failure came on top of a refusal.
        State::Reverting if by_hook => {
            assert!(sim.late && (update.is_held() || !sim.active && !sim.inside));
        }
        // `after_off` did not begin where an activation was taken back, which is refused for what was first.
        State::Reverting if matches!(update.steps().last(), Some(Step::Hook(_))) => {
            assert!(outcome.is_err() && sim.late && !sim.active && !sim.inside);
        }
        State::Reverting if update.is_held() && sim.redirects == [None] => {
            assert!(outcome.is_err() && sim.active);
        }
        State::Reverting if update.is_held() => assert!(sim.is_fully_active()),
        State::Registered => {
            assert!(outcome.is_err());
            assert!(!sim.others[1] && !sim.others[2], "they stay as they are");
            assert!(!sim.late && sim.redirects.iter().all(Option::is_none));
        }
        State::Reverted => {
            // Tasks had moved before the activation was given up.
            assert!(
                (outcome.is_ok() || by_hook || sim.chosen_by.is_some_and(Scope::is_single))
                    && sim.is_pristine()
            );
        }
        State::Reverting => {
            assert!(outcome.is_err());
            assert!(!sim.active && sim.late && !sim.pinned.is_empty());
        }
        state => assert_eq!(state, State::Active, "no state to end in"),
    }
    assert!(!sim.unsynchronised);
}

#[test]
fn a_life_without_failures() {
    let mut sim = sim();
    live(&mut sim, HOW);
    use State::*;
    sim.states.dedup();
    assert_eq!(sim.states, [Registered, Transitioning, Active, Reverting, Reverted, Gone]);
    assert!(sim.log.is_empty());
}

/// Every way to switch.
pub(super) fn ways() -> impl Iterator<Item = Switching> {
    Scope::ALL.into_iter().flat_map(|scope| {
        let all = [OnTimeout::RollBack, OnTimeout::Hold, OnTimeout::ForceNewCalls];
        all.into_iter().flat_map(move |on_timeout| {
            [false, true].map(|signal| Switching { scope, on_timeout, signal, ..HOW })
        })
    })
}

#[test]
fn every_operation_may_fail_and_any_two() {
    let kinds = [(FUNCTIONS, false), (1, false), (1, true)];
    for (how, (replaced, late_failure)) in ways().flat_map(|how| kinds.map(|kind| (how, kind))) {
        for (blocked, replaces) in [(0, false), (1000, false), (0, true), (1000, true)] {
            if how.scope.is_single() && replaces {
                continue; // Refused before anything is touched.
            }
            let others = [replaces, false, false];
            let kernel = || Sim { blocked, others, late_failure, ..sim_of(replaced) };
            let mut whole = kernel();
            live(&mut whole, how);
            let last = whole.operations + 4; // undoing takes some more
            assert!(last > 8);
            for first in 1..=last {
                for second in first..=last {
                    let fail = BTreeSet::from([first, second]);
                    live(&mut Sim { fail, ..kernel() }, how);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_operations_may_fail(
        fail in proptest::collection::btree_set(1u32..60, 0..12),
        blocked in 0u32..24,
        interrupt: bool,
        replaces: bool,
        single: bool,
        late_failure: bool,
        how in 0usize..18,
    ) {
        let how = ways().nth(how).unwrap();
        let others = [replaces, false, false];
        let replaced = if single { 1 } else { FUNCTIONS };
        live(&mut Sim { fail, blocked, interrupt, others, late_failure, ..sim_of(replaced) }, how);
    }
}

/// Brings an update to `Active`.
pub(super) fn activated<'a>(sim: &mut Sim, record: &dynamos_abi::Record<'a>) -> Update<'a> {
    let mut update = ready(sim, record);
    update.activate(sim, &ADDRESSES, &WRITABLE, HOW).unwrap();
    update
}

#[test]
fn a_task_that_stays_is_named_and_nothing_changes() {
    let bytes = record();
    with_record(&bytes, |record| {
        let mut sim = Sim { blocked: 1000, ..sim() };
        let mut update = Update::new(record).unwrap();
        update.pin(&mut sim).unwrap();
        update.prepare(&mut sim, &kernel(), &mut Budget::new(10_000)).unwrap();
        let refusal = update.activate(&mut sim, &ADDRESSES, &WRITABLE, HOW).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "given up after 100 ms: task 123 (cat) sleeps in pipe_1 and 19 more; wake them or let them \
             finish, or raise the time limit"
        );
        assert_eq!((sim.waited, update.state()), (100, State::Registered));
        assert_eq!(update.blockers().count(), 20);
        assert!(sim.log[0].contains("task 138 (cat) sleeps in pipe_1 and 4 more"), "{:?}", sim.log);
        // Once they have left, the same update can be activated.
        sim.blocked = 2;
        update.activate(&mut sim, &ADDRESSES, &WRITABLE, HOW).unwrap();
        assert!(sim.is_fully_active() && update.blockers().count() == 0);
    });
}

#[test]
fn a_revert_that_is_blocked_stays_active() {
    let bytes = record();
    with_record(&bytes, |record| {
        let mut sim = sim();
        let mut update = activated(&mut sim, record);
        sim.blocked = 1000;
        assert!(matches!(update.revert(&mut sim, HOW), Err(Refusal::Blocked { .. })));
        assert_eq!(update.state(), State::Active);
        assert!(sim.redirects.iter().all(|handler| *handler == Some(Handler::Steady)));
        sim.interrupt = true;
        let refusal = update.revert(&mut sim, HOW).unwrap_err().to_string();
        assert!(refusal.starts_with("interrupted after 0 ms"), "{refusal}");
    });
}

#[test]
fn a_handler_that_cannot_become_steady_is_only_slower() {
    let bytes = record();
    with_record(&bytes, |record| {
        let mut sim = sim();
        // 2 pins, 1 write, late, 3 registrations, the flip; then the steady handlers.
        sim.fail = BTreeSet::from([10]);
        let mut update = activated(&mut sim, record);
        assert!(sim.is_fully_active());
        assert_eq!(sim.redirects[1], Some(Handler::Transition));
        assert!(sim.log[0].contains("`pipe_1` failed with EBUSY"), "{:?}", sim.log);
        update.revert(&mut sim, HOW).unwrap();
    });
}

#[test]
fn calls_out_of_order_are_refused() {
    let bytes = record();
    with_record(&bytes, |record| {
        let mut sim = sim();
        let mut update = Update::new(record).unwrap();
        assert!(update.activate(&mut sim, &ADDRESSES, &WRITABLE, HOW).is_err());
        assert!(update.revert(&mut sim, HOW).is_err());
        let mut update = activated(&mut sim, record);
        assert!(update.activate(&mut sim, &ADDRESSES, &WRITABLE, HOW).is_err());
        let text = update.discard(&mut sim).unwrap_err().to_string();
        assert_eq!(
            text,
            "update `pipe_fix` is active, and cannot become gone from that: revert it first"
        );
        assert!(sim.is_fully_active());
    });
}

#[test]
fn only_a_reference_to_the_placeholder_is_overwritten() {
    let bytes = record();
    with_record(&bytes, |record| {
        let mut sim = sim();
        sim.memory.put(ADDRESSES[1] + 8, &(ADDRESSES[2] + 1).to_le_bytes());
        let mut update = Update::new(record).unwrap();
        update.pin(&mut sim).unwrap();
        update.prepare(&mut sim, &kernel(), &mut Budget::new(10_000)).unwrap();
        let refusal = update.activate(&mut sim, &ADDRESSES, &WRITABLE, HOW).unwrap_err();
        assert!(matches!(refusal, Refusal::NoReference { symbol: "counter" }), "{refusal}");
        assert_eq!((sim.written, update.state()), (0, State::Registered));
    });
}

#[test]
fn wrong_addresses_touch_nothing() {
    let bytes = record();
    with_record(&bytes, |record| {
        for (addresses, writable) in [(&ADDRESSES[..2], &WRITABLE[..]), (&ADDRESSES, &[])] {
            let mut sim = sim();
            let mut update = Update::new(record).unwrap();
            update.pin(&mut sim).unwrap();
            update.prepare(&mut sim, &kernel(), &mut Budget::new(10_000)).unwrap();
            assert!(update.activate(&mut sim, addresses, writable, HOW).is_err());
            assert_eq!((sim.written, update.state()), (0, State::Registered));
        }
    });
}

#[test]
fn what_is_replaced_leaves_at_the_others_switch() {
    let bytes = record();
    with_record(&bytes, |record| {
        let mut sim = sim();
        let mut update = activated(&mut sim, record);
        update.make_ready(&mut sim).unwrap();
        assert!(sim.redirects.iter().all(|handler| *handler == Some(Handler::Transition)));
        update.stay(&mut sim);
        assert!(sim.redirects.iter().all(|handler| *handler == Some(Handler::Steady)));
        update.make_ready(&mut sim).unwrap();
        sim.active = false; // by the other one's switch
        update.leave(&mut sim).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Draining, true));
        assert!(update.leave(&mut sim).is_err() && update.make_ready(&mut sim).is_err());
        update.go_on(&mut sim, HOW).unwrap();
        assert_eq!(update.state(), State::Reverted);
        assert!(sim.is_pristine());
    });
}

/// An update of this name, with something about it.
fn company(name: &str, change: impl FnOnce(&mut crate::testing::Build)) -> Vec<u8> {
    let mut build = builder(FUNCTIONS);
    change(&mut build);
    build.finish(name)
}

#[test]
fn who_goes_with_whom() {
    use crate::testing::Build;
    use dynamos_abi::function_flags::RESHAPED;
    let plain = company("plain", |_| {});
    type Change<'a> = &'a dyn Fn(&mut Build);
    let kinds: [(&str, Change<'_>, [bool; 4]); 4] = [
        // Above, below, in the place of another, replaced by another.
        ("plain", &|_| {}, [true, true, true, true]),
        ("slots", &|build| build.0.slots.push(SLOT), [false, false, true, false]),
        ("hooks", &|build| Hooks::all().add_to(build), [false; 4]),
        ("reshaped", &|build| build.0.functions[1].flags |= RESHAPED, [false, false, true, true]),
    ];
    let update = |bytes: &'static [u8]| Update::new(&Record::parse(bytes).unwrap()).unwrap();
    let other = update(plain.leak());
    for (name, change, may) in kinds {
        let this = update(company(name, change).leak());
        let alone = [].iter();
        assert!(this.check_company(alone.clone(), true).is_ok(), "{name} alone");
        assert!(this.check_company(alone, false).is_ok(), "{name} alone");
        let both = [(&this, &other, true), (&other, &this, true), (&this, &other, false)];
        let cases = both.into_iter().chain([(&other, &this, false)]).zip(may);
        for ((comes, there, stacks), may) in cases {
            // Also where it is not the first of several.
            let there = [&other, there];
            let outcome = comes.check_company(there.into_iter(), stacks);
            assert_eq!(outcome.is_ok(), may, "{name}, {} comes, {stacks}", comes.name());
            if let Err(refusal) = outcome {
                assert!(refusal.to_string().contains(&format!("update `{name}`")), "{refusal}");
            }
        }
    }
}

#[test]
fn what_leaves_with_other_parameters_leaves_whole() {
    let bytes = record();
    with_record(&bytes, |record| {
        let name = Name::new("pipe_args").unwrap();
        let kernel = || Sim { others: [true, false, false], reshaped_other: Some(name), ..sim() };
        let whole = |how: &Switching| {
            how.scope == Scope::System && how.on_timeout != OnTimeout::ForceNewCalls
        };
        for how in ways() {
            let mut sim = kernel();
            let mut update = ready(&mut sim, record);
            let before = sim.operations;
            let outcome = update.activate(&mut sim, &ADDRESSES, &WRITABLE, how);
            assert_eq!(outcome.is_ok(), whole(&how), "{how:?}");
            assert!(whole(&how) || sim.operations == before, "nothing is touched");
            if let Err(refusal) = outcome {
                let text = refusal.to_string();
                assert!(text.contains("use --scope system"), "{text}");
            }
            // Nor does what is held go on like that.
            let mut sim = Sim { blocked: 1_000_000, ..kernel() };
            let mut update = ready(&mut sim, record);
            let hold = Switching { on_timeout: OnTimeout::Hold, ..HOW };
            update.activate(&mut sim, &ADDRESSES, &WRITABLE, hold).unwrap();
            sim.blocked = 0;
            assert_eq!(update.go_on(&mut sim, how).is_ok(), whole(&how), "{how:?}");
            assert_eq!(update.state() == State::Active, whole(&how));
            assert_eq!(sim.active, whole(&how));
        }
    });
}

#[test]
fn what_is_covered_leaves_without_a_switch_or_stays() {
    let bytes = record();
    with_record(&bytes, |record| {
        for (how, blocked) in ways().flat_map(|how| [0, 1000].map(|blocked| (how, blocked))) {
            // Each operation of it is made to fail, and then none.
            for fail in 12..26 {
                let mut sim = sim();
                let mut update = activated(&mut sim, record);
                (sim.fail, sim.blocked) = (BTreeSet::from([fail]), blocked);
                let outcome = update.leave_from_below(&mut sim, how);
                match update.state() {
                    State::Active => {
                        assert!(outcome.is_err() && sim.is_fully_active());
                        assert_eq!(update.scope(), Scope::System, "as it was activated");
                    }
                    State::Draining => {
                        // Or that could not be undone.
                        assert!(outcome.is_err() || how.on_timeout != OnTimeout::RollBack);
                        assert_eq!(update.scope(), Scope::Function);
                    }
                    // A handler could not be removed: to be tried again.
                    State::Reverting => assert!(outcome.is_err() && !sim.active),
                    state => assert!(outcome.is_ok() && state == State::Reverted),
                }
                (sim.fail, sim.blocked) = (BTreeSet::new(), 0);
                if update.state() != State::Reverted {
                    update.leave_from_below(&mut sim, how).unwrap();
                }
                assert_eq!((update.state(), sim.wrong.take()), (State::Reverted, None));
                assert!(sim.is_pristine() && !sim.states.contains(&State::Gone));
            }
        }
    });
}

#[test]
fn what_cannot_be_made_ready_stays() {
    let bytes = record();
    with_record(&bytes, |record| {
        for fail in 12..14 {
            let mut sim = sim();
            let mut update = activated(&mut sim, record);
            sim.fail = BTreeSet::from([fail]);
            let outcome = update.make_ready(&mut sim);
            assert!(outcome.is_err() && update.state() == State::Active);
            assert!(sim.is_fully_active());
        }
    });
}
