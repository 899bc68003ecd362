//! Commands about the connection itself.

use super::REDIS_VERSION;
use super::client::set_name;
use crate::resp::call::{Answer, Call, Failure, Flow, Session};
use crate::resp::number::parse_i64;
use crate::resp::reply::Proto;
use crate::resp::table::{Command, Family::Connection, Flag::*, wrong_arity};

pub(super) const ROWS: &[Command] = &[
    Command::new(Connection, "ping", -1, ping).flags(&[Fast]).doc("1.0.0", "Ping the server"),
    Command::new(Connection, "echo", 2, echo)
        .flags(&[Loading, Stale, Fast])
        .doc("1.0.0", "Echo the given string"),
    Command::new(Connection, "hello", -1, hello)
        .flags(&[NoScript, Loading, Stale, Fast, NoAuth, AllowBusy])
        .doc("6.0.0", "Handshake with Redis"),
    Command::new(Connection, "quit", -1, quit)
        .flags(&[NoScript, Loading, Stale, Fast, NoAuth, AllowBusy])
        .doc("1.0.0", "Close the connection"),
    Command::new(Connection, "reset", 1, reset)
        .flags(&[NoScript, Loading, Stale, Fast, NoAuth, AllowBusy])
        .doc("6.2.0", "Reset the connection"),
    Command::new(Connection, "select", 2, select)
        .flags(&[Loading, Stale, Fast])
        .doc("1.0.0", "Change the selected database for the current connection"),
];

fn ping(call: &mut Call<'_>) -> Answer {
    match call.args.len() {
        1 => call.reply.simple("PONG"),
        2 => call.reply.bulk(call.args.at(1)),
        _ => return Err(wrong_arity("ping")),
    }
    Ok(())
}

fn echo(call: &mut Call<'_>) -> Answer {
    call.reply.bulk(call.args.at(1));
    Ok(())
}

fn hello(call: &mut Call<'_>) -> Answer {
    let args = call.args;
    let proto = match args.get(1).map(parse_i64) {
        None => call.session.proto,
        Some(Some(2)) => Proto::Resp2,
        Some(Some(3)) => Proto::Resp3,
        Some(Some(_)) => return Err(Failure::text("NOPROTO unsupported protocol version")),
        Some(None) => return Err(Failure::err("Protocol version is not an integer or out of range")),
    };
    let mut name = None;
    let mut at = 2;
    while at < args.len() {
        if args.is(at, "auth") && at + 2 < args.len() {
            authenticate(args.at(at + 1))?;
            at += 3;
        } else if args.is(at, "setname") && at + 1 < args.len() {
            name = Some(args.at(at + 1));
            at += 2;
        } else {
            let option = args.at(at);
            return Err(Failure::Text([b"ERR Syntax error in HELLO option '", option, b"'"].concat().into()));
        }
    }
    if let Some(name) = name {
        set_name(call.session, name)?;
    }
    call.session.proto = proto;
    call.reply.proto = proto;
    greet(call);
    Ok(())
}

/// There are no passwords: the default user may name any, as in a Redis without one.
fn authenticate(user: &[u8]) -> Answer {
    if user == b"default" {
        return Ok(());
    }
    Err(Failure::text("WRONGPASS invalid username-password pair or user is disabled."))
}

fn greet(call: &mut Call<'_>) {
    let reply = &mut call.reply;
    reply.map(7);
    for (key, value) in [("server", "tidings"), ("version", REDIS_VERSION)] {
        reply.text(key);
        reply.text(value);
    }
    reply.text("proto");
    reply.integer(call.session.proto.number());
    reply.text("id");
    reply.integer(call.session.id as i64);
    for (key, value) in [("mode", "standalone"), ("role", "master")] {
        reply.text(key);
        reply.text(value);
    }
    reply.text("modules");
    reply.array(0);
}

fn quit(call: &mut Call<'_>) -> Answer {
    call.reply.ok();
    call.session.flow = Flow::Close;
    Ok(())
}

fn reset(call: &mut Call<'_>) -> Answer {
    let Session { proto, name, no_evict, no_touch, .. } = call.session;
    (*proto, *no_evict, *no_touch) = (Proto::Resp2, false, false);
    name.clear();
    call.reply.proto = Proto::Resp2;
    call.reply.simple("RESET");
    Ok(())
}

fn select(call: &mut Call<'_>) -> Answer {
    match call.args.integer(1)? {
        0 => call.reply.ok(),
        _ => return Err(Failure::err("DB index is out of range")),
    }
    Ok(())
}
