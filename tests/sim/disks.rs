//! What disks do to processes: syncs that take their time, what they make durable, and rot.

use rand::RngExt;
use tidings::core::shelf::Gather;
use tidings::engine::{DiskRead, Input, LinkId};
use tidings::store::{Disk, Fsync, Lsn, MemDisk, OpenError, ReadError};
use tidings_proto::Stamp;

use crate::names::{Seen, at, raise};
use crate::process::{Death, Floor, Life, Outcome, Rot};
use crate::world::{Check, Due, World};

impl World {
    /// A bit flips on the disk of a process that is killed for it.
    pub fn rot(&mut self, slot: usize) -> Check {
        self.die(slot, Death::Kill)?;
        let disk = self.processes[slot].disk.clone();
        let names = disk.list().map_err(|error| error.to_string())?;
        let sizes = names.iter().map(|name| (name, disk.content(name).map_or(0, |content| content.len())));
        let files: Vec<_> = sizes.filter(|(_, size)| *size > 0).collect();
        if files.is_empty() {
            return Ok(());
        }
        let rng = &mut self.rng.faults;
        let (name, size) = files[rng.random_range(0..files.len())];
        // What is preallocated is long and empty; most of the time the bit is where something is.
        let content = disk.content(name).unwrap_or_default();
        let used = content.iter().rposition(|byte| *byte != 0).map_or(size, |last| last + 1);
        let within = if rng.random_ratio(7, 8) { used } else { size };
        let byte = rng.random_range(0..within);
        disk.flip(name, byte, rng.random_range(0..8));
        self.say(|| format!("a bit of {name} flips at {byte}, at {}", self.called(slot)));
        self.processes[slot].rot = Rot::Fresh;
        Ok(())
    }

    /// The start refuses a disk that has rotted, and says where: the operator puts in a blank one.
    pub fn refuse_rot(&mut self, slot: usize, error: &OpenError) -> Check {
        let file = match error {
            OpenError::Damaged { file, .. }
            | OpenError::Foreign { file }
            | OpenError::Version { file, .. }
            | OpenError::Missing { file, .. } => file.clone(),
            OpenError::Disk(error) => return Err(format!("not about rot: {error}")),
        };
        if file.file_name().is_none() {
            return Err(format!("a start that does not say which file is damaged: {error}"));
        }
        self.say(|| format!("{} refuses its disk: {error}", self.called(slot)));
        self.facts.rot_refused += 1;
        self.processes[slot].disk = MemDisk::new();
        self.processes[slot].rot = Rot::No;
        self.regress(slot, Floor::default());
        self.push(1_000, Due::Restart { slot });
        Ok(())
    }

    /// The start went well on a disk that has rotted: damage at the end of a log passes for a write
    /// that was never synced, and what it took with it is lost.
    pub fn outlive_rot(&mut self, slot: usize, seen: &Seen) {
        self.facts.rot_outlived += 1;
        self.processes[slot].rot = Rot::Latent;
        let most = self.processes[slot].floor.most.clone();
        self.regress(slot, Floor { least: seen.clone(), most, synced: seen.clone() });
    }

    /// Begins to sync the log. A slow disk takes its time, and meanwhile nobody else begins.
    pub fn sync(&mut self, slot: usize) -> Check {
        let slow = self.processes[slot].slow_until > self.now;
        let Some(life) = self.processes[slot].life.as_mut().filter(|life| !life.syncing) else {
            return Ok(());
        };
        life.syncing = true;
        if !slow {
            return self.synced(slot);
        }
        let id = life.id;
        self.facts.slow_syncs += 1;
        let long = self.rng.faults.random_range(10_000..3_000_000);
        self.push(long, Due::Synced { slot, life: id });
        Ok(())
    }

    /// The log is synced: lets go what waited for it.
    pub fn synced(&mut self, slot: usize) -> Check {
        let Some(mut life) = self.processes[slot].life.take() else { return Ok(()) };
        life.syncing = false;
        let synced = match life.syncer.pending() {
            0 => Ok(life.syncer.durable()),
            _ => life.syncer.sync(),
        };
        let mut outcome = Outcome::Done;
        match synced {
            Ok(durable) => {
                self.note_synced(slot, &mut life, durable);
                while outcome == Outcome::Done
                    && life.unsynced.front().is_some_and(|(lsn, _)| *lsn <= durable)
                {
                    let (_, sends) = life.unsynced.pop_front().expect("just seen");
                    outcome = self.dispatch(slot, &mut life, sends)?;
                }
            }
            Err(error) => {
                self.say(|| format!("{} cannot sync: {error}", self.called(slot)));
                self.facts.disk_failures += 1;
                life.engine.stop(error.to_string());
            }
        }
        let id = life.id;
        self.processes[slot].life = Some(life);
        if self.plan.fsync != Fsync::Always {
            self.push(1_000_000, Due::Sync { slot, life: id });
        }
        match outcome {
            Outcome::Died(death) => self.die(slot, death),
            _ => self.plan_tick(slot),
        }
    }

    /// What is durable now will survive power loss; those who waited for it are answered.
    fn note_synced(&mut self, slot: usize, life: &mut Life, durable: Lsn) {
        let synced = &mut self.processes[slot].floor.synced;
        while life.gains.front().is_some_and(|(lsn, _)| *lsn <= durable) {
            let (_, gain) = life.gains.pop_front().expect("just seen");
            gain.iter().enumerate().for_each(|(actor, seq)| raise(synced, actor, *seq));
        }
        while life.acks.front().is_some_and(|(lsn, _)| *lsn <= durable) {
            let (_, (actor, seq)) = life.acks.pop_front().expect("just seen");
            raise(&mut self.promised, actor, seq);
        }
    }

    /// A checkpoint has synced the log up to there.
    pub fn settle_synced(&mut self, slot: usize, durable: Lsn) {
        if let Some(mut life) = self.processes[slot].life.take() {
            self.note_synced(slot, &mut life, durable);
            self.processes[slot].life = Some(life);
        }
    }

    /// Reading back takes its time too.
    pub fn plan_reads(&mut self, slot: usize, life: &mut Life, reads: Vec<DiskRead>) {
        let slow = self.processes[slot].slow_until > self.now;
        for read in reads {
            let after = self.rng.faults.random_range(20..if slow { 2_000_000 } else { 5_000 });
            self.push(after, Due::FromLog { slot, life: life.id, link: read.link });
            life.from_log.insert(read.link, read);
        }
    }

    /// Ops have been read back for a peer.
    pub fn read_log(&mut self, slot: usize, link: LinkId) -> Check {
        let Some(life) = &mut self.processes[slot].life else { return Ok(()) };
        let Some(read) = life.from_log.remove(&link) else { return Ok(()) };
        let (id, (first, last)) = (read.id, read.records);
        let mut gather = Gather::new(read.ranges, read.budget);
        let outcome = life.housekeeper.read_from(first, |lsn, record| gather.record(record) && lsn < last);
        if let Err(error) = outcome {
            self.facts.reads_failed += 1;
            let rotten = self.processes[slot].rot != Rot::No;
            if matches!(error, ReadError::Damaged { .. }) && !rotten {
                return Err(format!("{} cannot read its log back: {error}", self.called(slot)));
            }
            self.say(|| format!("{} cannot read its log back: {error}", self.called(slot)));
        }
        self.handle(slot, Input::FromLog { link, id, runs: gather.finish() })
    }

    /// A disk has lost something, as it may: what only it held is promised no longer.
    pub fn regress(&mut self, slot: usize, floor: Floor) {
        self.processes[slot].floor = floor;
        self.processes[slot].stamp = Stamp::default();
        for actor in 0..self.promised.len() {
            let held = self.processes.iter().map(|process| at(&process.floor.least, actor)).max();
            self.promised[actor] = self.promised[actor].min(held.unwrap_or(0));
        }
    }
}
