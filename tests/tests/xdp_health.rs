//! Health checks of endpoints in the modes `dsr` and `ipip`, which ask at the virtual address.
//!
//! ```text
//! gateway eth0 ──┐
//! endpoint eth0 ─┼─ switch br0
//! endpoint eth0 ─┘
//! ```
//!
//! Root only, and only with an object in the binary; elsewhere each test says that it was skipped.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::thread;

use gateway_tests::lab::{self, Namespace};
use gateway_tests::packet::flags::SYN;
use gateway_tests::packet::{self, Build, Seen, TCP};
use gateway_tests::prelude::*;
use gateway_tests::root_or_skip;
use socket2::{Domain, Socket, Type};

const GATEWAY: [&str; 2] = ["10.94.0.1", "fd94::1"];
const ENDPOINTS: [[&str; 2]; 2] = [["10.94.0.21", "fd94::21"], ["10.94.0.22", "fd94::22"]];
const VIPS: [&str; 2] = ["192.0.2.94", "2001:db8:94::1"];
const TCP_PORT: u16 = 8094;
const UDP_PORT: u16 = 5394;

#[test]
fn an_endpoint_of_mode_dsr_is_healthy_while_it_has_the_virtual_address() {
    root_or_skip!();
    let lab = Lab::new();
    lab.serve();
    // One endpoint has the IPv4 address, the other one that of IPv6.
    VIPS.iter().zip(&lab.endpoints).for_each(|(vip, endpoint)| lo(endpoint, "add", vip));
    let gateway = lab.start(&lab.config("dsr"));
    let expect = |what: &str, healthy: [[bool; 2]; 2]| {
        wait::until_true(what, || [0, 1].map(|version| lab.healthy(&gateway, version)) == healthy);
    };
    expect("who has the address to be healthy", [[true, false], [false, true]]);
    let log = gateway.process.stderr.text();
    assert!(log.contains("endpoint 10.94.0.22:8094 is unhealthy: asked at 192.0.2.94: no answer within"), "{log}");

    lo(&lab.endpoints[1], "add", VIPS[0]);
    lo(&lab.endpoints[0], "add", VIPS[1]);
    expect("all to be healthy", [[true, true], [true, true]]);
    // Where the box itself has the address, answers from it are no martians.
    VIPS.iter().for_each(|vip| lo(&lab.gateway, "add", vip));
    lo(&lab.endpoints[0], "delete", VIPS[0]);
    lo(&lab.endpoints[1], "delete", VIPS[1]);
    expect("who has lost the address to be unhealthy", [[false, true], [true, false]]);
    lo(&lab.endpoints[0], "add", VIPS[0]);
    expect("it to be healthy again", [[true, true], [true, false]]);
}

#[test]
fn a_check_of_mode_ipip_is_sent_inside_another_packet() {
    root_or_skip!();
    let lab = Lab::new();
    let wires: Vec<Socket> = lab.endpoints.iter().map(|endpoint| endpoint.enter(wire)).collect();
    let _gateway = lab.start(&lab.config("ipip"));
    for (endpoint, wire) in ENDPOINTS.iter().zip(&wires) {
        for (version, protocol) in [(0, 4), (1, 41)] {
            let [from, to, vip] = [GATEWAY, *endpoint, VIPS].map(|addresses| ip(addresses[version]));
            let outer = first(wire, |seen| seen.protocol == protocol);
            assert_eq!((outer.from.ip(), outer.to.ip()), (from, to));
            let inner = packet::see_packet(&outer.payload).unwrap();
            assert_eq!((inner.from.ip(), inner.to.ip()), (from, vip));
            assert_eq!(inner.to.port(), if inner.protocol == TCP { TCP_PORT } else { UDP_PORT });
        }
    }
}

#[test]
fn an_endpoint_behind_an_interface_without_the_programs_is_not_taken_for_one_with_the_address() {
    root_or_skip!();
    let lab = Lab::new();
    lab.serve();
    let config = lab.config("dsr").replace("interfaces = ['eth0']", "interfaces = ['lo']");
    let gateway = lab.start(&config);
    wait::until_true("all to be unhealthy", || lab.healthy(&gateway, 0) == [false, false]);
    let why = "asked at 192.0.2.94: 10.94.0.21 is reached by an interface that is not in `interfaces` of [xdp]";
    assert!(gateway.process.stderr.text().contains(why), "{}", gateway.process.stderr.text());
}

#[test]
fn an_endpoint_without_a_route_gets_flows_when_there_is_one() {
    root_or_skip!();
    let lab = Lab::new();
    let gateway = lab.start(
        "[xdp]\ninterfaces = ['eth0']\npin = 'off'\n\
         [[vip]]\nname = 'far'\naddress = '192.0.2.94:80'\ncluster = 'far'\n\
         [[cluster]]\nname = 'far'\nendpoints = ['198.51.100.94:80']\n",
    );
    let said = |what: &str| assert!(gateway.process.stderr.find(what, |line| line.contains(what)).is_some(), "{what}");
    said("xdp: no route to 198.51.100.94:80, which gets no flows until there is one");
    let metric = |name: &str, labels: &[_]| lab.gateway.enter(|| gateway.metrics()).sum(name, labels);
    let syn = Build::tcp(SYN, "10.94.0.21:1000", "192.0.2.94:80").packet();
    let connect = || lab.endpoints[0].enter(|| send(GATEWAY[0], &syn));
    wait::until_true("a packet to be dropped", || {
        connect();
        metric("gateway_xdp_packets_total", &[("reason", "no_backend")]) > 0.0
    });
    lab.gateway.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    lab.gateway.run(&["ip", "route", "add", "198.51.100.0/24", "via", ENDPOINTS[1][0]]);
    said("xdp: 198.51.100.94:80 lacks no route any more");
    assert_eq!(metric("gateway_vip_flows_total", &[]), 0.0);
    connect();
    wait::until_true("a flow to begin", || metric("gateway_vip_flows_total", &[]) == 1.0);
}

struct Lab {
    gateway: Namespace,
    endpoints: [Namespace; 2],
    _switch: Namespace,
}

impl Lab {
    fn new() -> Lab {
        let [gateway, first, second, switch] = ["gateway", "endpoint", "endpoint", "switch"].map(Namespace::new);
        switch.run(&["ip", "link", "add", "br0", "type", "bridge"]);
        switch.run(&["ip", "link", "set", "br0", "up"]);
        for (host, port, addresses) in
            [(&gateway, "port0", GATEWAY), (&first, "port1", ENDPOINTS[0]), (&second, "port2", ENDPOINTS[1])]
        {
            lab::connect((host, "eth0"), (&switch, port));
            switch.run(&["ip", "link", "set", port, "master", "br0"]);
            addresses.iter().zip([24, 64]).for_each(|(address, length)| host.add_address("eth0", ip(address), length));
        }
        for endpoint in [&first, &second] {
            endpoint.run(&["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=1"]);
        }
        Lab { gateway, endpoints: [first, second], _switch: switch }
    }

    /// A vip of each IP version, one over TCP, checked by HTTP, and one over UDP.
    fn config(&self, mode: &str) -> String {
        let [[a, a6], [b, b6]] = ENDPOINTS;
        format!(
            "[xdp]\ninterfaces = ['eth0']\npin = 'off'\n\
             [[vip]]\nname = 'v4'\naddress = '{}:{TCP_PORT}'\nmode = '{mode}'\ncluster = 'v4'\n\
             [[vip]]\nname = 'v6'\naddress = '[{}]:{UDP_PORT}'\nprotocol = 'udp'\nmode = '{mode}'\ncluster = 'v6'\n\
             [[cluster]]\nname = 'v4'\nendpoints = ['{a}:{TCP_PORT}', '{b}:{TCP_PORT}']\n\
             health_check = {{ protocol = 'http', {TIMES} }}\n\
             [[cluster]]\nname = 'v6'\nendpoints = ['[{a6}]:{UDP_PORT}', '[{b6}]:{UDP_PORT}']\n\
             health_check = {{ protocol = 'udp', send = 'well?', expect = 'well!', {TIMES} }}\n",
            VIPS[0], VIPS[1]
        )
    }

    fn start(&self, tables: &str) -> Gateway {
        self.gateway.enter(|| Gateway::start(&Config::new().tables(tables)))
    }

    fn serve(&self) {
        self.endpoints.iter().zip(ENDPOINTS).for_each(|(endpoint, addresses)| endpoint.enter(|| serve(addresses)));
    }

    /// Which endpoints of an IP version are healthy.
    fn healthy(&self, gateway: &Gateway, version: usize) -> [bool; 2] {
        let metrics = self.gateway.enter(|| gateway.metrics());
        ENDPOINTS.map(|addresses| {
            let address = SocketAddr::new(ip(addresses[version]), [TCP_PORT, UDP_PORT][version]).to_string();
            metrics.sum("gateway_cluster_endpoint_healthy", &[("endpoint", &address)]) == 1.0
        })
    }
}

/// An answer inside one machine takes no longer, also when it is busy.
const TIMES: &str = "interval = '100ms', timeout = '1s', healthy = 1, unhealthy = 1";

fn lo(machine: &Namespace, word: &str, vip: &str) {
    let (length, nodad) = if ip(vip).is_ipv4() { (32, "") } else { (128, "nodad") };
    let address = format!("{vip}/{length}");
    let words = ["ip", "address", word, &address, "dev", "lo", nodad];
    machine.run(&words[..words.len() - usize::from(nodad.is_empty() || word == "delete")]);
}

/// Answers at the endpoint's own addresses and at the virtual ones, also at those that it does not have yet, until the
/// test ends.
fn serve([_, own]: [&str; 2]) {
    std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
    let tcp = TcpListener::bind(("::", TCP_PORT)).unwrap();
    // An answer over UDP has the address that its socket is bound to.
    for address in [own, VIPS[1]] {
        let udp = UdpSocket::bind((address, UDP_PORT)).unwrap();
        thread::spawn(move || {
            let mut question = [0; 64];
            while let Ok((_, from)) = udp.recv_from(&mut question) {
                let _ = udp.send_to(b"well!", from);
            }
        });
    }
    thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
        }
    });
}

/// Sends an IP packet by the neighbour `via`, whatever its destination.
fn send(via: &str, packet: &[u8]) {
    let route = ["ip", "route", "replace", "192.0.2.0/24", "via", via];
    assert!(std::process::Command::new(route[0]).args(&route[1..]).status().unwrap().success());
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(libc::IPPROTO_RAW.into())).unwrap();
    socket.send_to(packet, &SocketAddr::new(ip(VIPS[0]), 0).into()).unwrap();
}

/// Every frame that comes to `eth0`.
fn wire() -> Socket {
    let all = i32::from((libc::ETH_P_ALL as u16).to_be());
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all.into())).unwrap();
    socket.set_read_timeout(Some(wait::DEADLINE)).unwrap();
    socket
}

/// The next packet of these; every checksum in it is right.
fn first(mut wire: &Socket, wanted: impl Fn(&Seen) -> bool) -> Seen {
    let mut frame = [0; 2048];
    loop {
        let length = wire.read(&mut frame).expect("a frame");
        match packet::see(&frame[..length]) {
            Ok(seen) if wanted(&seen) => return seen,
            _ => {}
        }
    }
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}
