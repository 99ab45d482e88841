//! `cargo xtask fuzz`: the targets of tests/fuzz, a workspace of its own because cargo-fuzz needs a nightly compiler.

use crate::shell::{Cmd, find, root};
use anyhow::{Result, bail};

/// No parser may need more for an input of libFuzzer's size.
const MEMORY_LIMIT_MB: u32 = 2048;

#[derive(clap::Args)]
pub struct Args {
    /// One target; all in turn when omitted
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub fn run(args: Args) -> Result<()> {
    if !root().join("tests/fuzz/Cargo.toml").exists() {
        bail!("tests/fuzz has no fuzz targets yet");
    }
    if !Cmd::new("rustup").args(["run", "nightly", "rustc", "--version"]).succeeds() {
        bail!("cargo-fuzz needs a nightly compiler: `rustup toolchain install nightly`");
    }
    if find("cargo-fuzz").is_none() {
        Cmd::cargo().args(["install", "cargo-fuzz", "--locked"]).run()?;
    }
    let targets = match args.target {
        Some(target) => vec![target],
        None => cargo_fuzz("list").read()?.lines().map(str::to_owned).collect(),
    };
    let failed: Vec<&String> = targets.iter().filter(|target| !passes(target, args.seconds)).collect();
    if !failed.is_empty() {
        bail!("findings in {failed:?}: the inputs are in tests/fuzz/artifacts");
    }
    println!("no finding in {} targets, {} s each", targets.len(), args.seconds);
    Ok(())
}

/// Without a sanitizer: what the targets call is safe code, where the assertions and panics find what there is, and a
/// build without one takes half the time and runs twice as fast.
fn passes(target: &str, seconds: u32) -> bool {
    let run = cargo_fuzz("run").args(["--sanitizer", "none", target, "--", "-timeout=10"]);
    let run = run.arg(format!("-max_total_time={seconds}")).arg(format!("-rss_limit_mb={MEMORY_LIMIT_MB}"));
    run.run().inspect_err(|error| eprintln!("error: {error:#}")).is_ok()
}

fn cargo_fuzz(command: &str) -> Cmd {
    Cmd::new("rustup").args(["run", "nightly", "cargo", "fuzz", command, "--fuzz-dir", "tests/fuzz"])
}
