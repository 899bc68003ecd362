//! The daemon as its users meet it: real processes, real sockets, real signals.
//!
//! Every test has a cluster, a directory and ports of its own. Nothing here sleeps for a fixed
//! time: a test waits for a condition, and says what was the case if the time is up.

#![allow(clippy::disallowed_methods, reason = "real processes in real time")]

mod cluster;
mod http;
mod peer;
mod process;
mod resp;
#[cfg(feature = "archive")]
mod s3;

mod archive;
mod audit;
#[cfg(feature = "archive")]
mod buckets;
mod commands;
mod config;
mod crash;
mod dev;
mod disk;
mod doors;
mod handoff;
mod limits;
mod metrics;
mod pressure;
mod quorum;
mod redis;
mod restore;
mod resume;
mod sources;
