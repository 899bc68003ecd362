//! The requests, and what they ask of the node.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use hyper::body::Frame;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{BODY, Edit, Failure, Increment, NewPeer, PAGE, Put, QUORUM_MILLIS, Whom, percent_decode};
use crate::config::HostPort;
use crate::node::api::{BackupRequest, Change, Detail, Operator, PullRequest, Refusal, Scan, Text};

type Node = State<Arc<dyn Operator>>;
type Payload = Result<Bytes, BytesRejection>;

pub(super) fn router(operator: Arc<dyn Operator>) -> Router {
    let key = get(read_key).put(put_key).post(edit_key).delete(delete_key);
    Router::new()
        .route("/v1/status", get(async |State(node): Node| json(&node.status())))
        .route("/v1/members", get(async |State(node): Node| json(&node.members())))
        .route("/v1/config", get(async |State(node): Node| json(&node.config())))
        .route("/v1/peers", get(async |State(node): Node| json(&node.peers())).post(add_peer))
        .route("/v1/peers/{peer}", delete(remove_peer))
        .route("/v1/stats", get(stats))
        .route("/v1/push", post(push))
        .route("/v1/pull", post(pull))
        .route("/v1/sync", post(sync))
        .route("/v1/audit", post(audit))
        .route("/v1/leave", post(leave))
        .route("/v1/backup", post(backup))
        .route(
            "/v1/backups",
            get(async |State(node): Node| node.backups().await.map(|rows| json(&rows)).map_err(Failed::from)),
        )
        .route("/v1/keys", get(scan))
        // The empty key is a key.
        .route("/v1/keys/", key.clone())
        .route("/v1/keys/{*key}", key)
        .route("/v1/dump", get(dump))
        .fallback(async |uri: Uri| Failed {
            status: StatusCode::NOT_FOUND,
            error: format!("there is no {}", uri.path()),
        })
        .method_not_allowed_fallback(async || Failed {
            status: StatusCode::METHOD_NOT_ALLOWED,
            error: "this path does not take this method".to_owned(),
        })
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(operator)
}

async fn add_peer(State(node): Node, payload: Payload) -> Result<Response, Failed> {
    let NewPeer { address } = body(payload)?;
    let address: HostPort = address.parse().map_err(|why: String| invalid(&why))?;
    node.add_peer(address.as_str().to_owned()).await?;
    Ok(done())
}

async fn remove_peer(State(node): Node, uri: Uri) -> Result<Response, Failed> {
    let peer =
        String::from_utf8(rest_of_path(&uri, "/v1/peers/")?).map_err(|_| invalid("a peer's name is text"))?;
    node.remove_peer(peer).await?;
    Ok(done())
}

async fn stats(State(node): Node, uri: Uri) -> Result<Response, Failed> {
    let [peer] = parameters(&uri, ["peer"])?;
    let peer = peer
        .map(|peer| text(peer)?.parse().map_err(|error| invalid(&format!("peer: {error}"))))
        .transpose()?;
    Ok(json(&node.stats(peer).await?))
}

async fn push(State(node): Node, payload: Payload) -> Result<Response, Failed> {
    let whom: Whom = body(payload)?;
    Ok(json(&node.push(whom.peer).await?))
}

async fn pull(State(node): Node, payload: Payload) -> Result<Response, Failed> {
    let request: PullRequest = body(payload)?;
    Ok(json(&node.pull(request).await?))
}

async fn sync(State(node): Node, payload: Payload) -> Result<Response, Failed> {
    let whom: Whom = body(payload)?;
    if whom.peer.is_some() && whom.all {
        return Err(invalid("either one peer or all"));
    }
    Ok(json(&node.sync(whom.peer, whom.all).await?))
}

async fn audit(State(node): Node, payload: Payload) -> Result<Response, Failed> {
    let whom: Whom = body(payload)?;
    Ok(json(&node.audit(whom.peer).await?))
}

async fn leave(State(node): Node) -> Result<Response, Failed> {
    node.leave().await?;
    Ok(done())
}

async fn backup(State(node): Node, payload: Payload) -> Result<Response, Failed> {
    let request: BackupRequest = body(payload)?;
    Ok(json(&node.backup(request).await?))
}

async fn scan(State(node): Node, uri: Uri) -> Result<Response, Failed> {
    let [prefix, limit, cursor, detail] = parameters(&uri, ["prefix", "limit", "cursor", "detail"])?;
    let limit = match limit {
        Some(limit) => text(limit)?.parse().map_err(|_| invalid("limit: a whole number"))?,
        None => 100,
    };
    let scan = Scan {
        prefix: prefix.unwrap_or_default(),
        cursor: cursor.map(text).transpose()?,
        limit: limit.clamp(1, PAGE),
        detail: detail_of(detail)?,
    };
    Ok(json(&node.scan(scan)?))
}

async fn read_key(State(node): Node, uri: Uri) -> Result<Response, Failed> {
    let [detail, quorum, timeout] = parameters(&uri, ["detail", "quorum", "timeout"])?;
    let (key, detail) = (key(&uri)?, detail_of(detail)?);
    let row = match (quorum, timeout) {
        (None, None) => node.read(&key, detail)?,
        (None, Some(_)) => return Err(invalid("timeout: only with quorum")),
        (Some(nodes), timeout) => {
            let nodes = whole("quorum", nodes)?;
            let timeout = timeout.map_or(Ok(QUORUM_MILLIS), |timeout| whole("timeout", timeout))?;
            let nodes = usize::try_from(nodes).unwrap_or(usize::MAX);
            node.read_quorum(key.clone(), detail, nodes, Duration::from_millis(timeout)).await?
        }
    };
    match row {
        Some(row) => Ok(json(&row)),
        None => Err(Refusal::NotFound(format!("there is no key {}", Text(key))).into()),
    }
}

async fn put_key(State(node): Node, uri: Uri, payload: Payload) -> Result<Response, Failed> {
    let Put { value } = body(payload)?;
    write(&node, &uri, Change::Set(value.0)).await
}

async fn edit_key(State(node): Node, uri: Uri, payload: Payload) -> Result<Response, Failed> {
    let bytes = |elements: Vec<Text>| elements.into_iter().map(|element| element.0).collect();
    let change = match body(payload)? {
        Edit::Add(elements) => Change::Add(bytes(elements)),
        Edit::Remove(elements) => Change::Remove(bytes(elements)),
        Edit::Increment(Increment { by, kind }) => Change::Increment(kind, by),
    };
    write(&node, &uri, change).await
}

async fn delete_key(State(node): Node, uri: Uri) -> Result<Response, Failed> {
    write(&node, &uri, Change::Delete).await
}

async fn write(node: &Arc<dyn Operator>, uri: &Uri, change: Change) -> Result<Response, Failed> {
    Ok(json(&node.write(key(uri)?, change).await?))
}

async fn dump(State(node): Node) -> Response {
    let scan = Scan { limit: PAGE, detail: Detail::Versions, ..Scan::default() };
    let body = Body::new(Dump { node, next: Some(scan) });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// All keys, page by page as the reader takes them. A failure on the way is the last line.
struct Dump {
    node: Arc<dyn Operator>,
    next: Option<Scan>,
}

impl hyper::body::Body for Dump {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(scan) = self.next.take() else { return Poll::Ready(None) };
        let mut lines = Vec::new();
        match self.node.scan(scan.clone()) {
            Ok(page) => {
                page.keys.iter().for_each(|row| line(&mut lines, row));
                self.next = page.cursor.map(|cursor| Scan { cursor: Some(cursor), ..scan });
            }
            Err(refusal) => line(&mut lines, &Failure { error: refusal.to_string() }),
        }
        Poll::Ready(Some(Ok(Frame::data(lines.into()))))
    }
}

fn line(lines: &mut Vec<u8>, row: &impl Serialize) {
    serde_json::to_writer(&mut *lines, row).expect("rows are always JSON");
    lines.push(b'\n');
}

fn key(uri: &Uri) -> Result<Vec<u8>, Failed> {
    rest_of_path(uri, "/v1/keys/")
}

/// The router's own captures are UTF-8 only; keys are any bytes.
fn rest_of_path(uri: &Uri, prefix: &str) -> Result<Vec<u8>, Failed> {
    let rest = uri.path().strip_prefix(prefix).unwrap_or_default();
    percent_decode(rest).ok_or_else(|| invalid("malformed percent-encoding in the path"))
}

/// The named parameters of the query; any other is refused.
fn parameters<const N: usize>(uri: &Uri, names: [&str; N]) -> Result<[Option<Vec<u8>>; N], Failed> {
    let mut found = [const { None }; N];
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let place = names.iter().position(|known| *known == name);
        let place =
            place.ok_or_else(|| invalid(&format!("there is no parameter {name}; there are {names:?}")))?;
        let value = percent_decode(&value.replace('+', " "));
        found[place] = Some(value.ok_or_else(|| invalid("malformed percent-encoding in the query"))?);
    }
    Ok(found)
}

fn text(bytes: Vec<u8>) -> Result<String, Failed> {
    String::from_utf8(bytes).map_err(|_| invalid("a parameter is not UTF-8"))
}

fn whole(name: &str, parameter: Vec<u8>) -> Result<u64, Failed> {
    let number = text(parameter)?.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| invalid(&format!("{name}: a whole number from 1")))
}

fn detail_of(parameter: Option<Vec<u8>>) -> Result<Detail, Failed> {
    match parameter.as_deref() {
        Some(b"names") => Ok(Detail::Names),
        None | Some(b"values") => Ok(Detail::Values),
        Some(b"versions") => Ok(Detail::Versions),
        Some(_) => Err(invalid("detail: names, values or versions")),
    }
}

/// The body as JSON, whatever its content type says: `curl -d` claims a form. Nothing stands for `{}`.
fn body<T: DeserializeOwned>(payload: Payload) -> Result<T, Failed> {
    let bytes =
        payload.map_err(|rejection| Failed { status: rejection.status(), error: rejection.body_text() })?;
    let bytes = if bytes.is_empty() { b"{}" } else { &bytes[..] };
    serde_json::from_slice(bytes).map_err(|error| invalid(&format!("the body: {error}")))
}

fn json(value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("rows are always JSON");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn done() -> Response {
    json(&serde_json::json!({}))
}

/// What becomes of a request that is not done.
struct Failed {
    status: StatusCode,
    error: String,
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.status, json(&Failure { error: self.error })).into_response()
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::Conflict(_) => StatusCode::CONFLICT,
            Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, error: refusal.to_string() }
    }
}

fn invalid(why: &str) -> Failed {
    Failed { status: StatusCode::BAD_REQUEST, error: why.to_owned() }
}
