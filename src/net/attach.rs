//! A node on the transport: links and messages go up, sends come down.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use tidings_proto::{Hello, Message, Name};

use super::{
    AddressState, ByReason, Frame, Handler, LinkHandle, LinkId, Net, NetConfig, NetError, NetStats, Refusal,
};
use crate::net::tls::Credentials;
use crate::node::api::PeerRow;
use crate::node::{NetFacts, Node, QueueFull, Transport};

/// The transport as a node sees it.
struct Attached {
    node: Node,
    net: OnceLock<Arc<Net>>,
    links: RwLock<HashMap<LinkId, LinkHandle>>,
    /// Addresses that somebody set, rather than heard of from peers.
    fixed: Mutex<BTreeSet<String>>,
}

/// Starts the transport and gives it to the node.
///
/// # Errors
/// If the address cannot be listened on, or the credentials cannot be used.
pub fn attach(node: &Node, config: NetConfig, credentials: &Credentials) -> Result<Arc<Net>, NetError> {
    let attached = Arc::new(Attached {
        node: node.clone(),
        net: OnceLock::new(),
        links: RwLock::default(),
        fixed: Mutex::default(),
    });
    let net = Arc::new(Net::start(config, credentials, attached.clone())?);
    assert!(attached.net.set(net.clone()).is_ok(), "it is set once");
    node.attach(attached);
    Ok(net)
}

impl Attached {
    fn link(&self, id: LinkId) -> Option<LinkHandle> {
        self.links.read().get(&id).cloned()
    }

    /// The member that says it is found there: an address not yet reached may be that of a peer whose link came from
    /// its side.
    fn member_at(&self, address: &str) -> Option<Name> {
        let engine = self.node.lock();
        let there =
            engine.gossip().members().iter().find(|info| info.member.addresses.iter().any(|a| a == address));
        there.map(|info| info.member.node.clone())
    }
}

impl Handler for Attached {
    fn hello(&self) -> Hello {
        self.node.hello()
    }

    fn link_up(&self, link: &LinkHandle, mut hello: Hello) -> Result<(), Refusal> {
        if hello.addresses.is_empty() {
            // Nodes dial from the port that they listen on.
            hello.addresses.push(link.remote_address().to_string());
        }
        // HELLO took half a round trip to arrive.
        hello.clock = hello.clock.saturating_add(link.rtt().as_millis() as u64 / 2);
        self.links.write().insert(link.id(), link.clone());
        self.node.link_up(link.id(), hello);
        Ok(())
    }

    fn message(&self, link: LinkId, message: Message) -> bool {
        self.node.message(link, message)
    }

    fn receiving(&self, link: LinkId) {
        self.node.receiving(link);
    }

    fn writable(&self, link: LinkId) {
        self.node.writable(link);
    }

    fn link_down(&self, link: LinkId, reason: &str) {
        self.links.write().remove(&link);
        self.node.link_down(link, reason);
    }
}

impl Transport for Attached {
    fn send(&self, link: LinkId, message: &Message) -> Result<(), QueueFull> {
        match self.link(link) {
            Some(link) => link.send(&Frame::new(message)).map_err(|_| QueueFull),
            None => Ok(()),
        }
    }

    fn close(&self, link: LinkId, reason: &str) {
        if let Some(link) = self.link(link) {
            link.close(reason);
        }
    }

    fn seek(&self, address: &str, fixed: bool) {
        if fixed {
            self.fixed.lock().insert(address.to_owned());
        }
        if let Some(Err(error)) = self.net.get().map(|net| net.want(address)) {
            tracing::warn!(address, %error, "not sought");
        }
    }

    fn unseek(&self, address: &str) -> bool {
        self.fixed.lock().remove(address);
        self.net.get().is_some_and(|net| net.unwant(address))
    }

    fn peers(&self) -> Vec<PeerRow> {
        let Some(net) = self.net.get() else { return Vec::new() };
        let links = net.links();
        let row = |link: &LinkHandle| PeerRow {
            node: Some(link.peer().clone()),
            address: link.remote_address().to_string(),
            linked: link.is_up(),
            fixed: false,
            rtt_us: Some(link.rtt().as_micros() as u64),
            clock_offset_ms: None,
            unconfirmed: 0,
            error: None,
        };
        let mut rows: Vec<PeerRow> = links.iter().map(row).collect();
        let fixed = self.fixed.lock();
        for status in net.addresses() {
            let node = match &status.state {
                AddressState::Itself => continue,
                AddressState::Connected(node) => Some(node.clone()),
                _ => status.node.clone().or_else(|| self.member_at(&status.address)),
            };
            let fixed = fixed.contains(&status.address);
            match rows.iter_mut().find(|row| row.node.is_some() && row.node == node) {
                Some(row) => {
                    row.fixed |= fixed;
                    row.address = status.address;
                }
                None => rows.push(PeerRow {
                    node,
                    address: status.address,
                    linked: false,
                    fixed,
                    rtt_us: None,
                    clock_offset_ms: None,
                    unconfirmed: 0,
                    error: status.last_error,
                }),
            }
        }
        rows
    }

    fn facts(&self) -> NetFacts {
        let Some(net) = self.net.get() else { return NetFacts::default() };
        NetFacts { linked: self.links.read().len() as u64, ..facts_of(net.stats()) }
    }
}

/// What the transport counted.
fn facts_of(stats: &NetStats) -> NetFacts {
    let reasons = |by: &ByReason| by.iter().map(|(reason, n)| (reason.label(), n)).collect();
    let kinds = || stats.by_kind();
    NetFacts {
        linked: 0,
        messages_sent: kinds().map(|(kind, traffic)| (kind, traffic.frames_out.get())).collect(),
        messages_received: kinds().map(|(kind, traffic)| (kind, traffic.frames_in.get())).collect(),
        bytes_sent: kinds().map(|(kind, traffic)| (kind, traffic.bytes_out.get())).collect(),
        bytes_received: kinds().map(|(kind, traffic)| (kind, traffic.bytes_in.get())).collect(),
        dropped: [("news", stats.news_queue_full.get()), ("bulk", stats.bulk_queue_full.get())].into(),
        refused: reasons(&stats.refused),
        refused_by_peer: reasons(&stats.refused_by_peer),
        ended: reasons(&stats.ended),
        dial_failures: stats.dial_failures.get(),
        pauses: stats.pauses.get(),
        clock_offset_ms: None,
    }
}
