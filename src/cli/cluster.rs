//! What operators ask of the cluster: who is there, how it fares, and push, pull and sync by hand.

use anyhow::bail;
use clap::{Args, Subcommand};
use tidings_proto::Name;

use super::print::{self, Out, cell, moment, span};
use super::{Ask, Bytes};
use crate::node::api::{
    AuditRow, MemberRow, PeerRow, PullRequest, PushRow, Standing, StatRow, Status, SyncRow, Text,
};

pub(super) async fn status(ask: Ask) -> anyhow::Result<()> {
    let status = ask.client().status().await?;
    let mut out = ask.out();
    if ask.json {
        return Ok(out.object(&status)?);
    }
    let off = |address: &Option<String>| address.clone().unwrap_or_else(|| "off".to_owned());
    let Status { addresses, members, kinds, conflicts, log, .. } = &status;
    let rows = [
        ("node", format!("{} in realm {}, incarnation {}", status.node, status.realm, status.incarnation)),
        ("zone", status.zone.clone()),
        ("version", status.version.clone()),
        ("running", format!("{}, since {}", span(status.uptime_ms), moment(status.started_at))),
        ("ready", status.not_ready.as_ref().map_or_else(|| "yes".to_owned(), |why| format!("no: {why}"))),
        (
            "writes",
            status.writes_stopped.as_ref().map_or_else(|| "ok".to_owned(), |why| format!("stopped: {why}")),
        ),
        ("members", format!("{} alive, {} away, {} left", members.alive, members.away, members.left)),
        ("linked", status.peers_linked.to_string()),
        ("keys", {
            let [r, s, p, g] = [kinds.lww_register, kinds.or_set, kinds.pncounter, kinds.gcounter];
            format!("{}: {r} lww_register, {s} or_set, {p} pncounter, {g} gcounter", status.keys)
        }),
        ("conflicts", format!("{} by versions, {} by kinds", conflicts.versions, conflicts.kinds)),
        ("parked", format!("{} removals", status.parked_removals)),
        ("seen", format!("{} entries", status.seen_entries)),
        (
            "log",
            format!("{} B in memory, {} B on disk, fsync {}", log.memory_bytes, log.disk_bytes, status.fsync),
        ),
        ("archive", status.archive.as_ref().map_or_else(|| "off".to_owned(), archive)),
        (
            "clock",
            status.clock_offset_ms.map_or_else(String::new, |ms| format!("{ms} ms ahead of the peers")),
        ),
        ("quic", addresses.quic.clone()),
        ("advertised", addresses.advertised.join(" ")),
        ("resp", off(&addresses.resp)),
        ("http", off(&addresses.http)),
        ("data", status.data_dir.clone()),
    ];
    for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        out.line(&format!("{name:10}  {value}"))?;
    }
    Ok(())
}

fn archive(archive: &Standing) -> String {
    let last = match (&archive.manifest, archive.time) {
        (Some(manifest), Some(time)) => format!("{manifest} at {}", moment(time)),
        _ => "nothing archived since the start".to_owned(),
    };
    let behind = match archive.behind_seconds {
        0 => String::new(),
        seconds => format!(", behind for {}", span(seconds * 1_000)),
    };
    let error = archive.error.as_ref().map_or_else(String::new, |error| format!(", failing: {error}"));
    format!("{}: {last}{behind}{error}", archive.target)
}

pub(super) async fn members(ask: Ask) -> anyhow::Result<()> {
    let rows = ask.client().members().await?;
    let cells = |row: &MemberRow| {
        let state = if row.own { "self".to_owned() } else { format!("{:?}", row.state).to_lowercase() };
        let unconfirmed = if row.own { String::new() } else { row.unconfirmed.to_string() };
        [row.node.to_string(), row.zone.clone(), state, unconfirmed, row.addresses.join(" ")]
    };
    Ok(ask.out().rows(&rows, ["node", "zone", "state", "lacks", "addresses"], cells)?)
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Peers {
    #[command(subcommand)]
    command: Option<PeersCommand>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Subcommand)]
enum PeersCommand {
    /// Seeks a link to an address from now on.
    Add {
        /// The address, host:port.
        address: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Closes the link to a peer and no longer seeks one.
    Remove {
        /// The peer's name or address.
        peer: String,
        #[command(flatten)]
        ask: Ask,
    },
}

pub(super) async fn peers(peers: Peers) -> anyhow::Result<()> {
    let ask = match peers.command {
        Some(PeersCommand::Add { address, ask }) => return Ok(ask.client().add_peer(&address).await?),
        Some(PeersCommand::Remove { peer, ask }) => return Ok(ask.client().remove_peer(&peer).await?),
        None => peers.ask,
    };
    let rows = ask.client().peers().await?;
    let cells = |row: &PeerRow| {
        [
            row.node.as_ref().map_or_else(|| "?".to_owned(), Name::to_string),
            row.address.clone(),
            up(row.linked).to_owned(),
            row.rtt_us.map_or_else(String::new, |us| format!("{}.{:03}ms", us / 1_000, us % 1_000)),
            row.clock_offset_ms.map_or_else(String::new, |ms| format!("{ms:+}ms")),
            row.unconfirmed.to_string(),
            cell(&row.error.clone().unwrap_or_default()),
        ]
    };
    Ok(ask.out().rows(&rows, ["node", "address", "link", "rtt", "clock", "lacks", "error"], cells)?)
}

pub(super) async fn push(peer: Option<Name>, ask: Ask) -> anyhow::Result<()> {
    let rows = ask.client().push(peer).await?;
    let cells =
        |row: &PushRow| [row.node.to_string(), row.ops.to_string(), row.error.clone().unwrap_or_default()];
    ask.out().rows(&rows, ["node", "ops", "error"], cells)?;
    all_went_well(rows.iter().filter_map(|row| Some((&row.node, row.error.as_deref()?))))
}

#[derive(Debug, Args)]
pub(super) struct Pull {
    /// Whose data.
    peer: Name,
    /// The keys; without any, all.
    key: Vec<std::ffi::OsString>,
    /// Only the names of the keys.
    #[arg(long)]
    keys: bool,
    #[command(flatten)]
    bytes: Bytes,
    #[command(flatten)]
    ask: Ask,
}

/// JSON is one line a key, for there may be more keys than fit into memory.
pub(super) async fn pull(pull: Pull) -> anyhow::Result<()> {
    let keys: Vec<_> =
        pull.key.iter().map(|key| Ok(Text(pull.bytes.read(key)?))).collect::<anyhow::Result<_>>()?;
    let mut request = PullRequest { peer: pull.peer, keys, names_only: pull.keys, cursor: None };
    let (client, mut out) = (pull.ask.client(), pull.ask.out());
    let mut asked_for_names = request.keys.clone();
    loop {
        let page = client.pull(&request).await?;
        for row in &page.keys {
            asked_for_names.retain(|key| *key != row.key);
            match (out.json(), request.names_only) {
                (true, _) => out.json_line(row)?,
                (false, true) => out.line(&row.key.to_string())?,
                (false, false) => {}
            }
        }
        if !out.json() && !request.names_only && !page.keys.is_empty() {
            out.table(print::VERSIONS, page.keys.iter().flat_map(print::versions).collect())?;
        }
        request.cursor = page.cursor;
        if request.cursor.is_none() {
            break;
        }
    }
    out.bytes(b"")?;
    if let Some(key) = asked_for_names.first() {
        bail!("{} has no key {key}", request.peer);
    }
    Ok(())
}

pub(super) async fn sync(peer: Option<Name>, all: bool, ask: Ask) -> anyhow::Result<()> {
    let rows = ask.client().sync(peer, all).await?;
    let cells = |row: &SyncRow| {
        let result = format!("{:?}", row.result).to_lowercase();
        let [sent, received] = [row.sent, row.received].map(|ops| ops.to_string());
        [
            row.node.to_string(),
            result,
            sent,
            received,
            span(row.millis),
            row.error.clone().unwrap_or_default(),
        ]
    };
    ask.out().rows(&rows, ["node", "result", "sent", "received", "took", "error"], cells)?;
    all_went_well(rows.iter().filter_map(|row| Some((&row.node, row.error.as_deref()?))))
}

pub(super) async fn audit(peer: Option<Name>, ask: Ask) -> anyhow::Result<()> {
    let rows = ask.client().audit(peer).await?;
    ask.out().rows(&rows, ["place", "found"], |row: &AuditRow| [row.place.clone(), row.found.clone()])?;
    let faults: Vec<_> = rows.iter().filter(|row| !row.sound).collect();
    if faults.is_empty() {
        return Ok(());
    }
    let words: Vec<_> = faults.into_iter().map(|row| format!("{}: {}", row.place, row.found)).collect();
    bail!("{}", words.join("\n"))
}

pub(super) async fn stats(peer: Option<Name>, ask: Ask) -> anyhow::Result<()> {
    let rows = ask.client().stats(peer.as_ref()).await?;
    let mut out: Out = ask.out();
    Ok(out.rows(&rows, ["figure", "value"], |row: &StatRow| [row.name.clone(), row.value.to_string()])?)
}

pub(super) async fn leave(ask: Ask) -> anyhow::Result<()> {
    Ok(ask.client().leave().await?)
}

fn up(linked: bool) -> &'static str {
    if linked { "up" } else { "down" }
}

fn all_went_well<'a>(failures: impl Iterator<Item = (&'a Name, &'a str)>) -> anyhow::Result<()> {
    let failures: Vec<_> = failures.map(|(node, why)| format!("{node}: {why}")).collect();
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}
