//! Compressed sections (`SHF_COMPRESSED`). What they give is bounded by what their headers say, and what the headers of
//! one file may say is bounded too: a few hundred bytes can stand for gigabytes.

use std::fmt::Display;
use std::io::Read;

use flate2::bufread::ZlibDecoder;
use object::elf;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, DEFAULT_MAX_WINDOW_SIZE, FrameDecoder};

use crate::error::{Error, Result};

/// The most that the compressed sections of one file may hold. Debian's `vmlinux` has 290 MB of debug sections, and
/// both sides of a comparison are in memory; of an object, relocated copies of the DWARF too.
const MOST: u64 = 512 << 20;

/// What any file may hold, and then for each byte that it has. Debug sections become 2 to 5 times as large.
const LEAST: u64 = 64 << 20;
const RATIO: u64 = 16;

/// A decoder of zstd has to take windows of this size (RFC 8878, 3.1.1.1.2), whatever the frame holds.
const WINDOW: u64 = 8 << 20;

/// What the compressed sections of a file may still take.
#[derive(Debug)]
pub(crate) struct Budget {
    all: u64,
    left: u64,
}

impl Budget {
    /// Of a whole file.
    pub(crate) fn of(file: &[u8]) -> Self {
        let all = (file.len() as u64).saturating_mul(RATIO).saturating_add(LEAST).min(MOST);
        Self { all, left: all }
    }

    /// What a section holds, whose header (`Elf64_Chdr`) says that it has this form and `size`.
    pub(crate) fn decompress(
        &mut self,
        form: u32,
        data: &[u8],
        size: u64,
        bad: impl Fn(String) -> Error,
    ) -> Result<Vec<u8>> {
        self.left = self.left.checked_sub(size).ok_or_else(|| {
            bad(format!(
                "it decompresses to {size} bytes, and the compressed sections of this file may hold {} MiB together: \
                 give it as `objcopy --decompress-debug-sections` makes it",
                self.all >> 20
            ))
        })?;
        let size = usize::try_from(size).map_err(|e| bad(e.to_string()))?;
        match form {
            elf::ELFCOMPRESS_ZLIB => zlib(data, size),
            elf::ELFCOMPRESS_ZSTD => zstd(data, size),
            other => Err(format!("compressed in form {other}, which is neither zlib nor zstd")),
        }
        .map_err(bad)
    }
}

fn zlib(data: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let mut bytes = room(size)?;
    let mut decoder = ZlibDecoder::new(data);
    let failed = |e| format!("damaged zlib data ({e})");
    (&mut decoder).take(size as u64).read_to_end(&mut bytes).map_err(failed)?;
    // The decoder sees the end, and with it the checksum, only when it is asked for more.
    let more = decoder.read(&mut [0]).map_err(failed)?;
    exact(bytes, size, more)
}

fn zstd(mut data: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let mut bytes = room(size)?;
    let failed = |e: FrameDecoderError| format!("damaged zstd data ({})", chain(&e));
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size((size as u64).clamp(WINDOW, DEFAULT_MAX_WINDOW_SIZE));
    while !data.is_empty() {
        match decoder.init(&mut data) {
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                data = data.get(length as usize..).ok_or("damaged zstd data (it is cut off)")?;
                continue;
            }
            other => other.map_err(failed)?,
        }
        while !decoder.is_finished() {
            decoder
                .decode_blocks(&mut data, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(failed)?;
            let more = decoder.can_collect();
            if more > size - bytes.len() {
                return exact(bytes, size, more);
            }
            decoder.collect_to_writer(&mut bytes).map_err(|e| e.to_string())?;
        }
    }
    exact(bytes, size, 0)
}

/// An error of zstd with what led to it, which its own text leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Memory that the system gives only where it is written to, so a header that says too much costs nothing.
fn room(size: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|e| format!("no room for {size} bytes ({e})"))?;
    Ok(bytes)
}

/// `more`: what came after the last of the bytes.
fn exact(bytes: Vec<u8>, size: usize, more: usize) -> Result<Vec<u8>, String> {
    let differs = |than: &dyn Display| {
        Err(format!("it decompresses to {than} bytes, and its header says {size}"))
    };
    if more > 0 {
        differs(&"more")
    } else if bytes.len() < size {
        differs(&bytes.len())
    } else {
        Ok(bytes)
    }
}
