//! chart.svg: the ratios of every case, a dot for each peer.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::OWN;
use crate::bench::{Measured, Results, Runs};

/// Width in pixels; height of a case and of everything else.
const WIDTH: u32 = 1000;
const CASE: u32 = 20;
const REST: u32 = 110;
const FONT: &str = "sans-serif";
/// Told apart by people with any colour vision (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One panel per number of threads, as the text of an SVG file.
///
/// # Errors
/// If there is nothing that can be drawn on.
pub(super) fn svg(results: &Results) -> Result<String> {
    let mut threads: Vec<usize> = results.cases.iter().map(|measured| measured.threads).collect();
    threads.dedup();
    let panels: Vec<(usize, Vec<&Measured>)> = threads
        .iter()
        .map(|&count| (count, results.cases.iter().filter(|m| m.threads == count).collect()))
        .collect();
    let heights: Vec<u32> = panels.iter().map(|(_, rows)| REST + CASE * rows.len() as u32).collect();
    let mut text = String::new();
    {
        let size = (WIDTH, heights.iter().sum::<u32>().max(1));
        let mut rest = SVGBackend::with_string(&mut text, size).into_drawing_area();
        rest.fill(&WHITE).map_err(drawing)?;
        for ((count, rows), height) in panels.iter().zip(heights) {
            let (area, below) = rest.split_vertically(height);
            panel(&area, results, *count, rows)?;
            rest = below;
        }
        rest.present().map_err(drawing)?;
    }
    Ok(text)
}

fn panel(area: &Area, results: &Results, threads: usize, rows: &[&Measured]) -> Result<()> {
    let peers: Vec<&str> = results.peers.iter().map(|(name, _)| *name).filter(|name| *name != OWN).collect();
    let ratios = rows.iter().flat_map(|m| peers.iter().filter_map(|peer| m.ratio(peer, Runs::wall)));
    let (low, high) = ratios.fold((0.7, 1.5), |(low, high): (f64, f64), r| (low.min(r), high.max(r)));
    let title = format!("Peer's time over asymflow's, {threads} thread(s): right of 1, asymflow is faster");
    let names: Vec<String> = rows.iter().map(|measured| measured.case.id()).collect();
    let last = rows.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(250)
        .build_cartesian_2d((low / 1.1..high * 1.1).log_scale(), (last - 0.5)..-0.5)
        .map_err(drawing)?;
    let name =
        |y: &f64| names.get(y.round() as usize).filter(|_| y.fract() == 0.0).cloned().unwrap_or_default();
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(2 * rows.len().max(1))
        .y_label_formatter(&name)
        .x_label_formatter(&|x| format!("{x:.1}"))
        .label_style((FONT, 12))
        .draw()
        .map_err(drawing)?;
    let one = PathElement::new([(1.0, -0.5), (1.0, last - 0.5)], BLACK.mix(0.6));
    chart.draw_series([one]).map_err(drawing)?;
    for (i, &peer) in peers.iter().enumerate() {
        let style = COLOURS[i % COLOURS.len()].filled();
        let dots = rows.iter().enumerate().filter_map(|(y, m)| Some((m.ratio(peer, Runs::wall)?, y as f64)));
        chart
            .draw_series(dots.map(|at| Circle::new(at, 4, style)))
            .map_err(drawing)?
            .label(peer)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, style));
    }
    let mut labels = chart.configure_series_labels();
    let labels = labels.position(SeriesLabelPosition::LowerRight).label_font((FONT, 12));
    labels.background_style(WHITE.mix(0.8)).draw().map_err(drawing)
}

fn drawing(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow!("the chart: {error:?}")
}
