// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a huge guest does between two rounds: writes, balloons, exchanges and swaps, in proportion
//! to its size.
//! Not here: how each change is done and marked (`guest`).
//! Units: pages; a share of 2^16 pfns is 256 MiB of guest.
//! Threads: one owner.
//! Source: own; pieces of the balloon as the captures show them (`docs/perf.md`).

use crate::dice::Dice;

use super::guest::Guest;

/// Pages that are written again and again.
const HOT_PAGES: u64 = 4096;
/// Pages of the largest piece that is ballooned at once.
const PIECE_MAX: u64 = 128;
/// Tries to find a page before a change is left out.
const TRIES: usize = 64;

/// How often a round does something: for each 2^16 pfns of guest, and in any case.
struct Share(u64, u64);

const SCATTERED: Share = Share(64, 64);
const HOT: Share = Share(16, 256);
const PIECES_OUT: Share = Share(1, 8);
const PIECES_IN: Share = Share(1, 3);
const SWAPS: Share = Share(4, 16);
const EXCHANGES: Share = Share(2, 8);

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    /// Pages written.
    pub writes: u64,
    /// Pages ballooned out.
    pub out: u64,
    /// Pages ballooned in.
    pub back: u64,
    /// Pairs of pages whose frames changed places.
    pub swaps: u64,
    /// Frames exchanged for others.
    pub exchanges: u64,
}

/// A guest's life, decided by a seed.
#[derive(Debug)]
pub struct Life {
    dice: Dice,
    /// Pfns without a frame.
    holes: Vec<u32>,
    deeds: Deeds,
}

impl Life {
    /// The life that belongs to a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed, 0x6875_6765), holes: Vec::new(), deeds: Deeds::default() }
    }

    /// What happened so far.
    #[must_use]
    pub const fn deeds(&self) -> Deeds {
        self.deeds
    }

    /// The guest runs for a while.
    pub fn run(&mut self, guest: &Guest) {
        let shares = guest.pfns() >> 16;
        let times = |Share(each, least): Share| 0..each * shares + least;
        for _ in times(SWAPS) {
            self.swap(guest);
        }
        for _ in times(PIECES_IN) {
            self.balloon_in(guest);
        }
        for _ in times(PIECES_OUT) {
            self.balloon_out(guest);
        }
        for _ in times(EXCHANGES) {
            if let Some(pfn) = self.page(guest) {
                self.deeds.exchanges += u64::from(guest.exchange(pfn));
                self.write_perhaps(guest, pfn);
            }
        }
        for _ in times(SCATTERED) {
            let pfn = self.dice.below(guest.pfns());
            self.write(guest, pfn);
        }
        for _ in times(HOT) {
            let pfn = guest.pfns() / 3 + self.dice.below(HOT_PAGES.min(guest.pfns() / 2));
            self.write(guest, pfn);
        }
    }

    /// An ordinary page.
    fn page(&mut self, guest: &Guest) -> Option<u64> {
        (0..TRIES).map(|_| self.dice.below(guest.pfns())).find(|&pfn| guest.is_plain(pfn))
    }

    /// Writes an ordinary page. Frames of the p2m are only written when the p2m changes.
    fn write(&mut self, guest: &Guest, pfn: u64) {
        if guest.is_plain(pfn) {
            guest.write_page(pfn);
            self.deeds.writes += 1;
        }
    }

    fn write_perhaps(&mut self, guest: &Guest, pfn: u64) {
        if self.dice.chance(1, 2) {
            self.write(guest, pfn);
        }
    }

    fn swap(&mut self, guest: &Guest) {
        if let (Some(pfn), Some(other)) = (self.page(guest), self.page(guest)) {
            guest.swap(pfn, other);
            self.write_perhaps(guest, other);
            self.deeds.swaps += 1;
        }
    }

    /// A piece of the guest's memory goes, page by page.
    fn balloon_out(&mut self, guest: &Guest) {
        let Some(first) = self.page(guest) else { return };
        let pages = self.dice.magnitude(PIECE_MAX);
        for pfn in first..(first + pages).min(guest.pfns()) {
            if guest.is_plain(pfn) && guest.balloon_out(pfn) {
                self.holes.push(pfn as u32);
                self.deeds.out += 1;
            }
        }
    }

    /// Pages come back: the last ones that went, which get their old frames if Xen allocated none
    /// meanwhile, or random ones.
    fn balloon_in(&mut self, guest: &Guest) {
        let any = self.dice.chance(1, 2);
        for _ in 0..self.dice.magnitude(PIECE_MAX).min(self.holes.len() as u64) {
            let last = self.holes.len() - 1;
            let at = if any { self.dice.index(last + 1) } else { last };
            let pfn = u64::from(self.holes.swap_remove(at));
            if guest.balloon_in(pfn) {
                self.deeds.back += 1;
                self.write_perhaps(guest, pfn);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::huge::Shape;
    use crate::huge::guest::tests::guest;

    #[test]
    fn a_busy_guest_keeps_the_premise() {
        for shape in Shape::ALL {
            let guest = guest(shape, 1 << 17);
            let mut life = Life::new(9);
            for _ in 0..4 {
                life.run(&guest);
                guest.check_premise().unwrap_or_else(|wrong| panic!("{shape}: {wrong}"));
            }
            let deeds = life.deeds();
            for count in [deeds.writes, deeds.out, deeds.back, deeds.swaps, deeds.exchanges] {
                assert!(count > 10, "{shape}: {deeds:?}");
            }
        }
    }

    #[test]
    fn a_seed_decides() {
        let entries = |seed| {
            let guest = guest(Shape::Runs, 1 << 15);
            Life::new(seed).run(&guest);
            (0..guest.pfns()).map(|pfn| guest.entry(pfn)).collect::<Vec<_>>()
        };
        assert_eq!(entries(1), entries(1));
        assert_ne!(entries(1), entries(2));
    }
}
