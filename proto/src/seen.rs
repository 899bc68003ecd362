//! Version vectors: which writes of whom a node has.

use serde::{Deserialize, Serialize};

use crate::{Actor, DecodeError, Name, bound, bounds, check_seq, limit};

/// Per actor the greatest number n such that the holder has all of 1 to n.
pub type Seen = crdts::VClock<Actor>;

/// A version vector on the wire: entries grouped by node, so that a node's many
/// lives repeat its name once. Nodes and incarnations in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SeenEntries(#[serde(deserialize_with = "limit::nodes")] pub Vec<NodeEntries>);

/// The entries of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntries {
    /// The node.
    pub node: Name,
    /// Its lives.
    #[serde(deserialize_with = "limit::lives")]
    pub lives: Vec<Life>,
}

/// What is known of one life of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The incarnation.
    #[serde(with = "postcard::fixint::le")]
    pub incarnation: u64,
    /// The greatest number of the contiguous prefix, from 1.
    pub seq: u64,
}

/// The first 16 bytes of the BLAKE3 hash of the postcard encoding of the
/// [`SeenEntries`] of a whole version vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SeenDigest(pub [u8; 16]);

/// A fingerprint of a whole convergent state: the sum modulo 2^128, little-endian, of its
/// rows' keyed hashes. Equal at equal version vectors, or something is wrong with one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateDigest(pub [u8; 16]);

impl SeenEntries {
    /// Groups entries that come in ascending order of actor.
    ///
    /// # Panics
    /// If the order is not strictly ascending: a version vector has each actor once.
    pub fn from_sorted<'a>(entries: impl IntoIterator<Item = (&'a Actor, u64)>) -> Self {
        let mut nodes: Vec<NodeEntries> = Vec::new();
        for (actor, seq) in entries {
            let life = Life { incarnation: actor.incarnation, seq };
            match nodes.last_mut() {
                Some(last) if last.node == actor.node => {
                    assert!(last.lives.last().is_none_or(|l| l.incarnation < life.incarnation));
                    last.lives.push(life);
                }
                last => {
                    assert!(last.is_none_or(|l| l.node < actor.node), "entries out of order");
                    nodes.push(NodeEntries { node: actor.node.clone(), lives: vec![life] });
                }
            }
        }
        Self(nodes)
    }

    /// The entries one by one.
    pub fn iter(&self) -> impl Iterator<Item = (Actor, u64)> + '_ {
        self.0.iter().flat_map(|entry| {
            entry
                .lives
                .iter()
                .map(|life| (Actor { node: entry.node.clone(), incarnation: life.incarnation }, life.seq))
        })
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.0.iter().map(|entry| entry.lives.len()).sum()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks what came from outside: bound, strict order, numbers.
    pub fn check(&self) -> Result<(), DecodeError> {
        bound("version vector", self.len(), bounds::SEEN)?;
        let nodes_ascend = self.0.windows(2).all(|w| w[0].node < w[1].node);
        let lives_ascend = self.0.iter().all(|entry| {
            !entry.lives.is_empty() && entry.lives.windows(2).all(|w| w[0].incarnation < w[1].incarnation)
        });
        if !(nodes_ascend && lives_ascend) {
            return Err(DecodeError::malformed("version vector", "its entries are out of order or empty"));
        }
        self.0
            .iter()
            .flat_map(|entry| &entry.lives)
            .try_for_each(|life| check_seq("version vector", life.seq))
    }

    /// The digest by which two nodes find that they have seen the same.
    pub fn digest(&self) -> SeenDigest {
        let bytes = postcard::to_stdvec(self).expect("a vector of plain entries always encodes");
        let mut digest = [0; 16];
        digest.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        SeenDigest(digest)
    }
}

impl From<&Seen> for SeenEntries {
    fn from(seen: &Seen) -> Self {
        Self::from_sorted(seen.dots.iter().map(|(actor, &seq)| (actor, seq)))
    }
}

impl From<&SeenEntries> for Seen {
    fn from(entries: &SeenEntries) -> Self {
        Seen { dots: entries.iter().collect() }
    }
}
