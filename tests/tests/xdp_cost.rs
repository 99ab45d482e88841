//! A measurement of the L4 balancer: what a packet costs in the program, above a program that does nothing.

use std::io::{self, Write};

use gateway::config::model::{self, VipMode, VipProtocol};
use gateway_tests::packet::Build;
use gateway_tests::packet::flags::ACK;
use gateway_tests::root_or_skip;
use gateway_tests::xdp::{BOTH, Lab, at, service};

/// Prints what a packet costs: `cargo test -p gateway-tests --test xdp_cost -- --ignored --nocapture`.
///
/// The backend has the virtual address and the client's is the source of mode `nat`, so a packet becomes what it was,
/// except for its TTL, and the next run of the same frame takes the same way.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_packet() {
    root_or_skip!();
    let empty = Empty::load();
    for a in BOTH {
        for mode in [VipMode::Nat, VipMode::Dnat, VipMode::Dsr] {
            let client = a.client.replace(":40000", ":61000");
            let config = model::Xdp { snat_addresses: vec![at(&client).ip()], ..model::Xdp::default() };
            let mut lab = Lab::with(config);
            let vip = at(a.vip).ip().to_string();
            lab.namespace.run(&["ip", "route", "add", &vip, "dev", "eth0"]);
            lab.namespace.run(&["ip", "neigh", "add", &vip, "lladdr", "02:00:00:00:00:0e", "dev", "eth0"]);
            lab.serve(&[service(a, VipProtocol::Tcp, mode, &[a.vip]), service(a, VipProtocol::Udp, mode, &[a.vip])]);
            let packets = [
                ("TCP", Build { ttl: 255, ..Build::tcp(ACK, &client, a.vip) }),
                ("UDP", Build { ttl: 255, ..Build::udp(&client, a.vip) }),
                ("TCP of no service", Build { ttl: 255, ..Build::tcp(ACK, &client, &a.vip.replace(":80", ":81")) }),
            ];
            for (name, packet) in packets {
                let frame = packet.frame();
                if name != "TCP of no service" {
                    lab.run(&frame);
                    lab.run(&lab.answer(
                        if name == "TCP" { VipProtocol::Tcp } else { VipProtocol::Udp },
                        a.vip,
                        &client,
                    ));
                    lab.run(&frame);
                }
                let ours = median(|| lab.xdp.probe(&frame, 200).unwrap().unwrap().per_packet.as_nanos());
                let nothing = median(|| empty.nanoseconds(&frame, 200));
                let net = ours.saturating_sub(nothing);
                let ratio = net as f64 / nothing as f64;
                let version = if at(a.vip).is_ipv4() { "v4" } else { "v6" };
                let line = format!("{mode:?} {version} {name}: {net} ns above {nothing} ns of nothing, {ratio:.1} x\n");
                let _ = io::stdout().write_all(line.as_bytes());
            }
        }
    }
}

fn median(mut measure: impl FnMut() -> u128) -> u128 {
    let mut runs: Vec<u128> = (0..101).map(|_| measure()).collect();
    runs.sort_unstable();
    runs[50]
}

/// A program that passes every frame.
struct Empty(std::os::fd::OwnedFd);

impl Empty {
    const PROG_LOAD: libc::c_long = 5;
    const PROG_TEST_RUN: libc::c_long = 10;
    const TYPE_XDP: u32 = 6;

    fn load() -> Empty {
        // r0 = XDP_PASS; exit
        let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x95];
        let license = c"GPL";
        let mut attributes = [0u64; 16];
        attributes[0] = u64::from(Self::TYPE_XDP) | (code.len() as u64) << 32;
        attributes[1] = code.as_ptr() as u64;
        attributes[2] = license.as_ptr() as u64;
        let fd = Self::call(Self::PROG_LOAD, &mut attributes);
        // SAFETY: the kernel has just opened this descriptor for nobody else.
        Empty(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
    }

    fn nanoseconds(&self, frame: &[u8], repeat: u32) -> u128 {
        let mut attributes = [0u64; 16];
        attributes[0] = std::os::fd::AsRawFd::as_raw_fd(&self.0) as u64;
        attributes[1] = frame.len() as u64;
        attributes[2] = frame.as_ptr() as u64;
        attributes[4] = u64::from(repeat);
        Self::call(Self::PROG_TEST_RUN, &mut attributes);
        u128::from(attributes[4] >> 32)
    }

    fn call(command: libc::c_long, attributes: &mut [u64; 16]) -> i32 {
        // SAFETY: the attributes are of the size given, and what they point to lives in the callers until this returns.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
        assert!(result >= 0, "bpf: {}", io::Error::last_os_error());
        result as i32
    }
}
