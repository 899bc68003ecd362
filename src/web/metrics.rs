//! Every metric: its name, type, unit and help, and where its value comes from.
//!
//! Counters and gauges are read from the node's plain facts at each scrape;
//! histograms are recorded as things happen, through the handles of [`Timings`].

use metrics::{Label, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

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
}

/// Upper bounds of durations, in seconds: 0.5 ms to 60 s, about two a doubling where it matters.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
];
/// The same for one visit to the disk, which can be shorter.
const DISK_SECONDS: &[f64] = &[
    0.000_05, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];
/// Upper bounds of batch sizes.
const OPS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0];

const FSYNC: &str = "tidings_fsync_seconds";
const COMMIT: &str = "tidings_commit_ops";
const PROPAGATION: &str = "tidings_propagation_seconds";

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

    Counter "tidings_pushes_total", "Pushes of news, by direction.",
        |f, to| to.ways("direction", [("sent", f.engine.pushes_sent), ("received", f.engine.pushes_received)]);
    Counter "tidings_pulls_total", "Requests for ops, by direction.",
        |f, to| to.ways("direction", [("sent", f.engine.pulls_sent), ("received", f.engine.pulls_received)]);
    Counter "tidings_syncs_total", "Rounds of anti-entropy ended, by result: equal, ops, merge or failed.",
        |f, to| to.by("result", &f.engine.syncs);
    Counter "tidings_context_merges_total", "Merges of whole states ended, by result: committed or aborted.",
        |f, to| to.by("result", &f.engine.merges);
    Counter "tidings_ops_sent_total", "Ops sent to peers, inline and as asked for.",
        |f, to| to.one(f.engine.ops_sent);
    Counter "tidings_ops_received_total", "Ops received from peers, duplicates included.",
        |f, to| to.one(f.engine.ops_received);
    Counter "tidings_ops_duplicate_total", "Ops received that had been applied already.",
        |f, to| to.one(f.engine.ops_duplicate);
    Counter "tidings_ops_applied_total", "Ops applied, by source: local, push, pull, sync or recovery.",
        |f, to| to.by("source", &f.engine.ops_applied);
    Gauge "tidings_ops_waiting", "Ops that wait for an earlier one of the same author.",
        |f, to| to.one(f.engine.ops_waiting);

    Gauge "tidings_keys", "Keys, by kind.",
        |f, to| to.ways("kind", [
            ("lww_register", f.engine.keys.lww_register), ("or_set", f.engine.keys.or_set),
            ("gcounter", f.engine.keys.gcounter), ("pncounter", f.engine.keys.pncounter),
        ]);
    Gauge "tidings_conflict_keys", "Keys with concurrent versions, and keys used as several kinds, by type.",
        |f, to| to.ways("type", [("versions", f.engine.conflicts.versions), ("kinds", f.engine.conflicts.kinds)]);
    Gauge "tidings_parked_removals", "Removals that wait for the write they name.",
        |f, to| to.one(f.engine.parked_removals);
    Gauge "tidings_seen_entries", "Entries of the version vector: one for each incarnation that ever wrote.",
        |f, to| to.one(f.engine.seen_entries);
    Gauge "tidings_data_memory_bytes", "Estimated memory of all data.",
        |f, to| to.one(f.engine.memory_bytes);
    Counter "tidings_writes_refused_total", "Writes refused, by reason: memory, disk or limit.",
        |f, to| to.by("reason", &f.engine.writes_refused);

    Gauge "tidings_members", "Members, this node included, by state: alive, suspect or down.",
        |f, to| to.ways("state", [
            ("alive", f.engine.members.alive), ("suspect", f.engine.members.suspect), ("down", f.engine.members.down),
        ]);
    Gauge "tidings_peers_linked", "Members that this node has a link to.",
        |f, to| to.one(f.net.peers_linked);
    Gauge "tidings_peers_behind", "Peers whose queue overflowed, so that they wait for anti-entropy.",
        |f, to| to.one(f.engine.peers_behind);
    Counter "tidings_messages_total", "Messages between nodes, by kind and direction.",
        |f, to| to.ways_by("kind", [("sent", &f.net.messages_sent), ("received", &f.net.messages_received)]);
    Counter "tidings_message_bytes_total", "Bytes of messages between nodes, by kind and direction.",
        |f, to| to.ways_by("kind", [("sent", &f.net.bytes_sent), ("received", &f.net.bytes_received)]);
    Counter "tidings_messages_dropped_total", "Messages dropped because a peer's queue was full; anti-entropy repairs it.",
        |f, to| to.one(f.net.dropped);
    Counter "tidings_connections_refused_total", "Connections from other nodes that were refused, by reason.",
        |f, to| to.by("reason", &f.net.refused);
    Counter "tidings_dial_failures_total", "Attempts to reach another node that failed.",
        |f, to| to.one(f.net.dial_failures);
    Gauge "tidings_clock_offset_seconds", "How far this node's clock is ahead of the median of its peers'.",
        |f, to| to.real(f.engine.clock_offset_ms as f64 / 1e3);
    Counter "tidings_clock_clamped_total", "Remote timestamps that were too far ahead to follow.",
        |f, to| to.one(f.engine.clock_clamped);

    Gauge "tidings_log_memory_bytes", "Size of the log of recent ops in memory.",
        |f, to| to.one(f.store.log.memory_bytes);
    Gauge "tidings_log_disk_bytes", "Size of the log of recent ops on disk.",
        |f, to| to.one(f.store.log.disk_bytes);
    Counter "tidings_log_records_total", "Records appended to the log on disk.",
        |f, to| to.one(f.store.log_records);
    Counter "tidings_log_written_bytes_total", "Bytes appended to the log on disk.",
        |f, to| to.one(f.store.log_bytes);
    Counter "tidings_checkpoints_total", "Checkpoints, by result: ok or failed.",
        |f, to| to.by("result", &f.store.checkpoints);
    Gauge "tidings_checkpoint_time_seconds", "When the last checkpoint was written, in seconds since the Unix epoch; 0 for never.",
        |f, to| to.one(f.store.checkpoint_time);

    Gauge "tidings_resp_clients", "Redis clients connected now.",
        |f, to| to.one(f.resp.clients);
    Counter "tidings_resp_connections_total", "Redis clients accepted.",
        |f, to| to.one(f.resp.accepted);
    Counter "tidings_resp_refused_total", "Redis clients refused or closed, by reason: limit, output or malformed.",
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
    Histogram PROPAGATION, "Time from a write at its origin, by the origin's clock, to its apply here.", SECONDS;
};

/// Every metric there is.
pub fn table() -> impl Iterator<Item = &'static Metric> {
    READ.iter().chain(TIMED)
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
            Source::Histogram(_) => metrics::describe_histogram!(metric.name, unit, metric.help),
        }
    }
    Timings {
        fsync_seconds: metrics::histogram!(FSYNC),
        commit_ops: metrics::histogram!(COMMIT),
        propagation_seconds: metrics::histogram!(PROPAGATION),
    }
}

/// Publishes the facts as they are now.
pub fn publish(facts: &Facts) {
    for metric in READ {
        let (read, counter) = match metric.source {
            Source::Counter(read) => (read, true),
            Source::Gauge(read) => (read, false),
            Source::Histogram(_) => continue,
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
        facts.engine.clock_offset_ms = -1_500;
        facts.engine.ops_applied.insert("local", 41);
        let text = metrics::with_local_recorder(&recorder, || {
            described().propagation_seconds.record(0.0004);
            publish(&facts);
            facts.engine.ops_applied.insert("local", 42);
            publish(&facts);
            recorder.handle().render()
        });
        for line in [
            "# TYPE tidings_messages_total counter",
            "tidings_messages_total{kind=\"push\",direction=\"sent\"} 7",
            "tidings_ops_applied_total{source=\"local\"} 42",
            "tidings_clock_offset_seconds -1.5",
            "# TYPE tidings_propagation_seconds histogram",
            "tidings_propagation_seconds_bucket{le=\"0.0005\"} 1",
            concat!("tidings_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for metric in table().filter(|metric| text.contains(&format!("# TYPE {} ", metric.name))) {
            assert!(text.contains(&format!("# HELP {} ", metric.name)), "{}", metric.name);
        }
    }
}
