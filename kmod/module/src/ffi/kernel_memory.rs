//! Reading the kernel's memory, and writing to the update module's.

use core::ffi::{c_int, c_void};

use super::errno::Errno;
use super::modules::Module;

/// How much is compared at a time after a write.
const CHUNK: usize = 64;

/// Copies from `address` until `to` is full. Any address is allowed.
///
/// # Errors
/// [`Errno::EFAULT`] where it cannot be read.
pub fn read(address: u64, to: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: the kernel checks the source and survives a fault; the destination is a slice.
    let result =
        unsafe { dynamos_shim_read(to.as_mut_ptr().cast(), address as *const c_void, to.len()) };
    // ERANGE is an address that cannot be the kernel's; no difference to our callers.
    Errno::check(result).map(drop).map_err(|_| Errno::EFAULT)
}

/// Writes `bytes` to `address` in `module`, which may be in its code or constants, and reads them back.
///
/// The kernel pokes through a mapping of its own; no CPU may be executing what is overwritten.
///
/// # Errors
/// [`Errno::EFAULT`] where the place is not within one part of the module, [`Errno::EIO`] where
/// something else is read back.
///
/// # Safety
/// The bytes make sense in that place: code there calls and reads what they say.
pub unsafe fn write(module: &Module, address: u64, bytes: &[u8]) -> Result<(), Errno> {
    module.ranges().kind_of(address, bytes.len() as u64).ok_or(Errno::EFAULT)?;
    // SAFETY: the destination is mapped, for it is part of a module that stays; what it means is the
    // caller's promise.
    Errno::check(unsafe {
        dynamos_shim_write_text(address as *mut c_void, bytes.as_ptr().cast(), bytes.len())
    })?;
    for (chunk, place) in bytes.chunks(CHUNK).zip((address..).step_by(CHUNK)) {
        let mut back = [0; CHUNK];
        let back = back.get_mut(..chunk.len()).ok_or(Errno::EIO)?;
        read(place, back)?;
        if back != chunk {
            return Err(Errno::EIO);
        }
    }
    Ok(())
}

unsafe extern "C" {
    fn dynamos_shim_read(to: *mut c_void, from: *const c_void, size: usize) -> c_int;
    fn dynamos_shim_write_text(to: *mut c_void, from: *const c_void, size: usize) -> c_int;
}
