//! `gateway run`: the gateway itself.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::control::privileges::Privileges;
use crate::control::run;
use crate::control::source::DiskFiles;

use super::demo;

/// What to run.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Options {
    /// The configuration file.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Run the demonstration: origins, a certificate and sample routes of its own.
    #[arg(long)]
    demo: bool,
}

/// Runs until a signal ends it. Exit code 1: it could not start, or a worker died. `give_back`: see [`run::run`].
pub fn run(options: Options, give_back: fn()) -> ExitCode {
    let result = match options.config {
        Some(config) => run::run(config, Box::new(DiskFiles), Privileges::GiveUp, give_back, |_| {}),
        None => demo::run(give_back),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("the gateway cannot run:\n{}", error.to_string().trim_end());
            ExitCode::FAILURE
        }
    }
}
