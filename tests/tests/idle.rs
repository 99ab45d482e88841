//! Ten thousand connections that say nothing cost little.

use std::time::Duration;

use gateway_tests::prelude::*;
use gateway_tests::process::raise_open_files;

/// How many. Each takes one descriptor here and one in the gateway.
const CONNECTIONS: usize = 10_000;

/// Most memory one connection may take before its first request: its task, and a buffer of 1 KiB.
const SILENT_BYTES: u64 = 4 * 1024;

/// The same after a request, which leaves nothing behind.
const KEPT_BYTES: u64 = 4 * 1024;

#[test]
#[expect(clippy::print_stderr, reason = "the measured figure belongs into the log of the run")]
fn ten_thousand_idle_connections_cost_a_few_kilobytes_each() {
    raise_open_files(CONNECTIONS + 200);
    let origin = Origin::start("a");
    let config = Config::new()
        .listener("web", "limits = { connections_per_source = 20000, idle_timeout = '600s' }")
        .cluster("origin", &[origin.addr()], "")
        .route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);
    // The first requests fill pools and caches; that is not the price of a connection.
    for _ in 0..100 {
        assert_eq!(gateway.get("/").status, 200);
    }
    let before = gateway.process.rss();
    let mut clients: Vec<Conn> = (0..CONNECTIONS).map(|_| gateway.connect()).collect();
    let active = || gateway.metrics().sum("gateway_listener_connections_active", &[("listener", "web")]);
    wait::until_true("all connections to be accepted", || active() >= CONNECTIONS as f64);
    let silent = gateway.process.rss().saturating_sub(before) / CONNECTIONS as u64;
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    // Idle connections give their buffers back after a second.
    let settled = wait::steady("memory to settle", Duration::from_millis(1500), || gateway.process.rss());
    let kept = settled.saturating_sub(before) / CONNECTIONS as u64;
    eprintln!("resident bytes for one idle connection: {silent} before its first request, {kept} after it");
    assert!(silent < SILENT_BYTES, "{silent} bytes for each connection before its first request");
    assert!(kept < KEPT_BYTES, "{kept} bytes for each connection after its first request");

    assert!(clients.iter().all(Conn::is_idle), "a connection was closed");
    drop(clients);
    wait::until_true("all connections to be closed", || active() == 0.0);
}
