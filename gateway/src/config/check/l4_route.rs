//! `[[l4_route]]`

use std::collections::HashMap;
use std::time::Duration;

use super::destination::Destination;
use super::kinds::ListenerKind;
use super::{Tables, balance, each, only_one, reject_empty};
use crate::config::decode::{List, Optional};
use crate::config::model::{HostPattern, L4Route, ListenerId, ListenerProtocol, WeightedCluster};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::{Alpn, Name, ServerName};

/// Envoy's `tcp_proxy` default.
const TCP_IDLE: Duration = Duration::from_secs(60 * 60);

/// Envoy's `udp_proxy` default: a session has no other end.
const UDP_IDLE: Duration = Duration::from_secs(60);

/// Checks a route. `taken` is what those before it take.
pub fn check(
    raw: At<raw::L4Route>,
    names: &Tables,
    taken: &mut Taken,
    diagnostics: &mut Diagnostics,
) -> Option<L4Route> {
    let At { value: raw, span } = raw;
    let span = raw.name.0.as_ref().map_or(span, |name| name.span);
    let tls = TlsMatch::of(raw.server_names, raw.without_server_name, raw.alpn, diagnostics);
    let listeners = listeners(raw.listeners, &tls, span, names, diagnostics);
    let clusters = clusters(Destination { cluster: raw.cluster, clusters: raw.clusters }, span, names, diagnostics);
    let (listeners, clusters) = (listeners?, clusters?);
    let subset = balance::subset(raw.subset, raw.subset_fallback, &clusters, names, diagnostics);
    let carries = Carries::of(&listeners, names);
    check_clusters(&clusters, carries, names, diagnostics);
    let idle_timeout = idle_timeout(raw.idle_timeout, carries, span, diagnostics);
    taken.check(&listeners, &tls, span, diagnostics);
    Some(L4Route {
        name: raw.name.0?.value.0,
        listeners,
        server_names: tls.server_names,
        without_server_name: tls.without_server_name,
        alpn: tls.alpn,
        clusters: clusters.into_iter().map(|share| share.value).collect(),
        subset: subset?,
        connect_attempts: raw.connect_attempts.map_or(3, |count| count.value.0),
        idle_timeout,
    })
}

/// What the route asks of a ClientHello.
struct TlsMatch {
    server_names: Vec<HostPattern>,
    without_server_name: bool,
    alpn: Vec<String>,
    /// Where it asks, if it does.
    span: Option<Span>,
}

impl TlsMatch {
    fn of(
        server_names: Optional<List<ServerName>>,
        without_server_name: Optional<bool>,
        alpn: Optional<List<Alpn>>,
        diagnostics: &mut Diagnostics,
    ) -> TlsMatch {
        if let Some(list) = &server_names {
            reject_empty(list, "server_names", "every client", diagnostics);
        }
        if let Some(list) = &alpn {
            reject_empty(list, "alpn", "every protocol", diagnostics);
        }
        let without = without_server_name.filter(|without| without.value);
        let name_span = server_names.as_ref().map(|list| list.span);
        let span = name_span.or(without.map(|key| key.span)).or(alpn.as_ref().map(|list| list.span));
        TlsMatch {
            server_names: server_names
                .map_or_else(Vec::new, |list| list.value.into_iter().map(|n| n.value.0).collect()),
            without_server_name: without.is_some(),
            alpn: alpn.map_or_else(Vec::new, |list| list.value.into_iter().map(|name| name.value.0).collect()),
            span,
        }
    }

    /// Why the route cannot serve a listener, and what to do about it.
    fn misfit(&self, kind: ListenerKind) -> Option<(&'static str, &'static str)> {
        let asks = self.span.is_some();
        match kind.protocol? {
            ListenerProtocol::TlsPassthrough => None,
            ListenerProtocol::Http if !kind.has_tls => Some((
                "is `http` without `tls`, so there is no server name to choose by",
                "a [[route]] takes its requests",
            )),
            ListenerProtocol::Http if self.server_names.is_empty() => Some((
                "is `http`: what passes through it is chosen by `server_names`",
                "add `server_names`; a [[route]] takes the requests of all other connections",
            )),
            ListenerProtocol::Tcp if asks && !kind.has_tls => Some((
                "is `tcp` without `tls`, so no TLS is seen there",
                "`protocol = \"tls_passthrough\"` looks at it, `tls` terminates it",
            )),
            ListenerProtocol::Udp if asks => Some((
                "is `udp`, so no TLS is seen there",
                "leave out `server_names`, `without_server_name` and `alpn`",
            )),
            ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::Udp => None,
        }
    }

    /// The clients the route takes, of those that offer the right protocols.
    fn clients(&self) -> Vec<Client> {
        if self.server_names.is_empty() && !self.without_server_name {
            return vec![Client::Unnamed, Client::Named(HostPattern::Any)];
        }
        let unnamed = self.without_server_name.then_some(Client::Unnamed);
        unnamed.into_iter().chain(self.server_names.iter().cloned().map(Client::Named)).collect()
    }
}

fn listeners(
    given: Optional<List<Name>>,
    tls: &TlsMatch,
    route: Span,
    names: &Tables,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<ListenerId>> {
    let kind = |id: u32| names.listener_kinds[id as usize];
    let Some(list) = given else {
        let fitting: Vec<u32> =
            (0..).take(names.listener_kinds.len()).filter(|&id| tls.misfit(kind(id)).is_none()).collect();
        // One for requests is of no use without a route for these, even if some connections pass through it.
        names.listeners.use_where(|id| !kind(id).may_be_http() && fitting.binary_search(&id).is_ok()).for_each(drop);
        if fitting.is_empty() {
            diagnostics.hint(route, "no listener that this l4_route could serve, so nothing gets here");
        }
        return Some(fitting.into_iter().map(ListenerId).collect());
    };
    reject_empty(&list, "listeners", "every listener it can serve", diagnostics);
    each(list.value, |name| {
        let id = names.listeners.find(&name, diagnostics)?;
        if let Some((why, help)) = tls.misfit(kind(id)) {
            let finding = diagnostics.error(name.span, format!("listener `{}` {why}", name.value.0)).help(help);
            tls.span.map(|span| finding.related(span, "asked for here"));
        }
        Some(ListenerId(id))
    })
}

fn clusters(
    raw: Destination,
    route: Span,
    names: &Tables,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<At<WeightedCluster>>> {
    let spans = raw.spans();
    only_one(spans, "`cluster` and `clusters`", diagnostics);
    if spans == [None, None] {
        diagnostics.error(route, "this l4_route goes nowhere").help("add `cluster` or `clusters`");
    }
    raw.check(names, diagnostics)
}

/// What the listeners of a route have for it.
#[derive(Clone, Copy)]
struct Carries {
    connections: bool,
    tls: bool,
    datagrams: bool,
}

impl Carries {
    fn of(listeners: &[ListenerId], names: &Tables) -> Carries {
        let any =
            |wanted: &dyn Fn(ListenerKind) -> bool| listeners.iter().any(|id| wanted(names.listener_kinds[id.index()]));
        Carries {
            connections: any(&|kind| kind.protocol.is_some_and(|protocol| protocol != ListenerProtocol::Udp)),
            tls: any(&|kind| matches!(kind.protocol, Some(ListenerProtocol::Http | ListenerProtocol::TlsPassthrough))),
            datagrams: any(&|kind| kind.protocol == Some(ListenerProtocol::Udp)),
        }
    }
}

fn check_clusters(clusters: &[At<WeightedCluster>], carries: Carries, names: &Tables, diagnostics: &mut Diagnostics) {
    for share in clusters {
        let kind = &names.cluster_kinds[share.value.cluster.index()];
        if carries.datagrams && kind.has_proxy_header {
            let message = "a cluster with `proxy_protocol` is for connections, and this l4_route has datagrams";
            diagnostics.error(share.span, message).help("use a cluster without it");
        }
        if carries.datagrams && kind.has_tls {
            let message = "a cluster with `tls` is for connections, and this l4_route has datagrams";
            diagnostics.error(share.span, message).help("use a cluster without it");
        }
        if carries.tls && kind.has_tls {
            let message = "the client's TLS passes through, and this cluster has `tls`: it would be in TLS twice";
            diagnostics.warning(share.span, message);
        }
    }
}

fn idle_timeout(
    given: Optional<crate::config::value::Duration>,
    carries: Carries,
    route: Span,
    diagnostics: &mut Diagnostics,
) -> Option<Duration> {
    let timeout = match given {
        Some(given) => given.value.0,
        None if !carries.datagrams => TCP_IDLE,
        None if !carries.connections => UDP_IDLE,
        None => {
            let message = "this l4_route has connections and datagrams, which have different idle timeouts";
            diagnostics.error(route, message).help("say `idle_timeout`, or name the `listeners` of one kind");
            UDP_IDLE
        }
    };
    if let Some(given) = given.filter(|given| given.value.0.is_zero() && carries.datagrams) {
        let message = "datagrams need an `idle_timeout`: nothing else ends their sessions";
        diagnostics.error(given.span, message);
    }
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

/// Which clients of each listener the routes seen so far take, whatever these offer by ALPN, and by which route first.
#[derive(Default)]
pub struct Taken(HashMap<(ListenerId, Client), Span>);

/// A client as far as the server name tells. Where no TLS is seen, every client is both.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Client {
    Unnamed,
    Named(HostPattern),
}

impl Taken {
    /// Warns about a route to which those before it leave nothing, and adds what it takes.
    fn check(&mut self, listeners: &[ListenerId], tls: &TlsMatch, route: Span, diagnostics: &mut Diagnostics) {
        let clients = tls.clients();
        let wanted = || listeners.iter().flat_map(|id| clients.iter().map(|client| (*id, client.clone())));
        let by: Option<Vec<Span>> = wanted().map(|wanted| self.by(wanted)).collect();
        if let Some(first) = by.and_then(|by| by.into_iter().min()) {
            diagnostics.warning(route, "nothing gets here: an l4_route before it takes all").related(first, "this one");
        }
        if tls.alpn.is_empty() {
            wanted().for_each(|client| _ = self.0.entry(client).or_insert(route));
        }
    }

    fn by(&self, (listener, client): (ListenerId, Client)) -> Option<Span> {
        let any = || self.0.get(&(listener, Client::Named(HostPattern::Any)));
        let exactly = self.0.get(&(listener, client.clone()));
        exactly.or_else(|| if client == Client::Unnamed { None } else { any() }).copied()
    }
}
