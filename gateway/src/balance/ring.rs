//! A ring of hashes (Karger et al., "Consistent Hashing and Random Trees", 1997; Envoy's `ring_hash`): each endpoint has
//! points on it, and a key belongs to the first one at or behind its own hash. When an endpoint goes, its keys go to those
//! whose points follow its own, and all others stay.

use super::hash::mix;
use super::maglev::{Share, digest};

/// The points of all endpoints.
pub struct Ring {
    /// Hash and the index of the endpoint, by hash.
    points: Box<[(u64, u32)]>,
}

/// Points of an endpoint of average weight: shares are then within about 25 % of what they should be (three standard
/// deviations of 1/√160, as in ketama, where the number is from).
const POINTS_EACH: u64 = 160;

/// Fewest points in all: Envoy's `minimum_ring_size`.
const POINTS_MIN: u64 = 1024;

/// Most points in all: 16 MiB. With more than 6 553 endpoints each gets fewer than [`POINTS_EACH`].
const POINTS_MAX: u64 = 1 << 20;

impl Ring {
    /// A ring of these, each with at least one point.
    pub fn new(shares: &[Share]) -> Ring {
        let total: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
        let size = (POINTS_EACH * shares.len() as u64).clamp(POINTS_MIN, POINTS_MAX);
        let of_one = |(share, index): (&Share, u32)| {
            let count = (size * u64::from(share.weight)).div_ceil(total.max(1)).max(1);
            let begin = digest(share.address, 2);
            (0..count).map(move |nth| (mix(begin.wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15))), index))
        };
        let mut points: Vec<(u64, u32)> = shares.iter().zip(0..).flat_map(of_one).collect();
        points.sort_unstable();
        Ring { points: points.into() }
    }

    /// The endpoints from the key's place on, as indices into the shares: each as often as it has points, round the ring
    /// once.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let at = self.points.partition_point(|(hash, _)| *hash < key);
        let (before, behind) = self.points.split_at(at);
        behind.iter().chain(before).map(|(_, index)| *index as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::hash;

    fn shares(weights: &[u32]) -> Vec<Share> {
        let address = |n: usize| format!("10.0.{}.{}:80", n / 250, n % 250 + 1).parse().unwrap();
        weights.iter().enumerate().map(|(n, &weight)| Share { address: address(n), weight }).collect()
    }

    fn owners(ring: &Ring, keys: u64) -> Vec<usize> {
        (0..keys).map(|key| ring.walk(hash::of(&key.to_be_bytes())).next().unwrap()).collect()
    }

    #[test]
    fn each_endpoint_has_about_its_share_of_the_keys() {
        for weights in [vec![1; 4], vec![1; 100], vec![1, 2, 3], vec![10, 1]] {
            let owners = owners(&Ring::new(&shares(&weights)), 100_000);
            let total: u32 = weights.iter().sum();
            for (index, weight) in weights.iter().enumerate() {
                let fair = 100_000.0 * f64::from(*weight) / f64::from(total);
                let got = owners.iter().filter(|&&owner| owner == index).count() as f64;
                assert!((got - fair).abs() < fair * 0.3, "{weights:?}: {index} has {got} of {fair}");
            }
        }
    }

    #[test]
    fn removing_an_endpoint_moves_its_keys_and_no_others() {
        let all = shares(&[1; 50]);
        let before = owners(&Ring::new(&all), 20_000);
        let mut fewer = all.clone();
        let removed = fewer.remove(17);
        let after = owners(&Ring::new(&fewer), 20_000);
        for (before, after) in before.iter().zip(&after) {
            let (before, after) = (all[*before].address, fewer[*after].address);
            // The sizes of both rings are in proportion to the endpoints, so the points of those that stay are the same.
            assert!(before == after || before == removed.address, "{before} lost a key to {after}");
        }
    }

    #[test]
    fn without_endpoints_the_ring_is_empty() {
        assert_eq!(Ring::new(&[]).walk(1).next(), None);
    }
}
