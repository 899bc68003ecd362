//! Counters: one part per actor, of which deletes take away what they observed.
//!
//! A part is a *contribution*, written by its actor alone, and a *baseline*, how
//! much of it deletes have observed. What counts is the difference. A
//! contribution lives from a *birth* (the number of the op that began it) to a
//! close; once a delete has observed all of it, its owner begins the next one
//! with a new birth, and what is said of the old one no longer matters.

use smallvec::SmallVec;
use tidings_proto::cell::Tally;

use super::actors::ActorIx;

/// One actor's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Whose.
    pub actor: ActorIx,
    /// What it has added and taken, since a birth.
    pub contribution: Option<Tally>,
    /// What deletes have observed of it.
    pub baseline: Option<Box<Tally>>,
}

impl Part {
    fn new(actor: ActorIx) -> Self {
        Self { actor, contribution: None, baseline: None }
    }

    /// What no delete has observed, as (increments, decrements); none if there is no such thing.
    pub fn standing(&self) -> Option<(u128, u128)> {
        let e = self.contribution?;
        match self.baseline.as_deref() {
            Some(r) if r.birth > e.birth => None,
            Some(r) if r.birth == e.birth => {
                let rest = (e.p.saturating_sub(r.p), e.n.saturating_sub(r.n));
                (rest != (0, 0)).then_some(rest)
            }
            _ => Some((e.p, e.n)),
        }
    }

    /// Forgets a baseline that the contribution has outlived.
    fn settle(&mut self) {
        if let (Some(e), Some(r)) = (&self.contribution, &self.baseline)
            && r.birth < e.birth
        {
            self.baseline = None;
        }
    }

    pub(super) fn contribute(&mut self, tally: Tally) {
        self.contribution = self.contribution.max(Some(tally));
        self.settle();
    }

    pub(super) fn reset(&mut self, tally: Tally) {
        match self.baseline.as_deref_mut() {
            // Within a birth a contribution only grows, so deletes saw stages of one chain.
            Some(r) if r.birth == tally.birth => (r.p, r.n) = (r.p.max(tally.p), r.n.max(tally.n)),
            Some(r) if r.birth > tally.birth => {}
            _ => self.baseline = Some(Box::new(tally)),
        }
        self.settle();
    }

    pub(super) fn close(&mut self, birth: u64) {
        self.contribution = self.contribution.filter(|e| e.birth > birth);
        self.baseline = self.baseline.take().filter(|r| r.birth > birth);
    }

    fn is_empty(&self) -> bool {
        self.contribution.is_none() && self.baseline.is_none()
    }
}

/// The parts of one counter, in order of the replica's own numbering of actors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts(SmallVec<[Part; 1]>);

impl Parts {
    /// Whether there is no part.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The parts, in no order that means anything elsewhere.
    pub fn iter(&self) -> impl Iterator<Item = &Part> {
        self.0.iter()
    }

    /// The part of one actor.
    pub fn get(&self, actor: ActorIx) -> Option<&Part> {
        self.place(actor).ok().map(|at| &self.0[at])
    }

    /// Whether there is anything that no delete has observed.
    pub fn stands(&self) -> bool {
        self.0.iter().any(|part| part.standing().is_some())
    }

    /// The value, in 128 bits, clamped there.
    pub fn value(&self) -> i128 {
        let clamp = |sum: u128| i128::try_from(sum).unwrap_or(i128::MAX);
        self.0.iter().filter_map(Part::standing).fold(0, |sum: i128, (p, n)| {
            let part = if p >= n { clamp(p - n) } else { -clamp(n - p) };
            sum.saturating_add(part)
        })
    }

    /// Changes one actor's part, made first if there was none, dropped if nothing is left of it.
    pub(super) fn change<R>(&mut self, actor: ActorIx, change: impl FnOnce(&mut Part) -> R) -> R {
        let at = self.place(actor).unwrap_or_else(|at| {
            self.0.insert(at, Part::new(actor));
            at
        });
        let result = change(&mut self.0[at]);
        if self.0[at].is_empty() {
            self.0.remove(at);
        }
        result
    }

    /// Where the part of an actor is, or would be.
    fn place(&self, actor: ActorIx) -> Result<usize, usize> {
        self.0.binary_search_by_key(&actor, |part| part.actor)
    }

    pub(super) fn actors(&self) -> SmallVec<[ActorIx; 4]> {
        self.0.iter().map(|part| part.actor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(birth: u64, p: u128, n: u128) -> Tally {
        Tally { birth, p, n }
    }

    #[test]
    fn a_reset_takes_what_it_observed_and_no_more() {
        let mut parts = Parts::default();
        parts.change(ActorIx(0), |part| part.contribute(tally(1, 5, 1)));
        assert_eq!(parts.value(), 4);
        parts.change(ActorIx(0), |part| part.reset(tally(1, 5, 1)));
        assert!(!parts.stands());
        parts.change(ActorIx(0), |part| part.contribute(tally(1, 8, 1)));
        assert_eq!(parts.value(), 3);
    }

    #[test]
    fn a_new_birth_outlives_late_news_of_the_old_one() {
        let mut parts = Parts::default();
        parts.change(ActorIx(0), |part| part.contribute(tally(9, 2, 0)));
        parts.change(ActorIx(0), |part| part.reset(tally(1, 100, 0)));
        parts.change(ActorIx(0), |part| part.contribute(tally(1, 100, 0)));
        assert_eq!(parts.value(), 2);
        assert!(parts.get(ActorIx(0)).unwrap().baseline.is_none());
    }

    #[test]
    fn a_reset_of_what_has_not_arrived_waits_for_it() {
        let mut parts = Parts::default();
        parts.change(ActorIx(0), |part| part.reset(tally(3, 7, 0)));
        assert!(!parts.stands());
        parts.change(ActorIx(0), |part| part.contribute(tally(3, 7, 0)));
        assert!(!parts.stands());
        parts.change(ActorIx(0), |part| part.close(3));
        assert!(parts.is_empty());
    }
}
