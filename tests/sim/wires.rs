//! How links come up, carry frames and go down.

use rand::RngExt;
use tidings::engine::{Input, LinkId};
use tidings_proto::frame::{PREFIX, decode_hello, decode_message, encode_hello, encode_message};
use tidings_proto::message::{Pull, Push, Sync};
use tidings_proto::{Actor, Hello, Lane, Message, Name, Run, SeenEntries};

use crate::names::at;
use crate::net::{Conn, End, LANES, RECEIVING, SQUEEZED_BYTES, WRITE_BYTES};
use crate::process::{Death, Life, Outcome};
use crate::world::{Check, Due, World};
use tidings::store::Fsync;

impl World {
    /// Calls everybody who is sought and not linked.
    pub fn dial(&mut self, slot: usize) {
        let Some(life) = &self.processes[slot].life else { return };
        let id = life.id;
        let mut calls = Vec::new();
        for (to, process) in self.processes.iter().enumerate() {
            let sought = life.sought.contains(&process.address);
            if let Some(theirs) = &process.life
                && sought
                && process.name != self.processes[slot].name
                && self.link_to(slot, &process.name).is_none()
            {
                calls.push((to, theirs.id));
            }
        }
        for to in calls {
            let after = 3 * self.rng.net.random_range(self.plan.latency.0..=self.plan.latency.1);
            self.push(after, Due::Establish { from: (slot, id), to });
        }
        let again = self.rng.net.random_range(50_000..400_000);
        self.push(again, Due::Dial { slot, life: id });
    }

    /// The link of a process to a node of that name, if it has one.
    fn link_to(&self, slot: usize, name: &Name) -> Option<u64> {
        let life = self.processes[slot].life.as_ref()?;
        let mut links = life.links.values();
        links
            .find(|(conn, side)| self.processes[self.conns[conn].ends[1 - side].slot].name == *name)
            .map(|l| l.0)
    }

    /// Both HELLOs have been exchanged.
    pub fn establish(&mut self, from: (usize, u64), to: (usize, u64)) -> Check {
        let ends = [from, to];
        let there = ends.iter().all(|(slot, life)| self.life_is(*slot, *life));
        let deaf = self.is_blocked(from.0, to.0) || self.is_blocked(to.0, from.0);
        if !there || deaf || self.processes[from.0].paused_until > self.now {
            return Ok(());
        }
        for (own, other) in [(from, to), (to, from)] {
            let Some(conn) = self.link_to(own.0, &self.processes[other.0].name.clone()) else { continue };
            let ends = &self.conns[&conn].ends;
            if ends[0].up && ends[1].up {
                // One link to a name, whichever process has it.
                return Ok(());
            }
            let side = usize::from(ends[1].up);
            self.down(conn, side)?;
        }
        if !ends.iter().all(|(slot, life)| self.life_is(*slot, *life)) {
            return Ok(());
        }
        self.next_conn += 1;
        let conn = self.next_conn;
        let links = [self.fresh_link(), self.fresh_link()];
        let ends = [End::new(from.0, from.1, links[0]), End::new(to.0, to.1, links[1])];
        let slow = self.rng.net.random_ratio(1, 4);
        let scale = if slow { 4 } else { 1 };
        let latency = (self.plan.latency.0, self.plan.latency.1 * scale);
        self.conns.insert(conn, Conn::new(ends, latency));
        self.facts.links += 1;
        let hellos = [self.hello(to.0)?, self.hello(from.0)?];
        for (side, ((slot, _), hello)) in [from, to].into_iter().zip(hellos).enumerate() {
            if let Some(life) = &mut self.processes[slot].life {
                life.links.insert(links[side], (conn, side));
            }
            self.say(|| format!("{} is linked to {} by {:?}", self.called(slot), hello.actor, links[side]));
            self.handle(slot, Input::LinkUp { link: links[side], hello })?;
        }
        Ok(())
    }

    fn hello(&self, slot: usize) -> Result<Hello, String> {
        let process = &self.processes[slot];
        let life = process.life.as_ref().ok_or("a hello of nobody")?;
        let hello = Hello {
            versions: tidings_proto::VERSIONS,
            realm: Name::new("sim").expect("a good name"),
            actor: life.engine.replica().actor().clone(),
            zone: String::new(),
            addresses: vec![process.address.clone()],
            clock: self.wall(slot),
            order: life.engine.replica().state().order(),
        };
        decode_hello(&encode_hello(&hello)[PREFIX..]).map_err(|error| error.to_string())
    }

    /// Puts messages on their links.
    pub fn dispatch(
        &mut self,
        slot: usize,
        life: &mut Life,
        sends: Vec<(LinkId, Message)>,
    ) -> Result<Outcome, String> {
        if sends.len() > 2_000 {
            return Err(format!("P7: {} messages at once", sends.len()));
        }
        for (link, message) in sends {
            self.check_covered(slot, &message)?;
            let Some(&(conn, side)) = life.links.get(&link) else { continue };
            let frame = encode_message(&message);
            let most = self.plan.queue_frames;
            let wires = self.conns.get_mut(&conn).expect("a link that is up");
            let pipe = wires.ends[side].pipe(message.lane());
            if pipe.push(frame, most).is_err() {
                self.facts.drops += 1;
                if life.dropped.is_empty() {
                    self.push(20, Due::Dropped { slot, life: life.id });
                }
                life.dropped.push(link);
            } else if !pipe.writing {
                self.write(conn, side, message.lane());
            }
            self.say(|| format!("{} sends on {link:?}: {}", self.called(slot), brief(&message)));
            if let Some(death) = self.boundary(slot) {
                return Ok(Outcome::Died(death));
            }
        }
        Ok(Outcome::Done)
    }

    /// I7: nothing is sent that a restart of this process could take back.
    fn check_covered(&self, slot: usize, message: &Message) -> Check {
        let floor = &self.processes[slot].floor;
        let kept = if self.plan.fsync == Fsync::Always { &floor.synced } else { &floor.least };
        let covered = |actor: &Actor, seq: u64| {
            let ax = self.names.find(actor);
            if ax.is_some_and(|ax| seq <= at(kept, ax)) {
                return Ok(());
            }
            let kept = ax.map_or(0, |ax| at(kept, ax));
            let what = message.kind();
            Err(format!(
                "I7: {} sends a {what} with {seq} of {actor}, a restart would know {kept}",
                self.called(slot)
            ))
        };
        let runs = |runs: &[Run]| runs.iter().try_for_each(|run| covered(&run.actor, run.last()));
        let entries = |seen: &SeenEntries| seen.iter().try_for_each(|(actor, seq)| covered(&actor, seq));
        match message {
            Message::Push(Push { have, runs: ops }) => runs(ops).and_then(|()| entries(have)),
            Message::Pull(Pull::Batch { runs: ops, .. }) => runs(ops),
            Message::Sync(Sync::Syn { entries: Some(seen), .. }) => entries(seen),
            Message::Sync(Sync::Ack { entries: seen, runs: ops, .. }) => {
                seen.iter().try_for_each(entries)?;
                runs(ops)
            }
            Message::Sync(Sync::Ack2 { runs: ops, .. }) => runs(ops),
            Message::Sync(Sync::Context { seen, .. }) => entries(seen),
            _ => Ok(()),
        }
    }

    /// Hands what waits on a lane to QUIC.
    fn write(&mut self, id: u64, side: usize, lane: Lane) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let now = self.now;
        if conn.clogged_until > now {
            conn.ends[side].pipe(lane).writing = true;
            let after = conn.clogged_until - now;
            self.push(after, Due::Written { conn: id, side, lane });
            return;
        }
        let latency = self.rng.net.random_range(conn.latency.0..=conn.latency.1);
        let squeezed = conn.squeezed.0 > now;
        let bandwidth = if squeezed { conn.squeezed.1 } else { self.plan.bandwidth * 1_000 };
        let most = if squeezed { SQUEEZED_BYTES } else { WRITE_BYTES };
        let pipe = conn.ends[side].pipe(lane);
        pipe.writing = true;
        let set_off = pipe.flight.len();
        let (_, bytes) = pipe.write(now, most, |bytes| latency + bytes as u64 * 1_000_000 / bandwidth);
        let arrivals: Vec<u64> = pipe.flight.iter().skip(set_off).map(|(at, _)| *at).collect();
        self.facts.frames += arrivals.len() as u64;
        self.facts.bytes += bytes as u64;
        if lane == Lane::Bulk
            && let Some(until) = arrivals.last()
        {
            self.push(RECEIVING, Due::Receiving { conn: id, side, until: *until });
        }
        for arrival in arrivals {
            self.push(arrival - now, Due::Deliver { conn: id, side, lane });
        }
        self.push(bytes as u64 * 1_000_000 / bandwidth + 1, Due::Written { conn: id, side, lane });
    }

    /// Part of what was written last has arrived, and not all: the live driver tells of it once a second.
    pub fn receiving(&mut self, id: u64, side: usize, until: u64) -> Check {
        let Some(conn) = self.conns.get(&id) else { return Ok(()) };
        let (from, to) = (conn.ends[side].slot, &conn.ends[1 - side]);
        let (slot, link) = (to.slot, to.link);
        if !to.up || until <= self.now {
            return Ok(());
        }
        self.push(RECEIVING, Due::Receiving { conn: id, side, until });
        if self.is_blocked(from, slot) {
            return Ok(());
        }
        self.facts.receiving += 1;
        self.handle(slot, Input::Receiving { link })
    }

    /// A writer is done with what it took.
    pub fn written(&mut self, id: u64, side: usize, lane: Lane) -> Check {
        let Some(conn) = self.conns.get_mut(&id) else { return Ok(()) };
        let end = &mut conn.ends[side];
        let (slot, link, up) = (end.slot, end.link, end.up);
        let pipe = end.pipe(lane);
        pipe.writing = false;
        if up && !pipe.is_empty() {
            self.write(id, side, lane);
            return Ok(());
        }
        if lane == Lane::News && up {
            return self.handle(slot, Input::Writable { link });
        }
        Ok(())
    }

    /// The first frame of a flight arrives.
    pub fn deliver(&mut self, id: u64, side: usize, lane: Lane) -> Check {
        let Some(conn) = self.conns.get(&id) else { return Ok(()) };
        let (from, to) = (conn.ends[side].slot, conn.ends[1 - side].slot);
        if conn.ends[1 - side].up && self.is_blocked(from, to) {
            self.push(20_000, Due::Deliver { conn: id, side, lane });
            return Ok(());
        }
        if conn.ends[1 - side].up && !self.suffer(id, side, lane)? {
            return Ok(());
        }
        let conn = self.conns.get_mut(&id).expect("just seen");
        let frame = conn.ends[side].pipe(lane).flight.pop_front();
        frame.map_or(Ok(()), |(_, frame)| self.arrive(id, side, &frame))
    }

    /// A frame arrives once more, some time after the first.
    pub fn echo(&mut self, id: u64, side: usize, lane: Lane) -> Check {
        let Some(conn) = self.conns.get_mut(&id) else { return Ok(()) };
        let frame = conn.ends[side].pipe(lane).echoes.pop_front();
        frame.map_or(Ok(()), |frame| self.arrive(id, side, &frame))
    }

    fn arrive(&mut self, id: u64, side: usize, frame: &[u8]) -> Check {
        let Some(conn) = self.conns.get(&id) else { return Ok(()) };
        let (from, to) = (conn.ends[side].slot, conn.ends[1 - side].slot);
        let (link, up) = (conn.ends[1 - side].link, conn.ends[1 - side].up);
        if !up || self.is_blocked(from, to) {
            return Ok(());
        }
        frame.chunks(8).for_each(|chunk| {
            let value = chunk.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
            self.trace(value);
        });
        let message = decode_message(&frame[PREFIX..])
            .map_err(|error| format!("{} sent what nobody can read: {error}", self.called(from)))?;
        self.say(|| format!("{} hears on {link:?}: {}", self.called(to), brief(&message)));
        self.hear(to, link, message)
    }

    /// A message reaches an engine. What follows is carried out at once, or with what else happens soon.
    fn hear(&mut self, slot: usize, link: LinkId, message: Message) -> Check {
        let input = Input::Message { link, message };
        if !self.rng.net.random_ratio(1, 8) {
            return self.handle(slot, input);
        }
        let wall = self.wall(slot);
        let Some(life) = &mut self.processes[slot].life else { return Ok(()) };
        life.engine.handle(tidings::engine::Now { mono: self.now - life.began, wall }, input);
        let id = life.id;
        let soon = self.rng.net.random_range(1..400);
        self.push(soon, Due::Commit { slot, life: id });
        Ok(())
    }

    /// A link has been silent for long: it ends if the silence lasts.
    pub fn idle(&mut self, id: u64) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (a, b) = (conn.ends[0].slot, conn.ends[1].slot);
        if self.is_blocked(a, b) || self.is_blocked(b, a) {
            self.cut(id);
        }
    }

    /// Both sides find out, each in its time, that a link is over.
    pub fn cut(&mut self, id: u64) {
        for side in [0, 1] {
            let after = self.rng.net.random_range(0..self.plan.idle / 2);
            self.push(after, Due::Down { conn: id, side });
        }
    }

    /// A side learns that its link is over. Nothing more arrives there.
    pub fn down(&mut self, id: u64, side: usize) -> Check {
        let Some(conn) = self.conns.get_mut(&id) else { return Ok(()) };
        let end = &mut conn.ends[side];
        if !end.up {
            return Ok(());
        }
        end.up = false;
        let (slot, life_id, link) = (end.slot, end.life, end.link);
        let both = !conn.ends[1 - side].up;
        if self.life_is(slot, life_id) {
            let life = self.processes[slot].life.as_mut().expect("just seen");
            life.links.remove(&link);
            life.dropped.retain(|dropped| *dropped != link);
            self.say(|| format!("{} loses {link:?}", self.called(slot)));
            self.handle(slot, Input::LinkDown { link })?;
        }
        if both {
            self.conns.remove(&id);
        } else {
            // The other side hears of it too, in time.
            self.push(self.plan.idle, Due::Down { conn: id, side: 1 - side });
        }
        Ok(())
    }

    /// Tells the engine of queues that were full, as the live driver's timer does.
    pub fn report_dropped(&mut self, slot: usize) -> Check {
        let (now, wall) = (self.now, self.wall(slot));
        let Some(life) = &mut self.processes[slot].life else { return Ok(()) };
        for link in std::mem::take(&mut life.dropped) {
            let now = tidings::engine::Now { mono: now - life.began, wall };
            life.engine.handle(now, Input::Dropped { link });
        }
        self.plan_tick(slot)
    }

    /// A process ends at once. What its disk keeps depends on how.
    pub fn die(&mut self, slot: usize, death: Death) -> Check {
        let Some(life) = self.processes[slot].life.take() else { return Ok(()) };
        self.say(|| format!("{} dies: {death:?}", self.called(slot)));
        self.facts.deaths += 1;
        self.sum_up(&life);
        self.processes[slot].doom = None;
        let links: Vec<(u64, usize)> = life.links.values().copied().collect();
        let disk = self.processes[slot].disk.clone();
        // Nothing that a destructor does reaches the disk of a process that is dead.
        disk.inject(disk.operations(), tidings::store::memdisk::Fault::Halt);
        drop(life);
        match death {
            Death::Kill => disk.kill(),
            Death::Power => self.lose_power(slot),
        }
        for (conn, side) in links {
            if let Some(wires) = self.conns.get_mut(&conn) {
                wires.ends[side].up = false;
                if !wires.ends[1 - side].up {
                    self.conns.remove(&conn);
                    continue;
                }
            }
            let after = self.rng.net.random_range(1_000..self.plan.idle);
            self.push(after, Due::Down { conn, side: 1 - side });
        }
        let after = self.rng.faults.random_range(5_000..3_000_000);
        self.push(after, Due::Restart { slot });
        Ok(())
    }

    /// Of all that was not synced the disk keeps what it likes.
    fn lose_power(&mut self, slot: usize) {
        use tidings::store::memdisk::Keep;
        let disk = self.processes[slot].disk.clone();
        let rng = &mut self.rng.faults;
        let mood = rng.random_range(0..4);
        disk.crash(&mut |_| match mood {
            0 => Keep::Nothing,
            1 => Keep::All,
            _ => match rng.random_range(0..4) {
                0 => Keep::Nothing,
                1 => Keep::First(rng.random_range(0..200)),
                _ => Keep::All,
            },
        });
        let mut floor = self.processes[slot].floor.clone();
        floor.least = floor.synced.clone();
        self.regress(slot, floor);
    }

    /// A clean stop.
    pub fn close(&mut self, slot: usize) -> Check {
        self.commit(slot)?;
        let wall = self.wall(slot);
        let Some(mut life) = self.processes[slot].life.take() else { return Ok(()) };
        self.say(|| format!("{} stops", self.called(slot)));
        self.sum_up(&life);
        let links: Vec<(u64, usize)> = life.links.values().copied().collect();
        if life.engine.stopped().is_none()
            && let Some(store) = life.store.take()
        {
            match store.close(wall) {
                Ok(()) => self.processes[slot].floor.synced = self.processes[slot].floor.least.clone(),
                Err(error) => self.say(|| format!("not closed cleanly: {error}")),
            }
        }
        drop(life);
        self.processes[slot].disk.kill();
        self.processes[slot].doom = None;
        let back = self.rng.faults.random_range(50_000..4_000_000);
        self.push(back, Due::Restart { slot });
        for (conn, side) in links {
            if let Some(wires) = self.conns.get_mut(&conn) {
                wires.ends[side].up = false;
                if !wires.ends[1 - side].up {
                    self.conns.remove(&conn);
                    continue;
                }
            }
            let after = self.plan.latency.1;
            self.push(after, Due::Down { conn, side: 1 - side });
        }
        Ok(())
    }

    /// Lets go of what clogs, blocks and pauses.
    pub fn unblock(&mut self) {
        self.blocked.clear();
        let now = self.now;
        let mut freed = Vec::new();
        for (id, conn) in &mut self.conns {
            conn.clogged_until = now;
            conn.squeezed = (0, 0);
            conn.ills.clear();
            freed.extend([0, 1].into_iter().flat_map(|side| LANES.map(|lane| (*id, side, lane))));
        }
        for (id, side, lane) in freed {
            let pipe = self.conns.get_mut(&id).expect("just seen").ends[side].pipe(lane);
            if !pipe.writing && !pipe.is_empty() {
                self.write(id, side, lane);
            }
        }
    }
}

/// A message in words.
fn brief(message: &Message) -> String {
    let runs = |runs: &[Run]| {
        let runs: Vec<String> =
            runs.iter().map(|run| format!("{}:{}..={}", run.actor, run.first, run.last())).collect();
        format!("[{}]", runs.join(" "))
    };
    let seen = |seen: &SeenEntries| {
        let entries: Vec<String> = seen.iter().map(|(actor, seq)| format!("{actor}:{seq}")).collect();
        format!("({})", entries.join(" "))
    };
    match message {
        Message::Push(push) => format!("push {} {}", seen(&push.have), runs(&push.runs)),
        Message::Pull(Pull::Ops { id, ranges }) => {
            let ranges: Vec<String> =
                ranges.iter().map(|r| format!("{}:{}..={}", r.actor, r.first, r.last)).collect();
            format!("pull {id} {}", ranges.join(" "))
        }
        Message::Pull(Pull::Batch { id, runs: ops, missing, more }) => {
            format!("batch {id} {} missing {} more {more}", runs(ops), missing.len())
        }
        Message::Sync(Sync::Syn { id, entries, .. }) => {
            format!("syn {id} {}", entries.as_ref().map(seen).unwrap_or_default())
        }
        Message::Sync(Sync::Ack { id, entries, runs: ops, .. }) => {
            format!("ack {id} {} {}", entries.as_ref().map(seen).unwrap_or_default(), runs(ops))
        }
        Message::Sync(Sync::Ack2 { id, runs: ops }) => format!("ack2 {id} {}", runs(ops)),
        Message::Sync(Sync::Context { id, seen: context, parked, keys }) => {
            format!("context {id} {} parked {}, {keys} keys", seen(context), parked.len())
        }
        Message::Sync(Sync::Block { id, index, block }) => format!("block {id} #{index} {} B", block.len()),
        other => format!("{other:?}"),
    }
}
