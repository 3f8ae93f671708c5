// SPDX-License-Identifier: MIT OR Apache-2.0
//! PAGE_DATA: words by themselves and against the list, page tables by themselves.
//! Not here: whether what a PTE names has a frame in the end (`point`).
//! Units: offsets of words and pages, in bytes of the stream.
//! Threads: one.
//! Source: libxc `xg_sr_restore.c`, `handle_page_data`; `xg_sr_restore_x86_pv.c`,
//! `x86_pv_localise_page`, which asserts that a PTE is within the list.

use p2mtrack::frame::{Pfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::table::{PTE_PRESENT, PTE_SUPERPAGE, pte_mfn};

use crate::check::arrived::{Arrived, Table};
use crate::check::rule::{Findings, Rule};
use crate::word::{Word, WordKind};

/// Checks the words of a record; they begin at byte `offset`. After VERIFY they are compared, not
/// noted.
pub(crate) fn take_words(
    arrived: &mut Arrived,
    findings: &mut Findings<'_>,
    offset: u64,
    words: &[Word],
    is_verify: bool,
) {
    note_repeated(findings, offset, words);
    let mut beyond = 0;
    let mut first_beyond = None;
    for (&word, offset) in words.iter().zip((offset..).step_by(8)) {
        let pfn = word.pfn();
        let reserved = word.reserved();
        let found = format_args!("the word of pfn {:#x} has the bits {reserved:#x}", pfn.0);
        findings.expect(reserved == 0, offset, Rule::WordReserved, found);
        if pfn.0 >= arrived.list.pfns {
            beyond += 1;
            first_beyond.get_or_insert((offset, pfn));
            continue;
        }
        let Some(kind) = typed(arrived.width, findings, offset, word) else { continue };
        if is_verify {
            let known = arrived.kinds.get(pfn);
            let found =
                format_args!("pfn {:#x} is {}, was {}", pfn.0, name(Some(kind)), name(known));
            findings.expect(known == Some(kind), offset, Rule::VerifyWord, found);
        } else {
            arrived.note(pfn, kind);
        }
    }
    if let Some((offset, pfn)) = first_beyond.filter(|_| !arrived.list.is_lost) {
        let found = format_args!(
            "pfn {:#x} has a word, {:#x} pfns are listed; {beyond} such words in this record",
            pfn.0, arrived.list.pfns
        );
        findings.add(offset, Rule::PfnBeyondList, found);
    }
}

/// The word's type, if it has one that can be.
fn typed(width: Width, findings: &mut Findings<'_>, offset: u64, word: Word) -> Option<WordKind> {
    let (pfn, kind) = (word.pfn().0, word.kind());
    let level_max = if width == Width::W64 { 4 } else { 3 };
    let is_good = match kind {
        None => false,
        Some(WordKind::Table { level, .. }) => level <= level_max,
        Some(WordKind::Broken) => {
            findings.add(offset, Rule::WordBroken, format_args!("pfn {pfn:#x} is broken"));
            true
        }
        Some(_) => true,
    };
    let found = format_args!("the word of pfn {pfn:#x} has type {}", word.0 >> 60);
    findings.expect(is_good, offset, Rule::WordType, found);
    kind
}

/// A type's name.
pub(crate) fn name(kind: Option<WordKind>) -> String {
    match kind {
        None => "never sent".to_owned(),
        Some(WordKind::Data) => "data".to_owned(),
        Some(WordKind::Table { level, pinned: false }) => format!("a level {level} table"),
        Some(WordKind::Table { level, pinned: true }) => format!("a pinned level {level} table"),
        Some(WordKind::Broken) => "broken".to_owned(),
        Some(WordKind::Allocated) => "a frame without contents".to_owned(),
        Some(WordKind::Absent) => "no frame".to_owned(),
    }
}

/// Finds pfns with two words. Most records are in ascending order.
fn note_repeated(findings: &mut Findings<'_>, offset: u64, words: &[Word]) {
    if words.is_sorted_by(|a, b| a.pfn() < b.pfn()) {
        return;
    }
    let mut sorted: Vec<(Pfn, u64)> =
        words.iter().map(|word| word.pfn()).zip((offset..).step_by(8)).collect();
    sorted.sort_unstable();
    let mut repeated: Vec<_> =
        sorted.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1]).collect();
    repeated.sort_unstable_by_key(|&(_, offset)| offset);
    for (pfn, offset) in repeated {
        let found = format_args!("pfn {:#x} has a word before in this record", pfn.0);
        findings.add(offset, Rule::WordTwice, found);
    }
}

/// Checks the page of a page table, which is at byte `offset`.
pub(crate) fn take_table(
    arrived: &mut Arrived,
    findings: &mut Findings<'_>,
    offset: u64,
    (pfn, level): (Pfn, u8),
    table: &Leaf,
    is_verify: bool,
) {
    let (mut slots, mut named) = (Vec::new(), Vec::new());
    let width = arrived.width;
    let mut faults =
        Faults { beyond: Slots::default(), xen: Slots::default(), superpage: Slots::default() };
    for (slot, &pte) in (0_u16..).zip(&table.words) {
        if is_xen_slot(width, level, slot) {
            faults.xen.note(pte != 0, slot);
            continue;
        }
        if pte & PTE_PRESENT == 0 {
            continue;
        }
        faults.superpage.note(level > 1 && pte & PTE_SUPERPAGE != 0, slot);
        let target = pte_mfn(pte).0;
        let is_listed = target < arrived.list.pfns;
        faults.beyond.note(!is_listed, slot);
        if is_listed {
            slots.push(slot);
            named.push(target as u32);
        }
    }
    let at = |slots: &Slots| offset + 8 * u64::from(slots.first);
    let table_name = format!("the level {level} table at pfn {:#x}", pfn.0);
    for (slots, rule, what) in [
        (&faults.xen, Rule::PteXen, "which is Xen's"),
        (&faults.superpage, Rule::PteSuperpage, "a superpage"),
        (&faults.beyond, Rule::PteBeyondList, "which names a pfn that is not listed"),
    ] {
        let is_known = rule != Rule::PteBeyondList || !arrived.list.is_lost;
        if slots.count > 0 && is_known {
            let pte = table.words[usize::from(slots.first)];
            let found = format_args!(
                "{table_name} has {pte:#x} in slot {}, {what}; {} such slots",
                slots.first, slots.count
            );
            findings.add(at(slots), rule, found);
        }
    }
    // A later word of the same record may say something else.
    let is_last = matches!(arrived.kinds.get(pfn), Some(WordKind::Table { level: last, .. }) if last == level);
    if !is_verify && is_last {
        arrived.take_table(pfn, Table { offset, level, slots, named });
    }
}

/// Slots of a table that break a rule.
#[derive(Default)]
struct Slots {
    first: u16,
    count: u16,
}

struct Faults {
    beyond: Slots,
    xen: Slots,
    superpage: Slots,
}

impl Slots {
    const fn note(&mut self, is_fault: bool, slot: u16) {
        if is_fault {
            if self.count == 0 {
                self.first = slot;
            }
            self.count += 1;
        }
    }
}

/// Whether a slot is Xen's in every table of this level. Which level 2 table of a 32-bit guest has
/// slots of Xen's, the stream does not say.
const fn is_xen_slot(width: Width, level: u8, slot: u16) -> bool {
    match (width, level) {
        (Width::W64, 4) => slot >= 256 && slot <= 271,
        (Width::W32, 3) => slot >= 4,
        _ => false,
    }
}
