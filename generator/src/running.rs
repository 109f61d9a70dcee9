//! Which names the running kernel has: an update that needs another must be refused when it is made, not when it
//! is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use object::{Object as _, ObjectSymbol as _};

/// The names that `vmlinux` and its modules define, read when they are asked for.
#[derive(Clone, Debug, Default)]
pub struct Running {
    system_map: PathBuf,
    /// Each module's file.
    modules: BTreeMap<String, PathBuf>,
    read: Arc<Mutex<BTreeMap<String, Names>>>,
}

/// `None`: not known.
type Names = Option<Arc<BTreeSet<String>>>;

impl Running {
    /// The kernel whose `System.map` this is, and whose modules lie below `modules`, as `modules.order` there says.
    pub fn of(system_map: &Path, modules: &Path) -> Running {
        let order = std::fs::read_to_string(modules.join("modules.order")).unwrap_or_default();
        let modules = order
            .lines()
            .filter_map(|line| {
                let path = Path::new(line).with_extension("ko");
                let name = path.file_stem()?.to_str()?.replace('-', "_");
                Some((name, modules.join(path)))
            })
            .collect();
        Running { system_map: system_map.into(), modules, read: Arc::default() }
    }

    /// Whether `owner` (`vmlinux` or a module) defines `name`; `None` if that is not known, because the kernel's files
    /// are not at hand.
    pub fn has(&self, owner: &str, name: &str) -> Result<Option<bool>> {
        let Ok(mut read) = self.read.lock() else { return Ok(None) };
        let names = match read.get(owner) {
            Some(names) => names.clone(),
            None => {
                let names = self.names(owner)?.map(Arc::new);
                read.insert(owner.into(), names.clone());
                names
            }
        };
        Ok(names.map(|names| names.contains(name)))
    }

    fn names(&self, owner: &str) -> Result<Option<BTreeSet<String>>> {
        if owner == "vmlinux" {
            if !self.system_map.is_file() {
                return Ok(None);
            }
            let text = std::fs::read_to_string(&self.system_map)
                .with_context(|| format!("cannot read {}", self.system_map.display()))?;
            let name = |line: &str| line.split(' ').nth(2).map(Into::into);
            return Ok(Some(text.lines().filter_map(name).collect()));
        }
        let file = self.modules.get(owner).filter(|file| file.is_file());
        let Some(file) = file else { return Ok(None) };
        let bytes =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let module = object::File::parse(&*bytes)
            .with_context(|| format!("{} is no module", file.display()))?;
        let defined = module.symbols().filter(|symbol| symbol.is_definition());
        let names: BTreeSet<String> =
            defined.filter_map(|symbol| symbol.name().ok()).map(Into::into).collect();
        // A module without symbols says nothing.
        Ok((!names.is_empty()).then_some(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_kernel_and_its_modules() {
        let root = tempfile::tempdir().unwrap();
        let map = root.path().join("System.map");
        std::fs::write(&map, "ffffffff81000000 T _text\nffffffff81000010 t static_one\n").unwrap();
        std::fs::write(root.path().join("modules.order"), "kernel/a/my-module.ko\nkernel/gone.o\n")
            .unwrap();
        std::fs::create_dir_all(root.path().join("kernel/a")).unwrap();
        let mut module = object::write::Object::new(
            object::BinaryFormat::Elf,
            object::Architecture::X86_64,
            object::Endianness::Little,
        );
        let text = module.section_id(object::write::StandardSection::Text);
        for (name, section) in [("ours", Some(text)), ("theirs", None)] {
            module.add_symbol(object::write::Symbol {
                name: name.into(),
                value: 0,
                size: 0,
                kind: object::SymbolKind::Text,
                scope: object::SymbolScope::Dynamic,
                weak: false,
                section: section.map_or(
                    object::write::SymbolSection::Undefined,
                    object::write::SymbolSection::Section,
                ),
                flags: object::SymbolFlags::None,
            });
        }
        let file = root.path().join("kernel/a/my-module.ko");
        std::fs::write(file, module.write().unwrap()).unwrap();
        let running = Running::of(&map, root.path());
        assert_eq!(running.has("vmlinux", "static_one").unwrap(), Some(true));
        assert_eq!(running.has("vmlinux", "fresh").unwrap(), Some(false));
        assert_eq!(running.has("my_module", "ours").unwrap(), Some(true));
        assert_eq!(running.has("my_module", "theirs").unwrap(), Some(false));
        assert_eq!(running.has("gone", "ours").unwrap(), None);
        assert_eq!(Running::default().has("vmlinux", "ours").unwrap(), None);
    }
}
