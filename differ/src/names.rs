//! What compilers and the kernel's macros append to names, taken off again.

/// A name without its numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Base {
    /// What the programmer (or the macro) wrote.
    pub(crate) text: String,
    /// gcc's clone suffixes, without numbers (`.isra.constprop`).
    pub(crate) clone: String,
}

/// The name as written, and the kinds of clone it stands for.
pub(crate) fn base(name: &str) -> Base {
    if let Some(text) = unique_id(name).or_else(|| initcall(name)).or_else(|| btf_id(name)) {
        return Base { text, clone: String::new() };
    }
    let mut parts = name.split('.');
    let mut text = parts.next().unwrap_or("").to_owned();
    let mut clone = String::new();
    for part in parts {
        match part {
            "isra" | "constprop" | "part" | "cold" | "lto_priv" | "llvm" => {
                clone.push('.');
                clone.push_str(part);
            }
            _ if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) => {}
            _ => {
                text.push('.');
                text.push_str(part);
            }
        }
    }
    Base { text, clone }
}

/// Whether the number in a name says nothing: `name.123`, `__UNIQUE_ID_name123`.
pub(crate) fn is_numbered(name: &str) -> bool {
    base(name).text != name
}

/// Whether a symbol stands for the padding before a function, which objtool names (`-mcall-padding`).
pub(crate) fn is_padding(name: &str) -> bool {
    name.starts_with("__pfx_") || name.starts_with("__cfi_")
}

/// `__UNIQUE_ID(prefix)` of include/linux/compiler.h appends `__COUNTER__`.
fn unique_id(name: &str) -> Option<String> {
    let rest = name.strip_prefix("__UNIQUE_ID_")?;
    let rest = rest.split('.').next().unwrap_or(rest);
    Some(format!("__UNIQUE_ID_{}", rest.trim_end_matches(|c: char| c.is_ascii_digit())))
}

/// `__initcall__kmod_MODULE__COUNTER_LINE_FUNCTIONid` of include/linux/init.h.
fn initcall(name: &str) -> Option<String> {
    let rest = name.strip_prefix("__initcall__")?;
    let words: Vec<&str> = rest.split('_').collect();
    let numbers = words.windows(3).position(
        |w| matches!(w, [empty, a, b] if empty.is_empty() && is_number(a) && is_number(b)),
    )?;
    let (before, after) = (words.get(..numbers)?, words.get(numbers + 3..)?);
    Some(format!("__initcall__{}_{}", before.join("_"), after.join("_")))
}

/// What the numbers of types are called (`BTF_ID`, include/linux/btf_ids.h), which the build fills in (resolve_btfids).
pub(crate) const BTF_ID: &str = "__BTF_ID__";

/// `__BTF_ID__KIND__NAME__N` ends with `__COUNTER__` and the line.
fn btf_id(name: &str) -> Option<String> {
    let (before, number) = name.strip_prefix(BTF_ID)?.rsplit_once("__")?;
    is_number(number).then(|| format!("{BTF_ID}{before}"))
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_and_words_stay() {
        assert_eq!(base("count.123").text, "count");
        assert_eq!(base("foo.isra.0.constprop.12").text, "foo");
        assert_eq!(base("foo.isra.0.constprop.12").clone, ".isra.constprop");
        assert_eq!(base("__UNIQUE_ID_ddebug1234.5").text, "__UNIQUE_ID_ddebug");
        assert_eq!(
            base("__initcall__kmod_pipe__345_1447_init_pipe_fs5").text,
            "__initcall__kmod_pipe_init_pipe_fs5"
        );
        assert_eq!(
            base("__BTF_ID__func__bpf_ct_release__1036518").text,
            "__BTF_ID__func__bpf_ct_release"
        );
        assert!(!is_numbered("crc32_le"));
        assert!(!is_numbered("x86_64"));
        assert!(is_numbered("CSWTCH.7"));
    }
}
