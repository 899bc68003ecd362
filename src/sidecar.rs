//! The whole daemon as a library: a node, its transport and its doors, from one configuration.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::archive::{self, Place, RestoreError, Wanted};
use crate::config::{Config, Target};
use crate::core::table::HashKey;
use crate::net::tls::{CredentialError, CredentialFiles, Credentials};
use crate::net::{Net, NetConfig, NetError};
use crate::node::api::{Addresses, Operator, Timings};
use crate::node::{Desk, Node, Options, RespFacts, StartError};
use crate::resp::{self, RespStats};
use crate::store::{DirLock, OsDisk};
use crate::{engine, net, store};

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    node: Node,
    net: Arc<Net>,
    desk: Arc<Desk>,
    timers: tokio::task::JoinHandle<()>,
    resp: Option<Resp>,
}

/// The application door and how to shut it.
#[derive(Debug)]
struct Resp {
    thread: std::thread::JoinHandle<()>,
    shut: CancellationToken,
}

/// Why a sidecar did not start. Nothing is left running, and no acknowledged write is gone.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// There are no certificates yet; the text says how to make them.
    #[error("{0}")]
    NoCredentials(String),
    /// The certificates cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The certificate is of another realm than the configuration asks for.
    #[error("realm is set to {configured}, and the certificate is of realm {certified}")]
    Realm {
        /// As set.
        configured: tidings_proto::Name,
        /// As the certificate says.
        certified: tidings_proto::Name,
    },
    /// The archive that an empty directory was to be filled from does not give it.
    #[error("{0}\nstart without `restore_from` to get everything from the peers")]
    Restore(String),
    /// The node cannot be opened.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Other nodes cannot be listened to.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Redis clients cannot be listened to.
    #[error("resp address {address}: {source}")]
    Resp {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Redis clients cannot be served.
    #[error(transparent)]
    Serve(#[from] resp::ServeError),
}

impl Sidecar {
    /// Opens the node, links it to its peers and serves Redis clients. The admin
    /// socket and the HTTP port are the caller's to open, on [`Sidecar::operator`].
    ///
    /// # Errors
    /// See [`SidecarError`].
    pub async fn start(config: Config, timings: Timings) -> Result<Self, SidecarError> {
        let files =
            CredentialFiles { ca: config.ca_path(), cert: config.cert_path(), key: config.key_path() };
        let realm = config.realm.as_ref().map(|realm| realm.as_str());
        if let Some(how) = Credentials::missing(&files, realm, None) {
            return Err(SidecarError::NoCredentials(how));
        }
        let credentials = Credentials::load(&files)?;
        let identity = credentials.identity();
        if let Some(configured) = config.realm.clone().filter(|realm| *realm != identity.realm) {
            return Err(SidecarError::Realm { configured, certified: identity.realm.clone() });
        }
        if let Some(target) = &config.restore_from {
            bootstrap(&config, target, &identity.realm).await?;
        }
        let options = options(&config, &credentials);
        let opened = tokio::task::spawn_blocking(move || Node::open(options, timings));
        let node = opened.await.expect("opening a node does not panic")?;
        match Self::serve(&config, &node, &credentials) {
            Ok(sidecar) => Ok(sidecar),
            Err(error) => {
                node.close();
                Err(error)
            }
        }
    }

    /// Opens what listens, the one that may fail for others' sake first.
    fn serve(config: &Config, node: &Node, credentials: &Credentials) -> Result<Self, SidecarError> {
        let listener = config.resp.map(|address| listen(address).map(|listener| (listener, address)));
        let listener = listener.transpose()?;
        let net = net::attach(node, NetConfig::new(config.listen), credentials)?;
        for seed in &config.join {
            node.seek(seed.as_str());
        }
        let stats = Arc::new(RespStats::new());
        let shut = CancellationToken::new();
        let resp_address = listener.as_ref().map(|(_, address)| address.to_string());
        let resp = match listener {
            None => None,
            Some((listener, _)) => {
                let closing = shut.clone();
                let until = async move { closing.cancelled().await };
                let thread = resp::serve(listener, node.clone(), resp_options(config), stats.clone(), until)?;
                Some(Resp { thread, shut })
            }
        };
        let addresses = Addresses {
            quic: net.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            resp: resp_address,
            http: config.http.map(|address| address.to_string()),
            admin: config.admin_path().display().to_string(),
            advertised: config.advertise.iter().map(|address| address.as_str().to_owned()).collect(),
        };
        let desk = Desk::new(node.clone(), config.clone(), addresses, move || resp_facts(&stats));
        let timers = tokio::spawn({
            let node = node.clone();
            async move { node.run_timers().await }
        });
        Ok(Self { node: node.clone(), net, desk, timers, resp })
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What operators may ask.
    pub fn operator(&self) -> Arc<dyn Operator> {
        self.desk.clone()
    }

    /// Has the node use what of a configuration may change while it runs, and show it to operators.
    pub fn reconfigure(&self, config: Config) {
        self.node.set_settings(engine_settings(&config));
        self.desk.set_config(config);
    }

    /// Returns when an operator has had the node leave.
    pub async fn left(&self) {
        self.node.gone().await;
    }

    /// Shuts the doors, ends the links, and closes the log.
    pub async fn shutdown(self) {
        if let Some(Resp { thread, shut }) = self.resp {
            shut.cancel();
            // It only fails if the door's thread has died, which it has said itself.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.net.shutdown("the node is stopping").await;
        let node = self.node.clone();
        tokio::task::spawn_blocking(move || node.close()).await.expect("closing does not panic");
        self.timers.abort();
        info!("the log is closed");
    }
}

/// Fills an empty directory from an archive. What the archive does not have yet comes from the peers.
async fn bootstrap(
    config: &Config,
    target: &Target,
    realm: &tidings_proto::Name,
) -> Result<(), SidecarError> {
    let failed = |error: &dyn std::fmt::Display| SidecarError::Restore(error.to_string());
    let lock = DirLock::acquire(&config.data_dir).map_err(StartError::from)?;
    let disk = Arc::new(OsDisk::new(lock));
    if store::holds_a_store(&*disk).map_err(|error| failed(&error))?.is_some() {
        return Ok(());
    }
    let place = Place::open_existing(target, &config.archive_access()).map_err(|error| failed(&error))?;
    let wanted = Wanted { realm: Some(realm.clone()), manifest: None };
    info!(from = place.shown(), %realm, "the data directory is empty: restoring the newest checkpoint of the realm");
    match Box::pin(archive::restore(&place, &wanted, disk)).await {
        Ok(restored) => {
            restored.problems.iter().for_each(|problem| warn!("{problem}"));
            let archive::Restored { manifest, last_lsn, bytes, .. } = restored;
            info!(%manifest, last_lsn, bytes, "restored; the rest comes from the peers");
            Ok(())
        }
        Err(error @ RestoreError::Nothing { .. }) => {
            info!("{error}: starting blank");
            Ok(())
        }
        Err(error) => Err(failed(&error)),
    }
}

fn options(config: &Config, credentials: &Credentials) -> Options {
    let identity = credentials.identity();
    let halves = credentials.realm_key();
    let half = |at| u64::from_le_bytes(*halves[at..].first_chunk().expect("two halves of eight bytes"));
    let millis = |duration: std::time::Duration| duration.as_millis() as u64;
    Options {
        data_dir: config.data_dir.clone(),
        node: identity.node.clone(),
        realm: identity.realm.clone(),
        order: HashKey(half(0), half(8)),
        zone: config.zone.as_str().to_owned(),
        advertise: config.advertise.iter().map(|address| address.as_str().to_owned()).collect(),
        settings: engine_settings(config),
        fsync: config.fsync,
        log_memory: config.log_memory.0 as usize,
        limits: engine::Limits {
            key: config.max_key_size.0 as usize,
            element: config.max_element_size.0 as usize,
            value: config.max_value_size.0 as usize,
        },
        ready_lag: config.ready_lag.into(),
        bounds: crate::node::Bounds { memory: config.max_memory.0, log: config.max_log.0 },
        audit_interval: config.audit_interval,
        checkpoint_bytes: config.checkpoint_size.0,
        store: store::Options {
            segment_bytes: config.segment_size.0,
            retain_bytes: config.log_disk.0,
            retain_age_ms: millis(config.log_age),
            redeliver_bytes: config.log_memory.0,
        },
        archive: archive::Options {
            target: config.archive.clone(),
            access: config.archive_access(),
            interval: config.archive_interval,
            keep: config.archive_keep as usize,
            keep_age: config.archive_keep_age,
        },
    }
}

/// A listener with room for many clients that come at once.
fn listen(address: SocketAddr) -> Result<TcpListener, SidecarError> {
    let open = || {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1_024)?;
        Ok(socket.into())
    };
    open().map_err(|source| SidecarError::Resp { address, source })
}

fn resp_options(config: &Config) -> resp::Options {
    let limits = resp::Limits { clients: config.max_clients as usize, ..resp::Limits::default() };
    let settings = config.rows().into_iter().map(|row| (row.key, row.value)).collect();
    resp::Options { limits, settings }
}

fn resp_facts(stats: &RespStats) -> RespFacts {
    let refused =
        [("limit", stats.refused.get()), ("output", stats.overrun.get()), ("disk", stats.failed.get())];
    RespFacts {
        clients: stats.clients.get(),
        accepted: stats.accepted.get(),
        refused: refused.into(),
        commands: stats.commands.get(),
        errors: stats.errors.get(),
        malformed: stats.malformed.get(),
    }
}

fn engine_settings(config: &Config) -> engine::Settings {
    let millis = |duration: std::time::Duration| duration.as_millis() as u64;
    engine::Settings {
        push_interval: millis(config.push_interval),
        anti_entropy_interval: millis(config.anti_entropy_interval),
        fanout: config.fanout as usize,
        push_window: config.push_window.as_micros() as u64,
        max_clock_drift: millis(config.max_clock_drift),
    }
}
