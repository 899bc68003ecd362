//! What the documents say is so.

use std::collections::BTreeSet;

use tidings::config::KNOBS;

use crate::source::{Tree, words};

const DOCUMENTS: &[&str] = &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];

fn text<'a>(tree: &'a Tree, path: &str) -> &'a str {
    tree.get(path).map_or("", |file| &file.text)
}

/// The rows of all tables of a document, as cells.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = text.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    rows.map(|row| row.split('|').map(str::trim).collect())
}

/// Every dependency has a row in ARCHITECTURE.md: its name, and one sentence on why.
pub(crate) fn dependencies(tree: &Tree) -> Vec<String> {
    let explained: BTreeSet<&str> = rows(text(tree, "ARCHITECTURE.md"))
        .filter(|row| row.len() > 1 && row[1].len() > 10)
        .flat_map(|row| row[0].split(','))
        .map(|name| name.trim().trim_matches('`'))
        .collect();
    let mut complaints = Vec::new();
    for manifest in tree.0.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        for name in named(&manifest.text).into_iter().filter(|name| !name.starts_with("tidings")) {
            if !explained.contains(name.as_str()) {
                complaints.push(format!("{}: ARCHITECTURE.md does not say why `{name}`", manifest.path));
            }
        }
    }
    complaints
}

/// The dependencies that a manifest names.
fn named(manifest: &str) -> BTreeSet<String> {
    let parsed: toml::Table = manifest.parse().expect("a manifest is TOML");
    let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = sections.iter().filter_map(|section| parsed.get(*section)?.as_table());
    tables.flat_map(|table| table.keys().cloned()).collect()
}

/// Every dependency is used by the crate that asks for it.
pub(crate) fn unused(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    // The fuzz targets include sources of tests/corpus, where their dependencies are used.
    for manifest in
        tree.0.iter().filter(|file| file.path.ends_with("Cargo.toml") && !file.path.starts_with("fuzz/"))
    {
        let home = manifest.path.trim_end_matches("Cargo.toml");
        let roots =
            ["src/", "tests/", "benches/", "examples/", "fuzz_targets/"].map(|dir| format!("{home}{dir}"));
        let roots: Vec<&str> = roots.iter().map(String::as_str).collect();
        let used = |name: &str| tree.rust(&roots).any(|file| words(&file.code, name).next().is_some());
        // Derives of serde may name it in attributes alone, where it is text.
        let derived = |name: &str| tree.rust(&roots).any(|file| file.text.contains(&format!("\"{name}")));
        for name in named(&manifest.text) {
            let name = name.replace('-', "_");
            if !used(&name) && !derived(&name) {
                complaints.push(format!("{}: nobody uses `{name}`", manifest.path));
            }
        }
    }
    complaints
}

/// README's table of settings has every knob with its default, and no others.
pub(crate) fn knobs(tree: &Tree) -> Vec<String> {
    let readme = text(tree, "README.md");
    let (_, section) = readme.split_once("\n## Configuration").unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let told: Vec<Vec<&str>> = rows(section).filter(|row| row[0].starts_with('`')).collect();
    let mut complaints = Vec::new();
    for knob in KNOBS {
        let name = format!("`{}`", knob.name);
        let default = format!("`{}`", knob.default);
        match told.iter().find(|row| row[0] == name) {
            None => complaints.push(format!("README.md: the table of settings lacks {name}")),
            Some(row) if !knob.default.is_empty() && row.get(1) != Some(&default.as_str()) => {
                complaints.push(format!("README.md: the default of {name} is {default}"));
            }
            Some(_) => {}
        }
    }
    let known = |row: &&Vec<&str>| KNOBS.iter().any(|knob| row[0] == format!("`{}`", knob.name));
    complaints
        .extend(told.iter().filter(|row| !known(row)).map(|row| format!("README.md: no knob {}", row[0])));
    complaints
}

/// Every `tidings_...` in a document is a metric that is emitted.
pub(crate) fn metrics(tree: &Tree) -> Vec<String> {
    let names: BTreeSet<&str> = tidings::web::metrics::table().map(|metric| metric.name).collect();
    let mut complaints = Vec::new();
    for path in DOCUMENTS {
        for token in ticked(text(tree, path)).filter(|token| token.starts_with("tidings_")) {
            let name = token.split('{').next().unwrap_or_default();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let crate_name = matches!(name, "tidings_proto");
            if !crate_name && !names.contains(name) && !base.is_some_and(|base| names.contains(base)) {
                complaints.push(format!("{path}: no metric `{name}`"));
            }
        }
    }
    complaints
}

/// What stands between single backticks, outside of blocks of code.
fn ticked(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2))
}

/// Every path below `src/` and `proto/` in a document exists, and the file of a `path::function` has that function.
pub(crate) fn places(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for document in DOCUMENTS {
        let named = ticked(text(tree, document)).filter(|t| t.starts_with("src/") || t.starts_with("proto/"));
        for token in named.filter(|token| !token.contains(['*', ' ', '{'])) {
            let (path, item) =
                token.split_once("::").map_or((token, None), |(path, item)| (path, Some(item)));
            let dir = path.ends_with('/') && tree.0.iter().any(|file| file.path.starts_with(path));
            match (tree.get(path), item) {
                (None, _) if !dir => complaints.push(format!("{document}: there is no {path}")),
                (Some(file), Some(item)) if words(&file.code, item).next().is_none() => {
                    complaints.push(format!("{document}: {path} has no `{item}`"));
                }
                _ => {}
            }
        }
    }
    complaints
}

/// The script of continuous integration ends with the command that README gives for the tests.
pub(crate) fn ci(tree: &Tree) -> Vec<String> {
    const TEST: &str = "cargo test --workspace";
    let mut complaints = Vec::new();
    if !text(tree, "README.md").lines().any(|line| line.trim() == TEST) {
        complaints.push(format!("README.md: does not give `{TEST}` on a line of its own"));
    }
    let script = text(tree, ".ci/run");
    let commands: Vec<&str> = script.lines().map(str::trim).collect();
    let strict = commands.contains(&"set -euo pipefail");
    let tested =
        commands.iter().rposition(|line| line.starts_with("cargo ")).map(|at| commands[at]) == Some(TEST);
    if !strict || !tested {
        complaints.push(format!(".ci/run: is not strict, or its last cargo command is not `{TEST}`"));
    }
    complaints
}

#[test]
fn complains_of_an_unexplained_dependency() {
    let manifest = "[dependencies]\nserde = \"1\"\n[dev-dependencies]\ntempfile = \"3\"\n";
    let table = "| `serde` | encodes every message |\n";
    let tree = Tree::of("Cargo.toml", manifest).with("ARCHITECTURE.md", table);
    assert_eq!(dependencies(&tree), ["Cargo.toml: ARCHITECTURE.md does not say why `tempfile`"]);
    let tree = Tree::of("Cargo.toml", manifest).with("ARCHITECTURE.md", "| `serde`, `tempfile` | why |\n");
    assert_eq!(dependencies(&tree).len(), 2, "a row without a sentence explains nothing");
}

#[test]
fn complains_of_an_unused_dependency() {
    let manifest = "[dependencies]\nserde = \"1\"\nserde-bytes = \"1\"\ntime = \"1\"\n";
    let tree = Tree::of("a/Cargo.toml", manifest)
        .with(
            "a/src/lib.rs",
            "use serde::Serialize; struct A(#[serde(with = \"serde_bytes\")] Vec<u8>); // time",
        )
        .with("b/src/lib.rs", "use time::Date;");
    assert_eq!(unused(&tree), ["a/Cargo.toml: nobody uses `time`"]);
}

#[test]
fn complains_of_missing_wrong_and_unknown_knobs() {
    let row = |name: &str, default: &str| format!("| `{name}` | `{default}` | what it does |\n");
    let all: String = KNOBS.iter().map(|knob| row(knob.name, knob.default)).collect();
    let readme = |table: &str| Tree::of("README.md", &format!("# a\n## Configuration\n\n{table}\n## b\n"));
    assert!(knobs(&readme(&all)).is_empty());
    assert_eq!(knobs(&Tree::default()).len(), KNOBS.len());
    assert_eq!(knobs(&readme(&all.replace("`30s`", "`31s`"))).len(), 1);
    assert_eq!(knobs(&readme(&(all + &row("volume", "11")))), ["README.md: no knob `volume`"]);
}

#[test]
fn complains_of_metrics_and_places_that_are_not() {
    let tree =
        Tree::of("README.md", "`tidings_nonsense_total` `tidings_ready` `tidings_fsync_seconds_bucket{le}`");
    assert_eq!(metrics(&tree), ["README.md: no metric `tidings_nonsense_total`"]);
    let tree = Tree::of("ARCHITECTURE.md", "`src/a.rs::go` `src/a.rs::gone` `src/b.rs` `src/` `src/*.rs`")
        .with("src/a.rs", "fn go() {} // gone");
    let complaints = places(&tree);
    assert_eq!(
        complaints,
        ["ARCHITECTURE.md: src/a.rs has no `gone`", "ARCHITECTURE.md: there is no src/b.rs"]
    );
}

#[test]
fn complains_when_ci_runs_something_else() {
    let good = "set -euo pipefail\ncargo test --workspace\necho done\n";
    let readme = "    cargo test --workspace\n";
    assert!(ci(&Tree::of("README.md", readme).with(".ci/run", good)).is_empty());
    assert_eq!(ci(&Tree::of("README.md", readme).with(".ci/run", &good.replace("-euo", "-e"))).len(), 1);
    assert_eq!(
        ci(&Tree::of("README.md", readme).with(".ci/run", &good.replace("--workspace", "--lib"))).len(),
        1
    );
    assert_eq!(ci(&Tree::of("README.md", "cargo test").with(".ci/run", good)).len(), 1);
}
