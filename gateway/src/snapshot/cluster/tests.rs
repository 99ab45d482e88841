use super::super::Found;
use super::*;
use crate::balance::Place;
use crate::balance::outlier::Outcome;
use crate::config::model::Balance;
use crate::metrics::shard::Finding;

/// Each endpoint: d drains, u is unhealthy, D is both, h is healthy. Those behind a comma are of the next priority.
fn cluster(endpoints: &str, balance: Balance) -> ClusterView {
    let flips = Arc::new(Flips::default());
    let (mut views, mut places, mut tier) = (Vec::new(), Vec::new(), 0);
    for kind in endpoints.chars() {
        if kind == ',' {
            tier += 1;
            continue;
        }
        let (at, health) = (views.len(), Arc::new(Health::new(flips.clone())));
        health.set(!"uD".contains(kind));
        let address = SocketAddr::from(([127, 0, 0, 1], at as u16));
        let drain = "dD".contains(kind);
        places.push(Place { at: at as u32, address, weight: 1, tier, drain });
        views.push(EndpointView {
            id: EndpointId(at as u64),
            address,
            tls: None,
            configured: at,
            drain,
            health,
            load: Arc::default(),
            answers: Arc::default(),
            name: 1000 + at as u64,
        });
    }
    ClusterView {
        endpoints: views,
        tls: None,
        check_tls: None,
        stats: Arc::new(ClusterStats::new(1)),
        all: Tiers::build(balance, 50, places, 1, [].iter()),
        subsets: Vec::new(),
        flips,
        slow_start_ms: 0,
        counts_requests: balance == Balance::LeastRequest,
        affinity: None,
        outliers: None,
    }
}

fn used(view: &ClusterView, ask: &Ask) -> Vec<usize> {
    let pick = |random| Some(view.pick(&Ask { random, ..*ask }, |_| true)?.configured);
    let mut used: Vec<usize> = (0..100).filter_map(pick).collect();
    used.sort_unstable();
    used.dedup();
    used
}

#[test]
fn requests_go_to_endpoints_that_are_up_and_when_too_few_are_to_all_that_do_not_drain() {
    let cases: &[(&str, &[usize])] = &[
        ("hhh", &[0, 1, 2]),
        ("huh", &[0, 2]),
        ("hdh", &[0, 2]),
        ("uhd", &[1]),
        ("uhu", &[0, 1, 2]),
        ("uuu", &[0, 1, 2]),
        ("uud", &[0, 1]),
        ("dd", &[]),
        ("", &[]),
        ("hh,hh", &[0, 1]),
        ("uu,hh", &[2, 3]),
        ("uu,uu,h", &[4]),
        ("dd,hh", &[2, 3]),
    ];
    for (endpoints, expected) in cases {
        assert_eq!(used(&cluster(endpoints, Balance::RoundRobin), &Ask::default()), *expected, "{endpoints}");
    }
    let view = cluster("uh", Balance::RoundRobin);
    assert!(
        view.pick(&Ask::default(), |endpoint| endpoint.configured != 1).is_none(),
        "a healthy one was tried already"
    );
}

#[test]
fn a_change_of_health_is_seen_by_the_next_pick() {
    let view = cluster("hhhh", Balance::Maglev);
    assert_eq!(used(&view, &Ask::default()), [0, 1, 2, 3]);
    view.endpoints[2].health.set(false);
    assert_eq!(used(&view, &Ask::default()), [0, 1, 3]);
    view.endpoints[0].health.set(false);
    view.endpoints[1].health.set(false);
    assert_eq!(used(&view, &Ask::default()), [0, 1, 2, 3], "one of four is too few to be believed");
    (0..3).for_each(|at| _ = view.endpoints[at].health.set(true));
    assert_eq!(used(&view, &Ask::default()), [0, 1, 2, 3]);
}

#[test]
fn a_cookie_names_an_endpoint_that_is_well_or_drains() {
    // Name, strict, then who gets it.
    let cases: &[(u64, bool, &[usize])] = &[
        (1000, true, &[0]),
        (1001, true, &[1]),
        (1002, true, &[]),
        (1003, true, &[]),
        (77, true, &[]),
        (1002, false, &[0, 4, 5]),
        (77, false, &[0, 4, 5]),
    ];
    let mut view = cluster("hduDhh", Balance::RoundRobin);
    for (name, strict, expected) in cases {
        let by_name = view.endpoints.iter().zip(0..).map(|(endpoint, at)| (endpoint.name, at)).collect();
        view.affinity = Some(Affinity { by_name, strict: *strict });
        assert_eq!(used(&view, &Ask { named: Some(*name), ..Ask::default() }), *expected, "{name} {strict}");
    }
    assert_eq!(used(&view, &Ask::default()), [0, 4, 5]);
}

#[test]
fn a_subset_has_its_endpoints_and_its_fallback() {
    let mut view = cluster("hhhh", Balance::Random);
    let place =
        |at: usize| Place { at: at as u32, address: view.endpoints[at].address, weight: 1, tier: 0, drain: false };
    let subset = |of: &[usize], fallback| {
        let places = of.iter().map(|at| place(*at)).collect();
        Some(SubsetView { tiers: Tiers::build(Balance::Random, 0, places, 1, [].iter()), fallback })
    };
    let subsets = vec![
        subset(&[1, 2], SubsetFallback::None),
        subset(&[1, 2], SubsetFallback::Any),
        subset(&[], SubsetFallback::None),
        subset(&[], SubsetFallback::Any),
        None,
    ];
    view.subsets = subsets;
    let ids = super::super::subset::ids(5);
    let of = |view: &ClusterView| -> Vec<Vec<usize>> {
        ids.iter().map(|id| used(view, &Ask { subset: Some(*id), ..Ask::default() })).collect()
    };
    let all = vec![0, 1, 2, 3];
    assert_eq!(of(&view), [vec![1, 2], vec![1, 2], vec![], all.clone(), all.clone()]);
    view.endpoints[1].health.set(false);
    view.endpoints[2].health.set(false);
    assert_eq!(of(&view), [vec![], vec![0, 3], vec![], vec![0, 3], vec![0, 3]]);
}

#[test]
fn requests_are_counted_until_they_end() {
    let view = cluster("hh", Balance::LeastRequest);
    let busy = &view.endpoints[0];
    let (one, other) = (view.begin(busy), view.begin_connection(busy));
    assert_eq!(busy.load.active(), 2);
    assert_eq!(used(&view, &Ask::default()), [1]);
    drop(one);
    drop(other);
    assert_eq!(busy.load.active(), 0);
    let view = cluster("hh", Balance::Random);
    assert!(view.begin(&view.endpoints[0]).is_none(), "nobody asks");
}

#[test]
fn warmth_grows_from_a_tenth_to_the_whole() {
    let cases = [(0, 1000), (5000, 100), (5500, 100), (10_000, 500), (14_999, 999), (15_000, 1000), (99_000, 1000)];
    for (now, expected) in cases {
        let since = if now == 0 { 0 } else { 5000 };
        assert_eq!(warmth(now, since, 10_000), expected, "{now}");
    }
}

#[test]
fn an_endpoint_is_out_for_longer_each_time_and_for_less_after_it_was_well() {
    let settings = OutlierDetection { consecutive_5xx: 2, max_ejection_percent: 50, ..OutlierDetection::default() };
    let mut view = cluster("hhh", Balance::RoundRobin);
    view.outliers = Some(settings);
    let bad = &view.endpoints[0];
    let fails = |now| view.count_answer(bad, Outcome::ServerError, now, 0);
    let ends = |now| view.end_interval(now, || 0).1;
    assert_eq!(fails(1_000), None);
    let out = Some(Found { finding: Finding::Consecutive5xx, is_ejected: true });
    assert_eq!(fails(1_000), out, "the second in a row");
    assert_eq!(fails(1_000), None, "it is out already");
    assert_eq!((ends(30_999), ends(31_000)), (vec![], vec![0]));
    assert!(bad.is_up());
    assert_eq!((fails(40_000), fails(40_000)), (None, out));
    assert!(!bad.is_up());
    assert_eq!((ends(99_999), ends(100_000)), (vec![], vec![0]), "twice as long");
    // Two intervals in which it was not out.
    assert_eq!((ends(110_000), ends(120_000)), (vec![], vec![]));
    assert_eq!((fails(130_000), fails(130_000)), (None, out));
    assert_eq!((ends(159_999), ends(160_000)), (vec![], vec![0]), "as long as the first time");
}

#[test]
fn a_good_answer_ends_a_row_of_bad_ones() {
    let mut view = cluster("hh", Balance::RoundRobin);
    view.outliers =
        Some(OutlierDetection { consecutive_5xx: 2, max_ejection_percent: 100, ..OutlierDetection::default() });
    let endpoint = &view.endpoints[0];
    for outcome in [Outcome::ServerError, Outcome::Good, Outcome::GatewayFailure, Outcome::Good] {
        assert_eq!(view.count_answer(endpoint, outcome, 0, 0), None);
    }
    view.outliers = None;
    for _ in 0..10 {
        assert_eq!(view.count_answer(&view.endpoints[0], Outcome::ServerError, 0, 0), None, "nobody looks");
    }
}

#[test]
fn an_endpoint_that_could_not_be_ejected_is_found_again() {
    let mut view = cluster("hh", Balance::RoundRobin);
    view.outliers =
        Some(OutlierDetection { consecutive_5xx: 2, max_ejection_percent: 50, ..OutlierDetection::default() });
    let fails = |at: usize| {
        (0..2)
            .filter_map(|_| view.count_answer(&view.endpoints[at], Outcome::ServerError, 0, 0))
            .next()
            .unwrap()
            .is_ejected
    };
    assert!(fails(0) && !fails(1) && !fails(1));
    assert_eq!(view.end_interval(30_000, || 0).1, [0]);
    assert!(fails(1), "there is room for it now");
}
