//! What the facts mean. Pure.

use super::facts::{Facts, Interface};
use super::{Finding, Grade};
use crate::config::model::{Config, Vip, VipMode, VipTarget, Xdp};

/// Drivers with native XDP in Linux 6.6, by the name in sysfs.
const NATIVE: &[&str] = &[
    "atlantic",
    "bnxt_en",
    "cpsw",
    "dpaa2-eth",
    "ena",
    "fec",
    "fsl_dpaa2_eth",
    "fsl_enetc",
    "gve",
    "hv_netvsc",
    "i40e",
    "iavf",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mana",
    "mlx4_core",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "netvsc",
    "nfp",
    "nicvf",
    "qede",
    "sfc",
    "st_gmac",
    "tsnep",
    "virtio_net",
    "vmxnet3",
];

/// Everything that was looked at, in an order for people.
pub fn judge(facts: &Facts, config: Option<&Config>) -> Vec<Finding> {
    let default = Xdp::default();
    let xdp = config.map_or(&default, |config| &config.xdp);
    let vips = config.map_or(&[][..], |config| &config.vips);
    let mut findings = kernel(facts);
    for interface in &facts.interfaces {
        findings.extend(of_interface(interface));
        findings.extend(offloads(interface, vips));
    }
    findings.extend(pins(facts));
    findings.extend(forwarding(facts, vips));
    findings.extend(local_packets(facts, vips));
    findings.extend(ports(facts, xdp, vips));
    findings.extend(checks_at_vips(facts, vips));
    findings.extend(syn_cookies(facts, xdp));
    findings
}

fn good(subject: &str, found: impl Into<String>) -> Finding {
    let nothing = String::new;
    Finding { grade: Grade::Good, subject: subject.into(), found: found.into(), cost: nothing(), fix: nothing() }
}

fn bad(grade: Grade, subject: &str, found: impl Into<String>, cost: &str, fix: impl Into<String>) -> Finding {
    Finding { grade, subject: subject.into(), found: found.into(), cost: cost.into(), fix: fix.into() }
}

fn kernel(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some((major, minor)) = facts.kernel {
        let found = format!("Linux {major}.{minor}");
        findings.push(match (major, minor) >= (5, 19) {
            true => good("kernel", found),
            false => {
                let cost = "the gateway does not start (io_uring); before Linux 5.18 the program does not load either";
                bad(Grade::Broken, "kernel", found, cost, "Linux 5.19 or later")
            }
        });
        if let Some(bytes) = facts.memlock.filter(|_| (major, minor) < (5, 11)) {
            let found = format!("{bytes} bytes may be locked");
            let cost = "before Linux 5.11 the tables count as locked memory, and do not fit";
            findings.push(bad(Grade::Broken, "memlock", found, cost, "`LimitMEMLOCK=infinity` in the unit"));
        }
    }
    for (name, there) in &facts.features {
        findings.push(match there {
            Some(true) => good("kernel", format!("has {name}")),
            Some(false) => {
                let fix = "a kernel with CONFIG_BPF_SYSCALL and CONFIG_BPF_JIT, 5.18 or later";
                bad(Grade::Broken, "kernel", format!("has no {name}"), "the program does not load", fix)
            }
            None => {
                let fix = "run this as root";
                bad(Grade::Costly, "kernel", format!("{name}: not permitted to ask"), "nothing is known", fix)
            }
        });
    }
    findings
}

fn of_interface(interface: &Interface) -> Vec<Finding> {
    let name = interface.name.as_str();
    if !interface.exists {
        let cost = "no packet comes in by it";
        return vec![bad(Grade::Broken, name, "there is no such interface", cost, "`ip link` lists them")];
    }
    let mut findings = vec![driver(interface)];
    if let Some(mtu) = interface.mtu.filter(|mtu| *mtu > 3498) {
        let cost = "some drivers have no room for native XDP at this size, and then it is generic";
        findings.push(bad(Grade::Costly, name, format!("MTU {mtu}"), cost, format!("ip link set {name} mtu 1500")));
    }
    let (receive, transmit) = interface.queues;
    let found = format!("{receive} receive and {transmit} transmit queues");
    findings.push(if receive <= 1 && interface.driver.is_some() {
        let cost = "one core does all the work";
        bad(Grade::Costly, name, found, cost, format!("ethtool -L {name} combined N, where the card has more"))
    } else {
        good(name, found)
    });
    findings
}

/// What the card and the kernel do to packets before the program sees them.
fn offloads(interface: &Interface, vips: &[Vip]) -> Vec<Finding> {
    let name = interface.name.as_str();
    let mut findings = Vec::new();
    if interface.lro == Some(true) {
        let cost = "native XDP is refused, and packets that were put together cannot be forwarded";
        let fix = format!("ethtool -K {name} lro off");
        findings.push(bad(Grade::Broken, name, "large receive offload is on", cost, fix));
    }
    if !vips.iter().any(|vip| matches!(vip.target, VipTarget::Cluster(_))) {
        return findings;
    }
    if interface.has_vlans && interface.takes_tags_off == Some(true) {
        let found = "VLAN tags are taken off by the card";
        let cost = "the program takes packets of a VLAN for untagged ones, and sends them on so";
        findings.push(bad(Grade::Broken, name, found, cost, format!("ethtool -K {name} rxvlan off")));
    }
    findings
}

fn driver(interface: &Interface) -> Finding {
    let name = interface.name.as_str();
    let driver = interface.driver.as_deref().unwrap_or("none");
    match (interface.attached, interface.driver.as_deref()) {
        (Some(attached), _) => {
            good(name, format!("driver {driver}; the program is attached in {} mode", attached.name()))
        }
        (None, Some(driver)) if NATIVE.contains(&driver) => good(name, format!("driver {driver} has native XDP")),
        (None, Some(driver)) => {
            let cost = "if it has no native XDP, packets cost two to three times as much (generic mode)";
            let fix = "`mode = \"native\"` in [xdp] tells for sure";
            bad(Grade::Costly, name, format!("driver {driver} is not known to have native XDP"), cost, fix)
        }
        (None, None) => {
            let cost =
                "veth and tun have native XDP; bridges, bonds and VLANs are better served by the ports below them";
            bad(Grade::Costly, name, "a virtual interface", cost, "name the physical ports in `interfaces`")
        }
    }
}

fn pins(facts: &Facts) -> Option<Finding> {
    let (pin, is_there) = facts.pin.as_ref()?;
    let pin = pin.display();
    Some(match is_there {
        true => good("pin", format!("{pin} is in a BPF file system")),
        false => {
            let cost = "when the process ends nothing is filtered and balanced until it runs again, and flows are lost";
            let fix = "mount -t bpf bpf /sys/fs/bpf (systemd does it; `ip netns exec` hides it)";
            bad(Grade::Costly, "pin", format!("{pin} is in no BPF file system"), cost, fix)
        }
    })
}

fn forwarding(facts: &Facts, vips: &[Vip]) -> Vec<Finding> {
    let names = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
    let versions = names.iter().zip(facts.forwarding).zip([false, true]);
    let of_version = versions.filter_map(|((name, on), is_v6)| {
        let wanted =
            vips.iter().any(|vip| vip.address.is_ipv6() == is_v6 && matches!(vip.target, VipTarget::Cluster(_)));
        match on? {
            true => Some(good(name, "on")),
            false if !wanted => None,
            false => {
                let cost = "the kernel tells the program no next hop: nothing is forwarded";
                Some(bad(Grade::Broken, name, "off", cost, format!("sysctl -w {name}=1")))
            }
        }
    });
    of_version.collect()
}

/// Until an endpoint's MAC address is known, the stack gets packets whose source is this box. What it makes of them is a
/// matter of IPv4: IPv6 has neither setting.
fn local_packets(facts: &Facts, vips: &[Vip]) -> Vec<Finding> {
    let v4 = || vips.iter().filter(|vip| vip.address.is_ipv4());
    let has_own_source =
        |vip: &Vip| matches!(vip.mode, VipMode::Nat | VipMode::Ipip) && matches!(vip.target, VipTarget::Cluster(_));
    let own_source = v4().any(has_own_source);
    let mut findings = Vec::new();
    for interface in facts.interfaces.iter().filter(|interface| interface.exists) {
        let accepts = facts.accept_local == Some(true) || interface.accept_local == Some(true);
        if own_source && interface.accept_local.is_some() && !accepts {
            let cost =
                "first packets to an endpoint whose MAC address is not known are lost; health checks keep it known";
            let fix = format!("sysctl -w net.ipv4.conf.{}.accept_local=1", interface.name);
            findings.push(bad(Grade::Costly, &interface.name, "accept_local is off", cost, fix));
        }
        // The stricter of the two counts.
        let strict = facts.rp_filter.max(interface.rp_filter) == Some(1);
        if v4().next().is_some() && strict {
            let cost = "packets that the stack gets from another interface than it would answer by are dropped";
            let fix = format!("sysctl -w net.ipv4.conf.{}.rp_filter=2, and the same for `all`", interface.name);
            findings.push(bad(Grade::Costly, &interface.name, "rp_filter is strict", cost, fix));
        }
    }
    findings
}

fn ports(facts: &Facts, xdp: &Xdp, vips: &[Vip]) -> Option<Finding> {
    if !vips.iter().any(|vip| vip.mode == VipMode::Nat && matches!(vip.target, VipTarget::Cluster(_))) {
        return None;
    }
    let (first, last) = (*xdp.snat_ports.start(), *xdp.snat_ports.end());
    let (from, to) = facts.local_ports?;
    let (clash_first, clash_last) = (first.max(from), last.min(to));
    let reserved = |port: u16| facts.reserved_ports.iter().any(|(first, last)| (*first..=*last).contains(&port));
    let found = format!("snat_ports {first}-{last}, the box's own {from}-{to}");
    if clash_first > clash_last || (clash_first..=clash_last).all(reserved) {
        return Some(good("snat_ports", found));
    }
    let cost = "answers to the box's own connections from these ports are taken for those of flows, and are lost";
    let fix = format!("sysctl -w net.ipv4.ip_local_reserved_ports={clash_first}-{clash_last}, or other snat_ports");
    Some(bad(Grade::Broken, "snat_ports", found, cost, fix))
}

/// The kernel makes the cookies, when this setting lets it.
fn syn_cookies(facts: &Facts, xdp: &Xdp) -> Option<Finding> {
    const SETTING: &str = "net.ipv4.tcp_syncookies";
    let fix = || format!("sysctl -w {SETTING}=1");
    xdp.syn_cookies.then(|| match facts.syn_cookies {
        Some(1) => good(SETTING, "while a queue overflows"),
        Some(0) => {
            let cost = "`syn_cookies` does nothing: when a listener's queue is full, it takes no connections";
            bad(Grade::Broken, SETTING, "off", cost, fix())
        }
        Some(_) => {
            let cost = "no connection to this box has window scaling or SACK, also while nobody floods it";
            bad(Grade::Costly, SETTING, "always", cost, fix())
        }
        None => {
            let cost = "`syn_cookies` does nothing";
            bad(Grade::Broken, SETTING, "not there", cost, "a kernel with CONFIG_SYN_COOKIES")
        }
    })
}

/// An endpoint has to have the VIP. Only checks at the VIP tell whether it has: they take links of tc (tcx).
fn checks_at_vips(facts: &Facts, vips: &[Vip]) -> Option<Finding> {
    let subject = "dsr, ipip";
    let is_wanted = vips.iter().any(|vip| matches!(vip.mode, VipMode::Dsr | VipMode::Ipip));
    let (major, minor) = facts.kernel.filter(|_| is_wanted)?;
    if (major, minor) >= (6, 6) {
        return Some(good(subject, "health checks can ask at the virtual address"));
    }
    let found = format!("Linux {major}.{minor} has no checks at the virtual address");
    let cost = "health checks go to the endpoints' own addresses: they do not see that a VIP is missing there";
    let fix = "Linux 6.6 or later; until then docs/l4.md says how endpoints are set up";
    Some(bad(Grade::Costly, subject, found, cost, fix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{ClusterId, VipAffinity, VipProtocol};
    use crate::xdp::Attached;

    /// A machine where everything is as it should be.
    fn machine() -> Facts {
        let eth0 = Interface {
            name: "eth0".into(),
            exists: true,
            driver: Some("ice".into()),
            mtu: Some(1500),
            queues: (8, 8),
            lro: Some(false),
            takes_tags_off: Some(true),
            has_vlans: false,
            rp_filter: Some(0),
            accept_local: Some(true),
            attached: None,
        };
        Facts {
            kernel: Some((6, 1)),
            features: vec![("XDP programs", Some(true))],
            interfaces: vec![eth0],
            forwarding: [Some(true), Some(true)],
            accept_local: Some(false),
            rp_filter: Some(0),
            syn_cookies: Some(1),
            local_ports: Some((32_768, 60_999)),
            reserved_ports: vec![],
            memlock: Some(65_536),
            pin: Some(("/sys/fs/bpf/gateway".into(), true)),
        }
    }

    fn config(mode: VipMode) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gateway.toml");
        std::fs::write(&path, "").unwrap();
        let loaded = crate::config::load(&path, &crate::control::source::DiskFiles, std::time::SystemTime::now());
        let mut config = loaded.unwrap().config;
        config.vips = vec![Vip {
            name: "v".into(),
            address: "192.0.2.1:80".parse().unwrap(),
            protocol: VipProtocol::Tcp,
            mode,
            target: VipTarget::Cluster(ClusterId(0)),
            affinity: VipAffinity::Flow,
            drain: false,
        }];
        config
    }

    fn bad_ones(facts: &Facts, mode: VipMode) -> Vec<String> {
        bad_of(facts, &config(mode))
    }

    fn bad_of(facts: &Facts, config: &Config) -> Vec<String> {
        let findings = judge(facts, Some(config));
        let bad = findings.into_iter().filter(|finding| finding.grade != Grade::Good);
        bad.map(|finding| {
            assert!(!finding.cost.is_empty() && !finding.fix.is_empty(), "{finding:?}");
            format!("{} {}: {}", finding.grade.name(), finding.subject, finding.found)
        })
        .collect()
    }

    #[test]
    fn a_machine_as_it_should_be_has_only_good_findings() {
        assert_eq!(bad_ones(&machine(), VipMode::Nat), Vec::<String>::new());
        assert!(judge(&machine(), None).len() >= 6);
    }

    #[test]
    fn each_fault_is_found_with_its_grade() {
        type Break = fn(&mut Facts);
        let cases: [(Break, &[&str]); 18] = [
            (|facts| facts.kernel = Some((5, 15)), &["broken kernel: Linux 5.15"]),
            (|facts| facts.kernel = Some((5, 18)), &["broken kernel: Linux 5.18"]),
            (
                |facts| facts.kernel = Some((5, 10)),
                &["broken kernel: Linux 5.10", "broken memlock: 65536 bytes may be locked"],
            ),
            (|facts| facts.features[0].1 = Some(false), &["broken kernel: has no XDP programs"]),
            (|facts| facts.features[0].1 = None, &["costs kernel: XDP programs: not permitted to ask"]),
            (|facts| facts.interfaces[0].exists = false, &["broken eth0: there is no such interface"]),
            (
                |facts| facts.interfaces[0].driver = Some("e1000".into()),
                &["costs eth0: driver e1000 is not known to have native XDP"],
            ),
            (|facts| facts.interfaces[0].driver = None, &["costs eth0: a virtual interface"]),
            (|facts| facts.interfaces[0].lro = Some(true), &["broken eth0: large receive offload is on"]),
            (|facts| facts.interfaces[0].has_vlans = true, &["broken eth0: VLAN tags are taken off by the card"]),
            (|facts| facts.interfaces[0].mtu = Some(9000), &["costs eth0: MTU 9000"]),
            (|facts| facts.interfaces[0].queues = (1, 1), &["costs eth0: 1 receive and 1 transmit queues"]),
            (|facts| facts.pin = Some(("/x".into(), false)), &["costs pin: /x is in no BPF file system"]),
            (|facts| facts.forwarding = [Some(false); 2], &["broken net.ipv4.ip_forward: off"]),
            (|facts| facts.interfaces[0].accept_local = Some(false), &["costs eth0: accept_local is off"]),
            (|facts| facts.rp_filter = Some(1), &["costs eth0: rp_filter is strict"]),
            (
                |facts| facts.local_ports = Some((1024, 65_535)),
                &["broken snat_ports: snat_ports 61000-65535, the box's own 1024-65535"],
            ),
            (
                |facts| {
                    facts.local_ports = Some((1024, 65_535));
                    facts.reserved_ports = vec![(60_000, 65_535)];
                },
                &[],
            ),
        ];
        for (at, (fault, expected)) in cases.into_iter().enumerate() {
            let mut facts = machine();
            fault(&mut facts);
            assert_eq!(bad_ones(&facts, VipMode::Nat), expected, "case {at}");
        }
    }

    #[test]
    fn syn_cookies_want_the_kernel_to_make_some() {
        let cases: [(bool, Option<u32>, &[&str]); 5] = [
            (true, Some(1), &[]),
            (true, Some(0), &["broken net.ipv4.tcp_syncookies: off"]),
            (true, Some(2), &["costs net.ipv4.tcp_syncookies: always"]),
            (true, None, &["broken net.ipv4.tcp_syncookies: not there"]),
            (false, Some(0), &[]),
        ];
        for (wanted, setting, expected) in cases {
            let mut config = config(VipMode::Nat);
            config.xdp.syn_cookies = wanted;
            assert_eq!(bad_of(&Facts { syn_cookies: setting, ..machine() }, &config), expected, "{wanted} {setting:?}");
        }
    }

    #[test]
    fn what_a_program_attached_does_is_known_better_than_its_driver() {
        let mut facts = machine();
        facts.interfaces[0].driver = Some("e1000".into());
        facts.interfaces[0].attached = Some(Attached::Generic);
        assert_eq!(bad_ones(&facts, VipMode::Nat), Vec::<String>::new());
    }

    #[test]
    fn checks_at_the_virtual_address_want_a_newer_kernel() {
        let old = "costs dsr, ipip: Linux 6.1 has no checks at the virtual address";
        let cases: [(VipMode, (u32, u32), &[&str]); 5] = [
            (VipMode::Dsr, (6, 1), &[old]),
            (VipMode::Ipip, (6, 1), &[old]),
            (VipMode::Nat, (6, 1), &[]),
            (VipMode::Dsr, (6, 6), &[]),
            (VipMode::Ipip, (7, 0), &[]),
        ];
        for (mode, kernel, expected) in cases {
            let facts = Facts { kernel: Some(kernel), ..machine() };
            assert_eq!(bad_ones(&facts, mode), expected, "{mode:?} {kernel:?}");
        }
    }

    #[test]
    fn settings_of_ipv4_matter_to_vips_of_ipv4_whose_packets_have_the_box_as_their_source() {
        let found = ["costs eth0: accept_local is off", "costs eth0: rp_filter is strict"];
        let cases: [(VipMode, &str, &[&str]); 4] = [
            (VipMode::Nat, "192.0.2.1:80", &found),
            (VipMode::Ipip, "192.0.2.1:80", &found),
            (VipMode::Dnat, "192.0.2.1:80", &found[1..]),
            (VipMode::Nat, "[2001:db8::1]:80", &[]),
        ];
        for (mode, vip, expected) in cases {
            let mut facts = Facts { kernel: Some((6, 6)), ..machine() };
            facts.interfaces[0].accept_local = Some(false);
            facts.interfaces[0].rp_filter = Some(1);
            let mut config = config(mode);
            config.vips[0].address = vip.parse().unwrap();
            assert_eq!(bad_of(&facts, &config), expected, "{mode:?} {vip}");
        }
    }
}
