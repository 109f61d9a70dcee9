//! The part of the kernel's configuration that decides how Rust code is compiled for it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Error;

/// `include/config/auto.conf` of a headers directory: the options that are on.
pub(crate) struct KernelConfig(BTreeMap<String, String>);

impl KernelConfig {
    /// Reads the configuration that Kbuild itself uses for external modules.
    pub(crate) fn read(headers: &Path) -> Result<Self, Error> {
        let path = headers.join("include/config/auto.conf");
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let options = text.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            Some((name.to_owned(), value.trim_matches('"').to_owned()))
        });
        Self(options.collect())
    }

    /// Is the option `y`?
    pub(crate) fn is_on(&self, option: &str) -> bool {
        self.value(option) == Some("y")
    }

    /// Is one of the options `y`? Options were renamed between kernels.
    pub(crate) fn any_on(&self, options: &[&str]) -> bool {
        options.iter().any(|option| self.is_on(option))
    }

    /// The option's value, unquoted.
    pub(crate) fn value(&self, option: &str) -> Option<&str> {
        self.0.get(option).map(String::as_str)
    }

    /// Refuses a kernel that `dynamos.ko` cannot work in.
    pub(crate) fn check_supported(&self, release: &str) -> Result<(), Error> {
        let refuse = |option, problem| {
            Err(Error::Unsupported { release: release.to_owned(), option, problem })
        };
        for option in [
            "X86_64",
            "MODULES",
            "MODULE_UNLOAD",
            "KALLSYMS_ALL",
            "KPROBES",
            "SMP",
            "STACKTRACE",
            "HAVE_RELIABLE_STACKTRACE",
            "UNWINDER_ORC",
            "DYNAMIC_FTRACE_WITH_DIRECT_CALLS",
            "JUMP_LABEL",
            "HAVE_STATIC_CALL_INLINE",
        ] {
            if !self.is_on(option) {
                return refuse(option, "is off, and dynamos.ko needs it");
            }
        }
        for option in ["CFI_CLANG", "CFI", "KASAN_SW_TAGS", "LTO_CLANG"] {
            if self.is_on(option) {
                return refuse(
                    option,
                    "is on, and Rust code without its instrumentation cannot be linked in",
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_unquoted() {
        let config = KernelConfig::parse(
            "CONFIG_X86_64=y\n# CONFIG_KASAN is not set\nCONFIG_CC_VERSION_TEXT=\"gcc-12 (x) 12\"\nCONFIG_EXT4_FS=m\n",
        );
        assert!(config.is_on("X86_64"));
        assert!(!config.is_on("KASAN"));
        assert!(!config.is_on("EXT4_FS"));
        assert_eq!(config.value("CC_VERSION_TEXT"), Some("gcc-12 (x) 12"));
    }

    #[test]
    fn an_unfit_kernel_is_refused_by_option() {
        let error = KernelConfig::parse("CONFIG_X86_64=y\n").check_supported("1.2").unwrap_err();
        assert!(error.to_string().contains("MODULES is off"), "{error}");
    }
}
