//! A stand-in for the node below.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(pub u64);
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub mono_us: u64,
    pub wall_ms: u64,
}
#[derive(Debug, Clone, Copy)]
pub struct Ticket(pub u64);
#[derive(Debug, thiserror::Error)]
#[error("the disk failed")]
pub struct CommitError;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Register,
    Set,
    GCounter,
    PnCounter,
}
#[derive(Debug)]
pub enum Write<'a> {
    Set { key: &'a [u8], value: &'a [u8] },
    Delete { key: &'a [u8] },
    Add { key: &'a [u8], elements: &'a [&'a [u8]] },
    Remove { key: &'a [u8], elements: &'a [&'a [u8]] },
    Increment { key: &'a [u8], by: i64 },
    GIncrement { key: &'a [u8], by: u64 },
    Flush,
}
#[derive(Debug)]
pub enum Written {
    Done,
    Removed(bool),
    Count(usize),
    Value(i64),
    GValue(u128),
}
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("Operation against a key holding the wrong kind of value")]
    WrongKind,
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    #[error("increment or decrement would overflow")]
    Overflow,
    #[error("{what} is too long")]
    TooLong { what: &'static str },
    #[error("writes are stopped")]
    Stopped,
}
pub type Set = BTreeSet<Vec<u8>>;
#[derive(Debug)]
enum Value {
    Bytes(Vec<u8>),
    Integer(i64),
    Set(Set),
    G(u128),
}
#[derive(Debug)]
pub enum View<'a> {
    Bytes(&'a [u8]),
    Integer(i64),
    Set(&'a Set),
    GCounter(u128),
}
#[derive(Debug, Default)]
pub struct Replica {
    map: hashbrown::HashMap<Vec<u8>, Value>,
    order: BTreeMap<Vec<u8>, ()>,
}
impl Replica {
    pub fn view(&self, key: &[u8]) -> Option<View<'_>> {
        Some(match self.map.get(key)? {
            Value::Bytes(b) => View::Bytes(b),
            Value::Integer(i) => View::Integer(*i),
            Value::Set(s) => View::Set(s),
            Value::G(g) => View::GCounter(*g),
        })
    }
    pub fn len(&self) -> usize {
        self.map.len()
    }
    pub fn scan(&self, cursor: u64, count: usize, mut f: impl FnMut(&[u8], Kind)) -> u64 {
        let mut rest = self.order.keys().skip(cursor as usize);
        for key in rest.by_ref().take(count) {
            f(key, self.kinds(key)[0]);
        }
        if rest.next().is_some() { cursor + count as u64 } else { 0 }
    }
    pub fn kinds(&self, key: &[u8]) -> Vec<Kind> {
        self.map
            .get(key)
            .map(|v| match v {
                Value::Bytes(_) => Kind::Register,
                Value::Integer(_) => Kind::PnCounter,
                Value::Set(_) => Kind::Set,
                Value::G(_) => Kind::GCounter,
            })
            .into_iter()
            .collect()
    }
}
#[derive(Debug, Default)]
pub struct Engine {
    replica: Replica,
    seq: u64,
}
impl Engine {
    pub fn replica(&self) -> &Replica {
        &self.replica
    }
    pub fn last_dot(&self) -> (Actor, u64) {
        (Actor(1), self.seq)
    }
    fn slot(&mut self, key: &[u8]) -> &mut Value {
        self.seq += 1;
        if !self.replica.map.contains_key(key) {
            self.replica.order.insert(key.to_vec(), ());
            self.replica.map.insert(key.to_vec(), Value::Integer(0));
        }
        self.replica.map.get_mut(key).unwrap()
    }
    pub fn write(&mut self, _now: Now, write: Write<'_>) -> Result<Written, WriteError> {
        Ok(match write {
            Write::Set { key, value } => {
                if key.len() > 65536 {
                    return Err(WriteError::TooLong { what: "key" });
                }
                match self.slot(key) {
                    Value::Bytes(old) => {
                        old.clear();
                        old.extend_from_slice(value);
                    }
                    slot => *slot = Value::Bytes(value.to_vec()),
                }
                Written::Done
            }
            Write::Delete { key } => {
                self.seq += 1;
                self.replica.order.remove(key);
                Written::Removed(self.replica.map.remove(key).is_some())
            }
            Write::Add { key, elements } => {
                if self.replica.map.contains_key(key) && !matches!(self.slot(key), Value::Set(_)) {
                    return Err(WriteError::WrongKind);
                }
                let slot = self.slot(key);
                if !matches!(slot, Value::Set(_)) {
                    *slot = Value::Set(Set::new());
                }
                let Value::Set(set) = slot else { unreachable!() };
                Written::Count(
                    elements.iter().filter(|e| !set.contains(**e) && set.insert(e.to_vec())).count(),
                )
            }
            Write::Remove { key, elements } => {
                if !self.replica.map.contains_key(key) {
                    return Ok(Written::Count(0));
                }
                let Value::Set(set) = self.slot(key) else { return Err(WriteError::WrongKind) };
                let count = elements.iter().filter(|e| set.remove(**e)).count();
                if set.is_empty() {
                    self.replica.map.remove(key);
                    self.replica.order.remove(key);
                }
                Written::Count(count)
            }
            Write::Increment { key, by } => {
                let number = match self.slot(key) {
                    Value::Integer(i) => *i,
                    Value::Bytes(b) => super::number::parse_i64(b).ok_or(WriteError::NotAnInteger)?,
                    _ => return Err(WriteError::WrongKind),
                };
                let number = number.checked_add(by).ok_or(WriteError::Overflow)?;
                *self.slot(key) = Value::Integer(number);
                Written::Value(number)
            }
            Write::GIncrement { key, by } => {
                let fresh = !self.replica.map.contains_key(key);
                let slot = self.slot(key);
                if fresh {
                    *slot = Value::G(0);
                }
                let Value::G(g) = slot else { return Err(WriteError::WrongKind) };
                *g += u128::from(by);
                Written::GValue(*g)
            }
            Write::Flush => {
                self.replica = Replica::default();
                Written::Done
            }
        })
    }
}
#[derive(Clone, Debug, Default)]
pub struct Node(Arc<parking_lot::Mutex<Engine>>);
impl Node {
    pub fn lock(&self) -> parking_lot::MutexGuard<'_, Engine> {
        self.0.lock()
    }
    pub fn now(&self) -> Now {
        Now { mono_us: 0, wall_ms: 0 }
    }
    pub fn commit(&self) -> Result<Ticket, CommitError> {
        Ok(Ticket(0))
    }
    pub async fn durable(&self, _: Ticket) -> Result<(), CommitError> {
        Ok(())
    }
    pub async fn wait(&self, _: Option<(Actor, u64)>, _: usize, timeout: Duration) -> usize {
        tokio::time::sleep(timeout).await;
        0
    }
}
