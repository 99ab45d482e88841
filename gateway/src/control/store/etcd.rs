//! etcd, as what a fleet has in common. The directory stays beside it as this box's copy: what a process starts from when
//! etcd is away.
//!
//! Keys are those of the store behind the prefix, values are as they are, so `etcdctl` can put and show them. A lock is a key
//! with a lease, which its holder keeps alive: it ends with the holder.

mod api;
mod link;
mod mark;

use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::json;
use tokio::sync::oneshot;

use self::api::{Answer, Header, Kv};
use self::link::Link;
pub use self::mark::Mark;
use super::{Directory, MAX_BYTES, StoreError, segments};
use crate::config::model::EtcdStore;

/// Values in one answer to [`Etcd::changes`], of which each has a few KiB.
const PAGE: usize = 64;

/// What the keys of marks in the copy begin with.
const MARKS: &str = "marks";

/// How often a lock's lease is kept alive within its time.
const KEEP_ALIVE: u32 = 3;

/// An etcd, and the copy of what it has for this box.
#[derive(Clone, Debug)]
pub struct Etcd {
    link: Arc<Link>,
    prefix: Arc<str>,
    copy: Directory,
}

/// A key that has changed.
#[derive(Debug)]
pub struct Changed {
    /// The key, without the prefix.
    pub key: String,
    /// Its value now.
    pub value: Vec<u8>,
    /// Since when it has this value.
    pub since: Mark,
}

/// A lock, or something announced, in etcd. It ends when this is dropped.
#[derive(Debug)]
pub struct Lease {
    _held: oneshot::Sender<()>,
}

impl Etcd {
    /// Uses this etcd, by a connection that stays. Nothing is asked of it yet.
    pub fn new(wanted: &EtcdStore, copy: Directory) -> Etcd {
        Etcd { link: Arc::new(Link::new(wanted)), prefix: wanted.prefix.as_str().into(), copy }
    }

    /// This box's copy.
    pub fn copy(&self) -> &Directory {
        &self.copy
    }

    /// See [`Store::get`](super::Store::get). A box brings along what only it has: from the time before it was one of a
    /// fleet, or from that before etcd lost it. What was deleted from etcd is not brought back.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let (value, now) = self.read(key).await?;
        if value.is_some() {
            return Ok(value);
        }
        let Some(own) = self.copy.get(key)? else { return Ok(None) };
        if self.remembered(key)?.is_some_and(|mark| mark.leads_to(&now)) {
            return Ok(None);
        }
        let at = self.at(key)?;
        match self.put_if(is_missing(&at), key, &own).await? {
            true => Ok(Some(own)),
            // Another box has, right now.
            false => Ok(self.read(key).await?.0),
        }
    }

    /// The value at `key`, and the revision of all that etcd has: while that is the same, nothing has changed.
    pub async fn get_at(&self, key: &str) -> Result<(Option<Vec<u8>>, u64), StoreError> {
        let (value, now) = self.read(key).await?;
        Ok((value, now.revision))
    }

    async fn read(&self, key: &str) -> Result<(Option<Vec<u8>>, Mark), StoreError> {
        let answer = self.call("kv/range", json!({ "key": self.at(key)? })).await?;
        let now = self.mark(answer.header);
        let value = answer.kvs.into_iter().next().map(|found| self.value(found)).transpose()?;
        Ok((value, now))
    }

    /// Puts this box's own value in place of one that has been there since `since`; `false` when that is not there any
    /// more.
    pub async fn replace(&self, key: &str, since: &Mark, own: &[u8]) -> Result<bool, StoreError> {
        let at = self.at(key)?;
        let revision = since.revision.to_string();
        let is_still = json!({ "key": at, "target": "MOD", "result": "EQUAL", "mod_revision": revision });
        self.put_if(is_still, key, own).await
    }

    async fn put_if(&self, holds: serde_json::Value, key: &str, own: &[u8]) -> Result<bool, StoreError> {
        let put = json!([{ "request_put": { "key": self.at(key)?, "value": BASE64.encode(own) } }]);
        let done = self.call("kv/txn", json!({ "compare": [holds], "success": put })).await?;
        if done.succeeded {
            self.remember(key, &self.mark(done.header))?;
        }
        Ok(done.succeeded)
    }

    /// Where etcd was when this box last put the value of its copy there, or took it from there.
    pub fn remembered(&self, key: &str) -> Result<Option<Mark>, StoreError> {
        Ok(self.copy.get(&format!("{MARKS}/{key}"))?.and_then(|bytes| Mark::decode(&bytes)))
    }

    /// Remembers that etcd has had what is in the copy.
    pub fn remember(&self, key: &str, mark: &Mark) -> Result<(), StoreError> {
        match self.remembered(key)?.as_ref() == Some(mark) {
            true => Ok(()),
            // One that is lost with the power is a value that is brought along once more.
            false => self.copy.put_soon(&format!("{MARKS}/{key}"), mark.encode().as_bytes()),
        }
    }

    fn mark(&self, header: Option<Header>) -> Mark {
        let Header { cluster_id, revision } = header.unwrap_or_default();
        Mark { cluster: cluster_id.0, revision: revision.0, prefix: self.prefix.as_ref().to_owned() }
    }

    /// See [`Store::put`](super::Store::put). The copy has it, too.
    pub async fn put(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let mark = self.put_shared(key, bytes).await?;
        self.copy.put(key, bytes)?;
        self.remember(key, &mark)
    }

    /// Puts a value into etcd alone: what is never to be on a disk of this box. Says when.
    pub async fn put_shared(&self, key: &str, bytes: &[u8]) -> Result<Mark, StoreError> {
        let put = json!({ "key": self.at(key)?, "value": BASE64.encode(bytes) });
        Ok(self.mark(self.call("kv/put", put).await?.header))
    }

    /// See [`Store::list`](super::Store::list).
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let mut keys = Vec::new();
        let mut after = None;
        loop {
            let answer = self.range(prefix, after.as_deref(), 0, true).await?;
            let more = answer.more;
            for found in answer.kvs {
                after = Some(self.key(&found)?);
                keys.extend(after.clone().filter(|key| is_one_below(prefix, key)));
            }
            if !more || after.is_none() {
                return Ok(keys);
            }
        }
    }

    /// What is below `prefix` and has changed after `revision`, in the order of keys; at most [`PAGE`] of it, behind the key
    /// `after`. Whether there is more is told beside it.
    pub async fn changes(
        &self,
        prefix: &str,
        after: Option<&str>,
        revision: u64,
    ) -> Result<(Vec<Changed>, bool), StoreError> {
        let answer = self.range(prefix, after, revision + 1, false).await?;
        let (more, now) = (answer.more, self.mark(answer.header));
        let changed = |found: Kv| {
            let since = Mark { revision: found.mod_revision.0, ..now.clone() };
            Ok(Changed { key: self.key(&found)?, value: self.value(found)?, since })
        };
        Ok((answer.kvs.into_iter().map(changed).collect::<Result<_, StoreError>>()?, more))
    }

    /// All that is below `prefix`, for what is never much.
    pub async fn all(&self, prefix: &str) -> Result<Vec<Changed>, StoreError> {
        let mut all: Vec<Changed> = Vec::new();
        loop {
            let after = all.last().map(|last| last.key.clone());
            let (page, more) = self.changes(prefix, after.as_deref(), 0).await?;
            let is_empty = page.is_empty();
            all.extend(page);
            if !more || is_empty {
                return Ok(all);
            }
        }
    }

    /// See [`Store::lock`](super::Store::lock). While the lock is held, its lease is kept alive.
    pub async fn lock(&self, name: &str, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        let key = self.at(&format!("locks/{name}"))?;
        self.put_leased(json!([is_missing(&key)]), json!({ "key": key }), ttl).await
    }

    /// Has a value at `key` until what this gives is dropped, or for `ttl` after this process has ended.
    pub async fn announce(&self, key: &str, bytes: &[u8], ttl: Duration) -> Result<Option<Lease>, StoreError> {
        let put = json!({ "key": self.at(key)?, "value": BASE64.encode(bytes) });
        self.put_leased(json!([]), put, ttl).await
    }

    /// Puts something with a lease of its own, if `compare` holds. The lease is kept alive.
    async fn put_leased(
        &self,
        compare: serde_json::Value,
        mut put: serde_json::Value,
        ttl: Duration,
    ) -> Result<Option<Lease>, StoreError> {
        let granted = self.call("lease/grant", json!({ "TTL": ttl.as_secs().max(1).to_string() })).await?;
        let lease = granted.id.0.to_string();
        put["lease"] = lease.as_str().into();
        let done = self.call("kv/txn", json!({ "compare": compare, "success": [{ "request_put": put }] })).await;
        if !done.as_ref().is_ok_and(|answer| answer.succeeded) {
            // What is left of it ends by itself.
            let _ = self.call("lease/revoke", json!({ "ID": lease })).await;
            return done.map(|_| None);
        }
        let (held, dropped) = oneshot::channel();
        tokio::spawn(hold(self.clone(), lease, ttl / KEEP_ALIVE, dropped));
        Ok(Some(Lease { _held: held }))
    }

    /// A page of what is below `prefix`, from behind the key `after`.
    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        min_revision: u64,
        keys_only: bool,
    ) -> Result<Answer, StoreError> {
        segments(prefix)?;
        let below = format!("{}{prefix}/", self.prefix);
        // The first key that is not below it: `0` follows `/`.
        let end = format!("{}{prefix}0", self.prefix);
        let from = after.map_or(below, |after| format!("{}{after}\0", self.prefix));
        let range = json!({
            "key": BASE64.encode(from.as_bytes()),
            "range_end": BASE64.encode(end.as_bytes()),
            "limit": PAGE.to_string(),
            "min_mod_revision": min_revision.to_string(),
            "keys_only": keys_only,
        });
        self.call("kv/range", range).await
    }

    async fn call(&self, path: &str, request: serde_json::Value) -> Result<Answer, StoreError> {
        self.link.call(path, &request).await.map_err(StoreError::Etcd)
    }

    fn at(&self, key: &str) -> Result<String, StoreError> {
        segments(key)?;
        Ok(BASE64.encode(format!("{}{key}", self.prefix).as_bytes()))
    }

    fn key(&self, found: &Kv) -> Result<String, StoreError> {
        let bytes = BASE64.decode(found.key.as_bytes()).map_err(|_| StoreError::Etcd(NO_BASE64.into()))?;
        let key = String::from_utf8_lossy(&bytes);
        Ok(key.strip_prefix(&*self.prefix).unwrap_or(&key).to_owned())
    }

    fn value(&self, found: Kv) -> Result<Vec<u8>, StoreError> {
        let value = BASE64.decode(found.value.as_bytes()).map_err(|_| StoreError::Etcd(NO_BASE64.into()))?;
        match value.len() as u64 > MAX_BYTES {
            true => Err(StoreError::Etcd(format!("a value is longer than {} MiB", MAX_BYTES >> 20))),
            false => Ok(value),
        }
    }
}

const NO_BASE64: &str = "it answers something that is no base64";

/// Keeps a lease alive until `dropped`, and then ends it.
async fn hold(etcd: Etcd, lease: String, every: Duration, mut dropped: oneshot::Receiver<()>) {
    let lease = json!({ "ID": lease });
    while tokio::time::timeout(every, &mut dropped).await.is_err() {
        if let Err(error) = etcd.call("lease/keepalive", lease.clone()).await {
            log::warn!("a lock in etcd may end: {error}");
        }
    }
    // Without an answer it ends when its time is over.
    let _ = etcd.call("lease/revoke", lease).await;
}

/// The comparison that holds while there is nothing at a key, which is in base64.
fn is_missing(key: &str) -> serde_json::Value {
    json!({ "key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0" })
}

/// Whether a key is a name below `prefix`, and no path.
pub fn is_one_below(prefix: &str, key: &str) -> bool {
    let rest = key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/'));
    rest.is_some_and(|name| !name.contains('/')) && segments(key).is_ok()
}
