//! Pairs of small C sources, from the compiler to the clones.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use kernel_trees::CompileCommand;

use super::*;
use crate::build;
use crate::candidates::{Candidate, Candidates};
use crate::plan::{Outcome, Plan};
use crate::report::Reporter;
use crate::verdicts;

mod addresses;
mod escapes;
mod types;
mod whole_updates;

const FLAGS: &str = "-O2 -g -fno-pie -mcmodel=kernel -mno-red-zone -pg -mrecord-mcount -mfentry \
    -fno-asynchronous-unwind-tables -mno-sse -fno-common -fcf-protection=none -w";

/// Compares sources (name, V1, V2) in these directories.
fn judged(sources: &[(&str, &str, &str)], v1: &Path, v2: &Path) -> (verdicts::Judged, Plan) {
    let mut found = Candidates::default();
    let mut commands = Vec::new();
    for (name, old, new) in sources {
        let source = format!("{name}.c");
        std::fs::write(v1.join(&source), old).unwrap();
        std::fs::write(v2.join(&source), new).unwrap();
        let object = format!("{name}.o");
        let candidate = Candidate { owner: "vmlinux".into(), because: BTreeSet::new() };
        found.objects.insert(object.clone(), candidate);
        commands.push(CompileCommand {
            object,
            source,
            compiler: "gcc".into(),
            args: FLAGS.split_whitespace().map(Into::into).collect(),
            cwd: v1.into(),
        });
    }
    let built = build::build(&commands, v2, Some(1)).unwrap();
    let mut plan = Plan::default();
    let quiet = Reporter::new(true, false);
    let judged =
        verdicts::judge(&found, &commands, &built, v2, &quiet, &BTreeMap::new(), &mut plan)
            .unwrap();
    (judged, plan)
}

/// Compares and assembles sources (name, V1, V2), for a kernel that has what V1 defines and the names `more`.
fn assembled(sources: &[(&str, &str, &str)], more: &str) -> (Assembly, Plan) {
    let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut judged, mut plan) = judged(sources, v1.path(), v2.path());
    for table in std::mem::take(&mut judged.slots) {
        crate::slots::add(&table, &mut judged.units).unwrap();
    }
    plan.settle();
    (put_together(&judged, v1.path(), more, &Exports::default()), plan)
}

/// The same of one source with a bridge.
fn phased(v1: &str, v2: &str, bridge: &str, more: &str) -> (Assembly, Plan) {
    let roots = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let (mut all, mut plan) = judged(&[("a", v1, v2)], roots[0].path(), roots[1].path());
    let (editions, other) = judged(&[("a", v1, bridge)], roots[2].path(), roots[3].path());
    crate::phases::join(&mut all, editions, &mut plan, other);
    plan.settle();
    (put_together(&all, roots[0].path(), more, &Exports::default()), plan)
}

fn put_together(
    judged: &verdicts::Judged,
    scratch: &Path,
    more: &str,
    exported: &Exports,
) -> Assembly {
    let running = running(scratch, more);
    let kernel = Kernel { exported, running: &running };
    assemble(&judged.units, kernel, "test", "6.0").unwrap()
}

fn running(scratch: &Path, names: &str) -> Running {
    let map = scratch.join("System.map");
    let lines: Vec<String> = names
        .split_whitespace()
        .chain(["_text"])
        .map(|name| format!("ffffffff81000000 T {name}\n"))
        .collect();
    std::fs::write(&map, lines.concat()).unwrap();
    Running::of(scratch, &map, scratch)
}

const CALLER: (&str, &str, &str) = (
    "caller",
    "int old(int); int f(int a) { return old(a) + 1; }",
    "int fresh(int); int f(int a) { return fresh(a) + 1; }",
);

#[test]
fn what_the_running_kernel_lacks_is_refused_by_name() {
    let (assembly, _) = assembled(&[CALLER], "old __fentry__");
    let missing = ("vmlinux".to_string(), "fresh".to_string());
    assert_eq!(assembly.missing, BTreeSet::from([missing]));
    assert!(assembly.refusals.iter().any(|refusal| refusal.name == "fresh"));
    assert!(assembly.clones.is_empty());
    let (assembly, _) = assembled(&[CALLER], "old fresh __fentry__");
    assert!(assembly.missing.is_empty() && assembly.refusals.is_empty());
}

#[test]
fn a_new_function_goes_along_for_another_object() {
    // Nothing of the second object changes: the new function's body was inlined.
    let (old, new) = (
        "int g; int old(int a) { g += a; return g; }",
        "int g; int fresh(int a) { g += a; return g; } int unused(int a) { return g - a; }\n\
         int old(int a) { g += a; return g; }",
    );
    let (assembly, plan) = assembled(&[CALLER, ("callee", old, new)], "old g f __fentry__");
    assert!(assembly.refusals.is_empty(), "{:?}", assembly.refusals);
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    assert_eq!(assembly.added.get("callee.o"), Some(&BTreeSet::from(["fresh".to_string()])));
    assert_eq!(assembly.functions, [("caller.o".to_string(), "f".to_string())]);
    assert_eq!(assembly.clones.len(), 2);
    // What the update defines itself is no export of the kernel's.
    assert!(assembly.symbols.iter().all(|symbol| symbol.name != "fresh"));
}

#[test]
fn a_rate_limit_begins_anew() {
    let text = |limits: &str, more: &str| {
        format!(
            "struct limit {{ int interval, burst; }}; int limited(struct limit *); int p(int);\n\
             int f(int a) {{ static struct limit _rs = {{ {limits} }}; return limited(&_rs) ? p(a) : {more}; }}\n"
        )
    };
    let (old, new) = (text("5, 10", "0"), text("2, 5", "1"));
    let (assembly, plan) = assembled(&[("a", &old, &new)], "limited p __fentry__");
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    assert!(assembly.refusals.is_empty(), "{:?}", assembly.refusals);
    // A variable of another name may hold what must not be lost.
    let (old, new) = (old.replace("_rs", "state"), new.replace("_rs", "state"));
    let (_, plan) = assembled(&[("a", &old, &new)], "limited p __fentry__");
    assert!(plan.refusals.iter().any(|refusal| refusal.state_transfer), "{:?}", plan.refusals);
}

#[test]
fn a_changed_table_of_functions_needs_state_transfer() {
    let text = |second: &str| {
        format!(
            "struct ops {{ int (*a)(int), (*b)(int); }}; void keep(const struct ops *);\n\
             static int one(int a) {{ return a; }} static int two(int a) {{ return a + 2; }}\n\
             static const struct ops ops = {{ one, {second} }}; void f(void) {{ keep(&ops); }}\n\
             int g(int a) {{ int (*volatile p)(int) = a ? one : two; return p(a); }}\n"
        )
    };
    let (_, plan) = assembled(&[("a", &text("one"), &text("two"))], "keep __fentry__");
    assert!(
        plan.refusals.iter().any(|r| r.name == "ops" && r.state_transfer),
        "{:?}",
        plan.refusals
    );
}

#[test]
fn a_changed_table_that_is_only_looked_up_goes_along() {
    crate::uses::tests::open();
    let text = |more: &str, body: &str| {
        format!(
            "struct model {{ long id; int (*add)(int); }}; int one(int); int two(int); void keep(const void *);\n\
             static const struct model models[] = {{ {{ 1, one }}, {more} {{ 0 }} }};\n{body}\n"
        )
    };
    let refusals = |body: &str| {
        let (old, new) = (text("", body), text("{ 2, two },", body));
        let (assembly, plan) = assembled(&[("a", &old, &new)], "one two keep __fentry__");
        assert!(assembly.refusals.is_empty(), "{:?}", assembly.refusals);
        plan.refusals
    };
    let lookup = "int f(long id) { const struct model *m; for (m = models; m->id; m++) \
                  if (m->id == id) return m->add(1); return 0; }";
    assert!(refusals(lookup).is_empty());
    let keeps = lookup.replace("return 0;", "keep(models); return 0;");
    assert!(refusals(&keeps).iter().any(|r| r.name == "models" && r.state_transfer));
}

#[test]
fn a_type_that_lives_on_the_stacks_of_replaced_functions_needs_no_transfer() {
    crate::uses::tests::open();
    let text = |more: &str, body: &str| {
        format!(
            "struct local {{ long a; {more} long b; }}; void *kmalloc(unsigned long); long ext(void *); long x;\n\
             static __attribute__((noinline)) long sum(struct local *l) {{ return l->a + l->b; }}\n{body}\n"
        )
    };
    let refusals = |body: &str| {
        let (old, new) = (text("", body), text("long c;", body));
        let (assembly, plan) = assembled(&[("a", &old, &new)], "sum x ext kmalloc __fentry__");
        assert!(assembly.refusals.is_empty(), "{:?}", assembly.refusals);
        assert_eq!(plan.layouts.len(), 1, "{:?}", plan.layouts);
        plan.refusals.into_iter().map(|r| (r.name, r.state_transfer)).collect::<Vec<_>>()
    };
    let on_stack =
        "long f(long v) { struct local l = { v, 0, .b = x }; ext(&l.b); return sum(&l); }";
    assert_eq!(refusals(on_stack), []);
    // Of each of these an object may be there when the update comes.
    for more in [
        "struct local kept;",
        "long g(void *p) { struct local *l = p; return l->b; }",
        "struct local *g(void) { return kmalloc(sizeof(struct local)); }",
        // `g` stays as it is, with V1's object.
        "long g(long v) { struct local l = { v }; return l.a + 1; }",
    ] {
        let found = refusals(&format!("{on_stack}\n{more}"));
        assert!(found.contains(&("struct local".to_string(), true)), "{more}: {found:?}");
    }
}

#[test]
fn what_chooses_an_edition_must_not_call_what_is_replaced() {
    const V1: &str = "static int n; __attribute__((noinline)) int f(int *at) { return n + *at; }
        int g(int *at) { return f(at) + 1; }";
    let v2 = |chooses: &str| {
        let changed = V1.replace("n + *at", "n - *at");
        format!(
            "{changed} __attribute__((noinline)) static int h(int *at) {{ return g(at); }}
            static __attribute__((used)) int dynamos_adapt_f(int *at) {{ {chooses} }}"
        )
    };
    let refused = |chooses: &str| {
        let (assembly, plan) = assembled(&[("a", V1, &v2(chooses))], "");
        assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
        assembly
            .refusals
            .into_iter()
            .map(|refusal| (refusal.name, refusal.reason))
            .collect::<Vec<_>>()
    };
    assert_eq!(refused("return *at;"), []);
    let why = "is called before calls of what is replaced, and may itself call f, which is";
    let unused = v2("return *at;").replace("__attribute__((used)) int dynamos_", "int dynamos_");
    let (_, plan) = assembled(&[("a", V1, &unused)], "");
    let told: Vec<_> = plan.refusals.iter().map(|refusal| refusal.reason.as_str()).collect();
    assert_eq!(told, ["is in V2's source, and the compiler left it out"]);
    // `g` is not replaced, and what is by way of it is seen all the same.
    assert_eq!(refused("return h(at);"), [("dynamos_adapt_f".into(), why.into())]);
}

#[test]
fn a_tail_call_of_a_neighbour_is_matched_as_it_is() {
    let text = |value: i32| {
        format!(
            "int x; static __attribute__((noinline)) int g(int a) {{ return a * x; }}\n\
             int f(int a) {{ return g(a + {value}); }}\n"
        )
    };
    let (assembly, plan) = assembled(&[("a", &text(1), &text(2))], "g x __fentry__");
    assert!(plan.refusals.is_empty() && assembly.refusals.is_empty(), "{:?}", assembly.refusals);
    assert_eq!(assembly.functions, [("a.o".to_string(), "f".to_string())]);
}

#[test]
fn a_new_export_is_no_obstacle_but_noted() {
    let export = |name: &str| {
        format!(
            "static const char __kstrtab_{name}[] __attribute__((section(\"__ksymtab_strings\"), used)) = \"{name}\";\n"
        )
    };
    let old = export("f") + "int f(int a) { return a; }";
    let new =
        export("f") + &export("g") + "int g(int a) { return a; } int f(int a) { return a + 1; }";
    let (assembly, plan) = assembled(&[("a", &old, &new)], "f __fentry__");
    assert!(plan.refusals.is_empty() && assembly.refusals.is_empty(), "{:?}", plan.refusals);
    assert!(
        plan.notes.iter().any(|note| note.starts_with("__kstrtab_g is new")),
        "{:?}",
        plan.notes
    );
}

#[test]
fn handlers_of_a_table_are_written_as_the_record_says() {
    let text = |more: &str, table: &str| {
        format!(
            "struct ops {{ int (*a)(int), (*b)(int), (*c)(int); }};\n\
             static int one(int x) {{ return x + 1; }}\nstatic int two(int x) {{ return x + 2; }}\n{more}\n\
             const struct ops table = {{ {table} }};\nint call(int x) {{ return two(one(x)); }}\n"
        )
    };
    let old = text("", ".a = one, .b = two");
    let new = text("static int three(int x) { return x + 3; }", ".a = three, .c = two");
    let (assembly, _) = assembled(&[("ops", &old, &new)], "table one two call __fentry__");
    assert!(assembly.refusals.is_empty(), "{:?}", assembly.refusals);
    assert_eq!(assembly.added.get("ops.o"), Some(&BTreeSet::from(["three".to_string()])));
    let record = dynamos_abi::Record::parse(&assembly.record).unwrap();
    let name = |index: u32| record.symbols().get(index).map(|symbol| record.str(symbol.name));
    let slots: Vec<_> = record.slots().iter().collect();
    let told: Vec<_> = slots.iter().map(|s| (s.offset, name(s.before), name(s.after))).collect();
    assert_eq!(
        told,
        [(0, Some("one"), None), (8, Some("two"), None), (16, None, Some("two"))],
        "a table of pointers"
    );
    let clones: Vec<bool> = slots.iter().map(|slot| slot.clone != dynamos_abi::NONE).collect();
    assert_eq!(clones, [true, false, false]);
    assert!(slots.iter().all(|slot| name(slot.symbol) == Some("table")));
    let watched = dynamos_abi::function_flags::WATCHED;
    let functions = record.functions().iter().filter(|f| f.flags & watched != 0);
    let functions: Vec<_> = functions.filter_map(|function| name(function.symbol)).collect();
    assert_eq!(functions, ["one", "two"]);
}

#[test]
fn hooks_go_along_and_are_in_the_record() {
    let old = "int old(int); int f(int a) { return old(a) + 1; }\n";
    let new = "int old(int); int f(int a) { return old(a) + 2; }\n\
        static __attribute__((used)) int dynamos_before_on(void) { return old(1); }\n\
        static __attribute__((used)) int dynamos_after_off(void) { return old(2); }\n";
    let (assembly, plan) = assembled(&[("a", old, new)], "old __fentry__");
    assert!(plan.refusals.is_empty() && assembly.refusals.is_empty(), "{:?}", plan.refusals);
    let names: Vec<&str> = plan.hooks.iter().map(|hook| hook.name.as_str()).collect();
    assert_eq!(names, ["dynamos_before_on", "dynamos_after_off"]);
    let record = dynamos_abi::Record::parse(&assembly.record).unwrap();
    let hooks = HookKind::ALL.map(|kind| record.hook(kind));
    assert!(hooks[0].is_some() && hooks[3].is_some() && hooks[0] != hooks[3]);
    assert_eq!((hooks[1], hooks[2]), (None, None));
    // One that the compiler left out is not silently left out of the update.
    let unused =
        new.replace("__attribute__((used)) int dynamos_after_off", "int dynamos_after_off");
    let (_, plan) = assembled(&[("a", old, &unused)], "old __fentry__");
    assert!(plan.refusals.iter().any(|refusal| refusal.reason.contains("left it out")));
}

/// Two paths that share `left`, whose meaning V2 changes.
const PATHS: &str =
    "int left; int get(void) { return left + 1; } int put(int a) { left = a; return 0; }\n";

fn paths(get: &str, put: &str, more: &str) -> String {
    format!(
        "int left; {more} int get(void) {{ return left + {get}; }} int put(int a) {{ left = a; return {put}; }}\n"
    )
}

#[test]
fn a_bridge_that_lacks_a_path_is_refused_by_name() {
    let v2 = paths("2", "2", "");
    let (_, plan) = phased(PATHS, &v2, &paths("3", "0", ""), "left __fentry__");
    let names: Vec<&str> = plan.refusals.iter().map(|refusal| refusal.name.as_str()).collect();
    assert_eq!(names, ["put"]);
    assert!(plan.refusals[0].reason.contains("the bridge leaves it as V1 has it"));
    // Nor may it have one too many.
    let (_, plan) = phased(PATHS, &paths("2", "0", ""), &paths("3", "3", ""), "left __fentry__");
    assert!(plan.refusals.iter().any(|r| r.name == "put" && r.reason.contains("V2 does not")));
}

#[test]
fn both_editions_are_in_the_record_and_share_what_is_new() {
    let more = "int fresh; static __attribute__((noinline)) int helper(int a) { fresh += a; return fresh * 3; }";
    let (v2, bridge) =
        (paths("helper(2)", "helper(1)", more), paths("helper(4)", "helper(3)", more));
    let (assembly, plan) = phased(PATHS, &v2, &bridge, "left __fentry__");
    assert!(plan.refusals.is_empty() && assembly.refusals.is_empty(), "{:?}", plan.refusals);
    let record = dynamos_abi::Record::parse(&assembly.record).unwrap();
    assert!(record.has_phases() && record.replaced().count() == 2);
    assert!(record.replaced().all(|(_, function)| function.bridge != function.clone));
    let of = |edition| record.code().iter().filter(|code| code.edition == edition).count();
    // Each has its own helper.
    assert_eq!([of(1), of(2)], [3, 3]);
    let names = |wanted: &str| {
        let text = String::from_utf8_lossy(&assembly.clones[0]);
        text.matches(&format!("\0{wanted}\0")).count()
    };
    assert_eq!(["fresh", "get.clone", "get.bridge", "helper.bridge"].map(names), [1; 4]);
    assert_eq!(plan.phases.len(), 4);
    // What they share must be the same.
    let other = bridge.replace("int fresh;", "int fresh = 7;");
    let (assembly, _) = phased(PATHS, &v2, &other, "left __fentry__");
    assert!(assembly.refusals.iter().any(|refusal| refusal.name == "fresh"));
}

#[test]
fn a_variable_within_a_function_is_not_shared_and_so_refused() {
    let put = |n| format!("({{ static int count; count += {n}; count; }})");
    let (v2, bridge) = (paths("2", &put(1), ""), paths("3", &put(2), ""));
    let (assembly, _) = phased(PATHS, &v2, &bridge, "left __fentry__");
    assert!(assembly.refusals.iter().any(|refusal| refusal.name == "count"));
}

#[test]
fn hooks_between_phases_are_the_bridges() {
    let hook = |name: &str| {
        format!("static __attribute__((used)) int dynamos_{name}(void) {{ return left; }}")
    };
    let refused = |v2: &str, bridge: &str| {
        let (v2, bridge) = (paths("2", "2", v2), paths("3", "3", bridge));
        let (assembly, plan) = phased(PATHS, &v2, &bridge, "left __fentry__");
        let hooks = dynamos_abi::Record::parse(&assembly.record).map_or(0, |r| r.hooks().len());
        (plan.refusals.iter().map(|refusal| refusal.name.clone()).collect::<Vec<_>>(), hooks)
    };
    let both = hook("transfer") + &hook("transfer_back") + &hook("advance");
    assert_eq!(refused("", &both), (vec![], 3));
    assert_eq!(refused(&hook("before_on"), &hook("transfer_back")), (vec![], 2));
    let lone = refused("", &hook("transfer"));
    assert_eq!(lone.0, ["dynamos_transfer"]);
    assert_eq!(refused(&hook("advance"), "").0, ["dynamos_advance"]);
    assert_eq!(refused("", &hook("after_on")).0, ["dynamos_after_on"]);
    // Without a bridge there is nothing they could be between.
    let roots = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let v2 = paths("2", "2", &both);
    let (judged, mut plan) = judged(&[("a", PATHS, &v2)], roots[0].path(), roots[1].path());
    crate::phases::refuse(&judged, &mut plan);
    assert_eq!(plan.refusals.len(), 3);
}
