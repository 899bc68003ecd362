//! What rots in the memory of processes, and the audits that find it.
//!
//! A bit that flips behind the fingerprints' back must be found and mended, and get nowhere else: only that key of
//! that process is not held against it meanwhile. Cells that go or change together with their fingerprints cannot be
//! told from a bug; of that one key the oracle knows nothing any more, and all must come to hold the same.

use std::collections::BTreeSet;

use rand::RngExt;
use tidings::core::replica::Replica;
use tidings::engine::Input;

use crate::dump::Dump;
use crate::names::within;
use crate::oracle::{Bytes, Parked, Stand};
use crate::process::Death;
use crate::world::{Check, Due, World};

/// A bit that has flipped in memory and has not been mended.
#[derive(Debug)]
pub struct Flipped {
    slot: usize,
    life: u64,
    key: Bytes,
}

impl World {
    /// Whether memory may rot here: only who orders cells alike can mend it, and one at a time.
    fn may_rot(&mut self, slot: usize) -> bool {
        self.settle_flip();
        let life = self.processes[slot].life.as_ref();
        self.plan.orders == 1 && life.is_some_and(|life| life.engine.stopped().is_none())
    }

    /// The keys that a process holds a value of.
    fn keys_with_values(&self, slot: usize) -> Vec<Bytes> {
        let Some(life) = &self.processes[slot].life else { return Vec::new() };
        let cells = life.engine.replica().state().cells();
        let whole =
            cells.filter(|cells| cells.register().versions().first().is_some_and(|v| !v.value.is_empty()));
        whole.map(|cells| cells.key().to_vec()).collect()
    }

    fn replica(&mut self, slot: usize) -> &mut Replica {
        let life = self.processes[slot].life.as_mut().expect("the caller looked");
        // What a reader saw last may be another thing now, and again when it is mended.
        life.read = None;
        life.engine.replica_mut()
    }

    /// A bit of a value flips.
    pub fn flip(&mut self, slot: usize) {
        if !self.may_rot(slot) || self.flipped.is_some() {
            return;
        }
        let mut keys = self.keys_with_values(slot);
        if keys.is_empty() {
            return;
        }
        let key = keys.swap_remove(self.rng.faults.random_range(0..keys.len()));
        assert!(self.replica(slot).damage().rot(&key), "it has a value");
        let life = self.processes[slot].life.as_mut().expect("it runs");
        life.has_rotted = true;
        let life = life.id;
        self.say(|| format!("a bit of {} flips at {}", String::from_utf8_lossy(&key), self.called(slot)));
        self.facts.flips += 1;
        self.flipped = Some(Flipped { slot, life, key });
    }

    /// A key's cells go, or a value changes, and the fingerprints go along.
    pub fn differ(&mut self, slot: usize) {
        if !self.may_rot(slot) {
            return;
        }
        let keys = self.keys_with_values(slot);
        let altered = self.rng.faults.random_ratio(1, 2);
        let key = match &self.odd {
            Some(odd) => odd.clone(),
            None if keys.is_empty() => return,
            None => keys[self.rng.faults.random_range(0..keys.len())].clone(),
        };
        // One thing at a time: what is rotten would take its fingerprints along.
        if self.is_flipped(slot, &key) {
            return;
        }
        let state = self.replica(slot).damage();
        if !(if altered { state.alter(&key) } else { state.lose(&key) }) {
            return;
        }
        self.say(|| {
            let what = if altered { "changes" } else { "is lost" };
            format!("{} {what} at {}", String::from_utf8_lossy(&key), self.called(slot))
        });
        self.facts.losses += 1;
        self.odd = Some(key);
    }

    fn is_flipped(&self, slot: usize, key: &[u8]) -> bool {
        self.flipped.as_ref().is_some_and(|flipped| flipped.slot == slot && flipped.key == key)
    }

    /// Takes note of what has been mended, or has gone with its process.
    fn settle_flip(&mut self) {
        let Some(Flipped { slot, life, .. }) = self.flipped else { return };
        let same = self.processes[slot].life.as_ref().filter(|now| now.id == life);
        let state = same.map(|life| life.engine.replica().state());
        if state.is_none_or(|state| state.recount() == state.fingerprint()) {
            self.facts.flips_mended += u64::from(state.is_some());
            self.flipped = None;
        }
    }

    /// Whether memory of a process has rotted and has not been mended.
    pub fn is_rotten(&mut self, slot: usize) -> bool {
        self.settle_flip();
        self.flipped.as_ref().is_some_and(|flipped| flipped.slot == slot)
    }

    /// Whether the oracle cannot know what a process holds of a key.
    pub fn is_forgiven(&self, slot: usize, key: &[u8]) -> bool {
        self.is_flipped(slot, key) || self.odd.as_deref() == Some(key)
    }

    /// Of what the oracle cannot know, what a process holds is as it should be.
    pub fn forgive(&self, slot: usize, dump: &Dump, stand: &mut Stand, parked: &mut BTreeSet<Parked>) {
        stand.retain(|key, _| !self.is_forgiven(slot, key));
        let held = dump.stand.iter().filter(|(key, _)| self.is_forgiven(slot, key));
        stand.extend(held.map(|(key, standing)| (key.clone(), standing.clone())));
        parked.retain(|(key, ..)| !self.is_forgiven(slot, key));
        parked.extend(dump.parked.iter().filter(|(key, ..)| self.is_forgiven(slot, key)).cloned());
    }

    /// Whether those hold the same and nothing of it has rotted, where that is in question.
    pub fn is_mended(&mut self, slots: &[usize]) -> bool {
        if slots.iter().any(|slot| self.is_rotten(*slot)) {
            return false;
        }
        let state = |slot: &usize| {
            self.processes[*slot].life.as_ref().map(|life| life.engine.replica().state().fingerprint())
        };
        self.odd.is_none() || slots.iter().all(|slot| state(slot) == state(&slots[0]))
    }

    /// An operator restarts a process whose memory nobody can mend, for it alone has seen all that it has: its disk is
    /// whole. Until then those that lack what no log reaches get nothing of it.
    pub fn restart_rotten(&mut self, slots: &[usize]) -> Check {
        for slot in slots {
            let life = self.processes[*slot].life.as_ref();
            let is_known = life.is_some_and(|life| !life.engine.gossip().rotten().is_empty());
            if !is_known || !self.is_rotten(*slot) {
                continue;
            }
            let seen = self.seen(*slot);
            if slots.iter().all(|other| other == slot || !within(&seen, &self.seen(*other))) {
                self.facts.rot_restarted += 1;
                self.die(*slot, Death::Kill)?;
            }
        }
        Ok(())
    }

    /// The audit of a node's memory, as the live driver's thread does it.
    pub fn audit(&mut self, slot: usize) -> Check {
        let Some(life) = &self.processes[slot].life else { return Ok(()) };
        self.facts.audits += 1;
        let (id, mut rotten, mut next) = (life.id, Vec::new(), Some(0));
        while let Some(position) = next {
            let audited = life.engine.replica().state().audit(position);
            rotten.extend(audited.rotten);
            next = audited.next;
        }
        self.push(self.plan.audit_interval, Due::Audit { slot, life: id });
        if rotten.is_empty() { Ok(()) } else { self.handle(slot, Input::Repair(rotten)) }
    }

    /// A node tells of rot that it has found. There must be some, or have been.
    pub fn found_rot(&mut self, slot: usize) -> Check {
        self.facts.rot_found += 1;
        let rotted = self.processes[slot].life.as_ref().is_some_and(|life| life.has_rotted);
        if rotted { Ok(()) } else { Err(format!("{} finds rot where there was none", self.called(slot))) }
    }

    /// A node has merged what differs from a peer.
    pub fn reconciled(&mut self, slot: usize) -> Check {
        self.facts.reconciled += 1;
        if self.facts.flips + self.facts.losses == 0 {
            return Err(format!("{} mends what is whole", self.called(slot)));
        }
        self.check_node(slot)
    }
}
