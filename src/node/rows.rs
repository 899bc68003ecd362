//! From cells to the rows that operators read.

use tidings_proto::{Actor, Block, SeenEntries};

use super::api::{Detail, KeyRow, Kind, Text, Value, VersionRow};
use crate::core::actors::{Actors, ShortDot};
use crate::core::bounds;
use crate::core::cells::Cells;
use crate::core::state::{ApplyError, State};
use crate::core::table::HashKey;
use crate::core::view::{self, View};
use tidings_proto::op::Counter;

/// A key as readers see it, and with `Detail::Versions` all that its cells hold.
/// None if readers see nothing.
pub(super) fn key_row(cells: &Cells, actors: &Actors, detail: Detail) -> Option<KeyRow> {
    let view = cells.view(actors)?;
    let mut row = KeyRow {
        key: cells.key().to_vec().into(),
        kind: None,
        value: None,
        expires_at: None,
        hidden: Vec::new(),
        versions: Vec::new(),
    };
    if detail == Detail::Names {
        return Some(row);
    }
    row.kind = Some(view.kind().into());
    row.value = Some(value(&view));
    // A register and the counter over it are one string, not a conflict.
    let string = |kind: &view::Kind| matches!(kind, view::Kind::LwwRegister | view::Kind::PnCounter);
    let kinds: Vec<_> = cells.kinds().collect();
    let seen = kinds.first().copied();
    let hidden = kinds
        .iter()
        .filter(|kind| Some(**kind) != seen && !(seen.as_ref().is_some_and(string) && string(kind)));
    row.hidden = hidden.map(|kind| (*kind).into()).collect();
    if detail == Detail::Versions {
        row.versions = version_rows(cells, actors, &view);
    }
    Some(row)
}

fn value(view: &View<'_>) -> Value {
    match view {
        View::Bytes(bytes) => Value::Bytes(bytes.to_vec().into()),
        View::Integer(sum) | View::GCounter(sum) => Value::Count(*sum),
        View::Set(set) => {
            let mut elements: Vec<Text> = set.iter().map(|element| element.to_vec().into()).collect();
            elements.sort_unstable();
            Value::Elements(elements)
        }
    }
}

fn version_rows(cells: &Cells, actors: &Actors, view: &View<'_>) -> Vec<VersionRow> {
    let mut rows = Vec::new();
    let string = matches!(view, View::Bytes(_) | View::Integer(_));
    let winner = cells.register().winner(actors).map(|version| version.dot);
    for version in cells.register().versions() {
        let mut row =
            row(Kind::LwwRegister, Value::Bytes(version.value.to_vec().into()), actors, version.dot);
        row.time = Some(version.stamp.millis());
        row.logical = Some(version.stamp.counter());
        row.content = Some(blake3::hash(&version.value).to_hex().to_string());
        row.visible = string && Some(version.dot) == winner;
        rows.push(row);
    }
    // What readers see first, then the latest.
    rows.sort_by_key(|row| std::cmp::Reverse((row.visible, row.time, row.logical, row.dot.clone())));
    let mut members: Vec<_> = cells.set().into_iter().flat_map(|set| set.members()).collect();
    members.sort_unstable_by_key(|member| member.element());
    for member in members {
        for dot in member.dots() {
            let value = Value::Bytes(member.element().to_vec().into());
            let mut row = row(Kind::OrSet, value, actors, *dot);
            row.visible = true;
            rows.push(row);
        }
    }
    for (counter, kind) in [(Counter::Pn, Kind::PnCounter), (Counter::G, Kind::GCounter)] {
        for part in cells.counter(counter).into_iter().flat_map(|parts| parts.iter()) {
            let (Some(e), Some((p, n))) = (part.contribution, part.standing()) else { continue };
            let sum = i128::try_from(p).unwrap_or(i128::MAX) - i128::try_from(n).unwrap_or(i128::MAX);
            let sum = i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX });
            let mut row = row(kind, Value::Count(sum), actors, ShortDot::new(part.actor, e.birth));
            row.visible = match kind {
                Kind::PnCounter => matches!(view, View::Integer(_)),
                _ => matches!(view, View::GCounter(_)),
            };
            rows.push(row);
        }
    }
    rows
}

fn row(kind: Kind, value: Value, actors: &Actors, dot: ShortDot) -> VersionRow {
    let actor = actors.get(dot.actor());
    VersionRow {
        kind,
        value,
        origin: actor.node.clone(),
        dot: format!("{actor}:{}", dot.seq()),
        time: None,
        logical: None,
        content: None,
        visible: false,
    }
}

/// Cells that came from a peer, as a state to read: everything that they name counts as seen.
pub(super) fn scratch(actors: Vec<Actor>, keys: Vec<tidings_proto::KeyState>) -> Result<State, ApplyError> {
    let mut sorted: Vec<&Actor> = actors.iter().collect();
    sorted.sort_unstable();
    let seen = SeenEntries::from_sorted(sorted.into_iter().map(|actor| (actor, bounds::SEQ)));
    let mut state = State::new(HashKey(0, 0)).staged(&seen, &[])?;
    state.load(&Block { actors, keys }.encode())?;
    Ok(state)
}
