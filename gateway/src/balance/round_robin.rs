//! Endpoints in turn, by weight.

/// The order in which endpoints take their turns, worked out once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundRobin {
    turns: Box<[u32]>,
}

/// Longest round that weights may ask for, give or take one turn for each endpoint. It bounds memory, the time to work
/// the order out (about 1 ms) and the search for a usable endpoint when there is none. Weights that need a longer round
/// are scaled down, and no share moves by more than about (endpoints / this).
const MAX_TURNS: u64 = 16_384;

impl RoundRobin {
    /// The order for endpoints of these weights, each at least 1.
    pub fn new(weights: &[u16]) -> RoundRobin {
        let shares = shares(weights);
        let mut turns: Vec<(u64, u32)> = shares
            .iter()
            .zip(0..)
            .flat_map(|(&share, index)| (0..share).map(move |turn| (place(turn, share, index, weights.len()), index)))
            .collect();
        turns.sort_unstable();
        RoundRobin { turns: turns.into_iter().map(|(_, index)| index).collect() }
    }

    /// Where the `worker`th of `workers` begins: apart from each other, or the first requests of each would all go to the
    /// first endpoint.
    pub fn start(&self, worker: usize, workers: usize) -> u64 {
        (self.turns.len() * worker / workers.max(1)) as u64
    }

    /// The next usable endpoint, as an index into the weights; `None` when there is none in the next `probes` turns.
    ///
    /// `cursor` is the caller's place in the order. The turn of an endpoint that is not usable is skipped for good, so
    /// that the others keep their proportions to each other.
    pub fn pick(&self, cursor: &mut u64, probes: usize, mut usable: impl FnMut(usize) -> bool) -> Option<usize> {
        for _ in 0..self.turns.len().min(probes) {
            let index = self.turns[(*cursor % self.turns.len() as u64) as usize] as usize;
            *cursor = cursor.wrapping_add(1);
            if usable(index) {
                return Some(index);
            }
        }
        None
    }
}

/// How many turns each endpoint has in a round: at least one.
fn shares(weights: &[u16]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, &weight| gcd(divisor, weight.into())).max(1);
    let total: u64 = weights.iter().map(|&weight| u64::from(weight) / divisor).sum();
    let round = total.min(MAX_TURNS);
    // Rounding the running sum, not each share, keeps the roundings from adding up.
    let mut sum = 0;
    let mut scaled = |weight: u64| {
        let before = sum * round / total;
        sum += weight;
        (sum * round / total - before).max(1)
    };
    weights.iter().map(|&weight| scaled(u64::from(weight) / divisor)).collect()
}

/// Where in the round, as a 32-bit fraction, an endpoint's turn is: turns of one endpoint are evenly spread, and
/// endpoints of equal weight follow each other in the order they are listed in.
fn place(turn: u64, share: u64, index: u32, endpoints: usize) -> u64 {
    let offset = (u64::from(index) << 32) / endpoints as u64;
    ((turn << 32) + offset) / share
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picks(weights: &[u16], count: usize, usable: impl Fn(usize) -> bool) -> Vec<usize> {
        let order = RoundRobin::new(weights);
        let mut cursor = 0;
        (0..count).filter_map(|_| order.pick(&mut cursor, usize::MAX, &usable)).collect()
    }

    #[test]
    fn endpoints_take_turns_by_weight_and_turns_are_spread() {
        let cases: &[(&[u16], &[usize])] = &[
            (&[], &[]),
            (&[7], &[0]),
            (&[1, 1, 1], &[0, 1, 2]),
            (&[100, 100], &[0, 1]),
            (&[2, 1], &[0, 0, 1]),
            (&[2, 4], &[0, 1, 1]),
            (&[3, 3, 3, 3], &[0, 1, 2, 3]),
            (&[5, 1, 1], &[0, 0, 1, 0, 0, 2, 0]),
        ];
        for (weights, expected) in cases {
            assert_eq!(picks(weights, expected.len().max(1), |_| true), *expected, "{weights:?}");
        }
    }

    #[test]
    fn the_turns_of_an_unusable_endpoint_do_not_fall_to_its_neighbour() {
        let picked = picks(&[1, 1, 1, 1], 300, |index| index != 1);
        let count = |endpoint| picked.iter().filter(|&&index| index == endpoint).count();
        assert_eq!([0, 1, 2, 3].map(count), [100, 0, 100, 100]);
    }

    #[test]
    fn without_a_usable_endpoint_there_is_no_pick() {
        assert!(picks(&[1, 2, 3], 1, |_| false).is_empty());
    }

    #[test]
    fn a_long_round_is_shortened_and_every_endpoint_keeps_a_turn() {
        let order = RoundRobin::new(&[65_535, 65_534, 1]);
        assert!(order.turns.len() as u64 <= MAX_TURNS + 1, "{}", order.turns.len());
        assert_eq!(order.turns.iter().filter(|&&index| index == 2).count(), 1);
        assert_eq!(RoundRobin::new(&vec![3; 40_000]).turns.len(), 40_000);
    }

    #[test]
    fn shortening_hardly_moves_the_shares() {
        let mut weights = vec![119; 1_000];
        weights.push(65_535);
        let shares = shares(&weights);
        let exact = 65_535.0 / (65_535.0 + 119_000.0);
        let share = shares[1_000] as f64 / shares.iter().sum::<u64>() as f64;
        assert!((share - exact).abs() < 0.001, "{share} {exact}");
    }

    proptest! {
        #[test]
        fn a_round_gives_every_endpoint_its_weight_and_no_long_waits(weights in prop::collection::vec(1u16..20, 1..20)) {
            let total: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
            let picked = picks(&weights, 2 * total, |_| true);
            for (endpoint, &weight) in weights.iter().enumerate() {
                let turns: Vec<_> = (0..picked.len()).filter(|&at| picked[at] == endpoint).collect();
                prop_assert_eq!(turns.len(), 2 * usize::from(weight));
                // Evenly spread, a turn comes every total / weight picks; the others' rounding may add one each.
                let longest = turns.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
                prop_assert!(longest <= total.div_ceil(weight.into()) + weights.len(), "{longest}");
            }
        }
    }
}
