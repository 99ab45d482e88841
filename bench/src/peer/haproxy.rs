//! HAProxy with one thread.

use std::fmt::Write;

use crate::task::{Back, Front, IDLE_SECONDS, OWN_BODY, Places, Task};

/// The file that says which prefix of a path has which backend.
pub const MAP: &str = "routes.map";

const EDITS: &str = "  http-request del-header cookie
  http-request set-header x-tenant example
  http-request add-header x-seen-by edge-1
  http-response del-header x-powered-by
  http-response set-header strict-transport-security max-age=31536000
";

/// Rates are counted in tables, by a constant and by address; no rate is above these.
const LIMITS: &str = "  stick-table type ip size 64k expire 60s store http_req_rate(1s)
  http-request track-sc0 src
  http-request track-sc1 int(1) table all
  http-request deny deny_status 429 if { sc_http_req_rate(0) gt 10000000 }
  http-request deny deny_status 429 if { sc_http_req_rate(1) gt 10000000 }
";
const ALL: &str = "backend all\n  stick-table type integer size 1k expire 60s store http_req_rate(1s)\n";

pub fn config(task: &Task, places: &Places) -> String {
    let Places { listen, origin, descriptors, .. } = places;
    // A connection may take two descriptors here. Where 10 000 of them are more than the limit allows, it starts all the
    // same: idle ones take one.
    let mut text = format!("global\n  nbthread 1\n  no strict-limits\n  maxconn {}\n", descriptors / 2 + 2_000);
    text.push_str("  ssl-default-bind-options ssl-min-ver TLSv1.3\n");
    let is_tcp = task.front == Front::Tcp;
    let _ = writeln!(
        text,
        "defaults\n  mode {}\n  timeout connect 5s\n  timeout client {IDLE_SECONDS}s\n  timeout server {IDLE_SECONDS}s",
        if is_tcp { "tcp" } else { "http" }
    );
    if !is_tcp {
        let _ = writeln!(
            text,
            "  timeout http-keep-alive {IDLE_SECONDS}s\n  timeout tunnel {IDLE_SECONDS}s\n  http-reuse always"
        );
        text.push_str("  option forwardfor\n");
    }
    if task.access_log {
        text.push_str("  log stdout format raw local0\n  option httplog\n");
    }
    let _ = write!(text, "frontend web\n  bind {listen} backlog 4096");
    if let Some(files) = &places.certificate {
        let _ = write!(text, " ssl crt {} alpn http/1.1", files.both.display());
    }
    text.push_str(if task.front == Front::Http2 { " proto h2\n" } else { "\n" });
    if !is_tcp {
        let scheme = if task.tls.is_some() { "https" } else { "http" };
        let _ = writeln!(text, "  http-request set-header x-forwarded-proto {scheme}");
        text.push_str("  unique-id-format %{+X}o%ci%cp%fi%fp%Ts%rt%pid\n  unique-id-header x-request-id\n");
    }
    if task.filters {
        text.push_str(EDITS);
    }
    if task.rate_limits {
        text.push_str(LIMITS);
    }
    if task.back == Back::Own {
        let _ = writeln!(text, "  http-request return status 200 content-type text/plain string \"{OWN_BODY}\"");
        return text;
    }
    if task.routes > 0 {
        let _ = writeln!(text, "  use_backend %[path,map_beg({})]", places.dir.join(MAP).display());
    }
    let protocol = if task.back == Back::Http2 { " proto h2" } else { "" };
    let _ = writeln!(text, "  default_backend origin\nbackend origin\n  server origin {origin}{protocol}");
    if task.rate_limits {
        text.push_str(ALL);
    }
    text
}

/// The file for its routes.
pub fn map(task: &Task) -> String {
    task.prefixes().iter().map(|prefix| format!("{prefix} origin\n")).collect()
}
