//! What only shows where all objects of an update are seen together.

use super::*;
use crate::definitions;

/// The plan of these objects.
fn plan_of(sources: &[(&str, &str, &str)], more: &str) -> Plan {
    let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (judged, mut plan) = judged(sources, v1.path(), v2.path());
    let running = running(v1.path(), more);
    definitions::check(&judged.definitions, &running, &mut plan).unwrap();
    plan.settle();
    plan
}

fn refused(plan: &Plan, object: &str, name: &str) -> bool {
    plan.refusals.iter().any(|refusal| refusal.is_about(object, name))
}

const INIT: &str = "__attribute__((section(\".init.text\")))";

#[test]
fn init_code_stays_only_if_nothing_at_all_is_replaced() {
    let of = |n: u32| format!("int ext(int); int {INIT} start(int a) {{ return ext(a) + {n}; }}");
    let (old, new) = (of(1), of(2));
    let start = ("start", &*old, &*new);
    let plan = plan_of(&[start], "");
    assert!(plan.refusals.is_empty() && plan.functions[0].verdict == "stays", "{plan:?}");
    let other = ("other", "int f(int a) { return a + 1; }", "int f(int a) { return a + 2; }");
    let plan = plan_of(&[other, start], "");
    assert!(plan.refusals.iter().any(|r| r.name == "start" && r.state_transfer), "{plan:?}");
    // The same if it is a handler that is to be replaced.
    let table = |handler: &str| {
        format!(
            "struct ops {{ int (*a)(int); }}; void keep(const struct ops *);\n\
             int one(int a) {{ return a; }} int two(int a) {{ return a + 2; }}\n\
             static const struct ops ops = {{ {handler} }}; void f(void) {{ keep(&ops); }}"
        )
    };
    let (old, new) = (table("one"), table("two"));
    let plan = plan_of(&[("ops", &old, &new), start], "");
    assert!(plan.refusals.iter().any(|r| r.name == "start" && r.state_transfer), "{plan:?}");
}

#[test]
fn refusals_of_tables_with_one_name_are_told_apart() {
    let table = |handler: &str, n: u32| {
        format!(
            "struct ops {{ int (*a)(int); int n; }}; void keep(const struct ops *);\n\
             static int one(int a) {{ return a; }} static int two(int a) {{ return a + 2; }}\n\
             static const struct ops ops = {{ {handler}, {n} }}; void f(void) {{ keep(&ops); }}\n\
             int g(int a) {{ int (*volatile p)(int) = a ? one : two; return p(a); }}\n"
        )
    };
    let (a, b, c) = (table("one", 1), table("two", 1), table("one", 2));
    let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let matter = |sources: &[(&str, &str, &str)]| {
        let (judged, plan) = judged(sources, v1.path(), v2.path());
        (crate::slots::matter(&judged, &plan), plan)
    };
    let (matter_alone, _) = matter(&[("handlers", &a, &b)]);
    assert!(matter_alone, "nothing else is refused");
    let (matter_beside, plan) = matter(&[("handlers", &a, &b), ("number", &a, &c)]);
    assert!(refused(&plan, "handlers.o", "ops") && refused(&plan, "number.o", "ops"), "{plan:?}");
    assert!(!matter_beside, "the other one's number differs");
}

#[test]
fn state_under_another_name_is_refused() {
    let text = |name: &str, more: &str| {
        format!(
            "{more} static int {name}; void lock(int *); int f(int a) {{ lock(&{name}); return {name} += a; }}"
        )
    };
    let renamed = plan_of(&[("a", &text("count", ""), &text("total", ""))], "");
    assert!(refused(&renamed, "a.o", "total"), "{renamed:?}");
    assert!(renamed.refusals.iter().all(|refusal| refusal.state_transfer));
    // It moves to another object.
    let without = "int f(int a) { return a; }";
    let g = text("count", "").replace("int f", "int g");
    let moved = plan_of(&[("a", &text("count", ""), without), ("b", "", &g)], "");
    assert!(refused(&moved, "b.o", "count"), "{moved:?}");
    // One more is none of the old ones, and of another size it is another.
    let one_more = text("count", "static int more; int *h(void) { return &more; }");
    assert!(plan_of(&[("a", &text("count", ""), &one_more)], "").refusals.is_empty());
    let larger = text("total", "").replace("static int", "static long").replace("int *", "long *");
    let other = plan_of(&[("a", &text("count", ""), &larger)], "");
    assert!(other.refusals.is_empty(), "{other:?}");
}

const BASE: &str = "int ext(int); int base(int a) { return a; }\n";

#[test]
fn another_definition_than_the_kernels_is_refused() {
    let f = |n: u32| format!("int ext(int); int f(int a) {{ return ext(a) + {n}; }}");
    let weak = format!("__attribute__((weak)) {}", f(1).replace("int ext(int);", ""));
    let weak = format!("int ext(int); {weak}");
    // The kernel has the weak one.
    let plan =
        plan_of(&[("weak", &weak, &weak), ("strong", BASE, &(BASE.to_owned() + &f(2)))], "f ext");
    assert!(refused(&plan, "strong.o", "f"), "{plan:?}");
    // It has none: it is only new.
    let plan = plan_of(&[("strong", BASE, &(BASE.to_owned() + &f(2)))], "ext");
    assert!(plan.refusals.is_empty() && plan.outcome == Outcome::NoChange, "{plan:?}");
    // It moves, and changes on its way.
    let plan = plan_of(
        &[("from", &(BASE.to_owned() + &f(1)), BASE), ("to", BASE, &(BASE.to_owned() + &f(2)))],
        "f ext",
    );
    assert!(refused(&plan, "to.o", "f"), "{plan:?}");
}

#[test]
fn a_retyped_variable_is_refused_beside_a_changed_one_of_its_name() {
    let text = |kind: &str, n: u32| {
        format!(
            "int f(int a) {{ static int state = {n}; return state += a; }}\n\
             struct x {{ int v; }}; struct y {{ unsigned v; }};\n\
             long g(int a) {{ static {kind} state; return state.v += a; }}\n"
        )
    };
    let plan = plan_of(&[("a", &text("struct x", 1), &text("struct y", 2))], "");
    let reasons: Vec<&str> = plan.refusals.iter().map(|r| r.reason.as_str()).collect();
    assert!(reasons.iter().any(|reason| reason.contains("struct y")), "{reasons:?}");
}

/// By V1's name.
fn reshaped(sources: &[(&str, &str, &str)]) -> Vec<String> {
    let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (judged, plan) = judged(sources, v1.path(), v2.path());
    let all: Vec<String> =
        judged.units.iter().flat_map(|unit| unit.reshaped.iter().cloned()).collect();
    let rows = plan.functions.iter().filter(|row| row.reshaped).map(|row| row.name.clone());
    assert_eq!(all, rows.collect::<Vec<_>>());
    all
}

#[test]
fn a_function_whose_parameters_differ_is_no_matter_of_single_calls() {
    let text = |parameter: &str, argument: &str, n: u32| {
        format!(
            "int ext(long); __attribute__((noinline)) int g(int a{parameter}) {{ return ext(a{argument}) + {n}; }}\n"
        )
    };
    let caller = |argument: &str, n: u32| {
        format!("int g(); int f(int a) {{ return g(a{argument}) + {n}; }}\n")
    };
    // The caller is in the same object, or in another.
    let (old, new) = (text("", "", 1), text(", int b", " + b", 2));
    let (by_old, by_new) = (caller("", 1), caller(", 7", 2));
    let beside = ("a", &*(old.clone() + &by_old), &*(new.clone() + &by_new));
    assert_eq!(reshaped(&[beside]), ["g"]);
    assert_eq!(reshaped(&[("callee", &old, &new), ("caller", &by_old, &by_new)]), ["g"]);
    // Only a new function calls it.
    let fresh = |body: &str| {
        format!(
            "__attribute__((noinline)) static int fresh(int a) {{ return g(a, 7) + a; }}\nint f(int a) {{ {body} }}\n"
        )
    };
    let by_nobody = "int f(int a) { return a; }\n";
    let by_fresh = fresh("return fresh(a);");
    assert_eq!(reshaped(&[("a", &*(old.clone() + by_nobody), &*(new.clone() + &by_fresh))]), ["g"]);
    // Nothing but bodies differs, or nobody who calls it does.
    let none: [String; 0] = [];
    let same = ("a", &*(old.clone() + &by_old), &*(text("", " * 2", 1) + &caller("", 2)));
    assert_eq!(reshaped(&[same]), none);
    assert_eq!(reshaped(&[("callee", &old, &new)]), none);
    // Wider, or another result.
    let wide = text("", "", 2).replace("g(int a", "g(long a");
    assert_eq!(reshaped(&[("a", &*(old.clone() + &by_old), &*(wide + &caller("", 2)))]), ["g"]);
    let result = text("", "", 2).replace("int g", "long g");
    let by_result = caller("", 2).replace("int g", "long g");
    assert_eq!(reshaped(&[("a", &*(old.clone() + &by_old), &*(result + &by_result))]), ["g"]);
}

#[test]
fn nothing_gives_other_parameters_while_v1s_functions_answer() {
    let text = |parameter: &str, n: u32| {
        format!(
            "int ext(long, ...); __attribute__((noinline)) int g(int a{parameter}) {{ return ext(a) + {n}; }}\n"
        )
    };
    let fresh = |argument: &str, f: &str| {
        format!(
            "__attribute__((noinline)) static int fresh(int a) {{ return g(a{argument}) + 1; }}\n{f}\n"
        )
    };
    let old = text("", 1) + "int f(int a) { return ext(a, 0); }\n";
    let refusals = |new: String, escapes: bool| {
        let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (judged, mut plan) = judged(&[("a", &old, &new)], v1.path(), v2.path());
        let assembly = put_together(&judged, v1.path(), "ext __fentry__", &Exports::default());
        assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
        assert_eq!(assembly.escapes.iter().any(|escape| escape.rewritten), escapes);
        crate::verdicts::reshaped::refuse_early_and_late(
            &judged.units,
            &assembly.escapes,
            &mut plan,
        );
        plan.refusals
    };
    let names =
        |found: &[Refusal]| found.iter().map(|refusal| refusal.name.clone()).collect::<Vec<_>>();
    // Handed out, itself or what calls it.
    let handed = "int f(int a) { return ext(a, fresh); }";
    assert!(refusals(text("", 2) + &fresh("", handed), true).is_empty());
    let found = refusals(text(", int b", 2) + &fresh(", 7", handed), true);
    assert_eq!(names(&found), ["fresh"]);
    assert!(found[0].reason.contains("its address escapes at f"), "{found:?}");
    let by_way =
        "static int way(int a) { return fresh(a) * 2; } int f(int a) { return ext(a, way); }";
    assert_eq!(names(&refusals(text(", int b", 2) + &fresh(", 7", by_way), true)), ["way"]);
    // Another function is.
    let beside =
        "static int way(int a) { return a * 2; } int f(int a) { return ext(a, way) + fresh(a); }";
    assert!(refusals(text(", int b", 2) + &fresh(", 7", beside), true).is_empty());
    // Hooks around the switches.
    let hook = |name: &str| {
        format!(
            "__attribute__((used)) static int {name}(void) {{ return fresh(1); }} int f(int a) {{ return fresh(a); }}"
        )
    };
    for (name, early) in
        [("dynamos_before_on", true), ("dynamos_after_on", false), ("dynamos_after_off", true)]
    {
        let found = refusals(text(", int b", 2) + &fresh(", 7", &hook(name)), false);
        assert_eq!(!found.is_empty(), early, "{name}: {found:?}");
    }
}

#[test]
fn a_part_of_a_function_is_no_caller() {
    let text = |n: u32| {
        format!(
            "int ext(long); void bad(void) __attribute__((cold)); static __attribute__((noinline)) int g(int a, int b) \
             {{ if (a > 7) {{ bad(); ext(a); }} return ext(a) + {n}; }}\nint f(int a) {{ return g(a, 0) + g(a + 1, 0); }}\n"
        )
    };
    let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (judged, _) = judged(&[("a", &text(1), &text(2))], v1.path(), v2.path());
    let unit = &judged.units[0];
    assert!(
        unit.v2.symbols.iter().any(|symbol| symbol.name.contains(".cold")),
        "no part is moved away"
    );
    assert!(unit.reshaped.is_empty(), "{:?}", unit.reshaped);
}
