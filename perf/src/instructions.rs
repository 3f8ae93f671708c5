// SPDX-License-Identifier: MIT OR Apache-2.0
//! Instructions of a scenario, counted by callgrind: the difference between many turns and few.
//! Not here: AVX-512, which valgrind does not run.
//! Units: instructions for one unit of work.
//! Threads: one; a process of this program for each count.
//! Source: callgrind's "Collected" line; what start and preparation cost cancels out.

use std::error::Error;
use std::process::Command;

use p2mtrack::diff::Kernel;

use crate::scenario::{Scenario, UNITS};

/// Turns of the two runs: between them lie enough for a per cent of any planted work to show.
const FEW: u32 = 10;
const MANY: u32 = 210;

/// Counts.
pub(crate) fn of(scenario: Scenario, kernel: Kernel, plant: u32) -> Result<f64, Box<dyn Error>> {
    let [few, many] = [FEW, MANY].map(|turns| collected(scenario, kernel, turns, plant));
    let between = many?.checked_sub(few?).ok_or("more turns cost less")?;
    Ok(between as f64 / (u64::from(MANY - FEW) * UNITS) as f64)
}

fn collected(
    scenario: Scenario,
    kernel: Kernel,
    turns: u32,
    plant: u32,
) -> Result<u64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["work", &scenario.to_string(), kernel.name()])
        .args([turns.to_string(), plant.to_string()])
        .output()
        .map_err(|error| format!("valgrind can't be started: {error}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the work failed under valgrind:\n{told}").into());
    }
    let line = told.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = line.ok_or_else(|| format!("valgrind did not tell a count:\n{told}"))?;
    Ok(number.trim().parse()?)
}

/// The compiler that made this program; another one makes other instructions.
pub(crate) fn compiler() -> Result<String, Box<dyn Error>> {
    let output = Command::new("rustc").arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
