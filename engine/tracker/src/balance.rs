// SPDX-License-Identifier: MIT OR Apache-2.0
//! The books of a suspended round: the distinct frames that were sent against those that the domain holds.
//! Not here: what Xen says of single frames (`resolve`, `tracker::owners`).
//! Units: frames.
//! Threads: one owner.
//! Source: `docs/design.md`, law 9; the limit: `docs/decisions/0021-the-books-balance.md`.

use crate::config::{UNACCOUNTED_FRAMES_MAX, UnaccountedPolicy};
use crate::error::Error;
use crate::frame::Mfn;
use crate::migration::Migration;
use crate::port::Ports;

impl Migration {
    /// Everything is settled: every frame of the domain is a pfn's, but for those on their way between Xen and a pfn.
    ///
    /// # Errors
    /// [`Error::Unaccounted`] if that is wrong by more than a real guest's ever is, and the policy does not bear it.
    pub(crate) fn balance(&mut self, ports: &mut Ports<'_>) -> Result<(), Error> {
        let held = ports.p2m.domain_frames().map_err(Error::port("p2m source"))?;
        let domain_frames = held.min(ports.m2p.frames()); // whatever a port answers
        let unaccounted_frames = domain_frames.cast_signed() - self.frames_sent().cast_signed();
        self.tracker.report.unaccounted_frames = Some(unaccounted_frames);
        let refuse = self.tracker.config.unaccounted == UnaccountedPolicy::Refuse;
        if refuse && unaccounted_frames.unsigned_abs() > UNACCOUNTED_FRAMES_MAX {
            let limit = UNACCOUNTED_FRAMES_MAX;
            return Err(Error::Unaccounted { unaccounted_frames, domain_frames, limit });
        }
        Ok(())
    }

    /// Distinct frames of the domain that the destination has.
    fn frames_sent(&self) -> u64 {
        let (sent, width) = (&self.tracker.sent, self.tracker.layout.width());
        // A frame that the m2p gives to none of its pfns is counted once, however many they are.
        let stale = sent.stale().filter_map(|pfn| self.shadow_entry(pfn).claim(width).named());
        let mut stale: Vec<Mfn> = stale.collect();
        let pfns = stale.len();
        stale.sort_unstable();
        stale.dedup();
        sent.populated() - sent.alias_pfns() - (pfns - stale.len()) as u64
    }
}
