//! What commands of administrators do to one update, and which answers of theirs are right.
//!
//! Commands exclude each other in `dynamos.ko`: who comes while another is at it is refused. What is seen of one that is under
//! way is not always of one moment (its directory comes before its calls move), so refusals are right where the state says
//! so *or* where the command overlaps one that explains them. What succeeds has no such excuse.

use std::fmt;

use crate::linear::{self, Point, Stuck};

/// Where the update is; `takes` is its policy, as the calls that are made here see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Gone,
    Active { takes: bool },
    Reverted { takes: bool },
}

/// What an administrator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Load { takes: bool },
    Revert,
    Enable,
    Unload { revert: bool },
    Policy { takes: bool, code: bool },
    Edition,
}

/// One operation, and what came of it.
#[derive(Clone, Debug)]
pub struct Operation {
    pub who: u32,
    /// On one clock that never goes back, in nanoseconds.
    pub begin: u64,
    pub end: u64,
    pub what: What,
    /// The exit code; `None`: it was killed.
    pub code: Option<i32>,
    /// The first line that it said.
    pub said: String,
}

/// What takes effect, or is seen, at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    Load {
        takes: bool,
    },
    Switch {
        on: bool,
    },
    Policy {
        takes: bool,
    },
    Unload,
    /// A call takes the update's edition, or edition 0.
    Call {
        edition: bool,
    },
    IsThere,
    IsGone,
    IsActive,
    IsReverted,
    /// Nothing that the state decides.
    Nothing,
}

/// What a command says of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Done,
    /// It was so already.
    Already,
    /// It was done, and is not so any more.
    DoneAndUndone,
    /// There is no such update.
    Absent,
    /// Its files went while they were read.
    Unreadable,
    LoadedAlready,
    /// Another loads it.
    Comes,
    /// It must be reverted first.
    Enabled,
    /// Another reverts it.
    Drains,
    /// `cannot revert`, `cannot unload`, …, for this reason.
    Cannot(i32),
    /// It died, or says something else.
    Unknown,
}

/// The kernel's numbers, which are in every refusal of its own.
const ENOENT: i32 = 2;
const EAGAIN: i32 = 11;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;

impl What {
    /// Its name, whatever it is asked to do in detail.
    pub fn name(self) -> &'static str {
        match self {
            What::Load { .. } => "load",
            What::Revert => "revert",
            What::Enable => "enable",
            What::Unload { .. } => "unload",
            What::Policy { .. } => "policy",
            What::Edition => "edition",
        }
    }
}

impl Point for Does {
    type State = State;

    fn take(&self, state: State) -> Option<State> {
        use State::{Active, Gone, Reverted};
        match (*self, state) {
            (Does::Load { takes }, Gone) => Some(Active { takes }),
            // A policy is kept while the update is reverted.
            (Does::Switch { on: true }, Reverted { takes }) => Some(Active { takes }),
            (Does::Switch { on: false }, Active { takes }) => Some(Reverted { takes }),
            (Does::Policy { takes }, Active { .. }) => Some(Active { takes }),
            (Does::Policy { takes }, Reverted { .. }) => Some(Reverted { takes }),
            (Does::Unload, Reverted { .. }) => Some(Gone),
            (Does::Call { edition }, _) => {
                (edition == (state == Active { takes: true })).then_some(state)
            }
            (Does::IsGone, Gone)
            | (Does::IsThere, Active { .. } | Reverted { .. })
            | (Does::IsActive, Active { .. })
            | (Does::IsReverted, Reverted { .. })
            | (Does::Nothing, _) => Some(state),
            _ => None,
        }
    }
}

/// Whether the operations, from where no such update is loaded, can have been done one after the other; else why not.
pub fn check(history: &[Operation]) -> Result<(), String> {
    let operations: Vec<_> = history
        .iter()
        .map(|operation| linear::Operation {
            begin: operation.begin,
            end: operation.end,
            ways: Around { history, operation }.ways(),
        })
        .collect();
    linear::check(&operations, State::Gone).map_err(|stuck| explain(history, &stuck))
}

/// The operations around one.
struct Around<'a> {
    history: &'a [Operation],
    operation: &'a Operation,
}

impl Around<'_> {
    /// Whether another that `is` so overlaps it.
    fn meets(&self, is: impl Fn(What) -> bool) -> bool {
        self.history.iter().any(|other| {
            !std::ptr::eq(other, self.operation)
                && is(other.what)
                && other.begin <= self.operation.end
                && self.operation.begin <= other.end
        })
    }

    fn meets_any(&self) -> bool {
        self.meets(|what| what != What::Edition)
    }

    /// Whether it may have been on its way from a state to another.
    fn meets_switch(&self) -> bool {
        self.meets(|what| !matches!(what, What::Edition | What::Policy { .. }))
    }

    /// Whether `active` may have been shown a moment before an enabled update's policy decided.
    fn meets_enable(&self) -> bool {
        self.meets(|what| what == What::Enable)
    }

    fn meets_unload(&self) -> bool {
        self.meets(|what| matches!(what, What::Unload { .. }))
    }

    /// Whether the update may have been coming or going.
    fn meets_module(&self) -> bool {
        self.meets(|what| matches!(what, What::Load { .. } | What::Unload { .. }))
    }

    /// All that it may have done, by what it says.
    fn ways(&self) -> Vec<Vec<Does>> {
        let answer = answer(self.operation);
        let one = |does: Option<Does>| does.map(|does| vec![does]).into_iter().collect();
        match self.operation.what {
            What::Edition => one(match (answer, self.operation.said.as_str()) {
                (Answer::Done, "0") => Some(Does::Call { edition: false }),
                (Answer::Done, "1") => Some(Does::Call { edition: true }),
                _ => None,
            }),
            What::Load { takes } => self.ways_of_load(answer, Does::Load { takes }),
            What::Revert => self.ways_of_change(answer, Does::Switch { on: false }),
            What::Enable => self.ways_of_change(answer, Does::Switch { on: true }),
            What::Policy { takes, .. } => self.ways_of_change(answer, Does::Policy { takes }),
            What::Unload { revert } => self.ways_of_unload(answer, revert),
        }
    }

    /// What a command without effect has seen: the state, or something of another that was under way.
    fn seen(state: Option<Does>, excused: bool) -> Vec<Does> {
        state.into_iter().chain(excused.then_some(Does::Nothing)).collect()
    }

    /// The update's module is there from before its first call until after its last, and its name is taken that long.
    fn ways_of_load(&self, answer: Answer, load: Does) -> Vec<Vec<Does>> {
        let does = match answer {
            Answer::Done | Answer::DoneAndUndone => vec![load],
            Answer::LoadedAlready | Answer::Cannot(EEXIST) => {
                Self::seen(Some(Does::IsThere), self.meets_module())
            }
            Answer::Cannot(EBUSY) => Self::seen(None, self.meets_module()),
            Answer::Comes => Self::seen(None, self.meets(|what| matches!(what, What::Load { .. }))),
            _ => Vec::new(),
        };
        does.into_iter().map(|does| vec![does]).collect()
    }

    /// Of revert, enable and policy. They look at the update once more when they are done, and are an error where it has
    /// gone since.
    fn ways_of_change(&self, answer: Answer, change: Does) -> Vec<Vec<Does>> {
        let is_so = match change {
            Does::Switch { on: true } => Some(Does::IsActive),
            Does::Switch { on: false } => Some(Does::IsReverted),
            _ => None,
        };
        let does = match answer {
            // Another may have done it between the first look and the kernel's.
            Answer::Done | Answer::DoneAndUndone => {
                let by_another = is_so.filter(|_| self.meets_switch());
                [change].into_iter().chain(by_another).collect()
            }
            Answer::Already => {
                Self::seen(is_so, is_so == Some(Does::IsActive) && self.meets_enable())
            }
            _ => self.seen_of_directory(answer),
        };
        let mut ways: Vec<_> = does.iter().map(|does| vec![*does]).collect();
        if matches!(answer, Answer::Absent | Answer::Unreadable) && self.meets_unload() {
            ways.extend(does.iter().map(|does| vec![change, *does]));
        }
        ways
    }

    /// What those see that go by the update's directory and find that they cannot.
    fn seen_of_directory(&self, answer: Answer) -> Vec<Does> {
        match answer {
            Answer::Absent => vec![Does::IsGone],
            // The directory comes before its files.
            Answer::Unreadable => Self::seen(Some(Does::IsGone), self.meets_module()),
            Answer::Cannot(ENOENT | ENODEV) => Self::seen(Some(Does::IsGone), self.meets_unload()),
            Answer::Cannot(EBUSY) => Self::seen(None, self.meets_any()),
            _ => Vec::new(),
        }
    }

    /// With `--revert` two points: `dynamos unload` looks, reverts and then has the module removed.
    fn ways_of_unload(&self, answer: Answer, revert: bool) -> Vec<Vec<Does>> {
        let off = Does::Switch { on: false };
        let does = match answer {
            Answer::Done => vec![Does::Unload],
            Answer::DoneAndUndone => vec![off, Does::IsReverted],
            // The flag is set before the calls move, and `--when` stops deciding before it is taken back.
            Answer::Enabled => Self::seen(Some(Does::IsActive), self.meets_switch()),
            Answer::Drains => Self::seen(None, self.meets_switch()),
            // An active update holds its module.
            Answer::Cannot(EAGAIN) => Self::seen(Some(Does::IsActive), self.meets_any()),
            _ => self.seen_of_directory(answer),
        };
        let mut ways: Vec<_> = does.iter().map(|does| vec![*does]).collect();
        // What it says of the revert alone is all that it did.
        let goes_on = !matches!(answer, Answer::DoneAndUndone | Answer::Enabled | Answer::Drains)
            && !self.operation.said.contains("cannot revert");
        if goes_on && revert {
            ways.extend(does.iter().map(|does| vec![off, *does]));
        }
        ways
    }
}

fn answer(operation: &Operation) -> Answer {
    let says = |text: &str| operation.said.contains(text);
    match operation.code {
        // An unload may say so of its revert.
        Some(0) if says(" already") && matches!(operation.what, What::Revert | What::Enable) => {
            Answer::Already
        }
        Some(0) => Answer::Done,
        Some(2) if says("no update is called") => Answer::Absent,
        Some(2) if says("cannot read /sys/") => Answer::Unreadable,
        Some(2) if says(", not active;") || says(", not reverted;") => Answer::DoneAndUndone,
        // It has been loaded, and another has reverted it before it was looked at once more.
        Some(3) if says("until it can go it is") => Answer::DoneAndUndone,
        Some(3) if says("(os error ") => {
            error_number(&operation.said).map_or(Answer::Unknown, Answer::Cannot)
        }
        Some(3) if says("is being switched by somebody else") => Answer::Cannot(EBUSY),
        Some(3) if says("is loaded already;") => Answer::LoadedAlready,
        Some(3) if says("is being loaded by somebody else") => Answer::Comes,
        Some(3) if says("is enabled;") => Answer::Enabled,
        Some(3) if says("tasks are still in its code") => Answer::Drains,
        _ => Answer::Unknown,
    }
}

/// The last `(os error N)` of a text.
fn error_number(said: &str) -> Option<i32> {
    let (_, after) = said.rsplit_once("(os error ")?;
    after.split_once(')')?.0.parse().ok()
}

/// The operations up to the one where it does not go on, and how far it goes.
fn explain(history: &[Operation], stuck: &Stuck<State>) -> String {
    let next: Vec<_> = stuck.next.iter().filter_map(|index| history.get(*index)).collect();
    let until = next.iter().map(|operation| operation.end).min().unwrap_or(u64::MAX);
    let mut shown: Vec<_> = (0..).zip(history).filter(|(_, it)| it.begin <= until).collect();
    shown.sort_by_key(|(_, operation)| operation.begin);
    let mut text = String::from("not linearizable\n");
    for (index, operation) in shown {
        text += &format!("#{index} {operation}\n");
    }
    text += "the longest legal order:";
    for (index, state) in &stuck.taken {
        text += &format!(" #{index} {state}");
    }
    text += "\nnone of these can follow:";
    for index in &stuck.next {
        text += &format!(" #{index}");
    }
    text
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Gone => f.write_str("gone"),
            State::Active { takes } => write!(f, "active:{}", u8::from(*takes)),
            State::Reverted { takes } => write!(f, "reverted:{}", u8::from(*takes)),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            What::Unload { revert: true } => f.write_str(" --revert"),
            What::Policy { takes, code: true } => write!(f, " --when {takes}"),
            What::Load { takes } | What::Policy { takes, .. } => {
                write!(f, " --default {}", u8::from(*takes))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { who, begin, end, what, code, said } = self;
        let us = |ns: u64| ns / 1000;
        write!(f, "{}..{} us, {who}: {what} => ", us(*begin), us(*end))?;
        match code {
            Some(code) => write!(f, "{code} {said}"),
            None => write!(f, "killed {said}"),
        }
    }
}
