//! `gateway-bench`: load scenarios. `cargo xtask bench` installs what it needs, builds it and starts it.

use std::io::{Write, stdout};
use std::iter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use gateway_bench::l4::L4;
use gateway_bench::measure::{Bench, Times};
use gateway_bench::run::Progress;
use gateway_bench::scenario::{self, Scenario};
use gateway_bench::{core, instructions, machine, poll, report, run};

#[derive(Parser)]
#[command(about = "Load scenarios against the gateway and its peers")]
struct Args {
    /// Scenarios, or beginnings of their names; all of them when omitted
    scenarios: Vec<String>,
    /// One round of short runs: shows that everything works, and little more
    #[arg(long)]
    quick: bool,
    /// Rounds of A B C …
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each run at full speed
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Where a directory for the results is made, and the baseline of instruction counts is
    #[arg(long)]
    results: PathBuf,
    /// Count instructions instead, and compare with the baseline
    #[arg(long)]
    instructions: bool,
    /// Write the baseline
    #[arg(long, requires = "instructions")]
    renew: bool,
    /// Say which scenarios there are
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match bench(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_reads = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: Args) -> Result<()> {
    let (scenarios, l4) = chosen(&args.scenarios)?;
    let mut out = stdout();
    if args.list {
        for one in &scenarios {
            writeln!(out, "{:<22} {}", one.name, one.about)?;
        }
        for one in &l4 {
            writeln!(out, "{:<22} {}", one.name(), one.about())?;
        }
        return Ok(());
    }
    if args.instructions {
        let file = args.results.join("instructions.csv");
        let mut say = |line: &str| drop(writeln!(stdout(), "{line}"));
        return instructions::run(&file, args.renew, &mut say);
    }
    core::pin(core::LOAD).context("a second core is needed: one for the proxy, one for load and origins")?;
    let (times, rounds) = lengths(&args);
    let expected = run::estimate(&scenarios, times, rounds)
        + l4.iter().map(|one| one.estimate(times.load, rounds)).sum::<Duration>();
    let how = format!(
        "{rounds} rounds of {:?} at full speed, after {:?} of warm-up; medians with smallest and largest. \
         The proxy has core {}, load and origins have core {}.",
        times.load,
        times.warm_up,
        core::PROXY,
        core::LOAD
    );
    let count = scenarios.len() + l4.len();
    writeln!(out, "{count} scenarios, {rounds} rounds: about {} minutes", expected.as_secs().div_ceil(60))?;
    let machine = machine::describe();
    let dir = new_dir(&args.results);
    let bench = Bench::new(times, poll::raise_descriptor_limit())?;
    let mut progress = Progress::new(expected);
    let mut results = Vec::new();
    let load = scenarios.iter().map(Part::Load);
    for part in load.chain(l4.into_iter().map(Part::L4)) {
        let result = match part {
            Part::Load(scenario) => run::run(&bench, scenario, rounds, &mut progress),
            Part::L4(one) => {
                progress.say(one.name());
                one.run(times.load, rounds)
            }
        };
        progress.clear();
        writeln!(out, "\n{}", report::table(&result))?;
        results.push(result);
        // After each one, so that a run that is broken off has not been in vain.
        report::write(&dir, &how, &machine, &results)?;
    }
    writeln!(out, "written to {}", dir.display())?;
    Ok(())
}

/// A directory that is not there yet: no run replaces the results of another.
fn new_dir(results: &Path) -> PathBuf {
    let name = machine::name();
    let names = iter::once(name.clone()).chain((2..).map(|number| format!("{name}-{number}")));
    names.map(|name| results.join(name)).find(|dir| !dir.exists()).unwrap_or_default()
}

/// What is run in turn.
enum Part<'a> {
    Load(&'a Scenario),
    L4(L4),
}

fn lengths(args: &Args) -> (Times, usize) {
    let seconds = Duration::from_secs_f64;
    if args.quick {
        return (Times { warm_up: seconds(0.1), load: seconds(0.3), latency: seconds(0.5) }, 1);
    }
    let load = seconds(args.seconds);
    (Times { warm_up: seconds(1.0), load, latency: load }, args.rounds.max(1))
}

fn chosen(names: &[String]) -> Result<(Vec<Scenario>, Vec<L4>)> {
    let all = scenario::all();
    let known = || all.iter().map(|one| one.name.as_str()).chain(L4::ALL.map(L4::name));
    if let Some(unknown) = names.iter().find(|name| !known().any(|one| one.starts_with(*name))) {
        bail!("there is no scenario {unknown}; --list says which there are");
    }
    let wanted = |one: &str| names.is_empty() || names.iter().any(|name| one.starts_with(name));
    let l4 = L4::ALL.into_iter().filter(|one| wanted(one.name())).collect();
    Ok((all.into_iter().filter(|one| wanted(&one.name)).collect(), l4))
}
