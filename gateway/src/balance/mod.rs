//! Which cluster and which endpoint a request goes to.
//!
//! Pure: what is random or remembered belongs to the worker and comes in.

mod alias;
pub mod hash;
pub mod key;
mod load;
pub mod maglev;
pub mod outlier;
pub mod retry;
mod ring;
mod round_robin;
mod tiers;

pub use tiers::{Draw, Hosts, Place, TIERS_MAX, Tiers, WARM};

use crate::config::model::{ClusterId, WeightedCluster};

/// The cluster that `random`, evenly distributed over all its values, stands for; `None` when no cluster has weight.
pub fn pick_weighted(clusters: &[WeightedCluster], random: u32) -> Option<ClusterId> {
    let total: u64 = clusters.iter().map(|share| u64::from(share.weight)).sum();
    // A fraction of the total instead of a remainder, which would favour the first clusters; below the total because
    // the fraction is below one.
    let mut point = ((u128::from(random) * u128::from(total)) >> 32) as u64;
    clusters.iter().find_map(|share| {
        let weight = u64::from(share.weight);
        let is_here = point < weight;
        point = point.saturating_sub(weight);
        is_here.then_some(share.cluster)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(weights: &[u32]) -> Vec<WeightedCluster> {
        weights.iter().zip(0..).map(|(&weight, id)| WeightedCluster { cluster: ClusterId(id), weight }).collect()
    }

    #[test]
    fn the_shares_of_the_random_range_are_the_weights() {
        let cases: &[(&[u32], u32, Option<u32>)] = &[
            (&[], 0, None),
            (&[0, 0], u32::MAX, None),
            (&[1], u32::MAX, Some(0)),
            (&[0, 1], 0, Some(1)),
            (&[1, 0], u32::MAX, Some(0)),
            (&[1, 1], (1 << 31) - 1, Some(0)),
            (&[1, 1], 1 << 31, Some(1)),
            (&[u32::MAX, u32::MAX, u32::MAX], u32::MAX, Some(2)),
        ];
        for (weights, random, expected) in cases {
            assert_eq!(pick_weighted(&clusters(weights), *random), expected.map(ClusterId), "{weights:?} {random}");
        }
    }

    #[test]
    fn eighty_to_twenty_is_eighty_to_twenty() {
        let clusters = clusters(&[80, 20]);
        let thousandths = (0..1000u64).map(|n| (n << 32).div_ceil(1000) as u32);
        let first = thousandths.filter(|&random| pick_weighted(&clusters, random) == Some(ClusterId(0)));
        assert_eq!(first.count(), 800);
    }
}
