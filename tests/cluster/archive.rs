//! Backups of real nodes to directories, and what comes back from them.

use std::fs;
use std::path::Path;

use super::cluster::{Cluster, Node, REALM, path};
use super::process::{Outcome, tidings};
use super::resp::{Reply, bulk, ok};

const KEYS: usize = 200;

pub(super) fn write(node: &Node, prefix: &str) {
    let mut redis = node.redis();
    for i in 0..KEYS {
        assert_eq!(redis.call(&["SET", &format!("{prefix}:{i}"), &format!("value {i}")]), ok());
        redis.int(&["SADD", &format!("{prefix}-set"), &i.to_string()]);
        redis.int(&["INCR", &format!("{prefix}-sum")]);
    }
}

#[track_caller]
pub(super) fn assert_there(node: &Node, prefix: &str) {
    let mut redis = node.redis();
    for i in 0..KEYS {
        let key = format!("{prefix}:{i}");
        assert_eq!(redis.call(&["GET", &key]), bulk(&format!("value {i}")), "{} lost {key}", node.name);
    }
    assert_eq!(redis.members(&format!("{prefix}-set")).len(), KEYS, "{}", node.name);
    assert_eq!(redis.call(&["GET", &format!("{prefix}-sum")]), bulk(&KEYS.to_string()), "{}", node.name);
}

fn delete(node: &Node, prefix: &str) {
    let mut redis = node.redis();
    for i in 0..KEYS {
        assert_eq!(redis.int(&["DEL", &format!("{prefix}:{i}")]), 1);
    }
    assert_eq!(redis.int(&["DEL", &format!("{prefix}-set"), &format!("{prefix}-sum")]), 2);
}

#[track_caller]
fn assert_gone(node: &Node, prefix: &str) {
    let mut redis = node.redis();
    for i in 0..KEYS {
        let key = format!("{prefix}:{i}");
        assert_eq!(redis.call(&["GET", &key]), Reply::Nil, "{}: {key} is back", node.name);
    }
    let left = redis.int(&["EXISTS", &format!("{prefix}-set"), &format!("{prefix}-sum")]);
    assert_eq!(left, 0, "{}: {prefix} is back", node.name);
}

/// All but the certificates is gone.
pub(super) fn lose_disk(node: &Node) {
    for entry in fs::read_dir(&node.dir).unwrap() {
        let entry = entry.unwrap().path();
        if entry.extension().is_none_or(|extension| extension != "pem") {
            fs::remove_file(entry).unwrap();
        }
    }
}

fn url(dir: &Path) -> String {
    format!("file://{}", path(dir))
}

fn restore(from: &str, dir: &Path) -> Outcome {
    tidings(["restore", "--from", from, "--data-dir", path(dir)])
}

#[test]
fn a_node_that_lost_its_disk_comes_back_from_its_backup_and_revives_nothing() {
    let mut cluster = Cluster::prepare(3, &[]);
    let archive = cluster.dir.path().join("archive");
    cluster.nodes[0].settings.extend(["--archive".to_owned(), url(&archive)]);
    cluster.start_all();
    cluster.wait_linked();
    write(&cluster.nodes[0], "kept");
    write(&cluster.nodes[1], "gone");
    cluster.wait_converged();
    let manifest = cluster.nodes[0].run(&["backup"]).done().trim().to_owned();
    assert!(manifest.starts_with(&format!("{REALM}/n1/")), "{manifest}");
    let status = cluster.nodes[0].json(&["status"]);
    assert_eq!(status["archive"]["manifest"], manifest.as_str());
    assert!(cluster.nodes[0].run(&["status"]).done().contains(&manifest));
    assert_eq!(cluster.nodes[0].json(&["backups"])[0]["name"], manifest.as_str());

    // Not while it runs, and not over anything.
    let running = restore(&url(&archive), &cluster.nodes[0].dir).refused(1);
    assert!(running.contains("is not empty") && running.contains(path(&cluster.nodes[0].dir)), "{running}");
    cluster.nodes[0].kill();
    assert!(restore(&url(&archive), &cluster.nodes[0].dir).refused(1).contains("is not empty"));

    delete(&cluster.nodes[1], "gone");
    write(&cluster.nodes[2], "later");
    lose_disk(&cluster.nodes[0]);
    let said = restore(&url(&archive), &cluster.nodes[0].dir).done();
    assert!(said.contains(&manifest), "{said}");
    // It is what it was, before it has met anybody.
    let join = std::mem::take(&mut cluster.nodes[0].join);
    cluster.nodes[0].start();
    assert_there(&cluster.nodes[0], "kept");
    cluster.nodes[0].terminate();
    cluster.nodes[0].join = join;
    cluster.nodes[0].start();
    cluster.wait_linked();
    cluster.wait_converged();
    for node in &cluster.nodes {
        assert_there(node, "kept");
        assert_there(node, "later");
        assert_gone(node, "gone");
    }
    // And its new writes reach the others: they are of a new incarnation.
    write(&cluster.nodes[0], "new");
    cluster.wait_converged();
    cluster.nodes.iter().for_each(|node| assert_there(node, "new"));
}

#[test]
fn one_backup_brings_back_a_cluster_of_which_no_disk_is_left() {
    let mut cluster = Cluster::start(2, &[]);
    let archive = cluster.dir.path().join("archive");
    write(&cluster.nodes[0], "kept");
    cluster.wait_converged();
    let manifest = cluster.nodes[1].run(&["backup", "--to", &url(&archive)]).done();
    let asked = cluster.nodes[1].run(&["backups", &url(&archive), "--json"]).json();
    assert_eq!(asked[0]["name"], manifest.trim());
    cluster.nodes.iter_mut().for_each(Node::kill);
    cluster.nodes.iter().for_each(lose_disk);
    // The backup of one node, on the other.
    let json = ["restore", "--json", "--from", &url(&archive), "--manifest", manifest.trim(), "--data-dir"];
    let restored = tidings(json.into_iter().chain([path(&cluster.nodes[0].dir)])).json();
    assert_eq!(restored["problems"].as_array().unwrap().len(), 0);
    cluster.start_all();
    cluster.wait_linked();
    cluster.wait_converged();
    cluster.nodes.iter().for_each(|node| assert_there(node, "kept"));
}

#[test]
fn an_empty_directory_is_filled_from_the_archive_first() {
    let mut cluster = Cluster::prepare(2, &[]);
    let archive = cluster.dir.path().join("archive");
    fs::create_dir(&archive).unwrap();
    for node in &mut cluster.nodes {
        node.settings
            .extend(["--archive", &url(&archive), "--restore-from", &url(&archive)].map(str::to_owned));
    }
    // There is nothing in it yet: the nodes start blank.
    cluster.start_all();
    cluster.wait_linked();
    assert!(cluster.nodes[0].log().contains("starting blank"), "{}", cluster.nodes[0].log());
    write(&cluster.nodes[0], "kept");
    cluster.wait_converged();
    cluster.nodes[0].run(&["backup"]).done();
    cluster.nodes.iter_mut().for_each(Node::kill);
    cluster.nodes.iter().for_each(lose_disk);
    // Each alone: nobody else has it.
    for node in &mut cluster.nodes {
        let join = std::mem::take(&mut node.join);
        node.start();
        assert!(node.log().contains("restoring the newest checkpoint"), "{}", node.log());
        assert_there(node, "kept");
        node.join = join;
        node.terminate();
    }
    // An archive that cannot be read is no empty archive.
    lose_disk(&cluster.nodes[0]);
    fs::rename(&archive, archive.with_extension("away")).unwrap();
    let mut words = cluster.nodes[0].arguments();
    words.retain(|word| word != "--exit-with-stdin");
    let refused = tidings(&words);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains(path(&archive)) && refused.err.contains("restore_from"), "{}", refused.err);
}

#[test]
fn restore_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (archive, home) = (dir.path().join("archive"), dir.path().join("home"));
    let missing = restore(&url(&archive), &home).refused(1);
    assert!(missing.contains(path(&archive)), "{missing}");
    fs::create_dir(&archive).unwrap();
    assert!(restore(&url(&archive), &home).refused(1).contains("there is no checkpoint"));
    assert!(restore("ftp://x", &home).refused(2).contains("must begin with file:/// or s3://"));
    assert!(restore("file://relative", &home).refused(2).contains("must be absolute"));
    let bad_name =
        ["restore", "--from", &url(&archive), "--data-dir", path(&home), "--manifest", "yesterday"];
    assert!(tidings(bad_name).refused(2).contains("tidings backups"));
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("thesis.txt"), "mine").unwrap();
    let full = restore(&url(&archive), &home).refused(1);
    assert!(full.contains("thesis.txt") && full.contains("is not empty"), "{full}");
    let check = tidings(["config", "check", "--archive", "s3://B"]).refused(2);
    assert!(check.contains("--archive: `archive` cannot be \"s3://B\""), "{check}");
}
