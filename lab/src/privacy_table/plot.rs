//! plot.svg: accuracy by ε, and what the residual buys.

use std::fmt::Debug;
use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::experiment::{Epsilon, Experiment, Shape};
use super::verdict::{Group, YARDSTICKS};

/// Width and height in pixels.
const SIZE: (u32, u32) = (1040, 460);
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
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Places, RangedCoordf64>>;

/// Both panels, as the text of an SVG file. ε is a category: the places on the axis have equal distances.
///
/// # Errors
/// If there is nothing that can be drawn on.
pub(super) fn svg(experiment: &Experiment, groups: &[Group]) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(drawing)?;
        let (left, right) = root.split_horizontally(SIZE.0 / 2);
        accuracy_panel(&left, experiment, groups)?;
        bought_panel(&right, experiment, groups)?;
        root.present().map_err(drawing)?;
    }
    Ok(text)
}

fn accuracy_panel(area: &Area, experiment: &Experiment, groups: &[Group]) -> Result<()> {
    let values = groups.iter().flat_map(|g| [g.accuracy().mean, g.trusted_only().mean]);
    let mut chart =
        chart(area, experiment, "Accuracy (dashed: trusted part alone)", "test accuracy, %", values)?;
    for (i, shape) in experiment.shapes.iter().enumerate() {
        let style = COLOURS[i % COLOURS.len()].stroke_width(2);
        let merged = points(experiment, groups, shape, |g| g.accuracy().mean);
        let alone = points(experiment, groups, shape, |g| g.trusted_only().mean);
        let drawn = chart.draw_series(LineSeries::new(merged.iter().copied(), style).point_size(3));
        drawn
            .map_err(drawing)?
            .label(shape.text())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        chart.draw_series(DashedLineSeries::new(alone.iter().copied(), 6, 4, style)).map_err(drawing)?;
        chart.draw_series(alone.iter().map(|&at| Circle::new(at, 3, style))).map_err(drawing)?;
    }
    legend(&mut chart)
}

fn bought_panel(area: &Area, experiment: &Experiment, groups: &[Group]) -> Result<()> {
    let noise = groups.iter().map(|g| YARDSTICKS * g.yardstick()).fold(0.0, f64::max);
    let values = groups.iter().map(|g| g.bought().mean).chain([-noise, noise]);
    let title = "What the residual buys (grey: within noise)";
    let mut chart = chart(area, experiment, title, "merged minus trusted alone, points", values)?;
    let across = Places::of(experiment).range();
    let band = Rectangle::new([(across.start, -noise), (across.end, noise)], BLACK.mix(0.1).filled());
    chart.draw_series([band]).map_err(drawing)?;
    let zero = PathElement::new([(across.start, 0.0), (across.end, 0.0)], BLACK.mix(0.6));
    chart.draw_series([zero]).map_err(drawing)?;
    for (i, shape) in experiment.shapes.iter().enumerate() {
        let style = COLOURS[i % COLOURS.len()].stroke_width(2);
        let bought = points(experiment, groups, shape, |g| g.bought().mean);
        let drawn = chart.draw_series(LineSeries::new(bought, style).point_size(3));
        drawn
            .map_err(drawing)?
            .label(shape.text())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    legend(&mut chart)
}

/// Axes around `values`.
fn chart<'a, 'b>(
    area: &'a Area<'b>,
    experiment: &Experiment,
    title: &str,
    vertical: &str,
    values: impl Iterator<Item = f64>,
) -> Result<Chart<'a, 'b>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 17))
        .margin(10)
        .x_label_area_size(45)
        .y_label_area_size(55)
        .build_cartesian_2d(Places::of(experiment), around(values))
        .map_err(drawing)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("ε of each record")
        .y_desc(vertical)
        .label_style((FONT, 14))
        .draw()
        .map_err(drawing)?;
    Ok(chart)
}

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>) -> Result<()> {
    let mut labels = chart.configure_series_labels();
    let labels = labels.position(SeriesLabelPosition::UpperLeft).label_font((FONT, 14));
    labels.background_style(WHITE.mix(0.8)).draw().map_err(drawing)
}

/// The horizontal axis: whole numbers are the places of the ε, by name.
struct Places {
    names: Vec<String>,
}

impl Places {
    fn of(experiment: &Experiment) -> Self {
        Places { names: experiment.epsilons.iter().map(Epsilon::to_string).collect() }
    }
}

impl Ranged for Places {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let Range { start, end } = self.range();
        let share = (value - start) / (end - start);
        (f64::from(limit.0) + share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        (0..self.names.len()).map(|place| place as f64).collect()
    }

    fn range(&self) -> Range<f64> {
        -0.4..self.names.len() as f64 - 0.6
    }
}

impl ValueFormatter<f64> for Places {
    fn format_ext(&self, place: &f64) -> String {
        self.names.get(place.round() as usize).cloned().unwrap_or_default()
    }
}

/// (place of the ε, figure) of the groups of one shape.
fn points(
    experiment: &Experiment,
    groups: &[Group],
    shape: &Shape,
    figure: impl Fn(&Group) -> f64,
) -> Vec<(f64, f64)> {
    let place = |group: &Group| experiment.epsilons.iter().position(|&e| e == group.epsilon);
    let of_shape = groups.iter().filter(|group| group.shape == *shape);
    of_shape.filter_map(|group| Some((place(group)? as f64, figure(group)))).collect()
}

/// A range with all values in it and some room, more of it above, for the legend; any range if there are none.
fn around(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 0.0..100.0;
    }
    let room = (0.08 * (high - low)).max(0.5);
    low - room..high + 4.0 * room
}

fn drawing(error: impl Debug) -> anyhow::Error {
    anyhow!("the plot cannot be drawn: {error:?}")
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::super::verdict::groups;
    use super::*;

    /// Every element that is opened is closed, in order; the number of elements.
    fn elements(svg: &str) -> usize {
        let mut open = Vec::new();
        let mut count = 0;
        for part in svg.split('<').skip(1) {
            let (tag, text) = part.split_once('>').expect("a tag ends");
            assert!(!text.contains('>') && !text.contains('&'), "{text}");
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name)),
                None => {
                    count += 1;
                    assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
                    if !tag.ends_with('/') {
                        open.push(tag.split_whitespace().next().unwrap());
                    }
                }
            }
        }
        assert!(open.is_empty(), "{open:?} is not closed");
        count
    }

    #[test]
    fn the_plot_is_well_formed_and_whole() {
        let experiment = samples::experiment("8,none", "full,mean", "0");
        let groups = groups(&experiment, &samples::all(&experiment, |_| (0.6, 0.5)));
        let svg = svg(&experiment, &groups).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert!(elements(&svg) > 30);
        for text in ["\n8\n", "\nnone\n", "\nfull\n", "\nmean\n", "test accuracy, %"] {
            assert!(svg.contains(text), "{text:?} is missing");
        }
        // A marker at each figure: merged, alone and their difference, of 2 ε and 2 shapes.
        assert_eq!(svg.matches("<circle").count(), 12);
        let broken = svg.replacen("</text>", "", 1);
        assert!(std::panic::catch_unwind(|| elements(&broken)).is_err());
    }

    #[test]
    fn nothing_finished_is_an_empty_plot() {
        let experiment = samples::experiment("8", "full", "0");
        assert!(elements(&svg(&experiment, &[]).unwrap()) > 5);
    }

    #[test]
    fn places_are_whole_numbers() {
        let places = Places::of(&samples::experiment("2,8,none", "full", "0"));
        assert_eq!(places.map(&-0.4, (0, 280)), 0);
        assert_eq!(places.map(&1.0, (0, 280)), 140);
        assert_eq!(places.format_ext(&2.0), "none");
    }
}
