//! Histories that are right, and some that are not.

use super::model::{Operation, State, What, check};
use super::random::Random;

const LOAD: What = What::Load { takes: true };
const UNLOAD: What = What::Unload { revert: false };
const BUSY: &str = "dynamos: cannot revert u: it is being switched by somebody else: wait until that is over (Resource busy (os error 16))";
const GONE: &str = "dynamos: no update is called \"u\"; none is loaded";

fn operation(begin: u64, end: u64, what: What, code: i32, said: &str) -> Operation {
    Operation { who: 1, begin, end, what, code: Some(code), said: said.into() }
}

fn done(begin: u64, end: u64, what: What) -> Operation {
    operation(begin, end, what, 0, "u is as it was asked to be")
}

fn edition(begin: u64, end: u64, edition: &str) -> Operation {
    operation(begin, end, What::Edition, 0, edition)
}

fn policy(takes: bool) -> What {
    What::Policy { takes, code: false }
}

#[track_caller]
fn wrong(history: &[Operation], says: &str) {
    let why = check(history).unwrap_err();
    assert!(why.ends_with(says), "{why}");
}

#[test]
fn one_after_the_other() {
    let loaded =
        "dynamos: u is loaded already; see `dynamos status u`, or `dynamos unload u` first";
    let enabled = "dynamos: u is enabled; `dynamos revert u` first, or give --revert";
    let history = [
        operation(0, 1, What::Revert, 2, GONE),
        edition(2, 3, "0"),
        done(4, 5, LOAD),
        edition(6, 7, "1"),
        operation(8, 9, LOAD, 3, loaded),
        operation(10, 11, UNLOAD, 3, enabled),
        operation(12, 13, What::Enable, 0, "u is active already"),
        done(14, 15, policy(false)),
        edition(16, 17, "0"),
        done(18, 19, What::Revert),
        done(20, 21, policy(true)),
        edition(22, 23, "0"),
        operation(24, 25, What::Revert, 0, "u is reverted already"),
        done(26, 27, What::Enable),
        edition(28, 29, "1"),
        operation(30, 31, What::Unload { revert: true }, 0, "u is reverted"),
        edition(32, 33, "0"),
        done(34, 35, LOAD),
        edition(36, 37, "1"),
    ];
    check(&history).unwrap();
    assert!(check(&history[1..16]).is_ok());
    for left_out in [2, 7, 9, 10, 13, 15, 17] {
        let mut history = history.to_vec();
        history.remove(left_out);
        assert!(check(&history).is_err(), "without #{left_out}");
    }
}

#[test]
fn a_lost_update_is_found() {
    let history = [done(0, 1, LOAD), done(2, 9, policy(false)), edition(10, 11, "1")];
    wrong(
        &history,
        "the longest legal order: #0 active:1 #1 active:0\nnone of these can follow: #2",
    );
    // Of two at once either may be the last one.
    let two = [
        done(0, 1, LOAD),
        done(2, 9, policy(false)),
        done(3, 8, policy(true)),
        edition(10, 11, "1"),
        edition(12, 13, "1"),
    ];
    check(&two).unwrap();
    let mut two = two.to_vec();
    two[4].said = "0".into();
    wrong(&two, "#4");
}

#[test]
fn a_value_that_nobody_set_is_found() {
    let history = [done(0, 9, What::Load { takes: false }), edition(1, 2, "1")];
    wrong(&history, "the longest legal order: #0 active:0\nnone of these can follow: #1");
    let mixed = [done(0, 1, LOAD), edition(2, 3, "mixed")];
    wrong(&mixed, "#1");
}

#[test]
fn what_can_succeed_once_does() {
    wrong(&[done(0, 9, LOAD), done(1, 8, LOAD)], "none of these can follow: #1");
    wrong(&[done(0, 1, LOAD), done(2, 3, What::Revert), done(4, 5, What::Revert)], "#2");
    wrong(&[done(0, 1, LOAD), done(2, 3, What::Enable)], "#1");
    let unloads = [done(4, 9, UNLOAD), done(5, 8, UNLOAD)];
    let begin = [done(0, 1, LOAD), done(2, 3, What::Revert)];
    wrong(&[&begin[..], &unloads].concat(), "#3");
}

#[test]
fn a_refusal_needs_a_reason() {
    let with = |said, other| {
        [done(0, 1, LOAD), operation(2, 9, What::Revert, 3, said), done(other, 20, policy(true))]
    };
    check(&with(BUSY, 9)).unwrap();
    wrong(&with(BUSY, 10), "none of these can follow: #1");
    wrong(&with("dynamos: something else", 9), "none of these can follow: #1");
    wrong(&[done(0, 1, LOAD), operation(2, 3, UNLOAD, 2, GONE)], "#1");
    let killed = Operation { code: None, ..done(0, 1, LOAD) };
    wrong(&[killed], "#0");
}

#[test]
fn what_is_done_may_be_an_error() {
    let undone = operation(2, 9, What::Revert, 2, "dynamos: u is active, not reverted; see");
    let history = [done(0, 1, LOAD), undone, done(3, 8, What::Enable), edition(10, 11, "1")];
    check(&history).unwrap();
    let [loaded, undone, ..] = history;
    wrong(&[loaded, undone, edition(10, 11, "1")], "#2");
}

#[test]
fn an_unload_reverts_nothing_unless_asked() {
    let busy =
        operation(4, 9, UNLOAD, 3, "dynamos: u is loading: it is being switched by somebody else;");
    check(&[done(0, 5, LOAD), busy, edition(10, 11, "1")]).unwrap();
    wrong(&[done(0, 5, LOAD), done(4, 9, UNLOAD), edition(10, 11, "0")], "#1");
    wrong(&[done(0, 3, LOAD), done(4, 9, UNLOAD)], "#1");
}

/// What a command does and says when it is alone.
fn alone(state: State, what: What) -> (State, i32, &'static str) {
    use State::{Active, Gone, Reverted};
    let same = |code, said| (state, code, said);
    match (what, state) {
        (What::Edition, Active { takes: true }) => same(0, "1"),
        (What::Edition, _) => same(0, "0"),
        (What::Load { takes }, Gone) => (Active { takes }, 0, "u is loaded"),
        (What::Load { .. }, _) => same(3, "dynamos: u is loaded already; see"),
        (_, Gone) => same(2, GONE),
        (What::Revert, Active { takes }) => (Reverted { takes }, 0, "u is reverted"),
        (What::Revert, _) => same(0, "u is reverted already"),
        (What::Enable, Reverted { takes }) => (Active { takes }, 0, "u is active"),
        (What::Enable, _) => same(0, "u is active already"),
        (What::Policy { takes, .. }, Active { .. }) => (Active { takes }, 0, "* default"),
        (What::Policy { takes, .. }, _) => (Reverted { takes }, 0, "* default"),
        (What::Unload { revert: false }, Active { .. }) => same(3, "dynamos: u is enabled; `d"),
        (What::Unload { .. }, _) => (Gone, 0, "u is unloaded"),
    }
}

/// Operations with an instant for each, around which it may have taken any time up to `longest`. Some find another
/// command in their way.
fn random_history(random: &mut Random, longest: u64) -> Vec<Operation> {
    let mut state = State::Gone;
    let mut history = Vec::new();
    for number in 0..80 {
        let (at, what) = (1000 + number * 10, random.what());
        let (begin, end) = (at - random.below(longest), at + random.below(longest));
        let may_wait = matches!(what, What::Revert | What::Enable | What::Policy { .. });
        if may_wait && random.below(4) == 0 {
            history.push(operation(begin, end, what, 3, BUSY));
            continue;
        }
        let (after, code, said) = alone(state, what);
        state = after;
        history.push(operation(begin, end, what, code, said));
    }
    let others = history.clone();
    let overlaps = |one: &Operation, other: &Operation| {
        other.what != What::Edition && one.begin <= other.end && other.begin <= one.end
    };
    // Itself is one of them.
    history.retain(|it| it.said != BUSY || others.iter().filter(|o| overlaps(it, o)).count() > 1);
    history
}

#[test]
fn what_the_model_does_is_right() {
    for seed in 0..300 {
        let history = random_history(&mut Random::new(seed, 0), 40);
        check(&history).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
}

#[test]
fn of_what_it_does_not_do_much_is_found() {
    let mut found = 0;
    for seed in 0..300 {
        let mut random = Random::new(seed, 1);
        let mut history = random_history(&mut random, 15);
        let is_edition = |at: &usize| history[*at].what == What::Edition;
        let editions: Vec<_> = (0..history.len()).filter(is_edition).collect();
        let at = editions[usize::try_from(random.below(editions.len() as u64)).unwrap()];
        let other = if history[at].said == "0" { "1" } else { "0" };
        history[at].said = other.into();
        found += u32::from(check(&history).is_err());
    }
    assert!(found > 150, "{found}");
}
