//! Reads that reflect what several nodes have.

use std::time::Duration;

use tidings_proto::Name;

use super::Node;
use crate::engine::{Answer, Input, NoQuorum};

/// The longest that a quorum read may take.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How much later than agreed the engine's answer may come on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

impl Node {
    /// Waits until this node has everything that so many nodes, itself included, had applied
    /// when this was called. What is read here afterwards reflects all of it. Says whose it has.
    ///
    /// # Errors
    /// If too few have answered in time, or there are not so many.
    pub async fn quorum(&self, nodes: usize, timeout: Duration) -> Result<Vec<Name>, NoQuorum> {
        let timeout = timeout.min(LONGEST);
        let until = self.now().mono + timeout.as_micros() as u64;
        match self.ask(timeout + SLACK, |token| Input::Read { token, nodes, until }).await {
            Some(Answer::Quorum(outcome)) => outcome,
            // The node is being closed, and its timers stand.
            _ => {
                let answered = vec![self.about().node.clone()];
                Err(NoQuorum::Late { nodes, answered, behind: Vec::new(), silent: Vec::new() })
            }
        }
    }
}
