#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dynamos_fuzz_entries::image(data));
