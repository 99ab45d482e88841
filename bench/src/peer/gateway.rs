//! Ours.

use std::fmt::Write;

use crate::task::{Back, Front, IDLE_SECONDS, OWN_BODY, POOL, Places, Task};

const EDITS: &str =
    "request_headers = { remove = ['cookie'], set = { x-tenant = 'example' }, add = { x-seen-by = 'edge-1' } }
response_headers = { remove = ['x-powered-by'], set = { strict-transport-security = 'max-age=31536000' } }
";

/// The highest rate that there is.
const LIMITS: &str = "filters = [
  { rate_limit = { requests = 10000000, per = '1s' } },
  { rate_limit = { requests = 10000000, per = '1s', key = 'client_ip' } },
]
";

pub fn config(task: &Task, places: &Places) -> String {
    let Places { listen, origin, dir, .. } = places;
    let mut text = String::from("[gateway]\nworkers = 1\nserver_header = 'off'\n[admin]\naddress = 'off'\n");
    if task.access_log {
        let _ = writeln!(text, "[access_log]\npath = '{}/access.log'\nformat = 'text'", dir.display());
    }
    let _ = writeln!(text, "[[listener]]\nname = 'web'\naddress = '{listen}'");
    text.push_str(match task.front {
        Front::Http1 => "http = ['h1']\n",
        Front::Http2 => "http = ['h2']\n",
        Front::Tcp => "protocol = 'tcp'\n",
    });
    let idle = if task.front == Front::Tcp { String::new() } else { format!(", idle_timeout = '{IDLE_SECONDS}s'") };
    let _ = writeln!(text, "limits = {{ connections = 65536, connections_per_source = 65536{idle} }}");
    if let Some(files) = &places.certificate {
        let (chain, key) = (files.chain.display(), files.key.display());
        let _ = writeln!(text, "tls = {{ certificates = ['bench'], min_version = '1.3' }}");
        let _ = writeln!(text, "[[certificate]]\nname = 'bench'\nchain = '{chain}'\nkey = '{key}'");
    }
    if task.back != Back::Own {
        let protocol = if task.back == Back::Http2 { "h2" } else { "h1" };
        let _ = writeln!(
            text,
            "[[cluster]]\nname = 'origin'\nendpoints = ['{origin}']\nprotocol = '{protocol}'\n\
             max_connections = {POOL}\nmax_idle_connections = {POOL}\nidle_timeout = '{IDLE_SECONDS}s'"
        );
    }
    if task.front == Front::Tcp {
        text.push_str("[[l4_route]]\nname = 'all'\ncluster = 'origin'\n");
        return text;
    }
    for (n, prefix) in task.prefixes().iter().enumerate() {
        let _ = writeln!(text, "[[route]]\nname = 'r{n}'\nmatch = {{ path_prefix = '{}' }}", trimmed(prefix));
        let _ = match task.back {
            Back::Own => writeln!(text, "respond = {{ status = 200, body = '{OWN_BODY}' }}"),
            _ => writeln!(text, "cluster = 'origin'\ntimeout = '0s'"),
        };
        if task.filters {
            text.push_str(EDITS);
        }
        if task.rate_limits {
            text.push_str(LIMITS);
        }
        if task.websocket {
            text.push_str("websocket = true\n");
        }
    }
    text
}

fn trimmed(prefix: &str) -> &str {
    match prefix.trim_end_matches('/') {
        "" => "/",
        prefix => prefix,
    }
}
