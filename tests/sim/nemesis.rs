//! What goes wrong, and the checkpoints that are taken meanwhile.

use rand::RngExt;
use tidings::core::mutant::{Mutant, is};
use tidings::core::snapshot::Step;
use tidings::engine::{Input, Token};
use tidings::store::memdisk::Fault;
use tidings::store::{Disk, MemDisk};

use crate::plan::{KINDS, Kind};
use crate::process::{Checkpoint, Death, Floor, Outcome, Rot};
use crate::world::{Check, Due, World};

impl World {
    /// One fault, of a kind that this run has.
    pub fn strike(&mut self) -> Check {
        if !self.stormy || self.plan.faults.is_empty() || self.facts.strikes >= self.plan.strikes {
            return Ok(());
        }
        self.facts.strikes += 1;
        let rng = &mut self.rng.faults;
        let again = rng.random_range(self.plan.fault_gap / 2..self.plan.fault_gap * 3 / 2);
        let mut kind = self.plan.faults[rng.random_range(0..self.plan.faults.len())];
        if self.plan.gathers && self.plan.faults.contains(&Kind::Blank) && rng.random_ratio(1, 6) {
            kind = Kind::Blank;
        }
        let slot = rng.random_range(0..self.processes.len());
        let place = KINDS.iter().position(|k| *k == kind).expect("all kinds are listed");
        self.facts.faults[place] += 1;
        self.push(again, Due::Strike);
        self.say(|| format!("fault: {kind:?} at {}", self.called(slot)));
        match kind {
            Kind::Kill => self.doom(slot, Death::Kill, 0),
            Kind::Power => self.doom(slot, Death::Power, 0),
            Kind::CrashLoop => self.doom(slot, Death::Kill, 4),
            Kind::Pause => self.pause(slot),
            Kind::Partition => self.partition(),
            Kind::Reset | Kind::Clog | Kind::Squeeze => self.trouble_links(kind),
            Kind::Disk => self.break_disk(slot),
            Kind::Restore => return self.restore(slot),
            Kind::Blank => {
                self.die(slot, Death::Kill)?;
                self.processes[slot].disk = MemDisk::new();
                self.processes[slot].rot = Rot::No;
                self.regress(slot, Floor::default());
            }
            Kind::Twin => self.twin(slot),
            Kind::Clock => {
                let jumps = [-31_536_000_000, -3_600_000, -2_000, 400, 2_000, 3_600_000, 31_536_000_000_i64];
                let jump = jumps[self.rng.faults.random_range(0..jumps.len())];
                self.processes[slot].ahead += jump;
            }
            Kind::Leave => {
                self.handle(slot, Input::Leave)?;
                if let Some(life) = &self.processes[slot].life {
                    let life = life.id;
                    self.push(10_000, Due::Close { slot, life });
                }
            }
            Kind::Forget => {
                let whom = self.rng.faults.random_range(0..self.plan.nodes);
                let name = self.processes[whom].name.clone();
                if name != self.processes[slot].name {
                    self.handle(slot, Input::Forget(name))?;
                }
            }
            Kind::Operator => return self.operate(slot),
            Kind::Loss | Kind::Duplicate | Kind::Reorder | Kind::Corrupt => self.ail(kind),
            Kind::Rot => return self.rot(slot),
            Kind::Flip => self.flip(slot),
            Kind::Differ => self.differ(slot),
            Kind::SlowDisk => {
                let long = self.rng.faults.random_range(100_000..6_000_000);
                self.processes[slot].slow_until = self.now + long;
            }
        }
        Ok(())
    }

    fn doom(&mut self, slot: usize, death: Death, loops: u32) {
        let after = self.rng.faults.random_range(0..12);
        self.processes[slot].doom = Some((death, after));
        self.processes[slot].loops = loops;
    }

    fn pause(&mut self, slot: usize) {
        let idle = self.plan.idle;
        let long = self.rng.faults.random_range(1_000..3 * idle);
        self.processes[slot].paused_until = self.now + long;
        if long < idle {
            return;
        }
        let links = self.processes[slot].life.iter().flat_map(|life| life.links.values().copied());
        for (conn, _) in links.collect::<Vec<_>>() {
            for side in [0, 1] {
                self.push(idle, Due::Down { conn, side });
            }
        }
    }

    fn partition(&mut self) {
        let all = self.processes.len();
        let rng = &mut self.rng.faults;
        let until = self.now + rng.random_range(10_000..8_000_000);
        let cut = rng.random_range(1..all.max(2));
        let lone = rng.random_range(0..all);
        let shape = rng.random_range(0..5);
        let one_way = rng.random_ratio(1, 4);
        for from in 0..all {
            for to in 0..all {
                let apart = match shape {
                    // Halves.
                    0 => (from < cut) != (to < cut),
                    // One alone.
                    1 => (from == lone) != (to == lone),
                    // A ring: only neighbours hear each other.
                    2 => from.abs_diff(to) != 1 && from.abs_diff(to) + 1 != all,
                    // A bridge: halves that meet in one.
                    3 => (from < cut) != (to < cut) && from != lone && to != lone,
                    // Any pair.
                    _ => rng.random_ratio(1, 3),
                };
                if apart && from != to && !(one_way && from > to) {
                    self.blocked.insert((from, to), until);
                }
            }
        }
        for conn in self.conns.keys().copied().collect::<Vec<_>>() {
            self.push(self.plan.idle, Due::Idle { conn });
        }
    }

    fn trouble_links(&mut self, kind: Kind) {
        let rng = &mut self.rng.faults;
        let chosen: Vec<u64> = self.conns.keys().copied().filter(|_| rng.random_ratio(1, 2)).collect();
        for id in chosen {
            let until = self.now + self.rng.faults.random_range(5_000..6_000_000);
            // Some so slow that a block takes longer than a session waits in silence.
            let most = if self.rng.faults.random_ratio(1, 2) { 2_000 } else { 40_000 };
            let rate = self.rng.faults.random_range(700..most);
            let conn = self.conns.get_mut(&id).expect("just seen");
            match kind {
                Kind::Clog => conn.clogged_until = until,
                Kind::Squeeze => conn.squeezed = (until, rate),
                _ => self.cut(id),
            }
        }
    }

    fn break_disk(&mut self, slot: usize) {
        let rng = &mut self.rng.faults;
        let fault = match rng.random_range(0..3) {
            0 => Fault::Enospc { written: rng.random_range(0..200) },
            _ => Fault::Eio,
        };
        let disk = &self.processes[slot].disk;
        disk.inject(disk.operations() + rng.random_range(0..30), fault);
        // The operator sees to it in the end.
        let after = rng.random_range(100_000..5_000_000);
        if let Some(life) = &self.processes[slot].life {
            let life = life.id;
            self.push(after, Due::Close { slot, life });
        }
    }

    /// Takes an image of a disk, or puts the one back that was taken.
    fn restore(&mut self, slot: usize) -> Check {
        let Some((image, floor)) = self.processes[slot].image.take() else {
            let process = &mut self.processes[slot];
            if process.rot != Rot::No {
                return Ok(());
            }
            process.image = Some((process.disk.copy(), process.floor.clone()));
            return Ok(());
        };
        self.die(slot, Death::Kill)?;
        self.push(10_000, Due::Restart { slot });
        self.processes[slot].disk = image;
        self.processes[slot].rot = Rot::No;
        self.regress(slot, Floor { synced: floor.least.clone(), ..floor });
        Ok(())
    }

    /// Starts a second process from an image of a disk.
    fn twin(&mut self, slot: usize) {
        if self.processes[slot].twin_of.is_some() || self.processes.iter().any(|p| p.twin_of == Some(slot)) {
            return;
        }
        let process = &self.processes[slot];
        let (disk, floor) = (process.disk.copy(), process.floor.clone());
        let floor = Floor { synced: floor.least.clone(), ..floor };
        let (name, address) = (process.name.to_string(), format!("{}:2", process.name));
        let twin = self.add_process(&name, address, disk, floor);
        self.processes[twin].twin_of = Some(slot);
        self.processes[twin].rot = self.processes[slot].rot;
        self.push(1_000, Due::Restart { slot: twin });
    }

    fn operate(&mut self, slot: usize) -> Check {
        let Some(life) = &self.processes[slot].life else { return Ok(()) };
        let links: Vec<_> = life.links.keys().copied().collect();
        if links.is_empty() {
            return Ok(());
        }
        let rng = &mut self.rng.faults;
        let link = links[rng.random_range(0..links.len())];
        let id = life.id;
        let token = Token(self.now);
        let input = match rng.random_range(0..5) {
            0 => Input::Push { link: Some(link) },
            1 => Input::Push { link: None },
            2 => Input::Sync { link, token },
            3 => Input::AskCells { link, token, keys: Vec::new(), cursor: 0, names_only: rng.random() },
            _ => Input::AskStats { link, token },
        };
        if matches!(input, Input::Sync { .. } | Input::AskCells { .. } | Input::AskStats { .. }) {
            let life = self.processes[slot].life.as_mut().expect("just seen");
            life.questions.insert(token.0);
            self.push(5_000_000, Due::Cancel { slot, life: id, token: token.0 });
        }
        self.handle(slot, input)
    }

    /// An operator waits no longer for an answer.
    pub fn cancel(&mut self, slot: usize, token: u64) {
        if let Some(life) = &mut self.processes[slot].life {
            life.engine.cancel(Token(token));
            life.questions.remove(&token);
        }
    }

    /// Begins a checkpoint if one is due, as the live driver's thread does.
    pub fn look(&mut self, slot: usize) -> Check {
        let Some(mut life) = self.processes[slot].life.take() else { return Ok(()) };
        let again = self.rng.net.random_range(20_000..300_000);
        self.push(again, Due::Look { slot, life: life.id });
        let due = life.housekeeper.bytes_since_checkpoint() >= self.plan.checkpoint_bytes;
        if !due || life.checkpoint.is_some() {
            self.processes[slot].life = Some(life);
            return Ok(());
        }
        self.names.extend(&mut life.places, life.engine.replica().state());
        let context = self.names.seen(&life.places, life.engine.replica().state());
        let now = self.now_of(slot, &life);
        let mut effects = life.engine.take_effects(now);
        let begun = life.engine.begin_checkpoint();
        let outcome = self.carry_out(slot, &mut life, context, &mut effects)?;
        if outcome == Outcome::Done
            && let Some((snapshot, meta)) = begun
        {
            let lsn = life.store.as_ref().expect("an open store").written();
            match life.housekeeper.begin_checkpoint(lsn) {
                Ok(writer) => {
                    life.checkpoint = Some(Checkpoint { snapshot, meta, writer });
                    self.push(100, Due::Step { slot, life: life.id });
                }
                Err(error) => {
                    self.say(|| format!("{}: no checkpoint: {error}", self.called(slot)));
                    self.facts.checkpoints_failed += 1;
                    life.engine.end_checkpoint(snapshot);
                }
            }
        } else if let Some((snapshot, _)) = begun {
            life.engine.end_checkpoint(snapshot);
        }
        let (events, answers) = (std::mem::take(&mut effects.events), std::mem::take(&mut effects.answers));
        self.processes[slot].life = Some(life);
        if let Outcome::Died(death) = outcome {
            return self.die(slot, death);
        }
        if outcome == Outcome::Done {
            self.check_commit(slot)?;
            self.check_reads(slot, answers)?;
            events.into_iter().try_for_each(|event| self.on_event(slot, event))?;
        }
        self.plan_tick(slot)
    }

    /// One block of a checkpoint, or its end.
    pub fn step(&mut self, slot: usize) -> Check {
        let wall = self.wall(slot);
        let Some(life) = &mut self.processes[slot].life else { return Ok(()) };
        let Some(mut checkpoint) = life.checkpoint.take() else { return Ok(()) };
        let mut failed = true;
        match life.engine.step_checkpoint(checkpoint.snapshot) {
            Step::Block(block) => {
                if checkpoint.writer.block(&block).is_ok() {
                    life.checkpoint = Some(checkpoint);
                    let id = life.id;
                    let soon = self.rng.net.random_range(100..20_000);
                    self.push(soon, Due::Step { slot, life: id });
                    return Ok(());
                }
                life.engine.end_checkpoint(checkpoint.snapshot);
            }
            Step::Done => {
                life.engine.end_checkpoint(checkpoint.snapshot);
                if is(Mutant::LogCutEarly) {
                    cut_log(&self.processes[slot].disk, checkpoint.writer.lsn());
                }
                if let Some(death) = self.boundary(slot) {
                    let life = self.processes[slot].life.as_mut().expect("just seen");
                    life.checkpoint = Some(checkpoint);
                    self.facts.checkpoints_failed += 1;
                    return self.die(slot, death);
                }
                let life = self.processes[slot].life.as_mut().expect("just seen");
                let finished = checkpoint.writer.finish(&checkpoint.meta.encode());
                failed = finished.is_err();
                if finished.is_ok() {
                    let durable = life.syncer.durable();
                    let retired = life.housekeeper.retire(wall);
                    self.facts.checkpoints += 1;
                    self.say(|| format!("{}: checkpoint {finished:?}, {retired:?}", self.called(slot)));
                    self.settle_synced(slot, durable);
                }
            }
            Step::Aborted => life.engine.end_checkpoint(checkpoint.snapshot),
        }
        self.facts.checkpoints_failed += u64::from(failed);
        Ok(())
    }
}

/// `LogCutEarly`: removes the segments that a checkpoint covers, though it is not durable yet.
fn cut_log(disk: &MemDisk, covered: u64) {
    let names = disk.list().unwrap_or_default();
    let first = |name: &String| name.strip_prefix("log-")?.strip_suffix(".seg")?.parse::<u64>().ok();
    let firsts: Vec<(u64, &String)> = names.iter().filter_map(|name| Some((first(name)?, name))).collect();
    for pair in firsts.windows(2).filter(|pair| pair[1].0 <= covered + 1) {
        // A disk that refuses keeps it.
        drop(disk.remove(pair[0].1));
    }
}
