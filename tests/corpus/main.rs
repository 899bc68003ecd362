//! The fuzz targets in the ordinary tests: what `fuzz/` lets a fuzzer choose bytes for runs here over all corpora.

#![allow(unreachable_pub)] // A test has no outside; `pub` here means: used by the other modules.

mod bytes;
#[allow(dead_code, reason = "the laws need more of it")]
#[path = "../laws/dump.rs"]
mod dump;
mod engine;
mod forge;
mod resp;
mod store;
mod wire;

use std::fs;
use std::path::PathBuf;

/// Most bytes of all corpora together: they live in the repository.
const CORPUS_BYTES: u64 = 1 << 20;

fn corpus(target: &str) -> Vec<PathBuf> {
    let home = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn run(target: &str, body: fn(&[u8])) {
    let files = corpus(target);
    assert!(!files.is_empty(), "no corpus for {target}");
    for file in files {
        // The last of these names the file that a panic is about.
        println!("{}", file.display());
        body(&fs::read(&file).unwrap());
    }
}

#[test]
fn wire() {
    run("wire", wire::run);
}

#[test]
fn resp() {
    run("resp", resp::run);
}

#[test]
fn store() {
    run("store", store::run);
}

#[test]
fn engine() {
    run("engine", engine::run);
}

#[test]
fn the_corpora_are_small() {
    let files = ["wire", "resp", "store", "engine"].into_iter().flat_map(corpus);
    let bytes: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes < CORPUS_BYTES, "{bytes} bytes: minimise them with `cargo fuzz cmin`");
}
