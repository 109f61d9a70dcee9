//! Running other programs: errors carry what they said, and a full disk is recognised.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::error::{Error, Result};

/// How many bytes of a failed command's error output an error shows.
const STDERR_SHOWN: usize = 4000;

/// Runs `command` and gives its standard output. `what` says what it is for, and
/// `place` is where it writes (named when the disk is full).
pub(crate) fn output(command: &mut Command, what: &str, place: &Path) -> Result<Vec<u8>> {
    let line = describe(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|e| missing(command, e))?;
    let done = child.wait_with_output().map_err(|e| missing(command, e))?;
    check(&line, done.status, &done.stderr, what, place)?;
    Ok(done.stdout)
}

/// Runs a pipeline; the last command's output is thrown away.
pub(crate) fn pipeline(commands: Vec<Command>, what: &str, place: &Path) -> Result<()> {
    let mut children: Vec<(String, Child)> = Vec::new();
    let last = commands.len().saturating_sub(1);
    let mut input = Stdio::null();
    // By value: a `Command` keeps its end of the pipe open as long as it lives, and then
    // a writer would never learn that its reader is gone.
    for (i, mut command) in commands.into_iter().enumerate() {
        command.stdin(std::mem::replace(&mut input, Stdio::null()));
        command.stdout(if i == last { Stdio::null() } else { Stdio::piped() });
        command.stderr(Stdio::piped());
        match command.spawn() {
            Ok(mut child) => {
                input = child.stdout.take().map_or_else(Stdio::null, Stdio::from);
                children.push((describe(&command), child));
            }
            Err(e) => {
                for (_, mut child) in children {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                return Err(missing(&command, e));
            }
        }
    }
    // These programs say little on stderr, so reading one after the other cannot block.
    let mut ended = Vec::new();
    for (line, mut child) in children {
        let mut stderr = Vec::new();
        if let Some(mut pipe) = child.stderr.take() {
            let _ = pipe.read_to_end(&mut stderr);
        }
        let status = child.wait().map_err(|e| Error::io("wait for", place, e))?;
        ended.push((line, status, stderr));
    }
    // The last one first: when it fails, the others only see a broken pipe.
    for (line, status, stderr) in ended.iter().rev() {
        check(line, *status, stderr, what, place)?;
    }
    Ok(())
}

pub(crate) fn check(
    line: &str,
    status: ExitStatus,
    stderr: &[u8],
    what: &str,
    place: &Path,
) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(stderr);
    if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
        return Err(Error::DiskFull { path: place.to_owned() });
    }
    let start = text.len().saturating_sub(STDERR_SHOWN);
    let start = (start..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    Err(Error::Tool {
        command: line.to_owned(),
        status: status.to_string(),
        what: what.to_owned(),
        stderr: text.get(start..).unwrap_or_default().trim_end().to_owned(),
    })
}

fn missing(command: &Command, source: std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    Error::MissingTool { package: package_of(&program), program, source }
}

fn package_of(program: &str) -> &'static str {
    match program {
        "make" => "make",
        "apt-get" | "apt-cache" => "apt",
        "dpkg-deb" => "dpkg",
        "tar" => "tar xz-utils",
        p if p.ends_with("gcc-12") => "gcc-12",
        _ => "build-essential",
    }
}

fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        if line.len() > 300 {
            line.push_str(" …");
            break;
        }
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn failures_say_what_happened() {
        let place = Path::new("/somewhere");
        assert_eq!(output(&mut sh("echo hello"), "x", place).unwrap(), b"hello\n");
        let error = output(&mut sh("echo oh no >&2; exit 3"), "the test", place).unwrap_err();
        assert!(error.to_string().contains("oh no") && error.to_string().contains("the test"));
        let full =
            sh("echo 'tar: x: Cannot write: No space left on device' >&2; exit 2").spawn_err();
        assert!(matches!(full, Error::DiskFull { path } if path == place));
        let error = output(&mut Command::new("no-such-program-here"), "x", place).unwrap_err();
        assert!(matches!(error, Error::MissingTool { .. }));
    }

    #[test]
    fn a_pipeline_fails_with_its_first_cause() {
        let place = Path::new("/somewhere");
        pipeline(vec![sh("echo a"), sh("grep -q a")], "x", place).unwrap();
        let error = pipeline(vec![sh("exit 4"), sh("cat")], "x", place).unwrap_err();
        assert!(error.to_string().contains("exit 4"));
        let commands = vec![sh("yes"), sh("echo No space left on device >&2; exit 1")];
        assert!(matches!(pipeline(commands, "x", place), Err(Error::DiskFull { .. })));
    }

    trait SpawnErr {
        fn spawn_err(self) -> Error;
    }
    impl SpawnErr for Command {
        fn spawn_err(mut self) -> Error {
            output(&mut self, "x", Path::new("/somewhere")).unwrap_err()
        }
    }
}
