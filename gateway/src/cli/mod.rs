//! The command line: one file for each command, its core a function from inputs to text.

pub mod ask;
pub mod bans;
pub mod certs;
pub mod check;
pub mod demo;
pub mod doctor;
pub mod flows;
pub mod lists;
pub mod run;
pub mod schema;
pub mod vips;

use std::io::{IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Parser, Subcommand};

use crate::config::Known;
use crate::control::privileges;
use crate::control::source::DiskFiles;
use crate::xdp;

/// Network load balancer and API gateway for one Linux box.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    ///
    /// Prints `LISTEN name address` for each listener and `ADMIN address`, then `READY` once all of them accept.
    /// SIGHUP, a changed file or `POST /reload` on the admin address reload the configuration; SIGTERM drains;
    /// SIGUSR1 opens the access log anew. RUST_LOG sets how much is logged (default: info).
    #[command(after_help = "Examples:\n  gateway run --config /etc/gateway/gateway.toml\n  gateway run --demo")]
    Run(run::Options),
    /// Check a configuration file: exit code 0 and its warnings, or every error and exit code 1.
    #[command(after_help = "Example:\n  gateway check /etc/gateway/gateway.toml")]
    Check {
        /// The configuration file.
        file: PathBuf,
        /// Write the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the virtual addresses in the kernel and what they carry. Works while no gateway runs.
    #[command(after_help = "Example:\n  gateway vips --json")]
    Vips {
        /// The directory that `pin` in [xdp] names.
        #[arg(long, default_value = PIN)]
        pin: PathBuf,
        /// Write one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Show the flows in the kernel. Works while no gateway runs.
    #[command(after_help = "Example:\n  gateway flows --from 192.0.2.7")]
    Flows {
        /// Only those whose client or endpoint has this address.
        #[arg(long)]
        from: Option<IpAddr>,
        /// Only how many there are, and how many fit.
        #[arg(long)]
        count: bool,
        /// The directory that `pin` in [xdp] names.
        #[arg(long, default_value = PIN)]
        pin: PathBuf,
        /// Write one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Look at this machine: what keeps XDP and L4 balancing from working, or makes them slow, and how to fix it.
    ///
    /// Exit code 1 when something does not work.
    #[command(after_help = "Example:\n  gateway doctor --config /etc/gateway/gateway.toml")]
    Doctor {
        /// The configuration file; without it, every interface is looked at.
        #[arg(long)]
        config: Option<PathBuf>,
        /// Write one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The program in the kernel.
    #[command(subcommand)]
    Xdp(XdpCommand),
    /// Show the access rules with the packets they decided on in XDP, as JSON.
    #[command(after_help = "Examples:\n  gateway lists\n  gateway lists 203.0.113.7")]
    Lists(lists::Options),
    /// Show, make and end bans: sources that are refused for a while.
    #[command(
        subcommand,
        after_help = "Examples:\n  gateway bans list\n  gateway bans add 203.0.113.7 --ttl 10m --reason scanner\n  \
                      gateway bans why 203.0.113.7\n  gateway bans undo 203.0.113.7"
    )]
    Bans(bans::Bans),
    /// Show the certificates: what each says, where it is used, and until when it is good; those that end first on top.
    #[command(after_help = "Examples:\n  gateway certs\n  gateway certs --config /etc/gateway/gateway.toml --json\n  \
                        gateway certs renew --all")]
    Certs(certs::Options),
    /// Print the JSON Schema of the configuration file, for editors.
    #[command(after_help = "Example:\n  gateway schema > gateway.schema.json")]
    Schema,
}

#[derive(Debug, Subcommand)]
enum XdpCommand {
    /// Detach the program that a gateway has pinned from every interface, and remove its tables.
    ///
    /// Nothing is filtered or balanced in the kernel after that, whether a gateway runs or not, until one is started.
    #[command(after_help = "Example:\n  gateway xdp detach")]
    Detach {
        /// The directory that `pin` in [xdp] names.
        #[arg(long, default_value = PIN)]
        pin: PathBuf,
    },
}

/// Where the kernel's side is pinned when the configuration says nothing.
const PIN: &str = "/sys/fs/bpf/gateway";

/// Does what the command line says. `give_back`: see [`crate::control::run::run`].
pub fn main(give_back: fn()) -> ExitCode {
    let default = env_logger::Env::default().default_filter_or("info");
    // `notify` tells of each directory that went with its watch; what cannot be watched is told by whoever wants it.
    let mut logger = env_logger::Builder::new();
    logger.filter_module("notify", log::LevelFilter::Error).parse_env(default).format_target(false).init();
    match Arguments::parse().command {
        Command::Run(options) => run::run(options, give_back),
        Command::Check { file, json } => {
            let colour = std::io::stdout().is_terminal();
            let form = if json { check::Form::Json } else { check::Form::Text { colour } };
            let known = Known { now: SystemTime::now(), running: None, find_user: Some(&privileges::find_user) };
            let checked = check::check(&file, &DiskFiles, &known, form);
            print(&checked.output);
            if checked.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::Vips { pin, json } => finish(vips::vips(&pin, json)),
        Command::Flows { from, count, pin, json } => finish(flows::flows(&pin, from, count, json)),
        Command::Doctor { config, json } => doctor::run(config.as_deref(), json),
        Command::Xdp(XdpCommand::Detach { pin }) => finish(match xdp::detach(&pin) {
            Ok(done) => Ok(format!("detached from {} interfaces, removed {} maps\n", done.interfaces, done.maps)),
            Err(error) => Err(format!("cannot remove what is pinned in {}: {error}; it needs root", pin.display())),
        }),
        Command::Lists(options) => finish(lists::run(options)),
        Command::Bans(command) => finish(bans::run(command)),
        Command::Certs(options) => finish(certs::run(&options, &DiskFiles, SystemTime::now())),
        Command::Schema => {
            print(&schema::schema());
            ExitCode::SUCCESS
        }
    }
}

/// Prints what a command found, or why it could not.
fn finish(result: Result<String, String>) -> ExitCode {
    match result {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Columns as wide as their widest cell, the last one as it is.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.saturating_sub(1)).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| match widths.get(column) {
            Some(&width) => format!("{cell:width$}  "),
            None => cell.clone(),
        });
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Writes to standard output; a reader that has gone away (`| head`) is no error.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
