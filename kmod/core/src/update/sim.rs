//! A simulated kernel, and a record for it: what the tests of updates share.

use std::collections::BTreeSet;

use dynamos_abi::{
    HookKind, Object, Relocation, RelocationKind, function_flags::REPLACE, symbol_flags,
};

use super::hooks_tests::Hooks;
use super::*;
use crate::budget::Budget;
use crate::matching::Memory;
use crate::relocate::Range;
use crate::testing::{Build, Kernel};

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
    /// Its parameters are not V1's.
    pub(super) reshaped_other: Option<crate::Name>,
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
    fn reshaped_other(&self) -> Option<crate::Name> {
        self.reshaped_other
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

/// An update that is ready to be activated.
pub(super) fn ready<'a>(layer: &mut dyn Layer, record: &dynamos_abi::Record<'a>) -> Update<'a> {
    let mut update = Update::new(record).unwrap();
    update.pin(layer).unwrap();
    update.prepare(layer, &kernel(), &mut Budget::new(10_000)).unwrap();
    update
}

pub(super) fn sim() -> Sim {
    sim_of(FUNCTIONS)
}

pub(super) fn sim_of(replaced: u32) -> Sim {
    Sim { memory: kernel(), redirects: vec![None; replaced as usize], ..Sim::default() }
}
