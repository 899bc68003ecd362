//! The table of commands: what there is, what it takes, and how a name finds it.

use std::sync::LazyLock;

use super::call::{Answer, Call, Failure, Flow};
use super::commands;

/// What carries a command out.
pub(crate) type Run = fn(&mut Call<'_>) -> Answer;

/// Which file of `commands/` a command lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Connection,
    Server,
    Keys,
    Strings,
    Sets,
    GCounters,
    Tidings,
}

impl Family {
    /// Its name in metrics and in COMMAND DOCS.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Keys => "generic",
            Self::Strings => "string",
            Self::Sets => "set",
            Self::GCounters => "gcounter",
            Self::Tidings => "tidings",
        }
    }
}

/// What COMMAND INFO says of a command, by Redis's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    Write,
    ReadOnly,
    DenyOom,
    Admin,
    NoScript,
    Loading,
    Stale,
    Fast,
    NoAuth,
    AllowBusy,
}

impl Flag {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::ReadOnly => "readonly",
            Self::DenyOom => "denyoom",
            Self::Admin => "admin",
            Self::NoScript => "noscript",
            Self::Loading => "loading",
            Self::Stale => "stale",
            Self::Fast => "fast",
            Self::NoAuth => "no_auth",
            Self::AllowBusy => "allow_busy",
        }
    }
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Command {
    /// In lower case.
    pub(crate) name: &'static str,
    pub(crate) family: Family,
    /// Number of arguments with the name; negative: at least so many.
    pub(crate) arity: i16,
    pub(crate) flags: &'static [Flag],
    /// First key, last key (negative: from the end), step.
    pub(crate) keys: (i16, i16, i16),
    pub(crate) since: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) run: Run,
    pub(crate) subcommands: &'static [Command],
}

impl Command {
    /// A row without flags, keys and subcommands.
    pub(crate) const fn new(family: Family, name: &'static str, arity: i16, run: Run) -> Self {
        Self {
            name,
            family,
            arity,
            run,
            flags: &[],
            keys: (0, 0, 0),
            since: "1.0.0",
            summary: "",
            subcommands: &[],
        }
    }

    pub(crate) const fn flags(mut self, flags: &'static [Flag]) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) const fn keys(mut self, first: i16, last: i16, step: i16) -> Self {
        self.keys = (first, last, step);
        self
    }

    /// Since which version of Redis (or of tidings, for our own), and what it does.
    pub(crate) const fn doc(mut self, since: &'static str, summary: &'static str) -> Self {
        self.since = since;
        self.summary = summary;
        self
    }

    pub(crate) const fn subcommands(mut self, subcommands: &'static [Command]) -> Self {
        self.subcommands = subcommands;
        self
    }

    fn takes(&self, args: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { args >= arity } else { args == arity }
    }
}

const SLOTS: usize = 512;
const LONGEST_NAME: usize = 24;

/// All rows, and an open hash table from names to them.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<&'static Command>,
    slots: [u16; SLOTS],
}

impl Table {
    /// The one table.
    pub(crate) fn get() -> &'static Self {
        static TABLE: LazyLock<Table> = LazyLock::new(|| Table::build(commands::FAMILIES));
        &TABLE
    }

    fn build(families: &[&'static [Command]]) -> Self {
        let rows: Vec<&Command> = families.iter().copied().flatten().collect();
        assert!(rows.len() < SLOTS / 2, "the table of names wants free slots");
        let mut slots = [u16::MAX; SLOTS];
        for (place, row) in rows.iter().enumerate() {
            assert!(row.name.len() <= LONGEST_NAME, "{} is too long a name", row.name);
            let mut slot = hash(row.name.as_bytes());
            while slots[slot] != u16::MAX {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = place as u16;
        }
        Self { rows, slots }
    }

    pub(crate) fn rows(&self) -> impl ExactSizeIterator<Item = &'static Command> {
        self.rows.iter().copied()
    }

    /// The place and row of a name, in any case.
    pub(crate) fn find(&self, name: &[u8]) -> Option<(usize, &'static Command)> {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return None;
        }
        let mut slot = hash(name);
        loop {
            let place = usize::from(self.slots[slot]);
            let row = *self.rows.get(place)?;
            if row.name.as_bytes().eq_ignore_ascii_case(name) {
                return Some((place, row));
            }
            slot = (slot + 1) % SLOTS;
        }
    }
}

/// Of a name that is not empty, blind to case.
fn hash(name: &[u8]) -> usize {
    let hash =
        name.iter().fold(name.len() as u32, |h, &b| (h ^ u32::from(b | 0x20)).wrapping_mul(0x0100_0193));
    (hash ^ hash >> 15) as usize % SLOTS
}

/// Carries out the command in `call`, and makes of every outcome a whole reply.
pub(crate) fn dispatch(call: &mut Call<'_>) {
    let mark = call.reply.mark();
    let answer = match Table::get().find(call.args.at(0)) {
        Some((place, command)) => {
            call.worker.stats.called(place);
            run(call, command)
        }
        None => {
            call.worker.stats.commands.add(1);
            call.worker.stats.unknown.add(1);
            Err(if is_http(call.args.at(0)) { not_http(call) } else { unknown(call) })
        }
    };
    if let Err(failure) = answer {
        call.worker.stats.errors.add(1);
        call.reply.rewind(mark);
        call.reply.error(failure.as_bytes());
    }
}

fn run(call: &mut Call<'_>, command: &'static Command) -> Answer {
    call.session.last = (command.name, None);
    if !command.takes(call.args.len()) {
        return Err(wrong_arity(command.name));
    }
    let Some(name) = call.args.get(1).filter(|_| !command.subcommands.is_empty()) else {
        return (command.run)(call);
    };
    let Some(sub) = command.subcommands.iter().find(|s| s.name.as_bytes().eq_ignore_ascii_case(name)) else {
        let name = &name[..name.len().min(128)];
        let end = format!("'. Try {} HELP.", command.name.to_ascii_uppercase());
        return Err(Failure::Text([b"ERR unknown subcommand '", name, end.as_bytes()].concat().into()));
    };
    call.session.last = (command.name, Some(sub.name));
    if !sub.takes(call.args.len()) {
        return Err(wrong_arity(&format!("{}|{}", command.name, sub.name)));
    }
    (sub.run)(call)
}

/// The error that MSET and its like report for themselves too.
pub(crate) fn wrong_arity(name: &str) -> Failure {
    Failure::err(format_args!("wrong number of arguments for '{name}' command"))
}

/// Whether it is a line of an HTTP request: a web page may have a browser post commands
/// to a port of its own machine, but cannot keep these two out of them.
fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

fn not_http(call: &mut Call<'_>) -> Failure {
    tracing::warn!(client = %call.session.peer, "closed a client that speaks HTTP to the Redis port");
    call.worker.stats.malformed.add(1);
    call.session.flow = Flow::Close;
    Failure::err("Protocol error: this port does not speak HTTP")
}

/// Redis's words: the name and as many arguments as fit, cut at 128 bytes each.
fn unknown(call: &Call<'_>) -> Failure {
    let cut = |bytes: &[u8], most: usize| {
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        bytes[..end.min(most)].to_vec()
    };
    let mut shown = Vec::new();
    for argument in call.args.from(1) {
        if shown.len() >= 128 {
            break;
        }
        let argument = cut(argument, 128 - shown.len());
        shown.push(b'\'');
        shown.extend_from_slice(&argument);
        shown.extend_from_slice(b"' ");
    }
    let name = cut(call.args.at(0), 128);
    Failure::Text(
        [b"ERR unknown command '", &name[..], b"', with args beginning with: ", &shown[..]].concat().into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        let table = Table::get();
        for (place, row) in table.rows().enumerate() {
            assert_eq!(row.name, row.name.to_ascii_lowercase());
            assert!(!row.summary.is_empty(), "{} has no summary", row.name);
            for name in [row.name.to_ascii_uppercase(), row.name.to_string()] {
                assert_eq!(table.find(name.as_bytes()).unwrap().0, place);
            }
        }
        for absent in ["", "nosuch", "getx", "client|id", "ge\u{54}\0"] {
            assert!(table.find(absent.as_bytes()).is_none());
        }
    }
}
