//! Who is refused, and with which reason.

use time::OffsetDateTime;

use super::super::MAX_HANDSHAKES;
use super::*;

/// Neither end has seen a link or a message of the other.
fn strangers(node: &Node, refused: &str) {
    let met = node
        .events()
        .iter()
        .any(|event| matches!(event, Event::Up(_, actor) if actor.node.as_str() == refused));
    assert!(!met, "{refused} became a link");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_certificate() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let trust = credentials(&ca, "x", days());
    let endpoint = raw_endpoint(raw_client(&trust, None, ALPN));
    // With TLS 1.3 the client learns of the refusal only after its side of the handshake.
    if let Ok(connection) = endpoint.connect(a.address(), "x").unwrap().await {
        connection.closed().await;
    }
    until("it is counted", || a.refused(Reason::NoCertificate) == 1).await;
    assert_eq!((a.net.stats().accepted.get(), a.ups()), (0, 1));
    healthy(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authority() {
    let (ca, other) = (authority("alpha"), authority("alpha"));
    let (a, b) = pair(&ca).await;
    // One that trusts us and shows a certificate of its own authority.
    let own = credentials(&other, "x", days());
    let endpoint = raw_endpoint(raw_client(&credentials(&ca, "y", days()), Some(&own), ALPN));
    if let Ok(connection) = endpoint.connect(a.address(), "x").unwrap().await {
        connection.closed().await;
    }
    until("it is counted", || a.refused(Reason::WrongAuthority) == 1).await;
    // One that does not trust us either, as a node of another cluster would.
    let x = Node::start(&other, "x", 9);
    x.dial(&a);
    until("both count it", || {
        x.refused(Reason::WrongAuthority) > 0 && a.refused_by_peer(Reason::WrongAuthority) > 0
    })
    .await;
    let error = x.net.addresses()[0].last_error.clone().unwrap_or_default();
    assert!(error.contains("wrong_authority"), "{error}");
    strangers(&a, "x");
    healthy(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate() {
    let now = OffsetDateTime::now_utc();
    let day = time::Duration::DAY;
    let ca = Authority::create("alpha", Validity { from: now - 9 * day, until: now + 9 * day }).unwrap();
    let (a, b) = pair(&ca).await;
    let x = credentials(&ca, "x", Validity { from: now - 5 * day, until: now - day });
    let x = Node::start_with(config(), &x, 9);
    x.dial(&a);
    until("it is counted", || a.refused(Reason::Expired) > 0).await;
    // The other way round: the expired one is dialled.
    a.dial(&x);
    until("it is counted", || x.refused_by_peer(Reason::Expired) > 0).await;
    strangers(&a, "x");
    healthy(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_realm_of_the_same_authority() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let beta = ca.misuse_for_realm("beta");
    let x = Node::start(&beta, "x", 9);
    x.dial(&a);
    until("it is counted", || {
        let count = |node: &Node| node.refused(Reason::WrongRealm) + node.refused_by_peer(Reason::WrongRealm);
        count(&a) > 0 && count(&x) > 0
    })
    .await;
    strangers(&a, "x");
    strangers(&x, "a");
    healthy(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_protocol() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let own = credentials(&ca, "x", days());
    let endpoint = raw_endpoint(raw_client(&own, Some(&own), b"other/1"));
    assert!(endpoint.connect(a.address(), "x").unwrap().await.is_err());
    until("it is counted", || a.refused(Reason::WrongAlpn) == 1).await;
    healthy(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_is_wrong() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let versions = |lowest, highest| Hello { versions: (lowest, highest), ..hello_of("alpha", "x", 9) };
    let oversized = u32::MAX.to_le_bytes().to_vec();
    let cases = [
        (encode_hello(&hello_of("alpha", "other", 9)), Reason::BadHello),
        (encode_hello(&hello_of("beta", "x", 9)), Reason::WrongRealm),
        (encode_hello(&versions(2, 9)), Reason::Version),
        (encode_hello(&versions(0, 0)), Reason::Version),
        (vec![3, 0, 0, 0, 1, 2, 3], Reason::BadHello),
        (oversized, Reason::BadHello),
    ];
    for (frame, reason) in cases {
        let before = a.refused(reason);
        let mut raw = Raw::connect(&a, &credentials(&ca, "x", days())).await;
        raw.news.write_all(&frame).await.unwrap();
        assert_eq!(raw.close_code().await, reason);
        until("it is counted", || a.refused(reason) == before + 1).await;
    }
    strangers(&a, "x");
    healthy(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_hello_in_time() {
    let ca = authority("alpha");
    let mut impatient = config();
    impatient.hello_timeout = Duration::from_millis(300);
    let a = Node::start_with(impatient, &credentials(&ca, "a", days()), 1);
    let raw = Raw::connect(&a, &credentials(&ca, "x", days())).await;
    assert_eq!(raw.close_code().await, Reason::HandshakeTimeout);
    until("it is counted", || a.refused(Reason::HandshakeTimeout) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_are_wrong() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let wrong_lane = Frame::new(&bulk(1));
    let cases = [
        (u32::MAX.to_le_bytes().to_vec(), Lane::News, Reason::Oversized),
        ((2u32 << 20).to_le_bytes().to_vec(), Lane::News, Reason::Oversized),
        (u32::MAX.to_le_bytes().to_vec(), Lane::Bulk, Reason::Oversized),
        (vec![2, 0, 0, 0, 255, 255], Lane::News, Reason::Malformed),
        (tidings_proto::frame::encode_message(&bulk(1)), Lane::News, Reason::Malformed),
    ];
    assert_eq!(wrong_lane.lane(), Lane::Bulk);
    for (frame, lane, reason) in cases {
        let before = a.net.stats().ended.get(reason);
        let (mut raw, _answer) = Raw::linked(&a, &ca, "x").await;
        let stream = if lane == Lane::News { &mut raw.news } else { &mut raw.bulk };
        stream.write_all(&frame).await.unwrap();
        assert_eq!(raw.close_code().await, reason);
        until("it is counted", || a.net.stats().ended.get(reason) == before + 1).await;
        until("the link is forgotten", || a.net.link_to(&name("x")).is_none()).await;
    }
    assert_eq!((a.net.stats().oversized.get(), a.net.stats().malformed.get()), (3, 2));
    a.assert_order();
    healthy(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beside_the_lanes() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let (mut raw, _answer) = Raw::linked(&a, &ca, "x").await;
    raw.bulk.write_all(&tidings_proto::frame::encode_message(&bulk(1))).await.unwrap();
    let mut third = raw.connection.open_uni().await.unwrap();
    third.write_all(b"hello").await.unwrap();
    assert_eq!(raw.close_code().await, Reason::Protocol);
    healthy(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_certificate_used_twice() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let double = Node::start(&ca, "a", 99);
    double.dial(&a);
    until("both sides say so", || {
        let count = |node: &Node| node.refused(Reason::SameName) + node.refused_by_peer(Reason::SameName);
        count(&a) > 0 && count(&double) > 0
    })
    .await;
    assert_eq!((a.ups(), double.ups()), (1, 0));
    healthy(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_links_than_allowed() {
    let ca = authority("alpha");
    let mut small = config();
    small.max_links = 1;
    let a = Node::start_with(small, &credentials(&ca, "a", days()), 1);
    let (b, c) = (Node::start(&ca, "b", 2), Node::start(&ca, "c", 3));
    b.dial(&a);
    linked(&a, &b).await;
    c.dial(&a);
    until("it is counted", || a.refused(Reason::TooMany) > 0 && c.refused_by_peer(Reason::TooMany) > 0).await;
    strangers(&a, "c");
    healthy(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_handshakes_than_allowed() {
    let ca = authority("alpha");
    let patient = NetConfig { hello_timeout: Duration::from_secs(3), ..config() };
    let a = Node::start_with(patient, &credentials(&ca, "a", days()), 1);
    let b = Node::start(&ca, "b", 2);
    b.dial(&a);
    linked(&a, &b).await;
    let own = credentials(&ca, "x", days());
    let endpoint = raw_endpoint(raw_client(&own, Some(&own), ALPN));
    let mut silent = Vec::new();
    while a.refused(Reason::TooMany) == 0 {
        assert!(silent.len() <= 2 * MAX_HANDSHAKES, "no bound");
        silent.push(endpoint.connect(a.address(), "x").unwrap().await);
    }
    assert!(a.net.stats().retries.get() > 0);
    healthy(&a, &b).await;
    let c = Node::start(&ca, "c", 3);
    c.dial(&a);
    linked(&a, &c).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_above_refuses() {
    let ca = authority("alpha");
    let (a, b) = (Node::start(&ca, "a", 1), Node::start(&ca, "b", 2));
    a.recorder.refusing.store(true, Ordering::Relaxed);
    b.dial(&a);
    until("the reason arrives", || {
        b.net.addresses()[0].last_error.as_ref().is_some_and(|error| error.contains("not today"))
    })
    .await;
    assert_eq!((a.ups(), a.downs()), (0, 0));
    a.recorder.refusing.store(false, Ordering::Relaxed);
    linked(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_port() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for round in 0..2_000u32 {
        let mut datagram = vec![0; (round as usize * 7) % 1_400 + 1];
        rand::fill(&mut datagram[..]);
        if round % 2 == 0 {
            // The look of an Initial packet of QUIC version 1.
            let head = [0xc3, 0, 0, 0, 1, 8];
            let length = head.len().min(datagram.len());
            datagram[..length].copy_from_slice(&head[..length]);
            datagram.resize(1_200, 0);
        }
        socket.send_to(&datagram, a.address()).unwrap();
    }
    healthy(&a, &b).await;
    let c = Node::start(&ca, "c", 3);
    c.dial(&a);
    linked(&a, &c).await;
    assert_eq!((a.ups(), a.downs()), (2, 0));
}
