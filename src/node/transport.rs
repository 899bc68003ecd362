//! What the node asks of the transport. The transport calls the node back by
//! `link_up`, `message`, `writable` and `link_down`.

use tidings_proto::Message;

use super::api::PeerRow;
use super::facts::NetFacts;
use crate::engine::LinkId;

/// A link's queue is full; the message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the link's queue is full")]
pub struct QueueFull;

/// Links to peers, as the node uses them. Nothing here waits.
pub trait Transport: Send + Sync + 'static {
    /// Puts a message on its lane of a link. A link that is over takes and drops it.
    ///
    /// # Errors
    /// If the lane's queue is full.
    fn send(&self, link: LinkId, message: &Message) -> Result<(), QueueFull>;
    /// Closes a link, saying why.
    fn close(&self, link: LinkId, reason: &str);
    /// Seeks a link to an address from now on; `fixed` if somebody set it by hand.
    fn seek(&self, address: &str, fixed: bool);
    /// No longer seeks one. Says whether it did.
    fn unseek(&self, address: &str) -> bool;
    /// Addresses sought and links that are up.
    fn peers(&self) -> Vec<PeerRow>;
    /// Counters.
    fn facts(&self) -> NetFacts;
}
