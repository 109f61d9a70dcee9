//! The shapes of DIEs, prepared so that what says nothing about types is skipped in one step.

use gimli::constants as dw;
use gimli::{DwAt, DwForm, DwTag, Error, Result};

use super::scan::mix;

/// Codes beyond this are no compiler's.
const MAX_CODE: u64 = 1 << 20;

/// What a DIE is to the types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Other,
    Struct,
    Union,
    Enum,
    Typedef,
    /// Named, without parts; also whatever else only wraps a type.
    Base,
    Pointer,
    Const,
    Volatile,
    Array,
    Subroutine,
    Member,
    Enumerator,
    Subrange,
    Parameter,
    Variadic,
    /// Of a variable.
    Variable,
}

impl Role {
    fn of(tag: DwTag) -> Self {
        match tag {
            dw::DW_TAG_structure_type => Self::Struct,
            dw::DW_TAG_union_type => Self::Union,
            dw::DW_TAG_enumeration_type => Self::Enum,
            dw::DW_TAG_typedef => Self::Typedef,
            dw::DW_TAG_pointer_type => Self::Pointer,
            dw::DW_TAG_const_type => Self::Const,
            dw::DW_TAG_volatile_type => Self::Volatile,
            dw::DW_TAG_array_type => Self::Array,
            dw::DW_TAG_subroutine_type => Self::Subroutine,
            dw::DW_TAG_base_type
            | dw::DW_TAG_restrict_type
            | dw::DW_TAG_atomic_type
            | dw::DW_TAG_unspecified_type
            | dw::DW_TAG_class_type
            | dw::DW_TAG_reference_type
            | dw::DW_TAG_rvalue_reference_type => Self::Base,
            dw::DW_TAG_member => Self::Member,
            dw::DW_TAG_enumerator => Self::Enumerator,
            dw::DW_TAG_subrange_type => Self::Subrange,
            dw::DW_TAG_formal_parameter => Self::Parameter,
            dw::DW_TAG_unspecified_parameters => Self::Variadic,
            dw::DW_TAG_variable => Self::Variable,
            _ => Self::Other,
        }
    }
}

/// One attribute of an abbreviation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spec {
    pub at: DwAt,
    pub form: DwForm,
    /// For `DW_FORM_implicit_const`.
    pub constant: i64,
}

/// The shape of a DIE.
#[derive(Debug)]
pub(super) struct Abbreviation {
    pub role: Role,
    pub children: bool,
    pub specs: Vec<Spec>,
    /// Whether it has a location that may be an address.
    pub located: bool,
    /// Whether the DIE refers to a file with the rest of the unit.
    pub split: bool,
    /// How to get past the attributes: so many bytes, then perhaps one of another form.
    steps: Vec<(u32, Option<DwForm>)>,
}

impl Abbreviation {
    /// Goes past the attributes.
    #[inline]
    pub(super) fn skip(&self, cursor: &mut Cursor<'_>) -> Result<()> {
        for (bytes, form) in &self.steps {
            cursor.at = cursor.at.saturating_add(*bytes as usize);
            if let Some(form) = form {
                cursor.skip(*form)?;
            }
        }
        Ok(())
    }
}

/// Reads the abbreviations at the start of `data`, by code.
pub(super) fn table(data: &[u8], sizes: Sizes) -> Result<Vec<Option<Abbreviation>>> {
    let mut cursor = Cursor { data, at: 0, sizes };
    let mut table: Vec<Option<Abbreviation>> = Vec::new();
    loop {
        let code = cursor.uleb()?;
        if code == 0 {
            return Ok(table);
        }
        if code > MAX_CODE {
            return Err(Error::UnknownAbbreviation(code));
        }
        let tag = DwTag(u16::try_from(cursor.uleb()?).map_err(|_| Error::AbbreviationTagZero)?);
        let children = cursor.bytes(1)? != [0];
        let mut abbreviation = Abbreviation {
            role: Role::of(tag),
            children,
            specs: Vec::new(),
            located: false,
            split: false,
            steps: Vec::new(),
        };
        let mut fixed = 0;
        let mut seen = [0u64; 4];
        loop {
            let (at, form) = (cursor.uleb()?, cursor.uleb()?);
            if at == 0 && form == 0 {
                break;
            }
            let at = DwAt(u16::try_from(at).map_err(|_| Error::AttributeFormZero)?);
            let form = DwForm(u16::try_from(form).map_err(|_| Error::AttributeFormZero)?);
            let constant = if form == dw::DW_FORM_implicit_const { cursor.sleb()? } else { 0 };
            abbreviation.split |= at == dw::DW_AT_dwo_name || at == dw::DW_AT_GNU_dwo_name;
            abbreviation.located |= at == dw::DW_AT_location && form == dw::DW_FORM_exprloc;
            let at = if again(&mut seen, at) { NO_ATTRIBUTE } else { at };
            abbreviation.specs.push(Spec { at, form, constant });
            match sizes.of(form) {
                Some(size) => fixed += size,
                None => abbreviation.steps.push((std::mem::take(&mut fixed), Some(form))),
            }
        }
        if fixed > 0 {
            abbreviation.steps.push((fixed, None));
        }
        let code = code as usize;
        if table.len() <= code {
            table.resize_with(code + 1, || None);
        }
        if let Some(slot) = table.get_mut(code) {
            *slot = Some(abbreviation);
        }
    }
}

/// No attribute has this number.
const NO_ATTRIBUTE: DwAt = DwAt(0);

/// Whether an attribute was there before: the first one counts, as in the exact reader. Those asked for are all below 256.
fn again(seen: &mut [u64; 4], at: DwAt) -> bool {
    let Some(word) = seen.get_mut(usize::from(at.0 / 64)) else { return false };
    let bit = 1 << (at.0 % 64);
    let before = *word & bit != 0;
    *word |= bit;
    before
}

/// What the first DIE of a unit says: `DW_AT_str_offsets_base`, and whether the unit is split.
pub(super) fn root(
    mut cursor: Cursor<'_>,
    table: &[Option<Abbreviation>],
) -> Result<(Option<usize>, bool)> {
    let code = cursor.uleb()?;
    let shape = usize::try_from(code).ok().and_then(|code| table.get(code)?.as_ref());
    let shape = shape.ok_or(Error::UnknownAbbreviation(code))?;
    for spec in &shape.specs {
        if spec.at == dw::DW_AT_str_offsets_base && spec.form == dw::DW_FORM_sec_offset {
            let base = cursor.little(usize::from(cursor.sizes.offset))?;
            return Ok((usize::try_from(base).ok(), shape.split));
        }
        cursor.skip(spec.form)?;
    }
    Ok((None, shape.split))
}

/// The sizes that a unit's header gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Sizes {
    /// Of an address.
    pub address: u8,
    /// Of an offset into another section.
    pub offset: u8,
    /// DWARF version.
    pub version: u16,
}

impl Sizes {
    /// The size of a form, if it is always the same.
    fn of(self, form: DwForm) -> Option<u32> {
        Some(match form {
            dw::DW_FORM_flag_present | dw::DW_FORM_implicit_const => 0,
            dw::DW_FORM_data1
            | dw::DW_FORM_ref1
            | dw::DW_FORM_flag
            | dw::DW_FORM_strx1
            | dw::DW_FORM_addrx1 => 1,
            dw::DW_FORM_data2 | dw::DW_FORM_ref2 | dw::DW_FORM_strx2 | dw::DW_FORM_addrx2 => 2,
            dw::DW_FORM_strx3 | dw::DW_FORM_addrx3 => 3,
            dw::DW_FORM_data4
            | dw::DW_FORM_ref4
            | dw::DW_FORM_ref_sup4
            | dw::DW_FORM_strx4
            | dw::DW_FORM_addrx4 => 4,
            dw::DW_FORM_data8 | dw::DW_FORM_ref8 | dw::DW_FORM_ref_sig8 | dw::DW_FORM_ref_sup8 => 8,
            dw::DW_FORM_data16 => 16,
            dw::DW_FORM_addr => u32::from(self.address),
            dw::DW_FORM_ref_addr if self.version <= 2 => u32::from(self.address),
            dw::DW_FORM_ref_addr
            | dw::DW_FORM_strp
            | dw::DW_FORM_line_strp
            | dw::DW_FORM_sec_offset
            | dw::DW_FORM_strp_sup
            | dw::DW_FORM_GNU_ref_alt
            | dw::DW_FORM_GNU_strp_alt => u32::from(self.offset),
            _ => return None,
        })
    }
}

/// A place in the bytes of a unit.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub data: &'a [u8],
    pub at: usize,
    pub sizes: Sizes,
}

impl<'a> Cursor<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.data.len()
    }

    #[inline]
    fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.saturating_add(count);
        let bytes = self.data.get(self.at..end).ok_or_else(eof)?;
        self.at = end;
        Ok(bytes)
    }

    #[inline]
    pub(super) fn uleb(&mut self) -> Result<u64> {
        let first = *self.data.get(self.at).ok_or_else(eof)?;
        self.at += 1;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        self.uleb_rest(u64::from(first & 0x7f))
    }

    fn uleb_rest(&mut self, mut value: u64) -> Result<u64> {
        let mut shift = 7u32;
        loop {
            let byte = *self.data.get(self.at).ok_or_else(eof)?;
            self.at += 1;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            shift = shift.saturating_add(7);
            if byte < 0x80 {
                return Ok(value);
            }
        }
    }

    fn sleb(&mut self) -> Result<i64> {
        let start = self.at;
        let value = self.uleb()?;
        let shift = (self.at - start).saturating_mul(7);
        let last = self.data.get(self.at.wrapping_sub(1)).copied().unwrap_or(0);
        let negative = last & 0x40 != 0 && shift < 64;
        Ok(if negative { (value | (u64::MAX << shift)) as i64 } else { value as i64 })
    }

    fn little(&mut self, count: usize) -> Result<u64> {
        let bytes = self.bytes(count)?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    /// Goes past an attribute.
    pub(super) fn skip(&mut self, form: DwForm) -> Result<()> {
        if let Some(size) = self.sizes.of(form) {
            self.at = self.at.saturating_add(size as usize);
            return Ok(());
        }
        let length = match form {
            dw::DW_FORM_udata
            | dw::DW_FORM_sdata
            | dw::DW_FORM_ref_udata
            | dw::DW_FORM_strx
            | dw::DW_FORM_addrx
            | dw::DW_FORM_loclistx
            | dw::DW_FORM_rnglistx
            | dw::DW_FORM_GNU_str_index
            | dw::DW_FORM_GNU_addr_index => {
                self.uleb()?;
                0
            }
            dw::DW_FORM_exprloc | dw::DW_FORM_block => self.uleb()?,
            dw::DW_FORM_block1 => self.little(1)?,
            dw::DW_FORM_block2 => self.little(2)?,
            dw::DW_FORM_block4 => self.little(4)?,
            dw::DW_FORM_string => {
                let rest = self.data.get(self.at..).ok_or_else(eof)?;
                rest.iter().position(|b| *b == 0).ok_or_else(eof)? as u64 + 1
            }
            dw::DW_FORM_indirect => {
                let form = DwForm(self.uleb()? as u16);
                // An implicit constant has no value here; another indirection would never end.
                if matches!(form, dw::DW_FORM_indirect | dw::DW_FORM_implicit_const) {
                    return Err(Error::UnknownForm(form));
                }
                return self.skip(form);
            }
            other => return Err(Error::UnknownForm(other)),
        };
        self.at = self.at.saturating_add(usize::try_from(length).map_err(|_| eof())?);
        Ok(())
    }

    /// A constant, and whether its form is signed. What is no constant is none, as in the exact reader.
    pub(super) fn number(&mut self, spec: &Spec) -> Result<Option<(u64, bool)>> {
        Ok(Some(match spec.form {
            dw::DW_FORM_data1 => (self.little(1)?, false),
            dw::DW_FORM_data2 => (self.little(2)?, false),
            dw::DW_FORM_data4 => (self.little(4)?, false),
            dw::DW_FORM_data8 => (self.little(8)?, false),
            dw::DW_FORM_udata => (self.uleb()?, false),
            dw::DW_FORM_sdata => (self.sleb()? as u64, true),
            dw::DW_FORM_implicit_const => (spec.constant as u64, true),
            form => {
                // The bytes stand for themselves: different ones must not look equal.
                let start = self.at;
                self.skip(form)?;
                let bytes = self.data.get(start..self.at).ok_or_else(eof)?;
                (bytes.iter().fold(1, |h, b| mix(h, u64::from(*b))), false)
            }
        }))
    }

    /// The offset in the unit that a type attribute refers to.
    /// The bytes of a location.
    pub(super) fn expression(&mut self) -> Result<&'a [u8]> {
        let length = self.uleb()?;
        self.bytes(usize::try_from(length).map_err(|_| eof())?)
    }

    /// Offset in the unit of an entry that is in it.
    pub(super) fn reference(&mut self, spec: &Spec, strings: &Strings<'_>) -> Result<u32> {
        let offset = match spec.form {
            dw::DW_FORM_ref4 => self.little(4)?,
            dw::DW_FORM_ref1 => self.little(1)?,
            dw::DW_FORM_ref2 => self.little(2)?,
            dw::DW_FORM_ref8 => self.little(8)?,
            dw::DW_FORM_ref_udata => self.uleb()?,
            dw::DW_FORM_ref_addr => {
                let size =
                    if self.sizes.version <= 2 { self.sizes.address } else { self.sizes.offset };
                let offset = self.little(usize::from(size))?;
                offset.checked_sub(strings.unit).ok_or(Error::UnsupportedAttributeForm)?
            }
            _ => return Err(Error::UnsupportedAttributeForm),
        };
        if offset >= self.data.len() as u64 {
            return Err(Error::UnsupportedAttributeForm);
        }
        Ok(offset as u32)
    }
}

fn eof() -> Error {
    Error::UnexpectedEof(gimli::ReaderOffsetId(0))
}

/// Where the strings of a unit are.
pub(super) struct Strings<'a> {
    pub str: &'a [u8],
    pub line_str: &'a [u8],
    pub str_offsets: &'a [u8],
    /// `DW_AT_str_offsets_base` of the unit.
    pub base: usize,
    /// Offset of the unit in its section.
    pub unit: u64,
    /// Which side it is of.
    pub side: u64,
}

impl Strings<'_> {
    /// The hash of a string attribute; never 0.
    #[inline]
    pub(super) fn hash(&self, spec: &Spec, cursor: &mut Cursor<'_>) -> Result<u64> {
        let word = usize::from(cursor.sizes.offset);
        let text = match spec.form {
            dw::DW_FORM_strp => self.str.get(cursor.little(word)? as usize..),
            dw::DW_FORM_line_strp => self.line_str.get(cursor.little(word)? as usize..),
            dw::DW_FORM_string => {
                let start = cursor.at;
                cursor.skip(spec.form)?;
                cursor.data.get(start..)
            }
            form => {
                let index = match form {
                    dw::DW_FORM_strx | dw::DW_FORM_GNU_str_index => cursor.uleb()?,
                    dw::DW_FORM_strx1 => cursor.little(1)?,
                    dw::DW_FORM_strx2 => cursor.little(2)?,
                    dw::DW_FORM_strx3 => cursor.little(3)?,
                    dw::DW_FORM_strx4 => cursor.little(4)?,
                    other => return Err(Error::UnknownForm(other)),
                };
                let at = (index as usize).saturating_mul(word).saturating_add(self.base);
                let mut entry = Cursor { data: self.str_offsets, at, sizes: cursor.sizes };
                self.str.get(entry.little(word)? as usize..)
            }
        };
        hash_text(text.ok_or_else(eof)?)
    }
}

/// The hash that a string attribute of this text has.
pub(super) fn hash_of(text: &str) -> Result<u64> {
    hash_text(&[text.as_bytes(), &[0]].concat())
}

/// Hash of a string up to its NUL, eight bytes at a time.
#[inline]
fn hash_text(mut rest: &[u8]) -> Result<u64> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut hash = 0x5bd1_e995;
    while let Some((word, more)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            // The lowest set bit is that of the first NUL; what comes after it is another string.
            let kept = zeros.trailing_zeros() / 8 * 8;
            let word = if kept == 0 { 0 } else { word & (u64::MAX >> (64 - kept)) };
            return Ok(mix(hash, word) | 1);
        }
        hash = mix(hash, word);
        rest = more;
    }
    let end = rest.iter().position(|b| *b == 0).ok_or_else(eof)?;
    let last = rest.iter().take(end).rev().fold(0, |value, b| value << 8 | u64::from(*b));
    Ok(mix(hash, last) | 1)
}
