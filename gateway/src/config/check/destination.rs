//! `cluster` and `clusters` of a route of either kind.

use super::{Tables, each};
use crate::config::decode::{Given, List, Optional};
use crate::config::model::{ClusterId, WeightedCluster};
use crate::config::raw;
use crate::config::report::Diagnostics;
use crate::config::span::{At, Span};
use crate::config::value::Name;

/// The two ways to say where to.
pub struct Destination {
    pub cluster: Optional<Given<Name>>,
    pub clusters: Optional<Given<List<raw::WeightedCluster>>>,
}

impl Destination {
    /// Where the keys stand that are given.
    pub fn spans(&self) -> [Option<Span>; 2] {
        [self.cluster.as_ref().map(|key| key.span), self.clusters.as_ref().map(|key| key.span)]
    }

    /// The clusters and where each is named. `None` without an error when neither key is given.
    pub fn check(self, names: &Tables, diagnostics: &mut Diagnostics) -> Option<Vec<At<WeightedCluster>>> {
        // Both are looked at even if both are given.
        let cluster = self.cluster.map(|At { value, span }| {
            let id = names.clusters.find(&At { value: value.0?, span }, diagnostics)?;
            Some(vec![At { value: WeightedCluster { cluster: ClusterId(id), weight: 1 }, span }])
        });
        let clusters = self.clusters.map(|list| weighted(list.value.0?, list.span, names, diagnostics));
        cluster.or(clusters).flatten()
    }
}

fn weighted(
    list: List<raw::WeightedCluster>,
    span: Span,
    names: &Tables,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<At<WeightedCluster>>> {
    let shares = each(list, |share| {
        let cluster = share.value.name.0.and_then(|name| names.clusters.find(&name, diagnostics));
        let weight = share.value.weight.0.map(|weight| weight.value.0);
        let value = WeightedCluster { cluster: ClusterId(cluster?), weight: weight? };
        Some(At { value, span: share.span })
    })?;
    let sum: u64 = shares.iter().map(|share| u64::from(share.value.weight)).sum();
    if sum == 0 {
        diagnostics.error(span, "the weights add up to 0, so no cluster would get anything");
    } else if u32::try_from(sum).is_err() {
        diagnostics.error(span, "the weights add up to more than 4294967295");
    }
    Some(shares)
}
