#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "other targets need more of it")]
#[path = "../../tests/corpus/bytes.rs"]
mod bytes;
#[path = "../../tests/corpus/store.rs"]
mod store;

fuzz_target!(|data: &[u8]| store::run(data));
