//! Names and edits of headers.

use crate::config::check::each;
use crate::config::decode::{List, Optional};
use crate::config::model::HeaderEdits;
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::HeaderValue;
use crate::proto::head::{HeaderName, Known, Name as _};

/// Checks edits.
pub fn header_edits(raw: Optional<raw::HeaderEdits>, diagnostics: &mut Diagnostics) -> Option<HeaderEdits> {
    let Some(At { value: raw, .. }) = raw else { return Some(HeaderEdits::default()) };
    let remove = raw.remove.map_or_else(Vec::new, |list| list.value);
    for name in &remove {
        check_editable(&name.value.0, name.span, diagnostics);
    }
    let set = raw.set.map_or_else(Vec::new, |map| map.value.0);
    let set = set.into_iter().map(|(name, value)| (name, vec![value])).collect();
    let add = raw.add.map_or_else(Vec::new, |map| map.value.0);
    let add = add.into_iter().map(|(name, values)| (name, values.value.0)).collect();
    let (set, add) = (header_fields(set, diagnostics), header_fields(add, diagnostics));
    Some(HeaderEdits { remove: remove.into_iter().map(|name| name.value.0).collect(), set: set?, add: add? })
}

/// Checks fields that a message gets.
pub fn header_fields(
    pairs: Vec<(At<String>, List<HeaderValue>)>,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<(HeaderName, String)>> {
    let fields = each(pairs, |(key, values)| {
        let name = header_name(&key, diagnostics)?;
        check_editable(&name, key.span, diagnostics);
        Some(values.into_iter().map(move |value| (name.clone(), value.value.0)))
    })?;
    Some(fields.into_iter().flatten().collect())
}

/// Fields that say where a message ends, or that belong to one connection, are the gateway's: an edit would let one
/// request be read as two (request smuggling).
fn check_editable(name: &HeaderName, span: Span, diagnostics: &mut Diagnostics) {
    let help = match name.known() {
        Known::Host => "`rewrite = { host = … }` changes what the origin gets",
        Known::ContentLength | Known::TransferEncoding | Known::Trailer => "it says where the body ends",
        Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::Te | Known::Upgrade => {
            "it is about one connection (RFC 9110 section 7.6.1)"
        }
        _ => return,
    };
    diagnostics.error(span, format!("`{}` cannot be edited", name.as_str())).help(help);
}

/// A key of a table that has to be a header's name.
pub fn header_name(key: &At<String>, diagnostics: &mut Diagnostics) -> Option<HeaderName> {
    let name = HeaderName::new(&key.value);
    if name.is_none() {
        let help = "letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 section 5.6.2)";
        diagnostics.error(key.span, format!("{:?} is not a header name", key.value)).help(help);
    }
    name
}
