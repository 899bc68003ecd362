//! What QUIC alone carries from one process to another on this machine: the transport of a node, as it is configured
//! and with mutual TLS, one stream, and a receiver that only counts.
//!
//! `cargo bench --bench raw_quic`, or `MEGABYTES=20 cargo bench --bench raw_quic`
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::env;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use tidings::net::WRITE_BYTES;
use tidings::net::certs::{Authority, Validity};
use tidings::net::endpoint::open;
use tidings::net::tls::{CredentialFiles, Credentials};
use tokio::runtime::Runtime;

/// Set for the process that receives: where its certificate is.
const RECEIVER: &str = "TIDINGS_RAW_QUIC_RECEIVER";
const ANYWHERE: &str = "127.0.0.1:0";
/// What blocks of cells are about the size of: one frame, written as it is.
const CHUNK: usize = 128 << 10;

fn main() {
    let runtime = Runtime::new().expect("a runtime");
    match env::var_os(RECEIVER) {
        Some(dir) => runtime.block_on(receive(Path::new(&dir))),
        None => {
            let megabytes = env::var("MEGABYTES").map_or(118, |text| text.parse().expect("it is a number"));
            let dir = tempfile::tempdir().expect("a directory");
            let authority =
                Authority::create("bench", Validity::days(1).expect("a day")).expect("an authority");
            for node in ["sender", "receiver"] {
                let validity = Validity::days(1).expect("a day");
                authority.issue_into(&dir.path().join(node), node, &[], validity).expect("a certificate");
            }
            let mut receiver = Command::new(env::current_exe().expect("this program"))
                .env(RECEIVER, dir.path().join("receiver"))
                .stdout(Stdio::piped())
                .spawn()
                .expect("the receiver");
            let mut lines = BufReader::new(receiver.stdout.take().expect("it is piped")).lines();
            let mut line = || lines.next().expect("the receiver says something").expect("and it can be read");
            let to: SocketAddr = line().parse().expect("an address");
            runtime.block_on(send(&dir.path().join("sender"), to, megabytes * 1_000_000));
            println!("{}", line());
            receiver.wait().expect("it ends");
        }
    }
}

fn credentials(dir: &Path) -> Credentials {
    Credentials::load(&CredentialFiles::in_dir(dir)).expect("credentials")
}

async fn send(dir: &Path, to: SocketAddr, bytes: usize) {
    let (endpoint, config) =
        open(ANYWHERE.parse().expect("an address"), &credentials(dir)).expect("an endpoint");
    let connection =
        endpoint.connect_with(config, to, "tidings").expect("it dials").await.expect("it connects");
    let mut stream = connection.open_uni().await.expect("a stream");
    let mut left = bytes;
    while left > 0 {
        let chunk = Bytes::from(vec![7; left.min(CHUNK)]);
        left -= chunk.len();
        stream.write_chunk(chunk).await.expect("it is taken");
    }
    stream.finish().expect("it can end");
    connection.closed().await;
}

async fn receive(dir: &Path) {
    let (endpoint, _) = open(ANYWHERE.parse().expect("an address"), &credentials(dir)).expect("an endpoint");
    println!("{}", endpoint.local_addr().expect("an address"));
    let connection = endpoint.accept().await.expect("a peer").await.expect("it connects");
    let began = Instant::now();
    let mut stream = connection.accept_uni().await.expect("a stream");
    let mut bytes = 0;
    while let Some(chunk) = stream.read_chunk(WRITE_BYTES, true).await.expect("it goes on") {
        bytes += chunk.bytes.len();
    }
    let took = began.elapsed().as_secs_f64();
    let rate = bytes as f64 / took / 1e6;
    println!("{bytes} B in {took:.3} s, {rate:.0} MB/s");
    connection.close(0u32.into(), b"done");
    endpoint.wait_idle().await;
}
