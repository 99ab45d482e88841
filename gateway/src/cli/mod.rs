//! The command line.

pub mod demo;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::control::run::run;
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
    /// Run the gateway. `READY` on standard output says that every listener accepts.
    #[command(after_help = "Example:\n  gateway run --config /etc/gateway/gateway.toml")]
    Run {
        /// The configuration file.
        #[arg(long, required_unless_present = "demo")]
        config: Option<PathBuf>,
        /// Run the demonstration: origins, a certificate and sample routes of its own.
        #[arg(long, conflicts_with = "config")]
        demo: bool,
    },
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let default = env_logger::Env::default().default_filter_or("info");
    env_logger::Builder::from_env(default).format_target(false).init();
    match Arguments::parse().command {
        Command::Run { config: Some(config), .. } => run_gateway(config),
        Command::Run { config: None, .. } => ExitCode::FAILURE,
    }
}

fn run_gateway(config: PathBuf) -> ExitCode {
    match run(config, Box::new(DiskFiles), |_| {}) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
