//! What outlives a process and is no configuration: ACME accounts, certificates that were issued, ticket keys.
//!
//! A key is one or more segments with `/` between them; names from the configuration become a segment by [`segment`].
//! A value is one piece of bytes that is replaced as a whole, so a private key and its chain are one value.
//!
//! | key | value |
//! |---|---|
//! | `acme/NAME/account` | the account of an `[[acme]]` table: its URL and its key |
//! | `tickets` | in etcd alone: the keys of session tickets, see [`TicketKeys`](crate::snapshot::TicketKeys) |
//! | `challenges/TOKEN` | in etcd alone, while an order goes on: what an authority is to be answered |
//! | `certificates/NAME` | the certificate of a `[[certificate]]` table: its key, then its chain, in PEM; see [`kept`](super::kept) |
//! | `marks/KEY` | of a fleet's box alone: since when etcd has what is in the copy, see [`Mark`](etcd::Mark) |
//! | `tries/NAME` | of each box alone: tries to obtain a certificate that have failed |

mod directory;
pub mod etcd;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use directory::Directory;
pub use etcd::Etcd;

use crate::config::model::CertificateStore;

/// Longest value: a thousand times the chain of a certificate, and what a mistake may take of memory.
const MAX_BYTES: u64 = 4 << 20;

/// What the keys of certificates begin with.
pub const CERTIFICATES: &str = "certificates";

/// What the keys of challenges begin with, which any box of a fleet may be asked to answer.
pub const CHALLENGES: &str = "challenges";

/// How long what is announced outlives the process.
const ANNOUNCED: Duration = Duration::from_secs(30);

/// Where things are kept.
#[derive(Debug)]
pub enum Store {
    /// Files of this box.
    Directory(Directory),
    /// What a fleet has in common, and files of this box as a copy.
    Etcd(Etcd),
}

/// A right that at most one process has at a time. It ends with this value or with the process.
#[derive(Debug)]
pub enum Lock {
    /// A lock of the kernel on a file.
    File(std::fs::File),
    /// A key of etcd with a lease.
    Lease(etcd::Lease),
}

/// Why something could not be kept or found.
#[derive(Debug)]
pub enum StoreError {
    /// The disk's fault, or that of permissions.
    Disk {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// etcd cannot be asked, or says no; the text says which member and why.
    Etcd(String),
    /// A key has an empty segment, or a character that [`segment`] would have written otherwise.
    Key(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Disk { path, error } => {
                write!(f, "{}: {error}", path.display())?;
                match error.kind() {
                    io::ErrorKind::PermissionDenied => f.write_str("; it has to belong to the gateway's user"),
                    io::ErrorKind::StorageFull => f.write_str("; make room on the disk"),
                    _ => Ok(()),
                }
            }
            StoreError::Etcd(why) => f.write_str(why),
            StoreError::Key(key) => write!(f, "{key:?} cannot be a key of the certificate store"),
        }
    }
}

impl std::error::Error for StoreError {}

impl Store {
    /// The store that the configuration wants.
    pub fn open(wanted: &CertificateStore) -> Result<Store, StoreError> {
        let directory = Directory::open(wanted.directory.clone())?;
        match &wanted.etcd {
            None => Ok(Store::Directory(directory)),
            Some(etcd) => Ok(Store::Etcd(Etcd::new(etcd, directory))),
        }
    }

    /// The files of this box: all that there is, or a copy of what a fleet has.
    pub fn files(&self) -> &Directory {
        match self {
            Store::Directory(directory) => directory,
            Store::Etcd(etcd) => etcd.copy(),
        }
    }

    /// The value at `key`; `None` when there is none.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Store::Directory(directory) => directory.get(key),
            Store::Etcd(etcd) => etcd.get(key).await,
        }
    }

    /// Puts a value at `key`, in place of the one before. When this returns, it survives a loss of power.
    pub async fn put(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self {
            Store::Directory(directory) => directory.put(key, bytes),
            Store::Etcd(etcd) => etcd.put(key, bytes).await,
        }
    }

    /// The keys that are `prefix`, a `/` and one more segment, in order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        match self {
            Store::Directory(directory) => directory.list(prefix),
            Store::Etcd(etcd) => etcd.list(prefix).await,
        }
    }

    /// The lock of this name; `None` when somebody else has it. Where the holder's end may go unnoticed, its lock ends
    /// after `ttl`.
    pub async fn lock(&self, name: &str, ttl: Duration) -> Result<Option<Lock>, StoreError> {
        match self {
            // The kernel notices the end of a process.
            Store::Directory(directory) => Ok(directory.lock(name)?.map(Lock::File)),
            Store::Etcd(etcd) => Ok(etcd.lock(name, ttl).await?.map(Lock::Lease)),
        }
    }

    /// Tells the other boxes of a fleet something until what this gives is dropped; `None` where there are none.
    pub async fn announce(&self, key: &str, bytes: &[u8]) -> Result<Option<Lock>, StoreError> {
        match self {
            Store::Directory(_) => Ok(None),
            Store::Etcd(etcd) => Ok(etcd.announce(key, bytes, ANNOUNCED).await?.map(Lock::Lease)),
        }
    }
}

/// A name from the configuration as a segment of a key: what is no letter, digit, `-`, `_` or inner `.` is written as in
/// a URL.
pub fn segment(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for (index, byte) in name.bytes().enumerate() {
        match byte {
            byte if is_plain(byte) && (byte != b'.' || index > 0) => segment.push(byte.into()),
            other => segment.push_str(&format!("%{other:02X}")),
        }
    }
    segment
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

/// The segments of a key. None of them is `.`, `..`, or the name of a file that is being written.
fn segments(key: &str) -> Result<Vec<&str>, StoreError> {
    let fits = |part: &&str| {
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(|byte| is_plain(byte) || byte == b'%')
    };
    let parts: Vec<&str> = key.split('/').collect();
    match parts.iter().all(fits) {
        true => Ok(parts),
        false => Err(StoreError::Key(key.to_owned())),
    }
}
