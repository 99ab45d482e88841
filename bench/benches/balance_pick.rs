//! Choosing an endpoint and a cluster, and working out a round or a Maglev table.

use std::net::SocketAddr;

use divan::{Bencher, black_box};
use gateway::balance::maglev::{self, Share};
use gateway::balance::{RoundRobin, pick_weighted};
use gateway::config::model::{ClusterId, WeightedCluster};

fn main() {
    divan::main();
}

#[divan::bench(args = [2, 16, 1_000])]
fn round_robin(bencher: Bencher<'_, '_>, endpoints: u16) {
    let order = RoundRobin::new(&weights(endpoints));
    let mut cursor = 0;
    bencher.bench_local(move || order.pick(&mut cursor, |_| true));
}

/// Nine of ten endpoints are not usable.
#[divan::bench(args = [10, 1_000])]
fn round_robin_mostly_unusable(bencher: Bencher<'_, '_>, endpoints: u16) {
    let order = RoundRobin::new(&weights(endpoints));
    let mut cursor = 0;
    bencher.bench_local(move || order.pick(&mut cursor, |index| black_box(index) % 10 == 0));
}

#[divan::bench(args = [2, 10])]
fn weighted_clusters(bencher: Bencher<'_, '_>, clusters: u32) {
    let clusters: Vec<_> = (0..clusters).map(|id| WeightedCluster { cluster: ClusterId(id), weight: id + 1 }).collect();
    let mut random = 0u32;
    bencher.bench_local(move || {
        random = random.wrapping_add(0x9e37_79b9);
        pick_weighted(black_box(&clusters), random)
    });
}

#[divan::bench(args = [16, 1_000, 10_000])]
fn build(bencher: Bencher<'_, '_>, endpoints: u16) {
    let weights = weights(endpoints);
    bencher.bench_local(|| RoundRobin::new(black_box(&weights)));
}

/// A table of the size that the XDP program has for each service.
#[divan::bench(args = [16, 100, 1_000])]
fn maglev_build(bencher: Bencher<'_, '_>, endpoints: u16) {
    let share = |(port, weight)| Share { address: SocketAddr::from(([10, 0, 0, 1], port)), weight: u32::from(weight) };
    let shares: Vec<Share> = (1..).zip(weights(endpoints)).map(share).collect();
    bencher.bench_local(|| maglev::table(black_box(&shares), 65_537));
}

fn weights(endpoints: u16) -> Vec<u16> {
    (0..endpoints).map(|n| n % 7 + 1).collect()
}
