//! The commands, a file for each family: its rows of the table, then the functions they name.

mod client;
mod connection;
mod gcounters;
mod info;
mod introspection;
mod keys;
mod server;
mod sets;
mod strings;
mod tidings;

pub(crate) use server::flush_step;
pub(crate) use tidings::reply_any;

use super::table::Command;

/// Every family's rows.
pub(crate) const FAMILIES: &[&[Command]] = &[
    connection::ROWS,
    client::ROWS,
    introspection::ROWS,
    server::ROWS,
    keys::ROWS,
    strings::ROWS,
    sets::ROWS,
    gcounters::ROWS,
    tidings::ROWS,
];

/// The version of Redis whose commands and wording these are, for clients that ask.
pub(crate) const REDIS_VERSION: &str = "7.2.0";
