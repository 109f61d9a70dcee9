//! A panic is a bug of ours: it stops like a bug of the kernel, with its message.

use core::ffi::c_char;
use core::panic::PanicInfo;

use super::text::FixedText;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let text = FixedText::<480>::new(format_args!("{info}"));
    let bytes = text.as_bytes();
    // SAFETY: the pointer and length are those of one slice. The call does not return, but is not
    // declared so: objtool would miss the end of this function, for rustc puts nothing after a call
    // that does not return, and objtool knows such functions by a list of names.
    unsafe {
        dynamos_shim_bug(bytes.as_ptr().cast(), bytes.len());
        core::arch::asm!("ud2", options(noreturn));
    }
}

unsafe extern "C" {
    fn dynamos_shim_bug(text: *const c_char, length: usize);
}
