//! A process: a disk, and while it runs a life with an engine on a store. It does
//! what the live driver does, in the same order: records to the log, then messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use rand::RngExt;
use tidings::core::journal::{self, Entry, Meta};
use tidings::core::mutant::{Mutant, is};
use tidings::core::parked::Room;
use tidings::core::replica::Recovery;
use tidings::core::snapshot::SnapshotId;
use tidings::core::state::ApplyError;
use tidings::core::table::HashKey;
use tidings::engine::{DiskRead, Effects, Engine, Event, Input, LinkId, Now};
use tidings::store::{
    CheckpointWriter, DiskError, Fsync, Housekeeper, Lsn, MemDisk, OpenError, Recovered, ReplayError, Store,
    Syncer,
};
use tidings_proto::message::Pull;
use tidings_proto::{Actor, Edit, Message, Name, Stamp};

use crate::names::{Dot, Seen, raise, within};
use crate::oracle::What;
use crate::readers::{Asked, Shown};
use crate::world::{Check, Due, World};

/// What a disk would give back after a crash: at least, at most, and after power loss at least.
#[derive(Debug, Clone, Default)]
pub struct Floor {
    pub least: Seen,
    pub most: Seen,
    pub synced: Seen,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    Kill,
    Power,
}

/// What has flipped on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rot {
    No,
    /// A bit, since the last start.
    Fresh,
    /// A bit in what starts so far had no need to read: a later one may need it.
    Latent,
}

#[derive(Debug)]
pub struct Process {
    pub name: Name,
    pub address: String,
    pub disk: MemDisk,
    pub life: Option<Life>,
    pub floor: Floor,
    /// The greatest stamp that its log has; what it issues is greater.
    pub stamp: Stamp,
    /// An older image of the disk.
    pub image: Option<(MemDisk, Floor)>,
    pub paused_until: u64,
    /// It is not to be started now.
    pub held: bool,
    /// Whose image it was started from, if it is a twin.
    pub twin_of: Option<usize>,
    /// Wall clock: milliseconds ahead, and parts in a million fast.
    pub ahead: i64,
    pub drift: i64,
    /// It dies this way at the boundary after so many.
    pub doom: Option<(Death, u32)>,
    /// Further deaths right after its restarts.
    pub loops: u32,
    /// Until then its disk takes its time to sync.
    pub slow_until: u64,
    /// What bits of its disk that flipped may do.
    pub rot: Rot,
}

/// From a start to a stop.
#[derive(Debug)]
pub struct Life {
    pub id: u64,
    pub engine: Engine,
    pub store: Option<Store>,
    pub syncer: Syncer,
    pub housekeeper: Housekeeper,
    pub began: u64,
    pub places: Vec<usize>,
    pub last_seen: Seen,
    /// Its links: connection and side.
    pub links: BTreeMap<LinkId, (u64, usize)>,
    /// Messages that wait for a sync.
    pub unsynced: VecDeque<(Lsn, Vec<(LinkId, Message)>)>,
    /// What appended records added, until they are synced.
    pub gains: VecDeque<(Lsn, Seen)>,
    /// Writes to be acknowledged once synced.
    pub acks: VecDeque<(Lsn, Dot)>,
    pub dropped: Vec<LinkId>,
    pub sought: BTreeSet<String>,
    pub checkpoint: Option<Checkpoint>,
    pub tick_at: u64,
    /// What a merge that is being logged belongs to.
    merging: Option<Seen>,
    /// Ticks in a row at about one moment.
    pub spins: (u64, u32),
    /// What it began with.
    pub first_seen: Seen,
    /// By actor: when something of it last came.
    pub moved: Vec<u64>,
    /// Pushes and requests that the engine gave out to be sent.
    pub sent: (u64, u64),
    /// Operators' questions that have not been given up.
    pub questions: BTreeSet<u64>,
    /// Quorum reads under way, by token.
    pub reads: BTreeMap<u64, Asked>,
    /// A sync is under way.
    pub syncing: bool,
    /// A bit of its memory has flipped at some time.
    pub has_rotted: bool,
    /// What peers wait for from the log on disk.
    pub from_log: BTreeMap<LinkId, DiskRead>,
    /// What a reader saw last: the vector then, the key, and what it showed.
    pub read: Option<(Seen, Vec<u8>, Shown)>,
}

#[derive(Debug)]
pub struct Checkpoint {
    pub snapshot: SnapshotId,
    pub meta: Meta,
    pub writer: CheckpointWriter,
}

/// What became of a commit.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The disk refused; the engine has stopped.
    Failed,
    Died(Death),
}

/// The wall clock when a world begins; milliseconds.
const EPOCH: u64 = 1_700_000_000_000;

impl World {
    pub fn wall(&self, slot: usize) -> u64 {
        let process = &self.processes[slot];
        let passed = self.now as i64 / 1_000;
        (EPOCH as i64 + passed + passed * process.drift / 1_000_000 + process.ahead).max(1) as u64
    }

    pub fn now_of(&self, slot: usize, life: &Life) -> Now {
        Now { mono: self.now - life.began, wall: self.wall(slot) }
    }

    /// Starts a process from what is on its disk.
    pub fn start(&mut self, slot: usize) -> Check {
        if self.processes[slot].life.is_some() || self.processes[slot].held {
            return Ok(());
        }
        let disk = self.processes[slot].disk.clone();
        let wall = self.wall(slot);
        let opened = Store::open(Arc::new(disk.clone()), self.plan.store.clone(), wall);
        let (store, recovery) = match opened {
            Ok(opened) => opened,
            Err(OpenError::Disk(error)) => return self.start_later(slot, error),
            Err(error) if self.processes[slot].rot != Rot::No => return self.refuse_rot(slot, &error),
            Err(error) => return Err(format!("{} refused to start: {error}", self.called(slot))),
        };
        let key = HashKey(self.plan.seed, (slot as u64 + self.facts.starts) % self.plan.orders);
        let mut recovered = Recovery::new(key, self.plan.log_memory);
        let replayed = recovery.replay(|item| -> Result<(), ApplyError> {
            match item {
                Recovered::Checkpoint { meta, .. } => recovered.meta(Meta::decode(meta)?),
                Recovered::Retained { lsn, payload } => recovered.retained(lsn, payload),
                Recovered::Block(block) => recovered.block(block),
                Recovered::Record { lsn, payload } => recovered.record(lsn, payload),
            }
        });
        match replayed {
            Ok(report) => recovered.ends_at(report.last_lsn),
            Err(ReplayError::Disk(error)) => return self.start_later(slot, error),
            Err(error) => return Err(format!("{} cannot replay its log: {error:?}", self.called(slot))),
        }
        let mut incarnation = self.rng.lives.random();
        if is(Mutant::SameIncarnation) {
            // What a counter on the disk would say.
            let known = recovered.actors().filter(|actor| actor.node == self.processes[slot].name);
            incarnation = known.count() as u64 + 1;
        }
        let actor = Actor { node: self.processes[slot].name.clone(), incarnation };
        let now = Now { mono: 0, wall };
        let seed = self.rng.lives.random();
        let engine = Engine::new(recovered, &actor, self.plan.settings.clone(), seed, now)
            .map_err(|error| error.to_string())?;
        self.begin_life(slot, engine, store)
    }

    /// The disk refused at the start. Nothing runs; somebody tries again.
    fn start_later(&mut self, slot: usize, error: DiskError) -> Check {
        self.say(|| format!("{} cannot start: {error}", self.called(slot)));
        self.facts.disk_failures += 1;
        self.processes[slot].disk.kill();
        let again = self.rng.faults.random_range(10_000..500_000);
        self.push(again, Due::Restart { slot });
        Ok(())
    }

    /// Takes the counts of a life that ends into those of the run.
    pub fn sum_up(&mut self, life: &Life) {
        let counts = life.engine.gossip().counts();
        self.facts.duplicates += life.engine.replica().counts().duplicate;
        self.facts.ops_from_disk += counts.ops_from_disk;
        self.facts.values_elided += counts.values_elided;
        self.facts.values_elided_onward += counts.values_elided_onward;
        self.facts.blocks_reused += counts.blocks_reused;
        self.facts.sources += counts.sources;
        self.facts.ranges_of_sources += counts.ranges_of_sources;
        self.facts.ranges_again += counts.ranges_again;
        self.facts.keys_prepared += counts.keys_prepared;
        self.facts.keys_again += counts.keys_again;
        self.facts.values_left_out += counts.values_left_out;
        self.facts.merges_aborted += counts.merges_aborted;
    }

    fn begin_life(&mut self, slot: usize, engine: Engine, store: Store) -> Check {
        self.next_life += 1;
        let id = self.next_life;
        let mut life = Life {
            id,
            syncer: store.syncer(),
            housekeeper: store.housekeeper(),
            store: Some(store),
            engine,
            began: self.now,
            places: Vec::new(),
            last_seen: Seen::new(),
            links: BTreeMap::new(),
            unsynced: VecDeque::new(),
            gains: VecDeque::new(),
            acks: VecDeque::new(),
            dropped: Vec::new(),
            sought: self.seeds(slot),
            checkpoint: None,
            tick_at: u64::MAX,
            merging: None,
            spins: (0, 0),
            first_seen: Seen::new(),
            moved: Vec::new(),
            sent: (0, 0),
            questions: BTreeSet::new(),
            reads: BTreeMap::new(),
            syncing: false,
            has_rotted: false,
            from_log: BTreeMap::new(),
            read: None,
        };
        let replica = life.engine.replica_mut();
        replica.set_limits(self.plan.limits);
        replica.set_parked_room(Room { removals: self.plan.parked, ..Room::default() });
        life.engine.set_ahead_bound(self.plan.ahead);
        life.engine.set_sharing(self.plan.sharing);
        life.engine.set_preparing(self.plan.preparing);
        self.names.extend(&mut life.places, life.engine.replica().state());
        let seen = self.names.seen(&life.places, life.engine.replica().state());
        life.first_seen = seen.clone();
        if self.processes[slot].rot == Rot::Fresh {
            self.outlive_rot(slot, &seen);
        }
        let floor = &mut self.processes[slot].floor;
        if !within(&floor.least, &seen) {
            let lost = self.names.tell(&floor.least, &seen);
            return Err(format!("P3: {} came back without {lost}", self.called(slot)));
        }
        if !within(&seen, &floor.most) {
            let more = self.names.tell(&seen, &floor.most);
            return Err(format!("{} came back with what it never logged: {more}", self.called(slot)));
        }
        *floor = Floor { least: seen.clone(), most: seen.clone(), synced: seen };
        let known = life.engine.gossip().members().iter().filter(|info| !info.left);
        life.sought.extend(known.flat_map(|info| info.member.addresses.clone()));
        self.say(|| format!("{} starts as {}", self.called(slot), life.engine.replica().actor()));
        self.processes[slot].life = Some(life);
        self.facts.starts += 1;
        self.push(self.plan.settings.push_window % 7, Due::Dial { slot, life: id });
        self.push(1_000_000, Due::Sync { slot, life: id });
        self.push(200_000, Due::Look { slot, life: id });
        self.push(self.plan.audit_interval, Due::Audit { slot, life: id });
        self.commit(slot)?;
        self.check_node(slot)?;
        let process = &mut self.processes[slot];
        if process.loops > 0 && process.doom.is_none() {
            process.loops -= 1;
            process.doom = Some((Death::Kill, self.rng.faults.random_range(0..6)));
        }
        Ok(())
    }

    /// Has something happen to an engine, then does what follows from it.
    pub fn handle(&mut self, slot: usize, input: Input) -> Check {
        let now = self.now;
        let wall = self.wall(slot);
        if let Some(life) = &mut self.processes[slot].life {
            life.engine.handle(Now { mono: now - life.began, wall }, input);
        }
        self.commit(slot)
    }

    /// Takes effects and carries them out.
    pub fn commit(&mut self, slot: usize) -> Check {
        let Some(mut life) = self.processes[slot].life.take() else { return Ok(()) };
        self.names.extend(&mut life.places, life.engine.replica().state());
        let context = self.names.seen(&life.places, life.engine.replica().state());
        let now = self.now_of(slot, &life);
        let mut effects = life.engine.take_effects(now);
        let outcome = self.carry_out(slot, &mut life, context, &mut effects)?;
        let events = std::mem::take(&mut effects.events);
        self.facts.answers += effects.answers.len() as u64;
        self.plan_reads(slot, &mut life, std::mem::take(&mut effects.reads));
        let answers = std::mem::take(&mut effects.answers);
        self.processes[slot].life = Some(life);
        match outcome {
            Outcome::Died(death) => return self.die(slot, death),
            Outcome::Failed => return self.plan_tick(slot),
            Outcome::Done => {}
        }
        self.check_commit(slot)?;
        self.check_reads(slot, answers)?;
        for event in events {
            self.on_event(slot, event)?;
        }
        self.plan_tick(slot)
    }

    /// Records first, then messages: at once, or when the log has been synced.
    pub fn carry_out(
        &mut self,
        slot: usize,
        life: &mut Life,
        context: Seen,
        effects: &mut Effects,
    ) -> Result<Outcome, String> {
        let context = Rc::new(context);
        let gains = effects.records.iter().map(|record| self.gain(slot, life, record, &context));
        let gains = gains.collect::<Result<Vec<(Seen, Stamp)>, String>>()?;
        for (_, message) in &effects.sends {
            life.sent.0 += u64::from(matches!(message, Message::Push(_)));
            life.sent.1 += u64::from(matches!(message, Message::Pull(Pull::Ops { .. })));
        }
        if is(Mutant::SentBeforeLogged) {
            let sends = std::mem::take(&mut effects.sends);
            self.dispatch(slot, life, sends)?;
        }
        let busy = !effects.records.is_empty() || !effects.sends.is_empty();
        let mut last = effects.last_record;
        for (record, (gain, stamp)) in effects.records.iter().zip(gains) {
            if let Some(death) = self.boundary(slot) {
                return Ok(Outcome::Died(death));
            }
            let wall = self.wall(slot);
            let floor = &mut self.processes[slot].floor;
            gain.iter().enumerate().for_each(|(actor, seq)| raise(&mut floor.most, actor, *seq));
            let store = life.store.as_mut().expect("an open store");
            match store.append(wall, record) {
                Ok(lsn) => {
                    last = lsn;
                    gain.iter().enumerate().for_each(|(actor, seq)| raise(&mut floor.least, actor, *seq));
                    life.gains.push_back((lsn, gain));
                    let logged = &mut self.processes[slot].stamp;
                    *logged = stamp.max(*logged);
                }
                Err(error) => {
                    self.say(|| format!("{} cannot append: {error}", self.called(slot)));
                    self.facts.disk_failures += 1;
                    life.engine.stop(error.to_string());
                    return Ok(Outcome::Failed);
                }
            }
        }
        if last != effects.last_record {
            return Err(format!("the log ends with {last}, the engine with {}", effects.last_record));
        }
        if busy && let Some(death) = self.boundary(slot) {
            return Ok(Outcome::Died(death));
        }
        let sends = std::mem::take(&mut effects.sends);
        let always = self.plan.fsync == Fsync::Always;
        if always && (!effects.records.is_empty() || !life.unsynced.is_empty()) {
            let written = life.store.as_ref().expect("an open store").written();
            life.unsynced.push_back((written, sends));
            let soon = self.rng.net.random_range(50..3_000);
            self.push(soon, Due::Sync { slot, life: life.id });
            return Ok(Outcome::Done);
        }
        self.dispatch(slot, life, sends)
    }

    /// What a record adds to what a restart would know; own ops that no client
    /// asked for are told to the oracle.
    fn gain(
        &mut self,
        slot: usize,
        life: &mut Life,
        record: &[u8],
        context: &Rc<Seen>,
    ) -> Result<(Seen, Stamp), String> {
        let (mut gain, mut greatest) = (Seen::new(), Stamp::default());
        for entry in journal::entries(record) {
            match entry.map_err(|error| format!("a record that nobody can read: {error}"))? {
                Entry::Run(run) => {
                    let actor = self.names.of(&run.actor);
                    raise(&mut gain, actor, run.last());
                    if run.actor != *life.engine.replica().actor() {
                        continue;
                    }
                    let mut context = context.clone();
                    for item in run.iter() {
                        let (seq, op) = item.map_err(|error| error.to_string())?;
                        let stamp = Stamp(run.base.0 + op.stamp);
                        if stamp <= self.processes[slot].stamp.max(greatest) {
                            return Err(format!(
                                "a smaller stamp: {} issued {stamp} again",
                                self.called(slot)
                            ));
                        }
                        greatest = stamp;
                        if seq <= self.history.issued(actor) {
                            continue;
                        }
                        let [Edit::Close { counter, .. }] = op.edits[..] else {
                            return Err(format!("an op that nobody asked for: {op:?}"));
                        };
                        let mut own = (*context).clone();
                        raise(&mut own, actor, seq - 1);
                        context = Rc::new(own);
                        let what = What::Close(counter);
                        self.history.record((actor, seq), stamp, op.key, what, context.clone())?;
                    }
                }
                Entry::MergeBegin { seen, .. } => {
                    let mut merging = Seen::new();
                    for (actor, seq) in seen.iter() {
                        raise(&mut merging, self.names.of(&actor), seq);
                    }
                    life.merging = Some(merging);
                }
                Entry::MergeCommit | Entry::MergeRanges { .. } => {
                    for (actor, seq) in life.merging.take().unwrap_or_default().into_iter().enumerate() {
                        raise(&mut gain, actor, seq);
                    }
                }
                _ => {}
            }
        }
        Ok((gain, greatest))
    }

    /// A place where a process may die.
    pub fn boundary(&mut self, slot: usize) -> Option<Death> {
        let (death, left) = self.processes[slot].doom?;
        self.processes[slot].doom = left.checked_sub(1).map(|left| (death, left));
        (left == 0).then_some(death)
    }

    pub fn on_event(&mut self, slot: usize, event: Event) -> Check {
        self.say(|| format!("{}: {event:?}", self.called(slot)));
        match event {
            Event::MemberKnown(member) => {
                if let Some(life) = &mut self.processes[slot].life {
                    life.sought.extend(member.addresses);
                }
            }
            Event::MemberLeft(node) => {
                if let Some(life) = &mut self.processes[slot].life
                    && let Some(info) = life.engine.gossip().members().get(&node)
                {
                    info.member.addresses.iter().for_each(|address| _ = life.sought.remove(address));
                }
            }
            Event::IncarnationChanged(_) => {
                return Err("I1: a fresh incarnation was taken for one that others know more of".into());
            }
            Event::NoIncarnation(reason) => {
                if let Some(life) = &mut self.processes[slot].life {
                    life.engine.stop(reason);
                }
            }
            Event::Merged { members, .. } => {
                self.facts.merges += 1;
                self.facts.shared_merges += u64::from(members > 1);
                self.check_node(slot)?;
            }
            Event::Diverged { node } => return self.diverged(slot, &node),
            Event::Misbehaved { link, reason } => return self.offended(slot, link, &reason),
            Event::Reconciled { .. } => return self.reconciled(slot),
            Event::NotReconciled { node } => {
                return Err(format!("{} cannot come to hold the same as {node}", self.called(slot)));
            }
            Event::Rotten(_) => return self.found_rot(slot),
        }
        Ok(())
    }
}
