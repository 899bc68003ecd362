//! The world: processes, links, one heap of what is due, virtual time, one seed.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidings::engine::{Input, LinkId};
use tidings::store::MemDisk;
use tidings_proto::{Lane, Name, Stamp};

use crate::facts::Facts;
use crate::memory::Flipped;
use crate::names::{Names, Seen};
use crate::net::Conn;
use crate::oracle::History;
use crate::plan::Plan;
use crate::process::{Floor, Process, Rot};

/// What was found wrong, in words.
pub type Check = Result<(), String>;

/// What happens at some moment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    Client,
    Strike,
    Inspect,
    Tick { slot: usize, life: u64, at: u64 },
    Sync { slot: usize, life: u64 },
    Look { slot: usize, life: u64 },
    Step { slot: usize, life: u64 },
    Audit { slot: usize, life: u64 },
    Dropped { slot: usize, life: u64 },
    Dial { slot: usize, life: u64 },
    Establish { from: (usize, u64), to: (usize, u64) },
    Deliver { conn: u64, side: usize, lane: Lane },
    Echo { conn: u64, side: usize, lane: Lane },
    Written { conn: u64, side: usize, lane: Lane },
    Receiving { conn: u64, side: usize, until: u64 },
    Idle { conn: u64 },
    Down { conn: u64, side: usize },
    Restart { slot: usize },
    Close { slot: usize, life: u64 },
    Commit { slot: usize, life: u64 },
    Synced { slot: usize, life: u64 },
    FromLog { slot: usize, life: u64, link: LinkId },
    Cancel { slot: usize, life: u64, token: u64 },
}

/// Each part of the world draws from its own stream, so that a change in one leaves the others alone.
#[derive(Debug)]
pub struct Streams {
    pub net: StdRng,
    pub faults: StdRng,
    pub clients: StdRng,
    pub lives: StdRng,
    pub reads: StdRng,
}

#[derive(Debug)]
pub struct World {
    pub plan: Plan,
    pub now: u64,
    heap: BinaryHeap<Reverse<(u64, u64, Due)>>,
    order: u64,
    pub processes: Vec<Process>,
    pub conns: BTreeMap<u64, Conn>,
    pub next_conn: u64,
    pub next_link: u64,
    pub next_life: u64,
    pub rng: Streams,
    pub names: Names,
    pub history: History,
    /// By actor: acknowledged writes that must not be lost.
    pub promised: Seen,
    /// Links of which a frame has been lost, doubled, moved or damaged.
    pub hurt: BTreeSet<LinkId>,
    /// Who is not heard by whom, until when.
    pub blocked: BTreeMap<(usize, usize), u64>,
    /// Addresses that operators have told everybody of, once there were faults.
    pub meeting: BTreeSet<String>,
    /// A key whose huge set somebody is about to delete.
    pub to_empty: Option<Vec<u8>>,
    /// What has rotted in some memory.
    pub flipped: Option<Flipped>,
    /// A key of which some process lost cells or changed a value, and no fingerprint told.
    pub odd: Option<Vec<u8>>,
    /// Whether clients write and faults happen.
    pub stormy: bool,
    pub facts: Facts,
    /// The last things that happened, in words; none unless somebody wants to know.
    pub story: Option<RefCell<VecDeque<String>>>,
}

const STORY: usize = 120;

impl World {
    pub fn new(plan: Plan, tell: bool) -> Self {
        let stream = |n: u64| StdRng::seed_from_u64(plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n);
        let rng = Streams {
            net: stream(1),
            faults: stream(2),
            clients: stream(3),
            lives: stream(4),
            reads: stream(5),
        };
        let mut world = Self {
            now: 0,
            heap: BinaryHeap::new(),
            order: 0,
            processes: Vec::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            next_link: 0,
            next_life: 0,
            rng,
            names: Names::default(),
            history: History::default(),
            promised: Seen::new(),
            hurt: BTreeSet::new(),
            blocked: BTreeMap::new(),
            meeting: BTreeSet::new(),
            to_empty: None,
            flipped: None,
            odd: None,
            stormy: true,
            facts: Facts::default(),
            story: tell.then(RefCell::default),
            plan,
        };
        for n in 0..world.plan.nodes {
            world.add_process(&format!("n{n}"), format!("n{n}:1"), MemDisk::new(), Floor::default());
        }
        world
    }

    pub fn add_process(&mut self, name: &str, address: String, disk: MemDisk, floor: Floor) -> usize {
        let skew = self.plan.skew as i64;
        self.processes.push(Process {
            name: Name::new(name).expect("a good name"),
            address,
            disk,
            life: None,
            floor,
            stamp: Stamp::default(),
            image: None,
            paused_until: 0,
            held: false,
            twin_of: None,
            ahead: self.rng.faults.random_range(-skew..=skew),
            drift: self.rng.faults.random_range(-200..=200),
            doom: None,
            loops: 0,
            slow_until: 0,
            rot: Rot::No,
        });
        self.processes.len() - 1
    }

    pub fn seeds(&self, slot: usize) -> BTreeSet<String> {
        let seeds = self.processes.iter().take(self.plan.seeds.min(self.plan.nodes));
        let others = seeds.filter(|seed| seed.name != self.processes[slot].name);
        others.map(|seed| seed.address.clone()).chain(self.meeting.iter().cloned()).collect()
    }

    pub fn called(&self, slot: usize) -> String {
        let process = &self.processes[slot];
        match process.twin_of {
            None => process.name.to_string(),
            Some(_) => format!("{}'", process.name),
        }
    }

    pub fn push(&mut self, after: u64, due: Due) {
        self.order += 1;
        self.heap.push(Reverse((self.now + after, self.order, due)));
    }

    pub fn life_is(&self, slot: usize, life: u64) -> bool {
        self.processes[slot].life.as_ref().is_some_and(|l| l.id == life)
    }

    pub fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.get(&(from, to)).is_some_and(|until| *until > self.now)
    }

    pub fn trace(&mut self, value: u64) {
        self.facts.trace = (self.facts.trace ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
    }

    /// Runs until that moment.
    pub fn run_until(&mut self, end: u64) -> Check {
        while let Some(Reverse((at, ..))) = self.heap.peek()
            && *at <= end
        {
            let Some(Reverse((at, order, due))) = self.heap.pop() else { break };
            self.now = at;
            self.trace(at ^ order << 40);
            self.happen(due)?;
        }
        self.now = end;
        Ok(())
    }

    /// Whether it is about a process that stands still; then it is put off.
    fn put_off(&mut self, due: &Due) -> bool {
        let slot = match due {
            Due::Tick { slot, .. }
            | Due::Sync { slot, .. }
            | Due::Look { slot, .. }
            | Due::Step { slot, .. }
            | Due::Audit { slot, .. }
            | Due::Dropped { slot, .. }
            | Due::Dial { slot, .. }
            | Due::Commit { slot, .. }
            | Due::Synced { slot, .. }
            | Due::FromLog { slot, .. }
            | Due::Cancel { slot, .. }
            | Due::Close { slot, .. } => *slot,
            Due::Establish { to, .. } => to.0,
            Due::Deliver { conn, side, .. }
            | Due::Echo { conn, side, .. }
            | Due::Receiving { conn, side, .. } => match self.conns.get(conn) {
                Some(conn) => conn.ends[1 - side].slot,
                None => return false,
            },
            Due::Written { conn, side, .. } | Due::Down { conn, side } => match self.conns.get(conn) {
                Some(conn) => conn.ends[*side].slot,
                None => return false,
            },
            _ => return false,
        };
        let until = self.processes[slot].paused_until;
        if until <= self.now {
            return false;
        }
        self.push(until - self.now, due.clone());
        true
    }

    fn happen(&mut self, due: Due) -> Check {
        if self.put_off(&due) {
            return Ok(());
        }
        match due {
            Due::Client => self.client(),
            Due::Strike => self.strike(),
            Due::Inspect => self.inspect(),
            Due::Tick { slot, life, at } => {
                let wanted = self.life_is(slot, life)
                    && self.processes[slot].life.as_ref().is_some_and(|l| l.tick_at == at);
                if !wanted {
                    return Ok(());
                }
                self.processes[slot].life.as_mut().expect("just seen").tick_at = u64::MAX;
                self.handle(slot, Input::Tick)
            }
            Due::Sync { slot, life } if self.life_is(slot, life) => self.sync(slot),
            Due::Look { slot, life } if self.life_is(slot, life) => self.look(slot),
            Due::Step { slot, life } if self.life_is(slot, life) => self.step(slot),
            Due::Audit { slot, life } if self.life_is(slot, life) => self.audit(slot),
            Due::Dropped { slot, life } if self.life_is(slot, life) => self.report_dropped(slot),
            Due::Dial { slot, life } if self.life_is(slot, life) => {
                self.dial(slot);
                Ok(())
            }
            Due::Establish { from, to } => self.establish(from, to),
            Due::Deliver { conn, side, lane } => self.deliver(conn, side, lane),
            Due::Echo { conn, side, lane } => self.echo(conn, side, lane),
            Due::Written { conn, side, lane } => self.written(conn, side, lane),
            Due::Receiving { conn, side, until } => self.receiving(conn, side, until),
            Due::Idle { conn } => {
                self.idle(conn);
                Ok(())
            }
            Due::Down { conn, side } => self.down(conn, side),
            Due::Restart { slot } => self.start(slot),
            Due::Close { slot, life } if self.life_is(slot, life) => self.close(slot),
            Due::Commit { slot, life } if self.life_is(slot, life) => self.commit(slot),
            Due::Synced { slot, life } if self.life_is(slot, life) => self.synced(slot),
            Due::FromLog { slot, life, link } if self.life_is(slot, life) => self.read_log(slot, link),
            Due::Cancel { slot, life, token } if self.life_is(slot, life) => {
                self.cancel(slot, token);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks to be called when the engine's deadline has come.
    pub fn plan_tick(&mut self, slot: usize) -> Check {
        let now = self.now;
        let Some(life) = &mut self.processes[slot].life else { return Ok(()) };
        let due = (life.began + life.engine.deadline()).max(now + 1);
        if due >= life.tick_at {
            return Ok(());
        }
        life.tick_at = due;
        let id = life.id;
        let (since, ticks) = &mut life.spins;
        if due > now + 1 || now > *since + 2_000 {
            (*since, *ticks) = (now, 0);
        }
        *ticks += 1;
        if *ticks > 500 {
            let reason = life.engine.stopped().unwrap_or("running").to_owned();
            return Err(format!("{} spins: its deadline stays in the past ({reason})", self.called(slot)));
        }
        self.push(due - now, Due::Tick { slot, life: id, at: due });
        Ok(())
    }

    pub fn fresh_link(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
    }

    /// Adds a line to the story, if somebody wants to know it.
    pub fn say(&self, line: impl FnOnce() -> String) {
        if let Some(story) = &self.story {
            let mut story = story.borrow_mut();
            if story.len() == STORY {
                story.pop_front();
            }
            story.push_back(format!("{:>12.6} s  {}", self.now as f64 / 1e6, line()));
        }
    }
}
