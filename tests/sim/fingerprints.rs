//! Fingerprints are equal if and only if states are, of the whole and of every range.

use rand::RngExt;
use tidings::core::fingerprint::Prefix;
use tidings_proto::Name;

use crate::dump::{Dump, differ};
use crate::world::{Check, World};

impl World {
    /// A node finds that another has seen the same and holds something else: never, but of what has rotted.
    pub fn diverged(&mut self, slot: usize, node: &Name) -> Check {
        if self.facts.flips + self.facts.losses > 0 {
            // What else differs is looked for at other moments.
            return self.check_node(slot);
        }
        let who = self.called(slot);
        let mine = self.dump(slot)?;
        let mut words = Vec::new();
        for other in 0..self.processes.len() {
            if self.processes[other].name != *node || self.processes[other].life.is_none() {
                continue;
            }
            let theirs = self.dump(other)?;
            let odd = |a: &Dump, b: &Dump| {
                let parts = a.parts.iter().filter(|(key, part)| b.parts.get(key) != Some(part));
                let parked: Vec<_> = a.parked.difference(&b.parked).collect();
                format!("{:?}, parked {parked:?}", parts.collect::<Vec<_>>())
            };
            words.push(format!(
                "seen alike: {}\n    {:?}\n    here {}\n    there {}",
                mine.seen == theirs.seen,
                differ((&who, &mine.stand), (node.as_str(), &theirs.stand)),
                odd(&mine, &theirs),
                odd(&theirs, &mine),
            ));
        }
        Err(format!("fingerprint: {who} and {node} differ at equal seen; {}", words.join("; ")))
    }

    /// Of two nodes drawn at random.
    pub fn check_fingerprints(&mut self) -> Check {
        let all = self.processes.len();
        let (a, b) = (self.rng.net.random_range(0..all), self.rng.net.random_range(0..all));
        if [a, b].iter().any(|slot| self.processes[*slot].life.is_none()) {
            return Ok(());
        }
        if self.is_rotten(a) || self.is_rotten(b) {
            return Ok(());
        }
        let (left, right) = (self.dump(a)?, self.dump(b)?);
        let states = [a, b].map(|slot| {
            let life = self.processes[slot].life.as_ref().expect("just seen");
            life.engine.replica().state()
        });
        let same = (&left.stand, &left.parts, &left.parked) == (&right.stand, &right.parts, &right.parked);
        let [ours, theirs] = states.map(|state| state.fingerprint());
        let comparable = states[0].order() == states[1].order();
        if comparable && same != (ours == theirs) {
            let (a, b) = (self.called(a), self.called(b));
            let verb = if same { "are" } else { "are not" };
            return Err(format!("fingerprint: {a} and {b} {verb} the same, but {ours:?} and {theirs:?}"));
        }
        for state in states {
            let range = Prefix::of(left.seen.iter().sum::<u64>().wrapping_mul(0x9e37_79b9_7f4a_7c15), 7);
            let parts: tidings::core::fingerprint::Fingerprint =
                range.parts().map(|part| state.fingerprint_of(part)).sum();
            if parts != state.fingerprint_of(range) {
                return Err("fingerprint: the parts of a range do not add up to it".into());
            }
        }
        Ok(())
    }
}
