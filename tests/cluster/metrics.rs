//! What a scraper and a probe see.

use std::collections::BTreeMap;

use super::cluster::Cluster;
use super::http;
use super::process::wait_for;
use super::resp::ok;

/// Series that the other tests, dashboards and alerts rest on.
const NEEDED: &[&str] = &[
    "tidings_build_info",
    "tidings_ready",
    "tidings_writes_stopped",
    "tidings_ops_applied_total",
    "tidings_ops_rejected_total",
    "tidings_ops_sent_total",
    "tidings_context_merges_total",
    "tidings_syncs_total",
    "tidings_quorum_reads_total",
    "tidings_quorum_reads_failed_total",
    "tidings_quorum_repairs_total",
    "tidings_connections_refused_total",
    "tidings_dial_failures_total",
    "tidings_conflict_keys",
    "tidings_peers_linked",
    "tidings_checkpoints_total",
    "tidings_log_disk_bytes",
    "tidings_resp_commands_total",
    "tidings_resp_malformed_total",
    "tidings_propagation_seconds",
    "tidings_fsync_seconds",
];

/// The name and the labels of a series; panics if it is not one.
fn parse(series: &str) -> (&str, Vec<(&str, &str)>) {
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').expect("labels end with }")),
        None => (series, ""),
    };
    assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{series}");
    let label = |label: &'_ str| -> (usize, usize) {
        let (key, value) = label.split_once('=').unwrap_or_else(|| panic!("{series}"));
        assert!(value.len() >= 2 && value.starts_with('"') && value.ends_with('"'), "{series}");
        (key.len(), value.len())
    };
    let labels = labels.split(',').filter(|text| !text.is_empty());
    let labels = labels.map(|text| {
        let (key, value) = label(text);
        (&text[..key], &text[text.len() - value + 1..text.len() - 1])
    });
    (name, labels.collect())
}

#[test]
fn metrics_can_be_read_and_have_what_is_needed() {
    let cluster = Cluster::start(2, &[]);
    assert_eq!(cluster.nodes[1].redis().call(&["SET", "k", "v"]), ok());
    cluster.wait_converged();
    let node = &cluster.nodes[0];
    let text = http::get(node.http, "/metrics").unwrap().body;
    let mut types = BTreeMap::new();
    let mut helped = None;
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split(' ').next();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(helped, Some(name), "a type without its help");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(types.insert(name, kind).is_none(), "{name} is there twice");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
            let (name, labels) = parse(series);
            let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let family = stem.filter(|stem| types.get(stem) == Some(&"histogram")).unwrap_or(name);
            assert!(types.contains_key(family), "{line} comes before its type");
            assert!(found.insert((name, labels), value).is_none(), "{line} is there twice");
        }
    }
    let missing: Vec<_> = NEEDED.iter().filter(|name| !types.contains_key(**name)).collect();
    assert!(missing.is_empty(), "{missing:?} are not in\n{text}");
    assert_eq!(found[&("tidings_ops_applied_total", vec![("source", "remote")])], 1.0);
    assert_eq!(found[&("tidings_peers_linked", vec![])], 1.0);
    assert_eq!(found[&("tidings_propagation_seconds_count", vec![])], 1.0);
}

#[test]
fn probes_and_the_page() {
    let cluster = Cluster::start(1, &[]);
    let node = &cluster.nodes[0];
    let ready = wait_for("readiness", || {
        let answer = http::get(node.http, "/readyz").map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(answer.body) } else { Err(answer.body) }
    });
    assert_eq!(ready, "ready\n");
    assert_eq!(http::get(node.http, "/healthz").unwrap().status, 200);
    assert_eq!(http::get(node.http, "/nowhere").unwrap().status, 404);
    let page = http::get(node.http, "/").unwrap().body;
    assert!(page.contains("n1") && page.contains("</html>"), "{page}");
}
