//! How files look: finished, short, introduced, and of no machine in particular.

use crate::source::{File, Tree, words};

const OURS: &[&str] = &["src/", "proto/", "tests/", "benches/", "fuzz/"];

/// This test names what it forbids.
fn is_rule(file: &File) -> bool {
    file.path.starts_with("tests/tidy/")
}

/// Complains of notes to oneself, of macros for unfinished work, and of tests that do not run.
pub(crate) fn unfinished(tree: &Tree) -> Vec<String> {
    const NOTES: &[&str] = &["TODO", "FIXME", "XXX"];
    const MACROS: &[&str] = &["todo!", "unimplemented!", "dbg!"];
    let mut complaints = Vec::new();
    for file in tree.0.iter().filter(|file| !is_rule(file)) {
        for note in NOTES {
            let here = words(&file.text, note).map(|at| at.min(file.code.len()));
            complaints.extend(here.map(|_| format!("{}: {note}: do it, or leave it out", file.path)));
        }
        if !file.path.ends_with(".rs") {
            continue;
        }
        for name in MACROS {
            complaints
                .extend(words(&file.code, name).map(|at| file.at(at, &format!("{name} is not for keeps"))));
        }
        let ignored = file.code.match_indices("#[ignore").map(|(at, _)| at);
        complaints.extend(ignored.map(|at| file.at(at, "a test that is not run tests nothing")));
    }
    complaints
}

/// Most lines of a file, and of a function.
const FILE_LINES: usize = 700;
const FUNCTION_LINES: usize = 80;

/// Files and functions (`path` or `path::function`) that may be longer, each with its reason.
const LONGER: &[(&str, &str)] = &[];

/// Complains of files and functions that are too long, and of exceptions that nobody needs.
pub(crate) fn sizes(tree: &Tree) -> Vec<String> {
    let mut long = Vec::new();
    for file in tree.rust(&["src/", "proto/"]) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES {
            long.push((file.path.clone(), format!("{}: {lines} lines, over {FILE_LINES}", file.path)));
        }
        for (name, at, lines) in functions(&file.code) {
            if lines > FUNCTION_LINES {
                let what = format!("`{name}` has {lines} lines, over {FUNCTION_LINES}");
                long.push((format!("{}::{name}", file.path), file.at(at, &what)));
            }
        }
    }
    let excused = |place: &str| LONGER.iter().any(|(known, _)| *known == place);
    let stale = LONGER.iter().filter(|(known, _)| !long.iter().any(|(place, _)| place == known));
    let stale: Vec<String> = stale.map(|(known, _)| format!("{known}: is no longer too long")).collect();
    long.into_iter().filter(|(place, _)| !excused(place)).map(|(_, what)| what).chain(stale).collect()
}

/// Every function with a body: its name, where it begins, and how many lines it has.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for at in words(code, "fn") {
        let rest = code[at + 2..].trim_start();
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(open) = code[at..].find(['{', ';']).map(|n| at + n) else { continue };
        if name.is_empty() || code[open..].starts_with(';') {
            continue;
        }
        let mut depth = 0;
        let close = code[open..].char_indices().find(|(_, c)| {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            depth == 0
        });
        let end = close.map_or(code.len(), |(n, _)| open + n);
        found.push((name, at, code[at..end].matches('\n').count() + 1));
    }
    found
}

/// Complains of source files that do not begin with a `//!` sentence.
pub(crate) fn openings(tree: &Tree) -> Vec<String> {
    let sources = tree.rust(OURS).filter(|file| !file.path.contains("/fuzz_targets/"));
    let mute = sources.filter(|file| !file.text.starts_with("//! ") && !file.text.trim().is_empty());
    mute.map(|file| format!("{}: does not begin with a `//!` that says what it is", file.path)).collect()
}

/// Complains of paths that exist on somebody's machine only.
pub(crate) fn machine_paths(tree: &Tree) -> Vec<String> {
    const ROOTS: &[&str] = &["/work/", "/root/", "/home/", "/Users/", "/mnt/", "/tmp/bash"];
    let mut complaints = Vec::new();
    for file in tree.0.iter().filter(|file| !is_rule(file)) {
        for root in ROOTS {
            let named =
                |at: &usize| !file.text[..*at].ends_with(|c: char| c.is_alphanumeric() || ".-_".contains(c));
            let hits = file.text.match_indices(root).map(|(at, _)| at).filter(named);
            complaints.extend(hits.map(|_| format!("{}: names a path below {root}", file.path)));
        }
    }
    complaints
}

#[test]
fn complains_of_the_unfinished() {
    for bad in [
        "// TODO: more",
        "//! FIXME",
        "/* XXX */",
        "fn f() { todo!() }",
        "fn f() { unimplemented!(\"x\") }",
        "fn f() { dbg!(1); }",
        "#[ignore]\nfn f() {}",
        "#[ignore = \"slow\"]",
    ] {
        assert_eq!(unfinished(&Tree::of("src/a.rs", bad)).len(), 1, "{bad}");
    }
    assert_eq!(unfinished(&Tree::of("README.md", "- TODO")).len(), 1);
    assert!(unfinished(&Tree::of("src/a.rs", "//! todo! is a word\nfn f() { \"dbg!\"; }")).is_empty());
}

#[test]
fn complains_of_length() {
    let body = "    g();\n".repeat(FUNCTION_LINES);
    let text = format!("//! A.\nfn f() {{\n{body}}}\nfn short() {{ if a {{ b }} }}\nfn none();\n");
    let complaints = sizes(&Tree::of("src/a.rs", &text));
    assert_eq!(complaints, [format!("src/a.rs:2: `f` has {} lines, over 80", FUNCTION_LINES + 2)]);
    let long = "//\n".repeat(FILE_LINES + 1);
    assert_eq!(sizes(&Tree::of("proto/src/a.rs", &long)).len(), 1);
    assert!(sizes(&Tree::of("src/a.rs", &"//\n".repeat(FILE_LINES))).is_empty());
}

#[test]
fn complains_of_files_without_an_opening() {
    assert_eq!(openings(&Tree::of("src/a.rs", "use std::fmt;\n//! Late.")).len(), 1);
    assert_eq!(openings(&Tree::of("tests/a.rs", "// A.\n")).len(), 1);
    assert!(openings(&Tree::of("src/a.rs", "//! What it is.\n")).is_empty());
}

#[test]
fn complains_of_machine_paths() {
    assert_eq!(machine_paths(&Tree::of("src/a.rs", "const A: &str = \"/root/x\";")).len(), 1);
    assert_eq!(machine_paths(&Tree::of("README.md", "cd /home/me/tidings")).len(), 1);
    assert!(
        machine_paths(&Tree::of("README.md", "see docs/work/plan and https://a.example/root/")).is_empty()
    );
}
