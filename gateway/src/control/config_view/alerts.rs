//! `[certificate_alerts]`

use serde_json::{Value, json};

use super::REDACTED;
use crate::config::model::{CertificateAlerts, Webhook};

pub(super) fn view_alerts(CertificateAlerts { days, webhook }: &CertificateAlerts) -> Value {
    let shown = |webhook: &Webhook| {
        let Webhook { is_tls: _, host: _, port: _, path: _, ca_pem: _ } = webhook;
        format!("{}/{REDACTED}", webhook.origin())
    };
    json!({
        "days": days,
        "webhook": webhook.as_ref().map(shown),
        "webhook_ca": webhook.as_ref().map(|webhook| if webhook.ca_pem.is_some() { "file" } else { "system" }),
    })
}
