//! The few instructions that policies and the handler of scope `task` need. Encodings are those of the Intel SDM, volume 2; the tests decode
//! every one of them with iced-x86.

use super::NativeError;
use crate::insn::ENDBR;
use crate::policy::program::IntegerType;

/// 64 bits; 32 otherwise, which clear the upper half.
pub(crate) const WIDE: bool = true;

/// The registers that are free at a function's entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Free {
    Rax,
    R10,
    R11,
}

/// What the flags say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Equal,
    NotEqual,
    Below,
    NotBelow,
    Less,
    NotLess,
}

/// Writes instructions one after another; beyond the room it only counts.
pub(crate) struct Assembler<'a> {
    into: &'a mut [u8],
    /// Address of the first byte.
    base: u64,
    len: usize,
    /// What was out of reach.
    far: Option<&'static str>,
}

impl Free {
    /// The lower three bits of its number.
    fn low(self) -> u8 {
        match self {
            Free::Rax => 0,
            Free::R10 => 2,
            Free::R11 => 3,
        }
    }

    /// Its number's fourth bit, which goes to the REX prefix.
    fn high(self) -> bool {
        self != Free::Rax
    }
}

impl Condition {
    pub(crate) fn not(self) -> Self {
        match self {
            Self::Equal => Self::NotEqual,
            Self::NotEqual => Self::Equal,
            Self::Below => Self::NotBelow,
            Self::NotBelow => Self::Below,
            Self::Less => Self::NotLess,
            Self::NotLess => Self::Less,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Below => 2,
            Self::NotBelow => 3,
            Self::Equal => 4,
            Self::NotEqual => 5,
            Self::Less => 0xc,
            Self::NotLess => 0xd,
        }
    }
}

fn rex(wide: bool, register: bool, base: bool) -> u8 {
    0x40 | u8::from(wide) << 3 | u8::from(register) << 2 | u8::from(base)
}

impl<'a> Assembler<'a> {
    pub(crate) fn new(into: &'a mut [u8], base: u64) -> Self {
        Self { into, base, len: 0, far: None }
    }

    /// Bytes written or counted.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Fills the rest with breakpoints; the length of the code.
    pub(crate) fn finish(self) -> Result<usize, NativeError> {
        if let Some(what) = self.far {
            return Err(NativeError::TooFar(what));
        }
        if let Some(rest) = self.into.get_mut(self.len..) {
            rest.fill(crate::insn::INT3);
        }
        Ok(self.len)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        if let Some(room) = self.into.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
        }
        self.len = end;
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// The displacement of a jump that ends behind it.
    fn displacement(&mut self, to: u64) {
        let from = self.base.wrapping_add(self.len as u64).wrapping_add(4);
        let distance = to.wrapping_sub(from).cast_signed();
        match i32::try_from(distance) {
            Ok(distance) => self.u32(distance.cast_unsigned()),
            // Before the steps have been found distances mean nothing; that pass is not finished.
            Err(_) => {
                self.far = Some("a jump's target");
                self.u32(0);
            }
        }
    }

    pub(crate) fn endbr64(&mut self) {
        self.bytes(&ENDBR);
    }

    /// `mov gs:offset, register`
    pub(crate) fn load_gs(&mut self, wide: bool, register: Free, offset: u32) {
        let modrm = register.low() << 3 | 4;
        // 0x25: neither base nor index, 32 bits of address.
        self.bytes(&[0x65, rex(wide, register.high(), false), 0x8b, modrm, 0x25]);
        self.offset(offset);
    }

    /// `mov offset(base), register`
    pub(crate) fn load(&mut self, wide: bool, register: Free, base: Free, offset: u32) {
        let modrm = 0x80 | register.low() << 3 | base.low();
        self.bytes(&[rex(wide, register.high(), base.high()), 0x8b, modrm]);
        self.offset(offset);
    }

    /// `mov address, register`, for addresses that 32 bits sign-extend to.
    pub(crate) fn load_absolute(&mut self, register: Free, address: u64) {
        self.bytes(&[rex(WIDE, register.high(), false), 0x8b, register.low() << 3 | 4, 0x25]);
        match i32::try_from(address.cast_signed()) {
            Ok(address) => self.u32(address.cast_unsigned()),
            Err(_) => {
                self.far = Some("jiffies_64");
                self.u32(0);
            }
        }
    }

    /// An offset that the processor must not take for a negative one.
    fn offset(&mut self, offset: u32) {
        if offset > i32::MAX.cast_unsigned() {
            self.far = Some("an offset of the layout");
        }
        self.u32(offset);
    }

    /// `incl gs:offset` or `decl gs:offset`
    pub(crate) fn count_gs(&mut self, up: bool, offset: u32) {
        self.bytes(&[0x65, 0xff, if up { 0x04 } else { 0x0c }, 0x25]);
        self.offset(offset);
    }

    /// Argument `index` in its type into `r10`.
    pub(crate) fn load_argument(&mut self, index: usize, as_type: IntegerType) {
        // rdi, rsi, rdx, rcx, r8, r9
        let (low, high) = match index {
            0 => (7, false),
            1 => (6, false),
            2 => (2, false),
            3 => (1, false),
            4 => (0, true),
            _ => (1, true),
        };
        // `mov`, `movzx`, `movsx`, `movsxd`; with a REX prefix the byte registers are the low ones.
        let (wide, opcode): (bool, &[u8]) = match as_type {
            IntegerType::U8 => (false, &[0x0f, 0xb6]),
            IntegerType::U16 => (false, &[0x0f, 0xb7]),
            IntegerType::U32 => (false, &[0x8b]),
            IntegerType::U64 | IntegerType::S64 => (true, &[0x8b]),
            IntegerType::S8 => (true, &[0x0f, 0xbe]),
            IntegerType::S16 => (true, &[0x0f, 0xbf]),
            IntegerType::S32 => (true, &[0x63]),
        };
        self.bytes(&[rex(wide, Free::R10.high(), high)]);
        self.bytes(opcode);
        self.bytes(&[0xc0 | Free::R10.low() << 3 | low]);
    }

    /// `mov $value, register`
    pub(crate) fn constant(&mut self, register: Free, value: u64) {
        let opcode = 0xb8 | register.low();
        match u32::try_from(value) {
            // Clears the upper half.
            Ok(value) => {
                self.bytes(&[rex(!WIDE, false, register.high()), opcode]);
                self.u32(value);
            }
            Err(_) => {
                self.bytes(&[rex(WIDE, false, register.high()), opcode]);
                self.bytes(&value.to_le_bytes());
            }
        }
    }

    /// `and $mask, %r10`
    pub(crate) fn and_constant(&mut self, mask: u64) {
        if mask == u64::MAX {
            return;
        }
        self.with_constant(mask, &[0x49, 0x81, 0xe2], &[0x4d, 0x21, 0xda]);
    }

    /// `cmp $value, %r10`
    pub(crate) fn compare_constant(&mut self, value: u64) {
        self.with_constant(value, &[0x49, 0x81, 0xfa], &[0x4d, 0x39, 0xda]);
    }

    /// `near` with 32 bits of immediate, if that sign-extends to `value`; else `far` with it in `r11`.
    fn with_constant(&mut self, value: u64, near: &[u8], far: &[u8]) {
        match i32::try_from(value.cast_signed()) {
            Ok(value) => {
                self.bytes(near);
                self.u32(value.cast_unsigned());
            }
            Err(_) => {
                self.constant(Free::R11, value);
                self.bytes(far);
            }
        }
    }

    /// `cmp $value, %r10d`
    pub(crate) fn compare_low(&mut self, value: u32) {
        self.bytes(&[0x41, 0x81, 0xfa]);
        self.u32(value);
    }

    /// `xor offset(%r11), %r10`
    pub(crate) fn xor_memory(&mut self, offset: u32) {
        self.bytes(&[0x4d, 0x33, 0x93]);
        self.offset(offset);
    }

    /// `cmpb $value, address(%rip)`
    pub(crate) fn compare_byte_at(&mut self, address: u64, value: u8) {
        self.bytes(&[0x80, 0x3d]);
        // It counts from the end of the instruction, behind the immediate.
        self.displacement(address.wrapping_sub(1));
        self.bytes(&[value]);
    }

    /// `imul %rax, %r10`
    pub(crate) fn multiply_by_rax(&mut self) {
        self.bytes(&[0x4c, 0x0f, 0xaf, 0xd0]);
    }

    /// `and (%r11), %r10`
    pub(crate) fn and_table(&mut self) {
        self.bytes(&[0x4d, 0x23, 0x13]);
    }

    /// `cmp %rax, offset(%r11, %r10, 8)`
    pub(crate) fn compare_rax_in_table(&mut self, offset: u32) {
        self.bytes(&[0x4b, 0x39, 0x84, 0xd3]);
        self.offset(offset);
    }

    /// `cmpq $0, offset(%r11, %r10, 8)`
    pub(crate) fn compare_zero_in_table(&mut self, offset: u32) {
        self.bytes(&[0x4b, 0x83, 0xbc, 0xd3]);
        self.offset(offset);
        self.bytes(&[0]);
    }

    /// `cmpq $0, offset(%r11)`
    pub(crate) fn compare_zero_in_head(&mut self, offset: u32) {
        self.bytes(&[0x49, 0x83, 0xbb]);
        self.offset(offset);
        self.bytes(&[0]);
    }

    /// `add $value, %r10`, at most 127.
    pub(crate) fn add_small(&mut self, value: u8) {
        self.bytes(&[0x49, 0x83, 0xc2, value & 0x7f]);
    }

    /// `add %r11, %r10`
    pub(crate) fn add(&mut self) {
        self.bytes(&[0x4d, 0x01, 0xda]);
    }

    /// `sub %r11, %r10`
    pub(crate) fn subtract(&mut self) {
        self.bytes(&[0x4d, 0x29, 0xda]);
    }

    /// `imul %r11, %r10`
    pub(crate) fn multiply(&mut self) {
        self.bytes(&[0x4d, 0x0f, 0xaf, 0xd3]);
    }

    /// `bswap %r10`
    pub(crate) fn swap_bytes(&mut self) {
        self.bytes(&[0x49, 0x0f, 0xca]);
    }

    /// `shl $count, %r10`
    pub(crate) fn shift_left(&mut self, count: u8) {
        self.bytes(&[0x49, 0xc1, 0xe2, count]);
    }

    /// `shr $count, %r10`
    pub(crate) fn shift_right(&mut self, count: u8) {
        self.bytes(&[0x49, 0xc1, 0xea, count]);
    }

    /// `jCC to`
    pub(crate) fn jump_if(&mut self, condition: Condition, to: u64) {
        self.bytes(&[0x0f, 0x80 | condition.code()]);
        self.displacement(to);
    }

    /// `jmp to`
    pub(crate) fn jump(&mut self, to: u64) {
        self.bytes(&[crate::insn::JMP32]);
        self.displacement(to);
    }

    /// `jne 1f; call to; 1:`
    pub(crate) fn call_if_zero(&mut self, to: u64) {
        self.bytes(&[0x75, 5, crate::insn::CALL]);
        self.displacement(to);
    }
}
