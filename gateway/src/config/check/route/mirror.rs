//! `mirror` of a route.

use std::collections::HashMap;

use crate::config::check::destination::Destination;
use crate::config::check::{Tables, each, reject_empty};
use crate::config::decode::{List, Optional};
use crate::config::model::{ClusterId, Mirror, Mirrors, Share};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::Span;
use crate::config::value::Size;

/// What one copy may hold at most: with `max_active` this bounds the memory.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// Checks where copies go. `Some(None)` when there are none.
pub fn mirrors(
    given: Optional<List<raw::Mirror>>,
    body_bytes: Optional<Size>,
    destination: &Destination,
    names: &Tables,
    diagnostics: &mut Diagnostics,
) -> Option<Option<Mirrors>> {
    let Some(list) = given else {
        if let Some(size) = body_bytes {
            diagnostics.warning(size.span, "not used: there is no `mirror`");
        }
        return Some(None);
    };
    reject_empty(&list, "mirror", "no copies", diagnostics);
    if destination.spans() == [None, None] {
        diagnostics.error(list.span, "`mirror` needs `cluster` or `clusters`: it copies what an origin gets");
    }
    if let Some(size) = body_bytes.filter(|size| size.value.0 > BODY_BYTES_MAX) {
        let help = "each copy that waits holds as much";
        diagnostics.error(size.span, "out of range: must be at most 16MiB").help(help);
    }
    let mut seen: HashMap<u32, Span> = HashMap::new();
    let targets = each(list.value, |mirror| {
        let raw = mirror.value;
        let name = raw.cluster.0?;
        let id = names.clusters.find(&name, diagnostics)?;
        if let Some(first) = seen.insert(id, name.span) {
            diagnostics.error(name.span, "this cluster gets copies already").related(first, "the first one");
        }
        if names.cluster_kinds[id as usize].has_proxy_header {
            let help = "its connections serve one client each, and a copy has none";
            diagnostics.error(name.span, "a cluster with `proxy_protocol` cannot get copies").help(help);
        }
        Some(Mirror {
            cluster: ClusterId(id),
            share: raw.percent.map_or(Share::ALL, |percent| percent.value.0),
            shadow_host: raw.shadow_host.is_none_or(|on| on.value),
            max_active: raw.max_active.map_or(256, |count| count.value.0),
        })
    })?;
    Some(Some(Mirrors { targets, body_bytes: body_bytes.map_or(64 << 10, |size| size.value.0) }))
}
