//! The little of the shell's grammar that Kbuild's command lines use.

/// Splits shell text into simple commands (at `;`, `&`, `|`, newlines, parentheses and
/// braces) of words, quotes removed. Redirections stay as words. `None`: unbalanced quotes.
pub(crate) fn commands(text: &str) -> Option<Vec<Vec<String>>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            '\n' => {}
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => match chars.next()? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            ' ' | '\t' => end_word(&mut commands, &mut word),
            '\n' | ';' | '&' | '|' | '(' | ')' => {
                end_word(&mut commands, &mut word);
                commands.push(Vec::new());
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    end_word(&mut commands, &mut word);
    commands.retain(|command| !command.is_empty());
    Some(commands)
}

fn end_word(commands: &mut [Vec<String>], word: &mut Option<String>) {
    if let (Some(word), Some(command)) = (word.take(), commands.last_mut()) {
        command.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kbuild_lines() {
        let text = "set -e;  echo '  CC [M]  a.o';  gcc-12 -DX='\"a b\"' -DY=\"q\\\"r\" -c -o a.o a.c  ; \
                    fixdep a 'gcc '\\''x'\\''' > .a.cmd\n:\nmake -f x \\\nobj=fs";
        let found = commands(text).unwrap();
        let line = |i: usize| found[i].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(line(0), ["set", "-e"]);
        assert_eq!(line(1), ["echo", "  CC [M]  a.o"]);
        assert_eq!(line(2), ["gcc-12", "-DX=\"a b\"", "-DY=q\"r", "-c", "-o", "a.o", "a.c"]);
        assert_eq!(line(3), ["fixdep", "a", "gcc 'x'", ">", ".a.cmd"]);
        assert_eq!(line(4), [":"]);
        assert_eq!(line(5), ["make", "-f", "x", "obj=fs"]);
        assert!(commands("echo 'open").is_none());
    }
}
