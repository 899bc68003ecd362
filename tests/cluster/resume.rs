//! A blank node whose bootstrap is cut short, by its own death or its peer's, goes on where it was.

use super::cluster::{Cluster, Node};
use super::process::{wait_for, wait_until};

const KEYS: usize = 24_000;

/// Two nodes, of which the first holds some 24 blocks of cells and the second has not begun.
fn prepared() -> Cluster {
    let settings = ["--log-memory", "1MiB", "--audit-interval", "0s"];
    let mut cluster = Cluster::prepare(2, &settings);
    cluster.nodes[0].start();
    let value = |i: usize| format!("the value of key {i} ").repeat(50);
    let set = |i: usize| ["SET".to_owned(), format!("key:{i}"), value(i)].to_vec();
    let commands: Vec<_> = (0..KEYS).map(set).collect();
    cluster.nodes[0].redis().pipeline(&commands);
    cluster
}

fn blocks(node: &Node, way: &str) -> u64 {
    node.metric(&format!("tidings_context_merge_blocks_total{{direction=\"{way}\"}}"))
}

/// Waits until some of the state has come and not all of it; how many blocks.
fn halfway(node: &Node) -> u64 {
    wait_for("some blocks", || match blocks(node, "received") {
        got @ 4.. => Ok(got),
        got => Err(format!("{got} blocks")),
    })
}

fn has_all(node: &Node) {
    wait_until("all keys", || node.metric("tidings_keys") == KEYS as u64);
    let merges = "tidings_context_merges_total{result=\"committed\"}";
    assert_eq!(node.metric(merges), 1, "{}", node.log());
}

#[test]
fn a_blank_node_that_is_killed_goes_on_where_it_was() {
    let mut cluster = prepared();
    let node = &mut cluster.nodes[1];
    node.start();
    let got = halfway(node);
    node.kill();
    node.start();
    has_all(node);
    let (received, reused) = (blocks(node, "received"), blocks(node, "reused"));
    // The last of them may not have been in the log yet when it was killed, the more so on a busy machine.
    assert!(2 * reused >= got, "{got} blocks had come, {reused} were of use, {received} came anew");
    cluster.wait_converged();
}

#[test]
fn a_blank_node_whose_peer_is_killed_goes_on_where_it_was() {
    let mut cluster = prepared();
    cluster.nodes[1].start();
    halfway(&cluster.nodes[1]);
    cluster.nodes[0].kill();
    cluster.nodes[0].start();
    let node = &cluster.nodes[1];
    has_all(node);
    assert!(blocks(node, "reused") >= 4, "{}", node.log());
    cluster.wait_converged();
}
