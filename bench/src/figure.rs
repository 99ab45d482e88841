//! What is measured, and what several rounds of it say.

use std::collections::BTreeMap;

/// A kind of figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Processor time in the program for a unit of work, in µs.
    User,
    /// Processor time in the kernel for a unit of work, in µs.
    System,
    /// Both.
    Cpu,
    /// Units in a second, when as many are asked for as it can do.
    Rate,
    /// The rate at ten times the load, against that at full speed (goodput).
    OfPeak,
    /// Its share of its core meanwhile: well below 1 means that the load was the limit.
    Busy,
    /// The share of the other core that load and origins used at a fixed rate: near 1 means that not all was sent in time.
    LoadBusy,
    /// What a packet costs, above nothing.
    Nanoseconds,
    /// Packets in a second.
    Packets,
    /// What something that is done once takes.
    Milliseconds,
    /// Half of the latencies at a fixed rate are below this, in µs.
    P50,
    /// 99 % are.
    P99,
    /// 99.9 % are.
    P999,
    /// Resident memory after the load, in MiB.
    Memory,
    /// What an idle connection adds to it, in bytes.
    PerConnection,
    /// Units of work that failed.
    Failed,
    /// Those that were due and had no answer in time.
    Unanswered,
    /// The share of handshakes that resumed a session.
    Resumed,
}

impl Figure {
    /// All of them, in the order of the report.
    pub const ALL: [Figure; 18] = [
        Figure::Nanoseconds,
        Figure::Packets,
        Figure::Milliseconds,
        Figure::Cpu,
        Figure::User,
        Figure::System,
        Figure::Rate,
        Figure::OfPeak,
        Figure::Busy,
        Figure::LoadBusy,
        Figure::P50,
        Figure::P99,
        Figure::P999,
        Figure::Memory,
        Figure::PerConnection,
        Figure::Resumed,
        Figure::Failed,
        Figure::Unanswered,
    ];

    /// The name in tables, with its unit.
    pub fn name(self) -> &'static str {
        match self {
            Figure::User => "user µs",
            Figure::System => "system µs",
            Figure::Cpu => "CPU µs",
            Figure::Rate => "per second",
            Figure::OfPeak => "of peak",
            Figure::Busy => "busy",
            Figure::LoadBusy => "load busy",
            Figure::Nanoseconds => "ns/packet",
            Figure::Packets => "packets/s",
            Figure::Milliseconds => "ms",
            Figure::P50 => "p50 µs",
            Figure::P99 => "p99 µs",
            Figure::P999 => "p99.9 µs",
            Figure::Memory => "memory MiB",
            Figure::PerConnection => "bytes/connection",
            Figure::Failed => "failed",
            Figure::Unanswered => "unanswered",
            Figure::Resumed => "resumed",
        }
    }

    /// Whether a table without anything in this column is as good without the column.
    pub fn is_trouble(self) -> bool {
        matches!(self, Figure::Failed | Figure::Unanswered)
    }

    /// Digits behind the point.
    pub fn digits(self) -> usize {
        match self {
            Figure::User | Figure::System | Figure::Cpu => 2,
            Figure::OfPeak | Figure::Busy | Figure::LoadBusy | Figure::Resumed => 2,
            Figure::Memory | Figure::Milliseconds => 1,
            _ => 0,
        }
    }
}

/// The figures of one round.
pub type Sample = BTreeMap<Figure, f64>;

/// What several rounds say of one figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Half of the rounds are at or below it.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Of these values; nothing of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Summary { median, min, max })
    }

    /// With so many digits: the median, then smallest and largest where they differ.
    pub fn text(&self, digits: usize) -> String {
        let Summary { median, min, max } = self;
        if min == max {
            return format!("{median:.digits$}");
        }
        format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
    }
}

/// Ours against another's, round by round.
pub fn ratios(ours: &[Sample], theirs: &[Sample], figure: Figure) -> Option<Summary> {
    let rounds = ours.iter().zip(theirs);
    Summary::of(
        rounds.filter_map(|(ours, theirs)| Some(ours.get(&figure)? / theirs.get(&figure).filter(|it| **it > 0.0)?)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(Summary::of([4.0, 1.0, 3.0, 2.0]), Some(Summary { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Summary::of([7.0]).map(|it| it.text(1)), Some("7.0".into()));
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let round = |value: f64| Sample::from([(Figure::Cpu, value)]);
        let ratio = ratios(&[round(1.0), round(8.0)], &[round(2.0), round(4.0)], Figure::Cpu);
        assert_eq!(ratio, Some(Summary { median: 1.25, min: 0.5, max: 2.0 }));
        assert_eq!(ratios(&[round(1.0)], &[Sample::new()], Figure::Cpu), None);
    }
}
