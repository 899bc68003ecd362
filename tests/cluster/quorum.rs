//! Quorum reads: what gossip has not brought yet is there, whoever lacks something gets it, and who is silent is named.

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::process::{wait_equal, wait_for};
use super::resp::{Redis, Reply, bulk, ok};

/// A fresh write waits this long after a push to the same peer, and what is lost on the way for ever.
const SLOW_NEWS: &[&str] = &["--push-window", "1s", "--push-interval", "1h", "--anti-entropy-interval", "1h"];

/// Two writes, of which news does not bring the second at once.
#[track_caller]
fn write(writer: &mut Redis, key: &str) {
    assert_eq!(writer.call(&["SET", &format!("{key}:before"), "v"]), ok());
    assert_eq!(writer.call(&["SET", key, key]), ok());
}

fn figure(stats: &Value, name: &str) -> u64 {
    let row = stats.as_array().unwrap().iter().find(|row| row["name"] == name);
    row.unwrap_or_else(|| panic!("no {name} in {stats}"))["value"].as_u64().unwrap()
}

#[test]
fn a_quorum_read_sees_what_gossip_has_not_brought() {
    let cluster = Cluster::start(3, SLOW_NEWS);
    let [one, two, three] = &cluster.nodes[..] else { panic!("three nodes") };
    let (mut writer, mut reader) = (one.redis(), two.redis());
    let mut round = 0;
    wait_for("a read that was faster than the news", || {
        round += 1;
        let key = format!("k{round}");
        write(&mut writer, &key);
        let before = reader.call(&["GET", &key]);
        assert_eq!(reader.call(&["TIDINGS.QGET", &key, "3", "30000"]), bulk(&key));
        if before == Reply::Nil { Ok(()) } else { Err(format!("{before:?}")) }
    });
    assert_eq!(two.metric("tidings_quorum_reads_total"), round);
    assert_eq!(two.metric("tidings_quorum_reads_failed_total"), 0);
    assert!(two.metric("tidings_quorum_repairs_total{side=\"here\"}") >= 1);
    let stats = two.json(&["stats"]);
    assert_eq!((figure(&stats, "quorum_reads"), figure(&stats, "quorum_failed")), (round, 0));

    // Of every kind, merged from writers on two nodes; then the same through the command line.
    let mut other = three.redis();
    for redis in [&mut writer, &mut other] {
        redis.int(&["INCRBY", "hits", "20"]);
        redis.int(&["GCOUNTER.INCRBY", "grown", "3"]);
    }
    writer.int(&["SADD", "who", "a"]);
    other.int(&["SADD", "who", "b"]);
    writer.call(&["SET", "gone", "v"]);
    writer.int(&["DEL", "gone"]);
    let mut ask = |key| reader.call(&["TIDINGS.QGET", key, "3", "30000"]);
    assert_eq!((ask("hits"), ask("grown"), ask("gone")), (Reply::Int(40), Reply::Int(6), Reply::Nil));
    let Reply::Array(mut members) = ask("who") else { panic!("no list") };
    members.sort_by_key(|member| format!("{member:?}"));
    assert_eq!(members, [bulk("a"), bulk("b")]);
    writer.call(&["SET", "late", "news"]);
    let quorum = ["--quorum", "3", "--timeout", "30000"];
    assert_eq!(three.run(&[&["get", "late"][..], &quorum].concat()).done(), "news\n");
    assert_eq!(three.json(&[&["get", "who"][..], &quorum].concat())["value"], json!(["a", "b"]));
    let absent = three.run(&[&["get", "gone"][..], &quorum].concat()).refused(1);
    assert!(absent.contains("there is no key gone"), "{absent}");
}

#[test]
fn a_peer_that_lacks_something_gets_it() {
    let cluster = Cluster::start(2, SLOW_NEWS);
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    let (mut writer, mut other) = (one.redis(), two.redis());
    let (mut round, mut key) = (0, String::new());
    wait_for("a repair", || {
        if key.is_empty() || other.call(&["GET", &key]) != Reply::Nil {
            round += 1;
            key = format!("k{round}");
            write(&mut writer, &key);
        }
        assert_eq!(writer.call(&["TIDINGS.QGET", &key, "2", "30000"]), bulk(&key));
        let repairs = one.metric("tidings_quorum_repairs_total{side=\"peers\"}");
        if repairs > 0 { Ok(()) } else { Err(format!("{round} rounds")) }
    });
    wait_equal("the value at the peer", &bulk(&key), || other.call(&["GET", &key]));
    assert_eq!(one.metric("tidings_quorum_repairs_total{side=\"here\"}"), 0);
}

#[test]
fn who_does_not_answer_is_named() {
    let mut cluster = Cluster::start(3, &[]);
    let mut redis = cluster.nodes[0].redis();
    assert_eq!(redis.call(&["SET", "k", "v"]), ok());
    let error = |text: &str| Reply::Error(text.to_owned());
    cluster.nodes[2].freeze();
    let named = "2 of 3 answered: n1, n2; no answer: n3";
    let qget = |redis: &mut Redis, nodes, millis| redis.call(&["TIDINGS.QGET", "k", nodes, millis]);
    assert_eq!(qget(&mut redis, "3", "3000"), error(&format!("NOQUORUM {named}")));
    assert_eq!(qget(&mut redis, "2", "30000"), bulk("v"));
    // At once, or the test does not end.
    let few = error("NOQUORUM 4 nodes asked for, and only 3 known: n1, n2, n3");
    assert_eq!(qget(&mut redis, "4", "80000000"), few);
    let node = &cluster.nodes[0];
    let refused = node.run(&["get", "k", "--quorum", "3", "--timeout", "3000"]).refused(1);
    assert_eq!(refused, format!("tidings: no quorum: {named}\n"));
    assert_eq!(node.run(&["get", "k", "--quorum", "2", "--timeout", "30000"]).done(), "v\n");
    for typo in
        [&["get", "k", "--timeout", "5"][..], &["get", "k", "--quorum", "0"], &["get", "k", "--quorum", "x"]]
    {
        node.run(typo).refused(2);
    }
    assert_eq!(node.metric("tidings_quorum_reads_failed_total"), 3);

    cluster.nodes[2].thaw();
    assert_eq!(qget(&mut redis, "3", "50000"), bulk("v"));
    // A node that is gone is still one of three.
    cluster.nodes[2].kill();
    assert_eq!(qget(&mut redis, "3", "1000"), error(&format!("NOQUORUM {named}")));
    assert_eq!(qget(&mut redis, "2", "30000"), bulk("v"));
}
