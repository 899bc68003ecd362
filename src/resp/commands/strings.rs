//! Commands about strings: a register with a counter over it.

use tidings_proto::bounds;

use crate::resp::below::{View, Write as Change, Written};
use crate::resp::call::{Answer, Args, Call, Failure};
use crate::resp::reply::Reply;
use crate::resp::table::{Command, Family::Strings, Flag, Flag::*, wrong_arity};

const COUNTS: &[Flag] = &[Write, DenyOom, Fast];

pub(super) const ROWS: &[Command] = &[
    Command::new(Strings, "set", -3, set)
        .flags(&[Write, DenyOom])
        .keys(1, 1, 1)
        .doc("1.0.0", "Set the string value of a key; NX and XX look at this node only"),
    Command::new(Strings, "get", 2, get)
        .flags(&[ReadOnly, Fast])
        .keys(1, 1, 1)
        .doc("1.0.0", "Get the value of a key"),
    Command::new(Strings, "mget", -2, mget)
        .flags(&[ReadOnly, Fast])
        .keys(1, -1, 1)
        .doc("1.0.0", "Get the values of all the given keys"),
    Command::new(Strings, "mset", -3, mset)
        .flags(&[Write, DenyOom])
        .keys(1, -1, 2)
        .doc("1.0.1", "Set multiple keys to multiple values"),
    Command::new(Strings, "incr", 2, incr)
        .flags(COUNTS)
        .keys(1, 1, 1)
        .doc("1.0.0", "Increment the integer value of a key by one"),
    Command::new(Strings, "decr", 2, decr)
        .flags(COUNTS)
        .keys(1, 1, 1)
        .doc("1.0.0", "Decrement the integer value of a key by one"),
    Command::new(Strings, "incrby", 3, incrby)
        .flags(COUNTS)
        .keys(1, 1, 1)
        .doc("1.0.0", "Increment the integer value of a key by the given amount"),
    Command::new(Strings, "decrby", 3, decrby)
        .flags(COUNTS)
        .keys(1, 1, 1)
        .doc("1.0.0", "Decrement the integer value of a key by the given number"),
];

/// What follows the value in SET.
#[derive(Default)]
struct SetOptions {
    if_absent: bool,
    if_present: bool,
    get: bool,
}

impl SetOptions {
    fn parse(args: Args<'_>) -> Result<Self, Failure> {
        let mut options = Self::default();
        for at in 3..args.len() {
            if args.is(at, "nx") && !options.if_present {
                options.if_absent = true;
            } else if args.is(at, "xx") && !options.if_absent {
                options.if_present = true;
            } else if args.is(at, "get") {
                options.get = true;
            } else if ["ex", "px", "exat", "pxat", "keepttl"].iter().any(|o| args.is(at, o)) {
                return Err(Failure::err("expiry options are not supported yet"));
            } else {
                return Err(Failure::Syntax);
            }
        }
        Ok(options)
    }

    fn any(&self) -> bool {
        self.if_absent || self.if_present || self.get
    }
}

fn set(call: &mut Call<'_>) -> Answer {
    let (key, value) = (call.args.at(1), call.args.at(2));
    let options = SetOptions::parse(call.args)?;
    if options.any() {
        let old = call.engine.replica().state().view(key);
        let refused = if old.is_some() { options.if_absent } else { options.if_present };
        if options.get {
            string(&mut call.reply, old)?;
        } else if refused {
            call.reply.null();
        }
        if refused {
            return Ok(());
        }
    }
    call.write(Change::Set { key, value })?;
    if !options.get {
        call.reply.ok();
    }
    Ok(())
}

/// Replies with what is read as a string.
fn string(reply: &mut Reply<'_>, view: Option<View<'_>>) -> Answer {
    match view {
        None => reply.null(),
        Some(View::Bytes(bytes)) => reply.bulk(bytes),
        Some(View::Integer(number)) => reply.bulk_integer(number),
        Some(View::Set(_) | View::GCounter(_)) => return Err(Failure::WrongKind),
    }
    Ok(())
}

fn get(call: &mut Call<'_>) -> Answer {
    string(&mut call.reply, call.engine.replica().state().view(call.args.at(1)))
}

fn mget(call: &mut Call<'_>) -> Answer {
    call.reply.array(call.args.len() - 1);
    for key in call.args.from(1) {
        if string(&mut call.reply, call.engine.replica().state().view(key)).is_err() {
            call.reply.null();
        }
    }
    Ok(())
}

fn mset(call: &mut Call<'_>) -> Answer {
    if call.args.len().is_multiple_of(2) {
        return Err(wrong_arity("mset"));
    }
    // All or nothing: what the engine would refuse is refused before the first is written.
    let pairs = (1..call.args.len()).step_by(2);
    if pairs.clone().any(|at| call.args.at(at).len() > bounds::KEY) {
        return Err(Failure::err(format_args!("a key is longer than {} bytes", bounds::KEY)));
    }
    for at in pairs {
        call.write(Change::Set { key: call.args.at(at), value: call.args.at(at + 1) })?;
    }
    call.reply.ok();
    Ok(())
}

fn incr(call: &mut Call<'_>) -> Answer {
    increment(call, 1)
}

fn decr(call: &mut Call<'_>) -> Answer {
    increment(call, -1)
}

fn incrby(call: &mut Call<'_>) -> Answer {
    let by = call.args.integer(2)?;
    increment(call, by)
}

fn decrby(call: &mut Call<'_>) -> Answer {
    let by = call.args.integer(2)?;
    increment(call, by.checked_neg().ok_or_else(|| Failure::err("decrement would overflow"))?)
}

fn increment(call: &mut Call<'_>, by: i64) -> Answer {
    match call.write(Change::Increment { key: call.args.at(1), by })? {
        Written::Value(value) => call.reply.integer(value),
        other => unreachable!("an increment answers with a value, not {other:?}"),
    }
    Ok(())
}
