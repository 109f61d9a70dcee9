//! What of the kernel's fault injection is used: which points count, and which of them is to fail.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const DEBUG: &str = "/sys/kernel/debug";

/// Sleeping allocations shall fail too, of any size, and without a word.
pub fn prepare() -> Result<()> {
    for (file, value) in [
        ("failslab/ignore-gfp-wait", "N"),
        ("failslab/verbose", "0"),
        ("fail_page_alloc/ignore-gfp-wait", "N"),
        ("fail_page_alloc/ignore-gfp-highmem", "N"),
        ("fail_page_alloc/min-order", "0"),
        ("fail_page_alloc/verbose", "0"),
        ("fail_function/verbose", "0"),
    ] {
        set(file, value)?;
    }
    // What kmemleak allocates for itself, at every allocation, is no point of the operation.
    let (start, end) = (address("kmemleak_open")?, address("kmemleak_write")?);
    for attribute in ["failslab", "fail_page_alloc"] {
        set(&format!("{attribute}/reject-end"), &format!("{end:#x}"))?;
        set(&format!("{attribute}/reject-start"), &format!("{start:#x}"))?;
    }
    Ok(())
}

/// Where a function of the kernel is. The static functions of one source file lie side by side.
fn address(name: &str) -> Result<u64> {
    let symbols = std::fs::read_to_string("/proc/kallsyms").context("no kallsyms")?;
    let line = symbols.lines().find(|line| line.split_whitespace().nth(2) == Some(name));
    let address = line.and_then(|line| line.split_whitespace().next());
    let address = address.with_context(|| format!("the kernel has no {name}"))?;
    u64::from_str_radix(address, 16).with_context(|| format!("an address: {address:?}"))
}

fn set(file: &str, value: &str) -> Result<()> {
    let path = Path::new(DEBUG).join(file);
    std::fs::write(&path, value).with_context(|| format!("cannot set {}", path.display()))
}

/// Every function of dynamos.ko that may be made to fail, shall be.
pub fn mark() -> Result<()> {
    let list = std::fs::read_to_string(Path::new(DEBUG).join("error_injection/list"))
        .context("cannot read which functions may fail")?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    let mut ours = 0;
    for name in names.filter(|name| name.starts_with("dynamos_shim_")) {
        set("fail_function/inject", name)?;
        ours += 1;
    }
    ensure!(ours > 0, "no function of dynamos.ko may be made to fail");
    Ok(())
}

/// None of them any more.
pub fn unmark() -> Result<()> {
    set("fail_function/inject", "\n")
}

/// Only what has dynamos.ko on the stack, or everything.
pub fn only_below_dynamos(only: bool) -> Result<()> {
    let (mut start, mut end) = (0, u64::MAX);
    if only {
        let text = std::fs::read_to_string("/sys/module/dynamos/sections/.text")
            .context("where is dynamos.ko?")?;
        start = u64::from_str_radix(text.trim().trim_start_matches("0x"), 16)
            .with_context(|| format!("an address: {text:?}"))?;
        let size = std::fs::read_to_string("/sys/module/dynamos/coresize")
            .context("how large is dynamos.ko?")?;
        end = start + size.trim().parse::<u64>().context("the size of dynamos.ko")?;
    }
    for attribute in ["failslab", "fail_page_alloc", "fail_function"] {
        set(&format!("{attribute}/require-end"), &format!("{end:#x}"))?;
        set(&format!("{attribute}/require-start"), &format!("{start:#x}"))?;
    }
    Ok(())
}

/// Makes the N-th point of this task fail.
pub struct Nth(File);

impl Nth {
    pub fn arm(number: u32) -> Result<Nth> {
        let path = format!("/proc/self/task/{}/fail-nth", nix::unistd::gettid());
        let mut file = File::options().read(true).write(true).open(path).context("no fail-nth")?;
        file.write_all(number.to_string().as_bytes()).context("cannot arm fail-nth")?;
        Ok(Nth(file))
    }

    /// Whether something failed. The file is open already: nothing is allocated before it is read.
    pub fn disarm(self) -> Result<bool> {
        let mut left = [0; 16];
        let length = self.0.read_at(&mut left, 0).context("cannot read fail-nth")?;
        self.0.write_all_at(b"0", 0).context("cannot disarm fail-nth")?;
        let left = String::from_utf8_lossy(left.get(..length).unwrap_or_default()).into_owned();
        let left = left.trim().parse::<u32>().with_context(|| format!("fail-nth is {left:?}"))?;
        Ok(left == 0)
    }
}
