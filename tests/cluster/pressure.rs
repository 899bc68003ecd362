//! Peers that cannot keep up, will not, or say too much: each costs itself, and nobody else.

use std::time::{Duration, Instant};

use tidings_proto::frame::encode_message;
use tidings_proto::message::{Pull, Push, Range, Sync};
use tidings_proto::{Actor, Lane, Message, SeenDigest, SeenEntries, StateDigest};

use super::cluster::{Cluster, Node};
use super::peer::{FAST, Peer};
use super::process::{wait_equal, wait_for};
use super::resp::{bulk, ok};

const MIB: u64 = 1 << 20;

/// Memory that the process has, in bytes.
pub(crate) fn resident(node: &Node) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", node.id())).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Overwrites the same keys again and again: so many bytes of values in all, a KiB each, with only
/// a MiB of them to be kept.
fn overwrite(node: &Node, bytes: u64) {
    let mut redis = node.redis();
    let value = "v".repeat(1 << 10);
    let set = |n: u64| ["SET".to_owned(), format!("key:{}", n % 1_024), value.clone()].to_vec();
    let writes: Vec<_> = (0..bytes >> 10).map(set).collect();
    redis.pipeline(&writes);
}

/// A write here is seen there; returns how long that took.
#[track_caller]
fn passes(from: &Node, to: &Node, mark: &str) -> Duration {
    let (mut reader, mut writer) = (to.redis(), from.redis());
    let began = Instant::now();
    assert_eq!(writer.call(&["SET", "probe", mark]), ok());
    wait_equal("a write at the healthy peer", &bulk(mark), || reader.call(&["GET", "probe"]));
    began.elapsed()
}

fn dropped(node: &Node) -> u64 {
    ["news", "bulk"]
        .map(|lane| node.metric(&format!("tidings_messages_dropped_total{{lane=\"{lane}\"}}")))
        .iter()
        .sum()
}

/// Waits until the stand-in holds what the node holds, and has said so.
#[track_caller]
fn catches_up(peer: &Peer, node: &Node) {
    let mut redis = node.redis();
    assert_eq!(redis.call(&["SET", "last", "of all"]), ok());
    wait_for("the stand-in to have everything", || {
        // Two peers hold what this connection wrote, and so all that was written before.
        let (holders, keys, theirs) = (redis.int(&["WAIT", "2", "100"]), redis.int(&["DBSIZE"]), peer.keys());
        if holders == 2 && keys as u64 == theirs {
            return Ok(());
        }
        Err(format!("{holders} hold it, {theirs} of {keys} keys, {:?}\n{}", peer.ended(), node.log()))
    });
}

/// Bytes that a peer may cost in memory: the queues of its link, what QUIC holds of them, and an answer or two
/// under way. And what the system's allocator keeps back.
const COST: u64 = 64 * MIB;

#[track_caller]
fn assert_bounded(node: &Node, before: u64, beyond: u64) {
    let grown = resident(node).saturating_sub(before);
    assert!(grown < COST + beyond, "it grew by {} KiB:\n{}", grown >> 10, node.log());
}

#[test]
fn a_peer_that_reads_slowly_costs_itself_only() {
    // What the slow peer lacks leaves the memory log before it can be read.
    let cluster = Cluster::start(2, &["--log-memory", "4MiB"]);
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    let slow = Peer::link(&cluster, one, "z1", 10_000);
    overwrite(one, 2 * MIB);
    let before = resident(one);
    for round in 0..4 {
        overwrite(one, 16 * MIB);
        passes(one, two, &format!("round {round}"));
    }
    let read = slow.read();
    wait_for("the slow peer to read on", || {
        if slow.read() > read { Ok(()) } else { Err(format!("{:?}", slow.ended())) }
    });
    assert_bounded(one, before, 4 * MIB);
    assert_eq!(slow.ended(), None);
    slow.set_pace(FAST);
    catches_up(&slow, one);
    assert!(one.metric("tidings_reoffers_total") > 0, "what it lacked was offered again");
    assert_bounded(one, before, 4 * MIB);
}

#[test]
fn a_peer_that_stops_reading_costs_itself_only() {
    let cluster = Cluster::start(2, &["--log-memory", "4MiB", "--fsync", "always"]);
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    overwrite(one, 4 * MIB);
    let stalled = Peer::link(&cluster, one, "z1", FAST);
    catches_up(&stalled, one);
    stalled.set_pace(0);
    let (before, node) = (resident(one), stalled.node());
    // It goes on asking for more than any queue holds.
    let ranges = vec![Range { actor: node, first: 3_000, last: 1 << 20 }];
    for id in 0..400 {
        stalled.say(&Message::Pull(Pull::Ops { id: 1 << 32 | id, ranges: ranges.clone() }));
    }
    for round in 0..4 {
        overwrite(one, 4 * MIB);
        passes(one, two, &format!("round {round}"));
        assert_bounded(one, before, 4 * MIB);
    }
    wait_for("what found no room to be counted", || match dropped(one) {
        0 => Err(format!("nothing was dropped, it has read {}", stalled.read())),
        count => Ok(count),
    });
    assert_eq!(stalled.ended(), None, "the link stays: it may be a pause");
    let (answered, read) = (one.metric("tidings_pulls_total{outcome=\"answered\"}"), stalled.read());
    stalled.set_pace(FAST);
    catches_up(&stalled, one);
    assert!(stalled.read() > read, "it reads again");
    let again = one.metric("tidings_pulls_total{outcome=\"answered\"}") > answered
        || one.metric("tidings_context_merge_blocks_total{direction=\"sent\"}") > 0;
    assert!(again, "what was dropped has been asked for and sent");
    assert_bounded(one, before, 4 * MIB);
}

/// All that a member may ask for or say at any time, one after the other.
fn flood(peer: &Peer) -> impl Fn(u64) -> (Lane, Vec<u8>) + Send + std::marker::Sync + 'static {
    let (me, node, known) = (peer.actor(), peer.node(), peer.some_run());
    let have = |actors: &[Actor]| SeenEntries::from_sorted(actors.iter().map(|actor| (actor, 9)));
    let known = encode_message(&Message::Push(Push { have: SeenEntries::default(), runs: known }));
    let phantom = move |n: u64| Actor { node: me.node.clone(), incarnation: n };
    move |n| {
        let message = match n % 7 {
            0 => Message::Push(Push {
                have: have(&(n * 500..n * 500 + 500).map(&phantom).collect::<Vec<_>>()),
                runs: Vec::new(),
            }),
            1 if n % 50 == 1 => return (Lane::News, known.clone()),
            2 => Message::Pull(Pull::Keys { id: n, keys: Vec::new(), cursor: 0, names_only: false }),
            3 => {
                let range = Range { actor: node.clone(), first: 1, last: 1 << 20 };
                Message::Pull(Pull::Ops { id: 1 << 32 | n, ranges: vec![range] })
            }
            4 => Message::Sync(Sync::Merge { id: n, guided: n % 2 == 0 }),
            5 => Message::Sync(Sync::Credit { id: n - 1, blocks: 8 }),
            _ => Message::Sync(Sync::Syn {
                id: n,
                digest: SeenDigest([7; 16]),
                state: StateDigest([7; 16]),
                entries: Some(SeenEntries::default()),
                credit: 1 << 20,
            }),
        };
        (message.lane(), encode_message(&message))
    }
}

#[test]
fn a_peer_that_floods_is_slowed_and_nobody_else() {
    let cluster = Cluster::start(2, &[]);
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    overwrite(one, 4 * MIB);
    let loud = Peer::link(&cluster, one, "z1", FAST);
    catches_up(&loud, one);
    let before = resident(one);
    // It asks, and does not even read the answers.
    loud.flood(flood(&loud));
    loud.set_pace(0);
    wait_for("the loud peer to be slowed", || match one.metric("tidings_peer_pauses_total") {
        0 => Err(format!("it has said {} things, {:?}", loud.flooded(), loud.ended())),
        count => Ok(count),
    });
    assert!(one.log().contains("asks for more than its share"), "{}", one.log());
    let mut took: Vec<Duration> = (0..20).map(|n| passes(one, two, &format!("write {n}"))).collect();
    took.sort();
    assert!(took[10] < Duration::from_secs(2), "others wait with it: {took:?}");
    assert!(
        one.metric("tidings_announcements_ignored_total") > 0,
        "authors that nobody has heard of are not kept"
    );
    assert_bounded(one, before, 0);
    assert_eq!(loud.ended(), None, "it said nothing that it must not");
    loud.stop_flood();
    loud.set_pace(FAST);
    catches_up(&loud, one);
    cluster.wait_converged();
}

#[test]
fn a_peer_that_talks_garbage_is_cut_off() {
    let cluster = Cluster::start(2, &[]);
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    let before = resident(one);
    let ended = |reason: &str| one.metric(&format!("tidings_links_ended_total{{reason=\"{reason}\"}}"));
    let garbage = [
        ("malformed", Lane::News, [&40_u32.to_le_bytes()[..], &[0xa5; 40]].concat()),
        ("malformed", Lane::Bulk, [&40_u32.to_le_bytes()[..], &[0x5a; 40]].concat()),
        ("oversized", Lane::News, vec![0xff; 64 << 10]),
        ("oversized", Lane::Bulk, vec![0xee; 64 << 10]),
        ("malformed", Lane::Bulk, encode_message(&Message::Leave)),
    ];
    for (n, (reason, lane, bytes)) in garbage.into_iter().enumerate() {
        let (peer, counted) = (Peer::link(&cluster, one, &format!("z{n}"), FAST), ended(reason));
        peer.flood(move |_| (lane, bytes.clone()));
        let why =
            wait_for("it to be cut off", || peer.ended().ok_or_else(|| format!("{} times", peer.flooded())));
        wait_for("that to be counted and logged", || {
            let logged = one.log().contains(&format!("link down: {reason}: "));
            if ended(reason) > counted && logged { Ok(()) } else { Err(format!("{why}\n{}", one.log())) }
        });
    }
    passes(one, two, "after all that");
    assert_bounded(one, before, 0);
}
