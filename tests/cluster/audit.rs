//! Rot in memory and on disk, found by audits and mended: a bit is flipped in a running process, and in a file.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};

use super::cluster::{Cluster, path};
use super::process::{Outcome, wait_equal, wait_for};
use super::resp::{bulk, ok};

/// Flips the first bit of every place in the heap of a process that holds `marker`. Says how many there were.
fn flip_in_memory(process: u32, marker: &[u8]) -> usize {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let mut memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{process}/mem")).unwrap();
    let mut flipped = 0;
    for line in maps.lines().filter(|line| line.split(' ').nth(1) == Some("rw-p")) {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        memory.seek(SeekFrom::Start(start)).unwrap();
        if memory.read_exact(&mut bytes).is_err() {
            continue;
        }
        for at in bytes.windows(marker.len()).enumerate().filter(|(_, w)| *w == marker).map(|(at, _)| at) {
            memory.seek(SeekFrom::Start(start + at as u64)).unwrap();
            memory.write_all(&[marker[0] ^ 1]).unwrap();
            flipped += 1;
        }
    }
    flipped
}

#[test]
fn a_bit_that_flips_in_memory_is_found_and_mended() {
    // No op stays in memory beside the cells, and none but the audit asked for takes place.
    let cluster = Cluster::start(2, &["--log-memory", "0", "--audit-interval", "0s"]);
    let [a, b] = [&cluster.nodes[0], &cluster.nodes[1]];
    let value = "a value that stands nowhere else, and is long enough to be found again ".repeat(40);
    let mut redis = a.redis();
    assert_eq!(redis.call(&["SET", "rotten", &value]), ok());
    for i in 0..200 {
        assert_eq!(redis.call(&["SET", &format!("key:{i}"), "sound"]), ok());
    }
    cluster.wait_converged();
    assert!(a.run(&["audit"]).done().contains("201 keys, sound"));
    assert!(flip_in_memory(a.id(), &value.as_bytes()[..64]) > 0);
    assert_ne!(redis.call(&["GET", "rotten"]), bulk(&value), "the bit has flipped");
    let Outcome { code, err: why, .. } = a.run(&["audit"]);
    assert_eq!(code, Some(1));
    assert!(why.contains("1 ranges have rotted"), "{why}");
    wait_equal("the value as it was", &bulk(&value), || redis.call(&["GET", "rotten"]));
    wait_for("a sound audit", || match a.run(&["audit"]).out.contains("201 keys, sound") {
        true => Ok(()),
        false => Err(a.log()),
    });
    assert_eq!((a.metric("tidings_repaired_ranges_total"), b.metric("tidings_divergences_total")), (1, 0));
    assert!(a.log().contains("memory has rotted"));
}

/// Without any audit: the exchange of two that have seen the same finds it, once the key has been written to, and a
/// checkpoint does when it comes to it.
#[test]
fn a_bit_that_flips_in_memory_is_found_before_it_gets_anywhere() {
    let flags = ["--log-memory", "0", "--audit-interval", "0s", "--anti-entropy-interval", "300ms"];
    let cluster = Cluster::start(2, &flags);
    let [a, b] = [&cluster.nodes[0], &cluster.nodes[1]];
    let archive = format!("file://{}", path(&cluster.dir.path().join("archive")));
    let value = "a value that stands nowhere else, and is long enough to be found again ".repeat(40);
    let mut redis = a.redis();
    for i in 0..50 {
        assert_eq!(redis.call(&["SET", &format!("key:{i}"), "sound"]), ok());
    }
    assert_eq!(redis.call(&["SET", "rotten", &value]), ok());
    cluster.wait_converged();
    assert!(flip_in_memory(a.id(), &value.as_bytes()[..64]) > 0);
    assert_ne!(redis.call(&["GET", "rotten"]), bulk(&value), "the bit has flipped");
    // The fingerprints of `a` are then of a value that was never there.
    assert_eq!(b.redis().call(&["SET", "rotten", "newer"]), ok());
    wait_equal("a range replaced", &1, || a.metric("tidings_repaired_ranges_total"));
    assert!(a.metric("tidings_divergences_total") > 0);
    assert_eq!((a.metric("tidings_audits_total"), b.metric("tidings_repaired_ranges_total")), (0, 0));
    assert_eq!(redis.call(&["GET", "rotten"]), bulk("newer"));

    assert_eq!(redis.call(&["SET", "rotten", &value]), ok());
    cluster.wait_converged();
    assert!(flip_in_memory(a.id(), &value.as_bytes()[..64]) > 0);
    // A backup makes a checkpoint.
    let Outcome { code, err: why, .. } = a.run(&["backup", "--to", &archive]);
    assert_eq!(code, Some(1), "{why}");
    wait_equal("the value as it was", &bulk(&value), || redis.call(&["GET", "rotten"]));
    a.run(&["backup", "--to", &archive]).done();
    assert!(a.run(&["audit"]).done().contains("51 keys, sound"));
}

#[test]
fn a_bit_that_flips_in_a_checkpoint_is_found_and_superseded() {
    let mut cluster = Cluster::start(2, &["--audit-interval", "0s"]);
    let archive = format!("file://{}", path(&cluster.dir.path().join("archive")));
    let node = &mut cluster.nodes[0];
    let mut redis = node.redis();
    for i in 0..500 {
        assert_eq!(redis.call(&["SET", &format!("key:{i}"), "sound"]), ok());
    }
    // A backup makes a checkpoint.
    node.run(&["backup", "--to", &archive]).done();
    assert!(node.run(&["audit"]).done().contains("sealed files, sound"));
    let file = fs::read_dir(&node.dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files =
        file.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("checkpoint-"));
    let file = files.next().expect("a checkpoint");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    fs::write(&file, bytes).unwrap();
    assert_eq!(redis.call(&["SET", "key:1", "newer"]), ok());
    let Outcome { code, err: why, .. } = node.run(&["audit"]);
    assert_eq!(code, Some(1));
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    assert!(why.contains(&name) && why.contains("a new checkpoint was written over it"), "{why}");
    assert!(node.run(&["audit"]).done().contains("sealed files, sound"));
    node.kill();
    node.start();
    let mut redis = node.redis();
    assert_eq!(redis.call(&["GET", "key:1"]), bulk("newer"));
    assert_eq!(redis.call(&["GET", "key:499"]), bulk("sound"));
}
