//! Commands about sets.

use smallvec::SmallVec;

use crate::resp::below::{Set, View, Write as Change, Written};
use crate::resp::call::{Answer, Call, Failure};
use crate::resp::table::{Command, Family::Sets, Flag::*};

pub(super) const ROWS: &[Command] = &[
    Command::new(Sets, "sadd", -3, sadd)
        .flags(&[Write, DenyOom, Fast])
        .keys(1, 1, 1)
        .doc("1.0.0", "Add one or more members to a set"),
    Command::new(Sets, "srem", -3, srem)
        .flags(&[Write, Fast])
        .keys(1, 1, 1)
        .doc("1.0.0", "Remove one or more members from a set"),
    Command::new(Sets, "smembers", 2, smembers)
        .flags(&[ReadOnly])
        .keys(1, 1, 1)
        .doc("1.0.0", "Get all the members in a set"),
    Command::new(Sets, "sismember", 3, sismember)
        .flags(&[ReadOnly, Fast])
        .keys(1, 1, 1)
        .doc("1.0.0", "Determine if a given value is a member of a set"),
    Command::new(Sets, "scard", 2, scard)
        .flags(&[ReadOnly, Fast])
        .keys(1, 1, 1)
        .doc("1.0.0", "Get the number of members in a set"),
];

/// The elements a command names, on the stack when they are few.
type Elements<'a> = SmallVec<[&'a [u8]; 8]>;

fn sadd(call: &mut Call<'_>) -> Answer {
    let elements: Elements<'_> = call.args.from(2).collect();
    let written = call.write(Change::Add { key: call.args.at(1), elements: &elements })?;
    count(call, &written);
    Ok(())
}

fn srem(call: &mut Call<'_>) -> Answer {
    let elements: Elements<'_> = call.args.from(2).collect();
    let written = call.write(Change::Remove { key: call.args.at(1), elements: &elements })?;
    count(call, &written);
    Ok(())
}

fn count(call: &mut Call<'_>, written: &Written) {
    match written {
        Written::Count(count) => call.reply.count(*count),
        other => unreachable!("a change of a set answers with a count, not {other:?}"),
    }
}

fn set(view: Option<View<'_>>) -> Result<Option<&Set>, Failure> {
    match view {
        None => Ok(None),
        Some(View::Set(set)) => Ok(Some(set)),
        Some(_) => Err(Failure::WrongKind),
    }
}

fn smembers(call: &mut Call<'_>) -> Answer {
    let Some(set) = set(call.engine.replica().state().view(call.args.at(1)))? else {
        call.reply.set(0);
        return Ok(());
    };
    call.reply.set(set.len());
    set.iter().for_each(|element| call.reply.bulk(element));
    Ok(())
}

fn sismember(call: &mut Call<'_>) -> Answer {
    let set = set(call.engine.replica().state().view(call.args.at(1)))?;
    call.reply.count(usize::from(set.is_some_and(|set| set.contains(call.args.at(2)))));
    Ok(())
}

fn scard(call: &mut Call<'_>) -> Answer {
    let set = set(call.engine.replica().state().view(call.args.at(1)))?;
    call.reply.count(set.map_or(0, |set| set.len()));
    Ok(())
}
