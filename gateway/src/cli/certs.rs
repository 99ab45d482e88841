//! `gateway certs`: the certificates of a running gateway, or of a configuration.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::ask::Admin;
use super::table;
use crate::config::{self, Files};
use crate::control::certificates::{inventory, unix_s};

/// `gateway certs`
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    admin: Admin,
    /// Show those of this configuration file, and ask no gateway.
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// Write the JSON of `GET /certificates`.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Have the running gateway renew certificates by ACME now.
    ///
    /// Pauses after failures do not count, those that the authority has asked for do. How it went is in the log, and shown by
    /// `gateway certs`.
    #[command(after_help = "Examples:\n  gateway certs renew shop\n  gateway certs renew --all")]
    Renew {
        /// The certificate's name.
        #[arg(required_unless_present = "all")]
        name: Option<String>,
        /// All certificates by ACME.
        #[arg(long, conflicts_with = "name")]
        all: bool,
        /// Which gateway.
        #[command(flatten)]
        admin: Admin,
    },
}

/// Asks for the certificates and shows them, those that end first on top.
pub fn run(options: &Options, files: &dyn Files, now: SystemTime) -> Result<String, String> {
    if let Some(Command::Renew { name, admin, .. }) = &options.command {
        return renew(name.as_deref(), admin);
    }
    let answer = match &options.config {
        Some(path) => of_file(path, files, now)?,
        None => options.admin.ask("GET", "/certificates", "")?,
    };
    if options.json {
        return Ok(answer);
    }
    let answer: Value = serde_json::from_str(&answer).map_err(|error| format!("the answer is not JSON: {error}"))?;
    Ok(text(answer["certificates"].as_array().map_or(&[], Vec::as_slice)))
}

fn renew(name: Option<&str>, admin: &Admin) -> Result<String, String> {
    let which = match name {
        Some(name) => json!({ "name": name }),
        None => json!({ "all": true }),
    };
    let answer = admin.ask("POST", "/certificates/renew", &which.to_string())?;
    let answer: Value = serde_json::from_str(&answer).map_err(|error| format!("the answer is not JSON: {error}"))?;
    Ok(renewals(&answer))
}

fn renewals(answer: &Value) -> String {
    let begun = answer["begun"].as_array().into_iter().flatten();
    let begun = begun.map(|name| format!("{}: a renewal has begun\n", plain(name)));
    let refused = answer["refused"].as_object().into_iter().flatten();
    begun.chain(refused.map(|(name, why)| format!("{name}: not renewed: {}\n", plain(why)))).collect()
}

fn of_file(path: &Path, files: &dyn Files, now: SystemTime) -> Result<String, String> {
    let loaded = config::load(path, files, now).map_err(|report| report.to_string())?;
    Ok(inventory::view(&inventory::of(&loaded.config, &loaded.refused), unix_s(now)))
}

/// Names, and places, that a cell of the table has; the rest is counted.
const SHOWN: usize = 3;

fn text(certificates: &[Value]) -> String {
    let heads = [
        "NAME",
        "KIND",
        "STATE",
        "DAYS LEFT",
        "NOT BEFORE",
        "NOT AFTER",
        "KEY",
        "DNS NAMES",
        "BOUND TO",
        "SOURCE",
        "ISSUER",
        "SERIAL",
        "SHA-256",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for of in certificates {
        rows.push(vec![
            plain(&of["name"]),
            plain(&of["kind"]),
            state(of),
            plain(&of["days_left"]),
            plain(&of["not_before"]),
            plain(&of["not_after"]),
            plain(&of["key_type"]),
            some(&of["dns_names"], plain),
            some(&of["bound"], binding),
            plain(&of["source"]),
            plain(&of["issuer"]),
            plain(&of["serial"]),
            plain(&of["fingerprint_sha256"]),
        ]);
    }
    let why = |of: &Value| {
        let name = plain(&of["name"]);
        let refused = of["refused"].as_str().map(|why| format!("\n{name}: a newer pair is refused: {why}\n"));
        let failed = of["renewal_failed"].as_str().map(|why| format!("\n{name}: it cannot be renewed: {why}\n"));
        refused.into_iter().chain(failed).collect::<String>()
    };
    table(&rows) + &certificates.iter().map(why).collect::<String>()
}

fn state(of: &Value) -> String {
    let mut state = plain(&of["state"]);
    if of["refused"].is_string() && state != "refused" {
        state += ", newer refused";
    }
    if of["renewal_failed"].is_string() {
        state += ", renewal failed";
    }
    state
}

/// A cell: what is not known is a dash.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn some(list: &Value, show: impl Fn(&Value) -> String) -> String {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    let shown: Vec<String> = list.iter().take(SHOWN).map(show).collect();
    match list.len().checked_sub(SHOWN) {
        None | Some(0) if shown.is_empty() => "-".to_owned(),
        None | Some(0) => shown.join(", "),
        Some(more) => format!("{}, +{more}", shown.join(", ")),
    }
}

fn binding(of: &Value) -> String {
    let text = |key: &str| of[key].as_str();
    match (text("listener"), text("clients_of"), text("cluster"), text("acme")) {
        (Some(listener), ..) if of["default"] == true => format!("{listener} (default)"),
        (Some(listener), ..) => listener.to_owned(),
        (_, Some(listener), ..) => format!("clients of {listener}"),
        (_, _, Some(cluster), _) => format!("cluster {cluster}"),
        (.., Some(acme)) => format!("acme {acme}"),
        (None, None, None, None) => text("used_by").unwrap_or("-").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_are_lines() {
        let answer = json!({ "begun": ["a"], "refused": { "b": "a renewal is under way already" } });
        assert_eq!(renewals(&answer), "a: a renewal has begun\nb: not renewed: a renewal is under way already\n");
    }

    #[test]
    fn certificates_are_lines() {
        let certificate = |name: &str, names: &[&str], bound: Value| {
            json!({
                "name": name, "kind": "certificate", "state": "ok", "days_left": 20, "not_before": "2026-01-01T00:00:00Z",
                "not_after": "2026-04-01T00:00:00Z", "chain_not_after": "2026-04-01T00:00:00Z", "key_type": "ECDSA P-256",
                "dns_names": names, "hosts": names, "bound": bound, "source": "certs/a.pem", "issuer": "CN=Test authority",
                "serial": "0a1b", "fingerprint_sha256": "abab", "refused": null,
            })
        };
        let many = ["a.test", "b.test", "c.test", "d.test", "e.test"];
        let default = json!([{ "listener": "web", "default": true }, { "cluster": "api" }]);
        let mut other = certificate("b", &many, json!([{ "listener": "web", "default": false }]));
        other["refused"] = json!("b.key is not the key of this certificate");
        let missing = json!({ "name": "c", "kind": "certificate", "state": "not_obtained", "bound": [] });
        let text = text(&[certificate("a", &many[..1], default), other, missing]);
        let expected = "\
NAME  KIND         STATE              DAYS LEFT  NOT BEFORE            NOT AFTER             KEY          DNS NAMES                   BOUND TO                    SOURCE       ISSUER             SERIAL  SHA-256
a     certificate  ok                 20         2026-01-01T00:00:00Z  2026-04-01T00:00:00Z  ECDSA P-256  a.test                      web (default), cluster api  certs/a.pem  CN=Test authority  0a1b    abab
b     certificate  ok, newer refused  20         2026-01-01T00:00:00Z  2026-04-01T00:00:00Z  ECDSA P-256  a.test, b.test, c.test, +2  web                         certs/a.pem  CN=Test authority  0a1b    abab
c     certificate  not_obtained       -          -                     -                     -            -                           -                           -            -                  -       -

b: a newer pair is refused: b.key is not the key of this certificate
";
        assert_eq!(text, expected);
    }
}
