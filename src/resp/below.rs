//! The rooms below, as far as this door sees them.

pub(crate) use super::standin::{Actor, Engine, Kind, Node, Now, Ticket, View, Write, WriteError, Written};
