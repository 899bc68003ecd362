//! What dashboards and alert rules name exists, and the rules do what their tests say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tidings::web::metrics::{Source, table};

fn dashboards() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards")
}

fn read(file: &str) -> String {
    let path = dashboards().join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every word of a text that looks like the name of a metric.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("tidings_")).collect()
}

/// Every name under which the table's metrics are exposed.
fn exposed() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for metric in table() {
        match metric.source {
            Source::Histogram(_) | Source::Lags => {
                names.extend(["_bucket", "_sum", "_count"].map(|part| format!("{}{part}", metric.name)));
            }
            Source::Counter(_) | Source::Gauge(_) => _ = names.insert(metric.name.to_owned()),
        }
    }
    names
}

#[test]
fn every_metric_named_is_exposed() {
    let exposed = exposed();
    for file in ["tidings.json", "tidings.rules.yml", "tidings.rules.test.yml"] {
        let text = read(file);
        let unknown: Vec<_> = named(&text).into_iter().filter(|name| !exposed.contains(*name)).collect();
        assert!(unknown.is_empty(), "{file} names metrics that do not exist: {unknown:?}");
    }
}

#[test]
fn every_alert_is_tested() {
    let (rules, tests) = (read("tidings.rules.yml"), read("tidings.rules.test.yml"));
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        assert!(tests.contains(alert), "{alert} fires in no test");
    }
}

#[test]
fn the_dashboard_is_whole() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("tidings.json")).unwrap();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}: its id is not its own", panel["title"]);
        if panel["type"] != "row" {
            assert!(
                panel["description"].as_str().is_some_and(|text| text.ends_with('.')),
                "{}",
                panel["title"]
            );
            assert!(
                panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()),
                "{}",
                panel["title"]
            );
        }
    }
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(dashboards()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("promtool cannot be started ({error}); Debian has it in the package `prometheus`")
    });
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {}:\n{said}", arguments.join(" "));
}

#[test]
fn promtool_accepts_the_rules() {
    promtool(&["check", "rules", "tidings.rules.yml"]);
}

/// As recording rules, with Grafana's variables filled in.
#[test]
fn promtool_accepts_the_panels() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("tidings.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let expression = |target: &serde_json::Value| {
        let text = target["expr"].as_str().expect("a target has an expression");
        text.replace("$__rate_interval", "5m").replace("$instance", ".*")
    };
    let rule =
        |(at, target)| serde_json::json!({ "record": format!("panel:{at}"), "expr": expression(target) });
    let rules: Vec<_> = targets.enumerate().map(rule).collect();
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    let groups = serde_json::json!({ "groups": [{ "name": "panels", "rules": rules }] });
    fs::write(file.path(), groups.to_string()).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()]);
}

#[test]
fn the_rules_fire_when_they_should() {
    promtool(&["test", "rules", "tidings.rules.test.yml"]);
}
