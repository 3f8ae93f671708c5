// SPDX-License-Identifier: MIT OR Apache-2.0
//! Instructions of a scenario, counted by callgrind: the difference between many turns and few.
//! Not here: AVX-512, which valgrind does not run.
//! Units: instructions for one unit of work.
//! Threads: one; a process of this program for each count.
//! Source: callgrind's "Collected" line; the cost of start and preparation cancels out.

use std::error::Error;
use std::process::Command;

use p2mtrack::diff::Kernel;

use crate::scenario::Scenario;

/// Turns of the shorter run.
const FEW: u32 = 2;

/// The difference in turns between the two runs: enough to show one per cent of planted work. The
/// scalar kernel executes twenty times as many instructions as the others, so that variations of
/// the start matter less.
fn between(scenario: Scenario, kernel: Kernel) -> u32 {
    if scenario.has_kernel() && kernel == Kernel::SCALAR { 100 } else { 200 }
}

/// Counts instructions for one unit of work.
pub(crate) fn of(scenario: Scenario, kernel: Kernel, plant: u32) -> Result<f64, Box<dyn Error>> {
    let turns = between(scenario, kernel);
    let count = |turns| collected(scenario, kernel, turns, plant);
    let counted = count(FEW + turns)?.checked_sub(count(FEW)?).ok_or("more turns cost less")?;
    Ok(counted as f64 / (u64::from(turns) * scenario.units()) as f64)
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
    let output_text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the work failed under valgrind:\n{output_text}").into());
    }
    let line = output_text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = line.ok_or_else(|| format!("valgrind reported no count:\n{output_text}"))?;
    Ok(number.trim().parse()?)
}

/// The compiler of this program; another one makes other instructions.
pub(crate) fn compiler() -> Result<String, Box<dyn Error>> {
    let output = Command::new("rustc").arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
