//! The other end of the admin socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidings_proto::Name;
use tokio::net::UnixStream;

use super::{Edit, Failure, Increment, NewPeer, PATH, Put, Whom, percent_encode};
use crate::config::ConfigRow;
use crate::node::api::{
    AuditRow, BackupRequest, BackupRow, Change, Detail, KeyRow, MemberRow, Page, PeerRow, PullRequest,
    PushRow, Scan, StatRow, Status, Summary, SyncRow, Text, Written,
};

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no node at the socket.
    #[error("no node listens at {}: {source}\nis it running? name its socket with --admin PATH or TIDINGS_ADMIN", path.display())]
    NotListening {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The node refused; nothing was changed.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The node's reason.
        message: String,
    },
    /// The connection broke; whether the request was done is not known.
    #[error("the connection to the node broke: {0}")]
    Broken(#[from] hyper::Error),
    /// What answered is no tidings node, or one of another version.
    #[error("the answer makes no sense: {0}")]
    Nonsense(String),
}

/// Asks a node through its admin socket. Every request is a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A client of the node with that admin socket. Does not connect.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the node is and how it fares.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Whom it knows.
    pub async fn members(&self) -> Result<Vec<MemberRow>, ClientError> {
        self.get("/v1/members").await
    }

    /// Whom it has or seeks a link to.
    pub async fn peers(&self) -> Result<Vec<PeerRow>, ClientError> {
        self.get("/v1/peers").await
    }

    /// Its settings.
    pub async fn config(&self) -> Result<Vec<ConfigRow>, ClientError> {
        self.get("/v1/config").await
    }

    /// The figures of the node, or of one of its peers.
    pub async fn stats(&self, peer: Option<&Name>) -> Result<Vec<StatRow>, ClientError> {
        let query = peer.map_or_else(String::new, |peer| format!("?peer={peer}"));
        self.get(&format!("/v1/stats{query}")).await
    }

    /// Makes it seek a link to an address.
    pub async fn add_peer(&self, address: &str) -> Result<(), ClientError> {
        self.post("/v1/peers", &NewPeer { address: address.to_owned() }).await.map(|_: Nothing| ())
    }

    /// Makes it close the link to a peer, by name or address.
    pub async fn remove_peer(&self, peer: &str) -> Result<(), ClientError> {
        let path = format!("/v1/peers/{}", percent_encode(peer.as_bytes()));
        self.ask(Method::DELETE, &path, None).await.map(|_: Nothing| ())
    }

    /// Makes it offer to a peer, or to all, what they are not known to have.
    pub async fn push(&self, peer: Option<Name>) -> Result<Vec<PushRow>, ClientError> {
        self.post("/v1/push", &Whom { peer, all: false }).await
    }

    /// A peer's cells or their names.
    pub async fn pull(&self, request: &PullRequest) -> Result<Page, ClientError> {
        self.post("/v1/pull", request).await
    }

    /// Makes it run anti-entropy.
    pub async fn sync(&self, peer: Option<Name>, all: bool) -> Result<Vec<SyncRow>, ClientError> {
        self.post("/v1/sync", &Whom { peer, all }).await
    }

    /// Makes it audit itself, and compare itself with a peer or with all.
    pub async fn audit(&self, peer: Option<Name>) -> Result<Vec<AuditRow>, ClientError> {
        self.post("/v1/audit", &Whom { peer, all: true }).await
    }

    /// Makes it leave the cluster and stop.
    pub async fn leave(&self) -> Result<(), ClientError> {
        self.ask(Method::POST, "/v1/leave", None).await.map(|_: Nothing| ())
    }

    /// Makes it write a checkpoint and archive it.
    pub async fn backup(&self, request: &BackupRequest) -> Result<BackupRow, ClientError> {
        self.post("/v1/backup", request).await
    }

    /// What of its realm is in its archive.
    pub async fn backups(&self) -> Result<Vec<Summary>, ClientError> {
        self.get("/v1/backups").await
    }

    /// A key; none if it is absent.
    pub async fn read(&self, key: &[u8], detail: Detail) -> Result<Option<KeyRow>, ClientError> {
        present(self.get(&format!("{}?detail={}", key_path(key), detail_name(detail))).await)
    }

    /// A key as it is once the node has all that so many nodes had; none if it is absent.
    pub async fn read_quorum(
        &self,
        key: &[u8],
        detail: Detail,
        nodes: u64,
        timeout: Option<Duration>,
    ) -> Result<Option<KeyRow>, ClientError> {
        let timeout = timeout.map_or_else(String::new, |time| format!("&timeout={}", time.as_millis()));
        let query = format!("detail={}&quorum={nodes}{timeout}", detail_name(detail));
        present(self.get(&format!("{}?{query}", key_path(key))).await)
    }

    /// Some keys.
    pub async fn scan(&self, scan: &Scan) -> Result<Page, ClientError> {
        let Scan { prefix, cursor, limit, detail } = scan;
        let cursor = cursor.as_ref().map(|cursor| format!("&cursor={}", percent_encode(cursor.as_bytes())));
        let (prefix, detail) = (percent_encode(prefix), detail_name(*detail));
        let query = format!("prefix={prefix}&limit={limit}&detail={detail}{}", cursor.unwrap_or_default());
        self.get(&format!("/v1/keys?{query}")).await
    }

    /// Writes a key.
    pub async fn write(&self, key: &[u8], change: Change) -> Result<Written, ClientError> {
        let texts = |elements: Vec<Vec<u8>>| elements.into_iter().map(Text).collect();
        let path = key_path(key);
        let edit = match change {
            Change::Set(value) => {
                return self.ask(Method::PUT, &path, Some(encode(&Put { value: Text(value) }))).await;
            }
            Change::Delete => return self.ask(Method::DELETE, &path, None).await,
            Change::Add(elements) => Edit::Add(texts(elements)),
            Change::Remove(elements) => Edit::Remove(texts(elements)),
            Change::Increment(kind, by) => Edit::Increment(Increment { by, kind }),
        };
        self.post(&path, &edit).await
    }

    /// Hands every key, with all versions, to `each`, as the node sends it; until `each` says false.
    pub async fn dump(&self, mut each: impl FnMut(KeyRow) -> bool) -> Result<(), ClientError> {
        let mut body = self.open(Method::GET, "/v1/dump", None).await?.into_body();
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            // Searched only once: a line may come in very many frames.
            let mut searched = pending.len();
            pending.extend_from_slice(&data);
            while let Some(end) = pending[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = pending.split_off(searched + end + 1);
                let line = std::mem::replace(&mut pending, rest);
                searched = 0;
                if !each(dumped(&line)?) {
                    return Ok(());
                }
            }
        }
        if pending.is_empty() {
            Ok(())
        } else {
            Err(ClientError::Nonsense("the last line is cut off".to_owned()))
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, None).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.ask(Method::POST, path, Some(encode(body))).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T, ClientError> {
        let body = self.open(method, path, body).await?.into_body().collect().await?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| ClientError::Nonsense(error.to_string()))
    }

    /// Sends a request and returns its answer if it is a success.
    async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Response<Incoming>, ClientError> {
        if path.len() > PATH {
            let message = "the key is too long for the admin socket; the Redis port takes it".to_owned();
            return Err(ClientError::Refused { status: 414, message });
        }
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|source| ClientError::NotListening { path: self.path.clone(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "tidings")
            .header("content-type", "application/json")
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| ClientError::Nonsense(error.to_string()))?;
        let response = sender.send_request(request).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        let message = match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => failure.error,
            Err(_) => format!("the node answered with status {status}"),
        };
        Err(ClientError::Refused { status, message })
    }
}

/// `{}`, and whatever later versions put into it.
#[derive(serde::Deserialize)]
struct Nothing {}

fn encode(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body).expect("requests are always JSON").into()
}

fn present(answer: Result<KeyRow, ClientError>) -> Result<Option<KeyRow>, ClientError> {
    match answer {
        Ok(row) => Ok(Some(row)),
        Err(ClientError::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn key_path(key: &[u8]) -> String {
    format!("/v1/keys/{}", percent_encode(key))
}

fn detail_name(detail: Detail) -> &'static str {
    match detail {
        Detail::Names => "names",
        Detail::Values => "values",
        Detail::Versions => "versions",
    }
}

fn dumped(line: &[u8]) -> Result<KeyRow, ClientError> {
    serde_json::from_slice(line).map_err(|error| match serde_json::from_slice::<Failure>(line) {
        Ok(failure) => ClientError::Refused { status: 500, message: failure.error },
        Err(_) => ClientError::Nonsense(error.to_string()),
    })
}
