// SPDX-License-Identifier: MIT OR Apache-2.0
//! The roofline: leaves a second over the bytes that must be read for a leaf, below the memory's
//! bandwidth.
//! Not here: figures without a rate.
//! Units: bytes a leaf; leaves a second, on a logarithmic scale.
//! Threads: plain values.
//! Source: Williams, Waterman, Patterson, CACM 2009. There is one roof for each number of threads:
//! the highest bandwidth that any A/B run with so many measured.

use std::collections::BTreeMap;
use std::ops::Range;

use plotters::prelude::*;

use super::{PlotError, SIZE, colour, millions};
use crate::figure::{Figure, Rate};

/// The drawn range of bytes a leaf.
const BYTES: Range<f64> = 3000.0..9000.0;

/// Points of a roof.
const ROOF_POINTS: u32 = 60;

/// Draws figures that have a rate; `None` if none has.
///
/// # Errors
/// The drawing can't be made.
pub fn draw(figures: &[Figure]) -> Result<Option<String>, PlotError> {
    let rated: Vec<_> = figures.iter().filter_map(|f| Some((f, f.rate?))).collect();
    if rated.is_empty() {
        return Ok(None);
    }
    let roofs = roofs(&rated);
    let tops = roofs.values().map(|bandwidth| bandwidth / BYTES.start);
    let top = tops.chain(rated.iter().map(|(_, rate)| rate.leaves)).fold(0.0, f64::max);
    let lows = roofs.values().map(|bandwidth| bandwidth / BYTES.end);
    let low = lows.chain(rated.iter().map(|(_, rate)| rate.leaves)).fold(top, f64::min);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption("Leaves compared, and the roof of memory", ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(BYTES, (low / 1.3..top * 1.3).log_scale())?;
        chart
            .configure_mesh()
            .max_light_lines(1)
            .x_desc("bytes that must be read for a leaf")
            .y_desc("million leaves a second")
            .x_label_formatter(&|bytes| format!("{bytes:.0}"))
            .y_label_formatter(&millions)
            .draw()?;
        for (index, (threads, bandwidth)) in roofs.iter().enumerate() {
            let points = (0..=ROOF_POINTS).map(|point| {
                let part = f64::from(point) / f64::from(ROOF_POINTS);
                let bytes = BYTES.start + part * (BYTES.end - BYTES.start);
                (bytes, bandwidth / bytes)
            });
            let style = colour(index).stroke_width(2);
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(format!("{:.1} GB/s, threads: {threads}", bandwidth / 1e9))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
        }
        for (index, (figure, rate)) in rated.iter().enumerate() {
            let style = colour(index + roofs.len()).filled();
            chart
                .draw_series([Circle::new((rate.bytes, rate.leaves), 5, style)])?
                .label(figure.name.clone())
                .legend(move |(x, y)| Circle::new((x + 10, y), 5, style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        area.present()?;
    }
    Ok(Some(svg))
}

/// The highest bandwidth by threads.
fn roofs(rated: &[(&Figure, Rate)]) -> BTreeMap<usize, f64> {
    let mut roofs = BTreeMap::new();
    for (figure, rate) in rated {
        let roof = roofs.entry(figure.threads).or_insert(0.0_f64);
        *roof = roof.max(rate.bandwidth);
    }
    roofs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;

    #[test]
    fn figures_are_drawn_below_roofs() {
        assert_eq!(draw(&[Figure::new("a", 1.0, Unit::Times, "")]).expect("drawn"), None);
        let rate = Some(Rate { leaves: 4e6, bytes: 4104.0, bandwidth: 3e10 });
        let figures = [1, 2, 2].map(|threads| Figure {
            threads,
            rate,
            ..Figure::new("diff.<affine>", 1.0, Unit::Times, "")
        });
        let svg = draw(&figures).expect("drawn").expect("a rate");
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("30.0 GB/s").count(), 2);
        assert!(svg.contains("diff.&lt;affine&gt;"));
    }
}
