//! What a run is made of: everything that is drawn from its seed before it begins.

use std::fmt;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidings::core::bounds;
use tidings::engine::{Limits, Preparing, Settings, Sharing};
use tidings::store::{self, Fsync};

/// What can go wrong. A run has a set of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9` at any boundary of a commit, and a restart.
    Kill,
    /// Power loss at any boundary of a commit, and a restart.
    Power,
    /// Several kills in a row.
    CrashLoop,
    /// A process stops running for a while.
    Pause,
    /// Some nodes do not hear some others for a while, perhaps one way only.
    Partition,
    /// A link breaks.
    Reset,
    /// Nothing that is put on a link leaves for a while.
    Clog,
    /// The disk refuses.
    Disk,
    /// An older image of a disk is put back.
    Restore,
    /// A disk is replaced by an empty one.
    Blank,
    /// One image is started twice.
    Twin,
    /// A wall clock jumps.
    Clock,
    /// A node leaves on purpose and returns later.
    Leave,
    /// An operator has a member forgotten.
    Forget,
    /// An operator asks for a push, a sync, cells or figures.
    Operator,
    /// Frames vanish in the middle of some links. QUIC does none of this and the next two; the
    /// engine is not to depend on it.
    Loss,
    /// Frames arrive twice.
    Duplicate,
    /// Frames of a lane overtake each other.
    Reorder,
    /// Bits of frames flip, and the receiver closes the link.
    Corrupt,
    /// A bit flips on the disk of a process that was killed.
    Rot,
    /// Syncs take up to seconds.
    SlowDisk,
    /// Some links carry next to nothing.
    Squeeze,
    /// A bit of a value flips in memory.
    Flip,
    /// The cells of a key go from memory, or a value changes, and their fingerprints go along.
    Differ,
}

pub const KINDS: [Kind; 24] = [
    Kind::Kill,
    Kind::Power,
    Kind::CrashLoop,
    Kind::Pause,
    Kind::Partition,
    Kind::Reset,
    Kind::Clog,
    Kind::Disk,
    Kind::Restore,
    Kind::Blank,
    Kind::Twin,
    Kind::Clock,
    Kind::Leave,
    Kind::Forget,
    Kind::Operator,
    Kind::Loss,
    Kind::Duplicate,
    Kind::Reorder,
    Kind::Corrupt,
    Kind::Rot,
    Kind::SlowDisk,
    Kind::Squeeze,
    Kind::Flip,
    Kind::Differ,
];

impl Kind {
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Whether writes may be gone for good, or away with a process that stays stopped.
    fn loses_writes(self) -> bool {
        matches!(self, Kind::Power | Kind::Restore | Kind::Blank | Kind::Twin | Kind::Rot)
    }

    pub fn named(name: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.name() == name)
    }
}

/// How rough a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// No faults: ops must arrive once, but for one in a hundred and eight in a run.
    Calm,
    /// As calm, and one node restarts and catches up from the others.
    CatchUp,
    /// Some kinds of faults, drawn from the seed.
    Chaos,
    /// All kinds of faults, often.
    Storm,
}

impl Profile {
    pub const ALL: [Self; 4] = [Self::Calm, Self::CatchUp, Self::Chaos, Self::Storm];

    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::CatchUp => "catchup",
            Self::Chaos => "chaos",
            Self::Storm => "storm",
        }
    }
}

/// What a caller sets by hand, and what the shrinker reduces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    pub nodes: Option<usize>,
    /// From two nodes to so many are drawn.
    pub nodes_up_to: Option<usize>,
    pub ops: Option<u64>,
    pub seconds: Option<u64>,
    pub faults: Option<Vec<Kind>>,
    /// At most so many faults happen.
    pub strikes: Option<u64>,
}

/// All that is decided before a run begins. Every number is drawn whether or not
/// it is then overridden, so that an override changes nothing else.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub profile: Profile,
    pub nodes: usize,
    /// Clients' writes.
    pub ops: u64,
    /// How long clients write and faults happen; microseconds.
    pub span: u64,
    pub faults: Vec<Kind>,
    pub strikes: u64,
    /// Mean time between faults; microseconds.
    pub fault_gap: u64,
    pub fsync: Fsync,
    /// Bytes of recent ops in memory.
    pub log_memory: usize,
    pub checkpoint_bytes: u64,
    pub store: store::Options,
    pub settings: Settings,
    /// One-way latency of a link, least and most; microseconds.
    pub latency: (u64, u64),
    /// Bytes a millisecond.
    pub bandwidth: u64,
    /// Frames that a lane's queue takes.
    pub queue_frames: usize,
    /// How long a link may be silent; microseconds.
    pub idle: u64,
    pub keys: u64,
    pub elements: u64,
    /// Whether sets of hundreds of elements are added at once.
    pub huge: bool,
    /// Whether most writes go to one key.
    pub hot: bool,
    /// The longest names and values that clients may write.
    pub limits: Limits,
    /// Removals that ops may park. Few only where all that they wait for comes back.
    pub parked: usize,
    /// Bytes of ops that may wait ahead of their turn.
    pub ahead: usize,
    /// Greatest skew between wall clocks; milliseconds.
    pub skew: u64,
    /// How many keys there are by which nodes order and fingerprint cells: of those with another
    /// one a node gets whole states. With more than one, a node has another after a restart.
    pub orders: u64,
    /// How often nodes audit their memory; microseconds.
    pub audit_interval: u64,
    /// Whether clients read of several nodes at once, too. That is so in every fifth seed.
    pub quorums: bool,
    /// How many nodes everybody has as seeds.
    pub seeds: usize,
    /// When and how several members give one a state. Mostly small enough to happen.
    pub sharing: Sharing,
    pub preparing: Preparing,
    /// Whether disks are often replaced among many nodes with short logs, so that blank ones join. That is so in
    /// every fourth seed of the rough profiles.
    pub gathers: bool,
}

fn pick<T: Clone>(rng: &mut StdRng, of: &[T]) -> T {
    of[rng.random_range(0..of.len())].clone()
}

impl Plan {
    pub fn draw(seed: u64, profile: Profile, over: &Overrides) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed ^ 0x7469_6469_6e67_7301);
        let calm = matches!(profile, Profile::Calm | Profile::CatchUp);
        let few: Vec<Kind> = KINDS.into_iter().filter(|_| rng.random_ratio(1, 4)).collect();
        let mut plan = Self {
            seed,
            profile,
            nodes: pick(rng, &[2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 4, 5, 5, 7]),
            ops: pick(rng, &[60, 120, 200, 400]),
            span: pick(rng, &[8, 15, 25, 40]) * 1_000_000,
            faults: if profile == Profile::Storm { KINDS.to_vec() } else { few },
            strikes: u64::MAX,
            fault_gap: pick(rng, &[300_000, 800_000, 2_000_000]),
            fsync: pick(rng, &[Fsync::Everysec, Fsync::Everysec, Fsync::Always, Fsync::No]),
            log_memory: pick(rng, &[0, 300, 2_000, 20_000, 1 << 20]),
            checkpoint_bytes: pick(rng, &[400, 3_000, 30_000]),
            store: store::Options {
                segment_bytes: pick(rng, &[512, 4_096, 65_536]),
                retain_bytes: pick(rng, &[0, 5_000, 1 << 20]),
                retain_age_ms: pick(rng, &[1_000, 10_000, 3_600_000]),
                redeliver_bytes: pick(rng, &[0, 2_000, 1 << 20]),
            },
            settings: Settings {
                push_interval: pick(rng, &[100, 300, 1_000]),
                anti_entropy_interval: pick(rng, &[500, 2_000, 10_000]),
                fanout: pick(rng, &[1, 2, 3]),
                push_window: pick(rng, &[0, 2_000, 20_000]),
                max_clock_drift: 500,
            },
            latency: pick(rng, &[(50, 300), (500, 3_000), (2_000, 60_000)]),
            bandwidth: pick(rng, &[200, 5_000, 100_000]),
            queue_frames: pick(rng, &[2, 8, 64]),
            idle: pick(rng, &[300_000, 2_000_000]),
            keys: pick(rng, &[1, 3, 12, 40]),
            elements: pick(rng, &[1, 3, 8]),
            huge: rng.random_ratio(1, 3),
            hot: rng.random_ratio(1, 3),
            limits: pick(rng, &[Limits::default(), Limits { key: 64, element: 40, value: 250 }]),
            parked: pick(rng, &[2, 5, 20, bounds::PARKED]),
            ahead: pick(rng, &[0, 100, 1_000, bounds::AHEAD]),
            skew: pick(rng, &[0, 100, 5_000]),
            seeds: pick(rng, &[1, 2, 9]),
            orders: pick(rng, &[1, 1, 1, 2, 3]),
            quorums: seed.is_multiple_of(5),
            sharing: Sharing::default(),
            preparing: Preparing::default(),
            gathers: !calm && seed % 4 == 3,
            audit_interval: pick(rng, &[300_000, 2_000_000, 5_000_000]),
        };
        if profile == Profile::Storm && !seed.is_multiple_of(3) {
            // Of the key that it strikes the oracle knows nothing any more.
            plan.faults.retain(|kind| *kind != Kind::Differ);
        }
        if calm {
            plan.faults.clear();
            plan.log_memory = 1 << 20;
            (plan.parked, plan.ahead) = (bounds::PARKED, bounds::AHEAD);
            plan.queue_frames = 64;
            if profile == Profile::CatchUp {
                // What memory has let go of is on the disk.
                plan.log_memory = pick(rng, &[300, 1 << 20]);
                (plan.store.retain_bytes, plan.store.retain_age_ms) = (1 << 30, 3_600_000);
            }
            plan.latency = pick(rng, &[(50, 300), (500, 3_000), (5_000, 20_000)]);
            plan.bandwidth = 100_000;
        }
        let share = rng.random_range(0..1_u64 << 32);
        if let Some(most) = over.nodes_up_to {
            plan.nodes = 2 + ((share * (most as u64 - 1)) >> 32) as usize;
        }
        let few = |keys, times, ranges| Sharing { keys, times, ranges };
        plan.sharing =
            pick(rng, &[few(1, 0, 1), few(1, 1, 1), few(3, 16, 1), few(6, 0, 4), Sharing::default()]);
        // A key or a few at a time, and ops between them.
        let steps = |keys, pause| Preparing { keys, pause };
        let draws = [steps(1, 0), steps(1, 500), steps(1, 20_000), steps(4, 2_000), Preparing::default()];
        plan.preparing = pick(rng, &draws);
        if plan.gathers {
            plan.gather(pick(rng, &[4, 4, 5, 6]), pick(rng, &[0, 0, 300]));
        }
        plan.nodes = over.nodes.unwrap_or(plan.nodes);
        plan.ops = over.ops.unwrap_or(plan.ops);
        plan.span = over.seconds.map_or(plan.span, |seconds| seconds * 1_000_000);
        plan.strikes = over.strikes.unwrap_or(plan.strikes);
        let drawn = std::mem::take(&mut plan.faults);
        plan.faults = over.faults.clone().unwrap_or_else(|| drawn.clone());
        if drawn.iter().chain(&plan.faults).any(|kind| kind.loses_writes()) {
            plan.parked = bounds::PARKED;
        }
        plan
    }

    /// See [`Plan::gathers`].
    fn gather(&mut self, nodes: usize, log_memory: usize) {
        (self.nodes, self.log_memory) = (nodes, log_memory);
        (self.keys, self.hot, self.orders) = (40, false, 1);
        (self.checkpoint_bytes, self.store.retain_bytes) = (400, 0);
        (self.store.segment_bytes, self.store.redeliver_bytes) = (512, 0);
        if !self.faults.contains(&Kind::Blank) {
            self.faults.push(Kind::Blank);
        }
    }

    /// Whether all that parked removals wait for must be there for others to go on.
    pub fn is_tight(&self) -> bool {
        self.parked < bounds::PARKED
    }

    /// Rounds of push and anti-entropy within which a healed core must agree; microseconds.
    pub fn patience(&self) -> u64 {
        let slowest_pull = 40_000_000;
        20 * 1_000 * (self.settings.push_interval + self.settings.anti_entropy_interval) + slowest_pull
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> = self.faults.iter().map(|kind| kind.name()).collect();
        writeln!(f, "  {} nodes, {} writes in {} s", self.nodes, self.ops, self.span / 1_000_000)?;
        writeln!(f, "  faults every {} ms or so: {}", self.fault_gap / 1_000, faults.join(" "))?;
        writeln!(
            f,
            "  fsync {}, {} B of ops in memory, checkpoint each {} B",
            self.fsync, self.log_memory, self.checkpoint_bytes
        )?;
        writeln!(f, "  {:?}", self.store)?;
        writeln!(f, "  {:?}", self.settings)?;
        writeln!(
            f,
            "  latency {:?} us, {} B/ms, queues of {} frames, idle {} ms",
            self.latency,
            self.bandwidth,
            self.queue_frames,
            self.idle / 1_000
        )?;
        write!(
            f,
            "  {} keys{}, {} elements{}, room for {} parked removals and {} B of early ops, clocks {} ms apart, {} seeds, {} orders, \
             states of {} keys from several, merges worked out by {} keys each {} us, audits each {} ms",
            self.keys,
            if self.hot { ", one hot" } else { "" },
            self.elements,
            if self.huge { " or hundreds" } else { "" },
            self.parked,
            self.ahead,
            self.skew,
            self.seeds,
            self.orders,
            self.sharing.keys,
            self.preparing.keys,
            self.preparing.pause,
            self.audit_interval / 1_000
        )
    }
}
