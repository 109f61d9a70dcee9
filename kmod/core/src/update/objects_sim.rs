//! A simulated kernel whose tasks make counted calls, and others.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use dynamos_abi::HookKind;
use dynamos_abi::counters::{BEGUN, CALL, UNDER_WAY};

use super::sim::{HOW, kernel};
use super::*;
use crate::counters::{Counters, Label, Look, Moving, calls_of, uncounted};
use crate::matching::Memory;
use crate::relocate::Range;
use crate::stack::first_touch;
use crate::testing::Kernel;

pub(super) const OBJECTS: Switching = Switching { scope: Scope::Object, ..HOW };
pub(super) const HOLD: Switching = Switching { on_timeout: OnTimeout::Hold, ..OBJECTS };
pub(super) const FORCE: Switching = Switching { on_timeout: OnTimeout::ForceNewCalls, ..OBJECTS };
pub(super) const LOOK: Switching =
    Switching { limits: Limits { wait_ms: 0, ..HOW.limits }, ..HOLD };

/// The function, up to where its handler returns to; the rest of it; the update's text, with handlers in it.
pub(super) const ENTRY: Range = Range { start: 0x100, end: 0x109 };
pub(super) const WHOLE: Range = Range { start: 0x100, end: 0x200 };
pub(super) const TEXT: Range = Range { start: 0x1000, end: 0x3000 };
pub(super) const HANDLERS: Range = Range { start: 0x2000, end: 0x2800 };
pub(super) const LABELS: [Label; 2] = [
    Label { address: 0x2072, function: 0, edition: false },
    Label { address: 0x2079, function: 0, edition: true },
];
pub(super) const KERNEL: u64 = 0x9000;

/// A call that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) object: usize,
    pub(super) edition: bool,
    pub(super) counted: bool,
    /// The call below, of the same code, made it itself.
    direct: bool,
}

/// Where a task is, beside the calls on its stack.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum At {
    #[default]
    Elsewhere,
    /// Comes to the handler, by way of ftrace.
    Comes(usize),
    /// In a handler that has not read the flag.
    Asks(usize),
    /// In a handler that has counted, and not called yet.
    Calls(usize, bool),
    /// In a handler that has.
    Knows(Option<bool>, usize),
    /// In a handler that is about to leave a counter.
    Returns(usize),
    /// Has left a counter as the last call of an edition, and has not read the goal.
    Leaves(usize, u64),
    /// Has read it, and gives the other edition to the counter if it is still like that.
    Gives(usize, u64),
}

#[derive(Debug, Default)]
pub(super) struct Task {
    pub(super) at: At,
    pub(super) calls: Vec<Call>,
    /// So many steps find that it does not go on.
    asleep: u32,
}

impl Task {
    /// Its stack, innermost first.
    fn trace(&self) -> Vec<u64> {
        let mut trace = match self.at {
            At::Elsewhere => vec![KERNEL],
            At::Comes(..) => vec![KERNEL, ENTRY.end, KERNEL],
            _ => vec![0x2010, KERNEL],
        };
        for (depth, call) in self.calls.iter().enumerate().rev() {
            trace.push(if call.edition { 0x1150 } else { 0x150 });
            if call.counted {
                trace.push(LABELS[usize::from(call.edition)].address);
            }
            if !(call.direct && depth > 0) {
                trace.push(KERNEL);
            }
        }
        trace
    }
}

/// A kernel with one function, tasks that call it, and the objects that they work on.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) memory: Kernel,
    pub(super) redirects: Vec<Option<Handler>>,
    /// The flag; `None`: counters decide.
    pub(super) flag: Option<bool>,
    pub(super) words: Rc<Vec<AtomicU64>>,
    pub(super) moving: Moving,
    pub(super) tasks: Vec<Task>,
    /// What tasks do next, again and again.
    pub(super) script: Vec<u8>,
    pub(super) at: usize,
    pub(super) operations: u32,
    pub(super) fail: BTreeSet<u32>,
    pub(super) interrupt: bool,
    /// New calls were forced into an edition, whatever others are in.
    pub(super) forced: bool,
    /// Nobody can have called the function yet.
    pub(super) fresh: bool,
    /// Leaves its call, as far as reading the goal, when the next look comes to the last task.
    pub(super) late: Option<usize>,
}

impl World {
    pub(super) fn new(script: &[u8], tasks: usize) -> Self {
        World {
            memory: kernel(),
            redirects: vec![None; 3],
            flag: Some(false),
            words: Rc::new((0..4).map(|_| AtomicU64::new(0)).collect()),
            tasks: (0..tasks).map(|_| Task::default()).collect(),
            script: script.to_vec(),
            ..World::default()
        }
    }

    pub(super) fn counters(words: &[AtomicU64]) -> Counters<'_> {
        Counters::new(words).unwrap()
    }

    pub(super) fn step(&mut self) {
        let Some(&byte) = self.script.get(self.at % self.script.len().max(1)) else { return };
        self.at += 1;
        let which = usize::from(byte >> 3) % self.tasks.len().max(1);
        let object = 1 + self.at % (self.words.len() - 1);
        self.go_on(which, byte & 7, object);
    }

    /// One task does something.
    pub(super) fn go_on(&mut self, which: usize, what: u8, object: usize) {
        let Some(task) = self.tasks.get_mut(which) else { return };
        task.at = match task.at {
            At::Elsewhere if what == 6 && task.calls.len() > 1 => return self.die(which),
            At::Elsewhere if what < 4 && task.calls.len() < 4 => match self.redirects[0] {
                None => return self.enter(which, object, false, false),
                Some(_) => At::Comes(object),
            },
            At::Elsewhere if task.asleep > 0 => {
                task.asleep -= 1;
                At::Elsewhere
            }
            At::Elsewhere => match task.calls.pop() {
                Some(Call { object, counted: true, .. }) => At::Returns(object),
                _ => At::Elsewhere,
            },
            At::Comes(object) => At::Asks(object),
            At::Asks(object) => At::Knows(self.flag, object),
            At::Knows(Some(edition), object) => return self.enter(which, object, edition, false),
            At::Knows(None, object) => {
                At::Calls(object, self.words[object].fetch_add(CALL + BEGUN, SeqCst) & 1 != 0)
            }
            At::Calls(object, edition) => return self.enter(which, object, edition, true),
            At::Returns(object) => {
                let left = self.words[object].fetch_sub(CALL, SeqCst) - CALL;
                assert!(
                    left & UNDER_WAY < UNDER_WAY / 2,
                    "a call was forgotten that was under way"
                );
                if left & UNDER_WAY <= 1 { At::Leaves(object, left) } else { At::Elsewhere }
            }
            At::Leaves(object, left) => {
                let goal = Self::counters(&self.words).goal();
                if goal == (left & 1 != 0) { At::Elsewhere } else { At::Gives(object, left) }
            }
            At::Gives(object, left) => {
                let _ = self.words[object].compare_exchange(left, left ^ 1, SeqCst, SeqCst);
                At::Elsewhere
            }
        };
    }

    /// A task dies, and another begins.
    pub(super) fn die(&mut self, which: usize) {
        self.tasks[which] = Task::default();
    }

    fn enter(&mut self, which: usize, object: usize, edition: bool, counted: bool) {
        let others = self.tasks.iter().flat_map(|task| &task.calls);
        for other in others.filter(|call| !self.forced && call.object == object) {
            assert_eq!(other.edition, edition, "an object has calls of both editions");
        }
        let task = &mut self.tasks[which];
        task.at = At::Elsewhere;
        task.calls.push(Call { object, edition, counted, direct: object.is_multiple_of(2) });
    }

    fn act(&mut self, act: impl FnOnce(&mut Self)) -> Result<(), Errno> {
        self.operations += 1;
        self.step();
        if self.fail.contains(&self.operations) {
            return Err(Errno(12));
        }
        act(self);
        self.step();
        Ok(())
    }

    /// Looks at one task after the other, which all do something meanwhile.
    pub(super) fn look(&mut self, blockers: &mut Blockers, is: impl Fn(&[u64]) -> bool) {
        for which in 0..self.tasks.len() {
            self.step();
            if which + 1 == self.tasks.len()
                && let Some(late) = self.late.take()
            {
                (0..3).for_each(|_| self.go_on(late, 7, 1));
                assert!(matches!(self.tasks[late].at, At::Gives(..)));
            }
            if is(&self.tasks[which].trace()) {
                let place = Place::Function(0);
                blockers.add(Blocked {
                    pid: 1,
                    comm: [0; 16],
                    running: false,
                    place,
                    activations: 1,
                });
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.tasks.iter().all(|task| {
            matches!(
                task.at,
                At::Elsewhere | At::Comes(..) | At::Asks(_) | At::Knows(Some(false), _)
            ) && task.calls.iter().all(|call| !call.edition && !call.counted)
        })
    }
}

impl Memory for World {
    fn read(&mut self, address: u64, into: &mut [u8]) -> bool {
        self.memory.read(address, into)
    }
}

impl Layer for World {
    fn pin_target(&mut self, _: u32) -> Result<(), Errno> {
        Ok(())
    }
    fn unpin_target(&mut self, _: u32) {}
    fn write_text(&mut self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Ok(())
    }
    fn late_sections(&mut self) -> Result<(), Errno> {
        Ok(())
    }
    fn undo_late_sections(&mut self) {
        assert!(self.is_empty(), "somebody is in the update's code");
    }
    fn register_redirect(&mut self, function: u32) -> Result<(), Errno> {
        self.act(|world| world.redirects[function as usize] = Some(Handler::Transition))
    }
    fn modify_redirect(&mut self, function: u32, handler: Handler) -> Result<(), Errno> {
        self.act(|world| world.redirects[function as usize] = Some(handler))
    }
    fn unregister_redirect(&mut self, function: u32) -> Result<(), Errno> {
        assert!(self.is_empty() && self.flag == Some(false));
        self.act(|world| world.redirects[function as usize] = None)
    }
    fn replaces_others(&self) -> bool {
        false
    }
    fn reshaped_other(&self) -> Option<crate::Name> {
        None
    }
    fn ready_others(&mut self) -> Result<(), Errno> {
        unreachable!("there are none")
    }
    fn others_stay(&mut self) {}
    fn others_leave(&mut self) {}
    fn check_and_flip(&mut self, _: bool, _: &mut Blockers) -> Result<bool, Errno> {
        unreachable!("no CPU is stopped")
    }
    fn flip_now(&mut self, active: bool) -> Result<(), Errno> {
        if self.fresh {
            assert!(active && self.tasks.iter().all(|task| task.calls.is_empty()));
            self.moving.begin_anew(&Self::counters(&self.words), true);
            self.flag = None;
            return Ok(());
        }
        self.act(|world| {
            (world.flag, world.forced) = (Some(active), true);
            world.moving.end();
        })
    }
    fn drained(&mut self, blockers: &mut Blockers) -> Result<bool, Errno> {
        assert_eq!(self.flag, Some(false));
        self.look(blockers, |trace| first_touch(trace, &[ENTRY, TEXT]).is_some());
        Ok(blockers.count() == 0)
    }
    fn wake_blockers(&mut self, _: bool) {}
    fn choose_by(&mut self, scope: Scope) -> Result<(), Errno> {
        assert_eq!(scope, Scope::Object);
        assert!(self.is_empty(), "somebody is in the update's code");
        (self.moving, self.forced) = (Moving::default(), false);
        Self::counters(&self.words).clear();
        Ok(())
    }
    fn turn(&mut self, active: bool) -> Result<(), Errno> {
        self.act(|world| {
            // Where counters decide, all objects have moved.
            let current = world.flag.is_none_or(|flag| flag);
            let counters = Self::counters(&world.words);
            assert!(world.moving.turn(&counters, current, active));
            world.flag = None;
        })
    }
    fn move_over(&mut self, active: bool, blockers: &mut Blockers) -> Result<bool, Errno> {
        let (mut moving, words) = (self.moving, self.words.clone());
        let noted = &mut vec![0; words.len() - 1];
        // Tasks have the counters while they are moved.
        let all =
            moving.advance(&Self::counters(&words), active, noted, blockers, |look, blockers| {
                let ranges = if active { [WHOLE, TEXT] } else { [ENTRY, TEXT] };
                self.look(blockers, |trace| match look {
                    Look::Uncounted => uncounted(trace, &ranges, HANDLERS, &LABELS).is_some(),
                    Look::Deciding => uncounted(trace, &[], HANDLERS, &LABELS).is_some(),
                    Look::Counted => {
                        calls_of(!active, trace, &LABELS).0 > 0
                            || uncounted(trace, &[], HANDLERS, &LABELS).is_some()
                    }
                });
            });
        self.moving = moving;
        let all = all.unwrap();
        if all {
            let mixed = self.words[1..].iter().any(|word| (word.load(SeqCst) & 1 != 0) != active);
            assert!(!mixed, "not all have moved");
            if active {
                self.moving.arrive();
            } else {
                self.flag = Some(false);
                self.moving.end();
            }
        }
        Ok(all)
    }
    fn wake_moving(&mut self, _: bool) {}
    fn take(&mut self, _: u32) -> Result<(), Errno> {
        unreachable!("it has no phases")
    }
    fn has_left(&mut self, _: u32, _: &mut Blockers) -> Result<bool, Errno> {
        unreachable!("it has no phases")
    }
    fn wake_in(&mut self, _: u32) {}
    fn show_phase(&mut self, _: Phase) {}
    fn begin_hook(&mut self, _: HookKind) -> Result<(), Errno> {
        unreachable!("it has no hooks")
    }
    fn hook_returned(&mut self, _: u32, _: bool) -> Returned {
        unreachable!("it has no hooks")
    }
    fn now_ms(&mut self) -> u64 {
        0
    }
    fn wait(&mut self, _: u32) -> bool {
        (0..4).for_each(|_| self.step());
        !self.interrupt
    }
    fn synchronize(&mut self) {
        // As RCU-tasks does.
        for which in 0..self.tasks.len() {
            while !matches!(self.tasks[which].at, At::Elsewhere) {
                self.go_on(which, 7, 1);
            }
        }
    }
    fn progress(&mut self, _: State, _: &Blockers) {}
    fn log(&mut self, _: fmt::Arguments<'_>) {}
}

/// Lets every call end.
pub(super) fn empty(world: &mut World) {
    for which in 0..world.tasks.len() {
        world.tasks[which].asleep = 0;
        while !(matches!(world.tasks[which].at, At::Elsewhere)
            && world.tasks[which].calls.is_empty())
        {
            world.go_on(which, 7, 1);
        }
    }
}

/// Lets everybody leave, and looks until nothing is held any more.
pub(super) fn settle(world: &mut World, update: &mut Update<'_>) {
    (world.fail, world.interrupt) = (BTreeSet::new(), false);
    world.script.clear();
    for _ in 0..8 {
        empty(world);
        if update.is_held() {
            update.go_on(world, LOOK).unwrap();
        }
    }
}

/// Has a task call until it is in the function.
pub(super) fn call(world: &mut World, which: usize, object: usize) -> bool {
    let before = world.tasks[which].calls.len();
    while world.tasks[which].calls.len() == before {
        world.go_on(which, 0, object);
    }
    world.tasks[which].calls[before].edition
}

/// Has a task return from its call.
pub(super) fn leave(world: &mut World, which: usize) {
    let before = world.tasks[which].calls.len();
    while world.tasks[which].calls.len() == before
        || !matches!(world.tasks[which].at, At::Elsewhere)
    {
        world.go_on(which, 7, 1);
    }
}
