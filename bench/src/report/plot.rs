//! The pictures: processor time as bars, latencies as curves.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::main_figure;
use crate::figure::Figure;
use crate::run::{Entry, Results};

const WIDTH: u32 = 720;
const BAR: u32 = 44;
const MARGIN: i32 = 12;
const USER: RGBColor = RGBColor(0x2b, 0x6c, 0xb0);
const SYSTEM: RGBColor = RGBColor(0x9d, 0xc3, 0xe6);
const LINES: [RGBColor; 7] = [
    RGBColor(0x2b, 0x6c, 0xb0),
    RGBColor(0x2f, 0x85, 0x5a),
    RGBColor(0xc0, 0x56, 0x21),
    RGBColor(0x6b, 0x46, 0xc1),
    RGBColor(0xb8, 0x32, 0x80),
    RGBColor(0x71, 0x80, 0x96),
    RGBColor(0x00, 0x00, 0x00),
];

/// A bar for each contestant: time in the program, then in the kernel, or memory of a connection.
pub fn cpu(file: &Path, results: &Results) -> Result<()> {
    let figure = main_figure(results);
    let entries: Vec<(&Entry, f64)> =
        results.entries.iter().filter_map(|entry| Some((entry, entry.summary(figure)?.median))).collect();
    let longest = entries.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    if longest <= 0.0 {
        return Ok(());
    }
    let height = BAR * entries.len() as u32 + 60;
    let area = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    let drawn = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        area.fill(&WHITE)?;
        let text = ("sans-serif", 15).into_font();
        let parts = if figure == Figure::Cpu { ", in the program (dark) and in the kernel" } else { "" };
        let title = format!("{}: {}{parts}", results.name, figure.name());
        area.draw_text(&title, &("sans-serif", 18).into_font().into_text_style(&area), (MARGIN, MARGIN))?;
        let (left, scale) = (180, f64::from(WIDTH - 180 - 110) / longest);
        for (number, (entry, value)) in entries.iter().enumerate() {
            let top = 48 + (BAR as i32) * number as i32;
            let user = entry.summary(Figure::User).filter(|_| figure == Figure::Cpu).map_or(*value, |user| user.median);
            let (middle, right) = (left + (user.min(*value) * scale) as i32, left + (value * scale) as i32);
            area.draw(&Rectangle::new([(left, top), (middle, top + 26)], USER.filled()))?;
            area.draw(&Rectangle::new([(middle, top), (right, top + 26)], SYSTEM.filled()))?;
            area.draw_text(&entry.label, &text.clone().into_text_style(&area), (MARGIN, top + 6))?;
            let number = format!("{value:.digits$}", digits = figure.digits());
            area.draw_text(&number, &text.clone().into_text_style(&area), (right + 8, top + 6))?;
        }
        area.present()
    };
    drawn().map_err(|error| anyhow!("{}: {error}", file.display()))
}

/// A curve for each contestant: which part of the latencies is below what.
pub fn latency(file: &Path, results: &Results) -> Result<()> {
    let with_latency = results.entries.iter().filter_map(|entry| Some((entry, entry.latency.as_ref()?)));
    let curves: Vec<(&Entry, Vec<(f64, f64)>)> = with_latency.map(|(entry, all)| (entry, curve(all))).collect();
    let points = || curves.iter().flat_map(|(_, curve)| curve.iter().map(|(_, micros)| *micros));
    let (low, high) = (points().fold(f64::INFINITY, f64::min), points().fold(0.0, f64::max));
    if high <= 0.0 {
        return Ok(());
    }
    let area = SVGBackend::new(file, (WIDTH, 440)).into_drawing_area();
    let drawn = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{}: latency in µs", results.name), ("sans-serif", 18))
            .margin(MARGIN)
            .x_label_area_size(36)
            .y_label_area_size(72)
            .build_cartesian_2d((1.0..10_000.0f64).log_scale(), (low.max(1.0)..high * 1.1).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("percentile")
            .x_label_formatter(&|part| format!("{}", 100.0 - 100.0 / part))
            .y_label_formatter(&|micros| format!("{micros:.0}"))
            .draw()?;
        for ((entry, curve), colour) in curves.iter().zip(LINES.iter().cycle()) {
            chart
                .draw_series(LineSeries::new(curve.iter().copied(), colour.stroke_width(2)))?
                .label(&entry.label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .position(SeriesLabelPosition::UpperLeft)
            .draw()?;
        area.present()
    };
    drawn().map_err(|error| anyhow!("{}: {error}", file.display()))
}

/// Latencies in µs at 1 / (1 - part), from half of them to 99.99 %.
fn curve(latency: &hdrhistogram::Histogram<u64>) -> Vec<(f64, f64)> {
    let steps = (0..=80).map(|step| 10f64.powf(f64::from(step) / 20.0));
    steps.map(|inverse| (inverse, latency.value_at_quantile(1.0 - 1.0 / inverse) as f64 / 1e3)).collect()
}
