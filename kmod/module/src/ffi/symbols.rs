//! The kernel's symbol table.

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::ffi::{CStr, c_char, c_int, c_ulong, c_void};

use dynamos_core::sort;

use super::errno::Errno;
use super::memory::TryVec;
use super::text::SliceWriter;

/// The object name of the kernel itself.
pub const VMLINUX: &CStr = c"vmlinux";

/// The kernel itself and every module, also one that is being loaded.
pub const ANY: &CStr = c"";

/// What is looked for: a symbol in one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Query<'a> {
    /// [`VMLINUX`], the name of a loaded module, or [`ANY`].
    pub object: &'a CStr,
    /// The symbol.
    pub name: &'a CStr,
}

/// One place where a name occurs. A name may have several, in one object too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Match {
    /// Index of the query.
    pub query: usize,
    /// The symbol's address.
    pub address: u64,
}

/// Looks up the functions the kernel does not export. First of all calls; the log names what is missing.
///
/// # Errors
/// The kernel has no such symbol.
pub fn look_up_hidden_functions() -> Result<(), Errno> {
    // SAFETY: called once, from module initialisation.
    Errno::check(unsafe { dynamos_shim_lookup_all() }).map(drop)
}

/// Finds every occurrence of each query, sorted by query and address.
///
/// A symbol that does not occur has no match; nor has one whose module is not loaded. Symbols of the
/// kernel are found by binary search, those of modules by one walk for each run of queries for one
/// module: queries are best sorted.
///
/// # Errors
/// [`Errno::ENOMEM`], or what the kernel's lookup fails with: a symbol that was not looked for is not one that there is
/// not.
pub fn find_all(queries: &[Query<'_>]) -> Result<Vec<Match>, Errno> {
    let mut capacity = queries.len() * 2;
    loop {
        let mut found = Found { matches: Vec::new(), lost: 0 };
        found.matches.try_reserve_exact(capacity).map_err(|_| Errno::ENOMEM)?;
        let mut start = 0;
        for run in queries.chunk_by(|left, right| left.object == right.object) {
            match run.first() {
                Some(first) if first.object == VMLINUX => found.in_vmlinux(run, start)?,
                Some(first) if first.object == ANY => {
                    found.in_vmlinux(run, start)?;
                    found.in_modules(core::ptr::null(), run, start)?;
                }
                Some(first) => found.in_modules(first.object.as_ptr(), run, start)?,
                None => {}
            }
            start += run.len();
        }
        if found.lost == 0 {
            sort(&mut found.matches);
            found.matches.dedup();
            return Ok(found.matches);
        }
        // Symbols came or were more than expected; modules may come between two tries as well.
        capacity = found.matches.len() + found.lost + queries.len();
    }
}

/// Matches, in memory allocated beforehand: it is filled under the kernel's locks.
struct Found {
    matches: Vec<Match>,
    lost: usize,
}

impl Found {
    fn add(&mut self, query: usize, address: u64) {
        if self.matches.len() < self.matches.capacity() {
            #[allow(clippy::disallowed_methods, reason = "there is room")]
            self.matches.push(Match { query, address });
        } else {
            self.lost += 1;
        }
    }

    fn in_vmlinux(&mut self, queries: &[Query<'_>], start: usize) -> Result<(), Errno> {
        for (index, query) in queries.iter().enumerate() {
            let mut add = |address: c_ulong| self.add(start + index, address);
            let call = visit_match_with(&add);
            // SAFETY: `call` takes the closure given as context, which lives through the call.
            let result = unsafe {
                dynamos_shim_vmlinux_matches(query.name.as_ptr(), call, (&raw mut add).cast())
            };
            Errno::check(result)?;
        }
        Ok(())
    }

    /// In one module (a C string), or in all (null).
    fn in_modules(
        &mut self,
        module: *const c_char,
        queries: &[Query<'_>],
        start: usize,
    ) -> Result<(), Errno> {
        let mut order = Vec::new();
        order.try_reserve_exact(queries.len()).map_err(|_| Errno::ENOMEM)?;
        for (index, query) in queries.iter().enumerate() {
            order.try_push((query.name, start + index))?;
        }
        sort(&mut order);
        let mut add = |name: &CStr, address: c_ulong| {
            let from = order.partition_point(|(wanted, _)| (*wanted).cmp(name) == Ordering::Less);
            let same = order.get(from..).unwrap_or_default();
            for (_, query) in same.iter().take_while(|(wanted, _)| *wanted == name) {
                self.add(*query, address);
            }
        };
        let call = visit_symbol_with(&add);
        // SAFETY: `call` takes the closure given as context, which lives through the call.
        let result = unsafe { dynamos_shim_module_symbols(module, call, (&raw mut add).cast()) };
        Errno::check(result).map(drop)
    }
}

/// The C function that calls a closure of this type.
fn visit_match_with<F: FnMut(c_ulong)>(_: &F) -> MatchFn {
    extern "C" fn call<F: FnMut(c_ulong)>(context: *mut c_void, address: c_ulong) -> c_int {
        // SAFETY: the context is the closure that this function was made for.
        let visit = unsafe { &mut *context.cast::<F>() };
        visit(address);
        0
    }
    call::<F>
}

/// The C function that calls a closure of this type.
fn visit_symbol_with<F: FnMut(&CStr, c_ulong)>(_: &F) -> SymbolFn {
    extern "C" fn call<F: FnMut(&CStr, c_ulong)>(
        context: *mut c_void,
        name: *const c_char,
        address: c_ulong,
    ) -> c_int {
        // SAFETY: the context is the closure that this function was made for, and the name is a C
        // string for the time of the call.
        let (visit, name) = unsafe { (&mut *context.cast::<F>(), CStr::from_ptr(name)) };
        visit(name, address);
        0
    }
    call::<F>
}

/// The symbol that an address belongs to.
pub struct SymbolAt {
    name: Vec<u8>,
    module: [u8; MODULE_NAME],
    /// The symbol's size, as far as the kernel knows it: up to the next symbol.
    pub size: u64,
    /// How far into the symbol the address is.
    pub offset: u64,
}

/// More than any kernel's `MODULE_NAME_LEN`.
const MODULE_NAME: usize = 64;

impl SymbolAt {
    /// The symbol's name; where several have the address, one of them.
    #[must_use]
    pub fn name(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.name).unwrap_or_default()
    }

    /// The module it is in, or [`VMLINUX`].
    #[must_use]
    pub fn object(&self) -> &CStr {
        match CStr::from_bytes_until_nul(&self.module) {
            Ok(module) if !module.is_empty() => module,
            _ => VMLINUX,
        }
    }

    /// Writes `name+0xoffset` as the kernel does.
    pub fn describe(&self, out: &mut SliceWriter<'_>) {
        let name = super::text::printable(self.name());
        let _ = core::fmt::write(out, format_args!("{name}+{:#x}", self.offset));
    }
}

/// The symbol at or before `address`.
///
/// # Errors
/// [`Errno::ENOENT`] where there is none, or [`Errno::ENOMEM`].
pub fn symbol_at(address: u64) -> Result<SymbolAt, Errno> {
    // SAFETY: only reads a constant.
    let length = unsafe { dynamos_shim_symbol_name_length() };
    let name = Vec::try_filled(0_u8, length)?;
    let mut symbol = SymbolAt { name, module: [0; MODULE_NAME], size: 0, offset: 0 };
    // SAFETY: both buffers are given with their lengths, and the numbers outlive the call.
    Errno::check(unsafe {
        dynamos_shim_symbol_at(
            address,
            symbol.name.as_mut_ptr().cast(),
            symbol.name.len(),
            symbol.module.as_mut_ptr().cast(),
            symbol.module.len(),
            &raw mut symbol.size,
            &raw mut symbol.offset,
        )
    })?;
    Ok(symbol)
}

type MatchFn = extern "C" fn(*mut c_void, c_ulong) -> c_int;
type SymbolFn = extern "C" fn(*mut c_void, *const c_char, c_ulong) -> c_int;

unsafe extern "C" {
    fn dynamos_shim_lookup_all() -> c_int;
    fn dynamos_shim_vmlinux_matches(
        name: *const c_char,
        visit: MatchFn,
        context: *mut c_void,
    ) -> c_int;
    fn dynamos_shim_module_symbols(
        module: *const c_char,
        visit: SymbolFn,
        context: *mut c_void,
    ) -> c_int;
    fn dynamos_shim_symbol_name_length() -> usize;
    fn dynamos_shim_symbol_at(
        address: c_ulong,
        name: *mut c_char,
        name_size: usize,
        module: *mut c_char,
        module_size: usize,
        size: *mut c_ulong,
        offset: *mut c_ulong,
    ) -> c_int;
}
