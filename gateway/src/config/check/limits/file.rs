//! A file in the format of envoyproxy/ratelimit: its keys, and what its own loader refuses.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_saphyr::{Location, Options, Spanned};

use crate::config::check::each;
use crate::config::load::Loader;
use crate::config::model::{Limit, LimitDomain, LimitQuota, LimitRule, LimitUnit, LimitValue};
use crate::config::report::Diagnostics;
use crate::config::span::{At, SourceId, Span};

/// How deep descriptors may nest: a request has as many entries in one descriptor, and rules are walked by recursion.
const MAX_DEPTH: usize = 16;

/// Nodes of YAML: enough for 100 000 rules of up to 18 (`key`, `value` and a `rate_limit` of three keys are 13), which take some
/// 100 MB while they are read. The parser's own budget is for 19 000.
const MAX_NODES: usize = 1_800_000;

/// What a file may cost to read. Aliases and depth are left at the parser's.
fn options() -> Options {
    serde_saphyr::options! {
        // A container is two events.
        budget: serde_saphyr::budget! { max_nodes: MAX_NODES, max_events: 2 * MAX_NODES },
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    domain: Spanned<String>,
    descriptors: Option<Vec<Spanned<Descriptor>>>,
}

/// `detailed_metric` and `value_to_metric` say which metrics envoyproxy/ratelimit makes; they are read and mean nothing here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Descriptor {
    key: Option<String>,
    value: Option<String>,
    rate_limit: Option<Spanned<RateLimit>>,
    descriptors: Option<Vec<Spanned<Descriptor>>>,
    shadow_mode: Option<bool>,
    share_threshold: Option<bool>,
    #[serde(rename = "detailed_metric")]
    _detailed_metric: Option<bool>,
    #[serde(rename = "value_to_metric")]
    _value_to_metric: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimit {
    unit: Option<Spanned<String>>,
    requests_per_unit: Option<u32>,
    unlimited: Option<bool>,
    name: Option<String>,
    replaces: Option<Vec<Spanned<Replaced>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replaced {
    name: Option<String>,
}

/// Where the parser is in a file.
#[derive(Clone, Copy)]
struct Reader {
    source: SourceId,
    depth: usize,
}

/// Reads a file that was named at `named`.
pub fn read(path: &Path, named: Span, loader: &mut Loader<'_>) -> Option<At<LimitDomain>> {
    let source = loader.text_at(path, named)?;
    let parsed: Result<File, _> =
        serde_saphyr::from_str_with_options(loader.diagnostics.sources.text(source), options());
    let reader = Reader { source, depth: 0 };
    let diagnostics = &mut loader.diagnostics;
    let file = match parsed {
        Ok(file) => file,
        Err(error) => {
            let span = error.location().map_or_else(|| source.span(0..0), |at| reader.span(&at));
            let help = "the format is that of envoyproxy/ratelimit; docs/rate_limits.md shows what is read of it";
            diagnostics.error(span, reason(&error)).help(help);
            return None;
        }
    };
    let span = reader.span(&file.domain.referenced);
    if file.domain.value.is_empty() {
        diagnostics.error(span, "`domain` is empty").help("it is what requests say whose limits they mean");
        return None;
    }
    let rules = reader.rules(file.descriptors.unwrap_or_default(), diagnostics)?;
    Some(At { value: LimitDomain { name: file.domain.value, rules }, span })
}

/// What the parser says, without the place, which the report has.
fn reason(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default();
    text.split(" at line ").next().unwrap_or(text).to_owned()
}

impl Reader {
    fn span(&self, at: &Location) -> Span {
        let span = at.span();
        let start = span.byte_offset().unwrap_or(0) as usize;
        self.source.span(start..start + span.byte_len().unwrap_or(0) as usize)
    }

    fn rules(&self, given: Vec<Spanned<Descriptor>>, diagnostics: &mut Diagnostics) -> Option<Vec<LimitRule>> {
        let mut taken: HashMap<(String, LimitValue), Span> = HashMap::new();
        each(given, |descriptor| {
            let span = self.span(&descriptor.referenced);
            let rule = self.rule(descriptor.value, span, diagnostics)?;
            let key = (rule.key.clone(), rule.value.clone());
            if let Some(first) = taken.get(&key) {
                let message = format!("there are two descriptors for {}", described(&rule));
                diagnostics.error(span, message).related(*first, "the first one");
                return None;
            }
            taken.insert(key, span);
            Some(rule)
        })
    }

    fn rule(&self, given: Descriptor, span: Span, diagnostics: &mut Diagnostics) -> Option<LimitRule> {
        let Some(key) = given.key.filter(|key| !key.is_empty()) else {
            diagnostics.error(span, "this descriptor has no `key`").help("`key: remote_address`, for example");
            return None;
        };
        if key.ends_with('*') && given.value.is_none() {
            let help = format!(
                "a wildcard is one of values: `key: {}` and `value: \"*\"`, for example",
                key.trim_end_matches('*')
            );
            let message = format!("the key {key:?} is no wildcard, and matches only entries of this very name");
            diagnostics.warning(span, message).help(help);
        }
        let inner = given.descriptors.unwrap_or_default();
        if self.depth + 1 == MAX_DEPTH && !inner.is_empty() {
            diagnostics.error(span, format!("descriptors nest more than {MAX_DEPTH} deep"));
            return None;
        }
        let limit = given.rate_limit.map(|limit| self.limit(limit, diagnostics));
        let rules = Reader { depth: self.depth + 1, ..*self }.rules(inner, diagnostics);
        let value = given.value.unwrap_or_default();
        let value = match value.strip_suffix('*') {
            _ if value.is_empty() => LimitValue::Any,
            Some(prefix) => LimitValue::Prefix(prefix.to_owned()),
            None => LimitValue::Exact(value),
        };
        let shares_count = given.share_threshold.unwrap_or(false);
        if shares_count && !matches!(value, LimitValue::Prefix(_)) {
            diagnostics.error(span, "`share_threshold` is for a `value` that ends with `*`");
        }
        Some(LimitRule {
            key,
            value,
            limit: match limit {
                Some(limit) => Some(limit?),
                None => None,
            },
            shadow_mode: given.shadow_mode.unwrap_or(false),
            shares_count,
            rules: rules?,
        })
    }

    fn limit(&self, given: Spanned<RateLimit>, diagnostics: &mut Diagnostics) -> Option<Limit> {
        let span = self.span(&given.referenced);
        let RateLimit { unit, requests_per_unit, unlimited, name, replaces } = given.value;
        let name = name.unwrap_or_default();
        let replaces = each(replaces.unwrap_or_default(), |replaced| {
            let span = self.span(&replaced.referenced);
            let Some(other) = replaced.value.name.filter(|name| !name.is_empty()) else {
                diagnostics.error(span, "`name` is missing in `replaces`").help("`- name:` of the limit to leave out");
                return None;
            };
            if other == name {
                diagnostics.error(span, format!("the limit `{name}` cannot replace itself"));
            }
            Some(other)
        });
        let quota = match (unlimited.unwrap_or(false), unit) {
            (true, Some(unit)) => {
                diagnostics.error(self.span(&unit.referenced), "what is `unlimited` has no `unit`");
                return None;
            }
            (true, None) => None,
            (false, None) => {
                let help = "`unit: second`, `minute`, `hour`, `day`, `week`, `month` or `year`; or `unlimited: true`";
                diagnostics.error(span, "`unit` is missing in `rate_limit`").help(help);
                return None;
            }
            (false, Some(unit)) => {
                if requests_per_unit.is_none() {
                    let help = "`requests_per_unit: 100`, or 0 to say so";
                    diagnostics
                        .warning(span, "without `requests_per_unit` every request is over this limit")
                        .help(help);
                }
                Some(LimitQuota { requests: requests_per_unit.unwrap_or(0), unit: self.unit(&unit, diagnostics)? })
            }
        };
        Some(Limit { quota, name, replaces: replaces? })
    }

    fn unit(&self, given: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<LimitUnit> {
        let unit = LimitUnit::ALL.into_iter().find(|unit| unit.as_str().eq_ignore_ascii_case(&given.value));
        if unit.is_none() {
            let help = format!("one of {}", LimitUnit::ALL.map(|unit| format!("`{}`", unit.as_str())).join(", "));
            let message = format!("{:?} is no unit of time", given.value);
            diagnostics.error(self.span(&given.referenced), message).help(help);
        }
        unit
    }
}

fn described(rule: &LimitRule) -> String {
    match &rule.value {
        LimitValue::Any => format!("`{}` without a value", rule.key),
        LimitValue::Exact(value) => format!("`{}` with the value {value:?}", rule.key),
        LimitValue::Prefix(prefix) => format!("`{}` with the value {:?}", rule.key, format!("{prefix}*")),
    }
}
