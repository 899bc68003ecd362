//! A cluster of real nodes, each a process with a directory and ports of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::disk::Mounted;
use super::http;
use super::process::{
    Outcome, Permit, Running, TIDINGS, copy_dir, free_port, is_frozen, outcome, tidings, wait_equal,
    wait_for, wait_until,
};
use super::resp::Redis;

/// The realm of every cluster here.
pub(crate) const REALM: &str = "test";

/// Nodes that know each other. Everything of them is gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// File systems of its nodes: gone after them, and before the directory.
    pub(crate) mounts: Vec<Mounted>,
    pub(crate) dir: TempDir,
    _permit: Permit,
}

/// A node, up or down.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) resp: SocketAddr,
    pub(crate) quic: SocketAddr,
    pub(crate) http: SocketAddr,
    /// Whom it joins.
    pub(crate) join: Vec<String>,
    /// Further arguments.
    pub(crate) settings: Vec<String>,
    /// What it is started by, in place of itself; it is given the program and its arguments.
    pub(crate) launcher: Vec<String>,
    running: Option<Running>,
}

impl Cluster {
    /// Makes an authority and `count` certificates, and starts nothing.
    pub(crate) fn prepare(count: usize, settings: &[&str]) -> Self {
        let permit = Permit::take();
        let dir = tempfile::Builder::new().prefix("tidings-").tempdir().unwrap();
        let ca = dir.path().join("ca");
        tidings(["ca", "init", "--realm", REALM, "--dir", path(&ca)]).done();
        let node = |i: usize| {
            let name = format!("n{i}");
            let home = dir.path().join(&name);
            tidings(["ca", "issue", &name, "--dir", path(&ca), "--out", path(&home)]).done();
            let settings = settings.iter().map(|&text| text.to_owned()).collect();
            Node { settings, ..Node::at(&name, home) }
        };
        let mut nodes: Vec<Node> = (1..=count).map(node).collect();
        let all: Vec<String> = nodes.iter().map(|node| node.quic.to_string()).collect();
        for node in &mut nodes {
            node.join = all.iter().filter(|seed| **seed != node.quic.to_string()).cloned().collect();
        }
        Self { nodes, mounts: Vec::new(), dir, _permit: permit }
    }

    /// Starts `count` nodes, and waits until each has a link to each.
    pub(crate) fn start(count: usize, settings: &[&str]) -> Self {
        let mut cluster = Self::prepare(count, settings);
        cluster.start_all();
        cluster.wait_linked();
        cluster
    }

    pub(crate) fn start_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::spawn);
        self.nodes.iter_mut().for_each(Node::wait_up);
    }

    /// Waits until each node that is up has a link to each other that is up.
    #[track_caller]
    pub(crate) fn wait_linked(&self) {
        let up: Vec<&Node> = self.up().collect();
        for node in &up {
            let others = up.iter().filter(|other| other.name != node.name);
            let wanted: Vec<String> = others.map(|other| other.name.clone()).collect();
            wait_equal(&format!("links of {}", node.name), &wanted, || node.linked());
        }
    }

    fn up(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.running.is_some())
    }

    /// Waits until all nodes that are up show the same, and returns it.
    #[track_caller]
    pub(crate) fn wait_converged(&self) -> BTreeMap<String, Value> {
        wait_for("the nodes to show the same", || {
            let mut dumps = self.up().map(|node| (&node.name, node.dump()));
            let (first, dump) = dumps.next().ok_or("no node is up")?;
            for (other, theirs) in dumps {
                if theirs != dump {
                    let keys = dump.keys().chain(theirs.keys());
                    let differ: BTreeSet<_> = keys.filter(|key| theirs.get(*key) != dump.get(*key)).collect();
                    let (here, there) = (dump.len(), theirs.len());
                    let logs: String = self.up().map(Node::last_words).collect();
                    return Err(format!(
                        "{first}: {here} keys, {other}: {there}, differ: {differ:?}\n{logs}"
                    ));
                }
            }
            Ok(dump)
        })
    }

    /// Another node of the cluster's authority, not started.
    pub(crate) fn issue(&self, name: &str, days: u32) -> PathBuf {
        let (ca, out) = (self.dir.path().join("ca"), self.dir.path().join(name));
        let days = days.to_string();
        tidings(["ca", "issue", name, "--dir", path(&ca), "--out", path(&out), "--days", &days]).done();
        out
    }
}

impl Node {
    /// A node with these certificates and free ports, not started.
    pub(crate) fn at(name: &str, dir: PathBuf) -> Self {
        let address = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self {
            name: name.to_owned(),
            dir,
            resp: address(),
            quic: address(),
            http: address(),
            join: Vec::new(),
            settings: Vec::new(),
            launcher: Vec::new(),
            running: None,
        }
    }

    /// Starts the process.
    #[track_caller]
    pub(crate) fn spawn(&mut self) {
        assert!(self.running.is_none(), "{} is up", self.name);
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut words = self.launcher.clone();
        words.push(TIDINGS.to_owned());
        words.extend(self.arguments());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdout(log.try_clone().unwrap()).stderr(log);
        self.running = Some(Running::start(&mut command));
    }

    /// What the node is started with.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut words = vec!["run".to_owned(), "--exit-with-stdin".to_owned()];
        let given = [
            ("--data-dir", path(&self.dir).to_owned()),
            ("--listen", self.quic.to_string()),
            ("--advertise", self.quic.to_string()),
            ("--resp", self.resp.to_string()),
            ("--http", self.http.to_string()),
        ];
        words.extend(given.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        words.extend(self.join.iter().flat_map(|seed| ["--join".to_owned(), seed.clone()]));
        words.extend(self.settings.iter().cloned());
        words
    }

    /// Waits until all its doors answer.
    #[track_caller]
    pub(crate) fn wait_up(&mut self) {
        wait_for(&format!("{} to answer", self.name), || {
            if let Some(status) = self.running.as_mut().and_then(Running::ended) {
                panic!("{} ended ({status}):\n{}", self.name, self.log());
            }
            let answer = |error: std::io::Error| error.to_string();
            http::admin(&self.admin(), "GET", "/v1/status", "").map_err(answer)?;
            http::get(self.http, "/healthz").map_err(answer)?;
            Redis::connect(self.resp).map_err(answer)
        });
    }

    #[track_caller]
    pub(crate) fn start(&mut self) {
        self.spawn();
        self.wait_up();
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        self.running.as_ref().expect("it is up").signal(signal);
    }

    /// Stops all its threads; [`Node::thaw`] has them go on.
    #[track_caller]
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        wait_until("the process to stand still", || is_frozen(self.id()));
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits for the end of a process that was told to stop.
    #[track_caller]
    pub(crate) fn wait_down(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("it is up");
        running.wait()
    }

    /// As the power cut does, but for the machine.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_down();
    }

    /// As an init system does.
    #[track_caller]
    pub(crate) fn terminate(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_down();
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.log());
    }

    /// As the parent that dies does.
    #[track_caller]
    pub(crate) fn close_stdin(&mut self) -> ExitStatus {
        self.running.as_mut().expect("it is up").close_stdin();
        self.wait_down()
    }

    pub(crate) fn id(&self) -> u32 {
        self.running.as_ref().expect("it is up").id()
    }

    pub(crate) fn admin(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The end of its log and its metrics, for messages.
    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let metrics: String =
            self.metrics().iter().map(|(series, value)| format!("{series} {value}\n")).collect();
        format!("{}:\n{}\n{metrics}", self.name, lines[lines.len().saturating_sub(20)..].join("\n"))
    }

    /// A copy of its directory as it is now.
    pub(crate) fn image(&self) -> PathBuf {
        let image = self.dir.with_extension("image");
        copy_dir(&self.dir, &image);
        image
    }

    /// Puts an earlier copy in the place of its directory.
    pub(crate) fn restore(&self, image: &Path) {
        fs::remove_dir_all(&self.dir).unwrap();
        copy_dir(image, &self.dir);
    }

    #[track_caller]
    pub(crate) fn redis(&self) -> Redis {
        Redis::connect(self.resp).expect("the node accepts clients")
    }

    /// Runs a command of the command line against it.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new(TIDINGS);
        outcome(command.args(words).env("TIDINGS_ADMIN", self.admin()))
    }

    /// The same with `--json`, parsed.
    #[track_caller]
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        self.run(&[words, &["--json"]].concat()).json()
    }

    #[track_caller]
    pub(crate) fn ask(&self, path: &str) -> Value {
        let answer = http::admin(&self.admin(), "GET", path, "").expect("the admin socket answers");
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
    }

    /// The peers that it has a link to, by name.
    pub(crate) fn linked(&self) -> Vec<String> {
        let peers = self.ask("/v1/peers");
        let rows = peers.as_array().expect("peers are a list").iter();
        let linked = rows.filter(|row| row["linked"] == true);
        let mut names: Vec<_> = linked.filter_map(|row| row["node"].as_str()).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Every key with all its versions.
    #[track_caller]
    pub(crate) fn dump(&self) -> BTreeMap<String, Value> {
        let answer = http::admin(&self.admin(), "GET", "/v1/dump", "").expect("the admin socket answers");
        let row = |line: &str| {
            let mut row: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            // Versions are a set; nobody promises their order.
            if let Some(versions) = row["versions"].as_array_mut() {
                versions.sort_by_key(|version| format!("{}{}", version["dot"], version["value"]));
            }
            (row["key"].to_string(), row)
        };
        answer.body.lines().map(row).collect()
    }

    /// All its metrics: the series as written, and the value.
    #[track_caller]
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        let answer = http::get(self.http, "/metrics").expect("the HTTP port answers");
        let lines = answer.body.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("no value: {line}")))
        };
        lines.map(sample).collect()
    }

    /// One of them; a series that is not there is 0.
    #[track_caller]
    pub(crate) fn metric(&self, series: &str) -> u64 {
        self.metrics().get(series).copied().unwrap_or_default() as u64
    }
}

/// Paths here are text.
pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}
