//! Wrong settings, missing certificates, directories and sockets that are taken.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::cluster::{Cluster, path};
use super::process::{tidings, wait_for};

#[test]
fn unknown_keys_and_bad_values_name_key_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidings.toml");
    fs::write(&file, "zone = \"a\"\nfanuot = 4\npush_interval = \"often\"\n").unwrap();
    for command in [&["run"][..], &["config", "check"]] {
        let error = tidings([command, &["--config", path(&file)]].concat()).refused(1);
        assert!(error.contains("tidings.toml:2: unknown key `fanuot`; did you mean `fanout`?"), "{error}");
        assert!(error.contains("tidings.toml:3: `push_interval` cannot be \"often\""), "{error}");
    }
    let error = tidings(["run", "--fanout", "many"]).refused(2);
    assert!(error.contains("--fanout"), "{error}");
    let error = tidings(["run", "--fanuot", "3"]).refused(2);
    assert!(error.contains("--fanuot") && error.contains("--fanout"), "{error}");
    let error = tidings(["run", "--config", path(&dir.path().join("nowhere"))]).refused(1);
    assert!(error.contains("nowhere: No such file"), "{error}");
}

#[test]
fn config_check_shows_values_and_where_they_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidings.toml");
    fs::write(&file, "zone = \"a\"\nfanout = 4\n").unwrap();
    let check = ["config", "check", "--config", path(&file), "--fanout", "5", "--json"];
    let rows = tidings(check).json();
    let row = |key: &str| {
        let rows = rows.as_array().unwrap().iter();
        rows.clone().find(|row| row["key"] == key).unwrap_or_else(|| panic!("no {key}")).clone()
    };
    assert_eq!((&row("fanout")["value"], &row("fanout")["origin"]), (&"5".into(), &"--fanout".into()));
    assert!(row("zone")["origin"].as_str().unwrap().ends_with("tidings.toml:1"));
    assert_eq!(row("fsync")["origin"], "default");
    assert!(tidings(&check[..6]).done().contains("tidings.toml:1"));
}

#[test]
fn without_certificates_the_commands_are_named_and_they_work() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let run = ["run", "--data-dir", path(&home), "--realm", "alpha"];
    let error = tidings(run).refused(1);
    let commands: Vec<&str> =
        error.lines().map(str::trim).filter(|line| line.starts_with("tidings ca")).collect();
    let [init, issue] = commands[..] else { panic!("{error}") };
    let type_in = |line: &str| {
        let line = line.replace("NODE", "n1");
        let words = line.split(' ').skip(1).map(str::to_owned);
        let mut command = std::process::Command::new(super::process::TIDINGS);
        super::process::outcome(command.args(words).current_dir(dir.path())).done();
    };
    type_in(init);
    type_in(issue);
    let error = tidings(["run", "--data-dir", path(&home), "--realm", "beta"]).refused(1);
    assert!(error.contains("beta") && error.contains("alpha"), "{error}");
    let shown = tidings(["ca", "show", path(&home), "--json"]).json();
    assert_eq!((&shown["node"], &shown["realm"]), (&"n1".into(), &"alpha".into()));
}

#[test]
fn a_directory_has_one_owner() {
    let cluster = Cluster::start(1, &[]);
    let node = &cluster.nodes[0];
    let other = ["--listen", "127.0.0.1:0", "--resp", "off", "--http", "off"];
    let run = [&["run", "--data-dir", path(&node.dir)][..], &other].concat();
    let error = tidings(run).refused(1);
    assert!(error.contains(&format!("process {}", node.id())), "{error}");
    assert!(error.contains(path(&node.dir)), "{error}");
    assert_eq!(node.ask("/v1/status")["node"], "n1", "the owner answers as before");
}

#[test]
fn ports_in_use_are_named() {
    let cluster = Cluster::start(1, &[]);
    let node = &cluster.nodes[0];
    let home = cluster.issue("second", 1);
    for flag in ["--resp", "--http", "--listen"] {
        let taken = match flag {
            "--resp" => node.resp,
            "--http" => node.http,
            _ => node.quic,
        };
        let mut run = vec!["run", "--data-dir", path(&home)];
        let taken = taken.to_string();
        for (other, free) in [("--resp", "off"), ("--http", "off"), ("--listen", "127.0.0.1:0")] {
            run.extend([other, if other == flag { taken.as_str() } else { free }]);
        }
        let error = tidings(run);
        assert_eq!(error.code, Some(1), "{flag}: {error:?}");
        assert!(error.err.contains(&taken) && error.err.contains("in use"), "{flag}: {error:?}");
    }
}

#[test]
fn an_admin_socket_that_was_left_behind_is_replaced() {
    let mut cluster = Cluster::prepare(1, &[]);
    let node = &mut cluster.nodes[0];
    drop(UnixListener::bind(node.admin()).unwrap());
    let error = node.run(&["status"]).refused(1);
    assert!(error.contains(path(&node.admin())), "{error}");
    node.start();
    let mode = fs::metadata(node.admin()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    node.kill();
    assert!(node.admin().exists());
    node.start();
    node.terminate();
    assert!(!node.admin().exists());
    let error = node.run(&["status"]).refused(1);
    assert!(error.contains("admin.sock"), "{error}");
}

#[test]
fn settings_of_a_running_node() {
    let cluster = Cluster::start(1, &["--fanout", "7"]);
    let shown = cluster.nodes[0].json(&["config", "show"]);
    let fanout = shown.as_array().unwrap().iter().find(|row| row["key"] == "fanout").unwrap().clone();
    assert_eq!((&fanout["value"], &fanout["origin"]), (&"7".into(), &"--fanout".into()));
}

#[test]
fn an_expired_certificate_is_refused_at_the_start() {
    use tidings::net::certs::{Authority, Validity};
    let dir = tempfile::tempdir().unwrap();
    let now = time::OffsetDateTime::now_utc();
    let authority = Authority::create("alpha", Validity::days(1).unwrap()).unwrap();
    let past = Validity { from: now - time::Duration::minutes(9), until: now - time::Duration::minutes(1) };
    authority.issue_into(dir.path(), "n1", &[], past).unwrap();
    let error = tidings(["run", "--data-dir", path(dir.path())]);
    assert_eq!(error.code, Some(1), "{error:?}");
    assert!(error.err.contains("is valid from") && error.err.contains("tidings ca renew"), "{error:?}");
}

#[test]
fn standard_input_that_ends_stops_a_child() {
    let mut cluster = Cluster::start(1, &[]);
    let node = &mut cluster.nodes[0];
    assert!(node.close_stdin().success(), "{}", node.log());
    wait_for("its last words", || {
        let log = node.log();
        if log.trim_end().ends_with("stopped") { Ok(()) } else { Err(log) }
    });
}
