//! Repository chores. `cargo xtask run` and `cargo xtask test` are the two commands a newcomer needs; the others are
//! their parts. This package does not depend on the gateway, so that it builds in seconds and can say what is missing.

// A command-line tool talks to its user.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod dist;
mod ebpf;
mod fuzz;
mod run;
mod setup;
mod shell;
mod test;
mod tidy;

use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Repository chores of the gateway")]
enum Task {
    /// Set up, build and start the gateway; without --config, its demo
    Run(run::Args),
    /// Set up, build, check the tree and run every test
    Test(test::Args),
    /// Install what the other commands need (Debian and Ubuntu), or say what is missing
    Setup(setup::Args),
    /// Build the XDP program into target/bpf/gateway-xdp.o
    BuildEbpf,
    /// Check formatting, lints, the direction of module dependencies and the paths named in ARCHITECTURE.md
    Tidy,
    /// Run the fuzz targets of tests/fuzz
    Fuzz(fuzz::Args),
    /// Compare with other proxies under load, count instructions, or run the micro-benches
    Bench(bench::Args),
    /// Pack a release tarball into dist/
    Dist(dist::Args),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Run(args) => run::run(args),
        Task::Test(args) => test::run(args),
        Task::Setup(args) => setup::run(args),
        Task::BuildEbpf => ebpf::run(),
        Task::Tidy => tidy::run(),
        Task::Fuzz(args) => fuzz::run(args),
        Task::Bench(args) => bench::run(args),
        Task::Dist(args) => dist::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
