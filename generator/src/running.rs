//! Which names the running kernel has: an update that needs another must be refused when it is made, not when it
//! is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use object::{Object as _, ObjectSymbol as _};
use rayon::prelude::*;

/// The names that `vmlinux` and its modules define, read when they are asked for.
#[derive(Clone, Debug, Default)]
pub struct Running {
    system_map: PathBuf,
    /// The sources it was built from.
    sources: PathBuf,
    /// Each module's file.
    modules: BTreeMap<String, PathBuf>,
    read: Arc<Mutex<BTreeMap<String, Names>>>,
    /// Whether the sources mention a name.
    mentioned: Arc<Mutex<BTreeMap<String, bool>>>,
    /// The `__weak` functions of the sources.
    weak: Arc<Mutex<Option<BTreeSet<String>>>>,
}

/// Names, and whether all objects of the part share them; `None`: not known.
type Names = Option<Arc<BTreeMap<String, bool>>>;

impl Running {
    /// The kernel that is built from `sources`, whose `System.map` this is, and whose modules lie below `modules`, as
    /// `modules.order` there says.
    pub fn of(sources: &Path, system_map: &Path, modules: &Path) -> Running {
        let order = std::fs::read_to_string(modules.join("modules.order")).unwrap_or_default();
        let modules = order
            .lines()
            .filter_map(|line| {
                let path = Path::new(line).with_extension("ko");
                let name = path.file_stem()?.to_str()?.replace('-', "_");
                Some((name, modules.join(path)))
            })
            .collect();
        Running {
            system_map: system_map.into(),
            sources: sources.into(),
            modules,
            ..Running::default()
        }
    }

    /// Whether `owner` (`vmlinux` or a module) defines `name`; `None` if that is not known, because the kernel's files
    /// are not at hand.
    pub fn has(&self, owner: &str, name: &str) -> Result<Option<bool>> {
        match self.names_of(owner)? {
            Some(names) => Ok(Some(names.contains_key(name))),
            // What no source mentions is nowhere; what some does may be static, or not configured.
            None if owner == "vmlinux" => Ok((!self.mentions(name)?).then_some(false)),
            None => Ok(None),
        }
    }

    /// Whether `owner` defines `name` for all of its objects; `None` if that is not known.
    pub fn shares(&self, owner: &str, name: &str) -> Result<Option<bool>> {
        let names = self.names_of(owner)?;
        Ok(names.map(|names| names.get(name).copied().unwrap_or(false)))
    }

    fn names_of(&self, owner: &str) -> Result<Names> {
        let Ok(mut read) = self.read.lock() else { return Ok(None) };
        if let Some(names) = read.get(owner) {
            return Ok(names.clone());
        }
        let names = self.names(owner)?.map(Arc::new);
        read.insert(owner.into(), names.clone());
        Ok(names)
    }

    /// Whether some source mentions the name. Those that macros put together are taken to be mentioned.
    fn mentions(&self, name: &str) -> Result<bool> {
        const MADE_UP: [&str; 7] = [
            "__SCT__",
            "__SCK__",
            "__tracepoint_",
            "__traceiter_",
            "__probestub_",
            "__x86_",
            "__pfx_",
        ];
        if MADE_UP.iter().any(|prefix| name.starts_with(prefix)) || !self.sources.is_dir() {
            return Ok(true);
        }
        if let Some(known) = self.mentioned.lock().ok().and_then(|known| known.get(name).copied()) {
            return Ok(known);
        }
        let finder = memchr::memmem::Finder::new(name);
        let has = |text: &[u8]| words(text, &finder).next().is_some();
        let found = search(&self.sources, Path::new(""), &has)?;
        if let Ok(mut known) = self.mentioned.lock() {
            known.insert(name.into(), found);
        }
        Ok(found)
    }

    /// Whether the sources have a `__weak` function of that name; all of them are found at once.
    pub fn is_weak(&self, name: &str) -> Result<bool> {
        if !self.sources.is_dir() {
            return Ok(true);
        }
        let Ok(mut weak) = self.weak.lock() else { return Ok(true) };
        if let Some(names) = &*weak {
            return Ok(names.contains(name));
        }
        let found = Mutex::new(BTreeSet::new());
        search(&self.sources, Path::new(""), &|text| {
            let names: Vec<String> = weak_functions(text).collect();
            if !names.is_empty()
                && let Ok(mut found) = found.lock()
            {
                found.extend(names);
            }
            false
        })?;
        let names = weak.insert(found.into_inner().unwrap_or_default());
        Ok(names.contains(name))
    }

    fn names(&self, owner: &str) -> Result<Option<BTreeMap<String, bool>>> {
        if owner == "vmlinux" {
            if !self.system_map.is_file() {
                return Ok(None);
            }
            let text = std::fs::read_to_string(&self.system_map)
                .with_context(|| format!("cannot read {}", self.system_map.display()))?;
            // Capital letters are for what other objects see (nm(1)).
            let name = |line: &str| {
                let mut words = line.split(' ').skip(1);
                let shared = words.next()?.starts_with(|kind: char| kind.is_ascii_uppercase());
                Some((words.next()?.to_string(), shared))
            };
            let names = shared(text.lines().filter_map(name));
            // Debian's says only where to find the real one.
            return Ok(names.contains_key("_text").then_some(names));
        }
        let Some(file) = self.modules.get(owner) else { return Ok(None) };
        let Some(bytes) = module(file)? else { return Ok(None) };
        let module = object::File::parse(&*bytes)
            .with_context(|| format!("{} is no module", file.display()))?;
        let defined = module.symbols().filter(|symbol| symbol.is_definition());
        let name = |symbol: object::Symbol<'_, '_>| {
            Some((symbol.name().ok()?.to_string(), symbol.is_global()))
        };
        let names = shared(defined.filter_map(name));
        // A module without symbols says nothing.
        Ok((!names.is_empty()).then_some(names))
    }
}

/// One of several things of a name may be shared.
fn shared(names: impl Iterator<Item = (String, bool)>) -> BTreeMap<String, bool> {
    let mut all = BTreeMap::new();
    for (name, shared) in names {
        *all.entry(name).or_insert(false) |= shared;
    }
    all
}

/// A module's content, if it is there; distributions compress them.
fn module(file: &Path) -> Result<Option<Vec<u8>>> {
    if file.is_file() {
        let bytes = std::fs::read(file);
        return Ok(Some(bytes.with_context(|| format!("cannot read {}", file.display()))?));
    }
    for (suffix, program) in [("ko.xz", "xz"), ("ko.zst", "zstd"), ("ko.gz", "gzip")] {
        let packed = file.with_extension(suffix);
        if packed.is_file() {
            let output = std::process::Command::new(program)
                .arg("-dc")
                .arg(&packed)
                .output()
                .with_context(|| format!("cannot run {program}"))?;
            anyhow::ensure!(output.status.success(), "{program} cannot read {}", packed.display());
            return Ok(Some(output.stdout));
        }
    }
    Ok(None)
}

/// The names of `__weak` functions in a text: what comes before the first bracket behind that word.
fn weak_functions(text: &[u8]) -> impl Iterator<Item = String> + '_ {
    let is_of_a_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    memchr::memmem::find_iter(text, b"__weak").filter_map(move |at| {
        let behind = text.get(at..)?;
        let head = behind.get(..behind.iter().position(|byte| *byte == b'(')?)?.trim_ascii_end();
        let start = head.iter().rposition(|byte| !is_of_a_name(byte))? + 1;
        String::from_utf8(head.get(start..)?.to_vec()).ok().filter(|name| !name.is_empty())
    })
}

/// Where the text has the word.
fn words<'t>(
    text: &'t [u8],
    finder: &'t memchr::memmem::Finder<'_>,
) -> impl Iterator<Item = usize> + 't {
    let word = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    finder.find_iter(text).filter(move |at| {
        let before = at.checked_sub(1).and_then(|before| text.get(before));
        !word(before) && !word(text.get(at + finder.needle().len()))
    })
}

/// Whether a file of the kernel's code below `root` is one that is looked for.
fn search(root: &Path, below: &Path, is_one: &(dyn Fn(&[u8]) -> bool + Sync)) -> Result<bool> {
    let directory = root.join(below);
    let unreadable = || format!("cannot read {}", directory.display());
    let entries = std::fs::read_dir(&directory)
        .with_context(unreadable)?
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(unreadable)?;
    let found = entries.into_par_iter().map(|entry| {
        let path = below.join(entry.file_name());
        let kind = entry.file_type().with_context(unreadable)?;
        if kind.is_dir() {
            let other_architecture = below == Path::new("arch") && !path.ends_with("x86");
            let no_code = other_architecture || path.ends_with("Documentation");
            return Ok(!no_code && search(root, &path, is_one)?);
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !kind.is_file() || !matches!(extension, Some("c" | "h" | "S" | "lds" | "tbl" | "inc")) {
            return Ok(false);
        }
        let bytes = std::fs::read(entry.path())
            .with_context(|| format!("cannot read {}", entry.path().display()))?;
        anyhow::Ok(is_one(&bytes))
    });
    // An error counts as found only for stopping early.
    found.find_any(|result| !matches!(result, Ok(false))).unwrap_or(Ok(false))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A kernel with `_text` and `static_one`, its module `my_module` with `ours` and the private `hidden`, and the module
    /// `gone` without a file.
    pub(crate) fn small(root: &Path) -> Running {
        let map = root.join("System.map");
        std::fs::write(&map, "ffffffff81000000 T _text\nffffffff81000010 t static_one\n").unwrap();
        std::fs::write(root.join("modules.order"), "kernel/a/my-module.ko\nkernel/gone.o\n")
            .unwrap();
        std::fs::create_dir_all(root.join("kernel/a")).unwrap();
        let mut module = object::write::Object::new(
            object::BinaryFormat::Elf,
            object::Architecture::X86_64,
            object::Endianness::Little,
        );
        let text = module.section_id(object::write::StandardSection::Text);
        let ours = [("ours", Some(text)), ("theirs", None), ("hidden", Some(text))];
        for (name, section) in ours {
            module.add_symbol(object::write::Symbol {
                name: name.into(),
                value: 0,
                size: 0,
                kind: object::SymbolKind::Text,
                scope: match name {
                    "hidden" => object::SymbolScope::Compilation,
                    _ => object::SymbolScope::Dynamic,
                },
                weak: false,
                section: section.map_or(
                    object::write::SymbolSection::Undefined,
                    object::write::SymbolSection::Section,
                ),
                flags: object::SymbolFlags::None,
            });
        }
        let file = root.join("kernel/a/my-module.ko");
        std::fs::write(file, module.write().unwrap()).unwrap();
        Running::of(root, &map, root)
    }

    #[test]
    fn names_of_the_kernel_and_its_modules() {
        let root = tempfile::tempdir().unwrap();
        let running = small(root.path());
        assert_eq!(running.has("vmlinux", "static_one").unwrap(), Some(true));
        assert_eq!(running.has("vmlinux", "fresh").unwrap(), Some(false));
        assert_eq!(running.has("my_module", "ours").unwrap(), Some(true));
        assert_eq!(running.has("my_module", "theirs").unwrap(), Some(false));
        assert_eq!(running.has("my_module", "hidden").unwrap(), Some(true));
        assert_eq!(running.has("gone", "ours").unwrap(), None);
        assert_eq!(running.shares("my_module", "ours").unwrap(), Some(true));
        assert_eq!(running.shares("my_module", "hidden").unwrap(), Some(false));
        assert_eq!(running.shares("vmlinux", "static_one").unwrap(), Some(false));
        assert_eq!(running.shares("vmlinux", "_text").unwrap(), Some(true));
        assert_eq!(running.shares("gone", "ours").unwrap(), None);
        assert_eq!(Running::default().has("vmlinux", "ours").unwrap(), None);
    }

    #[test]
    fn without_a_map_the_sources_tell_what_is_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let map = root.path().join("System.map");
        std::fs::write(&map, "ffffffffffffffff B The real System.map is elsewhere\n").unwrap();
        for (directory, text) in [
            ("kernel/time", "void there(void) { nowhere_else(); }"),
            ("Documentation", "nowhere"),
            ("arch/arm", "nowhere"),
        ] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
            std::fs::write(root.path().join(directory).join("a.c"), text).unwrap();
        }
        let running = Running::of(root.path(), &map, root.path());
        assert_eq!(running.has("vmlinux", "nowhere").unwrap(), Some(false));
        assert_eq!(running.has("vmlinux", "there").unwrap(), None);
        assert_eq!(running.has("vmlinux", "__SCT__nowhere").unwrap(), None);
        let text = "int called(void);\nint __weak one(void) { return called(); }\nvoid __weak\ntwo(void) {}\n";
        std::fs::write(root.path().join("kernel/time/b.c"), text).unwrap();
        let weak = ["one", "two", "called", "there"].map(|name| running.is_weak(name).unwrap());
        assert_eq!(weak, [true, true, false, false]);
    }
}
