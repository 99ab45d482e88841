//! Choosing an endpoint and a cluster, and working out the tables.

use std::net::SocketAddr;
use std::sync::Arc;

use divan::{Bencher, black_box};
use gateway::balance::maglev::{self, Share};
use gateway::balance::{Draw, Hosts, Place, Tiers, WARM, hash, pick_weighted};
use gateway::config::model::{Balance, ClusterId, WeightedCluster};

fn main() {
    divan::main();
}

const ALL: [Balance; 5] =
    [Balance::RoundRobin, Balance::LeastRequest, Balance::Random, Balance::RingHash, Balance::Maglev];

/// Endpoints of which one in so many is up.
struct OneIn(usize);

impl Hosts for OneIn {
    fn is_up(&self, at: usize) -> bool {
        at.is_multiple_of(black_box(self.0))
    }
    fn active(&self, at: usize) -> u32 {
        black_box(at as u32 % 3)
    }
    fn warmth(&self, _: usize) -> u32 {
        WARM
    }
    fn may(&self, _: usize) -> bool {
        true
    }
    fn flips(&self) -> u64 {
        black_box(1)
    }
}

fn tiers(balance: Balance, endpoints: u16) -> Arc<Tiers> {
    let place = |(at, weight): (u32, u16)| Place { at, address: address(at as u16), weight, tier: 0, drain: false };
    Tiers::build(balance, 0, (0..).zip(weights(endpoints)).map(place).collect(), 1, [].iter())
}

fn pick(bencher: Bencher<'_, '_>, tiers: Arc<Tiers>, hosts: OneIn) {
    let mut random = 0u64;
    bencher.bench_local(move || {
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        tiers.pick(Draw { worker: 0, random, key: Some(hash::mix(random)) }, &hosts)
    });
}

#[divan::bench(args = ALL, consts = [2, 16, 1_000])]
fn all_up<const ENDPOINTS: u16>(bencher: Bencher<'_, '_>, balance: Balance) {
    pick(bencher, tiers(balance, ENDPOINTS), OneIn(1));
}

/// So few are up that each endpoint is looked at for most picks.
#[divan::bench(args = ALL)]
fn one_up_of_a_thousand(bencher: Bencher<'_, '_>, balance: Balance) {
    pick(bencher, tiers(balance, 1_000), OneIn(1_000));
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

#[divan::bench(args = ALL, consts = [16, 1_000])]
fn build<const ENDPOINTS: u16>(bencher: Bencher<'_, '_>, balance: Balance) {
    bencher.bench_local(|| tiers(black_box(balance), ENDPOINTS));
}

/// A table of the size that the XDP program has for each service.
#[divan::bench(args = [16, 100, 1_000])]
fn maglev_build(bencher: Bencher<'_, '_>, endpoints: u16) {
    let share = |(port, weight)| Share { address: address(port), weight: u32::from(weight) };
    let shares: Vec<Share> = (1..).zip(weights(endpoints)).map(share).collect();
    bencher.bench_local(|| maglev::table(black_box(&shares), 65_537));
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn weights(endpoints: u16) -> Vec<u16> {
    (0..endpoints).map(|n| n % 7 + 1).collect()
}
