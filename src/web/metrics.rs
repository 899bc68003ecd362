//! Every metric: its name, type, unit and help, and where its value comes from.
//!
//! Counters and gauges are read from the node's plain facts at each scrape;
//! histograms are recorded as things happen, through the handles of [`Timings`].

use std::fmt::Write;

use metrics::{Label, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::core::link::LAG_BOUNDS;
use crate::core::view::Kind;
use crate::node::ByLabel;
use crate::node::api::{Facts, Timings};

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, unit and all.
    pub name: &'static str,
    /// What it counts, in which unit, and what its labels say.
    pub help: &'static str,
    /// Its type and its source.
    pub source: Source,
}

/// A metric's type, and how it is read.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// Only grows, until the process restarts.
    Counter(fn(&Facts, &mut Samples)),
    /// Goes up and down.
    Gauge(fn(&Facts, &mut Samples)),
    /// A distribution over these upper bounds.
    Histogram(&'static [f64]),
    /// The distribution of [`Lags`](crate::core::link::Lags).
    Lags,
}

/// Upper bounds of one visit to the disk, in seconds.
const DISK_SECONDS: &[f64] = &[
    0.000_05, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];
/// Upper bounds of batch sizes.
const OPS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0];

const FSYNC: &str = "tidings_fsync_seconds";
const COMMIT: &str = "tidings_commit_ops";

macro_rules! metrics {
    ($( $source:ident $name:expr, $help:literal, $read:expr; )+) => {
        &[$( Metric { name: $name, help: $help, source: Source::$source($read) } ),+]
    };
}

/// Every counter and gauge.
const READ: &[Metric] = metrics! {
    Gauge "tidings_build_info", "Always 1; the version is a label.",
        |_, to| to.put(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    Gauge "tidings_start_time_seconds", "When the process started, in seconds since the Unix epoch.",
        |f, to| to.one(f.process.start_time);
    Gauge "tidings_ready", "1 if the node is ready to serve, else 0.",
        |f, to| to.one(f.process.ready.into());
    Gauge "tidings_writes_stopped", "1 if writes are refused after an IO error, else 0.",
        |f, to| to.one(f.store.writes_stopped.into());

    Counter "tidings_writes_refused_total", "Clients' writes refused because a bound was exceeded, by bound: memory (max_memory) or log (max_log).",
        |f, to| to.ways("bound", [("memory", f.refusals.memory), ("log", f.refusals.log)]);
    Counter "tidings_pushes_total", "Pushes of news, by direction.",
        |f, to| to.ways("direction", [("sent", f.gossip.pushes_sent), ("received", f.gossip.pushes_received)]);
    Counter "tidings_reoffers_total", "Times that a peer was offered again what it was not known to have.",
        |f, to| to.one(f.gossip.reoffers);
    Counter "tidings_pulls_total", "Requests for ops, by outcome: sent, answered (to others), timed_out.",
        |f, to| to.ways("outcome", [
            ("sent", f.gossip.pulls_sent), ("answered", f.gossip.pulls_answered), ("timed_out", f.gossip.pulls_timed_out),
        ]);
    Counter "tidings_syncs_total", "Anti-entropy exchanges, by outcome: begun, ended, equal (of those), answered (to others).",
        |f, to| to.ways("outcome", [
            ("begun", f.gossip.syncs_begun), ("ended", f.gossip.syncs_ended), ("equal", f.gossip.syncs_equal), ("answered", f.gossip.syncs_answered),
        ]);
    Counter "tidings_divergences_total", "Times that a peer had seen the same writes and held something else: rot, or a bug.",
        |f, to| to.one(f.gossip.diverged);
    Counter "tidings_reconciliations_total", "Merges with peers that had seen the same and held something else, by result: merged, or given_up (several in a row did not help).",
        |f, to| to.ways("result", [("merged", f.gossip.reconciled), ("given_up", f.gossip.not_reconciled)]);
    Counter "tidings_audits_total", "Audits of memory.",
        |f, to| to.one(f.store.audits);
    Counter "tidings_rotten_total", "What audits found rotten, by place: memory (ranges of keys) or disk (files).",
        |f, to| to.ways("place", [("memory", f.gossip.rotten), ("disk", f.store.damaged)]);
    Counter "tidings_repaired_ranges_total", "Ranges of keys in rotten memory that were replaced from a peer, or have become whole by deletes.",
        |f, to| to.one(f.gossip.repaired);
    Counter "tidings_context_merges_total", "Merges of states, by result: committed or aborted.",
        |f, to| to.ways("result", [("committed", f.gossip.merges), ("aborted", f.gossip.merges_aborted)]);
    Counter "tidings_context_merge_blocks_total", "Blocks of cells in merges of states, by direction; reused are those that a merge which broke off had left.",
        |f, to| to.ways("direction", [
            ("sent", f.gossip.blocks_sent), ("received", f.gossip.blocks_received), ("reused", f.gossip.blocks_reused),
        ]);
    Counter "tidings_context_merge_source_blocks_total", "Those of the blocks received that came from other members than the one whose snapshot was merged.",
        |f, to| to.one(f.gossip.blocks_of_sources);
    Counter "tidings_context_merge_sources_total", "Sessions begun with such members.",
        |f, to| to.one(f.gossip.sources);
    Counter "tidings_context_merge_ranges_again_total", "Ranges of keys that were asked for once more in a merge, since the member asked first did not give them.",
        |f, to| to.one(f.gossip.ranges_again);
    Counter "tidings_context_merge_changed_keys_total", "Keys that merges changed: worked out before the step, or in it, since they were written to meanwhile.",
        |f, to| to.ways("worked_out", [("before", f.gossip.keys_prepared), ("anew", f.gossip.keys_again)]);
    Counter "tidings_context_merge_values_left_out_total", "Values left out of blocks sent, since whoever got them had seen the writes.",
        |f, to| to.one(f.gossip.values_left_out);
    Gauge "tidings_context_merge_members", "Members that the merge under way streams from, or 0.",
        |f, to| to.one(f.replica.merge_members);
    Gauge "tidings_context_merge_keys", "Keys in the merge under way: taken in so far, and expected where that is known; else 0.",
        |f, to| to.ways("state", [("taken", f.replica.merge_keys.0), ("expected", f.replica.merge_keys.1)]);
    Counter "tidings_quorum_reads_total", "Quorum reads begun.",
        |f, to| to.one(f.gossip.quorum_reads);
    Counter "tidings_quorum_reads_failed_total", "Quorum reads that ended without enough nodes.",
        |f, to| to.one(f.gossip.quorum_failed);
    Counter "tidings_quorum_repairs_total", "Repairs by quorum reads, by side: here (reads that found this node to lack something) or peers (times that one was sent, or offered, what it was found to lack).",
        |f, to| to.ways("side", [("here", f.gossip.quorum_lacking), ("peers", f.gossip.quorum_repairs)]);
    Counter "tidings_ops_sent_total", "Ops sent to peers, in pushes, answers and exchanges.",
        |f, to| to.one(f.gossip.ops_sent);
    Counter "tidings_ops_from_disk_total", "Those of them that came from the log on disk, for peers that were away for long.",
        |f, to| to.one(f.gossip.ops_from_disk);
    Counter "tidings_values_elided_total", "Values that were not sent to peers catching up, since an op of the same message had overwritten them.",
        |f, to| to.one(f.gossip.values_elided);
    Counter "tidings_ops_applied_total", "Ops applied, by source: local or remote.",
        |f, to| to.ways("source", [("local", f.ops.written), ("remote", f.ops.received)]);
    Counter "tidings_ops_rejected_total", "Ops received and not applied, by reason: duplicate, early or refused.",
        |f, to| to.ways("reason", [
            ("duplicate", f.ops.duplicate), ("early", f.ops.early), ("refused", f.ops.refused),
        ]);
    Counter "tidings_conflicts_total", "Versions of registers that became concurrent with another by a remote op.",
        |f, to| to.one(f.ops.conflicts);
    Counter "tidings_messages_refused_total", "Messages refused as malformed or out of place.",
        |f, to| to.one(f.gossip.refused);
    Counter "tidings_announcements_ignored_total", "Announced authors of whom nothing has come yet, beyond how many are kept; announced again they are looked at anew.",
        |f, to| to.one(f.gossip.ignored);
    Counter "tidings_incarnations_changed_total", "Own incarnations given up because a peer knew more of their writes.",
        |f, to| to.one(f.gossip.incarnations_changed);

    Gauge "tidings_keys", "Keys that readers see.",
        |f, to| to.one(f.tallies.keys);
    Gauge "tidings_kind_keys", "Keys by each kind that they hold; a key may hold several.",
        |f, to| Kind::ALL.iter().zip(f.tallies.by_kind).for_each(|(kind, keys)| to.put(&[("kind", kind.name())], keys));
    Gauge "tidings_set_members", "Elements, over all sets.",
        |f, to| to.one(f.tallies.members);
    Gauge "tidings_conflict_keys", "Keys in conflict, by type: versions (of a register) or kinds.",
        |f, to| to.ways("type", [("versions", f.tallies.version_conflicts), ("kinds", f.tallies.kind_conflicts)]);
    Gauge "tidings_ops_waiting", "Ops that wait for an earlier one of the same author.",
        |f, to| to.one(f.replica.ops_waiting);
    Gauge "tidings_ops_lacking", "Ops that linked peers are known to have and this node lacks.",
        |f, to| to.one(f.replica.lag);
    Gauge "tidings_parked_removals", "Removals that wait for the write they name.",
        |f, to| to.one(f.replica.parked_removals);
    Gauge "tidings_seen_entries", "Entries of the version vector: one for each incarnation that ever wrote.",
        |f, to| to.one(f.replica.seen_entries);
    Gauge "tidings_resident_memory_bytes", "Memory that the process holds.",
        |f, to| to.one(f.process.resident_bytes);

    Gauge "tidings_members", "Members, this node included, by state: alive, away or left.",
        |f, to| to.ways("state", [
            ("alive", f.members.alive), ("away", f.members.away), ("left", f.members.left),
        ]);
    Gauge "tidings_peers_linked", "Members that this node has a link to.",
        |f, to| to.one(f.net.linked);
    Counter "tidings_messages_total", "Messages between nodes, by kind and direction.",
        |f, to| to.ways_by("kind", [("sent", &f.net.messages_sent), ("received", &f.net.messages_received)]);
    Counter "tidings_message_bytes_total", "Bytes of messages between nodes, by kind and direction.",
        |f, to| to.ways_by("kind", [("sent", &f.net.bytes_sent), ("received", &f.net.bytes_received)]);
    Counter "tidings_messages_dropped_total", "Messages dropped because a queue was full, by lane; anti-entropy repairs it.",
        |f, to| to.by("lane", &f.net.dropped);
    Counter "tidings_peer_pauses_total", "Times that a peer was not read from for a while, because it asked for more than its share of this node's time.",
        |f, to| to.one(f.net.pauses);
    Counter "tidings_connections_refused_total", "Connections refused before they became links, by reason and by whom: us or peer.",
        |f, to| {
            f.net.refused.iter().for_each(|(reason, n)| to.put(&[("reason", reason), ("by", "us")], *n));
            f.net.refused_by_peer.iter().for_each(|(reason, n)| to.put(&[("reason", reason), ("by", "peer")], *n));
        };
    Counter "tidings_links_ended_total", "Links that ended, by reason.",
        |f, to| to.by("reason", &f.net.ended);
    Counter "tidings_dial_failures_total", "Attempts to reach another node that failed.",
        |f, to| to.one(f.net.dial_failures);
    Gauge "tidings_clock_offset_seconds", "How far this node's clock is ahead of the median of its peers'; 0 without peers.",
        |f, to| to.real(f.net.clock_offset_ms.unwrap_or(0) as f64 / 1e3);

    Gauge "tidings_log_memory_bytes", "Size of the log of recent ops in memory.",
        |f, to| to.one(f.replica.log_bytes);
    Gauge "tidings_log_since_checkpoint_bytes", "Log since the last checkpoint; writes are slowed from half of max_log on.",
        |f, to| to.one(f.store.since_checkpoint);
    Gauge "tidings_log_disk_bytes", "Size of the log on disk.",
        |f, to| to.one(f.store.log_bytes);
    Counter "tidings_log_records_total", "Records appended to the log on disk.",
        |f, to| to.one(f.store.records);
    Counter "tidings_log_written_bytes_total", "Bytes appended to the log on disk.",
        |f, to| to.one(f.store.appended_bytes);
    Counter "tidings_checkpoints_total", "Checkpoints, by result: ok or failed.",
        |f, to| to.ways("result", [("ok", f.store.checkpoints), ("failed", f.store.checkpoints_failed)]);
    Gauge "tidings_checkpoint_time_seconds", "When the last checkpoint was finished, in seconds since the Unix epoch; 0 for never.",
        |f, to| to.one(f.store.checkpoint_time);

    Counter "tidings_archive_objects_total", "Objects for the archive, by outcome: uploaded, or skipped as already there.",
        |f, to| to.ways("outcome", [("uploaded", f.archive.uploaded), ("skipped", f.archive.skipped)]);
    Counter "tidings_archive_written_bytes_total", "Bytes of objects uploaded to the archive.",
        |f, to| to.one(f.archive.bytes);
    Counter "tidings_archive_failures_total", "Tries to bring the archive up to date that failed.",
        |f, to| to.one(f.archive.failures);
    Counter "tidings_archive_pruned_total", "Checkpoints deleted from the archive for their number or age.",
        |f, to| to.one(f.archive.pruned);
    Gauge "tidings_archive_time_seconds", "When a checkpoint was last archived, in seconds since the Unix epoch; 0 for not since the start.",
        |f, to| to.one(f.archive.success_time);
    Gauge "tidings_archive_behind_seconds", "For how long something sealed on disk has not been in the archive; 0 if all of it is, or there is no archive.",
        |f, to| to.one(f.archive.behind);

    Gauge "tidings_resp_clients", "Redis clients connected now.",
        |f, to| to.one(f.resp.clients);
    Counter "tidings_resp_connections_total", "Redis clients accepted.",
        |f, to| to.one(f.resp.accepted);
    Counter "tidings_resp_refused_total", "Redis clients refused or closed, by reason.",
        |f, to| to.by("reason", &f.resp.refused);
    Counter "tidings_resp_commands_total", "Redis commands executed.",
        |f, to| to.one(f.resp.commands);
    Counter "tidings_resp_errors_total", "Redis commands answered with an error.",
        |f, to| to.one(f.resp.errors);
    Counter "tidings_resp_malformed_total", "Frames from Redis clients that were not the protocol.",
        |f, to| to.one(f.resp.malformed);
};

/// Every histogram.
const TIMED: &[Metric] = metrics! {
    Histogram FSYNC, "Time of a forced write of the log to the disk.", DISK_SECONDS;
    Histogram COMMIT, "Ops that were written to the log together.", OPS;
};

/// The engine keeps this distribution itself, in its own buckets.
const LAGS: Metric = Metric {
    name: "tidings_propagation_seconds",
    help: "Time from a write at its origin to its apply here, by both nodes' clocks.",
    source: Source::Lags,
};

/// Every metric there is.
pub fn table() -> impl Iterator<Item = &'static Metric> {
    READ.iter().chain(TIMED).chain([&LAGS])
}

impl Metric {
    /// The unit that its name ends with, if it has one.
    pub fn unit(&self) -> Option<Unit> {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        match name.rsplit('_').next() {
            Some("seconds") => Some(Unit::Seconds),
            Some("bytes") => Some(Unit::Bytes),
            _ => None,
        }
    }
}

/// Takes the values of one metric.
#[derive(Debug)]
pub struct Samples {
    name: &'static str,
    counter: bool,
}

impl Samples {
    fn one(&mut self, value: u64) {
        self.put(&[], value);
    }

    fn by(&mut self, label: &'static str, counts: &ByLabel) {
        counts.iter().for_each(|(value, count)| self.put(&[(label, value)], *count));
    }

    fn ways<const N: usize>(&mut self, label: &'static str, counts: [(&'static str, u64); N]) {
        counts.into_iter().for_each(|(value, count)| self.put(&[(label, value)], count));
    }

    fn ways_by(&mut self, label: &'static str, ways: [(&'static str, &ByLabel); 2]) {
        for (way, counts) in ways {
            counts.iter().for_each(|(value, count)| self.put(&[(label, value), ("direction", way)], *count));
        }
    }

    fn put(&mut self, labels: &[(&'static str, &'static str)], value: u64) {
        if self.counter {
            metrics::counter!(self.name, labels_of(labels)).absolute(value);
        } else {
            metrics::gauge!(self.name, labels_of(labels)).set(value as f64);
        }
    }

    fn real(&mut self, value: f64) {
        metrics::gauge!(self.name).set(value);
    }
}

fn labels_of(labels: &[(&'static str, &'static str)]) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label::from_static_parts(name, value)).collect()
}

/// Sets the process's metrics up. Once per process; a second call gets handles that record nothing.
pub fn install() -> (PrometheusHandle, Timings) {
    let recorder = recorder();
    let handle = recorder.handle();
    let timings = metrics::with_local_recorder(&recorder, described);
    match metrics::set_global_recorder(recorder) {
        Ok(()) => (handle, timings),
        Err(_) => (handle, Timings::default()),
    }
}

fn recorder() -> PrometheusRecorder {
    let buckets = |metric: &Metric| match metric.source {
        Source::Histogram(bounds) => bounds,
        _ => unreachable!("the table of histograms holds histograms"),
    };
    let builder = TIMED.iter().fold(PrometheusBuilder::new(), |builder, metric| {
        let matcher = Matcher::Full(metric.name.to_owned());
        builder.set_buckets_for_metric(matcher, buckets(metric)).expect("there are buckets")
    });
    builder.build_recorder()
}

fn described() -> Timings {
    for metric in table() {
        let unit = metric.unit().unwrap_or(Unit::Count);
        match metric.source {
            Source::Counter(_) => metrics::describe_counter!(metric.name, unit, metric.help),
            Source::Gauge(_) => metrics::describe_gauge!(metric.name, unit, metric.help),
            Source::Lags => {}
            Source::Histogram(_) => metrics::describe_histogram!(metric.name, unit, metric.help),
        }
    }
    Timings { fsync_seconds: metrics::histogram!(FSYNC), commit_ops: metrics::histogram!(COMMIT) }
}

/// All metrics as they are now, in Prometheus's text format.
pub fn render(handle: &PrometheusHandle, facts: &Facts) -> String {
    publish(facts);
    let mut text = handle.render();
    let Metric { name, help, .. } = LAGS;
    _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
    let bounds =
        LAG_BOUNDS.iter().map(|millis| (*millis as f64 / 1e3).to_string()).chain(["+Inf".to_owned()]);
    let mut count = 0;
    for (bound, ops) in bounds.zip(facts.lags.buckets) {
        count += ops;
        _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
    }
    _ = writeln!(text, "{name}_sum {}\n{name}_count {count}", facts.lags.sum_millis as f64 / 1e3);
    text
}

/// Hands the facts to the process's recorder.
fn publish(facts: &Facts) {
    for metric in READ {
        let (read, counter) = match metric.source {
            Source::Counter(read) => (read, true),
            Source::Gauge(read) => (read, false),
            Source::Histogram(_) | Source::Lags => continue,
        };
        read(facts, &mut Samples { name: metric.name, counter });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut names = BTreeSet::new();
        for metric in table() {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("tidings_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert!(metric.help.ends_with('.'), "{name}: help is a sentence");
            let counter = matches!(metric.source, Source::Counter(_));
            assert_eq!(name.ends_with("_total"), counter, "{name}: counters and only they end in _total");
            let foreign = ["_ms", "_millis", "_micros", "_kib", "_mib", "_count", "_sum", "_bucket"];
            assert!(!foreign.iter().any(|unit| name.ends_with(unit)), "{name}: base units only");
            if let Source::Histogram(bounds) = metric.source {
                assert!(bounds.is_sorted(), "{name}");
            }
        }
    }

    #[test]
    fn facts_appear_under_their_names() {
        let recorder = recorder();
        let mut facts = Facts::default();
        facts.net.messages_sent.insert("push", 7);
        facts.net.clock_offset_ms = Some(-1_500);
        facts.ops.written = 41;
        facts.lags.buckets[0] = 2;
        facts.lags.buckets[16] = 1;
        facts.lags.sum_millis = 70_002;
        let text = metrics::with_local_recorder(&recorder, || {
            described().fsync_seconds.record(0.0001);
            publish(&facts);
            facts.ops.written = 42;
            render(&recorder.handle(), &facts)
        });
        for line in [
            "# TYPE tidings_messages_total counter",
            "tidings_messages_total{kind=\"push\",direction=\"sent\"} 7",
            "tidings_ops_applied_total{source=\"local\"} 42",
            "tidings_clock_offset_seconds -1.5",
            "# TYPE tidings_fsync_seconds histogram",
            "tidings_fsync_seconds_bucket{le=\"0.0001\"} 1",
            "# TYPE tidings_propagation_seconds histogram",
            "tidings_propagation_seconds_bucket{le=\"0.001\"} 2",
            "tidings_propagation_seconds_bucket{le=\"60\"} 2",
            "tidings_propagation_seconds_bucket{le=\"+Inf\"} 3",
            "tidings_propagation_seconds_sum 70.002",
            concat!("tidings_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for metric in table().filter(|metric| text.contains(&format!("# TYPE {} ", metric.name))) {
            assert!(text.contains(&format!("# HELP {} ", metric.name)), "{}", metric.name);
        }
    }
}
