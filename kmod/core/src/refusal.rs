//! Why an update is refused: which function or symbol, where, why, and what would lift it.
//!
//! The text goes to the kernel log and to whoever loads the update. It holds no kernel address.

use core::fmt;

use dynamos_abi::HookKind;

use crate::matching::{Mismatch, What};
use crate::update::{Blocked, Errno, Scope, State, Step};

/// The longest name of an update: a module's (`MODULE_NAME_LEN` less the NUL).
const NAME_LEN: usize = 55;

/// The name of an update, without allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; NAME_LEN],
    len: u8,
}

impl Name {
    /// `text`, if a module could have that name.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; NAME_LEN];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Name { bytes, len: text.len() as u8 })
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or(&[]);
        core::str::from_utf8(bytes).unwrap_or("")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Why an update was not loaded, activated, reverted or unloaded. Names are borrowed from the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are named after what they are; the texts below say the rest.
pub enum Refusal<'a> {
    /// The kernel has no memory left.
    OutOfMemory,
    /// The record was made for another kernel.
    Release { wanted: &'a str },
    /// A function of the record is not in the kernel.
    NoFunction { function: &'a str, object: &'a str },
    /// A function's code differs from the build that was compared; the closest of `candidates`.
    Differs { function: &'a str, object: &'a str, candidates: usize, mismatch: Mismatch },
    /// A function's code cannot be read.
    Unreadable { function: &'a str, object: &'a str },
    /// Several functions of one name have the same code.
    Ambiguous { function: &'a str, object: &'a str, matching: usize },
    /// No matched function refers to a fragment.
    NoParent { function: &'a str, object: &'a str },
    /// Two functions of the record are at one address.
    SameAddress { function: &'a str, other: &'a str },
    /// Two functions refer to different things where the build had one symbol.
    Disagree { symbol: &'a str, first: &'a str, second: &'a str },
    /// A function refers to a place that does not have the name it should.
    NotNamed { symbol: &'a str, object: &'a str, by: &'a str },
    /// A clone needs a symbol that the kernel does not have.
    NoSymbol { symbol: &'a str, object: &'a str },
    /// A clone needs a symbol whose name several have.
    SymbolAmbiguous { symbol: &'a str, object: &'a str, candidates: usize },
    /// A clone needs a symbol without a name that no matched function refers to.
    SymbolUnreferenced { symbol: &'a str, object: &'a str },
    /// A reference cannot hold the symbol's address.
    TooFar { symbol: &'a str, kind: &'static str },
    /// A relocation lies outside the update.
    OutsideUpdate { symbol: &'a str },
    /// Where a relocation is to be written there is no reference to the symbol's placeholder.
    NoReference { symbol: &'a str },
    /// A table of operations does not hold what V1 has there.
    HandlerDiffers { table: &'a str, object: &'a str },
    /// A function cannot be called by a pointer in the running kernel.
    Sealed { function: &'a str, object: &'a str },
    /// An update that writes handlers can be switched in scope `system` only, and not by force.
    HandlersNeedSystem,
    /// An update whose functions have other parameters than V1's is not switched call by call.
    ReshapedNeedsWhole,
    /// An update whose functions have other parameters than V1's is neither over another one nor below it.
    Reshaped { update: Name },
    /// The update calls a function that an active one gives other parameters.
    CallsUnlike { update: Name },
    /// Code of another update calls a function that this one gives other parameters; or may, whatever becomes of it.
    CalledUnlike { function: &'a str, update: Name, stays: bool },
    /// One that is to leave at another's switch leaves whole.
    ReshapedLeaves { update: Name },
    /// An update that has written handlers cannot be replaced by another.
    HasHandlers { update: Name },
    /// A CPU that is offline may be in a function of the update.
    ParksCpus { function: &'a str },
    /// Tasks are in a function of the update unseen, so that they cannot be waited for or moved.
    LeavesUnseen { function: &'a str, scope: Scope },
    /// Tasks, or objects, cannot move one by one here.
    NoScope { scope: Scope, why: &'static str },
    /// Tasks, or objects, move one by one already, so that they cannot move otherwise.
    Moving { scope: Scope },
    /// An update with phases moves call by call, and nobody may be forced out of one.
    PhasesNeedFunction,
    /// A phase's least time was asked for, of an update without phases.
    NoPhases,
    /// An update with phases cannot take another's place, nor another its place.
    HasPhases { update: Name },
    /// A hook of the update has not said in time that it may go on.
    NotYet { waited_ms: u32, interrupted: bool, hook: HookKind },
    /// The least time of a phase was waited for, and somebody interrupted that.
    Resting { waited_ms: u32 },
    /// Updates with hooks neither take the place of others nor leave at another's switch.
    HasHooks { update: Name },
    /// A hook of the update says no.
    HookRefused { hook: HookKind, result: i32 },
    /// A hook of the update has not returned.
    HookRuns { hook: HookKind, waited_ms: u32, interrupted: bool },
    /// The record contradicts itself.
    Record(&'static str),
    /// The record asks for more work than an honest one.
    TooMuchWork,
    /// An update of this name is there already.
    Duplicate { update: Name },
    /// The update's name is no module name.
    BadName { name: &'a str },
    /// Another update replaces one of the functions.
    AlreadyReplaced { function: &'a str, by: Name },
    /// Another update of the same functions is on its way from one state to another.
    Unsettled { update: Name, state: State },
    /// The update comes with a module, and finds another of the same functions there.
    FollowsModule { update: Name },
    /// Another update of the same functions comes and goes with a module too, which this one would not hold.
    FollowsOther { update: Name, module: Name },
    /// Another update lies over some of its functions, and counts on the others.
    Covered { update: Name, by: Name },
    /// Another update lies over all of its functions, and leaves calls to it.
    LetsThrough { update: Name, by: Name },
    /// There is no such update.
    NoSuchUpdate,
    /// The update is in a state in which this cannot be done.
    WrongState { update: Name, state: State, wanted: State },
    /// The update's code, or its data, must stay.
    Pinned { update: Name, reason: &'a str },
    /// The kernel refused a step.
    Failed { step: Step, function: &'a str, errno: Errno, undone: bool },
    /// Tasks stayed in the code until the time limit, or until somebody interrupted the wait; the first of
    /// `count`, and the function it is in.
    Blocked { waited_ms: u32, interrupted: bool, count: u32, task: Blocked, function: &'a str },
    /// The kernel found the code in use but named no task.
    Busy { waited_ms: u32, interrupted: bool },
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Refusal::*;
        match self {
            OutOfMemory => write!(f, "out of memory: free some and try again"),
            Release { wanted } => write!(
                f,
                "the update was made for kernel {wanted}, which is not the one running: \
                 make it for this kernel"
            ),
            Record(what) => {
                write!(f, "the record contradicts itself ({what}): make the update again")
            }
            TooMuchWork => {
                write!(f, "the record asks for more work than an honest one: make the update again")
            }
            NoSuchUpdate => write!(f, "no update of this name: see /sys/kernel/dynamos"),
            HandlerDiffers { table, object } => write!(
                f,
                "a handler in `{table}` of {object} is not V1's: something else has changed it (another update, \
                 or the module itself); take that back first"
            ),
            Sealed { function, object } => write!(
                f,
                "`{function}` of {object} cannot be called by a pointer, for this kernel has sealed its entry (IBT): \
                 make the fix with a new function that calls it"
            ),
            HandlersNeedSystem => write!(
                f,
                "the update writes handlers into tables of operations, which all of its calls share: its scope is \
                 `system`, and it cannot be forced on new calls only"
            ),
            ReshapedNeedsWhole => write!(
                f,
                "a function takes other parameters, or gives another result, than V1's, so a call of it from the other \
                 edition of its caller would go wrong: its scope is `system` or `task`, and it cannot be forced on new \
                 calls only"
            ),
            HasHandlers { update } => write!(
                f,
                "update `{update}` has written handlers into tables of operations: revert it, then load the other"
            ),
            Duplicate { update } => {
                write!(f, "an update `{update}` is loaded already: unload it, or use another name")
            }
            BadName { name } => {
                write!(f, "`{name}` cannot be the name of a module: choose another")
            }
            AlreadyReplaced { function, by } => write!(
                f,
                "function `{function}` is already replaced by update `{by}`: give --replace to take its \
                 place, --stack to lie over it, or revert it first"
            ),
            WrongState { update, state, wanted } => write!(
                f,
                "update `{update}` is {state}, and cannot become {wanted} from that{}",
                state.advice()
            ),
            Pinned { update, reason } => {
                write!(f, "update `{update}` must stay mapped ({reason}): it goes with a reboot")
            }
            TooFar { symbol, kind } => write!(
                f,
                "a reference ({kind}) of the update cannot reach `{symbol}`: make the update again"
            ),
            OutsideUpdate { symbol } => write!(
                f,
                "a relocation against `{symbol}` lies outside the update's own sections: make the \
                 update again"
            ),
            NoReference { symbol } => write!(
                f,
                "the update does not refer to `{symbol}` where its record says so (an instruction that the \
                 kernel replaced on load, or a damaged file): make the update again"
            ),
            Blocked { waited_ms, interrupted, count, task, function } => {
                write!(f, "{} after {waited_ms} ms: ", ended(*interrupted))?;
                task.show(f, function)?;
                if let more @ 1.. = count.saturating_sub(1) {
                    write!(f, " and {more} more")?;
                }
                write!(f, "; wake them or let them finish, or raise the time limit")
            }
            Busy { waited_ms, interrupted } => write!(
                f,
                "{} after {waited_ms} ms: the code to be switched is in use; try again",
                ended(*interrupted)
            ),
            Failed { step, function, errno, undone } => {
                write!(f, "{step}")?;
                if !function.is_empty() {
                    write!(f, " of `{function}`")?;
                }
                write!(f, " failed with {errno}{}", errno.advice(*step))?;
                if !undone {
                    write!(f, "; revert again to finish what is left")?;
                }
                Ok(())
            }
            _ => self.fmt_phases(f),
        }
    }
}

impl Refusal<'_> {
    /// The same, where not everything could be undone.
    pub(crate) fn left(mut self) -> Self {
        if let Refusal::Failed { undone, .. } = &mut self {
            *undone = false;
        }
        self
    }

    /// The refusals of updates with phases.
    fn fmt_phases(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Refusal::*;
        match self {
            PhasesNeedFunction => write!(
                f,
                "the update has phases: its calls move one by one from phase to phase (scope `function`), and a phase \
                 ends when nobody is in the edition before, which cannot be forced"
            ),
            ParksCpus { function } => write!(
                f,
                "a CPU that is taken offline stays in `{function}`, where nobody sees it and nothing has it leave: a fix \
                 of it needs a reboot"
            ),
            LeavesUnseen { function, scope } => write!(
                f,
                "tasks are in `{function}` where no look at their stacks shows it: as they end, or while all CPUs are \
                 stopped, so it cannot be switched with scope `{}`; use --scope function",
                scope.as_str(),
            ),
            NoScope { scope, why } => {
                write!(f, "scope `{}` is not possible: {why}", scope.as_str())
            }
            Moving { scope } => write!(
                f,
                "{scope}s are moving one by one, so that both editions run: what is held goes on with scope `{scope}`, or \
                 with `function`; or revert it first",
                scope = scope.as_str(),
            ),
            NoPhases => {
                write!(f, "a phase's least time was asked for, but the update has no phases")
            }
            Resting { waited_ms } => write!(
                f,
                "{} after {waited_ms} ms: the bridge was to take all calls for longer (phase_ms)",
                ended(true)
            ),
            HasPhases { update } => write!(
                f,
                "update `{update}` has phases, which lead from edition 0 and back there: revert the one of the two \
                 that is active, then load the other"
            ),
            NotYet { waited_ms, interrupted, hook } => write!(
                f,
                "{} after {waited_ms} ms: hook `{}` of the update does not say that it may go on; raise the time \
                 limit, or find out what it waits for",
                ended(*interrupted),
                hook.name(),
            ),
            _ => self.fmt_hooks(f),
        }
    }

    /// What hooks say.
    fn fmt_hooks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Refusal::*;
        match self {
            HasHooks { update } => write!(
                f,
                "update `{update}` has hooks, which are for a switch of its own alone: revert what is there, then \
                 load the other"
            ),
            HookRefused { hook, result } => {
                write!(f, "hook `{}` of the update answers {result}", hook.name())?;
                match result.checked_neg() {
                    Some(errno @ 1..=4095) => write!(f, " ({})", Errno(errno)),
                    _ => Ok(()),
                }
            }
            HookRuns { hook, waited_ms, interrupted } => write!(
                f,
                "{} after {waited_ms} ms: hook `{}` has not returned; until it does the update's code stays, and \
                 then it is settled by itself",
                ended(*interrupted),
                hook.name(),
            ),
            _ => self.fmt_stacking(f),
        }
    }

    /// The refusals where several updates replace a function.
    fn fmt_stacking(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Refusal::*;
        match self {
            Unsettled { update, state } => write!(
                f,
                "update `{update}`, of the same functions, is {state}: wait until that is over, or end it with \
                 `dynamos enable {update}` or `dynamos revert {update}`"
            ),
            FollowsModule { update } => write!(
                f,
                "update `{update}` comes with a module, and cannot come over another update then: unload it, and load it again \
                 while the module is there"
            ),
            FollowsOther { update, module } => write!(
                f,
                "update `{update}`, of the same functions, comes and goes with module {module}, for which this one is \
                 not: revert {update} first, or `dynamos revert {update}` and `dynamos enable {update}`, which holds the module"
            ),
            Reshaped { update } => write!(
                f,
                "a function of update `{update}` takes other parameters, or gives another result, than V1's, which those \
                 over it or below it know: it can be neither; give --replace, or revert what is there first"
            ),
            CallsUnlike { update } => write!(
                f,
                "this update calls a function that takes other parameters, or gives another result, in update `{update}` \
                 than in V1: revert `{update}` first, or make one update of both changes"
            ),
            CalledUnlike { function, update, stays } => {
                write!(
                    f,
                    "update `{update}` calls `{function}`, which takes other parameters here, or gives another result, than \
                     in V1"
                )?;
                if *stays {
                    write!(
                        f,
                        ", and may still do so when it is reverted: make one update of both changes, or load this one \
                         without `{update}` when the machine has been booted again"
                    )
                } else {
                    write!(f, ": revert `{update}` first, or make one update of both changes")
                }
            }
            ReshapedLeaves { update } => write!(
                f,
                "a function of update `{update}`, which is to leave, takes other parameters, or gives another result, \
                 than V1's: all calls are to move at one instant; use --scope system, and do not force it on new calls"
            ),
            Covered { update, by } => write!(
                f,
                "update `{by}` lies over some functions of `{update}` and counts on its others: revert `{by}` first, \
                 or load an update with --replace"
            ),
            LetsThrough { update, by } => write!(
                f,
                "update `{by}` lies over `{update}` and leaves calls to it: `dynamos policy {by} --default 1`, or \
                 revert `{by}` first"
            ),
            _ => self.fmt_matching(f),
        }
    }

    /// The refusals of the resolver.
    fn fmt_matching(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Refusal::*;
        match self {
            NoFunction { function, object } => write!(
                f,
                "function `{function}` is not in `{object}`: is the module loaded, and is it the \
                 one the update was made for?"
            ),
            Differs { function, object, candidates, mismatch } => {
                write!(
                    f,
                    "function `{function}` of `{object}` is not the one compared: {mismatch}"
                )?;
                if *candidates > 1 {
                    write!(f, " (the closest of {candidates} of that name)")?;
                }
                match mismatch.what {
                    What::Record(_) | What::Budget => write!(f, "; make the update again"),
                    _ => write!(
                        f,
                        "; an update fits only the build it was made for, and no other patch"
                    ),
                }
            }
            Unreadable { function, object } => {
                write!(f, "the code of function `{function}` of `{object}` cannot be read")
            }
            Ambiguous { function, object, matching } => write!(
                f,
                "{matching} functions `{function}` of `{object}` have the same code: an anchor that \
                 calls the right one would tell them apart"
            ),
            NoParent { function, object } => write!(
                f,
                "no matched function refers to `{function}` of `{object}`, so it cannot be told where \
                 it is: its parent must be in the record"
            ),
            SameAddress { function, other } => write!(
                f,
                "functions `{function}` and `{other}` of the record are one function in the kernel: \
                 make the update again"
            ),
            Disagree { symbol, first, second } => write!(
                f,
                "`{first}` and `{second}` refer to different things as `{symbol}`: the kernel is not \
                 the build compared, or it redirects calls (retbleed=stuff does)"
            ),
            NotNamed { symbol, object, by } => write!(
                f,
                "what `{by}` refers to as `{symbol}` has no such name in `{object}`: the kernel is not \
                 the build compared, or it redirects calls (retbleed=stuff does)"
            ),
            NoSymbol { symbol, object } => write!(
                f,
                "`{symbol}`, which the update needs, is not in `{object}`: is the module loaded, and is \
                 it the one the update was made for?"
            ),
            SymbolAmbiguous { symbol, object, candidates } => write!(
                f,
                "{candidates} symbols of `{object}` are named `{symbol}`, which the update needs: an \
                 anchor that refers to the right one would tell them apart"
            ),
            SymbolUnreferenced { symbol, object } => write!(
                f,
                "no matched function refers to `{symbol}` of `{object}`, which the update needs and \
                 which has no name in the kernel: an anchor that refers to it would give its address"
            ),
            _ => Ok(()),
        }
    }
}

impl core::error::Error for Refusal<'_> {}

/// How a wait ended.
fn ended(interrupted: bool) -> &'static str {
    if interrupted { "interrupted" } else { "given up" }
}
