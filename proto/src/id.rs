//! Who speaks and when: names, actors, stamps.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bounds;

/// The name of a realm or of a node: 1 to 63 bytes of `a-z 0-9 . _ -`, the
/// first of them a letter or a digit. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Why a text is not a [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty or too long.
    #[error("a name has 1 to {max} bytes, this one has {0}", max = bounds::NAME)]
    Length(usize),
    /// A character that is not allowed there.
    #[error("a name is made of a-z 0-9 . _ - and begins with a letter or digit, found {0:?} at byte {1}")]
    Character(char, usize),
}

impl Name {
    /// Checks `text` and makes it a name.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > bounds::NAME {
            return Err(NameError::Length(text.len()));
        }
        for (at, c) in text.char_indices() {
            let alphanumeric = c.is_ascii_lowercase() || c.is_ascii_digit();
            if !(alphanumeric || at > 0 && matches!(c, '.' | '_' | '-')) {
                return Err(NameError::Character(c, at));
            }
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Name, E> {
                Name::new(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// An author of writes: one run of one node. Every start of a node draws a new
/// incarnation of 64 random bits, so that no two lives ever share a dot.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Actor {
    /// The node.
    pub node: Name,
    /// Which of its lives. Eight bytes, little-endian: random bits gain nothing from a varint.
    #[serde(with = "postcard::fixint::le")]
    pub incarnation: u64,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:016x}", self.node, self.incarnation)
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A reading of the hybrid logical clock: 48 bits of milliseconds since the
/// Unix epoch, then a 16-bit counter (Kulkarni et al., "Logical Physical Clocks
/// and Consistent Snapshots", 2014).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Stamp(pub u64);

impl Stamp {
    /// The first stamp of a millisecond. Milliseconds beyond 48 bits are clamped.
    pub fn from_millis(millis: u64) -> Self {
        Self(millis.min((1 << 48) - 1) << 16)
    }

    /// The wall-clock part, in milliseconds since the Unix epoch.
    pub fn millis(self) -> u64 {
        self.0 >> 16
    }

    /// The counter that orders stamps within a millisecond.
    pub fn counter(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis(), self.counter())
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_the_border() {
        for good in ["a", "node-1", "0.b_c", &"x".repeat(63)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "A", "a b", "ä", "a/b", &"x".repeat(64)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        let bytes = postcard::to_stdvec("Bad Name").unwrap();
        assert!(postcard::from_bytes::<Name>(&bytes).is_err());
    }

    #[test]
    fn stamps_order_by_time_then_counter() {
        let first = Stamp::from_millis(1_000);
        assert!(Stamp(first.0 + 1) > first);
        assert!(Stamp::from_millis(1_001) > Stamp(first.0 + 0xffff));
        assert_eq!(Stamp(first.0 + 7).millis(), 1_000);
        assert_eq!(Stamp(first.0 + 7).counter(), 7);
    }
}
