//! `cargo xtask test`: what CI runs, from a fresh checkout to one line of counts.

use crate::setup::{self, Set};
use crate::shell::{Cmd, is_root, loud};
use crate::{ebpf, tidy};
use anyhow::{Result, anyhow, bail};
use std::path::Path;

#[derive(clap::Args)]
pub struct Args {
    /// Run only the tests whose name contains this, and leave out `tidy`
    filter: Option<String>,
    /// Install Envoy 1.40 too, and run the tests that need it (skipped otherwise)
    #[arg(long)]
    with_envoy: bool,
    /// Install testssl.sh too, and run it against the gateway, which takes minutes (skipped otherwise)
    #[arg(long)]
    with_testssl: bool,
    /// More arguments for each test program
    #[arg(last = true)]
    more: Vec<String>,
}

pub fn run(args: Args) -> Result<()> {
    setup::ensure(&[Set::Build, Set::Bpf, Set::Peers])?;
    // A broken XDP program or a badly formatted line must not hide a failing test: one run reports all of it.
    let mut problems: Vec<anyhow::Error> = ebpf::build().err().into_iter().collect();
    // The tests start this program. `--workspace`: with the features that the tests are built with, so nothing twice.
    Cmd::cargo().args(["build", "--workspace", "--bin", "gateway"]).run()?;
    if args.filter.is_none() {
        problems.extend(tidy::run().err());
    }

    let envoy = args.with_envoy.then(setup::envoy).transpose()?;
    if envoy.is_none() {
        loud("tests that compare with Envoy are skipped: `--with-envoy` installs it and runs them");
    }
    let testssl = args.with_testssl.then(setup::testssl).transpose()?;
    let (counts, all_ran) = run_tests(&args, envoy.as_deref(), testssl.as_deref())?;
    if !all_ran && counts.failed == 0 {
        problems.push(anyhow!("a test program did not build, or ended before its summary"));
    }
    for problem in &problems {
        eprintln!("error: {problem:#}");
    }
    println!("\n{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    if counts.failed > 0 || !problems.is_empty() {
        bail!("{} tests failed, and {} other problems", counts.failed, problems.len());
    }
    Ok(())
}

/// Plain `cargo test`: every host with cargo has it.
fn run_tests(args: &Args, envoy: Option<&Path>, testssl: Option<&Path>) -> Result<(Counts, bool)> {
    if !is_root() {
        loud("tests that need root (network namespaces, XDP) return at once and count as passed: run as root for all");
    }
    let mut counts = Counts::default();
    let mut all_ran = true;
    let cargo_test = || Cmd::cargo().args(["test", "--workspace", "--no-fail-fast"]);
    for test in [cargo_test(), over_ipv6(cargo_test().args(["--test", "*"]))] {
        let test = test.arg("--").args(&args.filter).args(&args.more);
        all_ran &= test.each_line(|line| counts.note(line))?;
    }
    if let Some(envoy) = envoy {
        let mut with_it = Counts::default();
        let cargo_test = || cargo_test().args(WITH_ENVOY).env("GATEWAY_TEST_ENVOY", envoy);
        for test in [cargo_test(), over_ipv6(cargo_test())] {
            let test = test.args(["--", "--ignored"]).args(&args.filter).args(&args.more);
            all_ran &= test.each_line(|line| with_it.note(line))?;
        }
        counts.add_skipped(&with_it);
    }
    if let Some(testssl) = testssl {
        let mut with_it = Counts::default();
        let test = cargo_test().args(["--test", "scanner"]).env("GATEWAY_TEST_TESTSSL", testssl);
        all_ran &= test.args(["--", "--ignored"]).each_line(|line| with_it.note(line))?;
        counts.add_skipped(&with_it);
    }
    Ok((counts, all_ran))
}

/// The test programs all of whose ignored tests need Envoy. In others some are ignored for other reasons.
const WITH_ENVOY: [&str; 6] = ["--test", "envoy", "--test", "envoy_client_certs", "--test", "limit_service"];

/// The whole-gateway tests once more, with [::1] in place of 127.0.0.1. Of the very long streams a part is enough: the
/// address family shows in the first bytes or not at all.
fn over_ipv6(test: Cmd) -> Cmd {
    test.env("GATEWAY_TEST_LOOPBACK", "::1").env("GATEWAY_TEST_STREAM_GIB", "1")
}

#[derive(Default, Debug, PartialEq)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Counts {
    /// Adds the counts of tests that were skipped before.
    fn add_skipped(&mut self, ran: &Counts) {
        self.passed += ran.passed;
        self.failed += ran.failed;
        self.skipped = self.skipped.saturating_sub(ran.passed + ran.failed);
    }

    /// Prints the line; adds up `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn note(&mut self, line: &str) {
        println!("{line}");
        let Some((_, result)) = line.split_once("test result: ") else { return };
        for part in result.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let Some(count) = words.next().and_then(|word| word.parse::<usize>().ok()) else { continue };
            match words.next() {
                Some("passed") => self.passed += count,
                Some("failed") => self.failed += count,
                Some("ignored") => self.skipped += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_were_skipped_and_then_ran_are_not_counted_as_skipped() {
        let mut counts = Counts { passed: 10, failed: 0, skipped: 5 };
        counts.add_skipped(&Counts { passed: 2, failed: 1, skipped: 0 });
        assert_eq!(counts, Counts { passed: 12, failed: 1, skipped: 2 });
    }

    #[test]
    fn the_summaries_of_all_test_programs_are_added_up() {
        let mut counts = Counts::default();
        counts.note("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s");
        counts.note("test head::tests::a_head_is_parsed ... ok");
        counts
            .note("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 4.50s");
        assert_eq!(counts, Counts { passed: 15, failed: 2, skipped: 1 });
    }
}
