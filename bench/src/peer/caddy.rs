//! Caddy.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::task::{Back, Front, IDLE_SECONDS, OWN_BODY, POOL, Places, Task};

const EDITS: &str = "header_up -Cookie
header_up X-Tenant example
header_up +X-Seen-By edge-1
header_down -X-Powered-By
header_down Strict-Transport-Security max-age=31536000
";

pub fn config(task: &Task, places: &Places) -> String {
    let Places { listen, origin, dir, .. } = places;
    let admin = if task.reloads { format!("{0} {{\norigins {0}\n}}", admin(places)) } else { "off".into() };
    let protocols = if task.front == Front::Http2 { "h1 h2c" } else { "h1" };
    let mut text = format!(
        "{{\nadmin {admin}\nauto_https off\npersist_config off\nlog default {{\nlevel ERROR\n}}\n\
         servers {{\nprotocols {protocols}\ntimeouts {{\nidle {IDLE_SECONDS}s\n}}\n}}\n}}\n"
    );
    let scheme = if task.tls.is_some() { "https" } else { "http" };
    let _ = writeln!(text, "{scheme}://:{} {{\nbind {}", listen.port(), listen.ip());
    if let Some(files) = &places.certificate {
        let _ = writeln!(
            text,
            "tls {} {} {{\nprotocols tls1.3\nalpn http/1.1\n}}",
            files.chain.display(),
            files.key.display()
        );
    }
    if task.access_log {
        let _ = writeln!(text, "log {{\noutput file {}/access.log\n}}", dir.display());
    }
    if task.back == Back::Own {
        let _ = writeln!(text, "respond \"{OWN_BODY}\" 200\n}}");
        return text;
    }
    let versions = if task.back == Back::Http2 { "versions h2c\n" } else { "" };
    let edits = if task.filters { EDITS } else { "" };
    for prefix in task.prefixes() {
        let _ = writeln!(
            text,
            "handle {prefix}* {{\nreverse_proxy {origin} {{\nheader_up X-Request-Id {{http.request.uuid}}\n{edits}\
             transport http {{\ncompression off\nkeepalive {IDLE_SECONDS}s\nkeepalive_idle_conns_per_host {POOL}\n\
             {versions}}}\n}}\n}}"
        );
    }
    text.push_str("}\n");
    text
}

pub fn reload(program: &Path, places: &Places) -> Result<()> {
    let mut command = Command::new(program);
    command.env("HOME", &places.dir).args(["reload", "--force", "--adapter", "caddyfile", "--address"]);
    let output = command.arg(admin(places)).arg("--config").arg(places.dir.join("Caddyfile")).output()?;
    if !output.status.success() {
        bail!("caddy reload: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Its admin endpoint has the listener's port on an address of its own.
fn admin(places: &Places) -> String {
    format!("127.0.78.1:{}", places.listen.port())
}
