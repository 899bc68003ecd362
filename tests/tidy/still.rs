//! The still zone: no waiting, no clock, no chance, no order that chance decides.

use crate::source::{File, Tree, words};

/// What has no place there, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("async", "the still zone does not wait"),
    ("await", "the still zone does not wait"),
    ("tokio", "the still zone does not wait"),
    ("Instant", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("UNIX_EPOCH", "time is an argument"),
    ("OffsetDateTime", "time is an argument"),
    ("thread_rng", "randomness is an argument"),
    ("ThreadRng", "randomness is an argument"),
    ("rand::rng", "randomness is an argument"),
    ("rand::random", "randomness is an argument"),
    ("HashMap", "iteration in an order that chance decides"),
    ("HashSet", "iteration in an order that chance decides"),
    ("RandomState", "iteration in an order that chance decides"),
    ("std::thread", "whoever calls decides on threads"),
    ("thread::spawn", "whoever calls decides on threads"),
    ("std::net", "messages are arguments"),
    ("std::env", "settings are arguments"),
    ("std::process", "the still zone ends no process"),
    ("println", "facts are returned, not printed"),
    ("eprintln", "facts are returned, not printed"),
    ("print", "facts are returned, not printed"),
    ("eprint", "facts are returned, not printed"),
];

/// What `core` and the engine leave to the live zone and the store may do: it reports what it repaired at the start.
const FORBIDDEN_IN_CORE: &[(&str, &str)] = &[
    ("tracing", "facts are returned, not logged"),
    ("metrics", "facts are returned, and counted at the door"),
    ("std::fs", "the disk is behind the engine's door"),
    ("std::io", "the disk is behind the engine's door"),
    ("Mutex", "whoever calls holds the one lock"),
    ("RwLock", "whoever calls holds the one lock"),
    ("AtomicU64", "whoever calls holds the one lock"),
];

/// `store/disk.rs` and `store/lock.rs` are the outside world, behind the trait `Disk`.
fn is_still(file: &File) -> bool {
    let path = file.path.as_str();
    let store = path.starts_with("src/store/") && !matches!(path, "src/store/disk.rs" | "src/store/lock.rs");
    (is_core(file) || store || path.starts_with("proto/src/")) && !file.is_test()
}

fn is_core(file: &File) -> bool {
    file.path.starts_with("src/core/") || file.path == "src/engine.rs"
}

/// Complains of everything in the still zone that moves by itself.
pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in tree.rust(&["src/", "proto/src/"]).filter(|file| is_still(file)) {
        let more = if is_core(file) { FORBIDDEN_IN_CORE } else { &[] };
        for (word, why) in FORBIDDEN.iter().chain(more) {
            complaints.extend(words(&file.code, word).map(|at| file.at(at, &format!("`{word}`: {why}"))));
        }
    }
    complaints
}

#[test]
fn complains_of_everything_forbidden() {
    for (word, _) in FORBIDDEN {
        for path in ["src/core/a.rs", "src/engine.rs", "src/store/log.rs", "proto/src/op.rs"] {
            let complaints = check(&Tree::of(path, &format!("fn f() {{\n {word} }}")));
            assert!(
                complaints.iter().any(|c| c.starts_with(&format!("{path}:2: `{word}`"))),
                "{word} in {path}"
            );
        }
    }
    for (word, _) in FORBIDDEN_IN_CORE {
        assert_eq!(check(&Tree::of("src/core/a.rs", word)).len(), 1, "{word}");
        assert!(check(&Tree::of("src/store/log.rs", word)).is_empty(), "{word}");
    }
}

#[test]
fn leaves_others_and_comments_alone() {
    let text = "// std::thread::spawn\n fn f() -> HashTable { \"await\" }";
    assert!(check(&Tree::of("src/core/a.rs", text)).is_empty());
    for path in ["src/store/disk.rs", "src/store/lock.rs", "src/store/tests/a.rs", "src/node/mod.rs"] {
        assert!(check(&Tree::of(path, "async fn f() { Instant::now() }")).is_empty(), "{path}");
    }
}
