//! `cargo xtask bench`: the load scenarios against other proxies, the micro-benches and the instruction counts of the bench
//! package.

use crate::ebpf;
use crate::setup::{self, Set};
use crate::shell::{Cmd, loud, target_dir};
use anyhow::Result;

#[derive(clap::Args)]
pub struct Args {
    /// Scenarios, or beginnings of their names; all of them when omitted
    scenarios: Vec<String>,
    /// Short runs: all scenarios in under five minutes, to see that they work
    #[arg(long)]
    quick: bool,
    /// Say which scenarios there are
    #[arg(long)]
    list: bool,
    /// Count instructions of scripted exchanges instead, and fail where they have grown by more than 3 %
    #[arg(long, conflicts_with = "quick")]
    instructions: bool,
    /// Make the counts the new baseline
    #[arg(long, requires = "instructions")]
    renew: bool,
    /// Run the micro-benches instead, those whose name contains an argument
    #[arg(long, conflicts_with_all = ["quick", "list", "instructions"])]
    micro: bool,
    /// More arguments for the scenarios (`-- --help` says which), or for the micro-benches
    #[arg(last = true)]
    more: Vec<String>,
}

pub fn run(args: Args) -> Result<()> {
    if args.micro {
        let bench = Cmd::cargo().args(["bench", "--package", "gateway-bench", "--benches", "--"]);
        return bench.args(args.scenarios).args(args.more).run();
    }
    setup::ensure(&[Set::Build, Set::Bpf, Set::Peers, Set::Bench])?;
    if let Err(error) = ebpf::build() {
        loud(&format!("no L4 scenarios: {error:#}"));
    }
    // Alone, so that it is the program that is shipped: built together with others it has their features too.
    Cmd::cargo().args(["build", "--release", "--package", "gateway"]).run()?;
    Cmd::cargo().args(["build", "--profile", "load", "--package", "gateway-bench", "--bins"]).run()?;
    let bench = Cmd::new(target_dir().join("load/gateway-bench"));
    let bench = bench.env("GATEWAY_BENCH_PROGRAM", target_dir().join("release/gateway"));
    let flags = [
        ("--quick", args.quick),
        ("--list", args.list),
        ("--instructions", args.instructions),
        ("--renew", args.renew),
    ];
    let flags = flags.iter().filter(|(_, given)| *given).map(|(flag, _)| flag);
    // Short runs show that things work; they are no results.
    let results = if args.quick { "target/bench/results" } else { "bench/results" };
    bench.args(["--results", results]).args(flags).args(args.scenarios).args(args.more).run()
}
