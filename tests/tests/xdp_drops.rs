//! `drop_log`: what the XDP program tells of the packets that it drops, and how much at most.
//!
//! Root only, and only with an object in the binary; elsewhere each test says that it was skipped.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, SystemTime};

use gateway::config::model::{
    self, AccessAction, AccessRule, DropLog, PacketRate, VipAffinity, VipMode, VipProtocol, XdpLimits, XdpMode,
};
use gateway::xdp::{self, DropCounts, DropRing, Dropped, Service, Target, Xdp};
use gateway_tests::lab::{self, Namespace};
use gateway_tests::packet::flags::{RST, SYN};
use gateway_tests::packet::{Build, icmp};
use gateway_tests::prelude::*;
use gateway_tests::root_or_skip;
use tokio::sync::mpsc;

const CLIENT: &str = "10.95.0.2";
const GATEWAY: &str = "10.95.0.1";

#[test]
fn a_line_says_what_was_dropped_and_by_whom() {
    root_or_skip!();
    let namespace = Namespace::new("gateway");
    let access = [denied("unused", "192.0.2.1"), denied("bad", "192.0.2.2"), denied("bad6", "2001:db8::2")];
    let limits = XdpLimits { syn: Some(PacketRate { per_second: 1, burst: 1 }), ..XdpLimits::default() };
    let config = model::Xdp { limits, ..on(Some(1000)) };
    let mut xdp = namespace.enter(|| xdp::attach(&config, &access).unwrap());
    let ring = xdp.take_drops().expect("XDP is on");
    assert!(xdp.take_drops().is_none(), "there is one ring");
    xdp.ban("192.0.2.3/32".parse().unwrap(), SystemTime::now() + Duration::from_secs(600)).unwrap();
    namespace
        .enter(|| xdp.sync_services(&[empty("web", "198.51.100.1:80"), empty("web6", "[2001:db8::80]:80")]).unwrap());

    let tagged = Build { tags: vec![(0x88a8, 1), (0x8100, 2)], ..Build::udp("[2001:db8::2]:7", "[2001:db8::1]:9") };
    let cases = [
        (
            Build::tcp(SYN, "192.0.2.2:1000", "198.51.100.1:80").frame(),
            "reason=denied_v4 rule=\"bad\" protocol=tcp source=192.0.2.2:1000 destination=198.51.100.1:80 interface=lo",
        ),
        (
            icmp("192.0.2.2", "198.51.100.1", 8, 0, [0; 4], &[]),
            "reason=denied_v4 rule=\"bad\" protocol=icmp source=192.0.2.2 destination=198.51.100.1 interface=lo",
        ),
        (
            tagged.frame(),
            "reason=denied_v6 rule=\"bad6\" protocol=udp source=[2001:db8::2]:7 destination=[2001:db8::1]:9 interface=lo",
        ),
        (
            Build::udp("192.0.2.3:53", "198.51.100.9:1").frame(),
            "reason=banned protocol=udp source=192.0.2.3:53 destination=198.51.100.9:1 interface=lo",
        ),
        (
            Build::tcp(SYN, "192.0.2.4:1000", "198.51.100.1:80").frame(),
            "reason=no_backend vip=\"web\" protocol=tcp source=192.0.2.4:1000 destination=198.51.100.1:80 interface=lo",
        ),
        (
            Build::tcp(SYN, "192.0.2.4:1001", "198.51.100.1:80").frame(),
            "reason=syn_limit limit=1/s protocol=tcp source=192.0.2.4:1001 destination=198.51.100.1:80 interface=lo",
        ),
        (
            Build::tcp(RST, "[2001:db8::5]:1", "[2001:db8::80]:80").frame(),
            "reason=no_flow vip=\"web6\" protocol=tcp source=[2001:db8::5]:1 destination=[2001:db8::80]:80 interface=lo",
        ),
    ];
    for (frame, _) in &cases {
        xdp.probe(frame, 1).unwrap();
    }
    // What passes is not told.
    xdp.probe(&Build::udp("192.0.2.9:1", "198.51.100.9:1").frame(), 1).unwrap();
    let dropped = read(ring, cases.len() as u64);
    for (dropped, (_, expected)) in dropped.iter().zip(&cases) {
        assert_eq!(xdp.drop_line(dropped).unwrap(), format!("xdp: drop {expected}"));
    }
    assert_eq!(xdp.drop_counts().unwrap(), Some(DropCounts { logged: cases.len() as u64, omitted: 0 }));
}

#[test]
fn a_flood_gets_no_more_lines_than_it_may_and_the_rest_is_counted() {
    root_or_skip!();
    const FLOOD: u64 = 200_000;
    let namespace = Namespace::new("gateway");
    let access = [denied("bad", "192.0.2.2")];
    let mut xdp = namespace.enter(|| xdp::attach(&on(None), &access).unwrap());
    let ring = xdp.take_drops().expect("XDP is on");
    let frame = Build::udp("192.0.2.2:7", "198.51.100.1:9").frame();
    let flood = |xdp: &Xdp| xdp.probe(&frame, FLOOD as u32).unwrap().unwrap();
    flood(&xdp);
    assert_eq!(xdp.drop_counts().unwrap(), Some(DropCounts::default()), "nobody asked");

    namespace.enter(|| xdp.sync(&on(Some(10)), &access).unwrap());
    flood(&xdp);
    let untold = xdp.drop_counts().unwrap().unwrap().omitted;
    let told = FLOOD - untold;
    // A clock tick may come in between, and the run may move to another CPU.
    assert!((10..=100).contains(&told), "{told} told");
    let dropped = read(ring, told);
    let lines: Vec<String> = dropped.iter().filter_map(|dropped| xdp.drop_line(dropped)).collect();
    assert_eq!(lines.len(), 10);
    assert_eq!(xdp.drop_counts().unwrap(), Some(DropCounts { logged: 10, omitted: FLOOD - 10 }));

    namespace.enter(|| xdp.sync(&on(None), &access).unwrap());
    flood(&xdp);
    assert_eq!(xdp.drop_counts().unwrap(), Some(DropCounts { logged: 10, omitted: FLOOD - 10 }), "off again");
}

#[test]
fn a_reload_turns_the_lines_on_and_off_and_keeps_the_program() {
    root_or_skip!();
    let (client, machine) = (Namespace::new("client"), Namespace::new("gateway"));
    lab::connect((&client, "eth0"), (&machine, "eth0"));
    for (namespace, address) in [(&client, CLIENT), (&machine, GATEWAY)] {
        namespace.add_address("eth0", address.parse().unwrap(), 24);
    }
    let config = |drop_log: &str| {
        Config::new().tables(&format!(
            "[xdp]\ninterfaces = ['eth0']\npin = 'off'\n{drop_log}\n\
             [[access]]\nname = 'bad'\naction = 'deny'\nsources = ['{CLIENT}']\n"
        ))
    };
    let mut gateway = machine.enter(|| Gateway::start(&config("")));
    let socket = client.enter(|| UdpSocket::bind((CLIENT, 0)).unwrap());
    let port = socket.local_addr().unwrap().port();
    let flood = |packets: u64| (0..packets).for_each(|_| _ = socket.send_to(b"x", (GATEWAY, 9)).unwrap());
    let counted = |gateway: &Gateway| {
        let metrics = machine.enter(|| gateway.metrics());
        let log = |result| metrics.sum("gateway_xdp_drop_log_packets_total", &[("result", result)]) as u64;
        let dropped = metrics.sum("gateway_xdp_packets_total", &[("reason", "denied_v4")]) as u64;
        (dropped, log("written"), log("omitted"))
    };
    flood(3);
    wait::until_true("the packets to be dropped", || counted(&gateway) == (3, 0, 0));

    let program = program_id(&machine);
    machine.enter(|| gateway.reload(&config("drop_log = { per_second = 2 }")));
    flood(500);
    wait::until_true("every packet to be counted", || {
        let (dropped, written, omitted) = counted(&gateway);
        dropped == 503 && written + omitted == 500 && (1..=100).contains(&written)
    });
    let line = format!(
        "xdp: drop reason=denied_v4 rule=\"bad\" protocol=udp source={CLIENT}:{port} destination={GATEWAY}:9 \
         interface=eth0"
    );
    assert!(gateway.process.stderr.find("the line of a drop", |logged| logged.contains(&line)).is_some());
    machine.enter(|| gateway.reload(&config("")));
    flood(3);
    wait::until_true("the packets to be dropped", || {
        let (dropped, written, omitted) = counted(&gateway);
        dropped == 506 && written + omitted == 500
    });
    assert_eq!(program_id(&machine), program, "the program was not loaded again");
}

/// The first `count` drops in the ring.
fn read(ring: DropRing, count: u64) -> Vec<Dropped> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let reading = tokio::spawn(ring.run(move |dropped| _ = sender.send(dropped)));
        let mut dropped = Vec::new();
        for _ in 0..count {
            let next = tokio::time::timeout(wait::DEADLINE, receiver.recv()).await;
            dropped.push(next.expect("the drop is in the ring").expect("the ring is read"));
        }
        reading.abort();
        dropped
    })
}

fn on(per_second: Option<u32>) -> model::Xdp {
    let drop_log = per_second.map(|per_second| DropLog { per_second });
    model::Xdp { interfaces: vec!["lo".into()], mode: XdpMode::Auto, pin: None, drop_log, ..model::Xdp::default() }
}

fn denied(name: &str, source: &str) -> AccessRule {
    let sources = vec![source.parse::<IpAddr>().unwrap().into()];
    let action = AccessAction::Deny;
    AccessRule { name: name.into(), action, protocol: None, ports: Vec::new(), sources, expiring: Vec::new() }
}

/// A service that nobody serves.
fn empty(name: &str, address: &str) -> Service {
    let (mode, affinity) = (VipMode::Nat, VipAffinity::Flow);
    let target = Target::Backends { mode, affinity, backends: Vec::new() };
    let address = address.parse().unwrap();
    Service { name: name.into(), address, protocol: VipProtocol::Tcp, target, drain: false }
}

/// The number of the program on `eth0`.
fn program_id(namespace: &Namespace) -> String {
    let output = Command::new("ip").args(["-netns", namespace.name(), "link", "show", "eth0"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("prog/xdp")).unwrap_or_else(|| panic!("no program: {text}"));
    line.trim().to_owned()
}
