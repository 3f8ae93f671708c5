// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gate, second half: figures of `p2mtrack bench`, compared with floors that any machine
//! reaches, quiet or busy.
//! Not here: the figures (`p2mtrack-bench`), or their goals, which are for a quiet machine.
//! Units: as the figures; all are ratios of jobs that run in turn.
//! Threads: two, as the goals are set for.
//! Source: `perf/floors.json`, written by hand; `docs/perf.md`, "The gate".

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;

use p2mtrack::diff::Kernel;
use p2mtrack::shadow::Forms;
use p2mtrack_bench::catalog::{Entry, Selection};
use p2mtrack_bench::figure::Figure;
use p2mtrack_bench::pool::Pool;
use p2mtrack_bench::setup::{PASS_BYTES, Setup};
use serde::Deserialize;

/// Threads of each side.
const THREADS: usize = 2;

/// The bounds of a figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Floor {
    /// The guest's size.
    guest_gib: u64,
    at_least: Option<f64>,
    at_most: Option<f64>,
    /// The least value of [`Figure::floor`].
    of_floor: Option<f64>,
}

impl Floor {
    fn is_kept_by(&self, figure: &Figure) -> bool {
        self.at_least.is_none_or(|least| figure.value >= least)
            && self.at_most.is_none_or(|most| figure.value <= most)
            && self.of_floor.is_none_or(|least| figure.floor.is_some_and(|share| share >= least))
    }

    /// What was measured, beside its bounds.
    fn line(&self, figure: &Figure) -> String {
        let bound = |word: &str, bound: Option<f64>| {
            bound.map_or_else(String::new, |bound| format!(", {word} {bound}"))
        };
        let share = figure.floor.filter(|_| self.of_floor.is_some());
        format!(
            "{:34} {:10.4}{}{}{}{}",
            figure.name,
            figure.value,
            bound("at least", self.at_least),
            bound("at most", self.at_most),
            share.map_or_else(String::new, |share| format!("; {share:.2} of the read floor")),
            bound("at least", self.of_floor),
        )
    }
}

/// All floors, by figure.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Floors(BTreeMap<String, Floor>);

impl Floors {
    /// Reads them.
    ///
    /// # Errors
    /// The file can't be read, or has no floors.
    pub(crate) fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?)
    }

    /// Measures every figure that has a floor and whose name contains `only`. Returns whether all
    /// floors are kept.
    ///
    /// # Errors
    /// A floor is of an unknown figure, or the machine can't measure it.
    pub(crate) fn hold(&self, only: &str) -> Result<bool, Box<dyn Error>> {
        let mut held = true;
        let chosen = || self.0.iter().filter(|(name, _)| name.contains(only));
        for gib in chosen().map(|(_, floor)| floor.guest_gib).collect::<BTreeSet<_>>() {
            let setup = setup(gib << 30)?;
            println!("A guest of {gib} GiB, kernel {}:", setup.kernel);
            let here = chosen().filter(|(_, floor)| floor.guest_gib == gib);
            let mut wanted: BTreeMap<_, _> = here.map(|(name, f)| (name.as_str(), *f)).collect();
            let names: Vec<_> = wanted.keys().map(ToString::to_string).collect();
            for entry in Selection::new(&names)?.entries() {
                held &= hold_twice(entry, &setup, &mut wanted);
            }
            if let Some((name, _)) = wanted.first_key_value() {
                return Err(format!("no figure is called {name:?}").into());
            }
        }
        Ok(held)
    }
}

fn setup(guest_bytes: u64) -> Result<Setup, Box<dyn Error>> {
    Ok(Setup {
        guest_bytes,
        kernel: Kernel::choose()?,
        forms: Forms::Auto,
        pass_bytes: PASS_BYTES,
        pool: Pool::new(THREADS)?,
    })
}

/// Measures figures, and once more if one is below its floor: the machine may have been busy.
/// Removes those that were measured from `wanted`.
fn hold_twice(entry: &Entry, setup: &Setup, wanted: &mut BTreeMap<&str, Floor>) -> bool {
    let below = judge(&(entry.run)(setup), wanted);
    for (name, floor) in &below {
        println!("{name:34} below its floor: once more");
        wanted.insert(name, *floor);
    }
    if below.is_empty() {
        return true;
    }
    let below = judge(&(entry.run)(setup), wanted);
    below.keys().for_each(|name| println!("{name:34} FAILED: twice below its floor"));
    below.is_empty()
}

/// Removes what was measured from `wanted`; returns what is below its floor.
fn judge<'a>(
    figures: &[Figure],
    wanted: &mut BTreeMap<&'a str, Floor>,
) -> BTreeMap<&'a str, Floor> {
    let mut below = BTreeMap::new();
    for figure in figures {
        if let Some((name, floor)) = wanted.remove_entry(figure.name.as_str()) {
            println!("{}", floor.line(figure));
            if !floor.is_kept_by(figure) {
                below.insert(name, floor);
            }
        }
    }
    below
}

#[cfg(test)]
mod tests {
    use p2mtrack_bench::figure::Unit;

    use super::*;

    fn figure(name: &str, value: f64) -> Figure {
        Figure::new(name, value, Unit::Times, "")
    }

    /// A figure that is slow the first time.
    fn slow_once(setup: &Setup) -> Vec<Figure> {
        static RUNS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        // ORDER: one thread
        let again = RUNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0;
        let value = if again { 2.0 } else { 0.5 };
        assert_eq!(setup.guest_bytes, 1 << 28);
        vec![figure("a", value), figure("b", 1.0), figure("beside", 0.0)]
    }

    fn always_slow(_: &Setup) -> Vec<Figure> {
        vec![figure("a", 0.5)]
    }

    #[test]
    fn a_floor_checks_each_of_its_bounds() {
        let mut measured = figure("a", 1.0);
        let keeps = |floor: Floor, figure: &Figure| floor.is_kept_by(figure);
        let none = Floor::default();
        assert!(keeps(none, &measured));
        assert!(keeps(Floor { at_least: Some(1.0), at_most: Some(1.0), ..none }, &measured));
        assert!(!keeps(Floor { at_least: Some(1.01), ..none }, &measured));
        assert!(!keeps(Floor { at_most: Some(0.99), ..none }, &measured));
        let share = Floor { of_floor: Some(0.5), ..none };
        assert!(!keeps(share, &measured), "a share that was not measured is not kept");
        measured.floor = Some(0.5);
        assert!(keeps(share, &measured));
        measured.floor = Some(0.49);
        assert!(!keeps(share, &measured));
    }

    #[test]
    fn what_misses_twice_fails() {
        let setup = setup(1 << 28).expect("threads");
        let floor = Floor { at_least: Some(1.0), ..Floor::default() };
        let mut wanted = BTreeMap::from([("a", floor), ("b", floor), ("c", floor)]);
        let entry = |run| Entry { names: &["a"], run };
        assert!(hold_twice(&entry(slow_once), &setup, &mut wanted));
        assert_eq!(wanted.keys().collect::<Vec<_>>(), [&"c"], "the rest was measured");
        assert!(!hold_twice(&entry(always_slow), &setup, &mut BTreeMap::from([("a", floor)])));
    }

    #[test]
    fn the_floors_of_the_repository_are_bounds_of_figures_that_exist() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/floors.json");
        let Floors(floors) = Floors::read(Path::new(path)).expect("floors");
        let names: Vec<_> = floors.keys().cloned().collect();
        assert!(!names.is_empty() && Selection::new(&names).is_ok());
        for (name, floor) in floors {
            let bounds = [floor.at_least, floor.at_most, floor.of_floor];
            assert!(bounds.iter().any(Option::is_some), "{name} is bounded by nothing");
        }
    }
}
