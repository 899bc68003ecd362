//! A state in a form that does not hang on numbering, hashing or history.

use std::collections::{BTreeMap, BTreeSet};

use tidings::core::block::parked_states;
use tidings::core::cells::Cells;
use tidings::core::state::State;
use tidings::core::view::{Kind, Tallies, View};
use tidings_proto::cell::{ParkedTarget, Tally};
use tidings_proto::{Actor, Counter, Seen, Stamp};

pub type Bytes = Vec<u8>;
pub type Dot = (Actor, u64);
pub type Version = (Dot, Stamp, Bytes);
pub type Parked = (Bytes, ParkedTarget, Dot);

/// What readers can see of a key, with the dots that hold it there. Sums that
/// are spent, and what is kept to know that, are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub versions: BTreeSet<Version>,
    pub members: BTreeMap<Bytes, BTreeSet<Dot>>,
    /// By counter and actor: increments and decrements that no delete has observed.
    pub sums: BTreeMap<(Counter, Actor), (u128, u128)>,
}

/// By key, those of which anything stands.
pub type Stand = BTreeMap<Bytes, Standing>;

/// A counter's part: contribution and baseline.
type Part = (Option<Tally>, Option<Tally>);

/// All of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    pub seen: Seen,
    pub parked: BTreeSet<Parked>,
    pub stand: Stand,
    pub parts: BTreeMap<(Bytes, Counter, Actor), Part>,
}

pub fn dump(state: &State) -> Dump {
    let mut dump = Dump {
        seen: state.seen_clock(),
        parked: BTreeSet::new(),
        stand: Stand::new(),
        parts: BTreeMap::new(),
    };
    for removal in parked_states(state.parked(), state.actors()) {
        assert!(dump.parked.insert((removal.key, removal.target, (removal.actor, removal.seq))));
    }
    assert_eq!(dump.parked.len(), state.parked().len());
    for cells in state.cells() {
        let standing = standing(state, cells, &mut dump.parts);
        if standing != Standing::default() {
            dump.stand.insert(cells.key().to_vec(), standing);
        }
    }
    dump
}

fn standing(state: &State, cells: &Cells, parts: &mut BTreeMap<(Bytes, Counter, Actor), Part>) -> Standing {
    let name = |dot: tidings::core::actors::ShortDot| {
        assert!(state.has_seen(dot), "a live dot is not in seen");
        (state.actors().get(dot.actor()).clone(), dot.seq())
    };
    let mut standing = Standing::default();
    for version in cells.register().versions() {
        let version = (name(version.dot), version.stamp, version.value.to_vec());
        assert!(standing.versions.insert(version), "a version stands twice");
    }
    for member in cells.set().into_iter().flat_map(|set| set.members()) {
        let dots: BTreeSet<Dot> = member.dots().iter().map(|dot| name(*dot)).collect();
        assert_eq!(dots.len(), member.dots().len(), "an add stands twice");
        assert!(!dots.is_empty(), "an element without an add");
        standing.members.insert(member.element().to_vec(), dots);
    }
    for counter in [Counter::G, Counter::Pn] {
        for part in cells.counter(counter).into_iter().flat_map(|parts| parts.iter()) {
            let actor = state.actors().get(part.actor).clone();
            let halves = (part.contribution, part.baseline.as_deref().copied());
            assert_ne!(halves, (None, None), "a part of nothing is kept");
            if let Some(e) = part.contribution {
                assert!(e.birth <= state.seen(part.actor), "a contribution is not in seen");
            }
            if let Some(sums) = part.standing() {
                standing.sums.insert((counter, actor.clone()), sums);
            }
            assert!(parts.insert((cells.key().to_vec(), counter, actor), halves).is_none());
        }
    }
    standing
}

/// The tallies, counted anew: what readers see from what stands, the memory from the cells.
pub fn recount(state: &State, stand: &Stand) -> Tallies {
    let mut tallies = Tallies { bytes: state.cells().map(bytes).sum(), ..Tallies::default() };
    for standing in stand.values() {
        let has = |counter| standing.sums.keys().any(|(c, _)| *c == counter);
        let (set, register) = (!standing.members.is_empty(), !standing.versions.is_empty());
        let (pn, g) = (has(Counter::Pn), has(Counter::G));
        let visible = u64::from(set) + u64::from(register || pn) + u64::from(g);
        tallies.keys += 1;
        for (kind, there) in
            [(Kind::OrSet, set), (Kind::LwwRegister, register), (Kind::PnCounter, pn), (Kind::GCounter, g)]
        {
            tallies.by_kind[kind as usize] += u64::from(there);
        }
        tallies.members += standing.members.len() as u64;
        tallies.version_conflicts += u64::from(standing.versions.len() > 1);
        tallies.kind_conflicts += u64::from(visible > 1);
    }
    tallies
}

/// The memory that cells count for: what they hold, and so much for each key, element and part.
fn bytes(cells: &Cells) -> u64 {
    let versions = cells.register().versions().iter().map(|version| version.value.len());
    let elements = cells.set().into_iter().flat_map(|set| set.iter()).map(|element| element.len() + 48);
    let counters = [Counter::Pn, Counter::G].into_iter().filter_map(|counter| cells.counter(counter));
    let parts = counters.flat_map(|parts| parts.iter()).map(|_| 128);
    (128 + cells.key().len() + versions.chain(elements).chain(parts).sum::<usize>()) as u64
}

/// What a reader sees of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    Nothing,
    Bytes(Bytes),
    Integer(i64),
    Members(BTreeSet<Bytes>),
    GCounter(i64),
}

/// What a reader sees, by the state's own account.
pub fn shown(state: &State, key: &[u8]) -> Shown {
    match state.view(key) {
        None => Shown::Nothing,
        Some(View::Bytes(bytes)) => Shown::Bytes(bytes.to_vec()),
        Some(View::Integer(value)) => Shown::Integer(value),
        Some(View::Set(set)) => Shown::Members(set.iter().map(<[u8]>::to_vec).collect()),
        Some(View::GCounter(value)) => Shown::GCounter(value),
    }
}

/// What a reader should see of what stands.
pub fn should_show(standing: Option<&Standing>) -> Shown {
    let Some(standing) = standing else { return Shown::Nothing };
    if !standing.members.is_empty() {
        return Shown::Members(standing.members.keys().cloned().collect());
    }
    let sum = |counter| {
        let sums = standing.sums.iter().filter(|((c, _), _)| *c == counter).map(|(_, sums)| sums);
        sums.map(|(p, n)| *p as i128 - *n as i128).reduce(|a, b| a + b)
    };
    let clamp = |sum: i128| sum.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
    let winner = standing.versions.iter().max_by_key(|(dot, stamp, _)| (*stamp, dot));
    let value = winner.map(|(_, _, value)| value);
    let base = value.and_then(|value| std::str::from_utf8(value).ok()?.parse::<i128>().ok());
    match (value, sum(Counter::Pn)) {
        (Some(value), None) => Shown::Bytes(value.clone()),
        (Some(value), Some(sum)) => {
            base.map_or_else(|| Shown::Bytes(value.clone()), |base| Shown::Integer(clamp(base + sum)))
        }
        (None, Some(sum)) => Shown::Integer(clamp(sum)),
        (None, None) => Shown::GCounter(clamp(sum(Counter::G).expect("something stands"))),
    }
}
