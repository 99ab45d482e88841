//! How many there may be of what the kernel's tables hold.

use std::fmt::Write;

use super::certificates;
use crate::config::model::{VIP_ENDPOINTS_MAX, VIPS_MAX};

/// What is said about this many vips, each with a cluster of this many addresses, each of which is there twice.
fn report(vips: usize, addresses: usize) -> String {
    let endpoints: Vec<String> = (0..2 * addresses).map(|at| format!("'10.0.0.1:{}'", 1 + at / 2)).collect();
    let mut text = "[xdp]\ninterfaces = ['eth0']\n[[cluster]]\nname = 'c'\n".to_owned();
    writeln!(text, "endpoints = [{}]", endpoints.join(", ")).unwrap();
    for at in 1..=vips {
        writeln!(text, "[[vip]]\nname = 'v{at}'\naddress = '192.0.2.1:{at}'\ncluster = 'c'").unwrap();
    }
    let mut files = certificates::files();
    files.add("gateway.toml", text);
    files.load().map_or_else(|report| report.to_string(), |loaded| loaded.warnings.to_string())
}

#[test]
fn more_vips_or_endpoints_than_the_kernels_tables_hold_are_an_error() {
    let too_many = "which is all the kernel's tables hold";
    let cases = [
        (VIPS_MAX, VIP_ENDPOINTS_MAX / VIPS_MAX, ""),
        (VIPS_MAX + 1, 1, "with `v513` there are more than 512 vips, "),
        (3, VIP_ENDPOINTS_MAX / 2, "with `v3` there are more than 16384 endpoints of vips, "),
    ];
    for (vips, addresses, expected) in cases {
        let report = report(vips, addresses);
        assert!(report.contains(expected), "{report}");
        assert_eq!(report.matches(too_many).count(), usize::from(!expected.is_empty()), "{report}");
    }
}
