//! The life of a link.

use super::super::{NEWS_QUEUE_FRAMES, QueueFull};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_link_and_exchange_on_both_lanes() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let (ab, ba) = linked(&a, &b).await;
    assert!(ab.dialled() && !ba.dialled());
    assert_eq!((ab.peer().as_str(), ba.actor().incarnation), ("b", 1));
    for id in 0..1_000 {
        ab.send(&Frame::new(&news(id))).unwrap();
        ba.send(&Frame::new(&bulk(id))).unwrap();
    }
    until("all arrive", || b.got(&news(999)) && a.got(&bulk(999))).await;
    let at_b: Vec<_> = b.events().into_iter().filter(|event| matches!(event, Event::Message(..))).collect();
    let sent: Vec<_> = (0..1_000).map(|id| Event::Message(ba.id(), news(id))).collect();
    assert_eq!(at_b, sent, "in order, each once");

    let large =
        Message::Sync(tidings_proto::message::Sync::Block { id: 1, index: 0, block: vec![9; 3 << 20] });
    ab.send(&Frame::new(&large)).unwrap();
    until("a large frame arrives", || b.got(&large)).await;

    until("writable is said", || a.recorder.writable.lock().contains(&ab.id())).await;
    let (out, into) = (a.net.stats(), b.net.stats());
    assert_eq!(out.news.frames_out.get(), into.news.frames_in.get());
    assert_eq!(out.bulk.bytes_out.get(), into.bulk.bytes_in.get());
    let kinds = |kind| into.by_kind().find(|(name, _)| *name == kind).unwrap().1.frames_in.get();
    assert_eq!((kinds("stats"), kinds("block"), kinds("batch")), (1_000, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_link_to_each_other() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let c = Node::start(&ca, "c", 3);
    c.dial(&a);
    b.dial(&c);
    linked(&a, &c).await;
    linked(&b, &c).await;
    for (one, two) in [(&a, &b), (&b, &c), (&c, &a)] {
        healthy(one, two).await;
        assert_eq!(one.net.links().len(), 2);
        one.assert_order();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dialling_each_other_at_once_leaves_one_link() {
    let ca = authority("alpha");
    for round in 0..25 {
        let (a, b) = (Node::start(&ca, "a", round), Node::start(&ca, "b", round + 100));
        // Each by two addresses: up to four connections race.
        for (one, other) in [(&a, &b), (&b, &a)] {
            one.dial(other);
            one.net.want(&format!("localhost:{}", other.address().port())).unwrap();
        }
        linked(&a, &b).await;
        until("all addresses have found the link", || {
            let settled = |node: &Node| {
                node.net.addresses().iter().all(|status| matches!(status.state, AddressState::Connected(_)))
            };
            settled(&a) && settled(&b)
        })
        .await;
        healthy(&a, &b).await;
        assert_eq!((a.ups(), a.downs(), b.ups(), b.downs()), (1, 0, 1, 0), "round {round}");
        let (ours, theirs) = (a.link_to(&b).unwrap(), b.link_to(&a).unwrap());
        assert_ne!(ours.dialled(), theirs.dialled(), "the same connection");
        let loud = [Reason::BadHello, Reason::HandshakeTimeout, Reason::Other, Reason::Protocol];
        for (node, reason) in [&a, &b].into_iter().flat_map(|node| loud.map(|reason| (node, reason))) {
            assert_eq!(node.refused(reason) + node.refused_by_peer(reason), 0, "{reason} at {}", node.name());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_is_linked_again() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let address = b.address();
    b.net.shutdown("restarting").await;
    assert_eq!((b.ups(), b.downs()), (1, 1));
    drop(b);
    let b = Node::start_at(address, &credentials(&ca, "b", days()), 22).await;
    linked(&a, &b).await;
    assert_eq!(a.link_to(&b).unwrap().actor().incarnation, 22);
    healthy(&a, &b).await;
    a.assert_order();
    assert!(
        a.events().iter().any(|event| matches!(event, Event::Down(_, why) if why.contains("restarting")))
    );
}

/// A node that vanishes without a word is replaced by its next life at once, not after the idle time-out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_incarnation_replaces_a_silent_link() {
    let ca = authority("alpha");
    for (silent, other) in [("z", "a"), ("a", "z")] {
        let node = Node::start(&ca, other, 1);
        let first = Node::start(&ca, silent, 2);
        first.dial(&node);
        linked(&first, &node).await;
        first.net.unwant(&node.address().to_string());
        let second = Node::start(&ca, silent, 3);
        second.dial(&node);
        until("the new life has the link", || {
            node.net.link_to(&name(silent)).is_some_and(|link| link.actor().incarnation == 3)
        })
        .await;
        node.assert_order();
        let ended = |reason| node.net.stats().ended.get(reason);
        assert_eq!(ended(Reason::Replaced) + ended(Reason::TimedOut), 1);
        drop(first);
    }
}

/// The next packet to a restarted node is answered with a reset, although that node knows nothing of the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_noticed_at_the_next_packet_after_the_restart() {
    let ca = authority("alpha");
    let a = Node::start(&ca, "a", 1);
    let own = Arc::new(credentials(&ca, "b", days()));
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = own.clone();
    let b = doomed.spawn(async move { Node::start_with(config(), &first, 2) }).await.unwrap();
    a.dial(&b);
    linked(&a, &b).await;
    let address = b.address();
    doomed.shutdown_background();
    drop(b);
    let b = Node::start_at(address, &own, 3).await;
    a.link_to(&b).expect("nothing noticed yet").send(&Frame::new(&news(1))).unwrap();
    until("the new life has the link", || a.link_to(&b).is_some_and(|link| link.actor().incarnation == 3))
        .await;
    assert_eq!(a.net.stats().ended.get(Reason::Reset), 1);
    linked(&a, &b).await;
    healthy(&a, &b).await;
    a.assert_order();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_costs_only_itself() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let (_raw, _unread) = Raw::linked(&a, &ca, "slow").await;
    let slow = a.net.link_to(&name("slow")).unwrap();
    let frame =
        Frame::new(&Message::Sync(tidings_proto::message::Sync::Abort { id: 1, reason: "x".repeat(250) }));
    let deadline = Instant::now() + DEADLINE;
    let full = loop {
        assert!(Instant::now() < deadline, "the queue never fills");
        if let Err(full) = slow.send(&frame) {
            break full;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(full, QueueFull(Lane::News));
    until("it stays full", || (0..NEWS_QUEUE_FRAMES).any(|_| slow.send(&frame).is_err())).await;
    assert!(a.net.stats().news_queue_full.get() > 0);
    healthy(&a, &b).await;
    slow.close("too slow");
    until("it is down", || a.downs() == 1).await;
    healthy(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_bulk_lane_does_not_hold_up_news() {
    let ca = authority("alpha");
    let a = Node::start(&ca, "a", 1);
    let (raw, mut unread_news) = Raw::linked(&a, &ca, "slow").await;
    let slow = a.net.link_to(&name("slow")).unwrap();
    let block = Frame::new(&Message::Sync(tidings_proto::message::Sync::Block {
        id: 1,
        index: 0,
        block: vec![1; 1 << 20],
    }));
    while slow.send(&block).is_ok() {
        tokio::task::yield_now().await;
    }
    slow.send(&Frame::new(&news(5))).unwrap();
    let mut read = vec![0; 1];
    let hello = encode_hello(&a.recorder.hello).len();
    let read_news = async {
        for _ in 0..hello + 1 {
            unread_news.read_exact(&mut read).await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, read_news).await.expect("news come through");
    drop(raw);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_our_own_is_remembered_as_such() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let own = a.address().to_string();
    a.net.want(&own).unwrap();
    let state = || a.net.addresses().into_iter().find(|status| status.address == own).unwrap().state;
    until("it is recognised", || state() == AddressState::Itself).await;
    assert_eq!(a.ups(), 1);
    healthy(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_dialled_until_somebody_is_there() {
    let ca = authority("alpha");
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let mut impatient = config();
    impatient.hello_timeout = Duration::from_millis(300);
    let a = Node::start_with(impatient, &credentials(&ca, "a", days()), 1);
    a.net.want(&address.to_string()).unwrap();
    until("an attempt fails", || a.net.addresses()[0].last_error.is_some()).await;
    drop(silent);
    let b = Node::start_at(address, &credentials(&ca, "b", days()), 2).await;
    linked(&a, &b).await;
    until("its state says so", || a.net.addresses()[0].state == AddressState::Connected(name("b"))).await;
    assert_eq!(a.net.addresses()[0].last_error, None);

    assert!(a.net.unwant(&address.to_string()));
    assert!(a.net.addresses().is_empty());
    healthy(&a, &b).await;
    a.link_to(&b).unwrap().close("done");
    until("the link is down", || a.downs() == 1 && b.downs() == 1).await;
    assert!(b.events().iter().any(|event| matches!(event, Event::Down(_, why) if why.contains("done"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_reloaded_without_dropping_links() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let before = a.link_to(&b).unwrap().id();
    a.net.reload(&credentials(&ca, "a", days())).unwrap();
    assert!(a.net.reload(&credentials(&ca, "other", days())).is_err());
    healthy(&a, &b).await;
    assert_eq!(a.link_to(&b).unwrap().id(), before);
    let c = Node::start(&ca, "c", 3);
    c.dial(&a);
    linked(&c, &a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_tells_everybody() {
    let ca = authority("alpha");
    let (a, b) = pair(&ca).await;
    let began = Instant::now();
    a.net.shutdown("maintenance").await;
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!((a.ups(), a.downs()), (1, 1));
    until("the peer knows", || b.downs() == 1).await;
    assert_eq!(b.net.stats().ended.get(Reason::Shutdown), 1);
    assert!(
        b.events().iter().any(|event| matches!(event, Event::Down(_, why) if why.contains("maintenance")))
    );
}
