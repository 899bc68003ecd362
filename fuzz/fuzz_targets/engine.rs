#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the laws need more of it")]
#[path = "../../tests/laws/dump.rs"]
mod dump;
#[allow(dead_code, reason = "other targets need more of it")]
#[path = "../../tests/corpus/bytes.rs"]
mod bytes;
#[path = "../../tests/corpus/forge.rs"]
mod forge;
#[path = "../../tests/corpus/engine.rs"]
mod engine;

fuzz_target!(|data: &[u8]| engine::run(data));
