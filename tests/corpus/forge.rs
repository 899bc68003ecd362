//! Messages that a peer might make up: well formed for the most part, of few actors and small numbers, so that they meet.

use tidings_proto::cell::{MemberState, ParkedState, ParkedTarget, Tally, VersionState};
use tidings_proto::message::{Member, PartSum, Pull, Push, Range, RangeParts, Stats, Sync};
use tidings_proto::seen::SeenDigest;
use tidings_proto::{
    Actor, Baseline, Block, CellState, Counter, CounterState, Edit, KeyState, Message, Name, Op, Run,
    SeenEntries, Stamp, StateDigest, WireDot, frame,
};

use crate::bytes::Bytes;

pub const KEYS: [&[u8]; 3] = [b"a", b"b", b"c"];
pub const ELEMENTS: [&[u8]; 3] = [b"e", b"f", b"g"];
pub const VALUES: [&[u8]; 4] = [b"x", b"7", b"", b"-9223372036854775808"];

/// What a forger knows: some actors, and ids of requests that are under way.
#[derive(Debug)]
pub struct Forger<'a> {
    pub actors: &'a [Actor],
    pub ids: &'a [u64],
}

impl Forger<'_> {
    /// A message that passes the border, if the bytes make one.
    pub fn message(&self, bytes: &mut Bytes<'_>) -> Option<Message> {
        let message = match bytes.byte() % 16 {
            0..=4 => Message::Push(Push { have: self.seen(bytes), runs: self.runs(bytes) }),
            5..=7 => Message::Pull(self.pull(bytes)),
            8..=13 => Message::Sync(self.sync(bytes)?),
            14 => self.other(bytes),
            _ => return frame::decode_message(bytes.slice(200)).ok(),
        };
        frame::decode_message(&postcard::to_stdvec(&message).unwrap()).ok()
    }

    fn other(&self, bytes: &mut Bytes<'_>) -> Message {
        match bytes.byte() % 4 {
            0 => Message::Stats(Stats::Ask { id: self.id(bytes) }),
            1 => Message::Stats(Stats::Figures { id: self.id(bytes), figures: vec![("keys".into(), 1)] }),
            2 => {
                let node = Name::new(&format!("n{}", bytes.below(6))).unwrap();
                let addresses = vec!["a.example:1".to_owned(); bytes.below(4)];
                Message::Members(vec![Member { node, zone: String::new(), addresses }])
            }
            _ => Message::Leave,
        }
    }

    fn id(&self, bytes: &mut Bytes<'_>) -> u64 {
        bytes.pick(self.ids).unwrap_or(7)
    }

    fn actor(&self, bytes: &mut Bytes<'_>) -> Actor {
        let stranger = Actor { node: Name::new("n5").unwrap(), incarnation: bytes.byte().into() };
        if bytes.once_in(8) { stranger } else { bytes.pick(self.actors).unwrap_or(stranger) }
    }

    fn actor_table(&self, bytes: &mut Bytes<'_>, but: Option<&Actor>) -> Vec<Actor> {
        let mut actors: Vec<Actor> = Vec::new();
        for _ in 0..bytes.below(4) {
            let actor = self.actor(bytes);
            if !actors.contains(&actor) && Some(&actor) != but {
                actors.push(actor);
            }
        }
        actors
    }

    fn seen(&self, bytes: &mut Bytes<'_>) -> SeenEntries {
        let mut actors = self.actor_table(bytes, None);
        actors.sort();
        let entries: Vec<_> = actors.iter().map(|actor| (actor, bytes.number())).collect();
        SeenEntries::from_sorted(entries.into_iter().filter(|(_, seq)| *seq > 0))
    }

    fn ranges(&self, bytes: &mut Bytes<'_>) -> Vec<Range> {
        let range = |bytes: &mut Bytes<'_>| {
            let first = bytes.number();
            Range { actor: self.actor(bytes), first, last: first.saturating_add(bytes.number()) }
        };
        (0..bytes.below(3)).map(|_| range(bytes)).collect()
    }

    fn pull(&self, bytes: &mut Bytes<'_>) -> Pull {
        let id = self.id(bytes);
        match bytes.byte() % 5 {
            0 | 1 => Pull::Ops { id, ranges: self.ranges(bytes) },
            2 => {
                let (runs, missing) = (self.runs(bytes), self.ranges(bytes));
                Pull::Batch { id, runs, missing, more: bytes.once_in(2) }
            }
            3 => {
                let keys = KEYS[..bytes.below(3)].iter().map(|key| key.to_vec().into()).collect();
                Pull::Keys { id, keys, cursor: bytes.number(), names_only: bytes.once_in(2) }
            }
            _ => {
                let Block { actors, keys } = self.block(bytes);
                Pull::Cells { id, actors, keys, cursor: bytes.number() }
            }
        }
    }

    fn sync(&self, bytes: &mut Bytes<'_>) -> Option<Sync> {
        let id = self.id(bytes);
        Some(match bytes.byte() % 14 {
            0 => {
                let entries = bytes.once_in(2).then(|| self.seen(bytes));
                let digest = entries.as_ref().map_or(SeenDigest([bytes.byte(); 16]), |seen| seen.digest());
                let state = StateDigest([bytes.byte(); 16]);
                Sync::Syn { id, digest, state, entries, credit: bytes.number() as u32 }
            }
            1 => {
                let entries = bytes.once_in(2).then(|| self.seen(bytes));
                let state = bytes.once_in(4).then(|| StateDigest([bytes.byte(); 16]));
                Sync::Ack { id, entries, state, runs: self.runs(bytes) }
            }
            2 => Sync::Ack2 { id, runs: self.runs(bytes) },
            3 => Sync::Merge { id, guided: bytes.once_in(2) },
            4 => Sync::Context { id, seen: self.seen(bytes), parked: self.parked(bytes), keys: id },
            5 => Sync::Credit { id, blocks: bytes.number() as u32 },
            6 | 7 => {
                let block = match bytes.once_in(8) {
                    true => bytes.slice(100).to_vec(),
                    false => self.block(bytes).encode(),
                };
                Sync::Block { id, index: bytes.below(3) as u32, block }
            }
            8 => Sync::End { id, number: bytes.below(3) as u32, blocks: bytes.below(3) as u32 },
            9 => Sync::Abort { id, reason: "so".into() },
            10 => Sync::Narrow { id, number: bytes.below(3) as u32, ranges: self.numbers(bytes) },
            11 => {
                let parts = (0..bytes.below(3)).map(|_| {
                    let present = bytes.number() as u16;
                    let sums = (0..present.count_ones()).map(|_| PartSum(bytes.number())).collect();
                    RangeParts { present, sums }
                });
                let parts = parts.collect();
                Sync::Parts { id, number: bytes.below(3) as u32, parts }
            }
            12 => {
                let (number, lean) = (bytes.below(3) as u32, bytes.below(2) == 1);
                Sync::Fetch { id, number, ranges: self.numbers(bytes), lean }
            }
            _ => Sync::Done { id },
        })
    }

    /// Numbers of ranges, as the wire allows them.
    fn numbers(&self, bytes: &mut Bytes<'_>) -> Vec<u64> {
        (0..bytes.below(4)).map(|_| bytes.number() % ((1 << 61) - 1) + 1).collect()
    }

    fn parked(&self, bytes: &mut Bytes<'_>) -> Vec<ParkedState> {
        let state = |bytes: &mut Bytes<'_>| ParkedState {
            key: KEYS[bytes.below(3)].to_vec(),
            target: match bytes.byte() % 3 {
                0 => ParkedTarget::Register,
                1 => ParkedTarget::Member(ELEMENTS[bytes.below(3)].to_vec().into()),
                _ => ParkedTarget::Set,
            },
            actor: self.actor(bytes),
            seq: bytes.number(),
        };
        (0..bytes.below(3)).map(|_| state(bytes)).collect()
    }

    fn runs(&self, bytes: &mut Bytes<'_>) -> Vec<Run> {
        (0..bytes.below(3)).map(|_| self.run(bytes)).collect()
    }

    fn run(&self, bytes: &mut Bytes<'_>) -> Run {
        let actor = self.actor(bytes);
        let actors = self.actor_table(bytes, Some(&actor));
        let first = if bytes.once_in(16) { bytes.number() } else { 1 + bytes.below(6) as u64 };
        let count = 1 + bytes.below(3) as u32;
        let mut ops = Vec::new();
        for at in 0..count {
            let op = op(bytes, first.wrapping_add(at.into()), actors.len());
            ops = postcard::to_extend(&op, ops).unwrap();
        }
        if bytes.once_in(32) {
            ops.extend_from_slice(bytes.slice(9));
        }
        Run { actor, first, count, base: Stamp(bytes.number()), actors, ops }
    }

    fn block(&self, bytes: &mut Bytes<'_>) -> Block {
        let actors = self.actor_table(bytes, None);
        let places = actors.len().max(1);
        let key = |bytes: &mut Bytes<'_>| KeyState {
            key: KEYS[bytes.below(3)].to_vec(),
            cells: (0..bytes.below(4)).map(|_| cell(bytes, places)).collect(),
        };
        let keys = (0..bytes.below(3)).map(|_| key(bytes)).collect();
        Block { actors, keys }
    }
}

fn dot(bytes: &mut Bytes<'_>, places: usize) -> WireDot {
    WireDot { actor: bytes.below(places) as u32, seq: bytes.number() }
}

fn counter(bytes: &mut Bytes<'_>) -> Counter {
    if bytes.once_in(2) { Counter::G } else { Counter::Pn }
}

/// Mostly small sums, now and then the greatest there are.
fn sum(bytes: &mut Bytes<'_>) -> u128 {
    if bytes.once_in(12) { u128::MAX - u128::from(bytes.byte()) } else { bytes.number().into() }
}

fn tally(bytes: &mut Bytes<'_>, counter: Counter) -> Tally {
    let n = if counter == Counter::G { 0 } else { sum(bytes) };
    Tally { birth: bytes.number(), p: sum(bytes), n }
}

fn cell(bytes: &mut Bytes<'_>, places: usize) -> CellState {
    match bytes.byte() % 3 {
        0 => {
            let version = |bytes: &mut Bytes<'_>| VersionState {
                dot: dot(bytes, places),
                stamp: Stamp(bytes.number()),
                value: VALUES[bytes.below(4)].to_vec(),
            };
            CellState::Register((0..=bytes.below(2)).map(|_| version(bytes)).collect())
        }
        1 => {
            let element = ELEMENTS[bytes.below(3)].to_vec();
            let dots = (0..=bytes.below(2)).map(|_| dot(bytes, places)).collect();
            CellState::Member(MemberState { element, dots })
        }
        _ => {
            let counter = counter(bytes);
            CellState::Counter(CounterState {
                counter,
                actor: bytes.below(places) as u32,
                contribution: bytes.once_in(2).then(|| tally(bytes, counter)),
                baseline: bytes.once_in(2).then(|| tally(bytes, counter)),
            })
        }
    }
}

fn op(bytes: &mut Bytes<'_>, seq: u64, actors: usize) -> Op<'static, WireDot> {
    let edits = (0..=bytes.below(3)).map(|_| edit(bytes, seq, actors + 1)).collect();
    Op { stamp: bytes.number(), key: KEYS[bytes.below(3)], edits }
}

fn edit(bytes: &mut Bytes<'_>, seq: u64, places: usize) -> Edit<'static, WireDot> {
    let counter = counter(bytes);
    let element = ELEMENTS[bytes.below(3)];
    let kind = bytes.byte();
    let birth = if bytes.once_in(3) { seq } else { bytes.number() };
    let dots = (0..bytes.below(3)).map(|_| dot(bytes, places)).collect();
    if kind >= 240 {
        return Edit::Elided { supersedes: dots, by: bytes.below(4) as u32 };
    }
    match kind % 8 {
        0 => Edit::Write { supersedes: dots, value: VALUES[bytes.below(4)] },
        1 => Edit::Erase { dots },
        2 => Edit::Add { element, supersedes: dots },
        3 => Edit::Remove { element, dots },
        4 => {
            let Tally { p, n, .. } = tally(bytes, counter);
            Edit::Count { counter, birth, p, n }
        }
        5 => {
            let baseline = |birth: WireDot| {
                let Tally { p, n, .. } = tally(bytes, counter);
                Baseline { birth, p, n }
            };
            Edit::Reset { counter, baselines: dots.into_iter().map(baseline).collect() }
        }
        6 => Edit::Close { counter, birth },
        _ => Edit::Clear { upto: dots },
    }
}
