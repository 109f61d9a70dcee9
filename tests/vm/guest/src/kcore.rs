//! Reads the running kernel's memory through `/proc/kcore`, an ELF core file whose program
//! headers map addresses to places in it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, bail};

/// `length` bytes at `symbol`, in hexadecimal.
pub fn hex(symbol: &str, module: Option<&str>, length: usize) -> anyhow::Result<String> {
    let path = "/proc/kallsyms";
    let kallsyms = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let address = find(&kallsyms, symbol, module)?;
    let path = "/proc/kcore";
    let kcore = File::open(path).with_context(|| format!("cannot open {path}"))?;
    let mut bytes = vec![0; length];
    let offset = offset(&kcore, address, length as u64)?;
    kcore.read_exact_at(&mut bytes, offset).with_context(|| format!("cannot read {path}"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// The one address of `symbol` in lines like `ffffffffc0001000 t name\t[module]`.
fn find(kallsyms: &str, symbol: &str, module: Option<&str>) -> anyhow::Result<u64> {
    let mut found = None;
    for line in kallsyms.lines() {
        let mut words = line.split_whitespace();
        let (address, _kind, name) = (words.next(), words.next(), words.next());
        let owner = words.next().map(|w| w.trim_matches(['[', ']']));
        if name != Some(symbol) || owner != module {
            continue;
        }
        let address = u64::from_str_radix(address.unwrap_or_default(), 16)?;
        if found.is_some_and(|other| other != address) {
            bail!("{symbol} stands for several addresses in /proc/kallsyms");
        }
        found = Some(address);
    }
    let place = module.unwrap_or("the kernel itself");
    match found {
        Some(0) => bail!("/proc/kallsyms hides addresses; be root, and clear kptr_restrict"),
        Some(address) => Ok(address),
        None => bail!("no {symbol} of {place} in /proc/kallsyms; is the module loaded?"),
    }
}

/// Where in the core file `length` bytes at `address` are. Field offsets: `Elf64_Ehdr` and
/// `Elf64_Phdr` of the gABI.
fn offset(kcore: &File, address: u64, length: u64) -> anyhow::Result<u64> {
    let table = read_u64(kcore, 32)?;
    let count = read_u64(kcore, 56)? & 0xffff;
    for number in 0..count {
        let header = table + number * 56;
        let is_load = read_u64(kcore, header)? & 0xffff_ffff == 1;
        let (start, size) = (read_u64(kcore, header + 16)?, read_u64(kcore, header + 40)?);
        let inside = address.checked_sub(start).filter(|o| o.saturating_add(length) <= size);
        if let (true, Some(inside)) = (is_load, inside) {
            return Ok(read_u64(kcore, header + 8)? + inside);
        }
    }
    bail!("/proc/kcore does not have {length} bytes at {address:#x}")
}

fn read_u64(file: &File, offset: u64) -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset).context("cannot read /proc/kcore's headers")?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::find;

    const KALLSYMS: &str = "\
ffffffff81000000 T once
ffffffff81000010 t twice
ffffffff81000020 t twice
ffffffffc0000000 t once\t[mod]
0000000000000000 t hidden
";

    #[test]
    fn a_symbol_is_one_address_of_its_owner() {
        assert_eq!(find(KALLSYMS, "once", None).unwrap(), 0xffff_ffff_8100_0000);
        assert_eq!(find(KALLSYMS, "once", Some("mod")).unwrap(), 0xffff_ffff_c000_0000);
        for (name, says) in [("twice", "several"), ("none", "no none of"), ("hidden", "hides")] {
            let error = find(KALLSYMS, name, None).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
