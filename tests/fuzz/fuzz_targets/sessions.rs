//! See `entries::sessions`.
#![no_main]
#[path = "../entries/mod.rs"]
mod entries;
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::sessions(bytes));
