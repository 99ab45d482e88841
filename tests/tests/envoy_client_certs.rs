//! What Envoy tells an origin about the client's certificate, the gateway tells it in the same words.

use std::net::SocketAddr;

use gateway_tests::certs::{Authority, Leaf, Store};
use gateway_tests::client::{HOST, request};
use gateway_tests::envoy::{self, Envoy, TYPES};
use gateway_tests::prelude::*;
use gateway_tests::tls::TlsClient;
use rcgen::{DnType, DnValue, SanType};

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// Clients with names of every kind.
fn clients(authority: &Authority) -> Vec<(&'static str, Option<Leaf>)> {
    let usual = authority.leaf_with(&["client.test", "also.test", "192.0.2.1"], |params| {
        params.distinguished_name.push(DnType::CommonName, "client.test");
        params.distinguished_name.push(DnType::OrganizationName, "x");
        params.subject_alt_names.extend([uri("spiffe://td/client"), uri("https://client.test/a?b=c")]);
    });
    let nameless = authority.leaf_with(&[], |params| params.distinguished_name = rcgen::DistinguishedName::new());
    let odd = authority.leaf_with(&["a.test"], |params| {
        let name = &mut params.distinguished_name;
        *name = rcgen::DistinguishedName::new();
        name.push(DnType::CountryName, "DE");
        name.push(DnType::StateOrProvinceName, "Grüße, \"Welt\"; <a+b>\\");
        name.push(DnType::LocalityName, " space ");
        name.push(DnType::CustomDnType(vec![0, 9, 2342, 19200300, 100, 1, 25]), "test");
        name.push(DnType::CustomDnType(vec![0, 9, 2342, 19200300, 100, 1, 1]), "#uid");
        name.push(
            DnType::CustomDnType(vec![1, 2, 840, 113549, 1, 9, 1]),
            DnValue::Ia5String("a@b".try_into().unwrap()),
        );
        name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), "serial");
        name.push(DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99999, 1]), "unknown");
        name.push(DnType::CommonName, "tab\tnewline\n");
    });
    vec![("usual", Some(usual)), ("nameless", Some(nameless)), ("odd", Some(odd)), ("none", None)]
}

fn envoy_config(store: &Store, origin: SocketAddr, mode: &str, listen: SocketAddr) -> String {
    let file = |name: &str| format!("{{filename: '{}'}}", store.path().join(name).display());
    format!(
        "static_resources:
  listeners:
  - name: web
    address: {listen}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          '@type': {TYPES}.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates: [{{certificate_chain: {chain}, private_key: {key}}}]
            validation_context: {{trusted_ca: {ca}}}
      filters:
      - name: http
        typed_config:
          '@type': {TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          use_remote_address: true
          forward_client_cert_details: {mode}
          set_current_client_cert_details: {{subject: true, cert: true, chain: true, dns: true, uri: true}}
          http_filters: [{router}]
          route_config: {{virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: origin}}}}]}}]}}
  clusters: [{cluster}]
",
        listen = envoy::at(listen),
        chain = file("site.pem"),
        key = file("site.key"),
        ca = file("clients.pem"),
        mode = mode.to_uppercase(),
        router = envoy::router(),
        cluster = envoy::cluster("origin", &[origin], Http::H1, ""),
    )
}

#[test]
#[ignore = "needs Envoy 1.40: `cargo xtask test --with-envoy`, or set GATEWAY_TEST_ENVOY to its path"]
fn the_origin_is_told_the_same_as_by_envoy() {
    let (store, authority, origin) = (Store::new(), Authority::new(), Origin::start("a"));
    let own = store.authority.leaf_with(&[HOST], |params| params.subject_alt_names.push(uri("spiffe://td/gateway")));
    store.write("site.pem", &own.chain_pem);
    store.write("site.key", &own.key_pem);
    store.write("clients.pem", &authority.pem());
    let clients = clients(&authority);
    for mode in ["sanitize", "sanitize_set", "forward_only", "append_forward", "always_forward_only"] {
        let envoy = Envoy::start(|listen| envoy_config(&store, origin.addr(), mode, listen));
        let ca = store.path().join("clients.pem");
        let gateway = Gateway::start(
            &Config::new()
                .certificate("site", store.path())
                .listener(
                    "web",
                    &format!(
                        "forward_client_cert = '{mode}'\n\
                         forward_client_cert_details = ['subject', 'cert', 'chain', 'dns', 'uri']\n\
                         tls = {{ certificates = ['site'], client_auth = {{ mode = 'optional', ca = '{}' }} }}",
                        ca.display()
                    ),
                )
                .cluster("origin", &[origin.addr()], "")
                .route("all", "cluster = 'origin'"),
        );
        for (client, leaf) in &clients {
            for came in [&[][..], &["Hash=1;Subject=\"CN=a\""], &["Hash=1", "Hash=2"]] {
                let lines: String = came.iter().map(|value| format!("x-forwarded-client-cert: {value}\r\n")).collect();
                let told = |addr| {
                    let tls = TlsClient::new(&store.authority);
                    let tls = leaf.as_ref().map_or(tls.clone(), |leaf| tls.showing(leaf));
                    let (mut conn, _) = tls.connect(addr, HOST).expect("a handshake");
                    conn.send(request("GET", "/headers", &lines));
                    conn.response().seen().all("x-forwarded-client-cert").join(",")
                };
                assert_eq!(told(gateway.addr("web")), told(envoy.addr()), "{mode}, client {client}, came {came:?}");
            }
        }
    }
}
