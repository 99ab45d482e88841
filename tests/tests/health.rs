//! Active health checks, draining and the panic rule, as clients of routes see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use gateway_tests::prelude::*;
use gateway_tests::wait;

/// An origin that answers its name, and to `/health` whether it is well.
struct Patient {
    script: Script,
    well: Arc<AtomicBool>,
}

impl Patient {
    fn start(name: &'static str) -> Patient {
        let well = Arc::new(AtomicBool::new(true));
        let is_well = well.clone();
        let script = Script::start(move |mut conn| {
            while let Ok(head) = conn.head() {
                let status = match head.target() {
                    "/health" if !is_well.load(SeqCst) => "503 Unwell",
                    _ => "200 OK",
                };
                conn.send(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}", name.len()));
            }
        });
        Patient { script, well }
    }

    fn set_well(&self, well: bool) {
        self.well.store(well, SeqCst);
    }
}

const CHECK: &str =
    "health_check = { protocol = 'http', path = '/health', interval = '10ms', healthy = 2, unhealthy = 2 }\n";

fn in_front_of(patients: [&Patient; 2], lines: &str) -> Gateway {
    let endpoints = patients.map(|patient| patient.script.addr());
    let cluster = Config::new().listener("web", "").cluster("origin", &endpoints, &format!("{CHECK}{lines}"));
    Gateway::start(&cluster.route("all", "cluster = 'origin'"))
}

/// Which origins answer twenty requests, sorted.
fn answering(gateway: &Gateway) -> Vec<String> {
    let mut names: Vec<String> = (0..20).map(|_| gateway.get("/").text().to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

fn wait_for_health(gateway: &Gateway, patient: &Patient, healthy: bool) {
    let address = patient.script.addr().to_string();
    wait::until_true("the health checks to see it", || {
        let labels = [("cluster", "origin"), ("endpoint", address.as_str())];
        gateway.metrics().sum("gateway_cluster_endpoint_healthy", &labels) == f64::from(u8::from(healthy))
    });
}

#[test]
fn an_unhealthy_endpoint_gets_no_requests_until_it_is_well_again() {
    let (a, b) = (Patient::start("a"), Patient::start("b"));
    let gateway = in_front_of([&a, &b], "");
    assert_eq!(answering(&gateway), ["a", "b"]);

    b.set_well(false);
    wait_for_health(&gateway, &b, false);
    assert_eq!(answering(&gateway), ["a"]);

    a.set_well(false);
    wait_for_health(&gateway, &a, false);
    assert_eq!(answering(&gateway), ["a", "b"], "all are unhealthy, so all are used");

    b.set_well(true);
    wait_for_health(&gateway, &b, true);
    assert_eq!(answering(&gateway), ["b"]);
    let changes = gateway.metrics().sum("gateway_cluster_endpoint_health_changes_total", &[]);
    assert_eq!(changes, 3.0);
    let log = gateway.process.stderr.text();
    assert!(log.contains("is unhealthy: ") && log.contains("answers /health with 503"), "{log}");
    assert!(log.contains("is healthy again"), "{log}");
}

#[test]
fn the_first_check_decides_before_the_first_request() {
    let (a, b) = (Patient::start("a"), Patient::start("b"));
    a.set_well(false);
    let gateway = in_front_of([&a, &b], "");
    assert_eq!(answering(&gateway), ["b"]);
}

#[test]
fn a_drained_endpoint_gets_no_requests_and_a_reload_changes_that() {
    let (a, b) = (Patient::start("a"), Patient::start("b"));
    let config = |drain: bool| {
        let cluster = format!(
            "[[cluster]]\nname = 'origin'\nendpoints = ['{}', {{ address = '{}', drain = {drain} }}]\n",
            a.script.addr(),
            b.script.addr()
        );
        Config::new().listener("web", "").tables(&cluster).route("all", "cluster = 'origin'")
    };
    let mut gateway = Gateway::start(&config(true));
    assert_eq!(answering(&gateway), ["a"]);
    wait_for_health(&gateway, &b, false);
    gateway.reload(&config(false));
    assert_eq!(answering(&gateway), ["a", "b"]);
}

#[test]
fn health_outlives_a_reload_that_does_not_change_the_check() {
    let (a, b) = (Patient::start("a"), Patient::start("b"));
    let mut gateway = in_front_of([&a, &b], "");
    b.set_well(false);
    wait_for_health(&gateway, &b, false);
    let endpoints = [a.script.addr(), b.script.addr()];
    let cluster =
        Config::new().listener("web", "").cluster("origin", &endpoints, &format!("{CHECK}max_connections = 9"));
    gateway.reload(&cluster.route("all", "cluster = 'origin'"));
    assert_eq!(answering(&gateway), ["a"]);
}

#[test]
fn the_next_priority_takes_over_and_too_few_healthy_endpoints_are_not_believed() {
    let patients = [Patient::start("a"), Patient::start("b"), Patient::start("c"), Patient::start("d")];
    let [a, b, c, d] = &patients;
    let config = |priority: u8, threshold: u8| {
        let of = |patient: &Patient, priority| {
            format!("{{ address = '{}', priority = {priority} }}, ", patient.script.addr())
        };
        let endpoints = [of(a, 0), of(b, 0), of(c, priority), of(d, priority)].concat();
        let cluster =
            format!("[[cluster]]\nname = 'origin'\nendpoints = [{endpoints}]\npanic_threshold = {threshold}\n{CHECK}");
        Config::new().listener("web", "").tables(&cluster).route("all", "cluster = 'origin'")
    };
    let mut gateway = Gateway::start(&config(1, 50));
    assert_eq!(answering(&gateway), ["a", "b"]);
    for patient in [a, b] {
        patient.set_well(false);
        wait_for_health(&gateway, patient, false);
    }
    assert_eq!(answering(&gateway), ["c", "d"]);
    gateway.reload(&config(0, 50));
    assert_eq!(answering(&gateway), ["c", "d"], "two of four are half");
    c.set_well(false);
    wait_for_health(&gateway, c, false);
    assert_eq!(answering(&gateway), ["a", "b", "c", "d"], "one of four is less than half");
    gateway.reload(&config(0, 25));
    assert_eq!(answering(&gateway), ["d"]);
    gateway.reload(&config(0, 0));
    d.set_well(false);
    wait_for_health(&gateway, d, false);
    let nobody = gateway.get("/");
    assert_eq!((nobody.status, nobody.text()), (503, "no healthy upstream"));
}
