//! The L4 balancer with real TCP and UDP between network namespaces.
//!
//! ```text
//! two arms:  client ──── gateway ─┬── endpoint 0        one arm:  client ───┐
//!                                 └── router ── endpoint 1      gateway ── switch
//!                                                            endpoints ─────┘
//! ```
//!
//! Root only, and only with an object in the binary: `cargo xtask test` provides both. Elsewhere each test says that it
//! was skipped.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime};

use gateway::config::model::{self, PacketRate, VipAffinity, VipMode, VipProtocol, XdpLimits, XdpMode};
use gateway::xdp::{self, Backend, Reason, Service, Target, Xdp};
use gateway_tests::curl::curl;
use gateway_tests::lab::{self, Namespace};
use gateway_tests::nginx::Nginx;
use gateway_tests::root_or_skip;
use gateway_tests::wait;

/// A SYN that is lost is sent again after a second; nothing here takes longer than a few of them.
const DEADLINE: Duration = Duration::from_secs(20);

const PORT: u16 = 8080;
const VIPS: [&str; 2] = ["203.0.113.1:80", "[2001:db8:f::1]:80"];

#[test]
fn nat_and_dnat_carry_downloads_and_datagrams_over_two_arms() {
    root_or_skip!();
    let mut net = Network::two_arms();
    net.attach(&["eth0", "eth1", "eth2"]);
    for mode in [VipMode::Nat, VipMode::Dnat] {
        net.serve(mode, &[0, 1]);
        for vip in VIPS {
            let mut seen = [0, 0];
            for _ in 0..8 {
                seen[net.exchange(vip, 1_000, 4 << 20)] += 1;
                seen[net.ask(vip)] += 1;
            }
            assert!(seen[0] > 0 && seen[1] > 0, "{mode:?} {vip}: {seen:?}");
        }
    }
    let counters = net.xdp().counters().unwrap();
    assert!(counters.packets(Reason::Forwarded) > 1_000, "{counters:?}");
}

#[test]
fn nat_and_dsr_work_over_one_arm() {
    root_or_skip!();
    let mut net = Network::one_arm();
    net.attach(&["eth0"]);
    for mode in [VipMode::Nat, VipMode::Dsr] {
        net.serve(mode, &[0, 1]);
        for vip in VIPS {
            let mut seen = [0, 0];
            for _ in 0..8 {
                seen[net.exchange(vip, 1_000, 4 << 20)] += 1;
                seen[net.ask(vip)] += 1;
            }
            assert!(seen[0] > 0 && seen[1] > 0, "{mode:?} {vip}: {seen:?}");
        }
    }
}

/// Only the router before endpoint 1 knows that its next link is narrow.
#[test]
fn path_mtu_discovery_works_through_nat() {
    root_or_skip!();
    let mut net = Network::two_arms();
    net.namespaces[ROUTER].run(&["ip", "link", "set", "eth1", "mtu", "1300"]);
    net.attach(&["eth0", "eth1", "eth2"]);
    net.serve(VipMode::Nat, &[1]);
    for vip in VIPS {
        assert_eq!(net.exchange(vip, 1 << 20, 1_000), 1);
    }
}

#[test]
fn the_death_of_an_endpoint_moves_only_its_connections() {
    root_or_skip!();
    let mut net = Network::two_arms();
    net.attach(&["eth0", "eth1", "eth2"]);
    net.serve(VipMode::Nat, &[0, 1]);
    for vip in VIPS {
        net.serve(VipMode::Nat, &[0, 1]);
        let connections: Vec<(usize, TcpStream)> = (0..12).map(|_| net.open(vip)).collect();
        assert!((0..2).all(|one| connections.iter().any(|(endpoint, _)| *endpoint == one)));
        net.serve(VipMode::Nat, &[1]);
        for (endpoint, mut connection) in connections {
            let goes_on = request(&mut connection, 10, 10).is_ok();
            assert_eq!(goes_on, endpoint == 1, "{vip}: a connection to endpoint {endpoint}");
        }
        assert_eq!(net.exchange(vip, 10, 10), 1, "new ones go to the other");
    }
}

#[test]
fn generic_mode_carries_downloads_too() {
    root_or_skip!();
    // GRO is on, and would put segments together that are too large to be sent on: the kernel leaves it out.
    let mut net = Network::two_arms();
    net.attach_with(&["eth0", "eth1", "eth2"], model::Xdp { mode: XdpMode::Generic, ..model::Xdp::default() });
    net.serve(VipMode::Nat, &[0, 1]);
    for vip in VIPS {
        net.exchange(vip, 1 << 20, 1 << 20);
        net.ask(vip);
    }
}

#[test]
fn with_source_affinity_all_connections_of_a_client_meet_one_endpoint() {
    root_or_skip!();
    let mut net = Network::two_arms();
    net.attach(&["eth0", "eth1", "eth2"]);
    for mode in [VipMode::Nat, VipMode::Dnat] {
        net.serve_with(mode, VipAffinity::Source, &[0, 1], &[0, 1]);
        for vip in VIPS {
            let first = net.open(vip).0;
            assert!((0..8).all(|_| net.open(vip).0 == first), "{mode:?} {vip}");
        }
    }
}

/// Many connections ask all the time, over both IP versions, while endpoint 0 leaves the service and comes back.
#[test]
fn an_endpoint_taken_away_under_load_takes_only_its_connections_with_it() {
    root_or_skip!();
    let mut net = Network::two_arms();
    net.attach(&["eth0", "eth1", "eth2"]);
    net.serve(VipMode::Nat, &[0, 1]);
    let connections: Vec<(usize, TcpStream)> = (0..32).map(|n| net.open(VIPS[n % 2])).collect();
    assert!((0..2).all(|one| connections.iter().filter(|(endpoint, _)| *endpoint == one).count() > 4));
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let wait_for_more = || {
        let before = asked.load(Relaxed);
        wait::until_true("connections to go on", || asked.load(Relaxed) > before + 200);
    };
    thread::scope(|scope| {
        let load = |(endpoint, mut stream): (usize, TcpStream)| {
            let (stop, asked) = (&stop, &asked);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    match request(&mut stream, 100, 1_000) {
                        Ok(by) => assert_eq!(by, endpoint),
                        Err(_) => return (endpoint, false),
                    }
                    asked.fetch_add(1, Relaxed);
                }
                (endpoint, true)
            })
        };
        let loads: Vec<_> = connections.into_iter().map(load).collect();
        wait_for_more();
        net.serve_with(VipMode::Nat, VipAffinity::Flow, &[1], &[1]);
        wait_for_more();
        assert!(VIPS.iter().all(|vip| net.open(vip).0 == 1), "new ones go to the other");
        net.serve(VipMode::Nat, &[0, 1]);
        wait_for_more();
        stop.store(true, Relaxed);
        for load in loads {
            let (endpoint, went_on) = load.join().unwrap();
            assert_eq!(went_on, endpoint == 1, "a connection to endpoint {endpoint}");
        }
    });
}

#[test]
fn a_client_is_limited_and_banned_before_it_meets_an_endpoint() {
    root_or_skip!();
    let mut net = Network::two_arms();
    let limits = XdpLimits { syn: Some(PacketRate { per_second: 1, burst: 5 }), ..XdpLimits::default() };
    net.attach_with(&["eth0", "eth1", "eth2"], model::Xdp { limits, ..model::Xdp::default() });
    net.serve(VipMode::Nat, &[0, 1]);
    for vip in VIPS {
        let answered = (0..20).filter(|_| net.is_answered(vip)).count();
        // The kernel sends a SYN again after a second, when there is room for one more.
        assert!((5..=15).contains(&answered), "{vip}: {answered} of 20");
    }
    let config = model::Xdp { limits: XdpLimits::default(), ..net.config.clone() };
    let later = SystemTime::now() + Duration::from_secs(3_600);
    let xdp = net.xdp.as_mut().unwrap();
    net.namespaces[GATEWAY].enter(|| xdp.sync(&config, &[]).unwrap());
    for (vip, client) in VIPS.into_iter().zip(["198.51.100.2/32", "2001:db8:c::/64"]) {
        let client = client.parse().unwrap();
        let (_, mut open) = net.open(vip);
        net.xdp.as_mut().unwrap().ban(client, later).unwrap();
        assert!(!net.is_answered(vip), "{vip}");
        open.set_read_timeout(Some(NO_ANSWER)).unwrap();
        assert!(request(&mut open, 1, 1).is_err(), "{vip}: its open connection too");
        net.xdp.as_mut().unwrap().unban(client, false).unwrap();
        assert!(net.is_answered(vip), "{vip}");
    }
}

#[test]
fn curl_gets_pages_of_nginx_in_every_mode() {
    root_or_skip!();
    type Topology = (fn() -> Network, &'static [&'static str], [VipMode; 2]);
    let cases: [Topology; 2] = [
        (Network::two_arms, &["eth0", "eth1", "eth2"], [VipMode::Nat, VipMode::Dnat]),
        (Network::one_arm, &["eth0"], [VipMode::Nat, VipMode::Dsr]),
    ];
    for (make, interfaces, modes) in cases {
        let mut net = make();
        let pages = [0, 1].map(|n: usize| {
            let server = format!("location / {{ return 200 {n}; }}");
            net.namespaces[ENDPOINTS[n]].enter(|| Nginx::start_on_all(WEB_PORT, &server))
        });
        net.attach(interfaces);
        for mode in modes {
            net.serve(mode, &[0, 1]);
            for vip in VIPS.map(at) {
                let url = format!("http://{}/", SocketAddr::new(vip.ip(), WEB_PORT));
                let seen: BTreeSet<String> = (0..12).map(|_| net.namespaces[CLIENT].enter(|| curl(&[&url]))).collect();
                assert_eq!(seen, ["0", "1"].map(String::from).into(), "{mode:?} {url}");
            }
        }
        drop(pages);
    }
}

/// Where nginx listens; a service has it on both sides.
const WEB_PORT: u16 = 8088;

/// Longer than any answer inside one machine takes.
const NO_ANSWER: Duration = Duration::from_millis(300);

const CLIENT: usize = 0;
const GATEWAY: usize = 1;
const ENDPOINTS: [usize; 2] = [2, 3];
const ROUTER: usize = 4;

/// The addresses of one end of a link.
type Addresses = [&'static str; 2];

struct Network {
    namespaces: Vec<Namespace>,
    endpoints: [Addresses; 2],
    config: model::Xdp,
    xdp: Option<Xdp>,
}

impl Network {
    fn hosts() -> Vec<Namespace> {
        let namespaces: Vec<Namespace> =
            ["client", "gateway", "endpoint0", "endpoint1", "router"].map(Namespace::new).into();
        for forwarder in [GATEWAY, ROUTER] {
            namespaces[forwarder].enter(|| {
                // `accept_local`: the stack gets translated packets, whose source is its own, until it knows the way.
                for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/accept_local"] {
                    set(name, "1");
                }
            });
        }
        namespaces
    }

    fn two_arms() -> Network {
        let namespaces = Network::hosts();
        let endpoints = [["10.1.0.2", "fd01::2"], ["10.3.0.2", "fd03::2"]];
        let n = &namespaces;
        link(
            n,
            (CLIENT, "eth0", ["198.51.100.2", "2001:db8:c::2"]),
            (GATEWAY, "eth0", ["198.51.100.1", "2001:db8:c::1"]),
        );
        link(n, (GATEWAY, "eth1", ["10.1.0.1", "fd01::1"]), (ENDPOINTS[0], "eth0", endpoints[0]));
        link(n, (GATEWAY, "eth2", ["10.2.0.1", "fd02::1"]), (ROUTER, "eth0", ["10.2.0.2", "fd02::2"]));
        link(n, (ROUTER, "eth1", ["10.3.0.1", "fd03::1"]), (ENDPOINTS[1], "eth0", endpoints[1]));
        route(&n[CLIENT], ["default", "default"], ["198.51.100.1", "2001:db8:c::1"]);
        route(&n[ENDPOINTS[0]], ["default", "default"], ["10.1.0.1", "fd01::1"]);
        route(&n[ENDPOINTS[1]], ["default", "default"], ["10.3.0.1", "fd03::1"]);
        route(&n[ROUTER], ["default", "default"], ["10.2.0.1", "fd02::1"]);
        route(&n[GATEWAY], ["10.3.0.0/24", "fd03::/64"], ["10.2.0.2", "fd02::2"]);
        Network::with_servers(namespaces, endpoints)
    }

    /// Everybody in one Ethernet; the endpoints have the virtual addresses and keep silent about them.
    fn one_arm() -> Network {
        let namespaces = Network::hosts();
        let endpoints = [["10.5.0.3", "fd05::3"], ["10.5.0.4", "fd05::4"]];
        let n = &namespaces;
        let addresses = [["10.5.0.2", "fd05::2"], ["10.5.0.1", "fd05::1"], endpoints[0], endpoints[1]];
        n[ROUTER].run(&["ip", "link", "add", "br0", "type", "bridge"]);
        n[ROUTER].run(&["ip", "link", "set", "br0", "up"]);
        for (host, addresses) in addresses.into_iter().enumerate() {
            let port = format!("port{host}");
            lab::connect((&n[host], "eth0"), (&n[ROUTER], &port));
            n[ROUTER].run(&["ip", "link", "set", &port, "master", "br0"]);
            add(&n[host], "eth0", addresses);
        }
        for endpoint in ENDPOINTS {
            n[endpoint].enter(|| set("ipv4/conf/all/arp_ignore", "1"));
            for vip in VIPS {
                let vip = at(vip).ip();
                n[endpoint].add_address("lo", vip, if vip.is_ipv4() { 32 } else { 128 });
            }
        }
        route(&n[CLIENT], ["203.0.113.1/32", "2001:db8:f::1/128"], ["10.5.0.1", "fd05::1"]);
        Network::with_servers(namespaces, endpoints)
    }

    fn with_servers(namespaces: Vec<Namespace>, endpoints: [Addresses; 2]) -> Network {
        for (index, endpoint) in ENDPOINTS.into_iter().enumerate() {
            // One for the port of the endpoints, one for that of the virtual addresses, which mode `dsr` keeps.
            for port in [PORT, at(VIPS[0]).port()] {
                namespaces[endpoint].enter(|| listen(index as u8, port));
            }
        }
        Network { namespaces, endpoints, config: model::Xdp::default(), xdp: None }
    }

    fn attach(&mut self, interfaces: &[&str]) {
        self.attach_with(interfaces, model::Xdp { mode: XdpMode::Native, ..model::Xdp::default() });
    }

    fn attach_with(&mut self, interfaces: &[&str], config: model::Xdp) {
        let interfaces = interfaces.iter().map(|name| name.to_string()).collect();
        self.config = model::Xdp { interfaces, pin: None, ..config };
        self.xdp = Some(self.namespaces[GATEWAY].enter(|| xdp::attach(&self.config, &[]).unwrap()));
        // The neighbours are known, as health checks would make them.
        self.namespaces[GATEWAY].enter(|| {
            for address in self.endpoints.iter().flatten() {
                let address: IpAddr = address.parse().unwrap();
                TcpStream::connect_timeout(&(address, PORT).into(), DEADLINE).unwrap();
            }
        });
    }

    fn xdp(&self) -> &Xdp {
        self.xdp.as_ref().unwrap()
    }

    fn serve(&mut self, mode: VipMode, alive: &[usize]) {
        self.serve_with(mode, VipAffinity::Flow, &[0, 1], alive);
    }

    /// With some of the endpoints, of which some are alive.
    fn serve_with(&mut self, mode: VipMode, affinity: VipAffinity, present: &[usize], alive: &[usize]) {
        let mut services = Vec::new();
        let ports = [(at(VIPS[0]).port(), PORT), (WEB_PORT, WEB_PORT)];
        for ((version, vip), (port, backend_port)) in
            VIPS.into_iter().enumerate().flat_map(|vip| ports.map(|ports| (vip, ports)))
        {
            for protocol in [VipProtocol::Tcp, VipProtocol::Udp] {
                let backend = |&index: &usize| Backend {
                    address: (self.endpoints[index][version].parse::<IpAddr>().unwrap(), backend_port).into(),
                    weight: 1,
                    alive: alive.contains(&index),
                };
                let backends = present.iter().map(backend).collect();
                services.push(Service {
                    name: "service".into(),
                    address: SocketAddr::new(at(vip).ip(), port),
                    protocol,
                    target: Target::Backends { mode, affinity, backends },
                    drain: false,
                });
            }
        }
        let xdp = self.xdp.as_mut().unwrap();
        self.namespaces[GATEWAY].enter(|| xdp.sync_services(&services).unwrap());
    }

    /// Whether a connection is made at once.
    fn is_answered(&self, vip: &str) -> bool {
        self.namespaces[CLIENT].enter(|| TcpStream::connect_timeout(&at(vip), NO_ANSWER).is_ok())
    }

    /// A new connection, and which endpoint has it.
    fn open(&self, vip: &str) -> (usize, TcpStream) {
        self.namespaces[CLIENT].enter(|| {
            let mut stream = TcpStream::connect_timeout(&at(vip), DEADLINE)
                .unwrap_or_else(|error| panic!("{vip}: {error}; {:?}", self.xdp().counters().unwrap()));
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let endpoint = request(&mut stream, 0, 0).unwrap();
            (endpoint, stream)
        })
    }

    /// Sends and receives this many bytes on a new connection; gives the endpoint that had it.
    fn exchange(&self, vip: &str, up: u32, down: u32) -> usize {
        let (endpoint, mut stream) = self.open(vip);
        let answered = request(&mut stream, up, down);
        assert_eq!(answered.unwrap_or_else(|error| panic!("{vip}: {error}; {:?}", self.xdp().counters())), endpoint);
        endpoint
    }

    /// A datagram and its answer; gives the endpoint that had it. A lost datagram is sent again.
    fn ask(&self, vip: &str) -> usize {
        self.namespaces[CLIENT].enter(|| {
            let any: IpAddr = if at(vip).is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.connect(at(vip)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let question = [7; 1_400];
            let mut answer = [0; 2_000];
            for _ in 0..DEADLINE.as_secs() {
                socket.send(&question).unwrap();
                if let Ok(length) = socket.recv(&mut answer) {
                    assert_eq!(length, question.len() + 1);
                    return usize::from(answer[0]);
                }
            }
            panic!("{vip}: no answer; {:?}", self.xdp().counters().unwrap());
        })
    }
}

/// Sends how much goes up and down, and the former; receives the endpoint's number and the latter.
fn request(stream: &mut TcpStream, up: u32, down: u32) -> io::Result<usize> {
    stream.write_all(&[up.to_be_bytes(), down.to_be_bytes()].concat())?;
    stream.write_all(&pattern(up))?;
    let mut answer = vec![0; down as usize + 1];
    stream.read_exact(&mut answer)?;
    assert!(answer[1..] == pattern(down), "the content of the answer");
    Ok(usize::from(answer[0]))
}

/// Answers connections and datagrams with this number, until the process ends.
fn listen(number: u8, port: u16) {
    let tcp = TcpListener::bind(("::", port)).unwrap();
    thread::spawn(move || {
        for stream in tcp.incoming() {
            thread::spawn(move || while serve(stream.as_ref().unwrap(), number).is_ok() {});
        }
    });
    for vip in VIPS.map(at) {
        let any: IpAddr = if vip.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
        // In mode `dsr` an answer's source is the virtual address, which the endpoint then has.
        let at_the_vip = (port == vip.port()).then(|| bind(vip)).and_then(Result::ok);
        let socket = at_the_vip.unwrap_or_else(|| bind((any, port).into()).unwrap());
        thread::spawn(move || answer(&socket, number));
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn answer(socket: &UdpSocket, number: u8) {
    let mut datagram = [0; 2_000];
    while let Ok((length, from)) = socket.recv_from(&mut datagram) {
        let _ = socket.send_to(&[&[number], &datagram[..length]].concat(), from);
    }
}

fn serve(mut stream: &TcpStream, number: u8) -> io::Result<()> {
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let [up, down] = [0, 4].map(|at| u32::from_be_bytes(std::array::from_fn(|i| head[at + i])));
    let mut body = vec![0; up as usize];
    stream.read_exact(&mut body)?;
    assert!(body == pattern(up), "the content of the question");
    stream.write_all(&[number])?;
    stream.write_all(&pattern(down))
}

/// Bytes of which no piece is like its neighbour.
fn pattern(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect()
}

fn link(
    namespaces: &[Namespace],
    (a, a_interface, a_addresses): (usize, &str, Addresses),
    (b, b_interface, b_addresses): (usize, &str, Addresses),
) {
    lab::connect((&namespaces[a], a_interface), (&namespaces[b], b_interface));
    add(&namespaces[a], a_interface, a_addresses);
    add(&namespaces[b], b_interface, b_addresses);
}

fn add(namespace: &Namespace, interface: &str, [v4, v6]: Addresses) {
    namespace.add_address(interface, v4.parse().unwrap(), 24);
    namespace.add_address(interface, v6.parse().unwrap(), 64);
}

fn route(namespace: &Namespace, to: Addresses, via: Addresses) {
    for (to, via) in to.into_iter().zip(via) {
        let version = if via.contains(':') { "-6" } else { "-4" };
        namespace.run(&["ip", version, "route", "add", to, "via", via]);
    }
}

fn set(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}
