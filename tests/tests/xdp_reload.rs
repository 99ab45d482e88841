//! Reloads with long access lists, beside what else the control thread does.
//!
//! Root only, and only with an object in the binary; elsewhere each test says that it was skipped.

use std::fmt::Write;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use gateway::config::model::{self, VipMode, VipProtocol, XdpMode};
use gateway_tests::lab::Namespace;
use gateway_tests::prelude::*;
use gateway_tests::root_or_skip;
use gateway_tests::xdp::{Lab, V4, service};

#[test]
fn the_admin_endpoint_answers_while_a_long_list_is_made() {
    root_or_skip!();
    let machine = Namespace::new("gateway");
    let config = |sources| {
        Config::new().tables(&format!(
            "[xdp]\ninterfaces = ['lo']\nmode = 'generic'\npin = 'off'\n\
             [[access]]\nname = 'bad'\naction = 'deny'\n{sources}\n"
        ))
    };
    let gateway = machine.enter(|| Gateway::start(&config("sources = ['192.0.2.1']")));
    let mut list = String::new();
    for at in 0..700_000_u32 {
        writeln!(list, "{}", std::net::Ipv4Addr::from(0x1400_0000 + at * 7)).unwrap();
    }
    let (done, mut answers) = (AtomicBool::new(false), 0);
    thread::scope(|scope| {
        gateway.write_file("bad.txt", &list);
        gateway.write_config(&config("source_files = ['bad.txt']"));
        scope.spawn(|| {
            let response = machine.enter(|| gateway.admin_post("/reload"));
            done.store(true, Relaxed);
            assert_eq!(response.status, 200, "{}", response.text());
        });
        while !done.load(Relaxed) {
            machine.enter(|| gateway.metrics());
            answers += 1;
        }
    });
    // To make the list takes a second, an answer less than a millisecond. Reading the file comes before, and holds one up.
    assert!(answers > 20, "{answers} answers");
    let metrics = machine.enter(|| gateway.metrics());
    assert_eq!(metrics.sum("gateway_config_reloads_total", &[("result", "failed")]), 0.0);
}

#[test]
fn bans_hold_when_xdp_is_turned_on() {
    root_or_skip!();
    let machine = Namespace::new("gateway");
    let off = Config::new();
    let on = Config::new().tables("[xdp]\ninterfaces = ['lo']\nmode = 'generic'\npin = 'off'\n");
    machine.enter(|| {
        let mut gateway = Gateway::start(&off);
        let ban = gateway.admin_post("/bans/127.0.0.9");
        assert_eq!(ban.status, 200, "{}", ban.text());
        let socket = UdpSocket::bind("127.0.0.9:0").unwrap();
        for time in ["first", "second"] {
            gateway.reload(&on);
            socket.send_to(b"x", "127.0.0.1:9").unwrap();
            let banned = || gateway.metrics().sum("gateway_xdp_packets_total", &[("reason", "banned")]);
            wait::until_true(&format!("a banned packet to be dropped, the {time} time"), || banned() == 1.0);
            gateway.reload(&off);
        }
    });
}

#[test]
fn a_reload_that_cannot_be_had_leaves_the_source_ports_as_they_were() {
    root_or_skip!();
    let mut lab = Lab::new();
    lab.serve(&[service(&V4, VipProtocol::Tcp, VipMode::Nat, &V4.backends)]);
    let ports = model::Xdp::default().snat_ports;
    let config = model::Xdp {
        interfaces: vec!["eth9".into()],
        mode: XdpMode::Generic,
        snat_ports: 20_000..=20_999,
        ..model::Xdp::default()
    };
    lab.namespace.enter(|| lab.xdp.sync(&config, &[])).unwrap_err();
    for client in 1..9 {
        let sent = lab.sent(&lab.first(VipProtocol::Tcp, &format!("198.51.100.{client}:1000"), V4.vip));
        assert!(ports.contains(&sent.from.port()), "{}", sent.from);
    }
}
