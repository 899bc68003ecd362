//! Quorum reads over engines alone: what a read promises, when news is lost and peers are silent.

use std::collections::{BTreeMap, BTreeSet};

use tidings::core::replica::Recovery;
use tidings::core::table::HashKey;
use tidings::core::view::View;
use tidings::engine::{Answer, Engine, Input, LinkId, NoQuorum, Now, Settings, Token, Write};
use tidings_proto::message::Sync;
use tidings_proto::{Actor, Hello, Message, Name};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Engines that are linked each to each. A link has the number of the node at its other end.
struct Net {
    nodes: Vec<Engine>,
    now: Now,
    /// On their way: from, to, what.
    wire: Vec<(usize, usize, Message)>,
    /// Who neither hears nor says anything.
    frozen: BTreeSet<usize>,
    /// Whether news is lost.
    muted: bool,
    answers: BTreeMap<Token, Result<Vec<Name>, NoQuorum>>,
}

fn name(at: usize) -> Name {
    NAMES[at].parse().unwrap()
}

/// A read that had an answer, by these.
fn by(names: &str) -> Result<String, NoQuorum> {
    Ok(names.to_owned())
}

impl Net {
    fn new(count: usize) -> Self {
        let settings =
            Settings { push_interval: 60_000, anti_entropy_interval: 3_600_000, ..Settings::default() };
        let now = Now { mono: 1_000_000, wall: 1_700_000_000_000 };
        let node = |at: usize| {
            let actor = Actor { node: name(at), incarnation: 1 };
            let recovery = Recovery::new(HashKey(1, 2), 1 << 20);
            Engine::new(recovery, &actor, settings.clone(), at as u64, now).unwrap()
        };
        let mut net = Self {
            nodes: (0..count).map(node).collect(),
            now,
            wire: Vec::new(),
            frozen: BTreeSet::new(),
            muted: false,
            answers: BTreeMap::new(),
        };
        for at in 0..count {
            (0..count).filter(|other| *other != at).for_each(|other| net.link(at, other));
        }
        net.run(3_000);
        net.muted = true;
        net
    }

    fn link(&mut self, at: usize, other: usize) {
        let engine = &self.nodes[other];
        let hello = Hello {
            versions: tidings_proto::VERSIONS,
            realm: "r".parse().unwrap(),
            actor: engine.replica().actor().clone(),
            zone: String::new(),
            addresses: Vec::new(),
            clock: self.now.wall,
            order: engine.replica().state().order(),
        };
        self.nodes[at].handle(self.now, Input::LinkUp { link: LinkId(other as u64), hello });
    }

    /// Takes what a node wants done.
    fn act(&mut self, at: usize) {
        let mut effects = self.nodes[at].take_effects(self.now);
        for read in std::mem::take(&mut effects.reads) {
            // There is no disk: what memory has let go of has been cut from the log there too.
            self.nodes[at]
                .handle(self.now, Input::FromLog { link: read.link, id: read.id, runs: Vec::new() });
            effects.sends.extend(self.nodes[at].take_effects(self.now).sends);
        }
        for (LinkId(to), message) in effects.sends {
            if !(self.muted && matches!(message, Message::Push(_))) {
                self.wire.push((at, to as usize, message));
            }
            self.nodes[at].handle(self.now, Input::Writable { link: LinkId(to) });
        }
        for (token, answer) in effects.answers {
            if let Answer::Quorum(outcome) = answer {
                assert!(self.answers.insert(token, outcome).is_none(), "answered twice");
            }
        }
    }

    /// So many milliseconds.
    fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now.mono += 1_000;
            self.now.wall += 1;
            let frozen = self.frozen.clone();
            let held = |from: usize, to: usize| frozen.contains(&from) || frozen.contains(&to);
            for (from, to, message) in std::mem::take(&mut self.wire) {
                if held(from, to) {
                    self.wire.push((from, to, message));
                } else {
                    let link = LinkId(from as u64);
                    self.nodes[to].handle(self.now, Input::Message { link, message });
                }
            }
            for at in (0..self.nodes.len()).filter(|at| !frozen.contains(at)) {
                self.nodes[at].handle(self.now, Input::Tick);
                self.act(at);
                assert!(self.nodes[at].deadline() > self.now.mono, "what was due has been done");
            }
        }
    }

    fn set(&mut self, at: usize, key: &str, value: &str) {
        let write = Write::Set { key: key.as_bytes(), value: value.as_bytes() };
        self.nodes[at].write(self.now, write).unwrap();
        self.act(at);
    }

    fn begin(&mut self, at: usize, token: u64, nodes: usize, millis: u64) {
        let until = self.now.mono + millis * 1_000;
        self.nodes[at].handle(self.now, Input::Read { token: Token(token), nodes, until });
        self.act(at);
    }

    #[track_caller]
    fn outcome(&self, token: u64) -> Result<String, NoQuorum> {
        let outcome = self.answers.get(&Token(token)).expect("it has been answered").clone();
        outcome.map(|names| names.iter().map(Name::as_str).collect())
    }

    fn value(&self, at: usize, key: &str) -> Option<String> {
        match self.nodes[at].replica().state().view(key.as_bytes())? {
            View::Bytes(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
            _ => None,
        }
    }

    /// Reads, reads that found their node lacking, and repairs of peers, at a node.
    fn counts(&self, at: usize) -> (u64, u64, u64) {
        let counts = self.nodes[at].gossip().counts();
        (counts.quorum_reads, counts.quorum_lacking, counts.quorum_repairs)
    }
}

#[test]
fn a_read_has_what_news_has_not_brought_and_repairs_those_that_answered() {
    let mut net = Net::new(3);
    net.set(1, "k", "of b");
    net.set(2, "other", "of c");
    net.run(300);
    assert_eq!((net.value(0, "k"), net.value(1, "other")), (None, None));
    net.begin(0, 1, 3, 1_000);
    net.muted = false;
    net.run(200);
    assert_eq!(net.outcome(1), by("abc"));
    assert_eq!(net.value(0, "k").as_deref(), Some("of b"));
    assert_eq!(net.value(0, "other").as_deref(), Some("of c"));
    // What each of the two had, the other is offered.
    net.run(500);
    assert_eq!(net.value(1, "other").as_deref(), Some("of c"));
    assert_eq!(net.value(2, "k").as_deref(), Some("of b"));
    assert_eq!(net.counts(0), (1, 1, 2));
}

#[test]
fn a_peer_that_lacks_something_is_sent_it() {
    let mut net = Net::new(2);
    net.set(0, "k", "v");
    net.run(300);
    net.begin(0, 1, 2, 1_000);
    net.run(50);
    assert_eq!((net.outcome(1), net.counts(0)), (by("ab"), (1, 0, 1)));
    assert_eq!(net.value(1, "k").as_deref(), Some("v"));
    // And once it has it, there is nothing to repair.
    net.begin(0, 2, 2, 1_000);
    net.run(50);
    assert_eq!((net.outcome(2), net.counts(0)), (by("ab"), (2, 0, 1)));
}

#[test]
fn an_exchange_that_began_before_the_read_does_not_count() {
    let mut net = Net::new(2);
    net.nodes[0].handle(net.now, Input::Sync { link: LinkId(1), token: Token(9) });
    net.act(0);
    net.run(1);
    let early = net.wire.pop().expect("the answer is on its way");
    assert!(matches!(early.2, Message::Sync(Sync::Ack { entries: None, .. })));
    net.set(1, "k", "v");
    net.begin(0, 1, 2, 1_000);
    let asked = std::mem::replace(&mut net.wire, vec![early]);
    net.run(20);
    assert!(net.answers.is_empty(), "what was said before the read says nothing of the write");
    net.wire = asked;
    net.run(100);
    assert_eq!((net.outcome(1), net.value(0, "k").as_deref()), (by("ab"), Some("v")));
}

#[test]
fn what_the_log_no_longer_reaches_is_waited_for() {
    let mut net = Net::new(2);
    net.nodes[1].replica_mut().log_mut().set_bound(0);
    for n in 0..2_000 {
        net.set(1, &format!("k{n}"), "a value of some length, so that chunks of the log are given up");
    }
    net.run(300);
    net.begin(0, 1, 2, 10_000);
    let mut waited = 0;
    while net.answers.is_empty() {
        net.run(1);
        waited += 1;
        assert!(waited < 10_000 && (net.value(0, "k1999").is_none() || !net.answers.is_empty()));
    }
    assert_eq!((net.outcome(1), net.nodes[0].gossip().counts().merges), (by("ab"), 1));
    assert!(net.value(0, "k0").is_some() && net.value(0, "k1999").is_some());
}

#[test]
fn a_read_fails_in_time_and_names_the_silent() {
    let mut net = Net::new(3);
    net.frozen.insert(2);
    net.begin(0, 1, 3, 700);
    net.begin(0, 2, 2, 700);
    net.begin(0, 3, 4, 700);
    net.begin(0, 4, 1, 700);
    net.run(5);
    assert_eq!((net.outcome(2), net.outcome(4)), (by("ab"), by("a")), "others are enough");
    let error = net.outcome(3).unwrap_err().to_string();
    assert_eq!(error, "4 nodes asked for, and only 3 known: a, b, c");
    net.run(600);
    assert!(!net.answers.contains_key(&Token(1)));
    net.run(100);
    let error = net.outcome(1).unwrap_err();
    assert_eq!(error.to_string(), "2 of 3 answered: a, b; no answer: c");
    assert_eq!(net.nodes[0].gossip().counts().quorum_failed, 2);
    // It is asked again, and what it says late is of use to later reads.
    net.begin(0, 5, 3, 10_000);
    net.run(2_000);
    net.frozen.clear();
    net.run(20);
    assert_eq!(net.outcome(5), by("abc"));
}

#[test]
fn whoever_answered_and_could_not_deliver_is_told_apart() {
    let mut net = Net::new(2);
    net.set(1, "k", "v");
    net.run(300);
    net.begin(0, 1, 2, 400);
    net.run(2);
    // From here on requests for ops are lost.
    for _ in 0..450 {
        net.wire.retain(|(_, _, message)| !matches!(message, Message::Pull(_)));
        net.run(1);
    }
    let error = net.outcome(1).unwrap_err().to_string();
    assert_eq!(error, "1 of 2 answered: a; answered, and what it had did not come in time: b");
}

#[test]
fn ops_come_from_whoever_answered_though_another_was_asked_for_them() {
    let mut net = Net::new(3);
    net.set(2, "k", "v");
    net.run(300);
    // b learns of it, then a asks c, which has gone silent.
    net.begin(1, 1, 3, 1_000);
    net.run(100);
    assert_eq!((net.outcome(1), net.value(1, "k").as_deref()), (by("bac"), Some("v")));
    net.nodes[0].handle(net.now, Input::Sync { link: LinkId(2), token: Token(9) });
    net.act(0);
    net.run(2);
    net.frozen.insert(2);
    net.run(300);
    assert_eq!(net.value(0, "k"), None);
    net.begin(0, 2, 2, 200);
    net.run(100);
    assert_eq!((net.outcome(2), net.value(0, "k").as_deref()), (by("ab"), Some("v")));
}

#[test]
fn reads_of_one_moment_share_an_exchange() {
    let mut net = Net::new(3);
    let before = net.nodes[0].gossip().counts().syncs_begun;
    let until = net.now.mono + 1_000_000;
    for token in 0..1_000 {
        net.nodes[0].handle(net.now, Input::Read { token: Token(token), nodes: 3, until });
    }
    net.act(0);
    // These come while it is under way, and need another.
    for token in 1_000..2_000 {
        net.nodes[0].handle(net.now, Input::Read { token: Token(token), nodes: 3, until });
    }
    net.run(10);
    assert_eq!(net.answers.len(), 2_000);
    assert!(net.answers.values().all(Result::is_ok));
    assert_eq!(net.nodes[0].gossip().counts().syncs_begun - before, 4);
    assert_eq!(net.nodes[0].gossip().held().reads, 0);
}

#[test]
fn a_stopped_engine_says_so_at_once() {
    let mut net = Net::new(2);
    net.begin(0, 1, 2, 60_000);
    net.nodes[0].stop("the disk failed".into());
    net.begin(0, 2, 1, 60_000);
    net.act(0);
    assert_eq!(net.outcome(2), by("a"), "what is here can be read");
    let error = net.outcome(1).unwrap_err().to_string();
    assert_eq!(error, "1 of 2 answered: a; no answer: b");
}

#[test]
fn a_peer_that_comes_meanwhile_is_asked() {
    let mut net = Net::new(2);
    net.nodes[0].handle(net.now, Input::LinkDown { link: LinkId(1) });
    net.nodes[1].handle(net.now, Input::LinkDown { link: LinkId(0) });
    net.set(1, "k", "v");
    net.begin(0, 1, 2, 5_000);
    net.run(1_000);
    assert!(net.answers.is_empty());
    net.link(0, 1);
    net.link(1, 0);
    net.run(500);
    assert_eq!((net.outcome(1), net.value(0, "k").as_deref()), (by("ab"), Some("v")));
}
