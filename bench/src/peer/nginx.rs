//! nginx, with a master and one worker.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::task::{Back, Front, IDLE_SECONDS, OWN_BODY, POOL, Places, Task};

const EDITS: &str =
    "proxy_set_header Cookie \"\"; proxy_set_header X-Tenant example; proxy_set_header X-Seen-By edge-1;
proxy_hide_header X-Powered-By; add_header Strict-Transport-Security max-age=31536000;
";

/// With a rate of a million a second and a burst on top, no request is refused.
const ZONES: &str = "limit_req_zone $server_port zone=all:1m rate=1000000r/s;
limit_req_zone $binary_remote_addr zone=clients:10m rate=1000000r/s;
";
const LIMITS: &str = "limit_req zone=all burst=1000000 nodelay; limit_req zone=clients burst=1000000 nodelay;\n";

/// The module that relays TCP: installed, or unpacked where `cargo xtask setup bench` does that.
pub fn stream_module() -> Option<PathBuf> {
    let folders = ["/usr/lib/nginx/modules", "target/tools/usr/lib/nginx/modules"];
    folders.iter().find_map(|folder| Path::new(folder).join("ngx_stream_module.so").canonicalize().ok())
}

pub fn config(task: &Task, places: &Places) -> String {
    let Places { listen, origin, dir, descriptors, .. } = places;
    let dir = dir.display();
    let mut text =
        format!("daemon off; worker_processes 1; pid {dir}/nginx.pid; worker_rlimit_nofile {descriptors};\n");
    if let (Front::Tcp, Some(module)) = (task.front, stream_module()) {
        let _ = write!(
            text,
            "load_module {};\nevents {{ worker_connections {descriptors}; }}\n\
             stream {{ server {{ listen {listen} backlog=4096; proxy_timeout {IDLE_SECONDS}s; proxy_pass {origin}; }} }}\n",
            module.display()
        );
        return text;
    }
    let log = if task.access_log { "access.log combined buffer=64k flush=1s" } else { "off" };
    let _ = writeln!(text, "events {{ worker_connections {descriptors}; }}\nhttp {{\naccess_log {log};");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "{kind}_temp_path {dir}/{kind};");
    }
    let _ = writeln!(
        text,
        "sendfile on; tcp_nopush on; tcp_nodelay on; client_max_body_size 0; keepalive_requests 1000000000;\n\
         keepalive_timeout {IDLE_SECONDS}s; client_header_timeout {IDLE_SECONDS}s; proxy_read_timeout {IDLE_SECONDS}s;\n\
         proxy_http_version 1.1; proxy_request_buffering off; proxy_max_temp_file_size 0;\n\
         upstream origin {{ server {origin}; keepalive {POOL}; keepalive_requests 1000000000; keepalive_timeout {IDLE_SECONDS}s; }}"
    );
    if task.rate_limits {
        text.push_str(ZONES);
    }
    let tls = if task.tls.is_some() { " ssl" } else { "" };
    let http2 = if task.front == Front::Http2 { " http2" } else { "" };
    let _ = writeln!(text, "server {{ listen {listen}{tls}{http2} backlog=4096;");
    if let Some(files) = &places.certificate {
        let (chain, key) = (files.chain.display(), files.key.display());
        let _ = writeln!(text, "ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;");
    }
    let pass = action(task);
    for prefix in task.prefixes() {
        let _ = writeln!(text, "location {prefix} {{ {pass} }}");
    }
    text.push_str("}\n}\n");
    text
}

fn action(task: &Task) -> String {
    let told = |kind: &str| {
        format!(
            "{kind}_set_header Host $host; {kind}_set_header X-Forwarded-For $proxy_add_x_forwarded_for; \
             {kind}_set_header X-Forwarded-Proto $scheme; {kind}_set_header X-Request-Id $request_id;"
        )
    };
    let mut action = match task.back {
        Back::Own => format!("default_type text/plain; return 200 \"{OWN_BODY}\";"),
        Back::Http2 => format!("grpc_pass grpc://origin; {}", told("grpc")),
        Back::Http1 | Back::Tcp if task.websocket => format!(
            "proxy_pass http://origin; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; {}",
            told("proxy")
        ),
        Back::Http1 | Back::Tcp => {
            format!("proxy_pass http://origin; proxy_set_header Connection \"\"; {}", told("proxy"))
        }
    };
    if task.filters {
        action.push_str(EDITS);
    }
    if task.rate_limits {
        action.push_str(LIMITS);
    }
    action
}
