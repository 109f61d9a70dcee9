//! A policy as machine code, for x86-64: what runs at the entry of a redirected function.
//!
//! The code is entered as an ftrace direct call: the stack and the registers are those of the function's
//! caller, below one more return address, into edition 0. `rax`, `r10`, `r11` and the flags are free there (System
//! V ABI for x86-64, 3.2.1: neither arguments nor preserved; the kernel has no varargs in vector registers and
//! no static chain). The code uses these four and nothing else: no stack, no other register, no memory but
//! the CPU's preemption count, which it leaves as it was. It ends with a jump to one of two stubs that the
//! update brings, compiled and seen by objtool, so that unwind data and return thunks are right:
//!
//! ```text
//! take:   add $8, %rsp; jmp edition          leave:  ret
//! ```
//!
//! As the stack pointer never moves, one ORC entry is right for all of it.
//!
//! All jumps have 32-bit displacements, so sizes do not depend on distances and two passes are enough: the
//! first finds where the steps lie, the second writes.

mod assemble;
#[cfg(test)]
#[allow(clippy::panic)]
pub(crate) mod emulate;
#[cfg(test)]
mod tests;

use core::fmt;

pub(crate) use assemble::{Assembler, Condition, Free, WIDE};

use super::decide::SPREAD;
use super::program::{Compare, Field, IntegerType, MAX_STEPS, Program, Step, Target, Test};

/// Where the running kernel keeps what policies ask for. `offsetof` in the module's shim, which is compiled
/// against that kernel's headers; never guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Offset from `gs` of the pointer to the current task (`current_task`, or in `pcpu_hot`).
    pub current: u32,
    /// Offset from `gs` of the CPU's number.
    pub cpu: u32,
    /// Offset from `gs` of the preemption count.
    pub preempt_count: u32,
    /// `offsetof(struct task_struct, pid)`.
    pub pid: u32,
    /// `offsetof(struct task_struct, tgid)`.
    pub tgid: u32,
    /// `offsetof(struct task_struct, comm)`.
    pub comm: u32,
    /// `offsetof(struct task_struct, group_leader)`.
    pub group_leader: u32,
    /// `offsetof(struct task_struct, start_time)`.
    pub start_time: u32,
    /// `offsetof(struct task_struct, cred)`.
    pub cred: u32,
    /// `offsetof(struct cred, uid)`.
    pub uid: u32,
    /// `offsetof(struct task_struct, cgroups)`.
    pub cgroups: u32,
    /// `offsetof(struct css_set, dfl_cgrp)`.
    pub dfl_cgrp: u32,
    /// `offsetof(struct cgroup, kn)`.
    pub kn: u32,
    /// `offsetof(struct kernfs_node, id)`.
    pub kn_id: u32,
    /// Address of `jiffies_64`.
    pub jiffies: u64,
    /// `INITIAL_JIFFIES`.
    pub initial_jiffies: u64,
}

/// Where the code will lie, and what it goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Address of the code's first byte.
    pub at: u64,
    /// Where to jump if the call takes the edition.
    pub take: u64,
    /// Where to jump if it stays with edition 0.
    pub leave: u64,
    /// What to call where `preempt_enable()` would call the scheduler. It preserves *every* register, as the
    /// kernel's static call trampoline `__SCT__preempt_schedule_notrace` does: that leads to a thunk which saves
    /// them, or returns at once where the kernel was booted without preemption.
    pub resched: u64,
}

/// Why there is no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeError {
    /// The code does not fit.
    TooLong {
        /// Bytes it takes.
        needed: usize,
        /// Bytes there are.
        room: usize,
    },
    /// An address is out of reach of 32 bits.
    TooFar(&'static str),
}

impl fmt::Display for NativeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { needed, room } => write!(
                f,
                "the policy's code takes {needed} bytes and the handler has room for {room}: \
                 use fewer conditions"
            ),
            Self::TooFar(what) => write!(f, "{what} cannot be reached from the policy's code"),
        }
    }
}

/// Writes the code of `program` to `into`, and breakpoints to what is left; gives the code's length.
///
/// On an error nothing that is in `into` may be run.
pub fn generate(
    program: &Program,
    layout: &Layout,
    place: &Place,
    into: &mut [u8],
) -> Result<usize, NativeError> {
    let room = into.len();
    let mut labels = Labels([0; MAX_STEPS]);
    let mut measure = Assembler::new(&mut [], place.at);
    write(program, layout, place, &mut measure, &mut labels);
    let needed = measure.len();
    if needed > room {
        return Err(NativeError::TooLong { needed, room });
    }
    let mut code = Assembler::new(into, place.at);
    write(program, layout, place, &mut code, &mut labels);
    code.finish()
}

/// Offsets of the steps; zeros until they have been found.
struct Labels([usize; MAX_STEPS]);

impl Labels {
    fn set(&mut self, step: usize, offset: usize) {
        if let Some(label) = self.0.get_mut(step) {
            *label = offset;
        }
    }

    fn address(&self, target: Target, place: &Place) -> u64 {
        match target {
            Target::Answer(true) => place.take,
            Target::Answer(false) => place.leave,
            Target::Step(step) => {
                let offset = self.0.get(usize::from(step)).copied().unwrap_or(0);
                place.at.wrapping_add(offset as u64)
            }
        }
    }
}

fn write(
    program: &Program,
    layout: &Layout,
    place: &Place,
    code: &mut Assembler<'_>,
    labels: &mut Labels,
) {
    // The handler may be reached by an indirect jump too (CONFIG_X86_KERNEL_IBT).
    code.endbr64();
    if program.steps().iter().any(|step| needs_current(&step.test)) {
        code.load_gs(WIDE, Free::Rax, layout.current);
    }
    if program.start() != Target::Step(0) {
        code.jump(labels.address(program.start(), place));
    }
    for (index, step) in program.steps().iter().enumerate() {
        labels.set(index, code.len());
        let mut writer = StepWriter { step, index, layout, place, code, labels };
        writer.write();
    }
}

fn needs_current(test: &Test) -> bool {
    match test {
        Test::Integer { field, .. } => {
            field.argument().is_none() && !matches!(field, Field::Cpu | Field::Time)
        }
        Test::Comm { .. } | Test::Percent { .. } => true,
    }
}

struct StepWriter<'a, 'b> {
    step: &'a Step,
    index: usize,
    layout: &'a Layout,
    place: &'a Place,
    code: &'a mut Assembler<'b>,
    labels: &'a Labels,
}

impl StepWriter<'_, '_> {
    fn write(&mut self) {
        match self.step.test {
            Test::Integer { field, as_type, mask, compare, value } => {
                self.load(field, as_type);
                self.code.and_constant(mask);
                self.code.compare_constant(value);
                self.branch(match compare {
                    Compare::Equal => Condition::Equal,
                    Compare::Below => Condition::Below,
                    Compare::Less => Condition::Less,
                });
            }
            Test::Comm { bytes, len } => self.comm(bytes, len),
            Test::Percent { seed, below } => self.percent(seed, below),
        }
    }

    /// The field's value into `r10`.
    fn load(&mut self, field: Field, as_type: IntegerType) {
        use Free::{R10, Rax};
        let (code, layout) = (&mut *self.code, self.layout);
        match (field, field.argument()) {
            (_, Some(index)) => code.load_argument(index, as_type),
            (Field::Pid, _) => code.load(!WIDE, R10, Rax, layout.pid),
            (Field::Tgid, _) => code.load(!WIDE, R10, Rax, layout.tgid),
            (Field::Cpu, _) => code.load_gs(!WIDE, R10, layout.cpu),
            (Field::Uid, _) => {
                // Only the task itself replaces its `cred`, so it needs no RCU.
                code.load(WIDE, R10, Rax, layout.cred);
                code.load(!WIDE, R10, R10, layout.uid);
            }
            (Field::Cgroup, _) => self.cgroup(),
            _ => {
                code.load_absolute(R10, layout.jiffies);
                code.constant(Free::R11, layout.initial_jiffies);
                code.subtract();
            }
        }
    }

    /// Another task may move this one to another cgroup, and then the old `css_set` is freed after an RCU grace
    /// period. Where preemption is off, RCU has a reader (for `rcu_read_lock` as well, since 4.20).
    fn cgroup(&mut self) {
        use Free::{R10, Rax};
        let (code, layout) = (&mut *self.code, self.layout);
        code.count_gs(true, layout.preempt_count);
        code.load(WIDE, R10, Rax, layout.cgroups);
        code.load(WIDE, R10, R10, layout.dfl_cgrp);
        code.load(WIDE, R10, R10, layout.kn);
        code.load(WIDE, R10, R10, layout.kn_id);
        // Zero means: nothing else forbids it, and somebody asked for it (`__preempt_count_dec_and_test`).
        code.count_gs(false, layout.preempt_count);
        code.call_if_zero(self.place.resched);
    }

    /// A word of the name at a time, shifted so that what does not count falls out.
    fn comm(&mut self, words: [u64; 2], len: u8) {
        let words = words.into_iter().zip([len.min(8), len.saturating_sub(8)]).zip([0, 8]);
        for ((word, count), offset) in words {
            if count == 0 {
                break;
            }
            let code = &mut *self.code;
            code.load(WIDE, Free::R10, Free::Rax, self.layout.comm.wrapping_add(offset));
            let unused = 64 - 8 * u32::from(count);
            if unused != 0 {
                code.shift_left(unused as u8);
            }
            code.compare_constant(word << unused);
            let last = offset == 8 || len <= 8;
            if last {
                self.branch(Condition::Equal);
            } else {
                code.jump_if(Condition::Equal.not(), self.labels.address(self.step.no, self.place));
            }
        }
    }

    /// [`share`](super::share), instruction by instruction.
    fn percent(&mut self, seed: u64, below: u32) {
        use Free::{R10, R11, Rax};
        let (code, layout) = (&mut *self.code, self.layout);
        code.constant(R10, seed);
        code.load(WIDE, R11, Rax, layout.group_leader);
        code.xor_memory(layout.start_time);
        code.load(!WIDE, R11, Rax, layout.tgid);
        code.add();
        code.constant(R11, SPREAD);
        code.multiply();
        code.swap_bytes();
        code.multiply();
        code.shift_right(32);
        code.compare_low(below);
        self.branch(Condition::Below);
    }

    /// Goes on by the flags; falls through where the next step follows.
    fn branch(&mut self, holds: Condition) {
        let follows = u8::try_from(self.index + 1).map(Target::Step);
        let Step { yes, no, .. } = *self.step;
        let address = |target| self.labels.address(target, self.place);
        if Ok(no) == follows {
            self.code.jump_if(holds, address(yes));
        } else {
            self.code.jump_if(holds.not(), address(no));
            if Ok(yes) != follows {
                self.code.jump(address(yes));
            }
        }
    }
}
