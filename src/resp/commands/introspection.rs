//! COMMAND: what this server can do, told to clients.

use crate::resp::call::{Answer, Call, Failure};
use crate::resp::glob;
use crate::resp::reply::Reply;
use crate::resp::table::{Command, Family, Family::Server, Flag, Flag::*, Table};

const FLAGS: &[Flag] = &[Loading, Stale];

pub(super) const ROWS: &[Command] = &[Command::new(Server, "command", -1, all)
    .flags(FLAGS)
    .doc("2.8.13", "Get array of Redis command details")
    .subcommands(&[
        Command::new(Server, "count", 2, count)
            .flags(FLAGS)
            .doc("2.8.13", "Get total number of Redis commands"),
        Command::new(Server, "info", -2, info)
            .flags(FLAGS)
            .doc("2.8.13", "Get array of specific Redis command details, or all when no argument is given."),
        Command::new(Server, "docs", -2, docs)
            .flags(FLAGS)
            .doc("7.0.0", "Get array of specific Redis command documentation"),
        Command::new(Server, "list", -2, list)
            .flags(FLAGS)
            .doc("7.0.0", "Get an array of Redis command names"),
    ])];

fn all(call: &mut Call<'_>) -> Answer {
    let rows = Table::get().rows();
    call.reply.array(rows.len());
    rows.for_each(|row| describe(&mut call.reply, row, None));
    Ok(())
}

fn count(call: &mut Call<'_>) -> Answer {
    call.reply.count(Table::get().rows().len());
    Ok(())
}

/// A command by its name, or a subcommand by `parent|name`: its row and the parent.
fn find(name: &[u8]) -> Option<(&'static Command, Option<&'static Command>)> {
    let mut parts = name.splitn(2, |&b| b == b'|');
    let row = Table::get().find(parts.next()?)?.1;
    let Some(sub) = parts.next() else { return Some((row, None)) };
    let sub = row.subcommands.iter().find(|s| s.name.as_bytes().eq_ignore_ascii_case(sub))?;
    Some((sub, Some(row)))
}

fn full_name(row: &Command, parent: Option<&Command>) -> String {
    parent.map_or_else(|| row.name.to_string(), |p| format!("{}|{}", p.name, row.name))
}

fn info(call: &mut Call<'_>) -> Answer {
    if call.args.len() == 2 {
        return all(call);
    }
    call.reply.array(call.args.len() - 2);
    for name in call.args.from(2) {
        match find(name) {
            Some((row, parent)) => describe(&mut call.reply, row, parent),
            None => call.reply.null_array(),
        }
    }
    Ok(())
}

fn describe(reply: &mut Reply<'_>, row: &Command, parent: Option<&Command>) {
    reply.array(10);
    reply.text(&full_name(row, parent));
    reply.integer(i64::from(row.arity));
    reply.set(row.flags.len());
    row.flags.iter().for_each(|flag| reply.simple(flag.name()));
    let (first, last, step) = row.keys;
    for place in [first, last, step] {
        reply.integer(i64::from(place));
    }
    let categories = categories(row);
    reply.set(categories.len());
    categories.iter().for_each(|category| reply.simple(category));
    reply.set(0);
    key_spec(reply, row);
    reply.array(row.subcommands.len());
    row.subcommands.iter().for_each(|sub| describe(reply, sub, Some(row)));
}

/// The same that `keys` says, in the form that newer clients read.
fn key_spec(reply: &mut Reply<'_>, row: &Command) {
    let (first, last, step) = row.keys;
    if first == 0 {
        reply.set(0);
        return;
    }
    let access = if row.flags.contains(&ReadOnly) { "RO" } else { "RW" };
    reply.set(1);
    reply.map(3);
    reply.text("flags");
    reply.set(1);
    reply.simple(access);
    reply.text("begin_search");
    reply.map(2);
    reply.text("type");
    reply.text("index");
    reply.text("spec");
    reply.map(1);
    reply.text("index");
    reply.integer(i64::from(first));
    reply.text("find_keys");
    reply.map(2);
    reply.text("type");
    reply.text("range");
    reply.text("spec");
    reply.map(3);
    let last = if last < 0 { last } else { last - first };
    for (name, number) in [("lastkey", last), ("keystep", step), ("limit", 0)] {
        reply.text(name);
        reply.integer(i64::from(number));
    }
}

/// Redis's access categories. There are no access lists here, but clients read them.
fn categories(row: &Command) -> Vec<&'static str> {
    let has = |flag| row.flags.contains(&flag);
    let family = match row.family {
        Family::Connection => Some("@connection"),
        Family::Keys => Some("@keyspace"),
        Family::Strings => Some("@string"),
        Family::Sets => Some("@set"),
        Family::Server | Family::GCounters | Family::Tidings => None,
    };
    let speed = if has(Fast) { "@fast" } else { "@slow" };
    let optional = [(has(Write), "@write"), (has(ReadOnly), "@read"), (has(Admin), "@admin")];
    let categories = optional.into_iter().filter_map(|(present, name)| present.then_some(name));
    categories.chain(family).chain([speed]).chain(has(Admin).then_some("@dangerous")).collect()
}

fn docs(call: &mut Call<'_>) -> Answer {
    let found: Vec<_> = if call.args.len() == 2 {
        Table::get().rows().map(|row| (row, None)).collect()
    } else {
        call.args.from(2).filter_map(find).collect()
    };
    call.reply.map(found.len());
    found.iter().for_each(|(row, parent)| document(&mut call.reply, row, *parent));
    Ok(())
}

fn document(reply: &mut Reply<'_>, row: &Command, parent: Option<&Command>) {
    reply.text(&full_name(row, parent));
    reply.map(3 + usize::from(!row.subcommands.is_empty()));
    for (key, value) in [("summary", row.summary), ("since", row.since), ("group", row.family.name())] {
        reply.text(key);
        reply.text(value);
    }
    if !row.subcommands.is_empty() {
        reply.text("subcommands");
        reply.map(row.subcommands.len());
        row.subcommands.iter().for_each(|sub| document(reply, sub, Some(row)));
    }
}

fn list(call: &mut Call<'_>) -> Answer {
    let pattern = match call.args.len() {
        2 => &b"*"[..],
        5 if call.args.is(2, "filterby") && call.args.is(3, "pattern") => call.args.at(4),
        _ => return Err(Failure::Syntax),
    };
    let open = call.reply.open_array();
    let mut shown = 0;
    for row in Table::get().rows() {
        let names = row.subcommands.iter().map(|sub| full_name(sub, Some(row)));
        for name in [row.name.to_string()].into_iter().chain(names) {
            if glob::matches(pattern, name.as_bytes()) {
                call.reply.text(&name);
                shown += 1;
            }
        }
    }
    call.reply.close(open, shown);
    Ok(())
}
