//! Commands of our own about what lies behind a key, and about the node.

use std::time::Duration;

use crate::core::register::Version;
use crate::core::state::State;
use crate::resp::below::{self, View};
use crate::resp::call::{Answer, Call, Failure, Flow};
use crate::resp::reply::Reply;
use crate::resp::table::{Command, Family::Tidings, Flag::*};

pub(super) const ROWS: &[Command] = &[
    Command::new(Tidings, "tidings.kind", 2, kind)
        .flags(&[ReadOnly, Fast])
        .keys(1, 1, 1)
        .doc("0.1.0", "Every kind that a key is used as, the visible one first"),
    Command::new(Tidings, "tidings.versions", 2, versions).flags(&[ReadOnly]).keys(1, 1, 1).doc(
        "0.1.0",
        "Every version of a register with value, hlc, origin, dot and content id, the visible one first",
    ),
    Command::new(Tidings, "tidings.qget", 4, qget).flags(&[ReadOnly, NoScript]).keys(1, 1, 1).doc(
        "0.1.0",
        "Get a key of any kind, with all that so many nodes have within so many milliseconds; those that lack something are repaired",
    ),
    Command::new(Tidings, "tidings.peers", 1, peers)
        .flags(&[ReadOnly, Stale])
        .doc("0.1.0", "The peers and what is known of each"),
    Command::new(Tidings, "tidings.stats", 1, stats)
        .flags(&[ReadOnly, Stale])
        .doc("0.1.0", "This node's figures"),
];

fn kind(call: &mut Call<'_>) -> Answer {
    let cells = call.engine.replica().state().get(call.args.at(1));
    let kinds: Vec<_> = cells.into_iter().flat_map(|cells| cells.kinds()).collect();
    call.reply.array(kinds.len());
    kinds.iter().for_each(|kind| call.reply.text(kind.name()));
    Ok(())
}

fn versions(call: &mut Call<'_>) -> Answer {
    let state = call.engine.replica().state();
    let cells = state.get(call.args.at(1));
    let mut versions: Vec<&Version> = cells.into_iter().flat_map(|c| c.register().versions()).collect();
    versions.sort_by_key(|v| std::cmp::Reverse((v.stamp, state.actors().get(v.dot.actor()), v.dot.seq())));
    call.reply.array(versions.len());
    versions.iter().for_each(|version| describe(&mut call.reply, state, version));
    Ok(())
}

fn describe(reply: &mut Reply<'_>, state: &State, version: &Version) {
    let actor = state.actors().get(version.dot.actor());
    reply.map(5);
    reply.text("value");
    reply.bulk(&version.value);
    let facts = [
        ("hlc", version.stamp.to_string()),
        ("origin", actor.node.to_string()),
        ("dot", format!("{actor}:{}", version.dot.seq())),
        ("content_id", blake3::hash(&version.value).to_hex().to_string()),
    ];
    for (name, value) in facts {
        reply.text(name);
        reply.text(&value);
    }
}

fn qget(call: &mut Call<'_>) -> Answer {
    let nodes = call.args.integer(2)?;
    let millis =
        call.args.integer(3).map_err(|_| Failure::err("timeout is not an integer or out of range"))?;
    let nodes = u64::try_from(nodes).ok().filter(|nodes| *nodes > 0);
    let nodes = nodes.ok_or_else(|| Failure::err("number of nodes is not positive"))?;
    let millis = u64::try_from(millis).ok().filter(|millis| *millis > 0);
    let millis = millis.ok_or_else(|| Failure::err("timeout is not positive"))?;
    call.session.flow = Flow::Quorum {
        key: call.args.at(1).into(),
        nodes: usize::try_from(nodes).unwrap_or(usize::MAX),
        timeout: Duration::from_millis(millis),
    };
    Ok(())
}

/// Replies with what readers see of a key, whatever its kind.
pub(crate) fn reply_any(call: &mut Call<'_>, key: &[u8]) {
    match call.engine.replica().state().view(key) {
        None => call.reply.null(),
        Some(View::Bytes(bytes)) => call.reply.bulk(bytes),
        Some(View::Integer(sum) | View::GCounter(sum)) => call.reply.integer(sum),
        Some(View::Set(set)) => {
            call.reply.set(set.len());
            set.iter().for_each(|element| call.reply.bulk(element));
        }
    }
}

fn peers(call: &mut Call<'_>) -> Answer {
    let peers = below::peers(call.engine, call.now);
    call.reply.array(peers.len());
    for peer in &peers {
        call.reply.map(peer.len());
        for (name, value) in peer {
            call.reply.text(name);
            call.reply.text(value);
        }
    }
    Ok(())
}

fn stats(call: &mut Call<'_>) -> Answer {
    let door = &call.worker.stats;
    let mut figures = call.engine.figures();
    figures.push(("clients", door.clients.get()));
    figures.push(("commands", door.commands.get()));
    call.reply.map(figures.len());
    for (name, value) in figures {
        call.reply.text(name);
        call.reply.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }
    Ok(())
}
