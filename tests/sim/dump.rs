//! A node's state in a form that does not hang on numbering, hashing or history.

use std::collections::{BTreeMap, BTreeSet};

use tidings::core::cells::Cells;
use tidings::core::state::State;
use tidings_proto::Counter;
use tidings_proto::cell::Tally;

use crate::names::{Ax, Dot, Seen};
use crate::oracle::{Bytes, Parked, Stand, Standing};

/// A counter's part: contribution and baseline.
type Part = (Option<Tally>, Option<Tally>);

/// All of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    pub seen: Seen,
    pub parked: BTreeSet<Parked>,
    pub stand: Stand,
    pub parts: BTreeMap<(Bytes, Counter, Ax), Part>,
}

/// `places` translates the state's own numbering of actors. An error is a state
/// that contradicts itself: a live dot that has not been seen, say (I3, I6). If something is
/// known to have rotted, fingerprints are not what rows add up to.
pub fn dump(state: &State, places: &[Ax], seen: Seen, rotten: bool) -> Result<Dump, String> {
    let mut dump = Dump { seen, parked: BTreeSet::new(), stand: Stand::new(), parts: BTreeMap::new() };
    for (dot, removal) in state.parked().iter() {
        if state.has_seen(dot) {
            return Err("I4: a removal of a dot that has been seen is still parked".into());
        }
        let target = removal.target.clone();
        dump.parked.insert((removal.key.to_vec(), target, (places[dot.actor().index()], dot.seq())));
    }
    if dump.parked.len() != state.parked().len() {
        return Err("the count of parked removals is wrong".into());
    }
    for cells in state.cells() {
        let standing = standing(state, places, cells, &mut dump.parts)?;
        if standing != Standing::default() {
            dump.stand.insert(cells.key().to_vec(), standing);
        }
    }
    if !rotten && state.recount() != state.fingerprint() {
        return Err("fingerprint: what is kept is not what its rows add up to".into());
    }
    if state.len() != dump.stand.len() {
        return Err(format!("{} keys are counted, {} stand", state.len(), dump.stand.len()));
    }
    Ok(dump)
}

fn standing(
    state: &State,
    places: &[Ax],
    cells: &Cells,
    parts: &mut BTreeMap<(Bytes, Counter, Ax), Part>,
) -> Result<Standing, String> {
    let name = |dot: tidings::core::actors::ShortDot| -> Result<Dot, String> {
        if !state.has_seen(dot) {
            return Err(format!("I5: a live dot {dot:?} is not in seen"));
        }
        Ok((places[dot.actor().index()], dot.seq()))
    };
    let mut standing = Standing::default();
    for version in cells.register().versions() {
        let version = (name(version.dot)?, version.stamp, version.value.to_vec());
        if !standing.versions.insert(version) {
            return Err("a version stands twice".into());
        }
    }
    for member in cells.set().into_iter().flat_map(|set| set.members()) {
        let dots = member.dots().iter().map(|dot| name(*dot)).collect::<Result<BTreeSet<_>, _>>()?;
        if dots.len() != member.dots().len() || dots.is_empty() {
            return Err("an element with no add, or with one twice".into());
        }
        standing.members.insert(member.element().to_vec(), dots);
    }
    for counter in [Counter::G, Counter::Pn] {
        for part in cells.counter(counter).into_iter().flat_map(|parts| parts.iter()) {
            let actor = places[part.actor.index()];
            if let Some(sums) = part.standing() {
                standing.sums.insert((counter, actor), sums);
            }
            let halves = (part.contribution, part.baseline.as_deref().copied());
            parts.insert((cells.key().to_vec(), counter, actor), halves);
        }
    }
    Ok(standing)
}

/// Where two dumps differ, in words.
pub fn differ<'a>(left: (&str, &'a Stand), right: (&str, &'a Stand)) -> Option<String> {
    let keys: BTreeSet<&Bytes> = left.1.keys().chain(right.1.keys()).collect();
    let key = keys.into_iter().find(|key| left.1.get(*key) != right.1.get(*key))?;
    let show = |(who, stand): (&str, &Stand)| match stand.get(key) {
        None => format!("{who} shows nothing"),
        Some(standing) => format!("{who} shows {standing:?}"),
    };
    Some(format!("key {}: {}; {}", String::from_utf8_lossy(key), show(left), show(right)))
}
