//! What the gateway does to every connection (access rules) and every request (who the client is).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::SystemTime;

use divan::{Bencher, black_box};
use gateway::config::model::{AccessAction, AccessRule, VipProtocol};
use gateway::filter::access::{AccessList, Knock};
use gateway::filter::forwarded::{Peer, TrustedProxies};
use gateway::proto::head::RequestHead;

fn main() {
    divan::main();
}

#[divan::bench(sample_size = 16_384)]
fn verdict_among_100_000_networks(bencher: Bencher<'_, '_>) {
    let list = AccessList::build(&rules());
    let knock = Knock { protocol: VipProtocol::Tcp, port: 443, now: SystemTime::UNIX_EPOCH };
    let mut ip = 0u32;
    bencher.bench_local(move || {
        ip = ip.wrapping_add(0x9e37_79b9);
        list.verdict(IpAddr::V4(Ipv4Addr::from_bits(ip)), knock)
    });
}

#[divan::bench]
fn build_of_100_000_networks(bencher: Bencher<'_, '_>) {
    let rules = rules();
    bencher.bench_local(|| AccessList::build(black_box(&rules)));
}

/// A request of ten fields; the second figure is from a trusted proxy that names a client.
#[divan::bench(args = ["203.0.113.1", "10.0.0.1"])]
fn prepare(bencher: Bencher<'_, '_>, peer: &str) {
    let trusted = TrustedProxies::build(&["10.0.0.0/8".parse().expect("a network")], 0);
    let peer = Peer::new(SocketAddr::new(peer.parse().expect("an address"), 5000), true);
    let mut head = RequestHead { authority: b"api.example.com".into(), ..RequestHead::default() };
    let mut scratch = Vec::new();
    bencher.bench_local(move || {
        head.headers.clear();
        for name in [b"accept-a", b"accept-b", b"accept-c", b"accept-d", b"accept-e", b"accept-f", b"accept-g"] {
            head.headers.append_raw(name, b"a value of some length");
        }
        head.headers.append_raw(b"x-forwarded-for", b"198.51.100.7, 10.0.0.9");
        let client = trusted.client_ip(&peer, &head.headers);
        trusted.prepare(&peer, &mut head, black_box([1, 2]), &mut scratch);
        client
    });
}

/// Networks all over the address space, /16 to /32.
fn rules() -> [AccessRule; 1] {
    let network = |n: u32| {
        let ip = Ipv4Addr::from_bits(n.wrapping_mul(0x9e37_79b9));
        ipnet(ip, 16 + (n % 17) as u8)
    };
    [AccessRule {
        name: "deny".into(),
        action: AccessAction::Deny,
        protocol: None,
        ports: Vec::new(),
        sources: (0..100_000).map(network).collect(),
        expiring: Vec::new(),
    }]
}

fn ipnet(ip: Ipv4Addr, prefix_len: u8) -> ipnet::IpNet {
    ipnet::Ipv4Net::new(ip, prefix_len).expect("at most 32").into()
}
