//! Good configurations of health checks.

use super::good::config;
use crate::config::model::*;

#[test]
fn a_health_check_asks_as_the_cluster_is_used_unless_it_says_otherwise() {
    use UpstreamProtocol::{Auto, H1, H2};
    let own = |server_name: &str| UpstreamTls { server_name: Some(server_name.into()), ..UpstreamTls::default() };
    let cluster = "tls = { server_name = \"a.test\" }\nprotocol = \"auto\"\nproxy_protocol = \"v2\"\n";
    let default = UpstreamTls::default();
    let (v1, v2) = (Some(ProxyVersion::V1), Some(ProxyVersion::V2));
    // The cluster, the check's keys, and what comes of it: TLS, version, PROXY header.
    for (lines, keys, tls, version, header) in [
        ("", "", None, H1, None),
        ("protocol = \"h2\"\n", "", None, H2, None),
        ("", ", http = \"h2\", tls = true, proxy_protocol = \"v1\"", Some(default), H2, v1),
        (cluster, "", Some(own("a.test")), Auto, v2),
        (cluster, ", port = 1, tls = true, http = \"h1\"", Some(own("a.test")), H1, v2),
        (cluster, ", tls = false, proxy_protocol = \"off\"", None, H1, None),
        (cluster, ", tls = { server_name = \"b.test\" }", Some(own("b.test")), Auto, v2),
    ] {
        let check = format!("health_check = {{ protocol = \"http\"{keys} }}");
        let config = config(&format!("[[cluster]]\nname = \"a\"\nendpoints = []\n{lines}{check}\n"));
        let check = config.clusters[0].health_check.as_ref().unwrap();
        let HealthProbe::Http { version: got, .. } = check.probe else { panic!() };
        assert_eq!((&check.tls, got, check.proxy_protocol), (&tls, version, header), "{lines}{keys}");
    }
    let text = format!("[[cluster]]\nname = \"a\"\nendpoints = []\n{cluster}health_check = {{ protocol = \"tcp\" }}");
    let check = config(&text).clusters[0].health_check.clone().unwrap();
    assert_eq!((check.tls, check.proxy_protocol), (None, None), "connecting needs neither");
    let grpc = "[[cluster]]\nname = \"a\"\nendpoints = []\n\
                health_check = { protocol = \"grpc\", service = \"a.B\", host = \"c\" }";
    let probe = &config(grpc).clusters[0].health_check.as_ref().unwrap().probe.clone();
    assert_eq!(probe, &HealthProbe::Grpc { service: "a.B".into(), host: Some("c".into()) });
}

#[test]
fn tls_towards_endpoints_is_what_the_table_says() {
    let text = "[[certificate]]\nname = \"c\"\nchain = \"certs/good.pem\"\nkey = \"certs/good.key\"\n\
                [[cluster]]\nname = \"a\"\nendpoints = []\n[cluster.tls]\nserver_name = \"a.test\"\nca = \"certs/good.pem\"\n\
                names = [\"*.a.test\", \"spiffe://td.test/ns/*\"]\ncertificate = \"c\"\nmin_version = \"1.3\"\n\
                alpn = [\"postgresql\"]\nresumption = false\n";
    let config = config(text);
    let tls = config.clusters[0].tls.as_ref().unwrap();
    assert!(tls.ca_pem.is_some());
    let names = vec![SanMatch::DnsLabel(".a.test".into()), SanMatch::UriPrefix("spiffe://td.test/ns/".into())];
    let expected = UpstreamTls {
        server_name: Some("a.test".into()),
        ca_pem: tls.ca_pem.clone(),
        names,
        certificate: Some("c".into()),
        min_version: TlsVersion::Tls13,
        alpn: vec!["postgresql".into()],
        resumption: false,
        ..UpstreamTls::default()
    };
    assert_eq!(*tls, expected);
}
