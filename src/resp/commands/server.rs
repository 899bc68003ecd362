//! Commands about the server as a whole.

use std::time::Duration;

use super::info::info;
use crate::resp::below::{self, Figures, Write as Change, Written};
use crate::resp::call::{Answer, Call, Failure, Flow};
use crate::resp::glob;
use crate::resp::table::{Command, Family::Keys, Family::Server, Flag::*};

pub(super) const ROWS: &[Command] = &[
    Command::new(Server, "info", -1, info)
        .flags(&[Loading, Stale])
        .doc("1.0.0", "Get information and statistics about the server"),
    Command::new(Server, "dbsize", 1, dbsize)
        .flags(&[ReadOnly, Fast])
        .doc("1.0.0", "Return the number of keys in the selected database"),
    Command::new(Server, "config", -2, |_| Err(Failure::Syntax))
        .doc("2.0.0", "A container for server configuration commands")
        .subcommands(&[Command::new(Server, "get", -3, config_get)
            .flags(&[Admin, NoScript, Loading, Stale])
            .doc("2.0.0", "Get the values of configuration parameters")]),
    Command::new(Server, "flushall", -1, flush)
        .flags(&[Write])
        .doc("1.0.0", "Remove all keys that this node sees, in steps"),
    Command::new(Server, "flushdb", -1, flush)
        .flags(&[Write])
        .doc("1.0.0", "Remove all keys that this node sees, in steps"),
    Command::new(Keys, "wait", 3, wait)
        .flags(&[NoScript])
        .doc("3.0.0", "Wait until so many peers hold all that this connection wrote"),
];

fn dbsize(call: &mut Call<'_>) -> Answer {
    call.reply.count(call.engine.replica().state().len());
    Ok(())
}

/// The node's settings and those of this door, by Redis's names where it has them.
fn settings(call: &Call<'_>) -> Figures {
    let limits = &call.worker.limits;
    let local = call.worker.local;
    let own = [
        ("appendfsync", below::fsync(&call.worker.node).to_string()),
        ("appendonly", "yes".to_string()),
        ("bind", local.ip().to_string()),
        ("client-query-buffer-limit", limits.query.to_string()),
        ("databases", "1".to_string()),
        ("maxclients", limits.clients.to_string()),
        ("port", local.port().to_string()),
        ("proto-max-bulk-len", limits.bulk.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_string()),
    ];
    let mut settings = call.worker.settings.clone();
    let own = own.into_iter().map(|(name, value)| (name.to_string(), value));
    let own: Figures = own.filter(|(name, _)| settings.iter().all(|(n, _)| n != name)).collect();
    settings.extend(own);
    settings.sort();
    settings
}

fn config_get(call: &mut Call<'_>) -> Answer {
    let mut shown = settings(call);
    let patterns: Vec<Vec<u8>> = call.args.from(2).map(<[u8]>::to_ascii_lowercase).collect();
    shown.retain(|(name, _)| patterns.iter().any(|p| glob::matches(p, name.as_bytes())));
    call.reply.map(shown.len());
    for (name, value) in &shown {
        call.reply.text(name);
        call.reply.text(value);
    }
    Ok(())
}

fn flush(call: &mut Call<'_>) -> Answer {
    let known = call.args.is(1, "async") || call.args.is(1, "sync");
    if call.args.len() > 2 || call.args.len() == 2 && !known {
        return Err(Failure::Syntax);
    }
    let keys = call.engine.replica().state().len();
    flush_step(call, keys)
}

/// Removes some keys. What others write meanwhile may go too, but does not prolong it.
pub(crate) fn flush_step(call: &mut Call<'_>, left: usize) -> Answer {
    let removed = match call.write(Change::Flush)? {
        Written::Count(removed) => removed,
        other => unreachable!("a flush answers with a count, not {other:?}"),
    };
    let left = left.saturating_sub(removed);
    if removed > 0 && left > 0 {
        call.session.flow = Flow::Flush { left };
    } else {
        call.session.flow = Flow::Go;
        call.reply.ok();
    }
    Ok(())
}

fn wait(call: &mut Call<'_>) -> Answer {
    let peers = call.args.integer(1)?;
    let timeout =
        call.args.integer(2).map_err(|_| Failure::err("timeout is not an integer or out of range"))?;
    let timeout = u64::try_from(timeout).map_err(|_| Failure::err("timeout is negative"))?;
    let peers = usize::try_from(peers).unwrap_or(0);
    let timeout = (timeout > 0).then_some(Duration::from_millis(timeout));
    call.session.flow = Flow::Wait { peers, timeout };
    Ok(())
}
