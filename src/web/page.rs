//! The status page: one HTML document without anything to load.

use std::fmt::{self, Display, Write};

use crate::node::api::{MemberRow, MemberState, PeerRow, Standing, Status};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;\
color:#222;background:#fff}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;\
width:100%}td,th{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd;vertical-align:top}\
th{font-weight:600}.good{color:#176b2c}.bad{color:#a4161a;font-weight:600}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}td,th{border-color:#444}.good{color:#7bd88f}\
.bad{color:#ff8080}}";

/// Text in HTML, harmless wherever it stands between tags or in a quoted attribute.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The page. Nothing from outside gets into it but through [`Escaped`].
pub(super) fn render(status: &Status, members: &[MemberRow], peers: &[PeerRow]) -> String {
    let mut page = String::with_capacity(8 << 10);
    let title = Escaped(format!("{} · {}", status.node, status.realm));
    _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><meta http-equiv=\"refresh\" content=\"10\">\
         <title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
    );
    health(&mut page, status);
    table(&mut page, "Node", &["", ""], facts(status));
    table(&mut page, "Members", &["name", "zone", "state", "addresses"], members.iter().map(member));
    table(
        &mut page,
        "Peers",
        &["name", "address", "link", "round trip", "lacks", "last error"],
        peers.iter().map(peer),
    );
    page.push_str("</body></html>\n");
    page
}

fn health(page: &mut String, status: &Status) {
    let problems = [("not ready", &status.not_ready), ("writes have stopped", &status.writes_stopped)];
    let problems: Vec<_> =
        problems.into_iter().filter_map(|(what, why)| Some((what, why.as_ref()?))).collect();
    if problems.is_empty() {
        page.push_str("<p class=\"good\">ready</p>");
    }
    for (what, why) in problems {
        _ = write!(page, "<p class=\"bad\">{what}: {}</p>", Escaped(why));
    }
}

fn facts(status: &Status) -> Vec<[String; 2]> {
    let kinds = &status.kinds;
    let off = |address: &Option<String>| address.clone().unwrap_or_else(|| "off".to_owned());
    let row = |name: &str, value: String| [name.to_owned(), value];
    vec![
        row("version", status.version.clone()),
        row("zone", status.zone.clone()),
        row("running for", format!("{} s", status.uptime_ms / 1_000)),
        row("other nodes (QUIC)", status.addresses.quic.clone()),
        row("Redis clients", off(&status.addresses.resp)),
        row(
            "members",
            format!(
                "{} alive, {} away, {} left",
                status.members.alive, status.members.away, status.members.left
            ),
        ),
        row("links", status.peers_linked.to_string()),
        row(
            "keys",
            format!(
                "{}: {} lww_register, {} or_set, {} pncounter, {} gcounter",
                status.keys, kinds.lww_register, kinds.or_set, kinds.pncounter, kinds.gcounter
            ),
        ),
        row(
            "in conflict",
            format!("{} by versions, {} by kinds", status.conflicts.versions, status.conflicts.kinds),
        ),
        row(
            "log",
            format!(
                "{} bytes in memory, {} on disk, fsync {}",
                status.log.memory_bytes, status.log.disk_bytes, status.fsync
            ),
        ),
        row("archive", status.archive.as_ref().map_or_else(|| "off".to_owned(), archive)),
        row(
            "clock",
            status.clock_offset_ms.map_or_else(
                || "no peer to compare with".to_owned(),
                |ms| format!("{ms} ms ahead of the peers"),
            ),
        ),
    ]
}

fn archive(archive: &Standing) -> String {
    let error = archive.error.as_ref().map_or_else(String::new, |error| format!(", failing: {error}"));
    format!("{}, behind for {} s{error}", archive.target, archive.behind_seconds)
}

fn member(row: &MemberRow) -> [String; 4] {
    let state = match row.state {
        MemberState::Alive => "alive",
        MemberState::Away => "away",
        MemberState::Left => "left",
    };
    let state = if row.own { "this node" } else { state };
    [row.node.to_string(), row.zone.clone(), state.to_owned(), row.addresses.join(", ")]
}

fn peer(row: &PeerRow) -> [String; 6] {
    let name = row.node.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
    let rtt = row.rtt_us.map_or_else(String::new, |us| format!("{}.{:03} ms", us / 1_000, us % 1_000));
    let error = row.error.clone().unwrap_or_default();
    [name, row.address.clone(), linked(row.linked).to_owned(), rtt, format!("{} ops", row.unconfirmed), error]
}

fn linked(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

fn table<const N: usize>(
    page: &mut String,
    title: &str,
    head: &[&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) {
    _ = write!(page, "<h2>{}</h2><table>", Escaped(title));
    if head.iter().any(|cell| !cell.is_empty()) {
        cells(page, "th", head);
    }
    rows.into_iter().for_each(|row| cells(page, "td", &row));
    page.push_str("</table>");
}

fn cells<T: Display>(page: &mut String, tag: &str, cells: &[T]) {
    page.push_str("<tr>");
    for cell in cells {
        _ = write!(page, "<{tag}>{}</{tag}>", Escaped(cell));
    }
    page.push_str("</tr>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::api::Operator;
    use crate::node::fake::Fake;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let hostile = "</td><img src=x onerror='a(\"b\")'>&amp;";
        let fake = Fake::default();
        let (mut status, mut members) = (fake.status(), fake.members());
        status.zone = hostile.to_owned();
        status.not_ready = Some(hostile.to_owned());
        members[0].addresses = vec![hostile.to_owned()];
        let page = render(&status, &members, &[]);
        assert!(!page.contains("<img") && !page.contains("onerror='"));
        let escaped = "&lt;/td&gt;&lt;img src=x onerror=&#39;a(&quot;b&quot;)&#39;&gt;&amp;amp;";
        assert_eq!(page.matches(escaped).count(), 3);
    }
}
