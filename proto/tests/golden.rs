//! The golden vectors: bytes that every version of this protocol must keep
//! reading and writing. They are added to and never edited.
//!
//! A vector is a line `name: hex` in a file under `vectors/`; the comment above it
//! shows the value. A line `file length hash` of `vectors/MANIFEST` pins the first
//! `length` bytes of a file by their BLAKE3 hash. To add vectors, add values to the
//! catalogue and run this test with `TIDINGS_VECTORS=append`.

#![expect(clippy::disallowed_types, reason = "discriminants have no order, and none is wanted of them")]

mod catalogue;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Once;
use std::{env, fs};

use catalogue::{Family, Value, families};
use tidings_proto::{Actor, Block, Edit, Message, Name, Run, SeenEntries, Stamp, frame};

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "half a byte");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The vectors of a file, by name.
fn read(file: &str) -> BTreeMap<String, Vec<u8>> {
    let text = fs::read_to_string(path(file)).unwrap_or_default();
    let mut vectors = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, bytes) = line.split_once(": ").expect("a line is `name: hex`");
        assert!(vectors.insert(name.to_owned(), unhex(bytes)).is_none(), "{name} stands twice in {file}");
    }
    vectors
}

/// Appends what the catalogue has and the files lack, once, if asked to.
fn append_if_asked() {
    static ONCE: Once = Once::new();
    if env::var("TIDINGS_VECTORS").as_deref() == Ok("append") {
        ONCE.call_once(append);
    }
}

fn append() {
    for Family { file, vectors } in families() {
        let known = read(file);
        let mut text = fs::read_to_string(path(file)).unwrap_or_default();
        let before = text.len();
        for (name, value) in vectors.iter().filter(|(name, _)| !known.contains_key(*name)) {
            text += &format!("# {}\n{name}: {}\n\n", value.show(), hex(&value.encode()));
        }
        if text.len() > before {
            fs::write(path(file), &text).unwrap();
            let mut manifest = fs::read_to_string(path("MANIFEST")).unwrap_or_default();
            manifest += &format!("{file} {} {}\n", text.len(), blake3::hash(text.as_bytes()));
            fs::write(path("MANIFEST"), manifest).unwrap();
        }
    }
}

/// Whether `bytes` decode to `value`.
fn decodes(value: &Value, bytes: &[u8]) -> bool {
    match value {
        Value::Hello(hello) => frame::decode_hello(bytes).as_ref() == Ok(hello),
        Value::Message(message) => frame::decode_message(bytes).as_ref() == Ok(message),
        Value::HelloFrame(hello) => frame::decode_hello(&bytes[frame::PREFIX..]).as_ref() == Ok(hello),
        Value::Frame(message) => {
            let prefix = bytes[..frame::PREFIX].try_into().unwrap();
            frame::length(prefix, message.lane()) == Ok(bytes.len() - frame::PREFIX)
                && frame::decode_message(&bytes[frame::PREFIX..]).as_ref() == Ok(message)
        }
        Value::Op(op) => {
            let other = |node| Actor { node: Name::new(node).unwrap(), incarnation: 0 };
            let run = Run {
                actor: other("own"),
                first: 1 << 20,
                count: 1,
                base: Stamp(1_700_000_000_000 << 16),
                actors: vec![other("one"), other("two")],
                ops: bytes.to_vec(),
            };
            let ops: Vec<_> = Box::leak(Box::new(run)).iter().collect();
            ops == [Ok((1 << 20, op.clone()))]
        }
        Value::Run(run) => {
            let read: Run = postcard::from_bytes(bytes).unwrap();
            read.check().unwrap();
            &read == run && read.iter().all(|op| op.is_ok())
        }
        Value::Block(block) => Block::decode(bytes).as_ref() == Ok(block),
        Value::Seen(entries) => {
            let read: SeenEntries = postcard::from_bytes(bytes).unwrap();
            &read == entries && read.check().is_ok()
        }
        Value::Digest(entries) => entries.digest().0 == bytes,
    }
}

#[test]
fn every_value_encodes_to_its_vector_and_back() {
    append_if_asked();
    for Family { file, vectors } in families() {
        let mut golden = read(file);
        for (name, value) in vectors {
            let bytes = golden.remove(name).unwrap_or_else(|| panic!("{name} is not in {file}"));
            assert_eq!(hex(&value.encode()), hex(&bytes), "{name}");
            assert!(decodes(&value, &bytes), "{name}");
        }
        assert!(golden.is_empty(), "{file} has vectors that the catalogue lacks: {:?}", golden.keys());
    }
}

#[test]
fn vectors_are_added_to_and_never_edited() {
    append_if_asked();
    let mut pinned: BTreeMap<&str, usize> = BTreeMap::new();
    let manifest = fs::read_to_string(path("MANIFEST")).unwrap();
    for line in manifest.lines() {
        let mut words = line.split(' ');
        let (file, length, hash) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let length: usize = length.parse().unwrap();
        let bytes = fs::read(path(file)).unwrap();
        assert!(bytes.len() >= length, "{file} has become shorter");
        assert_eq!(blake3::hash(&bytes[..length]).to_string(), hash, "the first {length} bytes of {file}");
        pinned.insert(file, length);
    }
    let files: BTreeSet<&str> = families().iter().map(|family| family.file).collect();
    assert_eq!(pinned.keys().copied().collect::<BTreeSet<_>>(), files, "the catalogue names other files");
    for (file, length) in pinned {
        let now = fs::metadata(path(file)).unwrap().len();
        assert_eq!(now, length as u64, "{file} has lines that no line of MANIFEST pins");
    }
    let found = fs::read_dir(path("")).unwrap().count();
    assert_eq!(found, files.len() + 1, "vectors/ holds a file that nothing reads");
}

/// The edit's name. A new variant does not compile until it is named here, and
/// does not pass until it has a vector.
fn edit_name<D>(edit: &Edit<'_, D>) -> &'static str {
    match edit {
        Edit::Write { .. } => "write",
        Edit::Erase { .. } => "erase",
        Edit::Add { .. } => "add",
        Edit::Remove { .. } => "remove",
        Edit::Count { .. } => "count",
        Edit::Reset { .. } => "reset",
        Edit::Close { .. } => "close",
        Edit::Clear { .. } => "clear",
        Edit::Elided { .. } => "elided",
    }
}

#[test]
fn every_variant_has_a_vector() {
    let (mut kinds, mut edits) = (BTreeSet::new(), BTreeSet::new());
    let (mut merge, mut cells) = (HashSet::new(), HashSet::new());
    for (_, value) in families().into_iter().flat_map(|family| family.vectors) {
        match value {
            Value::Message(message) => {
                kinds.insert(message.kind());
                if let Message::Sync(sync) = message {
                    merge.insert(std::mem::discriminant(&sync));
                }
            }
            Value::Op(op) => edits.extend(op.edits.iter().map(edit_name)),
            Value::Block(block) => {
                cells.extend(block.keys.iter().flat_map(|key| &key.cells).map(std::mem::discriminant));
            }
            _ => {}
        }
    }
    assert_eq!(kinds, Message::KINDS.iter().copied().collect());
    assert_eq!(edits.len(), 9, "{edits:?}");
    assert_eq!(merge.len(), 13, "every variant of Sync");
    assert_eq!(cells.len(), 3, "every variant of CellState");
}

/// The specification promises that no vector, cut short, is a value of its own.
#[test]
fn a_vector_cut_short_is_refused() {
    for (name, value) in families().into_iter().flat_map(|family| family.vectors) {
        let bytes = value.encode();
        if !matches!(value, Value::Digest(_) | Value::Frame(_) | Value::HelloFrame(_)) {
            let cut = std::panic::catch_unwind(|| decodes(&value, &bytes[..bytes.len() - 1]));
            assert!(!cut.unwrap_or(false), "{name}");
        }
    }
}

/// The table of bounds in the specification says what the code does.
#[test]
fn the_specification_has_the_bounds() {
    use tidings_proto::bounds::*;
    let spec = fs::read_to_string(path("../SPEC.md")).unwrap();
    macro_rules! stands {
        ($($name:ident)*) => {$(
            let row = format!("| {} | {} |", stringify!($name), thousands($name));
            assert!(spec.contains(&row), "SPEC.md lacks {row}");
        )*};
    }
    stands!(NAME KEY ELEMENT VALUE ITEMS EDITS DOTS OP RUN_OPS RUNS ACTORS BATCH BLOCK HELLO_FRAME NEWS_FRAME);
    stands!(BULK_FRAME NAMES SEEN NARROW FETCH PULL_KEYS PARKED MEMBERS ADDRESSES TEXT FIGURES);
}

fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|g| std::str::from_utf8(g).unwrap()).collect();
    groups.join(",")
}
