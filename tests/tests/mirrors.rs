//! Copies of requests for another cluster, and that nobody notices them.

use std::net::TcpListener;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use gateway_tests::asked::host_of;
use gateway_tests::client::HOST;
use gateway_tests::conn::{Framing, Head};
use gateway_tests::every_pair;
use gateway_tests::h2::Options;
use gateway_tests::origin::serve;
use gateway_tests::ports::{HeldPort, any_port};
use gateway_tests::prelude::*;

/// A copy as the shadow saw it.
struct Seen {
    head: Head,
    body: Vec<u8>,
}

/// An origin that answers everything and tells what it saw.
fn shadow() -> (Script, Receiver<Seen>) {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let script = Script::start(move |conn| {
        serve(conn, &Options::default(), &|served| {
            let mut body = Vec::new();
            if served.body(&mut |bytes| body.extend_from_slice(bytes)).is_ok() {
                let _ = tell.lock().unwrap().send(Seen { head: served.head.clone(), body });
                served.answer(200, &[], b"the shadow's answer");
            }
        });
    });
    (script, told)
}

fn next(told: &Receiver<Seen>) -> Seen {
    told.recv_timeout(wait::DEADLINE).expect("a copy")
}

/// A gateway that sends everything to `origin`, and copies to `shadow`.
fn start(pair: Pair, origin: &Origin, shadow: std::net::SocketAddr, mirror: &str, lines: &str) -> Gateway {
    let protocol = format!("protocol = '{}'", pair.origin.name());
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], &protocol)
        .cluster("shadow", &[shadow], &protocol)
        .route("all", &format!("cluster = 'origin'\nmirror = [{{ cluster = 'shadow'{mirror} }}]\n{lines}"));
    Gateway::start(&config)
}

fn result(gateway: &Gateway, result: &str) -> f64 {
    gateway.metrics().sum("gateway_mirror_requests_total", &[("mirror", "all/shadow"), ("result", result)])
}

every_pair! {
    a_copy_is_what_the_origin_got_but_for_its_host
    bodies_are_copied_up_to_the_limit
    a_shadow_that_hangs_is_not_noticed
    a_shadow_that_is_dead_is_not_noticed
    a_body_that_does_not_arrive_whole_is_not_copied
}

fn a_copy_is_what_the_origin_got_but_for_its_host(pair: Pair) {
    let origin = Origin::start("a");
    let (shadow, told) = shadow();
    for (option, host) in [("", format!("{HOST}-shadow")), (", shadow_host = false", HOST.to_owned())] {
        let lines = "request_headers = { set = { x-tenant = 'blue' } }";
        let gateway = start(pair, &origin, shadow.addr(), option, lines);
        let mut client = pair.connect(&gateway);
        let primary = client.ask("GET", "/headers?x=1", &[("x-kept", "yes")]).seen();
        assert_eq!(host_of(&primary), Some(HOST));
        let copy = next(&told);
        assert_eq!(host_of(&copy.head), Some(host.as_str()));
        for name in ["x-kept", "x-tenant", "x-request-id", "x-forwarded-for"] {
            assert!(primary.header(name).is_some(), "{name}");
            assert_eq!(copy.head.header(name), primary.header(name), "{name}");
        }
        wait::until_true("the copy to be counted", || result(&gateway, "sent") == 1.0);
        assert_eq!(client.get("/").text(), "a", "the shadow's answer goes nowhere");
        next(&told);
    }
}

fn bodies_are_copied_up_to_the_limit(pair: Pair) {
    let origin = Origin::start("a");
    let (shadow, told) = shadow();
    let gateway = start(pair, &origin, shadow.addr(), "", "mirror_body_bytes = '100KB'");
    let mut client = pair.connect(&gateway);
    for length in [1, 5_000, 100_000] {
        for framing in [Framing::Length(length), Framing::Chunked] {
            assert_eq!(client.post_pattern("/sink", length, framing).text(), length.to_string());
            assert_eq!(next(&told).body, gateway_tests::pattern::bytes(length as usize), "{length} {framing:?}");
        }
    }
    for framing in [Framing::Length(100_001), Framing::Chunked] {
        assert_eq!(client.post_pattern("/sink", 100_001, framing).text(), "100001");
    }
    assert_eq!(client.get("/").text(), "a");
    assert!(next(&told).body.is_empty(), "the next copy is that of the GET");
    assert_eq!(result(&gateway, "too_long"), 2.0);
}

fn a_shadow_that_hangs_is_not_noticed(pair: Pair) {
    let origin = Origin::start("a");
    // The kernel takes connections, and nobody reads what they say.
    let shadow = TcpListener::bind(any_port()).expect("a listener");
    let addr = shadow.local_addr().expect("its address");
    let gateway = start(pair, &origin, addr, ", max_active = 3", "timeout = '60s'");
    let mut client = pair.connect(&gateway);
    for _ in 0..20 {
        assert_eq!(client.post("/echo", &[], b"hello").text(), "hello");
    }
    let results = ["overflow", "sent", "failed", "too_long"].map(|name| result(&gateway, name));
    assert_eq!(results, [17.0, 0.0, 0.0, 0.0]);
}

fn a_shadow_that_is_dead_is_not_noticed(pair: Pair) {
    let origin = Origin::start("a");
    let nobody = HeldPort::new();
    let gateway = start(pair, &origin, nobody.addr(), "", "");
    let mut client = pair.connect(&gateway);
    for _ in 0..20 {
        let response = client.get("/");
        assert_eq!((response.status, response.text()), (200, "a"));
    }
    wait::until_true("the copies to be counted", || result(&gateway, "failed") == 20.0);
    // Failures of a shadow are no flags of the request's.
    assert_eq!(gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", "UF")]), 0.0);
}

fn a_body_that_does_not_arrive_whole_is_not_copied(pair: Pair) {
    let origin = Origin::start("a");
    let (shadow, told) = shadow();
    let gateway = start(pair, &origin, shadow.addr(), "", "");
    let mut client = pair.connect(&gateway);
    let mut asked = client.start("POST", "/echo", &[("content-length", "10")]);
    assert!(asked.send(b"hello"));
    asked.cancel();
    assert_eq!(pair.connect(&gateway).get("/").text(), "a");
    assert!(next(&told).body.is_empty(), "the only copy is that of the GET");
    assert_eq!(shadow.connections(), 1);
}

#[test]
fn a_share_of_the_requests_is_copied_to_each_of_several_clusters() {
    let origin = Origin::start("a");
    let (all, some, none) = (Origin::start("all"), Origin::start("some"), Origin::start("none"));
    let mirror =
        "mirror = [{ cluster = 'all' }, { cluster = 'some', percent = 25 }, { cluster = 'none', percent = 0 }]";
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .cluster("all", &[all.addr()], "")
        .cluster("some", &[some.addr()], "")
        .cluster("none", &[none.addr()], "")
        .route("all", &format!("cluster = 'origin'\n{mirror}"));
    let gateway = Gateway::start(&config);
    let mut client = gateway.connect();
    for _ in 0..1_000 {
        assert_eq!(client.get("/").status, 200);
    }
    wait::until_true("every copy", || all.requests() == 1_000);
    // 250 expected, standard deviation 14: six of them is one chance in five hundred million.
    assert!((165..335).contains(&some.requests()), "{}", some.requests());
    assert_eq!(none.requests(), 0);
    assert!(all.connections() < 100, "{} connections for 1000 copies in turn", all.connections());
}

#[test]
fn what_filters_refuse_is_not_copied() {
    let origin = Origin::start("a");
    let shadow = Origin::start("shadow");
    let filters = "filters = [{ rate_limit = { requests = 2, per = '1h' } }]";
    let config = Config::new()
        .listener("web", "")
        .cluster("origin", &[origin.addr()], "")
        .cluster("shadow", &[shadow.addr()], "")
        .route("all", &format!("cluster = 'origin'\nmirror = [{{ cluster = 'shadow' }}]\n{filters}"));
    let gateway = Gateway::start(&config);
    assert_eq!([(); 4].map(|()| gateway.get("/").status), [200, 200, 429, 429]);
    wait::until_true("the copies", || result(&gateway, "sent") == 2.0);
    assert_eq!(shadow.requests(), 2);
}
