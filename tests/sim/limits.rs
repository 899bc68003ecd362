//! Whether every queue and table of a node keeps to its bound.

use tidings::core::bounds;

use crate::world::{Check, World};

impl World {
    /// P7: after a commit nothing that a node holds is over its bound.
    pub fn check_bounds(&mut self, slot: usize) -> Check {
        let Some(life) = self.processes[slot].life.as_ref().filter(|life| life.engine.stopped().is_none())
        else {
            return Ok(());
        };
        let (replica, gossip) = (life.engine.replica(), life.engine.gossip());
        let (links, held) = (gossip.links().count(), gossip.held());
        let parked = replica.state().parked().len();
        let members = gossip.merge_progress().map_or(0, |progress| progress.members);
        let checkpoints = usize::from(life.checkpoint.is_some());
        let rows = [
            ("bytes of ops in memory", replica.log().bytes(), self.plan.log_memory),
            ("parked removals", parked, 2 * self.plan.parked),
            ("bytes of ops ahead of their turn", held.ahead_bytes, self.plan.ahead),
            ("ops ahead of their turn", gossip.ops_waiting() as usize, self.history.len()),
            ("links", links, life.links.len().min(self.plan.nodes)),
            ("actors of which it lacks something", held.wants.len(), replica.state().actors().len()),
            ("requests under way", held.requests.len(), links),
            ("questions of operators", held.asked, life.questions.len()),
            ("quorum reads", held.reads, life.reads.len()),
            ("states being sent", held.outgoing, links.min(bounds::SNAPSHOTS - 1)),
            ("members that a merge streams from", members, (1 + bounds::SOURCES).min(links)),
            ("snapshots", replica.snapshots(), held.outgoing + checkpoints),
            ("members", gossip.members().iter().count(), self.plan.nodes),
        ];
        for (what, holds, most) in rows {
            if holds > most {
                return Err(format!("P7: {} holds {holds} {what}, more than {most}", self.called(slot)));
            }
        }
        self.facts.parked_full += u64::from(self.plan.is_tight() && parked >= self.plan.parked);
        self.facts.ahead_full += u64::from(held.ahead_bytes > 0 && 2 * held.ahead_bytes >= self.plan.ahead);
        Ok(())
    }
}
