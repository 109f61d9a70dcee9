//! The bytes of a policy, and how the kernel's side reads them: nothing is taken on trust.
//!
//! All numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `DYP1` |
//! | 1 | number of steps, at most [`MAX_STEPS`] |
//! | 1 | where to start: a step, or an answer |
//! | 2 | length of the source text, at most [`MAX_SOURCE`] |
//! | 24 each | the steps |
//! | | the source text, for people |
//!
//! A step is `kind, field, type, compare, yes, no, length, 0`, then two words. `yes` and `no` are the index of
//! a later step, or `0xff` to take the edition, or `0xfe` not to.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The most tests in a policy.
pub const MAX_STEPS: usize = 64;
/// The longest source text, in bytes.
pub const MAX_SOURCE: usize = 1024;
/// The most bytes a policy has: it fits in one write to a sysfs file.
pub const MAX_BYTES: usize = HEADER + MAX_STEPS * STEP + MAX_SOURCE;

const MAGIC: [u8; 4] = *b"DYP1";
const HEADER: usize = 8;
const STEP: usize = 24;
const TAKE: u8 = 0xff;
const LEAVE: u8 = 0xfe;
const INTEGER: u8 = 0;
const COMM: u8 = 1;
const PERCENT: u8 = 2;

/// Declares an enum that is a byte in the program.
macro_rules! byte {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
        impl $name {
            /// All of them, in the order of their encoding.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            fn decode(byte: u8) -> Result<Self, ProgramError> {
                Self::ALL.get(usize::from(byte)).copied().ok_or(ProgramError::Value(stringify!($name)))
            }
        }
    };
}

byte! {
    /// Something with an integer value.
    Field {
        /// The task's id (`current->pid`), in the initial namespace.
        Pid,
        /// The task's process (`current->tgid`).
        Tgid,
        /// The real user id, in the initial user namespace.
        Uid,
        /// The CPU it runs on at this moment.
        Cpu,
        /// The id of its cgroup in the default hierarchy.
        Cgroup,
        /// Time since boot without suspend. Seconds in the bytes, ticks once parsed.
        Time,
        /// The function's first argument: `rdi`.
        Arg1,
        /// `rsi`.
        Arg2,
        /// `rdx`.
        Arg3,
        /// `rcx`.
        Arg4,
        /// `r8`.
        Arg5,
        /// `r9`.
        Arg6,
    }
}

byte! {
    /// How many of a register's bits an argument has, and whether the highest is a sign. The ABI leaves the
    /// bits above undefined (System V ABI for x86-64, 3.2.3), so they must not be compared.
    IntegerType {
        /// 8 bits, unsigned.
        U8,
        /// 16 bits, unsigned.
        U16,
        /// 32 bits, unsigned.
        U32,
        /// 64 bits, unsigned, and pointers.
        U64,
        /// 8 bits, signed.
        S8,
        /// 16 bits, signed.
        S16,
        /// 32 bits, signed.
        S32,
        /// 64 bits, signed.
        S64,
    }
}

byte! {
    /// A comparison; the others are these with the targets exchanged or the value moved by one.
    Compare {
        /// Equal.
        Equal,
        /// Unsigned less.
        Below,
        /// Signed less.
        Less,
    }
}

impl IntegerType {
    /// `register` reduced to this type and extended to 64 bits again.
    pub fn extend(self, register: u64) -> u64 {
        match self {
            IntegerType::U8 => register & 0xff,
            IntegerType::U16 => register & 0xffff,
            IntegerType::U32 => register & 0xffff_ffff,
            IntegerType::U64 | IntegerType::S64 => register,
            IntegerType::S8 => register as i8 as u64,
            IntegerType::S16 => register as i16 as u64,
            IntegerType::S32 => register as i32 as u64,
        }
    }
}

impl IntegerType {
    /// The name in the language.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::S8 => "s8",
            Self::S16 => "s16",
            Self::S32 => "s32",
            Self::S64 => "s64",
        }
    }

    /// Whether its highest bit is a sign.
    pub fn signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    /// How many bits it has.
    pub fn bits(self) -> u32 {
        match self {
            Self::U8 | Self::S8 => 8,
            Self::U16 | Self::S16 => 16,
            Self::U32 | Self::S32 => 32,
            Self::U64 | Self::S64 => 64,
        }
    }
}

impl Field {
    /// The name in the language.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Tgid => "tgid",
            Self::Uid => "uid",
            Self::Cpu => "cpu",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
            Self::Arg1 => "arg1",
            Self::Arg2 => "arg2",
            Self::Arg3 => "arg3",
            Self::Arg4 => "arg4",
            Self::Arg5 => "arg5",
            Self::Arg6 => "arg6",
        }
    }
}

/// What a step asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// `(field as type) & mask` compared with a value.
    Integer {
        /// What to look at.
        field: Field,
        /// Its type; [`IntegerType::U64`] for all but arguments.
        as_type: IntegerType,
        /// The bits that count.
        mask: u64,
        /// How to compare.
        compare: Compare,
        /// What with.
        value: u64,
    },
    /// Whether the first bytes of the task's name, which a NUL ends, are these.
    Comm {
        /// The bytes as two words, 0 beyond `len`.
        bytes: [u64; 2],
        /// How many bytes count, 1 to 16.
        len: u8,
    },
    /// Whether [`share`](super::share) of the task's process is below this.
    Percent {
        /// Which tasks are drawn.
        seed: u64,
        /// The share of 2³² that is.
        below: u32,
    },
}

/// Where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The answer: yes, take the edition; or no.
    Answer(bool),
    /// This step.
    Step(u8),
}

/// A test and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The question.
    pub test: Test,
    /// Where to go on if it holds.
    pub yes: Target,
    /// Where to go on if not.
    pub no: Target,
}

/// Why bytes are no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The texts below say what the fields are.
pub enum ProgramError {
    /// Not of this format or version.
    NotAPolicy,
    /// The length is not what the header says.
    Length,
    /// More steps, or a longer text, than a policy has.
    TooLong,
    /// A value that does not exist, or not here.
    Value(&'static str),
    /// A step that does not lead forward, or leads outside.
    Jump { step: u8 },
    /// No memory.
    OutOfMemory,
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAPolicy => f.write_str(
                "not a policy of this version: use the control command that belongs to this module",
            ),
            Self::Length => f.write_str("the policy is not as long as its header says"),
            Self::TooLong => {
                write!(f, "a policy has at most {MAX_STEPS} tests and {MAX_SOURCE} bytes of text")
            }
            Self::Value(what) => write!(f, "the policy's {what} is not one that exists there"),
            Self::Jump { step } => write!(f, "step {step} of the policy does not lead forward"),
            Self::OutOfMemory => f.write_str("out of memory: free some and try again"),
        }
    }
}

/// A checked policy.
///
/// Every target is an answer or a later step: that is what makes [`Program::decide`] end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    steps: Vec<Step>,
    start: Target,
    source: String,
}

impl Program {
    /// Reads and checks a policy. `hz` is the frequency of the ticks that the context counts time in.
    pub fn parse(bytes: &[u8], hz: u32) -> Result<Program, ProgramError> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(ProgramError::NotAPolicy)?;
        let [a, b, c, d, count, start, len_low, len_high] = *header;
        if [a, b, c, d] != MAGIC {
            return Err(ProgramError::NotAPolicy);
        }
        let source_len = usize::from(u16::from_le_bytes([len_low, len_high]));
        if usize::from(count) > MAX_STEPS || source_len > MAX_SOURCE {
            return Err(ProgramError::TooLong);
        }
        let (code, text) =
            rest.split_at_checked(usize::from(count) * STEP).ok_or(ProgramError::Length)?;
        if text.len() != source_len {
            return Err(ProgramError::Length);
        }
        // Before the first step everything is forward.
        let start = target(start, 0, count).ok_or(ProgramError::Value("start"))?;
        let mut steps = Vec::new();
        steps.try_reserve_exact(usize::from(count)).map_err(|_| ProgramError::OutOfMemory)?;
        for (index, bytes) in (0..count).zip(code.chunks_exact(STEP)) {
            let bytes = bytes.first_chunk().ok_or(ProgramError::Length)?;
            steps.push(step(bytes, index, count, hz)?);
        }
        Ok(Program { steps, start, source: source(text)? })
    }

    /// The text it was compiled from, for people: one line.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The steps.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Where it starts.
    pub fn start(&self) -> Target {
        self.start
    }
}

/// The target `byte`, which must not lead before step `least`.
fn target(byte: u8, least: u8, count: u8) -> Option<Target> {
    match byte {
        TAKE => Some(Target::Answer(true)),
        LEAVE => Some(Target::Answer(false)),
        step if step >= least && step < count => Some(Target::Step(step)),
        _ => None,
    }
}

fn source(text: &[u8]) -> Result<String, ProgramError> {
    let text = core::str::from_utf8(text).map_err(|_| ProgramError::Value("text"))?;
    // It is shown on terminals and in logs.
    if text.chars().any(char::is_control) {
        return Err(ProgramError::Value("text"));
    }
    let mut source = String::new();
    source.try_reserve_exact(text.len()).map_err(|_| ProgramError::OutOfMemory)?;
    source.push_str(text);
    Ok(source)
}

fn step(bytes: &[u8; STEP], index: u8, count: u8, hz: u32) -> Result<Step, ProgramError> {
    let (head, words) = bytes.split_first_chunk::<8>().ok_or(ProgramError::Length)?;
    let (first, second) = words.split_first_chunk::<8>().ok_or(ProgramError::Length)?;
    let second = second.first_chunk::<8>().ok_or(ProgramError::Length)?;
    let words = [u64::from_le_bytes(*first), u64::from_le_bytes(*second)];
    let [kind, field, as_type, compare, yes, no, len, zero] = *head;
    if zero != 0 {
        return Err(ProgramError::Value("reserved byte"));
    }
    let test = match (kind, [field, as_type, compare], len) {
        (INTEGER, _, 0) => integer(field, as_type, compare, words, hz)?,
        (COMM, [0, 0, 0], _) => comm(words, len)?,
        (PERCENT, [0, 0, 0], 0) => {
            let [seed, below] = words;
            let below = u32::try_from(below).map_err(|_| ProgramError::Value("share"))?;
            Test::Percent { seed, below }
        }
        _ => return Err(ProgramError::Value("test")),
    };
    let next = |byte| target(byte, index + 1, count).ok_or(ProgramError::Jump { step: index });
    Ok(Step { test, yes: next(yes)?, no: next(no)? })
}

fn integer(
    field: u8,
    as_type: u8,
    compare: u8,
    [mask, value]: [u64; 2],
    hz: u32,
) -> Result<Test, ProgramError> {
    let field = Field::decode(field)?;
    let as_type = IntegerType::decode(as_type)?;
    let compare = Compare::decode(compare)?;
    if field.argument().is_none() && as_type != IntegerType::U64 {
        return Err(ProgramError::Value("type"));
    }
    let value = match field {
        // `ticks < seconds * hz` says the same as `ticks / hz < seconds`; that is so for no other
        // comparison, and the evaluator has no division. Beyond 2⁶⁴ ticks it always holds.
        Field::Time if compare == Compare::Below && mask == u64::MAX => {
            value.saturating_mul(u64::from(hz))
        }
        Field::Time => return Err(ProgramError::Value("comparison of time")),
        _ => value,
    };
    Ok(Test::Integer { field, as_type, mask, compare, value })
}

fn comm(bytes: [u64; 2], len: u8) -> Result<Test, ProgramError> {
    if !(1..=16).contains(&len) {
        return Err(ProgramError::Value("length"));
    }
    let [mask, mask_high] = comm_mask(len);
    let [low, high] = bytes;
    if low & !mask != 0 || high & !mask_high != 0 {
        return Err(ProgramError::Value("name"));
    }
    Ok(Test::Comm { bytes, len })
}

/// The bits of the first `len` bytes of a name, as two words.
pub(crate) fn comm_mask(len: u8) -> [u64; 2] {
    let mask = |bytes: u8| match 8u8.checked_sub(bytes) {
        Some(0) | None => u64::MAX,
        // Not 64, for that would not be shifted at all.
        Some(8) => 0,
        Some(unused) => u64::MAX >> (8 * u32::from(unused)),
    };
    [mask(len), mask(len.saturating_sub(8))]
}

impl Field {
    /// Which of the six arguments it is, from 0.
    pub fn argument(self) -> Option<usize> {
        (self as usize).checked_sub(Field::Arg1 as usize)
    }
}

/// The bytes of a program; the compiler's output, so within the limits.
#[cfg(any(test, feature = "compile"))]
pub(crate) fn encode(steps: &[Step], start: Target, source: &str) -> Vec<u8> {
    let target = |target| match target {
        Target::Answer(true) => TAKE,
        Target::Answer(false) => LEAVE,
        Target::Step(step) => step,
    };
    let mut bytes = Vec::with_capacity(HEADER + steps.len() * STEP + source.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.push(steps.len() as u8);
    bytes.push(target(start));
    bytes.extend_from_slice(&(source.len() as u16).to_le_bytes());
    for Step { test, yes, no } in steps {
        let (kind, [field, as_type, compare], len, words) = match *test {
            Test::Integer { field, as_type, mask, compare, value } => {
                (INTEGER, [field as u8, as_type as u8, compare as u8], 0, [mask, value])
            }
            Test::Comm { bytes, len } => (COMM, [0; 3], len, bytes),
            Test::Percent { seed, below } => (PERCENT, [0; 3], 0, [seed, u64::from(below)]),
        };
        bytes.extend_from_slice(&[
            kind,
            field,
            as_type,
            compare,
            target(*yes),
            target(*no),
            len,
            0,
        ]);
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    bytes.extend_from_slice(source.as_bytes());
    bytes
}
