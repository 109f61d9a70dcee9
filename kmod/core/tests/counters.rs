//! A use counter in every order that threads and memory allow (loom): calls of both editions are never in one object at a
//! time, and the first of the new edition sees what the last of the old one did.
//!
//! A model of the counting handler (assembly, whose locked instructions order all around them) together with
//! [`dynamos_core::counters::Counters`]. Each model is also run with a step done otherwise, which must be found.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use dynamos_abi::counters::{BEGUN, CALL, UNDER_WAY};
use loom::sync::Arc;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use loom::thread;

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
        (self.word.fetch_add(CALL + BEGUN, AcqRel) & 1) as usize
    }

    fn leave(&self) {
        let left = self.word.fetch_sub(CALL, self.leaving) - CALL;
        fence(SeqCst); // As part of the locked instruction.
        if left & UNDER_WAY <= 1 && self.goal.load(SeqCst) != left & 1 {
            let _ = self.word.compare_exchange(left, left ^ 1, AcqRel, Acquire);
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
            let idle = self.word.load(SeqCst);
            if idle & UNDER_WAY == 0 {
                let _ = self.word.compare_exchange(idle, idle | 1, AcqRel, Acquire);
            }
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
        assert_eq!(object.word.load(SeqCst) & UNDER_WAY, 1);
    });
}

/// A task has died in its call, and another calls while it is found out that nobody does.
fn left_behind(notes_first: bool) {
    loom::model(move || {
        let word = Arc::new(AtomicU64::new(CALL + BEGUN));
        // Whether a look at the other's stack finds it in the handler or in the call.
        let inside = Arc::new(AtomicU64::new(0));
        let other = {
            let (word, inside) = (word.clone(), inside.clone());
            thread::spawn(move || {
                for _ in 0..2 {
                    inside.store(1, SeqCst);
                    word.fetch_add(CALL + BEGUN, SeqCst);
                    let left = word.fetch_sub(CALL, SeqCst) - CALL;
                    assert!(left & UNDER_WAY <= CALL + 1, "a call was forgotten");
                    inside.store(0, SeqCst);
                }
            })
        };
        let before = word.load(SeqCst);
        let outside = inside.load(SeqCst) == 0;
        let noted = if notes_first { before } else { word.load(SeqCst) };
        if outside {
            let moved = noted & !UNDER_WAY | 1;
            let _ = word.compare_exchange(noted, moved, SeqCst, SeqCst);
        }
        other.join().unwrap();
        assert!([1, CALL].contains(&(word.load(SeqCst) & UNDER_WAY)));
    });
}

#[test]
fn who_died_is_told_from_who_calls() {
    left_behind(true);
}

#[test]
#[should_panic(expected = "a call was forgotten")]
fn what_counters_were_is_noted_before_the_look() {
    left_behind(false);
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
