//! `tls` of `[[listener]]`.

use crate::config::decode::{List, Optional, Required, table};
use crate::config::model::{CipherSuite, ClientAuthMode, KeyExchange, TlsVersion};
use crate::config::value::{FilePath, Host, KeyPin, Name, San};

table! { "`tls` of [[listener]]"
/// TLS towards clients.
pub struct ListenerTls {
    /// Names of `[[certificate]]` tables. The server name the client asks for chooses; the first one is for clients
    /// that ask for none of them.
    #[schemars(extend("examples" = [["example"]]))]
    pub certificates: Required<List<Name>>,
    /// The oldest TLS version that is accepted.
    #[schemars(extend("default" = "1.2", "examples" = ["1.3"]))]
    pub min_version: Optional<TlsVersion>,
    /// Refuse clients that ask for a name no certificate covers, rather than showing them the first certificate.
    #[schemars(extend("default" = false, "examples" = [true]))]
    pub strict_sni: Optional<bool>,
    /// The cipher suites that are accepted, by their names in the IANA registry; the first one that the client has is
    /// taken. Without it, all of those below, and the client's favourite is taken.
    #[schemars(extend("examples" = [["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]]))]
    pub cipher_suites: Optional<List<CipherSuite>>,
    /// The key exchanges that are accepted; the client's favourite is taken. Those with ML-KEM are safe from quantum
    /// computers, and for TLS 1.3 only.
    #[schemars(extend("default" = ["x25519mlkem768", "x25519", "secp256r1", "secp384r1"], "examples" = [["x25519mlkem768", "x25519"]]))]
    pub key_exchange: Optional<List<KeyExchange>>,
    /// Certificates of clients (mutual TLS).
    pub client_auth: Optional<ClientAuth>,
    /// Hosts with other rules. A request over a connection that was made under the rules of another host is answered
    /// with 421.
    pub hosts: Optional<List<TlsHost>>,
}
}

table! { "`hosts` of `tls` of [[listener]]"
/// Rules for some hosts. What is not given is as the listener has it.
pub struct TlsHost {
    /// The hosts, as in a route. The server name the client asks for chooses, the most specific one first.
    #[schemars(extend("examples" = [["admin.example.com", "*.internal.example.com"]]))]
    pub hosts: Required<List<Host>>,
    /// The oldest TLS version that is accepted.
    #[schemars(extend("examples" = ["1.3"]))]
    pub min_version: Optional<TlsVersion>,
    /// Certificates of clients.
    pub client_auth: Optional<ClientAuth>,
}
}

table! { "`client_auth`"
/// Certificates of clients (mutual TLS). Every rule that is given must hold.
pub struct ClientAuth {
    /// `"require"` refuses clients without a certificate, `"optional"` serves them. One that is shown must pass either way.
    /// `"off"` asks for none: for `hosts`, where the listener does.
    #[schemars(extend("default" = "require", "examples" = ["optional"]))]
    pub mode: Optional<ClientAuthMode>,
    /// PEM file with the authorities to trust.
    #[schemars(extend("examples" = ["certs/clients-ca.pem"]))]
    pub ca: Optional<FilePath>,
    /// Files with certificate revocation lists, PEM or DER. With them, every certificate of the chain needs a list of its
    /// issuer that has not expired.
    #[schemars(extend("examples" = [["certs/clients.crl"]]))]
    pub crl: Optional<List<FilePath>>,
    /// Subject alternative names, of which the certificate must have one: a DNS name, `"*."` for one label before it, `"."`
    /// for any number; a URI, with `*` at its end for any that begins so; `"spiffe://example.org"` for all of a trust
    /// domain; an address. Without it, any.
    #[schemars(extend("examples" = [["client.example.com", "spiffe://example.org/ns/prod/*"]]))]
    pub names: Optional<List<San>>,
    /// SHA-256 of public keys (`SubjectPublicKeyInfo`), in base64 or hexadecimal digits, of which the certificate must have
    /// one. Without it, any.
    #[schemars(extend("examples" = [["yQNr7XNR2ooINTdWkBjmTYJZZKxSqTj8Lb+Qh+tkXl4="]]))]
    pub spki_sha256: Optional<List<KeyPin>>,
}
}
