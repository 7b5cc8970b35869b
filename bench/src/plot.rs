//! Curves as a picture: SVG, with a logarithmic axis to the right.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::results::{Curves, number};

/// Its size, in pixels.
const SIZE: (u32, u32) = (720, 420);

/// Room above the highest point.
const ROOM: f64 = 1.15;

const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 90, 160),
    RGBColor(200, 80, 0),
    RGBColor(0, 130, 80),
    RGBColor(150, 50, 140),
    RGBColor(90, 90, 90),
    RGBColor(180, 150, 0),
];

/// Draws them.
///
/// # Errors
///
/// When there is nothing to draw, or the file cannot be written.
pub fn draw(curves: &Curves, path: &Path) -> Result<(), Box<dyn Error>> {
    let points = || curves.lines.iter().flat_map(|line| line.medians());
    let (left, right) = points().fold((f64::MAX, f64::MIN), |(l, r), (x, _)| (l.min(x), r.max(x)));
    let top = points().map(|(_, y)| y).fold(0.0, f64::max) * ROOM;
    if left > right {
        return Err("no point was measured".into());
    }
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(curves.title, ("sans-serif", 18))
        .margin(12)
        .margin_right(32)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (left..right.max(left * 2.0)).log_scale(),
            0.0..top.max(f64::EPSILON),
        )?;
    let label = |value: &f64| number(*value);
    chart
        .configure_mesh()
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .x_desc(curves.x)
        .y_desc(curves.y)
        .light_line_style(WHITE)
        .draw()?;
    for (line, colour) in curves.lines.iter().zip(COLOURS.iter().cycle()) {
        let legend = move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], *colour);
        chart
            .draw_series(LineSeries::new(line.medians(), colour.stroke_width(2)).point_size(3))?
            .label(&line.name)
            .legend(legend);
    }
    let labels = &mut chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).draw()?;
    drop(chart);
    area.present()?;
    Ok(())
}
