// SPDX-License-Identifier: MIT OR Apache-2.0
//! Digests of the bytes that were sent, for pages whose transport reports them.
//! Not here: what a digest is made of (the transport's), or what is compared with it.
//! Units: one digest of 64 bits a pfn; 512 pfns a chunk, made when the first of them has one.
//! Threads: one owner.
//! Source: a digest covers exactly the bytes that were sent: a pfn that is deferred, returned or
//! gone has none.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::frame::Pfn;

/// Pfns of a chunk.
const CHUNK_PFNS: u64 = 512;

/// The digests of some pfns that follow each other.
#[derive(Debug)]
struct Chunk {
    present: [u64; CHUNK_PFNS as usize / 64],
    digests: [u64; CHUNK_PFNS as usize],
}

/// The digests.
#[derive(Debug, Default)]
pub(super) struct Digests {
    chunks: BTreeMap<u64, Box<Chunk>>,
}

impl Digests {
    /// The pfn's page was sent with bytes of this digest; `None` if the transport reported none.
    pub(super) fn put(&mut self, pfn: Pfn, digest: Option<u64>) {
        let Some(digest) = digest else { return self.clear(pfn) };
        let (number, slot) = place(pfn);
        let empty = || Box::new(Chunk { present: [0; 8], digests: [0; CHUNK_PFNS as usize] });
        let chunk = self.chunks.entry(number).or_insert_with(empty);
        chunk.present[slot / 64] |= 1 << (slot % 64);
        chunk.digests[slot] = digest;
    }

    /// The destination may no longer have these bytes for the pfn.
    pub(super) fn clear(&mut self, pfn: Pfn) {
        let (number, slot) = place(pfn);
        if let Some(chunk) = self.chunks.get_mut(&number) {
            chunk.present[slot / 64] &= !(1 << (slot % 64));
        }
    }

    /// The same for a removed range. Costs the chunks that exist.
    pub(super) fn clear_range(&mut self, pfns: Range<u64>) {
        for pfn in pfns.start..pfns.end.min(pfns.start.next_multiple_of(CHUNK_PFNS)) {
            self.clear(Pfn(pfn));
        }
        self.chunks.split_off(&pfns.start.div_ceil(CHUNK_PFNS));
    }

    /// The digest of what was sent last for the pfn.
    pub(super) fn get(&self, pfn: Pfn) -> Option<u64> {
        let (number, slot) = place(pfn);
        let chunk = self.chunks.get(&number)?;
        (chunk.present[slot / 64] >> (slot % 64) & 1 == 1).then(|| chunk.digests[slot])
    }
}

const fn place(pfn: Pfn) -> (u64, usize) {
    (pfn.0 / CHUNK_PFNS, (pfn.0 % CHUNK_PFNS) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_there_until_it_is_put_anew_or_cleared() {
        let mut digests = Digests::default();
        let get = |digests: &Digests, pfns: &[u64]| -> Vec<Option<u64>> {
            pfns.iter().map(|&pfn| digests.get(Pfn(pfn))).collect()
        };
        digests.clear(Pfn(7));
        for pfn in [0, 63, 64, 511, 512, 5_000_000] {
            digests.put(Pfn(pfn), Some(pfn)); // 0 is a digest, too
        }
        assert_eq!(get(&digests, &[0, 1, 511, 512]), [Some(0), None, Some(511), Some(512)]);
        digests.put(Pfn(0), Some(9));
        digests.put(Pfn(63), None);
        digests.clear(Pfn(64));
        assert_eq!(get(&digests, &[0, 63, 64]), [Some(9), None, None]);
        digests.clear_range(511..6_000_000);
        assert_eq!(get(&digests, &[0, 511, 512, 5_000_000]), [Some(9), None, None, None]);
        assert_eq!(digests.chunks.len(), 1);
    }
}
