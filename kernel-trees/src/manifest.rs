//! The manifest: which kernels there are and which packages hold their parts.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// All kernels, as written in `manifest.toml`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The kernels, oldest first in each series.
    #[serde(rename = "kernel")]
    pub kernels: Vec<Kernel>,
}

/// One kernel: one version of Debian's source package and what was built from it.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Debian's version, such as `6.1.192-1`.
    pub version: String,
    /// The release (`uname -r`), such as `6.1.0-55-amd64`.
    pub release: String,
    /// The source package.
    #[serde(default)]
    pub source: Vec<Package>,
    /// The image and its modules.
    #[serde(default)]
    pub image: Vec<Package>,
    /// The headers: of the flavour, common ones, and Kbuild.
    #[serde(default)]
    pub headers: Vec<Package>,
    /// `vmlinux` and modules with DWARF.
    #[serde(default)]
    pub debug: Vec<Package>,
}

/// One binary package of the archive.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// The package's name.
    pub package: String,
    /// Its version (`linux-kbuild` may be newer than the kernel).
    pub version: String,
    /// `all` or `amd64`.
    pub architecture: String,
    /// Size of the file in bytes.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// What can be fetched of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The source tree.
    Source,
    /// `vmlinuz`, configuration and modules.
    Image,
    /// What is needed to build modules.
    Headers,
    /// Debug information (1 GB).
    Debug,
}

impl Part {
    /// The part's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Image => "image",
            Self::Headers => "headers",
            Self::Debug => "debug",
        }
    }
}

impl Package {
    /// The name `apt-get download` gives the file; a colon (epoch) is quoted.
    pub fn file_name(&self) -> String {
        let version = self.version.replace(':', "%3a");
        format!("{}_{version}_{}.deb", self.package, self.architecture)
    }
}

impl Kernel {
    /// The packages that hold a part.
    pub fn packages(&self, part: Part) -> Result<&[Package]> {
        let packages = match part {
            Part::Source => &self.source,
            Part::Image => &self.image,
            Part::Headers => &self.headers,
            Part::Debug => &self.debug,
        };
        if packages.is_empty() {
            let version = self.version.clone();
            return Err(Error::NoSuchPart { version, part: part.name() });
        }
        Ok(packages)
    }
}

impl Manifest {
    /// The manifest compiled into this crate.
    pub fn builtin() -> Result<Self> {
        Self::parse(include_str!("../manifest.toml"))
    }

    /// Reads a manifest and checks that nothing in it is ambiguous.
    pub fn parse(text: &str) -> Result<Self> {
        let manifest: Self = toml::from_str(text).map_err(|e| Error::Manifest(e.to_string()))?;
        let mut seen = std::collections::HashSet::new();
        for kernel in &manifest.kernels {
            for name in [&kernel.version, &kernel.release] {
                if !seen.insert(name.as_str()) {
                    return Err(Error::Manifest(format!("{name} stands in it twice")));
                }
            }
            let parts = [&kernel.source, &kernel.image, &kernel.headers, &kernel.debug];
            for package in parts.into_iter().flatten() {
                let hex = package.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if package.sha256.len() != 64 || !hex {
                    let name = &package.package;
                    return Err(Error::Manifest(format!("sha256 of {name} is not 64 hex digits")));
                }
            }
        }
        Ok(manifest)
    }

    /// Finds a kernel by version, by a version prefix that names exactly one, or by release.
    ///
    /// A prefix ends at a boundary: `6.1` does not match `6.12.107`, and `6.12.11` does
    /// not match `6.12.111`.
    pub fn find(&self, spec: &str) -> Result<&Kernel> {
        if let Some(exact) = self.kernels.iter().find(|k| k.version == spec || k.release == spec) {
            return Ok(exact);
        }
        let matches: Vec<&Kernel> =
            self.kernels.iter().filter(|k| is_version_prefix(spec, &k.version)).collect();
        match matches.as_slice() {
            [one] => Ok(one),
            [] => Err(Error::UnknownKernel {
                spec: spec.to_owned(),
                known: self.kernels.iter().map(|k| k.version.clone()).collect(),
            }),
            several => Err(Error::AmbiguousKernel {
                spec: spec.to_owned(),
                matches: several.iter().map(|k| k.version.clone()).collect(),
            }),
        }
    }

    /// Finds a kernel by its release (`uname -r`).
    pub fn find_release(&self, release: &str) -> Result<&Kernel> {
        self.kernels.iter().find(|k| k.release == release).ok_or_else(|| Error::UnknownKernel {
            spec: release.to_owned(),
            known: self.kernels.iter().map(|k| k.release.clone()).collect(),
        })
    }
}

fn is_version_prefix(prefix: &str, version: &str) -> bool {
    match version.strip_prefix(prefix) {
        Some(rest) if !prefix.is_empty() => rest.starts_with(['.', '-', '~', '+']),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_manifest_is_valid_and_complete() {
        let manifest = Manifest::builtin().unwrap();
        assert!(manifest.kernels.len() >= 11);
        for kernel in &manifest.kernels {
            assert_eq!(kernel.packages(Part::Source).unwrap().len(), 1);
            assert_eq!(kernel.packages(Part::Image).unwrap().len(), 1);
            assert_eq!(kernel.packages(Part::Headers).unwrap().len(), 3);
            assert_eq!(kernel.packages(Part::Debug).unwrap().len(), 1);
        }
    }

    #[test]
    fn a_prefix_must_name_exactly_one() {
        let manifest = Manifest::builtin().unwrap();
        assert_eq!(manifest.find("6.12.107").unwrap().version, "6.12.107-1~deb12u1");
        assert_eq!(manifest.find("6.12.107-1").unwrap().version, "6.12.107-1~deb12u1");
        assert_eq!(manifest.find("6.1.192-2").unwrap().release, "6.1.0-56-amd64");
        assert_eq!(manifest.find("6.1.0-55-amd64").unwrap().version, "6.1.192-1");
        let error = manifest.find("6.1.192").unwrap_err().to_string();
        assert!(error.contains("6.1.192-1 or 6.1.192-2"), "{error}");
        for bad in ["", "6.12.11", "6", "5.10.1", "6.1.192-3", "6.1."] {
            assert!(manifest.find(bad).is_err(), "{bad}");
        }
        assert!(matches!(manifest.find("6.1"), Err(Error::AmbiguousKernel { matches, .. })
            if matches.iter().all(|m| m.starts_with("6.1."))));
        assert_eq!(manifest.find_release("6.1.0-55-amd64").unwrap().version, "6.1.192-1");
        assert!(manifest.find_release("6.1.192-1").is_err());
    }

    #[test]
    fn bad_manifests_are_refused() {
        let twice = "[[kernel]]\nversion='1'\nrelease='a'\n[[kernel]]\nversion='1'\nrelease='b'\n";
        assert!(Manifest::parse(twice).unwrap_err().to_string().contains("twice"));
        let hash = "[[kernel]]\nversion='1'\nrelease='a'\n[[kernel.source]]\npackage='p'\n\
                    version='1'\narchitecture='all'\nsize=1\nsha256='xyz'\n";
        assert!(Manifest::parse(hash).unwrap_err().to_string().contains("sha256"));
        assert!(Manifest::parse("[[kernel]]\nversion='1'\nrelease='a'\ntypo=1\n").is_err());
        let kernel = Manifest::parse("[[kernel]]\nversion='1'\nrelease='a'\n").unwrap();
        assert!(kernel.kernels[0].packages(Part::Debug).is_err());
    }

    #[test]
    fn file_names_are_those_of_apt() {
        let package = Package {
            package: "p".into(),
            version: "1:2~3+b1".into(),
            architecture: "amd64".into(),
            size: 0,
            sha256: String::new(),
        };
        assert_eq!(package.file_name(), "p_1%3a2~3+b1_amd64.deb");
    }
}
