//! What a route does with its requests.

use crate::config::check::destination::Destination;
use crate::config::check::{Tables, balance, only_one};
use crate::config::decode::{Given, List, Map, Optional};
use crate::config::model::{Action, Forward, LimitSetId, Redirect, Respond, SubsetFallback};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::Span;
use crate::config::value::Name;

/// The keys of a route of which one has to be there, and what goes with them.
pub struct Actions {
    pub destination: Destination,
    pub redirect: Optional<Given<raw::Redirect>>,
    pub respond: Optional<Given<raw::Respond>>,
    pub rate_limit_service: Optional<Name>,
    pub rewrite: Optional<raw::Rewrite>,
    pub hash_on: Optional<List<raw::HashRule>>,
    pub subset: Optional<Map<Name>>,
    pub subset_fallback: Optional<SubsetFallback>,
}

/// Checks the action. `span` is the route's; `prefix_has_meaning` says whether the matched part of the path is known, so that it can be
/// replaced.
pub fn action(
    raw: Actions,
    span: Span,
    prefix_has_meaning: bool,
    names: &Tables,
    diagnostics: &mut Diagnostics,
) -> Option<Action> {
    let [cluster, clusters] = raw.destination.spans();
    let forwards = cluster.is_some() || clusters.is_some();
    let answers = [raw.redirect.as_ref().map(|key| key.span), raw.respond.as_ref().map(|key| key.span)];
    let service = raw.rate_limit_service.as_ref().map(|key| key.span);
    let spans = [cluster, clusters, answers[0], answers[1], service];
    only_one(spans, "`cluster`, `clusters`, `redirect`, `respond` and `rate_limit_service`", diagnostics);
    if let Some(rewrite) = raw.rewrite.as_ref().filter(|_| !forwards) {
        diagnostics.error(rewrite.span, "`rewrite` needs `cluster` or `clusters`: it changes what an origin gets");
    }
    if let Some(span) = raw.hash_on.as_ref().map(|key| key.span).or(raw.subset.as_ref().map(|key| key.span))
        && !forwards
    {
        diagnostics.error(span, "`hash_on` and `subset` need `cluster` or `clusters`: they choose among endpoints");
    }
    if let Some(prefix) = raw.rewrite.as_ref().and_then(|rewrite| rewrite.value.path_prefix.as_ref()) {
        check_replaces_prefix(prefix.span, prefix_has_meaning, diagnostics);
    }
    let clusters = raw.destination.check(names, diagnostics);
    let known = clusters.as_deref().unwrap_or_default();
    let hash_on = balance::route_rules(raw.hash_on, known, names, diagnostics);
    let subset = balance::subset(raw.subset, raw.subset_fallback, known, names, diagnostics);
    let redirect = raw.redirect.map(|raw| check_redirect(raw.value.0?, prefix_has_meaning, diagnostics));
    let respond = raw.respond.map(|raw| check_respond(raw.value.0?, diagnostics));
    let service = raw.rate_limit_service.map(|name| names.limits.find(&name, diagnostics).map(LimitSetId));
    if forwards {
        let rewrite = raw.rewrite.map(|rewrite| rewrite.value);
        let (prefix, host) = rewrite.map_or((None, None), |rewrite| (rewrite.path_prefix, rewrite.host));
        return Some(Action::Forward(Forward {
            clusters: clusters?.into_iter().map(|share| share.value).collect(),
            rewrite_prefix: prefix.map(|prefix| prefix.value.0),
            rewrite_host: host.map(|host| host.value.0),
            hash_on: hash_on?,
            subset: subset?,
        }));
    }
    match (redirect, respond, service) {
        (Some(redirect), _, _) => Some(Action::Redirect(redirect?)),
        (None, Some(respond), _) => Some(Action::Respond(respond?)),
        (None, None, Some(service)) => Some(Action::RateLimitService(service?)),
        (None, None, None) => {
            let help = "add `cluster`, `clusters`, `redirect`, `respond` or `rate_limit_service`";
            diagnostics.error(span, "this route does nothing with its requests").help(help);
            None
        }
    }
}

fn check_replaces_prefix(span: Span, prefix_has_meaning: bool, diagnostics: &mut Diagnostics) {
    if !prefix_has_meaning {
        let help = "a regular expression has no prefix to replace: match with `path_prefix`";
        diagnostics.error(span, "`path_prefix` cannot be used with `path_regex`").help(help);
    }
}

fn check_redirect(raw: raw::Redirect, prefix_has_meaning: bool, diagnostics: &mut Diagnostics) -> Option<Redirect> {
    let spans = [raw.path.as_ref().map(|path| path.span), raw.path_prefix.as_ref().map(|path| path.span)];
    only_one(spans, "`path` and `path_prefix`", diagnostics);
    if let Some(prefix) = &raw.path_prefix {
        check_replaces_prefix(prefix.span, prefix_has_meaning, diagnostics);
    }
    Some(Redirect {
        status: raw.status.map_or(301, |status| status.value.0),
        scheme: raw.scheme.map(|scheme| scheme.value.as_str().to_owned()),
        host: raw.host.map(|host| host.value.0),
        port: raw.port.map(|port| port.value.0),
        path: raw.path.map(|path| path.value.0),
        path_prefix: raw.path_prefix.map(|prefix| prefix.value.0),
    })
}

fn check_respond(raw: raw::Respond, diagnostics: &mut Diagnostics) -> Option<Respond> {
    let status = raw.status.0?;
    let body = raw.body.filter(|body| !body.value.is_empty());
    if let (204 | 304, Some(body)) = (status.value.0, &body) {
        // RFC 9110 sections 15.3.5 and 15.4.5.
        diagnostics.error(body.span, format!("a {} answer has no body", status.value.0));
    }
    Some(Respond {
        status: status.value.0,
        body: body.map_or_else(String::new, |body| body.value),
        content_type: raw.content_type.map_or_else(|| "text/plain".to_owned(), |value| value.value.0),
    })
}
