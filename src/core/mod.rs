//! The still zone: what a node knows and how it changes.
//!
//! Nothing here waits, reads a clock, draws randomness from outside or iterates
//! in an order that chance decides. Time and seeds are arguments; the same
//! inputs give the same bytes out, which is what lets a simulator run it.
//!
//! * [`actors`]: actors by short numbers, and dots that fit a word
//! * [`clock`]: the hybrid logical clock
//! * [`table`]: a map in hash order that grows without stalls
//! * [`register`], [`set`], [`counter`]: the contents of cells
//! * [`cells`]: all cells of a key, and the one way to change them
//! * [`fingerprint`]: what two nodes compare to know whether they hold the same
//! * [`state`]: all cells and the version vector they belong to; apply and merge
//! * [`audit`]: whether cells still are what their fingerprints say
//! * [`replica`]: a state that is written to: own writes, log, readers' view
//! * [`oplog`]: the recent ops of every actor, ready to be sent
//! * [`elide`]: what has been overwritten is left out of what is sent
//! * [`shelf`]: where on the disk those stand that memory has let go of
//! * [`journal`]: what a replica writes to its disk
//! * [`traits`]: the state as the `crdts` crate speaks of replicated types
//! * [`mutant`]: rules that the simulator breaks; `broken`: what some of them do instead
//! * [`link`], [`push`], [`pull`], [`sync`]: the protocol, one file a handler
//! * [`quorum`]: reads that reflect what several nodes have
//! * [`session`]: context merges, where no log reaches: the receiver; `guide`: what it asks for; [`sources`]: of
//!   whom else; `outgoing`: the sender; `leftover`: what one that broke off has left
//! * [`audit`]: whether memory still is what it was; `reconcile`: two that have seen the same and differ

#![warn(missing_docs)]

pub mod actors;
pub mod audit;
pub mod block;
pub mod bounds;
pub(crate) mod broken;
pub mod cells;
pub mod clock;
pub mod counter;
pub mod elide;
pub mod fingerprint;
pub(crate) mod guide;
pub mod journal;
pub(crate) mod leftover;
pub mod link;
pub mod members;
pub mod merge;
pub mod mutant;
pub mod oplog;
pub(crate) mod outgoing;
pub mod parked;
pub mod prepare;
pub mod pull;
pub mod push;
pub mod quorum;
pub(crate) mod reconcile;
pub mod register;
pub mod replica;
pub mod session;
pub mod set;
pub mod shelf;
pub mod snapshot;
pub mod sources;
pub mod state;
pub mod sync;
pub mod table;
pub mod traits;
pub mod view;
pub mod write;
