//! What is deleted stays deleted, and what is written stays, when a node returns: late, from an
//! older image of its disk, and after the others have cut their logs.

use super::cluster::{Cluster, Node};
use super::process::{wait_equal, wait_for};
use super::resp::{Reply, bulk, ok};

const MERGED: &str = "tidings_context_merges_total{result=\"committed\"}";

/// So little log that a node that was away must be merged with.
const SHORT_LOGS: &[&str] = &[
    "--log-memory",
    "16KiB",
    "--log-disk",
    "1MiB",
    "--segment-size",
    "1MiB",
    "--checkpoint-size",
    "1MiB",
    "--log-age",
    "1s",
];

fn write_first(node: &Node) {
    let mut redis = node.redis();
    for i in 0..50 {
        assert_eq!(redis.call(&["SET", &format!("kept:{i}"), "v"]), ok());
        assert_eq!(redis.call(&["SET", &format!("gone:{i}"), "v"]), ok());
        assert_eq!(redis.int(&["SADD", "set", &format!("kept-{i}"), &format!("gone-{i}")]), 2);
        redis.int(&["SADD", "gone-set", &i.to_string()]);
        redis.int(&["INCR", "gone-sum"]);
        redis.int(&["INCR", "sum"]);
    }
}

fn delete_some(node: &Node) {
    let mut redis = node.redis();
    for i in 0..50 {
        assert_eq!(redis.int(&["DEL", &format!("gone:{i}")]), 1);
        assert_eq!(redis.int(&["SREM", "set", &format!("gone-{i}")]), 1);
    }
    assert_eq!(redis.int(&["DEL", "gone-set", "gone-sum"]), 2);
    assert_eq!(redis.call(&["SET", "kept:0", "later"]), ok());
    redis.int(&["INCRBY", "sum", "1000"]);
}

/// Enough that no log reaches back to before.
fn write_much(node: &Node) {
    let mut redis = node.redis();
    let value = "x".repeat(16 << 10);
    let checkpoints = node.metric("tidings_checkpoints_total{result=\"ok\"}");
    wait_for("the logs to be cut", || {
        for i in 0..64 {
            assert_eq!(redis.call(&["SET", &format!("much:{i}"), &value]), ok());
        }
        let written = node.metric("tidings_checkpoints_total{result=\"ok\"}") - checkpoints;
        if written >= 4 { Ok(()) } else { Err(format!("{written} checkpoints")) }
    });
}

#[track_caller]
fn assert_as_wanted(cluster: &Cluster, sum: &str) {
    cluster.wait_converged();
    for node in &cluster.nodes {
        let (mut redis, name) = (node.redis(), &node.name);
        for i in 0..50 {
            let value = if i == 0 { "later" } else { "v" };
            assert_eq!(redis.call(&["GET", &format!("kept:{i}")]), bulk(value), "{name} lost kept:{i}");
            assert_eq!(redis.call(&["GET", &format!("gone:{i}")]), Reply::Nil, "{name}: gone:{i} is back");
        }
        assert_eq!(redis.int(&["EXISTS", "gone-set", "gone-sum"]), 0, "{name}");
        let members = redis.members("set");
        assert_eq!(members.len(), 50, "{name}: {members:?}");
        assert!(members.iter().all(|member| member.starts_with("kept-")), "{name}: {members:?}");
        assert_eq!(redis.call(&["GET", "sum"]), bulk(sum), "{name}");
    }
}

fn deletes_hold_for_a_node_that_was_down(settings: &[&str], merge: bool) {
    let mut cluster = Cluster::start(3, settings);
    write_first(&cluster.nodes[0]);
    cluster.wait_converged();
    cluster.nodes[2].kill();
    delete_some(&cluster.nodes[1]);
    if merge {
        write_much(&cluster.nodes[0]);
    }
    cluster.wait_converged();
    if merge {
        // The logs of those that stayed reach only as far back as their disks.
        cluster.nodes[..2].iter_mut().for_each(Node::terminate);
        cluster.nodes[..2].iter_mut().for_each(Node::start);
        cluster.wait_linked();
    }
    cluster.nodes[2].start();
    assert_as_wanted(&cluster, "1050");
    if merge {
        let merged: u64 = cluster.nodes.iter().map(|node| node.metric(MERGED)).sum();
        assert!(
            merged > 0,
            "it did without a merge: nothing is shown by this test\n{}",
            cluster.nodes[2].log()
        );
    }
}

fn deletes_hold_for_an_older_image(settings: &[&str], merge: bool) {
    let mut cluster = Cluster::start(3, settings);
    write_first(&cluster.nodes[0]);
    cluster.wait_converged();
    cluster.nodes[2].terminate();
    let image = cluster.nodes[2].image();
    cluster.nodes[2].start();
    cluster.wait_linked();
    // Only peers will hold these.
    let mut redis = cluster.nodes[2].redis();
    for i in 0..30 {
        assert_eq!(redis.call(&["SET", &format!("own:{i}"), "v"]), ok());
        redis.int(&["INCR", "own-sum"]);
        redis.int(&["INCR", "sum"]);
    }
    assert_eq!(redis.int(&["WAIT", "2", "30000"]), 2);
    delete_some(&cluster.nodes[1]);
    cluster.wait_converged();
    cluster.nodes[2].kill();
    if merge {
        write_much(&cluster.nodes[0]);
        cluster.wait_converged();
        cluster.nodes[..2].iter_mut().for_each(Node::terminate);
        cluster.nodes[..2].iter_mut().for_each(Node::start);
        cluster.wait_linked();
    }
    cluster.nodes[2].restore(&image);
    // It writes before it has met anybody: nothing of that may be mistaken for what it wrote before.
    let join = std::mem::take(&mut cluster.nodes[2].join);
    cluster.nodes[2].start();
    assert_eq!(cluster.nodes[2].redis().int(&["SADD", "after-restore", "a", "b"]), 2);
    cluster.nodes[2].join = join;
    assert_as_wanted(&cluster, "1080");
    for node in &cluster.nodes {
        let mut redis = node.redis();
        assert_eq!(redis.call(&["GET", "own-sum"]), bulk("30"), "{}", node.name);
        assert_eq!(redis.int(&["EXISTS", "own:0", "own:29"]), 2, "{}", node.name);
        assert_eq!(redis.members("after-restore"), ["a", "b"], "{}", node.name);
    }
    assert_eq!(cluster.nodes[2].redis().int(&["INCR", "own-sum"]), 31);
    wait_equal("a write after the restore", &bulk("31"), || {
        cluster.nodes[0].redis().call(&["GET", "own-sum"])
    });
    if merge {
        let merged: u64 = cluster.nodes.iter().map(|node| node.metric(MERGED)).sum();
        assert!(
            merged > 0,
            "it did without a merge: nothing is shown by this test\n{}",
            cluster.nodes[2].log()
        );
    }
}

#[test]
fn deleted_while_a_node_was_down() {
    deletes_hold_for_a_node_that_was_down(&[], false);
}

#[test]
fn deleted_while_a_node_was_down_and_the_logs_were_cut() {
    deletes_hold_for_a_node_that_was_down(SHORT_LOGS, true);
}

#[test]
fn deleted_and_the_node_returns_with_an_older_image() {
    deletes_hold_for_an_older_image(&[], false);
}

#[test]
fn deleted_and_the_node_returns_with_an_older_image_and_the_logs_were_cut() {
    deletes_hold_for_an_older_image(SHORT_LOGS, true);
}

#[test]
fn a_blank_node_gets_everything() {
    let mut cluster = Cluster::prepare(3, SHORT_LOGS);
    cluster.nodes[..2].iter_mut().for_each(Node::start);
    cluster.wait_linked();
    write_first(&cluster.nodes[0]);
    cluster.wait_converged();
    delete_some(&cluster.nodes[1]);
    write_much(&cluster.nodes[0]);
    cluster.nodes[2].start();
    assert_as_wanted(&cluster, "1050");
}
