//! The worker as clients meet it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Home;
use crate::resp::{Limits, Options, RespStats, serve};
use crate::store::Fsync;

struct Door {
    home: Home,
    stats: Arc<RespStats>,
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    fn open(limits: Limits) -> Self {
        Self::with(limits, Fsync::No)
    }

    fn with(limits: Limits, fsync: Fsync) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (home, stats) = (Home::new(fsync), Arc::new(RespStats::new()));
        let options = Options { limits, ..Options::default() };
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move { stopped.await.unwrap_or_default() };
        let thread = serve(listener, home.node.clone(), options, stats.clone(), shutdown).unwrap();
        Self { home, stats, address, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> Wire {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Wire(stream)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

struct Wire(TcpStream);

impl Wire {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    #[track_caller]
    fn expect(&mut self, expected: &str) {
        let mut reply = vec![0; expected.len()];
        self.0.read_exact(&mut reply).unwrap();
        assert_eq!(String::from_utf8_lossy(&reply), expected);
    }

    #[track_caller]
    fn ask(&mut self, command: &str, expected: &str) {
        self.send(format!("{command}\r\n").as_bytes());
        self.expect(expected);
    }

    #[track_caller]
    fn expect_end(&mut self) {
        assert_eq!(self.0.read(&mut [0; 100]).unwrap(), 0);
    }
}

/// Waits for what another thread brings about.
#[track_caller]
fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "waited in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn many_clients_share_a_store() {
    let door = Door::open(Limits::default());
    let mut wires: Vec<Wire> = (0..50).map(|_| door.connect()).collect();
    for (n, wire) in wires.iter_mut().enumerate() {
        wire.ask("incr n", &format!(":{}\r\n", n + 1));
    }
    wires[7].ask("get n", "$2\r\n50\r\n");
    wires[7].send(&b"incr n\r\n".repeat(1000));
    for n in 51..=1050 {
        wires[7].expect(&format!(":{n}\r\n"));
    }
    assert_eq!(door.stats.clients.get(), 50);
    drop(wires);
    until(|| door.stats.clients.get() == 0);
    assert_eq!((door.stats.held.get(), door.stats.accepted.get()), (0, 50));
    let by_command: Vec<_> = door.stats.by_command().filter(|(.., calls)| *calls > 0).collect();
    assert_eq!(by_command, [("string", "get", 1), ("string", "incr", 1050)]);
}

#[test]
fn large_values_come_back_whole() {
    let door = Door::open(Limits::default());
    let mut wire = door.connect();
    let value = "v".repeat(16 << 20);
    wire.send(
        format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n{value}\r\nget a\r\nping\r\n", value.len()).as_bytes(),
    );
    wire.expect("+OK\r\n");
    wire.expect(&format!("${}\r\n{value}\r\n+PONG\r\n", value.len()));
}

#[test]
fn one_client_too_many() {
    let door = Door::open(Limits { clients: 1, ..Limits::default() });
    let mut first = door.connect();
    first.ask("ping", "+PONG\r\n");
    let mut second = door.connect();
    second.send(b"ping\r\n");
    second.expect("-ERR max number of clients reached\r\n");
    second.expect_end();
    assert_eq!(door.stats.refused.get(), 1);
    drop(first);
    until(|| door.stats.clients.get() == 0);
    door.connect().ask("ping", "+PONG\r\n");
}

#[test]
fn a_malformed_frame_ends_its_connection_only() {
    let door = Door::open(Limits::default());
    let (mut good, mut bad) = (door.connect(), door.connect());
    good.ask("ping", "+PONG\r\n");
    bad.send(&[&b"ping\r\n*x\r\n"[..], &[b'x'; 100_000]].concat());
    bad.expect("+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n");
    bad.expect_end();
    good.ask("ping", "+PONG\r\n");
    assert_eq!(door.stats.malformed.get(), 1);
}

#[test]
fn a_half_closed_client_gets_its_replies() {
    let door = Door::open(Limits::default());
    let mut wire = door.connect();
    wire.send(b"set a 1\r\nget a\r\n");
    wire.0.shutdown(Shutdown::Write).unwrap();
    wire.expect("+OK\r\n$1\r\n1\r\n");
    wire.expect_end();
    let mut wire = door.connect();
    wire.ask("quit", "+OK\r\n");
    wire.expect_end();
}

#[test]
fn a_slow_reader_is_closed_and_harms_nobody() {
    let door = Door::open(Limits { output: 8 << 20, ..Limits::default() });
    let mut other = door.connect();
    other.ask(&format!("set a {}", "x".repeat(60_000)), "+OK\r\n");
    let mut slow = door.connect();
    slow.0.set_nonblocking(true).unwrap();
    let flood = b"get a\r\n".repeat(1000);
    until(|| {
        while slow.0.write(&flood).is_ok_and(|sent| sent > 0) {}
        other.ask("ping", "+PONG\r\n");
        assert!(door.stats.held.get() < 24 << 20, "{}", door.stats.held.get());
        door.stats.overrun.get() == 1
    });
    until(|| door.stats.clients.get() == 1 && door.stats.held.get() == 0);
    other.ask("ping", "+PONG\r\n");
}

#[test]
fn a_reader_at_work_may_ask_for_more_than_the_bound() {
    let door = Door::open(Limits { output: 4 << 20, ..Limits::default() });
    let mut wire = door.connect();
    let value = "x".repeat(60_000);
    wire.ask(&format!("set a {value}"), "+OK\r\n");
    wire.send(&b"get a\r\n".repeat(500));
    for _ in 0..500 {
        wire.expect(&format!("$60000\r\n{value}\r\n"));
    }
}

#[test]
fn all_buffers_together_are_bounded() {
    let door = Door::open(Limits { buffers: 1 << 20, ..Limits::default() });
    let mut wires: Vec<Wire> = (0..4).map(|_| door.connect()).collect();
    for wire in &mut wires {
        wire.ask("ping", "+PONG\r\n");
        let _ = wire.0.write_all(format!("*2\r\n$3\r\nGET\r\n$500000\r\n{}", "x".repeat(400_000)).as_bytes());
    }
    until(|| door.stats.overrun.get() >= 1);
    until(|| door.stats.held.get() <= 1 << 20);
    door.connect().ask("ping", "+PONG\r\n");
}

#[test]
fn replies_wait_for_the_disk_in_order() {
    let door = Door::with(Limits::default(), Fsync::Always);
    let mut wires: Vec<Wire> = (0..8).map(|_| door.connect()).collect();
    for round in 0..50 {
        for (n, wire) in wires.iter_mut().enumerate() {
            wire.send(format!("set k{n} {round}\r\nget k{n}\r\nincr n\r\n").as_bytes());
            wire.send(b"ping\r\n");
        }
        for wire in &mut wires {
            wire.expect(&format!("+OK\r\n${}\r\n{round}\r\n:", round.to_string().len()));
            let mut rest = Vec::new();
            while !rest.ends_with(b"+PONG\r\n") {
                let mut byte = [0];
                wire.0.read_exact(&mut byte).unwrap();
                rest.push(byte[0]);
            }
        }
    }
    wires[0].ask("get n", "$3\r\n400\r\n");
    assert!(door.stats.batches.get() < 2 * 50 * 8, "{}", door.stats.batches.get());
}

#[test]
fn a_failed_disk_ends_writers_and_spares_readers() {
    let door = Door::open(Limits::default());
    let (mut writer, mut reader) = (door.connect(), door.connect());
    writer.ask("set a 1", "+OK\r\n");
    door.home.node.close();
    writer.send(b"get a\r\nset a 2\r\nget a\r\n");
    writer.expect("-IOERR writes have stopped, and whether this one is on the disk is unknown: ");
    writer.0.read_to_end(&mut Vec::new()).unwrap();
    reader.ask("get nokey", "$-1\r\n");
    reader.ask("set a 3", "-IOERR writes have stopped: ");
    reader.0.set_nonblocking(true).unwrap();
    until(|| reader.0.read(&mut [0; 1000]).is_ok());
    reader.0.set_nonblocking(false).unwrap();
    reader.ask("ping", "+PONG\r\n");
    assert_eq!(door.stats.failed.get(), 1);
}

#[test]
fn wait_holds_back_what_follows() {
    let door = Door::open(Limits::default());
    let (mut wire, mut other) = (door.connect(), door.connect());
    wire.send(b"set a 1\r\nwait 1 50\r\nget a\r\n");
    wire.expect("+OK\r\n");
    let begun = Instant::now();
    other.ask("ping", "+PONG\r\n");
    wire.expect(":0\r\n$1\r\n1\r\n");
    assert!(begun.elapsed() > Duration::from_millis(30));
    wire.ask("wait 0 0", ":0\r\n");
    // A client that leaves does not wait on.
    wire.send(b"wait 1 0\r\n");
    drop(wire);
    until(|| door.stats.clients.get() == 1);
}

#[test]
fn shutdown_answers_what_was_asked() {
    let door = Door::open(Limits::default());
    let mut wire = door.connect();
    wire.ask("set a 1", "+OK\r\n");
    drop(door);
    wire.expect_end();
}

#[test]
fn a_quorum_read_holds_back_what_follows() {
    let door = Door::open(Limits::default());
    let mut wire = door.connect();
    wire.send(b"set a 1\r\ntidings.qget a 1 1000\r\nget a\r\n");
    wire.expect("+OK\r\n$1\r\n1\r\n$1\r\n1\r\n");
    let none = "-NOQUORUM 2 nodes asked for, and only 1 known: n1\r\n";
    wire.send(b"tidings.qget a 2 60000\r\nget a\r\n");
    wire.expect(&format!("{none}$1\r\n1\r\n"));
    for (write, key, reply) in [
        ("incr n", "n", ":1\r\n"),
        ("gcounter.incrby g 5", "g", ":5\r\n"),
        ("sadd s e", "s", "*1\r\n$1\r\ne\r\n"),
        ("ping", "absent", "$-1\r\n"),
    ] {
        wire.send(format!("{write}\r\n").as_bytes());
        let _ = wire.0.read(&mut [0; 100]).unwrap();
        wire.ask(&format!("TIDINGS.QGET {key} 1 1000"), reply);
    }
    assert_eq!(door.stats.errors.get(), 1);
}
