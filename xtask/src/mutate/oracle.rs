//! What must differ, judged without the differ: from the compiler's assembly text.
//!
//! A function is the lines from its label to its `.size`, its cold part included. Labels are
//! numbered anew in the order in which they appear; strings and the data that the compiler
//! numbers (`CSWTCH.5`, `__func__.7`) are replaced by what they contain. What then is not
//! equal, letter by letter, must differ.

use std::collections::{BTreeMap, BTreeSet};

/// The assembly of one object.
#[derive(Debug, Default)]
pub struct Listing {
    functions: BTreeMap<String, Vec<String>>,
    data: BTreeMap<String, Data>,
    /// Other names of functions: `cleanup_module`, for what `module_exit` is given.
    aliases: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Data {
    lines: Vec<String>,
    read_only: bool,
}

/// What must differ between two listings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Functions that are changed, new or removed, under their name in v2 if they have one.
    pub functions: BTreeSet<String>,
    /// Data that is changed, new or removed, without the compiler's numbers.
    pub data: BTreeSet<String>,
}

impl Expected {
    /// Whether the change had no effect on the object.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty() && self.data.is_empty()
    }
}

/// Data nests no deeper in a kernel object.
const MAX_DEPTH: usize = 8;

const CONTENT: [&str; 13] = [
    ".string", ".ascii", ".byte", ".value", ".long", ".quad", ".zero", ".word", ".short", ".2byte",
    ".4byte", ".8byte", ".base64",
];

impl Listing {
    /// Reads the compiler's output.
    pub fn parse(assembly: &str) -> Self {
        let mut listing = Self::default();
        let mut types: BTreeMap<&str, &str> = BTreeMap::new();
        let mut function: Option<(String, Vec<String>)> = None;
        let mut datum: Option<(String, Data)> = None;
        let mut read_only = false;
        for line in assembly.lines().map(str::trim_end) {
            let words = line.trim_start();
            let (operation, rest) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
            if let Some((name, lines)) = &mut function {
                if operation == ".size" && rest.split(',').next() == Some(name.as_str()) {
                    listing.functions.extend(function.take());
                } else if is_code(words) {
                    lines.push(words.to_owned());
                }
                continue;
            }
            if CONTENT.contains(&operation) {
                if let Some((_, data)) = &mut datum {
                    data.lines.push(words.to_owned());
                }
                continue;
            }
            listing.data.extend(datum.take());
            match operation {
                ".section" => read_only = is_read_only(rest),
                ".data" | ".bss" | ".text" => read_only = false,
                ".type" => {
                    if let Some((name, kind)) = rest.split_once(',') {
                        types.insert(name.trim(), kind.trim());
                    }
                }
                ".set" => {
                    if let Some((alias, name)) = rest.split_once(',') {
                        listing.aliases.insert(alias.trim().to_owned(), name.trim().to_owned());
                    }
                }
                label => {
                    let Some(label) = label.strip_suffix(':') else { continue };
                    match types.get(label).copied() {
                        Some("@function" | "STT_FUNC") => {
                            function = Some((label.to_owned(), Vec::new()))
                        }
                        Some("@object") => {
                            datum = Some((label.to_owned(), Data { lines: Vec::new(), read_only }))
                        }
                        _ if label.starts_with(".LC") => {
                            datum = Some((
                                label.to_owned(),
                                Data { lines: Vec::new(), read_only: true },
                            ));
                        }
                        _ => {}
                    }
                }
            }
        }
        listing.data.extend(datum);
        listing
    }

    /// The function that an alias stands for.
    pub fn function<'n>(&'n self, name: &'n str) -> &'n str {
        self.aliases.get(name).map_or(name, String::as_str)
    }

    /// What must differ when `self` becomes `new`.
    pub fn differences(&self, new: &Self) -> Expected {
        self.differing(new, self.renamed(new))
    }

    /// What may differ: `f.isra.0` that becomes `f`, or the other way round, with another body, can be one function that is gone and one
    /// that is new, and then everyone calls another one.
    pub fn differences_at_most(&self, new: &Self) -> Expected {
        let mut renamed = self.renamed(new);
        loop {
            let back = backwards(&renamed);
            let text = |x: &str| Some(self.text(self.functions.get(x)?, &BTreeMap::new()));
            let new_text = |y: &str| Some(new.text(new.functions.get(y)?, &back));
            let before = renamed.len();
            renamed.retain(|x, y| text(x) == new_text(y));
            if renamed.len() == before {
                return self.differing(new, renamed);
            }
        }
    }

    fn differing(&self, new: &Self, renamed: BTreeMap<&str, &str>) -> Expected {
        let back = backwards(&renamed);
        let mut expected = Expected::default();
        for (name, lines) in &self.functions {
            let other = renamed.get(name.as_str()).copied().unwrap_or(name);
            let Some(new_lines) = new.functions.get(other) else {
                expected.functions.insert(name.clone());
                continue;
            };
            if self.text(lines, &BTreeMap::new()) != new.text(new_lines, &back) {
                expected.functions.insert(other.to_owned());
            }
        }
        let added = |name: &&String| {
            !self.functions.contains_key(*name) && !back.contains_key(name.as_str())
        };
        expected.functions.extend(new.functions.keys().filter(added).cloned());
        let (old_data, new_data) = (self.data_by_base(&BTreeMap::new()), new.data_by_base(&back));
        for name in old_data.keys().chain(new_data.keys()) {
            if old_data.get(name) != new_data.get(name) {
                expected.data.insert(name.clone());
            }
        }
        expected
    }

    /// Functions that have another of the compiler's suffixes: the only ones of their name on both
    /// sides that the other side does not have.
    fn renamed<'l>(&'l self, new: &'l Self) -> BTreeMap<&'l str, &'l str> {
        let mut only: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
        for name in self.functions.keys().filter(|n| !new.functions.contains_key(*n)) {
            only.entry(stem(name)).or_default().0.push(name);
        }
        for name in new.functions.keys().filter(|n| !self.functions.contains_key(*n)) {
            only.entry(stem(name)).or_default().1.push(name);
        }
        let pairs = only.values().filter_map(|(x, y)| match (x.as_slice(), y.as_slice()) {
            ([x], [y]) => Some((*x, *y)),
            _ => None,
        });
        pairs.collect()
    }

    fn data_by_base(&self, names: &BTreeMap<&str, &str>) -> BTreeMap<String, Vec<String>> {
        let mut by_base: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, data) in self.data.iter().filter(|(name, _)| !name.starts_with(".L")) {
            by_base.entry(base(name).to_owned()).or_default().push(self.content(data, names, 0));
        }
        by_base.values_mut().for_each(|contents| contents.sort());
        by_base
    }

    fn content(&self, data: &Data, names: &BTreeMap<&str, &str>, depth: usize) -> String {
        let mut labels = Labels::default();
        let line = |line: &String| self.line(line, names, &mut labels, depth + 1);
        data.lines.iter().map(line).collect::<Vec<_>>().join("; ")
    }

    fn text(&self, lines: &[String], names: &BTreeMap<&str, &str>) -> Vec<String> {
        let used: BTreeSet<&str> = lines
            .iter()
            .filter(|line| !line.ends_with(':'))
            .flat_map(|line| words(line))
            .map(|(_, word)| word)
            .collect();
        let mut labels = Labels::default();
        lines
            .iter()
            // A label that nothing refers to says nothing.
            .filter(|line| {
                line.strip_suffix(':').is_none_or(|l| !l.starts_with(".L") || used.contains(l))
            })
            .map(|line| self.line(line, names, &mut labels, 0))
            .collect()
    }

    fn line(
        &self,
        line: &str,
        names: &BTreeMap<&str, &str>,
        labels: &mut Labels,
        depth: usize,
    ) -> String {
        let mut text = String::new();
        let mut done = 0;
        for (at, word) in words(line) {
            text.push_str(line.get(done..at).unwrap_or_default());
            done = at + word.len();
            text.push_str(&self.word(word, line, names, labels, depth));
        }
        text.push_str(line.get(done..).unwrap_or_default());
        text
    }

    fn word(
        &self,
        word: &str,
        line: &str,
        names: &BTreeMap<&str, &str>,
        labels: &mut Labels,
        depth: usize,
    ) -> String {
        if let Some(name) = names.get(word) {
            return (*name).to_owned();
        }
        if self.functions.contains_key(word) {
            return word.to_owned();
        }
        let number =
            word.strip_prefix(".L").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        if number {
            return labels.number(word);
        }
        // Local labels of inline assembly: some are numbered by `__COUNTER__`.
        let local = word
            .strip_suffix(['b', 'f'])
            .filter(|n| n.bytes().all(|b| b.is_ascii_digit()) && !n.is_empty());
        if let Some(local) = local {
            return labels.number(local) + word.get(local.len()..).unwrap_or_default();
        }
        if line.strip_suffix(':') == Some(word) && word.bytes().all(|b| b.is_ascii_digit()) {
            return labels.number(word);
        }
        match self.data.get(word) {
            Some(data) if base(word) != word || word.starts_with(".LC") => {
                if data.read_only && depth < MAX_DEPTH {
                    let name = if word.starts_with(".LC") { ".LC" } else { base(word) };
                    format!("{name}{{{}}}", self.content(data, names, depth))
                } else {
                    base(word).to_owned()
                }
            }
            _ => base(word).to_owned(),
        }
    }
}

fn backwards<'n>(names: &BTreeMap<&'n str, &'n str>) -> BTreeMap<&'n str, &'n str> {
    names.iter().map(|(x, y)| (*y, *x)).collect()
}

/// Labels in the order in which they appear.
#[derive(Default)]
struct Labels(BTreeMap<String, usize>);

impl Labels {
    fn number(&mut self, label: &str) -> String {
        let next = self.0.len();
        format!("<{}>", self.0.entry(label.to_owned()).or_insert(next))
    }
}

/// Whether a line of a function makes bytes or names a place.
fn is_code(line: &str) -> bool {
    // `.LVL5:`, `.LBB7:` and the like are for the debug information.
    let debug_label = line.ends_with(':')
        && line
            .strip_prefix(".L")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase()));
    !(line.is_empty()
        || line.starts_with('#')
        || line.starts_with(".loc")
        // Numbers a source for the debug information, in whichever function comes first.
        || line.starts_with(".file")
        || line.starts_with(".cfi_")
        || debug_label)
}

fn is_read_only(section: &str) -> bool {
    let mut parts = section.split(',');
    let name = parts.next().unwrap_or_default().trim_matches('"');
    let writable = parts.next().is_some_and(|flags| flags.contains('w'));
    !writable || name.starts_with(".data.rel.ro")
}

/// A function's name without what the compiler adds to it (`.isra.0`, `.constprop.0`).
pub fn stem(name: &str) -> &str {
    name.split_once('.').map_or(name, |(stem, _)| stem)
}

/// The words of a line outside of quotes, with their places.
fn words(line: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut quoted = false;
    let mut escaped = false;
    let mut start = None;
    for (at, c) in line.char_indices() {
        let part = !quoted && (c.is_ascii_alphanumeric() || c == '_' || c == '.');
        match (part, start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                found.extend(line.get(from..at).map(|word| (from, word)));
                start = None;
            }
            _ => {}
        }
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = c == '\\' && !escaped;
    }
    found.extend(start.and_then(|from| Some((from, line.get(from..)?))));
    found
}

/// A name without the numbers that the compiler and `__COUNTER__` put at its end.
pub fn base(name: &str) -> &str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mut name = name;
    while let Some((head, _)) =
        name.rsplit_once('.').filter(|(head, tail)| digits(tail) && !head.is_empty())
    {
        if [".isra", ".constprop", ".part"].iter().any(|suffix| head.ends_with(suffix)) {
            return name;
        }
        name = head;
    }
    if name.contains("__UNIQUE_ID_") {
        name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASSEMBLY: &str = "\t.section\t.rodata.str1.1,\"aMS\",@progbits,1\n.LC4:\n\t.string\t\"a.L3\"\n\
        \t.data\n\t.type\tn.12, @object\n\t.size\tn.12, 4\nn.12:\n\t.long\t5\n\
        \t.text\n\t.type\tf, @function\nf:\n.LFB3:\n\t.loc 1 2\n\tje\t.L7\n.L9:\n\tmovq\t$.LC4, %rdi\n\
        \tincl\tn.12(%rip)\n.L7:\n\tcall\tg.constprop.0\n771:\n\t.long 771b - .\n\t.size\tf, .-f\n\
        \t.type\tg.constprop.0, @function\ng.constprop.0:\n\tret\n\t.size\tg.constprop.0, .-g.constprop.0\n";

    fn differences(from: &str, to: &str) -> Expected {
        Listing::parse(ASSEMBLY).differences(&Listing::parse(&ASSEMBLY.replace(from, to)))
    }

    #[test]
    fn numbers_do_not_count_and_contents_do() {
        for (from, to) in [
            (".L7", ".L70"),
            (".LC4", ".LC5"),
            ("n.12", "n.13"),
            ("771", "66"),
            (".loc 1 2", ".loc 1 3"),
            (".loc 1 2\n", ".file 1 \"a.c\"\n"),
            ("g.constprop.0", "g.isra.0"),
            (".L9:\n", ""),
        ] {
            assert!(differences(from, to).is_empty(), "{from} to {to}");
        }
        let joined =
            |expected: Expected| expected.functions.into_iter().collect::<Vec<_>>().join(" ");
        let functions = |from, to| joined(differences(from, to));
        assert_eq!(functions("a.L3", "a.L4"), "f");
        assert_eq!(functions("je\t.L7", "je\t.L9"), "f");
        assert_eq!(functions("ret", "leave"), "g.constprop.0");
        // Which has another body, and another name: one function, or one that is gone and one that is new.
        let other = ASSEMBLY.replace("g.constprop.0", "g.isra.0").replace("ret", "leave");
        let (old, other) = (Listing::parse(ASSEMBLY), Listing::parse(&other));
        assert_eq!(joined(old.differences(&other)), "g.isra.0");
        assert_eq!(joined(old.differences_at_most(&other)), "f g.constprop.0 g.isra.0");
        assert_eq!(functions("n.12", "m.12"), "f");
        let data = differences(".long\t5", ".long\t6");
        assert_eq!(
            (data.functions.len(), data.data.into_iter().collect::<Vec<_>>()),
            (0, vec!["n".to_owned()])
        );
    }

    #[test]
    fn a_function_has_one_name() {
        let listing = Listing::parse(&format!("{ASSEMBLY}\t.globl\th\n\t.set\th,f\n"));
        assert_eq!(["f", "h", "g"].map(|name| listing.function(name)), ["f", "f", "g"]);
    }
}
