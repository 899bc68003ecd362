//! Client and server over a real socket, and bytes that are neither.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::node::api::{BackupRequest, Change, Detail, KeyRow, PullRequest, Scan, Value};
use crate::node::fake::Fake;

struct World {
    _dir: TempDir,
    path: PathBuf,
    client: Client,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let stop = CancellationToken::new();
    let socket = Socket::bind(&path).unwrap();
    let served = tokio::spawn(socket.serve(Arc::new(Fake::default()), stop.clone()));
    World { client: Client::new(&path), _dir: dir, path, stop, served }
}

/// Sends raw bytes and returns all that comes back.
async fn raw(world: &World, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(&world.path).await.unwrap();
    let _ = stream.write_all(bytes).await;
    // A request names its own end; a client that hangs up before the answer does not get it.
    if !String::from_utf8_lossy(bytes).contains("connection: close") {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn data_of_every_kind_goes_both_ways() {
    let World { client, .. } = &world();
    let key = b"a/b c?\xff";
    client.write(key, Change::Set(vec![0, 0xff, b'x'])).await.unwrap();
    let row = client.read(key, Detail::Values).await.unwrap().unwrap();
    assert_eq!(
        (row.key.0.as_slice(), row.value.clone()),
        (&key[..], Some(Value::Bytes(vec![0, 0xff, b'x'].into())))
    );
    assert!(client.read(b"absent", Detail::Values).await.unwrap().is_none());

    let quorum = |key: &'static [u8], nodes| client.read_quorum(key, Detail::Values, nodes, None);
    assert_eq!(quorum(key, 1).await.unwrap(), Some(row));
    assert_eq!(quorum(b"absent", 1).await.unwrap(), None);
    let refused = quorum(key, 2).await.unwrap_err().to_string();
    assert_eq!(refused, "no quorum: 1 of 2 answered: fake");

    client.write(b"", Change::Set(b"empty".to_vec())).await.unwrap();
    assert!(client.read(b"", Detail::Values).await.unwrap().is_some());

    client.write(b"s", Change::Add(vec![b"one".to_vec(), b"two".to_vec()])).await.unwrap();
    client.write(b"s", Change::Remove(vec![b"one".to_vec()])).await.unwrap();
    let row = client.read(b"s", Detail::Versions).await.unwrap().unwrap();
    assert_eq!((row.value, row.versions.len()), (Some(Value::Elements(vec!["two".into()])), 1));

    let written = client.write(b"n", Change::Increment(CounterKind::PnCounter, -4)).await.unwrap();
    assert_eq!(written.value, Some(-4));
    let refused = client.write(b"g", Change::Increment(CounterKind::GCounter, -1)).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused { status: 400, message } if message.contains("grows")));
    let refused = client.write(b"n", Change::Add(vec![b"x".to_vec()])).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status: 409, .. }));

    assert_eq!(client.write(b"n", Change::Delete).await.unwrap().changed, 1);
    assert_eq!(client.write(b"n", Change::Delete).await.unwrap().changed, 0);
}

#[tokio::test]
async fn keys_come_in_pages_and_a_dump_in_one() {
    let World { client, .. } = &world();
    for i in 0..2_500 {
        client.write(format!("k{i:04}").as_bytes(), Change::Set(vec![b'v'; 100])).await.unwrap();
    }
    let mut scan = Scan { prefix: b"k1".to_vec(), limit: 300, detail: Detail::Names, ..Scan::default() };
    let mut names = Vec::new();
    loop {
        let page = client.scan(&scan).await.unwrap();
        names.extend(page.keys.into_iter().map(|row| row.key));
        scan.cursor = page.cursor;
        if scan.cursor.is_none() {
            break;
        }
    }
    assert_eq!(names.len(), 1_000);
    let mut dumped = 0;
    let count = |row: KeyRow| {
        dumped += row.versions.len();
        true
    };
    client.dump(count).await.unwrap();
    assert_eq!(dumped, 2_500);
    let request = PullRequest { peer: "p".parse().unwrap(), keys: vec![], names_only: true, cursor: None };
    assert_eq!(client.pull(&request).await.unwrap().keys.len(), 10);
}

#[tokio::test]
async fn the_cluster_is_reached_too() {
    let World { client, .. } = &world();
    assert_eq!(client.status().await.unwrap().node.as_str(), "fake");
    assert!(client.members().await.unwrap()[0].own);
    client.add_peer("10.0.0.1:7380").await.unwrap();
    assert_eq!(client.peers().await.unwrap()[0].address, "10.0.0.1:7380");
    client.remove_peer("10.0.0.1:7380").await.unwrap();
    let refused = client.remove_peer("10.0.0.1:7380").await.unwrap_err();
    assert_eq!(refused.to_string(), "there is no peer 10.0.0.1:7380");
    let peer = Some("node-2".parse().unwrap());
    assert_eq!(client.push(peer.clone()).await.unwrap()[0].ops, 3);
    assert_eq!(client.sync(peer.clone(), false).await.unwrap().len(), 1);
    let refused = client.sync(None, false).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status: 503, .. }));
    assert!(matches!(client.sync(peer, true).await.unwrap_err(), ClientError::Refused { status: 400, .. }));
    assert!(!client.stats(None).await.unwrap().is_empty());
    assert!(client.config().await.unwrap().iter().any(|row| row.key == "fanout"));
    let to = BackupRequest { to: Some("file:///b".to_owned()) };
    assert_eq!(client.backup(&to).await.unwrap().manifest, "file:///b: test/fake/1");
    let refused = client.backup(&BackupRequest::default()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status: 400, .. }));
    assert!(client.backups().await.unwrap().is_empty());
    client.leave().await.unwrap();
}

#[tokio::test]
async fn nobody_there_is_said_plainly() {
    let error = Client::new("/nonexistent/admin.sock").status().await.unwrap_err().to_string();
    assert!(
        error.contains("no node listens at /nonexistent/admin.sock") && error.contains("--admin"),
        "{error}"
    );
    let long = vec![0xff; 64 << 10];
    let World { client, .. } = &world();
    assert!(client.read(&long, Detail::Values).await.unwrap_err().to_string().contains("too long"));
}

#[tokio::test]
async fn garbage_harms_nobody() {
    let world = world();
    let request = |head: &str, body: &str| {
        format!(
            "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let cases = [
        ("GET /v1/nothing", "", "404", "there is no /v1/nothing"),
        ("PUT /v1/status", "", "405", "does not take this method"),
        ("PUT /v1/keys/a", "", "400", "missing field `value`"),
        ("PUT /v1/keys/a", "{\"value\":", "400", "the body"),
        ("PUT /v1/keys/a", "{\"value\":\"x\",\"ttl\":1}", "400", "unknown field `ttl`"),
        ("PUT /v1/keys/%zz", "{\"value\":\"x\"}", "400", "percent-encoding"),
        ("POST /v1/keys/a", "{\"increment\":{\"by\":1e9}}", "400", "the body"),
        ("POST /v1/keys/a", "{\"increment\":{\"by\":1,\"kind\":\"gcounter\"},\"add\":[]}", "400", "the body"),
        ("POST /v1/peers", "{\"address\":\"nowhere\"}", "400", "host:port"),
        ("GET /v1/keys?limit=many", "", "400", "limit"),
        ("GET /v1/keys?offset=1", "", "400", "no parameter offset"),
        ("GET /v1/keys/a?detail=all", "", "400", "detail"),
        ("GET /v1/keys/a?quorum=0", "", "400", "quorum: a whole number from 1"),
        ("GET /v1/keys/a?quorum=x", "", "400", "quorum"),
        ("GET /v1/keys/a?quorum=1&timeout=-1", "", "400", "timeout"),
        ("GET /v1/keys/a?timeout=5", "", "400", "only with quorum"),
        ("GET /v1/keys/a?quorum=1", "", "404", "there is no key a"),
        ("GET /v1/keys/a?quorum=2&timeout=5", "", "503", "no quorum: 1 of 2 answered: fake"),
        ("GET /v1/stats?peer=No%20Body", "", "400", "peer"),
        ("GET /v1/keys/a", "", "404", "there is no key a"),
    ];
    for (head, body, status, word) in cases {
        let answer = raw(&world, request(head, body).as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {answer}");
        let json = answer.split("\r\n\r\n").nth(1).unwrap();
        let failure: Failure = serde_json::from_str(json).unwrap();
        assert!(failure.error.contains(word), "{head}: {}", failure.error);
    }
    let oversized = request("PUT /v1/keys/a", &"x".repeat(BODY + 1));
    let answer = raw(&world, oversized.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    for bytes in [&b"*1\r\n$4\r\nPING\r\n"[..], b"\0\0\0\xff", &[b'A'; 1 << 20], b"\x16\x03\x01"] {
        raw(&world, bytes).await;
    }
    assert!(
        raw(&world, request("POST /v1/keys/c", "{\"increment\":{\"by\":2}}").as_bytes())
            .await
            .ends_with("\"value\":2}")
    );
    assert!(world.client.status().await.is_ok());
}

#[tokio::test]
async fn the_socket_is_private_and_goes_with_the_node() {
    let world = world();
    assert_eq!(std::fs::metadata(&world.path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(Socket::bind(&world.path).unwrap_err(), BindError::InUse(_)));
    world.stop.cancel();
    world.served.await.unwrap();
    assert!(!world.path.exists());
    assert_eq!(std::fs::read_dir(world.path.parent().unwrap()).unwrap().count(), 0, "nothing stays behind");
}

#[tokio::test]
async fn only_a_dead_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let second = Socket::bind(&path).unwrap();
    assert!(matches!(Socket::bind(&path).unwrap_err(), BindError::InUse(_)));
    drop(second);
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(Socket::bind(&file).unwrap_err(), BindError::NotASocket(_)));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let deep = dir.path().join("x".repeat(120)).join("admin.sock");
    assert!(Socket::bind(&deep).unwrap_err().to_string().contains("too long"));
}
