//! Quorum reads: a node gets what so many nodes had seen when they were asked, and then reads here.
//!
//! No cells are fetched, for live dots mean nothing without the context that they belong
//! to. An ordinary exchange of version vectors is begun with every linked peer, after the
//! read was. A peer counts once this node has seen all that the peer had seen when it
//! answered; the ops, or the merge, that bring this are those of anti-entropy.

use std::collections::{BTreeMap, BTreeSet};

use tidings_proto::{Actor, Name, SeenEntries};

use super::actors::ActorIx;
use super::bounds;
use super::link::{Answer, Gossip, LinkId, Now, Token};
use super::mutant::{self, Mutant};
use super::replica::Replica;

/// How long an op that a read waits for may be on its way before it is asked for; microseconds.
pub(super) const HASTE: u64 = 25_000;

/// How long an exchange may go unanswered before another is begun; microseconds.
const PATIENCE: u64 = 500_000;

/// Most names that the text of a failure lists of each sort.
const NAMED: usize = 32;

/// Why a quorum read has no answer. Whatever peers have told remains.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoQuorum {
    /// There are not so many nodes.
    #[error("{nodes} nodes asked for, and only {} known: {}", known.len(), listed(known))]
    TooFew {
        /// How many were asked for.
        nodes: usize,
        /// All that are known, this node first.
        known: Vec<Name>,
    },
    /// Too few answered in time.
    #[error("{} of {nodes} answered: {}{}{}", answered.len(), listed(answered), labelled("no answer", silent), labelled("answered, and what it had did not come in time", behind))]
    Late {
        /// How many were asked for.
        nodes: usize,
        /// All of whose data this node had at the end, this node first.
        answered: Vec<Name>,
        /// Who answered and had something that did not get here in time.
        behind: Vec<Name>,
        /// Who did not answer.
        silent: Vec<Name>,
    },
    /// As many reads are under way as there may be.
    #[error("too many quorum reads at once")]
    Busy,
}

fn listed(names: &[Name]) -> String {
    let mut text = names.iter().take(NAMED).map(Name::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text += &format!(" and {} more", names.len() - NAMED);
    }
    text
}

fn labelled(label: &str, names: &[Name]) -> String {
    if names.is_empty() { String::new() } else { format!("; {label}: {}", listed(names)) }
}

/// A read under way.
#[derive(Debug)]
struct Read {
    /// How many nodes must have answered, this one included.
    nodes: usize,
    /// When it fails; monotonic microseconds.
    until: u64,
    /// Exchanges with a greater id were begun after the read.
    after: u64,
    /// Who has answered, and what this node still lacks of what that peer had seen then.
    told: BTreeMap<Name, Vec<(ActorIx, u64)>>,
    /// Of whom this node was found to lack ops.
    learned: Vec<ActorIx>,
}

/// All reads under way.
#[derive(Debug, Default)]
pub(super) struct Reads {
    reads: BTreeMap<Token, Read>,
    /// The exchange under way for reads, by link: its id, and when it is given up.
    exchanges: BTreeMap<LinkId, (u64, u64)>,
    /// Whether something happened that a read may have waited for, but for ops and merges.
    stirred: bool,
    /// How many ops and merges had come at the last look.
    looked_at: (u64, u64),
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.reads.len()
    }

    /// When something is due though nothing happens.
    pub(super) fn due(&self) -> impl Iterator<Item = u64> {
        let exchanges = self.exchanges.values().map(|(_, deadline)| *deadline);
        let any = !self.reads.is_empty();
        self.reads.values().map(|read| read.until).chain(exchanges.filter(move |_| any))
    }

    /// Whether a read waits for an answer of this peer to an exchange not yet begun or answered.
    fn wait_for(&self, node: &Name) -> bool {
        self.reads.values().any(|read| !read.told.contains_key(node))
    }

    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    pub(super) fn link_down(&mut self, link: LinkId) {
        self.exchanges.remove(&link);
        self.stirred = true;
    }
}

impl Gossip {
    /// Begins a quorum read, for the live zone: [`Answer::Quorum`] comes at `until` at the latest.
    pub fn begin_read(&mut self, replica: &Replica, token: Token, nodes: usize, until: u64) {
        self.counts.quorum_reads += 1;
        let refusal = if nodes > self.known_nodes(replica).count() {
            let known = self.known_nodes(replica).cloned().collect();
            Some(NoQuorum::TooFew { nodes, known })
        } else if self.reads.reads.len() >= bounds::READS {
            Some(NoQuorum::Busy)
        } else {
            None
        };
        if let Some(error) = refusal {
            self.counts.quorum_failed += 1;
            self.out.answers.push((token, Answer::Quorum(Err(error))));
            return;
        }
        let after = self.last_id();
        let (told, learned) = (BTreeMap::new(), Vec::new());
        self.reads.reads.insert(token, Read { nodes, until, after, told, learned });
        self.reads.stir();
    }

    /// The live zone no longer waits for a read.
    pub(super) fn cancel_read(&mut self, token: Token) {
        if self.reads.reads.remove(&token).is_some() {
            self.counts.quorum_failed += 1;
        }
    }

    /// This node, then the members that have not left, and whoever is linked.
    fn known_nodes<'a>(&'a self, replica: &'a Replica) -> impl Iterator<Item = &'a Name> {
        let own = &replica.actor().node;
        let members = self.members.iter().filter(|info| !info.left).map(|info| &info.member.node);
        let linked = self.links.values().map(|link| &link.actor.node);
        let others: BTreeSet<&Name> = members.chain(linked).filter(|node| *node != own).collect();
        std::iter::once(own).chain(others)
    }

    /// What a peer has seen and this node has not, if there are reads that may wait for it.
    pub(super) fn lacks_for_reads(&self, replica: &Replica, entries: &SeenEntries) -> Vec<(Actor, u64)> {
        if self.reads.reads.is_empty() {
            return Vec::new();
        }
        let state = replica.state();
        let seen = |actor: &Actor| state.actors().find(actor).map_or(0, |ix| state.seen(ix));
        entries.iter().filter(|(actor, seq)| seen(actor) < *seq).collect()
    }

    /// A peer has answered an exchange; `lacks` is what of its `seen` was not here before what
    /// came with the answer. Says whether the exchange was for reads.
    pub(super) fn told(&mut self, replica: &Replica, from: LinkId, id: u64, lacks: &[(Actor, u64)]) -> bool {
        let begun = self.reads.exchanges.get(&from).is_some_and(|(asked, _)| *asked <= id);
        if begun {
            self.reads.exchanges.remove(&from);
            self.reads.stir();
        }
        let Some(link) = self.links.get(&from) else { return begun };
        let earlier = mutant::is(Mutant::ReadOfEarlier);
        let waits =
            |read: &&mut Read| (read.after < id || earlier) && !read.told.contains_key(&link.actor.node);
        let mut waiting = self.reads.reads.values_mut().filter(waits).peekable();
        if waiting.peek().is_none() {
            return begun;
        }
        let place = |(actor, seq): &(Actor, u64)| Some((replica.state().actors().find(actor)?, *seq));
        let Some(lacks) = lacks.iter().map(place).collect::<Option<Vec<_>>>() else {
            // A node without room for an actor does not catch up with its ops.
            return begun;
        };
        for read in waiting {
            read.learned.extend(lacks.iter().map(|(actor, _)| *actor));
            let left = if mutant::is(Mutant::ReadBeforeCovered) { Vec::new() } else { lacks.clone() };
            read.told.insert(link.actor.node.clone(), left);
        }
        self.reads.stir();
        true
    }

    /// Ends the reads whose peers this node has caught up with, or whose time is over, and has
    /// those peers asked that the others wait for.
    pub(super) fn reads_due(&mut self, now: Now, replica: &Replica) {
        if self.reads.reads.is_empty() {
            return;
        }
        let news = (replica.counts().received, self.counts.merges);
        let idle = !self.reads.stirred && self.reads.looked_at == news;
        if idle && self.reads.due().all(|at| at > now.mono) {
            return;
        }
        (self.reads.stirred, self.reads.looked_at) = (false, news);
        let mut over = Vec::new();
        for (token, read) in &mut self.reads.reads {
            let lacks = |(actor, seq): &(ActorIx, u64)| replica.state().seen(*actor) < *seq;
            read.told.values_mut().for_each(|left| left.retain(lacks));
            let answered = 1 + read.told.values().filter(|left| left.is_empty()).count();
            if answered >= read.nodes || read.until <= now.mono {
                over.push((*token, answered >= read.nodes));
            }
        }
        for (token, reached) in over {
            self.end_read(now, replica, token, reached);
        }
        let late = self.reads.exchanges.extract_if(.., |_, (_, deadline)| *deadline <= now.mono);
        late.for_each(drop);
        let wanted: Vec<LinkId> = self
            .links
            .iter()
            .filter_map(|(id, link)| {
                let asked = self.reads.exchanges.contains_key(id);
                (!asked && self.reads.wait_for(&link.actor.node)).then_some(*id)
            })
            .collect();
        for link in wanted {
            let id = self.syn(replica, link);
            self.reads.exchanges.insert(link, (id, now.mono + PATIENCE));
        }
    }

    fn end_read(&mut self, now: Now, replica: &Replica, token: Token, reached: bool) {
        let Some(read) = self.reads.reads.remove(&token) else { return };
        self.counts.quorum_lacking += u64::from(!read.learned.is_empty());
        self.pass_on(now, replica, &read);
        let mut sorts = (vec![replica.actor().node.clone()], Vec::new(), Vec::new());
        let others: BTreeSet<&Name> = self.known_nodes(replica).skip(1).chain(read.told.keys()).collect();
        for node in others {
            let sort = match read.told.get(node) {
                Some(left) if left.is_empty() => &mut sorts.0,
                Some(_) => &mut sorts.1,
                None => &mut sorts.2,
            };
            sort.push(node.clone());
        }
        let (answered, behind, silent) = sorts;
        let outcome = if reached {
            Ok(answered)
        } else {
            self.counts.quorum_failed += 1;
            Err(NoQuorum::Late { nodes: read.nodes, answered, behind, silent })
        };
        self.out.answers.push((token, Answer::Quorum(outcome)));
    }

    /// Offers to those who answered what others who answered have taught this node.
    fn pass_on(&mut self, now: Now, replica: &Replica, read: &Read) {
        for link in self.links.values_mut().filter(|link| read.told.contains_key(&link.actor.node)) {
            if read.learned.iter().any(|actor| link.known(*actor) < replica.state().seen(*actor)) {
                link.offer(now);
                self.counts.quorum_repairs += 1;
            }
        }
    }

    /// Ends all reads as they stand: nothing is taken in any more.
    pub(crate) fn end_reads(&mut self, now: Now, replica: &Replica) {
        while let Some((&token, read)) = self.reads.reads.first_key_value() {
            let reached = read.nodes <= 1;
            self.end_read(now, replica, token, reached);
        }
    }
}
