//! What it costs in bytes to heal a partition: two sides write ten thousand keys each, a third of
//! them the same ones, and are then linked. Engines and links that count, no network; the same figures every time.
//!
//! `cargo test --release --test heal -- --nocapture`
//!
//! Counted are all frames with their prefixes, from the moment at which the sides are linked until every node
//! has seen the same. They are compared with the encoded ops that the nodes lacked at that moment: key, value, stamp
//! and dots of every write of the other side, without headers, each counted once for each node that lacked it.

use std::collections::{BTreeMap, BTreeSet};

use tidings::core::replica::Recovery;
use tidings::core::table::HashKey;
use tidings::engine::{Engine, Input, LinkId, Now, Preparing, Settings, Write};
use tidings_proto::frame::encode_message;
use tidings_proto::message::Sync;
use tidings_proto::{Actor, Hello, Message, Name};

/// Keys that each side writes, and how many of them the other writes as well.
const KEYS: usize = 10_000;
const SHARED: usize = KEYS / 3;
const VALUE: usize = 88;
/// Half a round trip; microseconds.
const DELAY: u64 = 1_000;
const LOG: usize = 64 << 20;

/// Nodes of two sides, and what has gone between them.
struct Cluster {
    nodes: Vec<Engine>,
    now: Now,
    on_their_way: Vec<(usize, usize, Message)>,
    sent: Vec<u64>,
    received: Vec<u64>,
    kinds: BTreeMap<&'static str, u64>,
}

fn link(peer: usize) -> LinkId {
    LinkId(peer as u64)
}

fn hello(engine: &Engine) -> Hello {
    Hello {
        versions: tidings_proto::VERSIONS,
        realm: Name::new("heal").unwrap(),
        actor: engine.replica().actor().clone(),
        zone: String::new(),
        addresses: Vec::new(),
        clock: 1_700_000_000_000,
        order: engine.replica().state().order(),
    }
}

impl Cluster {
    fn new(nodes: usize, log: usize) -> Self {
        let now = Now { mono: 1, wall: 1_700_000_000_000 };
        let node = |n: usize| {
            let actor = Actor { node: Name::new(&format!("n{n}")).unwrap(), incarnation: 1 };
            let recovery = Recovery::new(HashKey(1, 2), log);
            Engine::new(recovery, &actor, Settings::default(), n as u64, now).unwrap()
        };
        Self {
            nodes: (0..nodes).map(node).collect(),
            now,
            on_their_way: Vec::new(),
            sent: vec![0; nodes],
            received: vec![0; nodes],
            kinds: BTreeMap::new(),
        }
    }

    fn link(&mut self, a: usize, b: usize) {
        for (here, there) in [(a, b), (b, a)] {
            let hello = hello(&self.nodes[there]);
            self.nodes[here].handle(self.now, Input::LinkUp { link: link(there), hello });
        }
    }

    /// Half a round trip: what is on its way arrives, and what follows is sent.
    fn step(&mut self) -> bool {
        self.now.mono += DELAY;
        self.now.wall += DELAY / 1_000;
        for (from, to, message) in std::mem::take(&mut self.on_their_way) {
            self.nodes[to].handle(self.now, Input::Message { link: link(from), message });
        }
        for at in 0..self.nodes.len() {
            for peer in (0..self.nodes.len()).filter(|peer| *peer != at) {
                self.nodes[at].handle(self.now, Input::Writable { link: link(peer) });
            }
            // What a message brings is done bit by bit.
            for _ in 0..64 {
                if self.nodes[at].deadline() <= self.now.mono {
                    self.nodes[at].handle(self.now, Input::Tick);
                }
            }
            let mut effects = self.nodes[at].take_effects(self.now);
            for read in std::mem::take(&mut effects.reads) {
                // There is no disk: what memory has let go of has been cut from the log there too.
                let nothing = Input::FromLog { link: read.link, id: read.id, runs: Vec::new() };
                self.nodes[at].handle(self.now, nothing);
                effects.sends.extend(self.nodes[at].take_effects(self.now).sends);
            }
            for (to, message) in effects.sends {
                let (to, bytes) = (to.0 as usize, encode_message(&message).len() as u64);
                self.sent[at] += bytes;
                self.received[to] += bytes;
                *self.kinds.entry(message.kind()).or_default() += bytes;
                self.on_their_way.push((at, to, message));
            }
        }
        !self.on_their_way.is_empty()
    }

    fn equal(&self) -> bool {
        let seen = |node: &Engine| node.replica().state().seen_entries();
        self.nodes.windows(2).all(|pair| seen(&pair[0]) == seen(&pair[1]))
    }

    /// Until the nodes of each side, or all, have seen the same, and nothing was said for a moment.
    fn settle(&mut self, done: impl Fn(&Self) -> bool) {
        let mut quiet = 0;
        for _ in 0..120_000 {
            quiet = if self.step() { 0 } else { quiet + 1 };
            if quiet > 100 && done(self) {
                return;
            }
        }
        panic!("they do not come to see the same");
    }

    /// Encoded ops that the node has not seen, in bytes.
    fn lacked(&self, at: usize, log_of: &[Engine]) -> u64 {
        let seen = self.nodes[at].replica().state();
        let of = |author: &Engine| {
            let (replica, actor) = (author.replica(), author.replica().actor());
            let first = seen.actors().find(actor).map_or(0, |ix| seen.seen(ix)) + 1;
            let (runs, _) = replica.log().read(
                replica.own(),
                first,
                replica.own_seq(),
                usize::MAX,
                replica.state().actors(),
            );
            runs.iter().map(|run| run.ops.len() as u64).sum::<u64>()
        };
        log_of.iter().map(of).sum()
    }
}

/// What a heal cost.
struct Healed {
    lacked: Vec<u64>,
    sent: Vec<u64>,
    received: Vec<u64>,
    kinds: BTreeMap<&'static str, u64>,
    steps: u64,
}

/// Two sides of so many nodes. `reaches`: whether the memory logs hold what was written. `apart`: how many half round
/// trips there are between one link that comes up and the next.
fn heal(side: usize, reaches: bool, apart: usize) -> Healed {
    let mut cluster = Cluster::new(2 * side, LOG);
    let sides = [(0..side), (side..2 * side)];
    for nodes in &sides {
        for a in nodes.clone() {
            (a + 1..nodes.end).for_each(|b| cluster.link(a, b));
        }
    }
    for (nodes, first) in sides.iter().zip([0, KEYS - SHARED]) {
        for n in 0..KEYS {
            let (at, key) = (nodes.start + n % side, format!("key:{:08}", first + n));
            let value = vec![b'a' + nodes.start as u8; VALUE];
            cluster.nodes[at].write(cluster.now, Write::Set { key: key.as_bytes(), value: &value }).unwrap();
            if n % 100 == 99 {
                cluster.step();
            }
        }
    }
    // For as long as it takes that nobody is still busy with what was written last.
    let began = cluster.now.mono;
    cluster.settle(|cluster| cluster.now.mono > began + 3_000_000);
    let lacked = (0..2 * side).map(|at| cluster.lacked(at, &cluster.nodes)).collect();
    if !reaches {
        for node in &mut cluster.nodes {
            node.replica_mut().log_mut().set_bound(0);
            node.replica_mut().log_mut().trim();
        }
    }
    (cluster.sent, cluster.received) = (vec![0; 2 * side], vec![0; 2 * side]);
    cluster.kinds.clear();
    let began = cluster.now.mono;
    for (a, b) in sides[0].clone().flat_map(|a| sides[1].clone().map(move |b| (a, b))) {
        cluster.link(a, b);
        (0..apart).for_each(|_| _ = cluster.step());
    }
    cluster.settle(Cluster::equal);
    let shown: BTreeSet<_> =
        cluster.nodes.iter().map(|node| node.replica().state().fingerprint().sum()).collect();
    assert_eq!(shown.len(), 1, "they have seen the same and hold the same");
    assert_eq!(cluster.nodes[0].replica().state().tallies().keys as usize, 2 * KEYS - SHARED);
    let Cluster { sent, received, kinds, .. } = cluster;
    Healed { lacked, sent, received, kinds, steps: (cluster.now.mono - began) / DELAY }
}

impl Healed {
    /// Bytes sent for each byte that was lacking, over all nodes, and received at the worst of them.
    fn told(&self, what: &str) -> (f64, f64) {
        let (lacked, sent): (u64, u64) = (self.lacked.iter().sum(), self.sent.iter().sum());
        let ratio = sent as f64 / lacked as f64;
        let at = self.received.iter().zip(&self.lacked).map(|(got, lacked)| *got as f64 / *lacked as f64);
        let worst = at.fold(0.0, f64::max);
        println!(
            "{what}: {sent} B sent for {lacked} B of ops that nodes lacked: {ratio:.3}; received at the worst node \
             {worst:.3}; sent by each {:?}; {} ms; by kind {:?}",
            self.sent, self.steps, self.kinds
        );
        (ratio, worst)
    }
}

#[test]
fn two_nodes() {
    let (ratio, worst) = heal(1, true, 0).told("1 + 1, log at hand");
    assert!(ratio <= 1.1 && worst <= 1.1, "{ratio} {worst}");
}

#[test]
fn three_and_three() {
    let (ratio, worst) = heal(3, true, 0).told("3 + 3, log at hand");
    assert!(ratio <= 1.1 && worst <= 1.1, "{ratio} {worst}");
}

#[test]
fn three_and_three_link_after_link() {
    for apart in [1, 5, 40] {
        let (ratio, worst) = heal(3, true, apart).told(&format!("3 + 3, links {apart} ms apart"));
        assert!(ratio <= 1.1 && worst <= 1.1, "{ratio} {worst}");
    }
}

#[test]
fn beyond_the_logs() {
    for side in [1, 3] {
        let (ratio, worst) = heal(side, false, 0).told(&format!("{side} + {side}, log no longer reaches"));
        assert!(ratio <= 1.1 && worst <= 1.1, "{ratio} {worst}");
    }
}

/// Keys that both sides had had before, of which each overwrites some: what the other has seen goes without its value.
#[test]
fn overwrites_beyond_the_logs() {
    let mut cluster = Cluster::new(2, LOG);
    cluster.link(0, 1);
    let write = |cluster: &mut Cluster, at: usize, keys: &mut dyn Iterator<Item = usize>, mark: u8| {
        for n in keys {
            let (key, value) = (format!("key:{n:08}"), [mark; VALUE]);
            cluster.nodes[at].write(cluster.now, Write::Set { key: key.as_bytes(), value: &value }).unwrap();
            if n % 100 == 99 {
                cluster.step();
            }
        }
    };
    write(&mut cluster, 0, &mut (0..2 * KEYS), b'0');
    cluster.settle(Cluster::equal);
    for (at, peer) in [(0, 1), (1, 0)] {
        cluster.nodes[at].handle(cluster.now, Input::LinkDown { link: link(peer) });
    }
    write(&mut cluster, 0, &mut (0..2 * KEYS).step_by(4), b'a');
    write(&mut cluster, 1, &mut (2..2 * KEYS).step_by(4), b'b');
    cluster.step();
    for node in &mut cluster.nodes {
        node.replica_mut().log_mut().set_bound(0);
        node.replica_mut().log_mut().trim();
    }
    (cluster.sent, cluster.received) = (vec![0; 2], vec![0; 2]);
    cluster.link(0, 1);
    cluster.settle(Cluster::equal);
    let [a, b] = &cluster.nodes[..] else { unreachable!() };
    assert_eq!(a.replica().state().fingerprint(), b.replica().state().fingerprint());
    let rows = (KEYS / 2 * (VALUE + 12)) as u64;
    let lean = |node: &Engine| node.gossip().counts().values_left_out;
    let (sent, left_out) = (cluster.sent.iter().sum::<u64>(), [lean(a), lean(b)]);
    println!(
        "overwrites beyond the logs: {sent} B sent for 2 x {rows} B of rows; left out {left_out:?} values"
    );
    assert!(left_out.into_iter().all(|values| values >= KEYS as u64 / 2), "{left_out:?}");
    assert!(sent * 10 < 2 * rows * 15, "{sent}");
}

/// The disk fails while the last step of a merge is being worked out: then it is not taken.
#[test]
fn a_stopped_node_merges_nothing() {
    for stops in [true, false] {
        let mut cluster = Cluster::new(2, 0);
        for at in 0..2 {
            cluster.nodes[at].set_preparing(Preparing { keys: 1, pause: 100_000 });
            for n in 0..20 {
                let key = format!("{at}:{n}");
                cluster.nodes[at]
                    .write(cluster.now, Write::Set { key: key.as_bytes(), value: b"v" })
                    .unwrap();
            }
        }
        cluster.step();
        cluster.link(0, 1);
        let fetched =
            |cluster: &Cluster| cluster.nodes[0].gossip().merge_progress().is_some_and(|p| p.keys == 20);
        while !fetched(&cluster) {
            cluster.step();
        }
        let before = cluster.nodes[0].replica().state().fingerprint();
        if stops {
            cluster.nodes[0].stop("the disk failed".into());
        }
        for _ in 0..1_000 {
            cluster.now.mono += 100_000;
            cluster.nodes[0].handle(cluster.now, Input::Tick);
            cluster.step();
        }
        let merged = cluster.nodes[0].replica().state().fingerprint() != before;
        assert_eq!(merged, !stops);
    }
}

/// What has been worked out of a merge stands for what had come: a block that comes unasked then ends it.
#[test]
fn a_block_that_nobody_asked_for() {
    let mut cluster = Cluster::new(2, 0);
    for at in 0..2 {
        cluster.nodes[at].set_preparing(Preparing { keys: 1, pause: 100_000 });
        for n in 0..20 {
            let key = format!("{at}:{n}");
            cluster.nodes[at].write(cluster.now, Write::Set { key: key.as_bytes(), value: b"v" }).unwrap();
        }
    }
    cluster.step();
    cluster.link(0, 1);
    let mut last = None;
    while cluster.nodes[0].gossip().merge_progress().is_none_or(|progress| progress.keys < 20) {
        cluster.step();
        let mut blocks = cluster.on_their_way.iter().rev().filter_map(|(_, to, message)| match message {
            Message::Sync(Sync::Block { id, index, block }) if *to == 0 => Some((*id, *index, block.clone())),
            _ => None,
        });
        last = blocks.next().or(last);
    }
    let (id, index, block) = last.unwrap();
    let message = Message::Sync(Sync::Block { id, index: index + 1, block });
    cluster.nodes[0].handle(cluster.now, Input::Message { link: link(1), message });
    let counts = cluster.nodes[0].gossip().counts();
    assert_eq!((counts.merges, counts.merges_aborted, counts.refused), (0, 1, 1));
}
