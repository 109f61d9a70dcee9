//! Phases: edition 0 and V2's never run at a time, whatever fails, stays or refuses.

mod rest;

use std::collections::{BTreeMap, BTreeSet};

use dynamos_abi::edition::{BRIDGE, FINAL, ORIGINAL};
use dynamos_abi::{Code, Hook, HookKind, Record};
use proptest::prelude::*;

use super::tests::{ADDRESSES, FUNCTIONS, HOW, WRITABLE, builder, kernel};
use super::*;
use crate::budget::Budget;
use crate::matching::Memory;
use crate::testing::{Kernel, with_record};

const HOW_IN_PHASES: Switching = Switching { scope: Scope::Function, ..HOW };
const HOLD: Switching = Switching { on_timeout: OnTimeout::Hold, ..HOW_IN_PHASES };
const LOOK: Switching = Switching { limits: Limits { wait_ms: 0, ..HOW.limits }, ..HOLD };

/// A kernel that knows which editions tasks may be in, and whose state V2's editions understand.
#[derive(Debug, Default)]
struct Sim {
    memory: Kernel,
    pinned: u32,
    late: bool,
    redirects: [Option<Handler>; FUNCTIONS as usize],
    /// What new calls take.
    edition: u32,
    /// Who may be in each edition.
    inside: [bool; 3],
    /// The state is V2's.
    carried: bool,
    /// Operations that can fail so far, and those that do.
    operations: u32,
    fail: BTreeSet<u32>,
    /// So many looks at an edition find a task there.
    sleepers: [u32; 3],
    /// What the update's functions return, once or for ever (0: it may go on).
    says: BTreeMap<HookKind, (u32, i32)>,
    /// Looks at a hook that has not returned yet.
    slow: u32,
    running: Option<HookKind>,
    /// The update has hooks around its switches too.
    around: bool,
    asked: Vec<HookKind>,
    interrupt: bool,
    waited: u32,
    /// What the clock says apart from that.
    clock: u64,
    /// The bridge takes all calls for so long at least, and since when it does.
    rests: u32,
    since: u64,
    woken: u32,
    states: Vec<State>,
    phases: Vec<u32>,
    log: Vec<String>,
}

impl Sim {
    fn new() -> Self {
        Sim { memory: kernel(), inside: [true, false, false], ..Sim::default() }
    }

    fn act(&mut self, act: impl FnOnce(&mut Self)) -> Result<(), Errno> {
        self.operations += 1;
        let fails = self.fail.contains(&self.operations);
        if !fails {
            act(self);
        }
        self.check();
        if fails { Err(Errno(16)) } else { Ok(()) }
    }

    fn check(&self) {
        let [original, bridge, last] = self.inside;
        assert!(!(original && last), "edition 0 meets V2's");
        assert!(!original || !self.carried, "edition 0 meets V2's state");
        let redirected = self.redirects.iter().flatten().count();
        assert!(self.running.is_none() || self.late, "taken away from under a hook");
        let carries = matches!(self.running, Some(HookKind::Transfer | HookKind::TransferBack));
        assert!(!carries || self.edition == BRIDGE && !original && !last, "carried under a call");
        assert!(redirected == 0 || self.pinned == 2 && self.late, "not ready");
        assert!(!(bridge || last) || redirected == self.redirects.len(), "half updated");
        let steady = self.redirects.contains(&Some(Handler::Steady));
        assert!(!steady || self.edition == FINAL, "a steady handler leads to V2's edition");
    }

    fn check_rest(&mut self) {
        let rested = self.now_ms() - self.since;
        assert!(rested >= u64::from(self.rests), "carried after {rested} ms");
    }

    fn is_asleep(&mut self, edition: u32, blockers: &mut Blockers) -> bool {
        let Some(left) = self.sleepers.get_mut(edition as usize).filter(|left| **left > 0) else {
            return false;
        };
        *left -= 1;
        let (comm, place) = ([b'a'; 16], Place::Function(1));
        blockers.add(Blocked { pid: 7, comm, running: false, place, activations: 1 });
        true
    }

    fn is_pristine(&self) -> bool {
        let [_, bridge, last] = self.inside;
        !bridge
            && !last
            && !self.late
            && self.pinned == 0
            && self.redirects == [None; 3]
            && self.edition == ORIGINAL
            && !self.carried
    }

    fn is_active(&self) -> bool {
        self.edition == FINAL
            && self.carried
            && !self.inside[0]
            && self.redirects.iter().all(Option::is_some)
    }
}

impl Memory for Sim {
    fn read(&mut self, address: u64, into: &mut [u8]) -> bool {
        self.memory.read(address, into)
    }
}

impl Layer for Sim {
    fn choose_by(&mut self, scope: Scope) -> Result<(), Errno> {
        assert!(!scope.is_single());
        Ok(())
    }
    fn turn(&mut self, _: bool) -> Result<(), Errno> {
        unreachable!("calls take an edition, not tasks")
    }
    fn move_over(&mut self, _: bool, _: &mut Blockers) -> Result<bool, Errno> {
        unreachable!("calls take an edition, not tasks")
    }
    fn wake_moving(&mut self, _: bool) {
        unreachable!("calls take an edition, not tasks")
    }
    fn pin_target(&mut self, _: u32) -> Result<(), Errno> {
        self.act(|sim| sim.pinned += 1)
    }
    fn unpin_target(&mut self, _: u32) {
        self.pinned -= 1;
        self.check();
    }
    fn write_text(&mut self, _: u64, _: &[u8]) -> Result<(), Errno> {
        self.act(|_| ())
    }
    fn late_sections(&mut self) -> Result<(), Errno> {
        self.act(|sim| sim.late = true)
    }
    fn undo_late_sections(&mut self) {
        self.late = false;
        self.check();
    }
    fn register_redirect(&mut self, function: u32) -> Result<(), Errno> {
        assert_eq!(self.edition, ORIGINAL);
        self.act(|sim| sim.redirects[function as usize] = Some(Handler::Transition))
    }
    fn modify_redirect(&mut self, function: u32, handler: Handler) -> Result<(), Errno> {
        self.act(|sim| sim.redirects[function as usize] = Some(handler))
    }
    fn unregister_redirect(&mut self, function: u32) -> Result<(), Errno> {
        assert_eq!((self.edition, self.inside[1], self.inside[2]), (ORIGINAL, false, false));
        self.act(|sim| sim.redirects[function as usize] = None)
    }
    fn replaces_others(&self) -> bool {
        false
    }
    fn ready_others(&mut self) -> Result<(), Errno> {
        unreachable!()
    }
    fn others_stay(&mut self) {
        unreachable!()
    }
    fn others_leave(&mut self) {
        unreachable!()
    }
    fn check_and_flip(&mut self, _: bool, _: &mut Blockers) -> Result<bool, Errno> {
        unreachable!("nothing is stopped")
    }
    fn flip_now(&mut self, _: bool) -> Result<(), Errno> {
        unreachable!()
    }
    fn drained(&mut self, blockers: &mut Blockers) -> Result<bool, Errno> {
        assert_eq!(self.edition, ORIGINAL);
        if self.is_asleep(BRIDGE, blockers) {
            return Ok(false);
        }
        assert!(!self.inside[2], "V2's editions were left before");
        self.act(|sim| sim.inside[1] = false).map(|()| true)
    }
    fn wake_blockers(&mut self, activating: bool) {
        assert!(!activating);
        self.woken += 1;
    }
    fn take(&mut self, edition: u32) -> Result<(), Errno> {
        assert_eq!(edition.abs_diff(self.edition), 1, "no phase is skipped");
        let now = self.now_ms();
        self.act(|sim| {
            (sim.edition, sim.since) = (edition, now);
            sim.inside[edition as usize] = true;
        })
    }
    fn has_left(&mut self, edition: u32, blockers: &mut Blockers) -> Result<bool, Errno> {
        assert_ne!(edition, self.edition, "calls still enter");
        if self.is_asleep(edition, blockers) {
            return Ok(false);
        }
        self.act(|sim| sim.inside[edition as usize] = false).map(|()| true)
    }
    fn wake_in(&mut self, edition: u32) {
        assert_ne!(edition, self.edition);
        self.woken += 1;
    }
    fn begin_hook(&mut self, hook: HookKind) -> Result<(), Errno> {
        assert_eq!(self.running, None);
        let [original, _, last] = self.inside;
        match hook {
            HookKind::BeforeOn => assert_eq!((self.edition, self.redirects), (ORIGINAL, [None; 3])),
            HookKind::AfterOn | HookKind::BeforeOff => {}
            HookKind::AfterOff => assert_eq!((self.edition, self.redirects), (ORIGINAL, [None; 3])),
            _ => assert_eq!(self.edition, BRIDGE),
        }
        if hook.is_predicate() || matches!(hook, HookKind::Transfer | HookKind::TransferBack) {
            self.check_rest();
        }
        match hook {
            HookKind::Advance | HookKind::Transfer => assert!(!original && !self.carried),
            HookKind::AdvanceBack | HookKind::TransferBack => assert!(!last && self.carried),
            _ => {}
        }
        self.act(|sim| {
            sim.running = Some(hook);
            sim.asked.push(hook);
        })
    }
    fn hook_returned(&mut self, _: u32, patient: bool) -> Returned {
        let hook = self.running.unwrap();
        if self.slow > 0 {
            self.slow -= 1;
            return if self.interrupt && !patient {
                Returned::Interrupted
            } else {
                Returned::NotYet
            };
        }
        self.running = None;
        let said = match self.says.get_mut(&hook) {
            Some((times @ 1.., value)) => {
                *times -= 1;
                *value
            }
            _ => i32::from(hook.is_predicate()),
        };
        match hook {
            // It may have run while much was tried, but the state it works on must not have changed hands.
            HookKind::Transfer if said == 0 => self.carried = true,
            HookKind::TransferBack if said == 0 => self.carried = false,
            _ => {}
        }
        self.check();
        Returned::With(said)
    }
    fn show_phase(&mut self, phase: Phase) {
        assert_eq!(phase.edition, self.edition);
        self.phases.push(phase.edition);
    }
    fn wait(&mut self, ms: u32) -> bool {
        self.waited += ms;
        !self.interrupt
    }
    fn now_ms(&mut self) -> u64 {
        self.clock + u64::from(self.waited)
    }
    fn synchronize(&mut self) {}
    fn progress(&mut self, state: State, _: &Blockers) {
        if let Some(&last) = self.states.last() {
            assert!(last == state || last.may_become(state), "{last} to {state}");
        }
        self.states.push(state);
    }
    fn log(&mut self, line: fmt::Arguments<'_>) {
        self.log.push(line.to_string());
    }
}

/// The record of an update with phases.
fn record() -> Vec<u8> {
    record_of(false)
}

/// The same, with hooks around its switches too.
fn record_of(around: bool) -> Vec<u8> {
    let mut build = builder(FUNCTIONS);
    build.0.functions.iter_mut().filter(|f| f.flags != 0).for_each(|f| f.bridge = 1);
    build.0.code.push(Code { start: 0, len: 16, edition: BRIDGE });
    build.0.code.push(Code { start: 1, len: 16, edition: FINAL });
    for kind in HookKind::BETWEEN_PHASES {
        build.0.hooks.push(Hook { kind: kind as u32, function: 3 });
    }
    if around {
        let all = HookKind::ALL.map(|kind| Hook { kind: kind as u32, function: 3 });
        build.0.hooks.extend(all);
    }
    build.finish("pipe_fix")
}

fn ready<'a>(sim: &mut Sim, record: &Record<'a>) -> Update<'a> {
    let mut update = Update::new(record).unwrap();
    update.pin(sim).unwrap();
    update.prepare(sim, &kernel(), &mut Budget::new(10_000)).unwrap();
    update
}

/// Runs `test` with an update that is ready.
fn with_update(sim: Sim, test: impl FnOnce(&mut Sim, Update<'_>)) {
    let mut sim = sim;
    with_record(&record(), |record| {
        let update = ready(&mut sim, record);
        test(&mut sim, update);
    });
}

fn activate<'a>(sim: &mut Sim, update: &mut Update<'a>, how: Switching) -> Result<(), Refusal<'a>> {
    update.activate(sim, &ADDRESSES, &WRITABLE, how)
}

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
