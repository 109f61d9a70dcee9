//! A simulated kernel that knows in which editions tasks may be.

use std::collections::{BTreeMap, BTreeSet};

use dynamos_abi::edition::{BRIDGE, FINAL, ORIGINAL};
use dynamos_abi::{Code, Hook, HookKind};

use super::sim::{ADDRESSES, FUNCTIONS, HOW, WRITABLE, builder, kernel, ready};
use super::*;
use crate::matching::Memory;
use crate::testing::{Kernel, with_record};

pub(super) const HOW_IN_PHASES: Switching = Switching { scope: Scope::Function, ..HOW };
pub(super) const HOLD: Switching = Switching { on_timeout: OnTimeout::Hold, ..HOW_IN_PHASES };
pub(super) const LOOK: Switching =
    Switching { limits: Limits { wait_ms: 0, ..HOW.limits }, ..HOLD };

/// A kernel that knows which editions tasks may be in, and whose state V2's editions understand.
#[derive(Debug, Default)]
pub(super) struct Sim {
    pub(super) memory: Kernel,
    pub(super) pinned: u32,
    pub(super) late: bool,
    pub(super) redirects: [Option<Handler>; FUNCTIONS as usize],
    /// What new calls take.
    pub(super) edition: u32,
    /// Who may be in each edition.
    pub(super) inside: [bool; 3],
    /// The state is V2's.
    pub(super) carried: bool,
    /// Operations that can fail so far, and those that do.
    pub(super) operations: u32,
    pub(super) fail: BTreeSet<u32>,
    /// So many looks at an edition find a task there.
    pub(super) sleepers: [u32; 3],
    /// What the update's functions return, once or for ever (0: it may go on).
    pub(super) says: BTreeMap<HookKind, (u32, i32)>,
    /// Looks at a hook that has not returned yet.
    pub(super) slow: u32,
    pub(super) running: Option<HookKind>,
    /// The update has hooks around its switches too.
    pub(super) around: bool,
    pub(super) asked: Vec<HookKind>,
    pub(super) interrupt: bool,
    pub(super) waited: u32,
    /// What the clock says apart from that.
    pub(super) clock: u64,
    /// The bridge takes all calls for so long at least, and since when it does.
    pub(super) rests: u32,
    pub(super) since: u64,
    pub(super) woken: u32,
    pub(super) states: Vec<State>,
    pub(super) phases: Vec<u32>,
    pub(super) log: Vec<String>,
}

impl Sim {
    pub(super) fn new() -> Self {
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

    pub(super) fn is_pristine(&self) -> bool {
        let [_, bridge, last] = self.inside;
        !bridge
            && !last
            && !self.late
            && self.pinned == 0
            && self.redirects == [None; 3]
            && self.edition == ORIGINAL
            && !self.carried
    }

    pub(super) fn is_active(&self) -> bool {
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
    fn reshaped_other(&self) -> Option<crate::Name> {
        None
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
pub(super) fn record() -> Vec<u8> {
    record_of(false)
}

/// The same, with hooks around its switches too.
pub(super) fn record_of(around: bool) -> Vec<u8> {
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

/// Runs `test` with an update that is ready.
pub(super) fn with_update(sim: Sim, test: impl FnOnce(&mut Sim, Update<'_>)) {
    let mut sim = sim;
    with_record(&record(), |record| {
        let update = ready(&mut sim, record);
        test(&mut sim, update);
    });
}

pub(super) fn activate<'a>(
    sim: &mut Sim,
    update: &mut Update<'a>,
    how: Switching,
) -> Result<(), Refusal<'a>> {
    update.activate(sim, &ADDRESSES, &WRITABLE, how)
}
