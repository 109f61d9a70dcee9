//! Stacks of updates against a simple model: the current edition of each function is the topmost active update's.

use proptest::prelude::*;

use super::tests::{RELEASE, add_over, advance, update};
use super::*;
use crate::testing::with_record;
use State::*;

/// Loads an update of the functions at `addresses` all the way.
fn load(
    manager: &mut Manager,
    name: &str,
    addresses: &[u64],
    over: Over,
) -> Result<UpdateId, String> {
    let names: Vec<_> = addresses.iter().map(|address| format!("f{address}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let id = add_over(manager, &update(name, &names, ""), addresses, over)?;
    manager.advance(id, Transitioning).unwrap();
    manager.switched(id).unwrap();
    Ok(id)
}

fn revert(manager: &mut Manager, id: UpdateId) -> Result<Leaving, String> {
    let how = manager.may_revert(id).map_err(|refusal| refusal.to_string())?;
    advance(manager, id, &[Reverting]);
    if how == Leaving::Covered {
        manager.leave(id);
        advance(manager, id, &[Draining]);
    }
    advance(manager, id, &[Reverted]);
    Ok(how)
}

#[test]
fn the_newest_runs_and_what_was_below_comes_back() {
    let manager = &mut Manager::new();
    let a = load(manager, "a", &[1, 2], Over::Nothing).unwrap();
    let text = load(manager, "b", &[2, 3], Over::Nothing).unwrap_err();
    assert!(text.contains("`f2` is already replaced by update `a`"), "{text}");
    let b = load(manager, "b", &[2, 3], Over::Stack).unwrap();
    let c = load(manager, "c", &[3], Over::Stack).unwrap();
    let all = |manager: &Manager| [1, 2, 3].map(|address| manager.current(address));
    assert_eq!(all(manager), [Some(a), Some(b), Some(c)]);
    let names: Vec<_> = manager.editions(2).map(|(_, name, _)| name.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    let over = |id, address| manager.over(id, address).map(|name| name.to_string());
    assert_eq!((over(a, 2).as_deref(), over(b, 2), over(a, 3)), (Some("b"), None, None));
    let text = revert(manager, b).unwrap_err();
    assert!(text.starts_with("update `c` lies over some functions of `b`"), "{text}");
    assert!(revert(manager, a).is_err());
    assert_eq!(revert(manager, c), Ok(Leaving::Top));
    assert_eq!(all(manager), [Some(a), Some(b), Some(b)]);
    assert_eq!(revert(manager, b), Ok(Leaving::Top));
    assert_eq!(all(manager), [Some(a), Some(a), None]);
}

#[test]
fn what_is_covered_wholly_leaves_without_a_switch() {
    let manager = &mut Manager::new();
    let a = load(manager, "a", &[1, 2], Over::Nothing).unwrap();
    let b = load(manager, "b", &[1, 2, 3], Over::Stack).unwrap();
    manager.set_leaves(b, true);
    let text = revert(manager, a).unwrap_err();
    assert!(text.contains("leaves calls to it: `dynamos policy b --default 1`"), "{text}");
    manager.set_leaves(b, false);
    assert_eq!(revert(manager, a), Ok(Leaving::Covered));
    assert_eq!(manager.current(1), Some(b));
    // It finds its place taken if it comes back.
    with_record(&update("a", &["f1", "f2"], ""), |record| {
        manager.restart(a, record).unwrap();
        let resolved = Resolved { symbols: vec![], functions: vec![1, 2, 9], traced: vec![] };
        assert!(manager.register(a, record, &resolved, Over::Nothing).is_err());
        manager.register(a, record, &resolved, Over::Stack).unwrap();
        assert_eq!(manager.current(1), Some(b), "not before the switch");
        advance(manager, a, &[Transitioning, Active]);
        assert_eq!(manager.current(1), Some(a));
    });
}

#[test]
fn all_that_hang_together_are_replaced_at_one_switch() {
    let manager = &mut Manager::new();
    let a = load(manager, "a", &[1, 2], Over::Nothing).unwrap();
    let b = load(manager, "b", &[2, 3], Over::Stack).unwrap();
    let other = load(manager, "other", &[7], Over::Nothing).unwrap();
    let bytes = update("c", &["f3", "f4"], "");
    let c = add_over(manager, &bytes, &[3, 4], Over::Replace).unwrap();
    assert_eq!(manager.takes(c), [b, a]);
    manager.advance(c, Transitioning).unwrap();
    assert_eq!([1, 2, 3].map(|at| manager.current(at)), [Some(a), Some(b), Some(b)]);
    assert!(manager.may_revert(a).is_err() && manager.may_change(b).is_err());
    manager.switched(c).unwrap();
    assert_eq!([1, 2, 3, 4].map(|at| manager.current(at)), [None, None, Some(c), Some(c)]);
    assert_eq!([a, b].map(|id| manager.state(id)), [Some(Draining); 2]);
    assert!(!manager.has_place(a) && manager.current(7) == Some(other));
    advance(manager, a, &[Reverted]);
    assert_eq!(revert(manager, c), Ok(Leaving::Top));
    assert_eq!(manager.current(3), None, "not b");
}

#[test]
fn one_at_a_time() {
    let manager = &mut Manager::new();
    let a = load(manager, "a", &[1], Over::Nothing).unwrap();
    advance(manager, a, &[Reverting]);
    for over in [Over::Stack, Over::Replace] {
        let text = load(manager, "b", &[1], over).unwrap_err();
        assert!(text.contains("`a`, of the same functions, is reverting"), "{text}");
    }
}

#[test]
fn what_came_with_a_module_may_be_under_another_and_not_over_one() {
    for (over, left) in [(Over::Stack, Active), (Over::Replace, Draining)] {
        let manager = &mut Manager::new();
        let a = with_record(&update("m", &["f1"], ""), |record| {
            let id = manager.admit(record, RELEASE).unwrap();
            manager.await_target(id).unwrap();
            let resolved = Resolved { symbols: vec![], functions: vec![1, 9], traced: vec![] };
            manager.register(id, record, &resolved, Over::Nothing).unwrap();
            advance(manager, id, &[Transitioning, Active]);
            id
        });
        let b = add_over(manager, &update("b", &["f1"], ""), &[1], over).unwrap();
        manager.advance(b, Transitioning).unwrap();
        manager.switched(b).unwrap();
        assert_eq!((manager.current(1), manager.state(a)), (Some(b), Some(left)));
        with_record(&update("late", &["f1"], ""), |record| {
            let id = manager.admit(record, RELEASE).unwrap();
            manager.await_target(id).unwrap();
            let resolved = Resolved { symbols: vec![], functions: vec![1, 9], traced: vec![] };
            let refusal = manager.register(id, record, &resolved, over).unwrap_err();
            assert!(matches!(refusal, Refusal::FollowsModule { .. }));
            assert_eq!(manager.state(id), Some(Waiting));
        });
    }
}

/// What somebody asks for.
#[derive(Clone, Debug)]
enum Ask {
    Load(usize, Over),
    Revert(usize),
    Fail(usize, Over),
    Leaves(usize, bool),
    Unload(usize),
}

fn asks() -> impl Strategy<Value = Ask> {
    let over = proptest::sample::select(vec![Over::Nothing, Over::Stack, Over::Replace]);
    prop_oneof![
        4 => (0usize..5, over.clone()).prop_map(|(which, over)| Ask::Load(which, over)),
        3 => (0usize..5).prop_map(Ask::Revert),
        1 => (0usize..5, over).prop_map(|(which, over)| Ask::Fail(which, over)),
        1 => (0usize..5, any::<bool>()).prop_map(|(which, leaves)| Ask::Leaves(which, leaves)),
        2 => (0usize..5).prop_map(Ask::Unload),
    ]
}

/// The model: the active ones, oldest first, each with its functions and whether it leaves calls.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model(Vec<(usize, Vec<u64>, bool)>);

impl Model {
    fn current(&self, address: u64) -> Option<usize> {
        let has = |entry: &&(usize, Vec<u64>, bool)| entry.1.contains(&address);
        self.0.iter().rev().find(has).map(|entry| entry.0)
    }

    /// The updates that hang together with these functions.
    fn group(&self, addresses: &[u64]) -> Vec<usize> {
        let mut known = addresses.to_vec();
        let mut found = vec![];
        while let Some((which, functions, _)) = self.0.iter().find(|(which, functions, _)| {
            !found.contains(which) && functions.iter().any(|at| known.contains(at))
        }) {
            found.push(*which);
            known.extend(functions);
        }
        found
    }

    fn load(&mut self, which: usize, functions: &[u64], over: Over) -> bool {
        let group = self.group(functions);
        if self.0.iter().any(|entry| entry.0 == which) || over == Over::Nothing && !group.is_empty()
        {
            return false;
        }
        if over == Over::Replace {
            self.0.retain(|entry| !group.contains(&entry.0));
        }
        self.0.push((which, functions.to_vec(), false));
        true
    }

    /// Every function's calls must go on as before, or none of it lie under another's.
    fn revert(&mut self, which: usize) -> bool {
        let Some(at) = self.0.iter().position(|entry| entry.0 == which) else { return false };
        let above = &self.0[at + 1..];
        let functions = &self.0[at].1;
        let over = |f: &u64| above.iter().filter(|e| e.1.contains(f)).collect::<Vec<_>>();
        let top = functions.iter().all(|f| over(f).is_empty());
        let unreached = functions.iter().all(|f| over(f).iter().any(|e| !e.2));
        if top || unreached {
            self.0.remove(at);
        }
        top || unreached
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn as_the_model(
        functions in proptest::collection::vec(proptest::collection::btree_set(1u64..6, 1..4), 5),
        asks in proptest::collection::vec(asks(), 1..30),
    ) {
        let mut manager = Manager::new();
        let mut model = Model::default();
        let mut ids: Vec<Option<UpdateId>> = vec![None; 5];
        let functions: Vec<Vec<u64>> =
            functions.into_iter().map(|set| set.into_iter().collect()).collect();
        for ask in asks {
            let before = model.clone();
            match ask {
                Ask::Load(which, over) => {
                    // One that was reverted is unloaded first.
                    if let Some(id) = ids[which]
                        && manager.state(id) == Some(Reverted)
                    {
                        with_record(&update("x", &[], ""), |r| manager.forget(id, r).unwrap());
                        ids[which] = None;
                    }
                    let name = format!("u{which}");
                    let outcome = load(&mut manager, &name, &functions[which], over);
                    prop_assert_eq!(outcome.is_ok(), model.load(which, &functions[which], over));
                    ids[which] = outcome.ok().or(ids[which]);
                    // Whoever was to leave drains, and has left before anything else is asked.
                    for id in ids.iter().flatten() {
                        if manager.state(*id) == Some(Draining) {
                            prop_assert!(!manager.has_place(*id));
                            manager.advance(*id, Reverted).unwrap();
                        }
                    }
                }
                Ask::Revert(which) => {
                    let Some(id) = ids[which] else { continue };
                    if manager.state(id) != Some(Active) {
                        continue;
                    }
                    prop_assert_eq!(revert(&mut manager, id).is_ok(), model.revert(which));
                }
                Ask::Fail(which, over) => {
                    // Given up before the switch: nothing has changed.
                    if ids[which].is_some() {
                        continue;
                    }
                    let name = format!("u{which}");
                    let bytes = update(&name, &vec!["f"; functions[which].len()], "");
                    if let Ok(id) = add_over(&mut manager, &bytes, &functions[which], over) {
                        advance(&mut manager, id, &[Transitioning, Registered]);
                        with_record(&bytes, |record| manager.forget(id, record).unwrap());
                    }
                }
                Ask::Leaves(which, leaves) => {
                    let Some(id) = ids[which] else { continue };
                    manager.set_leaves(id, leaves);
                    if let Some(entry) = model.0.iter_mut().find(|entry| entry.0 == which) {
                        entry.2 = leaves;
                    }
                    continue;
                }
                Ask::Unload(which) => {
                    let Some(id) = ids[which] else { continue };
                    let bytes = update("x", &[], "");
                    let gone = with_record(&bytes, |record| manager.forget(id, record).is_ok());
                    // Nothing that a call can reach goes.
                    prop_assert_eq!(gone, !model.0.iter().any(|entry| entry.0 == which));
                    if gone {
                        ids[which] = None;
                    }
                }
            }
            for address in 1..6 {
                let current = manager.current(address);
                let which = current.map(|id| ids.iter().position(|i| *i == Some(id)).unwrap());
                prop_assert_eq!(which, model.current(address), "{:?} after {:?}", before, model);
            }
        }
    }
}
