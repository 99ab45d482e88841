//! gRPC over mutual TLS, with a stack that knows nothing of the gateway: Python's over the C core.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use gateway_tests::certs::{Authority, Leaf, Store};
use gateway_tests::client::HOST;
use gateway_tests::ports::{any_port, loopback};
use gateway_tests::prelude::*;
use gateway_tests::process::Process;

/// Answers with what it was told of the client's certificate, then with what it was sent.
const SERVER: &str = r#"
import grpc, sys
from concurrent import futures

def told(context):
    values = [value for key, value in context.invocation_metadata() if key == "x-forwarded-client-cert"]
    return "|".join(values).encode()

def unary(message, context):
    return told(context) + b" " + message

def stream(messages, context):
    yield told(context)
    yield from messages

handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Stream": grpc.stream_stream_rpc_method_handler(stream),
}
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
print("PORT", server.add_insecure_port(sys.argv[1]), flush=True)
server.start()
server.wait_for_termination()
"#;

/// With an address, the server's authority, what the origin should be told, and a chain and key to show, or neither. Prints
/// what becomes of the calls.
const CLIENT: &str = r#"
import grpc, sys

address, authority, expected, *pair = sys.argv[1:]
read = lambda path: open(path, "rb").read()
chain, key = map(read, pair) if pair else (None, None)
credentials = grpc.ssl_channel_credentials(read(authority), key, chain)
channel = grpc.secure_channel(address, credentials, options=[("grpc.enable_http_proxy", 0)])
claim = [("x-forwarded-client-cert", "Hash=forged")]
words = [b"%d" % n for n in range(100)]
try:
    answer = channel.unary_unary("/test.Echo/Unary")(b"hello", metadata=claim, timeout=15)
    assert answer == expected.encode() + b" hello", answer
    answers = list(channel.stream_stream("/test.Echo/Stream")(iter(words), metadata=claim, timeout=15))
    assert answers == [expected.encode()] + words, answers
    print("PASSED")
except grpc.RpcError as error:
    print(error.code().name)
"#;

fn python(script: &str, arguments: &[&str]) -> Process {
    // Debian's own: the package python3-grpcio is for it.
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script]).args(arguments);
    Process::start(command)
}

/// The service, and where it is.
fn server() -> (Process, SocketAddr) {
    let server = python(SERVER, &[&any_port().to_string()]);
    let line = server.stdout.find("the server's port", |line| line.starts_with("PORT "));
    let line = line.unwrap_or_else(|| panic!("no server: {}", server.stderr.text()));
    let port = line["PORT ".len()..].parse().expect("a port");
    (server, SocketAddr::new(loopback(), port))
}

struct Lab {
    store: Store,
    clients: Authority,
}

impl Lab {
    fn config(&self, origin: SocketAddr) -> Config {
        self.store.issue("site", &[HOST, "127.0.0.1", "::1"]);
        let clients = self.clients.leaf(&["revoked.test"]);
        self.store.write("clients.pem", &self.clients.pem());
        self.store.write("clients.crl", &self.clients.revocation_list(&[&clients], 2100));
        self.store.put("revoked", &clients);
        let file = |name| self.store.path().join(name).display().to_string();
        let client_auth =
            format!("client_auth = {{ ca = '{}', crl = ['{}'] }}", file("clients.pem"), file("clients.crl"));
        let told = "forward_client_cert = 'sanitize_set'\nforward_client_cert_details = ['dns']";
        Config::new()
            .certificate("site", self.store.path())
            .listener("web", &format!("tls = {{ certificates = ['site'], {client_auth} }}\n{told}"))
            .cluster("origin", &[origin], "protocol = 'h2'")
            .route("all", "match = { path_prefix = '/test.Echo' }\ncluster = 'origin'")
    }

    /// What becomes of the calls of a client that shows this certificate of the store.
    fn call(&self, gateway: &Gateway, expected: &str, shown: Option<&str>) -> String {
        let dir = self.store.path();
        let path = |file: &Path| file.display().to_string();
        let shown = shown.map(|name| ["pem", "key"].map(|end| path(&dir.join(name).with_extension(end))));
        let mut arguments = vec![gateway.addr("web").to_string(), path(&dir.join("ca.pem")), expected.to_owned()];
        arguments.extend(shown.into_iter().flatten());
        let mut client = python(CLIENT, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let status = client.wait_exit(wait::DEADLINE * 3);
        assert!(status.success(), "{}", client.stderr.text());
        client.stdout.text().trim().to_owned()
    }
}

fn told_of(leaf: &Leaf) -> String {
    let identity = gateway::proto::x509::Identity::of(&leaf.der).expect("a certificate");
    format!("Hash={};DNS=client.test", gateway::proto::x509::hex(&identity.sha256))
}

#[test]
fn calls_of_a_client_with_a_certificate_pass_and_those_of_others_are_unavailable() {
    let (mut server, origin) = server();
    let lab = Lab { store: Store::new(), clients: Authority::new() };
    let gateway = Gateway::start(&lab.config(origin));
    let good = lab.clients.leaf(&["client.test"]);
    lab.store.put("client", &good);
    lab.store.put("stranger", &Authority::new().leaf(&["client.test"]));
    assert_eq!(lab.call(&gateway, &told_of(&good), Some("client")), "PASSED");
    for (shown, reason) in
        [(None, "no_certificate"), (Some("stranger"), "unknown_issuer"), (Some("revoked"), "revoked")]
    {
        assert_eq!(lab.call(&gateway, "", shown), "UNAVAILABLE", "{shown:?}");
        let labels = [("listener", "web"), ("reason", reason)];
        let refused = || gateway.metrics().sum("gateway_listener_tls_handshake_failures_total", &labels);
        wait::until_true(&format!("a refusal for {reason}"), || refused() > 0.0);
    }
    server.signal(libc::SIGKILL);
    server.wait_exit(wait::DEADLINE);
}
