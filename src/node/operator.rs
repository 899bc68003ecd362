//! What operators may ask, answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidings_proto::Name;

use super::api::*;
use super::facts::{NetFacts, ProcessFacts, ReplicaFacts, RespFacts, StoreFacts};
use super::rows::{key_row, scratch};
use super::{Node, audit, wall_millis};
use crate::config::{Config, ConfigRow};
use crate::core::session::MergeProgress;
use crate::core::view;
use crate::engine::{self, Input, LinkId, Write, WriteError};

/// How long a peer has to answer.
const PEER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a blank node that seeks peers waits for the first before it is ready without: others may wait for it.
const FIRST_PEER: Duration = Duration::from_secs(10);
/// How long peers have to take what a leaving node has.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// A node, with what its operators know of it besides: where it listens and how it was set.
pub struct Desk {
    node: Node,
    config: Mutex<Config>,
    addresses: Mutex<Addresses>,
    resp: Box<dyn Fn() -> RespFacts + Send + Sync>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Desk").field(&self.node).finish()
    }
}

impl Desk {
    /// A desk for a node. `resp` reads the counters of the application door.
    pub fn new(
        node: Node,
        config: Config,
        addresses: Addresses,
        resp: impl Fn() -> RespFacts + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            config: Mutex::new(config),
            addresses: Mutex::new(addresses),
            resp: Box::new(resp),
        })
    }

    /// Replaces the configuration that operators are shown.
    pub fn set_config(&self, config: Config) {
        *self.config.lock() = config;
    }

    fn link_to(&self, peer: &Name) -> Result<LinkId, Refusal> {
        let engine = self.node.lock();
        let found = engine.gossip().links().find(|(_, link)| link.actor.node == *peer).map(|(id, _)| id);
        found.ok_or_else(|| Refusal::NotFound(format!("there is no link to a peer named {peer}")))
    }

    fn links(&self) -> Vec<(LinkId, Name)> {
        let engine = self.node.lock();
        engine.gossip().links().map(|(id, link)| (id, link.actor.node.clone())).collect()
    }

    fn chosen(&self, peer: Option<Name>) -> Result<Vec<(LinkId, Name)>, Refusal> {
        let links = match peer {
            Some(peer) => vec![(self.link_to(&peer)?, peer)],
            None => self.links(),
        };
        if links.is_empty() {
            return Err(Refusal::Unavailable("no peer is linked".into()));
        }
        Ok(links)
    }

    fn unconfirmed(&self, id: LinkId) -> u64 {
        let engine = self.node.lock();
        let replica = engine.replica();
        let Some((_, link)) = engine.gossip().links().find(|(link, _)| *link == id) else { return 0 };
        replica.places().map(|actor| replica.state().seen(actor).saturating_sub(link.known(actor))).sum()
    }

    async fn sync_one(&self, id: LinkId, node: Name) -> SyncRow {
        let began = Instant::now();
        let before = self.op_counts();
        let answer = self.node.ask(PEER_PATIENCE, |token| Input::Sync { link: id, token }).await;
        let (sent, received, merges) = self.op_counts();
        let (result, error) = match answer {
            Some(engine::Answer::Synced { equal: true }) => (SyncResult::Equal, None),
            Some(engine::Answer::Synced { equal: false }) if merges > before.2 => (SyncResult::Merge, None),
            Some(engine::Answer::Synced { equal: false }) => (SyncResult::Ops, None),
            Some(_) => (SyncResult::Failed, Some("the link went down".into())),
            None => (SyncResult::Failed, Some(format!("no answer within {} s", PEER_PATIENCE.as_secs()))),
        };
        let millis = began.elapsed().as_millis() as u64;
        SyncRow { node, result, sent: sent - before.0, received: received - before.1, millis, error }
    }

    fn op_counts(&self) -> (u64, u64, u64) {
        let engine = self.node.lock();
        let gossip = engine.gossip().counts();
        (gossip.ops_sent, engine.replica().counts().received, gossip.merges)
    }

    /// One page of all keys; or all keys named, in as many answers as they need.
    async fn pull_page(&self, request: PullRequest) -> Result<Page, Refusal> {
        let mut page = self.pull_some(request.clone()).await?;
        let mut left = &request.keys[..];
        while let (false, Some(cursor)) = (left.is_empty(), &page.cursor) {
            let answered = parse_cursor(Some(cursor))? as usize;
            left = left.get(answered.max(1)..).unwrap_or_default();
            page.cursor = None;
            if !left.is_empty() {
                let rest = PullRequest { keys: left.to_vec(), cursor: None, ..request.clone() };
                let more = self.pull_some(rest).await?;
                page.keys.extend(more.keys);
                page.cursor = more.cursor;
            }
        }
        Ok(page)
    }

    async fn pull_some(&self, request: PullRequest) -> Result<Page, Refusal> {
        let link = self.link_to(&request.peer)?;
        let cursor = parse_cursor(request.cursor.as_deref())?;
        let keys: Vec<Vec<u8>> = request.keys.into_iter().map(|key| key.0).collect();
        let names_only = request.names_only;
        let input = |token| Input::AskCells { link, token, keys, cursor, names_only };
        match self.node.ask(PEER_PATIENCE, input).await {
            Some(engine::Answer::Cells { actors, keys, cursor }) => {
                let name = |key: &tidings_proto::KeyState| KeyRow {
                    key: key.key.clone().into(),
                    kind: None,
                    value: None,
                    expires_at: None,
                    hidden: Vec::new(),
                    versions: Vec::new(),
                };
                // A key too large for any answer comes as its name alone.
                let (named, whole): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.cells.is_empty());
                let mut rows: Vec<KeyRow> = named.iter().map(name).collect();
                if !whole.is_empty() {
                    let state = scratch(actors, whole).map_err(|error| {
                        Refusal::Unavailable(format!(
                            "{} answered what cannot be read: {error}",
                            request.peer
                        ))
                    })?;
                    let row = |cells| key_row(cells, state.actors(), Detail::Versions);
                    rows.extend(state.cells().filter_map(row));
                }
                rows.sort_by(|a, b| a.key.cmp(&b.key));
                Ok(Page { keys: rows, cursor: (cursor != 0).then(|| cursor.to_string()) })
            }
            Some(engine::Answer::TooMuch) => {
                let why = "too many keys at once: ask for fewer, or for none to get all";
                Err(Refusal::Invalid(why.into()))
            }
            Some(_) => Err(Refusal::Unavailable(format!("the link to {} went down", request.peer))),
            None => Err(Refusal::Unavailable(format!("{} did not answer in time", request.peer))),
        }
    }

    async fn peer_stats(&self, peer: Name) -> Result<Vec<StatRow>, Refusal> {
        let link = self.link_to(&peer)?;
        match self.node.ask(PEER_PATIENCE, |token| Input::AskStats { link, token }).await {
            Some(engine::Answer::Figures(figures)) => {
                Ok(figures.into_iter().map(|(name, value)| StatRow { name, value }).collect())
            }
            Some(_) => Err(Refusal::Unavailable(format!("the link to {peer} went down"))),
            None => Err(Refusal::Unavailable(format!("{peer} did not answer in time"))),
        }
    }

    /// Gives peers what they lack, says good-bye, and has the node stopped.
    async fn leave_now(&self) -> Result<(), Refusal> {
        self.node.handle(Input::Push { link: None });
        let (actor, seq) = self.node.lock().last_dot();
        let peers = self.links().len();
        self.node.wait(Some((actor, seq)), peers, LEAVE_PATIENCE).await;
        self.node.handle(Input::Leave);
        // The farewell is on its way when the news lanes have been emptied.
        let until = Instant::now() + LEAVE_PATIENCE;
        while self.links().iter().any(|(id, _)| self.unconfirmed(*id) > 0) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.node.stop();
        Ok(())
    }

    async fn write_now(&self, key: Vec<u8>, change: Change) -> Result<Written, Refusal> {
        let refused = |error: WriteError| match error {
            WriteError::WrongKind(_) | WriteError::NotAnInteger | WriteError::Overflow => {
                Refusal::Conflict(error.to_string())
            }
            WriteError::TooLong { .. } => Refusal::Invalid(error.to_string()),
            WriteError::OutOfMemory { .. } | WriteError::LogFull { .. } | WriteError::Stopped(_) => {
                Refusal::Unavailable(error.to_string())
            }
        };
        let write = |write: Write<'_>| self.node.lock().write(self.node.now(), write).map_err(refused);
        let written = match &change {
            Change::Set(value) => write(Write::Set { key: &key, value }),
            Change::Delete => write(Write::Delete { key: &key }),
            Change::Add(elements) => {
                let elements: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
                write(Write::Add { key: &key, elements: &elements })
            }
            Change::Remove(elements) => {
                let elements: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
                write(Write::Remove { key: &key, elements: &elements })
            }
            Change::Increment(CounterKind::PnCounter, by) => write(Write::Increment { key: &key, by: *by }),
            Change::Increment(CounterKind::GCounter, by) => {
                let by = u64::try_from(*by).map_err(|_| Refusal::Invalid("a gcounter only grows".into()))?;
                write(Write::GIncrement { key: &key, by })
            }
        }?;
        let failed = |error: super::CommitError| Refusal::Unavailable(error.to_string());
        let ticket = self.node.commit().map_err(failed)?;
        self.node.durable(ticket).await.map_err(failed)?;
        self.node.pace().await;
        Ok(match written {
            engine::Written::Done => Written { changed: 1, value: None },
            engine::Written::Removed(removed) => Written { changed: removed.into(), value: None },
            engine::Written::Count(count) => Written { changed: count as u64, value: None },
            engine::Written::Value(value) => Written { changed: 1, value: Some(value) },
        })
    }
}

fn parse_cursor(cursor: Option<&str>) -> Result<u64, Refusal> {
    let parse = |text: &str| text.parse().map_err(|_| Refusal::Invalid(format!("{text:?} is not a cursor")));
    cursor.map_or(Ok(0), parse)
}

fn key_counts(tallies: &view::Tallies) -> KeyCounts {
    let count = |kind: view::Kind| tallies.by_kind[kind as usize];
    KeyCounts {
        lww_register: count(view::Kind::LwwRegister),
        or_set: count(view::Kind::OrSet),
        gcounter: count(view::Kind::GCounter),
        pncounter: count(view::Kind::PnCounter),
    }
}

impl Node {
    /// How far this clock is ahead of the median of the peers', in milliseconds.
    pub(super) fn clock_offset(&self) -> Option<i64> {
        let engine = self.lock();
        let mut offsets: Vec<i64> = engine.gossip().links().map(|(_, link)| -link.clock_offset).collect();
        offsets.sort_unstable();
        offsets.get(offsets.len() / 2).copied()
    }

    fn member_counts(&self) -> MemberCounts {
        let engine = self.lock();
        let linked = |node: &Name| engine.gossip().links().any(|(_, link)| link.actor.node == *node);
        let mut counts = MemberCounts { alive: 1, ..MemberCounts::default() };
        for info in engine.gossip().members().iter() {
            let count = match (info.left, linked(&info.member.node)) {
                (true, _) => &mut counts.left,
                (false, true) => &mut counts.alive,
                (false, false) => &mut counts.away,
            };
            *count += 1;
        }
        counts
    }

    fn store_facts(&self) -> StoreFacts {
        let counts = &self.0.checkpoints;
        let writes_stopped = self.lock().stopped().is_some();
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        StoreFacts {
            log_bytes: self.0.housekeeper.log_bytes(),
            records: read(&self.0.log_records),
            since_checkpoint: self.0.housekeeper.bytes_since_checkpoint(),
            appended_bytes: read(&self.0.log_bytes),
            audits: read(&self.0.audits.done),
            damaged: read(&self.0.audits.damaged),
            checkpoints: read(&counts.written),
            checkpoints_failed: read(&counts.failed),
            checkpoint_time: read(&counts.time),
            writes_stopped,
        }
    }

    fn log_size(&self) -> LogSize {
        let memory_bytes = self.lock().replica().log().bytes() as u64;
        LogSize { memory_bytes, disk_bytes: self.0.housekeeper.log_bytes() }
    }

    /// Why the node is not ready to serve, if it is not.
    pub fn not_ready(&self) -> Option<String> {
        if self.0.stopping.load(Ordering::Acquire) {
            return Some("stopping".into());
        }
        let (now, seeks) = (self.now(), self.0.transport.get().is_some_and(|t| !t.peers().is_empty()));
        let engine = self.lock();
        if let Some(reason) = engine.stopped() {
            return Some(format!("writes have stopped: {reason}"));
        }
        let gossip = engine.gossip();
        if let Some(progress) = gossip.merge_progress() {
            return Some(catching_up(&progress, now.mono));
        }
        let alone = engine.replica().state().is_blank() && gossip.counts().pushes_received == 0;
        if alone && seeks && now.mono < FIRST_PEER.as_micros() as u64 {
            return Some("blank, and waiting for a first peer".into());
        }
        let lag = gossip.lag(engine.replica());
        (lag > self.0.ready_lag).then(|| format!("behind by {lag} writes"))
    }
}

/// How far a context merge has come, in words.
fn catching_up(progress: &MergeProgress, now: u64) -> String {
    let MergeProgress { keys, bytes, began, members, .. } = *progress;
    let from = if members > 1 { format!(" from {members} members") } else { String::new() };
    let Some(of) = progress.of else {
        return format!("catching up{from}: {keys} keys, {bytes} bytes so far");
    };
    let seconds = now.saturating_sub(began) / 1_000_000;
    let left = (keys > 0).then(|| seconds * of.saturating_sub(keys) / keys);
    let left = left.map_or_else(String::new, |left| format!(", about {left} s left"));
    format!("catching up{from}: {keys} of {of} keys, {bytes} bytes so far{left}")
}

impl Operator for Desk {
    fn status(&self) -> Status {
        let node = &self.node;
        let about = node.about();
        let (members, clock_offset_ms, log) = (node.member_counts(), node.clock_offset(), node.log_size());
        let (not_ready, archive) = (node.not_ready(), node.0.archiver.standing());
        let engine = node.lock();
        let state = engine.replica().state();
        let tallies = state.tallies();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: about.node.clone(),
            realm: about.realm.clone(),
            zone: about.zone.clone(),
            incarnation: format!("{:016x}", engine.replica().actor().incarnation),
            started_at: about.started_at,
            uptime_ms: wall_millis().saturating_sub(about.started_at),
            not_ready,
            writes_stopped: engine.stopped().map(str::to_owned),
            addresses: self.addresses.lock().clone(),
            data_dir: about.data_dir.display().to_string(),
            fsync: node.fsync().to_string(),
            members,
            peers_linked: engine.gossip().links().count() as u64,
            keys: tallies.keys,
            kinds: key_counts(tallies),
            conflicts: Conflicts { versions: tallies.version_conflicts, kinds: tallies.kind_conflicts },
            seen_entries: state.seen_entries().len() as u64,
            parked_removals: state.parked().len() as u64,
            log,
            clock_offset_ms,
            archive,
        }
    }

    fn members(&self) -> Vec<MemberRow> {
        let about = self.node.about();
        let engine = self.node.lock();
        let own = MemberRow {
            node: about.node.clone(),
            zone: about.zone.clone(),
            state: MemberState::Alive,
            addresses: self.addresses.lock().advertised.clone(),
            own: true,
            unconfirmed: 0,
        };
        let replica = engine.replica();
        let linked =
            |node: &Name| engine.gossip().links().map(|(_, link)| link).find(|link| link.actor.node == *node);
        let others = engine.gossip().members().iter().map(|info| {
            let link = linked(&info.member.node);
            let state = match (info.left, link) {
                (true, _) => MemberState::Left,
                (false, Some(_)) => MemberState::Alive,
                (false, None) => MemberState::Away,
            };
            let last = engine.gossip().members().cursor(&info.member.node);
            let last: BTreeMap<_, _> = last.iter().flat_map(|(_, seen)| seen.iter()).collect();
            let known = |actor| match link {
                Some(link) => link.known(actor),
                None => last.get(replica.state().actors().get(actor)).copied().unwrap_or(0),
            };
            let unconfirmed =
                replica.places().map(|actor| replica.state().seen(actor).saturating_sub(known(actor))).sum();
            let (node, zone) = (info.member.node.clone(), info.member.zone.clone());
            let addresses = info.member.addresses.clone();
            MemberRow { node, zone, state, addresses, own: false, unconfirmed }
        });
        let mut rows: Vec<_> = std::iter::once(own).chain(others).collect();
        rows.sort_by(|a, b| a.node.cmp(&b.node));
        rows
    }

    fn peers(&self) -> Vec<PeerRow> {
        let mut rows = self.node.0.transport.get().map(|transport| transport.peers()).unwrap_or_default();
        for row in rows.iter_mut().filter(|row| row.linked) {
            let Some(name) = row.node.clone() else { continue };
            let Ok(id) = self.link_to(&name) else { continue };
            row.unconfirmed = self.unconfirmed(id);
            let engine = self.node.lock();
            row.clock_offset_ms =
                engine.gossip().links().find(|(link, _)| *link == id).map(|(_, link)| link.clock_offset);
        }
        rows
    }

    fn config(&self) -> Vec<ConfigRow> {
        self.config.lock().rows()
    }

    fn facts(&self) -> Facts {
        let node = &self.node;
        let ready = node.not_ready().is_none();
        let net = node.0.transport.get().map(|transport| transport.facts()).unwrap_or_default();
        let (members, clock_offset_ms, store) =
            (node.member_counts(), node.clock_offset(), node.store_facts());
        let engine = node.lock();
        let (replica, gossip) = (engine.replica(), engine.gossip());
        let state = replica.state();
        Facts {
            ops: replica.counts(),
            refusals: engine.refusals(),
            gossip: gossip.counts(),
            lags: *gossip.lags(),
            tallies: *state.tallies(),
            replica: ReplicaFacts {
                ops_waiting: gossip.ops_waiting(),
                parked_removals: state.parked().len() as u64,
                seen_entries: state.seen_entries().len() as u64,
                log_bytes: replica.log().bytes() as u64,
                lag: gossip.lag(replica),
                merge_members: gossip.merge_progress().map_or(0, |progress| progress.members as u64),
                merge_keys: gossip.merge_progress().map_or((0, 0), |p| (p.keys, p.of.unwrap_or(0))),
            },
            members,
            net: NetFacts { clock_offset_ms, ..net },
            store,
            archive: node.0.archiver.facts(),
            resp: (self.resp)(),
            process: ProcessFacts {
                start_time: node.about().started_at / 1_000,
                ready,
                resident_bytes: super::limits::resident_bytes(),
            },
        }
    }

    fn not_ready(&self) -> Option<String> {
        self.node.not_ready()
    }

    fn add_peer(&self, address: String) -> Answer<'_, ()> {
        Box::pin(async move {
            self.node.with_transport(|transport| transport.seek(&address, true));
            Ok(())
        })
    }

    fn remove_peer(&self, peer: String) -> Answer<'_, ()> {
        Box::pin(async move {
            let addresses: Vec<String> = match Name::new(&peer) {
                Ok(name) => {
                    let engine = self.node.lock();
                    let info = engine.gossip().members().get(&name);
                    info.map(|info| info.member.addresses.clone()).unwrap_or_default()
                }
                Err(_) => Vec::new(),
            };
            let sought = self.peers().into_iter().filter(|row| {
                row.address == peer
                    || row.node.as_ref().is_some_and(|node| node.as_str() == peer)
                    || addresses.contains(&row.address)
            });
            let mut found = false;
            for row in sought.collect::<Vec<_>>() {
                found = true;
                self.node.with_transport(|transport| {
                    transport.unseek(&row.address);
                });
                if let Some(node) = row.node {
                    if let Ok(link) = self.link_to(&node) {
                        self.node.with_transport(|t| t.close(link, "removed by an operator"));
                    }
                    self.node.handle(Input::Forget(node));
                }
            }
            if found {
                Ok(())
            } else {
                Err(Refusal::NotFound(format!("{peer} is neither linked nor sought")))
            }
        })
    }

    fn push(&self, peer: Option<Name>) -> Answer<'_, Vec<PushRow>> {
        Box::pin(async move {
            let mut rows = Vec::new();
            for (id, node) in self.chosen(peer)? {
                let ops = self.unconfirmed(id);
                self.node.handle(Input::Push { link: Some(id) });
                rows.push(PushRow { node, ops, error: None });
            }
            Ok(rows)
        })
    }

    fn pull(&self, request: PullRequest) -> Answer<'_, Page> {
        Box::pin(self.pull_page(request))
    }

    fn sync(&self, peer: Option<Name>, all: bool) -> Answer<'_, Vec<SyncRow>> {
        Box::pin(async move {
            let one = peer.is_some();
            let mut links = self.chosen(peer)?;
            if !one && !all {
                links.truncate(self.node.lock().gossip().settings().fanout);
            }
            let mut rows = Vec::new();
            for (id, node) in links {
                rows.push(self.sync_one(id, node).await);
            }
            Ok(rows)
        })
    }

    fn audit(&self, peer: Option<Name>) -> Answer<'_, Vec<AuditRow>> {
        Box::pin(async move {
            let links = self.chosen(peer)?;
            let node = self.node.clone();
            let looked = tokio::task::spawn_blocking(move || (node.audit_memory(), node.audit_disk()));
            let (memory, disk) = looked.await.map_err(|error| Refusal::Unavailable(error.to_string()))?;
            let mut rows = vec![memory_row(memory), disk_row(&disk)];
            for (id, node) in links {
                let before = self.node.lock().gossip().counts().diverged;
                let synced = self.sync_one(id, node).await;
                let diverged = self.node.lock().gossip().counts().diverged > before;
                rows.push(peer_row(synced, diverged));
            }
            Ok(rows)
        })
    }

    fn stats(&self, peer: Option<Name>) -> Answer<'_, Vec<StatRow>> {
        Box::pin(async move {
            match peer.filter(|peer| *peer != self.node.about().node) {
                Some(peer) => self.peer_stats(peer).await,
                None => {
                    let figures = self.node.lock().figures().into_iter();
                    Ok(figures.map(|(name, value)| StatRow { name: name.to_owned(), value }).collect())
                }
            }
        })
    }

    fn leave(&self) -> Answer<'_, ()> {
        Box::pin(self.leave_now())
    }

    fn backup(&self, request: BackupRequest) -> Answer<'_, BackupRow> {
        Box::pin(async move {
            let target = request.to.map(|to| to.parse()).transpose().map_err(Refusal::Invalid)?;
            let manifest = self.node.backup(target).await?;
            Ok(BackupRow { manifest })
        })
    }

    fn backups(&self) -> Answer<'_, Vec<Summary>> {
        let (target, access) = {
            let config = self.config.lock();
            (config.archive.clone(), config.archive_access())
        };
        Box::pin(self.node.backups(target, access))
    }

    fn read(&self, key: &[u8], detail: Detail) -> Result<Option<KeyRow>, Refusal> {
        let engine = self.node.lock();
        let state = engine.replica().state();
        Ok(state.get(key).and_then(|cells| key_row(cells, state.actors(), detail)))
    }

    fn read_quorum(
        &self,
        key: Vec<u8>,
        detail: Detail,
        nodes: usize,
        timeout: Duration,
    ) -> Answer<'_, Option<KeyRow>> {
        Box::pin(async move {
            let reached = self.node.quorum(nodes, timeout).await;
            reached.map_err(|error| Refusal::Unavailable(format!("no quorum: {error}")))?;
            self.read(&key, detail)
        })
    }

    fn scan(&self, scan: Scan) -> Result<Page, Refusal> {
        let mut cursor = parse_cursor(scan.cursor.as_deref())?;
        let mut keys = Vec::new();
        // One lock a step, so that a long walk holds nobody up.
        loop {
            let engine = self.node.lock();
            let state = engine.replica().state();
            let mut next = 0;
            for (step, (position, cells)) in state.positions(cursor).enumerate() {
                if step >= SCAN_STEP || keys.len() >= scan.limit.max(1) {
                    next = position;
                    break;
                }
                if cells.key().starts_with(&scan.prefix) {
                    keys.extend(key_row(cells, state.actors(), scan.detail));
                }
            }
            cursor = next;
            if cursor == 0 || keys.len() >= scan.limit.max(1) {
                let cursor = (cursor != 0).then(|| cursor.to_string());
                return Ok(Page { keys, cursor });
            }
        }
    }

    fn write(&self, key: Vec<u8>, change: Change) -> Answer<'_, Written> {
        Box::pin(self.write_now(key, change))
    }
}

/// Keys looked at under one lock.
const SCAN_STEP: usize = 1_000;

fn memory_row(memory: audit::Memory) -> AuditRow {
    let audit::Memory { keys, rotten } = memory;
    let found = match rotten {
        0 => format!("{keys} keys, sound"),
        _ => format!("{keys} keys, {rotten} ranges have rotted and are replaced from a peer"),
    };
    AuditRow { place: "memory".into(), found, sound: rotten == 0 }
}

fn disk_row(disk: &audit::Disk) -> AuditRow {
    let found = match &disk.damaged[..] {
        [] => format!("{} sealed files, sound", disk.files),
        damaged => format!("{}; a new checkpoint was written over it", damaged.join("; ")),
    };
    AuditRow { place: "disk".into(), found, sound: disk.damaged.is_empty() }
}

fn peer_row(synced: SyncRow, diverged: bool) -> AuditRow {
    let (found, sound) = match (synced.result, synced.error) {
        (_, Some(error)) => (error, false),
        _ if diverged => ("has seen the same and holds something else".into(), false),
        (SyncResult::Equal, None) => ("has seen the same and holds the same".into(), true),
        _ => ("had not seen the same; the rest is on its way, ask again".into(), true),
    };
    AuditRow { place: synced.node.to_string(), found, sound }
}
