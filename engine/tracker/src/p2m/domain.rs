// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many frames the domain and the machine have: the bounds of what a guest can make the engine
//! store.
//! Not here: which frames those are.
//! Units: frames of 4 KiB.
//! Threads: plain values.
//! Source: `docs/decisions/0001-memory-is-bounded-by-reach.md`.

/// The p2m size limit of any guest, however small it is: 512 GiB, a log-dirty bitmap of 16 MiB.
const LIMIT_PFNS_MIN: u64 = 1 << 27;
/// Pfns that each frame of the domain justifies: a guest ballooned down to a sixteenth.
const PFNS_PER_FRAME: u64 = 16;

/// The numbers of frames.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DomainFrames {
    /// What the domain held when this round began.
    pub(crate) held: u64,
    /// The most that it ever held.
    pub(crate) most: u64,
    /// Frames of the machine.
    pub(crate) machine: u64,
}

impl DomainFrames {
    /// Notes what the ports answered. Whatever they answer, no domain holds more frames than the
    /// machine has.
    pub(crate) fn count(&mut self, held: u64, machine: u64) {
        self.machine = machine;
        self.held = held.min(machine);
        self.most = self.most.max(self.held);
    }

    /// Pfns that the domain's size justifies.
    pub(crate) fn limit_pfns(&self) -> u64 {
        LIMIT_PFNS_MIN.max(PFNS_PER_FRAME.saturating_mul(self.most))
    }
}
