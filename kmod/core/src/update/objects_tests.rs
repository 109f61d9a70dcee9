//! Scope `object`: no object ever has calls of both editions on it, whatever tasks do meanwhile, however late they are with
//! it, and whatever fails or is given up.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use dynamos_abi::HookKind;
use dynamos_abi::counters::CALL;
use proptest::prelude::*;

use super::moving_tests::{command, with_update};
use super::tests::{ADDRESSES, HOW, WRITABLE, kernel};
use super::*;
use crate::counters::{Counters, Label, Look, Moving, calls_of, uncounted};
use crate::matching::Memory;
use crate::relocate::Range;
use crate::stack::first_touch;
use crate::testing::Kernel;

const OBJECTS: Switching = Switching { scope: Scope::Object, ..HOW };
const HOLD: Switching = Switching { on_timeout: OnTimeout::Hold, ..OBJECTS };
const FORCE: Switching = Switching { on_timeout: OnTimeout::ForceNewCalls, ..OBJECTS };
const LOOK: Switching = Switching { limits: Limits { wait_ms: 0, ..HOW.limits }, ..HOLD };

/// The function, up to where its handler returns to; the rest of it; the update's text, with handlers in it.
const ENTRY: Range = Range { start: 0x100, end: 0x109 };
const WHOLE: Range = Range { start: 0x100, end: 0x200 };
const TEXT: Range = Range { start: 0x1000, end: 0x3000 };
const HANDLERS: Range = Range { start: 0x2000, end: 0x2800 };
const LABELS: [Label; 2] = [
    Label { address: 0x2072, function: 0, edition: false },
    Label { address: 0x2079, function: 0, edition: true },
];
const KERNEL: u64 = 0x9000;

/// A call that is under way.
#[derive(Clone, Copy, Debug)]
struct Call {
    object: usize,
    edition: bool,
    counted: bool,
    /// The call below, of the same code, made it itself.
    direct: bool,
}

/// Where a task is, beside the calls on its stack.
#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    Elsewhere,
    /// Comes to the handler, by way of ftrace.
    Comes(usize),
    /// In a handler that has not read the flag.
    Asks(usize),
    /// In a handler that has.
    Knows(Option<bool>, usize),
    /// Has left a counter as the last call of an edition, and has not read the goal.
    Leaves(usize, bool),
    /// Has read it.
    Gives(usize, bool, bool),
}

#[derive(Debug, Default)]
struct Task {
    at: At,
    calls: Vec<Call>,
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
struct World {
    memory: Kernel,
    redirects: Vec<Option<Handler>>,
    /// The flag; `None`: counters decide.
    flag: Option<bool>,
    words: Rc<Vec<AtomicU64>>,
    moving: Moving,
    tasks: Vec<Task>,
    /// What tasks do next, again and again.
    script: Vec<u8>,
    at: usize,
    operations: u32,
    fail: BTreeSet<u32>,
    interrupt: bool,
    /// New calls were forced into an edition, whatever others are in.
    forced: bool,
    /// Nobody can have called the function yet.
    fresh: bool,
    /// Leaves its call, as far as reading the goal, when the next look comes to the last task.
    late: Option<usize>,
}

impl World {
    fn new(script: &[u8], tasks: usize) -> Self {
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

    fn counters(words: &[AtomicU64]) -> Counters<'_> {
        Counters::new(words).unwrap()
    }

    fn step(&mut self) {
        let Some(&byte) = self.script.get(self.at % self.script.len().max(1)) else { return };
        self.at += 1;
        let which = usize::from(byte >> 3) % self.tasks.len().max(1);
        let object = 1 + self.at % (self.words.len() - 1);
        self.go_on(which, byte & 7, object);
    }

    /// One task does something.
    fn go_on(&mut self, which: usize, what: u8, object: usize) {
        let Some(task) = self.tasks.get_mut(which) else { return };
        task.at = match task.at {
            At::Elsewhere if what < 4 && task.calls.len() < 4 => match self.redirects[0] {
                None => return self.enter(which, object, false, false),
                Some(_) => At::Comes(object),
            },
            At::Elsewhere if task.asleep > 0 => {
                task.asleep -= 1;
                At::Elsewhere
            }
            At::Elsewhere => match task.calls.pop() {
                Some(Call { object, counted: true, .. }) => {
                    let left = self.words[object].fetch_sub(CALL, SeqCst) - CALL;
                    if left <= 1 { At::Leaves(object, left == 1) } else { At::Elsewhere }
                }
                _ => At::Elsewhere,
            },
            At::Comes(object) => At::Asks(object),
            At::Asks(object) => At::Knows(self.flag, object),
            At::Knows(Some(edition), object) => return self.enter(which, object, edition, false),
            At::Knows(None, object) => {
                let edition = self.words[object].fetch_add(CALL, SeqCst) & 1 != 0;
                return self.enter(which, object, edition, true);
            }
            At::Leaves(object, edition) => {
                let goal = Self::counters(&self.words).goal();
                if goal == edition { At::Elsewhere } else { At::Gives(object, edition, goal) }
            }
            At::Gives(object, old, new) => {
                let (old, new) = (u64::from(old), u64::from(new));
                let _ = self.words[object].compare_exchange(old, new, SeqCst, SeqCst);
                At::Elsewhere
            }
        };
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
    fn look(&mut self, blockers: &mut Blockers, is: impl Fn(&[u64]) -> bool) {
        for which in 0..self.tasks.len() {
            self.step();
            if which + 1 == self.tasks.len()
                && let Some(late) = self.late.take()
            {
                self.go_on(late, 7, 1);
                self.go_on(late, 7, 1);
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
        // Tasks have the counters while they are moved.
        let all = moving.advance(&Self::counters(&words), active, blockers, |look, blockers| {
            let ranges = if active { [WHOLE, TEXT] } else { [ENTRY, TEXT] };
            self.look(blockers, |trace| match look {
                Look::Uncounted => uncounted(trace, &ranges, HANDLERS, &LABELS).is_some(),
                Look::Deciding => uncounted(trace, &[], HANDLERS, &LABELS).is_some(),
                Look::Counted => calls_of(!active, trace, &LABELS).0 > 0,
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
fn empty(world: &mut World) {
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
fn settle(world: &mut World, update: &mut Update<'_>) {
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
fn call(world: &mut World, which: usize, object: usize) -> bool {
    let before = world.tasks[which].calls.len();
    while world.tasks[which].calls.len() == before {
        world.go_on(which, 0, object);
    }
    world.tasks[which].calls[before].edition
}

/// Has a task return from its call.
fn leave(world: &mut World, which: usize) {
    let before = world.tasks[which].calls.len();
    while world.tasks[which].calls.len() == before
        || !matches!(world.tasks[which].at, At::Elsewhere)
    {
        world.go_on(which, 7, 1);
    }
}

#[test]
fn each_object_has_its_own_moment() {
    let mut world = World::new(&[], 4);
    with_update(&mut world, |world, mut update| {
        assert!(!call(world, 0, 1));
        // Which object that works on nobody knows.
        update.activate(world, &ADDRESSES, &WRITABLE, HOLD).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Transitioning, true));
        assert!(!call(world, 1, 2));
        leave(world, 0);
        update.go_on(world, LOOK).unwrap();
        assert_eq!((update.state(), update.blockers().count()), (State::Transitioning, 1));
        assert!(call(world, 2, 3) && !call(world, 3, 2), "an object that is worked on stays");
        leave(world, 1);
        leave(world, 3);
        assert!(call(world, 3, 2), "the last to leave moves it");
        update.go_on(world, LOOK).unwrap();
        assert_eq!((update.state(), world.flag), (State::Active, None));
        // Those two are counted still, so that they need not be waited for to begin with.
        update.revert(world, HOLD).unwrap();
        assert!(!call(world, 0, 1) && call(world, 1, 3));
        empty(world);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

#[test]
fn what_nobody_has_called_yet_is_counted_from_the_beginning() {
    let mut world = World::new(&[], 3);
    with_update(&mut world, |world, mut update| {
        let fresh = Switching { fresh: true, ..OBJECTS };
        world.fresh = true;
        update.activate(world, &ADDRESSES, &WRITABLE, fresh).unwrap();
        world.fresh = false;
        assert_eq!((update.state(), update.scope()), (State::Active, Scope::Object));
        assert!(call(world, 0, 1) && call(world, 1, 2));
        // So nobody need be waited for before the first object moves.
        update.revert(world, HOLD).unwrap();
        assert!(!call(world, 2, 3), "nobody worked on it");
        leave(world, 0);
        assert!(call(world, 0, 2) && !call(world, 2, 1));
        empty(world);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

#[test]
fn new_calls_that_are_forced_are_not_counted_and_wait_for_nobody() {
    let mut world = World::new(&[], 4);
    with_update(&mut world, |world, mut update| {
        half_moved(world, &mut update);
        update.go_on(world, FORCE).unwrap();
        assert_eq!((update.state(), update.scope()), (State::Active, Scope::Function));
        assert!(call(world, 0, 1), "where a counted call of edition 0 is");
        // Back, with calls of both editions under way, counted ones and others.
        update.revert(world, Switching { on_timeout: OnTimeout::Hold, ..FORCE }).unwrap();
        assert_eq!(update.state(), State::Draining);
        assert!(!call(world, 3, 2));
        empty(world);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
        // Nothing of that is left.
        world.forced = false;
        assert!(!call(world, 0, 1));
        leave(world, 0);
        assert!(world.words[1..].iter().all(|word| word.load(SeqCst) < CALL));
    });
    let mut world = World::new(&[], 3);
    with_update(&mut world, |world, mut update| {
        update.activate(world, &ADDRESSES, &WRITABLE, OBJECTS).unwrap();
        assert!(call(world, 0, 1));
        update.revert(world, FORCE).unwrap();
        assert_eq!((update.state(), update.scope()), (State::Draining, Scope::Function));
        assert!(!call(world, 1, 1));
        leave(world, 0);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

#[test]
fn a_load_that_is_given_up_before_any_has_moved_waits_for_nobody() {
    let mut world = World::new(&[], 2);
    with_update(&mut world, |world, mut update| {
        assert!(!call(world, 0, 1));
        let outcome = update.activate(world, &ADDRESSES, &WRITABLE, OBJECTS);
        assert!(matches!(outcome, Err(Refusal::Blocked { count: 1, .. })));
        assert_eq!((update.state(), world.flag), (State::Reverted, Some(false)));
        assert!(world.redirects.iter().all(Option::is_none));
    });
}

#[test]
fn who_sleeps_in_edition_0_by_the_updates_code_holds_that_code_only() {
    let mut world = World::new(&[], 2);
    with_update(&mut world, |world, mut update| {
        update.activate(world, &ADDRESSES, &WRITABLE, OBJECTS).unwrap();
        assert!(call(world, 0, 1));
        update.revert(world, HOLD).unwrap();
        leave(world, 0);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
    let mut world = World::new(&[], 3);
    with_update(&mut world, |world, mut update| {
        update.activate(world, &ADDRESSES, &WRITABLE, OBJECTS).unwrap();
        assert!(call(world, 0, 1));
        update.revert(world, HOLD).unwrap();
        assert!(!call(world, 1, 2), "only the other's object stays");
        update.go_on(world, LOOK).unwrap();
        assert!(!call(world, 2, 3) && world.flag.is_none());
        leave(world, 0);
        leave(world, 1);
        update.go_on(world, LOOK).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Draining, true));
        // All objects have moved, so there is nothing to be given up.
        assert!(matches!(update.resume(world, HOLD), Err(Refusal::WrongState { .. })));
        assert!(update.go_on(world, Switching { scope: Scope::System, ..LOOK }).is_ok());
        assert_eq!(update.state(), State::Draining);
        leave(world, 2);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

/// Tasks 1 and 2 are in counted calls on objects 1 and 2, of edition 0 and 1: a load is held.
fn half_moved(world: &mut World, update: &mut Update<'_>) {
    assert!(!call(world, 0, 3));
    update.activate(world, &ADDRESSES, &WRITABLE, HOLD).unwrap();
    assert!(!call(world, 1, 1));
    leave(world, 0);
    update.go_on(world, LOOK).unwrap();
    assert!(call(world, 2, 2));
    assert_eq!((update.state(), update.is_held()), (State::Transitioning, true));
}

#[test]
fn who_is_late_with_a_goal_of_before_is_waited_for() {
    let mut world = World::new(&[], 4);
    with_update(&mut world, |world, mut update| {
        half_moved(world, &mut update);
        update.revert(world, HOLD).unwrap();
        leave(world, 1);
        // The look has found it in its call.
        world.late = Some(2);
        update.resume(world, LOOK).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Transitioning, true));
        assert!(world.late.is_none() && !matches!(world.tasks[2].at, At::Elsewhere));
        world.go_on(2, 7, 1);
        // It has given the object the edition that it was to have.
        assert_eq!(world.words[2].load(SeqCst) & 1, 0);
        update.go_on(world, LOOK).unwrap();
        assert_eq!((update.state(), world.flag), (State::Active, None));
    });
    let mut world = World::new(&[], 4);
    with_update(&mut world, |world, mut update| {
        half_moved(world, &mut update);
        update.revert(world, HOLD).unwrap();
        world.go_on(2, 7, 1);
        world.go_on(2, 7, 1);
        assert!(matches!(world.tasks[2].at, At::Gives(2, true, false)));
        update.resume(world, LOOK).unwrap();
        assert_eq!(world.moving.awaits(&World::counters(&world.words), true), Look::Deciding);
        world.go_on(2, 7, 1);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(world.moving.awaits(&World::counters(&world.words), true), Look::Counted);
    });
}

proptest! {
    #[test]
    fn no_object_has_calls_of_both_editions(
        script in proptest::collection::vec(any::<u8>(), 1..200),
        tasks in 1usize..8,
        commands in proptest::collection::vec(any::<u8>(), 1..8),
        fail in proptest::collection::btree_set(1u32..40, 0..4),
        interrupt: bool,
        hold: bool,
    ) {
        let mut world = World { fail, interrupt, ..World::new(&script, tasks) };
        with_update(&mut world, |world, mut update| {
            let _ = update.activate(world, &ADDRESSES, &WRITABLE, if hold { HOLD } else { OBJECTS });
            for which in commands {
                match (which, update.state()) {
                    (240.., State::Transitioning) => {
                        let _ = update.go_on(world, FORCE);
                    }
                    (240.., State::Active | State::Reverting) => {
                        let _ = update.revert(world, FORCE);
                    }
                    _ => command(world, &mut update, OBJECTS, which),
                }
                (0..7).for_each(|_| world.step());
                if update.is_held() {
                    let _ = update.go_on(world, LOOK);
                }
            }
            settle(world, &mut update);
            if matches!(update.state(), State::Active | State::Reverting | State::Transitioning) {
                update.revert(world, OBJECTS).unwrap();
            }
            assert!(matches!(update.state(), State::Reverted | State::Registered));
            assert!(world.redirects.iter().all(Option::is_none));
        });
    }
}
