//! What must hold: at every commit, of a node at any moment, and of all in the end.

use rand::RngExt;
use tidings::core::parked::Target;

use crate::dump::{Dump, differ, dump};
use crate::names::{Seen, at, equal, raise, within};
use crate::readers::Shown;
use crate::world::{Check, Due, World};

impl World {
    /// After every commit: cheap, and of one node.
    pub fn check_commit(&mut self, slot: usize) -> Check {
        let who = self.called(slot);
        let Some(life) = &mut self.processes[slot].life else { return Ok(()) };
        let state = life.engine.replica().state();
        self.names.extend(&mut life.places, state);
        let seen = self.names.seen(&life.places, state);
        if !within(&life.last_seen, &seen) {
            let less = self.names.tell(&life.last_seen, &seen);
            return Err(format!("I8: {who} has unseen {less}"));
        }
        if life.engine.stopped().is_none() && !equal(&seen, &self.processes[slot].floor.least) {
            let floor = &self.processes[slot].floor.least;
            let (more, less) = (self.names.tell(&seen, floor), self.names.tell(floor, &seen));
            return Err(format!("I6: {who} has seen {more} and not logged it; it logged {less} unseen"));
        }
        let now = self.now;
        let life = self.processes[slot].life.as_mut().expect("just seen");
        for actor in (0..seen.len()).filter(|actor| seen[*actor] > at(&life.last_seen, *actor)) {
            raise(&mut life.moved, actor, now);
        }
        life.last_seen = seen;
        self.check_sent(slot)?;
        self.check_bounds(slot)
    }

    /// A node's whole state in a form that can be compared.
    pub fn dump(&mut self, slot: usize) -> Result<Dump, String> {
        let who = self.called(slot);
        let rotten = self.is_rotten(slot);
        let Some(life) = &mut self.processes[slot].life else { return Err(format!("{who} does not run")) };
        let state = life.engine.replica().state();
        self.names.extend(&mut life.places, state);
        let seen = self.names.seen(&life.places, state);
        dump(state, &life.places, seen, rotten).map_err(|wrong| format!("{who}: {wrong}"))
    }

    /// P2, P4, P5: a node shows exactly what must stand where it has seen what it has seen.
    pub fn check_node(&mut self, slot: usize) -> Check {
        if self.processes[slot].life.is_none() {
            return Ok(());
        }
        self.facts.checks += 1;
        let dump = self.dump(slot)?;
        let (mut stand, mut parked) = self.history.stand(&dump.seen);
        self.forgive(slot, &dump, &mut stand, &mut parked);
        let who = self.called(slot);
        if let Some(difference) = differ((&who, &dump.stand), ("the oracle", &stand)) {
            return Err(format!("P2: {difference}"));
        }
        if dump.parked != parked {
            return Err(format!("I4: {who} parks {:?}, the oracle {parked:?}", dump.parked));
        }
        let state = self.processes[slot].life.as_ref().expect("just dumped").engine.replica().state();
        for (key, standing) in stand.iter().filter(|(key, _)| !self.is_forgiven(slot, key)) {
            let (shows, should) = (Shown::of(state, key), Shown::by(standing, &self.names));
            if shows != should {
                return Err(format!("P2: {who} shows {shows:?}, it should {should:?}"));
            }
        }
        let sets = dump.parked.iter().any(|(_, target, _)| *target == Target::Set);
        self.facts.parked_sets += u64::from(sets);
        self.check_figures(slot, &stand, parked.len())?;
        self.check_cursors(slot)?;
        self.check_read(slot, dump.seen)
    }

    pub fn inspect(&mut self) -> Check {
        let slot = self.rng.net.random_range(0..self.processes.len());
        self.check_node(slot)?;
        self.check_fingerprints()?;
        let again = self.rng.net.random_range(50_000..900_000);
        self.push(again, Due::Inspect);
        Ok(())
    }

    pub fn seen(&mut self, slot: usize) -> Seen {
        let Some(life) = &mut self.processes[slot].life else { return Seen::new() };
        self.names.extend(&mut life.places, life.engine.replica().state());
        self.names.seen(&life.places, life.engine.replica().state())
    }

    /// Whether those run and have seen the same.
    pub fn agree(&mut self, slots: &[usize]) -> bool {
        let runs =
            |slot: &usize| self.processes[*slot].life.as_ref().is_some_and(|l| l.engine.stopped().is_none());
        if !slots.iter().all(runs) {
            return false;
        }
        let first = self.seen(slots[0]);
        slots.iter().all(|slot| equal(&self.seen(*slot), &first)) && self.is_mended(slots)
    }

    /// Of nodes that have seen the same: the same state, to the last baseline.
    pub fn check_same(&mut self, slots: &[usize]) -> Check {
        let first = self.dump(slots[0])?;
        for slot in slots {
            self.check_node(*slot)?;
            let other = self.dump(*slot)?;
            if other.parts != first.parts {
                let (a, b) = (&first.parts, &other.parts);
                let odd: Vec<_> = a
                    .iter()
                    .filter(|p| !b.contains_key(p.0))
                    .chain(b.iter().filter(|p| a.get(p.0) != Some(p.1)))
                    .collect();
                return Err(format!(
                    "P2: {} and {} keep different parts: {odd:?}",
                    self.called(slots[0]),
                    self.called(*slot)
                ));
            }
        }
        if let Some(mut settled) = self.history.settled(&first.seen) {
            self.forgive(slots[0], &first, &mut settled, &mut first.parked.clone());
            if let Some(difference) = differ(("all", &first.stand), ("the settled oracle", &settled)) {
                return Err(format!("P4: {difference}"));
            }
            if !first.parked.is_empty() {
                return Err(format!("I4: all has come and {:?} is still parked", first.parked));
            }
        }
        Ok(())
    }

    /// P3: all that was acknowledged and not excusably lost is there.
    pub fn check_promises(&mut self, slot: usize) -> Check {
        let seen = self.seen(slot);
        if !within(&self.promised, &seen) {
            return Err(format!("P3: acknowledged and lost: {}", self.names.tell(&self.promised, &seen)));
        }
        Ok(())
    }
}
