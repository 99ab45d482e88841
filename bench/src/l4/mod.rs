//! The XDP program: what a packet costs by itself (BPF_PROG_TEST_RUN), among access lists, and on a wire against nftables.
//!
//! Root only, in network namespaces of its own.

mod flood;
mod lists;
mod packets;
mod wire;

use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use anyhow::{Result, bail};
use gateway_tests::lab;

use crate::figure::{Figure, Sample};
use crate::run::{Entry, Results};

/// A scenario of this module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum L4 {
    /// What a packet costs, by what happens to it.
    Packets,
    /// What a packet costs among lists of many entries, and what it takes to load them.
    Lists,
    /// Packets of denied sources over a wire.
    Drop,
    /// Packets of flows that are forwarded over a wire.
    Forward,
}

impl L4 {
    /// All of them.
    pub const ALL: [L4; 4] = [L4::Packets, L4::Lists, L4::Drop, L4::Forward];

    /// What the command line calls it.
    pub fn name(self) -> &'static str {
        match self {
            L4::Packets => "l4-packets",
            L4::Lists => "l4-lists",
            L4::Drop => "l4-drop",
            L4::Forward => "l4-forward",
        }
    }

    /// One line for people.
    pub fn about(self) -> &'static str {
        match self {
            L4::Packets => "what a packet costs the XDP program, above a program that only passes it",
            L4::Lists => "the same among access lists, and the time to compile and load them",
            L4::Drop => "packets of a denied source over veth, received on one core, among 1 000 denied ones",
            L4::Forward => "packets of 64 UDP conversations over veth, both addresses translated, received on one core",
        }
    }

    /// How long its rounds take, roughly.
    pub fn estimate(self, time: Duration, rounds: usize) -> Duration {
        let one = match self {
            L4::Packets => Duration::from_secs(20),
            L4::Lists => Duration::from_secs(10),
            L4::Drop | L4::Forward => (time + Duration::from_secs(3)) * 2,
        };
        one * rounds as u32
    }

    /// Runs it. The lab panics where the system refuses something; here that is an error.
    pub fn run(self, time: Duration, rounds: usize) -> Results {
        let run = || match self {
            L4::Packets => packets::run(rounds),
            L4::Lists => lists::run(rounds),
            L4::Drop | L4::Forward => wire::run(self, time, rounds),
        };
        let done = check().and_then(|()| {
            panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| bail!("the lab failed; see above"))
        });
        let entries = done.unwrap_or_else(|error| vec![Entry::failed("all", &error)]);
        Results { name: self.name().into(), about: self.about().into(), rate: None, entries }
    }
}

fn check() -> Result<()> {
    if !lab::is_root() {
        bail!("it needs root");
    }
    if !gateway::xdp::object_is_embedded() {
        bail!("it needs the XDP object, `cargo xtask build-ebpf` builds it");
    }
    Ok(())
}

/// Runs in one measurement; the median of many of them is robust against interrupts.
const MEASUREMENTS: usize = 101;

/// The median of what `measure` gives, in nanoseconds.
fn median(mut measure: impl FnMut() -> Result<u128>) -> Result<f64> {
    let mut runs = (0..MEASUREMENTS).map(|_| measure()).collect::<Result<Vec<u128>>>()?;
    runs.sort_unstable();
    Ok(runs[MEASUREMENTS / 2] as f64)
}

fn nanoseconds(value: f64) -> Sample {
    Sample::from([(Figure::Nanoseconds, value)])
}
