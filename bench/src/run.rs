//! The order of runs: every proxy once, then every proxy again (A B C … A B C), so that what changes on the machine
//! meanwhile changes it for all.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::figure::{Figure, Sample, Summary};
use crate::measure::{Bench, Times};
use crate::scenario::{Contestant, Load, Scenario};

/// What it takes to start and stop a proxy, roughly.
const START: Duration = Duration::from_millis(600);
/// What [`Load::Idle`] takes to open its connections and to rest, roughly.
const IDLE: Duration = Duration::from_secs(3);
/// Offered above what a proxy can take.
const OVERLOAD: f64 = 10.0;

/// What a scenario showed.
pub struct Results {
    /// Its name.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// The rate at which latencies were measured.
    pub rate: Option<f64>,
    /// Contestants, ours first.
    pub entries: Vec<Entry>,
}

/// What one contestant showed.
pub struct Entry {
    /// Who.
    pub label: String,
    /// The figures of each round.
    pub samples: Vec<Sample>,
    /// The latencies of all rounds.
    pub latency: Option<Histogram<u64>>,
    /// Why it is out.
    pub problem: Option<String>,
}

/// How long the runs of these scenarios take, roughly.
pub fn estimate(scenarios: &[Scenario], times: Times, rounds: usize) -> Duration {
    let one = |scenario: &Scenario| {
        let load = if matches!(scenario.load, Load::Idle) { IDLE } else { times.warm_up + times.load };
        let latency = if scenario.load.has_latency() { START + times.warm_up + times.latency } else { Duration::ZERO };
        (START + load + latency) * scenario.contestants.len() as u32
    };
    scenarios.iter().map(one).sum::<Duration>() * rounds as u32
}

/// Runs a scenario.
pub fn run(bench: &Bench, scenario: &Scenario, rounds: usize, progress: &mut Progress) -> Results {
    let mut entries: Vec<Entry> = scenario.contestants.iter().map(Entry::new).collect();
    for round in 0..rounds {
        for (contestant, entry) in scenario.contestants.iter().zip(&mut entries) {
            progress.step(scenario, contestant, round);
            entry.note(round, || Ok((bench.saturate(contestant, &scenario.load)?, None)));
        }
    }
    let slowest = entries.iter().filter_map(|entry| entry.summary(Figure::Rate)).map(|rate| rate.median);
    let half = slowest.fold(f64::INFINITY, f64::min) / 2.0;
    if scenario.load.has_latency() && half.is_finite() {
        // Before the second runs put theirs in place of these.
        let peaks: Vec<_> = entries.iter().map(|entry| entry.summary(Figure::Rate).map(|rate| rate.median)).collect();
        for round in 0..rounds {
            for ((contestant, entry), peak) in scenario.contestants.iter().zip(&mut entries).zip(&peaks) {
                progress.step(scenario, contestant, round);
                let peak = peak.filter(|_| matches!(scenario.load, Load::Overload));
                let rate = peak.map_or(half, |peak| peak * OVERLOAD);
                entry.note(round, || {
                    anyhow::ensure!(rate > 0.0, "it answered nothing at full speed, so there is no rate for it");
                    let (mut sample, outcome) = bench.at_rate(contestant, &scenario.load, rate)?;
                    let of_peak = peak.zip(sample.get(&Figure::Rate)).map(|(peak, rate)| rate / peak);
                    sample.extend(of_peak.map(|share| (Figure::OfPeak, share)));
                    Ok((sample, Some(outcome.latency)))
                });
            }
        }
    }
    let rate = (scenario.load.has_latency() && !matches!(scenario.load, Load::Overload)).then_some(half);
    Results { name: scenario.name.clone(), about: scenario.about.clone(), rate, entries }
}

impl Entry {
    fn new(contestant: &Contestant) -> Entry {
        let problem = match contestant.peer.program() {
            None => Some("not installed".to_owned()),
            Some(_) => contestant.peer.refusal(&contestant.task).map(str::to_owned),
        };
        Entry { problem, ..Entry::named(&contestant.label()) }
    }

    /// Of a scenario that has no contestants.
    pub fn named(label: &str) -> Entry {
        Entry { label: label.to_owned(), samples: Vec::new(), latency: None, problem: None }
    }

    /// One that could not be measured.
    pub fn failed(label: &str, error: &anyhow::Error) -> Entry {
        Entry { problem: Some(format!("{error:#}")), ..Entry::named(label) }
    }

    /// Adds a round to the entry of that name.
    pub fn note_in(entries: &mut Vec<Entry>, label: &str, sample: Sample) {
        let known = entries.iter().position(|entry| entry.label == label);
        let at = known.unwrap_or_else(|| {
            entries.push(Entry::named(label));
            entries.len() - 1
        });
        entries[at].samples.push(sample);
    }

    /// Makes a run, unless an earlier one has failed.
    fn note(&mut self, round: usize, run: impl FnOnce() -> Result<(Sample, Option<Histogram<u64>>)>) {
        if self.problem.is_some() {
            return;
        }
        match run() {
            Ok((sample, latency)) => {
                self.samples.resize_with(self.samples.len().max(round + 1), Sample::new);
                merge(&mut self.samples[round], sample);
                match (&mut self.latency, latency) {
                    (Some(all), Some(more)) => *all += more,
                    (all, more) => *all = all.take().or(more),
                }
            }
            Err(error) => self.problem = Some(format!("{error:#}")),
        }
    }

    /// What its rounds say of a figure.
    pub fn summary(&self, figure: Figure) -> Option<Summary> {
        Summary::of(self.samples.iter().filter_map(|sample| sample.get(&figure).copied()))
    }
}

/// Adds a second run to a round: trouble adds up, other figures of the second one are in place of the first's.
fn merge(round: &mut Sample, more: Sample) {
    for (figure, value) in more {
        let before = round.get(&figure).copied().filter(|_| figure.is_trouble()).unwrap_or(0.0);
        round.insert(figure, before + value);
    }
}

/// Says on standard error what is being done.
pub struct Progress {
    started: Instant,
    expected: Duration,
}

impl Progress {
    /// Runs that take so long begin now.
    pub fn new(expected: Duration) -> Progress {
        Progress { started: Instant::now(), expected }
    }

    fn step(&self, scenario: &Scenario, contestant: &Contestant, round: usize) {
        self.say(&format!("{}, round {}, {}", scenario.name, round + 1, contestant.label()));
    }

    /// Says what is being done, and how much of the time is over.
    pub fn say(&self, what: &str) {
        let line = format!("{:>5} of {} s  {what}", self.started.elapsed().as_secs(), self.expected.as_secs());
        let mut out = stderr();
        let _nobody_reads = if out.is_terminal() { write!(out, "\r\x1b[K{line}") } else { writeln!(out, "{line}") };
    }

    /// Leaves the line to others.
    pub fn clear(&self) {
        if stderr().is_terminal() {
            let _nobody_reads = write!(stderr(), "\r\x1b[K");
        }
    }
}
