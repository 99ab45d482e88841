//! Reloads with long access lists, beside what else the control thread does.
//!
//! Root only, and only with an object in the binary; elsewhere each test says that it was skipped.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use gateway_tests::lab::Namespace;
use gateway_tests::prelude::*;
use gateway_tests::root_or_skip;

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
