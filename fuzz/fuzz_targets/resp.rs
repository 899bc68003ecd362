#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "other targets need more of it")]
#[path = "../../tests/corpus/bytes.rs"]
mod bytes;
#[path = "../../tests/corpus/resp.rs"]
mod resp;

fuzz_target!(|data: &[u8]| resp::run(data));
