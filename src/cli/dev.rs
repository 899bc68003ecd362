//! `tidings dev`: a local cluster, one process a node.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::print::Out;
use crate::admin::Client;
use crate::net::certs::{Authority, CA_CERT, NODE_CERT, Validity};

const REALM: &str = "dev";
/// How long certificates of a development cluster hold.
const DAYS: u32 = 3_650;
/// How often the nodes are looked at.
const GLANCE: Duration = Duration::from_millis(100);
/// For how long a node may take to answer and to find the others.
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long a node may take to stop before it is killed.
const GRACE: Duration = Duration::from_secs(15);
/// How much of a dead node's log is shown.
const LAST_LINES: usize = 12;

#[derive(Debug, Args)]
pub(super) struct Dev {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// Where everything is kept: the authority, and a directory for each node with its data, socket and log.
    #[arg(long, default_value = ".tidings-dev")]
    dir: PathBuf,
    /// Base B of the ports: node i listens on B+i (Redis), B+100+i (QUIC) and B+200+i (HTTP).
    #[arg(long, default_value_t = 7_400, value_parser = clap::value_parser!(u16).range(1..=65_200))]
    base_port: u16,
}

/// A node that is to be.
#[derive(Debug)]
struct Plan {
    name: String,
    dir: PathBuf,
    resp: SocketAddr,
    quic: SocketAddr,
    http: SocketAddr,
}

impl Plan {
    fn admin(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

/// Stops what it started, whatever happens.
pub(super) async fn dev(dev: Dev) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let plans = plan(&dev);
    issue_certificates(&dev.dir, &plans)?;
    plans.iter().try_for_each(check_ports)?;
    let mut cluster = Cluster { nodes: Vec::new() };
    let outcome = tokio::select! {
        outcome = cluster.run(plans) => outcome,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    tokio::select! {
        () = cluster.stop() => outcome,
        _ = interrupt.recv() => bail!("interrupted twice: the nodes are killed"),
        _ = terminate.recv() => bail!("terminated twice: the nodes are killed"),
    }
}

fn plan(dev: &Dev) -> Vec<Plan> {
    let node = |i: u16| {
        let name = format!("node-{i}");
        let local = |offset: u16| SocketAddr::from(([127, 0, 0, 1], dev.base_port + offset + i));
        Plan { dir: dev.dir.join(&name), name, resp: local(0), quic: local(100), http: local(200) }
    };
    (1..=dev.nodes).map(node).collect()
}

/// Made on first use, and kept.
fn issue_certificates(dir: &Path, plans: &[Plan]) -> anyhow::Result<()> {
    let ca = dir.join("ca");
    let authority = if ca.join(CA_CERT).exists() {
        Authority::load(&ca)?
    } else {
        let authority = Authority::create(REALM, Validity::days(DAYS)?)?;
        authority.save(&ca)?;
        authority
    };
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    for plan in plans.iter().filter(|plan| !plan.dir.join(NODE_CERT).exists()) {
        authority.issue_into(&plan.dir, &plan.name, &hosts, Validity::days(DAYS)?)?;
    }
    Ok(())
}

/// So that a port that is taken is a clear error here and not a line in a node's log.
fn check_ports(plan: &Plan) -> anyhow::Result<()> {
    let taken = |what: &str, address: SocketAddr| {
        let (name, port) = (&plan.name, address.port());
        format!("{name}: port {port} ({what}) cannot be used; another --base-port may help")
    };
    TcpListener::bind(plan.resp).with_context(|| taken("Redis, TCP", plan.resp))?;
    UdpSocket::bind(plan.quic).with_context(|| taken("QUIC, UDP", plan.quic))?;
    TcpListener::bind(plan.http).with_context(|| taken("HTTP, TCP", plan.http))?;
    Ok(())
}

/// A node that was started.
#[derive(Debug)]
struct Running {
    plan: Plan,
    child: Child,
    /// Held open until the child has ended, for its end means "stop" too: see [`start`].
    _stdin: Option<ChildStdin>,
    /// Where its log began this time.
    log_start: u64,
}

#[derive(Debug)]
struct Cluster {
    nodes: Vec<Running>,
}

impl Cluster {
    /// Starts the nodes and watches them. Returns when one has died, or all have left.
    async fn run(&mut self, plans: Vec<Plan>) -> anyhow::Result<()> {
        let join: Vec<_> = plans.iter().map(|plan| plan.quic.to_string()).collect();
        for plan in plans {
            self.nodes.push(start(plan, &join)?);
        }
        self.wait_until_linked().await?;
        self.report()?;
        loop {
            self.check_alive()?;
            sleep(GLANCE).await;
        }
    }

    async fn wait_until_linked(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.check_alive()?;
            let mut lacking = None;
            for node in &self.nodes {
                lacking = self.lacks(node).await;
                if lacking.is_some() {
                    break;
                }
            }
            let Some(lacking) = lacking else { return Ok(()) };
            if Instant::now() > deadline {
                bail!("after {} s {lacking}", PATIENCE.as_secs());
            }
            sleep(GLANCE).await;
        }
    }

    /// What a node still lacks to be part of the cluster.
    async fn lacks(&self, node: &Running) -> Option<String> {
        let name = &node.plan.name;
        let client = Client::new(node.plan.admin());
        let asked = timeout(Duration::from_secs(2), async { (client.status().await, client.peers().await) });
        let (status, peers) = match asked.await {
            Ok((Ok(status), Ok(peers))) => (status, peers),
            Ok((Err(error), _) | (_, Err(error))) => return Some(format!("{name} does not answer: {error}")),
            Err(_) => return Some(format!("{name} does not answer in time")),
        };
        if let Some(why) = status.not_ready {
            return Some(format!("{name} is not ready: {why}"));
        }
        let linked: Vec<_> =
            peers.iter().filter(|peer| peer.linked).filter_map(|peer| peer.node.as_ref()).collect();
        let others = self.nodes.iter().map(|other| &other.plan.name).filter(|other| *other != name);
        let missing: Vec<_> =
            others.filter(|other| !linked.iter().any(|peer| peer.as_str() == *other)).collect();
        (!missing.is_empty()).then(|| format!("{name} has no link to {missing:?}"))
    }

    fn report(&self) -> anyhow::Result<()> {
        let mut out = Out::new(false);
        let row = |node: &Running| {
            let plan = &node.plan;
            let admin = plan.admin().display().to_string();
            [
                plan.name.clone(),
                plan.resp.to_string(),
                plan.quic.to_string(),
                format!("http://{}", plan.http),
                admin,
            ]
        };
        out.table(["node", "redis", "quic", "http", "admin socket"], self.nodes.iter().map(row).collect())?;
        Ok(out.line("ready")?)
    }

    /// A node that ended well was asked to, by `tidings leave`: the others go on without it.
    fn check_alive(&mut self) -> anyhow::Result<()> {
        let mut died = None;
        let mut left = Vec::new();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            match node.child.try_wait()? {
                Some(status) if status.success() => left.push(at),
                Some(status) => died = Some(Died::of(node, status)),
                None => {}
            }
        }
        for at in left.into_iter().rev() {
            eprintln!("tidings: {} has left", self.nodes.remove(at).plan.name);
        }
        if let Some(died) = died {
            return Err(died.into());
        }
        if self.nodes.is_empty() { bail!("every node has left") } else { Ok(()) }
    }

    /// Asks every node to stop, waits, and kills those that do not.
    async fn stop(&mut self) {
        self.nodes.retain_mut(|node| matches!(node.child.try_wait(), Ok(None)));
        for node in &self.nodes {
            let pid = node.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            if let Some(pid) = pid {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + GRACE;
        for node in &mut self.nodes {
            let (name, left) = (&node.plan.name, deadline.saturating_duration_since(Instant::now()));
            match timeout(left, node.child.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(Ok(status)) => eprintln!("tidings: {name} did not stop cleanly ({status})"),
                Ok(Err(error)) => eprintln!("tidings: {name}: {error}"),
                Err(_) => {
                    eprintln!("tidings: {name} did not stop in {} s and is killed", GRACE.as_secs());
                    let _ = node.child.kill().await;
                }
            }
        }
    }
}

/// The child's standard input is a pipe from this process: should this process be killed, the pipe ends, and the child
/// stops. Its process group is its own, so that a Ctrl-C in the terminal reaches it through this process alone.
fn start(plan: Plan, join: &[String]) -> anyhow::Result<Running> {
    let context = || format!("cannot start {}", plan.name);
    fs::create_dir_all(&plan.dir).with_context(context)?;
    let log = OpenOptions::new().create(true).append(true).open(plan.log()).with_context(context)?;
    let log_start = log.metadata().with_context(context)?.len();
    let mut command = Command::new(std::env::current_exe().with_context(context)?);
    command.arg("run").arg("--exit-with-stdin");
    command.arg("--data-dir").arg(&plan.dir).arg("--admin").arg(plan.admin()).args(["--realm", REALM]);
    command.args(["--listen", &plan.quic.to_string(), "--advertise", &plan.quic.to_string()]);
    command.args(["--resp", &plan.resp.to_string(), "--http", &plan.http.to_string()]);
    join.iter()
        .filter(|seed| **seed != plan.quic.to_string())
        .for_each(|seed| _ = command.args(["--join", seed]));
    // What the flags do not override would be the same for all nodes, and is meant for another.
    for variable in ["TIDINGS_CONFIG", "TIDINGS_CA", "TIDINGS_CERT", "TIDINGS_KEY", "TIDINGS_JOIN"] {
        command.env_remove(variable);
    }
    let (out, err) = (log.try_clone().with_context(context)?, log);
    command.stdin(Stdio::piped()).stdout(out).stderr(err).process_group(0).kill_on_drop(true);
    let mut child = command.spawn().with_context(context)?;
    // Taken, because waiting for a child closes the standard input that it still holds.
    let stdin = child.stdin.take();
    Ok(Running { plan, child, _stdin: stdin, log_start })
}

/// A node that ended by itself.
#[derive(Debug)]
struct Died {
    name: String,
    status: ExitStatus,
    log: PathBuf,
    last: Vec<String>,
}

impl std::error::Error for Died {}

impl Died {
    fn of(node: &Running, status: ExitStatus) -> Self {
        let last = last_lines(&node.plan.log(), node.log_start).unwrap_or_default();
        Self { name: node.plan.name.clone(), status, log: node.plan.log(), last }
    }
}

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} died ({}); {} ends with:", self.name, self.status, self.log.display())?;
        self.last.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// The last lines that were written since the file had `start` bytes.
fn last_lines(path: &Path, start: u64) -> std::io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let from = start.max(file.metadata()?.len().saturating_sub(16 << 10));
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    Ok(lines[lines.len().saturating_sub(LAST_LINES)..].to_vec())
}

#[cfg(test)]
mod tests {
    use tidings_proto::Name;

    use super::*;

    fn dev_in(dir: &Path) -> Dev {
        Dev { nodes: 3, dir: dir.to_owned(), base_port: 7_400 }
    }

    #[test]
    fn ports_and_paths_are_as_documented() {
        let plans = plan(&dev_in(Path::new("d")));
        let last = &plans[2];
        assert_eq!((last.resp.port(), last.quic.port(), last.http.port()), (7_403, 7_503, 7_603));
        assert_eq!((last.name.as_str(), last.admin()), ("node-3", PathBuf::from("d/node-3/admin.sock")));
        assert!(Name::new(&last.name).is_ok());
    }

    #[test]
    fn certificates_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let plans = plan(&dev_in(dir.path()));
        issue_certificates(dir.path(), &plans[..2]).unwrap();
        let first = fs::read(plans[0].dir.join(NODE_CERT)).unwrap();
        issue_certificates(dir.path(), &plans).unwrap();
        assert_eq!(fs::read(plans[0].dir.join(NODE_CERT)).unwrap(), first);
        assert!(plans[2].dir.join(NODE_CERT).exists());
    }

    #[test]
    fn a_port_in_use_names_port_and_node() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        let plan =
            Plan { name: "node-7".to_owned(), dir: PathBuf::new(), resp: address, quic: free, http: free };
        let error = format!("{:#}", check_ports(&plan).unwrap_err());
        assert!(error.contains("node-7") && error.contains(&address.port().to_string()), "{error}");
    }

    #[test]
    fn the_end_of_a_log_is_what_was_written_this_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text: String = (0..100).map(|i| format!("line {i}\n")).collect();
        fs::write(file.path(), format!("old\n{text}")).unwrap();
        let lines = last_lines(file.path(), 4).unwrap();
        assert_eq!((lines.len(), lines[0].as_str(), lines[11].as_str()), (12, "line 88", "line 99"));
        assert!(last_lines(file.path(), 4 + text.len() as u64).unwrap().is_empty());
    }
}
