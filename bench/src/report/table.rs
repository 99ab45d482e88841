//! One scenario's table, in Markdown that can be read as it is.

use std::fmt::Write;

use super::main_figure;
use crate::figure::{Figure, Summary, ratios};
use crate::run::{Entry, Results};

/// The table with its heading.
pub fn table(results: &Results) -> String {
    let mut text = format!("## {}\n\n{}", results.name, results.about);
    if let Some(rate) = results.rate {
        let _ = write!(text, "; latencies at {rate:.0} per second");
    }
    text.push_str(".\n\n");
    let figures: Vec<Figure> = Figure::ALL.into_iter().filter(|figure| is_shown(results, *figure)).collect();
    let heading = ["".to_owned()].into_iter().chain(figures.iter().map(|figure| figure.name().to_owned()));
    let mut rows: Vec<Vec<String>> = vec![heading.chain(["gateway ÷ it".to_owned()]).collect()];
    for entry in results.entries.iter().filter(|entry| entry.problem.is_none()) {
        let cells = figures.iter().map(|figure| cell(entry, *figure));
        rows.push([entry.label.clone()].into_iter().chain(cells).chain([ratio(results, entry)]).collect());
    }
    if rows.iter().skip(1).all(|row| row.last().is_some_and(String::is_empty)) {
        rows.iter_mut().for_each(|row| drop(row.pop()));
    }
    text.push_str(&aligned(&rows));
    for entry in &results.entries {
        if let Some(problem) = &entry.problem {
            let _ = writeln!(text, "\nLeft out: {}: {problem}.", entry.label);
        }
    }
    text
}

fn is_shown(results: &Results, figure: Figure) -> bool {
    let mut summaries = results.entries.iter().filter_map(|entry| entry.summary(figure));
    summaries.any(|summary| !figure.is_trouble() || summary.max > 0.0)
}

fn cell(entry: &Entry, figure: Figure) -> String {
    entry.summary(figure).map_or_else(String::new, |summary| summary.text(figure.digits()))
}

fn ratio(results: &Results, entry: &Entry) -> String {
    let ours = results.entries.first().filter(|ours| ours.label.starts_with("gateway") && ours.label != entry.label);
    let Some(ours) = ours else { return String::new() };
    let ratio: Option<Summary> = ratios(&ours.samples, &entry.samples, main_figure(results));
    ratio.map_or_else(String::new, |ratio| ratio.text(2))
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            let _ = writeln!(text, "|{}|", rules.join("|"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Sample;

    fn entry(label: &str, cpu: &[f64]) -> Entry {
        let samples = cpu.iter().map(|cpu| Sample::from([(Figure::Cpu, *cpu), (Figure::Failed, 0.0)])).collect();
        Entry { label: label.into(), samples, latency: None, problem: None }
    }

    #[test]
    fn a_table_has_medians_ratios_and_who_is_out() {
        let out = Entry { problem: Some("not installed".into()), ..entry("caddy", &[]) };
        let entries = vec![entry("gateway", &[10.0, 12.0, 11.0]), entry("nginx", &[20.0, 24.0, 22.0]), out];
        let results = Results { name: "one".into(), about: "About it".into(), rate: Some(500.0), entries };
        let expected = "## one\n\nAbout it; latencies at 500 per second.\n\n\
            |         | CPU µs              | gateway ÷ it |\n\
            |---------|---------------------|--------------|\n\
            | gateway | 11.00 (10.00–12.00) |              |\n\
            | nginx   | 22.00 (20.00–24.00) | 0.50         |\n\
            \nLeft out: caddy: not installed.\n";
        assert_eq!(table(&results), expected);
    }
}
