//! The live zone: what drives the engine, and what the doors may ask of it.

pub mod api;
mod facts;
#[allow(missing_debug_implementations, unreachable_pub)]
pub mod fake;
pub mod stand_in;
mod text;

pub use facts::{ByLabel, NetFacts, ProcessFacts, ReplicaFacts, RespFacts, StoreFacts};
pub use text::unescape;
