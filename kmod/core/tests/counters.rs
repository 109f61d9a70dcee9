//! A use counter in every order that threads and memory allow (loom): calls of both editions are never in one object at a
//! time, and the first of the new edition sees what the last of the old one did.
//!
//! A model of the counting handler (assembly, whose locked instructions order all around them) together with
//! [`dynamos_core::counters::Counters`]. Each model is also run with a step done otherwise, which must be found.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use loom::sync::Arc;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use loom::thread;

const CALL: u64 = 2;

struct Object {
    goal: AtomicU64,
    word: AtomicU64,
    /// How many calls of each edition are in it.
    inside: [AtomicUsize; 2],
    /// What edition 0 leaves behind; nothing but the counter orders it.
    state: AtomicU64,
    /// How a counter is left.
    leaving: Ordering,
    /// Whether it is looked at before it is moved.
    asks: bool,
}

impl Object {
    fn enter(&self) -> usize {
        (self.word.fetch_add(CALL, AcqRel) & 1) as usize
    }

    fn leave(&self) {
        let left = self.word.fetch_sub(CALL, self.leaving) - CALL;
        fence(SeqCst); // As part of the locked instruction.
        if left <= 1 {
            let goal = self.goal.load(SeqCst);
            if goal != left {
                let _ = self.word.compare_exchange(left, goal, AcqRel, Acquire);
            }
        }
    }

    /// A call, which leaves something behind; its edition, and what it finds there first.
    fn call(&self) -> (usize, u64) {
        let edition = self.enter();
        self.inside[edition].fetch_add(1, Relaxed);
        assert_eq!(self.inside[1 - edition].load(Relaxed), 0, "both editions are in it");
        let found = self.state.load(Relaxed);
        if edition == 0 {
            self.state.store(1, Relaxed);
        }
        self.inside[edition].fetch_sub(1, Relaxed);
        self.leave();
        (edition, found)
    }

    fn turn(&self) {
        self.goal.store(1, SeqCst);
        fence(SeqCst);
        if self.asks {
            let _ = self.word.compare_exchange(0, 1, AcqRel, Acquire);
        } else {
            self.word.fetch_or(1, AcqRel);
        }
    }
}

fn model(leaving: Ordering, asks: bool) {
    // More takes minutes and finds no more.
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let object = Arc::new(Object {
            goal: AtomicU64::new(0),
            word: AtomicU64::new(0),
            inside: [AtomicUsize::new(0), AtomicUsize::new(0)],
            state: AtomicU64::new(0),
            leaving,
            asks,
        });
        let calls = [(); 2].map(|()| {
            let object = object.clone();
            thread::spawn(move || object.call())
        });
        object.turn();
        let calls = calls.map(|call| call.join().unwrap());
        if calls.iter().any(|(edition, _)| *edition == 0) {
            let seen = calls.iter().all(|(edition, found)| *edition == 0 || *found == 1);
            assert!(seen, "what edition 0 did is not seen");
        }
        // Whoever left last, or the turn, has moved it.
        assert_eq!(object.word.load(SeqCst), 1);
    });
}

#[test]
fn an_object_has_one_edition_at_a_time() {
    model(AcqRel, true);
}

#[test]
#[should_panic(expected = "what edition 0 did is not seen")]
fn an_object_is_not_moved_under_a_call() {
    model(AcqRel, false);
}

#[test]
#[should_panic(expected = "what edition 0 did is not seen")]
fn who_leaves_orders_what_it_did_before() {
    model(Relaxed, true);
}
