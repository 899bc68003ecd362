//! The engine and the node at their limits: one test a fault that was found and mended.

use tidings::core::parked::Room;
use tidings::core::replica::Recovery;
use tidings::core::table::HashKey;
use tidings::engine::{Engine, Event, Input, LinkId, Now, Settings, Short, Write, WriteError};
use tidings_proto::cell::{ParkedState, ParkedTarget};
use tidings_proto::message::{Pull, Push, Range, Sync};
use tidings_proto::{Actor, Hello, Message, SeenEntries};

fn actor(n: &str) -> Actor {
    Actor { node: n.parse().unwrap(), incarnation: 7 }
}
fn now(s: u64) -> Now {
    Now { mono: s * 1_000_000, wall: 1_700_000_000_000 + s * 1000 }
}
fn engine(n: &str) -> Engine {
    Engine::new(Recovery::new(HashKey(1, 2), 64 << 20), &actor(n), Settings::default(), 1, now(1)).unwrap()
}
fn hello(n: &str) -> Hello {
    Hello {
        versions: (1, 1),
        realm: "r".parse().unwrap(),
        actor: actor(n),
        zone: String::new(),
        addresses: vec![],
        clock: 1_700_000_000_000,
        order: 0,
    }
}
fn up(e: &mut Engine, id: u64, n: &str) {
    e.handle(now(1), Input::LinkUp { link: LinkId(id), hello: hello(n) });
    e.take_effects(now(1));
}
fn msg(e: &mut Engine, id: u64, m: Message) {
    e.handle(now(2), Input::Message { link: LinkId(id), message: m });
}
#[test]
fn cells_that_fit_no_answer_together_come_apart() {
    let mut e = engine("a");
    up(&mut e, 1, "b");
    let v = vec![1u8; 9 << 20];
    for k in [b"k1", b"k2"] {
        e.write(now(1), Write::Set { key: k, value: &v }).unwrap();
    }
    e.take_effects(now(1));
    msg(
        &mut e,
        1,
        Message::Pull(Pull::Keys {
            id: 1,
            keys: vec![b"k1".to_vec().into(), b"k2".to_vec().into()],
            cursor: 0,
            names_only: false,
        }),
    );
    for (_, m) in e.take_effects(now(2)).sends {
        tidings_proto::frame::encode_message(&m);
    }
}

#[test]
fn an_op_over_the_budget_travels_alone() {
    let mut b = engine("b");
    for n in 0..970u32 {
        b.write(now(1), Write::Set { key: &n.to_le_bytes(), value: &[7; 1000] }).unwrap();
    }
    let (runs, _) = b.replica().log().read(b.replica().own(), 1, 970, 4 << 20, b.replica().state().actors());
    let mut a = engine("a");
    up(&mut a, 1, "b");
    msg(&mut a, 1, Message::Push(Push { have: SeenEntries::default(), runs }));
    a.write(now(1), Write::Set { key: b"big", value: &vec![1u8; 16 << 20] }).unwrap();
    up(&mut a, 2, "c");
    let r = |n: &str, last| Range { actor: actor(n), first: 1, last };
    msg(&mut a, 2, Message::Pull(Pull::Ops { id: 1, ranges: vec![r("b", 970), r("a", 1)] }));
    for (_, m) in a.take_effects(now(2)).sends {
        tidings_proto::frame::encode_message(&m);
    }
}

fn node() -> (tempfile::TempDir, tidings::node::Node) {
    let d = tempfile::tempdir().unwrap();
    let o = tidings::node::Options {
        order: tidings::core::table::HashKey(1, 2),
        data_dir: d.path().to_owned(),
        node: "a".parse().unwrap(),
        realm: "r".parse().unwrap(),
        zone: String::new(),
        advertise: vec![],
        settings: Settings::default(),
        fsync: Default::default(),
        log_memory: 1 << 20,
        limits: Default::default(),
        ready_lag: 1 << 20,
        bounds: Default::default(),
        audit_interval: std::time::Duration::ZERO,
        checkpoint_bytes: 1 << 30,
        store: Default::default(),
        archive: Default::default(),
    };
    let n = tidings::node::Node::open(o, Default::default()).unwrap();
    (d, n)
}

#[test]
fn nothing_is_acknowledged_once_the_log_has_failed() {
    let (_d, n) = node();
    n.lock().write(n.now(), Write::Set { key: b"k", value: b"v" }).unwrap();
    n.lock().stop("the disk failed".into());
    assert!(n.commit().is_err(), "a write that no log holds was acknowledged");
}

#[test]
fn silent_merges_leave_room_for_a_checkpoint() {
    let mut e = engine("a");
    for id in 1..=5 {
        up(&mut e, id, &format!("p{id}"));
        msg(&mut e, id, Message::Sync(Sync::Merge { id: 1, guided: false }));
    }
    e.take_effects(now(2));
    e.handle(now(10_000), Input::Tick);
    e.take_effects(now(10_000));
    assert!(e.begin_checkpoint().is_some(), "no checkpoint for hours");
}

#[test]
fn a_clock_of_nonsense_is_borne() {
    let mut e = engine("a");
    let mut h = hello("b");
    h.clock = 1 << 63;
    e.handle(now(1), Input::LinkUp { link: LinkId(1), hello: h });
}

#[test]
fn an_abort_ends_the_session_that_it_names() {
    let mut a = engine("a");
    up(&mut a, 1, "b");
    msg(&mut a, 1, Message::Sync(Sync::Merge { id: 77, guided: false }));
    a.take_effects(now(2));
    msg(&mut a, 1, Message::Sync(Sync::Abort { id: 5, reason: String::new() }));
    msg(&mut a, 1, Message::Sync(Sync::Credit { id: 77, blocks: 8 }));
    let sends = a.take_effects(now(2)).sends;
    assert!(
        sends.iter().any(|(_, m)| matches!(m, Message::Sync(_))),
        "an abort of session 5 ended session 77"
    );
}

#[test]
fn out_of_memory_what_frees_goes_on() {
    let mut engine = engine("a");
    engine.write(now(1), Write::Set { key: b"k", value: b"v" }).unwrap();
    engine.set_short(Short { memory: Some(7), log: None });
    let refused = engine.write(now(1), Write::Set { key: b"l", value: b"v" });
    assert_eq!(refused, Err(WriteError::OutOfMemory { bound: 7 }));
    engine.write(now(1), Write::Delete { key: b"k" }).unwrap();
    assert!(engine.replica().state().is_empty());
}

#[test]
fn shorter_limits_hold_for_clients() {
    let mut engine = engine("a");
    engine.replica_mut().set_limits(tidings::engine::Limits { key: 2, element: 2, value: 2 });
    let too_long = |result| matches!(result, Err(WriteError::TooLong { .. }));
    assert!(too_long(engine.write(now(1), Write::Set { key: b"key", value: b"v" })));
    assert!(too_long(engine.write(now(1), Write::Set { key: b"k", value: b"value" })));
    assert!(too_long(engine.write(now(1), Write::Add { key: b"k", elements: &[b"element"] })));
    engine.write(now(1), Write::Set { key: b"k", value: b"v" }).unwrap();
}

/// `a` has heard of five writes of `b` that no log reaches, and asks for a merge: by what id.
fn asks_for_a_merge(a: &mut Engine) -> u64 {
    up(a, 1, "b");
    msg(a, 1, Message::Push(Push { have: five_of_b(), runs: vec![] }));
    let sent = a.take_effects(now(2)).sends;
    let asked = sent.into_iter().find_map(|(_, message)| match message {
        Message::Pull(Pull::Ops { id, ranges }) => Some((id, ranges)),
        _ => None,
    });
    let (id, missing) = asked.expect("what is lacking is asked for");
    msg(a, 1, Message::Pull(Pull::Batch { id, runs: vec![], missing, more: false }));
    let sent = a.take_effects(now(2)).sends;
    let begun = sent.into_iter().find_map(|(_, message)| match message {
        Message::Sync(Sync::Merge { id, .. }) => Some(id),
        _ => None,
    });
    begun.expect("what no log reaches is merged")
}

fn five_of_b() -> SeenEntries {
    SeenEntries::from_sorted([(&actor("b"), 5)])
}

/// The blocks that have come belong to the first context: with a second one over them, what they
/// brought would pass for removed.
#[test]
fn a_second_context_ends_the_merge() {
    let mut a = engine("a");
    let id = asks_for_a_merge(&mut a);
    for _ in 0..2 {
        msg(&mut a, 1, Message::Sync(Sync::Context { id, seen: five_of_b(), parked: vec![], keys: 1 }));
    }
    let events = a.take_effects(now(2)).events;
    assert!(events.iter().any(|event| matches!(event, Event::Misbehaved { .. })), "{events:?}");
    msg(&mut a, 1, Message::Sync(Sync::End { id, number: 0, blocks: 0 }));
    assert_eq!(a.gossip().counts().merges, 0);
}

/// A block may take minutes on a link of 10 kB/s: while it comes the session goes on, and its sender is told.
#[test]
fn a_merge_goes_on_while_a_block_arrives() {
    let mut a = engine("a");
    let id = asks_for_a_merge(&mut a);
    msg(&mut a, 1, Message::Sync(Sync::Context { id, seen: five_of_b(), parked: vec![], keys: 1 }));
    a.take_effects(now(2));
    let mut told = 0;
    for second in 3..100 {
        a.handle(now(second), Input::Receiving { link: LinkId(1) });
        a.handle(now(second), Input::Tick);
        let sends = a.take_effects(now(second)).sends;
        told +=
            sends.iter().filter(|(_, m)| matches!(m, Message::Sync(Sync::Credit { blocks: 0, .. }))).count();
    }
    assert_eq!(a.gossip().counts().merges_aborted, 0);
    assert!((5..=7).contains(&told), "its sender waits for a minute: {told}");
    // Something on another link is not of it.
    for second in 100..130 {
        a.handle(now(second), Input::Receiving { link: LinkId(2) });
        a.handle(now(second), Input::Tick);
        a.take_effects(now(second));
    }
    assert_eq!(a.gossip().counts().merges_aborted, 1);
}

/// The sender waits for as long as it is told that what it sends arrives.
#[test]
fn a_sender_waits_for_whom_it_reaches_slowly() {
    let mut a = engine("a");
    up(&mut a, 1, "b");
    msg(&mut a, 1, Message::Sync(Sync::Merge { id: 77, guided: false }));
    for second in (2..400).step_by(20) {
        let credit = Message::Sync(Sync::Credit { id: 77, blocks: 0 });
        a.handle(now(second), Input::Message { link: LinkId(1), message: credit });
        a.handle(now(second), Input::Tick);
        a.take_effects(now(second));
    }
    assert_eq!(a.replica().snapshots(), 1);
    a.handle(now(500), Input::Tick);
    a.take_effects(now(500));
    assert_eq!(a.replica().snapshots(), 0);
}

/// A merge that does not fit here is given up, and the peer is not to blame.
#[test]
fn a_merge_without_room_is_nobodys_offence() {
    let mut a = engine("a");
    a.replica_mut().set_parked_room(Room { removals: 0, bytes: 0 });
    let id = asks_for_a_merge(&mut a);
    let key = b"k".to_vec();
    let parked = ParkedState { key, target: ParkedTarget::Register, actor: actor("b"), seq: 9 };
    msg(&mut a, 1, Message::Sync(Sync::Context { id, seen: five_of_b(), parked: vec![parked], keys: 1 }));
    msg(&mut a, 1, Message::Sync(Sync::End { id, number: 0, blocks: 0 }));
    let effects = a.take_effects(now(2));
    let offended = effects.events.iter().any(|event| matches!(event, Event::Misbehaved { .. }));
    assert!(!offended, "{:?}", effects.events);
    assert_eq!((a.gossip().counts().merges, a.gossip().counts().merges_aborted), (0, 1));
}

/// An op that has no room to park what it removes waits for what that would release, and does not keep the
/// peer busy with itself meanwhile.
#[test]
fn what_came_and_has_no_room_is_asked_for_after_what_it_waits_for() {
    let own = |e: &Engine| {
        let replica = e.replica();
        replica.log().read(replica.own(), 1, replica.own_seq(), 1 << 20, replica.state().actors()).0
    };
    let (mut x, mut y, mut a) = (engine("x"), engine("y"), engine("a"));
    y.write(now(1), Write::Set { key: b"k", value: b"v" }).unwrap();
    up(&mut x, 1, "y");
    msg(&mut x, 1, Message::Push(Push { have: SeenEntries::default(), runs: own(&y) }));
    x.write(now(2), Write::Delete { key: b"k" }).unwrap();

    a.replica_mut().set_parked_room(Room { removals: 0, bytes: 0 });
    up(&mut a, 1, "b");
    let have = SeenEntries::from_sorted([(&actor("x"), 1), (&actor("y"), 1)]);
    msg(&mut a, 1, Message::Push(Push { have, runs: vec![] }));
    let asked = |a: &mut Engine| {
        let sends = a.take_effects(now(2)).sends;
        sends.into_iter().find_map(|(_, message)| match message {
            Message::Pull(Pull::Ops { id, ranges }) => {
                Some((id, ranges.into_iter().map(|range| range.actor).collect::<Vec<_>>()))
            }
            _ => None,
        })
    };
    let (id, actors) = asked(&mut a).expect("a request");
    assert_eq!(actors, [actor("x"), actor("y")]);
    msg(&mut a, 1, Message::Pull(Pull::Batch { id, runs: own(&x), missing: vec![], more: true }));
    let (id, actors) = asked(&mut a).expect("another");
    assert_eq!(actors, [actor("y")]);
    msg(&mut a, 1, Message::Pull(Pull::Batch { id, runs: own(&y), missing: vec![], more: false }));
    assert_eq!(a.replica().state().len(), 1);
}
