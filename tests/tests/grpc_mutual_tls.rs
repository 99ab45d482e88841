//! gRPC over mutual TLS: Python's client over the C core shows a certificate, and its server is told of it.

use std::net::SocketAddr;
use std::process::Command;

use gateway_tests::certs::{Authority, Leaf, Store};
use gateway_tests::client::HOST;
use gateway_tests::ports::{any_port, loopback};
use gateway_tests::prelude::*;
use gateway_tests::process::Process;

const SERVER: &str = r#"
import grpc, sys
from concurrent import futures

def who(message, context):
    return dict(context.invocation_metadata()).get("x-forwarded-client-cert", "").encode()

handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
print("PORT", server.add_insecure_port(sys.argv[1]), flush=True)
server.start()
server.wait_for_termination()
"#;

/// Says what the server was told, or the code of the failure.
const CLIENT: &str = r#"
import grpc, sys

address, name, roots, *own = sys.argv[1:]
read = lambda path: open(path, "rb").read()
chain, key = map(read, own) if own else (None, None)
credentials = grpc.ssl_channel_credentials(read(roots), key, chain)
options = [("grpc.enable_http_proxy", 0), ("grpc.ssl_target_name_override", name)]
channel = grpc.secure_channel(address, credentials, options=options)
try:
    print("TOLD", channel.unary_unary("/test.Echo/Who")(b"", timeout=15).decode())
except grpc.RpcError as error:
    print("FAILED", error.code().name)
"#;

/// Debian's own: the package python3-grpcio is for it.
fn python(script: &str, arguments: &[String]) -> Process {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script]).args(arguments);
    Process::start(command)
}

/// What a client that shows this certificate prints.
fn ask(gateway: &Gateway, store: &Store, shown: Option<&Leaf>) -> String {
    let file = |name: &str| store.path().join(name).display().to_string();
    let mut arguments = vec![gateway.addr("web").to_string(), HOST.to_owned(), file("roots.pem")];
    if let Some(leaf) = shown {
        store.write("own.pem", &leaf.chain_pem);
        store.write("own.key", &leaf.key_pem);
        arguments.extend([file("own.pem"), file("own.key")]);
    }
    let mut client = python(CLIENT, &arguments);
    let status = client.wait_exit(wait::DEADLINE * 3);
    assert!(status.success(), "{status}: {}", client.stderr.text());
    client.stdout.text().trim().to_owned()
}

#[test]
fn a_grpc_client_is_known_by_its_certificate_and_unavailable_is_what_others_get() {
    let mut server = python(SERVER, &[any_port().to_string()]);
    let line = server.stdout.find("the server's port", |line| line.starts_with("PORT "));
    let line = line.unwrap_or_else(|| panic!("no server: {}", server.stderr.text()));
    let addr = SocketAddr::new(loopback(), line["PORT ".len()..].parse().expect("a port"));

    let (store, clients) = (Store::new(), Authority::new());
    store.issue("site", &[HOST]);
    store.write("roots.pem", &store.authority.pem());
    store.write("clients.pem", &clients.pem());
    let listener = format!(
        "forward_client_cert = 'sanitize_set'\nforward_client_cert_details = ['dns']\n\
         tls = {{ certificates = ['site'], client_auth = {{ ca = '{}' }} }}",
        store.path().join("clients.pem").display()
    );
    let config = Config::new()
        .certificate("site", store.path())
        .listener("web", &listener)
        .cluster("origin", &[addr], "protocol = 'h2'")
        .route("all", "cluster = 'origin'");
    let gateway = Gateway::start(&config);

    let told = ask(&gateway, &store, Some(&clients.leaf(&["client.test"])));
    assert!(told.starts_with("TOLD Hash=") && told.ends_with(";DNS=client.test"), "{told}");
    let others = Authority::new();
    assert_eq!(ask(&gateway, &store, Some(&others.leaf(&["client.test"]))), "FAILED UNAVAILABLE");
    assert_eq!(ask(&gateway, &store, None), "FAILED UNAVAILABLE");

    server.signal(libc::SIGKILL);
    server.wait_exit(wait::DEADLINE);
}
