//! One connection with its socket: its turn on the worker, and what the committer does for it.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tidings_proto::Name;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::below::NoQuorum;
use super::call::{Flow, Session};
use super::server::Worker;
use super::talk::{Buffers, Talk};

/// Time that a closing connection has to take its last words.
const FAREWELL: Duration = Duration::from_secs(1);
/// A WAIT without end ends after this.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A connection, shared between its task and the committer. Both run on the worker's
/// thread, and neither holds the borrow across an await.
#[derive(Debug)]
pub(crate) struct Client {
    inner: RefCell<Inner>,
}

/// How a wait ended: with so many peers, or with a quorum or without.
enum Waited {
    Peers(usize),
    Quorum(Result<Vec<Name>, NoQuorum>),
}

struct Inner {
    talk: Talk,
    /// Gone once the connection's turns are over.
    stream: Option<TcpStream>,
    waker: Option<Waker>,
    /// A WAIT or a quorum read under way.
    waiting: Option<Pin<Box<dyn Future<Output = Waited>>>>,
    /// In the committer's list.
    queued: bool,
    /// Whether the commit under way covers writes of this connection.
    sealed_writes: bool,
    /// The socket took no more of what is released.
    stuck: bool,
    /// The client sends no more.
    ended: bool,
    /// The socket failed, or a bound was passed: nothing more goes in or out.
    broken: bool,
    /// What the worker counts as held for this connection. In bytes.
    held: usize,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("talk", &self.talk).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(stream: TcpStream, session: Session) -> Rc<Self> {
        let inner = Inner {
            talk: Talk::new(session),
            stream: Some(stream),
            waker: None,
            waiting: None,
            queued: false,
            sealed_writes: false,
            stuck: false,
            ended: false,
            broken: false,
            held: 0,
        };
        Rc::new(Self { inner: RefCell::new(inner) })
    }

    /// Serves the connection to its end.
    pub(crate) async fn serve(self: &Rc<Self>, worker: &Worker) {
        let last_words = std::future::poll_fn(|context| {
            let inner = &mut *self.inner.borrow_mut();
            let polled = inner.turn(worker, context);
            if !inner.queued && inner.talk.wants_commit() {
                inner.queued = true;
                worker.queue(self);
            }
            polled
        })
        .await;
        if let Some(stream) = last_words {
            farewell(stream).await;
        }
    }

    /// A commit begins; it covers all that this connection has seen. Says whether it has written.
    pub(crate) fn seal(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        inner.queued = false;
        inner.sealed_writes = inner.talk.seal();
        inner.sealed_writes
    }

    /// The commit came to its end.
    pub(crate) fn settle(&self, worker: &Worker, failure: Option<&str>) {
        let mut inner = self.inner.borrow_mut();
        match failure {
            Some(why) if inner.sealed_writes => {
                inner.talk.fail(why);
                worker.stats.failed.add(1);
            }
            _ => inner.talk.out.release(),
        }
        inner.send(worker);
        inner.account(worker);
        if inner.has_business() {
            inner.wake();
        }
    }

    /// Has the connection look at something it cannot know of.
    pub(crate) fn wake(&self) {
        self.inner.borrow().wake();
    }

    /// Shows the session to another connection's command.
    pub(crate) fn look(&self, look: impl FnOnce(&Session, Buffers)) {
        if let Ok(inner) = self.inner.try_borrow() {
            look(&inner.talk.session, inner.talk.buffers());
        }
    }
}

impl Inner {
    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Does what can be done now: one read at most. Ready at the end of the connection,
    /// with the stream if the client should be given time to read its last replies.
    fn turn(&mut self, worker: &Worker, context: &mut Context<'_>) -> Poll<Option<TcpStream>> {
        if !self.waker.as_ref().is_some_and(|w| w.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
        if worker.is_stopping() {
            self.talk.close();
        }
        self.unstick(worker, context);
        self.talk.resume(worker);
        self.read(worker, context);
        self.wait(worker, context);
        self.account(worker);
        if self.is_over() {
            self.forget(worker);
            let stream = self.stream.take();
            return Poll::Ready(stream.filter(|_| self.talk.is_closing() && !self.broken && !self.ended));
        }
        if self.talk.can_resume() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether the task should have a turn though its socket has not moved.
    fn has_business(&self) -> bool {
        self.stuck || self.is_over() || self.talk.can_resume()
    }

    fn is_over(&self) -> bool {
        let done = self.talk.is_closing() || self.ended && !self.talk.can_resume();
        self.broken || self.talk.is_overrun() || done && self.talk.out.is_empty()
    }

    /// Sends what is released, as far as the socket takes it.
    fn send(&mut self, worker: &Worker) {
        let Some(stream) = self.stream.as_ref().filter(|_| !self.stuck && !self.broken) else { return };
        while !self.talk.out.sendable().is_empty() {
            match stream.try_write(self.talk.out.sendable()) {
                Ok(sent) => {
                    worker.stats.bytes_out.add(sent as u64);
                    self.talk.out.advance(sent);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.stuck = true;
                    return;
                }
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// Goes on sending once the socket takes more, and asks to hear when it does.
    fn unstick(&mut self, worker: &Worker, context: &mut Context<'_>) {
        while self.stuck {
            let Some(stream) = &self.stream else { return };
            match stream.poll_write_ready(context) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => {
                    self.stuck = false;
                    self.send(worker);
                }
                Poll::Ready(Err(_)) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    fn wait(&mut self, worker: &Worker, context: &mut Context<'_>) {
        let session = &self.talk.session;
        let node = || worker.node.clone();
        let waiting = match session.flow {
            Flow::Wait { peers, timeout } => self.waiting.get_or_insert_with(|| {
                let (node, dot) = (node(), session.last_dot.clone());
                let timeout = timeout.unwrap_or(FOREVER);
                Box::pin(async move { Waited::Peers(node.wait(dot, peers, timeout).await) })
            }),
            Flow::Quorum { nodes, timeout, .. } => self.waiting.get_or_insert_with(|| {
                let node = node();
                Box::pin(async move { Waited::Quorum(node.quorum(nodes, timeout).await) })
            }),
            Flow::Go | Flow::Close | Flow::Flush { .. } => return,
        };
        if let Poll::Ready(waited) = waiting.as_mut().poll(context) {
            self.waiting = None;
            match waited {
                Waited::Peers(peers) => self.talk.waited(peers),
                Waited::Quorum(outcome) => self.talk.read(worker, outcome),
            }
        }
    }

    fn read(&mut self, worker: &Worker, context: &mut Context<'_>) {
        if self.ended || self.broken || !self.talk.may_read() {
            return;
        }
        let Some(stream) = &mut self.stream else { return };
        let mut scratch = worker.scratch.borrow_mut();
        let mut buffer = ReadBuf::new(&mut scratch);
        match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
            Poll::Pending => return,
            Poll::Ready(Err(_)) => self.broken = true,
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => self.ended = true,
            Poll::Ready(Ok(())) => self.talk.feed(worker, buffer.filled_mut()),
        }
        // After a short read this only asks to hear of the next bytes, without a system call.
        if !self.ended && !self.broken && stream.poll_read_ready(context).is_ready() {
            context.waker().wake_by_ref();
        }
    }

    /// Keeps the worker's sum of what connections hold, and this one within it.
    fn account(&mut self, worker: &Worker) {
        if self.stream.is_none() {
            return;
        }
        let buffers = self.talk.buffers();
        let held = buffers.input + buffers.output;
        if held == self.held {
            return;
        }
        let grew = held > self.held;
        if !worker.hold(self.held, held) && grew && !self.talk.is_overrun() {
            self.talk.overrun(worker);
        }
        self.held = held;
    }

    /// The end of the turns: what is held no longer counts.
    fn forget(&mut self, worker: &Worker) {
        worker.hold(self.held, 0);
        self.held = 0;
        self.waiting = None;
        self.waker = None;
    }
}

/// Lets the client read what was sent before the connection goes: closing with unread
/// input would reset it, and the last reply with it.
pub(crate) async fn farewell(mut stream: TcpStream) {
    let drain = async {
        let _ = stream.shutdown().await;
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut [0; 4096]) {
                Ok(1..) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(FAREWELL, drain).await;
}
