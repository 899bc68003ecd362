//! `tidings run`: a node in the foreground.

use std::io::{self, IsTerminal, Read};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::settings::Settings;
use crate::admin::Socket;
use crate::config::{Config, LogFormat};
use crate::node::api::Operator;
use crate::sidecar::Sidecar;
use crate::web::{Web, metrics};

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    settings: Settings,
    /// Stops the node when standard input ends: so a child never outlives the process that holds the other end.
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

pub(super) fn run(run: Run) -> anyhow::Result<()> {
    let config = run.settings.clone().load()?;
    let log = init_log(&config);
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config, log, run))
}

async fn serve(mut config: Config, log: LogFilters, run: Run) -> anyhow::Result<()> {
    let mut stop = Stop::new(run.exit_with_stdin)?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (prometheus, timings) = metrics::install();
    let node = tokio::select! {
        node = Sidecar::start(config.clone(), timings) => node?,
        why = stop.wanted() => {
            info!("stopped while starting: {why}");
            return Ok(());
        }
    };
    let closing = CancellationToken::new();
    let mut doors = JoinSet::new();
    let opened = open_doors(&config, node.operator(), prometheus, &closing, &mut doors).await;
    if opened.is_ok() {
        info!(data_dir = %config.data_dir.display(), admin = %config.admin_path().display(), "running");
        loop {
            tokio::select! {
                why = stop.wanted() => break info!("stopping: {why}"),
                () = node.left() => break info!("stopping: the node left the cluster"),
                _ = hangup.recv() => reload(&mut config, &run.settings, &log, &node),
            }
        }
    }
    closing.cancel();
    tokio::select! {
        () = async { node.shutdown().await; while doors.join_next().await.is_some() {} } => info!("stopped"),
        _ = stop.interrupt.recv() => {
            warn!("interrupted while stopping: going at once");
            std::process::exit(1);
        }
    }
    opened
}

/// Reads the settings again. What is wrong with them changes nothing.
fn reload(config: &mut Config, settings: &Settings, log: &LogFilters, node: &Sidecar) {
    let new = match settings.clone().load() {
        Ok(new) => new,
        Err(problems) => return warn!("the settings are kept as they were: {problems}"),
    };
    let waiting = config.reload(new);
    let _ = log.reload(EnvFilter::new(config.log_filter.as_str()));
    node.reconfigure(config.clone());
    info!("settings read again");
    if !waiting.is_empty() {
        warn!("these settings have changed and take effect at the next start: {}", waiting.join(", "));
    }
}

async fn open_doors(
    config: &Config,
    operator: Arc<dyn Operator>,
    prometheus: metrics_exporter_prometheus::PrometheusHandle,
    closing: &CancellationToken,
    doors: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let socket = Socket::bind(&config.admin_path())?;
    if let Some(address) = config.http {
        let web = Web::bind(address).await?;
        doors.spawn(web.serve(operator.clone(), prometheus, closing.clone()));
    }
    doors.spawn(socket.serve(operator, closing.clone()));
    Ok(())
}

/// What ends a node from outside.
#[derive(Debug)]
struct Stop {
    terminate: Signal,
    interrupt: Signal,
    stdin: Option<oneshot::Receiver<()>>,
}

impl Stop {
    fn new(with_stdin: bool) -> anyhow::Result<Self> {
        let kind = |kind| signal(kind).context("cannot listen for signals");
        let stdin = with_stdin.then(|| {
            let (ended, end) = oneshot::channel();
            // Not on the runtime: a blocked read would hold up its end.
            std::thread::spawn(move || {
                let _ = io::copy(&mut io::stdin().lock().by_ref(), &mut io::sink());
                let _ = ended.send(());
            });
            end
        });
        Ok(Self {
            terminate: kind(SignalKind::terminate())?,
            interrupt: kind(SignalKind::interrupt())?,
            stdin,
        })
    }

    /// Returns when the node is to stop, and why.
    async fn wanted(&mut self) -> &'static str {
        let stdin = async {
            match &mut self.stdin {
                Some(end) => _ = end.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = stdin => "standard input ended",
        }
    }
}

type LogFilters = reload::Handle<EnvFilter, Registry>;

fn init_log(config: &Config) -> LogFilters {
    let (filter, handle) = reload::Layer::new(EnvFilter::new(config.log_filter.as_str()));
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match config.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // Fails only if a log is set up already, which then stays.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    handle
}

/// The soft limit is often 1,024: fewer files than the clients that are allowed.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_err() {
        warn!(limit = ?limit.current, "cannot raise the limit of open files");
    }
}
