//! How an update's code is entered and taken away, in every order that threads and memory allow (loom).
//!
//! A model of what handlers (assembly), ftrace and the looks at stacks (`dynamos.ko`) do together: a task's place is what
//! a look at its stack shows. The kernel looks with the locks held that keep the task from running, or in an interrupt of
//! its CPU, so a place is behind a lock here. The flag is read by a plain load. Each model is also run with a step left
//! out, which must be found.
#![allow(missing_docs, clippy::unwrap_used)]

use loom::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use loom::sync::{Arc, Mutex};
use loom::thread;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Elsewhere,
    /// On the way to wherever the function's calls go: its return address is at the entry of edition 0.
    Entry,
    Handler,
    Clone,
    Edition0,
}

/// One function, an update of it, and a task.
struct Kernel {
    redirected: AtomicBool,
    active: AtomicBool,
    mapped: AtomicBool,
    place: Mutex<Place>,
}

/// What is done, all of it in the real thing.
#[derive(Clone, Copy)]
struct Steps {
    clears_flag: bool,
    looks: bool,
    removes: bool,
    synchronises: bool,
}

const ALL: Steps = Steps { clears_flag: true, looks: true, removes: true, synchronises: true };

impl Kernel {
    fn new(redirected: bool, active: bool) -> Self {
        Kernel {
            redirected: AtomicBool::new(redirected),
            active: AtomicBool::new(active),
            mapped: AtomicBool::new(true),
            place: Mutex::new(Place::Elsewhere),
        }
    }

    fn be_in(&self, place: Place) {
        *self.place.lock().unwrap() = place;
        if matches!(place, Place::Handler | Place::Clone) {
            assert!(self.mapped.load(SeqCst), "code was taken away from under a task");
        }
    }

    /// A call of the function.
    fn call(&self) {
        self.be_in(Place::Entry);
        if self.redirected.load(Relaxed) {
            self.be_in(Place::Handler);
            if self.active.load(Relaxed) {
                self.be_in(Place::Clone);
            } else {
                self.be_in(Place::Edition0);
            }
        } else {
            self.be_in(Place::Edition0);
        }
        self.be_in(Place::Elsewhere);
    }

    /// Waits until the task has been seen outside of some places once.
    fn seen_outside(&self, places: &[Place]) {
        while places.contains(&self.place.lock().unwrap()) {
            thread::yield_now();
        }
    }

    /// A revert with scope `function`, and the end of the update.
    fn revert(&self, steps: Steps) {
        if steps.clears_flag {
            self.active.store(false, SeqCst);
        }
        if steps.looks {
            self.seen_outside(&[Place::Entry, Place::Handler, Place::Clone]);
        }
        if steps.removes {
            self.redirected.store(false, SeqCst);
        }
        if steps.synchronises {
            // RCU-tasks: a task that is not asleep in one of these has left them.
            self.seen_outside(&[Place::Entry, Place::Handler]);
        }
        self.mapped.store(false, SeqCst);
    }
}

fn model(start: fn() -> Kernel, manage: fn(&Kernel, Steps), steps: Steps, calls: u32) {
    loom::model(move || {
        let kernel = Arc::new(start());
        let task = {
            let kernel = kernel.clone();
            thread::spawn(move || {
                for _ in 0..calls {
                    kernel.call();
                }
            })
        };
        manage(&kernel, steps);
        task.join().unwrap();
    });
}

fn reverted(steps: Steps) {
    model(|| Kernel::new(true, true), Kernel::revert, steps, 2);
}

#[test]
fn code_goes_when_nobody_can_be_in_it() {
    reverted(ALL);
}

#[test]
#[should_panic(expected = "taken away")]
fn without_the_flag_whoever_was_seen_outside_comes_back() {
    reverted(Steps { clears_flag: false, ..ALL });
}

#[test]
#[should_panic(expected = "taken away")]
fn without_the_look_somebody_is_in_the_clone() {
    reverted(Steps { looks: false, ..ALL });
}

#[test]
#[should_panic(expected = "taken away")]
fn with_the_redirection_calls_still_reach_the_handler() {
    reverted(Steps { removes: false, ..ALL });
}

#[test]
#[should_panic(expected = "taken away")]
fn without_the_grace_period_somebody_is_in_the_handler() {
    reverted(Steps { synchronises: false, ..ALL });
}

/// One function alone is switched before it is redirected, and ftrace fails after calls have come by.
fn not_redirected_after_all(steps: Steps) {
    let manage = |kernel: &Kernel, steps: Steps| {
        kernel.active.store(true, SeqCst);
        kernel.redirected.store(true, SeqCst);
        kernel.redirected.store(false, SeqCst);
        kernel.active.store(false, SeqCst);
        if steps.looks {
            kernel.seen_outside(&[Place::Entry, Place::Handler, Place::Clone]);
        }
        kernel.mapped.store(false, SeqCst);
    };
    model(|| Kernel::new(false, false), manage, steps, 2);
}

#[test]
fn a_registration_that_fails_leaves_nobody_behind() {
    not_redirected_after_all(ALL);
}

#[test]
#[should_panic(expected = "taken away")]
fn a_registration_that_fails_may_have_been_seen() {
    not_redirected_after_all(Steps { looks: false, ..ALL });
}
