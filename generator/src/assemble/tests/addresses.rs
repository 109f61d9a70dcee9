//! Whose address code of the update takes, and calls: edition 0's, its own, an export's.

use super::escapes::names;
use super::*;

/// The clones of the function `f`, or those that go along with it, as objects.
fn clones(old: &str, new: &str, more: &str) -> (Vec<Unit>, Assembly) {
    let (assembly, plan) = assembled(&[("a", old, new)], &format!("{more} __fentry__"));
    assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
    assert!(assembly.refusals.is_empty(), "{:?}", assembly.refusals);
    let units = assembly.clones.iter().map(|clone| Unit::parse(clone, "clone").unwrap());
    (units.collect(), assembly)
}

/// What one of the functions of an object refers to, without the parts of records.
fn refers(units: &[Unit], function: &str) -> BTreeSet<String> {
    let (unit, index) =
        units.iter().find_map(|unit| Some((unit, unit.find(function)?))).expect("a function");
    let symbol = unit.symbol(index).unwrap();
    let (start, end) = (symbol.value, symbol.value + symbol.size);
    let fields = unit.fields(symbol.section.unwrap(), start, end).unwrap();
    let name = |field: &crate::unit::Field| match &field.place {
        crate::unit::Place::Elsewhere(name, _) => name.clone(),
        crate::unit::Place::In(index, _) => unit.symbol(*index).unwrap().name.clone(),
        crate::unit::Place::Raw(..) => String::new(),
    };
    fields.iter().map(name).collect()
}

/// A callback that arms itself again (`read_bulk_callback`, drivers/net/usb/pegasus.c).
#[test]
fn a_function_that_hands_out_its_own_address_gives_edition_0s() {
    let text = |more: &str| {
        format!(
            "void arm(void (*)(int)); int n; void f(int a) {{ n += a{more}; if (a > 3) f(a - 1); else arm(f); }}\n"
        )
    };
    let (units, assembly) = clones(&text(""), &text(" * 2"), "arm n f");
    let places = refers(&units, "f.clone");
    assert!(places.contains("edition0.f"), "{places:?}");
    assert!(assembly.escapes.is_empty(), "{:?}", assembly.escapes);
}

#[test]
fn a_new_function_that_hands_out_its_own_address_pins_the_update() {
    let common = "void arm(void (*)(int)); int n;\n";
    let old = format!("{common}void f(int a) {{ n += a; }}\n");
    let new = format!(
        "{common}static __attribute__((noinline)) void fresh(int a) {{ if (a) arm(fresh); n -= a; }}\n\
         void f(int a) {{ n += a; fresh(a); }}\n"
    );
    let (_, assembly) = clones(&old, &new, "arm n f");
    assert_eq!(names(assembly.escapes), ["fresh"]);
    // One that calls itself does not.
    let calls = new.replace("arm(fresh)", "fresh(n)").replace("n -= a;", "n -= a; arm(0);");
    let (_, assembly) = clones(&old, &calls, "arm n f");
    assert!(assembly.escapes.is_empty(), "{:?}", assembly.escapes);
}

/// forcedeth has a `phy_reset` of its own, and libphy exports another.
#[test]
fn a_static_function_with_the_name_of_an_export_is_the_one_that_is_meant() {
    let text = |more: &str, kind: &str| {
        format!(
            "int n; {kind} __attribute__((noinline)) int phy_reset(int a) {{ return n += a; }}\n\
             int other(int); int f(int a) {{ return phy_reset(a){more} + other(a); }}\n"
        )
    };
    let found_by = |kind: &str| {
        let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = ("a", &*text("", kind), &*text(" + 1", kind));
        let (judged, _) = judged(&[source], v1.path(), v2.path());
        let export = |name: &str| format!("0x0\t{name}\tdrivers/lib\tEXPORT_SYMBOL\t\n");
        let exports = Exports::parse(&(export("phy_reset") + &export("other")));
        let more = "phy_reset n f __fentry__";
        let assembly = put_together(&judged, v1.path(), more, &exports);
        assert!(assembly.refusals.is_empty(), "{:?}", assembly.refusals);
        let clone = Unit::parse(&assembly.clones[0], "clone").unwrap();
        (refers(&[clone], "f.clone"), assembly.symbols)
    };
    for kind in ["static", ""] {
        let (places, symbols) = found_by(kind);
        assert!(places.contains("edition0.phy_reset") && places.contains("other"), "{places:?}");
        let of = |name: &str| symbols.iter().find(|symbol| symbol.name == name).unwrap();
        assert_eq!(of("phy_reset").owner, "vmlinux");
        assert_eq!(of("other").found_by, "exported");
    }
}

/// An index that is never 0 leaves the address before the variable.
#[test]
fn a_place_before_a_variable_is_the_variables() {
    let text = |more: &str, old: &str| {
        format!(
            "{old} int f(int a, int b) {{ int s = 0; for (int i = 1; i <= a; i++) {{ t[i - 1] += b; s += t[i - 1]{more}; }} return s; }}\n"
        )
    };
    let table = "static int t[64];";
    let (units, assembly) = clones(&text("", table), &text(" * 2", table), "t f");
    assert!(refers(&units, "f.clone").contains("edition0.t"));
    assert!(assembly.escapes.is_empty(), "{:?}", assembly.escapes);
    // The same of a variable that goes along.
    let (units, assembly) = clones("int f(int a, int b) { return 0; }", &text("", table), "f");
    assert!(refers(&units, "f.clone").contains("t"));
    assert!(assembly.escapes.is_empty(), "{:?}", assembly.escapes);
}

/// A table that goes along leads to strings that do.
#[test]
fn what_is_read_out_of_a_table_may_be_kept() {
    let text = |body: &str| {
        format!(
            "struct o {{ const char *s; int n; }}; void say(const char *, ...); int known(void);\n\
             int f(struct o *o, unsigned a) {{ {body} }}\n"
        )
    };
    let of = |body: &str| {
        let table = "static const char *const names[] = { \"a\", \"b\", \"c\", \"d\" };";
        let (_, assembly) =
            clones(&text("return 1;"), &text(&format!("{table} {body}")), "say f known");
        names(assembly.escapes)
    };
    let is_table = |found: Vec<String>| found.len() == 1 && found[0].starts_with("names");
    assert!(is_table(of("o->s = names[a & 3]; return a;")));
    let through = "const char *const *p = names; asm(\"\" : \"+r\"(p)); o->s = p[a & 3]; return a;";
    assert!(is_table(of(through)));
    assert!(of("say(names[a & 3], 1); o->n = 1; return a;").is_empty());
    // What it leads to is the kernel's.
    let calls = "static int (*const calls[])(void) = { known, known }; o->s = (void *)calls[a & 1]; return a;";
    assert!(of(calls).is_empty());
}

/// gcc adds an index to a place within a string, or before it: all of the string goes along.
#[test]
fn a_string_is_copied_from_its_start() {
    let text = |more: &str| {
        format!("int f(long i) {{ return \"-within\"[i + 1] + \"wanted\"[2 * i - 1]{more}; }}\n")
    };
    let (units, _) = clones(&text(""), &text(" * 2"), "f");
    let unit = units.iter().find(|unit| unit.find("f.clone").is_some()).unwrap();
    let symbol = unit.symbol(unit.find("f.clone").unwrap()).unwrap();
    let (start, end) = (symbol.value, symbol.value + symbol.size);
    let fields = unit.fields(symbol.section.unwrap(), start, end).unwrap();
    let before = |field: &crate::unit::Field| {
        let crate::unit::Place::Raw(section, at, _) = field.place else { return None };
        let bytes = &unit.section(section).unwrap().bytes;
        bytes.get(usize::try_from(at).unwrap().checked_sub(1)?..).map(<[u8]>::to_vec)
    };
    let texts: Vec<_> = fields.iter().filter_map(before).collect();
    assert!(texts.iter().any(|text| text.starts_with(b"-within\0")), "{texts:?}");
}

/// The assembler resolves a call within a section that the source names (`__sched`), so there is a distance in the code where
/// the update has a relocation: the kernel's loader refuses that.
#[test]
fn a_field_with_a_relocation_is_zero() {
    let text = |more: &str| {
        format!(
            "#define SCHED __attribute__((section(\".sched.text\"), noinline))\n\
             int n; static SCHED int inner(int a) {{ n += a; return a * n; }}\n\
             SCHED int other(int a) {{ return inner(a) - 2; }}\n\
             SCHED int f(int a) {{ return inner(a + 1) + 3{more}; }}\n"
        )
    };
    let (units, _) = clones(&text(""), &text(" * 2"), "n other f");
    assert!(refers(&units, "f.clone").contains("edition0.inner"));
    for unit in &units {
        for section in unit.sections.iter().filter(|section| section.is_code()) {
            for relocation in &section.relocations {
                let at = relocation.offset as usize;
                assert_eq!(section.bytes[at..at + 4], [0; 4], "{}+{at:#x}", section.name);
            }
        }
    }
}
