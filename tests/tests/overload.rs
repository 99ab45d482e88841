//! What is given up when there is too little memory or too little time, and that it comes back.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use gateway_tests::envoy::{self, Envoy, TYPES};
use gateway_tests::h2::Client;
use gateway_tests::prelude::*;
use gateway_tests::process::Process;
use gateway_tests::stream::Stream;

/// What of the memory is given up first, in the words of the metrics.
const ACTIONS: [&str; 4] = ["idle_connections", "connections", "requests", "everything"];

fn config(overload: &str) -> Config {
    Config::new()
        .tables(&format!("[overload]\n{overload}"))
        .listener("web", "")
        .route("all", "respond = { status = 200, body = 'served' }")
        .route("vital", "match = { path = '/vital' }\npriority = 'high'\nrespond = { status = 200, body = 'vital' }")
}

fn active(gateway: &Gateway) -> usize {
    let metrics = gateway.metrics();
    ACTIONS.iter().filter(|action| metrics.sum("gateway_overload_action_active", &[("action", action)]) > 0.0).count()
}

/// Says that the process may have so much memory that what it has is `percent` of it, until `actions` of them are in force.
fn squeeze(gateway: &mut Gateway, percent: f64, actions: usize) {
    wait::until("the memory to be what was asked for", || {
        let used = gateway.metrics().sum("gateway_overload_memory_bytes", &[]);
        if used == 0.0 {
            return None;
        }
        let max = (used * 100.0 / percent) as u64;
        gateway.reload(&config(&format!("max_memory = {max}")));
        wait::until_true("the limit to be seen", || {
            gateway.admin_get("/overload").json()["memory"]["max_bytes"] == max
        });
        // Workers look at it several times in this time.
        let steady = wait::steady("the actions to be taken", Duration::from_millis(200), || active(gateway));
        if steady != actions {
            // A step stays until there is clearly less than its mark, also when the memory was over it for a moment only.
            gateway.reload(&config("max_memory = 'off'"));
            wait::until_true("nothing to be given up", || active(gateway) == 0);
            return None;
        }
        Some(())
    });
}

fn is_shed(response: &Response) {
    assert_eq!((response.status, response.text()), (503, "envoy overloaded"));
    assert_eq!(response.header("x-envoy-local-overloaded"), Some("true"));
}

/// Whether a new connection is reset before it is served.
fn is_refused(gateway: &Gateway) -> bool {
    let mut conn = match Stream::connect(gateway.addr("web")) {
        Ok(stream) => Conn::new(stream, 0),
        Err(error) => return error.kind() == ErrorKind::ConnectionReset,
    };
    conn.try_send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    matches!(conn.try_response_to("GET"), Err(ReadError::Closed))
}

#[test]
fn memory_is_given_back_in_steps_and_everything_comes_back() {
    let mut gateway = Gateway::start(&config("max_memory = 'off'"));
    let (mut idle, multiplexed) = (gateway.connect(), Client::connect(gateway.addr("web")));
    assert!(!idle.get("/").closes());
    assert_eq!(multiplexed.get("/").text(), "served");
    // These are in the middle of a request, and none of those that close.
    let mut busy = [gateway.connect(), gateway.connect(), gateway.connect()];
    busy.iter_mut().for_each(|conn| conn.send("GET /"));
    let open = || gateway.metrics().sum("gateway_listener_connections_active", &[]) as u32;
    wait::until_true("all to be accepted", || open() == 5);

    squeeze(&mut gateway, 87.5, 1);
    assert_eq!(idle.end(), End::Closed);
    multiplexed.connection.wait_end();
    let last = gateway.get("/");
    assert_eq!((last.status, last.closes()), (200, true));
    let short = Client::connect(gateway.addr("web"));
    assert_eq!(short.get("/").status, 200);
    assert!(!short.connection.wait_goaways(1).is_empty());

    squeeze(&mut gateway, 92.5, 2);
    assert!(is_refused(&gateway));
    let [first, second, third] = &mut busy;
    first.send(" HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(first.response().text(), "served");
    assert_eq!(first.end(), End::Closed);

    squeeze(&mut gateway, 97.5, 3);
    second.send("vital HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(second.response().text(), "vital");
    third.send(" HTTP/1.1\r\nhost: a\r\n\r\n");
    let shed = third.response();
    is_shed(&shed);
    assert!(shed.closes());
    assert_eq!(third.end(), End::Closed);
    let view = gateway.admin_get("/overload").json();
    assert_eq!(view["memory"]["given_up"], serde_json::json!(ACTIONS[..3]));

    gateway.reload(&config("max_memory = 'off'"));
    // Each worker sees it for itself, and a connection is some worker's.
    let all_serve = || (0..16).all(|_| !is_refused(&gateway));
    wait::until_true("everything to be served again", || active(&gateway) == 0 && all_serve());
    let mut conn = gateway.connect();
    assert!(!conn.get("/").closes());
    let metrics = gateway.metrics();
    assert_eq!(metrics.sum("gateway_overload_requests_shed_total", &[("reason", "memory")]), 1.0);
    assert_eq!(metrics.sum("gateway_listener_response_flags_total", &[("flag", "OM")]), 1.0);
    assert!(metrics.sum("gateway_listener_connections_refused_total", &[("reason", "overload")]) >= 1.0);
    let told = |text: &str| gateway.process.stderr.find(text, |line| line.contains(text)).is_some();
    assert!(told("overload:") && told("nothing is given up any more"));
}

#[test]
fn at_the_end_of_the_memory_nothing_is_served_but_the_admin_endpoint() {
    let mut gateway = Gateway::start(&config("max_memory = 'off'"));
    let mut busy = gateway.connect();
    busy.send("GET /vital");
    let is_accepted = || gateway.metrics().sum("gateway_listener_connections_active", &[]) >= 1.0;
    wait::until_true("the connection to be accepted", is_accepted);
    squeeze(&mut gateway, 120.0, 4);
    busy.send(" HTTP/1.1\r\nhost: a\r\n\r\n");
    is_shed(&busy.response());
    assert!(is_refused(&gateway));
    assert_eq!(gateway.admin_get("/ready").text(), "LIVE\n");
}

/// Has a process run for a moment now and then only, as if others had taken the processor.
fn starve<T>(process: &Process, during: impl FnOnce() -> T) -> T {
    // Much longer than a worker takes to look how late it is, so that it always is.
    const STOPPED: Duration = Duration::from_millis(80);
    const RUNS: Duration = Duration::from_millis(8);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(SeqCst) {
                process.signal(libc::SIGSTOP);
                std::thread::sleep(STOPPED);
                process.signal(libc::SIGCONT);
                std::thread::sleep(RUNS);
            }
        });
        // However it ends, the process must run again.
        let _end = Ends(&is_over);
        during()
    })
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_worker_that_is_late_refuses_requests_in_the_words_of_each_client_and_recovers() {
    let gateway = Gateway::start(&config("queue_delay = '20ms'").gateway("workers = 1"));
    let multiplexed = Client::connect(gateway.addr("web"));
    let call = [("content-type", "application/grpc"), ("te", "trailers")];
    starve(&gateway.process, || {
        let mut open = gateway.connect();
        let shed = wait::until("a request of HTTP/1.1 to be refused", || {
            let response = open.get("/");
            (response.status != 200).then_some(response)
        });
        is_shed(&shed);
        assert!(shed.closes());
        let shed = wait::until("a request of HTTP/2 to be refused", || {
            Some(multiplexed.get("/")).filter(|response| response.status != 200)
        });
        is_shed(&shed);
        let shed = wait::until("a call to be refused", || {
            let response = multiplexed.ask("POST", "/a.Service/Call", &call, b"");
            (response.header("grpc-status") == Some("14")).then_some(response)
        });
        assert_eq!((shed.status, shed.header("grpc-message")), (200, Some("envoy overloaded")));
        assert_eq!(gateway.admin_get("/ready").text(), "LIVE\n");
    });
    // The connection is still there: it is the requests that are too many.
    wait::within(Duration::from_secs(3), "the worker to have recovered", || {
        (multiplexed.get("/").status == 200
            && gateway.metrics().sum("gateway_overload_refused_ratio", &[("worker", "0")]) == 0.0)
            .then_some(())
    });
    assert_eq!(gateway.get("/").text(), "served");
    assert!(gateway.metrics().sum("gateway_overload_requests_shed_total", &[("reason", "delay")]) >= 3.0);
}

#[test]
fn a_worker_that_is_not_asked_to_refuse_does_not() {
    let gateway = Gateway::start(&config("queue_delay = 'off'").gateway("workers = 1"));
    let multiplexed = Client::connect(gateway.addr("web"));
    starve(&gateway.process, || (0..10).for_each(|_| assert_eq!(multiplexed.get("/").status, 200)));
}

#[test]
fn all_listeners_together_have_a_limit_of_connections() {
    let config = config("max_connections = 2").listener("other", "");
    let mut gateway = Gateway::start(&config);
    let mut kept = [Conn::connect(gateway.addr("web")), Conn::connect(gateway.addr("other"))];
    kept.iter_mut().for_each(|conn| assert_eq!(conn.get("/").status, 200));
    assert!(is_refused(&gateway));
    assert_eq!(gateway.metrics().sum("gateway_listener_connections_refused_total", &[("reason", "total_limit")]), 1.0);
    assert_eq!(gateway.admin_get("/overload").json()["connections"], 2);
    gateway.reload(&self::config("max_connections = 3").listener("other", ""));
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(kept[0].get("/").status, 200, "a reload drops nothing");
    drop(kept);
    wait::until_true("the places to be free", || gateway.admin_get("/overload").json()["connections"] == 0);
}

#[test]
#[ignore = "needs Envoy 1.40: `cargo xtask test --with-envoy`, or set GATEWAY_TEST_ENVOY to its path"]
fn envoy_refuses_requests_in_the_same_words() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (pressure, log) = (dir.path().join("pressure"), dir.path().join("log"));
    std::fs::write(&pressure, "1.0").expect("write the pressure");
    let envoy = Envoy::start(|listen| {
        let manager = format!(
            "append_local_overload: true, {}",
            envoy::access_log(&log, "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%")
        );
        let routes = "{virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, \
                      direct_response: {status: 200, body: {inline_string: served}}}]}]}";
        let overload = format!(
            "overload_manager: {{refresh_interval: 0.05s, \
             resource_monitors: [{{name: pressure, typed_config: {{\
             '@type': {TYPES}.resource_monitors.injected_resource.v3.InjectedResourceConfig, filename: '{}'}}}}], \
             actions: [{{name: envoy.overload_actions.stop_accepting_requests, \
             triggers: [{{name: pressure, threshold: {{value: 0.9}}}}]}}]}}\n",
            pressure.display()
        );
        overload + &envoy::config(listen, &manager, &[], routes, &[])
    });
    let refused = wait::until("Envoy to refuse", || {
        let response = Conn::connect(envoy.addr()).get("/");
        (response.status != 200).then_some(response)
    });
    is_shed(&refused);
    assert_eq!(refused.header("content-type"), Some("text/plain"));
    let call = [("content-type", "application/grpc"), ("te", "trailers")];
    let call = Client::connect(envoy.addr()).ask("POST", "/a.Service/Call", &call, b"");
    let said = ["grpc-status", "grpc-message", "x-envoy-local-overloaded"].map(|name| call.header(name));
    assert_eq!((call.status, said), (200, [Some("14"), Some("envoy overloaded"), Some("true")]));
    // Envoy's documentation has a flag for this, OM, which we show; what is refused this early it logs without.
    wait::until_true("the log to say why", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.lines().filter(|line| *line == "- overload").count() == 2)
    });
}
