//! Files in memory without reading them whole.

use std::fs::File;
use std::path::Path;

/// The bytes of a file that nobody changes while they are looked at.
#[derive(Debug)]
pub struct Mapping(Option<memmap2::Mmap>);

impl Mapping {
    /// Maps a file.
    #[allow(unsafe_code)]
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // An empty mapping is an error to the kernel.
        if file.metadata()?.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the mapping is private and only read. Whoever truncates a kernel image while it is
        // compared gets a bus error, as with every linker and debugger.
        Ok(Self(Some(unsafe { memmap2::Mmap::map(&file)? })))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}
