//! What the guest says on its second serial port: one message a line.
//!
//! | line | meaning |
//! |---|---|
//! | `RESULT name=value` | a result; in the value `\n` is a newline and `\\` a backslash |
//! | `FAILED text` | the set-up before the script did not work |
//! | `STATUS n` | the script ended with exit status `n`; nothing follows |

use std::collections::BTreeMap;

/// The messages so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Messages {
    /// By name; a name given twice keeps its last value.
    pub(crate) results: BTreeMap<String, String>,
    /// Why the set-up failed.
    pub(crate) failed: Option<String>,
    /// The script's exit status, when it has ended.
    pub(crate) status: Option<i32>,
}

impl Messages {
    /// Reads what has arrived. A line without its end is still being written.
    pub(crate) fn read(port: &str) -> Messages {
        let mut messages = Messages::default();
        let complete = port.rfind('\n').map_or("", |end| port.get(..=end).unwrap_or_default());
        for line in complete.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "RESULT" => {
                    let (name, value) = rest.split_once('=').unwrap_or((rest, ""));
                    messages.results.insert(name.to_owned(), unescape(value));
                }
                "FAILED" => messages.failed = Some(rest.to_owned()),
                "STATUS" => messages.status = rest.parse().ok(),
                _ => {}
            }
        }
        messages
    }
}

fn unescape(value: &str) -> String {
    let mut text = String::new();
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_results() {
        let port = "RESULT a=1\r\nRESULT b=x=y\\nz\\\\n\r\nnoise\r\nSTATUS 3\r\nRESULT cut=of";
        let messages = Messages::read(port);
        assert_eq!(messages.results["a"], "1");
        assert_eq!(messages.results["b"], "x=y\nz\\n");
        assert_eq!(messages.results.len(), 2);
        assert_eq!(messages.status, Some(3));
    }

    #[test]
    fn an_unfinished_status_is_no_status() {
        assert_eq!(Messages::read("STATUS 1").status, None);
        assert_eq!(Messages::read("").status, None);
    }
}
