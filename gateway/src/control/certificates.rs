//! The certificates of the running configuration: what they are, and who is told when one ends.

mod alerts;
pub mod inventory;
mod webhook;

use std::collections::BTreeMap;
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::json;

use crate::config::Refused;
use crate::config::model::{CertificateAlerts, Config, Webhook};
use crate::metrics::render::CertificateCounts;
use alerts::{Alert, Alerts, Reason};
use inventory::{Item, Kind};
use webhook::{Post, Webhooks};

/// Alerts that are lines of the log at a time: who has more of them looks at `gateway certs`.
const LINES: usize = 100;

/// Alerts of one post; one of them is about 1 KiB.
const ALERTS_A_POST: usize = 500;

/// Follows the running configuration.
pub struct Certificates {
    items: Vec<Item>,
    settings: CertificateAlerts,
    /// Why certificates could not be obtained, by their names.
    failed: BTreeMap<String, String>,
    alerts: Alerts,
    webhooks: Webhooks,
    hostname: String,
}

impl Certificates {
    /// Knows none yet. `hostname` is what a webhook is told who speaks.
    pub fn new(hostname: String) -> Certificates {
        Certificates {
            items: Vec::new(),
            settings: CertificateAlerts::default(),
            failed: BTreeMap::new(),
            alerts: Alerts::default(),
            webhooks: Webhooks::start(),
            hostname,
        }
    }

    /// A configuration is in force, and `refused` is what was refused when it was read last.
    pub fn follow(&mut self, config: &Config, refused: &[Refused], now: SystemTime) {
        self.items = inventory::of(config, refused);
        self.note_failed();
        self.settings = config.certificate_alerts.clone();
        self.tell(unix_s(now));
    }

    /// Tells what time alone has made due, and of certificates that could not be obtained: `failed` says why, by their names.
    pub fn keep_time(&mut self, failed: BTreeMap<String, String>, now: SystemTime) {
        let is_news = self.failed != failed;
        if is_news {
            self.failed = failed;
            self.note_failed();
        }
        if is_news || self.alerts.is_due(unix_s(now)) {
            self.tell(unix_s(now));
        }
    }

    fn note_failed(&mut self) {
        for item in self.items.iter_mut().filter(|item| item.kind == Kind::Certificate) {
            item.failed = self.failed.get(&item.name).cloned();
        }
    }

    /// All of them, as JSON.
    pub fn view(&self, now: SystemTime) -> String {
        inventory::view(&self.items, unix_s(now))
    }

    /// What the metrics page says.
    pub fn counts(&self, now: SystemTime) -> CertificateCounts {
        inventory::counts(&self.items, unix_s(now), self.webhooks.counts())
    }

    fn tell(&mut self, now_s: i64) {
        let alerts = self.alerts.due(&self.items, &self.settings.days, now_s);
        // The others have their lines from whoever refused the pair, or tried to renew it.
        let ends = || alerts.iter().filter(|alert| matches!(alert.reason, Reason::Within(_) | Reason::Expired));
        for alert in ends().take(LINES) {
            match alert.reason {
                Reason::Expired => log::error!("{alert}"),
                _ => log::warn!("{alert}"),
            }
        }
        if let Some(more @ 1..) = ends().count().checked_sub(LINES) {
            log::warn!("{more} more certificates have expired or will soon: see `gateway certs`");
        }
        let Some(to) = &self.settings.webhook else { return };
        for some in alerts.chunks(ALERTS_A_POST) {
            self.webhooks.send(post(to, some, &self.hostname));
        }
    }
}

/// Unix time in seconds.
pub fn unix_s(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// `text` is all of it in words: what chats show.
fn post(to: &Webhook, alerts: &[Alert<'_>], hostname: &str) -> Post {
    let lines: Vec<String> = alerts.iter().take(LINES).map(|alert| format!("{hostname}: {alert}")).collect();
    let alerts: Vec<_> = alerts.iter().map(Alert::view).collect();
    let body = json!({ "gateway": hostname, "text": lines.join("\n"), "alerts": alerts });
    Post { to: to.clone(), body: Bytes::from(body.to_string()) }
}
