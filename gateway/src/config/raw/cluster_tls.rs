//! `tls` of `[[cluster]]`.

use crate::config::decode::{List, Optional, table};
use crate::config::model::TlsVersion;
use crate::config::value::{Alpn, FilePath, HostName, Name, San};

table! { "`tls` of [[cluster]]"
/// TLS towards endpoints.
pub struct ClusterTls {
    /// The server name to ask for (SNI) and to verify. Without it, the endpoint's name or address.
    #[schemars(extend("examples" = ["api.internal"]))]
    pub server_name: Optional<HostName>,
    /// PEM file with the authorities to trust. Without it, the system's.
    #[schemars(extend("examples" = ["certs/internal-ca.pem"]))]
    pub ca: Optional<FilePath>,
    /// Files with certificate revocation lists, PEM or DER. With them, every certificate of the chain needs a list of its
    /// issuer that has not expired.
    #[schemars(extend("examples" = [["certs/internal.crl"]]))]
    pub crl: Optional<List<FilePath>>,
    /// Subject alternative names, of which the certificate must be for one, in place of the server name: written as in
    /// `client_auth` of a listener.
    #[schemars(extend("examples" = [["spiffe://example.org/ns/prod/*"]]))]
    pub names: Optional<List<San>>,
    /// Whether the endpoint's certificate is verified.
    #[schemars(extend("default" = true, "examples" = [false]))]
    pub verify: Optional<bool>,
    /// The `[[certificate]]` that endpoints are shown when they ask for one (mutual TLS): the name of a table, or for one of
    /// a directory, of the table and the file. A renewed one is shown from the next handshake on.
    #[schemars(extend("examples" = ["gateway-client"]))]
    pub certificate: Optional<Name>,
    /// The oldest TLS version that is spoken.
    #[schemars(extend("default" = "1.2", "examples" = ["1.3"]))]
    pub min_version: Optional<TlsVersion>,
    /// What connections of an l4_route, and checks with `"tls"`, offer by ALPN. Requests offer the versions of HTTP in
    /// `protocol`.
    #[schemars(extend("default" = [], "examples" = [["postgresql"]]))]
    pub alpn: Optional<List<Alpn>>,
    /// Whether a handshake takes up the session of one before it with the same endpoint, which costs less; all workers have
    /// them together.
    #[schemars(extend("default" = true, "examples" = [false]))]
    pub resumption: Optional<bool>,
}
}
