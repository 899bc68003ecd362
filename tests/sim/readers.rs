//! What readers see of a key.

use std::collections::BTreeSet;

use tidings::core::state::State;
use tidings::core::view::View;
use tidings_proto::Counter;

use crate::names::{Names, Seen, equal};
use crate::oracle::{Bytes, Standing};
use crate::world::{Check, World};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    Nothing,
    Bytes(Bytes),
    Integer(i64),
    Members(BTreeSet<Bytes>),
    GCounter(i64),
}

impl Shown {
    /// By the state's own account.
    pub fn of(state: &State, key: &[u8]) -> Self {
        match state.view(key) {
            None => Self::Nothing,
            Some(View::Bytes(bytes)) => Self::Bytes(bytes.to_vec()),
            Some(View::Integer(value)) => Self::Integer(value),
            Some(View::Set(set)) => Self::Members(set.iter().map(<[u8]>::to_vec).collect()),
            Some(View::GCounter(value)) => Self::GCounter(value),
        }
    }

    /// By what stands.
    pub fn by(standing: &Standing, names: &Names) -> Self {
        if !standing.members.is_empty() {
            return Self::Members(standing.members.keys().cloned().collect());
        }
        let sum = |counter| {
            let sums = standing.sums.iter().filter(|((c, _), _)| *c == counter).map(|(_, sums)| sums);
            sums.map(|(p, n)| *p as i128 - *n as i128).reduce(|a, b| a + b)
        };
        let clamp = |sum: i128| sum.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        let rank = |(actor, seq): (usize, u64)| (names.get(actor), seq);
        let winner = standing.versions.iter().max_by_key(|(dot, stamp, _)| (*stamp, rank(*dot)));
        let value = winner.map(|(_, _, value)| value);
        let base = value.and_then(|value| std::str::from_utf8(value).ok()?.parse::<i128>().ok());
        match (value, sum(Counter::Pn), sum(Counter::G)) {
            (Some(value), None, _) => Self::Bytes(value.clone()),
            (Some(value), Some(sum), _) => {
                base.map_or_else(|| Self::Bytes(value.clone()), |base| Self::Integer(clamp(base + sum)))
            }
            (None, Some(sum), _) => Self::Integer(clamp(sum)),
            (None, None, Some(sum)) => Self::GCounter(clamp(sum)),
            (None, None, None) => Self::Nothing,
        }
    }
}

impl World {
    /// What a reader saw stays so for as long as nothing more has been seen.
    pub fn check_read(&mut self, slot: usize, seen: Seen) -> Check {
        let key = format!("k{}", self.facts.checks % self.plan.keys).into_bytes();
        let who = self.called(slot);
        let Some(life) = &mut self.processes[slot].life else { return Ok(()) };
        let state = life.engine.replica().state();
        if let Some((then, key, shown)) = &life.read {
            let shows = Shown::of(state, key);
            if equal(then, &seen) && shows != *shown {
                return Err(format!("a read changed: {who} showed {shown:?} and shows {shows:?}"));
            }
        }
        life.read = Some((seen, key.clone(), Shown::of(state, &key)));
        Ok(())
    }
}
