//! The worker: a thread that copies what has been sealed, comes back to what failed, and lets go of what is old.
//! Nobody waits for it but whoever asks for a backup.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::RngExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::manifest::{Manifest, ManifestName};
use super::place::Place;
use super::upload::{Counts, Uploader};
use super::{ArchiveError, BACK_OFF, LOOK_EVERY, Options, Owner, STOP_PATIENCE, keep, wall_millis};
use crate::config::Target;
use crate::store::{Housekeeper, Sealed};

/// Counters of the worker, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Objects copied.
    pub uploaded: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Objects that were there already.
    pub skipped: u64,
    /// Tries that failed.
    pub failures: u64,
    /// Manifests deleted for their number or age.
    pub pruned: u64,
    /// When a manifest was last written, in seconds since the Unix epoch; 0 for never.
    pub success_time: u64,
    /// For how long something sealed has not been in the archive, in seconds; 0 if all of it is, or there is none.
    pub behind: u64,
}

/// How an archive fares.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Standing {
    /// Where it is.
    pub target: String,
    /// The manifest written last, if one was since the start.
    pub manifest: Option<String>,
    /// When that was, in milliseconds since the Unix epoch.
    pub time: Option<u64>,
    /// For how long something sealed has not been in the archive, in seconds.
    pub behind_seconds: u64,
    /// Why the last try failed, if it did.
    pub error: Option<String>,
}

/// A handle on the worker.
#[derive(Debug)]
pub struct Archiver {
    requests: mpsc::UnboundedSender<Request>,
    board: Arc<Board>,
    stop: CancellationToken,
    stopped: Mutex<Option<std::sync::mpsc::Receiver<()>>>,
}

/// What the worker tells.
#[derive(Debug, Default)]
struct Board {
    target: Option<String>,
    counts: Arc<Counts>,
    failures: AtomicU64,
    pruned: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    manifest: Option<(ManifestName, u64)>,
    behind_since: Option<Instant>,
    error: Option<String>,
}

/// A backup by hand: of what is sealed now, to the target or the configured one.
#[derive(Debug)]
struct Request {
    target: Option<Target>,
    tell: oneshot::Sender<Result<ManifestName, ArchiveError>>,
}

impl Archiver {
    /// Starts the worker of a store.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn start(options: Options, owner: Owner, housekeeper: Housekeeper) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (requests, asked) = mpsc::unbounded_channel();
        let target = options.target.as_ref().map(Target::to_string);
        let board = Arc::new(Board { target, ..Board::default() });
        let stop = CancellationToken::new();
        let worker = Worker {
            options,
            owner,
            housekeeper,
            board: Arc::clone(&board),
            done: Sealed::default(),
            last: None,
            swept: false,
            failed: 0,
        };
        let (ended, end) = std::sync::mpsc::channel();
        let stopping = stop.clone();
        std::thread::Builder::new().name("archive".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = worker.run(asked) => {}
                }
            });
            // A request under way, or a write to a disk that hangs, is not waited for.
            runtime.shutdown_background();
            let _ = ended.send(());
        })?;
        Ok(Self { requests, board, stop, stopped: Mutex::new(Some(end)) })
    }

    /// Archives what is sealed now, and returns the manifest's name. Needs a target, given or configured.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub async fn backup(&self, target: Option<Target>) -> Result<ManifestName, ArchiveError> {
        let (tell, told) = oneshot::channel();
        self.requests.send(Request { target, tell }).map_err(|_| ArchiveError::Stopping)?;
        told.await.map_err(|_| ArchiveError::Stopping)?
    }

    /// Whether there is a place that everything goes to by itself.
    pub fn has_target(&self) -> bool {
        self.board.target.is_some()
    }

    /// Its counters.
    pub fn facts(&self) -> Facts {
        let (board, read) = (&self.board, |count: &AtomicU64| count.load(Ordering::Relaxed));
        let told = board.told.lock();
        Facts {
            uploaded: read(&board.counts.uploaded),
            bytes: read(&board.counts.bytes),
            skipped: read(&board.counts.skipped),
            failures: read(&board.failures),
            pruned: read(&board.pruned),
            success_time: told.manifest.as_ref().map_or(0, |(_, time)| time / 1_000),
            behind: told.behind(),
        }
    }

    /// How it fares; none without a target.
    pub fn standing(&self) -> Option<Standing> {
        let target = self.board.target.clone()?;
        let told = self.board.told.lock();
        Some(Standing {
            target,
            manifest: told.manifest.as_ref().map(|(name, _)| name.to_string()),
            time: told.manifest.as_ref().map(|(_, time)| *time),
            behind_seconds: told.behind(),
            error: told.error.clone(),
        })
    }

    /// Ends the worker, and waits a moment for it. What it had under way is begun again by the next start.
    pub fn stop(&self) {
        self.stop.cancel();
        if let Some(end) = self.stopped.lock().take() {
            let _ = end.recv_timeout(STOP_PATIENCE);
        }
    }
}

impl Drop for Archiver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Told {
    fn behind(&self) -> u64 {
        self.behind_since.map_or(0, |since| since.elapsed().as_secs())
    }
}

struct Worker {
    options: Options,
    owner: Owner,
    housekeeper: Housekeeper,
    board: Arc<Board>,
    /// What of the store is in the archive.
    done: Sealed,
    last: Option<Manifest>,
    /// Whether objects without a manifest have been looked for since the start.
    swept: bool,
    /// Failures in a row.
    failed: u32,
}

impl Worker {
    async fn run(mut self, mut asked: mpsc::UnboundedReceiver<Request>) {
        loop {
            let wait = if self.failed == 0 { LOOK_EVERY } else { back_off(self.failed) };
            tokio::select! {
                request = asked.recv() => match request {
                    Some(request) => self.answer(request).await,
                    None => return,
                },
                () = tokio::time::sleep(wait) => self.look().await,
            }
        }
    }

    /// Copies what has been sealed since the last time.
    async fn look(&mut self) {
        let Some(target) = self.options.target.clone() else { return };
        let sealed = self.housekeeper.sealed();
        if sealed.checkpoint.is_none() || sealed == self.done {
            return;
        }
        self.board.told.lock().behind_since.get_or_insert_with(Instant::now);
        // Its failure is told on the board.
        let _ = self.archive(&target, sealed).await;
    }

    async fn answer(&mut self, request: Request) {
        let sealed = self.housekeeper.sealed();
        let result = match (request.target, self.options.target.clone()) {
            (Some(given), own) if Some(&given) != own.as_ref() => self.copy(&given, &sealed, None).await,
            (_, Some(own)) => self.archive(&own, sealed).await,
            (_, None) => Err(no_target()),
        };
        // Whoever asked may have given up.
        let _ = request.tell.send(result.map(|manifest| manifest.name()));
    }

    /// Brings the configured archive up to date.
    async fn archive(&mut self, target: &Target, sealed: Sealed) -> Result<Manifest, ArchiveError> {
        let result = self.copy(target, &sealed, self.last.as_ref()).await;
        match &result {
            Ok(manifest) => {
                let name = manifest.name();
                tracing::info!(manifest = %name, segments = manifest.segments.len(), "archived");
                self.last = Some(manifest.clone());
                self.done = sealed;
                self.failed = 0;
                *self.board.told.lock() =
                    Told { manifest: Some((name, wall_millis())), behind_since: None, error: None };
                self.prune(target).await;
            }
            Err(error) => {
                self.failed = self.failed.saturating_add(1);
                self.board.failures.fetch_add(1, Ordering::Relaxed);
                self.board.told.lock().error = Some(error.to_string());
                tracing::warn!(%error, failed = self.failed, "not archived; it is tried again");
            }
        }
        result
    }

    async fn copy(
        &self,
        target: &Target,
        sealed: &Sealed,
        last: Option<&Manifest>,
    ) -> Result<Manifest, ArchiveError> {
        let place = Place::open(target, &self.options.access)?;
        let uploader = Uploader::new(place, self.owner.clone(), Arc::clone(&self.board.counts));
        uploader.upload(&self.housekeeper, sealed, last).await
    }

    async fn prune(&mut self, target: &Target) {
        let Ok(place) = Place::open(target, &self.options.access) else { return };
        let bounds = (self.options.keep, self.options.keep_age);
        match keep::prune(&place, &self.owner, bounds, wall_millis(), !self.swept).await {
            Ok(pruned) => {
                self.swept = true;
                self.board.pruned.fetch_add(pruned.manifests, Ordering::Relaxed);
                if pruned != keep::Pruned::default() {
                    let keep::Pruned { manifests, objects, bytes } = pruned;
                    tracing::info!(manifests, objects, bytes, "old archives deleted");
                }
            }
            Err(error) => tracing::warn!(%error, "old archives were not deleted"),
        }
    }
}

fn no_target() -> ArchiveError {
    let why = "none is configured: set `archive`, or give one with --to".to_owned();
    super::PlaceError::Open { place: "(none)".to_owned(), why }.into()
}

/// Twice as long after each failure, up to a bound, and by chance half as long or half as long again: nodes that
/// failed together do not come back together.
fn back_off(failed: u32) -> Duration {
    let (first, longest) = BACK_OFF;
    let wait = first.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(longest);
    wait.mul_f64(rand::rng().random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_bounded() {
        let within = |failed, low: f64, high: f64| {
            let wait = back_off(failed).as_secs_f64();
            assert!((low..high).contains(&wait), "{failed}: {wait}");
        };
        within(1, 0.5, 1.5);
        within(3, 2.0, 6.0);
        for failed in [9, 10, 40, u32::MAX] {
            within(failed, 128.0, 450.0);
        }
    }
}
