//! What the kernel layer does for an update.

use core::fmt;

use dynamos_abi::{HookKind, Record};

use super::{Phase, Returned, Scope, State, Step};
use crate::matching::Memory;
use crate::refusal::Name;
use crate::resolve::function_name;

/// A kernel error number, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Of [`Layer::register_redirect`]: it failed after calls may have come by.
    pub const AGAIN: Self = Self(11);
    /// Of [`Layer::choose_by`]: the kernel lacks what it takes.
    pub const NOT_SUPPORTED: Self = Self(95);

    /// What to do about it, for a refusal.
    pub(crate) fn advice(self, step: Step) -> &'static str {
        match (self.0, step) {
            (12, _) => ": free some memory and try again",
            // register_ftrace_direct: another direct call, livepatch or a kprobe with a post handler owns it.
            (16 | 17, Step::Redirected(_) | Step::Steady(_)) => {
                ": something else has changed this function (livepatch, a BPF trampoline, a kprobe): \
                 remove that first"
            }
            (16, Step::Flipped) => {
                ": a table of operations does not hold what it should: something else has changed its handlers"
            }
            (19 | 2 | 3, Step::TargetPinned(_)) => ": load the module first",
            (11 | 19, Step::Redirected(_)) => {
                ": ftrace is switched off; set kernel.ftrace_enabled to 1"
            }
            _ => "",
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "EPERM",
            2 => "ENOENT",
            3 => "ESRCH",
            4 => "EINTR",
            11 => "EAGAIN",
            12 => "ENOMEM",
            14 => "EFAULT",
            16 => "EBUSY",
            17 => "EEXIST",
            19 => "ENODEV",
            22 => "EINVAL",
            other => return write!(f, "error {other}"),
        };
        f.write_str(name)
    }
}

/// Where a task is that holds up a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a function (by index) or its edition.
    Function(u32),
    /// In a handler of the update.
    Handler,
    /// In a hook of the update.
    Hook(HookKind),
    /// In the code of another update, which is left at the same switch.
    Other,
    /// Its stack cannot be read reliably.
    Unknown,
}

/// A task that holds up a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Thread id.
    pub pid: i32,
    /// Name, padded with NUL (`TASK_COMM_LEN`).
    pub comm: [u8; 16],
    /// Whether it is running (on a CPU or ready), not asleep.
    pub running: bool,
    /// Where it is.
    pub place: Place,
    /// How many activations of the code its stack shows; 1 if that is not known.
    pub activations: u32,
}

impl Blocked {
    /// Writes it; `function` is the name of the function it is in.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>, function: &str) -> fmt::Result {
        write!(f, "task {} (", self.pid)?;
        // A task may have called itself anything.
        for &byte in self.comm.iter().take_while(|&&byte| byte != 0) {
            let plain = byte.is_ascii_graphic() || byte == b' ';
            fmt::Write::write_char(f, if plain { char::from(byte) } else { '?' })?;
        }
        let how = if self.running { "runs" } else { "sleeps" };
        match self.place {
            Place::Function(_) => write!(f, ") {how} in {function}"),
            Place::Handler => write!(f, ") {how} in a redirection handler"),
            Place::Hook(hook) => write!(f, ") {how} in hook {}", hook.name()),
            Place::Other => write!(f, ") {how} in another update's edition"),
            Place::Unknown => write!(f, ") {how} with a stack that cannot be read reliably"),
        }
    }

    /// Name of the function it is in.
    pub(crate) fn function<'a>(&self, record: &Record<'a>) -> &'a str {
        match self.place {
            Place::Function(index) => function_name(record, index),
            Place::Handler | Place::Hook(_) | Place::Other | Place::Unknown => "",
        }
    }
}

/// The tasks that hold up a switch: all are counted, the first few kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blockers {
    first: [Option<Blocked>; 16],
    count: u32,
    sleepers: u32,
    activations: u32,
}

impl Blockers {
    /// Adds a task.
    pub fn add(&mut self, task: Blocked) {
        if let Some(slot) = self.first.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(task);
        }
        self.count = self.count.saturating_add(1);
        self.activations = self.activations.saturating_add(task.activations);
        self.sleepers = self.sleepers.saturating_add(u32::from(!task.running));
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether one of them is asleep, and so is likely to stay.
    pub fn has_sleepers(&self) -> bool {
        self.sleepers > 0
    }

    /// The first of them.
    pub fn first(&self) -> impl Iterator<Item = &Blocked> {
        self.first.iter().flatten()
    }

    /// As text, with the function names of `record`.
    pub fn named<'b>(&'b self, record: &'b Record<'b>) -> impl fmt::Display + 'b {
        Named { blockers: self, record }
    }

    /// The same for a file: how many tasks and activations there are, then the first of the tasks, each in a line.
    pub fn lines<'b>(&'b self, record: &'b Record<'b>) -> impl fmt::Display + 'b {
        Lines(Named { blockers: self, record })
    }
}

/// Shows them one a line, after a line with their number and that of their activations.
struct Lines<'b>(Named<'b>);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.0.blockers.count, self.0.blockers.activations)?;
        for task in self.0.blockers.first() {
            task.show(f, task.function(self.0.record))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Shows blockers.
struct Named<'b> {
    blockers: &'b Blockers,
    record: &'b Record<'b>,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown: u32 = 0;
        for task in self.blockers.first() {
            if shown > 0 {
                write!(f, ", ")?;
            }
            task.show(f, task.function(self.record))?;
            shown = shown.saturating_add(1);
        }
        match self.blockers.count.saturating_sub(shown) {
            0 if shown == 0 => write!(f, "no task"),
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// What is called at the entry of a redirected function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// Asks whether the update is active.
    Transition,
    /// Goes straight to the clone.
    Steady,
}

/// The kernel, as an update sees it. Every method that fails leaves what it was to change as it was.
pub trait Layer: Memory {
    /// Keeps an object (by index) loaded.
    fn pin_target(&mut self, object: u32) -> Result<(), Errno>;
    /// Undoes [`Layer::pin_target`].
    fn unpin_target(&mut self, object: u32);
    /// Writes to the update's own sections, whatever their protection. The references to placeholders must be
    /// back before the update is activated again.
    fn write_text(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno>;
    /// Hands static keys and static calls of the update to the kernel.
    fn late_sections(&mut self) -> Result<(), Errno>;
    /// Undoes [`Layer::late_sections`].
    fn undo_late_sections(&mut self);
    /// Installs the transition handler of a function (by index). Before the failure [`Errno::AGAIN`] calls may have come
    /// by it, and be in what it leads to; before others none has.
    fn register_redirect(&mut self, function: u32) -> Result<(), Errno>;
    /// Puts the other handler in place.
    fn modify_redirect(&mut self, function: u32, handler: Handler) -> Result<(), Errno>;
    /// Removes the handler of a function.
    fn unregister_redirect(&mut self, function: u32) -> Result<(), Errno>;
    /// Whether other updates leave at the switch, because this one takes their place.
    fn replaces_others(&self) -> bool;
    /// One of them whose functions have other parameters, or another result, than V1's.
    fn reshaped_other(&self) -> Option<Name>;
    /// Has them take calls through handlers that ask their flags ([`super::Update::make_ready`]). From then on a switch
    /// to this update's editions clears those flags too, at the same instant where CPUs are stopped for it.
    fn ready_others(&mut self) -> Result<(), Errno>;
    /// Undoes [`Layer::ready_others`]: they were active all the time.
    fn others_stay(&mut self);
    /// The switch is made: they take no calls any more, and go when nobody is in their code.
    fn others_leave(&mut self);
    /// With all CPUs stopped: if no task's stack touches what is being left (editions 0 and handlers when
    /// activating, the update's text when reverting), sets `dynamos_active` to `active` and gives `true`; else
    /// adds the tasks to `blockers` and gives `false`. Slots are written at the same instant, or it fails with `EBUSY`
    /// because one does not hold what it should.
    fn check_and_flip(&mut self, active: bool, blockers: &mut Blockers) -> Result<bool, Errno>;
    /// Sets `dynamos_active` to `active`, whoever is where, and whatever was noted of tasks: new calls take that edition, all others end in theirs. Where
    /// slots are to be written, nobody can read them yet. Where objects are to be counted and nobody can have called a
    /// function yet ([`super::Switching::fresh`]), all objects have that edition, and all calls are counted.
    fn flip_now(&mut self, active: bool) -> Result<(), Errno>;
    /// While no call enters the update's code: whether no task is left there. Looks at one task after the other, which
    /// all others survive unstopped; else adds those that are to `blockers`.
    fn drained(&mut self, blockers: &mut Blockers) -> Result<bool, Errno>;
    /// Wakes the tasks that sleep in what is being left, so that they come out of it: to be called again, for some may
    /// not be asleep yet.
    fn wake_blockers(&mut self, activating: bool);
    /// What the transition handlers that are installed from now on ask beside the flag: for the task in scope `task`, for
    /// the object that the call works on in scope `object`, else nothing. Nothing is undone.
    fn choose_by(&mut self, scope: Scope) -> Result<(), Errno>;
    /// Has tasks, or objects, move to the update's edition (`active`) or to edition 0 from now on. None of those that a call
    /// works for, or on, changes edition at it; tasks that begin after it take the one that is gone to.
    fn turn(&mut self, active: bool) -> Result<(), Errno>;
    /// Moves each task that is in nothing of what it leaves, at an instant at which it does not go on, or each object that no
    /// call works on; adds the tasks that are in the way to `blockers`. `true`: all have moved. In scope `task` the
    /// handlers ask the flag alone then; in scope `object` they go on counting for as long as the update is active.
    fn move_over(&mut self, active: bool, blockers: &mut Blockers) -> Result<bool, Errno>;
    /// Wakes the tasks that sleep in the way, like [`Layer::wake_blockers`].
    fn wake_moving(&mut self, active: bool);
    /// In phases: sends new calls to an edition ([`dynamos_abi::edition`]); all others end in theirs.
    fn take(&mut self, edition: u32) -> Result<(), Errno>;
    /// While no call enters an edition: whether no task is left there; else adds those that are to `blockers`. Not for
    /// the last look, [`Layer::drained`].
    fn has_left(&mut self, edition: u32, blockers: &mut Blockers) -> Result<bool, Errno>;
    /// Wakes the tasks that sleep in an edition, like [`Layer::wake_blockers`].
    fn wake_in(&mut self, edition: u32);
    /// Takes note of the phase, for whoever asks meanwhile.
    fn show_phase(&mut self, phase: Phase);
    /// Runs a hook of the update in a thread of its own. None is running.
    fn begin_hook(&mut self, hook: HookKind) -> Result<(), Errno>;
    /// Waits so long for the hook that runs; not to be interrupted where it is `patient`. When the hook has returned its
    /// thread has left the update's code.
    fn hook_returned(&mut self, ms: u32, patient: bool) -> Returned;
    /// Sleeps; `false` if somebody interrupted it.
    fn wait(&mut self, ms: u32) -> bool;
    /// A clock that never goes back, in milliseconds.
    fn now_ms(&mut self) -> u64;
    /// Waits until no task is in a handler that was removed (`synchronize_rcu_tasks`).
    fn synchronize(&mut self);
    /// Takes note of the state, for whoever asks meanwhile.
    fn progress(&mut self, state: State, blockers: &Blockers);
    /// Writes a line to the kernel log.
    fn log(&mut self, line: fmt::Arguments<'_>);
}
