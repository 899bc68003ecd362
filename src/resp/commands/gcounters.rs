//! Counters that only grow.

use crate::resp::below::{View, Write as Change, Written};
use crate::resp::call::{Answer, Call, Failure};
use crate::resp::number::{parse_i64, parse_u64};
use crate::resp::table::{Command, Family::GCounters, Flag::*};

pub(super) const ROWS: &[Command] = &[
    Command::new(GCounters, "gcounter.incrby", 3, incrby)
        .flags(&[Write, DenyOom, Fast])
        .keys(1, 1, 1)
        .doc("0.1.0", "Increment a G-counter; a negative amount is an error and changes nothing"),
    Command::new(GCounters, "gcounter.get", 2, get)
        .flags(&[ReadOnly, Fast])
        .keys(1, 1, 1)
        .doc("0.1.0", "Get the value of a G-counter; 0 if there is none"),
];

fn incrby(call: &mut Call<'_>) -> Answer {
    let amount = call.args.at(2);
    let by = parse_u64(amount).ok_or_else(|| match parse_i64(amount) {
        Some(_) => Failure::err("a G-counter only grows: the increment must not be negative"),
        None => Failure::NotAnInteger,
    })?;
    match call.write(Change::GIncrement { key: call.args.at(1), by })? {
        Written::Value(value) => call.reply.integer(value),
        other => unreachable!("an increment answers with a value, not {other:?}"),
    }
    Ok(())
}

fn get(call: &mut Call<'_>) -> Answer {
    match call.engine.replica().state().view(call.args.at(1)) {
        None => call.reply.integer(0),
        Some(View::GCounter(value)) => call.reply.integer(value),
        Some(_) => return Err(Failure::WrongKind),
    }
    Ok(())
}
