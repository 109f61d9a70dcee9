//! Where the kernel and update modules call in.

use core::ffi::{CStr, c_char, c_int};

use super::text::printable;
use super::update::{Descriptor, Handle, RawDescriptor};
use super::{log, symbols};
use crate::{following, module, updates};

/// Called by the shim's `module_init`.
#[unsafe(no_mangle)]
extern "C" fn dynamos_rust_init() -> c_int {
    match symbols::look_up_hidden_functions().and_then(|()| module::init()) {
        Ok(()) => 0,
        Err(error) => {
            log::error(format_args!("not loaded: {error}"));
            error.negative()
        }
    }
}

/// Called by the shim's `module_exit`, when no update module is left.
#[unsafe(no_mangle)]
extern "C" fn dynamos_rust_exit() {
    module::exit();
}

/// Called from the init function of an update module.
#[unsafe(no_mangle)]
extern "C" fn dynamos_rust_register(raw: *const RawDescriptor) -> c_int {
    // SAFETY: the shim passes on what an update module gave. It is loaded while it initialises, and then
    // until `dynamos_unregister` returns; `module` keeps nothing of it when it refuses the update, or for
    // longer than that.
    let result = match unsafe { Descriptor::check(raw) } {
        Ok(descriptor) => module::register(descriptor),
        Err((error, reason)) => {
            module::refuse(c"an update", format_args!("{reason}"));
            Err(error)
        }
    };
    result.map_or_else(|error| error.negative(), |()| 0)
}

/// Called from the exit function of an update module.
#[unsafe(no_mangle)]
extern "C" fn dynamos_rust_unregister(raw: *const RawDescriptor) {
    module::unregister(Handle::of(raw));
}

/// Called from a work item, some time after `look_later`.
#[unsafe(no_mangle)]
extern "C" fn dynamos_rust_look() {
    updates::look();
}

/// Called when a module is about to begin (`coming`), and when it has ended.
#[unsafe(no_mangle)]
extern "C" fn dynamos_rust_module_event(name: *const c_char, coming: bool) {
    // SAFETY: the name of a module, which stays during this.
    let name = printable(unsafe { CStr::from_ptr(name) });
    if coming {
        following::module_comes(name);
    } else {
        following::module_goes(name);
    }
}
