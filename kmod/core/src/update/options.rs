//! How a switch is to be made: what must be quiet for it, how long it may wait, and what happens then.

use core::fmt;

/// What must be quiet before calls move to the other edition. From weak to strong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Nothing: each call decides for itself, and whoever is in an edition ends there. Both editions run side by side
    /// for as long as that takes.
    Function,
    /// Each task changes for itself, when nothing of the edition that it leaves is on its stack. Both editions run side by
    /// side, in different tasks.
    Task,
    /// Each object that calls work on changes for itself, when no call works on it. Both editions run side by side, on
    /// different objects.
    Object,
    /// Everything: at one instant no task is in any of the functions.
    System,
}

impl Scope {
    /// All of them, from weak to strong.
    pub const ALL: [Self; 4] = [Scope::Function, Scope::Task, Scope::Object, Scope::System];

    /// Whether what changes edition does so one by one: tasks, or objects.
    pub const fn is_single(self) -> bool {
        matches!(self, Scope::Task | Scope::Object)
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scope::Function => "function",
            Scope::Task => "task",
            Scope::Object => "object",
            Scope::System => "system",
        }
    }

    /// The scope of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// What happens when tasks are still in the way at the end of the time limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnTimeout {
    /// All is as it was before.
    #[default]
    RollBack,
    /// It stays as far as it has come, and goes on by itself when the last task leaves.
    Hold,
    /// New calls take the other edition, and whoever is in the old one ends there: scope `function` from then on.
    ForceNewCalls,
}

impl OnTimeout {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            OnTimeout::RollBack => "roll-back",
            OnTimeout::Hold => "hold",
            OnTimeout::ForceNewCalls => "force-new-calls",
        }
    }

    /// The one of this name.
    pub fn parse(text: &str) -> Option<Self> {
        let all = [OnTimeout::RollBack, OnTimeout::Hold, OnTimeout::ForceNewCalls];
        all.into_iter().find(|what| what.as_str() == text)
    }
}

/// What becomes of other updates that replace functions of this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Over {
    /// There must be none.
    #[default]
    Nothing,
    /// They stay below: for shared functions the newest edition runs, and theirs again when it is reverted.
    Stack,
    /// They leave at the switch, all of them, and edition 0 runs again when this one is reverted.
    Replace,
}

impl Over {
    /// The word for it among the options; nothing is said of [`Over::Nothing`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Over::Nothing => "",
            Over::Stack => "stack",
            Over::Replace => "replace",
        }
    }
}

/// What whoever asks for a switch asks for: words with commas between them, such as
/// `scope=function,wait_ms=5000,on_timeout=hold,signal`. What is not said is decided elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What must be quiet.
    pub scope: Option<Scope>,
    /// The time limit.
    pub wait_ms: Option<u32>,
    /// What happens then.
    pub on_timeout: OnTimeout,
    /// Whether tasks that sleep in the way are woken.
    pub signal: bool,
    /// What becomes of other updates of the same functions.
    pub over: Over,
    /// For how long at least the bridge takes all calls, in an update with phases.
    pub phase_ms: Option<u32>,
}

/// Text that is no options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionsError;

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the options are not understood: `scope=function|task|object|system`, `wait_ms=NUMBER`, \
             `on_timeout=roll-back|hold|force-new-calls`, `phase_ms=NUMBER`, `signal`, `replace` and `stack`, with commas between them",
        )
    }
}

impl Options {
    /// Reads them; each may be there once.
    pub fn parse(text: &[u8]) -> Result<Self, OptionsError> {
        let text = core::str::from_utf8(text.trim_ascii()).map_err(|_| OptionsError)?;
        let mut options = Options::default();
        let mut seen = [false; 6];
        for word in text.split(',').filter(|_| !text.is_empty()) {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let which = match key {
                "scope" => {
                    options.scope = Some(Scope::parse(value).ok_or(OptionsError)?);
                    0
                }
                "wait_ms" => {
                    options.wait_ms = Some(value.parse().map_err(|_| OptionsError)?);
                    1
                }
                "on_timeout" => {
                    options.on_timeout = OnTimeout::parse(value).ok_or(OptionsError)?;
                    2
                }
                "signal" if word == "signal" => {
                    options.signal = true;
                    3
                }
                "stack" | "replace" if word == key => {
                    options.over = if word == "stack" { Over::Stack } else { Over::Replace };
                    4
                }
                "phase_ms" => {
                    options.phase_ms = Some(value.parse().map_err(|_| OptionsError)?);
                    5
                }
                _ => return Err(OptionsError),
            };
            match seen.get_mut(which) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(OptionsError),
            }
        }
        Ok(options)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(scope) = self.scope {
            write!(f, "scope={},", scope.as_str())?;
        }
        if let Some(ms) = self.wait_ms {
            write!(f, "wait_ms={ms},")?;
        }
        if let Some(ms) = self.phase_ms {
            write!(f, "phase_ms={ms},")?;
        }
        if self.signal {
            f.write_str("signal,")?;
        }
        if self.over != Over::Nothing {
            write!(f, "{},", self.over.as_str())?;
        }
        write!(f, "on_timeout={}", self.on_timeout.as_str())
    }
}

/// How long a switch may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Give up after waiting so long.
    pub wait_ms: u32,
    /// How long a hook may take.
    pub hook_ms: u32,
    /// First pause between two tries; each is twice as long as the one before.
    pub first_pause_ms: u32,
    /// Longest pause.
    pub longest_pause_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { wait_ms: 30_000, hook_ms: 30_000, first_pause_ms: 10, longest_pause_ms: 500 }
    }
}

/// How a switch is made: [`Options`] with everything decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switching {
    /// What must be quiet; a revert is made as the activation was.
    pub scope: Scope,
    /// How long it may wait.
    pub limits: Limits,
    /// What happens then.
    pub on_timeout: OnTimeout,
    /// Whether tasks that sleep in the way are woken.
    pub signal: bool,
    /// For how long at least the bridge takes all calls, in an update with phases.
    pub phase_ms: u32,
    /// Nothing of what is replaced has ever run, so nobody can be in it: a module is about to begin.
    pub fresh: bool,
    /// Its code, or that of a module it is for, goes: a hook can delay that, but not refuse it.
    pub must: bool,
}

impl Switching {
    /// Whether all calls move at one instant, or none.
    pub(super) fn is_whole(&self) -> bool {
        self.scope == Scope::System && self.on_timeout != OnTimeout::ForceNewCalls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_said_is_left_open() {
        assert_eq!(Options::parse(b""), Ok(Options::default()));
        assert_eq!(Options::parse(b"\n"), Ok(Options::default()));
        let options =
            Options::parse(b"scope=function,wait_ms=5000,on_timeout=hold,signal,phase_ms=70000\n");
        let expected = Options {
            scope: Some(Scope::Function),
            wait_ms: Some(5000),
            on_timeout: OnTimeout::Hold,
            signal: true,
            over: Over::Nothing,
            phase_ms: Some(70_000),
        };
        assert_eq!(options, Ok(expected));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "scope",
            "scope=",
            "scope=cpu",
            "wait_ms=-1",
            "wait_ms=99999999999",
            "on_timeout=",
            "signal=1",
            "signal,signal",
            "wait_ms=1,wait_ms=1",
            "phase_ms",
            "phase_ms=-1",
            "phase_ms=1,phase_ms=1",
            "stack,replace",
            "stack=1",
            "replace,replace",
            ",",
            "signal,",
            "x",
            "\u{e9}",
        ] {
            assert_eq!(Options::parse(text.as_bytes()), Err(OptionsError), "{text}");
        }
        assert_eq!(Options::parse(&[0xff]), Err(OptionsError));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            scope in proptest::option::of(proptest::sample::select(Scope::ALL.to_vec())),
            wait_ms: Option<u32>,
            phase_ms: Option<u32>,
            hold in 0..3,
            signal: bool,
            over in proptest::sample::select(vec![Over::Nothing, Over::Stack, Over::Replace]),
        ) {
            let all = [OnTimeout::RollBack, OnTimeout::Hold, OnTimeout::ForceNewCalls];
            let on_timeout = all[hold as usize];
            let options = Options { scope, wait_ms, on_timeout, signal, over, phase_ms };
            prop_assert_eq!(Options::parse(options.to_string().as_bytes()), Ok(options));
        }
    }
}
