#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/corpus/wire.rs"]
mod wire;

fuzz_target!(|data: &[u8]| wire::run(data));
