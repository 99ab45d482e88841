//! Choosing an endpoint and a cluster, and working out a round.

use divan::{Bencher, black_box};
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

fn weights(endpoints: u16) -> Vec<u16> {
    (0..endpoints).map(|n| n % 7 + 1).collect()
}
