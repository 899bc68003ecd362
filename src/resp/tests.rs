//! Bytes in, bytes out: every command without a socket, then the worker over real ones.

use std::net::SocketAddr;
use std::sync::Arc;

use super::below::Node;
use super::call::Session;
use super::server::Worker;
use super::talk::Talk;
use super::{Limits, Options, RespStats};
use crate::node;
use crate::node::api::Timings;
use crate::store::{self, Fsync};

mod commands;
mod sockets;

/// A node of its own in a directory of its own.
struct Home {
    node: Node,
    _dir: tempfile::TempDir,
}

impl Home {
    fn new(fsync: Fsync) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = node::Options {
            order: crate::core::table::HashKey(1, 2),
            data_dir: dir.path().to_path_buf(),
            node: "n1".parse().unwrap(),
            realm: "test".parse().unwrap(),
            zone: String::new(),
            advertise: Vec::new(),
            settings: Default::default(),
            fsync,
            log_memory: 1 << 20,
            checkpoint_bytes: 1 << 30,
            limits: Default::default(),
            ready_lag: 1 << 20,
            bounds: Default::default(),
            audit_interval: std::time::Duration::ZERO,
            store: store::Options { segment_bytes: 1 << 20, ..Default::default() },
            archive: Default::default(),
        };
        Self { node: Node::open(options, Timings::default()).unwrap(), _dir: dir }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.node.close();
    }
}

/// A worker without a thread, and one connection to it.
struct Bench {
    _home: Home,
    worker: Worker,
    talk: Talk,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let local: SocketAddr = "127.0.0.1:7379".parse().unwrap();
        let home = Home::new(Fsync::No);
        let options = Options { limits, settings: vec![("gossip".into(), "on".into())] };
        let worker = Worker::new(home.node.clone(), options, Arc::new(RespStats::new()), local);
        let peer = "127.0.0.1:50000".parse().unwrap();
        let talk = Talk::new(Session::new(1, peer, local, worker.node.now()));
        Self { _home: home, worker, talk }
    }

    /// Feeds bytes and takes what would be sent, as if every commit held at once.
    fn exchange(&mut self, input: &[u8]) -> Vec<u8> {
        self.talk.feed(&self.worker, &mut input.to_vec());
        let mut output = Vec::new();
        loop {
            self.talk.seal();
            self.talk.out.release();
            let sendable = self.talk.out.sendable().to_vec();
            self.talk.out.advance(sendable.len());
            output.extend(sendable);
            if !self.talk.can_resume() {
                return output;
            }
            self.talk.resume(&self.worker);
        }
    }

    /// The same with text: an inline command without its line end.
    fn ask(&mut self, command: &str) -> String {
        let output = self.exchange(format!("{command}\r\n").as_bytes());
        output.escape_ascii().to_string().replace("\\r\\n", " ").replace("\\'", "'").trim_end().to_string()
    }

    #[track_caller]
    fn script(&mut self, lines: &[(&str, &str)]) {
        for (command, expected) in lines {
            assert_eq!(self.ask(command), *expected, "{command}");
        }
    }
}
