//! Scope `task` in every order that threads and memory allow (loom): no task has both editions in one stack.
//!
//! A model of handlers (assembly), the turn and the looks at tasks (`dynamos.ko`) together. A look is made with the task
//! held still, so a task's place is behind a lock here; what a handler reads it reads by plain loads, which x86 keeps in
//! order (acquire). Each model is also run with a step left out, which must be found.
#![allow(missing_docs, clippy::unwrap_used)]

use loom::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use loom::sync::atomic::{AtomicBool, AtomicU8};
use loom::sync::{Arc, Mutex};
use loom::thread;

const BY_TASK: u8 = 0x80;

struct Kernel {
    flag: AtomicU8,
    /// Whether handlers can find the table.
    cell: AtomicBool,
    /// The task's entry: its key, and its edition.
    noted: AtomicBool,
    edition: AtomicBool,
    default: AtomicBool,
    /// Whether one of the functions is on the task's stack.
    inside: Mutex<bool>,
}

/// What is done, all of it in the real thing.
#[derive(Clone, Copy)]
struct Steps {
    notes: bool,
    looks: bool,
    table_before_flag: bool,
}

const ALL: Steps = Steps { notes: true, looks: true, table_before_flag: true };

impl Kernel {
    fn new(active: bool) -> Self {
        Kernel {
            flag: AtomicU8::new(u8::from(active)),
            cell: AtomicBool::new(false),
            noted: AtomicBool::new(false),
            edition: AtomicBool::new(false),
            default: AtomicBool::new(active),
            inside: Mutex::new(false),
        }
    }

    /// A handler.
    fn decide(&self) -> bool {
        match self.flag.load(Acquire) {
            0 => false,
            1 => true,
            _ => {
                assert!(self.cell.load(Acquire), "a table that is not there is read");
                if self.noted.load(Acquire) {
                    self.edition.load(Relaxed)
                } else {
                    self.default.load(Acquire)
                }
            }
        }
    }

    /// A call of one function, which calls another.
    fn call(&self) {
        *self.inside.lock().unwrap() = true;
        let outer = self.decide();
        let inner = self.decide();
        assert_eq!(outer, inner, "a stack has both editions");
        *self.inside.lock().unwrap() = false;
    }

    /// A turn, the move of the task, and the end.
    fn switch(&self, active: bool, steps: Steps) {
        if steps.notes {
            self.edition.store(!active, Relaxed);
            self.noted.store(true, SeqCst);
        }
        let publish = || self.cell.store(true, SeqCst);
        let ask = || self.flag.store(BY_TASK | u8::from(active), SeqCst);
        if steps.table_before_flag {
            publish();
            ask();
        } else {
            ask();
            publish();
        }
        self.default.store(active, SeqCst);
        loop {
            let inside = self.inside.lock().unwrap();
            if !*inside || !steps.looks {
                self.edition.store(active, Relaxed);
                break;
            }
            drop(inside);
            thread::yield_now();
        }
        self.flag.store(u8::from(active), SeqCst);
    }
}

fn model(active: bool, steps: Steps) {
    loom::model(move || {
        let kernel = Arc::new(Kernel::new(!active));
        let task = {
            let kernel = kernel.clone();
            thread::spawn(move || {
                kernel.call();
                kernel.call();
            })
        };
        kernel.switch(active, steps);
        task.join().unwrap();
        assert_eq!(kernel.decide(), active);
    });
}

#[test]
fn no_stack_has_both_editions() {
    model(true, ALL);
    model(false, ALL);
}

#[test]
#[should_panic(expected = "a stack has both editions")]
fn a_task_that_was_not_noted_turns_in_the_middle() {
    model(true, Steps { notes: false, ..ALL });
}

#[test]
#[should_panic(expected = "a stack has both editions")]
fn a_task_that_was_not_looked_at_is_moved_in_the_middle() {
    model(true, Steps { looks: false, ..ALL });
}

#[test]
#[should_panic(expected = "a table that is not there")]
fn the_flag_comes_after_the_table() {
    model(true, Steps { table_before_flag: false, ..ALL });
}
