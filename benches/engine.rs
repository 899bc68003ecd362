//! The engine alone: nanoseconds a write and a read, with the records taken every 128 ops and nobody linked.
//!
//! `cargo bench --bench engine`
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::time::Instant;
use tidings::core::replica::Recovery;
use tidings::core::table::HashKey;
use tidings::engine::{Engine, Now, Settings, Write};
use tidings_proto::{Actor, Name};
fn main() {
    let actor = Actor { node: Name::new("a").unwrap(), incarnation: 1 };
    let now = Now { mono: 0, wall: 1_700_000_000_000 };
    let mut engine =
        Engine::new(Recovery::new(HashKey(1, 2), 64 << 20), &actor, Settings::default(), 1, now).unwrap();
    let n = 1_000_000u64;
    let keys: Vec<String> = (0..100_000).map(|i| format!("key:{i:012}")).collect();
    for round in 0..3 {
        for (what, batch) in [("set", 16), ("incr", 16), ("sadd", 16), ("get", 16)] {
            let t = Instant::now();
            let mut bytes = 0;
            for i in 0..n {
                let k = &keys[(i.wrapping_mul(2654435761) % 100_000) as usize];
                match what {
                    "set" => {
                        engine.write(now, Write::Set { key: k.as_bytes(), value: b"xxx" }).unwrap();
                    }
                    "incr" => {
                        let k = format!("c{k}");
                        engine.write(now, Write::Increment { key: k.as_bytes(), by: 1 }).unwrap();
                    }
                    "sadd" => {
                        engine.write(now, Write::Add { key: b"myset", elements: &[k.as_bytes()] }).unwrap();
                    }
                    _ => {
                        bytes += matches!(
                            engine.replica().state().view(k.as_bytes()),
                            Some(tidings::core::view::View::Bytes(_))
                        ) as usize;
                    }
                }
                if i % (batch * 8) == 0 {
                    bytes += engine.take_effects(now).records.iter().map(Vec::len).sum::<usize>();
                }
            }
            println!(
                "{round} {what}: {:.0} ns/op, {:.1} bytes/op",
                t.elapsed().as_nanos() as f64 / n as f64,
                bytes as f64 / n as f64
            );
        }
    }
}
