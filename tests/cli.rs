//! The program as its users meet it: exit codes, reasons, and a whole local cluster.

#![allow(clippy::disallowed_methods, reason = "real processes in real time")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

fn tidings() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    let settings = std::env::vars_os().map(|(name, _)| name);
    settings.filter(|name| name.to_string_lossy().starts_with("TIDINGS_")).for_each(|name| {
        command.env_remove(name);
    });
    command
}

fn run(arguments: &[&str]) -> Output {
    tidings().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn fails(code: i32, arguments: &[&str], word: &str) {
    let output = run(arguments);
    let reason = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {reason}");
    assert!(reason.contains(word), "{arguments:?}: {reason}");
    assert!(output.stdout.is_empty(), "{arguments:?}: reasons go to standard error");
}

#[test]
fn exit_codes_tell_usage_from_failure() {
    for arguments in
        [&["help"][..], &["--version"], &["version", "--json"], &["config", "check"], &["run", "--help"]]
    {
        assert_eq!(run(arguments).status.code(), Some(0), "{arguments:?}");
    }
    fails(2, &[], "Usage");
    fails(2, &["nonsense"], "unrecognized subcommand");
    fails(2, &["get"], "required");
    fails(2, &["status", "--fast"], "unexpected argument");
    fails(2, &["incr", "k", "much"], "invalid value");
    fails(2, &["sync", "node-1", "--all"], "cannot be used with");
    fails(2, &["push", "No Such Name"], "a name is made of");
    fails(2, &["run", "--fanout", "99"], "allowed is 1 to 64");
    fails(2, &["get", "-e", "\\q", "--admin", "/nonexistent"], "malformed escape");
    fails(1, &["status", "--admin", "/nonexistent/admin.sock"], "no node listens at /nonexistent/admin.sock");
    fails(1, &["config", "check", "--config", "/nonexistent.toml"], "/nonexistent.toml");
}

#[test]
fn settings_are_checked_and_shown_with_their_origin() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.toml");
    fs::write(&file, "fanout = 4\nzone = \"a\"\n").unwrap();
    let file = file.to_str().unwrap();
    let mut command = tidings();
    command.env("TIDINGS_ZONE", "b").env("TIDINGS_FAN", "1");
    let output =
        command.args(["config", "check", "--json", "--config", file, "--fsync", "always"]).output().unwrap();
    assert!(text(&output.stderr).contains("TIDINGS_FAN is no setting"), "{}", text(&output.stderr));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let row = |key: &str| rows.iter().find(|row| row["key"] == key).unwrap();
    assert_eq!(row("fanout")["origin"], format!("{file}:1"));
    assert_eq!((&row("zone")["value"], &row("zone")["origin"]), (&"b".into(), &"TIDINGS_ZONE".into()));
    assert_eq!((&row("fsync")["value"], &row("fsync")["origin"]), (&"always".into(), &"--fsync".into()));
    assert_eq!(row("listen")["origin"], "default");

    fs::write(file, "\nfanot = 4\n").unwrap();
    fails(1, &["config", "check", "--config", file], "t.toml:2: unknown key `fanot`; did you mean `fanout`?");
    fails(1, &["run", "--config", file], "t.toml:2: unknown key");
}

/// A base for which all ports of `nodes` nodes are free now.
fn free_base(nodes: u16) -> u16 {
    let free = |base: u16| {
        (1..=nodes).all(|i| {
            let tcp =
                [base + i, base + 200 + i].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
            tcp && UdpSocket::bind(("127.0.0.1", base + 100 + i)).is_ok()
        })
    };
    // Spread by process, for several test runs may share a machine; below the ports that systems hand out.
    let start = (std::process::id() % 40) as u16;
    (0..40)
        .map(|step| 10_000 + (start + step) % 40 * 400)
        .find(|base| free(*base))
        .expect("40 ranges are not all taken")
}

struct Cluster {
    child: Child,
    nodes: Vec<Pid>,
}

impl Cluster {
    /// Starts `dev` and waits for `ready`.
    fn start(dir: &Path, base: u16) -> Self {
        let mut command = tidings();
        command.args(["dev", "--nodes", "2", "--base-port", &base.to_string(), "--dir"]).arg(dir);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let lines: Vec<_> = lines.map_while(Result::ok).take_while(|line| line != "ready").collect();
        if lines.is_empty() {
            panic!("dev ended: {}", text(&child.wait_with_output().unwrap().stderr));
        }
        assert!(
            lines[1].contains("node-1") && lines[2].contains(&format!("127.0.0.1:{}", base + 2)),
            "{lines:?}"
        );
        let nodes = children(child.id());
        assert_eq!(nodes.len(), 2);
        Self { child, nodes }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end of `dev` and of all its nodes. Returns its exit code and its last words.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = self.child.wait().unwrap();
        self.nodes.iter().for_each(|node| wait_for_end(*node));
        (status.code(), said)
    }
}

/// A test that fails leaves nothing running: the nodes do not outlive `dev`.
impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn wait_for_end(node: Pid) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while test_kill_process(node).is_ok() {
        assert!(Instant::now() < deadline, "a node lives on");
        sleep(Duration::from_millis(20));
    }
}

fn children(parent: u32) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    list.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
}

/// Asks a node until it answers so.
#[track_caller]
fn eventually(dir: &Path, node: &str, arguments: &[&str], expected: &str) {
    let socket = dir.join(node).join("admin.sock");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let output = tidings().args(arguments).arg("--admin").arg(&socket).output().unwrap();
        let answer = text(&output.stdout);
        if answer == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{arguments:?} on {node}: {answer:?} {}", text(&output.stderr));
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_development_cluster_lives_and_ends_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, base) = (dir.path(), free_base(2));

    let cluster = Cluster::start(dir, base);
    eventually(dir, "node-1", &["set", "-e", "k\\xff", "v\\x00"], "1\n");
    eventually(dir, "node-2", &["get", "-e", "k\\xff", "--raw"], "v\0");
    eventually(dir, "node-2", &["incr", "n", "-5"], "-5\n");
    eventually(dir, "node-1", &["get", "n"], "-5\n");
    eventually(dir, "node-1", &["pull", "node-2", "--keys"], "k\\xff\nn\n");
    let second =
        tidings().args(["dev", "--base-port", &base.to_string(), "--dir"]).arg(dir).output().unwrap();
    let reason = text(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(reason.contains("node-1: port ") && reason.contains("in use"), "{reason}");
    kill_process(cluster.nodes[0], Signal::HUP).unwrap();
    eventually(dir, "node-1", &["get", "n"], "-5\n");
    cluster.signal(Signal::INT);
    assert_eq!(cluster.end(), (Some(0), String::new()));
    let log = fs::read_to_string(dir.join("node-1/log")).unwrap();
    assert!(log.contains("settings read again") && log.contains("stopped"), "{log}");

    let cluster = Cluster::start(dir, base);
    eventually(dir, "node-2", &["get", "n"], "-5\n");
    eventually(dir, "node-1", &["leave"], "");
    wait_for_end(cluster.nodes[0]);
    eventually(dir, "node-2", &["incr", "n"], "-4\n");
    kill_process(cluster.nodes[1], Signal::KILL).unwrap();
    let (code, reason) = cluster.end();
    assert_eq!(code, Some(1));
    assert!(reason.contains("node-1 has left"), "{reason}");
    assert!(reason.contains("node-2 died") && reason.contains("INFO"), "{reason}");

    let cluster = Cluster::start(dir, base);
    eventually(dir, "node-1", &["get", "n"], "-4\n");
    cluster.signal(Signal::KILL);
    assert_eq!(cluster.end().0, None);
}
