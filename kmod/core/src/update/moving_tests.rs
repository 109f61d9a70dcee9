//! Scope `task`: no task ever meets both editions in one stack, whatever tasks do meanwhile, and whatever fails or is
//! given up.

use std::collections::BTreeSet;

use dynamos_abi::HookKind;
use proptest::prelude::*;

use super::sim::{ADDRESSES, HOW, WRITABLE, kernel, ready, record, sim};
use super::*;
use crate::budget::Budget;
use crate::matching::Memory;
use crate::tasks::TaskTable;
use crate::testing::{Kernel, with_record};

const TASKS: Switching = Switching { scope: Scope::Task, ..HOW };
const HOLD: Switching = Switching { on_timeout: OnTimeout::Hold, ..TASKS };
const LOOK: Switching = Switching { limits: Limits { wait_ms: 0, ..HOW.limits }, ..HOLD };
const FORCE: Switching = Switching { on_timeout: OnTimeout::ForceNewCalls, ..TASKS };

/// A task: the editions of the calls on its stack.
#[derive(Clone, Debug, Default)]
struct Task {
    stack: Vec<bool>,
    /// So many looks find that it does not go on.
    asleep: u32,
}

/// A kernel with tasks, which call and return whenever the switch waits, are born and die.
#[derive(Debug, Default)]
struct World {
    memory: Kernel,
    redirects: Vec<Option<Handler>>,
    by_task: bool,
    /// The flag; `None`: the table decides.
    flag: Option<bool>,
    table: Option<TaskTable>,
    tasks: Vec<(u64, Task)>,
    born: u64,
    /// What tasks do next, again and again.
    script: Vec<u8>,
    at: usize,
    operations: u32,
    fail: BTreeSet<u32>,
    /// New calls were forced: from then on stacks are mixed.
    forced: bool,
    interrupt: bool,
    states: Vec<State>,
}

impl World {
    fn new(script: &[u8], tasks: usize) -> Self {
        let mut world = World {
            memory: kernel(),
            redirects: vec![None; 3],
            flag: Some(false),
            script: script.to_vec(),
            ..World::default()
        };
        for _ in 0..tasks {
            world.bear();
        }
        world
    }

    fn bear(&mut self) {
        self.born += 1;
        // Addresses of tasks that have died are used again, unless they are noted and so kept.
        let free = (1..).map(|at| at * 64).find(|&at| {
            let noted = self.table.as_ref().is_some_and(|table| table.noted(at).is_some());
            !noted && self.tasks.iter().all(|(task, _)| *task != at)
        });
        self.tasks.push((free.unwrap(), Task::default()));
    }

    fn edition(&self, task: u64) -> bool {
        let asks = |handler| match (handler, self.flag) {
            (None, _) => false,
            (Some(Handler::Steady), _) => true,
            (Some(Handler::Transition), Some(flag)) => flag,
            (Some(Handler::Transition), None) => self.table.as_ref().unwrap().edition(task),
        };
        let mut editions = self.redirects.iter().map(|handler| asks(*handler));
        let first = editions.next().unwrap();
        // While redirections come and go one by one all handlers lead to edition 0.
        assert!(editions.all(|edition| edition == first), "half updated");
        first
    }

    /// One task does something.
    fn step(&mut self) {
        let Some(&byte) = self.script.get(self.at % self.script.len().max(1)) else { return };
        self.at += 1;
        let which = usize::from(byte >> 3) % self.tasks.len().max(1);
        match byte & 7 {
            0 | 1 if self.tasks.len() < 16 => self.bear(),
            0..=2 if self.tasks.get(which).is_some_and(|(_, task)| task.stack.is_empty()) => {
                self.tasks.remove(which);
            }
            3..=5 => {
                let Some(task) = self.tasks.get(which).map(|(task, _)| *task) else { return };
                let edition = self.edition(task);
                let stack = &mut self.tasks[which].1.stack;
                assert!(
                    self.forced || stack.iter().all(|below| *below == edition),
                    "a task has both editions on its stack"
                );
                stack.push(edition);
            }
            _ => {
                let Some((_, task)) = self.tasks.get_mut(which) else { return };
                if task.asleep == 0 {
                    task.stack.pop();
                }
                task.asleep = task.asleep.saturating_sub(1);
            }
        }
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

    fn blocked() -> Blocked {
        let place = Place::Function(0);
        Blocked { pid: 1, comm: [0; 16], running: false, place, activations: 1 }
    }

    fn nobody_is_in(&self, edition: bool) -> bool {
        self.tasks.iter().all(|(_, task)| !task.stack.contains(&edition))
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
        assert!(self.nobody_is_in(true));
    }
    fn register_redirect(&mut self, function: u32) -> Result<(), Errno> {
        self.act(|world| world.redirects[function as usize] = Some(Handler::Transition))
    }
    fn modify_redirect(&mut self, function: u32, handler: Handler) -> Result<(), Errno> {
        self.act(|world| world.redirects[function as usize] = Some(handler))
    }
    fn unregister_redirect(&mut self, function: u32) -> Result<(), Errno> {
        assert!(self.nobody_is_in(true) && self.flag == Some(false));
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
        self.act(|world| (world.flag, world.table, world.forced) = (Some(active), None, true))
    }
    fn drained(&mut self, blockers: &mut Blockers) -> Result<bool, Errno> {
        assert_eq!(self.flag, Some(false));
        for _ in self.tasks.iter().filter(|(_, task)| task.stack.contains(&true)) {
            blockers.add(Self::blocked());
        }
        Ok(blockers.count() == 0)
    }
    fn wake_blockers(&mut self, _: bool) {}
    fn choose_by(&mut self, scope: Scope) -> Result<(), Errno> {
        self.by_task = scope == Scope::Task;
        Ok(())
    }
    fn turn(&mut self, active: bool) -> Result<(), Errno> {
        assert!(self.by_task);
        self.act(|world| {
            let (was, flag) = (world.table.take(), world.flag);
            let default = flag.unwrap_or_else(|| was.as_ref().unwrap().default_edition());
            let table = TaskTable::with_room(world.tasks.len(), default).unwrap();
            for (task, _) in &world.tasks {
                let edition = was.as_ref().map_or(default, |was| was.edition(*task));
                assert_eq!(table.note(*task, edition), Ok(true));
            }
            table.set_default(active);
            (world.table, world.flag) = (Some(table), None);
        })
    }
    fn move_over(&mut self, active: bool, blockers: &mut Blockers) -> Result<bool, Errno> {
        let looks: Vec<u64> = self.table.as_ref().unwrap().tasks().map(|(task, _)| task).collect();
        for noted in looks {
            self.step();
            let table = self.table.as_ref().unwrap();
            match self.tasks.iter().find(|(task, _)| *task == noted) {
                None => assert!(table.forget(noted)),
                _ if table.noted(noted) == Some(active) => {}
                Some((_, task)) if task.stack.is_empty() => table.set(noted, active),
                Some(_) => blockers.add(Self::blocked()),
            }
        }
        if blockers.count() > 0 {
            return Ok(false);
        }
        assert!(self.forced || self.nobody_is_in(!active), "not all have left");
        self.act(|world| (world.flag, world.table) = (Some(active), None)).map(|()| true)
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
    fn synchronize(&mut self) {}
    fn progress(&mut self, state: State, _: &Blockers) {
        self.states.push(state);
    }
    fn log(&mut self, _: fmt::Arguments<'_>) {}
}

/// Runs `test` with an update that is ready.
pub(super) fn with_update<L: Layer>(world: &mut L, test: impl FnOnce(&mut L, Update<'_>)) {
    with_record(&record(), |record| {
        let update = ready(world, record);
        test(world, update);
    });
}

/// Lets everybody leave, and looks until nothing is held any more.
fn settle(world: &mut World, update: &mut Update<'_>) {
    (world.fail, world.interrupt) = (BTreeSet::new(), false);
    world.script.clear();
    for _ in 0..8 {
        for (_, task) in &mut world.tasks {
            *task = Task::default();
        }
        if update.is_held() {
            update.go_on(world, LOOK).unwrap();
        }
    }
}

/// A task that sleeps in a call.
fn sleeper(edition: bool) -> (u64, Task) {
    (0x7000, Task { stack: vec![edition], asleep: u32::MAX })
}

#[test]
fn a_sleeper_stays_and_all_others_move_at_once() {
    let mut world = World::new(&[], 4);
    world.tasks.push(sleeper(false));
    with_update(&mut world, |world, mut update| {
        update.activate(world, &ADDRESSES, &WRITABLE, HOLD).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Transitioning, true));
        assert_eq!((update.scope(), update.blockers().count()), (Scope::Task, 1));
        world.bear();
        let editions: Vec<_> = world.tasks.iter().map(|(task, _)| world.edition(*task)).collect();
        assert_eq!(editions, [true, true, true, true, false, true]);
        let wrong = update.give_up(world, &HOW.limits);
        assert!(matches!(wrong, Err(Refusal::WrongState { .. })), "tasks are in its code");
        assert!(matches!(update.go_on(world, HOW), Err(Refusal::Moving { .. })));
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Transitioning);
        settle(world, &mut update);
        assert_eq!((update.state(), world.flag), (State::Active, Some(true)));
        update.revert(world, TASKS).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

#[test]
fn what_is_given_up_is_taken_back_task_by_task() {
    let mut world = World::new(&[], 2);
    world.tasks.push(sleeper(false));
    with_update(&mut world, |world, mut update| {
        // Nobody is in the update's code, so all is as before.
        let outcome = update.activate(world, &ADDRESSES, &WRITABLE, TASKS);
        assert!(matches!(outcome, Err(Refusal::Blocked { count: 1, .. })));
        assert_eq!(update.state(), State::Reverted);
        assert!(world.redirects.iter().all(Option::is_none));
    });
    let mut world = World::new(&[], 2);
    world.tasks.push(sleeper(false));
    with_update(&mut world, |world, mut update| {
        update.activate(world, &ADDRESSES, &WRITABLE, HOLD).unwrap();
        // Somebody is in each by now.
        world.tasks[0].1 = sleeper(true).1;
        update.revert(world, HOLD).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Reverting, true));
        assert_eq!([0, 1, 2].map(|at| world.edition(world.tasks[at].0)), [true, false, false]);
        let again = update.resume(world, TASKS);
        assert!(again.is_err() && update.state() == State::Reverting, "as before the command");
        update.resume(world, HOLD).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Transitioning, true));
        assert_eq!([0, 1, 2].map(|at| world.edition(world.tasks[at].0)), [true, true, false]);
        settle(world, &mut update);
        assert_eq!(update.state(), State::Active);
    });
}

#[test]
fn a_revert_that_is_rolled_back_turns_round() {
    let mut world = World::new(&[], 2);
    with_update(&mut world, |world, mut update| {
        update.activate(world, &ADDRESSES, &WRITABLE, TASKS).unwrap();
        world.tasks.push(sleeper(true));
        let outcome = update.revert(world, TASKS);
        assert!(matches!(outcome, Err(Refusal::Blocked { count: 1, .. })));
        assert_eq!((update.state(), world.flag), (State::Active, Some(true)));
        // Who came back to edition 0 meanwhile, and sleeps there, is waited for.
        update.revert(world, HOLD).unwrap();
        world.tasks[0].1 = sleeper(false).1;
        settle(world, &mut update);
        assert_eq!(update.state(), State::Reverted);
    });
}

#[test]
fn what_is_forced_goes_on_as_scope_function() {
    let mut world = World::new(&[], 2);
    world.tasks.push(sleeper(false));
    with_update(&mut world, |world, mut update| {
        update.activate(world, &ADDRESSES, &WRITABLE, FORCE).unwrap();
        assert_eq!((update.state(), update.scope()), (State::Active, Scope::Function));
        world.tasks[0].1 = sleeper(true).1;
        update.revert(world, Switching { scope: Scope::Function, ..HOLD }).unwrap();
        assert_eq!((update.state(), world.flag), (State::Draining, Some(false)));
        settle(world, &mut update);
        assert_eq!(update.state(), State::Reverted);
    });
    let mut world = World::new(&[], 2);
    with_update(&mut world, |world, mut update| {
        update.activate(world, &ADDRESSES, &WRITABLE, TASKS).unwrap();
        world.tasks.push(sleeper(true));
        update.revert(world, FORCE).unwrap();
        assert_eq!((update.state(), update.scope()), (State::Draining, Scope::Function));
        // Held with scope `task`, it can be forced by another command.
        settle(world, &mut update);
        assert_eq!(update.state(), State::Reverted);
    });
    let mut world = World::new(&[], 2);
    world.tasks.push(sleeper(false));
    with_update(&mut world, |world, mut update| {
        update.activate(world, &ADDRESSES, &WRITABLE, HOLD).unwrap();
        update.go_on(world, Switching { scope: Scope::Function, ..HOLD }).unwrap();
        assert_eq!((update.state(), update.scope()), (State::Active, Scope::Function));
    });
}

#[test]
fn an_update_over_others_has_no_such_scope() {
    with_record(&record(), |record| {
        let mut sim = sim();
        sim.others[0] = true;
        let mut update = Update::new(record).unwrap();
        update.pin(&mut sim).unwrap();
        update.prepare(&mut sim, &kernel(), &mut Budget::new(10_000)).unwrap();
        let before = sim.operations;
        let refused = update.activate(&mut sim, &ADDRESSES, &WRITABLE, TASKS);
        assert!(matches!(refused, Err(Refusal::NoScope { .. })));
        assert_eq!((update.state(), sim.operations), (State::Registered, before));
    });
}

/// What a command does with whatever has come of the ones before.
pub(super) fn command(world: &mut dyn Layer, update: &mut Update<'_>, asked: Switching, which: u8) {
    let on_timeout =
        [OnTimeout::RollBack, OnTimeout::Hold, OnTimeout::Hold][usize::from(which % 3)];
    let how = Switching { on_timeout, ..asked };
    let enables = which & 4 != 0;
    let _ = match (update.state(), enables) {
        (State::Transitioning, true) => update.go_on(world, how),
        (State::Reverting | State::Draining, true) => update.resume(world, how),
        (State::Transitioning, false) if !update.is_under_way() => {
            update.give_up(world, &how.limits)
        }
        (State::Active | State::Transitioning | State::Reverting | State::Draining, false) => {
            update.revert(world, how)
        }
        _ => Ok(()),
    };
}

proptest! {
    #[test]
    fn no_stack_is_ever_mixed(
        script in proptest::collection::vec(any::<u8>(), 1..200),
        tasks in 1usize..12,
        commands in proptest::collection::vec(any::<u8>(), 1..8),
        fail in proptest::collection::btree_set(1u32..40, 0..4),
        interrupt: bool,
        hold: bool,
    ) {
        let mut world = World { fail, interrupt, ..World::new(&script, tasks) };
        with_update(&mut world, |world, mut update| {
            let _ = update.activate(world, &ADDRESSES, &WRITABLE, if hold { HOLD } else { TASKS });
            for which in commands {
                command(world, &mut update, TASKS, which);
                (0..7).for_each(|_| world.step());
                if update.is_held() {
                    let _ = update.go_on(world, LOOK);
                }
            }
            settle(world, &mut update);
            if matches!(update.state(), State::Active | State::Reverting | State::Transitioning) {
                update.revert(world, TASKS).unwrap();
            }
            assert!(matches!(update.state(), State::Reverted | State::Registered));
            assert!(!world.forced && world.redirects.iter().all(Option::is_none));
        });
    }
}
