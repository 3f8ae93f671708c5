// SPDX-License-Identifier: MIT OR Apache-2.0
//! Figures and the machine as JSON.
//! Not here: text (`table`).
//! Units: as the keys say.
//! Threads: plain values.
//! Source: `docs/json.md`; keys are an interface.

use p2mtrack::diff::Kernel;
use p2mtrack_bench::figure::{Figure, Goal};
use p2mtrack_bench::machine::Machine;
use p2mtrack_bench::plot::scaling::{CURVES, Step};
use p2mtrack_bench::setup::Setup;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The machine, and the settings of the measurement.
#[derive(Serialize)]
pub(super) struct MachineObject<'a> {
    event: &'static str,
    cpu: Option<&'a str>,
    cpus: usize,
    caches: &'a [String],
    memory_bytes: Option<u64>,
    system: Option<&'a str>,
    huge_pages: Option<&'a str>,
    huge_page_bytes: Option<u64>,
    kernels: Vec<&'static str>,
    kernel: &'static str,
    shadow: &'static str,
    threads: usize,
    guest_bytes: u64,
    version: &'static str,
}

pub(super) fn machine<'a>(machine: &'a Machine, setup: &Setup) -> MachineObject<'a> {
    MachineObject {
        event: "machine",
        cpu: machine.cpu.as_deref(),
        cpus: machine.cpus,
        caches: &machine.caches,
        memory_bytes: machine.memory_bytes,
        system: machine.system.as_deref(),
        huge_pages: machine.huge_pages.as_deref(),
        huge_page_bytes: machine.huge_page_bytes,
        kernels: Kernel::available().iter().map(|kernel| kernel.name()).collect(),
        kernel: setup.kernel.name(),
        shadow: setup.forms.name(),
        threads: setup.pool.threads(),
        guest_bytes: setup.guest_bytes,
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// A figure.
#[derive(Serialize)]
pub(super) struct FigureObject<'a> {
    event: &'static str,
    name: &'a str,
    value: f64,
    unit: &'static str,
    goal: Option<f64>,
    met: Option<bool>,
    floor: Option<f64>,
    kernel: Option<&'static str>,
    threads: usize,
    goal_is: Option<&'static str>,
    floor_goal: Option<f64>,
    peers: Map<String, Value>,
    leaves_per_second: Option<f64>,
    bytes_per_leaf: Option<f64>,
    read_bytes_per_second: Option<f64>,
    detail: &'a str,
}

pub(super) fn figure(figure: &Figure) -> FigureObject<'_> {
    let rate = figure.rate;
    FigureObject {
        event: "figure",
        name: &figure.name,
        value: rounded(figure.value),
        unit: figure.unit.name(),
        goal: figure.goal.map(Goal::number),
        met: figure.met(),
        floor: figure.floor.map(rounded),
        kernel: figure.kernel.map(Kernel::name),
        threads: figure.threads,
        goal_is: figure.goal.map(|goal| match goal {
            Goal::AtLeast(_) => "at_least",
            Goal::AtMost(_) => "at_most",
        }),
        floor_goal: figure.floor_goal,
        peers: figure.peers.iter().map(|(peer, x)| (peer.clone(), json!(rounded(*x)))).collect(),
        leaves_per_second: rate.map(|rate| rate.leaves.round()),
        bytes_per_leaf: rate.map(|rate| rounded(rate.bytes)),
        read_bytes_per_second: rate.map(|rate| rate.bandwidth.round()),
        detail: &figure.detail,
    }
}

/// A step of the scaling curve.
#[derive(Serialize)]
pub(super) struct ScalingObject {
    event: &'static str,
    threads: usize,
    leaves_per_second: Map<String, Value>,
}

pub(super) fn scaling(step: &Step) -> ScalingObject {
    let curves = CURVES.into_iter().zip(step.leaves);
    let leaves_per_second =
        curves.map(|(name, leaves)| (name.to_owned(), json!(leaves.round()))).collect();
    ScalingObject { event: "scaling", threads: step.threads, leaves_per_second }
}

/// Six decimals: more than any figure needs.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}
