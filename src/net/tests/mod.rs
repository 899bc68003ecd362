//! Real endpoints on the loopback interface. Nothing waits for a fixed time; every wait has a deadline.

mod links;
mod refusals;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tidings_proto::frame::encode_hello;
use tidings_proto::message::{Pull, Stats};
use tidings_proto::{ALPN, Actor, Hello, Lane, Message, Name, VERSIONS};
use tokio::time::{Instant, sleep};

use super::certs::{Authority, Validity};
use super::tls::Credentials;
use super::tls::tests::{authority, credentials, raw_client};
use super::{AddressState, Frame, Handler, LinkHandle, LinkId, Net, NetConfig, Reason, Refusal};

const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until a condition holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn hello_of(realm: &str, node: &str, incarnation: u64) -> Hello {
    Hello {
        versions: VERSIONS,
        realm: name(realm),
        actor: Actor { node: name(node), incarnation },
        zone: String::new(),
        addresses: Vec::new(),
        clock: 0,
        order: 0,
    }
}

/// What happened on a node, in order.
#[derive(Debug, Clone, PartialEq)]
enum Event {
    Up(LinkId, Actor),
    Message(LinkId, Message),
    Down(LinkId, String),
}

struct Recorder {
    hello: Hello,
    events: Mutex<Vec<Event>>,
    refusing: AtomicBool,
    writable: Mutex<Vec<LinkId>>,
}

impl Handler for Recorder {
    fn hello(&self) -> Hello {
        self.hello.clone()
    }

    fn link_up(&self, link: &LinkHandle, hello: Hello) -> Result<(), Refusal> {
        if self.refusing.load(Ordering::Relaxed) {
            return Err(Refusal("not today".into()));
        }
        self.events.lock().push(Event::Up(link.id(), hello.actor));
        Ok(())
    }

    fn message(&self, link: LinkId, message: Message) -> bool {
        self.events.lock().push(Event::Message(link, message));
        true
    }

    fn receiving(&self, _: LinkId) {}

    fn writable(&self, link: LinkId) {
        self.writable.lock().push(link);
    }

    fn link_down(&self, link: LinkId, reason: &str) {
        self.events.lock().push(Event::Down(link, reason.to_owned()));
    }
}

struct Node {
    net: Net,
    recorder: Arc<Recorder>,
}

fn config() -> NetConfig {
    NetConfig::new("127.0.0.1:0".parse().unwrap())
}

fn days() -> Validity {
    Validity::days(1).unwrap()
}

impl Node {
    fn start(authority: &Authority, node: &str, incarnation: u64) -> Self {
        Self::start_with(config(), &credentials(authority, node, days()), incarnation)
    }

    /// On an address that a node just left: the system may take a moment to free it.
    async fn start_at(listen: SocketAddr, credentials: &Credentials, incarnation: u64) -> Self {
        until("the address is free", || std::net::UdpSocket::bind(listen).is_ok()).await;
        Self::start_with(NetConfig { listen, ..config() }, credentials, incarnation)
    }

    fn start_with(config: NetConfig, credentials: &Credentials, incarnation: u64) -> Self {
        let identity = credentials.identity();
        let recorder = Arc::new(Recorder {
            hello: hello_of(identity.realm.as_str(), identity.node.as_str(), incarnation),
            events: Mutex::default(),
            refusing: AtomicBool::new(false),
            writable: Mutex::default(),
        });
        let net = Net::start(config, credentials, recorder.clone()).unwrap();
        Self { net, recorder }
    }

    fn name(&self) -> &Name {
        &self.net.identity().node
    }

    fn address(&self) -> SocketAddr {
        self.net.local_addr().unwrap()
    }

    fn dial(&self, other: &Node) {
        self.net.want(&other.address().to_string()).unwrap();
    }

    fn link_to(&self, other: &Node) -> Option<LinkHandle> {
        self.net.link_to(other.name())
    }

    fn events(&self) -> Vec<Event> {
        self.recorder.events.lock().clone()
    }

    fn ups(&self) -> usize {
        self.events().iter().filter(|event| matches!(event, Event::Up(..))).count()
    }

    fn downs(&self) -> usize {
        self.events().iter().filter(|event| matches!(event, Event::Down(..))).count()
    }

    fn got(&self, message: &Message) -> bool {
        self.events().iter().any(|event| matches!(event, Event::Message(_, got) if got == message))
    }

    fn refused(&self, reason: Reason) -> u64 {
        self.net.stats().refused.get(reason)
    }

    fn refused_by_peer(&self, reason: Reason) -> u64 {
        self.net.stats().refused_by_peer.get(reason)
    }

    /// Every link's calls came in the promised order.
    fn assert_order(&self) {
        let mut open = std::collections::BTreeMap::new();
        for event in self.events() {
            match event {
                Event::Up(link, actor) => {
                    assert!(!open.values().any(|node| *node == actor.node), "two links to {}", actor.node);
                    open.insert(link, actor.node);
                }
                Event::Message(link, _) => assert!(open.contains_key(&link), "message outside {link:?}"),
                Event::Down(link, _) => assert!(open.remove(&link).is_some(), "{link:?} down without up"),
            }
        }
    }
}

/// A small message that names itself, for the news lane.
fn news(id: u64) -> Message {
    Message::Stats(Stats::Ask { id })
}

/// The same for the bulk lane.
fn bulk(id: u64) -> Message {
    Message::Pull(Pull::Batch { id, runs: Vec::new(), missing: Vec::new(), more: false })
}

async fn linked(a: &Node, b: &Node) -> (LinkHandle, LinkHandle) {
    until("both sides have the link", || a.link_to(b).is_some() && b.link_to(a).is_some()).await;
    (a.link_to(b).unwrap(), b.link_to(a).unwrap())
}

/// A message goes through either way.
async fn healthy(a: &Node, b: &Node) {
    let probe = news(rand::random());
    a.link_to(b).expect("a link").send(&Frame::new(&probe)).unwrap();
    b.link_to(a).expect("a link").send(&Frame::new(&probe)).unwrap();
    until("a probe each way", || a.got(&probe) && b.got(&probe)).await;
}

/// A pair of linked nodes to show that others' misbehaviour does not touch them.
async fn pair(authority: &Authority) -> (Node, Node) {
    let (a, b) = (Node::start(authority, "a", 1), Node::start(authority, "b", 2));
    a.dial(&b);
    linked(&a, &b).await;
    (a, b)
}

/// A peer that need not keep to the protocol.
struct Raw {
    _endpoint: Endpoint,
    connection: Connection,
    news: SendStream,
    bulk: SendStream,
}

fn raw_endpoint(client: quinn::ClientConfig) -> Endpoint {
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(client);
    endpoint
}

impl Raw {
    async fn connect(node: &Node, credentials: &Credentials) -> Self {
        let endpoint = raw_endpoint(raw_client(credentials, Some(credentials), ALPN));
        let connection = endpoint.connect(node.address(), "x").unwrap().await.unwrap();
        let (news, bulk) = (connection.open_uni().await.unwrap(), connection.open_uni().await.unwrap());
        Self { _endpoint: endpoint, connection, news, bulk }
    }

    /// A link that has come up on the node's side. The peer's name is greater than the node's, so the node answers.
    async fn linked(node: &Node, authority: &Authority, as_node: &str) -> (Self, RecvStream) {
        let credentials = credentials(authority, as_node, days());
        let mut raw = Self::connect(node, &credentials).await;
        let realm = credentials.identity().realm.as_str();
        raw.news.write_all(&encode_hello(&hello_of(realm, as_node, 77))).await.unwrap();
        let answer = raw.connection.accept_uni().await.unwrap();
        until("the link is up", || node.net.link_to(&name(as_node)).is_some()).await;
        (raw, answer)
    }

    async fn close_code(&self) -> Reason {
        match tokio::time::timeout(DEADLINE, self.connection.closed()).await.expect("it is closed") {
            quinn::ConnectionError::ApplicationClosed(close) => {
                let code = close.error_code;
                *Reason::ALL.iter().find(|reason| reason.code() == code).expect("a known code")
            }
            other => panic!("closed otherwise: {other}"),
        }
    }
}
