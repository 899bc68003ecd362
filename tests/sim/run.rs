//! A run from a seed: a storm, a healed core that must agree, then all of them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::RngExt;
use rand::seq::SliceRandom;

use crate::facts::Facts;
use crate::plan::{Plan, Profile};
use crate::process::Death;
use crate::world::{Check, Due, World};

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    pub plan: Plan,
    pub facts: Facts,
    /// What was wrong, if anything was.
    pub failure: Option<String>,
    /// The last things that happened, if they were asked for.
    pub story: Vec<String>,
}

/// Runs a plan. A panic of the engine is a failure like any other.
pub fn run(plan: Plan, tell: bool) -> Report {
    let mut world = World::new(plan.clone(), tell);
    let result = catch_unwind(AssertUnwindSafe(|| world.play()));
    let failure = match result {
        Ok(Ok(())) => None,
        Ok(Err(wrong)) => Some(wrong),
        Err(_) => Some(format!("panic: {}", crate::last_panic())),
    };
    let story = world.story.take().map(|story| story.into_inner().into()).unwrap_or_default();
    Report { plan, facts: world.facts, failure, story }
}

/// How often agreement is looked for; microseconds.
const LOOK: u64 = 100_000;

impl World {
    fn play(&mut self) -> Check {
        for slot in 0..self.plan.nodes {
            let after = self.rng.net.random_range(0..200_000);
            self.push(after, Due::Restart { slot });
        }
        self.push(100_000, Due::Client);
        self.push(400_000, Due::Inspect);
        self.push(500_000, Due::Strike);
        if self.plan.profile == Profile::CatchUp {
            self.run_until(self.plan.span / 3)?;
            self.processes[0].held = true;
            self.die(0, Death::Kill)?;
            self.run_until(self.plan.span / 3 * 2)?;
            self.processes[0].held = false;
            self.push(1, Due::Restart { slot: 0 });
        }
        self.run_until(self.plan.span)?;
        self.say(|| "the storm is over".into());
        self.stormy = false;
        self.check_core()?;
        self.check_all()?;
        self.check_facts()
    }

    /// Liveness: a core is healed, the rest stays broken, and the core must agree.
    fn check_core(&mut self) -> Check {
        let mut slots: Vec<usize> = (0..self.plan.nodes).collect();
        slots.shuffle(&mut self.rng.faults);
        let whole = self.plan.is_tight() || self.plan.faults.is_empty();
        let core = if self.plan.nodes > 2 && !whole {
            self.rng.faults.random_range(2..=self.plan.nodes)
        } else {
            self.plan.nodes
        };
        let core = slots[..core].to_vec();
        self.heal(&core)?;
        self.until_agreed(&core)?;
        self.check_same(&core)
    }

    /// All come back. A twin takes the place of the one it was made from, and back.
    fn check_all(&mut self) -> Check {
        let mut all: Vec<usize> = (0..self.plan.nodes).collect();
        self.heal(&all)?;
        self.until_agreed(&all)?;
        for twin in self.plan.nodes..self.processes.len() {
            let place = self.processes[twin].twin_of.expect("only twins are added");
            all[place] = twin;
            self.heal(&all)?;
            self.until_agreed(&all)?;
            all[place] = place;
            self.heal(&all)?;
            self.until_agreed(&all)?;
        }
        self.check_same(&all)?;
        self.check_promises(all[0])
    }

    /// Those run and hear each other; the others are stopped.
    fn heal(&mut self, slots: &[usize]) -> Check {
        self.say(|| format!("healed: {slots:?}"));
        self.unblock();
        if !self.plan.faults.is_empty() {
            // Whom faults and operators made everybody forget is told of anew.
            self.meeting = slots.iter().map(|slot| self.processes[*slot].address.clone()).collect();
            for life in self.processes.iter_mut().filter_map(|process| process.life.as_mut()) {
                life.sought.extend(self.meeting.iter().cloned());
            }
        }
        for slot in 0..self.processes.len() {
            let process = &mut self.processes[slot];
            process.paused_until = 0;
            process.slow_until = 0;
            process.doom = None;
            process.loops = 0;
            process.held = !slots.contains(&slot);
            let stopped = process.life.as_ref().is_some_and(|life| life.engine.stopped().is_some());
            // Faults that still wait in a disk go with its handles.
            if process.held || stopped {
                self.die(slot, Death::Kill)?;
            }
            self.processes[slot].disk.clear_faults();
            if !self.processes[slot].held {
                self.push(1_000, Due::Restart { slot });
            }
        }
        Ok(())
    }

    /// A disk may have failed before it was healed, and be found out now.
    fn restart_stopped(&mut self) -> Check {
        for slot in 0..self.processes.len() {
            let life = self.processes[slot].life.as_ref();
            if life.is_some_and(|life| life.engine.stopped().is_some()) {
                self.die(slot, Death::Kill)?;
            }
        }
        Ok(())
    }

    fn until_agreed(&mut self, slots: &[usize]) -> Check {
        let began = self.now;
        let limit = self.plan.patience();
        loop {
            self.run_until(self.now + LOOK)?;
            self.restart_stopped()?;
            self.restart_rotten(slots)?;
            let took = self.now - began;
            if self.agree(slots) {
                self.facts.agreed_in = self.facts.agreed_in.max(took);
                return Ok(());
            }
            if took > limit {
                let pending = self.pending(slots);
                return Err(format!("no progress: after {} s\n    {pending}", took / 1_000_000));
            }
        }
    }

    /// A run that had nothing to check is not a pass.
    fn check_facts(&mut self) -> Check {
        for slot in 0..self.processes.len() {
            if let Some(life) = self.processes[slot].life.take() {
                self.sum_up(&life);
                self.processes[slot].life = Some(life);
            }
        }
        self.facts.check(&self.plan)
    }
}
