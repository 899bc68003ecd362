//! A blank node that joins several full ones is given its state by more than one of them.

use super::cluster::{Cluster, Node};
use super::process::wait_until;

const KEYS: usize = 30_000;

fn blocks_sent(node: &Node) -> u64 {
    node.metric("tidings_context_merge_blocks_total{direction=\"sent\"}")
}

#[test]
fn a_fourth_node_is_given_its_state_by_several() {
    let settings = ["--log-memory", "1MiB", "--audit-interval", "0s"];
    let mut cluster = Cluster::prepare(4, &settings);
    cluster.nodes[..3].iter_mut().for_each(Node::start);
    let value = |i: usize| format!("the value of key {i} ").repeat(30);
    let commands: Vec<_> =
        (0..KEYS).map(|i| ["SET".to_owned(), format!("key:{i}"), value(i)].to_vec()).collect();
    cluster.nodes[0].redis().pipeline(&commands);
    for node in &cluster.nodes[..3] {
        wait_until("all keys", || node.metric("tidings_keys") == KEYS as u64);
    }
    let before: Vec<u64> = cluster.nodes[..3].iter().map(blocks_sent).collect();
    cluster.nodes[3].start();
    let node = &cluster.nodes[3];
    wait_until("all keys", || node.metric("tidings_keys") == KEYS as u64);
    let sent: Vec<u64> =
        cluster.nodes[..3].iter().zip(before).map(|(node, old)| blocks_sent(node) - old).collect();
    let others = node.metric("tidings_context_merge_source_blocks_total");
    println!("blocks sent by each: {sent:?}; {others} came from others than the primary");
    assert!(sent.iter().filter(|blocks| **blocks > 0).count() >= 2 && others > 0, "{sent:?}\n{}", node.log());
    assert_eq!(node.metric("tidings_context_merges_total{result=\"committed\"}"), 1, "{}", node.log());
    cluster.wait_converged();
}
