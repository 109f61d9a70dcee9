//! Text in buffers of fixed size, for places that cannot or should not allocate.

use core::ffi::CStr;
use core::fmt;

/// Stands for text that did not fit.
const CUT: &str = "...";

/// Formatted text of at most `N` bytes; what does not fit is cut off and marked.
pub struct FixedText<const N: usize> {
    bytes: [u8; N],
    length: usize,
    cut: bool,
}

impl<const N: usize> FixedText<N> {
    /// Formats `arguments`.
    #[must_use]
    pub fn new(arguments: fmt::Arguments<'_>) -> Self {
        let mut text = Self { bytes: [0; N], length: 0, cut: false };
        // Cannot fail: what does not fit is noted in `cut`.
        let _ = fmt::write(&mut text, arguments);
        text
    }

    /// The text in UTF-8.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Did not all fit?
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// Shows that the end is missing, in place of the last bytes.
    pub fn mark_cut(&mut self) {
        let text = self.bytes.get(..self.length).and_then(|bytes| core::str::from_utf8(bytes).ok());
        let Some(text) = text else { return };
        let mut end = text.len().saturating_sub(CUT.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        if let Some(place) = self.bytes.get_mut(end..end + CUT.len()) {
            place.copy_from_slice(CUT.as_bytes());
            self.length = end + CUT.len();
        }
    }
}

impl<const N: usize> fmt::Write for FixedText<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut writer = SliceWriter { bytes: &mut self.bytes, length: self.length, cut: self.cut };
        let result = writer.write_str(text);
        (self.length, self.cut) = (writer.length, writer.cut);
        result
    }
}

/// Writes text into a slice; what does not fit is cut off and noted.
pub struct SliceWriter<'a> {
    bytes: &'a mut [u8],
    length: usize,
    cut: bool,
}

impl<'a> SliceWriter<'a> {
    /// Writes from the start of `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, length: 0, cut: false }
    }

    /// How many more bytes fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bytes.len().saturating_sub(self.length)
    }

    /// How many bytes have been written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Has nothing been written?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Did not all fit?
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut
    }
}

impl fmt::Write for SliceWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let free = self.bytes.get_mut(self.length..).unwrap_or_default();
        let mut fits = text.len().min(free.len());
        // Not in the middle of a character.
        while !text.is_char_boundary(fits) {
            fits -= 1;
        }
        self.cut |= fits < text.len();
        if let (Some(to), Some(from)) = (free.get_mut(..fits), text.as_bytes().get(..fits)) {
            to.copy_from_slice(from);
            self.length += fits;
        }
        Ok(())
    }
}

/// The kernel's names are ASCII; anything else is shown as a replacement.
#[must_use]
pub fn printable(name: &CStr) -> &str {
    name.to_str().unwrap_or("<not UTF-8>")
}
