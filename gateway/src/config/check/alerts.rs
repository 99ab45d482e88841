//! `[certificate_alerts]`

use super::tls;
use crate::config::decode::{List, Optional};
use crate::config::load::Loader;
use crate::config::model::{CertificateAlerts, Webhook};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::At;
use crate::config::value::Count;

/// Days that may be given: each is a comparison for each certificate.
const MAX_DAYS: usize = 32;

/// Checks when somebody is told, and reads whom the webhook's authority is.
pub fn check(raw: Optional<raw::CertificateAlerts>, loader: &mut Loader<'_>) -> Option<CertificateAlerts> {
    let Some(At { value: raw, .. }) = raw else { return Some(CertificateAlerts::default()) };
    let days = match raw.days {
        Some(days) => days_of(days, &mut loader.diagnostics),
        None => CertificateAlerts::default().days,
    };
    if let Some(ca) = &raw.webhook_ca
        && raw.webhook.as_ref().is_none_or(|url| !url.value.0.is_tls)
    {
        loader.diagnostics.warning(ca.span, "not used: there is no `webhook` that begins with https://");
    }
    let ca_pem = match &raw.webhook_ca {
        None => None,
        Some(path) => Some(tls::authorities(path, loader)?),
    };
    let webhook = raw.webhook.map(|url| Webhook { ca_pem, ..url.value.0 });
    Some(CertificateAlerts { days, webhook })
}

fn days_of(given: At<List<Count<u16, 1, 3650>>>, diagnostics: &mut Diagnostics) -> Vec<u16> {
    if given.value.len() > MAX_DAYS {
        diagnostics.error(given.span, format!("{} days; at most {MAX_DAYS}", given.value.len()));
    }
    let mut days: Vec<u16> = given.value.iter().map(|days| days.value.0).collect();
    days.sort_unstable_by(|a, b| b.cmp(a));
    days.dedup();
    days
}
