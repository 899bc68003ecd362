//! `tidings dev`: a cluster with one command.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Signal;

use super::cluster::path;
use super::process::{
    Permit, Running, TIDINGS, free_ports, is_alive, tidings, wait_equal, wait_for, wait_until,
};
use super::resp::{Redis, bulk, ok};

struct Dev {
    base: u16,
    dir: PathBuf,
    out: PathBuf,
    running: Running,
}

impl Dev {
    fn start(dir: &Path, base: u16) -> Self {
        let out = dir.with_extension("out");
        let mut command = Command::new(TIDINGS);
        command.args(["dev", "--base-port", &base.to_string(), "--dir", path(dir)]);
        let file = File::create(&out).unwrap();
        let running = Running::start(command.stdout(file.try_clone().unwrap()).stderr(file));
        let mut dev = Self { base, dir: dir.to_owned(), out, running };
        wait_for("dev to be ready", || {
            if let Some(status) = dev.running.ended() {
                panic!("dev ended ({status}): {}", dev.said());
            }
            if dev.said().lines().any(|line| line == "ready") { Ok(()) } else { Err(dev.said()) }
        });
        dev
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    fn redis(&self, node: u16) -> Redis {
        Redis::connect(SocketAddr::from(([127, 0, 0, 1], self.base + node))).unwrap()
    }

    /// The processes of the nodes, as their lock files say.
    fn nodes(&self) -> Vec<u32> {
        let lock = |i: u32| fs::read_to_string(self.dir.join(format!("node-{i}/LOCK"))).unwrap();
        (1..=3).map(|i| lock(i).trim().parse().unwrap()).collect()
    }

    /// Ends dev by a signal; its nodes must end with it.
    fn end(mut self, signal: Signal) -> (ExitStatus, String) {
        let nodes = self.nodes();
        assert!(nodes.iter().all(|id| is_alive(*id)));
        self.running.signal(signal);
        let status = self.running.wait();
        wait_until("the nodes to end with dev", || !nodes.iter().any(|id| is_alive(*id)));
        (status, self.said())
    }
}

fn offsets() -> Vec<u16> {
    [0, 100, 200].into_iter().flat_map(|kind| [kind + 1, kind + 2, kind + 3]).collect()
}

#[test]
fn three_nodes_with_one_command() {
    let _permit = Permit::take();
    let (home, base) = (tempfile::tempdir().unwrap(), free_ports(&offsets()));
    let dir = home.path().join("dev");
    let dev = Dev::start(&dir, base);
    let (mut one, mut two, mut three) = (dev.redis(1), dev.redis(2), dev.redis(3));
    assert_eq!(one.call(&["SET", "greeting", "hello"]), ok());
    assert_eq!(one.int(&["INCR", "hits"]), 1);
    assert_eq!(one.int(&["SADD", "who", "a", "b"]), 2);
    for redis in [&mut two, &mut three] {
        wait_equal("the value", &bulk("hello"), || redis.call(&["GET", "greeting"]));
        wait_equal("the count", &bulk("1"), || redis.call(&["GET", "hits"]));
        wait_equal("the set", &vec!["a".to_owned(), "b".to_owned()], || redis.members("who"));
    }

    let increments = |mut redis: Redis| {
        std::thread::spawn(move || {
            let incr: Vec<_> = (0..2_000).map(|_| vec!["INCR".to_owned(), "together".to_owned()]).collect();
            assert_eq!(redis.pipeline(&incr).len(), 2_000);
        })
    };
    let busy: Vec<_> = (1..=3).map(|node| increments(dev.redis(node))).collect();
    busy.into_iter().for_each(|thread| thread.join().unwrap());
    for redis in [&mut one, &mut two, &mut three] {
        wait_equal("the sum", &bulk("6000"), || redis.call(&["GET", "together"]));
    }

    let (status, said) = dev.end(Signal::INT);
    assert!(status.success(), "{status}: {said}");
    assert!(!said.contains("did not stop"), "{said}");
    for i in 1..=3 {
        let log = fs::read_to_string(dir.join(format!("node-{i}/log"))).unwrap();
        assert!(log.trim_end().ends_with("stopped"), "node-{i} did not stop cleanly: {log}");
    }

    let again = Dev::start(&dir, base);
    for node in 1..=3 {
        let mut redis = again.redis(node);
        assert_eq!(redis.call(&["GET", "greeting"]), bulk("hello"), "node-{node}");
        assert_eq!(redis.call(&["GET", "together"]), bulk("6000"), "node-{node}");
    }
    assert_eq!(again.redis(3).int(&["INCR", "together"]), 6_001);
    wait_equal("a later write", &bulk("6001"), || again.redis(1).call(&["GET", "together"]));
    let (status, _) = again.end(Signal::KILL);
    assert!(!status.success());

    let third = Dev::start(&dir, base);
    assert_eq!(third.redis(2).call(&["GET", "together"]), bulk("6001"));
    let (status, said) = third.end(Signal::TERM);
    assert!(status.success(), "{status}: {said}");
}

#[test]
fn a_node_that_dies_is_named_and_the_rest_is_stopped() {
    let _permit = Permit::take();
    let (home, base) = (tempfile::tempdir().unwrap(), free_ports(&offsets()));
    let mut dev = Dev::start(&home.path().join("dev"), base);
    let nodes = dev.nodes();
    super::process::signal(nodes[1], Signal::KILL);
    assert_eq!(dev.running.wait().code(), Some(1));
    assert!(dev.said().contains("node-2 died (signal: 9"), "{}", dev.said());
    assert!(!nodes.iter().any(|id| is_alive(*id)));
}

#[test]
fn a_port_in_use_is_named() {
    let (home, base) = (tempfile::tempdir().unwrap(), free_ports(&offsets()));
    let taken = TcpListener::bind(("127.0.0.1", base + 2)).unwrap();
    let dir = home.path().join("dev");
    let error = tidings(["dev", "--base-port", &base.to_string(), "--dir", path(&dir)]).refused(1);
    drop(taken);
    for part in ["node-2", &format!("port {}", base + 2), "--base-port", "in use"] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
}
