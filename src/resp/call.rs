//! What a command is given, and how it says no.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::below::{Engine, Now, Write, WriteError, Written};
use super::codec::Span;
use super::number::parse_i64;
use super::reply::{Proto, Reply};
use super::server::Worker;
use tidings_proto::Actor;

/// The arguments of a command, its name first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    pub(crate) fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Self { bytes, spans }
    }

    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The argument at `place`. That it is there follows from the arity in the command's row.
    pub(crate) fn at(&self, place: usize) -> &'a [u8] {
        let span = self.spans[place];
        &self.bytes[span.start as usize..span.end as usize]
    }

    pub(crate) fn get(&self, place: usize) -> Option<&'a [u8]> {
        (place < self.len()).then(|| self.at(place))
    }

    /// The arguments from `place` on.
    pub(crate) fn from(self, place: usize) -> impl ExactSizeIterator<Item = &'a [u8]> {
        (place.min(self.len())..self.len()).map(move |n| self.at(n))
    }

    /// The argument at `place` as an integer.
    pub(crate) fn integer(&self, place: usize) -> Result<i64, Failure> {
        parse_i64(self.at(place)).ok_or(Failure::NotAnInteger)
    }

    /// Whether the argument at `place` is this word, in any case.
    pub(crate) fn is(&self, place: usize, word: &str) -> bool {
        self.get(place).is_some_and(|a| a.eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// Why a command was not carried out. Unless the text says otherwise it changed nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    Syntax,
    WrongKind,
    NotAnInteger,
    /// Any other error, with its prefix.
    Text(Box<[u8]>),
}

impl Failure {
    /// An error of the general sort.
    pub(crate) fn err(text: impl fmt::Display) -> Self {
        Self::text(format!("ERR {text}"))
    }

    /// An error with a prefix of its own.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into().into_bytes().into_boxed_slice())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Syntax => b"ERR syntax error",
            Self::WrongKind => b"WRONGTYPE Operation against a key holding the wrong kind of value",
            Self::NotAnInteger => b"ERR value is not an integer or out of range",
            Self::Text(text) => text,
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::WrongKind(_) => Self::WrongKind,
            WriteError::NotAnInteger => Self::NotAnInteger,
            WriteError::Overflow => Self::err("increment or decrement would overflow"),
            WriteError::OutOfMemory { bound } => Self::text(format!(
                "OOM command not allowed when used memory > 'maxmemory': max_memory is {bound} bytes."
            )),
            WriteError::LogFull { .. } => Self::text(format!("BUSY {error}")),
            WriteError::Stopped(_) => Self::text(format!("IOERR {error}")),
            other => Self::err(other),
        }
    }
}

/// What becomes of the connection after a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Flow {
    /// The next command.
    #[default]
    Go,
    /// Nothing more; close once the replies are out.
    Close,
    /// No further command until so many peers hold this connection's writes.
    Wait { peers: usize, timeout: Option<Duration> },
    /// No further command until this node has what so many nodes have; then the key is read.
    Quorum { key: Box<[u8]>, nodes: usize, timeout: Duration },
    /// No further command until a flush, which goes on in steps, has removed so many keys more.
    Flush { left: usize },
}

/// What a connection remembers between commands.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) proto: Proto,
    pub(crate) name: Vec<u8>,
    pub(crate) lib_name: Vec<u8>,
    pub(crate) lib_version: Vec<u8>,
    pub(crate) no_evict: bool,
    pub(crate) no_touch: bool,
    /// When it was opened, and last used, by the node's monotonic clock.
    pub(crate) opened_us: u64,
    pub(crate) used_us: u64,
    /// The command last called, in lower case; a subcommand after its parent.
    pub(crate) last: (&'static str, Option<&'static str>),
    pub(crate) flow: Flow,
    /// Whether it wrote since its last commit.
    pub(crate) wrote: bool,
    /// Its last write.
    pub(crate) last_dot: Option<(Actor, u64)>,
}

impl Session {
    pub(crate) fn new(id: u64, peer: SocketAddr, local: SocketAddr, now: Now) -> Self {
        Self {
            id,
            peer,
            local,
            proto: Proto::default(),
            name: Vec::new(),
            lib_name: Vec::new(),
            lib_version: Vec::new(),
            no_evict: false,
            no_touch: false,
            opened_us: now.mono,
            used_us: now.mono,
            last: ("NULL", None),
            flow: Flow::Go,
            wrote: false,
            last_dot: None,
        }
    }
}

/// One command being carried out.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) args: Args<'a>,
    pub(crate) reply: Reply<'a>,
    pub(crate) engine: &'a mut Engine,
    pub(crate) session: &'a mut Session,
    pub(crate) worker: &'a Worker,
    pub(crate) now: Now,
}

/// A command writes its reply, or fails; what it had replied before it failed is taken back.
pub(crate) type Answer = Result<(), Failure>;

impl Call<'_> {
    /// Hands a write to the engine.
    pub(crate) fn write(&mut self, write: Write<'_>) -> Result<Written, Failure> {
        let written = self.engine.write(self.now, write)?;
        self.session.wrote = true;
        Ok(written)
    }
}
