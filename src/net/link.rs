//! A link: the one connection of a pair of nodes, from its HELLO to its end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::{Connection, ConnectionError, ReadError, SendStream, WriteError};
use tidings_proto::frame::{PREFIX, decode_message};
use tidings_proto::{Actor, DecodeError, Lane, Name};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::endpoint::Shared;
use super::greeting::{Greeted, Lanes, greet};
use super::lane::{self, Frame, LaneError, Queue, QueueFull, Reader};
use super::reason::{Ending, Reason};
use super::share::{Share, thread_time};
use super::stats::NetStats;
use super::{REASON_BYTES, TURN};

pub use crate::engine::LinkId;

/// A link as the node above sees it. Cheap to clone; outlives the link, and is then without effect.
#[derive(Clone)]
pub struct LinkHandle(Arc<Inner>);

struct Inner {
    id: LinkId,
    peer: Actor,
    dialled: bool,
    connection: Connection,
    news: Queue,
    bulk: Queue,
    stats: Arc<NetStats>,
    /// What the peer may cost.
    share: Mutex<Share>,
    up: AtomicBool,
    /// Why we closed it, if we did.
    closed: Mutex<Option<Ending>>,
    gone: CancellationToken,
}

impl LinkHandle {
    pub(super) fn new(
        id: LinkId,
        peer: Actor,
        dialled: bool,
        connection: Connection,
        stats: Arc<NetStats>,
    ) -> Self {
        Self(Arc::new(Inner {
            id,
            peer,
            dialled,
            connection,
            news: Queue::new(Lane::News),
            bulk: Queue::new(Lane::Bulk),
            stats,
            share: Mutex::new(Share::new(Instant::now())),
            up: AtomicBool::new(false),
            closed: Mutex::default(),
            gone: CancellationToken::new(),
        }))
    }

    /// Names this link in the [`Handler`](super::Handler)'s calls.
    pub fn id(&self) -> LinkId {
        self.0.id
    }

    /// The node at the other end, as its certificate says.
    pub fn peer(&self) -> &Name {
        &self.0.peer.node
    }

    /// The node at the other end in its present life, as its HELLO says.
    pub fn actor(&self) -> &Actor {
        &self.0.peer
    }

    /// Whether we dialled, rather than the peer.
    pub fn dialled(&self) -> bool {
        self.0.dialled
    }

    /// Where the peer is now; it may move while the link lasts.
    pub fn remote_address(&self) -> SocketAddr {
        self.0.connection.remote_address()
    }

    /// The round-trip time as QUIC estimates it.
    pub fn rtt(&self) -> Duration {
        self.0.connection.rtt()
    }

    /// Queues a frame on its lane. A link that is over takes and drops it: `link_down` is on its way.
    ///
    /// # Errors
    /// If the lane's queue is full; the frame is not taken.
    pub fn send(&self, frame: &Frame) -> Result<(), QueueFull> {
        let queued = self.queue(frame.lane()).push(frame);
        match queued {
            Ok(()) => self.0.stats.sent(frame.lane(), frame.kind(), frame.size()),
            Err(_) => self.0.stats.queue_full(frame.lane()),
        }
        queued
    }

    /// Closes the link; the text reaches the peer. `link_down` follows.
    pub fn close(&self, reason: &str) {
        self.end(Ending::ours(Reason::Requested, reason));
    }

    /// Whether link_up has been called and the link has not ended.
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Acquire) && self.is_alive()
    }

    pub(super) fn is_alive(&self) -> bool {
        self.0.connection.close_reason().is_none()
    }

    /// Has the peer pay for what it asked; whoever is over its share waits.
    async fn charge(&self, spent: Duration) {
        let Some((pause, count)) = self.0.share.lock().spend(Instant::now(), spent) else { return };
        self.0.stats.pauses.add(1);
        if count.is_power_of_two() {
            warn!(peer = %self.peer(), count, "it asks for more than its share of this node's time: not reading from it for a while");
        }
        tokio::time::sleep(pause).await;
    }

    pub(super) fn queue(&self, lane: Lane) -> &Queue {
        match lane {
            Lane::News => &self.0.news,
            Lane::Bulk => &self.0.bulk,
        }
    }

    /// Returns when `link_down` has been called, or will never be.
    pub(super) async fn gone(&self) {
        self.0.gone.cancelled().await;
    }

    /// Closes the connection for a reason, unless it is over already. Whoever does so on account of a stream calls this
    /// before dropping the stream: the peer would take the stream's end for the reason.
    pub(super) fn end(&self, ending: Ending) {
        let mut closed = self.0.closed.lock();
        if closed.is_none() && self.is_alive() {
            close(&self.0.connection, &ending);
            *closed = Some(ending);
        }
    }
}

impl fmt::Debug for LinkHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({}, {} at {})", self.0.id.0, self.0.peer, self.remote_address())
    }
}

/// What became of a connection.
#[derive(Debug)]
pub(super) struct Served {
    /// How long it was a link; none if it never became one.
    pub(super) lasted: Option<Duration>,
    pub(super) ending: Ending,
}

/// Serves a connection from its TLS handshake to its end. Not to be cancelled: `link_down` would be lost.
pub(super) async fn serve(
    net: Arc<Shared>,
    connection: Connection,
    dialled: bool,
    permit: Option<OwnedSemaphorePermit>,
) -> Served {
    let refused = match greet(&net, &connection, dialled).await {
        Ok(greeted) => {
            // Whatever happens from here on, a successor must not wait for this link in vain.
            let _gone = greeted.link.0.gone.clone().drop_guard();
            match bring_up(&net, greeted).await {
                Ok((link, lanes)) => {
                    drop(permit);
                    return run(&net, link, lanes).await;
                }
                Err(ending) => ending,
            }
        }
        Err(ending) => ending,
    };
    close(&connection, &refused);
    let remote = connection.remote_address();
    if net.stats.refusal(&refused) {
        warn!(%remote, dialled, "no link: {refused}");
    } else {
        debug!(%remote, dialled, "no link: {refused}");
    }
    Served { lasted: None, ending: refused }
}

/// Makes the link known above, once its predecessor is gone there.
async fn bring_up(net: &Arc<Shared>, greeted: Greeted) -> Result<(LinkHandle, Lanes), Ending> {
    let Greeted { link, hello, lanes, predecessor } = greeted;
    if let Some(old) = predecessor {
        old.end(Ending::ours(Reason::Replaced, "a newer connection took its place"));
        old.gone().await;
    }
    let refused = match link.0.connection.close_reason() {
        Some(error) => link.0.closed.lock().take().unwrap_or_else(|| Ending::of(&error)),
        None => match net.handler.link_up(&link, hello) {
            Ok(()) => return Ok((link, lanes)),
            Err(refusal) => {
                let ending = Ending::ours(Reason::Refused, refusal.0);
                link.end(ending.clone());
                ending
            }
        },
    };
    net.forget(&link);
    Err(refused)
}

async fn run(net: &Arc<Shared>, link: LinkHandle, lanes: Lanes) -> Served {
    let since = Instant::now();
    info!(peer = %link.actor(), remote = %link.remote_address(), dialled = link.dialled(), "link up");
    net.stats.links_up.add(1);
    link.0.up.store(true, Ordering::Release);
    net.links_changed();

    let ending = run_lanes(net, &link, lanes).await;

    net.forget(&link);
    net.stats.link_ended(ending.reason);
    info!(peer = %link.actor(), "link down: {ending}");
    net.handler.link_down(link.id(), &ending.to_string());
    Served { lasted: Some(since.elapsed()), ending }
}

/// Runs the lanes, each in its own task, until one fails or the connection ends; all have stopped on return.
async fn run_lanes(net: &Arc<Shared>, link: &LinkHandle, lanes: Lanes) -> Ending {
    let mut tasks = JoinSet::new();
    let (writer, handler) = (link.clone(), net.handler.clone());
    tasks.spawn(async move {
        let writable = || handler.writable(writer.id());
        write_ending(lane::write(&writer.0.news, lanes.news_out, writable).await)
    });
    let writer = link.clone();
    let bulk_out: SendStream = lanes.bulk_out;
    tasks.spawn(async move { write_ending(lane::write(&writer.0.bulk, bulk_out, || {}).await) });
    tasks.spawn(read_lane(net.clone(), link.clone(), lanes.news_in));
    tasks.spawn(read_bulk(net.clone(), link.clone()));

    let first = tokio::select! {
        Some(joined) = tasks.join_next() => joined.unwrap_or_else(|error| {
            Ending::ours(Reason::Other, format!("a lane's task failed: {error}"))
        }),
        error = link.0.connection.closed() => Ending::of(&error),
    };
    link.end(first.clone());
    tasks.shutdown().await;
    link.0.closed.lock().take().unwrap_or(first)
}

async fn read_bulk(net: Arc<Shared>, link: LinkHandle) -> Ending {
    let connection = link.0.connection.clone();
    let stream = match connection.accept_uni().await {
        Ok(stream) => stream,
        Err(error) => return Ending::of(&error),
    };
    let surplus = |opened: Result<(), ConnectionError>| {
        let ending = match opened {
            Ok(()) => Ending::ours(Reason::Protocol, "a stream that is neither lane"),
            Err(error) => Ending::of(&error),
        };
        link.end(ending.clone());
        ending
    };
    tokio::select! {
        ending = read_lane(net, link.clone(), Reader::new(Lane::Bulk, stream)) => ending,
        opened = connection.accept_uni() => surplus(opened.map(drop)),
        opened = connection.accept_bi() => surplus(opened.map(drop)),
    }
}

async fn read_lane(net: Arc<Shared>, link: LinkHandle, mut reader: Reader) -> Ending {
    let ending = read_messages(&net, &link, &mut reader).await;
    link.end(ending.clone());
    ending
}

async fn read_messages(net: &Shared, link: &LinkHandle, reader: &mut Reader) -> Ending {
    let mut turn = Duration::ZERO;
    let lane = reader.lane();
    loop {
        let receiving = || {
            if lane == Lane::Bulk {
                net.handler.receiving(link.id());
            }
        };
        let body = match reader.next(receiving).await {
            Ok(body) => body,
            Err(error) => return net.lane_ending(&error),
        };
        let began = thread_time();
        let message = match decode_message(&body) {
            Ok(message) if message.lane() == lane => message,
            Ok(message) => {
                net.stats.malformed.add(1);
                return Ending::ours(Reason::Malformed, format!("{} on the wrong lane", message.kind()));
            }
            Err(error) => return net.lane_ending(&error.into()),
        };
        net.stats.received(lane, message.kind(), PREFIX + body.len());
        let brought = net.handler.message(link.id(), message);
        let spent = thread_time().saturating_sub(began);
        if !brought {
            link.charge(spent).await;
        }
        // While more is at hand this task would not let go of its thread, nor of what it has woken there.
        turn += spent;
        if turn > TURN {
            turn = Duration::ZERO;
            tokio::task::yield_now().await;
        }
    }
}

impl Shared {
    /// What a failed read means for the link; counts what the peer did wrong.
    pub(super) fn lane_ending(&self, error: &LaneError) -> Ending {
        match error {
            LaneError::Frame(DecodeError::Oversized { .. }) => {
                self.stats.oversized.add(1);
                Ending::ours(Reason::Oversized, error.to_string())
            }
            LaneError::Frame(_) => {
                self.stats.malformed.add(1);
                Ending::ours(Reason::Malformed, error.to_string())
            }
            LaneError::Read(ReadError::ConnectionLost(lost)) => Ending::of(lost),
            LaneError::Read(_) | LaneError::Ended => Ending::ours(Reason::Protocol, error.to_string()),
        }
    }
}

pub(super) fn write_ending(error: WriteError) -> Ending {
    match error {
        WriteError::ConnectionLost(lost) => Ending::of(&lost),
        other => Ending::ours(Reason::Protocol, other.to_string()),
    }
}

/// Closes a connection with code and text. Without effect if it is over already.
pub(super) fn close(connection: &Connection, ending: &Ending) {
    let text = ending.text.as_bytes();
    connection.close(ending.reason.code(), &text[..text.len().min(REASON_BYTES)]);
}
