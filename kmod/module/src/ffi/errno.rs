//! The kernel's error numbers.

use core::ffi::c_int;
use core::fmt;

/// A positive error number, as in `errno.h`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(c_int);

impl Errno {
    /// Operation not permitted.
    pub const EPERM: Self = Self(1);
    /// No such file, symbol or module.
    pub const ENOENT: Self = Self(2);
    /// Interrupted by a fatal signal.
    pub const EINTR: Self = Self(4);
    /// Input or output failed: what was written does not read back.
    pub const EIO: Self = Self(5);
    /// Something changed meanwhile.
    pub const EAGAIN: Self = Self(11);
    /// Out of memory.
    pub const ENOMEM: Self = Self(12);
    /// Address not mapped, or not where it may be.
    pub const EFAULT: Self = Self(14);
    /// In use by someone else.
    pub const EBUSY: Self = Self(16);
    /// Exists already.
    pub const EEXIST: Self = Self(17);
    /// The kernel lacks a facility.
    pub const ENODEV: Self = Self(19);
    /// Malformed argument.
    pub const EINVAL: Self = Self(22);
    /// No room.
    pub const ENOSPC: Self = Self(28);
    /// The kernel cannot do it.
    pub const EOPNOTSUPP: Self = Self(95);
    /// A time limit passed.
    pub const ETIMEDOUT: Self = Self(110);
    /// Given up: something that was asked says no.
    pub const ECANCELED: Self = Self(125);
    /// Wrong version of an interface.
    pub const EPROTO: Self = Self(71);
    /// Does not match: the running code is not what was compared.
    pub const ENOEXEC: Self = Self(8);

    /// The number as C functions return it: below zero.
    #[must_use]
    pub const fn negative(self) -> c_int {
        -self.0
    }

    /// Reads the result of a C function that returns zero or a negative number.
    ///
    /// # Errors
    /// The number, where it is negative.
    pub const fn check(result: c_int) -> Result<c_int, Self> {
        if result < 0 { Err(Self(result.saturating_neg())) } else { Ok(result) }
    }

    const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::EPERM => "EPERM",
            Self::ENOENT => "ENOENT",
            Self::EINTR => "EINTR",
            Self::EIO => "EIO",
            Self::EAGAIN => "EAGAIN",
            Self::ENOMEM => "ENOMEM",
            Self::EFAULT => "EFAULT",
            Self::EBUSY => "EBUSY",
            Self::EEXIST => "EEXIST",
            Self::ENODEV => "ENODEV",
            Self::EINVAL => "EINVAL",
            Self::ETIMEDOUT => "ETIMEDOUT",
            Self::ECANCELED => "ECANCELED",
            Self::EPROTO => "EPROTO",
            Self::ENOEXEC => "ENOEXEC",
            _ => return None,
        })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
