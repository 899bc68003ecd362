//! `tidings`: a local store of CRDTs that the nodes of a cluster keep equal by gossip.
//!
//! Two zones and one door. The *still zone* ([`core`], [`engine`], [`store`]) is synchronous and deterministic: time,
//! randomness and messages are arguments. The *live zone*, everything else, is the world around it: sockets, threads,
//! clocks. ARCHITECTURE.md shows the way through the house, `tests/tidy` holds its rules.
//!
//! To run a node in one's own process, see [`sidecar::Sidecar`], or [`node::Node`] for one without doors.

// The still zone.
pub mod core;
pub mod engine;
pub mod store;

// The live zone. Each of its rooms opts out of the ban on clocks, threads, chance and hashed order in clippy.toml:
// they are what it is there for.
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "live")]
pub mod admin;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "live")]
pub mod archive;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "live")]
pub mod cli;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "live")]
pub mod config;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "live")]
mod http;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "live")]
pub mod net;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "live")]
pub mod node;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "live")]
pub mod resp;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "live")]
pub mod sidecar;
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "live")]
pub mod web;
