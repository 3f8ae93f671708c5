// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plots of what was measured, as SVG.
//! Not here: where they are written to.
//! Units: leaves a second, which depend on this machine and are asserted nowhere.
//! Threads: plain values.
//! Source: crate plotters.

pub mod roofline;
pub mod scaling;

use std::error::Error;

use plotters::style::{BLACK, RGBColor};

/// Why a plot could not be drawn.
pub type PlotError = Box<dyn Error>;

const SIZE: (u32, u32) = (960, 600);

/// Colours that colour-blind readers can distinguish.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    BLACK,
];

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// Millions, with significant digits only.
fn millions(number: &f64) -> String {
    let millions = number / 1e6;
    if millions < 10.0 { format!("{millions:.1}") } else { format!("{millions:.0}") }
}
