// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes from the resend bitmap: the taker's side of the protocol, and the debt that a take is.
//! Not here: the marker's side (`cause_bitmap`).
//! Units: lines are found a few at a time, so that the cache misses of scattered ones overlap.
//! Threads: one taker; a [`Taken`] may be dropped by another thread.
//! Source: the protocol in `resend`; law 3.

use std::fmt;
use std::sync::{Mutex, TryLockError};

use super::cause_bitmap::{CAUSES, CauseBitmap};
use super::summary::{GROUP_LINES, GROUP_WORDS};
use crate::bitmap::{LINE_PFNS, LINE_WORDS, bits_at, bits_of, bits_within, words_of};
use crate::cause::CauseSet;
use crate::frame::Pfn;
use crate::prefetch::prefetch;
use crate::sync::{AtomicU64, Ordering, clear_bits};

/// Words of the lower summary, and lines, that are found before the first of them is taken from.
const AHEAD: usize = 32;

/// Pfns of a take whose memory is kept for the next one, at most: 1.3 MiB.
pub(super) const SPARE_PFNS_MAX: usize = 1 << 17;

/// Pfns that left the bitmap, in ascending order, and whether each is paid.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// How many. The content past them is arbitrary.
    len: usize,
    pub(super) pfns: Vec<Pfn>,
    causes: Vec<CauseSet>,
    /// Bit `i % 64` of word `i / 64`: page `i` is still a debt.
    unpaid: Vec<u64>,
}

/// The memory of the last take that ended.
#[derive(Debug, Default)]
pub(super) struct Spare(pub(super) Mutex<Pages>);

impl Spare {
    fn take(&self) -> Pages {
        match self.0.try_lock() {
            Ok(mut spare) => std::mem::take(&mut *spare),
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => Pages::default(),
        }
    }

    fn keep(&self, mut pages: Pages) {
        if pages.pfns.len() > SPARE_PFNS_MAX {
            return; // a take of everything is rare
        }
        if let Ok(mut spare) = self.0.try_lock() {
            pages.len = 0;
            pages.unpaid.clear();
            *spare = pages;
        }
    }
}

/// Pfns that left the bitmap. Each is a debt: if it is unpaid when this is dropped, it is owed
/// again.
#[must_use = "pfns that are dropped unpaid are owed again"]
pub struct Taken<'a> {
    by_cause: &'a [CauseBitmap; CAUSES],
    spare: &'a Spare,
    pages: Pages,
    next: u64,
}

impl<'a> Taken<'a> {
    pub(super) fn new(
        by_cause: &'a [CauseBitmap; CAUSES],
        spare: &'a Spare,
        pfns: u64,
        limit: usize,
        from: u64,
    ) -> Self {
        let pages = Taker { by_cause, limit, from, pages: spare.take() }.run();
        let next = match pages.pfns[..pages.len].last() {
            Some(last) if pages.len == limit => last.0 + 1,
            None if limit == 0 => from,
            _ => from.max(pfns),
        };
        Self { by_cause, spare, pages, next }
    }

    /// What was taken, in ascending order.
    #[must_use]
    pub fn pfns(&self) -> &[Pfn] {
        &self.pages.pfns[..self.pages.len]
    }

    /// The causes of each of [`Taken::pfns`]; no set is empty.
    #[must_use]
    pub fn causes(&self) -> &[CauseSet] {
        &self.pages.causes[..self.pages.len]
    }

    /// Where a sweep continues: past the last pfn that was checked.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Settles `pfns()[index]`: it is no longer a debt. To pay twice is harmless.
    ///
    /// # Panics
    /// If `index` is not below the number of pfns.
    pub(crate) fn pay(&mut self, index: usize) {
        assert!(index < self.pages.len, "page {index} was not taken");
        self.pages.unpaid[index / 64] &= !(1 << (index % 64));
    }

    /// Settles all of them.
    pub fn pay_all(&mut self) {
        self.pages.unpaid.fill(0);
    }

    /// Owes again what was not paid.
    fn restore(&self) {
        let (mut word, mut owed) = (0, [0; CAUSES]);
        let unpaid = self.pages.unpaid.iter().enumerate();
        for index in unpaid.flat_map(|(index, &bits)| bits_at(index, bits)) {
            let pfn = self.pages.pfns[index].0;
            if (pfn / 64) as usize != word {
                self.owe(word, &owed);
                (word, owed) = ((pfn / 64) as usize, [0; CAUSES]);
            }
            for cause in self.pages.causes[index].iter() {
                owed[cause as usize] |= 1 << (pfn % 64);
            }
        }
        self.owe(word, &owed);
    }

    fn owe(&self, word: usize, owed: &[u64; CAUSES]) {
        for (bitmap, &bits) in self.by_cause.iter().zip(owed) {
            if bits != 0 {
                bitmap.mark(word, [bits]);
            }
        }
    }
}

/// Moves a debt to another thread of a loom model.
#[cfg(all(test, loom))]
impl<'a> Taken<'a> {
    pub(super) fn forget(mut self) -> Pages {
        std::mem::take(&mut self.pages)
    }

    pub(super) fn of(by_cause: &'a [CauseBitmap; CAUSES], spare: &'a Spare, pages: Pages) -> Self {
        Self { by_cause, spare, pages, next: 0 }
    }
}

impl fmt::Debug for Taken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken")
            .field("pages", &self.pages)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.restore();
        self.spare.keep(std::mem::take(&mut self.pages));
    }
}

/// One take.
struct Taker<'a> {
    by_cause: &'a [CauseBitmap; CAUSES],
    limit: usize,
    from: u64,
    pages: Pages,
}

/// The position of a take in the groups under one word of the upper summary.
struct Cursor {
    /// The word.
    top: usize,
    /// The bitmaps that have anything there, and their groups whose bits were set.
    causes: u16,
    up: [u64; CAUSES],
    /// The groups that are not done.
    groups: u64,
    /// The next word of the first of them.
    word: usize,
}

/// Words of the lower summary that had bits when they were read, before anything was taken from
/// under them.
struct Ahead {
    words: [(usize, u64); AHEAD],
    len: usize,
}

/// The numbers of the bitmaps of a set.
fn causes_in(causes: u16) -> impl Iterator<Item = usize> {
    bits_of(u64::from(causes)).map(|bitmap| bitmap as usize)
}

/// The bitmaps in `causes` whose words have a bit.
fn causes_with(causes: u16, words: &[u64; CAUSES], bit: u64) -> u16 {
    if causes.is_power_of_two() {
        return causes; // one of them has it
    }
    causes_in(causes).fold(0, |set, bitmap| set | ((words[bitmap] >> bit & 1) as u16) << bitmap)
}

/// The mask of word `index` for the bits from number `first` on, numbered over all words.
fn from_on(first: usize, index: usize) -> u64 {
    match first.saturating_sub(64 * index) {
        skipped @ 0..64 => u64::MAX << skipped,
        _ => 0,
    }
}

impl Taker<'_> {
    fn run(mut self) -> Pages {
        let group = self.first_line() / GROUP_LINES;
        for top in group / 64..self.by_cause[0].summary.groups().len() {
            if self.is_full() {
                break;
            }
            self.take_groups(top, from_on(group, top));
        }
        let pages = self.pages.len;
        self.pages.unpaid.resize(pages.div_ceil(64), u64::MAX);
        if let (Some(last), used @ 1..) = (self.pages.unpaid.last_mut(), pages % 64) {
            *last = (1 << used) - 1;
        }
        self.pages
    }

    const fn first_line(&self) -> usize {
        (self.from / LINE_PFNS) as usize
    }

    const fn is_full(&self) -> bool {
        self.pages.len >= self.limit
    }

    /// Takes from the groups in `open` under one word of the upper summary.
    fn take_groups(&mut self, top: usize, open: u64) {
        let up = self.by_cause.each_ref().map(|bitmap| bitmap.summary.groups_under(top) & open);
        let groups = up.iter().fold(0, |any, up| any | up);
        if groups == 0 {
            return;
        }
        let causes = (0..CAUSES).fold(0, |set, bitmap| set | u16::from(up[bitmap] != 0) << bitmap);
        for bitmap in causes_in(causes) {
            // ORDER: sequentially consistent with the reads of the lines that follow, and with
            // `raise`.
            clear_bits(&self.by_cause[bitmap].summary.groups()[top], up[bitmap], Ordering::SeqCst);
        }
        let mut left = [0; CAUSES];
        let mut cursor = Cursor { top, causes, up, groups, word: 0 };
        while cursor.groups != 0 && !self.is_full() {
            let ahead = self.look_ahead(&mut cursor);
            for &(index, _) in &ahead.words[..ahead.len] {
                let group = index / GROUP_WORDS % 64;
                let causes = causes_with(causes, &up, group as u64);
                for bitmap in causes_in(self.take_lines(index, causes)) {
                    left[bitmap] |= 1 << group;
                }
            }
        }
        for bitmap in causes_in(causes) {
            // The groups that were not visited are set again too.
            self.by_cause[bitmap]
                .summary
                .raise_groups(top, left[bitmap] | up[bitmap] & cursor.groups);
        }
    }

    /// Finds the next words of the lower summary that have bits.
    fn look_ahead(&self, cursor: &mut Cursor) -> Ahead {
        let (mut ahead, mut lines) = (Ahead { words: [(0, 0); AHEAD], len: 0 }, 0);
        while cursor.groups != 0 {
            let bit = cursor.groups.trailing_zeros();
            let first = (64 * cursor.top + bit as usize) * GROUP_WORDS;
            let causes = causes_with(cursor.causes, &cursor.up, u64::from(bit));
            for word in cursor.word..GROUP_WORDS {
                if ahead.len == AHEAD || lines >= AHEAD as u32 {
                    cursor.word = word;
                    self.fetch(&ahead, cursor.causes);
                    return ahead;
                }
                let index = first + word;
                let any = self.lines_in(causes, index);
                if any != 0 {
                    ahead.words[ahead.len] = (index, any);
                    ahead.len += 1;
                    lines += any.count_ones();
                }
            }
            cursor.groups &= cursor.groups - 1;
            cursor.word = 0;
        }
        self.fetch(&ahead, cursor.causes);
        ahead
    }

    /// The lines under one word of the lower summary whose bits are set in any of some bitmaps.
    fn lines_in(&self, causes: u16, index: usize) -> u64 {
        if causes.is_power_of_two() {
            return self.by_cause[causes.trailing_zeros() as usize].summary.lines_under(index);
        }
        causes_in(causes)
            .fold(0, |any, bitmap| any | self.by_cause[bitmap].summary.lines_under(index))
    }

    /// Prefetches the lines that were found. No fetch depends on another one, so that the misses of
    /// scattered pfns overlap.
    fn fetch(&self, ahead: &Ahead, causes: u16) {
        let words = ahead.words[..ahead.len].iter();
        let lines = words.flat_map(|&(index, lines)| bits_at(index, lines));
        for line in lines.take(AHEAD) {
            for bitmap in causes_in(causes).map(|bitmap| &self.by_cause[bitmap]) {
                if causes.is_power_of_two()
                    || bitmap.summary.lines_under(line / 64) >> (line % 64) & 1 == 1
                {
                    prefetch(&bitmap.words()[line * LINE_WORDS]);
                }
            }
        }
    }

    /// Takes from the open lines under one word of the lower summary. Returns the bitmaps that have
    /// lines which are not open.
    fn take_lines(&mut self, index: usize, causes: u16) -> u16 {
        if causes.is_power_of_two() {
            let bitmap = &self.by_cause[causes.trailing_zeros() as usize];
            let left = self.take_lines_of(bitmap, index, CauseSet::from_bits(causes));
            return if left { causes } else { 0 };
        }
        let (mut left, mut present, mut any, mut up) = (0, 0, 0, [0; CAUSES]);
        for bitmap in causes_in(causes) {
            let (lines, more) = self.open_lines(&self.by_cause[bitmap], index);
            up[bitmap] = lines;
            any |= lines;
            left |= u16::from(more) << bitmap;
            present |= u16::from(lines != 0) << bitmap;
        }
        let mut again = [0; CAUSES];
        while any != 0 && !self.is_full() {
            let bit = u64::from(any.trailing_zeros());
            any &= any - 1;
            let line = 64 * index + bit as usize;
            for bitmap in causes_in(self.take_line(line, causes_with(present, &up, bit))) {
                again[bitmap] |= 1 << bit;
            }
        }
        for bitmap in causes_in(present) {
            self.by_cause[bitmap].summary.raise(index, again[bitmap] | up[bitmap] & any);
        }
        left
    }

    /// The same for one bitmap. Returns whether it has lines that are not open.
    fn take_lines_of(&mut self, bitmap: &CauseBitmap, index: usize, causes: CauseSet) -> bool {
        let (mut lines, more) = self.open_lines(bitmap, index);
        let mut again = 0;
        while lines != 0 && !self.is_full() {
            let bit = lines.trailing_zeros();
            lines &= lines - 1;
            let left = self.take_line_of(bitmap, 64 * index + bit as usize, causes);
            again |= u64::from(left) << bit;
        }
        bitmap.summary.raise(index, again | lines);
        more
    }

    /// Clears the bits of the lines under one word of the lower summary that may be taken. Returns
    /// these lines, and whether there are others.
    fn open_lines(&self, bitmap: &CauseBitmap, index: usize) -> (u64, bool) {
        let open = if self.is_full() { 0 } else { from_on(self.first_line(), index) };
        let all = bitmap.summary.lines_under(index);
        if all & open != 0 {
            // ORDER: sequentially consistent with the reads of the words that follow, and with
            // `raise`.
            clear_bits(&bitmap.summary.lines()[index], all & open, Ordering::SeqCst);
        }
        (all & open, all & !open != 0)
    }

    /// Takes from one line. Returns the bitmaps in which something is left.
    fn take_line(&mut self, line: usize, causes: u16) -> u16 {
        if causes.is_power_of_two() {
            let bitmap = &self.by_cause[causes.trailing_zeros() as usize];
            let left = self.take_line_of(bitmap, line, CauseSet::from_bits(causes));
            return if left { causes } else { 0 };
        }
        words_of(line).fold(0, |left, index| left | self.take_words(index, causes))
    }

    /// The same for one bitmap. Returns whether something is left.
    fn take_line_of(&mut self, bitmap: &CauseBitmap, line: usize, causes: CauseSet) -> bool {
        let first = line * LINE_WORDS;
        let words = &bitmap.words()[words_of(line)];
        // Finds the words that have bits without branches, which would be mispredicted.
        let any = words.iter().enumerate().fold(0, |any, (number, word)| {
            // ORDER: as in `CauseBitmap::word`
            any | u64::from(word.load(Ordering::SeqCst) != 0) << number
        });
        let words = bits_of(any).map(|number| (first + number as usize, &words[number as usize]));
        words.fold(0, |left, (index, word)| left | self.take_word(index, word, causes)) != 0
    }

    /// Whether any content of a word may be taken in full.
    const fn may_take_all_of(&self, index: usize) -> bool {
        self.limit - self.pages.len >= 64 && self.from <= 64 * index as u64
    }

    /// The bits of a word that may be taken.
    fn open(&self, index: usize) -> u64 {
        if self.is_full() { 0 } else { bits_within(&(self.from..u64::MAX), index) }
    }

    /// Takes from one word of one bitmap. Returns what is left.
    fn take_word(&mut self, index: usize, word: &AtomicU64, causes: CauseSet) -> u64 {
        if self.may_take_all_of(index) {
            // ORDER: acquires what each marker of the bits released.
            self.pages.push_word(index, word.swap(0, Ordering::Acquire), causes);
            return 0;
        }
        let seen = word.load(Ordering::SeqCst); // ORDER: as in `CauseBitmap::word`
        let bits = lowest(seen & self.open(index), self.limit - self.pages.len);
        // ORDER: as above.
        let before = word.fetch_and(!bits, Ordering::Acquire);
        self.pages.push_word(index, bits, causes);
        before & !bits
    }

    /// Takes from one word of several bitmaps. Returns the bitmaps in which something is left.
    fn take_words(&mut self, index: usize, causes: u16) -> u16 {
        let seen =
            causes_in(causes).fold(0, |bits, bitmap| bits | self.by_cause[bitmap].word(index));
        if seen == 0 {
            return 0;
        }
        let bits = lowest(seen & self.open(index), self.limit - self.pages.len);
        let (mut taken, mut left) = ([0; CAUSES], 0);
        for bitmap in causes_in(causes) {
            // ORDER: as in `take_word`.
            let before = self.by_cause[bitmap].words()[index].fetch_and(!bits, Ordering::Acquire);
            taken[bitmap] = before & bits;
            left |= u16::from(before & !bits != 0) << bitmap;
        }
        for bit in bits_of(bits) {
            let causes = CauseSet::from_bits(causes_with(causes, &taken, bit));
            self.pages.push(Pfn(64 * index as u64 + bit), causes);
        }
        left
    }
}

/// The lowest `limit` bits of a word.
fn lowest(word: u64, limit: usize) -> u64 {
    if word.count_ones() as usize <= limit {
        return word;
    }
    let rest = (0..limit).fold(word, |rest, _| rest & rest.wrapping_sub(1));
    word & !rest
}

/// A word with at least so many bits is listed byte by byte: that costs the same for any word and
/// needs no branch prediction.
const MANY: u32 = 12;

/// The numbers of the bits of each byte, in ascending order; the slots after them are meaningless.
const BITS_OF_BYTE: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut slot) = (0, 0);
        while bit < 8 {
            table[byte][slot] = bit;
            slot += byte >> bit & 1;
            bit += 1;
        }
        byte += 1;
    }
    table
};

/// Lists the pfns of the bits of a word whose first pfn is `first`. Returns their number.
fn list_bytes(first: u64, bits: u64, pfns: &mut [Pfn; 64]) -> usize {
    let mut len = 0;
    for (number, byte) in (0..).zip(bits.to_le_bytes()) {
        let listed = pfns[len..].first_chunk_mut::<8>().expect("eight pfns a byte");
        for (pfn, &bit) in listed.iter_mut().zip(&BITS_OF_BYTE[usize::from(byte)]) {
            *pfn = Pfn(first + 8 * number + u64::from(bit));
        }
        len += byte.count_ones() as usize;
    }
    len
}

impl Pages {
    /// Adds a pfn.
    fn push(&mut self, pfn: Pfn, causes: CauseSet) {
        self.reserve_word();
        self.pfns[self.len] = pfn;
        self.causes[self.len] = causes;
        self.len += 1;
    }

    /// Adds the pfns of the bits of word `index`, all with the same causes.
    #[inline]
    fn push_word(&mut self, index: usize, bits: u64, causes: CauseSet) {
        if bits.is_power_of_two() {
            return self.push(Pfn(64 * index as u64 + u64::from(bits.trailing_zeros())), causes);
        }
        self.reserve_word();
        let first = 64 * index as u64;
        let pfns = self.pfns[self.len..].first_chunk_mut::<64>().expect("capacity for a word");
        let all = self.causes[self.len..].first_chunk_mut::<64>().expect("capacity for a word");
        *all = [causes; 64];
        self.len += match bits.count_ones() {
            64 => {
                pfns.iter_mut().zip(first..).for_each(|(pfn, number)| *pfn = Pfn(number));
                64
            }
            0..MANY => {
                pfns.iter_mut().zip(bits_of(bits)).for_each(|(pfn, bit)| *pfn = Pfn(first + bit));
                bits.count_ones() as usize
            }
            _ => list_bytes(first, bits, pfns),
        };
    }

    /// Makes sure that there is capacity for a word.
    fn reserve_word(&mut self) {
        if self.pfns.len() - self.len < 64 {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let capacity = (2 * self.len).max(4096) + 64;
        self.pfns.resize(capacity, Pfn(0));
        self.causes.resize(capacity, CauseSet::default());
    }
}
