// SPDX-License-Identifier: MIT OR Apache-2.0
//! Xen's m2p of the whole machine, mapped once.
//! Not here: what a disagreement with the p2m means (the tracker).
//! Units: mfns; an extent is 2 MiB of the m2p (262,144 frames of the machine), a page of it 512
//! frames.
//! Threads: any number of readers; Xen writes.
//! Source: `xen-save-path.md` 2.4: the list repeats the extent before a gap, although the header
//! says 0.

use p2mtrack::frame::{Mfn, Pfn, Width};
use p2mtrack::port::{M2p, MapFault};

use crate::call::Caller;
use crate::error::{XenError, failed};
use crate::mapping::Mapping;
use crate::memory;
use crate::version::Xen;

/// Entries of an extent.
const EXTENT_FRAMES: u64 = 1 << 18;
/// Pages of an extent.
const EXTENT_PAGES: usize = 512;
/// The hypervisor's own memory.
const DOMID_XEN: u16 = 0x7ff2;
/// An entry with this bit is in no pseudo-physical map, or is no entry at all.
const NO_PFN: u64 = 1 << 63;

/// The m2p as a port.
#[derive(Debug)]
pub struct XenM2p {
    frames: u64,
    extents: Extents,
    pages: Mapping,
    compat: Option<Mfn>,
}

/// Where in the mapping the pages of each extent begin; `None` for a gap.
#[derive(Debug, Default, PartialEq, Eq)]
struct Extents(Vec<Option<u32>>);

impl Extents {
    /// From the first frames of the extents, as Xen lists them. Also the pages to map, in order.
    fn new(starts: &[u64]) -> (Self, Vec<u64>) {
        let (mut extents, mut pages, mut last) = (Vec::new(), Vec::new(), 0);
        for &start in starts {
            let gap = start == 0 || start == last;
            extents.push((!gap).then_some(pages.len() as u32));
            if !gap {
                pages.extend((start..).take(EXTENT_PAGES));
            }
            last = start;
        }
        (Self(extents), pages)
    }

    /// The page and the word of an entry.
    fn find(&self, mfn: u64) -> Option<(usize, usize)> {
        let first = (*self.0.get((mfn / EXTENT_FRAMES) as usize)?)?;
        let entry = (mfn % EXTENT_FRAMES) as usize;
        Some((first as usize + entry / 512, entry % 512))
    }
}

impl XenM2p {
    /// Maps it.
    ///
    /// # Errors
    /// Xen does not say where it is, or refuses the mapping.
    pub fn new(xen: &Xen) -> Result<Self, XenError> {
        let mut caller = Caller::new(&xen.privcmd)?;
        let frames = memory::machine_frames(&mut caller);
        let frames = frames.map_err(failed("ask for the last frame of the machine"))?;
        let extents = u32::try_from(frames.div_ceil(EXTENT_FRAMES)).unwrap_or(u32::MAX);
        let starts = memory::m2p_extents(&mut caller, extents);
        let (extents, pages) = Extents::new(&starts.map_err(failed("find the m2p"))?);
        let count = pages.len();
        let pages = Mapping::frames(&xen.privcmd, DOMID_XEN, &pages)?;
        if let Some(fault) = (0..count).find_map(|page| pages.fault(page)) {
            let errno = if let MapFault::Errno(errno) = fault { errno } else { libc::EPERM };
            return Err(XenError::new("map the m2p", errno));
        }
        // Only a Xen that runs 32-bit guests has one.
        let compat = memory::compat_m2p_extents(&mut caller, 1).ok();
        let compat = compat.and_then(|starts| starts.first().copied()).filter(|&mfn| mfn != 0);
        Ok(Self { frames, extents, pages, compat: compat.map(Mfn) })
    }

    /// Frames of the machine for which Xen has an entry.
    #[must_use]
    pub fn covered(&self) -> u64 {
        let extents = self.extents.0.iter().flatten().count() as u64;
        (extents * EXTENT_FRAMES).min(self.frames)
    }
}

impl M2p for XenM2p {
    fn frames(&self) -> u64 {
        self.frames
    }

    fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        if mfn.0 >= self.frames {
            return None;
        }
        let (page, word) = self.extents.find(mfn.0)?;
        let value = self.pages.live(page)?.entry(Width::W64, word).0;
        (value & NO_PFN == 0).then_some(Pfn(value))
    }

    fn compat_frame(&self) -> Option<Mfn> {
        self.compat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_have_no_entries_in_either_form_of_the_list() {
        // Repeated, as Xen does it; 0, as its header has it; and one before anything.
        let (extents, pages) = Extents::new(&[0, 0x1000, 0x1000, 0x1000, 0x9000, 0]);
        assert_eq!(extents, Extents(vec![None, Some(0), None, None, Some(512), None]));
        assert_eq!((pages.len(), pages[0], pages[511], pages[512]), (1024, 0x1000, 0x11ff, 0x9000));
        assert_eq!(extents.find(EXTENT_FRAMES), Some((0, 0)));
        assert_eq!(extents.find(2 * EXTENT_FRAMES - 1), Some((511, 511)));
        assert_eq!(extents.find(4 * EXTENT_FRAMES + 513), Some((513, 1)));
        for mfn in [0, 2 * EXTENT_FRAMES, 5 * EXTENT_FRAMES, 6 * EXTENT_FRAMES, u64::MAX] {
            assert_eq!(extents.find(mfn), None, "{mfn:#x}");
        }
    }
}
