//! Evaluates a policy: no lock, no allocation, no division, at most 64 steps.

use super::program::{Compare, Field, Program, Step, Target, Test, comm_mask};

/// What a policy can ask about the call. Each is asked only when a test needs it.
pub trait Context {
    /// `current->pid`.
    fn pid(&self) -> u32;
    /// `current->tgid`.
    fn tgid(&self) -> u32;
    /// `current_uid()`, in the initial user namespace.
    fn uid(&self) -> u32;
    /// `raw_smp_processor_id()`.
    fn cpu(&self) -> u32;
    /// The id of the task's cgroup in the default hierarchy (`cgroup_id(task_dfl_cgroup(current))`).
    fn cgroup(&self) -> u64;
    /// `current->comm`.
    fn comm(&self) -> [u8; 16];
    /// Ticks since boot (`jiffies_64 - INITIAL_JIFFIES`).
    fn ticks(&self) -> u64;
    /// When the process began: `current->group_leader->start_time`.
    fn started(&self) -> u64;
    /// An argument's register; `index` is 0 to 5.
    fn argument(&self, index: usize) -> u64;
}

/// 2⁶⁴ divided by the golden ratio, made odd.
pub(super) const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where a process lies among all, of 2³²: `percent(P)` takes those below P %.
///
/// The same for all threads of a process and for as long as it lives; `execve` keeps it, a child has its own.
/// Who is drawn at some share is drawn at every greater share with the same seed.
///
/// Two multiplications with the bytes turned round between them, because the second spreads what the first
/// gathered in the high bits: as few instructions as can be, since a handler does this on every call.
pub fn share(tgid: u32, started: u64, seed: u64) -> u32 {
    let mixed = (seed ^ started).wrapping_add(u64::from(tgid)).wrapping_mul(SPREAD);
    (mixed.swap_bytes().wrapping_mul(SPREAD) >> 32) as u32
}

impl Program {
    /// Whether this call takes the edition.
    pub fn decide(&self, context: &impl Context) -> bool {
        let mut at = self.start();
        loop {
            match at {
                Target::Answer(answer) => return answer,
                // Ends, because `parse` lets a step lead to later ones only.
                Target::Step(index) => match self.steps().get(usize::from(index)) {
                    Some(step) => at = step.next(context),
                    None => return false,
                },
            }
        }
    }
}

impl Step {
    /// Where the answer of its test leads.
    pub(crate) fn next(&self, context: &impl Context) -> Target {
        if self.test.holds(context) { self.yes } else { self.no }
    }
}

impl Test {
    fn holds(&self, context: &impl Context) -> bool {
        match *self {
            Test::Integer { field, as_type, mask, compare, value } => {
                let found = as_type.extend(field.value(context)) & mask;
                match compare {
                    Compare::Equal => found == value,
                    Compare::Below => found < value,
                    Compare::Less => found.cast_signed() < value.cast_signed(),
                }
            }
            Test::Comm { bytes: [low, high], len } => {
                let [mask_low, mask_high] = comm_mask(len);
                let [found_low, found_high] = comm_words(context.comm());
                (found_low ^ low) & mask_low == 0 && (found_high ^ high) & mask_high == 0
            }
            Test::Percent { seed, below } => share(context.tgid(), context.started(), seed) < below,
        }
    }
}

impl Field {
    fn value(self, context: &impl Context) -> u64 {
        match self {
            Field::Pid => u64::from(context.pid()),
            Field::Tgid => u64::from(context.tgid()),
            Field::Uid => u64::from(context.uid()),
            Field::Cpu => u64::from(context.cpu()),
            Field::Cgroup => context.cgroup(),
            Field::Time => context.ticks(),
            Field::Arg1 => context.argument(0),
            Field::Arg2 => context.argument(1),
            Field::Arg3 => context.argument(2),
            Field::Arg4 => context.argument(3),
            Field::Arg5 => context.argument(4),
            Field::Arg6 => context.argument(5),
        }
    }
}

/// A name as two little-endian words.
pub(crate) fn comm_words(comm: [u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(comm);
    [both as u64, (both >> 64) as u64]
}
