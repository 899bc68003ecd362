//! Backups of real nodes to a real S3 server, which keeps, rots and refuses.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::archive::{assert_there, lose_disk, write};
use super::cluster::{Cluster, Node, REALM, path};
use super::process::{Outcome, TIDINGS, outcome, wait_for, wait_until};
use super::s3::{ACCESS_KEY, BUCKET, S3, SECRET_KEY};

/// Settings for the server, with this secret.
fn s3_settings(s3: &S3, secret: &str) -> Vec<String> {
    let endpoint = s3.endpoint();
    let words = [
        "--archive",
        &format!("s3://{BUCKET}/deep/prefix"),
        "--archive-endpoint",
        &endpoint,
        "--archive-region",
        "eu-central-1",
        "--archive-access-key",
        ACCESS_KEY,
        "--archive-secret-key",
        secret,
    ];
    words.map(str::to_owned).to_vec()
}

/// The program with the server's keys where Amazon's own tools look for them.
fn with_keys(s3: &S3, words: &[&str]) -> Outcome {
    let mut command = Command::new(TIDINGS);
    command.args(words).env("TIDINGS_ARCHIVE_ENDPOINT", s3.endpoint());
    outcome(command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY))
}

/// The files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).collect()
}

#[test]
fn s3_holds_backups_and_gives_them_back() {
    let s3 = S3::start();
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.nodes[0].settings.extend(s3_settings(&s3, SECRET_KEY));
    cluster.start_all();
    let node = &cluster.nodes[0];
    write(node, "kept");
    let first = node.run(&["backup"]).done().trim().to_owned();
    let uploaded = node.metric("tidings_archive_objects_total{outcome=\"uploaded\"}");
    assert!(uploaded > 0);
    write(node, "more");
    let second = node.run(&["backup"]).done().trim().to_owned();
    let from = format!("s3://{BUCKET}/deep/prefix");
    let listed = with_keys(&s3, &["backups", &from, "--json"]).json();
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, [&second, &first]);
    for shown in [node.run(&["config", "show"]).done(), node.run(&["status"]).done(), node.log()] {
        assert!(!shown.contains(SECRET_KEY) && !shown.contains(ACCESS_KEY), "{shown}");
    }
    cluster.nodes[0].kill();
    lose_disk(&cluster.nodes[0]);

    // An object that rots is found out, named, and the older checkpoint is taken.
    let objects = s3.below(&format!("deep/prefix/{REALM}/n1/objects"));
    let newest =
        files(&objects).into_iter().max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    let newest = newest.unwrap();
    let bytes = fs::read(&newest).unwrap();
    let mut rotten = bytes.clone();
    rotten[0] ^= 1;
    fs::write(&newest, rotten).unwrap();
    let home = path(&cluster.nodes[0].dir).to_owned();
    let words = ["restore", "--from", &from, "--data-dir", &home];
    let exactly = with_keys(&s3, &[&words[..], &["--manifest", &second]].concat());
    let hash = newest.file_name().unwrap().to_str().unwrap().to_owned();
    let error = exactly.refused(1);
    assert!(error.contains(&hash) && error.contains("BLAKE3"), "{error}");
    let restored = with_keys(&s3, &words);
    assert!(restored.err.contains(&hash), "{restored:?}");
    assert!(restored.done().contains(&first));
    lose_disk(&cluster.nodes[0]);
    fs::write(&newest, bytes).unwrap();
    assert!(with_keys(&s3, &words).done().contains(&second));
    cluster.nodes[0].start();
    assert_there(&cluster.nodes[0], "kept");
    assert_there(&cluster.nodes[0], "more");
}

#[test]
fn an_archive_that_refuses_holds_nothing_up() {
    let s3 = S3::start();
    let mut cluster = Cluster::prepare(2, &["--archive-interval", "1s"]);
    cluster.nodes[0].settings.extend(s3_settings(&s3, "wrong-and-secret"));
    let mut nowhere = s3_settings(&s3, SECRET_KEY);
    nowhere[3] = "http://127.0.0.1:9".to_owned();
    cluster.nodes[1].settings.extend(nowhere);
    cluster.start_all();
    cluster.wait_linked();
    for node in &cluster.nodes {
        write(node, &format!("of-{}", node.name));
        wait_for("the archive to fail", || {
            let status = node.json(&["status"]);
            match status["archive"]["error"].as_str() {
                Some(error) => Ok(error.to_owned()),
                None => Err(status.to_string()),
            }
        });
        assert!(node.metric("tidings_archive_failures_total") > 0);
        assert_eq!(node.metric("tidings_writes_stopped"), 0);
        let checkpoints = node.metric("tidings_checkpoints_total{result=\"ok\"}");
        assert!(checkpoints > 0, "checkpoints go on");
        let refused = node.run(&["backup"]).refused(1);
        assert!(refused.contains(&format!("s3://{BUCKET}/deep/prefix")), "{refused}");
        let told = format!("{refused}{}{}", node.run(&["status"]).done(), node.log());
        assert!(!told.contains("wrong-and-secret") && !told.contains(SECRET_KEY), "{told}");
    }
    cluster.wait_converged();
    let began = Instant::now();
    cluster.nodes.iter_mut().for_each(Node::terminate);
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn an_archive_that_never_answers_holds_nothing_up() {
    // Whoever connects is let in by the system and left waiting.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let s3 = S3::start();
    let mut cluster = Cluster::prepare(1, &["--archive-interval", "1s"]);
    let mut settings = s3_settings(&s3, SECRET_KEY);
    settings[3] = format!("http://{}", silent.local_addr().unwrap());
    cluster.nodes[0].settings.extend(settings);
    cluster.start_all();
    let node = &mut cluster.nodes[0];
    write(node, "kept");
    wait_until("the archive to be behind", || node.metric("tidings_archive_behind_seconds") > 0);
    let checkpoints = node.metric("tidings_checkpoints_total{result=\"ok\"}");
    write(node, "more");
    wait_until("checkpoints to go on", || {
        node.metric("tidings_checkpoints_total{result=\"ok\"}") > checkpoints
    });
    let began = Instant::now();
    node.terminate();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    node.start();
    assert_there(node, "kept");
    assert_there(node, "more");
}
