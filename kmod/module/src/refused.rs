//! Why an operation on an update failed, and the error number that its caller gets.

use alloc::vec::Vec;
use core::fmt;

use dynamos_abi::RecordError;
use dynamos_core::{Name, OptionsError, Refusal};

use crate::ffi::errno::Errno;
use crate::ffi::memory::TryVec;
use crate::ffi::text::FixedText;

/// Why an operation failed.
pub(crate) enum Refused {
    /// The version manager, the matcher or a step of the switch says so.
    Decision(Refusal<'static>),
    /// The record cannot be read.
    Record(RecordError),
    /// The descriptor, or the update's module, is not what it should be.
    Descriptor(&'static str),
    /// Somebody else is switching the update.
    InProgress,
    /// A policy is not one, or not one for this update.
    Policy(Vec<u8>),
    /// What is asked for is not understood.
    Options(OptionsError),
    /// It is to lie over other updates, but its own adaptation handler of this function leads to edition 0.
    Adapts(&'static str),
    /// Another update lies over it, and leads to what its policies of this function have made.
    Below { function: &'static str, by: Name },
    /// The kernel says so.
    Kernel(Errno),
}

impl Refused {
    /// A policy is refused for this.
    pub(crate) fn policy(reason: fmt::Arguments<'_>) -> Self {
        let text = FixedText::<400>::new(reason);
        Vec::try_filled_from(text.as_bytes()).map_or_else(Refused::Kernel, Refused::Policy)
    }

    /// Whether it says nothing of the update, and of this moment only.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Refused::InProgress | Refused::Decision(Refusal::OutOfMemory) => true,
            Refused::Kernel(errno) => {
                matches!(*errno, Errno::ENOMEM | Errno::EBUSY | Errno::EINTR)
            }
            Refused::Decision(Refusal::Failed { errno, .. }) => {
                matches!(from_core(*errno), Errno::ENOMEM | Errno::EINTR)
            }
            _ => false,
        }
    }

    /// The caller's error number.
    pub(crate) fn errno(&self) -> Errno {
        use Refusal::*;
        match self {
            Refused::Descriptor(_)
            | Refused::Record(_)
            | Refused::Policy(_)
            | Refused::Options(_) => Errno::EINVAL,
            Refused::InProgress | Refused::Below { .. } => Errno::EBUSY,
            Refused::Adapts(_) => Errno::EINVAL,
            Refused::Kernel(errno) => *errno,
            Refused::Decision(refusal) => match refusal {
                OutOfMemory => Errno::ENOMEM,
                Duplicate { .. } => Errno::EEXIST,
                NoFunction { .. } | NoSymbol { .. } | NoSuchUpdate => Errno::ENOENT,
                TooFar { .. } | OutsideUpdate { .. } | Record(_) | TooMuchWork | BadName { .. } => {
                    Errno::EINVAL
                }
                Blocked { interrupted: true, .. }
                | Busy { interrupted: true, .. }
                | NotYet { interrupted: true, .. }
                | Resting { .. } => Errno::EINTR,
                Blocked { .. } | Busy { .. } | NotYet { .. } => Errno::EBUSY,
                AlreadyReplaced { .. }
                | Unsettled { .. }
                | FollowsModule { .. }
                | FollowsOther { .. }
                | Covered { .. }
                | LetsThrough { .. }
                | WrongState { .. }
                | Pinned { .. }
                | HandlerDiffers { .. }
                | HasHandlers { .. }
                | HasHooks { .. }
                | HasPhases { .. }
                | CallsUnlike { .. }
                | CalledUnlike { .. }
                | Reshaped { .. } => Errno::EBUSY,
                HookRuns { interrupted: true, .. } => Errno::EINTR,
                HookRuns { .. } => Errno::ETIMEDOUT,
                HookRefused { result, .. } => of_hook(*result),
                HandlersNeedSystem
                | ReshapedNeedsWhole
                | ReshapedLeaves { .. }
                | PhasesNeedFunction
                | NoPhases
                | NoScope { .. }
                | LeavesUnseen { .. }
                | ParksCpus { .. }
                | Moving { .. } => Errno::EINVAL,
                Failed { errno, .. } => from_core(*errno),
                // All others: the running code is not what was compared.
                _ => Errno::ENOEXEC,
            },
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Decision(refusal) => write!(f, "{refusal}"),
            Refused::Record(error) => write!(f, "{error}"),
            Refused::Descriptor(what) => write!(f, "{what}: make the update again"),
            Refused::InProgress => {
                write!(f, "it is being switched by somebody else: wait until that is over")
            }
            Refused::Policy(reason) => {
                f.write_str(core::str::from_utf8(reason).unwrap_or_default())
            }
            Refused::Options(error) => write!(f, "{error}"),
            Refused::Adapts(function) => write!(
                f,
                "the update's own adaptation handler of `{function}` leaves calls to edition 0, so it cannot lie over \
                 an update that replaces it too: give --replace to take its place, or revert it first"
            ),
            Refused::Below { function, by } => write!(
                f,
                "update `{by}` lies over it and leaves calls of `{function}` to what is in force now: revert `{by}` \
                 first, or give `{by}` the policy"
            ),
            Refused::Kernel(errno) => write!(f, "the kernel answers {errno}"),
        }
    }
}

impl From<Refusal<'static>> for Refused {
    fn from(refusal: Refusal<'static>) -> Self {
        Refused::Decision(refusal)
    }
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Refused::Kernel(errno)
    }
}

/// The same number in the terms of `dynamos-core`.
pub(crate) fn to_core(errno: Errno) -> dynamos_core::Errno {
    dynamos_core::Errno(errno.negative().saturating_neg())
}

/// The error number that a hook gives, if it is one that user space knows. `EINTR` would have it called again.
fn of_hook(result: i32) -> Errno {
    let answer = Errno::check(result).err().filter(|_| result > -512);
    let answer = answer.filter(|errno| *errno != Errno::EINTR);
    answer.unwrap_or(Errno::ECANCELED)
}

fn from_core(errno: dynamos_core::Errno) -> Errno {
    Errno::check(errno.0.saturating_neg()).err().unwrap_or(Errno::EIO)
}
