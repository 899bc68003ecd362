//! Clients: hot keys, every kind of write against every other.

use std::collections::BTreeSet;
use std::rc::Rc;

use rand::RngExt;
use tidings::core::write::Write;
use tidings::store::Fsync;
use tidings_proto::{Counter, Edit, Stamp};

use crate::names::{Seen, raise};
use crate::oracle::{Bytes, What};
use crate::world::{Check, Due, World};

impl World {
    /// A client of some node writes a little, then waits for the commit.
    pub fn client(&mut self) -> Check {
        if !self.stormy {
            return Ok(());
        }
        let gap = (self.plan.span / (self.plan.ops / 2).max(1)).max(2);
        let again = self.rng.clients.random_range(gap / 2..gap * 3 / 2);
        self.push(again, Due::Client);
        let running: Vec<usize> = (0..self.processes.len())
            .filter(|slot| {
                self.processes[*slot].life.is_some() && self.processes[*slot].paused_until <= self.now
            })
            .collect();
        if running.is_empty() {
            return Ok(());
        }
        let slot = running[self.rng.clients.random_range(0..running.len())];
        let many = self.rng.clients.random_range(1..=3);
        let before = self.history.len();
        if self.rng.clients.random_ratio(1, 8) {
            self.race(&running)?;
        }
        self.fill_memory(slot);
        self.read_quorum(slot)?;
        for _ in 0..many {
            self.ask(slot)?;
        }
        self.facts.ops += (self.history.len() - before) as u64;
        self.finish_batch(slot)
    }

    /// Commits, and has what was written acknowledged when that may be.
    fn finish_batch(&mut self, slot: usize) -> Check {
        let Some(life) = &self.processes[slot].life else { return Ok(()) };
        let (id, (actor, seq)) = (life.id, life.engine.last_dot());
        let actor = self.names.of(&actor);
        self.commit(slot)?;
        if !self.life_is(slot, id) {
            return Ok(());
        }
        let always = self.plan.fsync == Fsync::Always;
        let life = self.processes[slot].life.as_mut().expect("just seen");
        if life.engine.stopped().is_some() {
            return Ok(());
        }
        if always {
            let lsn = life.store.as_ref().expect("an open store").written();
            life.acks.push_back((lsn, (actor, seq)));
            let soon = self.rng.net.random_range(50..3_000);
            self.push(soon, Due::Sync { slot, life: id });
        } else {
            raise(&mut self.promised, actor, seq);
        }
        Ok(())
    }

    /// All write the same key at one moment, with equal stamps if their clocks agree.
    fn race(&mut self, slots: &[usize]) -> Check {
        for slot in slots {
            let value = format!("race {}", self.facts.writes).into_bytes();
            let write = Write::Set { key: b"k0", value: &value };
            self.write_one(*slot, write, &What::Write(value.clone()))?;
            self.finish_batch(*slot)?;
        }
        Ok(())
    }

    fn ask(&mut self, slot: usize) -> Check {
        if self.plan.huge && self.rng.clients.random_ratio(1, 25) {
            return self.ask_huge(slot);
        }
        let key = self.some_key();
        let key = &key[..];
        let elements = self.some_elements();
        let refs: Vec<&[u8]> = elements.iter().map(|element| &element[..]).collect();
        let rng = &mut self.rng.clients;
        let value = match rng.random_range(0..60) {
            0..20 => rng.random_range(-99..99).to_string().into_bytes(),
            20..39 => vec![b'x'; rng.random_range(1..300)],
            39 => i64::MAX.to_string().into_bytes(),
            _ => format!("v{}", self.facts.writes).into_bytes(),
        };
        // Distinct powers of two: a sum tells which increments are in it.
        let by = 1_i64 << rng.random_range(0..40);
        let by = if rng.random_ratio(1, 3) { -by } else { by };
        let (write, what) = match rng.random_range(0..100) {
            0..20 => (Write::Set { key, value: &value }, What::Write(value.clone())),
            20..38 => (Write::Delete { key }, What::Delete),
            38..58 => (Write::Add { key, elements: &refs }, What::Add(elements.clone())),
            58..70 => (Write::Remove { key, elements: &refs }, What::Remove(elements.clone())),
            70..88 => (Write::Increment { key, by }, What::Count(Counter::Pn, by.into())),
            88..99 => {
                let by = by.unsigned_abs();
                (Write::GIncrement { key, by }, What::Count(Counter::G, by.into()))
            }
            _ => (Write::Flush, What::Delete),
        };
        self.write_one(slot, write, &what)
    }

    fn some_key(&mut self) -> Bytes {
        let rng = &mut self.rng.clients;
        let hot = rng.random_ratio(3, 4) && self.plan.hot;
        let n = if hot { 0 } else { rng.random_range(0..self.plan.keys) };
        if rng.random_ratio(1, 200) {
            return format!("k{n}{}", "-".repeat(80)).into_bytes();
        }
        format!("k{n}").into_bytes()
    }

    fn some_elements(&mut self) -> BTreeSet<Bytes> {
        let rng = &mut self.rng.clients;
        let member = |n: u64| format!("e{n}").into_bytes();
        let (a, b) = (rng.random_range(0..self.plan.elements), rng.random_range(0..self.plan.elements));
        let mut elements = BTreeSet::from([member(a)]);
        if rng.random_ratio(1, 4) {
            elements.insert(member(b));
        }
        if rng.random_ratio(1, 200) {
            elements.insert(vec![b'e'; 60]);
        }
        elements
    }

    /// Adds hundreds of elements at once, or deletes the key where somebody has.
    fn ask_huge(&mut self, slot: usize) -> Check {
        if let Some(key) = self.to_empty.take() {
            return self.write_one(slot, Write::Delete { key: &key }, &What::Delete);
        }
        let key = self.some_key();
        let rng = &mut self.rng.clients;
        let first = rng.random_range(0..100);
        let many = rng.random_range(50..=300);
        let elements: BTreeSet<Bytes> = (first..first + many).map(|n| format!("h{n}").into_bytes()).collect();
        let refs: Vec<&[u8]> = elements.iter().map(|element| &element[..]).collect();
        self.to_empty = rng.random_bool(0.5).then(|| key.clone());
        self.facts.huge_sets += 1;
        self.write_one(slot, Write::Add { key: &key, elements: &refs }, &What::Add(elements.clone()))
    }

    /// Memory runs short at a node, or is there again.
    fn fill_memory(&mut self, slot: usize) {
        let short = self.rng.clients.random_ratio(1, 6);
        if self.rng.clients.random_ratio(1, 20)
            && let Some(life) = &mut self.processes[slot].life
        {
            life.engine.set_short(tidings::engine::Short { memory: short.then_some(0), log: None });
        }
    }

    fn write_one(&mut self, slot: usize, write: Write<'_>, what: &What) -> Check {
        let context = self.seen(slot);
        let (mono, wall) = (self.now, self.wall(slot));
        let Some(life) = &mut self.processes[slot].life else { return Ok(()) };
        let first = life.engine.replica().own_seq() + 1;
        let now = tidings::engine::Now { mono: mono - life.began, wall };
        let result = life.engine.write(now, write);
        self.facts.writes += 1;
        if let Err(error) = &result {
            self.facts.refuse(error);
        }
        let refused_in_part = result.is_err() && life.engine.replica().own_seq() >= first;
        self.say(|| format!("{} is asked for {}: {result:?}", self.called(slot), briefly(&write)));
        if refused_in_part {
            return Err(format!("{} refused a write and issued ops: {result:?}", self.called(slot)));
        }
        self.record(slot, first, what, context)
    }

    /// Tells the oracle of the ops that a write became.
    fn record(&mut self, slot: usize, first: u64, what: &What, mut context: Seen) -> Check {
        let Some(life) = &self.processes[slot].life else { return Ok(()) };
        let replica = life.engine.replica();
        let last = replica.own_seq();
        let actor = self.names.of(replica.actor());
        if last < first {
            return Ok(());
        }
        let (runs, _) = replica.log().read(replica.own(), first, last, usize::MAX, replica.state().actors());
        for run in &runs {
            for item in run.iter() {
                let (seq, op) = item.map_err(|error| error.to_string())?;
                let stamp = Stamp(run.base.0 + op.stamp);
                self.facts.clears +=
                    u64::from(op.edits.iter().any(|edit| matches!(edit, Edit::Clear { .. })));
                self.history.record((actor, seq), stamp, op.key, what.clone(), Rc::new(context.clone()))?;
                raise(&mut context, actor, seq);
            }
        }
        Ok(())
    }
}

/// A write in words, long values and lists cut short.
fn briefly(write: &Write<'_>) -> String {
    let words = format!("{write:?}");
    if words.len() < 400 { words } else { format!("{}...", words.chars().take(120).collect::<String>()) }
}
