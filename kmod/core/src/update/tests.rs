//! Never half updated: every operation of a simulated kernel is made to fail, alone and with others.

use std::collections::BTreeSet;

use dynamos_abi::{
    HookKind, Object, Relocation, RelocationKind, function_flags::REPLACE, symbol_flags,
};
use proptest::prelude::*;

use super::hooks_tests::Hooks;
use super::*;
use crate::budget::Budget;
use crate::matching::Memory;
use crate::relocate::Range;
use crate::testing::{Build, Kernel, with_record};

pub(super) const FUNCTIONS: u32 = 3;
const CODE: u64 = 0xffff_ffff_8100_0000;
const UPDATE: u64 = 0xffff_ffff_c000_0000;
pub(super) const WRITABLE: [Range; 1] = [Range { start: UPDATE, end: UPDATE + 0x1000 }];
pub(super) const ADDRESSES: [u64; 4] = [UPDATE, UPDATE + 0x100, UPDATE + 0x200, UPDATE + 0x300];
pub(super) const HOW: Switching = Switching {
    scope: Scope::System,
    limits: Limits { wait_ms: 100, hook_ms: 100, first_pause_ms: 10, longest_pause_ms: 40 },
    on_timeout: OnTimeout::RollBack,
    signal: false,
    phase_ms: 0,
    fresh: false,
    must: false,
};

/// A kernel that knows which edition each function runs, and fails where it is told to.
#[derive(Debug, Default)]
pub(super) struct Sim {
    pub(super) memory: Kernel,
    pub(super) pinned: Vec<u32>,
    pub(super) late: bool,
    pub(super) redirects: Vec<Option<Handler>>,
    pub(super) active: bool,
    /// Tasks may be in the update's code.
    pub(super) inside: bool,
    /// Whether transition handlers ask for the task, and where tasks move to.
    pub(super) chosen_by: Option<Scope>,
    pub(super) toward: Option<bool>,
    pub(super) written: usize,
    /// Redirections fail after calls have come by.
    pub(super) late_failure: bool,
    /// Handlers were removed and somebody may still be in one.
    pub(super) unsynchronised: bool,
    /// Whether another update is to leave, is ready to, and has left.
    pub(super) others: [bool; 3],
    pub(super) hooks: Hooks,
    /// Operations that can fail so far, and those that do.
    pub(super) operations: u32,
    pub(super) fail: BTreeSet<u32>,
    /// Tries to switch that find a task in the way.
    pub(super) blocked: u32,
    pub(super) interrupt: bool,
    pub(super) waited: u32,
    /// How often tasks in the way were woken.
    pub(super) woken: u32,
    pub(super) states: Vec<State>,
    pub(super) log: Vec<String>,
    /// The first thing that must never be.
    pub(super) wrong: Option<String>,
}

impl Sim {
    fn act(&mut self, what: &str, act: impl FnOnce(&mut Self)) -> Result<(), Errno> {
        self.operations += 1;
        let fails = self.fail.contains(&self.operations);
        if !fails {
            act(self);
        }
        self.check(what);
        if fails { Err(Errno(16)) } else { Ok(()) }
    }

    /// Whether the new edition of function `index` runs.
    fn is_new(&self, index: usize) -> bool {
        match self.redirects[index] {
            None => false,
            Some(Handler::Transition) => self.active || self.toward.is_some(),
            Some(Handler::Steady) => true,
        }
    }

    fn is_blocked(&mut self, blockers: &mut Blockers) -> bool {
        // A hook that runs is in the update's code.
        if self.blocked == 0 && self.hooks.running.is_none() {
            return false;
        }
        self.blocked = self.blocked.saturating_sub(1);
        for pid in 123..143 {
            let (comm, place) = (*b"cat\0\0\0\0\0\0\0\0\0\0\0\0\0", Place::Function(1));
            blockers.add(Blocked { pid, comm, running: false, place, activations: 2 });
        }
        true
    }

    fn check(&mut self, what: &str) {
        let new = (0..self.redirects.len()).filter(|&index| self.is_new(index)).count();
        let redirected = self.redirects.iter().flatten().count();
        let wrong = if new != 0 && new != self.redirects.len() {
            Some("half updated")
        } else if redirected > 0 && (self.pinned.len() != 2 || !self.late || self.written == 0) {
            Some("redirected to an update that is not ready")
        } else if self.toward.is_some() && self.redirects.contains(&Some(Handler::Steady)) {
            Some("a handler does not ask for the task")
        } else if self.active && new == 0 && self.redirects.len() > 1 {
            Some("active without an edition")
        } else if self.inside && (self.pinned.len() != 2 || !self.late) {
            Some("taken away from under a task")
        } else if self.hooks.running.is_some() && (self.pinned.len() != 2 || !self.late) {
            Some("taken away from under a hook")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.wrong.get_or_insert(format!("{wrong} after {what}"));
        }
    }

    pub(super) fn is_pristine(&self) -> bool {
        !self.active
            && !self.inside
            && self.toward.is_none()
            && !self.late
            && !self.unsynchronised
            && self.pinned.is_empty()
            && self.redirects.iter().all(Option::is_none)
            && self.hooks.are_even()
    }

    pub(super) fn is_fully_active(&self) -> bool {
        self.active && self.toward.is_none() && self.redirects.iter().all(Option::is_some)
    }
}

impl Memory for Sim {
    fn read(&mut self, address: u64, into: &mut [u8]) -> bool {
        self.memory.read(address, into)
    }
}

impl Layer for Sim {
    fn pin_target(&mut self, object: u32) -> Result<(), Errno> {
        self.act("pin", |sim| sim.pinned.push(object))
    }
    fn unpin_target(&mut self, object: u32) {
        assert_eq!(self.pinned.pop(), Some(object), "undone in reverse order");
        self.check("unpin");
    }
    fn write_text(&mut self, _: u64, bytes: &[u8]) -> Result<(), Errno> {
        assert!(!bytes.is_empty());
        self.act("write", |sim| sim.written += 1)
    }
    fn late_sections(&mut self) -> Result<(), Errno> {
        self.act("late", |sim| sim.late = true)
    }
    fn undo_late_sections(&mut self) {
        assert!(self.late && !self.unsynchronised);
        self.late = false;
        self.check("undo late");
    }
    fn register_redirect(&mut self, function: u32) -> Result<(), Errno> {
        let result = self.act("register", |sim| {
            let was = sim.redirects[function as usize].replace(Handler::Transition);
            assert_eq!(was, None);
        });
        self.inside |= self.active && (result.is_ok() || self.late_failure);
        result.map_err(|errno| if self.late_failure { Errno::AGAIN } else { errno })
    }
    fn modify_redirect(&mut self, function: u32, handler: Handler) -> Result<(), Errno> {
        self.act("modify", |sim| {
            let was = sim.redirects[function as usize].replace(handler);
            assert!(was.is_some_and(|was| was != handler));
        })
    }
    fn unregister_redirect(&mut self, function: u32) -> Result<(), Errno> {
        assert!(!self.inside, "whoever is inside is found by the entry too");
        self.act("unregister", |sim| {
            assert!(sim.redirects[function as usize].take().is_some());
            sim.unsynchronised = true;
        })
    }
    fn replaces_others(&self) -> bool {
        self.others[0]
    }
    fn ready_others(&mut self) -> Result<(), Errno> {
        assert!(self.redirects.iter().all(Option::is_some));
        self.act("ready others", |sim| sim.others[1] = true)
    }
    fn others_stay(&mut self) {
        assert!(self.others[1] && !self.active);
        self.others[1] = false;
    }
    fn others_leave(&mut self) {
        assert!(self.others[1] && self.active);
        self.others = [false, false, true];
    }
    fn check_and_flip(&mut self, active: bool, blockers: &mut Blockers) -> Result<bool, Errno> {
        if self.is_blocked(blockers) {
            return Ok(false);
        }
        self.act("flip", |sim| (sim.active, sim.inside) = (active, active)).map(|()| true)
    }
    fn flip_now(&mut self, active: bool) -> Result<(), Errno> {
        self.act("flip now", |sim| {
            assert!(sim.active != active || sim.toward.is_some());
            (sim.active, sim.toward) = (active, None);
            sim.inside |= active && sim.redirects.iter().any(Option::is_some);
        })
    }
    fn drained(&mut self, blockers: &mut Blockers) -> Result<bool, Errno> {
        assert!(!self.active && self.toward.is_none(), "calls still enter");
        if self.is_blocked(blockers) {
            return Ok(false);
        }
        self.act("drained", |sim| sim.inside = false).map(|()| true)
    }
    fn wake_blockers(&mut self, activating: bool) {
        // Where a single function could not be redirected, it is the update that is left.
        let began = self.states.last() == Some(&State::Transitioning);
        assert!(activating == began || began && self.redirects == [None]);
        self.woken += 1;
    }
    fn choose_by(&mut self, scope: Scope) -> Result<(), Errno> {
        self.chosen_by = Some(scope);
        if !scope.is_single() { Ok(()) } else { self.act("choose by", |_| {}) }
    }
    fn turn(&mut self, active: bool) -> Result<(), Errno> {
        assert!(self.chosen_by.is_some_and(Scope::is_single) && self.toward != Some(active));
        self.act("turn", |sim| {
            // What has no steady handler has one that asks.
            assert!(sim.redirects.iter().all(|handler| *handler == Some(Handler::Transition)));
            (sim.toward, sim.inside) = (Some(active), true);
        })
    }
    fn move_over(&mut self, active: bool, blockers: &mut Blockers) -> Result<bool, Errno> {
        assert_eq!(self.toward, Some(active));
        if self.is_blocked(blockers) {
            return Ok(false);
        }
        // Calls on objects are counted in the update's code, whatever their edition.
        let counted = self.chosen_by == Some(Scope::Object);
        let done = |sim: &mut Sim| {
            (sim.active, sim.toward, sim.inside) = (active, None, active || counted);
        };
        self.act("move", done).map(|()| true)
    }
    fn wake_moving(&mut self, active: bool) {
        assert_eq!(self.toward, Some(active));
        self.woken += 1;
    }
    fn take(&mut self, _: u32) -> Result<(), Errno> {
        unreachable!("it has no phases")
    }
    fn has_left(&mut self, _: u32, _: &mut Blockers) -> Result<bool, Errno> {
        unreachable!("it has no phases")
    }
    fn wake_in(&mut self, _: u32) {
        unreachable!("it has no phases")
    }
    fn show_phase(&mut self, _: Phase) {
        unreachable!("it has no phases")
    }
    fn begin_hook(&mut self, hook: HookKind) -> Result<(), Errno> {
        let redirected = self.redirects.iter().flatten().count() > 0;
        match hook {
            HookKind::BeforeOn => assert!(!redirected && !self.active),
            HookKind::AfterOn => assert!(self.is_fully_active()),
            HookKind::BeforeOff => assert!(redirected),
            HookKind::AfterOff => assert!(!redirected && !self.inside && !self.unsynchronised),
            _ => unreachable!("it has no phases"),
        }
        self.act("begin hook", |sim| sim.hooks.begin(hook))
    }
    fn hook_returned(&mut self, _: u32, patient: bool) -> Returned {
        let interrupt = self.interrupt && !patient;
        self.hooks.returned(interrupt)
    }
    fn wait(&mut self, ms: u32) -> bool {
        assert!(ms > 0);
        self.waited += ms;
        !self.interrupt
    }
    fn now_ms(&mut self) -> u64 {
        u64::from(self.waited)
    }
    fn synchronize(&mut self) {
        self.unsynchronised = false;
    }
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

/// An update of three functions in two objects, with an anchor among them.
pub(super) fn record() -> Vec<u8> {
    record_of(FUNCTIONS)
}

/// The same, of so many of the functions.
pub(super) fn record_of(replaced: u32) -> Vec<u8> {
    builder(replaced).finish("pipe_fix")
}

/// The record of three functions, of which so many are replaced, one anchor and one reference.
pub(super) fn builder(replaced: u32) -> Build {
    let mut build = Build::new();
    let name = build.0.str("ext4");
    build.0.objects.push(Object { name });
    for index in 0..FUNCTIONS {
        let sites = [crate::testing::site(0, 5, dynamos_abi::SiteKind::Fentry)];
        let bytes = [0xe8, 0, 0, 0, 0, 0xb0, index as u8, 0xc3];
        let flags = if index < replaced { REPLACE } else { 0 };
        build.function(&format!("pipe_{index}"), flags, &bytes, &sites);
    }
    build.function("anchor", 0, &[0xc3], &[]);
    let symbol = build.symbol("counter", symbol_flags::NEEDED);
    let kind = RelocationKind::Abs64 as u32;
    build.0.symbols.last_mut().unwrap().placeholder = 2;
    build.0.relocations.push(Relocation { base: 1, offset: 8, kind, symbol, addend: 0 });
    build
}

pub(super) fn kernel() -> Kernel {
    let mut kernel = Kernel::default();
    for index in 0..FUNCTIONS {
        let at = CODE + 0x100 * u64::from(index);
        kernel.put(at, &[0x0f, 0x1f, 0x44, 0, 0, 0xb0, index as u8, 0xc3]);
        kernel.name(index, &[at]);
    }
    kernel.put(CODE + 0x1000, &[0xc3]);
    kernel.name(FUNCTIONS, &[CODE + 0x1000]);
    kernel.put(ADDRESSES[1] + 8, &ADDRESSES[2].to_le_bytes());
    kernel.name(FUNCTIONS + 1, &[CODE + 0x2000]);
    kernel
}

pub(super) fn sim() -> Sim {
    sim_of(FUNCTIONS)
}

pub(super) fn sim_of(replaced: u32) -> Sim {
    Sim { memory: kernel(), redirects: vec![None; replaced as usize], ..Sim::default() }
}

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
    let mut update = Update::new(record).unwrap();
    update.pin(sim).unwrap();
    update.prepare(sim, &kernel(), &mut Budget::new(10_000)).unwrap();
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
