//! The tools that everybody has, where they are installed.

use std::process::Command;

use super::cluster::{Cluster, Node};
use super::process::{outcome, wait_equal};
use super::resp::bulk;

fn installed(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: {tool} is not installed");
    }
    found
}

fn cli(node: &Node, words: &[&str]) -> String {
    let port = node.resp.port().to_string();
    outcome(Command::new("redis-cli").args(["-p", &port]).args(words)).done().trim_end().to_owned()
}

#[test]
fn redis_cli() {
    if !installed("redis-cli") {
        return;
    }
    let cluster = Cluster::start(2, &[]);
    let (one, two) = (&cluster.nodes[0], &cluster.nodes[1]);
    assert_eq!(cli(one, &["PING"]), "PONG");
    assert_eq!(cli(one, &["SET", "greeting", "hello"]), "OK");
    assert_eq!(cli(one, &["INCR", "hits"]), "1");
    assert_eq!(cli(one, &["SADD", "who", "a", "b"]), "2");
    wait_equal("the value", &"hello".to_owned(), || cli(two, &["GET", "greeting"]));
    wait_equal("the set", &"2".to_owned(), || cli(two, &["SCARD", "who"]));
    assert_eq!(cli(two, &["-3", "GET", "hits"]), "1");
    assert!(cli(one, &["INFO"]).contains("tidings_version") || cli(one, &["INFO"]).contains("redis_version"));
    assert!(cli(one, &["NOSUCH"]).starts_with("ERR unknown command"));
    assert!(cli(one, &["SADD", "greeting", "x"]).starts_with("WRONGTYPE"));
    assert_eq!(cli(one, &["--scan"]).lines().count(), 3);
}

#[test]
fn redis_benchmark() {
    if !installed("redis-benchmark") {
        return;
    }
    let cluster = Cluster::start(2, &[]);
    let port = cluster.nodes[0].resp.port().to_string();
    let load = ["-p", &port, "-q", "-n", "2000", "-c", "20", "-P", "10", "-t", "ping,set,get,incr,sadd"];
    let said = outcome(Command::new("redis-benchmark").args(load)).done();
    assert!(!said.contains("Error"), "{said}");
    for test in ["SET", "GET", "INCR", "SADD"] {
        assert!(said.contains(&format!("{test}: ")), "{said}");
    }
    let sum = cluster.nodes[0].redis().call(&["GET", "counter:__rand_int__"]);
    assert_eq!(sum, bulk("2000"));
    wait_equal("the sum", &sum, || cluster.nodes[1].redis().call(&["GET", "counter:__rand_int__"]));
    cluster.wait_converged();
}
