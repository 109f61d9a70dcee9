//! The record that an update module carries and `dynamos.ko` reads.
//!
//! A record is one block of bytes: a header, eight tables of fixed-size entries, a table of strings and a block
//! of raw bytes. It holds no pointer. What only the module loader knows, the addresses of the update's own
//! code and data, stands beside it as an array of `u64` that the record refers to by index ([`AddrIndex`]).
//!
//! [`Record::parse`] checks every index, range and string once, so that its accessors cannot fail: a record
//! comes from a file and is not to be trusted. Integers are little-endian.
//!
//! Both sides compile this crate. Any change to the format changes [`ABI`].

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "write")]
extern crate alloc;

mod entry;
mod read;
#[cfg(feature = "write")]
mod write;

pub use entry::{
    Alternative, Bytes, Code, Function, Hook, HookKind, Object, Relocation, RelocationKind, Site,
    SiteKind, Slot, Str, Symbol, edition, function_flags, symbol_flags,
};
pub use read::{Alternatives, Record, RecordError, Table};
#[cfg(feature = "write")]
pub use write::RecordWriter;

/// Version of the record format. `struct dynamos_update_desc` in `kmod/module/dynamos.h` has its own.
pub const ABI: u32 = 11;

/// The object that is the kernel itself: it does not come and go as modules do.
pub const VMLINUX: &str = "vmlinux";

/// First bytes of every record.
pub const MAGIC: [u8; 8] = *b"DYNAMOS\0";

/// Index of an entry in the array of addresses that accompanies a record.
pub type AddrIndex = u32;

/// "No such entry", for optional indices.
pub const NONE: u32 = u32::MAX;

/// The place in an update's text where the policies of one function are written, as `handlers.S` lays it out.
pub mod policy {
    /// Offset of the handler that stays with edition 0: `endbr64; ret`.
    pub const LEAVE: u64 = 0;
    /// Offset of the first slot.
    pub const SLOTS: u64 = 16;
    /// Number of slots: one that is used, one to write the next policy to.
    pub const COUNT: u64 = 2;
    /// Bytes of a slot.
    pub const SLOT: u64 = 1024;
    /// Bytes of all of it.
    pub const SIZE: u64 = SLOTS + COUNT * SLOT;
    /// How far into the steady handler the code is that takes the edition: behind its `endbr64`.
    pub const PAST_ENDBR: u64 = 4;
}

/// The use counters of the objects that calls work on, in an update's data: one word for the edition that objects are to
/// have (0 or 1), then the counters.
///
/// A counter is twice the number of calls that are under way, plus the edition that they have. Objects are spread over the
/// counters by their addresses; those of one counter move together.
pub mod counters {
    /// Number of counters.
    pub const COUNT: u64 = 1 << BITS;
    /// Bits of a counter's index: the first of the product of address and [`SPREAD`].
    pub const BITS: u32 = 12;
    /// Spreads addresses, which are far from random (2^64 / golden ratio, odd).
    pub const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    /// Added to a counter by each call that begins, and subtracted when it ends.
    pub const CALL: u64 = 2;
    /// Added too, and never subtracted: that no call has begun can be told. It begins anew after 2^32.
    pub const BEGUN: u64 = 1 << 32;
    /// The bits for the edition and the calls under way.
    pub const UNDER_WAY: u64 = BEGUN - 1;
    /// Bytes of all of it.
    pub const SIZE: u64 = (1 + COUNT) * 8;
    /// Bytes of the place from where a counting handler goes on in edition 0: room for a jump.
    pub const ORIGINAL: u64 = 5;
}

/// Functions that a task is in when no look at stacks shows it: the ends of an exiting task, which goes on after it has left
/// every list (`release_task`), and what the stopper threads are in while all CPUs are stopped. A task's last moments
/// are waited for with RCU-tasks (`exit_tasks_rcu_start`), so such a function can be replaced and left; but
/// nobody can say at an instant that no task is in it, or which edition a task has. Both kernels, `kernel/exit.c`, `kernel/kthread.c`,
/// `kernel/smpboot.c`, `kernel/stop_machine.c`.
pub const LEAVES_UNSEEN: [&str; 6] = [
    "do_exit",
    "do_task_dead",
    "kthread",
    "smpboot_thread_fn",
    "cpu_stopper_thread",
    "multi_cpu_stop",
];

/// Functions in which a CPU stays that is taken offline: on no stack that is looked at, and for nothing to wait for. Both
/// kernels, `arch/x86/kernel/smpboot.c`, `drivers/acpi/processor_idle.c`, `arch/x86/xen/smp_pv.c`.
pub const PARKS_CPUS: [&str; 7] = [
    "native_play_dead",
    "mwait_play_dead",
    "mwait_play_dead_cpuid_hint",
    "hlt_play_dead",
    "acpi_idle_play_dead",
    "xen_pv_play_dead",
    "stop_this_cpu",
];

/// The most bytes a record may have: far above what any update needs, far below what could exhaust a kernel.
pub const MAX_RECORD: usize = 64 << 20;
