//! Commands about keys of any kind.

use crate::resp::below::{Kind, Write as Change, Written};
use crate::resp::call::{Answer, Args, Call, Failure};
use crate::resp::glob;
use crate::resp::number::parse_u64;
use crate::resp::table::{Command, Family::Keys, Flag::*};

pub(super) const ROWS: &[Command] = &[
    Command::new(Keys, "del", -2, del).flags(&[Write]).keys(1, -1, 1).doc("1.0.0", "Delete a key"),
    Command::new(Keys, "unlink", -2, del)
        .flags(&[Write, Fast])
        .keys(1, -1, 1)
        .doc("4.0.0", "Delete a key; the same as DEL"),
    Command::new(Keys, "exists", -2, exists)
        .flags(&[ReadOnly, Fast])
        .keys(1, -1, 1)
        .doc("1.0.0", "Determine if a key exists"),
    Command::new(Keys, "type", 2, type_of)
        .flags(&[ReadOnly, Fast])
        .keys(1, 1, 1)
        .doc("1.0.0", "Determine the type stored at key"),
    Command::new(Keys, "keys", 2, keys)
        .flags(&[ReadOnly])
        .doc("1.0.0", "Find all keys matching the given pattern"),
    Command::new(Keys, "scan", -2, scan)
        .flags(&[ReadOnly])
        .doc("2.8.0", "Incrementally iterate the keys space"),
];

fn del(call: &mut Call<'_>) -> Answer {
    let mut removed = 0;
    for key in call.args.from(1) {
        if let Written::Removed(true) = call.write(Change::Delete { key })? {
            removed += 1;
        }
    }
    call.reply.count(removed);
    Ok(())
}

fn exists(call: &mut Call<'_>) -> Answer {
    let replica = call.engine.replica().state();
    call.reply.count(call.args.from(1).filter(|key| replica.view(key).is_some()).count());
    Ok(())
}

/// The type that Redis would call it.
fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::LwwRegister | Kind::PnCounter => "string",
        Kind::OrSet => "set",
        Kind::GCounter => "gcounter",
    }
}

fn type_of(call: &mut Call<'_>) -> Answer {
    let kind = call.engine.replica().state().view(call.args.at(1)).map(|view| view.kind());
    call.reply.simple(kind.map_or("none", type_name));
    Ok(())
}

fn keys(call: &mut Call<'_>) -> Answer {
    let pattern = call.args.at(1);
    let open = call.reply.open_array();
    let mut found = 0;
    let mut cursor = 0;
    loop {
        cursor = call.engine.replica().state().scan(cursor, 1024, |key, _| {
            if glob::matches(pattern, key) {
                call.reply.bulk(key);
                found += 1;
            }
        });
        if cursor == 0 || call.reply.overrun() {
            break;
        }
    }
    call.reply.close(open, found);
    Ok(())
}

/// What SCAN is to show.
struct Filter<'a> {
    pattern: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    count: usize,
}

/// Most keys that one SCAN looks at, whatever it asks for, so that it holds nobody up for long.
const SCAN: i64 = 1 << 16;

impl<'a> Filter<'a> {
    fn parse(args: Args<'a>) -> Result<Self, Failure> {
        let mut filter = Self { pattern: None, kind: None, count: 10 };
        let mut at = 2;
        while at < args.len() {
            let value = args.get(at + 1).ok_or(Failure::Syntax)?;
            if args.is(at, "match") {
                filter.pattern = Some(value).filter(|p| !glob::matches_all(p));
            } else if args.is(at, "count") {
                filter.count = match args.integer(at + 1)? {
                    ..1 => return Err(Failure::Syntax),
                    count => count.min(SCAN) as usize,
                };
            } else if args.is(at, "type") {
                filter.kind = Some(value);
            } else {
                return Err(Failure::Syntax);
            }
            at += 2;
        }
        Ok(filter)
    }

    fn passes(&self, key: &[u8], kind: Kind) -> bool {
        self.pattern.is_none_or(|p| glob::matches(p, key))
            && self.kind.is_none_or(|k| k.eq_ignore_ascii_case(type_name(kind).as_bytes()))
    }
}

/// Low bits of a place in the scan that a cursor leaves out: clients in JavaScript keep 53
/// bits of an integer. Going on a little earlier repeats a key at most, as SCAN may.
const CURSOR_SHIFT: u32 = 12;

fn cursor_of(place: u64) -> u64 {
    if place == 0 { 0 } else { (place >> CURSOR_SHIFT) + 1 }
}

/// None for a cursor that no scan has answered with.
fn place_of(cursor: u64) -> Option<u64> {
    match cursor.checked_sub(1) {
        None => Some(0),
        Some(high) => high.checked_mul(1 << CURSOR_SHIFT),
    }
}

fn scan(call: &mut Call<'_>) -> Answer {
    let cursor = parse_u64(call.args.at(1)).ok_or_else(|| Failure::err("invalid cursor"))?;
    let filter = Filter::parse(call.args)?;
    let from = place_of(cursor);
    let outer = call.reply.open_array();
    let inner = call.reply.open_array();
    let mut found = 0;
    let next = from.map_or(0, |from| {
        call.engine.replica().state().scan(from, filter.count, |key, kind| {
            if filter.passes(key, kind) {
                call.reply.bulk(key);
                found += 1;
            }
        })
    });
    call.reply.close(inner, found);
    call.reply.close_scan(outer, cursor_of(next));
    Ok(())
}
