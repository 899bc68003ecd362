//! What a member missed while it was away, from the log on disk.

use super::cluster::{Cluster, Node};
use super::process::wait_equal;
use super::resp::ok;

/// Writes made while the peer is away.
const MISSED: u64 = 5_000;

#[test]
fn what_memory_has_let_go_of_is_sent_from_the_disk() {
    // Next to nothing stays in memory, a segment is soon full, and a checkpoint is soon due.
    let settings = [
        "--log-memory",
        "64KiB",
        "--segment-size",
        "1MiB",
        "--checkpoint-size",
        "1MiB",
        "--audit-interval",
        "0s",
    ];
    let mut cluster = Cluster::start(2, &settings);
    assert_eq!(cluster.nodes[0].redis().call(&["SET", "first", "1"]), ok());
    let peer = |node: &Node| {
        let members = node.json(&["members"]);
        let row = members.as_array().unwrap().iter().find(|row| row["node"] == "n2").unwrap();
        (row["state"].as_str().unwrap().to_owned(), row["unconfirmed"].as_u64().unwrap())
    };
    wait_equal("what n2 lacks", &("alive".to_owned(), 0), || peer(&cluster.nodes[0]));
    cluster.nodes[1].terminate();
    wait_equal("n2", &("away".to_owned(), 0), || peer(&cluster.nodes[0]));
    let mut redis = cluster.nodes[0].redis();
    for i in 0..MISSED {
        let value = format!("the value of key {i}, of some length ").repeat(20);
        assert_eq!(redis.call(&["SET", &format!("key:{i}"), &value]), ok());
    }
    // Where the ops stand, and what the peer had, outlives the process.
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    assert_eq!(peer(&cluster.nodes[0]), ("away".to_owned(), MISSED));
    cluster.nodes[1].start();
    wait_equal("keys", &(MISSED + 1), || cluster.nodes[1].metric("tidings_keys"));
    cluster.wait_converged();
    let merges = "tidings_context_merges_total{result=\"committed\"}";
    assert_eq!(cluster.nodes[1].metric(merges), 0, "{}", cluster.nodes[0].log());
    assert!(cluster.nodes[0].metric("tidings_ops_from_disk_total") > MISSED / 2);
    assert_eq!(cluster.nodes[1].metric("tidings_ops_rejected_total{reason=\"duplicate\"}"), 0);
}
