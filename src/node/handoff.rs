//! Handoff: a thread that reads from the log on disk what peers lack and memory has let go of.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::Node;
use super::commit::Signal;
use crate::core::shelf::Gather;
use crate::engine::{DiskRead, Input};
use crate::store::ReadError;

/// How long the thread sleeps when nobody wakes it.
const IDLE: Duration = Duration::from_secs(60);

/// What is to be read: at most one request a link, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Handoff {
    queue: Mutex<VecDeque<DiskRead>>,
    pub(super) look: Signal,
}

impl Handoff {
    /// A newer request of a link takes the place of an older one.
    pub(super) fn ask(&self, reads: Vec<DiskRead>) {
        if reads.is_empty() {
            return;
        }
        let mut queue = self.queue.lock();
        for read in reads {
            match queue.iter_mut().find(|waiting| waiting.link == read.link) {
                Some(waiting) => *waiting = read,
                None => queue.push_back(read),
            }
        }
        drop(queue);
        self.look.notify();
    }
}

impl Node {
    /// Answers requests until the node stops. A thread of its own runs it, so that
    /// neither clients nor fresh news wait for the disk.
    pub(super) fn run_handoff(&self) {
        while !self.0.stopping.load(Ordering::Acquire) {
            let Some(read) = self.0.handoff.queue.lock().pop_front() else {
                self.0.handoff.look.wait(IDLE);
                continue;
            };
            let (link, id, (first, last)) = (read.link, read.id, read.records);
            let mut gather = Gather::new(read.ranges, read.budget);
            let outcome =
                self.0.housekeeper.read_from(first, |lsn, record| gather.record(record) && lsn < last);
            match outcome {
                // It has been cut behind a checkpoint, as its bounds say.
                Ok(()) | Err(ReadError::Gone { .. }) => {}
                Err(error) => tracing::error!(
                    %error,
                    "the log cannot be read back; the peer gets what it lacks by a context merge"
                ),
            }
            self.handle(Input::FromLog { link, id, runs: gather.finish() });
        }
    }
}
