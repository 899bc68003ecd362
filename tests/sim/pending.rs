//! What is pending where agreement does not come: who lacks whose ops, since when, and what is being done about it.

use tidings::engine::LinkId;

use crate::names::{Seen, at, raise};
use crate::process::Life;
use crate::world::World;

impl World {
    /// All of it in words, a line a node.
    pub fn pending(&mut self, slots: &[usize]) -> String {
        let mut all = Seen::new();
        for slot in slots {
            for (actor, seq) in self.seen(*slot).into_iter().enumerate() {
                raise(&mut all, actor, seq);
            }
        }
        let mut words = Vec::new();
        for slot in slots {
            let seen = self.seen(*slot);
            let who = self.called(*slot);
            words.push(match &self.processes[*slot].life {
                None => format!("{who} does not run"),
                Some(life) => {
                    format!("{who} lacks {}\n      {}", self.lacks(life, &seen, &all), self.under_way(life))
                }
            });
        }
        words.join("\n    ")
    }

    /// Whose ops a node lacks, and since when nothing of them has come.
    fn lacks(&self, life: &Life, seen: &Seen, all: &Seen) -> String {
        let behind = (0..all.len()).filter(|actor| at(seen, *actor) < all[*actor]);
        let words: Vec<String> = behind
            .map(|actor| {
                let since = (self.now - at(&life.moved, actor).max(life.began)) as f64 / 1e6;
                let (first, last) = (at(seen, actor) + 1, all[actor]);
                format!("{}:{first}..={last}, nothing of which came for {since:.1} s", self.names.get(actor))
            })
            .collect();
        if words.is_empty() { "nothing".into() } else { words.join("; ") }
    }

    /// What a node has asked for and waits for.
    fn under_way(&self, life: &Life) -> String {
        let gossip = life.engine.gossip();
        let peer = |link: &LinkId| {
            let found = gossip.links().find(|(id, _)| id == link);
            found.map_or("nobody".into(), |(_, link)| link.actor.node.to_string())
        };
        let held = gossip.held();
        let in_ms = |at: u64| (life.began + at) as i64 / 1_000 - self.now as i64 / 1_000;
        let requests: Vec<String> = held
            .requests
            .iter()
            .map(|(to, until)| format!("{} for {} ms", peer(to), in_ms(*until)))
            .collect();
        let want = |(actor, asked, short): &(_, Option<LinkId>, Vec<LinkId>)| {
            let actor = life.engine.replica().state().actors().get(*actor);
            let short: Vec<String> = short.iter().map(peer).collect();
            format!("{actor} asked of {:?}, out of reach at {short:?}", asked.as_ref().map(peer))
        };
        let wants: Vec<String> = held.wants.iter().map(want).collect();
        format!(
            "linked to {:?}; requests {requests:?}; wants {wants:?}; merge {:?}, {} being sent; {} ops wait, {} removals parked; stopped: {:?}, deadline in {} ms; {:?}",
            gossip.links().map(|(_, link)| link.actor.node.to_string()).collect::<Vec<_>>(),
            gossip.merge_progress(),
            held.outgoing,
            gossip.ops_waiting(),
            life.engine.replica().state().parked().len(),
            life.engine.stopped(),
            in_ms(life.engine.deadline()),
            gossip.counts(),
        )
    }
}
