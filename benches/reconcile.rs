//! What it costs in bytes and round trips to bring a node up to date: two engines, a link
//! that counts, no network. Rows are what the missing cells hold, key and value.
//!
//! `cargo bench --bench reconcile`, or `CELLS=100000 cargo bench --bench reconcile`. With few cells it is one of the
//! tests, for it also sees to it that the figures stay within bounds.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::time::{Duration, Instant};

use tidings::core::replica::Recovery;
use tidings::core::table::HashKey;
use tidings::engine::{Engine, Input, LinkId, Now, Settings, Token, Write};
use tidings_proto::frame::encode_message;
use tidings_proto::{Actor, Hello, Message, Name};

const LINK: LinkId = LinkId(1);
const VALUE: usize = 88;
/// Ticks that follow at once, at most: what a message brings is done bit by bit.
const TICKS: usize = 64;

/// Two nodes, and what has gone over the link between them.
struct Pair {
    nodes: [Engine; 2],
    now: Now,
    bytes: [usize; 2],
    frames: usize,
    half_trips: usize,
    busy: [Duration; 2],
    /// The longest that one call of an engine took: so long clients waited.
    longest: Duration,
}

fn node(name: &str, log: usize) -> Engine {
    let actor = Actor { node: Name::new(name).expect("a good name"), incarnation: 1 };
    let settings = Settings { anti_entropy_interval: 1 << 40, push_interval: 1 << 40, ..Settings::default() };
    let recovery = Recovery::new(HashKey(1, 2), log);
    Engine::new(recovery, &actor, settings, 1, Now { mono: 0, wall: 1_700_000_000_000 }).expect("an engine")
}

fn hello(engine: &Engine) -> Hello {
    Hello {
        versions: tidings_proto::VERSIONS,
        realm: Name::new("bench").expect("a good name"),
        actor: engine.replica().actor().clone(),
        zone: String::new(),
        addresses: Vec::new(),
        clock: 1_700_000_000_000,
        order: engine.replica().state().order(),
    }
}

impl Pair {
    fn new(nodes: [Engine; 2], now: Now) -> Self {
        Self {
            nodes,
            now,
            bytes: [0; 2],
            frames: 0,
            half_trips: 0,
            busy: [Duration::ZERO; 2],
            longest: Duration::ZERO,
        }
    }

    fn link(&mut self) {
        let hellos = [hello(&self.nodes[1]), hello(&self.nodes[0])];
        for (node, hello) in self.nodes.iter_mut().zip(hellos) {
            node.handle(self.now, Input::LinkUp { link: LINK, hello });
        }
    }

    fn unlink(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.handle(self.now, Input::LinkDown { link: LINK }));
        self.nodes.iter_mut().for_each(|node| _ = node.take_effects(self.now));
    }

    /// Delivers what is on its way, all at once each half round trip of a millisecond, until
    /// both have seen the same and nothing is on its way.
    fn settle(&mut self) {
        let mut idle = 0;
        while idle < 20_000 {
            let mut sends: [Vec<Message>; 2] = Default::default();
            for (side, node) in self.nodes.iter_mut().enumerate() {
                let began = Instant::now();
                node.handle(self.now, Input::Writable { link: LINK });
                for _ in 0..TICKS {
                    if node.deadline() > self.now.mono {
                        break;
                    }
                    let began = Instant::now();
                    node.handle(self.now, Input::Tick);
                    self.longest = self.longest.max(began.elapsed());
                }
                let mut effects = node.take_effects(self.now);
                for read in std::mem::take(&mut effects.reads) {
                    // There is no disk: what memory has let go of has been cut from the log there too.
                    node.handle(self.now, Input::FromLog { link: read.link, id: read.id, runs: Vec::new() });
                    effects.sends.extend(node.take_effects(self.now).sends);
                }
                sends[side] = effects.sends.into_iter().map(|(_, message)| message).collect();
                self.busy[side] += began.elapsed();
            }
            let quiet = sends.iter().all(Vec::is_empty);
            let [a, b] = &self.nodes;
            let equal = a.replica().state().seen_entries() == b.replica().state().seen_entries();
            if quiet
                && equal
                && a.gossip().merge_progress().is_none()
                && b.gossip().merge_progress().is_none()
            {
                return;
            }
            idle = if quiet { idle + 1 } else { 0 };
            self.half_trips += usize::from(!quiet);
            self.now.mono += 1_000;
            for (side, messages) in sends.into_iter().enumerate() {
                for message in messages {
                    self.bytes[side] += encode_message(&message).len();
                    self.frames += 1;
                    let began = Instant::now();
                    self.nodes[1 - side].handle(self.now, Input::Message { link: LINK, message });
                    let took = began.elapsed();
                    self.busy[1 - side] += took;
                    self.longest = self.longest.max(took);
                }
            }
        }
        panic!("nothing moves and they differ");
    }

    /// Prints what was counted since the last time, and holds it to a bound.
    fn told(&mut self, what: &str, rows: usize, most_beyond: u64) {
        let total: usize = self.bytes.iter().sum();
        let beyond = total as i64 - rows as i64;
        println!(
            "{what:<44} {total:>12} B, {beyond:>10} beyond the rows, {:>5.1} round trips, {:>6} frames, {:>6.2} s, longest step {:>7.2} ms",
            self.half_trips as f64 / 2.0,
            self.frames,
            self.busy.iter().sum::<Duration>().as_secs_f64(),
            self.longest.as_secs_f64() * 1e3,
        );
        assert!(beyond <= most_beyond as i64, "{what}: more than {most_beyond} B beyond the rows");
        (self.bytes, self.frames, self.half_trips, self.busy) = ([0; 2], 0, 0, [Duration::ZERO; 2]);
        self.longest = Duration::ZERO;
        let [a, b] = &self.nodes;
        assert_eq!(a.replica().state().fingerprint(), b.replica().state().fingerprint());
    }
}

fn key(n: u64) -> String {
    format!("key:{n:08}")
}

fn write(engine: &mut Engine, now: Now, n: u64, mark: u8) -> usize {
    let key = key(n);
    let value = vec![mark; VALUE];
    engine.write(now, Write::Set { key: key.as_bytes(), value: &value }).expect("a write");
    if n.is_multiple_of(1_000) {
        engine.take_effects(now);
    }
    key.len() + value.len()
}

fn main() {
    // Cargo says so when it is a benchmark that is wanted.
    let usual = if std::env::args().any(|argument| argument == "--bench") { 1_000_000 } else { 10_000 };
    let cells: u64 = std::env::var("CELLS").map_or(usual, |text| text.parse().expect("CELLS is a number"));
    let now = Now { mono: 1, wall: 1_700_000_000_000 };
    println!("{cells} cells of {} B", key(0).len() + VALUE);
    let (mut a, b) = (node("a", 0), node("b", 64 << 20));
    let rows: usize = (0..cells).map(|n| write(&mut a, now, n, b'a')).sum();
    a.take_effects(now);
    let mut pair = Pair::new([a, b], now);
    pair.link();
    pair.settle();
    pair.told("a blank node takes all of it", rows, 0);

    pair.nodes[0].handle(pair.now, Input::Sync { link: LINK, token: Token(1) });
    pair.settle();
    pair.told("equal nodes check each other", 0, 64);

    for (log, reaches, most) in [
        (64 << 20, "log at hand", [(1, 200), (10, 300), (1_000, 12_000)]),
        (0, "log truncated", [(1, 2_000), (10, 10_000), (1_000, 400_000)]),
    ] {
        for (missing, most) in most {
            pair.unlink();
            pair.nodes[0].replica_mut().log_mut().set_bound(log);
            let step = cells / missing;
            let rows =
                (0..missing).map(|n| write(&mut pair.nodes[0], now, n * step + n % step, b'0' + n as u8 % 7));
            let rows = rows.sum();
            pair.nodes[0].take_effects(now);
            pair.link();
            pair.settle();
            pair.told(&format!("{missing} missing, {reaches}"), rows, most);
        }
    }

    pair.unlink();
    let half = |pair: &mut Pair, side: usize| -> usize {
        let own =
            (0..cells / 2).map(|n| write(&mut pair.nodes[side], now, (3 * n + side as u64) % cells, b'A'));
        let rows = own.sum();
        pair.nodes[side].take_effects(now);
        rows
    };
    pair.nodes.iter_mut().for_each(|node| node.replica_mut().log_mut().set_bound(0));
    let rows = half(&mut pair, 0) + half(&mut pair, 1);
    pair.link();
    pair.settle();
    pair.told("half of it written on each side, truncated", rows, 2 * rows as u64);
}
