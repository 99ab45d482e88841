//! The messages of etcd's API in JSON (`/v3/…` of the documented gRPC gateway, since etcd 3.4), as far as they are used.
//! Keys and values are base64, numbers of 64 bits are strings, and what has its default is left out.

use serde::{Deserialize, Deserializer};

/// An answer to any call; what a call does not answer is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Of every answer but those of streams.
    pub header: Option<Header>,
    /// `kv/range`: what was found.
    pub kvs: Vec<Kv>,
    /// `kv/range`: there is more than the limit.
    pub more: bool,
    /// `kv/txn`: the comparisons held.
    pub succeeded: bool,
    /// `lease/grant`: the lease.
    #[serde(rename = "ID")]
    pub id: Num,
    /// `auth/authenticate`: what later calls show.
    pub token: Option<String>,
    /// `lease/keepalive` answers with a stream of messages; of the first one, what matters.
    pub result: Option<Kept>,
}

/// A lease that was kept alive.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// How long it lives from now, in seconds; 0 when it was over.
    #[serde(rename = "TTL")]
    pub ttl: Num,
}

/// What etcd says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Header {
    /// Of which etcd.
    pub cluster_id: Num,
    /// Counts up with each change of any key.
    pub revision: Num,
}

/// A key with its value.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Kv {
    /// In base64.
    pub key: String,
    /// In base64.
    pub value: String,
    /// Of the change that gave it this value.
    pub mod_revision: Num,
}

/// Why a call failed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Failure {
    /// In words.
    pub message: String,
    /// gRPC's status.
    pub code: u32,
    /// Of a stream, the failure is one level down.
    pub error: serde_json::Value,
}

/// A number of 64 bits; in JSON a string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Num(pub u64);

impl<'de> Deserialize<'de> for Num {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Num, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Number(u64),
        }
        match Either::deserialize(from)? {
            Either::Number(number) => Ok(Num(number)),
            Either::Text(text) => text.parse().map(Num).map_err(serde::de::Error::custom),
        }
    }
}
