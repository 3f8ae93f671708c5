// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest that lies: about its roots, its p2m and its m2p; it may be suspended amid any lie.
//! Not here: anything that an honest guest does.
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: law 6 of the project's design.

use crate::behaviour::Plan;
use crate::grant::Offer;
use crate::guest::Layout;
use crate::program::{Name, Step, Val};
use crate::world::World;

impl Plan<'_> {
    /// A lie, some rounds, and perhaps the truth again.
    pub(super) fn hostile(&mut self) -> Option<()> {
        let (lie, truth) = match self.dice().below(12) {
            0 => self.odd_generation(),
            1 => (vec![Step::Generation(self.dice().word())], vec![]),
            2 => self.alias()?,
            3 => self.named_word(false)?,
            4 => self.named_word(true)?,
            5 => self.m2p_lie()?,
            6 => self.wrong_count()?,
            7 => self.wrong_roots()?,
            8 => self.wrong_slot(0)?,
            9 => self.wrong_slot(1)?,
            10 => self.wrong_transfer(),
            _ => self.wrong_slot(2)?,
        };
        self.extend(lie);
        let wait = self.dice().between(1, 6);
        self.push(Step::AwaitRounds(wait));
        self.extend(truth);
        Some(())
    }

    fn odd_generation(&mut self) -> (Vec<Step>, Vec<Step>) {
        let now = self.world.guest.roots.generation;
        (vec![Step::Generation(now | 1)], vec![Step::Generation((now | 1).wrapping_add(1))])
    }

    /// Two pfns name one frame.
    fn alias(&mut self) -> Option<(Vec<Step>, Vec<Step>)> {
        let ((pfn, own), (_, other)) = (self.data()?, self.data()?);
        let entry = |mfn| Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) };
        Some((vec![entry(other)], vec![entry(own)]))
    }

    /// An entry names a frame of another domain, or is any word.
    fn named_word(&mut self, any: bool) -> Option<(Vec<Step>, Vec<Step>)> {
        let (pfn, own) = self.data()?;
        let word = if any { self.dice().word() } else { self.foreign()? };
        let lie = Step::Entry { pfn, name: Name::Word(word) };
        Some((vec![lie], vec![Step::Entry { pfn, name: Name::Frame(Val::Is(own)) }]))
    }

    /// A transfer entry names any word.
    fn wrong_transfer(&mut self) -> (Vec<Step>, Vec<Step>) {
        let word = if self.chance(1, 2) { self.dice().word() } else { self.dice().below(1 << 17) };
        let offer =
            self.dice().pick(&[Offer::Made(word), Offer::Committed(word), Offer::Completed(word)]);
        (vec![Step::Accept(word), Step::Offer(offer)], vec![Step::Withdraw])
    }

    fn m2p_lie(&mut self) -> Option<(Vec<Step>, Vec<Step>)> {
        let (pfn, mfn) = self.data()?;
        let mfn = Val::Is(mfn);
        let wrong = if self.chance(1, 4) { 1 << 31 } else { self.dice().below(1 << 17) };
        Some((vec![Step::Machphys { mfn, pfn: wrong }], vec![Step::Machphys { mfn, pfn }]))
    }

    fn wrong_count(&mut self) -> Option<(Vec<Step>, Vec<Step>)> {
        self.lock_structure()?;
        let now = self.world.guest.roots.pfn_count;
        let wrong =
            self.dice().pick(&[0, 1, 2 * now, 1 << 27, 1 << 31, 1 << 40, 1 << 63, u64::MAX]);
        let wrong = if self.world.guest.width.bits() == 32 { wrong & 0xffff_ffff } else { wrong };
        Some((vec![Step::Count(wrong)], vec![Step::Count(now)]))
    }

    /// Roots that point to nothing, to another domain, or to a page of data.
    fn wrong_roots(&mut self) -> Option<(Vec<Step>, Vec<Step>)> {
        self.lock_structure()?;
        let roots = self.world.guest.roots;
        let foreign = self.foreign()?;
        let (_, data) = self.data()?;
        let mfn = self.dice().pick(&[0, foreign, data, 1 << 30, u64::MAX]);
        let width = self.world.guest.width;
        let lie = match self.world.guest.layout {
            Layout::Linear(_) => Step::Roots {
                frame_list_list: roots.frame_list_list,
                p2m_cr3: crate::guest::cr3_of(width, mfn & 0xf_ffff_ffff),
            },
            Layout::Tree(_) => Step::Roots { frame_list_list: mfn, p2m_cr3: 0 },
        };
        let truth = Step::Roots { frame_list_list: roots.frame_list_list, p2m_cr3: roots.p2m_cr3 };
        Some((vec![lie], vec![truth]))
    }

    /// A slot above a leaf names its own table (0), another leaf (1), or nothing that is there (2).
    fn wrong_slot(&mut self, how: u8) -> Option<(Vec<Step>, Vec<Step>)> {
        self.lock_structure()?;
        let (position, leaf) = self.own_leaf()?;
        let foreign = self.foreign()?;
        let World { guest, dice, .. } = &mut *self.world;
        let holder = guest.structure_frame(1, guest.key_of_leaf(position))?;
        let wrong = match how {
            0 => holder,
            1 => guest.leaves[dice.index(guest.leaves.len())],
            _ => foreign,
        };
        let step = |mfn: Option<u64>| match &guest.layout {
            Layout::Linear(_) => Step::Pte {
                table: holder,
                slot: ((guest.base_page() + position) & 511) as u16,
                to: mfn.map(Val::Is),
            },
            Layout::Tree(_) => Step::Slot {
                mfn: holder,
                slot: position as usize & (guest.width.entries() - 1),
                word: mfn.unwrap_or(1 << 29),
            },
        };
        let wrong = (how < 2 && wrong != crate::guest::NONE).then_some(wrong);
        Some((vec![step(wrong)], vec![step(Some(leaf))]))
    }
}
