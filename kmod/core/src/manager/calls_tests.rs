//! Updates that call what another gives other parameters.

use dynamos_abi::function_flags::{REPLACE, RESHAPED, UNLIKE_V1};
use dynamos_abi::symbol_flags::{EXPORTED, IMPORTED, NEEDED};

use super::tests::{RELEASE, advance};
use super::*;
use crate::testing::{Build, with_record};
use State::*;

/// What an update replaces and calls: names, with their addresses.
struct Update {
    name: &'static str,
    replaces: (&'static str, u64, u32),
    calls: Option<(&'static str, u64, u32)>,
    pinned: &'static str,
}

/// `f`, at 0x100, takes other parameters.
const RESHAPES: Update =
    Update { name: "more", replaces: ("f", 0x100, RESHAPED), calls: None, pinned: "" };
/// `g` calls it, and did not in V1.
const CALLS: Update = Update {
    name: "calls",
    replaces: ("g", 0x200, 0),
    calls: Some(("f", 0x100, NEEDED)),
    pinned: "",
};

impl Update {
    fn bytes(&self) -> (Vec<u8>, Resolved) {
        let (mut build, mut symbols) = (Build::new(), Vec::new());
        let (name, address, flags) = self.replaces;
        build.function(name, REPLACE | flags, &[0x90; 8], &[]);
        symbols.push(Some(address));
        if let Some((name, address, flags)) = self.calls {
            build.symbol(name, flags);
            symbols.push((flags & EXPORTED == 0).then_some(address));
        }
        let resolved = Resolved { symbols, functions: vec![address], traced: vec![] };
        (build.0.finish(self.name, RELEASE, self.pinned).unwrap(), resolved)
    }

    fn register(&self, manager: &mut Manager, over: Over) -> Result<UpdateId, String> {
        let (bytes, resolved) = self.bytes();
        with_record(&bytes, |record| {
            let id = manager.admit(record, RELEASE).unwrap();
            let result = manager.register(id, record, &resolved, over);
            result.map(|()| id).map_err(|refusal| {
                manager.forget(id, record).unwrap();
                refusal.to_string()
            })
        })
    }

    fn load(&self, manager: &mut Manager, over: Over) -> Result<UpdateId, String> {
        let id = self.register(manager, over)?;
        advance(manager, id, &[Transitioning]);
        manager.switched(id).unwrap();
        Ok(id)
    }
}

fn forget(manager: &mut Manager, id: UpdateId, update: &Update) {
    with_record(&update.bytes().0, |record| manager.forget(id, record).unwrap());
}

#[test]
fn nobody_calls_what_takes_other_parameters() {
    let manager = &mut Manager::new();
    let id = RESHAPES.load(manager, Over::Nothing).unwrap();
    let text = CALLS.load(manager, Over::Nothing).unwrap_err();
    assert!(text.contains("in update `more` than in V1: revert `more` first"), "{text}");
    assert!(
        CALLS.load(manager, Over::Stack).is_err() && CALLS.load(manager, Over::Replace).is_err()
    );
    assert_eq!(manager.iter().count(), 1);
    // Until it is reverted.
    advance(manager, id, &[Reverting]);
    assert!(CALLS.load(manager, Over::Nothing).is_err());
    advance(manager, id, &[Reverted]);
    CALLS.load(manager, Over::Nothing).unwrap();
}

#[test]
fn what_is_called_does_not_get_other_parameters() {
    for (pinned, stays) in [("", false), ("a timer calls it", true)] {
        let manager = &mut Manager::new();
        let calls = Update { pinned, ..CALLS };
        let id = calls.load(manager, Over::Nothing).unwrap();
        let text = RESHAPES.load(manager, Over::Nothing).unwrap_err();
        assert!(
            text.starts_with("update `calls` calls `f`, which takes other parameters"),
            "{text}"
        );
        // Those under way may still come to the call.
        for state in [Reverting, Draining] {
            advance(manager, id, &[state]);
            assert!(RESHAPES.load(manager, Over::Nothing).is_err());
        }
        advance(manager, id, &[Reverted]);
        assert_eq!(RESHAPES.load(manager, Over::Nothing).is_err(), stays);
    }
}

#[test]
fn code_that_never_ran_calls_nobody() {
    let manager = &mut Manager::new();
    let calls = Update { pinned: "a timer calls it", ..CALLS };
    let id = calls.register(manager, Over::Nothing).unwrap();
    assert!(RESHAPES.load(manager, Over::Nothing).is_err(), "it is about to run");
    forget(manager, id, &calls);
    RESHAPES.load(manager, Over::Nothing).unwrap();
}

#[test]
fn an_export_is_called_by_its_name() {
    // A site of V1's code may speak of one as well.
    for (name, flags, refused) in [
        ("f", EXPORTED | IMPORTED, true),
        ("ff", EXPORTED | IMPORTED, false),
        ("f", EXPORTED, false),
    ] {
        let manager = &mut Manager::new();
        let calls = Update { calls: Some((name, 0, flags)), ..CALLS };
        calls.load(manager, Over::Nothing).unwrap();
        assert_eq!(RESHAPES.load(manager, Over::Nothing).is_err(), refused);
    }
}

#[test]
fn one_that_leaves_goes_with_its_parameters() {
    for (pinned, refused) in [("", false), ("a timer calls it", true)] {
        // The same function again, with V1's parameters, and the caller.
        let again = Update { name: "again", replaces: ("f", 0x100, 0), ..CALLS };
        let manager = &mut Manager::new();
        RESHAPES.load(manager, Over::Nothing).unwrap();
        again.load(manager, Over::Replace).unwrap();
        // It drains, and nobody comes to it any more.
        assert_eq!(manager.state(manager.find("more").unwrap()), Some(Draining));
        CALLS.load(manager, Over::Nothing).unwrap();
        // One that leaves, and whose code may call once it has.
        let manager = &mut Manager::new();
        let below = Update { pinned, ..again };
        below.load(manager, Over::Nothing).unwrap();
        assert_eq!(RESHAPES.load(manager, Over::Replace).is_err(), refused);
    }
}

#[test]
fn a_successor_knows_what_the_one_before_it_gives() {
    // Both give `f` other parameters and call it; the first stays for something else.
    let both = |name, pinned| Update {
        name,
        replaces: ("f", 0x100, RESHAPED),
        calls: Some(("f", 0x100, NEEDED)),
        pinned,
    };
    let manager = &mut Manager::new();
    let first = both("first", "a timer calls it").load(manager, Over::Nothing).unwrap();
    both("second", "").load(manager, Over::Replace).unwrap();
    advance(manager, first, &[Reverted]);
    let other = Update { name: "other", replaces: ("g", 0x200, 0), ..both("", "") };
    assert!(other.load(manager, Over::Nothing).is_err());
}

#[test]
fn whose_callers_are_v1s_has_no_new_ones() {
    let manager = &mut Manager::new();
    let update = Update { replaces: ("f", 0x100, UNLIKE_V1), ..RESHAPES };
    let id = update.load(manager, Over::Nothing).unwrap();
    assert!(CALLS.load(manager, Over::Nothing).is_err());
    advance(manager, id, &[Reverting, Reverted]);
    CALLS.load(manager, Over::Nothing).unwrap();
    let again = Update { name: "again", ..update };
    assert!(again.load(manager, Over::Nothing).unwrap_err().contains("update `calls` calls `f`"));
}
