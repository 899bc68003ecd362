//! The operator's commands against a running cluster, each with its JSON.

use serde_json::{Value, json};

use super::cluster::{Cluster, Node};
use super::process::{wait_equal, wait_for};
use super::resp::{Reply, bulk, ok};

fn rows(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("no list: {value}"))
}

fn column<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    rows(value).iter().map(|row| &row[name]).collect()
}

#[test]
fn status_members_peers_and_stats() {
    let cluster = Cluster::start(3, &["--zone", "rack-1"]);
    let node = &cluster.nodes[0];
    let status = node.json(&["status"]);
    assert_eq!(
        (&status["node"], &status["realm"], &status["zone"]),
        (&json!("n1"), &json!("test"), &json!("rack-1"))
    );
    assert_eq!(status["not_ready"], Value::Null);
    assert_eq!(status["addresses"]["resp"], json!(node.resp.to_string()));
    wait_equal("members", &json!(["n1", "n2", "n3"]), || json!(column(&node.json(&["members"]), "node")));
    let members = node.json(&["members"]);
    assert_eq!(column(&members, "state"), ["alive"; 3]);
    assert_eq!(column(&members, "zone"), ["rack-1"; 3]);
    let peers = node.json(&["peers"]);
    assert_eq!(column(&peers, "linked"), [true, true]);
    assert!(column(&peers, "rtt_us").iter().all(|rtt| rtt.as_u64() > Some(0)), "{peers}");

    node.redis().call(&["SET", "k", "v"]);
    cluster.wait_converged();
    for words in [&["stats"][..], &["stats", "n2"], &["stats", "n1"]] {
        let stats = node.json(words);
        assert!(rows(&stats).len() > 20, "{words:?}: {stats}");
        assert!(rows(&stats).iter().all(|row| row["name"].is_string() && row["value"].is_u64()), "{stats}");
    }
    let received = node.json(&["stats", "n2"]);
    let received = rows(&received).iter().find(|row| row["name"] == "ops_received");
    assert_eq!(received.expect("peers count what they receive")["value"], 1);
    let error = node.run(&["stats", "n7"]).refused(1);
    assert!(error.contains("n7"), "{error}");
    for words in [&["status"][..], &["members"], &["peers"], &["stats"], &["config", "show"]] {
        assert!(node.run(words).done().lines().count() > 2, "{words:?}");
    }
    assert!(node.json(&["version"])["version"].is_string());
}

#[test]
fn data_of_every_kind() {
    let cluster = Cluster::start(2, &[]);
    let node = &cluster.nodes[0];
    assert_eq!(node.json(&["set", "greeting", "hello"]), json!({"changed": 1}));
    assert_eq!(node.json(&["incr", "hits", "5"]), json!({"changed": 1, "value": 5}));
    assert_eq!(node.json(&["incr", "hits", "-2"])["value"], 3);
    assert_eq!(node.json(&["incr", "grown", "7", "-g"])["value"], 7);
    assert_eq!(node.json(&["add", "who", "a", "b", "c"]), json!({"changed": 3}));
    assert_eq!(node.json(&["rem", "who", "b", "z"]), json!({"changed": 1}));
    let error = node.run(&["incr", "grown", "-7", "-g"]).refused(1);
    assert!(error.contains("only grows"), "{error}");
    let error = node.run(&["add", "greeting", "a"]).refused(1);
    assert!(error.contains("the key is a lww_register"), "{error}");
    cluster.wait_converged();

    let other = &cluster.nodes[1];
    assert_eq!(other.json(&["get", "greeting"])["value"], "hello");
    assert_eq!(other.json(&["get", "hits"])["kind"], "pncounter");
    assert_eq!(other.run(&["get", "who"]).done(), "a\nc\n");
    assert_eq!(other.run(&["get", "greeting", "--raw"]).done(), "hello");
    let lines = |text: String| -> Vec<Value> {
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.sort_by_key(|row| row["key"].to_string());
        lines
    };
    let keys = lines(other.run(&["keys", "--json"]).done());
    let named =
        |row: &Value| (row["key"].as_str().unwrap().to_owned(), row["kind"].as_str().unwrap().to_owned());
    let wanted =
        [("greeting", "lww_register"), ("grown", "gcounter"), ("hits", "pncounter"), ("who", "or_set")];
    assert_eq!(keys.iter().map(named).collect::<Vec<_>>(), wanted.map(|(k, v)| (k.to_owned(), v.to_owned())));
    let dump = lines(other.run(&["dump", "--json"]).done());
    assert_eq!(dump.len(), 4);
    assert!(dump.iter().all(|row| !rows(&row["versions"]).is_empty()), "{dump:?}");
    assert_eq!(other.run(&["dump"]).done().lines().count(), 4);
    let versions = other.json(&["versions", "greeting"]);
    let version = &versions["versions"][0];
    assert_eq!((&version["origin"], &version["visible"]), (&json!("n1"), &json!(true)));
    assert!(version["content"].as_str().unwrap().len() == 64 && version["dot"].is_string(), "{versions}");

    // What a peer holds, without merging it.
    let names = lines(node.run(&["pull", "n2", "--keys", "--json"]).done());
    assert_eq!(
        names.iter().map(|row| row["key"].clone()).collect::<Vec<_>>(),
        ["greeting", "grown", "hits", "who"]
    );
    let pulled = lines(node.run(&["pull", "n2", "greeting", "who", "--json"]).done());
    assert_eq!(
        pulled,
        lines(other.run(&["dump", "--json"]).done())
            .into_iter()
            .filter(|row| row["key"] == "greeting" || row["key"] == "who")
            .collect::<Vec<_>>()
    );
    assert!(node.run(&["pull", "n2"]).done().contains("greeting"));
    let error = node.run(&["pull", "n2", "nothing"]);
    assert!(error.code == Some(1) && error.err.contains("n2 has no key nothing"), "{error:?}");

    assert_eq!(other.json(&["del", "greeting", "nothing"]), json!({"changed": 1}));
    let error = other.run(&["get", "greeting"]).refused(1);
    assert!(error.contains("there is no key greeting"), "{error}");
}

#[test]
fn wait_counts_the_peers_that_hold_a_write() {
    let mut cluster = Cluster::start(3, &[]);
    let mut redis = cluster.nodes[0].redis();
    assert_eq!(redis.call(&["SET", "k", "v"]), ok());
    assert_eq!(redis.int(&["WAIT", "2", "30000"]), 2);
    cluster.nodes[2].freeze();
    assert_eq!(redis.call(&["SET", "k", "w"]), ok());
    assert_eq!(redis.int(&["WAIT", "1", "30000"]), 1);
    assert_eq!(redis.int(&["WAIT", "2", "100"]), 1);
    cluster.nodes[2].thaw();
    assert_eq!(redis.int(&["WAIT", "2", "30000"]), 2);
    cluster.nodes[1].terminate();
    wait_equal("the links", &vec!["n3".to_owned()], || cluster.nodes[0].linked());
    assert_eq!(redis.call(&["SET", "k", "x"]), ok());
    assert_eq!(redis.int(&["WAIT", "1", "30000"]), 1);
}

#[test]
fn sync_push_and_their_rows() {
    let cluster = Cluster::start(3, &[]);
    let node = &cluster.nodes[0];
    node.redis().call(&["SET", "k", "v"]);
    cluster.wait_converged();
    let equal = |words: &[&str], wanted: usize| {
        wait_for("equal rounds", || {
            let synced = node.json(words);
            let all = column(&synced, "result").iter().all(|result| **result == json!("equal"));
            if all && rows(&synced).len() == wanted { Ok(()) } else { Err(synced.to_string()) }
        });
    };
    equal(&["sync", "--all"], 2);
    equal(&["sync", "n3"], 1);
    equal(&["sync"], 2);
    let pushed = node.json(&["push"]);
    assert_eq!(column(&pushed, "ops"), [0, 0]);
    assert_eq!(column(&node.json(&["push", "n2"]), "node"), ["n2"]);
    let error = node.run(&["sync", "nobody"]).refused(1);
    assert!(error.contains("nobody"), "{error}");
    let usage = node.run(&["sync", "n2", "--all"]).refused(2);
    assert!(usage.contains("--all"), "{usage}");
}

#[test]
fn a_node_that_leaves_gives_what_it_has_and_ends() {
    let mut cluster = Cluster::start(3, &[]);
    let mut redis = cluster.nodes[2].redis();
    (0..200).for_each(|i| assert_eq!(redis.call(&["SET", &format!("k:{i}"), "v"]), ok()));
    cluster.nodes[2].run(&["leave"]).done();
    let status = cluster.nodes[2].wait_down();
    assert!(status.success(), "{status}\n{}", cluster.nodes[2].log());
    for node in &cluster.nodes[..2] {
        assert_eq!(node.redis().int(&["DBSIZE"]), 200, "{}", node.name);
        wait_for("the member to be gone", || {
            let members = node.json(&["members"]);
            let left = rows(&members).iter().all(|row| row["node"] != "n3" || row["state"] == "left");
            let sought = column(&node.json(&["peers"]), "node").contains(&&json!("n3"));
            if left && !sought { Ok(()) } else { Err(format!("{members}, sought: {sought}")) }
        });
    }
    // Whoever left may come again.
    cluster.nodes[2].start();
    cluster.wait_linked();
    let dump = cluster.wait_converged();
    assert_eq!(dump.len(), 200);
}

/// Until neither has a link to the other: while one still seeks, it may bring the link back once.
fn part(one: &Node, two: &Node) {
    wait_for("the link to be cut", || {
        for (node, peer) in [(one, two), (two, one)] {
            let removed = node.run(&["peers", "remove", &peer.name]);
            if removed.code != Some(0) {
                assert!(removed.err.contains("neither linked nor sought"), "{removed:?}");
            }
        }
        let seen = [one, two].map(|node| node.json(&["peers"]));
        if seen.iter().all(|peers| rows(peers).is_empty()) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
fn peers_are_removed_and_added_and_versions_of_both_sides_are_shown() {
    let cluster = Cluster::start(2, &[]);
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    assert_eq!(one.redis().call(&["SET", "shared", "before"]), ok());
    cluster.wait_converged();
    part(one, two);
    assert_eq!(one.redis().call(&["SET", "shared", "of one"]), ok());
    assert_eq!(two.redis().call(&["SET", "shared", "of two"]), ok());
    one.redis().int(&["INCR", "hits"]);
    two.redis().int(&["INCR", "hits"]);
    assert!(one.linked().is_empty());
    assert_eq!(one.redis().call(&["GET", "shared"]), bulk("of one"));
    let error = one.run(&["sync"]).refused(1);
    assert!(error.contains("no peer is linked"), "{error}");

    one.run(&["peers", "add", &two.quic.to_string()]).done();
    cluster.wait_linked();
    cluster.wait_converged();
    assert_versions(one);
    assert_versions(two);
    assert_eq!(one.redis().call(&["GET", "hits"]), bulk("2"));
    let error = one.run(&["peers", "remove", "nobody"]).refused(1);
    assert!(error.contains("nobody"), "{error}");
    let error = one.run(&["peers", "add", "no address"]).refused(1);
    assert!(error.contains("no address"), "{error}");
    // A write that has seen both leaves one.
    assert_eq!(two.redis().call(&["SET", "shared", "after"]), ok());
    wait_equal("one version", &1, || rows(&one.json(&["versions", "shared"])["versions"]).len());
}

/// Both sides' values are listed, one of them is seen by readers, and RESP lists the same.
fn assert_versions(node: &Node) {
    let versions = node.json(&["versions", "shared"]);
    let mut values = column(&versions["versions"], "value");
    values.sort_by_key(|value| value.to_string());
    assert_eq!(values, ["of one", "of two"]);
    let visible = rows(&versions["versions"]).iter().filter(|row| row["visible"] == true);
    assert_eq!(visible.map(|row| &row["value"]).collect::<Vec<_>>(), [&versions["value"]]);
    let table = node.run(&["versions", "shared"]).done();
    assert!(table.contains("of one") && table.contains("of two"), "{table}");
    let mut redis = node.redis();
    let Reply::Array(listed) = redis.call(&["TIDINGS.VERSIONS", "shared"]) else { panic!("no list") };
    assert_eq!(listed.len(), 2);
    assert_eq!(redis.call(&["GET", "shared"]), bulk(versions["value"].as_str().unwrap()));
    assert_eq!(node.metric("tidings_conflict_keys{type=\"versions\"}"), 1);
}

#[test]
fn versions_of_nodes_that_never_ran_together_are_shown() {
    let mut cluster = Cluster::start(2, &[]);
    cluster.nodes[1].kill();
    assert_eq!(cluster.nodes[0].redis().call(&["SET", "shared", "of one"]), ok());
    cluster.nodes[0].kill();
    cluster.nodes[1].start();
    assert_eq!(cluster.nodes[1].redis().call(&["SET", "shared", "of two"]), ok());
    cluster.nodes[0].start();
    cluster.wait_linked();
    cluster.wait_converged();
    cluster.nodes.iter().for_each(assert_versions);
}
