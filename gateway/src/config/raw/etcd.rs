//! `etcd` of `[certificate_store]`

use crate::config::decode::{List, Optional, Required, table};
use crate::config::value::{EtcdPrefix, EtcdUrl, FilePath, HeaderValue};

table! { "`etcd` of [certificate_store]"
/// An etcd (3.4 or later) where a fleet keeps certificates, ACME accounts and ticket keys. `directory` is then each box's
/// copy of the certificates: what it starts from while etcd is away.
pub struct EtcdStore {
    /// The members of the cluster.
    #[schemars(extend("examples" = [["https://10.0.0.5:2379"]]))]
    pub endpoints: Required<List<EtcdUrl>>,
    /// What every key begins with. Boxes with the same prefix are one fleet.
    #[schemars(extend("default" = "/gateway/", "examples" = ["/edge/"]))]
    pub prefix: Optional<EtcdPrefix>,
    /// PEM file with the authorities to trust. Without it, the system's.
    #[schemars(extend("examples" = ["etcd-ca.pem"]))]
    pub ca: Optional<FilePath>,
    /// PEM file with the certificate that is shown to etcd.
    #[schemars(extend("examples" = ["etcd-client.pem"]))]
    pub certificate: Optional<FilePath>,
    /// PEM file with its key.
    #[schemars(extend("examples" = ["etcd-client.key"]))]
    pub key: Optional<FilePath>,
    /// The user to log in as.
    #[schemars(extend("examples" = ["gateway"]))]
    pub username: Optional<HeaderValue>,
    /// A file whose first line is the password.
    #[schemars(extend("examples" = ["etcd.password"]))]
    pub password_file: Optional<FilePath>,
}
}
