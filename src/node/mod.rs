//! The live zone: what drives the engine, and what the doors may ask of it.

pub mod api;
mod facts;
#[cfg(test)]
pub(crate) mod fake;
mod text;

pub use facts::{ByLabel, NetFacts, ProcessFacts, ReplicaFacts, RespFacts, StoreFacts};
pub use text::unescape;
