//! The report: a table for people, every single figure for machines, and pictures.

pub mod plot;
mod table;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::figure::Figure;
use crate::run::Results;
pub use table::table;

/// Writes `raw.csv`, `summary.md`, `machine.txt` and the pictures of all results so far.
pub fn write(dir: &Path, how: &str, machine: &str, results: &[Results]) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let tables: String = results.iter().map(|one| table(one) + "\n").collect();
    let save = |name: &str, text: &str| fs::write(dir.join(name), text).with_context(|| format!("cannot write {name}"));
    save("machine.txt", machine)?;
    save("summary.md", &format!("# Results\n\n{how}\n\n{tables}"))?;
    save("raw.csv", &csv(results))?;
    for one in results {
        plot::cpu(&dir.join(format!("cpu-{}.svg", one.name)), one)?;
        plot::latency(&dir.join(format!("latency-{}.svg", one.name)), one)?;
    }
    Ok(())
}

fn csv(results: &[Results]) -> String {
    let mut text = String::from("scenario,contestant,round,figure,value\n");
    for one in results {
        for entry in &one.entries {
            for (round, sample) in entry.samples.iter().enumerate() {
                for (figure, value) in sample {
                    let Results { name, .. } = one;
                    let _ = writeln!(text, "{name},\"{}\",{},{},{value}", entry.label, round + 1, figure.name());
                }
            }
        }
    }
    text
}

/// The figure that contestants are compared by.
pub fn main_figure(results: &Results) -> Figure {
    let has = |figure| results.entries.iter().any(|entry| entry.summary(figure).is_some());
    let others = [Figure::PerConnection, Figure::Nanoseconds];
    others.into_iter().find(|figure| has(*figure)).unwrap_or(Figure::Cpu)
}
