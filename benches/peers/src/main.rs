//! Two other crates at the tasks that `benches/reconciliation.py` gives to tidings: an empty node takes everything, and a
//! node that was away takes what it missed. Both nodes are in this process, on loopback; bytes are what UDP carried
//! from end to end, read from the counters of the loopback device, so this wants a network of its own (`unshare -n`).
//!
//! `peers reconcile|chitchat KEYS VALUE MISSING...`: a line for each task, as the script reads it:
//! what, seconds, bytes of UDP payload.

use std::env;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chitchat::transport::UdpTransport;
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, ProtocolVersion, spawn_chitchat,
};
use reconcile::clock::NodeId;
use reconcile::replicated_map::Config;
use reconcile::{InMemoryPersistence, ReplicatedMap};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(1);
const PORT: u16 = 7946;

/// Ethernet, IPv4 and UDP headers of a packet on the loopback device.
const HEADERS: u64 = 14 + 20 + 8;

/// Bytes of UDP payload that the loopback device has carried.
fn carried() -> Result<u64> {
    let table = fs::read_to_string("/proc/net/dev")?;
    let row = table.lines().find_map(|line| line.trim().strip_prefix("lo:")).context("no loopback device")?;
    let column = |at: usize| {
        row.split_whitespace().nth(at).context("a column is missing")?.parse::<u64>().context("a count")
    };
    Ok(column(8)? - HEADERS * column(9)?)
}

/// Keys stand apart, so that those that are missing lie between them and not at the end. Values are
/// letters that no compression makes much smaller.
fn row(n: u64, value: usize) -> (String, String) {
    let letters: Vec<char> = ('a'..='z').chain('A'..='Z').chain('0'..='9').chain("+/".chars()).collect();
    let letter = |at: usize| letters[mixed(n << 20 | at as u64) as usize % letters.len()];
    (format!("key:{n:08}"), (0..value).map(letter).collect())
}

/// A number like one by chance: the finisher of SplitMix64.
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

fn all(keys: u64, value: usize) -> Vec<(String, String)> {
    (0..keys).map(|n| row(20 * n, value)).collect()
}

/// What a node misses in one round: spread over all keys, and other ones each round.
fn missed(keys: u64, missing: u64, round: u64, value: usize) -> Vec<(String, String)> {
    (0..missing).map(|n| row(20 * (n * (keys / missing)) + 1 + round, value)).collect()
}

struct Meter {
    began: Instant,
    carried: u64,
}

impl Meter {
    fn start() -> Result<Self> {
        Ok(Self { began: Instant::now(), carried: carried()? })
    }

    fn tell(&self, what: &str) -> Result<()> {
        println!("{what} {:.4} {}", self.began.elapsed().as_secs_f64(), carried()? - self.carried);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.began.elapsed() > PATIENCE {
            bail!("does not get there");
        }
        Ok(())
    }
}

type Map = ReplicatedMap<String, String>;

fn address(node: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, node])
}

/// As its own benchmark of a cold start sets it up: the defaults, and no key of the cluster.
async fn map(node: u8, disk: &Arc<InMemoryPersistence<String, String>>) -> Result<Map> {
    let config = Config::default()
        .with_port(PORT)
        .with_listen_addr(address(node))
        .with_net("127.0.0.0/30".parse()?)?
        .with_node_id(NodeId::new(node.into()))
        .with_insecure_no_key();
    Ok(Map::new(config).await?.with_persistence(disk.clone())?)
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn run(map: &Map) -> Running {
    let (stop, map) = (CancellationToken::new(), map.clone());
    let token = stop.clone();
    let task = tokio::spawn(async move {
        map.run(token).await;
    });
    Running { stop, task }
}

impl Running {
    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}

async fn equal(meter: &Meter, one: &Map, other: &Map) -> Result<()> {
    while one.fingerprint(..) != other.fingerprint(..) {
        meter.check()?;
        sleep(POLL).await;
    }
    Ok(())
}

async fn reconcile(keys: u64, value: usize, missing: &[u64]) -> Result<()> {
    let disks = [Arc::default(), Arc::default()];
    let full = map(1, &disks[0]).await?;
    full.insert_bulk(&all(keys, value));
    let mut other = map(2, &disks[1]).await?.with_seed(address(1));
    let meter = Meter::start()?;
    let mut runs = [run(&full), run(&other)];
    equal(&meter, &full, &other).await?;
    meter.tell("blank")?;
    for (round, missing) in missing.iter().enumerate() {
        // The other goes away, with its state on its disk, and its socket is closed.
        let [one, two] = runs;
        sleep(Duration::from_millis(1_500)).await;
        two.stop().await?;
        drop(other);
        full.insert_bulk(&missed(keys, *missing, round as u64, value));
        sleep(Duration::from_millis(200)).await;
        other = map(2, &disks[1]).await?.with_seed(address(1));
        let meter = Meter::start()?;
        runs = [one, run(&other)];
        equal(&meter, &full, &other).await?;
        meter.tell(&missing.to_string())?;
    }
    Ok(())
}

/// A node that speaks when it is told to: its own rhythm is an hour.
async fn member(node: u8, rows: Vec<(String, String)>) -> Result<ChitchatHandle> {
    let listen = SocketAddr::new(address(node), PORT);
    let config = ChitchatConfig {
        chitchat_id: ChitchatId::new(format!("node-{node}"), 1, listen),
        cluster_id: "bench".into(),
        gossip_interval: Duration::from_secs(3_600),
        listen_addr: listen,
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig::default(),
        marked_for_deletion_grace_period: Duration::from_secs(3_600),
        catchup_callback: None,
        extra_liveness_predicate: None,
        protocol_version: ProtocolVersion::V1,
    };
    spawn_chitchat(config, rows, &UdpTransport).await
}

/// How many writes of the other node it has seen.
async fn version(of: &ChitchatId, at: &ChitchatHandle) -> u64 {
    at.with_chitchat(|chitchat| chitchat.node_state(of).map_or(0, |state| state.max_version())).await
}

/// One round after the other without a pause, until nothing is missing.
async fn rounds(meter: &Meter, full: &ChitchatHandle, other: &ChitchatHandle) -> Result<()> {
    let of = full.chitchat_id();
    let all = version(of, full).await;
    let mut seen = version(of, other).await;
    while seen < all {
        other.gossip(SocketAddr::new(address(1), PORT))?;
        let asked = Instant::now();
        let before = seen;
        while seen == before && asked.elapsed() < Duration::from_millis(100) {
            meter.check()?;
            sleep(Duration::from_micros(100)).await;
            seen = version(of, other).await;
        }
    }
    Ok(())
}

async fn chitchat(keys: u64, value: usize, missing: &[u64]) -> Result<()> {
    let full = member(1, all(keys, value)).await?;
    let other = member(2, Vec::new()).await?;
    sleep(Duration::from_millis(200)).await;
    let meter = Meter::start()?;
    rounds(&meter, &full, &other).await?;
    meter.tell("blank")?;
    for (round, missing) in missing.iter().enumerate() {
        for (key, value) in missed(keys, *missing, round as u64, value) {
            full.with_chitchat(|chitchat| chitchat.self_node_state().set(key.clone(), value.clone())).await;
        }
        sleep(Duration::from_millis(200)).await;
        let meter = Meter::start()?;
        rounds(&meter, &full, &other).await?;
        meter.tell(&missing.to_string())?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [which, keys, value, missing @ ..] = &args[..] else {
        bail!("peers reconcile|chitchat KEYS VALUE MISSING...")
    };
    let (keys, value) = (keys.parse().context("KEYS")?, value.parse().context("VALUE")?);
    let missing =
        missing.iter().map(|text| text.parse()).collect::<Result<Vec<u64>, _>>().context("MISSING")?;
    match which.as_str() {
        "reconcile" => reconcile(keys, value, &missing).await,
        "chitchat" => chitchat(keys, value, &missing).await,
        other => bail!("who is {other}?"),
    }
}
