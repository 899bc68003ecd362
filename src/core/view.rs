//! What readers see of a key, and how many keys there are of what kind.

use tidings_proto::op::Counter;

use super::actors::Actors;
use super::cells::Cells;
use super::set::Set;
use super::state::State;

/// The kinds of cells, by the names that users meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Elements with their adds.
    OrSet,
    /// A value.
    LwwRegister,
    /// A counter that grows and shrinks, shown over the register.
    PnCounter,
    /// A counter that only grows.
    GCounter,
}

impl Kind {
    /// The name in replies, metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::OrSet => "or_set",
            Self::LwwRegister => "lww_register",
            Self::PnCounter => "pncounter",
            Self::GCounter => "gcounter",
        }
    }

    /// All kinds.
    pub const ALL: [Self; 4] = [Self::OrSet, Self::LwwRegister, Self::PnCounter, Self::GCounter];
}

/// What a reader sees of a key.
#[derive(Debug, Clone, Copy)]
pub enum View<'a> {
    /// A register's value.
    Bytes(&'a [u8]),
    /// A counter, over the integer in the register if there is one; clamped to 64 bits.
    Integer(i64),
    /// A set.
    Set(&'a Set),
    /// A counter that only grows; clamped to 64 bits signed.
    GCounter(i64),
}

impl View<'_> {
    /// The visible kind: strings are `LwwRegister` whether or not a counter is in them.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Bytes(_) => Kind::LwwRegister,
            Self::Integer(_) => Kind::PnCounter,
            Self::Set(_) => Kind::OrSet,
            Self::GCounter(_) => Kind::GCounter,
        }
    }
}

/// An integer as Redis reads one: no sign but a minus, no leading zeros, no blanks, 64 bits.
pub fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let plain = match digits {
        [b'0'] => bytes.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.len() < 19 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    plain.then(|| std::str::from_utf8(bytes).ok()?.parse().ok()).flatten()
}

pub(super) fn clamp(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
}

/// A string as readers see it, before it is clamped.
pub(super) enum StringView<'a> {
    Bytes(&'a [u8]),
    Sum(i128),
}

impl Cells {
    /// Which kinds readers could see, the visible one first.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        Shape::of(self).kinds()
    }

    /// What readers see, if anything.
    pub fn view(&self, actors: &Actors) -> Option<View<'_>> {
        if let Some(set) = self.set() {
            return Some(View::Set(set));
        }
        match self.string(actors) {
            Some(StringView::Bytes(bytes)) => Some(View::Bytes(bytes)),
            Some(StringView::Sum(sum)) => Some(View::Integer(clamp(sum))),
            None => {
                let parts = self.counter(Counter::G).filter(|parts| parts.stands())?;
                Some(View::GCounter(clamp(parts.value())))
            }
        }
    }

    /// The register, or when it holds an integer or nothing, that plus the counter.
    pub(super) fn string(&self, actors: &Actors) -> Option<StringView<'_>> {
        let counter = self.counter(Counter::Pn).filter(|parts| parts.stands());
        let register = self.register().winner(actors).map(|version| &*version.value);
        match (register, counter) {
            (None, None) => None,
            (None, Some(parts)) => Some(StringView::Sum(parts.value())),
            (Some(bytes), None) => Some(StringView::Bytes(bytes)),
            (Some(bytes), Some(parts)) => Some(match parse_integer(bytes) {
                Some(base) => StringView::Sum(parts.value().saturating_add(base.into())),
                None => StringView::Bytes(bytes),
            }),
        }
    }
}

impl State {
    /// What readers see of a key, if anything.
    pub fn view(&self, key: &[u8]) -> Option<View<'_>> {
        self.get(key)?.view(&self.actors)
    }

    /// How many keys readers see.
    pub fn len(&self) -> usize {
        self.tallies.keys as usize
    }

    /// Whether readers see no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Visits keys that readers see, from `cursor` on; `count` keys are looked
    /// at. Returns where to go on; 0 at the end.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&[u8], Kind)) -> u64 {
        self.cells.scan(cursor, count, |cells| {
            if let Some(kind) = cells.kinds().next() {
                visit(cells.key(), kind);
            }
        })
    }
}

/// What of a key counts in the tallies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Shape {
    versions: usize,
    members: usize,
    pn: bool,
    g: bool,
    bytes: u64,
}

impl Shape {
    pub(super) fn of(cells: &Cells) -> Self {
        Self {
            versions: cells.register().versions().len(),
            members: cells.set().map_or(0, |set| set.len()),
            pn: cells.counter(Counter::Pn).is_some_and(|parts| parts.stands()),
            g: cells.counter(Counter::G).is_some_and(|parts| parts.stands()),
            bytes: cells.bytes(),
        }
    }

    fn kinds(self) -> impl Iterator<Item = Kind> {
        let there = [self.members > 0, self.versions > 0, self.pn, self.g];
        Kind::ALL.into_iter().zip(there).filter_map(|(kind, there)| there.then_some(kind))
    }

    /// A register and a counter over it are one string.
    fn visible_kinds(self) -> usize {
        usize::from(self.members > 0) + usize::from(self.versions > 0 || self.pn) + usize::from(self.g)
    }
}

/// How many keys and cells there are, kept by every apply and merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tallies {
    /// Keys that readers see.
    pub keys: u64,
    /// Keys by each kind that they hold, in the order of [`Kind::ALL`]. A key may hold several.
    pub by_kind: [u64; 4],
    /// Elements, over all sets.
    pub members: u64,
    /// Registers with more than one version.
    pub version_conflicts: u64,
    /// Keys used as several kinds at once.
    pub kind_conflicts: u64,
    /// About how many bytes of memory the cells take.
    pub bytes: u64,
}

impl Tallies {
    pub(super) fn replace(&mut self, before: &Shape, after: &Shape) {
        if before != after {
            self.count(*before, |tally, n| *tally -= n);
            self.count(*after, |tally, n| *tally += n);
        }
    }

    fn count(&mut self, shape: Shape, change: impl Fn(&mut u64, u64)) {
        let visible = shape.visible_kinds();
        change(&mut self.keys, u64::from(visible > 0));
        for kind in shape.kinds() {
            change(&mut self.by_kind[kind as usize], 1);
        }
        change(&mut self.members, shape.members as u64);
        change(&mut self.version_conflicts, u64::from(shape.versions > 1));
        change(&mut self.kind_conflicts, u64::from(visible > 1));
        change(&mut self.bytes, shape.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        for (text, value) in
            [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)]
        {
            assert_eq!(parse_integer(text.as_bytes()), Some(value), "{text}");
        }
        for text in ["", "-", "-0", "01", "+1", " 1", "1 ", "1.0", "9223372036854775808", "1e3", "abc"] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text}");
        }
    }
}
