//! Dialling: for every wanted address a task that never gives up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::Connection;
use rand::RngExt;
use rand::seq::SliceRandom;
use thiserror::Error;
use tidings_proto::Name;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::endpoint::Shared;
use super::link::{Served, serve};
use super::reason::{Ending, Reason};
use super::{BACKOFF, MAX_ADDRESSES, MAX_RESOLVED, tls};

/// A link that lasted this long has proved the address good: the next pause is the shortest again.
const STABLE: Duration = Duration::from_secs(5);

/// There are [`MAX_ADDRESSES`] addresses already; this one was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{MAX_ADDRESSES} addresses are dialled already")]
pub struct TooManyAddresses;

/// How a wanted address fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressState {
    /// There is a link to the node behind it.
    Connected(Name),
    /// An attempt is under way.
    Dialling,
    /// The next attempt begins after this time.
    Waiting(Duration),
    /// It leads to this node itself.
    Itself,
}

/// A wanted address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressStatus {
    /// As it was wanted, `host:port`.
    pub address: String,
    /// How it fares.
    pub state: AddressState,
    /// The node that was last found behind it.
    pub node: Option<Name>,
    /// What went wrong last, until a link comes up.
    pub last_error: Option<String>,
}

/// The wanted addresses.
#[derive(Debug, Default)]
pub(super) struct Dialler(Mutex<BTreeMap<String, Arc<Wanted>>>);

#[derive(Debug)]
struct Wanted {
    address: String,
    unwanted: CancellationToken,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    node: Option<Name>,
    last_error: Option<String>,
    next_attempt: Option<Instant>,
    /// What the address resolved to that was found to be this node.
    own: BTreeSet<SocketAddr>,
    itself: bool,
}

impl Dialler {
    pub(super) fn unwant(&self, address: &str) -> bool {
        let removed = self.0.lock().remove(address);
        removed.inspect(|wanted| wanted.unwanted.cancel()).is_some()
    }
}

impl Shared {
    pub(super) fn want(self: &Arc<Self>, address: &str) -> Result<(), TooManyAddresses> {
        let mut all = self.dialler.0.lock();
        if all.contains_key(address) {
            return Ok(());
        }
        if all.len() >= MAX_ADDRESSES {
            return Err(TooManyAddresses);
        }
        let wanted = Arc::new(Wanted {
            address: address.to_owned(),
            unwanted: self.stop.child_token(),
            progress: Mutex::default(),
        });
        all.insert(address.to_owned(), wanted.clone());
        drop(all);
        let net = self.clone();
        self.tasks.spawn(async move {
            let unwanted = wanted.unwanted.clone();
            unwanted.run_until_cancelled(keep_dialling(&net, &wanted)).await
        });
        Ok(())
    }

    pub(super) fn addresses(&self) -> Vec<AddressStatus> {
        let all: Vec<_> = self.dialler.0.lock().values().cloned().collect();
        all.iter().map(|wanted| self.status(wanted)).collect()
    }

    fn status(&self, wanted: &Wanted) -> AddressStatus {
        let progress = wanted.progress.lock();
        let node = progress.node.clone();
        let state = match (&node, progress.next_attempt) {
            (Some(node), _) if self.link_to(node).is_some() => AddressState::Connected(node.clone()),
            _ if progress.itself => AddressState::Itself,
            (_, Some(at)) => AddressState::Waiting(at.saturating_duration_since(Instant::now())),
            (_, None) => AddressState::Dialling,
        };
        let linked = matches!(state, AddressState::Connected(_));
        let last_error = progress.last_error.clone().filter(|_| !linked);
        AddressStatus { address: wanted.address.clone(), state, node, last_error }
    }
}

/// What an attempt came to.
enum Attempt {
    /// It became a link, which has ended.
    Linked(Served),
    /// The node behind it has a link already, or is about to.
    Duplicate,
    /// All that the address resolves to is this node.
    Itself,
    Failed(String),
}

async fn keep_dialling(net: &Arc<Shared>, wanted: &Wanted) {
    let mut backoff = Backoff::default();
    loop {
        if wanted.is_linked(net) {
            wanted.progress.lock().last_error = None;
            until_unlinked(net, wanted).await;
            backoff = Backoff::default();
            wanted.pause(backoff.next()).await;
            continue;
        }
        match attempt(net, wanted).await {
            Attempt::Linked(served) => {
                let normal = served.ending.reason != Reason::Replaced;
                if normal && served.lasted.is_some_and(|lasted| lasted >= STABLE) {
                    backoff = Backoff::default();
                }
                wanted.failed(served.ending.to_string());
            }
            Attempt::Duplicate if wanted.is_linked(net) => continue,
            Attempt::Duplicate => {}
            Attempt::Itself => {
                wanted.progress.lock().itself = true;
                // A host name may come to name other nodes as well, an address stays what it is.
                if wanted.address.parse::<SocketAddr>().is_ok() {
                    debug!(address = wanted.address, "leads to this node itself");
                    return;
                }
                backoff = Backoff(BACKOFF.1);
            }
            Attempt::Failed(error) => wanted.failed(error),
        }
        wanted.pause(backoff.next()).await;
    }
}

/// Tries what the address resolves to, one after the other in random order, until one of them becomes a link.
async fn attempt(net: &Arc<Shared>, wanted: &Wanted) -> Attempt {
    let candidates = match resolve(net, wanted).await {
        Ok(candidates) if candidates.is_empty() => return Attempt::Itself,
        Ok(candidates) => candidates,
        Err(error) => return Attempt::Failed(error),
    };
    // Several are tried with less patience each, so that the dead among them do not hide the living for long.
    let patience = net.config.hello_timeout / if candidates.len() > 1 { 3 } else { 1 };
    let mut outcome = Attempt::Itself;
    for remote in candidates {
        let connected = tokio::select! {
            connected = connect(net, remote, patience) => connected,
            () = until_linked(net, wanted) => return Attempt::Duplicate,
        };
        let ending = match connected {
            Ok(connection) => {
                let served = serve_dialled(net, wanted, connection).await;
                if served.lasted.is_some() {
                    return Attempt::Linked(served);
                }
                served.ending
            }
            Err(ending) => ending,
        };
        match ending.reason {
            Reason::Duplicate => return Attempt::Duplicate,
            Reason::Itself => {
                wanted.progress.lock().own.insert(remote);
            }
            _ => outcome = Attempt::Failed(format!("{remote}: {ending}")),
        }
    }
    outcome
}

/// The addresses to try; none if all are this node's.
async fn resolve(net: &Arc<Shared>, wanted: &Wanted) -> Result<Vec<SocketAddr>, String> {
    let lookup = timeout(net.config.hello_timeout, tokio::net::lookup_host(&wanted.address)).await;
    let resolved = lookup.map_err(|_| "resolving it takes too long".to_owned())?;
    let resolved = resolved.map_err(|error| format!("cannot resolve it: {error}"))?;
    let v4_only = net.endpoint.local_addr().is_ok_and(|local| local.is_ipv4());
    let mut found: Vec<_> = resolved.filter(|remote| remote.is_ipv4() || !v4_only).collect();
    if found.is_empty() {
        return Err("it resolves to no address that the listening socket can reach".into());
    }
    found.retain(|remote| !wanted.progress.lock().own.contains(remote));
    found.shuffle(&mut rand::rng());
    found.truncate(MAX_RESOLVED);
    Ok(found)
}

async fn connect(net: &Arc<Shared>, remote: SocketAddr, patience: Duration) -> Result<Connection, Ending> {
    let failed = |ending: Ending| {
        net.stats.dial_failures.add(1);
        if !matches!(ending.reason, Reason::HandshakeTimeout | Reason::TimedOut | Reason::Other) {
            net.stats.refusal(&ending);
        }
        ending
    };
    let connecting = net
        .endpoint
        .connect_with(net.client_config(), remote, tls::SERVER_NAME)
        .map_err(|error| failed(Ending::ours(Reason::Other, error.to_string())))?;
    match timeout(patience, connecting).await {
        Ok(Ok(connection)) => {
            net.stats.dialled.add(1);
            Ok(connection)
        }
        Ok(Err(error)) => Err(failed(Ending::of(&error))),
        Err(_) => Err(failed(Ending::ours(Reason::HandshakeTimeout, "nobody answers"))),
    }
}

/// The link outlives the wish for it, so it runs in a task of its own.
async fn serve_dialled(net: &Arc<Shared>, wanted: &Wanted, connection: Connection) -> Served {
    if let Ok(identity) = tls::peer_identity(&connection)
        && identity.realm == net.identity.realm
    {
        let mut progress = wanted.progress.lock();
        progress.node = Some(identity.node);
        progress.itself = false;
    }
    let task = net.tasks.spawn(serve(net.clone(), connection, true, None));
    task.await.unwrap_or_else(|error| {
        let ending = Ending::ours(Reason::Other, format!("the link's task failed: {error}"));
        Served { lasted: None, ending }
    })
}

impl Wanted {
    fn failed(&self, error: String) {
        let mut progress = self.progress.lock();
        if progress.last_error.as_ref() == Some(&error) {
            debug!(address = self.address, "{error}");
        } else {
            warn!(address = self.address, "{error}");
        }
        progress.last_error = Some(error);
    }

    async fn pause(&self, pause: Duration) {
        self.progress.lock().next_attempt = Some(Instant::now() + pause);
        sleep(pause).await;
        self.progress.lock().next_attempt = None;
    }

    fn is_linked(&self, net: &Shared) -> bool {
        let node = self.progress.lock().node.clone();
        node.is_some_and(|node| net.link_to(&node).is_some())
    }
}

async fn until_unlinked(net: &Shared, wanted: &Wanted) {
    let mut changes = net.changes();
    while wanted.is_linked(net) {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Ends an attempt whose node has meanwhile been linked by another way.
async fn until_linked(net: &Shared, wanted: &Wanted) {
    let mut changes = net.changes();
    while !wanted.is_linked(net) {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Pauses that double, each shortened by up to a half at random, so that nodes that failed together do not try together.
#[derive(Debug)]
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(BACKOFF.0)
    }
}

impl Backoff {
    fn next(&mut self) -> Duration {
        let pause = self.0.mul_f64(rand::rng().random_range(0.5..1.0));
        self.0 = (self.0 * 2).min(BACKOFF.1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_stay_there() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..12).map(|_| backoff.next()).collect();
        assert!(pauses[0] >= BACKOFF.0 / 2 && pauses[0] <= BACKOFF.0);
        assert!(pauses.iter().all(|pause| *pause <= BACKOFF.1));
        assert!(pauses[8..].iter().all(|pause| *pause >= BACKOFF.1 / 2));
    }
}
