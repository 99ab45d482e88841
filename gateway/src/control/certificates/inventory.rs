//! Every certificate that the configuration brings with it: what it says, where it is used, until when it is good.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use x509_parser::prelude::parse_x509_certificate;

use crate::config::Refused;
use crate::config::model::{
    Certificate, CertificateId, CertificateInfo, CertificateSource, Cluster, Config, UpstreamTls,
};
use crate::metrics::render::{CertificateCounts, CertificateEnd};

/// Seconds of a day.
pub const DAY_S: i64 = 86_400;

/// The last second that four digits of a year can say.
const LAST_S: i64 = 253_402_300_799;

/// A certificate, or one that is still to be obtained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is for.
    pub kind: Kind,
    /// Its name in the configuration; of an authority, the name it has itself.
    pub name: String,
    /// What it says; `None` when it has not been obtained yet.
    pub end: Option<Dated>,
    /// Server names that choose it.
    pub hosts: Vec<String>,
    /// Where it is used.
    pub bound: Vec<Binding>,
    /// Where it comes from, in words.
    pub source: String,
    /// Why a newer pair is not used.
    pub refused: Option<String>,
    /// Why it could not be obtained or renewed, when that was tried last.
    pub failed: Option<String>,
}

/// What a certificate says, and until when it is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dated {
    /// Its own.
    pub info: CertificateInfo,
    /// Until when all of its chain is valid, in seconds of Unix time; at most its own `not_after`.
    pub until: i64,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A `[[certificate]]`: the gateway shows it and has its key.
    Certificate,
    /// An authority by which the certificates of others are judged. It is trusted by name: that it has expired keeps
    /// nobody from connecting, so there are no alerts about it.
    Authority,
}

impl Kind {
    /// As JSON and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Certificate => "certificate",
            Kind::Authority => "authority",
        }
    }
}

/// Something that uses a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// A listener; `default` says whether clients that ask for no name it knows are shown this one.
    Listener {
        /// Its name.
        name: String,
        /// Whether it is the default.
        default: bool,
    },
    /// Clients of this listener are judged by it.
    Clients(String),
    /// A cluster.
    Cluster(String),
    /// An `[[acme]]` table.
    Acme(String),
    /// The etcd of `[certificate_store]`.
    Etcd,
    /// The webhook of `[certificate_alerts]`.
    Webhook,
}

impl Item {
    /// Whole days until it ends; below 0, since.
    pub fn days_left(&self, now_s: i64) -> Option<i64> {
        Some(self.end.as_ref()?.until.saturating_sub(now_s) / DAY_S)
    }

    /// A name by which people know it: the first of those that choose it, or else of those it is good for.
    pub fn domain(&self) -> Option<&str> {
        let names = self.end.iter().flat_map(|end| &end.info.names);
        self.hosts.iter().chain(names).next().map(String::as_str)
    }

    /// What is to be known of it first.
    pub fn state(&self, now_s: i64) -> State {
        match &self.end {
            None if self.refused.is_some() => State::Refused,
            None => State::NotObtained,
            Some(end) if end.until < now_s => State::Expired,
            Some(end) if end.info.not_before > now_s => State::NotYetValid,
            Some(_) => State::Ok,
        }
    }
}

/// What is to be known of a certificate first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is valid.
    Ok,
    /// It, or one of its chain, has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It has not been obtained yet.
    NotObtained,
    /// It is not used, because something is wrong with its files.
    Refused,
}

impl State {
    /// Every state.
    pub const ALL: [State; 5] = [State::Ok, State::Expired, State::NotYetValid, State::NotObtained, State::Refused];

    /// As JSON and metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Expired => "expired",
            State::NotYetValid => "not_yet_valid",
            State::NotObtained => "not_obtained",
            State::Refused => "refused",
        }
    }
}

/// Everything in `config`, with what was refused when it was read.
pub fn of(config: &Config, refused: &[Refused]) -> Vec<Item> {
    let mut reasons: BTreeMap<&str, String> = BTreeMap::new();
    for refused in refused {
        let reason = reasons.entry(&refused.certificate).or_default();
        let comma = if reason.is_empty() { "" } else { "; " };
        let _ = write!(reason, "{comma}{}", refused.message);
    }
    let certificates = config.certificates.iter().zip(bindings(config));
    let mut items: Vec<Item> =
        certificates.map(|(certificate, bound)| item(certificate, bound, reasons.remove(&*certificate.name))).collect();
    items.extend(reasons.into_iter().map(|(name, why)| left_out(name, why)));
    items.extend(etcd_client(config));
    items.extend(authorities(config));
    items
}

/// The certificate that etcd is shown, which is no `[[certificate]]`.
fn etcd_client(config: &Config) -> Option<Item> {
    let pair = config.certificate_store.etcd.as_ref()?.tls.client.as_ref()?;
    let info = CertificateInfo::of(&CertificateDer::from_pem_slice(&pair.chain_pem).ok()?)?;
    let until = info.not_after;
    Some(Item {
        kind: Kind::Certificate,
        name: "certificate_store.etcd".to_owned(),
        end: Some(Dated { info, until }),
        hosts: Vec::new(),
        bound: vec![Binding::Etcd],
        source: "a file".to_owned(),
        refused: None,
        failed: None,
    })
}

/// One that the configuration would have if its files were good.
fn left_out(name: &str, why: String) -> Item {
    Item {
        kind: Kind::Certificate,
        name: name.to_owned(),
        end: None,
        hosts: Vec::new(),
        bound: Vec::new(),
        source: String::new(),
        refused: Some(why),
        failed: None,
    }
}

fn item(certificate: &Certificate, bound: Vec<Binding>, refused: Option<String>) -> Item {
    let end = certificate.pair.as_ref().map(|pair| Dated { info: pair.info.clone(), until: pair.chain_not_after });
    Item {
        kind: Kind::Certificate,
        name: certificate.name.clone(),
        end,
        hosts: certificate.hosts.clone(),
        bound,
        source: match &certificate.source {
            CertificateSource::Files(files) | CertificateSource::Directory(files) => files.chain.display().to_string(),
            CertificateSource::Acme(obtained) => format!("acme {}", obtained.by),
            CertificateSource::Stored(_) => "stored".to_owned(),
        },
        refused,
        failed: None,
    }
}

/// Who uses each certificate, by its place in the configuration.
fn bindings(config: &Config) -> Vec<Vec<Binding>> {
    let mut bound = vec![Vec::new(); config.certificates.len()];
    for listener in &config.listeners {
        let Some(tls) = &listener.tls else { continue };
        // As the choice by server name has it: the first one that there is.
        let shown = |id: &&CertificateId| config.certificates[id.index()].pair.is_some();
        let default = tls.certificates.iter().find(shown).filter(|_| !tls.strict_sni);
        for id in &tls.certificates {
            let name = listener.name.clone();
            bound[id.index()].push(Binding::Listener { name, default: Some(id) == default });
        }
    }
    let names = config.certificates.iter().enumerate().map(|(at, certificate)| (&certificate.name, at));
    let by_name: HashMap<&String, usize> = names.collect();
    for cluster in &config.clusters {
        let shown: BTreeSet<usize> =
            origin_tls(cluster).filter_map(|tls| by_name.get(tls.certificate.as_ref()?).copied()).collect();
        shown.into_iter().for_each(|at| bound[at].push(Binding::Cluster(cluster.name.clone())));
    }
    bound
}

/// How its endpoints are spoken to, by requests and by health checks.
fn origin_tls(cluster: &Cluster) -> impl Iterator<Item = &UpstreamTls> {
    cluster.tls.iter().chain(cluster.health_check.iter().filter_map(|check| check.tls.as_ref()))
}

/// The authorities that are files, each once for all who trust it.
fn authorities(config: &Config) -> Vec<Item> {
    // Many clusters may name one file, which is taken apart once.
    let mut files: BTreeMap<&[u8], Vec<Binding>> = BTreeMap::new();
    for (pem, binding) in trusted(config) {
        files.entry(pem).or_default().push(binding);
    }
    let mut items: Vec<Item> = Vec::new();
    let mut seen: HashMap<[u8; 32], usize> = HashMap::new();
    for (pem, bound) in files {
        for der in CertificateDer::pem_slice_iter(pem).flatten() {
            let Some(info) = CertificateInfo::of(&der) else { continue };
            let at = *seen.entry(info.sha256).or_insert_with(|| {
                items.push(authority(&der, info));
                items.len() - 1
            });
            for binding in &bound {
                if !items[at].bound.contains(binding) {
                    items[at].bound.push(binding.clone());
                }
            }
        }
    }
    items
}

/// Files of authorities, and who trusts them.
fn trusted(config: &Config) -> impl Iterator<Item = (&[u8], Binding)> {
    let clusters = config.clusters.iter().flat_map(|cluster| {
        let files = origin_tls(cluster).filter_map(|tls| tls.ca_pem.as_deref());
        files.map(|pem| (pem, Binding::Cluster(cluster.name.clone())))
    });
    let listeners = config.listeners.iter().flat_map(|listener| {
        let terms = listener.tls.iter().flat_map(|tls| tls.hosts.iter().map(|host| &host.terms).chain([&tls.terms]));
        let files = terms.filter_map(|terms| Some(&*terms.client_auth.as_ref()?.ca_pem));
        files.map(|pem| (pem, Binding::Clients(listener.name.clone())))
    });
    let acme = config.acme.iter().filter_map(|acme| Some((acme.ca_pem.as_deref()?, Binding::Acme(acme.name.clone()))));
    let etcd = config.certificate_store.etcd.as_ref().and_then(|etcd| etcd.tls.ca_pem.as_deref());
    let webhook = config.certificate_alerts.webhook.as_ref().and_then(|webhook| webhook.ca_pem.as_deref());
    let ours = etcd.map(|pem| (pem, Binding::Etcd)).into_iter().chain(webhook.map(|pem| (pem, Binding::Webhook)));
    clusters.chain(listeners).chain(acme).chain(ours)
}

fn authority(der: &CertificateDer<'_>, info: CertificateInfo) -> Item {
    let subject = parse_x509_certificate(der).map(|(_, certificate)| certificate.subject().to_string());
    let until = info.not_after;
    Item {
        kind: Kind::Authority,
        name: subject.unwrap_or_default(),
        end: Some(Dated { info, until }),
        hosts: Vec::new(),
        bound: Vec::new(),
        source: "a file of authorities".into(),
        refused: None,
        failed: None,
    }
}

/// As the metrics page says it.
pub fn counts(items: &[Item], now_s: i64, posts: [u64; 2]) -> CertificateCounts {
    let with_key = || items.iter().filter(|item| item.kind == Kind::Certificate);
    let count = |state| with_key().filter(|item| item.state(now_s) == state).count();
    let mut ends: Vec<CertificateEnd> = items.iter().filter_map(end).collect();
    // A renewed authority has the same name, and while one of both is valid, so is what they issued.
    ends.sort_by(|a, b| (a.kind, &a.name, b.not_after_s).cmp(&(b.kind, &b.name, a.not_after_s)));
    ends.dedup_by(|later, first| (later.kind, &later.name) == (first.kind, &first.name));
    CertificateCounts { ends, states: State::ALL.map(|state| (state.as_str(), count(state))).to_vec(), posts }
}

fn end(item: &Item) -> Option<CertificateEnd> {
    Some(CertificateEnd {
        kind: item.kind.as_str(),
        name: item.name.clone(),
        domain: item.domain().unwrap_or_default().to_owned(),
        not_after_s: item.end.as_ref()?.until,
    })
}

/// As `GET /certificates` says it, those that end first on top.
pub fn view(items: &[Item], now_s: i64) -> String {
    let mut items: Vec<&Item> = items.iter().collect();
    items.sort_by_key(|item| item.end.as_ref().map(|end| end.until));
    let items: Vec<Value> = items.into_iter().map(|item| view_item(item, now_s)).collect();
    format!("{:#}\n", json!({ "certificates": items }))
}

/// As it is in `GET /certificates`.
pub fn view_item(item: &Item, now_s: i64) -> Value {
    let Item { kind, name, end, hosts, bound, source, refused, failed } = item;
    let info = end.as_ref().map(|end| &end.info);
    json!({
        "name": name,
        "kind": kind.as_str(),
        "state": item.state(now_s).as_str(),
        "days_left": item.days_left(now_s),
        "not_before": info.map(|info| date_time(info.not_before)),
        "not_after": info.map(|info| date_time(info.not_after)),
        "chain_not_after": end.as_ref().map(|end| date_time(end.until)),
        "key_type": info.map(|info| info.key_kind.to_string()),
        "dns_names": info.map(|info| &info.names),
        "hosts": hosts,
        "bound": bound.iter().map(view_binding).collect::<Vec<_>>(),
        "source": source,
        "issuer": info.map(|info| &info.issuer),
        "serial": info.map(|info| &info.serial),
        "fingerprint_sha256": info.map(|info| HEXLOWER.encode(&info.sha256)),
        "refused": refused,
        "renewal_failed": failed,
    })
}

fn view_binding(binding: &Binding) -> Value {
    match binding {
        Binding::Listener { name, default } => json!({ "listener": name, "default": default }),
        Binding::Clients(name) => json!({ "clients_of": name }),
        Binding::Cluster(name) => json!({ "cluster": name }),
        Binding::Acme(name) => json!({ "acme": name }),
        Binding::Etcd => json!({ "used_by": "etcd" }),
        Binding::Webhook => json!({ "used_by": "webhook" }),
    }
}

/// `2026-12-01T00:00:00Z`; what four digits of a year cannot say, and what was before 1970, as the last or first moment.
pub fn date_time(unix_s: i64) -> String {
    let since = Duration::from_secs(unix_s.clamp(0, LAST_S) as u64);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
pub(super) mod tests;
