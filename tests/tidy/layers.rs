//! Which room may import which.

use crate::source::{File, Tree};

/// The rooms from the ground up. A room sees those on lower floors and itself; so the doors, all on one floor, do
/// not see each other. `config` knows settings, `http` bounds connections, `archive` copies files of the store: none
/// knows a node.
const FLOORS: &[&[&str]] = &[
    &["core"],
    &["store"],
    &["engine"],
    &["config", "http"],
    &["archive"],
    &["node"],
    &["net", "resp", "admin", "web"],
    &["sidecar"],
    &["cli"],
];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// Complains of imports that point up or sideways, and of rooms without a floor.
pub(crate) fn check(tree: &Tree) -> Vec<String> {
    tree.rust(&["src/"]).flat_map(check_file).collect()
}

fn check_file(file: &File) -> Vec<String> {
    let Some(room) = room_of(&file.path) else { return Vec::new() };
    let Some(own) = floor(room) else {
        return vec![format!("{}: the room `{room}` has no floor in tests/tidy/layers.rs", file.path)];
    };
    let mut complaints = Vec::new();
    for (at, seen) in imports(&file.code) {
        match floor(&seen) {
            _ if seen == room => {}
            Some(other) if other < own => {}
            Some(_) => complaints.push(file.at(at, &format!("`{room}` must not know `{seen}`"))),
            None => complaints.push(file.at(at, &format!("`crate::{seen}` has no floor"))),
        }
    }
    complaints.extend(escapes(file));
    complaints
}

/// `src/core/link.rs` and `src/core/mod.rs` are of `core`; `lib.rs` and `main.rs` of none.
fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?.trim_end_matches(".rs");
    let room = inside.split('/').next()?;
    (!matches!(room, "lib" | "main")).then_some(room)
}

/// The rooms named after `crate::`, also in `crate::{a, b::{c}}`, and where.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push((at, name(rest))),
            Some(group) => found.extend(heads(group).into_iter().map(|head| (at, head))),
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first names of the items of a group, up to its closing brace.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut expects) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => expects = true,
            c if expects && !c.is_whitespace() => {
                heads.push(name(&group[at..]));
                expects = false;
            }
            _ => {}
        }
    }
    heads
}

/// `super` must not climb out of the room, where this rule would not see what it finds.
fn escapes(file: &File) -> Vec<String> {
    let inside = file.path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let deep = inside.split('/').count();
    let mut complaints = Vec::new();
    let mut from = 0;
    while let Some(at) = file.code[from..].find("super::").map(|at| from + at) {
        let chain = file.code.as_bytes()[at..].chunks(7).take_while(|part| *part == b"super::").count();
        let nested = usize::from(file.code[..at].contains("mod tests {"));
        if chain >= deep + nested {
            complaints.push(file.at(at, "`super` leaves the room; write `crate::`"));
        }
        from = at + 7 * chain;
    }
    complaints
}

#[test]
fn complains_of_every_wrong_direction() {
    let bad = |path: &str, text: &str| !check(&Tree::of(path, text)).is_empty();
    assert!(bad("src/core/a.rs", "use crate::engine::Input;"));
    assert!(bad("src/store/a.rs", "use crate::node::Node;"));
    assert!(bad("src/engine.rs", "fn f() { crate::node::go() }"));
    assert!(bad("src/node/a.rs", "use crate::{engine, net::Net};"));
    assert!(bad("src/web/a.rs", "use crate::{node::{a, b}, admin};"));
    assert!(bad("src/sidecar.rs", "use crate::cli::run;"));
    assert!(bad("src/attic/a.rs", ""));
    assert!(bad("src/net/a.rs", "use crate::attic;"));
    assert!(bad("src/core/a.rs", "use super::super::node;"));
    assert!(bad("src/engine.rs", "use super::node;"));
}

#[test]
fn accepts_the_right_direction() {
    let good = |path: &str, text: &str| check(&Tree::of(path, text)).is_empty();
    assert!(good("src/net/a.rs", "use crate::{core, node::Node}; use crate::net::tls;"));
    assert!(good("src/core/a.rs", "use super::b; // use crate::node;\n mod tests { use super::super::c; }"));
    assert!(good("src/cli/mod.rs", "use crate::sidecar::Sidecar;"));
    assert!(good("src/lib.rs", "use crate::cli;"));
}
