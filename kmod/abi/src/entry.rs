//! The fixed-size entries of a record's tables.

/// Declares an entry: a plain struct, its encoded size, and how to read and write it.
macro_rules! entry {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }

        impl Field for $name {
            const SIZE: usize = 0 $(+ <$ty as Field>::SIZE)*;
            fn read(from: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: <$ty as Field>::read(from)?,)* })
            }
            #[cfg(feature = "write")]
            fn write(&self, to: &mut alloc::vec::Vec<u8>) {
                $(self.$field.write(to);)*
            }
        }
    };
}

/// Something with a fixed size in a record.
pub(crate) trait Field: Sized {
    /// Bytes it takes.
    const SIZE: usize;
    /// Takes it from the front of `from`.
    fn read(from: &mut &[u8]) -> Option<Self>;
    /// Appends it to `to`.
    #[cfg(feature = "write")]
    fn write(&self, to: &mut alloc::vec::Vec<u8>);
}

macro_rules! integer {
    ($($ty:ty)*) => {$(
        impl Field for $ty {
            const SIZE: usize = size_of::<$ty>();
            fn read(from: &mut &[u8]) -> Option<Self> {
                let (head, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(<$ty>::from_le_bytes(*head))
            }
            #[cfg(feature = "write")]
            fn write(&self, to: &mut alloc::vec::Vec<u8>) {
                to.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
integer!(u8 u16 u32 i64);

entry! {
    /// A string in the table of strings.
    Str {
        /// Offset in the table of strings.
        offset: u32,
        /// Length in bytes.
        len: u32,
    }
}

entry! {
    /// A range of the block of raw bytes.
    Bytes {
        /// Offset in the block.
        offset: u32,
        /// Length in bytes.
        len: u32,
    }
}

entry! {
    /// A part of the kernel that the update touches: `vmlinux` or a module.
    Object {
        /// `vmlinux`, or the module's name as in `/proc/modules`.
        name: Str,
    }
}

/// Bits of [`Symbol::flags`].
pub mod symbol_flags {
    /// A function; else data.
    pub const FUNCTION: u32 = 1;
    /// Exported by some part of the kernel: any object may own it ([`super::Symbol::object`] is `NONE`).
    pub const EXPORTED: u32 = 2;
    /// Has no name in kallsyms (strings, compiler temporaries): only a site can give its address.
    pub const ANONYMOUS: u32 = 4;
    /// A clone refers to it: the update cannot be loaded without its address.
    pub const NEEDED: u32 = 8;
    /// A per-CPU variable: its value is an offset in the per-CPU area, not an address.
    pub const PER_CPU: u32 = 16;
    /// The update's code refers to it by its name, for which the kernel's module loader gives an address.
    pub const IMPORTED: u32 = 32;
}

entry! {
    /// A function or variable of the running kernel that the record speaks of.
    Symbol {
        /// Name as in kallsyms (the linker's name, `foo.isra.0` included).
        name: Str,
        /// Index of the object that holds it, or `NONE` if any may.
        object: u32,
        /// See [`symbol_flags`].
        flags: u32,
        /// Address of its placeholder in the update, or `NONE`.
        placeholder: u32,
    }
}

/// Bits of [`Function::flags`].
pub mod function_flags {
    /// Is replaced: has a clone and handlers.
    pub const REPLACE: u32 = 1;
    /// A part of another function that the compiler moved away (`foo.cold`): found only through it.
    pub const FRAGMENT: u32 = 2;
    /// Its steady handler asks an adaptation handler that the update brings, on each call.
    pub const ADAPTS: u32 = 4;
    /// Reads a slot, or is called by one: no task may be in it when slots are written.
    pub const WATCHED: u32 = 8;
    /// Its parameters or its result are other ones than V1's, or that is not known: no call may come from another edition's
    /// caller.
    pub const RESHAPED: u32 = 16;
    /// Code that was compiled for V1 must not call it, for the same reason, even if none of V1's callers is another one.
    pub const UNLIKE_V1: u32 = 32;
}

entry! {
    /// A function whose running code must be the `pre` build's.
    Function {
        /// Index of its symbol.
        symbol: u32,
        /// See [`function_flags`]; an anchor has none.
        flags: u32,
        /// The bytes of the `pre` build.
        bytes: Bytes,
        /// First of its sites, which are sorted by offset.
        first_site: u32,
        /// Number of its sites.
        site_count: u32,
        /// Offset of its `call __fentry__`, or `NONE`.
        fentry: u32,
        /// Address of the clone (`REPLACE` only, else `NONE`): of the final edition, if there is a bridge.
        clone: u32,
        /// Address of the bridge edition, where the update has phases; else `NONE`.
        bridge: u32,
        /// Address of the handler that asks whether the update is active.
        transition: u32,
        /// Address of the handler that goes straight to the clone.
        steady: u32,
        /// Address of the place for its policies (see [`crate::policy`]).
        policy: u32,
        /// Address of the handler that counts the calls on each object, or `NONE` (see [`crate::counters`]).
        counting: u32,
        /// Address of the place from where that handler goes on in edition 0, or `NONE`.
        original: u32,
        /// Its parameters, as `(file:u64 flags:s32 rest:other)`; empty if they are not known.
        parameters: Str,
    }
}

entry! {
    /// A pointer to a function in a table of operations of the running kernel: 8 bytes that hold another address, or
    /// NULL, while the editions run.
    Slot {
        /// Index of the symbol of the table.
        symbol: u32,
        /// Offset in the table, a multiple of 8.
        offset: u32,
        /// Index of the symbol whose address edition 0 has there, or `NONE` for NULL.
        before: u32,
        /// Index of the symbol whose address the update has there, or `NONE`. A function of the record, so that its
        /// first instruction is known.
        after: u32,
        /// Address of what the update has there, if that is the update's own, or `NONE`.
        clone: u32,
    }
}

/// The editions of an update with phases, as `dynamos_active` counts them.
pub mod edition {
    /// The kernel's own.
    pub const ORIGINAL: u32 = 0;
    /// That works with the state of both.
    pub const BRIDGE: u32 = 1;
    /// V2's.
    pub const FINAL: u32 = 2;
}

entry! {
    /// Code of one edition of an update with phases: what must be left before the next phase.
    Code {
        /// Address of its first byte.
        start: u32,
        /// Length in bytes.
        len: u32,
        /// See [`edition`].
        edition: u32,
    }
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum HookKind {
    /// Before calls move to the update's editions.
    BeforeOn = 1,
    /// Once they have.
    AfterOn = 2,
    /// Before calls move back to edition 0.
    BeforeOff = 3,
    /// Once nobody is in the update's editions any more.
    AfterOff = 4,
    /// In phase 1: whether V2's editions may begin. Asked again until it is not 0.
    Advance = 5,
    /// At the end of phase 1: carries state over to V2's meaning.
    Transfer = 6,
    /// On the way back, in phase 1: whether edition 0 may come back. Asked again until it is not 0.
    AdvanceBack = 7,
    /// Then carries state back.
    TransferBack = 8,
}

impl HookKind {
    /// Those around the switches, in the order in which an update's life has them.
    pub const ALL: [HookKind; 4] =
        [HookKind::BeforeOn, HookKind::AfterOn, HookKind::BeforeOff, HookKind::AfterOff];

    /// Those between phases.
    pub const BETWEEN_PHASES: [HookKind; 4] =
        [HookKind::Advance, HookKind::Transfer, HookKind::AdvanceBack, HookKind::TransferBack];

    /// Whether what it returns is an answer, and no error.
    pub const fn is_predicate(self) -> bool {
        matches!(self, HookKind::Advance | HookKind::AdvanceBack)
    }

    /// The kind with the number `raw`.
    pub fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.into_iter().chain(Self::BETWEEN_PHASES).find(|kind| *kind as u32 == raw)
    }

    /// What the function is called in the source.
    pub const fn name(self) -> &'static str {
        match self {
            HookKind::BeforeOn => "dynamos_before_on",
            HookKind::AfterOn => "dynamos_after_on",
            HookKind::BeforeOff => "dynamos_before_off",
            HookKind::AfterOff => "dynamos_after_off",
            HookKind::Advance => "dynamos_advance",
            HookKind::Transfer => "dynamos_transfer",
            HookKind::AdvanceBack => "dynamos_advance_back",
            HookKind::TransferBack => "dynamos_transfer_back",
        }
    }
}

entry! {
    /// A function of the update that is called when the update is switched.
    Hook {
        /// See [`HookKind`]; there is one of a kind at most.
        kind: u32,
        /// Address of the function: `int (*)(void)`.
        function: u32,
    }
}

/// What a site is, and so what the kernel may have made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SiteKind {
    /// 8 bytes: S + A.
    Abs64 = 1,
    /// 4 bytes, zero-extended: S + A.
    Abs32 = 2,
    /// 4 bytes, sign-extended: S + A.
    Abs32S = 3,
    /// 4 bytes, relative: S + A - P.
    Pc32 = 4,
    /// 8 bytes, relative: S + A - P.
    Pc64 = 5,
    /// `call __fentry__`, 5 bytes: a NOP, or a call while something traces the function.
    Fentry = 6,
    /// `call`/`jmp` (5 bytes) or `jcc` (6 bytes) to a static call's trampoline: patched to the target, to a NOP, to
    /// `xor eax, eax` or to `ret`.
    StaticCall = 7,
    /// A static key's `jmp` or NOP, 2 or 5 bytes; the target is S + `addend`, or, without a symbol, at offset
    /// `addend` of the function.
    JumpLabel = 8,
    /// Instructions that alternatives may have replaced; `data` lists the replacements ([`Alternative`]). Sites
    /// inside it, and others of the same offset that are not longer, hold for the original instructions.
    Alternative = 9,
    /// `jmp __x86_return_thunk`, 5 bytes: may have become `ret; int3…` or a jump to another thunk.
    ReturnThunk = 10,
    /// `call`/`jmp`/`jcc` to an indirect-branch thunk; `addend` is the register's number.
    Retpoline = 11,
    /// `endbr64`, 4 bytes: may have been sealed to a NOP.
    Endbr = 12,
    /// `lock` prefix, 1 byte: a `ds` prefix on one CPU.
    SmpLock = 13,
    /// A paravirtual call (6.1): patched at boot to a call of what the platform needs, or to NOPs.
    Paravirt = 14,
}

impl SiteKind {
    /// The kind with the number `raw`.
    pub fn from_raw(raw: u8) -> Option<Self> {
        use SiteKind::*;
        const ALL: [SiteKind; 14] = [
            Abs64,
            Abs32,
            Abs32S,
            Pc32,
            Pc64,
            Fentry,
            StaticCall,
            JumpLabel,
            Alternative,
            ReturnThunk,
            Retpoline,
            Endbr,
            SmpLock,
            Paravirt,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == raw)
    }
}

entry! {
    /// A place in a function that the linker, the loader or the kernel rewrites.
    Site {
        /// Offset in the function.
        offset: u32,
        /// Length in bytes, at least 1.
        len: u16,
        /// See [`SiteKind`].
        kind: u16,
        /// Index of the symbol referred to, or `NONE`.
        symbol: u32,
        /// Addend; see [`SiteKind`].
        addend: i64,
        /// The bytes at S that must be equal too (strings, constants), or the alternatives. S, not S + A: the
        /// addend of a relative field holds the distance to the instruction's end. So each string or constant
        /// has its own symbol.
        data: Bytes,
    }
}

/// One replacement of an alternative site.
///
/// Encoded as: length `u8`, number of masked fields `u8`, the bytes, then one `u8` for each masked field: the
/// offset of 4 bytes (a relative target) that are not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alternative<'a> {
    /// Replacement instructions; the rest of the site is filled with NOPs.
    pub bytes: &'a [u8],
    /// Offsets of 4-byte fields in `bytes` that depend on where the site is.
    pub masked: &'a [u8],
}

/// How a [`Relocation`] is computed; numbers as in the x86-64 psABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RelocationKind {
    /// `R_X86_64_64`: S + A, 8 bytes.
    Abs64 = 1,
    /// `R_X86_64_PC32` (and `PLT32`): S + A - P, 4 bytes.
    Pc32 = 2,
    /// `R_X86_64_32`: S + A, 4 bytes zero-extended.
    Abs32 = 10,
    /// `R_X86_64_32S`: S + A, 4 bytes sign-extended.
    Abs32S = 11,
    /// `R_X86_64_PC64`: S + A - P, 8 bytes.
    Pc64 = 24,
}

impl RelocationKind {
    /// The kind with psABI number `raw`.
    pub fn from_raw(raw: u32) -> Option<Self> {
        use RelocationKind::*;
        [Abs64, Pc32, Abs32, Abs32S, Pc64].into_iter().find(|kind| *kind as u32 == raw)
    }

    /// Bytes it writes.
    pub fn size(self) -> usize {
        match self {
            RelocationKind::Abs64 | RelocationKind::Pc64 => 8,
            _ => 4,
        }
    }
}

entry! {
    /// A field of the update that refers to a placeholder and must get the real address.
    Relocation {
        /// Address index of the section piece that holds the field.
        base: u32,
        /// Offset of the field from `base`.
        offset: u32,
        /// See [`RelocationKind`].
        kind: u32,
        /// Index of the symbol.
        symbol: u32,
        /// Addend.
        addend: i64,
    }
}
