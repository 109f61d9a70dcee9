//! What `--explain` prints.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use dynamos_differ::show::Mark;
use dynamos_generator::explain::{Explained, Find, Line};

/// Characters in each of the two columns, where the terminal does not say.
const COLUMN: usize = 78;

/// Prints everything found; the exit code tells whether anything differs.
pub fn explained(all: &[Explained]) -> Result<ExitCode> {
    let stdout = std::io::stdout();
    let terminal = stdout.is_terminal();
    let colour = terminal && std::env::var_os("NO_COLOR").is_none();
    let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse::<usize>().ok());
    let width = columns.filter(|_| terminal).map_or(COLUMN, |c| (c.saturating_sub(3) / 2).max(30));
    let mut out = stdout.lock();
    for find in all.iter().flat_map(|explained| &explained.finds) {
        write(&mut out, find, width, colour).context("cannot print")?;
    }
    let missing: Vec<&str> =
        all.iter().filter(|e| e.finds.is_empty()).map(|e| e.name.as_str()).collect();
    if !missing.is_empty() {
        eprintln!(
            "dynamos-diff: no object that the change can affect has a function or type {}",
            missing.join(", ")
        );
        return Ok(ExitCode::from(2));
    }
    let differs = all.iter().flat_map(|explained| &explained.finds).any(|find| find.differs);
    Ok(ExitCode::from(u8::from(!differs)))
}

fn write(out: &mut dyn Write, find: &Find, width: usize, colour: bool) -> std::io::Result<()> {
    let paint = |code: &str, text: &str| match colour {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    writeln!(out, "{}", paint("1", &find.title))?;
    for line in &find.lines {
        let text = columns(line, width);
        let code = match line.mark {
            _ if line.source => "2",
            Mark::Same => "0",
            Mark::Differs => "33",
            Mark::Removed => "31",
            Mark::Added => "32",
        };
        writeln!(out, "{}", paint(code, text.trim_end()))?;
    }
    writeln!(out)
}

/// Two columns with the mark between them.
fn columns(line: &Line, width: usize) -> String {
    let fit = |text: &str| -> String {
        let text = text.replace('\t', " ");
        if text.chars().count() <= width {
            return text;
        }
        text.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
    };
    let (old, new) = (fit(&line.old), fit(&line.new));
    let gap = " ".repeat(width.saturating_sub(old.chars().count()));
    format!("{old}{gap} {} {new}", line.mark.symbol())
}
