//! The state as the `crdts` crate speaks of replicated types.
//!
//! Ops are [`Run`]s, validated before they are applied: [`State::apply`] says the
//! same with errors, and is what replicas use.

use crdts::{CmRDT, CvRDT};
use tidings_proto::Run;

use super::actors::TooManyActors;
use super::bounds;
use super::replica::place_dot;
use super::state::{ApplyError, State};

impl CvRDT for State {
    type Validation = TooManyActors;

    /// Says whether there is room for the actors that the other knows.
    fn validate_merge(&self, other: &Self) -> Result<(), TooManyActors> {
        let new = other.actors.sorted().filter(|(actor, _)| self.actors.find(actor).is_none()).count();
        if self.actors.len() + new > bounds::ACTORS {
            return Err(TooManyActors);
        }
        Ok(())
    }

    /// # Panics
    /// If [`CvRDT::validate_merge`] would have refused it.
    fn merge(&mut self, other: Self) {
        State::merge(self, other).expect("validated");
    }
}

impl CmRDT for State {
    type Op = Run;
    type Validation = ApplyError;

    /// Says [`ApplyError::Gap`] if the run begins after what is due.
    fn validate_op(&self, run: &Run) -> Result<(), ApplyError> {
        run.check()?;
        run.iter().try_for_each(|op| op.map(drop))?;
        let seen = self.actors.find(&run.actor).map_or(0, |actor| self.seen(actor));
        if run.first > seen + 1 {
            return Err(ApplyError::Gap { actor: run.actor.clone(), expected: seen + 1, got: run.first });
        }
        Ok(())
    }

    /// Applies what of the run has not been applied yet.
    ///
    /// # Panics
    /// If [`CmRDT::validate_op`] would have refused it, or a bound is hit.
    fn apply(&mut self, run: Run) {
        apply_run(self, &run).expect("validated");
    }
}

fn apply_run(state: &mut State, run: &Run) -> Result<(), ApplyError> {
    let names = std::iter::once(&run.actor).chain(&run.actors);
    let places = names.map(|actor| state.intern(actor)).collect::<Result<Vec<_>, _>>()?;
    for item in run.iter() {
        let (seq, op) = item?;
        let dot = place_dot(places[0], seq)?;
        if !state.has_seen(dot) {
            let op = State::shorten(&op, run.base, &places)?;
            State::apply(state, dot, &op)?;
        }
    }
    Ok(())
}
