// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rounds of an idle guest, after the first one: only the pass over the log is left.
//! Not here: the hypervisor's copy of the log; here the log is all zeros and is not written.
//! Units: rounds; leaves of the guest.
//! Threads: the caller's.
//! Source: law 8; `docs/perf.md`, "The gate".

use p2mtrack::config::Config;
use p2mtrack::diff::Kernel;
use p2mtrack::frame::Width;
use p2mtrack::monitor::Monitor;
use p2mtrack::port::{LogBuffer, LogDirty, PortError};
use p2mtrack_bench::p2m::pattern;
use p2mtrack_synthetic::huge::ports::GuestPorts;
use p2mtrack_synthetic::huge::{Guest, Shape};

/// Leaves of the guest: 4 GiB. One more instruction for each of them is a twentieth of the cost of
/// a round.
pub(crate) const LEAVES: u64 = 2048;

/// A log in which nothing is ever written.
#[derive(Debug)]
struct Silent;

impl LogDirty for Silent {
    fn enable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn disable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn clean(&mut self, into: LogBuffer<'_>) -> Result<u64, PortError> {
        Ok(into.pfns())
    }
}

/// A guest whose p2m is tracked.
#[derive(Debug)]
pub(crate) struct Quiet {
    ports: GuestPorts<'static>,
    monitor: Monitor,
}

impl Quiet {
    /// Takes the first snapshot. The guest lives as long as the program.
    pub(crate) fn new(kernel: Kernel) -> Self {
        let guest = Guest::new(pattern(Shape::Superpage, LEAVES as usize));
        let ports = GuestPorts::new(Box::leak(Box::new(guest.expect("memory for a guest"))));
        let config = Config { threads: 1, kernel: Some(kernel), ..Config::default() };
        let monitor = Monitor::new(config, Width::W64).expect("a monitor without threads");
        let mut quiet = Self { ports, monitor };
        assert_eq!(quiet.round(), LEAVES, "all are new");
        quiet
    }

    /// A round. Returns how many leaves were compared.
    pub(crate) fn round(&mut self) -> u64 {
        let mut no_observer = ();
        let mut guest = self.ports.lend(&mut no_observer).guest;
        let report = self.monitor.observe(&mut guest, &mut Silent, |_, _| ());
        report.expect("a round of an honest guest").leaves.compared
    }
}
