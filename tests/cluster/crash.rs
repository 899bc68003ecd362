//! Kill -9 in the middle of writes; all nodes stopped and started.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::cluster::{Cluster, Node};
use super::process::wait_equal;
use super::resp::{Redis, bulk, encode, ok};

const APPLIED: &str = "tidings_ops_applied_total{source=\"remote\"}";
const DUPLICATE: &str = "tidings_ops_rejected_total{reason=\"duplicate\"}";

fn command(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Most writes of a flood that are on their way at once.
const ON_THEIR_WAY: usize = 5_000;

/// Writes `key:0`, `key:1` and so on, pipelined, until all are acknowledged or the node ends.
/// `watch` is told of each acknowledgement. Returns how many there were.
fn flood(node: SocketAddr, writes: usize, mut watch: impl FnMut(usize)) -> usize {
    let Redis { mut reader, writer } = Redis::connect(node).unwrap();
    let (acknowledged, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for first in (0..writes).step_by(100) {
                while first >= acknowledged.load(Ordering::Acquire) + ON_THEIR_WAY {
                    if over.load(Ordering::Acquire) {
                        return;
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
                if send(&writer, first..writes.min(first + 100)).is_err() {
                    return;
                }
            }
        });
        let mut count = 0;
        while count < writes
            && let Ok(reply) = reader.reply()
        {
            assert_eq!(reply, ok());
            count += 1;
            acknowledged.store(count, Ordering::Release);
            watch(count);
        }
        over.store(true, Ordering::Release);
        count
    })
}

fn send(mut to: &TcpStream, writes: Range<usize>) -> io::Result<()> {
    let set = |i: usize| encode(&["SET", &format!("key:{i}"), &i.to_string()]);
    to.write_all(&writes.flat_map(set).collect::<Vec<u8>>())
}

/// Asserts that the node has the first `count` of the flood.
#[track_caller]
fn assert_has(node: &Node, count: usize) {
    let mut redis = node.redis();
    let gets: Vec<_> = (0..count).map(|i| command(&["GET", &format!("key:{i}")])).collect();
    for (i, reply) in redis.pipeline(&gets).into_iter().enumerate() {
        assert_eq!(reply, bulk(&i.to_string()), "{} lost key:{i} of {count}", node.name);
    }
}

#[test]
fn a_node_killed_amid_100_000_writes_loses_none_and_catches_up_exactly() {
    let mut cluster = Cluster::start(3, &[]);
    let acknowledged = flood(cluster.nodes[2].resp, 100_000, |count| match count {
        // The others miss what follows.
        30_000 => cluster.nodes[..2].iter().for_each(Node::freeze),
        60_000 => cluster.nodes[2].kill(),
        _ => {}
    });
    assert!((60_000..100_000).contains(&acknowledged), "{acknowledged}");
    cluster.nodes[..2].iter().for_each(Node::thaw);

    let missed: Vec<_> =
        (0..700).map(|i| command(&["SADD", &format!("missed:{}", i % 7), &i.to_string()])).collect();
    assert_eq!(cluster.nodes[0].redis().pipeline(&missed).len(), 700);
    cluster.wait_converged();
    let lacked = acknowledged as i64 - cluster.nodes[0].redis().int(&["DBSIZE"]);
    assert!(lacked > 0, "the others had all of it: nothing is shown by this test");

    cluster.nodes[2].start();
    assert_has(&cluster.nodes[2], acknowledged);
    cluster.wait_converged();
    assert_has(&cluster.nodes[0], acknowledged);
    assert_has(&cluster.nodes[1], acknowledged);
    let returned = &cluster.nodes[2];
    assert_eq!(returned.redis().members("missed:3").len(), 100);
    assert_eq!((returned.metric(APPLIED), returned.metric(DUPLICATE)), (700, 0), "{}", returned.log());
}

#[test]
fn with_fsync_always_a_killed_node_has_every_acknowledged_write() {
    let mut cluster = Cluster::start(1, &["--fsync", "always"]);
    for round in 1..=3 {
        let acknowledged = flood(cluster.nodes[0].resp, 20_000, |count| {
            if count == 1_000 * round {
                cluster.nodes[0].kill();
            }
        });
        assert!((1_000..20_000).contains(&acknowledged), "{acknowledged}");
        cluster.nodes[0].start();
        assert_has(&cluster.nodes[0], acknowledged);
    }
}

#[test]
fn counters_are_exact_when_a_node_is_killed() {
    let mut cluster = Cluster::start(2, &[]);
    let mut expected = 0;
    for _ in 0..3 {
        let incr: Vec<_> = (0..500).map(|_| command(&["INCR", "hits"])).collect();
        for node in &cluster.nodes {
            expected += node.redis().pipeline(&incr).len() as i64;
        }
        cluster.nodes[1].kill();
        cluster.nodes[1].start();
    }
    for node in &cluster.nodes {
        wait_equal("the sum", &bulk(&expected.to_string()), || node.redis().call(&["GET", "hits"]));
    }
}

#[test]
fn everything_is_there_when_all_nodes_stop_and_start() {
    let mut cluster = Cluster::start(3, &[]);
    for (i, node) in cluster.nodes.iter().enumerate() {
        let mut redis = node.redis();
        let name = &node.name;
        let mut writes: Vec<_> = (0..300).map(|n| command(&["SET", &format!("{name}:{n}"), "v"])).collect();
        writes.extend((0..300).map(|n| command(&["SADD", "all", &format!("{name}-{n}")])));
        writes.extend((0..300).map(|_| command(&["INCRBY", "sum", &(i + 1).to_string()])));
        writes.push(command(&["GCOUNTER.INCRBY", "grown", "7"]));
        writes.push(command(&["DEL", &format!("{name}:5")]));
        redis.pipeline(&writes);
    }
    let before = cluster.wait_converged();
    assert_eq!(before.len(), 3 * 299 + 3);
    let expect = |cluster: &Cluster, how: &str| {
        assert!(cluster.wait_converged() == before, "{how}: the data differ");
        for node in &cluster.nodes {
            let mut redis = node.redis();
            assert_eq!(redis.call(&["GET", "sum"]), bulk("1800"), "{how}");
            assert_eq!(redis.int(&["SCARD", "all"]), 900, "{how}");
            assert_eq!(redis.int(&["GCOUNTER.GET", "grown"]), 21, "{how}");
            assert_eq!(redis.int(&["EXISTS", "n1:5", "n2:5", "n3:5"]), 0, "{how}");
        }
    };
    cluster.nodes.iter().for_each(|node| node.signal(Signal::TERM));
    for node in &mut cluster.nodes {
        assert!(node.wait_down().success(), "{}", node.log());
    }
    cluster.start_all();
    expect(&cluster, "after SIGTERM");
    cluster.nodes.iter_mut().for_each(Node::kill);
    cluster.start_all();
    expect(&cluster, "after kill -9");
    // Alone, without anybody to copy from.
    cluster.nodes.iter_mut().for_each(Node::kill);
    for node in &mut cluster.nodes {
        node.start();
        assert!(node.dump() == before, "{} alone: the data differ", node.name);
        node.terminate();
    }
}
