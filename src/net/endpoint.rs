//! The endpoint: one UDP socket, everything that runs on it, and what the rest of the node holds of it.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quinn::congestion::CubicConfig;
use quinn::crypto::HmacKey;
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, Incoming,
    MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tidings_proto::Name;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::dial::{AddressStatus, Dialler, TooManyAddresses};
use super::identity::PeerIdentity;
use super::link::{LinkHandle, LinkId, serve};
use super::reason::{Ending, Reason};
use super::stats::NetStats;
use super::tls::{CredentialError, Credentials};
use super::{Handler, IDLE_TIMEOUT, KEEP_ALIVE, LANE_WINDOW, MAX_HANDSHAKES, REASON_BYTES, SOCKET_BUFFER};

/// Settings of the transport.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// UDP address to listen on and to dial from; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Most links at a time; further peers are refused. Default 1,024.
    pub max_links: usize,
    /// How long TLS, and then HELLO, may each take. Default 5 s.
    pub hello_timeout: Duration,
}

impl NetConfig {
    /// The defaults, on an address.
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, max_links: 1_024, hello_timeout: Duration::from_secs(5) }
    }
}

/// Why the transport does not start. Nothing is left running.
#[derive(Debug, Error)]
pub enum NetError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}/udp: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

/// The running transport. Dropping it closes everything at once; [`Net::shutdown`] does so in order.
#[derive(Debug)]
pub struct Net(Arc<Shared>);

/// What the tasks of the transport share. Its locks are held for moments and never across an await.
pub(super) struct Shared {
    pub(super) endpoint: Endpoint,
    pub(super) config: NetConfig,
    pub(super) identity: PeerIdentity,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) stats: Arc<NetStats>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) dialler: Dialler,
    client_config: Mutex<ClientConfig>,
    links: Mutex<BTreeMap<Name, LinkHandle>>,
    changed: watch::Sender<()>,
    next_id: AtomicU64,
    handshakes: Arc<Semaphore>,
}

impl Net {
    /// Binds the socket and begins to accept. Called within a tokio runtime.
    pub fn start(
        config: NetConfig,
        credentials: &Credentials,
        handler: Arc<dyn Handler>,
    ) -> Result<Self, NetError> {
        let (endpoint, client_config) = open(config.listen, credentials)?;
        let shared = Arc::new(Shared {
            endpoint,
            identity: credentials.identity().clone(),
            handler,
            stats: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            dialler: Dialler::default(),
            client_config: Mutex::new(client_config),
            links: Mutex::default(),
            changed: watch::Sender::new(()),
            next_id: AtomicU64::new(1),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            config,
        });
        shared.tasks.spawn(accept(shared.clone()));
        Ok(Self(shared))
    }

    /// The address listened on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.endpoint.local_addr()
    }

    /// Who this node is to its peers.
    pub fn identity(&self) -> &PeerIdentity {
        &self.0.identity
    }

    /// Keeps dialling `address` (`host:port`) whenever no link to the node behind it exists, until [`Net::unwant`].
    /// Without effect if it is wanted already.
    pub fn want(&self, address: &str) -> Result<(), TooManyAddresses> {
        self.0.want(address)
    }

    /// Stops dialling `address`. A link that exists stays. Answers whether the address was wanted.
    pub fn unwant(&self, address: &str) -> bool {
        self.0.dialler.unwant(address)
    }

    /// The wanted addresses and how each of them fares, in their order as text.
    pub fn addresses(&self) -> Vec<AddressStatus> {
        self.0.addresses()
    }

    /// The links that are up, by the peer's name.
    pub fn links(&self) -> Vec<LinkHandle> {
        self.0.links.lock().values().filter(|link| link.is_up()).cloned().collect()
    }

    /// The link to a node, if it is up.
    pub fn link_to(&self, node: &Name) -> Option<LinkHandle> {
        self.0.link_to(node)
    }

    /// What was counted since the start.
    pub fn stats(&self) -> &Arc<NetStats> {
        &self.0.stats
    }

    /// Uses other credentials for new connections; existing ones go on.
    ///
    /// # Errors
    /// If they cannot be used, or are another node's. The old ones then stay in use.
    pub fn reload(&self, credentials: &Credentials) -> Result<(), CredentialError> {
        if *credentials.identity() != self.0.identity {
            let (found, running) = (credentials.identity().clone(), self.0.identity.clone());
            return Err(CredentialError::Changed { found, running });
        }
        let (server, client) = (server_config(credentials)?, client_config(credentials)?);
        self.0.endpoint.set_server_config(Some(server));
        *self.0.client_config.lock() = client;
        info!(until = %credentials.not_after(), "certificates reloaded");
        Ok(())
    }

    /// Closes all links with a reason that the peers see, and waits until everything has stopped.
    pub async fn shutdown(&self, reason: &str) {
        const FAREWELL: Duration = Duration::from_secs(2);
        self.0.close(reason);
        self.0.tasks.wait().await;
        // Peers that are gone themselves never confirm; QUIC would wait for three probe time-outs.
        let _ = timeout(FAREWELL, self.0.endpoint.wait_idle()).await;
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.0.close("stopped");
    }
}

impl Shared {
    fn close(&self, reason: &str) {
        self.stop.cancel();
        self.tasks.close();
        let text = reason.as_bytes();
        self.endpoint.close(Reason::Shutdown.code(), &text[..text.len().min(REASON_BYTES)]);
    }

    pub(super) fn next_id(&self) -> LinkId {
        LinkId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn client_config(&self) -> ClientConfig {
        self.client_config.lock().clone()
    }

    /// Takes a connection for the link to its node; answers with the one it replaces. Only the leader of a pair
    /// (see `greeting`) refuses duplicates.
    pub(super) fn admit(&self, link: &LinkHandle, leads: bool) -> Result<Option<LinkHandle>, Ending> {
        let mut links = self.links.lock();
        match links.get(link.peer()) {
            Some(old) if leads && old.is_alive() && old.actor() == link.actor() => {
                Err(Ending::ours(Reason::Duplicate, "there is a link already"))
            }
            None if links.len() >= self.config.max_links => {
                let text = format!("this node has its {} links", self.config.max_links);
                Err(Ending::ours(Reason::TooMany, text))
            }
            _ => Ok(links.insert(link.peer().clone(), link.clone())),
        }
    }

    /// Undoes [`Shared::admit`], unless another link has taken the place since.
    pub(super) fn forget(&self, link: &LinkHandle) {
        let mut links = self.links.lock();
        if links.get(link.peer()).is_some_and(|current| current.id() == link.id()) {
            links.remove(link.peer());
        }
        drop(links);
        self.links_changed();
    }

    pub(super) fn link_to(&self, node: &Name) -> Option<LinkHandle> {
        self.links.lock().get(node).filter(|link| link.is_up()).cloned()
    }

    pub(super) fn links_changed(&self) {
        self.changed.send_replace(());
    }

    /// Reports when a link has come up or gone down.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn refused(&self, remote: SocketAddr, ending: &Ending) {
        if self.stats.refusal(ending) {
            warn!(%remote, "connection refused: {ending}");
        } else {
            debug!(%remote, "connection refused: {ending}");
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("identity", &self.identity).field("config", &self.config).finish()
    }
}

async fn accept(net: Arc<Shared>) {
    while let Some(incoming) = net.endpoint.accept().await {
        let remote = incoming.remote_address();
        let Ok(permit) = net.handshakes.clone().try_acquire_owned() else {
            net.refused(remote, &Ending::ours(Reason::TooMany, "too many handshakes under way"));
            incoming.refuse();
            continue;
        };
        // Under load a stranger first has to show that it receives what is sent to its address.
        let busy = net.handshakes.available_permits() < MAX_HANDSHAKES / 2;
        if busy && incoming.may_retry() && !incoming.remote_address_validated() {
            net.stats.retries.add(1);
            let _ = incoming.retry();
            continue;
        }
        net.tasks.spawn(handshake(net.clone(), incoming, permit));
    }
}

async fn handshake(net: Arc<Shared>, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let remote = incoming.remote_address();
    let shaken = match incoming.accept() {
        Ok(connecting) => timeout(net.config.hello_timeout, connecting).await,
        Err(error) => Ok(Err(error)),
    };
    let late = || Ending::ours(Reason::HandshakeTimeout, "the TLS handshake did not complete in time");
    let refused = match shaken {
        Ok(Ok(connection)) => {
            net.stats.accepted.add(1);
            serve(net, connection, false, Some(permit)).await;
            return;
        }
        Ok(Err(quinn::ConnectionError::TimedOut)) | Err(_) => late(),
        Ok(Err(error)) => Ending::of(&error),
    };
    net.refused(remote, &refused);
}

/// The socket and QUIC on it, and the configuration for dialling: all that carries a link, and nothing of what makes
/// it one. Called within a tokio runtime.
pub fn open(listen: SocketAddr, credentials: &Credentials) -> Result<(Endpoint, ClientConfig), NetError> {
    let bind = |source| NetError::Bind { address: listen, source };
    let socket = bind_socket(listen).map_err(bind)?;
    let (endpoint, server) = (endpoint_config(credentials), server_config(credentials)?);
    let endpoint = Endpoint::new(endpoint, Some(server), socket, Arc::new(TokioRuntime)).map_err(bind)?;
    Ok((endpoint, client_config(credentials)?))
}

fn bind_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Some systems have no dual-stack sockets; IPv6 alone is then what there is.
        let _ = socket.set_only_v6(false);
    }
    // The system grants what its limits allow, in silence; Linux reports twice the usable size.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    let (receive, send) = (socket.recv_buffer_size()?, socket.send_buffer_size()?);
    if receive.min(send) < SOCKET_BUFFER {
        warn!(
            receive,
            send,
            wanted = SOCKET_BUFFER,
            "the UDP socket's buffers are smaller than wanted, bursts may be lost and sent again; \
             on Linux raise net.core.rmem_max and net.core.wmem_max"
        );
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn server_config(credentials: &Credentials) -> Result<ServerConfig, CredentialError> {
    let mut config = ServerConfig::with_crypto(Arc::new(credentials.server_config()?));
    config.transport_config(Arc::new(transport_config())).max_incoming(MAX_HANDSHAKES);
    Ok(config)
}

fn client_config(credentials: &Credentials) -> Result<ClientConfig, CredentialError> {
    let mut config = ClientConfig::new(Arc::new(credentials.client_config()?));
    config.transport_config(Arc::new(transport_config()));
    Ok(config)
}

/// Windows of both lanes fit into those of the connection, so that a lane that is not read never stalls the other.
fn transport_config() -> TransportConfig {
    const UNI_STREAMS: u32 = 256;
    const BI_STREAMS: u32 = 64;
    const INITIAL_RTT: Duration = Duration::from_millis(100);
    let idle = IdleTimeout::try_from(IDLE_TIMEOUT).expect("twenty seconds fit");
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS))
        .max_concurrent_bidi_streams(VarInt::from_u32(BI_STREAMS))
        .stream_receive_window(VarInt::from_u32(LANE_WINDOW))
        .receive_window(VarInt::from_u32(2 * LANE_WINDOW))
        .send_window(2 * u64::from(LANE_WINDOW))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(MtuDiscoveryConfig::default()))
        .congestion_controller_factory(Arc::new(CubicConfig::default()));
    config
}

/// Stateless resets from a secret that a restart keeps: a restarted node then tells its old peers at their next packet
/// that the connection is gone, instead of leaving them to the idle time-out.
fn endpoint_config(credentials: &Credentials) -> EndpointConfig {
    let key = ResetKey(credentials.derive_secret("tidings 2026 quic stateless reset"));
    let mut config = EndpointConfig::new(Arc::new(key));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// Random connection ids. QUIC's default are signed with a secret of the process, so that a restarted one would ignore
/// its predecessor's instead of answering with a reset.
struct RandomIds;

impl RandomIds {
    const LENGTH: usize = 8;
}

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; Self::LENGTH]>())
    }

    fn cid_len(&self) -> usize {
        Self::LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        blake3::Hasher::new_keyed(&self.0).update(data).finalize_xof().fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), quinn::crypto::CryptoError> {
        // Comparing hashes takes the same time wherever they differ.
        let signature: [u8; 32] = signature.try_into().map_err(|_| quinn::crypto::CryptoError)?;
        let expected = blake3::keyed_hash(&self.0, data);
        if expected == blake3::Hash::from(signature) { Ok(()) } else { Err(quinn::crypto::CryptoError) }
    }
}
