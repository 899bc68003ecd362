//! The whole daemon as a library: a node, its transport and its doors, from one configuration.

use std::sync::Arc;

use tracing::info;

use crate::config::Config;
use crate::net::tls::{CredentialError, CredentialFiles, Credentials};
use crate::net::{Net, NetConfig, NetError};
use crate::node::api::{Addresses, Operator, Timings};
use crate::node::{Desk, Node, Options, RespFacts, StartError};
use crate::{engine, net, store};

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    node: Node,
    net: Arc<Net>,
    desk: Arc<Desk>,
    timers: tokio::task::JoinHandle<()>,
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
    /// The node cannot be opened.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Other nodes cannot be listened to.
    #[error(transparent)]
    Net(#[from] NetError),
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
        let options = options(&config, identity.node.clone(), identity.realm.clone());
        let opened = tokio::task::spawn_blocking(move || Node::open(options, timings));
        let node = opened.await.expect("opening a node does not panic")?;
        match Self::serve(&config, &node, &credentials) {
            Ok((net, desk)) => {
                let timers = tokio::spawn({
                    let node = node.clone();
                    async move { node.run_timers().await }
                });
                Ok(Self { node, net, desk, timers })
            }
            Err(error) => {
                node.close();
                Err(error)
            }
        }
    }

    fn serve(
        config: &Config,
        node: &Node,
        credentials: &Credentials,
    ) -> Result<(Arc<Net>, Arc<Desk>), SidecarError> {
        let net = net::attach(node, NetConfig::new(config.listen), credentials)?;
        let addresses = Addresses {
            quic: net.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            resp: None,
            http: config.http.map(|address| address.to_string()),
            admin: config.admin_path().display().to_string(),
            advertised: config.advertise.iter().map(|address| address.as_str().to_owned()).collect(),
        };
        for seed in &config.join {
            node.seek(seed.as_str());
        }
        let desk = Desk::new(node.clone(), config.clone(), addresses, RespFacts::default);
        Ok((net, desk))
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// What operators may ask.
    pub fn operator(&self) -> Arc<dyn Operator> {
        self.desk.clone()
    }

    /// Returns when an operator has had the node leave.
    pub async fn left(&self) {
        self.node.gone().await;
    }

    /// Shuts the doors, ends the links, and closes the log.
    pub async fn shutdown(self) {
        self.net.shutdown("the node is stopping").await;
        let node = self.node.clone();
        tokio::task::spawn_blocking(move || node.close()).await.expect("closing does not panic");
        self.timers.abort();
        info!("the log is closed");
    }
}

fn options(config: &Config, node: tidings_proto::Name, realm: tidings_proto::Name) -> Options {
    let millis = |duration: std::time::Duration| duration.as_millis() as u64;
    Options {
        data_dir: config.data_dir.clone(),
        node,
        realm,
        zone: config.zone.as_str().to_owned(),
        advertise: config.advertise.iter().map(|address| address.as_str().to_owned()).collect(),
        settings: engine::Settings {
            push_interval: millis(config.push_interval),
            anti_entropy_interval: millis(config.anti_entropy_interval),
            fanout: config.fanout as usize,
            push_window: config.push_window.as_micros() as u64,
            max_clock_drift: millis(config.max_clock_drift),
        },
        fsync: config.fsync,
        log_memory: config.log_memory.0 as usize,
        checkpoint_bytes: config.checkpoint_size.0,
        store: store::Options {
            segment_bytes: config.segment_size.0,
            retain_bytes: config.log_disk.0,
            retain_age_ms: millis(config.log_age),
            redeliver_bytes: config.log_memory.0,
        },
    }
}
