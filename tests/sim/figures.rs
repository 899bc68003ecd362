//! Whether a node's figures tell the truth: against what the world knows of it.

use std::collections::BTreeMap;

use tidings_proto::Counter;

use crate::names::at;
use crate::oracle::{Stand, Standing};
use crate::world::{Check, World};

/// What figures must say of data, by what stands.
fn of_data(stand: &Stand) -> BTreeMap<&'static str, u64> {
    let sums = |standing: &Standing, counter| standing.sums.keys().any(|(c, _)| *c == counter);
    let kinds = |standing: &Standing| {
        let string = !standing.versions.is_empty() || sums(standing, Counter::Pn);
        u64::from(!standing.members.is_empty()) + u64::from(string) + u64::from(sums(standing, Counter::G))
    };
    let count =
        |fits: &dyn Fn(&Standing) -> bool| stand.values().filter(|standing| fits(standing)).count() as u64;
    BTreeMap::from([
        ("keys", stand.len() as u64),
        ("members_of_sets", stand.values().map(|standing| standing.members.len() as u64).sum()),
        ("version_conflicts", count(&|standing| standing.versions.len() > 1)),
        ("kind_conflicts", count(&|standing| kinds(standing) > 1)),
    ])
}

impl World {
    /// A node that runs says of itself what is so.
    pub fn check_figures(&mut self, slot: usize, stand: &Stand, parked: usize) -> Check {
        let who = self.called(slot);
        let Some(life) = &self.processes[slot].life else { return Ok(()) };
        let (replica, gossip) = (life.engine.replica(), life.engine.gossip());
        let says: BTreeMap<&str, u64> = life.engine.figures().into_iter().collect();
        let mut should = of_data(stand);
        should.insert("parked_removals", parked as u64);
        should.insert("links", life.links.len() as u64);
        let own = self.names.find(replica.actor());
        should.insert("ops_written", own.map_or(0, |own| self.history.issued(own)));
        should.insert("op_log_bytes", replica.log().bytes() as u64);
        if gossip.counts().merges == 0 {
            let seen = self.names.seen(&life.places, replica.state());
            let grown = (0..seen.len()).map(|actor| seen[actor] - at(&life.first_seen, actor)).sum::<u64>();
            should.insert("ops_received", grown - says["ops_written"]);
        }
        for (name, value) in &should {
            if says.get(name) != Some(value) {
                return Err(format!("figures: {who} says {name} {:?}, it is {value}", says.get(name)));
            }
        }
        self.facts.figures += 1;
        self.facts.kind_conflicts += u64::from(should["kind_conflicts"] > 0);
        self.facts.version_conflicts += u64::from(should["version_conflicts"] > 0);
        self.facts.parked += u64::from(parked > 0);
        Ok(())
    }

    /// After a commit all that the protocol counts as sent has been handed out to be sent.
    pub fn check_sent(&self, slot: usize) -> Check {
        let Some(life) = &self.processes[slot].life else { return Ok(()) };
        let counts = life.engine.gossip().counts();
        let says = (counts.pushes_sent, counts.pulls_sent);
        if life.engine.stopped().is_none() && says != life.sent {
            let (who, sent) = (self.called(slot), life.sent);
            return Err(format!("figures: {who} counts {says:?} pushes and requests and gave out {sent:?}"));
        }
        Ok(())
    }
}
