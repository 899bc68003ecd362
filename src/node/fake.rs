//! A node without replication, for the tests of the doors.

use std::collections::BTreeMap;
use std::future::ready;
use std::time::Duration;

use parking_lot::Mutex;
use tidings_proto::Name;

use super::api::*;
use crate::config::{Config, ConfigRow};

/// Keys are registers, sets or counters by what was written first; peers are whatever was added.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    keys: Mutex<BTreeMap<Vec<u8>, Value>>,
    peers: Mutex<Vec<String>>,
    pub(crate) not_ready: Mutex<Option<String>>,
    pub(crate) zone: Mutex<String>,
    pub(crate) facts: Mutex<Facts>,
}

fn answer<'a, T: Send + 'a>(result: Result<T, Refusal>) -> Answer<'a, T> {
    Box::pin(ready(result))
}

fn row(key: &[u8], value: &Value, detail: Detail) -> KeyRow {
    let kind = match value {
        Value::Count(_) => Kind::PnCounter,
        Value::Bytes(_) => Kind::LwwRegister,
        Value::Elements(_) => Kind::OrSet,
    };
    let version = VersionRow {
        kind,
        value: value.clone(),
        origin: "fake".parse().unwrap(),
        dot: "fake@0000000000000001:1".to_owned(),
        time: Some(1_700_000_000_000),
        logical: Some(0),
        content: None,
        visible: true,
    };
    KeyRow {
        key: key.to_vec().into(),
        kind: (detail != Detail::Names).then_some(kind),
        value: (detail != Detail::Names).then(|| value.clone()),
        expires_at: None,
        hidden: Vec::new(),
        versions: if detail == Detail::Versions { vec![version] } else { Vec::new() },
    }
}

impl Operator for Fake {
    fn status(&self) -> Status {
        Status {
            version: "0.0.0".to_owned(),
            node: "fake".parse().unwrap(),
            realm: "test".parse().unwrap(),
            zone: self.zone.lock().clone(),
            incarnation: "0000000000000001".to_owned(),
            started_at: 1_700_000_000_000,
            uptime_ms: 61_000,
            not_ready: self.not_ready.lock().clone(),
            writes_stopped: None,
            addresses: Addresses::default(),
            data_dir: "data".to_owned(),
            fsync: "everysec".to_owned(),
            members: MemberCounts { alive: 1, ..MemberCounts::default() },
            peers_linked: 0,
            keys: self.keys.lock().len() as u64,
            kinds: KeyCounts::default(),
            conflicts: Conflicts::default(),
            seen_entries: 1,
            parked_removals: 0,
            log: LogSize::default(),
            clock_offset_ms: None,
            archive: None,
        }
    }

    fn members(&self) -> Vec<MemberRow> {
        let node = "fake".parse().unwrap();
        let (zone, state) = (self.zone.lock().clone(), MemberState::Alive);
        vec![MemberRow { node, zone, state, addresses: vec![], own: true, unconfirmed: 0 }]
    }

    fn peers(&self) -> Vec<PeerRow> {
        let row = |address: &String| PeerRow {
            node: None,
            address: address.clone(),
            linked: false,
            fixed: true,
            rtt_us: None,
            clock_offset_ms: None,
            unconfirmed: 0,
            error: Some("nobody answers".to_owned()),
        };
        self.peers.lock().iter().map(row).collect()
    }

    fn config(&self) -> Vec<ConfigRow> {
        Config::default().rows()
    }

    fn facts(&self) -> Facts {
        self.facts.lock().clone()
    }

    fn add_peer(&self, address: String) -> Answer<'_, ()> {
        self.peers.lock().push(address);
        answer(Ok(()))
    }

    fn remove_peer(&self, peer: String) -> Answer<'_, ()> {
        let mut peers = self.peers.lock();
        let before = peers.len();
        peers.retain(|known| *known != peer);
        let gone = peers.len() < before;
        answer(if gone { Ok(()) } else { Err(Refusal::NotFound(format!("there is no peer {peer}"))) })
    }

    fn push(&self, peer: Option<Name>) -> Answer<'_, Vec<PushRow>> {
        answer(Ok(peer.map(|node| PushRow { node, ops: 3, error: None }).into_iter().collect()))
    }

    fn pull(&self, request: PullRequest) -> Answer<'_, Page> {
        let detail = if request.names_only { Detail::Names } else { Detail::Versions };
        answer(self.scan(Scan { limit: 10, detail, cursor: request.cursor, ..Scan::default() }))
    }

    fn audit(&self, peer: Option<Name>) -> Answer<'_, Vec<AuditRow>> {
        let place = peer.map_or("memory".into(), |peer| peer.to_string());
        answer(Ok(vec![AuditRow { place, found: "3 keys, sound".into(), sound: true }]))
    }

    fn sync(&self, peer: Option<Name>, all: bool) -> Answer<'_, Vec<SyncRow>> {
        let Some(node) = peer else {
            return answer(if all {
                Ok(vec![])
            } else {
                Err(Refusal::Unavailable("no peer is linked".to_owned()))
            });
        };
        let result = SyncResult::Equal;
        answer(Ok(vec![SyncRow { node, result, sent: 0, received: 0, millis: 1, error: None }]))
    }

    fn stats(&self, _: Option<Name>) -> Answer<'_, Vec<StatRow>> {
        answer(Ok(vec![StatRow { name: "ops_sent".to_owned(), value: self.facts().gossip.ops_sent }]))
    }

    fn leave(&self) -> Answer<'_, ()> {
        answer(Ok(()))
    }

    fn backup(&self, request: BackupRequest) -> Answer<'_, BackupRow> {
        answer(match request.to {
            Some(to) => Ok(BackupRow { manifest: format!("{to}: test/fake/1") }),
            None => Err(Refusal::Invalid("no archive is configured".into())),
        })
    }

    fn backups(&self) -> Answer<'_, Vec<Summary>> {
        answer(Ok(Vec::new()))
    }

    fn read(&self, key: &[u8], detail: Detail) -> Result<Option<KeyRow>, Refusal> {
        Ok(self.keys.lock().get(key).map(|value| row(key, value, detail)))
    }

    fn read_quorum(
        &self,
        key: Vec<u8>,
        detail: Detail,
        nodes: usize,
        timeout: Duration,
    ) -> Answer<'_, Option<KeyRow>> {
        answer(if nodes == 1 && !timeout.is_zero() {
            self.read(&key, detail)
        } else {
            Err(Refusal::Unavailable(format!("no quorum: 1 of {nodes} answered: fake")))
        })
    }

    fn scan(&self, scan: Scan) -> Result<Page, Refusal> {
        let keys = self.keys.lock();
        let skip = scan
            .cursor
            .map_or(Ok(0), |cursor| cursor.parse())
            .map_err(|_| Refusal::Invalid("cursor".into()))?;
        let found = keys.iter().filter(|(key, _)| key.starts_with(&scan.prefix));
        let rows: Vec<_> =
            found.skip(skip).take(scan.limit).map(|(key, value)| row(key, value, scan.detail)).collect();
        let cursor = (rows.len() == scan.limit).then(|| (skip + rows.len()).to_string());
        Ok(Page { keys: rows, cursor })
    }

    fn write(&self, key: Vec<u8>, change: Change) -> Answer<'_, Written> {
        let mut keys = self.keys.lock();
        let conflict = || answer(Err(Refusal::Conflict("the key holds another kind".to_owned())));
        let mut written = Written { changed: 1, value: None };
        match change {
            Change::Set(value) => _ = keys.insert(key, Value::Bytes(value.into())),
            Change::Delete => written.changed = keys.remove(&key).is_some().into(),
            Change::Increment(CounterKind::GCounter, by) if by < 0 => {
                return answer(Err(Refusal::Invalid("a gcounter only grows".to_owned())));
            }
            Change::Increment(_, by) => match keys.entry(key).or_insert(Value::Count(0)) {
                Value::Count(sum) => {
                    *sum += by;
                    written.value = Some(*sum);
                }
                _ => return conflict(),
            },
            Change::Add(elements) => match keys.entry(key).or_insert(Value::Elements(vec![])) {
                Value::Elements(present) => present.extend(elements.into_iter().map(Text)),
                _ => return conflict(),
            },
            Change::Remove(elements) => match keys.get_mut(&key) {
                Some(Value::Elements(present)) => present.retain(|element| !elements.contains(&element.0)),
                _ => written.changed = 0,
            },
        }
        answer(Ok(written))
    }
}
