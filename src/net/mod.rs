//! QUIC between nodes: certificates, TLS, the endpoint, links and dialling.
//!
//! A pair of nodes has one connection, its *link*. Each side opens two streams on it, the *lanes*, for as long as the
//! link lasts. Way of a connection: [`endpoint`] accepts it or [`dial`] makes it, [`tls`] proves who is there, `greeting`
//! exchanges HELLO and decides which connection of a pair stays, [`link`] runs the lanes until the end.
//!
//! Everything above sees this through [`Net`], [`LinkHandle`] and the [`Handler`] it implements.

mod attach;
pub mod certs;
pub mod dial;
pub mod endpoint;
mod greeting;
pub mod identity;
mod lane;
pub mod link;
mod reason;
mod share;
mod stats;
#[cfg(test)]
mod tests;
pub mod tls;

use std::time::Duration;

use tidings_proto::{Hello, Message};

pub use attach::attach;
pub use dial::{AddressState, AddressStatus, TooManyAddresses};
pub use endpoint::{Net, NetConfig, NetError};
pub use lane::{Frame, QueueFull};
pub use link::{LinkHandle, LinkId};
pub use reason::{Ending, Reason};
pub use stats::{ByReason, Counter, NetStats, Traffic};
pub use tidings_proto::Lane;

/// Most frames waiting in a link's news lane.
pub const NEWS_QUEUE_FRAMES: usize = 8_192;
/// Most bytes waiting in a link's news lane (or a single larger frame).
pub const NEWS_QUEUE_BYTES: usize = 2 << 20;
/// Most frames waiting in a link's bulk lane.
pub const BULK_QUEUE_FRAMES: usize = 1_024;
/// Most bytes waiting in a link's bulk lane (or a single larger frame).
pub const BULK_QUEUE_BYTES: usize = 4 << 20;
/// Bytes handed to QUIC, or taken from it, in one go.
pub const WRITE_BYTES: usize = 64 << 10;
/// Frames below this many bytes are copied together for one write, larger ones are passed on as they are.
pub const COALESCE_BYTES: usize = 4 << 10;
/// Longest HELLO, in bytes: nothing larger is read before the peer's has been accepted.
pub const HELLO_BYTES: usize = 8 << 10;
/// Bytes a peer may have under way to us on one lane, and we to it.
pub const LANE_WINDOW: u32 = 2 << 20;
/// While a message arrives that takes long, the node is told so this often, if so many bytes more have come.
pub const RECEIVING: (Duration, usize) = (Duration::from_secs(1), 1 << 10);
/// For how long the messages of one lane are taken in before other tasks have their turn.
pub const TURN: Duration = Duration::from_micros(500);
/// Most handshakes under way, accepted but not yet through HELLO.
pub const MAX_HANDSHAKES: usize = 128;
/// Most addresses to keep dialling.
pub const MAX_ADDRESSES: usize = 1_024;
/// Most addresses of one host name that are tried in one attempt.
pub const MAX_RESOLVED: usize = 16;
/// Longest reason sent with a close, in bytes.
pub const REASON_BYTES: usize = 256;
/// A peer not heard of for this long is gone.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// A link without traffic says that it lives this often.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Sizes of the socket's buffers, in bytes, as far as the operating system grants them.
pub const SOCKET_BUFFER: usize = 4 << 20;
/// Shortest and longest pause between attempts to reach an address.
pub const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Why the node above the transport does not want a peer. The text goes to the peer and into both logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

/// What the node above the transport does with links and messages.
///
/// For one link the calls are in this order: `link_up`; then `message` from two tasks (one for each lane) and `writable`
/// from a third; `link_down` last, when no other call for the link is running or will come. `link_down` is called exactly
/// once for each `link_up` that did not refuse. Of two links to one node the second's `link_up` comes after the first's
/// `link_down`.
pub trait Handler: Send + Sync + 'static {
    /// Our HELLO of this moment.
    fn hello(&self) -> Hello;

    /// A peer is there and all checks are passed.
    ///
    /// # Errors
    /// A refusal closes the connection.
    fn link_up(&self, link: &LinkHandle, hello: Hello) -> Result<(), Refusal>;

    /// A message arrived. To be quick: while it runs, no further message of the same lane is read, so that a handler
    /// that cannot keep up slows down that peer and nobody else. Answers whether it brought something that was lacking;
    /// what did not is charged to the peer.
    fn message(&self, link: LinkId, message: Message) -> bool;

    /// Part of a message of the bulk lane has arrived, and the rest has not: called about once a second while it comes, from
    /// the task that calls `message` for the lane.
    fn receiving(&self, link: LinkId);

    /// Everything queued on the link's news lane was taken by QUIC: there is room for news.
    fn writable(&self, link: LinkId);

    /// The link is over.
    fn link_down(&self, link: LinkId, reason: &str);
}
