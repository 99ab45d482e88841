//! UDP listeners: a session for each client, with an end.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use gateway_tests::pattern;
use gateway_tests::prelude::*;

/// An origin that answers each datagram with the sender's port, a space, and what came.
struct Echo {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    fn start(address: &str) -> Echo {
        let socket = UdpSocket::bind(address).expect("bind");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let (addr, stop) = (socket.local_addr().expect("an address"), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut buffer = vec![0; 65_536];
                while !stop.load(SeqCst) {
                    if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                        let answer = [format!("{} ", from.port()).as_bytes(), &buffer[..len]].concat();
                        let _ = socket.send_to(&answer, from);
                    }
                }
            }
        });
        Echo { addr, stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

struct Client(UdpSocket);

impl Client {
    fn connect(to: SocketAddr) -> Client {
        let any = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(any).expect("bind");
        socket.connect(to).expect("connect");
        socket.set_read_timeout(Some(wait::DEADLINE)).expect("a timeout");
        Client(socket)
    }

    /// Sends and receives: the port that the session has towards the origin, and what came back.
    fn ask(&self, text: &[u8]) -> (u16, Vec<u8>) {
        self.0.send(text).expect("send");
        self.answer().expect("an answer")
    }

    fn answer(&self) -> Option<(u16, Vec<u8>)> {
        let mut buffer = vec![0; 65_536];
        let len = self.0.recv(&mut buffer).ok()?;
        let space = buffer.iter().position(|byte| *byte == b' ')?;
        let port = std::str::from_utf8(&buffer[..space]).ok()?.parse().ok()?;
        Some((port, buffer[space + 1..len].to_vec()))
    }
}

fn config(at: &str, listener: &str, endpoints: &[SocketAddr], route: &str) -> Config {
    Config::new()
        .listener_at("dns", at.parse().expect("an address"), &format!("protocol = 'udp'\n{listener}"))
        .cluster("dns", endpoints, "")
        .l4_route("dns", &format!("listeners = ['dns']\ncluster = 'dns'\n{route}"))
}

fn active(gateway: &Gateway) -> f64 {
    gateway.metrics().sum("gateway_listener_connections_active", &[("listener", "dns")])
}

#[test]
fn datagrams_of_any_length_come_back_to_who_sent_them() {
    for (bound, asked) in
        [("127.0.0.1:0", None), ("[::1]:0", None), ("0.0.0.0:0", Some("127.0.0.3")), ("[::]:0", Some("::1"))]
    {
        let echo = Echo::start(if bound.starts_with('[') { "[::1]:0" } else { "127.0.0.1:0" });
        let gateway = Gateway::start(&config(bound, "", &[echo.addr], ""));
        let mut address = gateway.addr("dns");
        if let Some(ip) = asked {
            // The answer comes from the address that was asked, or the connected socket would not receive it.
            address.set_ip(ip.parse().expect("an address"));
        }
        let clients: Vec<Client> = (0..20).map(|_| Client::connect(address)).collect();
        let ports: Vec<u16> = clients.iter().map(|client| client.ask(b"hello").0).collect();
        let different: std::collections::HashSet<_> = ports.iter().collect();
        assert_eq!(different.len(), clients.len(), "a session for each client");
        for (client, port) in clients.iter().zip(&ports) {
            for length in [0, 1, 1_472, 9_000, 60_000] {
                let bytes = pattern::bytes(length);
                assert!(client.ask(&bytes) == (*port, bytes), "{length} bytes, {bound}");
            }
        }
        assert_eq!(active(&gateway), clients.len() as f64);
    }
}

#[test]
fn a_session_ends_after_its_idle_time_with_a_line_in_the_log() {
    let (echo, dir) = (Echo::start("127.0.0.1:0"), tempfile::tempdir().expect("a directory"));
    let log = dir.path().join("log");
    let config = config("127.0.0.1:0", "", &[echo.addr], "idle_timeout = '300ms'")
        .tables(&format!("[access_log]\npath = '{}'\nformat = 'json'", log.display()));
    let gateway = Gateway::start(&config);
    let client = Client::connect(gateway.addr("dns"));
    let (first, _) = client.ask(b"one");
    assert_eq!(client.ask(b"two").0, first);
    wait::until_true("the session to end", || active(&gateway) == 0.0);
    assert_ne!(client.ask(b"three").0, first, "a new session has a new port");
    let line = wait::until("the log line", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(text.lines().next()?).ok()
    });
    for (member, value) in [
        ("bytes_received", 6.into()),
        ("bytes_sent", (6 + 2 * (first.to_string().len() as u64 + 1)).into()),
        ("response_flags", serde_json::json!("-")),
        ("route_name", "dns".into()),
        ("upstream_host", echo.addr.to_string().into()),
        ("downstream_remote_address", client.0.local_addr().expect("an address").to_string().into()),
        ("downstream_local_address", gateway.addr("dns").to_string().into()),
    ] {
        assert_eq!(line[member], value, "{member} of {line}");
    }
}

#[test]
fn limits_hold_for_sessions_and_what_is_beyond_is_dropped_and_counted() {
    let echo = Echo::start("127.0.0.1:0");
    let gateway = Gateway::start(&config("127.0.0.1:0", "limits = { connections_per_source = 2 }", &[echo.addr], ""));
    let clients = [0, 1].map(|_| Client::connect(gateway.addr("dns")));
    clients.iter().for_each(|client| _ = client.ask(b"in"));
    let third = Client::connect(gateway.addr("dns"));
    third.0.send(b"out").expect("send");
    let refused = || gateway.metrics().sum("gateway_listener_connections_refused_total", &[("reason", "source_limit")]);
    wait::until_true("the datagram to be dropped", || refused() == 1.0);
    third.0.set_nonblocking(true).expect("non-blocking");
    assert!(third.answer().is_none());
    assert_eq!(clients[0].ask(b"still in").1, b"still in");
}

#[test]
fn an_endpoint_that_is_not_there_ends_the_session_and_the_next_one_tries_another() {
    let (closed, echo) = (UdpSocket::bind("127.0.0.1:0").expect("bind"), Echo::start("127.0.0.1:0"));
    let nobody = closed.local_addr().expect("an address");
    drop(closed);
    let config = config("127.0.0.1:0", "", &[nobody, echo.addr], "").gateway("workers = 1");
    let gateway = Gateway::start(&config);
    let client = Client::connect(gateway.addr("dns"));
    client.0.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    wait::until_true("a session with the endpoint that answers", || {
        client.0.send(b"anybody?").expect("send");
        client.answer().is_some()
    });
    let flags = gateway.metrics().sum("gateway_listener_response_flags_total", &[("flag", "UC")]);
    assert_eq!(flags, 1.0, "the session with the closed port");
}

#[test]
fn sessions_survive_a_reload_and_new_ones_go_by_the_new_configuration() {
    let (old, new) = (Echo::start("127.0.0.1:0"), Echo::start("127.0.0.1:0"));
    let mut gateway = Gateway::start(&config("127.0.0.1:0", "", &[old.addr], ""));
    let kept = Client::connect(gateway.addr("dns"));
    let (port, _) = kept.ask(b"before");
    let addr = gateway.addr("dns");
    gateway.reload(&config("127.0.0.1:0", "", &[new.addr], ""));
    assert_eq!(gateway.addr("dns"), addr);
    assert_eq!(kept.ask(b"after").0, port, "the session goes on");
    assert_eq!(Client::connect(addr).ask(b"new").1, b"new");

    gateway.reload(&Config::new().listener("web", "").route("all", "respond = { status = 204 }"));
    wait::until_true("the port to be free", || UdpSocket::bind(addr).is_ok());
}

#[test]
fn a_denied_source_has_no_session() {
    let echo = Echo::start("127.0.0.1:0");
    let rules = "[[access]]\nname = 'bad'\naction = 'deny'\nsources = ['127.0.0.0/8']";
    let gateway = Gateway::start(&config("127.0.0.1:0", "", &[echo.addr], "").tables(rules));
    Client::connect(gateway.addr("dns")).0.send(b"let me in").expect("send");
    let refused =
        || gateway.metrics().sum("gateway_listener_connections_refused_total", &[("reason", "access_denied")]);
    wait::until_true("the datagram to be dropped", || refused() == 1.0);
}
