//! The command line: one file for each command, its core a function from inputs to text.

pub mod ask;
pub mod bans;
pub mod check;
pub mod demo;
pub mod lists;
pub mod run;
pub mod schema;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Parser, Subcommand};

use crate::control::source::DiskFiles;

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
    /// Print the JSON Schema of the configuration file, for editors.
    #[command(after_help = "Example:\n  gateway schema > gateway.schema.json")]
    Schema,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let default = env_logger::Env::default().default_filter_or("info");
    env_logger::Builder::from_env(default).format_target(false).init();
    match Arguments::parse().command {
        Command::Run(options) => run::run(options),
        Command::Check { file, json } => {
            let colour = std::io::stdout().is_terminal();
            let form = if json { check::Form::Json } else { check::Form::Text { colour } };
            let checked = check::check(&file, &DiskFiles, SystemTime::now(), form);
            print(&checked.output);
            if checked.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::Lists(options) => answer(lists::run(options)),
        Command::Bans(command) => answer(bans::run(command)),
        Command::Schema => {
            print(&schema::schema());
            ExitCode::SUCCESS
        }
    }
}

/// Prints what a running gateway answered, or why it did not.
fn answer(result: Result<String, String>) -> ExitCode {
    match result {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output; a reader that has gone away (`| head`) is no error.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
