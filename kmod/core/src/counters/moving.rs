//! The steps of a move: what is looked at before the goal is set, and after.

use super::Counters;
use crate::update::Blockers;

/// What each task is looked at for, one after the other; none is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// A call of the edition that is left which is not counted, or a handler's code.
    Uncounted,
    /// A counted call of the edition that is left, or a handler's code.
    Counted,
    /// A handler's code.
    Deciding,
}

/// Where objects are moving to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moving {
    toward: Option<bool>,
    /// Whether one may have moved since the turn.
    began: bool,
    /// Whether all calls that are under way are counted: all handlers have counted since all were seen outside.
    counted: bool,
}

impl Moving {
    /// Says where objects go; `current` is the edition that all calls take if none are moving. `false`: calls are still
    /// counted that began in the other edition when objects moved before, and nothing has changed.
    ///
    /// After it, handlers may count: the counters are right for that.
    pub fn turn(&mut self, counters: &Counters<'_>, current: bool, active: bool) -> bool {
        if self.toward.is_none() {
            if !counters.begin(current) {
                return false;
            }
            self.began = false;
        }
        self.toward = Some(active);
        true
    }

    /// All objects begin with an edition, and all calls are counted: there has been none yet. As after [`Moving::arrive`].
    pub fn begin_anew(&mut self, counters: &Counters<'_>, edition: bool) {
        counters.clear();
        counters.begin(edition);
        *self = Self { toward: None, began: true, counted: true };
    }

    /// Whether objects are moving.
    pub fn is_under_way(&self) -> bool {
        self.toward.is_some()
    }

    /// All objects have moved. Handlers go on counting, so that they can turn back without waiting for calls of which nobody
    /// knows the object.
    pub fn arrive(&mut self) {
        self.toward = None;
    }

    /// Calls come by that are not counted: a handler that does not count took the place of one that does.
    pub fn lose_count(&mut self) {
        self.counted = false;
    }

    /// All calls take one edition again, and are not counted; those that are under way go on as they began.
    pub fn end(&mut self) {
        (self.toward, self.counted) = (None, false);
    }

    /// What is waited for on the way to an edition, to wake whoever sleeps in it.
    pub fn awaits(&self, counters: &Counters<'_>, active: bool) -> Look {
        if counters.goal() == active { Look::Counted } else { self.before_the_goal() }
    }

    /// What must be over before objects get another goal.
    fn before_the_goal(&self) -> Look {
        if self.counted { Look::Deciding } else { Look::Uncounted }
    }

    /// Moves objects as far as they can be moved; `look` adds tasks to the blockers. `true`: all have moved.
    /// `None`: they do not move there. `noted` has room for all counters.
    pub fn advance(
        &mut self,
        counters: &Counters<'_>,
        active: bool,
        noted: &mut [u64],
        blockers: &mut Blockers,
        mut look: impl FnMut(Look, &mut Blockers),
    ) -> Option<bool> {
        if self.toward != Some(active) {
            return None;
        }
        if counters.goal() != active {
            // Handlers count from the turn on, so those that are not counted only become fewer. And nobody is late with a
            // goal of before.
            look(self.before_the_goal(), blockers);
            if blockers.count() > 0 {
                return Some(false);
            }
            (self.began, self.counted) = (true, true);
            counters.set_goal(active);
        } else if !self.began {
            return Some(true); // Turned back before any has moved.
        }
        if !counters.move_idle(active) {
            counters.note(noted);
            look(Look::Counted, blockers);
            // What nobody works on any more, and has not been worked on since, tasks have died on.
            if blockers.count() > 0 || !counters.move_left(noted, active) {
                return Some(false);
            }
        }
        // Whoever has read the goal before it was set may still give it to an object.
        look(Look::Deciding, blockers);
        Some(blockers.count() == 0 && counters.move_idle(active))
    }
}
