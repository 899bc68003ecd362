//! A node that runs out of memory, of log, or of patience with what is too long: writers are told which bound it is.

use std::process::Command;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, Node};
use super::pressure::resident;
use super::process::{outcome, wait_equal, wait_for};
use super::resp::{Reply, bulk, ok};

const KIB: usize = 1 << 10;

fn refused(node: &Node, bound: &str) -> u64 {
    node.metric(&format!("tidings_writes_refused_total{{bound=\"{bound}\"}}"))
}

/// Writes values of so many KiB under different keys until one is refused. Returns how many were taken, and why not.
#[track_caller]
fn write_until_refused(node: &Node, from: usize, kib: usize) -> (usize, String) {
    let (mut redis, value) = (node.redis(), "x".repeat(kib * KIB));
    for n in from..100_000 {
        match redis.call(&["SET", &format!("key:{n}"), &value]) {
            Reply::Error(why) => return (n, why),
            reply => assert_eq!(reply, ok()),
        }
    }
    panic!("nothing was refused:\n{}", node.log());
}

#[test]
fn memory_at_its_bound() {
    let mut cluster = Cluster::start(2, &["--log-memory", "1MiB"]);
    let bound = resident(&cluster.nodes[0]) + (24 << 20);
    cluster.nodes[0].terminate();
    cluster.nodes[0].settings.extend(["--max-memory".to_owned(), format!("{bound}B")]);
    cluster.nodes[0].start();
    cluster.wait_linked();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    let (taken, why) = write_until_refused(one, 0, 4);
    assert!(taken > 500, "{taken}");
    assert!(why.starts_with("OOM command not allowed when used memory > 'maxmemory'"), "{why}");
    assert!(why.contains(&format!("max_memory is {bound} bytes")), "{why}");
    // It is told after writes are refused.
    wait_for("it to be told", || {
        let log = one.log();
        if log.contains("max_memory: clients' writes are refused beyond it") { Ok(()) } else { Err(log) }
    });
    wait_for("refusals to be counted", || match refused(one, "memory") {
        0 => Err("none".to_owned()),
        count => Ok(count),
    });
    let mut redis = one.redis();
    for write in [&["SET", "k", "v"][..], &["INCR", "n"], &["SADD", "s", "a"], &["MSET", "a", "1", "b", "2"]]
    {
        let reply = redis.call(write);
        assert!(matches!(&reply, Reply::Error(why) if why.starts_with("OOM ")), "{write:?}: {reply:?}");
    }
    let refusal = one.run(&["set", "k", "v"]).refused(1);
    assert!(refusal.contains("max_memory"), "{refusal}");
    assert_eq!(redis.call(&["GET", "key:0"]), bulk(&"x".repeat(4 * KIB)), "reads go on");
    // What others write is taken in: who refused it would only get it again.
    assert_eq!(two.redis().call(&["SET", "from", "afar"]), ok());
    wait_equal("what a peer writes", &bulk("afar"), || redis.call(&["GET", "from"]));
    for n in 0..taken {
        assert_eq!(redis.int(&["DEL", &format!("key:{n}")]), 1, "deletes go on");
    }
    wait_for("memory to be there again", || match redis.call(&["SET", "k", "v"]) {
        Reply::Error(why) => Err(format!("{why} It has {}", resident(one))),
        reply => {
            assert_eq!(reply, ok());
            Ok(())
        }
    });
    wait_equal("all of it at the peer", &2, || two.redis().int(&["DBSIZE"]));
}

#[test]
fn a_log_that_no_checkpoint_frees() {
    let settings =
        ["--segment-size", "1MiB", "--checkpoint-size", "1MiB", "--max-log", "6MiB", "--log-memory", "1MiB"];
    let mut cluster = Cluster::prepare(2, &settings);
    // A limit on files is to be an error and not a signal. No checkpoint fits it, and every segment does.
    cluster.nodes[0].launcher = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"].map(str::to_owned).to_vec();
    cluster.start_all();
    cluster.wait_linked();
    let [one, two] = &cluster.nodes[..] else { unreachable!() };
    let limit = |size: &str| {
        outcome(Command::new("prlimit").args([&format!("--pid={}", one.id()), &format!("--fsize={size}")]))
            .done();
    };
    let (mut taken, mut why) = (0, String::new());
    limit("1100000:unlimited");
    let began = Instant::now();
    // The limit is looked at now and then: whoever writes in between is slowed, not refused.
    wait_for("writes to be refused", || {
        (taken, why) = write_until_refused(one, taken, 16);
        if why.contains("max_log") { Ok(()) } else { Err(why.clone()) }
    });
    assert!(why.starts_with("BUSY ") && why.contains("max_log, which is 6291456 bytes"), "{why}");
    assert!(began.elapsed() > Duration::from_millis(500), "writers are slowed first: {:?}", began.elapsed());
    wait_for("refusals and failed checkpoints to be counted", || {
        let failed = one.metric("tidings_checkpoints_total{result=\"failed\"}");
        if refused(one, "log") > 0 && failed > 0 { Ok(()) } else { Err(one.log()) }
    });
    wait_for("it to be told", || {
        let log = one.log();
        if log.contains("max_log: clients' writes are refused beyond it") { Ok(()) } else { Err(log) }
    });
    assert!(one.metric("tidings_log_since_checkpoint_bytes") > 6 << 20);
    assert!(one.run(&["set", "k", "v"]).refused(1).contains("max_log"));
    let mut redis = one.redis();
    assert!(matches!(redis.call(&["DEL", "key:0"]), Reply::Error(_)), "a delete needs the log too");
    assert_eq!(redis.call(&["GET", "key:0"]), bulk(&"x".repeat(16 * KIB)), "reads go on");
    limit("unlimited:unlimited");
    wait_for("a checkpoint to make room", || match redis.call(&["SET", "k", "v"]) {
        Reply::Error(why) => Err(why),
        reply => {
            assert_eq!(reply, ok());
            Ok(())
        }
    });
    wait_equal("all that was acknowledged at the peer", &(taken as i64 + 1), || two.redis().int(&["DBSIZE"]));
}

#[test]
fn what_is_too_long_is_told_its_bound() {
    let limits = ["--max-key-size", "1KiB", "--max-element-size", "2KiB"];
    let cluster = Cluster::start(1, &limits);
    let mut redis = cluster.nodes[0].redis();
    let long = |bytes: usize| "x".repeat(bytes);
    for (write, said) in [
        (["SET", &long(1_025), "v"], "key of 1025 bytes is longer than max_key_size, which is 1024 bytes"),
        (
            ["SADD", "s", &long(2_049)],
            "element of 2049 bytes is longer than max_element_size, which is 2048 bytes",
        ),
        (
            ["SET", "k", &long((16 << 20) + 1)],
            "value of 16777217 bytes is longer than max_value_size, which is 16777216 bytes",
        ),
    ] {
        assert_eq!(redis.call(&write), Reply::Error(format!("ERR {said}")));
    }
    assert_eq!(
        redis.call(&["SET", "k", &long(16 << 20)]),
        ok(),
        "the connection stands, and the longest fits"
    );
    assert_eq!(redis.int(&["DBSIZE"]), 1);
}
