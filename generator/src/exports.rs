//! What a name means that the kernel exports, seen from one object. The loader binds an update's imports to exports, and
//! linkers prefer what is nearer: a static function of the object (`phy_reset` of forcedeth), or a function that the module
//! shares among its objects (`svc_create` of atm).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, bail};

use crate::running::Running;
use crate::unit::Unit;

/// Names exported to all modules, and what exports them: `vmlinux` or a module.
#[derive(Clone, Debug, Default)]
pub struct Exports(BTreeMap<String, String>);

impl Exports {
    /// Those in a `Module.symvers`: CRC, symbol, module, type, namespace (Documentation/kbuild/modules.rst, 6.3). Exports
    /// in a namespace are left out: the loader gives them only to modules that import it.
    pub fn parse(symvers: &str) -> Self {
        let export = |line: &str| {
            let mut columns = line.split('\t').skip(1);
            let (name, module) = (columns.next()?, columns.next()?);
            let file = module.rsplit('/').next().unwrap_or(module);
            let module = file.trim_end_matches(".ko").replace('-', "_");
            columns.nth(1).is_none_or(str::is_empty).then(|| (name.to_string(), module))
        };
        Self(symvers.lines().filter_map(export).collect())
    }

    /// Whether anything exports that name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The names.
    pub fn names(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }
}

/// The exports as one object of the running kernel sees them.
#[derive(Debug)]
pub struct Seen<'a> {
    exports: &'a Exports,
    running: &'a Running,
    owner: &'a str,
    /// Symbols that V1's object defines, and whether other objects see them.
    defined: HashMap<&'a str, bool>,
}

impl<'a> Seen<'a> {
    /// As seen from V1's object `pre`, which is part of `owner`.
    pub fn new(exports: &'a Exports, running: &'a Running, owner: &'a str, pre: &'a Unit) -> Self {
        let named = pre.symbols.iter().filter(|symbol| symbol.named && symbol.section.is_some());
        let defined = named.map(|symbol| (symbol.name.as_str(), symbol.global)).collect();
        Self { exports, running, owner, defined }
    }

    /// Whether anything exports that name.
    pub fn contains(&self, name: &str) -> bool {
        self.exports.contains(name)
    }

    /// Whether V1's object means the export by that name.
    pub fn is_meant(&self, name: &str) -> Result<bool> {
        let Some(exporter) = self.exports.0.get(name) else { return Ok(false) };
        match self.defined.get(name) {
            Some(global) => Ok(*global && exporter == self.owner),
            None => self.is_meant_by_undefined(name),
        }
    }

    /// Whether an object of this part of the kernel that does not define the name means the export.
    pub fn is_meant_by_undefined(&self, name: &str) -> Result<bool> {
        let Some(exporter) = self.exports.0.get(name) else { return Ok(false) };
        Ok(exporter == self.owner || !self.is_of_the_owner(name)?)
    }

    /// Whether this part of the kernel has something of that name that its objects share.
    pub fn is_of_the_owner(&self, name: &str) -> Result<bool> {
        if let Some(true) = self.defined.get(name) {
            return Ok(true);
        }
        match self.running.shares(self.owner, name)? {
            Some(shares) => Ok(shares),
            // Nothing that it is linked with has a second one.
            None if self.owner == "vmlinux" => Ok(false),
            None => bail!(
                "whether {} has a {name} of its own is not known: its file is not among the kernel's modules; build or \
                 install them",
                self.owner
            ),
        }
    }

    /// Whether V1's object has something of that name that no other object sees.
    pub fn is_private(&self, name: &str) -> bool {
        self.defined.get(name) == Some(&false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_in_a_namespace_are_left_out() {
        let text = "0x1\tkfree\tvmlinux\tEXPORT_SYMBOL\t\n0x2\tsvc_create\tnet/sunrpc/sun-rpc\tEXPORT_SYMBOL_GPL\t\n\
                    0x3\thidden\tvmlinux\tEXPORT_SYMBOL_GPL\tNS\n0x4\told\tvmlinux\tEXPORT_SYMBOL\n";
        let Exports(all) = Exports::parse(text);
        let of = |name: &str| all.get(name).map(String::as_str);
        assert_eq!(of("kfree"), Some("vmlinux"));
        assert_eq!(of("svc_create"), Some("sun_rpc"));
        assert_eq!((of("hidden"), of("old")), (None, Some("vmlinux")));
    }

    /// `ours` is a name that another module exports too, `theirs` is the other's alone, and so is `hidden`, whatever another
    /// object of this one calls so.
    #[test]
    fn what_is_nearer_is_meant() {
        let root = tempfile::tempdir().unwrap();
        let running = crate::running::tests::small(root.path());
        let symvers = ["ours", "theirs", "hidden", "own"].map(|name| {
            let exporter = if name == "own" { "kernel/a/my-module" } else { "net/other" };
            format!("0x0\t{name}\t{exporter}\tEXPORT_SYMBOL\t\n")
        });
        let exports = Exports::parse(&symvers.concat());
        let meant = |owner: &str, global: Option<bool>, name: &str| {
            let symbol = |global| crate::unit::Symbol {
                name: name.into(),
                section: Some(1),
                named: true,
                global,
                ..Default::default()
            };
            let pre = Unit::with_symbols(global.map(symbol).into_iter().collect());
            Seen::new(&exports, &running, owner, &pre).is_meant(name).ok()
        };
        for (name, by_undefined) in
            [("ours", false), ("theirs", true), ("hidden", true), ("own", true), ("none", false)]
        {
            assert_eq!(meant("my_module", None, name), Some(by_undefined), "{name}");
            assert_eq!(meant("my_module", Some(false), name), Some(false), "{name}");
            assert_eq!(meant("my_module", Some(true), name), Some(name == "own"), "{name}");
        }
        // Its file is not there.
        assert_eq!(meant("gone", None, "theirs"), None);
        assert_eq!(meant("gone", Some(false), "theirs"), Some(false));
        assert_eq!(meant("vmlinux", None, "theirs"), Some(true));
    }
}
