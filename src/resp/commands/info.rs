//! INFO: Redis's sections and field names, with what this node knows of them.

use std::fmt::{self, Write};

use super::REDIS_VERSION;
use crate::resp::below;
use crate::resp::call::{Answer, Call};

type Section = fn(&mut String, &Call<'_>) -> fmt::Result;

/// The sections, and whether they are shown when none is named.
const SECTIONS: [(&str, bool, Section); 8] = [
    ("Server", true, server),
    ("Clients", true, clients),
    ("Memory", true, memory),
    ("Stats", true, stats),
    ("Replication", true, replication),
    ("Commandstats", false, commandstats),
    ("Tidings", true, tidings),
    ("Keyspace", true, keyspace),
];

pub(super) fn info(call: &mut Call<'_>) -> Answer {
    let named = |name: &str| call.args.from(1).any(|a| a.eq_ignore_ascii_case(name.as_bytes()));
    let all = named("all") || named("everything");
    let default = call.args.len() == 1 || named("default");
    let mut text = String::new();
    for (name, usual, section) in SECTIONS {
        if all || default && usual || named(name) {
            let gap = if text.is_empty() { "" } else { "\r\n" };
            write!(text, "{gap}# {name}\r\n")
                .and_then(|()| section(&mut text, call))
                .expect("text takes what is written to it");
        }
    }
    call.reply.verbatim(&text);
    Ok(())
}

fn server(text: &mut String, call: &Call<'_>) -> fmt::Result {
    let uptime = call.now.mono.saturating_sub(call.worker.started_us) / 1_000_000;
    write!(text, "redis_version:{REDIS_VERSION}\r\n")?;
    write!(text, "tidings_version:{}\r\n", env!("CARGO_PKG_VERSION"))?;
    write!(text, "redis_mode:standalone\r\nos:{}\r\n", std::env::consts::OS)?;
    write!(text, "arch_bits:{}\r\n", usize::BITS)?;
    write!(text, "process_id:{}\r\n", std::process::id())?;
    write!(text, "tcp_port:{}\r\n", call.worker.local.port())?;
    write!(text, "server_time_usec:{}\r\n", call.now.wall * 1000)?;
    write!(text, "uptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n", uptime / 86_400)
}

fn clients(text: &mut String, call: &Call<'_>) -> fmt::Result {
    let stats = &call.worker.stats;
    write!(text, "connected_clients:{}\r\n", stats.clients.get())?;
    write!(text, "maxclients:{}\r\n", call.worker.limits.clients)?;
    write!(text, "client_buffers_bytes:{}\r\n", stats.held.get())
}

fn memory(text: &mut String, _: &Call<'_>) -> fmt::Result {
    let resident = resident().unwrap_or(0);
    write!(text, "used_memory:{resident}\r\nused_memory_rss:{resident}\r\n")
}

/// Resident memory of this process, where the system tells it in Linux's way. In bytes.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

fn stats(text: &mut String, call: &Call<'_>) -> fmt::Result {
    let stats = &call.worker.stats;
    let figures = [
        ("total_connections_received", &stats.accepted),
        ("total_commands_processed", &stats.commands),
        ("total_net_input_bytes", &stats.bytes_in),
        ("total_net_output_bytes", &stats.bytes_out),
        ("rejected_connections", &stats.refused),
        ("total_error_replies", &stats.errors),
        ("unknown_commands", &stats.unknown),
        ("malformed_frames", &stats.malformed),
        ("client_output_buffer_limit_disconnections", &stats.overrun),
        ("commits", &stats.batches),
    ];
    figures.iter().try_for_each(|(name, counter)| write!(text, "{name}:{}\r\n", counter.get()))
}

/// Every node takes writes, which Redis's words call a master.
fn replication(text: &mut String, call: &Call<'_>) -> fmt::Result {
    let peers = below::peers(call.engine, call.now);
    write!(text, "role:master\r\nconnected_slaves:0\r\ntidings_peers:{}\r\n", peers.len())
}

fn commandstats(text: &mut String, call: &Call<'_>) -> fmt::Result {
    let called = call.worker.stats.by_command().filter(|(_, _, calls)| *calls > 0);
    for (_, name, calls) in called {
        write!(text, "cmdstat_{name}:calls={calls}\r\n")?;
    }
    Ok(())
}

fn tidings(text: &mut String, call: &Call<'_>) -> fmt::Result {
    write!(text, "actor:{}\r\n", call.engine.replica().actor())?;
    write!(text, "fsync:{}\r\n", below::fsync(&call.worker.node))?;
    call.engine.figures().iter().try_for_each(|(name, value)| write!(text, "{name}:{value}\r\n"))
}

fn keyspace(text: &mut String, call: &Call<'_>) -> fmt::Result {
    match call.engine.replica().state().len() {
        0 => Ok(()),
        keys => write!(text, "db0:keys={keys},expires=0,avg_ttl=0\r\n"),
    }
}
