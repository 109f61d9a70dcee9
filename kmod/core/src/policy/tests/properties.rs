//! Random expressions and calls.

use proptest::collection::vec;
use proptest::prelude::*;

use super::model::{Call, World, meaning};
use crate::policy::compile::{CompileError, compile};
use crate::policy::language::{Expr, Operand, Relation, Term, parse};
use crate::policy::{Field, IntegerType, MAX_STEPS, Program, share};

/// Few values, so that equality is met.
fn value_in((least, greatest): (i128, i128)) -> impl Strategy<Value = i128> + Clone {
    (0i128..8, any::<u64>(), 0u8..4).prop_map(move |(small, wild, which)| match which {
        0 => (least + small).min(greatest),
        1 => (greatest - small).max(least),
        2 => least + i128::from(wild) % (greatest - least + 1),
        _ => small.clamp(least, greatest),
    })
}

fn operand() -> impl Strategy<Value = Operand> {
    let indices = (0..Field::ALL.len(), 0..IntegerType::ALL.len());
    (indices, any::<Option<u64>>(), 0u32..64).prop_map(|((field, as_type), mask, shift)| {
        let field = Field::ALL[field];
        let argument = field.argument();
        // The types that the tests' world gives; its fourth argument has none.
        let as_type = match argument {
            Some(2) => IntegerType::S32,
            Some(_) => IntegerType::ALL[as_type],
            None => IntegerType::U64,
        };
        let field = if argument == Some(3) { Field::Arg1 } else { field };
        let bits = match field {
            Field::Pid | Field::Tgid | Field::Uid | Field::Cpu => 32,
            _ => as_type.bits(),
        };
        let mask = mask
            .filter(|_| !matches!(field, Field::Cgroup | Field::Time))
            .map(|mask| (mask >> shift) & (u64::MAX >> (64 - bits)))
            .filter(|mask| *mask != 0);
        Operand { field, as_type, mask }
    })
}

fn relation() -> impl Strategy<Value = Relation> {
    use Relation::*;
    prop::sample::select(vec![Equal, NotEqual, Less, LessOrEqual, Greater, GreaterOrEqual])
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["sh", "nginx", "ngin", "eight_by", "eight_bytes"])
            .prop_map(String::from),
        "[ -)+-~]{1,15}",
        "\u{e9}{1,7}",
    ]
}

fn compare() -> impl Strategy<Value = Term> {
    operand()
        .prop_flat_map(|operand| (Just(operand), relation(), value_in(operand.range())))
        .prop_map(|(operand, relation, value)| {
            let exact = matches!(relation, Relation::Equal | Relation::NotEqual);
            let relation = match operand.field {
                Field::Cgroup if !exact => Relation::NotEqual,
                _ => relation,
            };
            Term::Compare { operand, relation, value: masked(&operand, value) }
        })
}

/// Values that the parser takes for a masked operand.
fn masked(operand: &Operand, value: i128) -> i128 {
    operand.mask.map_or(value, |mask| value & i128::from(mask))
}

fn term() -> impl Strategy<Value = Term> {
    let set = operand()
        .prop_flat_map(|operand| (Just(operand), vec(value_in(operand.range()), 1..4)))
        .prop_map(|(operand, values)| Term::In {
            operand,
            values: values.into_iter().map(|value| masked(&operand, value)).collect(),
        });
    prop_oneof![
        6 => compare(),
        2 => set,
        1 => (any::<bool>(), name()).prop_map(|(equal, name)| Term::Comm { equal, name }),
        1 => name().prop_map(|name| Term::CommStarts(name.replace(['?', '['], "_"))),
        1 => vec(name(), 1..3).prop_map(Term::CommIn),
        1 => (0u32..=1_000_000, any::<u64>())
            .prop_map(|(of_million, seed)| Term::Percent { of_million, seed }),
    ]
}

pub(crate) fn expr() -> impl Strategy<Value = Expr> {
    let leaf =
        prop_oneof![9 => term().prop_map(Expr::Term), 1 => any::<bool>().prop_map(Expr::Constant)];
    leaf.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| Expr::Not(Box::new(inner))),
            vec(inner.clone(), 2..4).prop_map(Expr::All),
            vec(inner, 2..4).prop_map(Expr::Any),
        ]
    })
}

prop_compose! {
    pub(crate) fn call()(
        pid in 0u32..10, tgid in 0u32..10, uid in prop_oneof![0u32..10, any::<u32>()],
        cpu in 0u32..4, cgroup in 0u64..10, comm in name(), ticks in prop_oneof![0u64..4000, any::<u64>()],
        started in any::<u64>(),
        arguments in prop::array::uniform6(prop_oneof![
            0u64..10, any::<u64>(), (0u64..10).prop_map(|n| 0u64.wrapping_sub(n)),
            (0u64..10, any::<u32>()).prop_map(|(n, high)| n | u64::from(high) << 32),
            (0u32..64).prop_map(|bit| 1 << bit),
        ]),
    ) -> Call {
        let comm = comm.into_bytes();
        Call { pid, tgid, uid, cpu, cgroup, comm, ticks, started, arguments, asked: Default::default() }
    }
}

/// The program, or nothing if it would be too long.
pub(crate) fn compiled(expr: &Expr, hz: u32) -> Option<Program> {
    match compile(expr, "") {
        Ok(bytes) => Some(Program::parse(&bytes, hz).unwrap()),
        Err(CompileError::TooManySteps { steps }) => {
            assert!(steps > MAX_STEPS);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn printed_it_parses_to_itself(expr in expr()) {
        let text = expr.to_string();
        if text.len() <= crate::policy::MAX_SOURCE {
            prop_assert_eq!(parse(&text, &World).map_err(|e| format!("{text}: {e}")), Ok(expr));
        }
    }

    #[test]
    fn no_text_does_harm(text in "([a-z0-9 ()<>=!&~{},.\"*-]|and |or |not |pid|comm|percent|arg1|u32){0,40}") {
        if let Ok(expr) = parse(&text, &World) {
            prop_assert_eq!(parse(&expr.to_string(), &World), Ok(expr));
        }
    }

    #[test]
    fn decides_what_it_means(expr in expr(), calls in vec(call(), 8), hz in prop::sample::select(vec![100, 250, 1000])) {
        if let Some(program) = compiled(&expr, hz) {
            for call in &calls {
                prop_assert_eq!(
                    program.decide(call), meaning(&expr, call, u64::from(hz)), "{} {:?}", expr, call
                );
            }
        }
    }
}

/// Processes as they come: ids that count up, started a moment after one another.
fn drawn(below: u32, seed: u64) -> impl Iterator<Item = (u32, bool)> {
    (1..=100_000u32).map(move |n| {
        let started = 5_000_000_000 + u64::from(n) * 4_000_000;
        (n, share(n, started, seed) < below)
    })
}

#[test]
fn percent_is_the_share_it_says() {
    for seed in [0, 1, 99, 0xdead_beef, u64::MAX] {
        for percent in [1u64, 10, 50, 90] {
            let below = ((percent << 32) / 100) as u32;
            let count = drawn(below, seed).filter(|(_, drawn)| *drawn).count() as u64;
            let wanted = percent * 1000;
            // Far more than chance would allow; a poor mixture is off by much more.
            assert!(count.abs_diff(wanted) < 400, "{percent} % with seed {seed}: {count}");
        }
    }
}

/// The canary grows: nobody who had the edition loses it.
#[test]
fn a_greater_share_leaves_nobody_out() {
    let (ten, twenty) = (super::program("percent(10)"), super::program("percent(20)"));
    let mut joined = 0;
    for n in 1..=10_000 {
        let started = 5_000_000_000 + u64::from(n) * 4_000_000;
        let call = Call { tgid: n, started, ..super::call() };
        let (before, after) = (ten.decide(&call), twenty.decide(&call));
        assert!(after || !before, "process {n}");
        assert_eq!(before, ten.decide(&Call { pid: n + 1, cpu: 3, ..call }), "thread of {n}");
        joined += u32::from(after && !before);
    }
    assert!(joined.abs_diff(1000) < 150, "{joined}");
}

#[test]
fn seeds_draw_independently() {
    for (one, other) in [(0, 1), (1, 2), (99, 100)] {
        let half = 1 << 31;
        let both = drawn(half, one).zip(drawn(half, other)).filter(|(a, b)| a.1 && b.1).count();
        assert!(both.abs_diff(25_000) < 1000, "seeds {one} and {other}: {both}");
    }
}
