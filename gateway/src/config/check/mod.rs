//! From what the file says to what it means: names become ids, defaults are filled in, and everything that does not
//! fit together is reported.
//!
//! A part with an error becomes `None`, after all of it has been looked at: one run finds everything.

mod access;
mod acme;
mod alerts;
mod balance;
mod certificate;
mod cluster;
mod cluster_tls;
mod coverage;
mod destination;
mod etcd;
mod filter;
mod health;
mod kinds;
mod l4_route;
mod limits;
mod listener;
mod names;
mod outlier;
mod route;
mod tls;
mod vip;
mod xdp;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::decode::{List, Optional};
use super::load::Loader;
use super::model::{
    AccessLog, Admin, Certificate, CertificateId, Config, Gateway, HttpVersions, ListenerProtocol, LogFormat,
    LogTarget, MaxMemory, Overload,
};
use super::report::Diagnostics;
use super::span::{At, Span};
use super::value::{Cidr, HttpVersion, PositiveDuration};
use super::{Known, raw};
use crate::metrics::access_log::{DEFAULT_FORMAT, Format};
use kinds::{CertificateKind, ClusterKind, ListenerKind};
use names::Names;

/// Checks everything. `None` when there is an error, and sometimes not even then: the diagnostics decide.
pub fn check(raw: raw::File, loader: &mut Loader<'_>, known: &Known<'_>) -> Option<Config> {
    let mut names = Tables::new(&raw, &mut loader.diagnostics);
    etcd::check_stored(&raw, &mut loader.diagnostics);
    let trusts_any = raw.listener.iter().any(|listener| !is_empty(&listener.value.trusted_proxies));
    let gateway = gateway(raw.gateway, trusts_any, known, &mut loader.diagnostics);
    let admin = admin(&raw.admin);
    let access_log = access_log(raw.access_log, loader);
    let overload = overload(raw.overload, &mut loader.diagnostics);
    let xdp = xdp::check(raw.xdp, &mut loader.diagnostics);
    let access = each(raw.access, |rule| access::check(rule, loader));
    let acme = each(raw.acme, |account| acme::check(account, &names, loader));
    let certificate_store = acme::store(raw.certificate_store, loader);
    let checker = certificate::Checker::new(known);
    let certificates = each(raw.certificate, |certificate| checker.check(certificate, &names.acme, loader));
    let certificates = certificates.map(|tables| names.number_certificates(tables));
    let certificate_alerts = alerts::check(raw.certificate_alerts, loader);
    addresses(&raw.listener, raw.admin.as_ref(), admin.as_ref(), &mut loader.diagnostics);
    let trusted = &gateway.trusted_proxies;
    let mut filters = filter::Taken::default();
    let suite_spans: Vec<_> = raw.listener.iter().map(|listener| suite_span(&listener.value)).collect();
    let listeners =
        each(raw.listener, |listener| listener::check(listener, trusted, &names, &mut filters, known.now, loader));
    let trust = cluster_tls::Surroundings { names: &names, certificates: certificates.as_deref(), now: known.now };
    let clusters = each(raw.cluster, |cluster| cluster::check(cluster, &trust, loader));
    let limits = each(raw.limits, |set| limits::check(set, loader));
    let host_spans: Vec<_> = raw.route.iter().map(|route| host_spans(&route.value)).collect();
    let routes = each(raw.route, |route| route::check(route, &names, &mut filters, &mut loader.diagnostics));
    let mut taken = l4_route::Taken::default();
    let l4_routes = each(raw.l4_route, |route| l4_route::check(route, &names, &mut taken, &mut loader.diagnostics));
    let around = vip::Surroundings { xdp: &xdp, listeners: listeners.as_deref(), clusters: clusters.as_deref() };
    let mut taken = vip::Taken::default();
    let vip_spans: Vec<Span> = raw.vip.iter().map(|vip| vip.span).collect();
    let vips = each(raw.vip, |vip| vip::check(vip, &names, &around, &mut taken, &mut loader.diagnostics));
    if let (Some(vips), Some(clusters)) = (&vips, &clusters) {
        vip::check_numbers(vips, &vip_spans, clusters, &mut loader.diagnostics);
    }
    if let (Some(routes), Some(listeners), Some(certificates)) = (&routes, &listeners, &certificates) {
        coverage::warn(routes, &host_spans, listeners, certificates, &mut loader.diagnostics);
    }
    if let (Some(listeners), Some(certificates)) = (&listeners, &certificates) {
        coverage::warn_of_suites(listeners, &suite_spans, certificates, &mut loader.diagnostics);
    }
    names.warn_unused(&mut loader.diagnostics);
    Some(Config {
        gateway,
        admin,
        access_log,
        overload,
        xdp,
        access: access?,
        vips: vips?,
        certificates: certificates?,
        certificate_alerts: certificate_alerts?,
        acme: acme?,
        certificate_store: certificate_store?,
        listeners: listeners?,
        clusters: clusters?,
        limits: limits?,
        routes: routes?,
        l4_routes: l4_routes?,
    })
}

/// The names of every kind of table, and by id, what others have to know of each.
struct Tables {
    certificates: Names,
    listeners: Names,
    clusters: Names,
    limits: Names,
    acme: Names,
    certificate_kinds: Vec<CertificateKind>,
    /// The certificates that each table stands for; empty when there is an error in one of them.
    certificate_ids: Vec<Vec<CertificateId>>,
    listener_kinds: Vec<ListenerKind>,
    cluster_kinds: Vec<ClusterKind>,
}

impl Tables {
    fn new(raw: &raw::File, diagnostics: &mut Diagnostics) -> Tables {
        // Nothing refers to these, but a name that stands for two things is of no use in a log. Both kinds of routes
        // have the same label in metrics.
        let routes = raw.route.iter().map(|table| &table.value.name);
        Names::new("route", routes.chain(raw.l4_route.iter().map(|table| &table.value.name)), diagnostics);
        Names::new("access rule", raw.access.iter().map(|table| &table.value.name), diagnostics);
        Names::new("vip", raw.vip.iter().map(|table| &table.value.name), diagnostics);
        Tables {
            certificates: Names::new("certificate", raw.certificate.iter().map(|table| &table.value.name), diagnostics),
            listeners: Names::new("listener", raw.listener.iter().map(|table| &table.value.name), diagnostics),
            clusters: Names::new("cluster", raw.cluster.iter().map(|table| &table.value.name), diagnostics),
            limits: Names::new("limit set", raw.limits.iter().map(|table| &table.value.name), diagnostics),
            acme: Names::new("ACME account", raw.acme.iter().map(|table| &table.value.name), diagnostics),
            certificate_kinds: raw.certificate.iter().map(|table| CertificateKind::of(&table.value)).collect(),
            certificate_ids: Vec::new(),
            listener_kinds: raw.listener.iter().map(|table| ListenerKind::of(&table.value)).collect(),
            cluster_kinds: raw.cluster.iter().map(|table| ClusterKind::of(&table.value)).collect(),
        }
    }

    /// Lines up the certificates of all tables.
    fn number_certificates(&mut self, tables: Vec<Vec<Certificate>>) -> Vec<Certificate> {
        let mut all = Vec::new();
        for certificates in tables {
            let first = all.len() as u32;
            all.extend(certificates);
            self.certificate_ids.push((first..all.len() as u32).map(CertificateId).collect());
        }
        all
    }

    /// The certificates that a table stands for.
    fn certificate_ids(&self, table: u32) -> &[CertificateId] {
        self.certificate_ids.get(table as usize).map_or(&[], Vec::as_slice)
    }

    fn warn_unused(&self, diagnostics: &mut Diagnostics) {
        self.certificates.warn_unused(|_| "no listener or cluster uses it", diagnostics);
        self.listeners.warn_unused(|id| self.listener_kinds[id as usize].fate_without_route(), diagnostics);
        self.clusters.warn_unused(|_| "no route uses it", diagnostics);
        self.acme.warn_unused(|_| "no certificate is obtained by it", diagnostics);
        self.limits.warn_unused(|_| "no route or filter uses it", diagnostics);
    }
}

/// Where the hosts of a route stand.
fn host_spans(route: &raw::Route) -> Vec<Span> {
    route.hosts.iter().flat_map(|hosts| &hosts.value).map(|host| host.span).collect()
}

/// Where the cipher suites of a listener stand.
fn suite_span(listener: &raw::Listener) -> Option<Span> {
    Some(listener.tls.as_ref()?.value.cipher_suites.as_ref()?.span)
}

/// Checks every item, also after one has failed.
fn each<R, M>(items: Vec<R>, check: impl FnMut(R) -> Option<M>) -> Option<Vec<M>> {
    let checked: Vec<Option<M>> = items.into_iter().map(check).collect();
    checked.into_iter().collect()
}

/// `trusts_any` says whether some listener trusts a proxy by itself.
fn gateway(raw: Optional<raw::Gateway>, trusts_any: bool, known: &Known<'_>, diagnostics: &mut Diagnostics) -> Gateway {
    let Some(At { value: raw, .. }) = raw else { return Gateway::default() };
    let default = Gateway::default();
    if let Some(hops) =
        raw.trusted_hops.filter(|hops| hops.value.0 > 0 && !trusts_any && is_empty(&raw.trusted_proxies))
    {
        let help = "`trusted_proxies` says whose `X-Forwarded-For` counts";
        diagnostics.warning(hops.span, "not used: no proxy is trusted").help(help);
    }
    if let (None, Some(group)) = (&raw.user, &raw.group) {
        let help = "say in `user` who the process becomes";
        diagnostics.error(group.span, "`group` needs `user`").help(help);
    }
    if let (Some(user), Some(find)) = (&raw.user, known.find_user)
        && let Err(why) = find(&user.value.0, raw.group.as_ref().map(|group| group.value.0.as_str()))
    {
        diagnostics.error(user.span, why);
    }
    Gateway {
        workers: raw.workers.and_then(|workers| workers.value.0),
        drain_timeout: raw.drain_timeout.map_or(default.drain_timeout, |timeout| timeout.value.0),
        trusted_proxies: networks(raw.trusted_proxies),
        trusted_hops: raw.trusted_hops.map_or(default.trusted_hops, |hops| hops.value.0),
        forwarded_header: raw.forwarded_header.map_or(default.forwarded_header, |on| on.value),
        server_header: match raw.server_header {
            Some(text) => Some(text.value.0).filter(|text| text != "off"),
            None => default.server_header,
        },
        via: raw.via.map(|name| name.value.0),
        user: raw.user.map(|name| name.value.0),
        group: raw.group.map(|name| name.value.0),
        core_dumps: raw.core_dumps.map_or(default.core_dumps, |on| on.value),
    }
}

fn admin(raw: &Optional<raw::Admin>) -> Option<Admin> {
    let given = raw.as_ref().and_then(|admin| admin.value.address);
    match given {
        Some(address) => address.value.0.map(|address| Admin { address }),
        None => Some(Admin::default()),
    }
}

/// Timers are up to 2 ms late on a worker that has nothing to do, and the kernel tells how long a connection waits by a
/// clock that may stand still for 4 ms.
const LEAST_DELAY: Duration = Duration::from_millis(5);

/// Workers, a configuration and a few hundred connections may take this much: with less, it is likely to be a mistake in the
/// unit. A warning, as a small configuration can do with less.
const LEAST_MEMORY: u64 = 64 << 20;

fn overload(raw: Optional<raw::Overload>, diagnostics: &mut Diagnostics) -> Overload {
    let Some(At { value: raw, .. }) = raw else { return Overload::default() };
    let default = Overload::default();
    for delay in [&raw.queue_delay, &raw.accept_delay].into_iter().flatten() {
        if delay.value.0.is_some_and(|delay| delay < LEAST_DELAY) {
            let help = "at least \"5ms\": the timers of a worker that has nothing to do are up to 2 ms late";
            diagnostics.error(delay.span, "too short to be measured").help(help);
        }
    }
    if let Some(max) = &raw.max_memory
        && matches!(max.value, MaxMemory::Bytes(bytes) if bytes < LEAST_MEMORY)
    {
        let help = "at least \"64MiB\"; \"auto\" is 90% of what the control group, or else the machine, has";
        diagnostics.warning(max.span, "so little that requests may be refused without any load").help(help);
    }
    Overload {
        max_memory: raw.max_memory.map_or(default.max_memory, |max| max.value),
        queue_delay: raw.queue_delay.map_or(default.queue_delay, |delay| delay.value.0),
        accept_delay: raw.accept_delay.map_or(default.accept_delay, |delay| delay.value.0),
        max_connections: raw.max_connections.map(|count| count.value.0),
    }
}

fn access_log(raw: Optional<raw::AccessLog>, loader: &mut Loader<'_>) -> Option<AccessLog> {
    let raw = raw?.value;
    let target = match raw.path {
        Some(path) if path.value.0 != "stdout" => {
            LogTarget::File(loader.diagnostics.sources.resolve(&path.value.0, path.span))
        }
        _ => LogTarget::Stdout,
    };
    let format = match raw.format {
        Some(format) if format.value == "text" => LogFormat::Format(DEFAULT_FORMAT.into()),
        Some(format) if format.value != "json" => {
            check_log_format(&format, &mut loader.diagnostics);
            LogFormat::Format(format.value)
        }
        _ => LogFormat::Json,
    };
    Some(AccessLog { target, format })
}

/// Reports a format string that does not compile.
fn check_log_format(format: &At<String>, diagnostics: &mut Diagnostics) {
    if let Err(error) = Format::compile(&format.value) {
        // The position counts from behind the opening quote.
        let at = error.at + 1;
        diagnostics.error(format.span.part(at, at + 1), format!("access_log.format: {}", error.message));
    }
}

/// Reports addresses that two things would listen on. Port 0 is a new port for each, and UDP has ports of its own.
fn addresses(
    listeners: &[At<raw::Listener>],
    raw_admin: Option<&At<raw::Admin>>,
    admin: Option<&Admin>,
    diagnostics: &mut Diagnostics,
) {
    let mut taken: HashMap<(bool, SocketAddr), Option<Span>> = HashMap::new();
    if let Some(admin) = admin {
        let span = raw_admin.and_then(|raw| raw.value.address).map(|address| address.span);
        taken.insert((false, admin.address), span);
    }
    for listener in listeners {
        let Some(address) = listener.value.address.0.filter(|address| address.value.0.port() != 0) else { continue };
        let is_udp = ListenerKind::of(&listener.value).protocol == Some(ListenerProtocol::Udp);
        let key = (is_udp, address.value.0);
        match taken.get(&key) {
            None => _ = taken.insert(key, Some(address.span)),
            Some(Some(first)) => {
                let message = format!("{} is listened on already", address.value.0);
                diagnostics.error(address.span, message).related(*first, "here");
            }
            Some(None) => {
                let message = format!("{} is the admin endpoint's address", address.value.0);
                let help = "give `[admin] address` another one, or \"off\"";
                diagnostics.error(address.span, message).help(help);
            }
        }
    }
}

fn networks(list: Optional<List<Cidr>>) -> Vec<IpNet> {
    list.map_or_else(Vec::new, |list| list.value.into_iter().map(|net| net.value.0).collect())
}

fn is_empty<T>(list: &Optional<List<T>>) -> bool {
    list.as_ref().is_none_or(|list| list.value.is_empty())
}

/// The versions in a list; without one, all.
fn http_versions(list: &Optional<List<HttpVersion>>) -> HttpVersions {
    let Some(list) = list else { return HttpVersions::default() };
    let has = |version| list.value.iter().any(|given| given.value == version);
    HttpVersions { h1: has(HttpVersion::H1), h2: has(HttpVersion::H2) }
}

/// An empty list could be read as "all" or as "none".
fn reject_empty<T>(list: &At<List<T>>, key: &str, all: &str, diagnostics: &mut Diagnostics) {
    if list.value.is_empty() {
        let help = format!("leave the key out for {all}");
        diagnostics.error(list.span, format!("`{key}` is empty")).help(help);
    }
}

/// Reports all but the first of keys that exclude each other.
fn only_one<const N: usize>(given: [Option<Span>; N], keys: &str, diagnostics: &mut Diagnostics) {
    let mut given: Vec<Span> = given.into_iter().flatten().collect();
    given.sort();
    if let [first, second, ..] = given[..] {
        diagnostics.error(second, format!("only one of {keys}")).related(first, "the first one");
    }
}

fn duration(given: Optional<PositiveDuration>, default: Duration) -> Duration {
    given.map_or(default, |duration| duration.value.0)
}
