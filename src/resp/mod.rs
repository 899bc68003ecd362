//! The application door: the Redis protocol, RESP2 and RESP3, over TCP.
//!
//! A request's path is the list of files: `server` (the listener, the one thread, the
//! committer) → `conn` and `talk` (one connection, with and without its socket) → `codec` and `inline` (bytes to arguments) →
//! `table` (name to command) → `commands/` (what it does, by family) → `reply` (types to
//! bytes) → `output` (which bytes may leave already). To add a command, add a row to its
//! family's table and the function it names.
//!
//! *Order of a turn.* Every connection that is readable reads once and executes, under
//! one hold of the engine's lock, all it has read. Behind them runs the committer: one
//! commit for all, then their replies. So a reply, be it to a read or a write, never
//! leaves before the log holds everything it may have seen.

mod below;
mod call;
mod codec;
mod commands;
mod conn;
#[doc(hidden)]
pub mod fuzzing;
mod glob;
mod inline;
mod number;
mod output;
mod reply;
mod server;
mod stats;
mod table;
mod talk;
#[cfg(test)]
mod tests;

pub use server::{ServeError, serve};
pub use stats::{Counter, RespStats};

/// How this door is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its bounds.
    pub limits: Limits,
    /// Names and values that CONFIG GET shows, besides those that this door knows itself.
    pub settings: Vec<(String, String)>,
}

/// The bounds of this door. Sizes are in bytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most connections at once; one more is answered `max number of clients reached` and closed. Default 10,000.
    pub clients: usize,
    /// Longest inline request and longest count or length line. Default 64 KiB.
    pub inline: usize,
    /// Most arguments of a command. Default 1,048,576.
    pub args: usize,
    /// Longest argument. Default 32 MiB: twice the longest value, so that one that is too long is told its bound.
    pub bulk: usize,
    /// Most input held for one connection, and so the longest command; one that is longer
    /// is an error that closes its connection. Default 64 MiB.
    pub query: usize,
    /// Most replies held for one connection that does not read them; beyond it the
    /// connection is closed. Also the longest single reply. Default 256 MiB.
    pub output: usize,
    /// Most input and replies held for all connections together; a connection that needs
    /// more while this much is held is closed. Default 1 GiB.
    pub buffers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 10_000,
            inline: 64 << 10,
            args: 1 << 20,
            bulk: 32 << 20,
            query: 64 << 20,
            output: 256 << 20,
            buffers: 1 << 30,
        }
    }
}
