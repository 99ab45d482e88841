//! Pins: the kernel's side outlives the process, the next process takes over, and `detach` leaves nothing.
//!
//! Root only, and only with an object in the binary; elsewhere each test says that it was skipped. Each has a BPF file
//! system and network namespaces of its own.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use gateway::config::model::{self, AccessAction, AccessRule, FlowLimits, VipAffinity, VipMode, VipProtocol, XdpMode};
use gateway::xdp::{self, Attached, Backend, Detached, Interface, Reason, Service, Target, Xdp};
use gateway_ebpf::abi::{VERSION, names};
use gateway_tests::lab::{self, BpfFileSystem, Namespace};
use gateway_tests::root_or_skip;

const DENIED: &str = "203.0.113.9";
const GOOD: &str = "192.0.2.9";

#[test]
fn a_process_that_ends_leaves_the_program_and_the_next_one_takes_over() {
    root_or_skip!();
    let (bpf, gateway) = (BpfFileSystem::mount(), lab());
    let config = pinned(&bpf, &["eth0"], XdpMode::Auto);
    let first = attach(&gateway, &config);
    assert_eq!(lines(&first), ["xdp: eth0 native"]);
    first.probe(&v4(DENIED), 3).unwrap();
    let (program, link) = (program_id(&gateway, "eth0").expect("attached"), files(&bpf));
    drop(first);
    assert_eq!(program_id(&gateway, "eth0").as_ref(), Some(&program), "the program went with the process");

    let second = attach(&gateway, &config);
    assert_eq!(lines(&second), ["xdp: eth0 native, taken over from the process before"]);
    assert_ne!(program_id(&gateway, "eth0").expect("attached"), program, "the old program is still there");
    assert_eq!(files(&bpf), link, "the files are the same");
    second.probe(&v4(DENIED), 1).unwrap();
    assert_eq!(second.counters().unwrap().packets(Reason::DeniedV4), 4, "counters go on");
    drop(second);

    let detached = xdp::detach(&bpf.root()).unwrap();
    assert_eq!(detached.interfaces, 1);
    assert!(detached.maps >= 1);
    assert_eq!(program_id(&gateway, "eth0"), None, "detached");
    assert!(!bpf.root().exists(), "{:?} is left", files(&bpf));
    assert_eq!(xdp::detach(&bpf.root()).unwrap(), Detached::default(), "there is nothing to detach twice");
}

#[test]
fn detach_works_while_the_process_runs() {
    root_or_skip!();
    let (bpf, gateway) = (BpfFileSystem::mount(), lab());
    let running = attach(&gateway, &pinned(&bpf, &["eth0", "eth1"], XdpMode::Generic));
    let modes = || gateway.enter(|| running.interfaces().iter().map(Interface::running).collect::<Vec<_>>());
    assert_eq!(modes(), [Some(Attached::Generic); 2]);
    gateway.run(&["ip", "link", "delete", "eth1"]);
    assert_eq!(modes(), [Some(Attached::Generic), None], "eth1 is gone");
    assert_eq!(xdp::detach(&bpf.root()).unwrap().interfaces, 2);
    assert_eq!(program_id(&gateway, "eth0"), None);
    assert_eq!(modes(), [None; 2], "eth0 was detached");
    drop(running);
}

#[test]
fn a_new_process_detaches_what_its_configuration_does_not_have() {
    root_or_skip!();
    let (bpf, gateway) = (BpfFileSystem::mount(), lab());
    drop(attach(&gateway, &pinned(&bpf, &["eth0", "eth1"], XdpMode::Generic)));
    let xdp = attach(&gateway, &pinned(&bpf, &["eth1"], XdpMode::Native));
    assert_eq!(lines(&xdp), ["xdp: eth1 native"], "another mode cannot be taken over");
    assert_eq!(program_id(&gateway, "eth0"), None, "eth0 is still attached");
    drop(xdp);
    xdp::detach(&bpf.root()).unwrap();
}

#[test]
fn a_reload_detaches_what_it_takes_away_although_it_is_pinned() {
    root_or_skip!();
    let (bpf, gateway) = (BpfFileSystem::mount(), lab());
    let mut xdp = attach(&gateway, &pinned(&bpf, &["eth0", "eth1"], XdpMode::Auto));
    gateway.enter(|| xdp.sync(&pinned(&bpf, &["eth1"], XdpMode::Auto), &access()).unwrap());
    assert_eq!(program_id(&gateway, "eth0"), None, "eth0 is still attached");
    gateway.enter(|| xdp.sync(&pinned(&bpf, &["eth1"], XdpMode::Generic), &access()).unwrap());
    assert_eq!(lines(&xdp), ["xdp: eth1 generic"]);
    gateway.enter(|| xdp.sync(&pinned(&bpf, &[], XdpMode::Auto), &access()).unwrap());
    assert_eq!(program_id(&gateway, "eth1"), None, "eth1 is still attached");
    assert!(!files(&bpf).iter().any(|name| name.starts_with("link")), "{:?}", files(&bpf));
}

#[test]
fn another_versions_link_is_taken_over_and_its_directory_goes() {
    root_or_skip!();
    let (bpf, gateway) = (BpfFileSystem::mount(), lab());
    let config = pinned(&bpf, &["eth0"], XdpMode::Auto);
    drop(attach(&gateway, &config));
    let version = fs::read_dir(bpf.root()).unwrap().next().unwrap().unwrap().path();
    let old = bpf.root().join("v4000000000");
    fs::rename(&version, &old).unwrap();
    let xdp = attach(&gateway, &config);
    assert_eq!(lines(&xdp), ["xdp: eth0 native, taken over from the process before"]);
    assert!(!old.exists() && version.exists());
    drop(xdp);
    assert!(program_id(&gateway, "eth0").is_some(), "the link is pinned in the new directory");
    xdp::detach(&bpf.root()).unwrap();
}

#[test]
fn maps_of_another_size_and_some_without_the_others_are_made_anew_and_those_of_the_same_keep_what_they_have() {
    root_or_skip!();
    let (bpf, gateway) = (BpfFileSystem::mount(), lab());
    let small = pinned(&bpf, &["eth0"], XdpMode::Auto);
    let large = model::Xdp { flows: FlowLimits { established: 2048, ..small.flows.clone() }, ..small.clone() };
    let denied = |xdp: &Xdp| xdp.counters().unwrap().packets(Reason::DeniedV4);
    let taken_over = ["xdp: eth0 native, taken over from the process before"];
    let first = attach(&gateway, &small);
    first.probe(&v4(DENIED), 5).unwrap();
    drop(first);
    let second = attach(&gateway, &large);
    assert_eq!(denied(&second), 0, "they refer to each other: all begin anew");
    assert_eq!(lines(&second), taken_over);
    second.probe(&v4(DENIED), 5).unwrap();
    drop(second);
    fs::remove_file(bpf.root().join(format!("v{VERSION}")).join(names::SETTINGS)).unwrap();
    let third = attach(&gateway, &large);
    assert_eq!(denied(&third), 0, "one is missing: all begin anew");
    assert_eq!(lines(&third), taken_over);
    third.probe(&v4(DENIED), 5).unwrap();
    drop(third);
    let fourth = attach(&gateway, &large);
    assert_eq!(denied(&fourth), 5);
    drop(fourth);
    xdp::detach(&bpf.root()).unwrap();
}

#[test]
fn a_flow_keeps_its_backend_over_a_take_over() {
    root_or_skip!();
    let (bpf, gateway) = (BpfFileSystem::mount(), lab());
    let config = pinned(&bpf, &["eth0"], XdpMode::Auto);
    let services = |ports: std::ops::Range<u16>| vec![service(ports)];
    let mut first = attach(&gateway, &config);
    gateway.enter(|| first.sync_services(&services(1..9)).unwrap());
    let frames: Vec<_> = (0..40).map(udp).collect();
    let chosen: Vec<_> = frames.iter().map(|frame| backend_of(&first, frame)).collect();
    assert!(chosen.iter().any(|port| port != &chosen[0]), "{chosen:?}");
    drop(first);

    // Twice as many backends: a new flow would choose another one half of the time.
    let mut second = attach(&gateway, &config);
    gateway.enter(|| second.sync_services(&services(1..17)).unwrap());
    let now: Vec<_> = frames.iter().map(|frame| backend_of(&second, frame)).collect();
    assert_eq!(now, chosen);
    let flows = second.flows(None).unwrap().len();
    assert_eq!(flows, 40);
    drop(second);
    xdp::detach(&bpf.root()).unwrap();
}

#[test]
fn new_tables_have_their_services_from_the_first_packet_on_and_kept_ones_those_they_had() {
    root_or_skip!();
    let (bpf, gateway) = (BpfFileSystem::mount(), lab());
    let config = pinned(&bpf, &["eth0"], XdpMode::Auto);
    let attach = |port| gateway.enter(|| xdp::attach_serving(&config, &access(), &[service(port..port + 1)]).unwrap());
    for (time, port) in [("first", 1), ("second", 2)] {
        assert_eq!(backend_of(&attach(port), &udp(port as u8)), 1, "the {time} time");
    }
    xdp::detach(&bpf.root()).unwrap();
}

#[test]
fn without_a_bpf_file_system_it_works_and_ends_with_the_process() {
    root_or_skip!();
    let gateway = lab();
    let directory = tempfile::tempdir().unwrap();
    let config = model::Xdp { pin: Some(directory.path().join("gateway")), ..pinned_nowhere(&["eth0"]) };
    let xdp = attach(&gateway, &config);
    assert_eq!(lines(&xdp), ["xdp: eth0 native"]);
    drop(xdp);
    assert_eq!(program_id(&gateway, "eth0"), None);
}

/// The names of all files below the pins' directory.
fn files(bpf: &BpfFileSystem) -> Vec<String> {
    fn walk(directory: &Path, names: &mut Vec<String>) {
        for entry in fs::read_dir(directory).into_iter().flatten().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), names);
            } else {
                names.push(entry.file_name().into_string().unwrap());
            }
        }
    }
    let mut names = Vec::new();
    walk(&bpf.root(), &mut names);
    names.sort();
    names
}

/// A gateway with two interfaces that lead to a namespace, which lives as long as it.
struct Lab {
    gateway: Namespace,
    _peer: Namespace,
}

impl std::ops::Deref for Lab {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.gateway
    }
}

fn lab() -> Lab {
    let (gateway, peer) = (Namespace::new("gateway"), Namespace::new("peer"));
    for (interface, address) in [("eth0", "10.97.0.1"), ("eth1", "10.97.1.1")] {
        lab::connect((&gateway, interface), (&peer, interface));
        gateway.add_address(interface, address.parse().unwrap(), 24);
    }
    gateway.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
    gateway.run(&["ip", "neigh", "add", "10.97.1.2", "lladdr", "02:00:00:00:00:02", "dev", "eth1"]);
    Lab { gateway, _peer: peer }
}

fn pinned_nowhere(interfaces: &[&str]) -> model::Xdp {
    let flows = FlowLimits { established: 1024, half_open: 1024, ..FlowLimits::default() };
    let interfaces = interfaces.iter().map(|name| name.to_string()).collect();
    model::Xdp { interfaces, pin: None, flows, ..model::Xdp::default() }
}

fn pinned(bpf: &BpfFileSystem, interfaces: &[&str], mode: XdpMode) -> model::Xdp {
    model::Xdp { mode, pin: Some(bpf.root()), ..pinned_nowhere(interfaces) }
}

fn access() -> Vec<AccessRule> {
    let sources = vec![DENIED.parse::<IpAddr>().unwrap().into()];
    vec![AccessRule {
        name: "bad".into(),
        action: AccessAction::Deny,
        protocol: None,
        ports: Vec::new(),
        sources,
        expiring: Vec::new(),
    }]
}

fn attach(gateway: &Namespace, config: &model::Xdp) -> Xdp {
    gateway.enter(|| xdp::attach(config, &access()).unwrap())
}

fn lines(xdp: &Xdp) -> Vec<String> {
    xdp.interfaces().iter().map(ToString::to_string).collect()
}

/// UDP `198.51.100.1:53` served by one machine on several ports.
fn service(ports: std::ops::Range<u16>) -> Service {
    let backend = |port| Backend { address: SocketAddr::from(([10, 97, 1, 2], port)), weight: 1, alive: true };
    Service {
        name: "dns".into(),
        address: "198.51.100.1:53".parse().unwrap(),
        protocol: VipProtocol::Udp,
        target: Target::Backends {
            mode: VipMode::Dnat,
            affinity: VipAffinity::Flow,
            backends: ports.map(backend).collect(),
        },
        drain: false,
    }
}

/// The port that the program sends the frame to.
fn backend_of(xdp: &Xdp, frame: &[u8]) -> u16 {
    let sent = xdp.probe(frame, 1).unwrap().expect("XDP is on");
    assert_eq!(sent.frame[30..34], [10, 97, 1, 2], "action {}", sent.action);
    u16::from_be_bytes([sent.frame[36], sent.frame[37]])
}

/// A datagram of this client to the service.
fn udp(client: u8) -> Vec<u8> {
    let mut frame = v4(GOOD);
    frame[16..18].copy_from_slice(&28_u16.to_be_bytes());
    (frame[22], frame[23]) = (64, 17);
    frame[29] = client;
    frame[30..34].copy_from_slice(&[198, 51, 100, 1]);
    frame[34..42].copy_from_slice(&[0x30, client, 0, 53, 0, 8, 0, 0]);
    frame
}

/// An IPv4 packet without content.
fn v4(source: &str) -> Vec<u8> {
    let IpAddr::V4(source) = source.parse().unwrap() else { panic!("{source} is not IPv4") };
    let mut frame = vec![0; 60];
    frame[..12].fill(2);
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[26..30].copy_from_slice(&source.octets());
    frame
}

/// The id of the XDP program on an interface, as `ip` sees it.
fn program_id(namespace: &Namespace, interface: &str) -> Option<String> {
    let output =
        Command::new("ip").args(["-netns", namespace.name(), "link", "show", "dev", interface]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, program) = text.split_once("prog/xdp id ")?;
    program.split_whitespace().next().map(str::to_owned)
}
