//! Whom a node knows. Liveness is not judged here: it gates whom to call, never correctness.

use std::collections::BTreeMap;

use tidings_proto::message::Member;
use tidings_proto::{Actor, Message, Name, SeenEntries, bounds};

use super::journal::Entry;
use super::link::{Event, Gossip, Link, LinkId, raise};
use super::mutant::{self, Mutant};
use super::replica::Replica;

/// The members known, by name.
#[derive(Debug, Clone, Default)]
pub struct Members {
    members: BTreeMap<Name, MemberInfo>,
    /// What peers that are not linked were known to hold, in which of their lives.
    cursors: BTreeMap<Name, Cursor>,
    /// Members that became known or changed and are not on disk yet.
    unsaved: Vec<Entry>,
}

/// What a peer was known to hold: while it lives it only gets more, but its next life may begin with less.
pub type Cursor = (Actor, SeenEntries);

/// What is known of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// As it is told to others.
    pub member: Member,
    /// Whether it left on purpose and has not been heard of since.
    pub left: bool,
}

impl Members {
    /// Begins with the members that an earlier life knew, and what they held.
    pub fn new(known: impl IntoIterator<Item = Member>, cursors: impl IntoIterator<Item = Cursor>) -> Self {
        let info = |member: Member| (member.node.clone(), MemberInfo { member, left: false });
        let cursors = cursors.into_iter().map(|cursor| (cursor.0.node.clone(), cursor));
        Self {
            members: known.into_iter().map(info).collect(),
            cursors: cursors.collect(),
            unsaved: Vec::new(),
        }
    }

    /// What a member that is not linked was last known to hold.
    pub fn cursor(&self, node: &Name) -> Option<&Cursor> {
        self.cursors.get(node)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &MemberInfo> {
        self.members.values()
    }

    /// One.
    pub fn get(&self, node: &Name) -> Option<&MemberInfo> {
        self.members.get(node)
    }

    pub(super) fn for_the_wire(&self) -> Vec<Member> {
        let present = self.members.values().filter(|info| !info.left);
        present.take(bounds::MEMBERS).map(|info| info.member.clone()).collect()
    }
}

impl Gossip {
    /// Takes note of a member. What it says of itself counts more than what others say of it.
    pub(super) fn learn(&mut self, member: Member, from_itself: bool) {
        let full = self.members.members.len() >= bounds::MEMBERS;
        let known = self.members.members.get_mut(&member.node);
        let news = match known {
            Some(info) if from_itself => {
                let news = info.left || info.member != member;
                *info = MemberInfo { member: member.clone(), left: false };
                news
            }
            Some(_) => false,
            None if full => false,
            None => {
                let info = MemberInfo { member: member.clone(), left: false };
                self.members.members.insert(member.node.clone(), info);
                true
            }
        };
        if news {
            self.members.unsaved.push(Entry::Member(member.clone()));
            self.out.events.push(Event::MemberKnown(member.clone()));
            let links: Vec<LinkId> = self.links.keys().copied().collect();
            for link in links {
                self.send(link, Message::Members(vec![member.clone()]));
            }
        }
    }

    pub(crate) fn on_members(&mut self, own: &Name, members: Vec<Member>) {
        for member in members.into_iter().filter(|member| member.node != *own) {
            self.learn(member, false);
        }
    }

    pub(crate) fn on_leave(&mut self, from: LinkId) {
        let Some(link) = self.links.get(&from) else { return };
        let node = link.actor.node.clone();
        if let Some(info) = self.members.members.get_mut(&node) {
            info.left = true;
            self.out.events.push(Event::MemberLeft(node));
        }
    }

    /// What every peer is known to hold, for the disk.
    pub fn cursors(&self, replica: &Replica) -> Vec<Cursor> {
        let linked = self.links.values().map(|link| link.cursor(replica));
        let mut cursors = self.members.cursors.clone();
        cursors.extend(linked.map(|cursor| (cursor.0.node.clone(), cursor)));
        cursors.into_values().collect()
    }

    /// Remembers what a peer holds whose link has gone down.
    pub(super) fn keep_cursor(&mut self, replica: &mut Replica, link: &Link) {
        let cursor = link.cursor(replica);
        let node = cursor.0.node.clone();
        let known = self.members.members.contains_key(&node);
        if known && self.members.cursors.get(&node) != Some(&cursor) {
            self.members.unsaved.push(Entry::Cursor(cursor.0.clone(), cursor.1.clone()));
            self.members.cursors.insert(node, cursor);
        }
    }

    /// What the same life of a peer was known to hold; in another it may have come back with less.
    pub(super) fn take_cursor(&mut self, replica: &mut Replica, peer: &Actor) -> Vec<u64> {
        let mut known = Vec::new();
        let cursor = self.members.cursors.remove(&peer.node);
        let same = |cursor: &Cursor| cursor.0 == *peer || mutant::is(Mutant::CursorOfAnotherLife);
        for (actor, seq) in cursor.filter(same).iter().flat_map(|(_, seen)| seen.iter()) {
            if let Ok(ix) = replica.intern(&actor) {
                raise(&mut known, ix, seq);
            }
        }
        known
    }

    /// An operator has a member forgotten. Says whether it was known.
    pub fn forget(&mut self, node: &Name) -> bool {
        self.members.cursors.remove(node);
        let known = self.members.members.remove(node).is_some();
        if known {
            self.members.unsaved.push(Entry::Forget(node.to_string()));
        }
        known
    }

    /// Tells every peer that this node goes on purpose.
    pub fn leave(&mut self) {
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.send(link, Message::Leave));
    }

    pub(super) fn save_members(&mut self, replica: &mut Replica) {
        self.members.unsaved.drain(..).for_each(|entry| replica.note(entry));
    }
}
