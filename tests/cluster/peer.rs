//! A peer of the tests' own: the production engine behind real QUIC, reading as fast or as slowly
//! as it is told to, and saying whatever it is told to say.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use quinn::{Connection, RecvStream, SendStream};
use tidings::core::replica::Recovery;
use tidings::core::table::HashKey;
use tidings::engine::{Engine, Input, LinkId, Now, Settings};
use tidings::net::certs::{Authority, Validity};
use tidings_proto::frame::{PREFIX, decode_message, encode_hello, encode_message, length};
use tidings_proto::{Actor, Hello, Lane, Message, VERSIONS};
use tokio::sync::{Notify, mpsc};

use super::cluster::{Cluster, Node, REALM};
use super::doors::{ALPN, Stranger};
use super::process::wait_for;

const LINK: LinkId = LinkId(1);

/// Bytes that the node may have under way to us on one lane: small, so that whoever does not read is noticed soon.
const WINDOW: u32 = 64 << 10;

/// Reads as fast as it can.
pub(crate) const FAST: u64 = u64::MAX;

/// A linked peer. Its name is greater than any node's, so that the node answers its HELLO.
pub(crate) struct Peer {
    state: Arc<State>,
    connection: Connection,
    _endpoint: quinn::Endpoint,
    runtime: tokio::runtime::Runtime,
}

struct State {
    engine: Mutex<Engine>,
    began: Instant,
    /// Bytes a second that are read, of both lanes together; 0 for none.
    pace: AtomicU64,
    paced: tokio::sync::Mutex<()>,
    changed: Notify,
    read: AtomicU64,
    lanes: [mpsc::Sender<Vec<u8>>; 2],
    flooding: AtomicBool,
    flooded: AtomicU64,
}

impl Peer {
    /// Links to a node as a member of its cluster, reading at this many bytes a second.
    #[track_caller]
    pub(crate) fn link(cluster: &Cluster, node: &Node, name: &str, pace: u64) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let authority = Authority::load(&cluster.dir.path().join("ca")).unwrap();
        let issued = authority.issue(name, &[], Validity::days(1).unwrap()).unwrap();
        let mut config = Stranger { identity: Some(issued), alpn: ALPN }.config();
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(WINDOW.into()).keep_alive_interval(Some(Duration::from_secs(2)));
        config.transport_config(Arc::new(transport));
        let actor = Actor { node: name.parse().unwrap(), incarnation: rand::random() };
        let recovery = Recovery::new(HashKey(1, 2), 64 << 20);
        let engine =
            Engine::new(recovery, &actor, Settings::default(), 1, Now { mono: 0, wall: wall() }).unwrap();
        let (news, news_out) = mpsc::channel(64);
        let (bulk, bulk_out) = mpsc::channel(64);
        let state = Arc::new(State {
            engine: Mutex::new(engine),
            began: Instant::now(),
            pace: AtomicU64::new(pace),
            paced: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            read: AtomicU64::new(0),
            lanes: [news, bulk],
            flooding: AtomicBool::new(false),
            flooded: AtomicU64::new(0),
        });
        let hello = Hello {
            versions: VERSIONS,
            realm: REALM.parse().unwrap(),
            actor,
            zone: String::new(),
            addresses: Vec::new(),
            clock: wall(),
            order: state.engine.lock().replica().state().order(),
        };
        let quic = node.quic;
        let (endpoint, connection) = runtime.block_on(async {
            let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            let connection = endpoint.connect_with(config, quic, "tidings").unwrap().await.unwrap();
            let mut news = connection.open_uni().await.unwrap();
            let bulk = connection.open_uni().await.unwrap();
            news.write_all(&encode_hello(&hello)).await.unwrap();
            tokio::spawn(state.clone().write(news, news_out, true));
            tokio::spawn(state.clone().write(bulk, bulk_out, false));
            let news_in = connection.accept_uni().await.unwrap();
            tokio::spawn(state.clone().read_news(news_in, connection.clone()));
            tokio::spawn(state.clone().tick());
            (endpoint, connection)
        });
        wait_for("the link of the stand-in", || {
            let linked = node.linked();
            let greeted = pace == 0 || state.engine.lock().gossip().links().next().is_some();
            if greeted && linked.iter().any(|peer| peer == name) {
                Ok(())
            } else {
                Err(format!("{linked:?}\n{}", node.log()))
            }
        });
        Self { state, connection, _endpoint: endpoint, runtime }
    }

    /// From now on so many bytes a second are read.
    pub(crate) fn set_pace(&self, pace: u64) {
        self.state.pace.store(pace, Ordering::Release);
        self.state.changed.notify_waiters();
    }

    /// How many bytes it has read.
    pub(crate) fn read(&self) -> u64 {
        self.state.read.load(Ordering::Relaxed)
    }

    /// How many keys it shows.
    pub(crate) fn keys(&self) -> u64 {
        self.state.engine.lock().replica().state().tallies().keys
    }

    /// Says something once.
    pub(crate) fn say(&self, message: &Message) {
        self.say_bytes(message.lane(), encode_message(message));
    }

    /// Writes these bytes to a lane.
    pub(crate) fn say_bytes(&self, lane: Lane, bytes: Vec<u8>) {
        let sent = self.state.lane(lane).blocking_send(bytes);
        sent.expect("the stand-in writes as long as it lives");
    }

    /// Says this as fast as the node takes it, given how often it has been said, until told to stop or cut off.
    /// Meanwhile it does not listen.
    pub(crate) fn flood(&self, what: impl Fn(u64) -> (Lane, Vec<u8>) + Send + Sync + 'static) {
        self.state.flooding.store(true, Ordering::Release);
        let (state, connection) = (self.state.clone(), self.connection.clone());
        self.runtime.spawn(async move {
            while state.flooding.load(Ordering::Acquire) && connection.close_reason().is_none() {
                let (lane, bytes) = what(state.flooded.load(Ordering::Relaxed));
                if state.lane(lane).send(bytes).await.is_err() {
                    return;
                }
                state.flooded.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Says nothing more but what the protocol asks for.
    pub(crate) fn stop_flood(&self) {
        self.state.flooding.store(false, Ordering::Release);
    }

    /// How often the flood has been said.
    pub(crate) fn flooded(&self) -> u64 {
        self.state.flooded.load(Ordering::Relaxed)
    }

    /// How the link ended, if it has.
    pub(crate) fn ended(&self) -> Option<String> {
        self.connection.close_reason().map(|reason| reason.to_string())
    }

    /// As whom the node writes.
    pub(crate) fn node(&self) -> Actor {
        let engine = self.state.engine.lock();
        engine.gossip().links().next().expect("it is linked").1.actor.clone()
    }

    /// Ops that the node has written.
    pub(crate) fn some_run(&self) -> Vec<tidings_proto::Run> {
        let node = self.node();
        wait_for("ops", || {
            let engine = self.state.engine.lock();
            let state = engine.replica().state();
            let ix = state.actors().find(&node).ok_or("unknown")?;
            let (runs, _) = engine.replica().log().read(ix, 1, 1 << 20, 60_000, state.actors());
            if runs.is_empty() { Err("none".to_owned()) } else { Ok(runs) }
        })
    }

    /// As whom it writes.
    pub(crate) fn actor(&self) -> Actor {
        self.state.engine.lock().replica().actor().clone()
    }
}

impl State {
    fn now(&self) -> Now {
        Now { mono: self.began.elapsed().as_micros() as u64 + 1, wall: wall() }
    }

    fn lane(&self, lane: Lane) -> &mpsc::Sender<Vec<u8>> {
        &self.lanes[usize::from(lane == Lane::Bulk)]
    }

    /// Has something happen, and sends what follows from it. What finds no room is dropped, as a node does.
    fn handle(&self, input: Input) {
        let now = self.now();
        let mut engine = self.engine.lock();
        engine.handle(now, input);
        for (_, message) in engine.take_effects(now).sends {
            if self.lane(message.lane()).try_send(encode_message(&message)).is_err() {
                engine.handle(now, Input::Dropped { link: LINK });
            }
        }
        self.changed.notify_waiters();
    }

    async fn write(self: Arc<Self>, mut stream: SendStream, mut lane: mpsc::Receiver<Vec<u8>>, news: bool) {
        while let Some(bytes) = lane.recv().await {
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
            if news && lane.is_empty() {
                self.handle(Input::Writable { link: LINK });
            }
        }
    }

    /// Reads the news lane, HELLO first, and the bulk lane once something comes on it.
    async fn read_news(self: Arc<Self>, news: RecvStream, connection: Connection) {
        let bulk = self.clone();
        tokio::spawn(async move {
            if let Ok(stream) = connection.accept_uni().await {
                bulk.read(stream, Lane::Bulk, false).await;
            }
        });
        self.read(news, Lane::News, true).await;
    }

    async fn read(self: Arc<Self>, mut stream: RecvStream, lane: Lane, mut greeting: bool) {
        let mut bytes = Vec::new();
        loop {
            let some = self.may_read().await;
            let Ok(Some(chunk)) = stream.read_chunk(some, true).await else { return };
            self.read.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
            bytes.extend_from_slice(&chunk.bytes);
            while let Some(prefix) = bytes.first_chunk::<PREFIX>() {
                let end = PREFIX + length(*prefix, lane).expect("the node keeps to its bounds");
                if bytes.len() < end {
                    break;
                }
                let body: Vec<u8> = bytes.drain(..end).skip(PREFIX).collect();
                if std::mem::take(&mut greeting) {
                    let hello = tidings_proto::frame::decode_hello(&body).expect("a HELLO comes first");
                    self.handle(Input::LinkUp { link: LINK, hello });
                } else if !self.flooding.load(Ordering::Acquire) {
                    let message = decode_message(&body).expect("the node says what can be read");
                    self.handle(Input::Message { link: LINK, message });
                }
            }
        }
    }

    /// Waits until something may be read, and says how much.
    async fn may_read(&self) -> usize {
        const SOME: u64 = 2_048;
        let _turn = self.paced.lock().await;
        loop {
            let changed = self.changed.notified();
            match self.pace.load(Ordering::Acquire) {
                FAST => return 64 << 10,
                0 => changed.await,
                pace => {
                    tokio::time::sleep(Duration::from_secs_f64(SOME as f64 / pace as f64)).await;
                    return SOME as usize;
                }
            }
        }
    }

    async fn tick(self: Arc<Self>) {
        loop {
            let changed = self.changed.notified();
            let due = self.began + Duration::from_micros(self.engine.lock().deadline());
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => self.handle(Input::Tick),
                () = changed => {}
            }
        }
    }
}

fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
