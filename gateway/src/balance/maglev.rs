//! Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4): a
//! table from a hash to a backend in which each has its share, and which changes little when one comes or goes.
//!
//! A function of the backends and nothing else, so every box with the same ones has the same table, and a flow that moves
//! from one box to another finds its backend.

use std::net::SocketAddr;

use super::hash::Digest;

/// In a table: nobody.
pub const NOBODY: u16 = u16::MAX;

/// One backend and its share, relative to the others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Where it is.
    pub address: SocketAddr,
    /// 0 is nothing.
    pub weight: u32,
}

/// A table of `size` places, a prime, with the index of a share in each; [`NOBODY`] everywhere if no share has weight.
/// At most [`NOBODY`] shares.
///
/// The backends take turns, and with each turn one of them takes the next free place of its own permutation of all. Those
/// of less weight pass over some turns.
pub fn table(shares: &[Share], size: usize) -> Vec<u16> {
    let mut table = vec![NOBODY; size];
    let heaviest = shares.iter().map(|share| share.weight).max().unwrap_or(0);
    if heaviest == 0 {
        return table;
    }
    let mut walkers: Vec<Walker> =
        shares.iter().zip(0..NOBODY).map(|(share, index)| Walker::new(share, index, size)).collect();
    let mut free = size;
    loop {
        for walker in &mut walkers {
            if !walker.has_turn(heaviest) {
                continue;
            }
            let place = walker.next_free(&table);
            table[place] = walker.index;
            free -= 1;
            if free == 0 {
                return table;
            }
        }
    }
}

/// A backend on its way through its permutation: `offset`, `offset + skip`, `offset + 2 skip`, … modulo the prime size.
struct Walker {
    index: u16,
    weight: u32,
    /// Turns saved up, in parts of the heaviest weight.
    credit: u64,
    place: usize,
    skip: usize,
}

impl Walker {
    fn new(share: &Share, index: u16, size: usize) -> Walker {
        let first = digest(share.address, 0);
        let second = digest(share.address, 1);
        Walker {
            index,
            weight: share.weight,
            credit: 0,
            place: (first % size as u64) as usize,
            skip: (second % (size as u64 - 1)) as usize + 1,
        }
    }

    fn has_turn(&mut self, heaviest: u32) -> bool {
        self.credit += u64::from(self.weight);
        let turn = self.credit >= u64::from(heaviest);
        if turn {
            self.credit -= u64::from(heaviest);
        }
        turn
    }

    /// There is a free place, and the permutation visits every one.
    fn next_free(&mut self, table: &[u16]) -> usize {
        loop {
            let place = self.place;
            // Both are less than the size, so this is the remainder, without a division for each of a million steps.
            let next = place + self.skip;
            self.place = if next < table.len() { next } else { next - table.len() };
            if table[place] == NOBODY {
                return place;
            }
        }
    }
}

/// A number for an address; another one for each salt.
pub(super) fn digest(address: SocketAddr, salt: u8) -> u64 {
    let digest = Digest::default().eat(&[salt]);
    let digest = match address.ip() {
        std::net::IpAddr::V4(ip) => digest.eat(&ip.octets()),
        std::net::IpAddr::V6(ip) => digest.eat(&ip.octets()),
    };
    digest.eat(&address.port().to_be_bytes()).end()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size that the packet program uses.
    const SIZE: usize = 65_537;

    fn shares(weights: impl IntoIterator<Item = u32>) -> Vec<Share> {
        let address = |n: usize| format!("10.0.{}.{}:80", n / 250, n % 250 + 1).parse().unwrap();
        weights.into_iter().enumerate().map(|(n, weight)| Share { address: address(n), weight }).collect()
    }

    fn places(table: &[u16], index: usize) -> f64 {
        table.iter().filter(|&&place| usize::from(place) == index).count() as f64
    }

    #[test]
    fn each_backend_has_its_share_within_one_percent_of_it() {
        let cases: [(&str, Vec<u32>); 5] = [
            ("one", vec![7]),
            ("two alike", vec![1, 1]),
            ("a hundred alike", vec![100; 100]),
            ("one to nine", vec![1, 9]),
            ("a hundred from 50 to 149", (50..150).collect()),
        ];
        for (name, weights) in cases {
            let total: u32 = weights.iter().sum();
            let table = table(&shares(weights.iter().copied()), SIZE);
            for (index, weight) in weights.iter().enumerate() {
                let fair = SIZE as f64 * f64::from(*weight) / f64::from(total);
                let got = places(&table, index);
                assert!((got - fair).abs() <= (fair / 100.0).max(1.0), "{name}: {index} has {got} of {fair}");
            }
        }
    }

    #[test]
    fn removing_one_of_a_hundred_moves_less_than_one_percent_of_the_others() {
        let cases: [(&str, Vec<u32>); 4] = [
            ("a hundred alike", vec![100; 100]),
            ("a hundred from 50 to 149", (50..150).collect()),
            ("half of them ten times as heavy", [1, 10].repeat(50)),
            ("one of ten times the weight", (0..100).map(|n| if n == 50 { 100 } else { 10 }).collect()),
        ];
        for (name, weights) in cases {
            let all = shares(weights);
            let before = table(&all, SIZE);
            for removed in [0, 37, 50, 99] {
                let mut fewer = all.clone();
                fewer.remove(removed);
                let after = table(&fewer, SIZE);
                let others = before.iter().zip(&after).filter(|(before, _)| usize::from(**before) != removed);
                let moved = others.filter(|(before, after)| {
                    all[usize::from(**before)].address != fewer[usize::from(**after)].address
                });
                let moved = moved.count();
                assert!(moved * 100 < SIZE, "{name}, {removed} removed: {moved} places of others moved");
            }
        }
    }

    #[test]
    fn a_backend_without_weight_is_as_good_as_gone() {
        let mut some = shares([3, 2, 7, 1]);
        some[1].weight = 0;
        let of = |shares: &[Share]| -> Vec<SocketAddr> {
            table(shares, SIZE).iter().map(|&place| shares[usize::from(place)].address).collect()
        };
        let without = of(&some);
        some.remove(1);
        assert_eq!(without, of(&some));
    }

    #[test]
    fn the_table_is_the_same_on_every_box_whatever_the_order_of_weights_that_are_nothing() {
        let mut some = shares([3, 1, 2]);
        let one = table(&some, 7);
        assert_eq!(one, table(&some, 7));
        some.push(Share { address: "10.9.9.9:80".parse().unwrap(), weight: 0 });
        assert_eq!(one, table(&some, 7));
        // Fixed: another result means that two releases of the gateway disagree about every flow.
        assert_eq!(one, [0, 2, 0, 0, 2, 1, 0]);
    }

    #[test]
    fn without_weight_there_is_nobody() {
        assert_eq!(table(&[], 7), [NOBODY; 7]);
        assert_eq!(table(&shares([0, 0]), 7), [NOBODY; 7]);
    }
}
