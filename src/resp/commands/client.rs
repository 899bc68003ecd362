//! CLIENT and its subcommands.

use std::fmt::Write as _;

use crate::resp::call::{Answer, Args, Call, Failure, Session};
use crate::resp::reply::Proto;
use crate::resp::table::{Command, Family::Connection, Flag, Flag::*};
use crate::resp::talk::Buffers;

const COMMON: &[Flag] = &[NoScript, Loading, Stale];
const ADMIN: &[Flag] = &[Admin, NoScript, Loading, Stale];

pub(super) const ROWS: &[Command] = &[Command::new(Connection, "client", -2, |_| Err(Failure::Syntax))
    .doc("2.4.0", "A container for client connection commands")
    .subcommands(&[
        Command::new(Connection, "id", 2, id)
            .flags(COMMON)
            .doc("5.0.0", "Returns the client ID for the current connection"),
        Command::new(Connection, "getname", 2, getname)
            .flags(COMMON)
            .doc("2.6.9", "Get the current connection name"),
        Command::new(Connection, "setname", 3, setname)
            .flags(COMMON)
            .doc("2.6.9", "Set the current connection name"),
        Command::new(Connection, "setinfo", 4, setinfo)
            .flags(COMMON)
            .doc("7.2.0", "Set client or connection specific info"),
        Command::new(Connection, "info", 2, info)
            .flags(COMMON)
            .doc("6.2.0", "Returns information about the current client connection."),
        Command::new(Connection, "list", -2, list)
            .flags(ADMIN)
            .doc("2.4.0", "Get the list of client connections"),
        Command::new(Connection, "no-evict", 3, no_evict)
            .flags(ADMIN)
            .doc("7.0.0", "Set client eviction mode for the current connection"),
        Command::new(Connection, "no-touch", 3, no_touch)
            .flags(COMMON)
            .doc("7.2.0", "Controls whether commands sent by the client affect the LRU/LFU of accessed keys"),
    ])];

/// Longest name a client may give itself or its library.
const NAME: usize = 1024;

fn id(call: &mut Call<'_>) -> Answer {
    call.reply.integer(call.session.id as i64);
    Ok(())
}

fn getname(call: &mut Call<'_>) -> Answer {
    if call.session.name.is_empty() {
        call.reply.null()
    } else {
        call.reply.bulk(&call.session.name)
    }
    Ok(())
}

fn setname(call: &mut Call<'_>) -> Answer {
    set_name(call.session, call.args.at(2))?;
    call.reply.ok();
    Ok(())
}

/// Names this connection; an empty name takes it away.
pub(super) fn set_name(session: &mut Session, name: &[u8]) -> Answer {
    if !is_plain(name) {
        return Err(Failure::err("Client names cannot contain spaces, newlines or special characters."));
    }
    if name.len() > NAME {
        return Err(Failure::err(format_args!("Client names cannot be longer than {NAME} bytes")));
    }
    session.name = name.to_vec();
    Ok(())
}

fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|b| (b'!'..=b'~').contains(b))
}

fn setinfo(call: &mut Call<'_>) -> Answer {
    let (option, value) = (call.args.at(2), call.args.at(3));
    let slot = if call.args.is(2, "lib-name") {
        &mut call.session.lib_name
    } else if call.args.is(2, "lib-ver") {
        &mut call.session.lib_version
    } else {
        return Err(Failure::Text([b"ERR Unrecognized option '", option, b"'"].concat().into()));
    };
    if !is_plain(value) || value.len() > NAME {
        let why: &[u8] = b" cannot contain spaces, newlines or special characters.";
        return Err(Failure::Text([b"ERR ", option, why].concat().into()));
    }
    *slot = value.to_vec();
    call.reply.ok();
    Ok(())
}

fn info(call: &mut Call<'_>) -> Answer {
    let mut text = String::new();
    describe(&mut text, call.session, Buffers::default(), call.now.mono);
    call.reply.verbatim(&text);
    Ok(())
}

/// Which connections CLIENT LIST shows.
enum Which {
    All,
    None,
    Ids(Vec<i64>),
}

fn which(args: Args<'_>) -> Result<Which, Failure> {
    if args.len() == 2 {
        return Ok(Which::All);
    }
    if args.is(2, "type") && args.len() == 4 {
        // Nobody subscribes yet, and peers do not come by this door.
        if args.is(3, "normal") {
            return Ok(Which::All);
        }
        if ["master", "slave", "replica", "pubsub"].iter().any(|t| args.is(3, t)) {
            return Ok(Which::None);
        }
        return Err(Failure::Text([b"ERR Unknown client type '", args.at(3), b"'"].concat().into()));
    }
    if args.is(2, "id") && args.len() > 3 {
        let ids = (3..args.len()).map(|n| match args.integer(n) {
            Ok(id) if id > 0 => Ok(id),
            _ => Err(Failure::err("Invalid client ID")),
        });
        return Ok(Which::Ids(ids.collect::<Result<_, _>>()?));
    }
    Err(Failure::Syntax)
}

fn list(call: &mut Call<'_>) -> Answer {
    let which = which(call.args)?;
    let shown = |id: u64| match &which {
        Which::All => true,
        Which::None => false,
        Which::Ids(ids) => ids.contains(&(id as i64)),
    };
    let mut text = String::new();
    let (now, own) = (call.now.mono, &*call.session);
    let mut own_shown = !shown(own.id);
    call.worker.each_client(|id, client| {
        if id > own.id && !own_shown {
            describe(&mut text, own, Buffers::default(), now);
            own_shown = true;
        }
        if id != own.id && shown(id) {
            client.look(|session, buffers| describe(&mut text, session, buffers, now));
        }
    });
    if !own_shown {
        describe(&mut text, own, Buffers::default(), now);
    }
    call.reply.verbatim(&text);
    Ok(())
}

/// One line about a connection, with the fields that Redis has.
fn describe(text: &mut String, session: &Session, buffers: Buffers, now_us: u64) {
    let seconds = |since: u64| now_us.saturating_sub(since) / 1_000_000;
    let plain = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (command, subcommand) = session.last;
    let flags = if session.no_evict { "Ne" } else { "N" };
    let resp = if session.proto == Proto::Resp3 { 3 } else { 2 };
    let written = write!(
        text,
        "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={flags} db=0 sub=0 psub=0 ssub=0 multi=-1 \
         qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={} oll=0 omem={} tot-mem={} events=r cmd={command}",
        session.id,
        session.peer,
        session.local,
        plain(&session.name),
        seconds(session.opened_us),
        seconds(session.used_us),
        buffers.input,
        buffers.output,
        buffers.output,
        buffers.input + buffers.output,
    );
    written.expect("text takes what is written to it");
    if let Some(subcommand) = subcommand {
        text.push('|');
        text.push_str(subcommand);
    }
    let lib = (plain(&session.lib_name), plain(&session.lib_version));
    writeln!(text, " user=default redir=-1 resp={resp} lib-name={} lib-ver={}", lib.0, lib.1)
        .expect("text takes what is written to it");
}

fn on_off(call: &mut Call<'_>) -> Result<bool, Failure> {
    let on = call.args.is(2, "on");
    if !on && !call.args.is(2, "off") {
        return Err(Failure::Syntax);
    }
    call.reply.ok();
    Ok(on)
}

/// Nothing is ever evicted, so that the wish is granted by noting it.
fn no_evict(call: &mut Call<'_>) -> Answer {
    call.session.no_evict = on_off(call)?;
    Ok(())
}

fn no_touch(call: &mut Call<'_>) -> Answer {
    call.session.no_touch = on_off(call)?;
    Ok(())
}
