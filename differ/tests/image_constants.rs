//! Linked images: constants that no symbol names, which may be strings or anything else.

// The helpers of these tests may fail like the tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod built;

/// The number in front is what each test puts there: strings and tables move by that.
const SOURCE: &str = r#"
int use(const void *p, long n);
int memcmp(const void *p, const void *q, unsigned long n);
int first(void) { return use("PAD", 0); }
int array(void) { int a[16] = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}; return use(a, 0); }
int magic(const char *p) { return memcmp(p, "\0RIGHT-ONE", 10); }
int list(void) { return use("one\0two\0three", 14); }
int table(void) { const char *t[] = {"red", "green", "blue", "black", "white", "grey", "pink", "brown"}; return use(t, 8); }
int text(void) { return use("ordinary text", 1); }
int tail(void) { return use("text", 2) + use("more text", 3); }
int empty(void) { return use("", 4) + use("\0016level", 5); }
int utf8(void) { return use("\xc2\xb5s", 5); }
int longer(void) { return use("a text of so many characters that the compiler aligns it", 6); }
int indexed(unsigned i) { return ((const short[]){7,0,9,10,11,12,13,14,15,16,17,18})[i]; }
int branch(unsigned i)
{
    switch (i) {
    case 0: return use("aa", 1);
    case 1: return use("bb", 7) + 3;
    case 2: return use("cc", 8) * 5;
    case 3: return use("dd", 9) - 4;
    case 4: return use("ee", 3) ^ 8;
    case 5: return use("ff", 2) | 8;
    }
    return 0;
}
int wide(void) { return use(u"Mode", 2) + use(u"SetupMode", 2); }
int use(const void *p, long n) { return ((const char *)p)[n]; }
int memcmp(const void *p, const void *q, unsigned long n) { return p == q && n; }
"#;

fn image(edits: &[(&str, &str)]) -> Vec<u8> {
    let edited = edits.iter().fold(SOURCE.to_owned(), |source, (from, to)| {
        assert!(source.contains(from), "{from}");
        source.replace(from, to)
    });
    built::build(&edited, "")
}

#[test]
fn what_is_behind_a_zero_counts() {
    let v1 = image(&[]);
    for (function, from, to) in [
        ("array", "{1,2,3,4", "{1,2,4,4"),
        ("array", "15,16}; return use(a", "15,17}; return use(a"),
        ("magic", "RIGHT-ONE", "WRONG-ONE"),
        ("list", "one\\0two\\0three", "one\\0two\\0thrice"),
        ("list", "one\\0two\\0three", "one\\0ten\\0three"),
        ("table", "\"brown\"", "\"beige\""),
        ("text", "ordinary text", "ordinary test"),
        ("tail", "more text", "less text"),
        ("wide", "u\"Mode\"", "u\"Made\""),
        ("wide", "SetupMode", "SetupMade"),
        ("indexed", "{7,0,9", "{7,0,8"),
    ] {
        assert_eq!(built::changed(&v1, &image(&[(from, to)])), [function], "{from} → {to}");
    }
}

#[test]
fn what_only_moves_is_no_change() {
    let v1 = image(&[]);
    for pad in ["longer by so much that it is aligned otherwise than it was", "PADDING", ""] {
        let v2 = image(&[("PAD", pad)]);
        assert_eq!(built::changed(&v1, &v2), ["first"], "{pad}");
        assert_eq!(built::changed(&v2, &v1), ["first"], "{pad}");
    }
    // A string that ends another one goes on being the same when that is gone.
    assert_eq!(built::changed(&v1, &image(&[("use(\"more text\", 3)", "3")])), ["tail"]);
    let without = image(&[("int text(void) { return use(\"ordinary text\", 1); }", "")]);
    assert_eq!(built::changed(&v1, &without), ["text"]);
}

/// A text that nothing refers to, behind one that is the same.
#[test]
fn a_string_among_strings_ends_at_its_end() {
    let around: String = (0..24)
        .map(|i| format!("int around{i}(void) {{ return use(\"neighbour {i}\", {i}); }}\n"))
        .collect();
    let lost = |text: &str| {
        let nobody = format!(
            "int text(void) {{ asm volatile(\".pushsection .rodata.str1.1\\n .string \\\"{text}\\\"\\n.popsection\"); return use(\"ordinary text\", 1); }}"
        );
        let half = around.len() / 2;
        let half = half + around[half..].find("int").unwrap();
        let (before, after) = around.split_at(half);
        // One character and a zero may be the beginning of a text of wider ones, too.
        let single = "int single(void) { return use(\",\", 1) + use(\";\", 2) + use(\".\", 3); }\n";
        let with = [before, single, nobody.as_str(), after].concat();
        image(&[("int text(void) { return use(\"ordinary text\", 1); }", &with)])
    };
    assert_eq!(built::changed(&lost("lost"), &lost("found")), [""; 0]);
}
