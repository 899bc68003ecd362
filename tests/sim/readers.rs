//! What readers see of a key.

use std::collections::BTreeSet;

use rand::RngExt;
use tidings::core::state::State;
use tidings::core::view::View;
use tidings::engine::{Answer, Input, Token};
use tidings_proto::Counter;

use crate::names::{Names, Seen, equal, within};
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

/// A quorum read: by process, which life it had and what that had seen when the read began.
pub type Asked = Vec<Option<(u64, Seen)>>;

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
        if self.is_rotten(slot) || self.odd.is_some() {
            return Ok(());
        }
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

/// Tokens of quorum reads begin here, beyond those of operators.
const READS: u64 = 1 << 60;

impl World {
    /// A client may want to read what several nodes have; perhaps more than there are.
    pub fn read_quorum(&mut self, slot: usize) -> Check {
        if !self.plan.quorums || !self.rng.reads.random_ratio(1, 3) {
            return Ok(());
        }
        let nodes = self.rng.reads.random_range(1..=self.plan.nodes + 1);
        let patience = self.rng.reads.random_range(10_000..3_000_000);
        let asked: Asked = (0..self.processes.len())
            .map(|slot| {
                let life = self.processes[slot].life.as_ref()?.id;
                Some((life, self.seen(slot)))
            })
            .collect();
        let (now, token) = (self.now, READS + self.rng.reads.random_range(0..READS));
        let Some(life) = &mut self.processes[slot].life else { return Ok(()) };
        life.reads.insert(token, asked);
        let until = now - life.began + patience;
        self.say(|| format!("{} is asked what {nodes} nodes have: {token}", self.called(slot)));
        self.handle(slot, Input::Read { token: Token(token), nodes, until })
    }

    /// P8: where a quorum read has an answer, its node has seen all that each of those who are
    /// said to have answered had seen when the read began. Whoever began anew meanwhile may have lost some.
    pub fn check_reads(&mut self, slot: usize, answers: Vec<(Token, Answer)>) -> Check {
        for (Token(token), answer) in answers {
            let Answer::Quorum(outcome) = answer else { continue };
            let who = self.called(slot);
            let seen = self.seen(slot);
            let Some(life) = &mut self.processes[slot].life else { return Ok(()) };
            let Some(asked) = life.reads.remove(&token) else {
                return Err(format!("P8: {who} answers a read that nobody waits for"));
            };
            let Ok(names) = outcome else {
                self.facts.quorum_failed += 1;
                continue;
            };
            self.facts.quorum_reads += 1;
            let own = asked[slot].as_ref().map(|(_, seen)| seen);
            self.facts.quorum_lacking += u64::from(own.is_some_and(|own| !within(&seen, own)));
            for name in names {
                let mut bearers = (0..self.processes.len()).filter(|at| self.processes[*at].name == name);
                let covered = |at: usize| match asked.get(at) {
                    Some(Some((life, had))) => !self.life_is(at, *life) || within(had, &seen),
                    _ => true,
                };
                if !bearers.any(covered) {
                    let had = (0..asked.len()).find(|at| self.processes[*at].name == name);
                    let had = had.and_then(|at| asked[at].as_ref()).map(|(_, had)| had.clone());
                    let lacks = self.names.tell(&had.unwrap_or_default(), &seen);
                    return Err(format!("P8: {who} answers a read for {name} without {lacks}"));
                }
            }
        }
        Ok(())
    }
}
