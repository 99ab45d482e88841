use std::cell::Cell;
use std::collections::BTreeMap;

use super::*;

/// Endpoints that a test may change.
struct World {
    up: Vec<bool>,
    active: Vec<Cell<u32>>,
    warmth: Vec<u32>,
    tried: Vec<usize>,
    flips: u64,
    looked_at: Cell<u64>,
}

impl World {
    fn of(count: usize) -> World {
        World {
            up: vec![true; count],
            active: (0..count).map(|_| Cell::new(0)).collect(),
            warmth: vec![WARM; count],
            tried: Vec::new(),
            flips: 0,
            looked_at: Cell::new(0),
        }
    }

    fn set(&mut self, at: usize, up: bool) {
        self.up[at] = up;
        self.flips += 1;
    }
}

impl Hosts for World {
    fn is_up(&self, at: usize) -> bool {
        self.looked_at.set(self.looked_at.get() + 1);
        self.up[at]
    }
    fn active(&self, at: usize) -> u32 {
        self.active[at].get()
    }
    fn warmth(&self, at: usize) -> u32 {
        self.warmth[at]
    }
    fn may(&self, at: usize) -> bool {
        !self.tried.contains(&at)
    }
    fn flips(&self) -> u64 {
        self.flips
    }
}

const ALL: [Balance; 5] =
    [Balance::RoundRobin, Balance::LeastRequest, Balance::Random, Balance::RingHash, Balance::Maglev];

const WORKERS: usize = 4;

fn address(at: usize) -> SocketAddr {
    format!("10.0.{}.{}:80", at / 250, at % 250 + 1).parse().unwrap()
}

fn places(weights: &[u16]) -> Vec<Place> {
    let place =
        |(at, &weight): (usize, &u16)| Place { at: at as u32, address: address(at), weight, tier: 0, drain: false };
    weights.iter().enumerate().map(place).collect()
}

fn build(balance: Balance, places: Vec<Place>) -> Arc<Tiers> {
    Tiers::build(balance, 50, places, WORKERS, [].iter())
}

fn draw(n: u64) -> Draw {
    Draw { worker: n as usize % WORKERS, random: mix(n), key: None }
}

/// How many of so many picks, by all workers in turn, each endpoint gets.
fn shares(tiers: &Tiers, world: &World, picks: u64) -> Vec<f64> {
    let mut counts = vec![0.0; world.up.len()];
    (0..picks).for_each(|n| counts[tiers.pick(draw(n), world).expect("an endpoint")] += 1.0);
    counts
}

/// Whether the count is what the share says, within five standard deviations of a binomial and `slack`.
fn assert_share(what: &str, count: f64, share: f64, picks: u64, slack: f64) {
    let (expected, picks) = (share * picks as f64, picks as f64);
    let bound = 5.0 * (picks * share * (1.0 - share)).sqrt() + slack * expected + 1.0;
    assert!((count - expected).abs() <= bound, "{what}: {count} and not {expected} ± {bound}");
}

#[test]
fn all_workers_together_share_out_by_weight_whatever_the_policy() {
    const PICKS: u64 = 200_000;
    for balance in ALL {
        for weights in [vec![1; 3], vec![1, 2, 3], vec![9, 1, 1, 1], vec![5; 20]] {
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            let (tiers, world) = (build(balance, places(&weights)), World::of(weights.len()));
            // The arcs of a ring are not of equal length: 30 %, as `ring` has it.
            let slack = if balance == Balance::RingHash { 0.3 } else { 0.01 };
            for (at, count) in shares(&tiers, &world, PICKS).into_iter().enumerate() {
                let what = format!("{balance:?} {weights:?} {at}");
                assert_share(&what, count, f64::from(weights[at]) / total, PICKS, slack);
            }
        }
    }
}

#[test]
fn round_robin_of_all_workers_together_is_fair_to_within_a_turn_each() {
    let (tiers, world) = (build(Balance::RoundRobin, places(&[1; 7])), World::of(7));
    for picks in [7, 28, 100, 701] {
        let counts = shares(&tiers, &world, picks);
        let (least, most) =
            (counts.iter().copied().fold(f64::MAX, f64::min), counts.iter().copied().fold(0.0, f64::max));
        assert!(most - least <= WORKERS as f64, "{picks}: {counts:?}");
    }
    // The first requests do not all go to the first endpoint.
    let counts = shares(&build(Balance::RoundRobin, places(&[1; 4])), &World::of(4), 4);
    assert_eq!(counts, [1.0; 4]);
}

#[test]
fn least_request_passes_over_the_busy_and_is_fair_among_equals() {
    let (tiers, world) = (build(Balance::LeastRequest, places(&[1; 10])), World::of(10));
    world.active[3].set(1000);
    let counts = shares(&tiers, &world, 10_000);
    assert_eq!(counts[3], 0.0, "it never wins against another one");
    // With requests that stay, all endpoints have nearly as many: power of two choices, ln ln 10 / ln 2 = 1.2 apart.
    world.active[3].set(0);
    for n in 0..10_000 {
        let at = tiers.pick(draw(n), &world).unwrap();
        world.active[at].set(world.active[at].get() + 1);
    }
    assert!(world.active.iter().all(|active| active.get().abs_diff(1000) <= 6), "{:?}", world.active);
    // Of two times the weight, two times as many.
    let (tiers, world) = (build(Balance::LeastRequest, places(&[2, 1, 1])), World::of(3));
    for n in 0..4_000 {
        let at = tiers.pick(draw(n), &world).unwrap();
        world.active[at].set(world.active[at].get() + 1);
    }
    assert!(world.active[0].get().abs_diff(2000) <= 20, "{:?}", world.active);
}

#[test]
fn an_endpoint_that_is_down_gets_nothing_and_the_others_keep_their_proportions() {
    const PICKS: u64 = 100_000;
    for balance in ALL {
        let weights = [1, 2, 3, 4];
        let (tiers, mut world) = (build(balance, places(&weights)), World::of(4));
        shares(&tiers, &world, 100);
        world.set(2, false);
        let counts = shares(&tiers, &world, PICKS);
        let slack = if balance == Balance::RingHash { 0.4 } else { 0.02 };
        for (at, share) in [(0, 1.0 / 7.0), (1, 2.0 / 7.0), (2, 0.0), (3, 4.0 / 7.0)] {
            assert_share(&format!("{balance:?} {at}"), counts[at], share, PICKS, slack);
        }
        world.set(2, true);
        assert!(shares(&tiers, &world, 1000)[2] > 0.0, "{balance:?}: it is back");
    }
}

#[test]
fn keys_meet_the_same_endpoint_over_all_workers_and_only_those_of_one_that_is_down_move() {
    for balance in [Balance::RingHash, Balance::Maglev] {
        let (tiers, mut world) = (build(balance, places(&[1; 20])), World::of(20));
        let of = |world: &World, key: u64, n: u64| tiers.pick(Draw { key: Some(mix(key)), ..draw(n) }, world).unwrap();
        let before: Vec<usize> = (0..10_000).map(|key| of(&world, key, key)).collect();
        assert!((0..10_000).all(|key| of(&world, key, 31 * key + 7) == before[key as usize]), "{balance:?}");
        world.set(11, false);
        let mut taken = BTreeMap::<usize, u32>::new();
        for key in 0..10_000 {
            let now = of(&world, key, key + 1);
            match before[key as usize] {
                11 => *taken.entry(now).or_default() += 1,
                at => assert_eq!(now, at, "{balance:?}: the endpoint of this key is up"),
            }
        }
        assert!(taken.len() >= 15, "{balance:?}: the keys are strewn over the others: {taken:?}");
        world.set(11, true);
        assert!((0..10_000).all(|key| of(&world, key, key) == before[key as usize]), "{balance:?}");
    }
}

#[test]
fn taking_an_endpoint_out_moves_less_than_two_percent_of_the_other_keys() {
    for balance in [Balance::RingHash, Balance::Maglev] {
        let all = places(&[1; 30]);
        // In another order, too: names may resolve in any.
        let mut fewer: Vec<Place> = all.iter().filter(|place| place.at != 17).cloned().rev().collect();
        fewer.iter_mut().zip(0..).for_each(|(place, at)| place.at = at);
        let (one, other, world) = (build(balance, all), build(balance, fewer.clone()), World::of(30));
        let moved = (0..20_000).filter(|&key| {
            let draw = Draw { key: Some(mix(key)), ..draw(key) };
            let (before, after) = (one.pick(draw, &world).unwrap(), other.pick(draw, &world).unwrap());
            before != 17 && address(before) != fewer[after].address
        });
        let moved = moved.count();
        assert!(moved < 400, "{balance:?}: {moved} of 20000 keys of others moved");
    }
}

#[test]
fn nobody_looks_for_long_when_nearly_all_of_a_thousand_are_down() {
    for balance in ALL {
        let tiers = Tiers::build(balance, 0, places(&[1; 1000]), WORKERS, [].iter());
        let mut world = World::of(1000);
        (0..1000).filter(|at| *at != 500).for_each(|at| world.set(at, false));
        (0..WORKERS as u64).for_each(|n| assert_eq!(tiers.pick(draw(n), &world), Some(500), "{balance:?}"));
        world.looked_at.set(0);
        assert_eq!(tiers.pick(draw(9), &world), Some(500), "{balance:?}");
        assert!(world.looked_at.get() <= 2 * 1000 + 200, "{balance:?}: {}", world.looked_at.get());
        // While all are up, one look is enough, or two.
        let mut world = World::of(1000);
        world.flips = 1 << 20;
        (0..WORKERS as u64).for_each(|n| _ = tiers.pick(draw(n), &world));
        world.looked_at.set(0);
        (0..100).for_each(|n| _ = tiers.pick(draw(n), &world));
        assert!(world.looked_at.get() <= 210, "{balance:?}: {}", world.looked_at.get());
    }
}

#[test]
fn below_the_panic_threshold_all_are_used_but_those_that_drain() {
    for balance in ALL {
        let mut places = places(&[1; 5]);
        places[4].drain = true;
        let (tiers, mut world) = (build(balance, places), World::of(5));
        let used = |world: &World| -> Vec<usize> {
            let counts = shares(&tiers, world, 2000);
            counts.iter().enumerate().filter(|(_, count)| **count > 0.0).map(|(at, _)| at).collect()
        };
        assert_eq!(used(&world), [0, 1, 2, 3], "{balance:?}");
        world.set(0, false);
        world.set(1, false);
        assert_eq!(used(&world), [2, 3], "{balance:?}: half of four is not fewer than half");
        world.set(2, false);
        assert_eq!(used(&world), [0, 1, 2, 3], "{balance:?}: one of four is");
        world.set(3, false);
        assert_eq!(used(&world), [0, 1, 2, 3], "{balance:?}");
    }
    let never = Tiers::build(Balance::Random, 0, places(&[1; 2]), WORKERS, [].iter());
    let mut world = World::of(2);
    world.set(0, false);
    world.set(1, false);
    assert_eq!(never.pick(draw(1), &world), None);
}

#[test]
fn priorities_take_over_by_what_is_left_of_those_before_them() {
    const PICKS: u64 = 50_000;
    // Ten of priority 0, ten of 1; how many of the first are down, and what they still get.
    for (down, share) in [(0, 1.0), (2, 1.0), (3, 0.98), (5, 0.7), (8, 0.28), (10, 0.0)] {
        for balance in ALL {
            let mut places = places(&[1; 20]);
            places.iter_mut().skip(10).for_each(|place| place.tier = 1);
            let (tiers, mut world) = (build(balance, places), World::of(20));
            (0..down).for_each(|at| world.set(at, false));
            let first: f64 = shares(&tiers, &world, PICKS)[..10].iter().sum();
            assert_share(&format!("{balance:?} {down}"), first, share, PICKS, 0.0);
        }
    }
}

#[test]
fn a_key_stays_in_its_tier() {
    let mut places = places(&[1; 20]);
    places.iter_mut().skip(10).for_each(|place| place.tier = 1);
    let (tiers, mut world) = (build(Balance::Maglev, places), World::of(20));
    (0..5).for_each(|at| world.set(at, false));
    let of = |key: u64, n: u64| tiers.pick(Draw { key: Some(mix(key)), ..draw(n) }, &world).unwrap();
    assert!((0..2000).all(|key| of(key, 1) == of(key, key + 13)));
}

#[test]
fn a_slow_start_takes_its_part_of_the_share() {
    const PICKS: u64 = 100_000;
    for balance in [Balance::RoundRobin, Balance::LeastRequest, Balance::Random] {
        for warmth in [100, 500, 1000] {
            let (tiers, mut world) = (build(balance, places(&[1, 1, 2])), World::of(3));
            world.warmth[0] = warmth;
            let own = f64::from(warmth) / 1000.0;
            let counts = shares(&tiers, &world, PICKS);
            assert_share(&format!("{balance:?} {warmth}"), counts[0], own / (own + 3.0), PICKS, 0.02);
        }
        // When all begin, there is nobody else.
        let (tiers, mut world) = (build(balance, places(&[1, 1])), World::of(2));
        world.warmth = vec![100; 2];
        let counts = shares(&tiers, &world, PICKS);
        assert_share(&format!("{balance:?} both"), counts[0], 0.5, PICKS, 0.02);
    }
}

#[test]
fn who_was_tried_is_passed_over_and_at_last_there_is_nobody() {
    for balance in ALL {
        let mut places = places(&[1; 6]);
        places.iter_mut().skip(4).for_each(|place| place.tier = 1);
        let (tiers, mut world) = (build(balance, places), World::of(6));
        for n in 0..6 {
            let at = tiers.pick(Draw { key: Some(5), ..draw(n) }, &world).unwrap();
            assert!(!world.tried.contains(&at), "{balance:?}");
            assert_eq!(at >= 4, n >= 4, "{balance:?}: the second priority is the last resort");
            world.tried.push(at);
        }
        assert_eq!(tiers.pick(draw(9), &world), None, "{balance:?}");
    }
}

#[test]
fn tiers_of_the_same_endpoints_are_used_again() {
    let one = build(Balance::Maglev, places(&[1; 3]));
    let again = |places| Tiers::build(Balance::Maglev, 50, places, WORKERS, [&one].into_iter());
    assert!(Arc::ptr_eq(&one, &again(places(&[1; 3]))));
    assert!(!Arc::ptr_eq(&one, &again(places(&[1, 1, 2]))));
}

#[test]
fn without_endpoints_there_is_no_pick() {
    for balance in ALL {
        assert_eq!(build(balance, Vec::new()).pick(draw(1), &World::of(0)), None, "{balance:?}");
    }
}
