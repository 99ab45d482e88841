//! Endpoints that are left out for a while because of how they answer, and taken back.

use std::net::SocketAddr;
use std::time::Duration;

use gateway_tests::h2::Options;
use gateway_tests::origin::serve;
use gateway_tests::ports::HeldPort;
use gateway_tests::prelude::*;

/// A gateway in front of these endpoints, which never retries.
fn gateway(endpoints: &[SocketAddr], outliers: &str) -> Gateway {
    let cluster = format!("outlier_detection = {{ {outliers} }}\npanic_threshold = 0");
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", endpoints, &cluster)
        .route("all", "cluster = 'origin'\nretry = { attempts = 0 }");
    Gateway::start(&config)
}

fn ejections(gateway: &Gateway, reason: &str) -> f64 {
    let labels = [("cluster", "origin"), ("reason", reason)];
    gateway.metrics().sum("gateway_cluster_ejections_total", &labels)
}

fn is_in(gateway: &Gateway, endpoint: SocketAddr) -> bool {
    gateway.metrics().sum("gateway_cluster_endpoint_healthy", &[("endpoint", &endpoint.to_string())]) == 1.0
}

/// An origin that answers everything with this status.
fn answering(status: u16) -> Script {
    Script::start(move |conn| {
        serve(conn, &Options::default(), &|served| {
            let _ = served.body(&mut |_| ()).is_ok() && served.answer(status, &[], b"");
        });
    })
}

#[test]
fn an_endpoint_with_bad_answers_in_a_row_is_left_out_and_taken_back() {
    let (bad, good) = (answering(500), Origin::start("good"));
    let outliers = "consecutive_5xx = 3, interval = '100ms', base_ejection_time = '1s', max_ejection_percent = 50";
    let gateway = gateway(&[bad.addr(), good.addr()], outliers);
    let mut client = gateway.connect();
    let statuses: Vec<u16> = (0..20).map(|_| client.get("/").status).collect();
    let failed = statuses.iter().filter(|status| **status == 500).count();
    assert_eq!(failed, 3, "{statuses:?}");
    assert_eq!(ejections(&gateway, "consecutive_5xx"), 1.0);
    assert!(!is_in(&gateway, bad.addr()) && is_in(&gateway, good.addr()));
    wait::until_true("the endpoint to be taken back", || is_in(&gateway, bad.addr()));
    let again: Vec<u16> = (0..20).map(|_| client.get("/").status).collect();
    assert_eq!(again.iter().filter(|status| **status == 500).count(), 3, "it has to fail as often anew: {again:?}");
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_left_out() {
    let (nobody, good) = (HeldPort::new(), Origin::start("good"));
    let gateway = gateway(&[nobody.addr(), good.addr()], "max_ejection_percent = 50");
    let mut client = gateway.connect();
    let failed = (0..30).filter(|_| client.get("/").status == 503).count();
    assert_eq!(failed, 5, "Envoy's default");
}

#[test]
fn gateway_failures_count_apart_where_they_eject() {
    let (bad, good) = (answering(502), Origin::start("good"));
    let outliers = "consecutive_5xx = 0, consecutive_gateway_failure = 2, enforcing_consecutive_gateway_failure = 100, \
                    max_ejection_percent = 50";
    let gateway = gateway(&[bad.addr(), good.addr()], outliers);
    let mut client = gateway.connect();
    let failed = (0..20).filter(|_| client.get("/").status == 502).count();
    assert_eq!((failed, ejections(&gateway, "consecutive_gateway_failure")), (2, 1.0));
}

#[test]
fn no_more_endpoints_are_left_out_than_may_be() {
    let origins = [answering(500), answering(500), answering(500)];
    let addresses = origins.each_ref().map(Script::addr);
    let gateway = gateway(&addresses, "consecutive_5xx = 1, max_ejection_percent = 34");
    let mut client = gateway.connect();
    for _ in 0..12 {
        assert_eq!(client.get("/").status, 500, "somebody is always asked");
    }
    let out = addresses.iter().filter(|address| !is_in(&gateway, **address)).count();
    assert_eq!(out, 2, "one is less than 34 percent, two are not");
    let let_go = [("cluster", "origin"), ("reason", "consecutive_5xx")];
    assert!(gateway.metrics().sum("gateway_cluster_ejections_let_go_total", &let_go) >= 1.0);
}

#[test]
fn an_endpoint_that_answers_worse_than_the_others_is_left_out() {
    // Never two bad answers in a row, and half of them bad.
    let uneven = std::sync::atomic::AtomicUsize::new(0);
    let bad = Script::start(move |conn| {
        serve(conn, &Options::default(), &|served| {
            let count = uneven.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let _ = served.body(&mut |_| ()).is_ok()
                && served.answer(if count.is_multiple_of(2) { 500 } else { 200 }, &[], b"");
        });
    });
    let good: Vec<Origin> = (0..4).map(|_| Origin::start("good")).collect();
    let addresses: Vec<SocketAddr> = [bad.addr()].into_iter().chain(good.iter().map(Origin::addr)).collect();
    let outliers = "interval = '300ms', success_rate_request_volume = 10, max_ejection_percent = 20";
    let gateway = gateway(&addresses, outliers);
    let mut client = gateway.connect();
    wait::within(Duration::from_secs(20), "the endpoint to be left out", || {
        (0..100).for_each(|_| drop(client.get("/")));
        (!is_in(&gateway, bad.addr())).then_some(())
    });
    assert_eq!(ejections(&gateway, "success_rate"), 1.0);
}

#[test]
fn a_reload_keeps_who_is_left_out_and_one_without_outlier_detection_takes_all_back() {
    let (bad, good) = (answering(500), Origin::start("good"));
    let config = |cluster: &str| {
        Config::new()
            .listener("web", "")
            .cluster("origin", &[bad.addr(), good.addr()], &format!("panic_threshold = 0\n{cluster}"))
            .route("all", "cluster = 'origin'")
    };
    let watching = "outlier_detection = { consecutive_5xx = 1, max_ejection_percent = 50 }";
    let mut gateway = Gateway::start(&config(watching));
    let mut client = gateway.connect();
    (0..4).for_each(|_| drop(client.get("/")));
    assert!(!is_in(&gateway, bad.addr()));
    gateway.reload(&config(&format!("{watching}\nmax_connections = 7")));
    assert!(!is_in(&gateway, bad.addr()));
    gateway.reload(&config(""));
    assert!(is_in(&gateway, bad.addr()));
}
