//! The rooms below, as far as this door sees them.

pub(crate) use super::standin::{Engine, Node, Now};
pub(crate) use crate::core::set::Set;
pub(crate) use crate::core::view::{Kind, View};
pub(crate) use crate::core::write::{Write, WriteError, Written};

/// Rows of names and values about something, for people and programs alike.
pub(crate) type Figures = Vec<(String, String)>;

/// The settings that CONFIG GET shows, beside those of this door.
pub(crate) fn settings(_node: &Node) -> Figures {
    Vec::new()
}

/// What is known of each peer, by its name.
pub(crate) fn peers(_node: &Node) -> Vec<(String, Figures)> {
    Vec::new()
}

/// The node's own figures.
pub(crate) fn figures(_node: &Node) -> Figures {
    Vec::new()
}
