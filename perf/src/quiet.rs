// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rounds of a guest that does nothing, after the first: what is left is the pass over the log.
//! Not here: the pass of a hypervisor that copies the log; here it is all zeros, and nobody writes
//! it.
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

/// Leaves of the guest: 4 GiB. One instruction more for each of them is a twentieth of what a round
/// costs.
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

/// A guest whose p2m is followed.
#[derive(Debug)]
pub(crate) struct Quiet {
    ports: GuestPorts<'static>,
    monitor: Monitor,
}

impl Quiet {
    /// Takes the first snapshot. The guest stays for as long as the program runs.
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
        let mut nobody = ();
        let mut guest = self.ports.lend(&mut nobody).guest;
        let report = self.monitor.observe(&mut guest, &mut Silent, |_, _| ());
        report.expect("a round of an honest guest").leaves.compared
    }
}
