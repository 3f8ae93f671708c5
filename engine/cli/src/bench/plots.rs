// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--plot DIR`: the roofline and the scaling curve as files.
//! Not here: the drawings (`p2mtrack_bench::plot`).
//! Units: none.
//! Threads: the curve's own teams.
//! Source: names of the files are an interface.

use std::fs;
use std::path::Path;

use p2mtrack_bench::figure::Figure;
use p2mtrack_bench::plot::{roofline, scaling};
use p2mtrack_bench::setup::Setup;

use super::object;
use crate::failure::Failure;
use crate::output::Output;

/// Makes sure, before anything is measured, that there will be a place for the files.
pub(super) fn prepare(directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory).map_err(Failure::file(directory))
}

/// Measures the curve, draws it and the figures, and writes both.
pub(super) fn write(
    directory: &Path,
    setup: &Setup,
    figures: &[Figure],
    out: &mut Output,
) -> Result<(), Failure> {
    if let Some(svg) = roofline::draw(figures).map_err(Failure::file(directory))? {
        write_one(directory, "roofline.svg", &svg, out)?;
    }
    let steps = scaling::measure(setup);
    for step in &steps {
        out.object(&object::scaling(step))?;
    }
    let svg = scaling::draw(&steps).map_err(Failure::file(directory))?;
    write_one(directory, "scaling.svg", &svg, out)
}

fn write_one(directory: &Path, name: &str, svg: &str, out: &mut Output) -> Result<(), Failure> {
    let path = directory.join(name);
    fs::write(&path, svg).map_err(Failure::file(&path))?;
    out.text(format_args!("{}", path.display()))?;
    Ok(())
}
