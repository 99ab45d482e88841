//! Envoy with one worker. Flow style of YAML, because it is short.

use std::fmt::Write;

use crate::task::{Back, Front, IDLE_SECONDS, OWN_BODY, Places, Task};

const EXTENSIONS: &str = "type.googleapis.com/envoy.extensions";

pub fn config(task: &Task, places: &Places) -> String {
    let Places { listen, origin, .. } = places;
    let filter = if task.front == Front::Tcp { tcp_proxy() } else { http_manager(task, places) };
    let mut text = format!(
        "static_resources:
  listeners:
  - name: web
    address: {{socket_address: {{address: {}, port_value: {}}}}}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
{filter}",
        listen.ip(),
        listen.port()
    );
    if let Some(files) = &places.certificate {
        let _ = writeln!(
            text,
            "      transport_socket: {{name: tls, typed_config: {{'@type': {EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext, \
             common_tls_context: {{alpn_protocols: [http/1.1], tls_params: {{tls_minimum_protocol_version: TLSv1_3}}, \
             tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}]}}}}}}",
            files.chain.display(),
            files.key.display()
        );
    }
    let many = 1_000_000;
    let _ = write!(
        text,
        "  clusters:
  - name: origin
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{thresholds: [{{max_connections: {many}, max_pending_requests: {many}, max_requests: {many}}}]}}
    load_assignment: {{cluster_name: origin, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]}}
",
        origin.ip(),
        origin.port()
    );
    if task.back == Back::Http2 {
        let _ = writeln!(
            text,
            "    typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
             {{'@type': {EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{http2_protocol_options: {{}}}}}}}}"
        );
    }
    text
}

fn tcp_proxy() -> String {
    format!(
        "      - name: tcp
        typed_config: {{'@type': {EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: web, cluster: origin}}
"
    )
}

fn http_manager(task: &Task, places: &Places) -> String {
    let codec = if task.front == Front::Http2 { "HTTP2" } else { "HTTP1" };
    let limits = if task.rate_limits { rate_limits() } else { String::new() };
    let mut text = format!(
        "      - name: http
        typed_config:
          '@type': {EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          codec_type: {codec}
          use_remote_address: true
          server_header_transformation: PASS_THROUGH
          stream_idle_timeout: {IDLE_SECONDS}s
          common_http_protocol_options: {{idle_timeout: {IDLE_SECONDS}s}}
          http_filters: [{limits}{{name: router, typed_config: {{'@type': {EXTENSIONS}.filters.http.router.v3.Router}}}}]
"
    );
    if task.websocket {
        text.push_str("          upgrade_configs: [{upgrade_type: websocket}]\n");
    }
    if task.access_log {
        let _ = writeln!(
            text,
            "          access_log: [{{name: file, typed_config: {{'@type': {EXTENSIONS}.access_loggers.file.v3.FileAccessLog, \
             path: {}/access.log}}}}]",
            places.dir.display()
        );
    }
    text.push_str(
        "          route_config:\n            virtual_hosts:\n            - name: all\n              domains: ['*']\n",
    );
    if task.filters {
        text.push_str(
            "              request_headers_to_remove: [cookie]
              request_headers_to_add: [{header: {key: x-tenant, value: example}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}, \
               {header: {key: x-seen-by, value: edge-1}}]
              response_headers_to_remove: [x-powered-by]
              response_headers_to_add: [{header: {key: strict-transport-security, value: max-age=31536000}, \
               append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
",
        );
    }
    text.push_str("              routes:\n");
    let action = match task.back {
        Back::Own => format!("direct_response: {{status: 200, body: {{inline_string: {OWN_BODY}}}}}"),
        _ => "route: {cluster: origin, timeout: 0s}".into(),
    };
    for prefix in task.prefixes() {
        let _ = writeln!(text, "              - {{match: {{prefix: {prefix}}}, {action}}}");
    }
    text
}

/// One bucket for all requests and one for each client address, neither of which is ever empty.
fn rate_limits() -> String {
    let bucket = "token_bucket: {max_tokens: 1000000000, tokens_per_fill: 1000000000, fill_interval: 1s}";
    let on = "default_value: {numerator: 100, denominator: HUNDRED}";
    format!(
        "{{name: limits, typed_config: {{'@type': {EXTENSIONS}.filters.http.local_ratelimit.v3.LocalRateLimit, \
         stat_prefix: limits, {bucket}, filter_enabled: {{{on}}}, filter_enforced: {{{on}}}, \
         rate_limits: [{{actions: [{{remote_address: {{}}}}]}}], \
         descriptors: [{{entries: [{{key: remote_address}}], {bucket}}}]}}}}, "
    )
}
