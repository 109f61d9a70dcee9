//! Scope `object`: no object ever has calls of both editions on it, whatever tasks do meanwhile, however late they are with
//! it, and whatever fails or is given up.

use std::sync::atomic::Ordering::SeqCst;

use dynamos_abi::counters::{CALL, UNDER_WAY};
use proptest::prelude::*;

use super::moving_tests::{command, with_update};
use super::objects_sim::*;
use super::sim::{ADDRESSES, WRITABLE};
use super::*;
use crate::counters::Look;

#[test]
fn each_object_has_its_own_moment() {
    let mut world = World::new(&[], 4);
    with_update(&mut world, |world, mut update| {
        assert!(!call(world, 0, 1));
        // Which object that works on nobody knows.
        update.activate(world, &ADDRESSES, &WRITABLE, HOLD).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Transitioning, true));
        assert!(!call(world, 1, 2));
        leave(world, 0);
        update.go_on(world, LOOK).unwrap();
        assert_eq!((update.state(), update.blockers().count()), (State::Transitioning, 1));
        assert!(call(world, 2, 3) && !call(world, 3, 2), "an object that is worked on stays");
        leave(world, 1);
        leave(world, 3);
        assert!(call(world, 3, 2), "the last to leave moves it");
        update.go_on(world, LOOK).unwrap();
        assert_eq!((update.state(), world.flag), (State::Active, None));
        // Those two are counted still, so that they need not be waited for to begin with.
        update.revert(world, HOLD).unwrap();
        assert!(!call(world, 0, 1) && call(world, 1, 3));
        empty(world);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

#[test]
fn what_nobody_has_called_yet_is_counted_from_the_beginning() {
    let mut world = World::new(&[], 3);
    with_update(&mut world, |world, mut update| {
        let fresh = Switching { fresh: true, ..OBJECTS };
        world.fresh = true;
        update.activate(world, &ADDRESSES, &WRITABLE, fresh).unwrap();
        world.fresh = false;
        assert_eq!((update.state(), update.scope()), (State::Active, Scope::Object));
        assert!(call(world, 0, 1) && call(world, 1, 2));
        // So nobody need be waited for before the first object moves.
        update.revert(world, HOLD).unwrap();
        assert!(!call(world, 2, 3), "nobody worked on it");
        leave(world, 0);
        assert!(call(world, 0, 2) && !call(world, 2, 1));
        empty(world);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

#[test]
fn new_calls_that_are_forced_are_not_counted_and_wait_for_nobody() {
    let mut world = World::new(&[], 4);
    with_update(&mut world, |world, mut update| {
        half_moved(world, &mut update);
        update.go_on(world, FORCE).unwrap();
        assert_eq!((update.state(), update.scope()), (State::Active, Scope::Function));
        assert!(call(world, 0, 1), "where a counted call of edition 0 is");
        // Back, with calls of both editions under way, counted ones and others.
        update.revert(world, Switching { on_timeout: OnTimeout::Hold, ..FORCE }).unwrap();
        assert_eq!(update.state(), State::Draining);
        assert!(!call(world, 3, 2));
        empty(world);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
        // Nothing of that is left.
        world.forced = false;
        assert!(!call(world, 0, 1));
        leave(world, 0);
        assert!(world.words[1..].iter().all(|word| word.load(SeqCst) & UNDER_WAY < CALL));
    });
    let mut world = World::new(&[], 3);
    with_update(&mut world, |world, mut update| {
        update.activate(world, &ADDRESSES, &WRITABLE, OBJECTS).unwrap();
        assert!(call(world, 0, 1));
        update.revert(world, FORCE).unwrap();
        assert_eq!((update.state(), update.scope()), (State::Draining, Scope::Function));
        assert!(!call(world, 1, 1));
        leave(world, 0);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

#[test]
fn a_load_that_is_given_up_before_any_has_moved_waits_for_nobody() {
    let mut world = World::new(&[], 2);
    with_update(&mut world, |world, mut update| {
        assert!(!call(world, 0, 1));
        let outcome = update.activate(world, &ADDRESSES, &WRITABLE, OBJECTS);
        assert!(matches!(outcome, Err(Refusal::Blocked { count: 1, .. })));
        assert_eq!((update.state(), world.flag), (State::Reverted, Some(false)));
        assert!(world.redirects.iter().all(Option::is_none));
    });
}

#[test]
fn who_sleeps_in_edition_0_by_the_updates_code_holds_that_code_only() {
    let mut world = World::new(&[], 2);
    with_update(&mut world, |world, mut update| {
        update.activate(world, &ADDRESSES, &WRITABLE, OBJECTS).unwrap();
        assert!(call(world, 0, 1));
        update.revert(world, HOLD).unwrap();
        leave(world, 0);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
    let mut world = World::new(&[], 3);
    with_update(&mut world, |world, mut update| {
        update.activate(world, &ADDRESSES, &WRITABLE, OBJECTS).unwrap();
        assert!(call(world, 0, 1));
        update.revert(world, HOLD).unwrap();
        assert!(!call(world, 1, 2), "only the other's object stays");
        update.go_on(world, LOOK).unwrap();
        assert!(!call(world, 2, 3) && world.flag.is_none());
        leave(world, 0);
        leave(world, 1);
        update.go_on(world, LOOK).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Draining, true));
        // All objects have moved, so there is nothing to be given up.
        assert!(matches!(update.resume(world, HOLD), Err(Refusal::WrongState { .. })));
        assert!(update.go_on(world, Switching { scope: Scope::System, ..LOOK }).is_ok());
        assert_eq!(update.state(), State::Draining);
        leave(world, 2);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

#[test]
fn who_dies_in_a_call_keeps_no_object() {
    let mut world = World::new(&[], 4);
    with_update(&mut world, |world, mut update| {
        half_moved(world, &mut update);
        // One that works on the object, which it makes wait, and one that does no more.
        assert!(!call(world, 3, 1));
        world.die(1);
        update.go_on(world, LOOK).unwrap();
        assert_eq!((update.state(), update.blockers().count()), (State::Transitioning, 1));
        leave(world, 3);
        update.go_on(world, LOOK).unwrap();
        assert_eq!((update.state(), world.flag), (State::Active, None));
        assert!(call(world, 0, 1));
        // Back the same way.
        world.die(0);
        update.revert(world, HOLD).unwrap();
        // As long as a call of that edition is under way nobody can say whose count it is.
        assert!(call(world, 1, 1));
        leave(world, 1);
        leave(world, 2);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(update.state(), State::Reverted);
    });
}

/// Tasks 1 and 2 are in counted calls on objects 1 and 2, of edition 0 and 1: a load is held.
fn half_moved(world: &mut World, update: &mut Update<'_>) {
    assert!(!call(world, 0, 3));
    update.activate(world, &ADDRESSES, &WRITABLE, HOLD).unwrap();
    assert!(!call(world, 1, 1));
    leave(world, 0);
    update.go_on(world, LOOK).unwrap();
    assert!(call(world, 2, 2));
    assert_eq!((update.state(), update.is_held()), (State::Transitioning, true));
}

#[test]
fn who_is_late_with_a_goal_of_before_is_waited_for() {
    let mut world = World::new(&[], 4);
    with_update(&mut world, |world, mut update| {
        half_moved(world, &mut update);
        update.revert(world, HOLD).unwrap();
        leave(world, 1);
        // The look has found it in its call.
        world.late = Some(2);
        update.resume(world, LOOK).unwrap();
        assert_eq!((update.state(), update.is_held()), (State::Transitioning, true));
        assert!(world.late.is_none() && !matches!(world.tasks[2].at, At::Elsewhere));
        world.go_on(2, 7, 1);
        // It has given the object the edition that it was to have.
        assert_eq!(world.words[2].load(SeqCst) & 1, 0);
        update.go_on(world, LOOK).unwrap();
        assert_eq!((update.state(), world.flag), (State::Active, None));
    });
    let mut world = World::new(&[], 4);
    with_update(&mut world, |world, mut update| {
        half_moved(world, &mut update);
        update.revert(world, HOLD).unwrap();
        (0..3).for_each(|_| world.go_on(2, 7, 1));
        assert!(matches!(world.tasks[2].at, At::Gives(2, left) if left & 1 != 0));
        update.resume(world, LOOK).unwrap();
        assert_eq!(world.moving.awaits(&World::counters(&world.words), true), Look::Deciding);
        world.go_on(2, 7, 1);
        update.go_on(world, LOOK).unwrap();
        assert_eq!(world.moving.awaits(&World::counters(&world.words), true), Look::Counted);
    });
}

proptest! {
    #[test]
    fn no_object_has_calls_of_both_editions(
        script in proptest::collection::vec(any::<u8>(), 1..200),
        tasks in 1usize..8,
        commands in proptest::collection::vec(any::<u8>(), 1..8),
        fail in proptest::collection::btree_set(1u32..40, 0..4),
        interrupt: bool,
        hold: bool,
    ) {
        let mut world = World { fail, interrupt, ..World::new(&script, tasks) };
        with_update(&mut world, |world, mut update| {
            let _ = update.activate(world, &ADDRESSES, &WRITABLE, if hold { HOLD } else { OBJECTS });
            for which in commands {
                match (which, update.state()) {
                    (240.., State::Transitioning) => {
                        let _ = update.go_on(world, FORCE);
                    }
                    (240.., State::Active | State::Reverting) => {
                        let _ = update.revert(world, FORCE);
                    }
                    _ => command(world, &mut update, OBJECTS, which),
                }
                (0..7).for_each(|_| world.step());
                if update.is_held() {
                    let _ = update.go_on(world, LOOK);
                }
            }
            settle(world, &mut update);
            if matches!(update.state(), State::Active | State::Reverting | State::Transitioning) {
                update.revert(world, OBJECTS).unwrap();
            }
            assert!(matches!(update.state(), State::Reverted | State::Registered));
            assert!(world.redirects.iter().all(Option::is_none));
        });
    }
}
