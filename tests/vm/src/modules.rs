//! Which modules to load, and in which order, so that one of them works.
//!
//! Debian's packages carry no `modules.dep` (depmod writes it on installation), and running
//! depmod would write into a cache that is not ours. Each module says itself what it needs, in
//! its `.modinfo` section.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSection};

use crate::error::Error;
use crate::image::Image;

/// A module to load, decompressed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// As `/proc/modules` has it, with `_` for `-`.
    pub(crate) name: String,
    /// The ELF file.
    pub(crate) content: Vec<u8>,
}

/// The modules of one image by name.
pub(crate) struct Index<'a> {
    image: &'a Image,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl<'a> Index<'a> {
    /// Finds every module file of `image`.
    pub(crate) fn read(image: &'a Image) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        let modules = image.modules_dir.join("kernel");
        // A kernel may have everything built in.
        if modules.exists() {
            collect(&modules, &mut files)?;
        }
        let list = image.modules_dir.join("modules.builtin");
        let text = std::fs::read_to_string(&list).map_err(Error::file("read", &list))?;
        let builtin = text.lines().filter_map(|l| module_name(Path::new(l))).collect();
        Ok(Index { image, files, builtin })
    }

    /// `wanted` and everything it needs, in loading order, each once.
    pub(crate) fn closure<'n>(
        &self,
        wanted: impl IntoIterator<Item = &'n str>,
    ) -> Result<Vec<Module>, Error> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            self.add(&normal(name), &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn add(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<(), Error> {
        if self.builtin.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self.files.get(name).ok_or_else(|| Error::NoModule {
            name: name.to_owned(),
            release: self.image.release.clone(),
            dir: self.image.modules_dir.clone(),
        })?;
        let content = read_module(path)?;
        let needs = Needs::of(&content)
            .map_err(|reason| Error::BadModule { path: path.clone(), reason })?;
        for soft in &needs.before {
            // "crypto-crc32c" is an alias of several modules; the generic implementation of an
            // algorithm serves on every machine. One that is not here may be built in under
            // another name: a soft dependency is a wish.
            let algorithm = soft.strip_prefix("crypto_").unwrap_or(soft);
            let candidates = [soft.clone(), format!("{algorithm}_generic"), algorithm.to_owned()];
            if let Some(found) = candidates.iter().find(|c| self.files.contains_key(*c)) {
                self.add(found, seen, order)?;
            }
        }
        for hard in &needs.depends {
            self.add(hard, seen, order)?;
        }
        order.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

/// What a module says of itself in `.modinfo`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    depends: Vec<String>,
    before: Vec<String>,
}

impl Needs {
    fn of(module: &[u8]) -> Result<Needs, String> {
        let file = object::File::parse(module).map_err(|e| e.to_string())?;
        let section = file.section_by_name(".modinfo").ok_or("it has no .modinfo section")?;
        let info = section.data().map_err(|e| e.to_string())?;
        let mut needs = Needs::default();
        for entry in info.split(|b| *b == 0) {
            let entry = String::from_utf8_lossy(entry);
            match entry.split_once('=') {
                Some(("depends", list)) => {
                    needs.depends = list.split(',').filter(|n| !n.is_empty()).map(normal).collect();
                }
                Some(("softdep", list)) => needs.before.extend(before(list)),
                _ => {}
            }
        }
        Ok(needs)
    }
}

/// The names after `pre:` in `pre: a b post: c`.
fn before(list: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut pre = false;
    for word in list.split_whitespace() {
        match word {
            "pre:" => pre = true,
            "post:" => pre = false,
            name if pre => words.push(normal(name)),
            _ => {}
        }
    }
    words
}

pub(crate) fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// `ext4` for `…/ext4.ko`, `…/ext4.ko.xz` and `…/ext4.ko.zst`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (stem, ending) = name.split_once(".ko")?;
    matches!(ending, "" | ".xz" | ".zst" | ".gz").then(|| normal(stem))
}

fn collect(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), Error> {
    for entry in std::fs::read_dir(dir).map_err(Error::file("list", dir))? {
        let path = entry.map_err(Error::file("list", dir))?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The module in `path`, decompressed by the tool its ending calls for.
fn read_module(path: &Path) -> Result<Vec<u8>, Error> {
    let program = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return std::fs::read(path).map_err(Error::file("read", path)),
    };
    let failed = |reason: String| Error::Tool { program: program.to_owned(), reason };
    let output = Command::new(program)
        .args(["-d", "-c"])
        .arg(path)
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module directory with one ELF file per `(path, modinfo)`.
    fn image(modules: &[(&str, &str)]) -> (tempfile::TempDir, Image) {
        let dir = tempfile::tempdir().unwrap();
        let image = Image {
            vmlinuz: PathBuf::new(),
            modules_dir: dir.path().to_owned(),
            release: "1.2".to_owned(),
        };
        std::fs::write(dir.path().join("modules.builtin"), "kernel/lib/in-kernel.ko\n").unwrap();
        for (path, info) in modules {
            let path = dir.path().join("kernel").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let source = path.with_extension("s");
            std::fs::write(&source, format!(".section .modinfo,\"a\"\n.ascii \"{info}\"\n"))
                .unwrap();
            let status =
                Command::new("as").arg("-o").arg(&path).arg(&source).status().expect("binutils");
            assert!(status.success());
        }
        (dir, image)
    }

    fn names(image: &Image, wanted: &str) -> Result<Vec<String>, Error> {
        let modules = Index::read(image)?.closure([wanted])?;
        Ok(modules.into_iter().map(|m| m.name).collect())
    }

    #[test]
    fn dependencies_come_first_and_once() {
        let (_dir, image) = image(&[
            ("fs/fs.ko", r"depends=journal,cache,in-kernel\0softdep=pre: crypto-sum post: late\0"),
            ("fs/journal.ko", r"depends=cache\0"),
            ("fs/cache.ko", r"depends=\0"),
            ("fs/late.ko", r"depends=\0"),
            ("crypto/sum_generic.ko", r"depends=\0"),
        ]);
        assert_eq!(names(&image, "fs").unwrap(), ["sum_generic", "cache", "journal", "fs"]);
        assert!(names(&image, "in_kernel").unwrap().is_empty());
    }

    #[test]
    fn compressed_modules_are_unpacked() {
        let (dir, image) = image(&[("a/dash-name.ko", r"depends=\0")]);
        let plain = std::fs::read(dir.path().join("kernel/a/dash-name.ko")).unwrap();
        let status =
            Command::new("xz").arg(dir.path().join("kernel/a/dash-name.ko")).status().unwrap();
        assert!(status.success());
        let modules = Index::read(&image).unwrap().closure(["dash-name"]).unwrap();
        assert_eq!(modules, [Module { name: "dash_name".to_owned(), content: plain }]);
    }

    #[test]
    fn a_missing_module_is_named() {
        let (_dir, image) = image(&[("fs/fs.ko", r"depends=gone\0")]);
        let error = names(&image, "fs").unwrap_err().to_string();
        assert!(error.contains("no module gone for kernel 1.2"), "{error}");
    }

    #[test]
    fn what_is_no_module_is_refused() {
        let (dir, image) = image(&[("fs/fs.ko", r"depends=\0")]);
        std::fs::write(dir.path().join("kernel/fs/fs.ko"), "not ELF").unwrap();
        let error = names(&image, "fs").unwrap_err().to_string();
        assert!(error.contains("fs.ko is not a kernel module"), "{error}");
    }
}
