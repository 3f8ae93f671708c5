// SPDX-License-Identifier: MIT OR Apache-2.0
//! Page tables made for the destination: any table, any level, any view.
//! Not here: the engine's own view (`tracker` covers it).
//! Units: a table is 512 words: a random default, and random words at random slots.
//! Threads: one.
//! Source: `p2mtrack::table`; the rules are implemented a second time below.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2mtrack::frame::{Mfn, Pfn, Width};
use p2mtrack::leaf::{FRAME_WORDS, Leaf};
use p2mtrack::table::{Resolved, TableCause, TableFault, TableView, normalise, pte_mfn};
use p2mtrack_tests::choices::Choices;

const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// A view whose answers are a function of the frame.
struct View {
    width: Width,
    answers: [u64; 8],
    compat: u64,
}

impl TableView for View {
    fn width(&self) -> Width {
        self.width
    }

    fn resolve(&self, table: Pfn, mfn: Mfn) -> Resolved {
        assert_eq!(table, Pfn(7), "resolved for another table");
        match self.answers[(mfn.0 % 8) as usize] {
            0 => Resolved::Foreign,
            1 => Resolved::Unresolved,
            2 => Resolved::Clear,
            pfn => Resolved::Pfn(Pfn(pfn.wrapping_mul(mfn.0 | 1))),
        }
    }

    fn is_compat_m2p(&self, mfn: Mfn) -> bool {
        mfn.0 == self.compat
    }
}

fn table(choices: &mut Choices<'_>) -> Leaf {
    let default = choices.pick(&[0, 0x1003, 0x2067, u64::MAX, 0x3000, 0x10e3]);
    let mut table = Leaf { words: [default; FRAME_WORDS] };
    while !choices.is_exhausted() {
        let slot = choices.below(FRAME_WORDS as u64) as usize;
        table.words[slot] = match choices.below(4) {
            0 => choices.word(),
            1 => choices.below(16) << 12 | 0x67,
            2 => choices.below(16) << 12 | 0xe7,
            _ => choices.below(1 << 16),
        };
    }
    table
}

/// The result for one word, by a second implementation.
fn expected(
    view: &View,
    level: u8,
    compat: bool,
    slot: usize,
    word: u64,
) -> Result<u64, TableCause> {
    let xen = match view.width {
        Width::W64 => level == 4 && (256..272).contains(&slot),
        Width::W32 => level == 3 && slot > 3 || level == 2 && compat && slot >= 428,
    };
    match word {
        _ if xen => Ok(0),
        word if word & 1 == 0 => Ok(word),
        word if level > 1 && word & 0x80 != 0 => Err(TableCause::Superpage),
        word => match view.resolve(Pfn(7), pte_mfn(word)) {
            Resolved::Pfn(pfn) => Ok(word & !FRAME | (pfn.0 & 0xff_ffff_ffff) << 12),
            Resolved::Clear => Ok(0),
            Resolved::Foreign => Err(TableCause::Foreign),
            Resolved::Unresolved => Err(TableCause::Unresolved),
        },
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let view = View {
        width: choices.pick(&[Width::W64, Width::W32]),
        answers: std::array::from_fn(|_| match choices.below(16) {
            answer @ 0..4 => answer + 2,
            4 => 0,
            5 => 1,
            6 => choices.word(),
            answer => answer << 4,
        }),
        compat: choices.below(32),
    };
    let level = choices.below(6) as u8;
    let before = table(&mut choices);
    let mut after = before.clone();
    let result = normalise(Pfn(7), level, &mut after, &view);

    let first_xen = before.words[428];
    let compat = first_xen & 1 == 1 && (first_xen & FRAME) >> 12 == view.compat;
    for (slot, (&was, &is)) in before.words.iter().zip(&after.words).enumerate() {
        match (expected(&view, level, compat, slot, was), result) {
            (Ok(word), _) => assert_eq!(is, word, "slot {slot} was {was:#x}"),
            (Err(cause), Err(fault)) => {
                let mfn = pte_mfn(was);
                assert_eq!(fault, TableFault { level, slot: slot as u16, mfn, cause });
                return; // the rest is not to be sent
            }
            (Err(cause), Ok(())) => panic!("slot {slot} was {was:#x}: {cause:?} was not detected"),
        }
    }
    assert_eq!(result, Ok(()), "a fault at a sound slot");
    // Normalised again under the view that maps each frame to itself, nothing changes.
    let mut again = after.clone();
    let same = Same(view.width);
    normalise(Pfn(7), level, &mut again, &same).expect("its PTEs were sound");
    assert!(again == after, "not at rest");
});

/// Every frame is the pfn of its own number.
struct Same(Width);

impl TableView for Same {
    fn width(&self) -> Width {
        self.0
    }

    fn resolve(&self, _: Pfn, mfn: Mfn) -> Resolved {
        Resolved::Pfn(Pfn(mfn.0))
    }

    fn is_compat_m2p(&self, _: Mfn) -> bool {
        false
    }
}
