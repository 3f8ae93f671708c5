// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--plot DIR`: the roofline and the scaling curve as files.
//! Not here: the drawings (`p2mtrack_bench::plot`).
//! Units: none.
//! Threads: the curve's own pools.
//! Source: names of the files are an interface.

use std::fs;
use std::path::{Path, PathBuf};

use p2mtrack_bench::figure::Figure;
use p2mtrack_bench::plot::{roofline, scaling};
use p2mtrack_bench::setup::Setup;
use p2mtrack_trace::StagedFile;

use super::object;
use crate::failure::{Failure, printable};
use crate::output::Output;
use crate::written::{fill, stage};

/// The staged files.
pub(super) struct Plots {
    directory: PathBuf,
    roofline: Plot,
    scaling: Plot,
}

struct Plot {
    path: PathBuf,
    file: StagedFile,
}

impl Plots {
    /// Stages the files, so that an unwritable one fails before anything is measured.
    pub(super) fn prepare(directory: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(directory).map_err(Failure::file(directory))?;
        Ok(Self {
            directory: directory.to_path_buf(),
            roofline: Plot::begin(directory, "roofline.svg")?,
            scaling: Plot::begin(directory, "scaling.svg")?,
        })
    }

    /// Measures the curve, draws it and the figures, and writes both.
    pub(super) fn write(
        self,
        setup: &Setup,
        figures: &[Figure],
        out: &mut Output,
    ) -> Result<(), Failure> {
        let directory = self.directory.as_path();
        if let Some(svg) = roofline::draw(figures).map_err(Failure::file(directory))? {
            self.roofline.write(&svg, out)?;
        }
        let steps = scaling::measure(setup);
        for step in &steps {
            out.object(&object::scaling(step))?;
        }
        self.scaling.write(&scaling::draw(&steps).map_err(Failure::file(directory))?, out)
    }
}

impl Plot {
    fn begin(directory: &Path, name: &str) -> Result<Self, Failure> {
        let path = directory.join(name);
        Ok(Self { file: stage(&path)?, path })
    }

    fn write(self, svg: &str, out: &mut Output) -> Result<(), Failure> {
        fill(self.file, &self.path, svg, StagedFile::commit)?;
        out.text(format_args!("{}", printable(&self.path.display().to_string())))?;
        Ok(())
    }
}
