//! How full the kernel's flow tables are said to be.
//!
//! Root only, and only with an object in the binary; elsewhere each test says that it was skipped.

use std::time::Duration;

use gateway::config::model::{self, FlowLimits, FlowTimeouts, VipAffinity, VipMode, VipProtocol, XdpMode};
use gateway::xdp::{self, Backend, FlowState, FlowTableUse, Service, Target, Xdp};
use gateway_tests::lab::Namespace;
use gateway_tests::packet::Build;
use gateway_tests::packet::flags::{ACK, SYN};
use gateway_tests::root_or_skip;
use gateway_tests::wait;

#[test]
fn a_small_table_is_counted_and_flows_that_are_over_are_told_apart() {
    root_or_skip!();
    let gateway = Namespace::new("gateway");
    let long = Duration::from_secs(3600);
    let mut xdp = gateway.enter(|| start(&config(1024, long)));
    let [half_open, ..] = usage(&xdp);
    assert_eq!((half_open.live, half_open.over, half_open.max), (0, 0, 2048));
    send(&xdp, SYN, 0..500);
    let [half_open, established_v4, half_open_v6, _] = usage(&xdp);
    assert_eq!(
        (half_open.state, half_open.is_v6, half_open.live, half_open.over),
        (FlowState::HalfOpen, false, 500, 0)
    );
    assert_eq!((established_v4.live, half_open_v6.live), (0, 0));
    // The client's next packets of some.
    send(&xdp, ACK, 0..100);
    let [half_open, established_v4, ..] = usage(&xdp);
    assert_eq!((half_open.live, established_v4.live), (400, 100));

    gateway.enter(|| xdp.sync(&config(1024, Duration::from_secs(1)), &[]).unwrap());
    wait::until_true("all flows to be over", || {
        let [half_open, established_v4, ..] = usage(&xdp);
        (half_open.live, half_open.over, established_v4.over) == (0, 400, 100)
    });
}

#[test]
fn a_large_table_is_estimated() {
    root_or_skip!();
    const FLOWS: u32 = 40_000;
    let gateway = Namespace::new("gateway");
    let xdp = gateway.enter(|| start(&config(1 << 16, Duration::from_secs(3600))));
    send(&xdp, SYN, 0..FLOWS);
    let [half_open, ..] = usage(&xdp);
    assert_eq!(half_open.max, 1 << 17);
    // 4096 buckets of 131 072 have 1250 of them: five standard deviations are 14 %.
    assert!(half_open.live.abs_diff(FLOWS.into()) < u64::from(FLOWS) / 7, "{half_open:?}");
}

fn usage(xdp: &Xdp) -> [FlowTableUse; 4] {
    xdp.flow_tables().unwrap().try_into().unwrap()
}

/// A packet of each of these flows.
fn send(xdp: &Xdp, flags: u8, flows: std::ops::Range<u32>) {
    for flow in flows {
        let from = format!("10.{}.{}.{}:5000", 1 + (flow >> 16), (flow >> 8) & 0xff, flow & 0xff);
        xdp.probe(&Build::tcp(flags, &from, "192.0.2.92:53").frame(), 1).unwrap();
    }
}

/// With one service of mode `dsr`, whose flows are one entry each.
fn start(config: &model::Xdp) -> Xdp {
    let mut xdp = xdp::attach(config, &[]).unwrap();
    let backend = Backend { address: "127.0.0.92:53".parse().unwrap(), weight: 1, alive: true };
    let (mode, affinity) = (VipMode::Dsr, VipAffinity::Flow);
    let target = Target::Backends { mode, affinity, backends: vec![backend] };
    let address = "192.0.2.92:53".parse().unwrap();
    xdp.sync_services(&[Service { name: "dns".into(), address, protocol: VipProtocol::Tcp, target, drain: false }])
        .unwrap();
    xdp
}

fn config(half_open: u32, timeout: Duration) -> model::Xdp {
    model::Xdp {
        interfaces: vec!["lo".into()],
        mode: XdpMode::Auto,
        pin: None,
        flows: FlowLimits { half_open, established: 1024, ..FlowLimits::default() },
        timeouts: FlowTimeouts { half_open: timeout, established: timeout, ..FlowTimeouts::default() },
        ..model::Xdp::default()
    }
}
