//! Reading and writing keys of any kind.

use std::ffi::OsString;
use std::io::Read;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::print::{self, moment};
use super::{Ask, Bytes};
use crate::node::api::{Change, CounterKind, Detail, KeyRow, Scan, Text, Value, Written};

/// A key, and how to ask for it.
#[derive(Debug, Args)]
pub(super) struct Key {
    /// The key.
    key: OsString,
    #[command(flatten)]
    bytes: Bytes,
    #[command(flatten)]
    ask: Ask,
}

impl Key {
    fn read(&self) -> anyhow::Result<Vec<u8>> {
        self.bytes.read(&self.key)
    }

    async fn write(&self, change: Change) -> anyhow::Result<Written> {
        Ok(self.ask.client().write(&self.read()?, change).await?)
    }
}

/// Of how many nodes to read.
#[derive(Debug, Args)]
pub(super) struct Quorum {
    /// First gets what so many nodes have, this one included, and repairs those that lack something.
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u64).range(1..))]
    quorum: Option<u64>,
    /// How long they have to answer, in milliseconds; 1000 if not given.
    #[arg(long, value_name = "MS", requires = "quorum", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
}

pub(super) async fn get(key: Key, raw: bool, quorum: Quorum) -> anyhow::Result<()> {
    let client = key.ask.client();
    let row = match quorum.quorum {
        Some(nodes) => {
            let timeout = quorum.timeout.map(Duration::from_millis);
            client.read_quorum(&key.read()?, Detail::Values, nodes, timeout).await?
        }
        None => client.read(&key.read()?, Detail::Values).await?,
    };
    let Some(row) = row else {
        bail!("there is no key {}", Text(key.read()?));
    };
    let mut out = key.ask.out();
    if key.ask.json {
        return Ok(out.object(&row)?);
    }
    match &row.value {
        Some(Value::Bytes(bytes)) if raw => out.bytes(&bytes.0)?,
        Some(Value::Elements(elements)) => {
            elements.iter().try_for_each(|element| out.line(&element.to_string()))?
        }
        Some(value) => out.line(&print::value(value))?,
        None => {}
    }
    Ok(())
}

/// `-` reads the value from standard input, as it is.
pub(super) async fn set(key: Key, value: OsString) -> anyhow::Result<()> {
    let value = if value == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes)?;
        bytes
    } else {
        key.bytes.read(&value)?
    };
    let written = key.write(Change::Set(value)).await?;
    report(&key.ask, &written)
}

pub(super) async fn add(key: Key, elements: Vec<OsString>) -> anyhow::Result<()> {
    let elements = elements.iter().map(|element| key.bytes.read(element)).collect::<anyhow::Result<_>>()?;
    let written = key.write(Change::Add(elements)).await?;
    report(&key.ask, &written)
}

pub(super) async fn rem(key: Key, elements: Vec<OsString>) -> anyhow::Result<()> {
    let elements = elements.iter().map(|element| key.bytes.read(element)).collect::<anyhow::Result<_>>()?;
    let written = key.write(Change::Remove(elements)).await?;
    report(&key.ask, &written)
}

pub(super) async fn incr(key: Key, by: i64, grow_only: bool) -> anyhow::Result<()> {
    let kind = if grow_only { CounterKind::GCounter } else { CounterKind::PnCounter };
    let written = key.write(Change::Increment(kind, by)).await?;
    report(&key.ask, &written)
}

#[derive(Debug, Args)]
pub(super) struct Del {
    /// The keys.
    #[arg(required = true)]
    key: Vec<OsString>,
    #[command(flatten)]
    bytes: Bytes,
    #[command(flatten)]
    ask: Ask,
}

pub(super) async fn del(del: Del) -> anyhow::Result<()> {
    let client = del.ask.client();
    let mut written = Written::default();
    for key in &del.key {
        written.changed += client.write(&del.bytes.read(key)?, Change::Delete).await?.changed;
    }
    report(&del.ask, &written)
}

/// The new sum of a counter, else how many keys or elements changed.
fn report(ask: &Ask, written: &Written) -> anyhow::Result<()> {
    let mut out = ask.out();
    if ask.json {
        return Ok(out.object(written)?);
    }
    let text = written.value.map_or_else(|| written.changed.to_string(), |value| value.to_string());
    Ok(out.line(&text)?)
}

#[derive(Debug, Args)]
pub(super) struct Keys {
    /// Only keys that begin so.
    #[arg(long, value_name = "BYTES", default_value = "")]
    prefix: OsString,
    /// At most so many.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
    #[command(flatten)]
    bytes: Bytes,
    #[command(flatten)]
    ask: Ask,
}

/// As the pages come, so that any number of keys can be listed. JSON is one line a key.
pub(super) async fn keys(keys: Keys) -> anyhow::Result<()> {
    let (client, mut out) = (keys.ask.client(), keys.ask.out());
    let mut left = keys.limit.unwrap_or(usize::MAX);
    let prefix = keys.bytes.read(&keys.prefix)?;
    let mut scan = Scan { prefix, cursor: None, limit: 1_000, detail: Detail::Values };
    while left > 0 {
        scan.limit = scan.limit.min(left);
        let page = client.scan(&scan).await?;
        for row in page.keys.iter().take(left) {
            let kind = row.kind.map_or("", |kind| kind.as_str());
            if out.json() {
                out.json_line(&serde_json::json!({ "key": row.key, "kind": kind }))?;
            } else {
                out.bytes(format!("{kind:12}  {}\n", row.key).as_bytes())?;
            }
        }
        left = left.saturating_sub(page.keys.len());
        scan.cursor = page.cursor;
        if scan.cursor.is_none() {
            break;
        }
    }
    Ok(out.bytes(b"")?)
}

pub(super) async fn versions(key: Key) -> anyhow::Result<()> {
    let Some(row) = key.ask.client().read(&key.read()?, Detail::Versions).await? else {
        bail!("there is no key {}", Text(key.read()?));
    };
    let mut out = key.ask.out();
    if key.ask.json {
        return Ok(out.object(&row)?);
    }
    out.table(print::VERSIONS, print::versions(&row))?;
    if let Some(at) = row.expires_at {
        out.line(&format!("expires {}", moment(at)))?;
    }
    Ok(())
}

/// One line a key: JSON with all versions, or the kind, the key and the value.
pub(super) async fn dump(ask: Ask) -> anyhow::Result<()> {
    let mut out = ask.out();
    let mut broken = None;
    let each = |row: KeyRow| {
        let written = if out.json() {
            out.json_line(&row)
        } else {
            let kind = row.kind.map_or("", |kind| kind.as_str());
            let value = row.value.as_ref().map_or_else(String::new, print::value);
            out.bytes(format!("{kind:12}  {}  {value}\n", row.key).as_bytes())
        };
        broken = written.err();
        broken.is_none()
    };
    ask.client().dump(each).await?;
    match broken {
        Some(error) => Err(error.into()),
        None => Ok(out.bytes(b"")?),
    }
}
