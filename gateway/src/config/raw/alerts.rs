//! `[certificate_alerts]`

use crate::config::decode::{List, Optional, table};
use crate::config::value::{Count, FilePath, HttpUrl};

table! { "[certificate_alerts]"
/// Who is told when a certificate is about to expire, has expired, or was refused. There are lines in the log without this
/// table too.
pub struct CertificateAlerts {
    /// So many days before a certificate expires there is an alert, each once for each certificate. That it has expired is
    /// said in any case.
    #[schemars(extend("default" = [30, 14, 7, 1], "examples" = [[21, 3]]))]
    pub days: Optional<List<Count<u16, 1, 3650>>>,
    /// Alerts are posted here too, as JSON. Not shown in the running configuration beyond its host: services such as chats
    /// have their secret in the path.
    #[schemars(extend("examples" = ["https://ops.example.com/hook"]))]
    pub webhook: Optional<HttpUrl>,
    /// PEM file with the authorities to trust for `webhook`. Without it, the system's.
    #[schemars(extend("examples" = ["certs/internal-ca.pem"]))]
    pub webhook_ca: Optional<FilePath>,
}
}
