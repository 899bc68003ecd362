//! HELLO: the first frame either way, and which of several connections of a pair becomes its link.
//!
//! Both ends may dial at once, and one node may be dialled at several addresses. So that both ends keep the same
//! connection, only one of them chooses: the *leader*, which is the node with the smaller name. The other one sends its
//! HELLO as soon as the connection stands. The leader keeps the first connection that gets so far, answers on it with its
//! own HELLO, and closes the rest as duplicates. Its HELLO means "this is our link", so the other end drops whatever it
//! took for the link before. A connection of another incarnation replaces the link at once: the peer has restarted, and
//! the old connection leads nowhere.

use std::sync::Arc;

use quinn::{Connection, ConnectionError, SendStream};
use tidings_proto::frame::{decode_hello, encode_hello};
use tidings_proto::{DecodeError, Hello, Lane, VERSIONS};
use tokio::time::timeout;

use super::endpoint::Shared;
use super::identity::PeerIdentity;
use super::lane::{LaneError, Reader};
use super::link::{LinkHandle, close, write_ending};
use super::reason::{Ending, Reason};
use super::tls;

/// A connection that is to be the pair's link.
pub(super) struct Greeted {
    pub(super) link: LinkHandle,
    pub(super) hello: Hello,
    pub(super) lanes: Lanes,
    /// The link it replaces.
    pub(super) predecessor: Option<LinkHandle>,
}

/// The streams of a link. The peer's bulk lane is accepted when it first sends on it.
pub(super) struct Lanes {
    pub(super) news_out: SendStream,
    pub(super) bulk_out: SendStream,
    pub(super) news_in: Reader,
}

/// Priorities of our streams; QUIC sends the higher first.
const NEWS_PRIORITY: i32 = 1;
const BULK_PRIORITY: i32 = 0;

/// Checks who is there, exchanges HELLO, and takes the connection for the link or says why not.
pub(super) async fn greet(
    net: &Arc<Shared>,
    connection: &Connection,
    dialled: bool,
) -> Result<Greeted, Ending> {
    let identity = identify(net, connection)?;
    let (mut news_out, bulk_out) = open_lanes(connection).await.map_err(|error| Ending::of(&error))?;
    let leads = net.identity.node < identity.node;
    let exchanged =
        timeout(net.config.hello_timeout, exchange(net, connection, &identity, leads, &mut news_out)).await;
    let (news_in, hello) = exchanged.unwrap_or_else(|_| {
        let text = format!("no HELLO within {:?}", net.config.hello_timeout);
        Err(closing(connection, Ending::ours(Reason::HandshakeTimeout, text)))
    })?;
    let link =
        LinkHandle::new(net.next_id(), hello.actor.clone(), dialled, connection.clone(), net.stats.clone());
    let predecessor = net.admit(&link, leads).map_err(|ending| closing(connection, ending))?;
    if leads {
        let answer = encode_hello(&net.handler.hello()).into();
        link.queue(Lane::News).push_bytes(answer).expect("the queue of a new link is empty");
    }
    Ok(Greeted { link, hello, lanes: Lanes { news_out, bulk_out, news_in }, predecessor })
}

/// Closes while the streams are still there: the peer would take their end for the reason.
fn closing(connection: &Connection, ending: Ending) -> Ending {
    close(connection, &ending);
    ending
}

fn identify(net: &Shared, connection: &Connection) -> Result<PeerIdentity, Ending> {
    let identity = tls::peer_identity(connection)
        .map_err(|error| Ending::ours(Reason::BadIdentity, format!("your certificate: {error}")))?;
    if identity.realm != net.identity.realm {
        let text = format!("your certificate is of realm {}, this is {}", identity.realm, net.identity.realm);
        return Err(Ending::ours(Reason::WrongRealm, text));
    }
    Ok(identity)
}

async fn open_lanes(connection: &Connection) -> Result<(SendStream, SendStream), ConnectionError> {
    let (news, bulk) = (connection.open_uni().await?, connection.open_uni().await?);
    let _ = news.set_priority(NEWS_PRIORITY);
    let _ = bulk.set_priority(BULK_PRIORITY);
    Ok((news, bulk))
}

async fn exchange(
    net: &Shared,
    connection: &Connection,
    identity: &PeerIdentity,
    leads: bool,
    news_out: &mut SendStream,
) -> Result<(Reader, Hello), Ending> {
    let ours = net.handler.hello();
    if !leads {
        let sent = news_out.write_all(&encode_hello(&ours)).await;
        sent.map_err(|error| closing(connection, write_ending(error)))?;
    }
    let stream = connection.accept_uni().await.map_err(|error| Ending::of(&error))?;
    let mut news_in = Reader::new(Lane::News, stream);
    let received = receive(net, &mut news_in).await;
    let checked = received.and_then(|hello| check(&ours, identity, &hello).map(|()| hello));
    let hello = checked.map_err(|ending| closing(connection, ending))?;
    Ok((news_in, hello))
}

async fn receive(net: &Shared, news: &mut Reader) -> Result<Hello, Ending> {
    let bad = |error: DecodeError| Ending::ours(Reason::BadHello, error.to_string());
    let body = news.hello().await.map_err(|error| match error {
        LaneError::Frame(error) => bad(error),
        other => net.lane_ending(&other),
    })?;
    decode_hello(&body).map_err(bad)
}

fn check(ours: &Hello, identity: &PeerIdentity, hello: &Hello) -> Result<(), Ending> {
    let refuse = |reason, text| Err(Ending::ours(reason, text));
    if hello.realm != identity.realm {
        let text = format!("HELLO is of realm {}, the certificate of {}", hello.realm, identity.realm);
        return refuse(Reason::WrongRealm, text);
    }
    if hello.actor.node != identity.node {
        let text = format!("HELLO names node {}, the certificate {}", hello.actor.node, identity.node);
        return refuse(Reason::BadHello, text);
    }
    let (lowest, highest) = hello.versions;
    if lowest > VERSIONS.1 || highest < VERSIONS.0 || lowest > highest {
        let text =
            format!("you speak versions {lowest} to {highest}, this node {} to {}", VERSIONS.0, VERSIONS.1);
        return refuse(Reason::Version, text);
    }
    if hello.actor == ours.actor {
        return refuse(Reason::Itself, "this is the node itself".into());
    }
    if hello.actor.node == ours.actor.node {
        let text = format!("two running nodes use the certificate of {}", identity.node);
        return refuse(Reason::SameName, text);
    }
    Ok(())
}
