//! What ails the wire beyond what QUIC lets through: frames lost, doubled, moved, damaged.

use rand::RngExt;
use tidings::engine::LinkId;
use tidings_proto::Lane;
use tidings_proto::frame::{PREFIX, decode_message};

use crate::plan::Kind;
use crate::world::{Check, Due, World};

impl World {
    /// Some links ail for a while.
    pub fn ail(&mut self, kind: Kind) {
        let rng = &mut self.rng.faults;
        let until = self.now + rng.random_range(10_000..6_000_000);
        for conn in self.conns.values_mut().filter(|_| rng.random_ratio(1, 2)) {
            conn.ills.push((kind, until));
        }
    }

    /// What befalls the first frame of a flight, if anything does.
    fn befalls(&mut self, id: u64) -> Option<Kind> {
        let now = self.now;
        let conn = self.conns.get_mut(&id)?;
        conn.ills.retain(|(_, until)| *until > now);
        if conn.ills.is_empty() || !self.rng.net.random_ratio(1, 4) {
            return None;
        }
        Some(conn.ills[self.rng.net.random_range(0..conn.ills.len())].0)
    }

    /// Does to the first frame of a flight what the link's ills do. Says whether it is still to be delivered.
    pub fn suffer(&mut self, id: u64, side: usize, lane: Lane) -> Result<bool, String> {
        let Some(kind) = self.befalls(id) else { return Ok(true) };
        let conn = self.conns.get_mut(&id).expect("just found");
        let to = conn.ends[1 - side].slot;
        let flight = &mut conn.ends[side].pipe(lane).flight;
        let Some((_, frame)) = flight.front() else { return Ok(true) };
        match kind {
            Kind::Loss => {
                flight.pop_front();
                self.facts.lost += 1;
            }
            Kind::Duplicate => {
                let again = frame.clone();
                conn.ends[side].pipe(lane).echoes.push_back(again);
                self.facts.doubled += 1;
                let most = [5_000, 200_000, 2_000_000][self.rng.net.random_range(0..3)];
                let after = self.rng.net.random_range(0..most);
                self.push(after, Due::Echo { conn: id, side, lane });
            }
            Kind::Reorder if flight.len() > 1 => {
                let other = self.rng.net.random_range(1..flight.len().min(5));
                flight.swap(0, other);
                self.facts.overtaken += 1;
            }
            Kind::Corrupt => {
                let mut frame = flight.pop_front().expect("just seen").1;
                for _ in 0..self.rng.net.random_range(1..4) {
                    let at = self.rng.net.random_range(PREFIX..frame.len());
                    frame[at] ^= 1 << self.rng.net.random_range(0..8);
                }
                self.facts.damaged += 1;
                // TLS would let none of it pass; what can be read is not believed here either.
                self.facts.damaged_readable += u64::from(decode_message(&frame[PREFIX..]).is_ok());
                self.note_hurt(id);
                self.say(|| format!("{} closes a link for a damaged frame", self.called(to)));
                self.down(id, 1 - side)?;
            }
            _ => return Ok(true),
        }
        self.note_hurt(id);
        Ok(matches!(kind, Kind::Duplicate | Kind::Reorder))
    }

    fn note_hurt(&mut self, id: u64) {
        if let Some(conn) = self.conns.get(&id) {
            self.hurt.extend(conn.ends.iter().map(|end| end.link));
        }
    }

    /// A node takes offence and closes the link, as the live driver does. Only what the
    /// wire did to the link excuses that.
    pub fn offended(&mut self, slot: usize, link: LinkId, reason: &str) -> Check {
        let ends = self.processes[slot].life.as_ref().and_then(|life| life.links.get(&link).copied());
        if !self.hurt.contains(&link) {
            return Err(format!("{} takes offence at {link:?}: {reason}", self.called(slot)));
        }
        self.facts.offences += 1;
        // The link may have ended before what came over it was looked at.
        ends.map_or(Ok(()), |(conn, side)| self.down(conn, side))
    }
}
