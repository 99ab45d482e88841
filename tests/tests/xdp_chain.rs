//! The XDP chain: the embedded object is loaded by the kernel, attached to real interfaces and drops real packets.
//!
//! Root only, and only with an object in the binary: `cargo xtask test` provides both. Elsewhere each test says that it
//! was skipped.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;
use std::{env, fs, thread};

use gateway::cli::demo;
use gateway::config::model::{self, AccessAction, AccessRule, XdpMode};
use gateway::xdp::{self, Attached, Counters, Probe, Reason, Refusal, SyncReport, Xdp, XdpError};
use gateway_tests::lab::{self, Namespace};
use gateway_tests::root_or_skip;
use gateway_tests::wait;
use ipnet::IpNet;
use serde::Deserialize;
use socket2::{Domain, Socket, Type};

/// Drop and pass, as the kernel numbers them (`enum xdp_action`).
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

const GATEWAY_V4: &str = "10.98.0.1";
const GATEWAY_V6: &str = "fd98::1";
const GOOD_V4: &str = "10.98.0.2";
const GOOD_V6: &str = "fd98::2";
const BAD_V4: &str = "10.98.0.3";
const BAD_V6: &str = "fd98::3";

/// Addresses of denied prefixes that an allow rule takes out again.
const FORGIVEN_V4: &str = "10.98.0.4";
const FORGIVEN_V6: &str = "fd98::4";

/// Longer than any answer inside one machine takes, and what each refused connection costs the test.
const NO_ANSWER: Duration = Duration::from_millis(300);

#[test]
fn each_frame_gets_its_verdict_and_its_counter() {
    root_or_skip!();
    let gateway = Namespace::new("gateway");
    let access = [
        rule(AccessAction::Deny, &["203.0.113.0/24", "2001:db8:bad::/48", "10.0.0.0/8"]),
        rule(AccessAction::Allow, &["10.1.0.0/16", "2001:db8:bad:1::/64"]),
        rule(AccessAction::Deny, &["10.1.2.3/32"]),
    ];
    let xdp = gateway.enter(|| xdp::attach(&on(&["lo"], XdpMode::Auto), &access).unwrap());

    let vlan: &[u16] = &[0x8100];
    let cases = [
        ("unlisted IPv4", v4(&[], "192.0.2.1"), Reason::Pass),
        ("unlisted IPv6", v6(&[], "2001:db8::1"), Reason::Pass),
        ("first address of a denied prefix", v4(&[], "203.0.113.0"), Reason::DeniedV4),
        ("last address of a denied prefix", v4(&[], "203.0.113.255"), Reason::DeniedV4),
        ("the address before it", v4(&[], "203.0.112.255"), Reason::Pass),
        ("the address behind it", v4(&[], "203.0.114.0"), Reason::Pass),
        ("denied IPv6", v6(&[], "2001:db8:bad:ffff::1"), Reason::DeniedV6),
        ("allowed inside a denied IPv4 prefix", v4(&[], "10.1.9.9"), Reason::Allowed),
        ("allowed inside a denied IPv6 prefix", v6(&[], "2001:db8:bad:1::5"), Reason::Allowed),
        ("allow wins over a longer deny", v4(&[], "10.1.2.3"), Reason::Allowed),
        ("denied in a VLAN", v4(vlan, "203.0.113.9"), Reason::DeniedV4),
        ("denied in QinQ", v6(&[0x88a8, 0x8100], "2001:db8:bad::9"), Reason::DeniedV6),
        ("ARP", ethernet(&[], 0x0806, &[0; 46]), Reason::NotIp),
        ("IPv4 header cut short", ethernet(&[], 0x0800, &[0x45; 19]), Reason::Malformed),
        ("IPv6 header cut short", ethernet(&[], 0x86dd, &[0x60; 39]), Reason::Malformed),
        ("nothing but an Ethernet header", ethernet(&[], 0x0800, &[]), Reason::Malformed),
    ];
    for (name, frame, reason) in cases {
        let before = xdp.counters().unwrap();
        let probe = xdp.probe(&frame, 1).unwrap().expect("XDP is on");
        let expected = if reason.drops() { XDP_DROP } else { XDP_PASS };
        assert_eq!(probe.action, expected, "{name}");
        assert_eq!(increase(&before, &xdp.counters().unwrap()), [(reason, 1)], "{name}");
    }
}

#[test]
fn a_denied_source_gets_no_answer_until_the_program_is_detached() {
    root_or_skip!();
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let (client, gateway) = two_hosts();
        let listeners = [listen(&gateway, GATEWAY_V4), listen(&gateway, GATEWAY_V6)];
        for (source, _) in SOURCES {
            is_served(&client, source, &listeners, "before the program is attached");
        }

        let xdp = gateway.enter(|| xdp::attach(&on(&["eth0"], mode), &access()).unwrap());
        assert_eq!(attached(&xdp), [Some(if mode == XdpMode::Native { Attached::Native } else { Attached::Generic })]);
        for (source, reason) in SOURCES {
            let before = xdp.counters().unwrap();
            match reason.drops() {
                true => assert!(!connects(&client, source, &listeners), "{source}, {mode:?}"),
                false => is_served(&client, source, &listeners, &format!("{mode:?}")),
            }
            let packets = xdp.counters().unwrap().packets(reason) - before.packets(reason);
            assert!(packets >= 1, "{source}, {mode:?}: no packet was counted as {}", reason.name());
        }

        drop(xdp);
        for (source, _) in SOURCES {
            is_served(&client, source, &listeners, &format!("after {mode:?} is detached"));
        }
    }
}

#[test]
fn a_reload_changes_only_the_prefixes_and_interfaces_that_differ() {
    root_or_skip!();
    let (client, gateway) = two_hosts();
    lab::connect((&client, "eth1"), (&gateway, "eth1"));
    let listeners = [listen(&gateway, GATEWAY_V4), listen(&gateway, GATEWAY_V6)];
    let one = on(&["eth0"], XdpMode::Auto);
    let two = on(&["eth1", "eth0"], XdpMode::Auto);
    let mut xdp = gateway.enter(|| xdp::attach(&one, &[]).unwrap());
    let program = program_id(&gateway, "eth0");
    is_served(&client, BAD_V4, &listeners, "before the rule");

    let report = gateway.enter(|| xdp.sync(&two, &access()).unwrap());
    assert_eq!(report, SyncReport { added: 4, removed: 0 });
    assert!(!connects(&client, BAD_V4, &listeners));
    assert_eq!(attached(&xdp), [Some(Attached::Native); 2]);
    assert_eq!(program_id(&gateway, "eth0"), program, "eth0 was detached");
    assert_eq!(program_id(&gateway, "eth1"), program, "eth1 has another program");

    let report = gateway.enter(|| xdp.sync(&two, &access()).unwrap());
    assert_eq!(report, SyncReport::default(), "the same configuration changed something");

    let report = gateway.enter(|| xdp.sync(&one, &access()[..1]).unwrap());
    assert_eq!(report, SyncReport { added: 0, removed: 0 });
    assert!(!connects(&client, FORGIVEN_V4, &listeners));
    assert_eq!(program_id(&gateway, "eth1"), None, "eth1 is still attached");

    gateway.enter(|| xdp.sync(&on(&[], XdpMode::Auto), &access()).unwrap());
    assert_eq!(program_id(&gateway, "eth0"), None, "eth0 is still attached");
    is_served(&client, BAD_V4, &listeners, "without interfaces");
}

#[test]
fn a_reload_that_cannot_be_had_leaves_everything_as_it_was() {
    root_or_skip!();
    let (client, gateway) = two_hosts();
    let listeners = [listen(&gateway, GATEWAY_V4), listen(&gateway, GATEWAY_V6)];
    let config = on(&["eth0"], XdpMode::Auto);
    let mut xdp = gateway.enter(|| xdp::attach(&config, &access()).unwrap());
    let program = program_id(&gateway, "eth0");

    let bad = [
        ("an interface that is not there", on(&["eth0", "eth9"], XdpMode::Native), "eth9", Refusal::NoInterface),
        ("a mode the loopback does not have", on(&["eth0", "lo"], XdpMode::Native), "lo", Refusal::Unsupported),
        ("another mode for all", on(&["eth0", "eth9"], XdpMode::Generic), "eth9", Refusal::NoInterface),
    ];
    for (name, config, interface, refusal) in bad {
        let error =
            gateway.enter(|| xdp.sync(&config, &[rule(AccessAction::Deny, &["0.0.0.0/0", "::/0"])])).unwrap_err();
        assert_eq!(error, XdpError::Interface { name: interface.into(), refusal }, "{name}");
        assert_eq!(attached(&xdp), [Some(Attached::Native)], "{name}");
        assert_eq!(program_id(&gateway, "eth0"), program, "{name}");
        is_served(&client, GOOD_V4, &listeners, name);
        assert!(!connects(&client, BAD_V4, &listeners), "{name}");
    }
    let report = gateway.enter(|| xdp.sync(&config, &access()).unwrap());
    assert_eq!(report, SyncReport::default(), "a failed reload changed the lists");
}

#[test]
fn auto_takes_what_there_is_and_says_so_and_the_other_modes_insist() {
    root_or_skip!();
    let (_client, gateway) = two_hosts();
    let config = on(&["eth0", "lo", "eth9"], XdpMode::Auto);
    let xdp = gateway.enter(|| xdp::attach(&config, &[]).unwrap());
    let lines: Vec<String> = xdp.interfaces().iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "xdp: eth0 native",
            "xdp: lo generic (native refused: its driver has no such XDP mode)",
            "xdp: eth9 off: no such interface; `ip link` lists them",
        ]
    );

    let second = gateway.enter(|| xdp::attach(&on(&["eth0"], XdpMode::Auto), &[]).unwrap());
    assert_eq!(
        second.interfaces()[0].to_string(),
        "xdp: eth0 off: another XDP program is attached; remove it with `ip link set … xdp off`"
    );
    drop(xdp);

    let refused = |interface: &str, mode| {
        gateway.enter(|| xdp::attach(&on(&[interface], mode), &[]).map(|_| ()).unwrap_err().to_string())
    };
    assert!(refused("lo", XdpMode::Native).starts_with("lo: its driver has no such XDP mode; "));
    assert!(refused("eth9", XdpMode::Generic).starts_with("eth9: no such interface; "));
    assert!(xdp::attach(&on(&["eth0"], XdpMode::Off), &[]).unwrap().interfaces().is_empty());
}

/// aya asks the kernel once per process what it can do, so this test needs a process of its own.
#[test]
fn without_privileges_auto_is_off_and_the_other_modes_say_what_is_missing() {
    root_or_skip!();
    const WITHOUT_PRIVILEGES: &str = "XDP_CHAIN_WITHOUT_PRIVILEGES";
    if env::var_os(WITHOUT_PRIVILEGES).is_none() {
        let name = "without_privileges_auto_is_off_and_the_other_modes_say_what_is_missing";
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--"]).arg(env::current_exe().unwrap()).args(["--exact", name]);
        let output = command.env(WITHOUT_PRIVILEGES, "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let off = xdp::attach(&on(&["lo"], XdpMode::Auto), &access()).unwrap();
    assert!(off.interfaces().is_empty());
    assert_eq!(off.counters().unwrap(), Counters::default());
    assert_eq!(off.probe(&v4(&[], BAD_V4), 1).unwrap(), None);
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let error = xdp::attach(&on(&["lo"], mode), &access()).map(|_| ()).unwrap_err();
        assert_eq!(error, XdpError::NotPermitted);
        assert!(error.to_string().contains("CAP_BPF"), "{error}");
    }
}

#[test]
fn dropped_packets_are_logged_when_the_log_asks_for_them() {
    root_or_skip!();
    static RECORDS: Records = Records(std::sync::Mutex::new(Vec::new()));
    log::set_logger(&RECORDS).unwrap();
    log::set_max_level(log::LevelFilter::Debug);

    let gateway = Namespace::new("gateway");
    let mut xdp = gateway.enter(|| xdp::attach(&on(&["lo"], XdpMode::Auto), &access()).unwrap());
    let records = xdp.take_log().expect("the log level asks for records");
    xdp.probe(&v4(&[], BAD_V4), 1_000).unwrap();
    xdp.probe(&v6(&[], BAD_V6), 1).unwrap();
    xdp.probe(&v4(&[], GOOD_V4), 1).unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The records are in the ring already, so the task has read them when it waits for the first time.
    runtime.block_on(async { tokio::time::timeout(NO_ANSWER, records.run()).await.unwrap_err() });
    let records = RECORDS.0.lock().unwrap();
    let dropped: Vec<&String> = records.iter().filter(|record| record.contains("dropped")).collect();
    assert_eq!(dropped[0], "gateway::xdp DEBUG dropped 10.98.0.3 on interface 1");
    // A thousand frames: 100 records per CPU and second, and the clock may tick once in between.
    assert!((100..=201).contains(&dropped.len()), "{} records", dropped.len());
    assert!(!records.iter().any(|record| record.contains(GOOD_V4)));
}

/// The demo's lab is built in a namespace here, so the machine's own interfaces are left alone.
#[test]
fn the_demos_bad_client_is_dropped_and_its_good_client_is_not() {
    root_or_skip!();
    let machine = Namespace::new("machine");
    let demo = machine.enter(|| demo::lab::Lab::build().unwrap());
    let config: DemoConfig = toml::from_str(&demo.config()).unwrap();
    let access = [AccessRule { sources: config.access[0].sources.clone(), ..rule(AccessAction::Deny, &[]) }];
    let xdp =
        model::Xdp { interfaces: config.xdp.interfaces, mode: XdpMode::Native, pin: None, ..model::Xdp::default() };
    let xdp = machine.enter(|| xdp::attach(&xdp, &access).unwrap());
    let port = machine.enter(serve_http);
    for (command, shows) in demo.commands(port) {
        let (program, arguments) = command.split_once(' ').unwrap();
        let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
        let answered = String::from_utf8_lossy(&output.stdout) == "hello\n";
        assert_eq!(answered, shows == "is answered", "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let counters = xdp.counters().unwrap();
    assert!(counters.packets(Reason::DeniedV4) > 0 && counters.packets(Reason::DeniedV6) > 0);

    machine.enter(|| drop(demo));
    let output = Command::new("ip").args(["-netns", machine.name(), "-oneline", "link"]).output().unwrap();
    let links = String::from_utf8(output.stdout).unwrap();
    assert_eq!(links.lines().count(), 1, "only the loopback is left: {links}");
}

#[test]
fn the_verifier_has_room_left() {
    // It gives up at a million instructions, and other kernels follow more ways through the same program.
    const VERIFIED_MAX: u64 = 300_000;
    root_or_skip!();
    let gateway = Namespace::new("gateway");
    let config = model::Xdp { syn_cookies: true, ..on(&["lo"], XdpMode::Auto) };
    let _xdp = gateway.enter(|| xdp::attach(&config, &[]).unwrap());
    // The descriptors of this process; those that other tests close meanwhile cannot be read.
    let descriptors = fs::read_dir("/proc/self/fdinfo").unwrap().flatten();
    let texts = descriptors.filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok());
    let verified: Vec<u64> = texts.filter_map(|text| verified_instructions(&text)).collect();
    let most = verified.into_iter().max().expect("the program has a descriptor");
    assert!((1_000..VERIFIED_MAX).contains(&most), "{most} verifier instructions");
}

/// What the kernel says of a descriptor, if it is one of a BPF program.
fn verified_instructions(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("verified_insns:"))?.trim().parse().ok()
}

/// Prints what a packet and a start cost: `cargo test -p gateway-tests --test xdp_chain -- --ignored --nocapture cost`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_start_and_of_a_packet() {
    root_or_skip!();
    let gateway = Namespace::new("gateway");
    gateway.enter(|| {
        let started = std::time::Instant::now();
        let xdp = xdp::attach(&on(&["lo"], XdpMode::Auto), &access()).unwrap();
        let mut out = io::stdout();
        writeln!(out, "load, verify and attach: {:?}", started.elapsed()).unwrap();
        let frames = [
            ("ARP", ethernet(&[], 0x0806, &[0; 46])),
            ("IPv4, pass", v4(&[], GOOD_V4)),
            ("IPv4, denied", v4(&[], BAD_V4)),
            ("IPv4, allowed", v4(&[], FORGIVEN_V4)),
            ("IPv6, pass", v6(&[], GOOD_V6)),
            ("IPv6, denied", v6(&[], BAD_V6)),
        ];
        for (name, frame) in frames {
            let mut runs: Vec<Probe> = (0..9).map(|_| xdp.probe(&frame, 300_000).unwrap().unwrap()).collect();
            runs.sort_by_key(|run| run.per_packet);
            writeln!(out, "{name}: {:?} (median of 9)", runs[4].per_packet).unwrap();
        }
    });
}

/// What each source's connection is counted as under [`access`].
const SOURCES: [(&str, Reason); 6] = [
    (GOOD_V4, Reason::Pass),
    (GOOD_V6, Reason::Pass),
    (BAD_V4, Reason::DeniedV4),
    (BAD_V6, Reason::DeniedV6),
    (FORGIVEN_V4, Reason::Allowed),
    (FORGIVEN_V6, Reason::Allowed),
];

/// Denies the bad and the forgiven, and allows the forgiven.
fn access() -> [AccessRule; 2] {
    [
        rule(AccessAction::Deny, &[BAD_V4, BAD_V6, FORGIVEN_V4, FORGIVEN_V6]),
        rule(AccessAction::Allow, &[FORGIVEN_V4, FORGIVEN_V6]),
    ]
}

/// What the demo's lab adds to a configuration.
#[derive(Deserialize)]
struct DemoConfig {
    xdp: DemoXdp,
    access: Vec<DemoAccess>,
}

#[derive(Deserialize)]
struct DemoXdp {
    interfaces: Vec<String>,
}

#[derive(Deserialize)]
struct DemoAccess {
    sources: Vec<IpNet>,
}

/// Answers two connections.
fn serve_http() -> u16 {
    let listener = TcpListener::bind(("::", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello\n").unwrap();
        }
    });
    port
}

/// A client with all addresses of [`SOURCES`] and a gateway, joined by their `eth0`.
fn two_hosts() -> (Namespace, Namespace) {
    let (client, gateway) = (Namespace::new("client"), Namespace::new("gateway"));
    lab::connect((&client, "eth0"), (&gateway, "eth0"));
    for address in [GATEWAY_V4, GATEWAY_V6] {
        add_address(&gateway, address);
    }
    for (address, _) in SOURCES {
        add_address(&client, address);
    }
    (client, gateway)
}

fn add_address(namespace: &Namespace, address: &str) {
    let address: IpAddr = address.parse().unwrap();
    namespace.add_address("eth0", address, if address.is_ipv4() { 24 } else { 64 });
}

fn listen(namespace: &Namespace, address: &str) -> TcpListener {
    let address: IpAddr = address.parse().unwrap();
    namespace.enter(|| TcpListener::bind((address, 0))).unwrap()
}

/// A connection from `source` is made. Not always at the first try: a veth stands still for a moment when its program comes
/// or goes, and loses what comes meanwhile, and so does a new link.
fn is_served(client: &Namespace, source: &str, listeners: &[TcpListener; 2], when: &str) {
    wait::until_true(&format!("{source} to be served, {when}"), || connects(client, source, listeners));
}

/// Whether a TCP connection from `source` to the listener of its IP version is made.
fn connects(client: &Namespace, source: &str, listeners: &[TcpListener; 2]) -> bool {
    let source: IpAddr = source.parse().unwrap();
    let to = listeners[usize::from(source.is_ipv6())].local_addr().unwrap();
    client.enter(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect_timeout(&to.into(), NO_ANSWER).is_ok()
    })
}

fn attached(xdp: &Xdp) -> Vec<Option<Attached>> {
    let mut interfaces: Vec<_> = xdp.interfaces().iter().collect();
    interfaces.sort_by_key(|interface| interface.name());
    interfaces.iter().map(|interface| interface.attached()).collect()
}

/// The id of the XDP program on an interface, as `ip` sees it.
fn program_id(namespace: &Namespace, interface: &str) -> Option<String> {
    let output =
        Command::new("ip").args(["-netns", namespace.name(), "link", "show", "dev", interface]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, program) = text.split_once("prog/xdp id ")?;
    program.split_whitespace().next().map(str::to_owned)
}

fn on(interfaces: &[&str], mode: XdpMode) -> model::Xdp {
    model::Xdp {
        interfaces: interfaces.iter().map(|name| name.to_string()).collect(),
        mode,
        pin: None,
        ..model::Xdp::default()
    }
}

/// A rule; an address stands for the prefix that has only it.
fn rule(action: AccessAction, sources: &[&str]) -> AccessRule {
    let prefix = |text: &&str| match text.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => text.parse().unwrap(),
    };
    AccessRule {
        name: format!("{action:?} {}", sources.first().unwrap_or(&"nothing")),
        action,
        protocol: None,
        ports: Vec::new(),
        sources: sources.iter().map(prefix).collect(),
        expiring: Vec::new(),
    }
}

fn increase(before: &Counters, after: &Counters) -> Vec<(Reason, u64)> {
    let changes = after.iter().map(|(reason, packets)| (reason, packets - before.packets(reason)));
    changes.filter(|(_, packets)| *packets > 0).collect()
}

fn v4(tags: &[u16], source: &str) -> Vec<u8> {
    let IpAddr::V4(source) = source.parse().unwrap() else { panic!("{source} is not IPv4") };
    let mut packet = [0; 60];
    packet[0] = 0x45;
    packet[12..16].copy_from_slice(&source.octets());
    ethernet(tags, 0x0800, &packet)
}

fn v6(tags: &[u16], source: &str) -> Vec<u8> {
    let IpAddr::V6(source) = source.parse().unwrap() else { panic!("{source} is not IPv6") };
    let mut packet = [0; 60];
    packet[0] = 0x60;
    packet[5] = 20;
    packet[6] = 17;
    packet[8..24].copy_from_slice(&source.octets());
    ethernet(tags, 0x86dd, &packet)
}

fn ethernet(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02; 12];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 42]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

struct Records(std::sync::Mutex<Vec<String>>);

impl log::Log for Records {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.target() == "gateway::xdp"
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            self.0.lock().unwrap().push(format!("{} {} {}", record.target(), record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}
