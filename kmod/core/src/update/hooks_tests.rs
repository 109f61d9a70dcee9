//! Hooks that refuse, that are slow, and that never return: in every switch, with every other failure.

use std::collections::{BTreeMap, BTreeSet};

use dynamos_abi::{Hook, HookKind, HookKind::*, function_flags::RESHAPED};
use proptest::prelude::*;

use super::sim::{ADDRESSES, FUNCTIONS, HOW, Sim, WRITABLE, builder, kernel, sim, sim_of};
use super::tests::{activated, live, ways};
use super::*;
use crate::budget::Budget;
use crate::testing::with_record;

/// What the hooks of a simulated update do.
#[derive(Clone, Debug, Default)]
pub(super) struct Hooks {
    /// Those that there are.
    pub(super) are: BTreeSet<HookKind>,
    /// What they answer, if not 0.
    pub(super) answers: BTreeMap<HookKind, i32>,
    /// How often they have not returned when they are asked.
    pub(super) slow: BTreeMap<HookKind, u32>,
    /// The one that runs.
    pub(super) running: Option<HookKind>,
    /// What has run to its end.
    pub(super) ran: Vec<HookKind>,
    /// Whether `after_off` and `before_off` must follow.
    pub(super) owed: [bool; 2],
    /// The latter has been asked, and said no.
    refused: bool,
}

impl Hooks {
    /// An update that has all of them.
    pub(super) fn all() -> Self {
        Hooks { are: BTreeSet::from(HookKind::ALL), ..Hooks::default() }
    }

    /// Adds them to a record.
    pub(super) fn add_to(&self, build: &mut crate::testing::Build) {
        build.0.hooks.extend(self.are.iter().map(|kind| Hook { kind: *kind as u32, function: 3 }));
    }

    /// None of them holds anything up or refuses any more.
    pub(super) fn relent(&mut self) {
        (self.answers, self.slow) = Default::default();
    }

    /// The update is gone: one that had to go may have been refused that, and nothing is to follow any more.
    pub(super) fn begin_anew(&mut self) {
        assert!(self.are_even());
        (self.owed, self.refused) = Default::default();
    }

    fn has(&self, pair: [HookKind; 2]) -> bool {
        pair.iter().all(|hook| self.are.contains(hook))
    }

    /// Whether `before_off` is to follow, where there is one.
    pub(super) fn is_on(&self) -> bool {
        self.owed[1] || !self.has([AfterOn, BeforeOff])
    }

    /// Whether none is running, and none is to follow.
    pub(super) fn are_even(&self) -> bool {
        self.running.is_none() && !self.owed[0] && (!self.owed[1] || self.refused)
    }

    pub(super) fn begin(&mut self, hook: HookKind) {
        assert_eq!(self.running.replace(hook), None, "one at a time");
        assert!(self.are.contains(&hook));
        let [off, before_off] = self.owed;
        let begun = off || !self.has([BeforeOn, AfterOff]);
        match hook {
            BeforeOn => assert!(!off && !before_off),
            AfterOn => assert!(begun && !before_off),
            BeforeOff => assert!(begun && (before_off || !self.has([AfterOn, BeforeOff]))),
            AfterOff => assert!(begun && (!before_off || self.refused)),
            _ => {}
        }
    }

    pub(super) fn returned(&mut self, interrupt: bool) -> Returned {
        let hook = self.running.expect("one runs");
        match self.slow.get_mut(&hook) {
            Some(times @ 1..) => {
                *times -= 1;
                return if interrupt { Returned::Interrupted } else { Returned::NotYet };
            }
            _ => self.running = None,
        }
        self.ran.push(hook);
        let result = self.answers.get(&hook).copied().unwrap_or(0);
        match (hook, result) {
            (BeforeOn, 0) => self.owed[0] = self.has([BeforeOn, AfterOff]),
            (AfterOff, _) => self.owed[0] = false,
            (AfterOn, 0) => self.owed[1] = self.has([AfterOn, BeforeOff]),
            (BeforeOff, 0) => self.owed[1] = false,
            (BeforeOff, _) => self.refused = true,
            _ => {}
        }
        Returned::With(result)
    }
}

fn record_of(hooks: &Hooks, replaced: u32) -> Vec<u8> {
    let mut build = builder(replaced);
    hooks.add_to(&mut build);
    build.finish("pipe_fix")
}

/// Runs `test` with an update that has these hooks and is ready to be activated.
fn with(hooks: Hooks, test: impl FnOnce(&mut Sim, Update<'_>)) {
    with_record(&record_of(&hooks, FUNCTIONS), |record| {
        let mut sim = Sim { hooks, ..sim() };
        let mut update = Update::new(record).unwrap();
        update.pin(&mut sim).unwrap();
        update.prepare(&mut sim, &kernel(), &mut Budget::new(10_000)).unwrap();
        test(&mut sim, update);
    });
}

fn on(sim: &mut Sim, update: &mut Update<'_>, how: Switching) -> Result<(), String> {
    update.activate(sim, &ADDRESSES, &WRITABLE, how).map_err(|refusal| refusal.to_string())
}

const HOLD: Switching = Switching { on_timeout: OnTimeout::Hold, ..HOW };
/// A look at what is held.
const LOOK: Switching = Switching { limits: Limits { wait_ms: 0, ..HOW.limits }, ..HOLD };

#[test]
fn they_run_in_order() {
    with(Hooks::all(), |sim, mut update| {
        on(sim, &mut update, HOW).unwrap();
        assert_eq!(sim.hooks.ran, [BeforeOn, AfterOn]);
        update.revert(sim, HOW).unwrap();
        assert_eq!(sim.hooks.ran, HookKind::ALL);
        assert!(sim.is_pristine() && !update.is_held());
    });
}

#[test]
fn before_on_refuses_and_nothing_has_changed() {
    let answers = BTreeMap::from([(BeforeOn, -16)]);
    with(Hooks { answers, ..Hooks::all() }, |sim, mut update| {
        let refused = on(sim, &mut update, HOW).unwrap_err();
        assert_eq!(refused, "hook `dynamos_before_on` of the update answers -16 (EBUSY)");
        assert_eq!(
            (update.state(), sim.hooks.ran.as_slice()),
            (State::Registered, &[BeforeOn][..])
        );
        assert!(!sim.states.contains(&State::Active));
        assert!(update.has_run(), "it may have handed out what has to stay");
        update.discard(sim).unwrap();
        assert!(sim.is_pristine());
    });
}

#[test]
fn after_on_refuses_and_the_update_is_reverted() {
    let answers = BTreeMap::from([(AfterOn, 7), (BeforeOff, -1)]);
    with(Hooks { answers, ..Hooks::all() }, |sim, mut update| {
        let refused = on(sim, &mut update, HOW).unwrap_err();
        assert_eq!(refused, "hook `dynamos_after_on` of the update answers 7");
        // What did not begin need not end.
        assert_eq!(sim.hooks.ran, [BeforeOn, AfterOn, AfterOff]);
        assert_eq!(update.state(), State::Reverted);
        assert!(sim.is_pristine() && update.has_run());
    });
}

#[test]
fn a_switch_that_is_given_up_ends_with_after_off() {
    with(Hooks::all(), |sim, mut update| {
        sim.blocked = 1000;
        assert!(on(sim, &mut update, HOW).is_err());
        assert_eq!(sim.hooks.ran, [BeforeOn, AfterOff]);
        assert_eq!((update.state(), update.has_run()), (State::Registered, true));
    });
    // Without one no code of it has run.
    for are in [BTreeSet::new(), BTreeSet::from([AfterOn, BeforeOff])] {
        with(Hooks { are, ..Hooks::default() }, |sim, mut update| {
            sim.blocked = 1000;
            assert!(on(sim, &mut update, HOW).is_err());
            assert_eq!((update.state(), update.has_run()), (State::Registered, false));
        });
    }
    // One that could not begin has not run.
    with(Hooks::all(), |sim, mut update| {
        sim.fail = BTreeSet::from([sim.operations + 3]);
        assert!(matches!(
            update.activate(sim, &ADDRESSES, &WRITABLE, HOW),
            Err(Refusal::Failed { step: Step::Hook(BeforeOn), .. })
        ));
        assert!(!update.has_run());
    });
}

#[test]
fn a_revert_that_is_given_up_begins_anew() {
    with(Hooks::all(), |sim, mut update| {
        on(sim, &mut update, HOW).unwrap();
        sim.blocked = 1000;
        assert!(update.revert(sim, HOW).is_err());
        assert_eq!(sim.hooks.ran, [BeforeOn, AfterOn, BeforeOff, AfterOn]);
        assert_eq!(update.state(), State::Active);
        // Held, and resumed.
        update.revert(sim, HOLD).unwrap();
        assert_eq!(update.state(), State::Reverting);
        update.resume(sim, HOW).unwrap();
        assert_eq!(sim.hooks.ran[4..], [BeforeOff, AfterOn]);
        assert!(sim.is_fully_active());
    });
}

#[test]
fn before_off_refuses_unless_the_code_goes() {
    let answers = BTreeMap::from([(BeforeOff, -11)]);
    with(Hooks { answers, ..Hooks::all() }, |sim, mut update| {
        on(sim, &mut update, HOW).unwrap();
        let refused = update.revert(sim, HOLD).unwrap_err().to_string();
        assert_eq!(refused, "hook `dynamos_before_off` of the update answers -11 (EAGAIN)");
        assert!(sim.is_fully_active() && update.state() == State::Active);
        update.revert(sim, Switching { must: true, ..HOW }).unwrap();
        assert!(sim.is_pristine());
        assert!(sim.log[0].contains("it must go all the same"), "{:?}", sim.log);
    });
}

#[test]
fn after_off_is_only_told() {
    let answers = BTreeMap::from([(AfterOff, -5)]);
    with(Hooks { answers, ..Hooks::all() }, |sim, mut update| {
        on(sim, &mut update, HOW).unwrap();
        update.revert(sim, HOW).unwrap();
        assert!(sim.is_pristine());
        assert!(sim.log[0].contains("answers -5 (error 5); it is off all the same"));
    });
}

/// A hook that does not return: `answer` is what it says in the end.
fn stuck(hook: HookKind, answer: i32, test: impl FnOnce(&mut Sim, Update<'_>)) {
    let hooks = Hooks {
        slow: BTreeMap::from([(hook, 5)]),
        answers: BTreeMap::from([(hook, answer)]),
        ..Hooks::all()
    };
    with(hooks, test);
}

/// Looks until the hook has returned.
fn looked(sim: &mut Sim, update: &mut Update<'_>, state: State) {
    for _ in 0..20 {
        assert!(update.is_held());
        assert_eq!(update.state(), state);
        update.go_on(sim, LOOK).unwrap();
        if !update.is_held() {
            break;
        }
    }
    assert!(!update.is_held() && update.running().is_none());
}

#[test]
fn before_on_that_does_not_return_is_given_up() {
    for (answer, ran) in [(0, &[BeforeOn, AfterOff][..]), (-1, &[BeforeOn])] {
        stuck(BeforeOn, answer, |sim, mut update| {
            let refused = on(sim, &mut update, HOW).unwrap_err();
            assert!(
                refused.starts_with(
                    "given up after 100 ms: hook `dynamos_before_on` has not returned"
                ),
                "{refused}"
            );
            assert!(!sim.active && sim.late, "the update's code stays");
            let again = update.revert(sim, HOW).unwrap_err();
            assert!(matches!(again, Refusal::HookRuns { hook: BeforeOn, .. }));
            assert!(update.resume(sim, HOW).is_err(), "it never was on");
            looked(sim, &mut update, State::Reverting);
            assert_eq!((update.state(), sim.hooks.ran.as_slice()), (State::Reverted, ran));
            assert!(sim.is_pristine());
        });
    }
}

#[test]
fn after_on_that_does_not_return_leaves_the_old_edition() {
    for (answer, ran) in
        [(0, &[BeforeOn, AfterOn, BeforeOff, AfterOff][..]), (-1, &[BeforeOn, AfterOn, AfterOff])]
    {
        stuck(AfterOn, answer, |sim, mut update| {
            let refused = on(sim, &mut update, HOW).unwrap_err();
            assert!(refused.contains("`dynamos_after_on` has not returned"), "{refused}");
            assert!(!sim.active && sim.inside, "calls take edition 0; the hook is in the code");
            assert!(update.resume(sim, HOW).is_err(), "it cannot be had after all");
            looked(sim, &mut update, State::Draining);
            assert_eq!((update.state(), sim.hooks.ran.as_slice()), (State::Reverted, ran));
            assert!(sim.is_pristine());
        });
    }
}

#[test]
fn before_off_that_does_not_return_leaves_the_new_edition() {
    for (answer, ran) in [(0, &[BeforeOff, AfterOn][..]), (-1, &[BeforeOff])] {
        stuck(BeforeOff, answer, |sim, mut update| {
            on(sim, &mut update, HOW).unwrap();
            let refusal = update.revert(sim, HOW).unwrap_err();
            assert!(matches!(refusal, Refusal::HookRuns { hook: BeforeOff, .. }));
            looked(sim, &mut update, State::Active);
            assert_eq!((update.state(), &sim.hooks.ran[2..]), (State::Active, ran));
            assert!(sim.is_fully_active());
        });
        // Held, the revert goes on when it returns, unless it refuses.
        stuck(BeforeOff, answer, |sim, mut update| {
            on(sim, &mut update, HOW).unwrap();
            update.revert(sim, HOLD).unwrap();
            assert!(sim.is_fully_active());
            sim.hooks.slow.insert(BeforeOff, 0);
            let outcome = update.go_on(sim, LOOK);
            assert_eq!(outcome.is_ok(), answer == 0);
            assert_eq!(sim.is_pristine(), answer == 0);
            assert_eq!(sim.is_fully_active(), answer != 0);
        });
        // Or it is given up before that.
        stuck(BeforeOff, answer, |sim, mut update| {
            on(sim, &mut update, HOW).unwrap();
            update.revert(sim, HOLD).unwrap();
            update.resume(sim, HOW).unwrap();
            looked(sim, &mut update, State::Active);
            assert_eq!(&sim.hooks.ran[2..], ran);
        });
    }
}

#[test]
fn after_off_that_does_not_return_keeps_the_code() {
    for answer in [0, -1] {
        stuck(AfterOff, answer, |sim, mut update| {
            on(sim, &mut update, HOW).unwrap();
            let refusal = update.revert(sim, HOW).unwrap_err();
            assert!(matches!(refusal, Refusal::HookRuns { hook: AfterOff, .. }));
            assert!(!sim.active && sim.late && update.resume(sim, HOW).is_err());
            looked(sim, &mut update, State::Reverting);
            assert_eq!(sim.hooks.ran, HookKind::ALL);
            assert!(sim.is_pristine() && update.state() == State::Reverted);
        });
    }
}

#[test]
fn an_interrupted_hook_is_given_up_whatever_was_to_be() {
    stuck(AfterOn, 0, |sim, mut update| {
        sim.interrupt = true;
        let refused = on(sim, &mut update, HOLD).unwrap_err();
        assert!(refused.starts_with("interrupted"), "{refused}");
        assert!(!sim.active);
    });
    stuck(BeforeOff, 0, |sim, mut update| {
        on(sim, &mut update, HOW).unwrap();
        sim.interrupt = true;
        assert!(update.revert(sim, HOLD).is_err());
        assert_eq!(update.state(), State::Active);
    });
}

/// Its calls would come from callers of the other edition, which give them other parameters.
#[test]
fn one_whose_parameters_differ_is_not_forced_off_when_after_on_is_late() {
    for (reshaped, state) in [(0, State::Draining), (RESHAPED, State::Reverting)] {
        let hooks = Hooks { slow: BTreeMap::from([(AfterOn, 1000)]), ..Hooks::all() };
        let mut build = builder(FUNCTIONS);
        hooks.add_to(&mut build);
        build.0.functions[1].flags |= reshaped;
        with_record(&build.finish("pipe_fix"), |record| {
            let mut sim = Sim { hooks, ..sim() };
            let mut update = Update::new(record).unwrap();
            update.pin(&mut sim).unwrap();
            update.prepare(&mut sim, &kernel(), &mut Budget::new(10_000)).unwrap();
            on(&mut sim, &mut update, HOW).unwrap_err();
            assert_eq!((update.state(), sim.active), (state, reshaped != 0));
            sim.hooks.relent();
            update.revert(&mut sim, HOW).unwrap();
            assert_eq!(update.state(), State::Reverted);
        });
    }
}

#[test]
fn an_update_without_hooks_begins_no_thread() {
    let mut sim = sim();
    with_record(&record_of(&Hooks::default(), FUNCTIONS), |record| {
        let mut update = activated(&mut sim, record);
        update.revert(&mut sim, HOW).unwrap();
    });
    assert_eq!(sim.hooks.ran, []);
}

/// What one hook may do: what it answers, and how often it is not done.
const BEHAVIOURS: [(i32, u32); 5] = [(0, 0), (-16, 0), (0, 1), (-16, 1), (0, 1000)];

fn hooks(are: BTreeSet<HookKind>, odd: HookKind, (answer, slow): (i32, u32)) -> Hooks {
    let (answers, slow) = (BTreeMap::from([(odd, answer)]), BTreeMap::from([(odd, slow)]));
    Hooks { are, answers, slow, ..Hooks::default() }
}

#[test]
fn every_operation_may_fail_beside_every_hook() {
    for (how, odd) in ways().flat_map(|how| HookKind::ALL.map(|odd| (how, odd))) {
        for (behaviour, replaced) in
            BEHAVIOURS.into_iter().flat_map(|behaviour| [1, FUNCTIONS].map(|n| (behaviour, n)))
        {
            for blocked in [0, 1000] {
                let hooks = hooks(BTreeSet::from(HookKind::ALL), odd, behaviour);
                let kernel = || Sim { blocked, hooks: hooks.clone(), ..sim_of(replaced) };
                let mut whole = kernel();
                live(&mut whole, how);
                for fail in 1..=whole.operations + 4 {
                    live(&mut Sim { fail: BTreeSet::from([fail]), ..kernel() }, how);
                }
            }
        }
    }
}

/// What was found by chance: `after_on` comes late, so the update goes, whatever `before_off` says; then it is on again.
#[test]
fn one_that_had_to_go_comes_back() {
    for how in ways() {
        let are = BTreeSet::from([AfterOn, BeforeOff]);
        let (answers, slow) = (BTreeMap::from([(BeforeOff, -16)]), BTreeMap::from([(AfterOn, 1)]));
        live(
            &mut Sim { hooks: Hooks { are, answers, slow, ..Hooks::default() }, ..sim_of(1) },
            how,
        );
    }
}

/// What was found by chance: tasks do not move, and when the activation is taken back, `after_off` cannot begin.
#[test]
fn after_off_fails_where_tasks_move_back() {
    for how in ways() {
        for fail in 1..40 {
            for blocked in [1, 5, 1000] {
                let (are, fail) = (BTreeSet::from([AfterOff]), BTreeSet::from([fail]));
                let hooks = Hooks { are, ..Hooks::default() };
                live(&mut Sim { fail, blocked, hooks, ..sim() }, how);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_operations_may_fail_beside_any_hooks(
        fail in proptest::collection::btree_set(1u32..60, 0..8),
        blocked in 0u32..24,
        interrupt: bool,
        replaced in proptest::sample::select(vec![1, FUNCTIONS]),
        late_failure: bool,
        how in 0usize..12,
        are in proptest::collection::btree_set(proptest::sample::select(&HookKind::ALL[..]), 0..=4),
        odd in proptest::array::uniform4(0usize..BEHAVIOURS.len()),
    ) {
        let how = ways().nth(how).unwrap();
        let mut hooks = Hooks { are, ..Hooks::default() };
        for (kind, behaviour) in HookKind::ALL.into_iter().zip(odd) {
            hooks.answers.insert(kind, BEHAVIOURS[behaviour].0);
            hooks.slow.insert(kind, BEHAVIOURS[behaviour].1);
        }
        live(&mut Sim { fail, blocked, interrupt, late_failure, hooks, ..sim_of(replaced) }, how);
    }
}
