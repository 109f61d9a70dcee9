//! Addresses of the update that stay behind in the kernel.

use super::*;

#[test]
fn a_changed_table_pins_the_update_only_if_its_address_may_be_kept() {
    let text = |value: &str, body: &str| {
        format!("static const int table[] = {{ 1, 2, {value}, 4 }}; int p(const int *);\n{body}\n")
    };
    let of = |body: &str| names(escapes(&text("3", body), &text("7", body), "p"));
    assert!(of("int f(unsigned a) { return table[a % 4]; }").is_empty());
    assert_eq!(of("int f(int a) { return p(table) + a; }"), ["table"]);
}

/// What escapes from an update that makes the function `f` of `old` that of `new`.
pub(super) fn escapes(old: &str, new: &str, more: &str) -> Vec<Escape> {
    let (assembly, plan) = assembled(&[("a", old, new)], &format!("{more} __fentry__"));
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    assert!(assembly.refusals.is_empty(), "{:?}", assembly.refusals);
    assembly.escapes
}

pub(super) fn names(escapes: Vec<Escape>) -> Vec<String> {
    escapes.into_iter().map(|escape| escape.function).collect()
}

#[test]
fn a_string_pins_the_update_only_if_its_address_is_kept() {
    let common = "struct o { const char *s; int n; }; void say(const char *, ...); extern const char *last;\n\
                  const char *pick(struct o *); void use(struct o *, void *, void *, void *, void *, void *, const char *);\n\
                  int take(const char *); int strcmp(const char *, const char *);\n\
                  void error(struct o *, const char *, int, const char *, ...);\n";
    let of = |body: &str| {
        let f = |body: &str| format!("{common}int f(struct o *o, int a) {{ {body} }}\n");
        let (old, new) = (f("say(\"old\"); return a;"), f(body));
        names(escapes(&old, &new, "say last pick use take strcmp error"))
    };
    let kept = ["\"kept\""];
    // Stored at once, by way of a register, later, on one way only, after a call, by a pointer into it.
    assert_eq!(of("o->s = \"kept\"; return a;"), kept);
    assert_eq!(of("last = \"kept\"; return a;"), kept);
    assert_eq!(of("const char *s = a ? \"kept\" : o->s; last = s; return a;"), kept);
    assert_eq!(
        of("const char *s = \"kept\"; say(s); for (int i = 0; i < a; i++) o[i].s = s; return a;"),
        kept
    );
    assert_eq!(of("const char *s = &\"kept\"[a]; o->s = s; return a;"), kept);
    assert_eq!(of("return (long)\"kept\";"), kept);
    // And one that is in the frame meanwhile: the compiler does not see that it is still the same.
    let spilled = "const char *s = \"kept\"; asm(\"\" : \"+r\"(s)); say(0); \
                   asm volatile(\"\" ::: \"rbx\", \"rbp\", \"r12\", \"r13\", \"r14\", \"r15\"); \
                   o->s = s; return a;";
    assert_eq!(of(spilled), kept);
    // Handed over: in a register, on the stack, in the frame, by a jump, to nobody knows whom.
    assert_eq!(of("take(\"kept\"); return a;"), kept);
    assert_eq!(of("use(o, o, o, o, o, o, \"kept\"); o->n = 1; return a;"), kept);
    assert_eq!(
        of("struct o own = { \"kept\", a }; use(&own, o, o, o, o, o, 0); return own.n;"),
        kept
    );
    assert_eq!(of("return take(\"kept\");"), kept);
    assert_eq!(of("void (*volatile to)(const char *) = 0; to(\"kept\"); return a;"), kept);
    // What comes before the text that is made, and its arguments (`__ext4_error` keeps the function's name).
    assert_eq!(of("error(o, \"kept\", a, \"text %s\", \"text\"); return a;"), kept);
    // To what makes a text of it, or compares it; in the frame, read, compared.
    let none: [&str; 0] = [];
    assert_eq!(of("say(\"text\"); o->n = a; return a;"), none);
    assert_eq!(of("say(\"%d %d %d %d %d %s\", a, a, a, a, a, \"text\"); take(0); return a;"), none);
    assert_eq!(of("return strcmp(o->s, \"text\");"), none);
    assert_eq!(
        of("struct o own = { \"text\", a }; asm volatile(\"\" : \"+m\"(own)); return own.n;"),
        none
    );
    assert_eq!(of("return \"text\"[a & 3];"), none);
    assert_eq!(of("o->n = o->s == \"text\"; return a;"), none);
}

#[test]
fn a_new_variable_pins_the_update_only_if_its_address_is_taken() {
    let common = "struct list { struct list *next; }; int limited(struct list *); void add(struct list *, struct list *);\n";
    let all = |body: &str| {
        let f = |body: &str| format!("{common}int f(struct list *l) {{ {body} }}\n");
        escapes(&f("return 1;"), &f(body), "limited add")
    };
    let of = |body: &str| names(all(body));
    let none: [&str; 0] = [];
    assert_eq!(of("static int count; return count++;"), none);
    assert_eq!(of("static struct list _rs; return limited(&_rs);"), none);
    let own = |name: &String| name.starts_with("own");
    assert!(of("static struct list own; add(&own, l); return 2;").iter().all(own));
    assert!(!of("static struct list own; add(&own, l); return 2;").is_empty());
    assert!(!of("static struct list own; l->next = &own; return 2;").is_empty());
    assert_eq!(of("static struct list own; own.next = l; return 2;"), none);
    // Enabling the update again would write to what has references.
    let rewritten =
        |body: &str| all(body).iter().map(|escape| escape.rewritten).collect::<Vec<_>>();
    assert_eq!(rewritten("static struct list own; add(&own, l); return 2;"), [false]);
    assert_eq!(rewritten("static struct list own = { &own }; add(&own, l); return 2;"), [true]);
}

/// A variable that holds an address of the update from the beginning gives it to whoever reads it.
#[test]
fn what_is_read_out_of_a_variable_may_be_kept() {
    let common = "struct o { const char *s; }; void say(const char *, ...);\n";
    let of = |body: &str| {
        let f = |body: &str| format!("{common}int f(struct o *o) {{ {body} }}\n");
        names(escapes(&f("return 1;"), &f(body), "say"))
    };
    let reads = "static const char *cur = \"kept\"; const char *s = cur; cur = o->s;";
    assert!(of(&format!("{reads} o->s = s; return 2;"))[0].starts_with("cur"));
    assert!(of(&format!("{reads} say(s); return 2;")).is_empty());
}

/// The ways in which the kernel calls back later: each keeps the address of the update's function.
#[test]
fn what_is_to_be_called_later_pins_the_update() {
    let common = "struct work { struct work *next; void (*func)(struct work *); };\n\
                  int queue_work_on(int, void *, struct work *); void call_rcu(struct work *, void (*)(struct work *));\n\
                  void *kthread_create_on_node(int (*)(void *), void *, int, const char *, ...);\n\
                  int mod_timer(struct work *, unsigned long); int wake_up_process(void *);\n\
                  void timer_setup_later(struct work *, void (*)(struct work *), int);\n";
    let more =
        "queue_work_on call_rcu kthread_create_on_node mod_timer wake_up_process timer_setup_later";
    let of = |fresh: &str, body: &str| {
        let old = format!("{common}int f(struct work *w) {{ return w->next != 0; }}\n");
        let new = format!("{common}{fresh}\nint f(struct work *w) {{ {body} }}\n");
        names(escapes(&old, &new, more))
    };
    let late = "static void late(struct work *w) { w->next = 0; }";
    // INIT_WORK, and setting a timer up by hand, write to the object.
    assert_eq!(of(late, "w->func = late; return queue_work_on(0, 0, w);"), ["late"]);
    assert_eq!(of(late, "w->func = late; return mod_timer(w, 5);"), ["late"]);
    assert_eq!(of(late, "timer_setup_later(w, late, 0); return 2;"), ["late"]);
    assert_eq!(of(late, "call_rcu(w, late); return 2;"), ["late"]);
    let thread = "static int thread(void *w) { return w != 0; }";
    let starts = "return wake_up_process(kthread_create_on_node(thread, w, -1, \"%d\", 1));";
    assert_eq!(of(thread, starts), ["thread"]);
    // A work item that is the update's own, with its function from the beginning.
    let own = format!("{late}\nstatic struct work own = {{ 0, late }};");
    assert!(!of(&own, "return queue_work_on(0, 0, &own);").is_empty());
    // Whoever only calls it keeps nothing.
    let none: [&str; 0] = [];
    assert_eq!(of(late, "late(w); return 2;"), none);
}
