//! `etcd` of `[certificate_store]`

use std::fmt;
use std::sync::Arc;

/// `etcd` of `[certificate_store]`: where a fleet keeps what its boxes have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdStore {
    /// `endpoints`: the members. One is asked, and the next one when it cannot be.
    pub endpoints: Vec<EtcdEndpoint>,
    /// `prefix`: what every key begins with. Default `/gateway/`.
    pub prefix: String,
    /// For members with `https`.
    pub tls: EtcdTls,
    /// `username` and `password_file`
    pub login: Option<EtcdLogin>,
}

/// A member, as in `"https://10.0.0.5:2379"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdEndpoint {
    /// Whether it speaks TLS.
    pub is_tls: bool,
    /// A name or an address; one of IPv6 without brackets.
    pub host: String,
    /// The port of its clients.
    pub port: u16,
}

/// How members with `https` are spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// `ca`: whom to trust, in PEM; `None` is the system's authorities.
    pub ca_pem: Option<Arc<[u8]>>,
    /// `certificate` and `key`: what is shown to members that want to see a certificate.
    pub client: Option<EtcdPair>,
}

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdPair {
    /// `certificate`, in PEM.
    pub chain_pem: Arc<[u8]>,
    /// `key`, in PEM. Never printed.
    pub key_pem: Arc<[u8]>,
}

/// Who the gateway is to etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdLogin {
    /// `username`
    pub username: String,
    /// The first line of `password_file`. Never printed.
    pub password: String,
}

impl fmt::Display for EtcdEndpoint {
    /// The authority: host and port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl EtcdEndpoint {
    /// As it is written in the configuration.
    pub fn url(&self) -> String {
        format!("{}://{self}", if self.is_tls { "https" } else { "http" })
    }
}

impl fmt::Debug for EtcdPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdPair").finish_non_exhaustive()
    }
}

impl fmt::Debug for EtcdLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdLogin").field("username", &self.username).finish_non_exhaustive()
    }
}
