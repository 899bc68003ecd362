//! The command line: a thin caller of the library, and a client of a running node.
//!
//! Keys, elements and values are the bytes of the arguments as they are; with
//! `--escaped` they are read as tables show them, `\xNN` and all. In JSON, bytes
//! that are not UTF-8 are `{"base64": "..."}`. Exit codes: 0 done, 1 refused or
//! failed with the reason on standard error, 2 usage.

mod archive;
pub mod ca;
mod cluster;
mod data;
mod dev;
mod print;
mod run;
mod settings;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tidings_proto::Name;

use crate::admin::Client;
use crate::config::Config;
use crate::node::unescape;
use print::Out;

/// A sidecar that gives an application a local, replicated store of CRDTs.
#[derive(Debug, Parser)]
#[command(name = "tidings", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a node in the foreground, until SIGTERM or Ctrl-C.
    Run(run::Run),
    /// Runs a local cluster for development: one process a node, an authority of its own, QUIC and mutual TLS.
    Dev(dev::Dev),
    /// Manages the cluster's authority and the nodes' certificates.
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// What the node is and how it fares.
    Status(Ask),
    /// Whom the node knows.
    Members(Ask),
    /// Whom the node has, or seeks, a link to.
    Peers(cluster::Peers),
    /// Offers to a peer, or to all that are linked, what they are not known to have.
    Push {
        /// The peer.
        peer: Option<Name>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Fetches keys of a peer with all versions, or their names, without merging them. JSON is one line a key.
    Pull(cluster::Pull),
    /// Runs anti-entropy now, with one peer, with all, or with `fanout` of them.
    Sync {
        /// The peer.
        #[arg(conflicts_with = "all")]
        peer: Option<Name>,
        /// With every peer.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Looks whether memory and disk hold what was put there, and compares with one peer, or with all.
    Audit {
        /// The peer.
        peer: Option<Name>,
        #[command(flatten)]
        ask: Ask,
    },
    /// The figures of this node, or of a peer.
    Stats {
        /// The peer.
        peer: Option<Name>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Leaves the cluster: tells the others, gives them what they lack, and stops the node.
    Leave(Ask),
    /// Has the node write a checkpoint now and copy it to its archive, and prints its name.
    Backup(archive::Backup),
    /// Lists the checkpoints in an archive, the newest first.
    Backups(archive::Backups),
    /// Fills an empty data directory from an archive; no node is needed, and none may run there.
    Restore(archive::Restore),
    /// Shows a key: a value, a sum, or elements one a line.
    Get {
        #[command(flatten)]
        key: data::Key,
        /// The value's bytes as they are, without a line end.
        #[arg(long, conflicts_with = "json")]
        raw: bool,
        #[command(flatten)]
        quorum: data::Quorum,
    },
    /// Writes a value.
    Set {
        #[command(flatten)]
        key: data::Key,
        /// The value; `-` for what comes on standard input. Put `--` before one that begins with a hyphen.
        #[arg(allow_negative_numbers = true)]
        value: OsString,
    },
    /// Adds elements to a set.
    Add {
        #[command(flatten)]
        key: data::Key,
        /// The elements.
        #[arg(required = true)]
        element: Vec<OsString>,
    },
    /// Removes elements from a set.
    Rem {
        #[command(flatten)]
        key: data::Key,
        /// The elements.
        #[arg(required = true)]
        element: Vec<OsString>,
    },
    /// Adds to a counter.
    Incr {
        #[command(flatten)]
        key: data::Key,
        /// How much.
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
        /// A counter that only grows.
        #[arg(long = "gcounter", short)]
        grow_only: bool,
    },
    /// Deletes keys: all of them that this node has seen.
    Del(data::Del),
    /// Lists keys with their kinds. JSON is one line a key.
    Keys(data::Keys),
    /// Shows all versions of a key with their metadata.
    Versions(data::Key),
    /// Shows every key of the node. JSON is one line a key, with all versions.
    Dump(Ask),
    /// Shows or checks settings.
    #[command(subcommand)]
    Config(settings::ConfigCommand),
    /// The version of this program.
    Version {
        /// JSON instead of text.
        #[arg(long)]
        json: bool,
    },
}

/// Which node to ask, and how to show its answer.
#[derive(Debug, Clone, Args)]
struct Ask {
    /// The node's admin socket; without it admin.sock in TIDINGS_DATA_DIR or in ./tidings-data.
    #[arg(long, value_name = "PATH", env = "TIDINGS_ADMIN")]
    admin: Option<PathBuf>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Ask {
    fn client(&self) -> Client {
        let in_data_dir = || match std::env::var_os("TIDINGS_DATA_DIR") {
            Some(dir) => Path::new(&dir).join("admin.sock"),
            None => Config::default().admin_path(),
        };
        Client::new(self.admin.clone().unwrap_or_else(in_data_dir))
    }

    fn out(&self) -> Out {
        Out::new(self.json)
    }
}

/// How bytes are given.
#[derive(Debug, Clone, Copy, Args)]
struct Bytes {
    /// Reads \xNN, \n, \r, \t and \\ in keys, elements and values.
    #[arg(long, short)]
    escaped: bool,
}

impl Bytes {
    fn read(self, argument: &OsStr) -> anyhow::Result<Vec<u8>> {
        let bytes = argument.as_bytes();
        if !self.escaped {
            return Ok(bytes.to_vec());
        }
        unescape(bytes)
            .ok_or_else(|| Usage(format!("{}: malformed escape", argument.to_string_lossy())).into())
    }
}

/// An error in how the program was called.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough, as with `tidings keys | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidings: {}", explain(&error));
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// The error and its causes, but for those that it has told of itself.
fn explain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| {
        if told.is_empty() {
            cause
        } else if told.contains(&cause) {
            told
        } else {
            format!("{told}: {cause}")
        }
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(run) => return run::run(run),
        Command::Ca(command) => return ca::run(command),
        Command::Version { json } => return version(json),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Run(_) | Command::Ca(_) | Command::Version { .. } => unreachable!("answered above"),
            Command::Dev(dev) => dev::dev(dev).await,
            Command::Status(ask) => cluster::status(ask).await,
            Command::Members(ask) => cluster::members(ask).await,
            Command::Peers(peers) => cluster::peers(peers).await,
            Command::Push { peer, ask } => cluster::push(peer, ask).await,
            Command::Pull(pull) => cluster::pull(pull).await,
            Command::Sync { peer, all, ask } => cluster::sync(peer, all, ask).await,
            Command::Audit { peer, ask } => cluster::audit(peer, ask).await,
            Command::Stats { peer, ask } => cluster::stats(peer, ask).await,
            Command::Leave(ask) => cluster::leave(ask).await,
            Command::Backup(backup) => archive::backup(backup).await,
            Command::Backups(backups) => archive::backups(backups).await,
            Command::Restore(restore) => archive::restore(restore).await,
            Command::Get { key, raw, quorum } => data::get(key, raw, quorum).await,
            Command::Set { key, value } => data::set(key, value).await,
            Command::Add { key, element } => data::add(key, element).await,
            Command::Rem { key, element } => data::rem(key, element).await,
            Command::Incr { key, by, grow_only } => data::incr(key, by, grow_only).await,
            Command::Del(del) => data::del(del).await,
            Command::Keys(keys) => data::keys(keys).await,
            Command::Versions(key) => data::versions(key).await,
            Command::Dump(ask) => data::dump(ask).await,
            Command::Config(command) => settings::config(command).await,
        }
    })
}

fn version(json: bool) -> anyhow::Result<()> {
    let (version, (low, high)) = (env!("CARGO_PKG_VERSION"), tidings_proto::VERSIONS);
    let mut out = Out::new(json);
    if json {
        return Ok(out.object(&serde_json::json!({ "version": version, "protocol": [low, high] }))?);
    }
    Ok(out.line(&format!("tidings {version}, protocol {low} to {high}"))?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
