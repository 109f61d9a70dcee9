//! Fetching packages: `apt-get download` needs no root and installs nothing.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::error::{Error, IoContext, Result};
use crate::manifest::{Kernel, Package, Part};
use crate::tree;

impl Cache {
    /// Fetches the packages of a part that are not in the cache yet, checks their
    /// hashes, and gives their files.
    pub fn fetch(&self, kernel: &Kernel, part: Part) -> Result<Vec<PathBuf>> {
        kernel.packages(part)?.iter().map(|package| self.fetch_package(package)).collect()
    }

    fn fetch_package(&self, package: &Package) -> Result<PathBuf> {
        let dir = self.root().join("download");
        let file = dir.join(package.file_name());
        let _lock = self.lock("download", &package.file_name())?;
        if file.is_file() {
            match check_hash(&file, &package.sha256) {
                Ok(()) => return Ok(file),
                Err(Error::WrongHash { .. }) => fs::remove_file(&file).at("remove", &file)?,
                Err(other) => return Err(other),
            }
        }
        let partial = self.partial("download", &package.file_name());
        tree::remove(&partial)?;
        fs::create_dir(&partial).at("create", &partial)?;
        let fetched = self.download(package, &partial, &file).and_then(|got| {
            check_hash(&got, &package.sha256)?;
            fs::rename(&got, &file).at("rename", &got)
        });
        self.progress().finish();
        let removed = tree::remove(&partial);
        fetched.and(removed)?;
        Ok(file)
    }

    /// Runs apt in `dir`; watches the file grow.
    fn download(&self, package: &Package, dir: &Path, place: &Path) -> Result<PathBuf> {
        let name = format!("{}={}", package.package, package.version);
        self.progress().phase(&format!("fetching {name}"));
        let log = dir.join("apt.log");
        let log_file = File::create(&log).at("create", &log)?;
        let mut command = Command::new("apt-get");
        command.args(["download", "--quiet=2", &name]).current_dir(dir).env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
        let mut child = command.spawn().map_err(|source| Error::MissingTool {
            program: "apt-get".to_owned(),
            package: "apt",
            source,
        })?;
        let status = loop {
            if let Some(status) = child.try_wait().at("wait for", Path::new("apt-get"))? {
                break status;
            }
            self.progress().amount(largest_file(dir), package.size);
            std::thread::sleep(Duration::from_millis(100));
        };
        let got = fs::read_dir(dir)
            .at("list", dir)?
            .filter_map(|e| e.ok().map(|e| e.path()))
            .find(|p| p.extension().is_some_and(|e| e == "deb"));
        match got {
            Some(got) if status.success() => Ok(got),
            _ => Err(why_no_download(package, place, &name, status.to_string(), &log)),
        }
    }
}

fn largest_file(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.metadata().ok()).map(|m| m.len()).max().unwrap_or(0)
}

/// Tells "the archive has it not" from "apt knows nothing yet" and from the rest.
fn why_no_download(
    package: &Package,
    place: &Path,
    name: &str,
    status: String,
    log: &Path,
) -> Error {
    let text = fs::read_to_string(log).unwrap_or_default();
    if text.contains("No space left on device") {
        return Error::DiskFull { path: place.to_owned() };
    }
    let available = available_versions(&package.package);
    if !available.contains(&package.version) {
        if available.is_empty() && !apt_knows_anything() {
            return Error::NoPackageLists { package: name.to_owned() };
        }
        return Error::NotInArchive {
            package: package.package.clone(),
            version: package.version.clone(),
            available,
            place: place.to_owned(),
        };
    }
    Error::Tool {
        command: format!("apt-get download {name}"),
        status,
        what: "a download; if the package lists are old, `apt-get update` as root may help"
            .to_owned(),
        stderr: text.trim_end().to_owned(),
    }
}

/// The versions apt offers, newest first.
fn available_versions(package: &str) -> Vec<String> {
    let madison = Command::new("apt-cache").args(["madison", package]).output();
    madison.map(|out| parse_madison(&String::from_utf8_lossy(&out.stdout))).unwrap_or_default()
}

/// `apt-cache madison` prints `package | version | source of the index`.
fn parse_madison(text: &str) -> Vec<String> {
    let mut versions: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split('|').map(str::trim);
        if let (Some(_), Some(version), Some(origin)) =
            (fields.next(), fields.next(), fields.next())
            && origin.ends_with("Packages")
            && !versions.iter().any(|v| v == version)
        {
            versions.push(version.to_owned());
        }
    }
    versions
}

/// A package every Debian archive has; installed or not, it must be listed by a source.
fn apt_knows_anything() -> bool {
    !available_versions("dpkg").is_empty()
}

fn check_hash(file: &Path, expected: &str) -> Result<()> {
    let found = sha256(file)?;
    if found == expected {
        return Ok(());
    }
    Err(Error::WrongHash { file: file.to_owned(), expected: expected.to_owned(), found })
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).at("read", path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = file.read(&mut buffer).at("read", path)?;
        if n == 0 {
            break;
        }
        hasher.update(buffer.get(..n).unwrap_or_default());
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(sha256: &str) -> Package {
        Package {
            package: "no-such-package-for-dynamos".into(),
            version: "1.0".into(),
            architecture: "all".into(),
            size: 5,
            sha256: sha256.into(),
        }
    }

    fn kernel(package: Package) -> Kernel {
        Kernel {
            version: "1.0".into(),
            release: "1.0-x".into(),
            source: vec![package],
            image: vec![],
            headers: vec![],
            debug: vec![],
        }
    }

    #[test]
    fn a_file_at_hand_is_used_only_if_its_hash_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(dir.path())).unwrap();
        let hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let right = package(hello);
        let file = dir.path().join("download").join(right.file_name());
        fs::write(&file, "hello").unwrap();
        assert_eq!(
            cache.fetch(&kernel(right.clone()), Part::Source).unwrap(),
            std::slice::from_ref(&file)
        );
        fs::write(&file, "hellx").unwrap();
        // Damaged: thrown away, and the archive does not have it.
        let error = cache.fetch(&kernel(right), Part::Source).unwrap_err();
        assert!(
            matches!(error, Error::NotInArchive { .. } | Error::NoPackageLists { .. }),
            "{error}"
        );
        assert!(!file.exists());
        assert!(cache.fetch(&kernel(package(hello)), Part::Image).is_err());
    }

    #[test]
    fn versions_are_read_from_madison() {
        let text = " linux-source-6.1 |  6.1.192-2 | URL bookworm-security/main amd64 Packages\n \
                    linux-source-6.1 |  6.1.192-2 | URL2 bookworm/main amd64 Packages\n \
                    linux-source-6.1 |  6.1.176-1 | URL bookworm/main Sources\n";
        assert_eq!(parse_madison(text), ["6.1.192-2"]);
        assert!(parse_madison("N: Unable to locate package x\n").is_empty());
    }
}
