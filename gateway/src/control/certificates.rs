//! The certificates of the running configuration: what they are, and who is told when one ends.

mod alerts;
pub mod inventory;
mod webhook;

use std::time::SystemTime;

use bytes::Bytes;
use serde_json::json;

use crate::config::Refused;
use crate::config::model::{CertificateAlerts, Config, Webhook};
use crate::metrics::render::CertificateCounts;
use alerts::{Alert, Alerts, Reason};
use inventory::Item;
use webhook::{Post, Webhooks};

/// Alerts that are lines of the log at a time: who has more of them looks at `gateway certs`.
const LINES: usize = 100;

/// Alerts of one post; one of them is about 1 KiB.
const ALERTS_A_POST: usize = 500;

/// Follows the running configuration.
pub struct Certificates {
    items: Vec<Item>,
    settings: CertificateAlerts,
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
            alerts: Alerts::default(),
            webhooks: Webhooks::start(),
            hostname,
        }
    }

    /// A configuration is in force, and `refused` is what was refused when it was read last.
    pub fn follow(&mut self, config: &Config, refused: &[Refused], now: SystemTime) {
        self.items = inventory::of(config, refused);
        self.settings = config.certificate_alerts.clone();
        self.tell(unix_s(now));
    }

    /// Tells what time alone has made due.
    pub fn keep_time(&mut self, now: SystemTime) {
        if self.alerts.is_due(unix_s(now)) {
            self.tell(unix_s(now));
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
        // What is refused has its line from whoever refused it.
        let ends = || alerts.iter().filter(|alert| alert.reason != Reason::Refused);
        for alert in ends().take(LINES) {
            match alert.reason {
                Reason::Expired => log::error!("{alert}"),
                Reason::Within(_) | Reason::Refused => log::warn!("{alert}"),
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
