//! A disk that is full or refuses: writes stop with a reason, reads go on, and nothing acknowledged is lost.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cluster::{Cluster, Node, path};
use super::http;
use super::process::{copy_dir, outcome, wait_equal, wait_for};
use super::resp::{Redis, Reply, bulk, ok};

const SMALL: &[&str] = &["--segment-size", "1MiB", "--log-disk", "1MiB"];

fn key(i: usize) -> String {
    format!("key:{i}")
}

fn length(redis: &mut Redis, i: usize) -> usize {
    match redis.call(&["GET", &key(i)]) {
        Reply::Bulk(value) => value.len(),
        other => panic!("key {i}: {other:?}"),
    }
}

/// Writes until it is refused; returns how many were acknowledged.
fn write_until_refused(node: &Node) -> (usize, String) {
    let (mut redis, value) = (node.redis(), "x".repeat(8 << 10));
    for i in 0..10_000 {
        match redis.call(&["SET", &key(i), &value]) {
            Reply::Error(why) => return (i, why),
            reply => assert_eq!(reply, ok()),
        }
    }
    panic!("the disk never refused:\n{}", node.log());
}

#[track_caller]
fn assert_reads_only(node: &Node, acknowledged: usize, why: &str) {
    assert!(why.starts_with("IOERR writes have stopped"), "{why}");
    let mut redis = node.redis();
    for i in [0, acknowledged / 2, acknowledged - 1] {
        assert_eq!(length(&mut redis, i), 8 << 10);
    }
    for refused in [&["SET", "k", "v"][..], &["DEL", "key:0"], &["INCR", "n"], &["SADD", "s", "a"]] {
        assert!(matches!(redis.call(refused), Reply::Error(_)), "{refused:?}");
    }
    assert_eq!(length(&mut redis, 0), 8 << 10);
    let status = node.ask("/v1/status");
    assert!(status["writes_stopped"].is_string(), "{status}");
    assert!(node.run(&["status"]).done().contains("stopped: "), "{status}");
    assert!(node.run(&["set", "k", "v"]).refused(1).contains("writes have stopped"), "{status}");
    assert_eq!(node.metric("tidings_writes_stopped"), 1);
    let ready = http::get(node.http, "/readyz").unwrap();
    assert!(ready.status == 503 && ready.body.contains("writes have stopped"), "{ready:?}");
    assert_eq!(http::get(node.http, "/healthz").unwrap().status, 200);
}

#[track_caller]
fn assert_whole(cluster: &mut Cluster, acknowledged: usize) {
    let mut redis = cluster.nodes[0].redis();
    for i in 0..acknowledged {
        assert_eq!(length(&mut redis, i), 8 << 10, "key {i} of {acknowledged} is lost");
    }
    assert_eq!(redis.call(&["SET", "k", "v"]), ok());
    cluster.wait_linked();
    wait_equal("a write after the trouble", &bulk("v"), || cluster.nodes[1].redis().call(&["GET", "k"]));
    wait_equal("what a peer wrote meanwhile", &bulk("there"), || redis.call(&["GET", "meanwhile"]));
    cluster.wait_converged();
}

/// The node may have been told by others that it cannot write when it is stopped.
fn restart(node: &mut Node, between: impl FnOnce()) {
    node.signal(rustix::process::Signal::TERM);
    node.wait_down();
    between();
    node.start();
}

#[test]
fn a_file_that_cannot_grow() {
    let mut cluster = Cluster::prepare(2, SMALL);
    // The limit is to be an error and not a signal.
    cluster.nodes[0].launcher = ["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"].map(str::to_owned).to_vec();
    cluster.start_all();
    cluster.wait_linked();
    let limit = format!("--pid={}", cluster.nodes[0].id());
    outcome(Command::new("prlimit").args([limit.as_str(), "--fsize=700000"])).done();
    let (acknowledged, why) = write_until_refused(&cluster.nodes[0]);
    assert!(acknowledged > 10, "{acknowledged}: {why}");
    assert_eq!(cluster.nodes[1].redis().call(&["SET", "meanwhile", "there"]), ok());
    assert_reads_only(&cluster.nodes[0], acknowledged, &why);
    cluster.nodes[0].launcher.clear();
    restart(&mut cluster.nodes[0], || {});
    assert_whole(&mut cluster, acknowledged);
}

/// A file system of so many megabytes, gone when dropped.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path, megabytes: u32) -> Option<Self> {
        let size = format!("size={megabytes}m");
        let mount = outcome(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs", path(at)]));
        (mount.code == Some(0)).then(|| Self(at.to_owned()))
    }

    fn resize(&self, megabytes: u32) {
        let options = format!("remount,size={megabytes}m");
        outcome(Command::new("mount").args(["-o", &options, path(&self.0)])).done();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", path(&self.0)]).status();
    }
}

#[test]
fn a_full_disk() {
    let mut cluster = Cluster::prepare(2, SMALL);
    let dir = cluster.nodes[0].dir.clone();
    let certificates = cluster.nodes[0].image();
    let Some(mounted) = Mounted::new(&dir, 5) else {
        eprintln!("skipped: mounting a small file system takes root");
        return;
    };
    cluster.mounts.push(mounted);
    copy_dir(&certificates, &dir);
    cluster.start_all();
    cluster.wait_linked();
    let (acknowledged, why) = write_until_refused(&cluster.nodes[0]);
    assert!(acknowledged > 100, "{acknowledged}: {why}");
    assert_eq!(cluster.nodes[1].redis().call(&["SET", "meanwhile", "there"]), ok());
    assert_reads_only(&cluster.nodes[0], acknowledged, &why);
    let mounted = &cluster.mounts[0];
    restart(&mut cluster.nodes[0], || mounted.resize(200));
    assert_whole(&mut cluster, acknowledged);
}

#[test]
fn no_room_to_start() {
    let mut cluster = Cluster::prepare(1, SMALL);
    let dir = cluster.nodes[0].dir.clone();
    let certificates = cluster.nodes[0].image();
    let Some(mounted) = Mounted::new(&dir, 1) else {
        eprintln!("skipped: mounting a small file system takes root");
        return;
    };
    cluster.mounts.push(mounted);
    copy_dir(&certificates, &dir);
    std::fs::write(dir.join("ballast"), vec![1; 900 << 10]).unwrap();
    let node = &mut cluster.nodes[0];
    let error = tidings_run(node).refused(1);
    assert!(error.contains("No space left"), "{error}");
    cluster.mounts[0].resize(50);
    node.start();
    wait_for("a write", || match node.redis().call(&["SET", "k", "v"]) {
        Reply::Simple(_) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn tidings_run(node: &Node) -> super::process::Outcome {
    super::process::tidings(node.arguments().into_iter().filter(|word| word != "--exit-with-stdin"))
}
