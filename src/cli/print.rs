//! Tables for people, JSON for programs.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::node::api::{KeyRow, Value};

/// Values in tables are cut to this many characters; `get` and JSON have them whole.
const CELL: usize = 60;

/// Standard output.
#[derive(Debug)]
pub(super) struct Out {
    to: BufWriter<StdoutLock<'static>>,
    json: bool,
}

impl Out {
    pub(super) fn new(json: bool) -> Self {
        Self { to: BufWriter::new(io::stdout().lock()), json }
    }

    /// Rows: one JSON array, or a table.
    pub(super) fn rows<T: Serialize, const N: usize>(
        &mut self,
        rows: &[T],
        head: [&str; N],
        cells: impl Fn(&T) -> [String; N],
    ) -> io::Result<()> {
        if self.json { self.object(rows) } else { self.table(head, rows.iter().map(cells).collect()) }
    }

    /// One JSON document, in readable form.
    pub(super) fn object(&mut self, value: &(impl Serialize + ?Sized)) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.to, value)?;
        self.to.write_all(b"\n")?;
        self.to.flush()
    }

    /// One JSON document on one line, as one of many.
    pub(super) fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.to, value)?;
        self.to.write_all(b"\n")
    }

    pub(super) fn table<const N: usize>(
        &mut self,
        head: [&str; N],
        rows: Vec<[String; N]>,
    ) -> io::Result<()> {
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([head[column].len()]).max().unwrap_or(0)
        };
        let widths: [usize; N] = std::array::from_fn(width);
        let heading = head.map(str::to_uppercase);
        for row in [&heading].into_iter().chain(&rows) {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(self.to, "{}", line.trim_end())?;
        }
        self.to.flush()
    }

    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.to, "{text}")?;
        self.to.flush()
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.to.flush()
    }

    pub(super) fn json(&self) -> bool {
        self.json
    }
}

/// A text for a cell of a table.
pub(super) fn cell(text: &impl ToString) -> String {
    let text = text.to_string();
    match text.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A value in one line, escaped.
pub(super) fn value(value: &Value) -> String {
    match value {
        Value::Count(sum) => sum.to_string(),
        Value::Bytes(bytes) => bytes.to_string(),
        Value::Elements(elements) => elements.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// One row for each of a key's versions, or for the key if only its name is known.
pub(super) fn versions(row: &KeyRow) -> Vec<[String; 7]> {
    if row.versions.is_empty() {
        let kind = row.kind.map_or("", |kind| kind.as_str()).to_owned();
        let shown = row.value.as_ref().map_or_else(String::new, |shown| cell(&value(shown)));
        let [time, dot, content, visible] = [const { String::new() }; 4];
        return vec![[cell(&row.key), kind, shown, visible, time, dot, content]];
    }
    let version = |version: &crate::node::api::VersionRow| {
        let visible = if version.visible { "yes" } else { "no" };
        [
            cell(&row.key),
            version.kind.as_str().to_owned(),
            cell(&value(&version.value)),
            visible.to_owned(),
            version.time.map_or_else(String::new, moment),
            version.dot.clone(),
            version.content.as_ref().map_or_else(String::new, |content| content.chars().take(12).collect()),
        ]
    };
    row.versions.iter().map(version).collect()
}

/// The columns of [`versions`].
pub(super) const VERSIONS: [&str; 7] = ["key", "kind", "value", "visible", "written", "by", "content"];

/// Milliseconds since the Unix epoch as RFC 3339.
pub(super) fn moment(millis: u64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok();
    moment.and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_else(|| millis.to_string())
}

/// Milliseconds as a span, in the two greatest units.
pub(super) fn span(millis: u64) -> String {
    let seconds = millis / 1_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{}.{:03}s", seconds, millis % 1_000),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        assert_eq!(moment(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(moment(u64::MAX), u64::MAX.to_string());
        assert_eq!(
            [span(42), span(61_000), span(7_260_000), span(90_000_000)],
            ["0.042s", "1m 1s", "2h 1m", "1d 1h"]
        );
    }

    #[test]
    fn long_cells_are_cut_between_characters() {
        assert_eq!(cell(&"ü".repeat(100)).chars().count(), CELL + 1);
        assert_eq!(cell(&"short"), "short");
    }
}
