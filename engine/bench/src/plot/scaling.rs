// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scaling: leaves of runs compared in a second by one thread, two, and so on; `memcmp` and reading
//! for comparison.
//! Not here: figures; a curve has no goal.
//! Units: leaves a second.
//! Threads: one to those of the setup; from 16 on only powers of two, and the last.
//! Source: the scenario of `diff.affine`.

use p2mtrack_synthetic::huge::Shape;
use plotters::prelude::*;

use super::{PlotError, SIZE, colour, millions};
use crate::ab_run::WallClock;
use crate::diff::{Diff, MEMCMP, OURS, READ};
use crate::figures::affine;
use crate::p2m::Planted;
use crate::pool::Pool;
use crate::setup::Setup;

/// What is drawn.
pub const CURVES: [&str; 3] = [OURS, MEMCMP, READ[1]];

/// Speeds with a number of threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The threads of each side.
    pub threads: usize,
    /// Leaves a second, in the order of [`CURVES`].
    pub leaves: [f64; CURVES.len()],
}

fn thread_counts(most: usize) -> Vec<usize> {
    (1..=most).filter(|&n| n < 16 || n == most || n.is_power_of_two()).collect()
}

/// Measures.
///
/// # Panics
/// If there are no threads.
#[must_use]
pub fn measure(setup: &Setup) -> Vec<Step> {
    let p2m = affine::p2m(setup, Shape::Runs);
    let counts = thread_counts(setup.pool.threads());
    let pools: Vec<_> = counts.iter().map(|&n| Pool::new(n).expect("threads")).collect();
    let mut diff = Diff::whole(setup, &p2m, setup.forms);
    let steps = pools.iter().map(|pool| {
        diff.staff(pool);
        let times = diff.ab_run(Planted::default()).only(&CURVES).run(&WallClock::default());
        let compared = diff.in_a_pass(p2m.leaves() as u64) as f64;
        let leaves = CURVES.map(|side| compared / times.seconds(side));
        Step { threads: pool.threads(), leaves }
    });
    steps.collect()
}

/// Draws what was measured.
///
/// # Errors
/// The drawing can't be made.
pub fn draw(steps: &[Step]) -> Result<String, PlotError> {
    let most = steps.iter().map(|step| step.threads).max().unwrap_or(1);
    let top = steps.iter().flat_map(|step| step.leaves).fold(1.0, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption("Leaves of runs compared, by threads", ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(0..most + 1, 0.0..top * 1.15)?;
        chart
            .configure_mesh()
            .max_light_lines(1)
            .x_desc("threads")
            .y_desc("million leaves a second")
            .x_labels(most.min(16) + 2)
            .y_label_formatter(&millions)
            .draw()?;
        for (index, name) in CURVES.into_iter().enumerate() {
            let style = colour(index).stroke_width(2);
            let points = steps.iter().map(|step| (step.threads, step.leaves[index]));
            chart
                .draw_series(LineSeries::new(points.clone(), style).point_size(4))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
            chart.draw_series(points.map(|at| Circle::new(at, 4, style.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_are_counted_in_steps() {
        assert_eq!(thread_counts(2), [1, 2]);
        assert_eq!(thread_counts(48).into_iter().skip(14).collect::<Vec<_>>(), [15, 16, 32, 48]);
    }

    #[test]
    fn curves_are_drawn() {
        let steps = [1, 2].map(|threads| Step { threads, leaves: [3e6, 2e6, 4e6] });
        let svg = draw(&steps).expect("drawn");
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert!(CURVES.iter().all(|name| svg.contains(name)));
    }
}
