//! Opening a node: from a directory to a running engine.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::RngExt;
use tidings_proto::{Actor, Name};
use tokio::sync::{Notify, watch};

use super::api::Timings;
use super::checkpoint::Due;
use super::commit::{Committer, Synced};
use super::{About, Clock, Inner, Node, wall_millis};
use crate::archive::{self, Archiver, Owner};
use crate::core::replica::Recovery;
use crate::core::state::ApplyError;
use crate::core::table::HashKey;
use crate::engine::{Engine, Limits, Settings};
use crate::store::{self, DirLock, Fsync, OsDisk, Recovered, Store};

/// What a node is opened with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its data is; made if missing.
    pub data_dir: PathBuf,
    /// Its name, as its certificate says.
    pub node: Name,
    /// Its cluster.
    pub realm: Name,
    /// Decides the order of cells and what their fingerprints are: applications must not
    /// know it, and only nodes that share it can compare what they hold.
    pub order: HashKey,
    /// Its zone; empty for none.
    pub zone: String,
    /// Where members are told to reach it; empty for the address they see.
    pub advertise: Vec<String>,
    /// The protocol's knobs.
    pub settings: Settings,
    /// When the log is forced to the disk.
    pub fsync: Fsync,
    /// Bytes of recent ops kept in memory for peers that lack them.
    pub log_memory: usize,
    /// The longest names and values that clients may write.
    pub limits: Limits,
    /// Writes that peers have and this node lacks beyond which it is not ready.
    pub ready_lag: u64,
    /// Bounds beyond which clients' writes are refused.
    pub bounds: super::limits::Bounds,
    /// Time between audits of memory and disk; zero for none but those asked for.
    pub audit_interval: Duration,
    /// Bytes logged between checkpoints.
    pub checkpoint_bytes: u64,
    /// Bounds of the log on disk.
    pub store: store::Options,
    /// Where copies go.
    pub archive: archive::Options,
}

/// Why a node was not opened. Nothing is running, and no acknowledged write is gone.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory belongs to another process, or cannot be made.
    #[error(transparent)]
    Lock(#[from] store::LockError),
    /// The disk refuses, or what is on it is damaged.
    #[error(transparent)]
    Open(#[from] store::OpenError),
    /// What is on the disk is whole and yet not to be understood.
    #[error("the log in {} cannot be replayed: {reason}; move the directory away and rejoin blank, or restore a backup", dir.display())]
    Replay {
        /// The directory.
        dir: PathBuf,
        /// What was wrong.
        reason: String,
    },
    /// The first record cannot be written.
    #[error("the log in {} cannot be written: {reason}", dir.display())]
    Write {
        /// The directory.
        dir: PathBuf,
        /// What the disk said.
        reason: String,
    },
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl Node {
    /// Opens a node: recovers what its earlier lives left and begins a new one,
    /// on the disk first. It has no transport yet, and no door.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn open(options: Options, timings: Timings) -> Result<Self, StartError> {
        let lock = DirLock::acquire(&options.data_dir)?;
        let disk = Arc::new(OsDisk::new(lock));
        let (store, recovery) = Store::open(disk, options.store.clone(), wall_millis())?;
        let (mut engine, recovered) = recover(&options, recovery)?;
        engine.replica_mut().set_limits(options.limits);
        let clock = Clock { epoch: Instant::now() };
        let about = About {
            node: options.node,
            realm: options.realm,
            zone: options.zone,
            advertise: options.advertise,
            data_dir: options.data_dir.clone(),
            started_at: wall_millis(),
            recovered,
        };
        let syncer = store.syncer();
        let housekeeper = store.housekeeper();
        let owner = Owner { realm: about.realm.clone(), node: about.node.clone() };
        let interval = options.archive.target.as_ref().map(|_| options.archive.interval);
        let archiver = Archiver::start(options.archive, owner, housekeeper.clone())?;
        let synced = Synced { lsn: syncer.durable(), failed: None };
        let inner = Inner {
            engine: Mutex::new(engine),
            committer: Mutex::new(Committer::new(store)),
            synced: watch::Sender::new(synced),
            syncer,
            sync_wanted: super::commit::Signal::default(),
            dropped: Mutex::new(Vec::new()),
            housekeeper,
            handoff: super::handoff::Handoff::default(),
            archiver,
            transport: std::sync::OnceLock::new(),
            clock,
            about,
            fsync: options.fsync,
            ready_lag: options.ready_lag,
            timings,
            wake: Notify::new(),
            slept_for: AtomicU64::new(0),
            acked: Notify::new(),
            waiting: AtomicUsize::new(0),
            tokens: AtomicU64::new(1),
            answers: Mutex::default(),
            checkpoints: super::checkpoint::Counts::default(),
            audits: super::audit::Counts::default(),
            limits: super::limits::Minding { bounds: options.bounds, ..Default::default() },
            stopping: AtomicBool::new(false),
            gone: watch::Sender::new(false),
            log_records: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
        };
        let node = Self(Arc::new(inner));
        node.commit().map_err(|error| StartError::Write { dir: options.data_dir, reason: error.0 })?;
        let due = Due { bytes: options.checkpoint_bytes, interval };
        node.start_threads(due, options.audit_interval)?;
        Ok(node)
    }

    fn start_threads(&self, due: Due, audits: Duration) -> std::io::Result<()> {
        let node = self.clone();
        std::thread::Builder::new().name("log-sync".into()).spawn(move || node.run_syncs())?;
        let node = self.clone();
        std::thread::Builder::new().name("checkpoint".into()).spawn(move || node.run_checkpoints(due))?;
        let node = self.clone();
        std::thread::Builder::new().name("limits".into()).spawn(move || node.run_limits())?;
        let node = self.clone();
        std::thread::Builder::new().name("audit".into()).spawn(move || node.run_audits(audits))?;
        let node = self.clone();
        std::thread::Builder::new().name("handoff".into()).spawn(move || node.run_handoff())?;
        Ok(())
    }
}

/// Replays the disk into an engine that begins a new incarnation.
fn recover(options: &Options, recovery: store::Recovery) -> Result<(Engine, store::Report), StartError> {
    let began = Instant::now();
    let mut rng = rand::rng();
    let mut replica = Recovery::new(options.order, options.log_memory);
    let report = recovery
        .replay(|item| -> Result<(), ApplyError> {
            match item {
                Recovered::Checkpoint { meta, .. } => replica.meta(crate::core::journal::Meta::decode(meta)?),
                Recovered::Retained { lsn, payload } => replica.retained(lsn, payload),
                Recovered::Block(block) => replica.block(block),
                Recovered::Record { lsn, payload } => replica.record(lsn, payload),
            }
        })
        .map_err(|error| StartError::Replay { dir: options.data_dir.clone(), reason: error.to_string() })?;
    replica.ends_at(report.last_lsn);
    let actor = Actor { node: options.node.clone(), incarnation: rng.random() };
    let now = crate::engine::Now { mono: 0, wall: wall_millis() };
    let engine = Engine::new(replica, &actor, options.settings.clone(), rng.random(), now)
        .map_err(|error| StartError::Replay { dir: options.data_dir.clone(), reason: error.to_string() })?;
    let keys = engine.replica().state().len();
    if report.torn_bytes > 0 {
        tracing::warn!(bytes = report.torn_bytes, "the end of the log was torn and has been cut off");
    }
    tracing::info!(%actor, keys, records = report.records, elapsed = ?began.elapsed(), last_stop = ?report.last_stop, "recovered");
    Ok((engine, report))
}
