// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a destination would hold, and whether that equals the source.
//! Not here: a stream, or a restored guest: pages are kept as checksums, tables as their words.
//! Units: frames of 4 KiB; pfns.
//! Threads: one.
//! Source: own. It queries Xen, frame by frame, for owner and m2p; it uses no p2m.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::sync::Arc;

use p2mtrack::frame::{FrameType, Mfn, Pfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{
    Answer, Deferral, FrameList, FrameTypes, M2p, MapFault, Page, PortError, QUERY_FRAMES_MAX,
    Transport,
};
use p2mtrack::table::{PTE_PRESENT, TableView, normalise, pte_mfn};
use p2mtrack_xen::{Domain, XenGuest, XenPages};

/// The step that `guest/memory.c` adds from word to word.
const STEP: u64 = 0x2545_f491_4f6c_dd1d;

/// A data page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    checksum: u64,
    /// It is one of the pages that `guest/memory.c` writes repeatedly.
    pub is_pattern: bool,
}

impl Content {
    /// The content with these words.
    pub fn of(words: &[u64; 512]) -> Self {
        let mix =
            |sum: u64, word: &u64| (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
        let is_step = |pair: &[u64]| pair[1].wrapping_sub(pair[0]) == STEP;
        Self {
            checksum: words.iter().fold(0xcbf2_9ce4_8422_2325, mix),
            is_pattern: words.windows(2).all(is_step),
        }
    }
}

/// The receiving end.
pub struct Destination {
    source: XenPages,
    /// Data pages.
    pub pages: HashMap<Pfn, Content>,
    /// Page tables of level 1, as pfns.
    pub tables: HashMap<Pfn, Box<[u64; 512]>>,
    /// Page tables of the other levels.
    pub upper: HashMap<Pfn, u8>,
    /// The p2m's leaves.
    pub leaves: Vec<Option<Pfn>>,
}

impl Destination {
    /// An empty destination for a domain, whose frames it maps itself.
    pub fn new(domain: &Domain) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self {
            source: XenPages::new(domain)?,
            pages: HashMap::new(),
            tables: HashMap::new(),
            upper: HashMap::new(),
            leaves: Vec::new(),
        })
    }

    fn forget(&mut self, pfn: Pfn) {
        self.pages.remove(&pfn);
        self.tables.remove(&pfn);
        self.upper.remove(&pfn);
    }

    /// What frames hold now, or why they can't be mapped.
    fn read(&mut self, mfns: &[Mfn]) -> Vec<Result<Leaf, MapFault>> {
        let batch = match self.source.map(mfns) {
            Ok(batch) => batch,
            Err(error) => return vec![Err(MapFault::Errno(error.errno())); mfns.len()],
        };
        let fetch = |index| {
            let mut leaf = Leaf::default();
            batch.page(index)?.fetch(&mut leaf);
            Ok(leaf)
        };
        (0..mfns.len()).map(fetch).collect()
    }

    fn take(&mut self, page: &Page, leaf: Result<Leaf, MapFault>, view: &dyn TableView) -> Answer {
        let mut leaf = match leaf {
            Ok(leaf) => leaf,
            Err(fault) => return Answer::Deferred(Deferral::MapFailed(fault)),
        };
        if let FrameType::Table { level, .. } = page.kind {
            if let Err(fault) = normalise(page.pfn, level, &mut leaf, view) {
                return Answer::Deferred(Deferral::Table(fault));
            }
            self.forget(page.pfn);
            match level {
                1 => drop(self.tables.insert(page.pfn, Box::new(leaf.words))),
                _ => drop(self.upper.insert(page.pfn, level)),
            }
        } else {
            self.forget(page.pfn);
            self.pages.insert(page.pfn, Content::of(&leaf.words));
        }
        Answer::Accepted
    }

    /// What frames of the source hold now.
    pub fn contents(&mut self, mfns: &[Mfn]) -> Result<Vec<Content>, PortError> {
        let leaves = self.read(mfns).into_iter().zip(mfns);
        let content = |(leaf, mfn): (Result<Leaf, MapFault>, &Mfn)| match leaf {
            Ok(leaf) => Ok(Content::of(&leaf.words)),
            Err(fault) => Err(format!("{mfn}: {fault}").into()),
        };
        leaves.map(content).collect()
    }

    /// Tables of level 1 in which a present PTE names one of these pfns.
    pub fn tables_naming(&self, pfns: &[Pfn]) -> usize {
        let names = |pte: &u64| pte & PTE_PRESENT != 0 && pfns.contains(&Pfn(pte_mfn(*pte).0));
        self.tables.values().filter(|words| words.iter().any(names)).count()
    }

    /// Checks that the destination has every frame of a suspended guest, under the pfn of the m2p
    /// or the pfns in `expected`. Returns the number of pfns checked; an error names the first that
    /// is wrong.
    pub fn expect_all(
        &mut self,
        guest: &mut XenGuest,
        expected: &BTreeMap<Mfn, Vec<Pfn>>,
    ) -> Result<usize, Box<dyn Error + Send + Sync>> {
        let (mut checked, pfns) = (0, 512 * self.leaves.len() as u64);
        let m2p = Arc::clone(&guest.m2p);
        let by_m2p = |mfn: &Mfn| m2p.pfn(*mfn).filter(|pfn| pfn.0 < pfns);
        let may_be = |mfn: &Mfn| expected.contains_key(mfn) || by_m2p(mfn).is_some();
        let machine: Vec<Mfn> = (0..m2p.frames()).map(Mfn).filter(may_be).collect();
        for mfns in machine.chunks(QUERY_FRAMES_MAX) {
            let mut kinds = vec![FrameType::Data; mfns.len()];
            guest.types.query(mfns, &mut kinds)?;
            let owned = mfns.iter().copied().zip(kinds);
            let is_owned = |kind| !matches!(kind, FrameType::NotOwned | FrameType::Broken);
            let (mfns, kinds): (Vec<_>, Vec<_>) = owned.filter(|(_, kind)| is_owned(*kind)).unzip();
            let contents = self.contents(&mfns)?;
            for ((mfn, kind), content) in mfns.into_iter().zip(kinds).zip(contents) {
                let pfns = expected.get(&mfn).cloned();
                for pfn in pfns.unwrap_or_else(|| by_m2p(&mfn).into_iter().collect()) {
                    self.expect(pfn, mfn, kind, content)?;
                    checked += 1;
                }
            }
        }
        Ok(checked)
    }

    fn expect(
        &self,
        pfn: Pfn,
        mfn: Mfn,
        kind: FrameType,
        content: Content,
    ) -> Result<(), PortError> {
        let holds = match kind {
            FrameType::Table { level: 1, .. } => self.tables.contains_key(&pfn),
            FrameType::Table { level, .. } => self.upper.get(&pfn) == Some(&level),
            _ => self.pages.get(&pfn) == Some(&content),
        };
        if holds {
            return Ok(());
        }
        Err(format!("{pfn}, {mfn}, {kind:?}: the destination lacks it or has an old version")
            .into())
    }
}

impl Transport for Destination {
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        let mfns: Vec<_> = pages.iter().map(|page| page.mfn).collect();
        let leaves = self.read(&mfns);
        answers.extend(pages.iter().zip(leaves).map(|(page, leaf)| self.take(page, leaf, view)));
        Ok(())
    }

    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError> {
        self.leaves = list.leaves.to_vec();
        Ok(())
    }

    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        pfns.iter().for_each(|&pfn| self.forget(pfn));
        Ok(())
    }

    fn returned(&mut self, _into: &mut Vec<Pfn>) -> Result<(), PortError> {
        Ok(())
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        Ok(())
    }
}
