//! The listener and the one thread that serves every connection.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;

use super::below::Node;
use super::call::Session;
use super::conn::{Client, farewell};
use super::{Limits, Options, RespStats};

/// Bytes that one turn of a connection reads at most. One buffer serves all, so that an
/// idle connection holds none.
const READ: usize = 64 << 10;
/// Time for the replies of the last commands to leave at shutdown.
const GRACE: Duration = Duration::from_secs(3);
/// Refused connections that are seen off politely at once; more are just dropped.
const REFUSALS: usize = 64;
/// Pause after a failed accept, which mostly means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Idle time after which the system asks whether a client is still there.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// Why the door could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the RESP door cannot be opened: {0}")]
pub struct ServeError(#[from] io::Error);

/// Serves RESP on `listener`, on a thread of its own, until `shutdown` resolves. Then no
/// more commands are taken, what was executed is answered, and the thread ends.
pub fn serve(
    listener: TcpListener,
    node: Node,
    options: Options,
    stats: Arc<RespStats>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<JoinHandle<()>, ServeError> {
    listener.set_nonblocking(true)?;
    let local = listener.local_addr()?;
    let (opened, outcome) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("resp".into()).spawn(move || {
        // A larger interval than tokio's lets a full turn pass before the poller is asked again.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .event_interval(256)
            .build_local(LocalOptions::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(opened.send(Err(error))),
        };
        runtime.block_on(async move {
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return drop(opened.send(Err(error))),
            };
            drop(opened.send(Ok(())));
            let worker = Rc::new(Worker::new(node, options, stats, local));
            tokio::task::spawn_local(commit(worker.clone()));
            accept(listener, &worker, shutdown).await;
            worker.stop().await;
        });
    })?;
    outcome.recv().unwrap_or_else(|_| Err(io::Error::other("its thread died")))?;
    Ok(thread)
}

/// What all connections share. It lives on the one thread.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) node: Node,
    pub(crate) limits: Limits,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) stats: Arc<RespStats>,
    pub(crate) local: SocketAddr,
    pub(crate) started_us: u64,
    pub(crate) scratch: RefCell<Box<[u8]>>,
    clients: RefCell<BTreeMap<u64, Rc<Client>>>,
    next_id: Cell<u64>,
    /// Connections whose replies wait for the next commit.
    pending: RefCell<Vec<Rc<Client>>>,
    bell: Notify,
    held: Cell<usize>,
    refusing: Cell<usize>,
    stopping: Cell<bool>,
    emptied: Notify,
}

impl Worker {
    pub(crate) fn new(node: Node, options: Options, stats: Arc<RespStats>, local: SocketAddr) -> Self {
        Self {
            started_us: node.now().mono,
            node,
            limits: options.limits,
            settings: options.settings,
            stats,
            local,
            scratch: RefCell::new(vec![0; READ].into_boxed_slice()),
            clients: RefCell::default(),
            next_id: Cell::new(1),
            pending: RefCell::default(),
            bell: Notify::new(),
            held: Cell::new(0),
            refusing: Cell::new(0),
            stopping: Cell::new(false),
            emptied: Notify::new(),
        }
    }

    /// Puts a connection into the next commit. The committer is woken by the first only,
    /// and so runs behind all the tasks that were ready with it.
    pub(crate) fn queue(&self, client: &Rc<Client>) {
        let mut pending = self.pending.borrow_mut();
        if pending.is_empty() {
            self.bell.notify_one();
        }
        pending.push(client.clone());
    }

    /// A connection holds `now` bytes instead of `before`. False if all together hold too many.
    pub(crate) fn hold(&self, before: usize, now: usize) -> bool {
        let held = self.held.get() - before + now;
        self.held.set(held);
        self.stats.held.set(held as u64);
        held <= self.limits.buffers
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Visits the connections by id.
    pub(crate) fn each_client(&self, mut visit: impl FnMut(u64, &Client)) {
        self.clients.borrow().iter().for_each(|(id, client)| visit(*id, client));
    }

    /// Takes in a connection, or refuses it if there are too many.
    fn admit(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        if self.clients.borrow().len() >= self.limits.clients {
            return self.refuse(stream);
        }
        let socket = socket2::SockRef::from(&stream);
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE));
        let id = self.next_id.replace(self.next_id.get() + 1);
        let local = stream.local_addr().unwrap_or(self.local);
        let client = Client::new(stream, Session::new(id, peer, local, self.node.now()));
        self.stats.accepted.add(1);
        self.clients.borrow_mut().insert(id, client.clone());
        self.count();
        let admitted = Admitted { worker: self.clone(), id };
        tokio::task::spawn_local(async move { client.serve(&admitted.worker).await });
    }

    fn refuse(self: &Rc<Self>, stream: TcpStream) {
        self.stats.refused.add(1);
        let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
        if self.refusing.get() < REFUSALS {
            self.refusing.set(self.refusing.get() + 1);
            let worker = self.clone();
            tokio::task::spawn_local(async move {
                farewell(stream).await;
                worker.refusing.set(worker.refusing.get() - 1);
            });
        }
    }

    fn count(&self) {
        self.stats.clients.set(self.clients.borrow().len() as u64);
    }

    async fn stop(&self) {
        self.stopping.set(true);
        self.each_client(|_, client| client.wake());
        let emptied = async {
            while !self.clients.borrow().is_empty() {
                self.emptied.notified().await;
            }
        };
        let _ = tokio::time::timeout(GRACE, emptied).await;
    }
}

/// A connection's place among the clients, given up however its task ends.
struct Admitted {
    worker: Rc<Worker>,
    id: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let gone = self.worker.clients.borrow_mut().remove(&self.id);
        self.worker.count();
        self.worker.emptied.notify_one();
        drop(gone);
    }
}

async fn accept(listener: tokio::net::TcpListener, worker: &Rc<Worker>, shutdown: impl Future<Output = ()>) {
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => worker.admit(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "a client could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Makes last what the connections of a turn wrote, with one commit for all, and sends
/// their replies. While it waits for the disk the next turn's connections gather.
async fn commit(worker: Rc<Worker>) {
    let mut batch: Vec<Rc<Client>> = Vec::new();
    loop {
        worker.bell.notified().await;
        std::mem::swap(&mut batch, &mut *worker.pending.borrow_mut());
        let writes = batch.iter().fold(false, |writes, client| client.seal() | writes);
        worker.stats.batches.add(1);
        let outcome = match worker.node.commit() {
            Ok(ticket) => worker.node.durable(ticket).await,
            Err(error) => Err(error),
        };
        if writes {
            worker.node.pace().await;
        }
        let failure = outcome.err().map(|error| error.to_string());
        for client in batch.drain(..) {
            client.settle(&worker, failure.as_deref());
        }
    }
}
