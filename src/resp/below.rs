//! The rooms below, as far as this door sees them.

pub(crate) use crate::core::set::Set;
pub(crate) use crate::core::view::{Kind, View};
pub(crate) use crate::engine::{Engine, NoQuorum, Now, Write, WriteError, Written};
pub(crate) use crate::node::Node;
use crate::store::Fsync;

/// Names and values about something.
pub(crate) type Figures = Vec<(String, String)>;

/// What is known of each linked peer.
pub(crate) fn peers(engine: &Engine, now: Now) -> Vec<Figures> {
    let about = |link: &crate::core::link::Link| {
        let seconds = now.mono.saturating_sub(link.since) / 1_000_000;
        let figures = [
            ("node", link.actor.node.to_string()),
            ("incarnation", format!("{:016x}", link.actor.incarnation)),
            ("zone", link.zone.clone()),
            ("linked_seconds", seconds.to_string()),
            ("clock_offset_ms", link.clock_offset.to_string()),
        ];
        figures.map(|(name, value)| (name.to_string(), value)).to_vec()
    };
    engine.gossip().links().map(|(_, link)| about(link)).collect()
}

/// The durability setting, in the word that Redis has for it too.
pub(crate) fn fsync(node: &Node) -> &'static str {
    match node.fsync() {
        Fsync::Always => "always",
        Fsync::Everysec => "everysec",
        Fsync::No => "no",
    }
}
