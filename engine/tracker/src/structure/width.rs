// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks the width that a guest was attached with against its roots and the start of its p2m.
//! Not here: reading the roots (`shared_info`), the walk (`p2m::Walk`); after the first walk the
//! width is not checked again.
//! Units: entries that name a frame whose m2p names them back.
//! Threads: the owner's.
//! Source: neighbouring entries of 4 bytes, read as one of 8, exceed every machine; entries of 8
//! bytes, read as two of 4, alternate with zeros, and each is at another pfn than its own. So the
//! m2p does not let a guest pass for one of the other width, unless the guest wants that: then it
//! causes its own error.

use crate::error::{Error, WidthCause};
use crate::frame::{Claim, LeafIndex, Mfn, Pfn, Width};
use crate::leaf::Leaf;
use crate::p2m::{NO_LEAF, Shape, TableCopies, Walk};
use crate::port::{Guest, Roots};

/// Positions at the start of the p2m that are read.
const POSITIONS: u64 = 64;
/// Entries that have to be named back as proof of a width.
const ENTRIES: u64 = 16;

/// Entries that are named back, read in one of the widths.
#[derive(Clone, Copy, Debug, Default)]
struct NamedBack {
    first: Option<(Pfn, Mfn)>,
    entries: u64,
}

/// Before the first walk: checks that the guest is not one of the other width. Usually reads one
/// leaf, more if the entries name few frames. `domain_frames` bound what is read.
pub(super) fn expect(
    given: Width,
    domain_frames: u64,
    guest: &mut Guest<'_>,
    roots: &Roots,
) -> Result<(), Error> {
    let wrong = |cause| Err(Error::Width { given, cause });
    if guest.p2m.width() != given {
        return wrong(WidthCause::Port);
    }
    if let Some(root) = too_wide(given, roots) {
        return wrong(WidthCause::Root(root));
    }
    let as_given = named_back(guest, roots, given, domain_frames).entries;
    // One may be named back by chance: where entries are twice as long, every other one read is
    // frame 0.
    if as_given > 1 || too_wide(given.other(), roots).is_some() {
        return Ok(());
    }
    match named_back(guest, roots, given.other(), domain_frames) {
        NamedBack { first: Some((pfn, mfn)), entries: ENTRIES.. } => {
            wrong(WidthCause::Entries { pfn, mfn })
        }
        _ => Ok(()),
    }
}

/// Reads the start of the p2m in a width. A structure that can't be followed names nothing.
fn named_back(guest: &mut Guest<'_>, roots: &Roots, width: Width, domain_frames: u64) -> NamedBack {
    let mut found = NamedBack::default();
    let pfn_count = roots.pfn_count.min(POSITIONS << width.entry_bits());
    let start = Roots { pfn_count, ..*roots };
    let Ok(shape) = Shape::new(width, &start, guest.m2p.frames()) else { return found };
    let (mut copies, frames) = (TableCopies::new(), domain_frames);
    let walk = Walk::new(guest.p2m, guest.m2p, &mut copies, shape, pfn_count, frames, POSITIONS);
    let Ok(walked) = walk.run() else { return found };
    let mut leaf = Leaf::default();
    for (position, &mfn) in (0..).map(LeafIndex).zip(&walked.leaves) {
        if mfn == NO_LEAF || guest.p2m.read(mfn, &mut leaf).is_err() {
            continue;
        }
        for (pfn, entry) in (width.first_pfn(position).0..).zip(leaf.entries(width)) {
            let Claim::Frame(mfn) = entry.claim(width) else { continue };
            // The first entry begins at the same byte in both widths.
            if pfn > 0 && mfn.0 < guest.m2p.frames() && guest.m2p.pfn(mfn) == Some(Pfn(pfn)) {
                found.first = found.first.or(Some((Pfn(pfn), mfn)));
                found.entries += 1;
            }
            if found.entries == ENTRIES {
                return found;
            }
        }
    }
    found
}

/// A root that no guest of this width can write. All ones are no frame in either.
fn too_wide(width: Width, roots: &Roots) -> Option<u64> {
    let Roots { pfn_count, frame_list_list, p2m_cr3, p2m_vaddr, .. } = *roots;
    let words = [pfn_count, frame_list_list, p2m_cr3, p2m_vaddr];
    let fits = |&root: &u64| root == u64::MAX || root >> (width.bits() - 1) >> 1 == 0;
    words.into_iter().find(|root| !fits(root))
}
