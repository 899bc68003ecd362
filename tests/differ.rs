//! Two nodes that have seen the same and hold something else come to hold the same again, by the engine alone.

use tidings::core::fingerprint::Prefix;
use tidings::core::replica::Recovery;
use tidings::core::table::HashKey;
use tidings::engine::{Engine, Event, Input, LinkId, Now, Settings, Write};
use tidings_proto::message::Sync;
use tidings_proto::{Actor, Hello, Message};

/// Some engines, each linked to each, on a wire that takes no time.
struct Cluster {
    nodes: Vec<Engine>,
    now: Now,
    /// What the engines told of.
    events: Vec<(usize, Event)>,
    /// Says which messages of a node arrive.
    passes: fn(usize, &Message) -> bool,
}

/// The link from one node to another.
fn link(to: usize) -> LinkId {
    LinkId(to as u64)
}

impl Cluster {
    fn new(count: usize) -> Self {
        let now = Now { mono: 1, wall: 1_700_000_000_000 };
        let settings = Settings { anti_entropy_interval: 1_000, ..Settings::default() };
        let node = |n: usize| {
            let actor = Actor { node: format!("n{n}").parse().unwrap(), incarnation: 7 };
            let recovery = Recovery::new(HashKey(1, 2), 1 << 20);
            Engine::new(recovery, &actor, settings.clone(), n as u64, now).unwrap()
        };
        let mut nodes: Vec<Engine> = (0..count).map(node).collect();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let hello = Hello {
                    versions: tidings_proto::VERSIONS,
                    realm: "r".parse().unwrap(),
                    actor: nodes[from].replica().actor().clone(),
                    zone: String::new(),
                    addresses: Vec::new(),
                    clock: 0,
                    order: nodes[from].replica().state().order(),
                };
                nodes[to].handle(now, Input::LinkUp { link: link(from), hello });
            }
        }
        Self { nodes, now, events: Vec::new(), passes: |_, _| true }
    }

    fn run(&mut self, seconds: u64) {
        self.run_for(seconds * 1_000_000);
    }

    /// So many microseconds, a few milliseconds at a time.
    fn run_for(&mut self, time: u64) {
        let end = self.now.mono + time;
        while self.now.mono < end {
            self.now.mono += 5_000;
            for at in 0..self.nodes.len() {
                for peer in (0..self.nodes.len()).filter(|peer| *peer != at) {
                    self.nodes[at].handle(self.now, Input::Writable { link: link(peer) });
                }
                self.nodes[at].handle(self.now, Input::Tick);
                let effects = self.nodes[at].take_effects(self.now);
                self.events.extend(effects.events.into_iter().map(|event| (at, event)));
                for (to, message) in
                    effects.sends.into_iter().filter(|(_, message)| (self.passes)(at, message))
                {
                    let input = Input::Message { link: link(at), message };
                    self.nodes[to.0 as usize].handle(self.now, input);
                }
            }
        }
    }

    fn write(&mut self, at: usize, write: Write<'_>) {
        self.nodes[at].write(self.now, write).unwrap();
    }

    /// Keys of all kinds at every node.
    fn fill(&mut self) {
        for n in 0..300_u32 {
            let (at, key) = (n as usize % self.nodes.len(), format!("k{n}"));
            let key = key.as_bytes();
            self.write(
                at,
                match n % 3 {
                    0 => Write::Set { key, value: b"value" },
                    1 => Write::Add { key, elements: &[b"one", b"two"] },
                    _ => Write::Increment { key, by: 5 },
                },
            );
        }
        self.run(3);
    }

    fn value(&self, at: usize, key: &str) -> Option<Vec<u8>> {
        let cells = self.nodes[at].replica().state().get(key.as_bytes())?;
        cells.register().versions().first().map(|version| version.value.to_vec())
    }

    fn count(&self, what: fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| what(event)).count()
    }

    fn differences(&self) -> usize {
        self.count(|event| matches!(event, Event::Diverged { .. }))
    }

    /// All hold the same, and are what they say.
    fn check(&self) {
        let first = self.nodes[0].replica().state();
        for state in self.nodes.iter().map(|node| node.replica().state()) {
            assert_eq!(state.recount(), state.fingerprint());
            assert_eq!(state.fingerprint(), first.fingerprint());
            assert_eq!(state.tallies(), first.tallies());
        }
        let offended = self.count(|event| matches!(event, Event::Misbehaved { .. }));
        assert_eq!(offended, 0, "{:?}", self.events);
    }
}

fn rotten(engine: &Engine) -> Vec<Prefix> {
    let (mut found, mut next) = (Vec::new(), Some(0));
    while let Some(at) = next {
        let audited = engine.replica().state().audit(at);
        found.extend(audited.rotten);
        next = audited.next;
    }
    found
}

#[test]
fn what_only_one_of_two_holds_goes() {
    let mut cluster = Cluster::new(2);
    cluster.fill();
    for key in ["k3", "k4", "k5"] {
        assert!(cluster.nodes[1].replica_mut().damage().lose(key.as_bytes()));
    }
    assert!(rotten(&cluster.nodes[1]).is_empty(), "its own audit finds nothing");
    cluster.run(20);
    cluster.check();
    assert_eq!(cluster.nodes[0].replica().state().len(), 297);
    assert!(cluster.differences() > 0);
    let told = cluster.events.iter().find_map(|(_, event)| match event {
        Event::Reconciled { ranges, first, .. } => Some((*ranges, first.clone())),
        _ => None,
    });
    let (ranges, first) = told.expect("it is told of");
    assert!((1..=3).contains(&ranges) && first.len() == ranges, "{first:x?}");
    assert!(cluster.nodes.iter().all(|node| node.gossip().counts().reconciled >= 1));
}

#[test]
fn of_two_contents_of_one_write_the_greater_stays() {
    let mut cluster = Cluster::new(3);
    cluster.fill();
    assert!(cluster.nodes[1].replica_mut().damage().alter(b"k3"));
    assert!(cluster.nodes[2].replica_mut().damage().alter(b"k6"));
    assert!(cluster.nodes[0].replica_mut().damage().lose(b"k9"));
    cluster.run(40);
    cluster.check();
    for at in 0..3 {
        assert_eq!(cluster.value(at, "k3").as_deref(), Some(&b"walue"[..]));
        assert_eq!(cluster.value(at, "k6").as_deref(), Some(&b"walue"[..]));
        assert_eq!(cluster.value(at, "k9"), None);
    }
    assert_eq!(cluster.count(|event| matches!(event, Event::NotReconciled { .. })), 0);
}

#[test]
fn writes_go_on_while_two_are_reconciled() {
    let mut cluster = Cluster::new(2);
    cluster.fill();
    assert!(cluster.nodes[0].replica_mut().damage().lose(b"k3"));
    for n in 0..400 {
        let key = format!("k{}", n % 20);
        cluster.write(n % 2, Write::Set { key: key.as_bytes(), value: b"newer" });
        cluster.run_for(20_000);
    }
    cluster.run(30);
    cluster.check();
}

/// A bit flips behind the fingerprints' back, and the key is written to: the sums are then of nothing that is there.
#[test]
fn what_differs_because_it_has_rotted_is_replaced() {
    let mut cluster = Cluster::new(2);
    cluster.fill();
    assert!(cluster.nodes[1].replica_mut().damage().rot(b"k3"));
    cluster.write(0, Write::Set { key: b"k3", value: b"newer" });
    cluster.run(20);
    cluster.check();
    assert!(rotten(&cluster.nodes[1]).is_empty());
    assert_eq!(cluster.nodes[0].replica().state().len(), 300);
    assert_eq!(cluster.value(1, "k3").as_deref(), Some(&b"newer"[..]));
    let counts = cluster.nodes[1].gossip().counts();
    assert_eq!((counts.rotten, counts.repaired), (1, 1));
}

#[test]
fn rot_that_nobody_has_found_goes_neither_to_a_peer_nor_to_the_disk() {
    let mut cluster = Cluster::new(2);
    cluster.fill();
    assert!(cluster.nodes[1].replica_mut().damage().rot(b"k3"));
    // The other asks for all of it, for something of it differs.
    for n in (0..300).step_by(3).filter(|n| *n != 3) {
        cluster.nodes[0].replica_mut().damage().alter(format!("k{n}").as_bytes());
    }
    cluster.nodes[0].replica_mut().damage().lose(b"k3");
    cluster.run(1);
    let node = &mut cluster.nodes[1];
    node.take_effects(cluster.now);
    if let Some((snapshot, _)) = node.begin_checkpoint() {
        assert_eq!(node.step_checkpoint(snapshot), tidings::core::snapshot::Step::Aborted);
    }
    assert_eq!(node.gossip().rotten().len(), 1);
    assert!(node.begin_checkpoint().is_none());
    cluster.run(20);
    cluster.check();
    for at in 0..2 {
        assert_ne!(cluster.value(at, "k3").as_deref(), Some(&b"walue"[..]));
    }
}

#[test]
fn it_rests_between_merges_that_do_not_help_and_gives_up_aloud() {
    let mut cluster = Cluster::new(2);
    cluster.fill();
    // Only the other could mend this, and it cannot ask.
    assert!(cluster.nodes[0].replica_mut().damage().alter(b"k3"));
    cluster.passes = |from, message| from == 0 || !matches!(message, Message::Sync(Sync::Merge { .. }));
    cluster.run(300);
    let counts = cluster.nodes[0].gossip().counts();
    assert_eq!((counts.reconciled, counts.not_reconciled), (4, 1));
    assert!(cluster.differences() > 200, "it is told of all the while");
    cluster.passes = |_, _| true;
    cluster.run(60);
    cluster.check();
}
