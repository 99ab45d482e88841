//! Thousands of tunnels that say nothing cost little.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use gateway_tests::prelude::*;

/// How many. Each takes two descriptors here and two in the gateway, and twenty thousand are what many systems allow.
const TUNNELS: usize = 9_500;

/// Most memory one silent tunnel may take: two sockets' halves, two small buffers, its task.
const TUNNEL_BYTES: u64 = 12 * 1024;

/// More than a large buffer's half, less than all of it: what streamed gives its large buffers back.
const BURST_BYTES: usize = 40_000;

#[test]
#[expect(clippy::print_stderr, reason = "the measured figure belongs into the log of the run")]
fn idle_tunnels_cost_a_few_kilobytes_each() {
    raise_open_files(2 * TUNNELS + 200);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let limit = "max_connections = 20000";
    let config = Config::new()
        .listener("pg", "protocol = 'tcp'\nlimits = { connections_per_source = 20000 }")
        .cluster("db", &[listener.local_addr().expect("an address")], limit)
        .l4_route("db", "cluster = 'db'");
    let gateway = Gateway::start(&config);
    let before = gateway.process.rss();
    let mut tunnels: Vec<(TcpStream, TcpStream)> = (0..TUNNELS).map(|_| open_tunnel(&gateway, &listener)).collect();
    let settled = || wait::steady("memory to settle", Duration::from_millis(500), || gateway.process.rss());
    let each = |rss: u64| rss.saturating_sub(before) / TUNNELS as u64;
    let silent = each(settled());
    for tunnel in &mut tunnels {
        exchange(tunnel, b"ping");
    }
    let spoken = each(settled());
    let burst = vec![b'b'; BURST_BYTES];
    for tunnel in &mut tunnels {
        exchange(tunnel, &burst);
    }
    let burst = each(settled());
    eprintln!("resident bytes for one idle tunnel: {silent} at first, {spoken} after a message, {burst} after a burst");
    for bytes in [silent, spoken, burst] {
        assert!(bytes < TUNNEL_BYTES, "{bytes} bytes for each tunnel");
    }
    for tunnel in &mut tunnels {
        exchange(tunnel, b"still there");
    }
    drop(tunnels);
    let active = || gateway.metrics().sum("gateway_listener_connections_active", &[("listener", "pg")]);
    wait::until_true("all tunnels to be closed", || active() == 0.0);
}

/// Both ends of a new tunnel.
fn open_tunnel(gateway: &Gateway, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(gateway.addr("pg")).expect("connect");
    let (origin, _) = listener.accept().expect("accept");
    for end in [&client, &origin] {
        end.set_read_timeout(Some(wait::DEADLINE)).expect("a timeout");
    }
    (client, origin)
}

/// Sends a message there and back.
fn exchange((client, origin): &mut (TcpStream, TcpStream), message: &[u8]) {
    let mut received = vec![0; message.len()];
    client.write_all(message).expect("send");
    origin.read_exact(&mut received).expect("receive");
    origin.write_all(&received).expect("send back");
    client.read_exact(&mut received).expect("receive back");
    assert!(received == message);
}

/// Raises this process's limit of open files (inherited by the gateway) to what it needs.
fn raise_open_files(needed: usize) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a live `rlimit`.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
        }
    };
    assert!(raised && limit.rlim_cur as usize >= needed, "`ulimit -n` is {}: too low", limit.rlim_cur);
}
