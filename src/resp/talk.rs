//! The protocol's side of a connection, without a socket: bytes in, bytes out.

use super::below::{Engine, NoQuorum, Now};
use super::call::{Args, Call, Flow, Session};
use super::codec::{Malformed, Parsed, Parser, keys_ahead};
use super::commands::{flush_step, reply_any};
use super::output::Output;
use super::reply::Reply;
use super::server::Worker;
use super::table::dispatch;
use tidings_proto::Name;

/// Replies a connection may have unsent while more of its commands are executed, unless
/// its input presses; also what one turn may add. A client that reads as it writes so
/// never meets the output bound. In bytes.
const PAUSE: usize = 1 << 20;
/// Input in wait at which commands are executed although replies are: a client that sends
/// all before it reads any would else wait for ever. No more is read at twice of it.
const PRESSED: usize = 1 << 20;

/// Of how many commands the keys are looked at before the first is executed.
const AHEAD: usize = 16;

/// How much a connection holds. In bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Buffers {
    pub(crate) input: usize,
    pub(crate) output: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) session: Session,
    pub(crate) out: Output,
    parser: Parser,
    /// Input not executed yet.
    rest: Vec<u8>,
    /// Whether `rest` may hold whole commands.
    more: bool,
    /// Nothing more is read or executed; the replies still leave.
    closing: bool,
    /// Replies passed their bound; nothing leaves any more.
    overrun: bool,
}

impl Talk {
    pub(crate) fn new(session: Session) -> Self {
        Self {
            session,
            out: Output::default(),
            parser: Parser::default(),
            rest: Vec::new(),
            more: false,
            closing: false,
            overrun: false,
        }
    }

    pub(crate) fn buffers(&self) -> Buffers {
        Buffers { input: self.rest.len(), output: self.out.unsent() }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    pub(crate) fn is_overrun(&self) -> bool {
        self.overrun
    }

    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Whether more input is welcome.
    pub(crate) fn may_read(&self) -> bool {
        let waiting = self.more || self.session.flow != Flow::Go;
        !self.closing && !self.overrun && (!waiting || self.rest.len() < 2 * PRESSED)
    }

    /// Whether `resume` has something to do.
    pub(crate) fn can_resume(&self) -> bool {
        match self.session.flow {
            Flow::Go => self.more && self.may_execute(),
            Flow::Flush { .. } => !self.closing,
            Flow::Close | Flow::Wait { .. } | Flow::Quorum { .. } => false,
        }
    }

    fn may_execute(&self) -> bool {
        let room = self.out.unsent() < PAUSE || self.rest.len() >= PRESSED;
        self.session.flow == Flow::Go && !self.closing && !self.overrun && room
    }

    /// Whether something was written to the engine or replied that no commit covers yet.
    pub(crate) fn wants_commit(&self) -> bool {
        self.session.wrote || self.out.has_unsealed()
    }

    /// A commit begins. Says whether it covers writes of this connection.
    pub(crate) fn seal(&mut self) -> bool {
        self.out.seal();
        std::mem::take(&mut self.session.wrote)
    }

    /// The commit of writes of this connection failed.
    pub(crate) fn fail(&mut self, why: &str) {
        let mut error = Vec::new();
        let text = format!("IOERR {why}");
        Reply::new(&mut error, self.session.proto, usize::MAX).error(text.as_bytes());
        self.out.fail(&error);
        self.closing = true;
    }

    /// A WAIT is over: so many peers hold the writes.
    pub(crate) fn waited(&mut self, peers: usize) {
        self.session.flow = Flow::Go;
        self.reply(usize::MAX).count(peers);
    }

    /// What a quorum read waited for is here, or is not.
    pub(crate) fn read(&mut self, worker: &Worker, outcome: Result<Vec<Name>, NoQuorum>) {
        let Flow::Quorum { key, .. } = std::mem::take(&mut self.session.flow) else { return };
        let engine = &mut *worker.node.lock();
        self.call(worker, engine, worker.node.now(), &[], |call| match outcome {
            Ok(_) => reply_any(call, &key),
            Err(error) => {
                call.worker.stats.errors.add(1);
                call.reply.error(format!("NOQUORUM {error}").as_bytes());
            }
        });
    }

    fn reply(&mut self, limit: usize) -> Reply<'_> {
        Reply::new(&mut self.out.bytes, self.session.proto, limit)
    }

    /// Takes what was read. What cannot be executed yet is kept.
    pub(crate) fn feed(&mut self, worker: &Worker, bytes: &mut [u8]) {
        worker.stats.bytes_in.add(bytes.len() as u64);
        if self.rest.is_empty() && self.may_execute() {
            let done = self.execute(worker, bytes);
            if !self.closing {
                self.rest.extend_from_slice(&bytes[done..]);
            }
        } else {
            self.rest.extend_from_slice(bytes);
            self.more = true;
            self.resume(worker);
        }
    }

    /// Goes on with what was left.
    pub(crate) fn resume(&mut self, worker: &Worker) {
        if let Flow::Flush { left } = self.session.flow
            && self.can_resume()
        {
            self.flush(worker, left);
        }
        if !self.more || !self.may_execute() {
            return;
        }
        let mut rest = std::mem::take(&mut self.rest);
        let done = self.execute(worker, &mut rest);
        rest.drain(..done);
        if !rest.is_empty() && !self.closing {
            self.rest = rest;
        }
    }

    /// One step of a flush, so that other connections get a word in.
    fn flush(&mut self, worker: &Worker, left: usize) {
        let engine = &mut *worker.node.lock();
        self.call(worker, engine, worker.node.now(), &[], |call| {
            if let Err(failure) = flush_step(call, left) {
                call.session.flow = Flow::Go;
                call.reply.error(failure.as_bytes());
            }
        });
        self.wrote(engine);
    }

    /// Executes the whole commands at the front of `bytes`, under one hold of the lock.
    /// Returns the length of what is done with.
    fn execute(&mut self, worker: &Worker, bytes: &mut [u8]) -> usize {
        let begun = self.out.bytes.len();
        let mut held = None;
        let mut done = 0;
        self.more = false;
        let mut ahead = 0;
        while let Some(length) = self.parse(worker, bytes, &mut done) {
            let (engine, now) = held.get_or_insert_with(|| (worker.node.lock(), worker.node.now()));
            if ahead == 0 {
                engine.replica().state().fetch(keys_ahead(&bytes[done..]).take(AHEAD));
                ahead = AHEAD;
            }
            ahead -= 1;
            self.call(worker, engine, *now, &bytes[done..done + length], dispatch);
            done += length;
            if self.overrun || self.session.flow != Flow::Go || self.out.bytes.len() >= begun + PAUSE {
                self.more = true;
                break;
            }
        }
        if let Some((engine, now)) = held {
            self.session.used_us = now.mono;
            self.wrote(&engine);
        }
        self.closing |= self.session.flow == Flow::Close;
        done
    }

    /// The length of the next command, past what asks for nothing. None: there is none.
    fn parse(&mut self, worker: &Worker, bytes: &mut [u8], done: &mut usize) -> Option<usize> {
        loop {
            match self.parser.parse(&mut bytes[*done..], &worker.limits) {
                Ok(Parsed::Command(length)) => return Some(length),
                Ok(Parsed::Nothing(length)) => *done += length,
                Ok(Parsed::More(need)) if need <= worker.limits.query => return None,
                Ok(Parsed::More(_)) => return self.malformed(worker, Malformed::CommandTooLong),
                Err(malformed) => return self.malformed(worker, malformed),
            }
        }
    }

    fn malformed(&mut self, worker: &Worker, why: Malformed) -> Option<usize> {
        worker.stats.malformed.add(1);
        worker.stats.errors.add(1);
        self.reply(usize::MAX).error(format!("ERR Protocol error: {why}").as_bytes());
        self.closing = true;
        None
    }

    /// Has `run` carry out the command that was parsed last, from `bytes`.
    fn call(
        &mut self,
        worker: &Worker,
        engine: &mut Engine,
        now: Now,
        bytes: &[u8],
        run: impl FnOnce(&mut Call<'_>),
    ) {
        let limit = self.out.ceiling(worker.limits.output);
        let mut call = Call {
            args: Args::new(bytes, self.parser.spans()),
            reply: Reply::new(&mut self.out.bytes, self.session.proto, limit),
            engine,
            session: &mut self.session,
            worker,
            now,
        };
        run(&mut call);
        if call.reply.overrun() || self.out.bytes.len() > limit {
            self.overrun(worker);
        }
    }

    /// The reader is too slow, or the reply too long, for the bounds.
    pub(crate) fn overrun(&mut self, worker: &Worker) {
        worker.stats.overrun.add(1);
        let (client, unsent) = (self.session.peer, self.out.unsent());
        tracing::warn!(%client, unsent, "closed a client that does not read its replies");
        self.overrun = true;
    }

    fn wrote(&mut self, engine: &Engine) {
        if self.session.wrote {
            self.session.last_dot = Some(engine.last_dot());
        }
    }
}
