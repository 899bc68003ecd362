//! What a node says that its peers hold, they hold.

use crate::names::at;
use crate::world::{Check, World};

impl World {
    /// Of every peer that is linked and runs.
    pub fn check_cursors(&mut self, slot: usize) -> Check {
        let Some(life) = &self.processes[slot].life else { return Ok(()) };
        let links: Vec<_> = life.links.iter().map(|(link, end)| (*link, *end)).collect();
        for (link, (conn, side)) in links {
            let end = &self.conns[&conn].ends[1 - side];
            let (peer, peer_life) = (end.slot, end.life);
            if !self.life_is(peer, peer_life) {
                continue;
            }
            let holds = self.seen(peer);
            let life = self.processes[slot].life.as_ref().expect("just seen");
            let gossip = life.engine.gossip();
            let Some((_, known)) = gossip.links().find(|(id, _)| *id == link) else { continue };
            for (actor, place) in life.engine.replica().places().zip(&life.places) {
                if known.known(actor) > at(&holds, *place) {
                    return Err(format!(
                        "cursor: {} takes {} to hold {} ops of {}, it holds {}",
                        self.called(slot),
                        self.called(peer),
                        known.known(actor),
                        life.engine.replica().state().actors().get(actor),
                        at(&holds, *place)
                    ));
                }
            }
        }
        Ok(())
    }
}
