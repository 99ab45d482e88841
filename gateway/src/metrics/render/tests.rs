use std::collections::{HashMap, HashSet};

use super::*;
use crate::metrics::flags::{ResponseFlag, ResponseFlags};
use crate::metrics::names::Kind;

fn full_page() -> String {
    let registry = Registry::new(2);
    let listener = registry.listener("we\"b\\\n");
    listener.shard(0).connections.add(3);
    listener.shard(1).connections.add(4);
    listener.shard(1).requests.count(404);
    listener.shard(1).flags.count(ResponseFlags::from(ResponseFlag::NoRouteFound));
    let (route, cluster) = (registry.route("r"), registry.cluster("c"));
    for (worker, us) in [(0, 300), (0, 700), (1, 700), (1, 90_000_000)] {
        route.shard(worker).requests.count(200);
        route.shard(worker).duration.observe_us(us);
    }
    cluster.shard(0).connections_created.inc();
    let limit = registry.rate_limit("logins");
    limit.shard(0).refused.add(2);
    limit.shard(1).refused.add(3);
    limit.shard(1).evictions.inc();
    let fault = registry.fault("slow");
    fault.shard(0).delayed.add(18);
    let idle = registry.route("idle");
    let extra = Extra {
        version: "1.2.3",
        generation: 7,
        reloads_ok: 6,
        last_reload_unix_s: 1_700_000_000,
        endpoints: vec![EndpointHealth {
            cluster: "c".into(),
            endpoint: "[::1]:80".into(),
            healthy: true,
            changes: 2,
            active: Some(3),
        }],
        xdp_packets: vec![("denied_v4", 12)],
        xdp_interfaces: vec![("eth0".into(), "generic")],
        vips: vec![VipCounts {
            name: "v".into(),
            local: [5, 6],
            dropped: 7,
            endpoints: vec![VipEndpointCounts {
                address: "10.0.0.1:80".into(),
                flows: 8,
                packets: [9, 10],
                bytes: [11, 12],
            }],
        }],
        xdp_rules: vec![("bad-actors".into(), 7)],
        flow_tables: vec![FlowTableCounts { table: "half_open", ip: "6", entries: [13, 14], max: 15 }],
        xdp_drop_log: Some([4, 9]),
        store_up: Some(1),
        bans: 3,
        rate_limit_keys: vec![("logins".into(), 16)],
        faults_active: vec![("slow".into(), 17)],
        ..Extra::default()
    };
    let mut out = String::new();
    render(&registry, &extra, &mut out);
    drop((listener, route, cluster, limit, fault, idle));
    out
}

/// Sample name with labels as written → value. Panics on anything the format's grammar does not allow.
fn parse(page: &str) -> HashMap<String, f64> {
    let (mut samples, mut families, mut current) = (HashMap::new(), HashSet::new(), None);
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, _) = help.split_once(' ').expect("a name and a text");
            assert!(families.insert(name.to_owned()), "{name} comes twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            current = kind.split_once(' ');
        } else {
            let (sample, value) = line.rsplit_once(' ').expect("a sample and a value");
            let (family, kind) = current.expect("a TYPE line before");
            let suffix = sample.split('{').next().unwrap().strip_prefix(family).expect("a sample of its family");
            let allowed: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.contains(&suffix), "{line}");
            assert!(samples.insert(sample.to_owned(), value.parse().expect("a number")).is_none(), "{line} twice");
        }
    }
    samples
}

#[test]
fn every_family_is_rendered_once_with_its_type() {
    let page = full_page();
    parse(&page);
    for family in names::ALL {
        let header = format!("# HELP {} {}\n# TYPE {0} {}\n", family.name, family.help, family.kind.as_str());
        assert_eq!(page.matches(&header).count(), 1, "{}", family.name);
        assert!(family.kind != Kind::Histogram || !family.labels.contains(&"le"));
    }
}

#[test]
fn shards_add_up_in_the_samples() {
    let samples = parse(&full_page());
    for (sample, value) in [
        (r#"gateway_listener_connections_total{listener="we\"b\\\n"}"#, 7.0),
        (r#"gateway_listener_requests_total{listener="we\"b\\\n",code="4xx"}"#, 1.0),
        (r#"gateway_listener_response_flags_total{listener="we\"b\\\n",flag="NR"}"#, 1.0),
        (r#"gateway_route_requests_total{route="r",code="2xx"}"#, 4.0),
        (r#"gateway_cluster_connections_total{cluster="c"}"#, 1.0),
        (r#"gateway_cluster_endpoint_healthy{cluster="c",endpoint="[::1]:80"}"#, 1.0),
        (r#"gateway_cluster_endpoint_health_changes_total{cluster="c",endpoint="[::1]:80"}"#, 2.0),
        (r#"gateway_cluster_endpoint_requests_active{cluster="c",endpoint="[::1]:80"}"#, 3.0),
        (r#"gateway_xdp_packets_total{reason="denied_v4"}"#, 12.0),
        (r#"gateway_xdp_flow_entries{table="half_open",ip="6",state="live"}"#, 13.0),
        (r#"gateway_xdp_flow_entries{table="half_open",ip="6",state="over"}"#, 14.0),
        (r#"gateway_xdp_flow_entries_max{table="half_open",ip="6"}"#, 15.0),
        (r#"gateway_xdp_drop_log_packets_total{result="written"}"#, 4.0),
        (r#"gateway_xdp_drop_log_packets_total{result="omitted"}"#, 9.0),
        (r#"gateway_xdp_interface_mode{interface="eth0",mode="native"}"#, 0.0),
        (r#"gateway_xdp_interface_mode{interface="eth0",mode="generic"}"#, 1.0),
        (r#"gateway_vip_flows_total{vip="v",endpoint="10.0.0.1:80"}"#, 8.0),
        (r#"gateway_vip_packets_total{vip="v",endpoint="10.0.0.1:80",direction="out"}"#, 10.0),
        (r#"gateway_vip_bytes_total{vip="v",endpoint="10.0.0.1:80",direction="in"}"#, 11.0),
        (r#"gateway_vip_local_packets_total{vip="v"}"#, 5.0),
        (r#"gateway_vip_dropped_packets_total{vip="v"}"#, 7.0),
        (r#"gateway_xdp_rule_packets_total{rule="bad-actors"}"#, 7.0),
        (r#"gateway_rate_limit_requests_total{limit="logins",result="refused"}"#, 5.0),
        (r#"gateway_rate_limit_evictions_total{limit="logins"}"#, 1.0),
        (r#"gateway_rate_limit_keys{limit="logins"}"#, 16.0),
        (r#"gateway_fault_requests_total{fault="slow",result="delayed"}"#, 18.0),
        (r#"gateway_fault_requests_active{fault="slow"}"#, 17.0),
        ("gateway_certificate_store_up", 1.0),
        ("gateway_bans_active", 3.0),
        ("gateway_config_generation", 7.0),
        (r#"gateway_config_reloads_total{result="ok"}"#, 6.0),
        (r#"gateway_build_info{version="1.2.3"}"#, 1.0),
    ] {
        assert_eq!(samples.get(sample), Some(&value), "{sample}");
    }
}

#[test]
fn histogram_buckets_are_cumulated_and_end_with_the_count() {
    let samples = parse(&full_page());
    let bucket =
        |le: &str| samples[&format!(r#"gateway_route_request_duration_seconds_bucket{{route="r",le="{le}"}}"#)];
    for (le, count) in [("0.00025", 0.0), ("0.0005", 1.0), ("0.001", 3.0), ("60", 3.0), ("+Inf", 4.0)] {
        assert_eq!(bucket(le), count, "{le}");
    }
    assert_eq!(samples[r#"gateway_route_request_duration_seconds_count{route="r"}"#], 4.0);
    assert_eq!(samples[r#"gateway_route_request_duration_seconds_sum{route="r"}"#], 90.0017);
}

#[test]
fn a_route_without_a_request_is_left_out() {
    assert!(!full_page().contains("idle\""));
}

/// Prometheus' own checker, where Debian's `prometheus` package is installed.
#[test]
fn promtool_finds_nothing_to_complain_about() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let child =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = child else { return };
    child.stdin.take().unwrap().write_all(full_page().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
