//! Envoy, as a proxy that we did not write. Tests that need it are ignored, unless `cargo xtask test --with-envoy` installs
//! it and says by `GATEWAY_TEST_ENVOY` where it is. Configurations are in YAML's flow style, because it is short.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::asked::Http;
use crate::ports::HeldPort;
use crate::process::Process;
use crate::wait;

/// What the types of extensions begin with.
pub const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// The filter that every chain of HTTP filters ends with.
pub fn router() -> String {
    format!("{{name: router, typed_config: {{'@type': {TYPES}.filters.http.router.v3.Router}}}}")
}

/// An address.
pub fn at(addr: SocketAddr) -> String {
    format!("{{socket_address: {{address: '{}', port_value: {}}}}}", addr.ip(), addr.port())
}

/// One of the `clusters`, with these endpoints. `more` are further keys, each ended with a comma.
pub fn cluster(name: &str, endpoints: &[SocketAddr], http: Http, more: &str) -> String {
    let endpoint = |addr: &SocketAddr| format!("{{endpoint: {{address: {}}}}}", at(*addr));
    let endpoints = endpoints.iter().map(endpoint).collect::<Vec<_>>().join(", ");
    let codec = match http {
        Http::H1 => "http_protocol_options",
        Http::H2 => "http2_protocol_options",
    };
    format!(
        "{{name: {name}, type: STATIC, {more} \
         load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{endpoints}]}}]}}, \
         typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
         {{'@type': {TYPES}.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{{codec}: {{}}}}}}}}}}"
    )
}

/// A listener at `listen`, which speaks HTTP, with its clusters. `filters` are the HTTP filters before the router, `manager` are
/// further keys of its connection manager, each ended with a comma.
pub fn config(
    listen: SocketAddr,
    manager: &str,
    filters: &[String],
    route_config: &str,
    clusters: &[String],
) -> String {
    let (address, clusters) = (at(listen), clusters.join(", "));
    let filters = [filters, &[router()]].concat().join(", ");
    let manager = format!(
        "{{'@type': {TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: web, {manager} \
         http_filters: [{filters}], route_config: {route_config}}}"
    );
    format!(
        "static_resources:
  listeners:
  - name: web
    address: {address}
    filter_chains: [{{filters: [{{name: http, typed_config: {manager}}}]}}]
  clusters: [{clusters}]
"
    )
}

/// Lines of an access log, each in this format.
pub fn access_log(path: &Path, format: &str) -> String {
    format!(
        "access_log: [{{name: file, typed_config: {{'@type': {TYPES}.access_loggers.file.v3.FileAccessLog, path: '{}', \
         log_format: {{text_format_source: {{inline_string: \"{format}\\n\"}}}}}}}}],",
        path.display()
    )
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    port: HeldPort,
    _dir: TempDir,
}

impl Envoy {
    /// Starts one. `config` gets the address to listen on, where it has to use `SO_REUSEPORT` (Envoy's default).
    ///
    /// # Panics
    /// When `GATEWAY_TEST_ENVOY` does not say where it is.
    pub fn start(config: impl FnOnce(SocketAddr) -> String) -> Envoy {
        let program = std::env::var_os("GATEWAY_TEST_ENVOY").expect("GATEWAY_TEST_ENVOY: the path of Envoy 1.40");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = HeldPort::new();
        let file = dir.path().join("envoy.yaml");
        std::fs::write(&file, config(port.addr())).expect("write envoy.yaml");
        let mut command = Command::new(program);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]);
        // Lines of an access log are written as soon as somebody can wait for them; the default is 10 s.
        command.args(["--file-flush-interval-msec", "20", "-c"]).arg(file);
        let mut envoy = Envoy { process: Process::start(command), port, _dir: dir };
        wait::until_true("Envoy to listen", || {
            let ended = envoy.process.exited();
            assert!(ended.is_none(), "Envoy ended ({ended:?}): {}", envoy.process.stderr.text());
            TcpStream::connect(envoy.addr()).is_ok()
        });
        envoy
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }
}
