//! The operator's door: HTTP/1.1 and JSON over a Unix socket, usable with
//! `curl --unix-socket PATH http://tidings/v1/status`.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/status`, `/members`, `/peers`, `/config` | | a [`Status`](crate::node::api::Status), or rows |
//! | `GET /v1/stats?peer=NAME` | | rows; without `peer` of this node |
//! | `POST /v1/peers` | `{"address": "host:port"}` | `{}` |
//! | `DELETE /v1/peers/{name or address}` | | `{}` |
//! | `POST /v1/push` | `{"peer": NAME}` or nothing | rows, one a peer |
//! | `POST /v1/pull` | a [`PullRequest`](crate::node::api::PullRequest) | a [`Page`](crate::node::api::Page) |
//! | `POST /v1/sync` | `{"peer": NAME}`, `{"all": true}` or nothing | rows, one a peer |
//! | `POST /v1/leave` | | `{}` |
//! | `POST /v1/backup` | `{"to": "file:///path"}` or nothing | a [`BackupRow`](crate::node::api::BackupRow) |
//! | `GET /v1/backups` | | rows, one a [`Summary`](crate::node::api::Summary) |
//! | `GET /v1/keys?prefix=&limit=&cursor=&detail=` | | a [`Page`](crate::node::api::Page) |
//! | `GET /v1/keys/{key}?detail=` | | a [`KeyRow`](crate::node::api::KeyRow), or status 404 |
//! | `GET /v1/keys/{key}?quorum=&timeout=&detail=` | | the same, once the node has what so many nodes had; `timeout` in milliseconds, 1000 if not given |
//! | `PUT /v1/keys/{key}` | `{"value": "v"}` | a [`Written`](crate::node::api::Written) |
//! | `POST /v1/keys/{key}` | `{"add": ["e"]}`, `{"remove": ["e"]}`, `{"increment": {"by": 1, "kind": "gcounter"}}` | the same |
//! | `DELETE /v1/keys/{key}` | | the same |
//! | `GET /v1/dump` | | a line a key, with all versions (NDJSON) |
//!
//! `detail` is `names`, `values` (the default) or `versions`. Keys in paths are
//! percent-encoded, and over about 60 KiB once encoded they do not fit; bytes in JSON are described in [`crate::node::api`]. A request
//! that is not done gets a status of 400 and above and `{"error": "..."}`.

mod client;
mod routes;
mod socket;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tidings_proto::Name;

pub use client::{Client, ClientError};
pub use socket::{BindError, Socket};

use crate::node::api::{CounterKind, Text};

/// Longest body of a request: a value of the greatest size, in base64, with room to spare.
const BODY: usize = 32 << 20;
/// Most connections at once; further ones wait.
const CONNECTIONS: usize = 256;
/// Longest path and query, as the HTTP library has it.
const PATH: usize = 65_000;
/// How long a quorum read may take unless said otherwise, in milliseconds.
const QUORUM_MILLIS: u64 = 1_000;
/// Most keys on a page.
const PAGE: usize = 1_000;

/// The body of `POST /v1/keys/{key}`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Edit {
    Add(Vec<Text>),
    Remove(Vec<Text>),
    Increment(Increment),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Increment {
    by: i64,
    #[serde(default)]
    kind: CounterKind,
}

/// The body of `PUT /v1/keys/{key}`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Put {
    value: Text,
}

/// The body of `POST /v1/peers`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPeer {
    address: String,
}

/// The body of `POST /v1/push` and `POST /v1/sync`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Whom {
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Name>,
    all: bool,
}

/// The body of every answer that is no success.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    error: String,
}

/// A path segment or a query value that carries any bytes.
fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(byte as char);
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// None if a `%` is not followed by two hexadecimal digits.
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(16));
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => (digit(rest.next())? << 4 | digit(rest.next())?) as u8,
            byte => byte,
        });
    }
    Some(bytes)
}
