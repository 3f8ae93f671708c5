// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chooses the form of a leaf: the smallest one that reproduces every word of it.
//! Not here: where the form is kept (`shadow::shard`).
//! Units: words as in `form`; at most `RUN_WORDS_MAX` segments and patches.
//! Threads: pure.
//! Source: captures of real guests: `docs/perf.md`, "Runs of real guests".

use super::forms::Forms;
use crate::form::{PackedWords, Segment, Step, wrap};
use crate::frame::Width;
use crate::leaf::Leaf;

/// The most segments and patches of one leaf: a quarter of its packed form. With more, a comparison
/// would take longer than that of a packed leaf.
pub(super) const RUN_WORDS_MAX: usize = 64;

/// The most entries that may interrupt a run: more are cheaper as segments of their own.
const GAP_MAX: usize = 2;

/// The form of one leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// All entries invalid.
    Hole,
    /// One segment over the whole leaf.
    Affine(Segment),
    /// The segments and patches in [`Runs`].
    Runs,
    /// All valid words have the same upper half.
    Packed {
        /// The upper half.
        high: u32,
    },
    /// All words as read.
    Raw,
}

/// Segments, and the patches that override them.
#[derive(Debug)]
pub(super) struct Runs {
    segments: ([u64; RUN_WORDS_MAX], usize),
    patches: ([u64; RUN_WORDS_MAX], usize),
}

impl Runs {
    /// No runs.
    pub(super) const fn new() -> Self {
        Self { segments: ([0; RUN_WORDS_MAX], 0), patches: ([0; RUN_WORDS_MAX], 0) }
    }

    /// In slot order, the first from slot 0.
    pub(super) fn segments(&self) -> &[u64] {
        &self.segments.0[..self.segments.1]
    }

    /// In slot order.
    pub(super) fn patches(&self) -> &[u64] {
        &self.patches.0[..self.patches.1]
    }

    /// Adds a word, if it can be encoded and there is space.
    fn push(&mut self, segment: Option<Segment>, patch: bool) -> Option<()> {
        let has_space = self.segments.1 + self.patches.1 < RUN_WORDS_MAX;
        let Segment(word) = segment.filter(|_| has_space)?;
        let (words, count) = if patch { &mut self.patches } else { &mut self.segments };
        words[*count] = word;
        *count += 1;
        Some(())
    }

    /// Finds the runs of a leaf; `None` if there are too many, or a word that a segment can't hold.
    fn find(&mut self, width: Width, leaf: &Leaf) -> Option<()> {
        (self.segments.1, self.patches.1) = (0, 0);
        let mut slot = 0;
        while slot < width.entries() {
            let first = word(width, leaf, slot);
            let step = step_at(width, leaf, slot);
            self.push(Segment::new(width, slot, step, first), false)?;
            slot = self.follow(width, leaf, slot, step)?;
        }
        Some(())
    }

    /// Follows a run from its first slot, and patches what interrupts it. Returns its end.
    fn follow(&mut self, width: Width, leaf: &Leaf, begin: usize, step: Step) -> Option<usize> {
        let (entries, delta) = (width.entries(), step.delta());
        let first = word(width, leaf, begin);
        let fits = |slot: usize| {
            let distance = (slot - begin) as u64;
            word(width, leaf, slot) == wrap(width, first.wrapping_add(delta.wrapping_mul(distance)))
        };
        let mut slot = begin + 1;
        loop {
            while slot < entries && fits(slot) {
                slot += 1;
            }
            // One entry may fit by chance: the run goes on only if two fit, or one at the end.
            let goes_on = |gap: &usize| {
                let again = slot + gap;
                again < entries && fits(again) && (again + 1 == entries || fits(again + 1))
            };
            let Some(gap) = (1..=GAP_MAX).find(goes_on) else { return Some(slot) };
            for patched in slot..slot + gap {
                let word = word(width, leaf, patched);
                self.push(Segment::new(width, patched, Step::Zero, word), true)?;
            }
            slot += gap;
        }
    }
}

/// The word in a slot, as wide as the guest.
fn word(width: Width, leaf: &Leaf, slot: usize) -> u64 {
    match width {
        Width::W64 => leaf.words[slot],
        Width::W32 => u64::from(leaf.word32(slot)),
    }
}

/// The step of a run that begins in `slot`; its second entry may be patched.
fn step_at(width: Width, leaf: &Leaf, slot: usize) -> Step {
    let word = |slot| (slot < width.entries()).then(|| word(width, leaf, slot));
    let first = word(slot).unwrap_or_default();
    let next = word(slot + 1).and_then(|next| Step::between(width, first, next));
    let behind = || {
        let third = word(slot + 2)?;
        [Step::Up, Step::Down].into_iter().find(|step| {
            let two = step.delta().wrapping_mul(2);
            wrap(width, first.wrapping_add(two)) == third
        })
    };
    next.or_else(behind).unwrap_or(Step::Zero)
}

/// The smallest form of a leaf among those that are allowed. The words of [`Form::Runs`] are put
/// into `runs`.
pub(super) fn choose(forms: Forms, width: Width, leaf: &Leaf, runs: &mut Runs) -> Form {
    if leaf.is_hole() {
        return Form::Hole;
    }
    if forms.allow_runs() && runs.find(width, leaf).is_some() {
        return match (runs.segments(), runs.patches()) {
            (&[only], []) if forms.allow_affine() => Form::Affine(Segment(only)),
            _ => Form::Runs,
        };
    }
    let packed = (forms.allow_packed() && width == Width::W64).then(|| packed_half(leaf));
    packed.flatten().map_or(Form::Raw, |high| Form::Packed { high })
}

/// The upper half that all valid words share, if there is one and no lower half looks invalid.
fn packed_half(leaf: &Leaf) -> Option<u32> {
    let first = leaf.words.iter().find(|&&word| word != u64::MAX)?;
    let high = (first >> 32) as u32;
    let fits =
        |word: u64| word == u64::MAX || (word >> 32) as u32 == high && word as u32 != u32::MAX;
    // Without an early exit, so that it becomes a vector loop.
    leaf.words.iter().fold(true, |all, &word| all & fits(word)).then_some(high)
}

/// Packs a leaf that [`choose`] found packable.
pub(super) fn pack(leaf: &Leaf, low: &mut PackedWords) {
    low.iter_mut().zip(leaf.words).for_each(|(low, word)| *low = word as u32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::Base;
    use proptest::prelude::*;

    fn form_of(width: Width, leaf: &Leaf) -> (Form, usize, usize) {
        let mut runs = Runs::new();
        let form = choose(Forms::Auto, width, leaf, &mut runs);
        if form != Form::Runs {
            return (form, 0, 0);
        }
        let (segments, patches) = (runs.segments(), runs.patches());
        let mut decoded = Leaf::default();
        Base::Segments { segments, patches }.decode(width, &mut decoded);
        assert!(decoded == *leaf, "{width:?}: {segments:x?} {patches:x?}");
        (form, segments.len(), patches.len())
    }

    fn leaf_of(width: Width, word: impl Fn(u64) -> u64) -> Leaf {
        let mut leaf = Leaf::HOLE;
        for slot in 0..width.entries() {
            leaf.set_entry(width, slot, crate::frame::Entry(word(slot as u64)));
        }
        leaf
    }

    #[test]
    fn runs_are_affine_patched_or_cut() {
        for width in [Width::W32, Width::W64] {
            let last = width.entries() as u64 - 1;
            let up = |slot| 0x1000 + slot;
            assert!(matches!(form_of(width, &leaf_of(width, up)).0, Form::Affine(_)));
            assert!(matches!(form_of(width, &leaf_of(width, |s| 0x9000 - s)).0, Form::Affine(_)));
            assert!(matches!(form_of(width, &leaf_of(width, |_| 7)).0, Form::Affine(_)));
            assert_eq!(form_of(width, &Leaf::HOLE).0, Form::Hole);
            for patched in [2, 100, last - 1] {
                let one = leaf_of(width, |s| if s == patched { 5 } else { up(s) });
                assert_eq!(form_of(width, &one), (Form::Runs, 1, 1), "{patched}");
            }
            // At either end of the leaf, a patch and a segment cost the same.
            for patched in [0, last] {
                let one = leaf_of(width, |s| if s == patched { 5 } else { up(s) });
                let (form, segments, patches) = form_of(width, &one);
                assert_eq!((form, segments + patches), (Form::Runs, 2), "{patched}");
            }
            let second = leaf_of(width, |s| if s == 1 { 5 } else { up(s) });
            assert_eq!(form_of(width, &second), (Form::Runs, 1, 1));
            let cut = leaf_of(width, |s| if s < 200 { up(s) } else { 0x9000 - s });
            assert_eq!(form_of(width, &cut), (Form::Runs, 2, 0));
            let hole = leaf_of(width, |s| if s < 200 { up(s) } else { u64::MAX });
            assert_eq!(form_of(width, &hole), (Form::Runs, 2, 0));
        }
    }

    #[test]
    fn one_entry_that_fits_by_chance_does_not_continue_a_run() {
        for width in [Width::W32, Width::W64] {
            let up = |slot| 0x1000 + slot;
            let leaf = leaf_of(width, |s| if s < 100 || s == 101 { up(s) } else { 0x9000 + s });
            let mut runs = Runs::new();
            assert_eq!(choose(Forms::Auto, width, &leaf, &mut runs), Form::Runs);
            let slots =
                |words: &[u64]| words.iter().map(|&w| Segment(w).slot()).collect::<Vec<_>>();
            assert_eq!((slots(runs.segments()), slots(runs.patches())), (vec![0, 100], vec![101]));
        }
    }

    #[test]
    fn a_leaf_without_runs_is_packed_or_raw() {
        let scattered = |slot: u64| slot.wrapping_mul(0x9e37_79b9) & 0x7fff_ffff;
        let low = leaf_of(Width::W64, scattered);
        assert_eq!(form_of(Width::W64, &low).0, Form::Packed { high: 0 });
        let high =
            leaf_of(Width::W64, |s| if s % 3 == 0 { u64::MAX } else { 5 << 32 | scattered(s) });
        assert_eq!(form_of(Width::W64, &high).0, Form::Packed { high: 5 });
        let both = leaf_of(Width::W64, |s| (s & 1) << 32 | scattered(s));
        assert_eq!(form_of(Width::W64, &both).0, Form::Raw);
        // Looks like an invalid entry once it is packed.
        let ambiguous = leaf_of(Width::W64, |s| if s == 9 { 0xffff_ffff } else { scattered(s) });
        assert_eq!(form_of(Width::W64, &ambiguous).0, Form::Raw);
        assert_eq!(form_of(Width::W32, &leaf_of(Width::W32, scattered)).0, Form::Raw);
    }

    proptest! {
        /// `form_of` checks that the decoded leaf is equal.
        #[test]
        fn runs_reproduce_the_leaf(
            cuts in prop::collection::vec((0_usize..1024, any::<u64>(), 0_u64..4), 0..40),
            patches in prop::collection::vec((0_usize..1024, any::<u64>()), 0..40),
        ) {
            for width in [Width::W32, Width::W64] {
                let mut leaf = leaf_of(width, |slot| 0x4_0000 + slot);
                for &(cut, base, step) in &cuts {
                    let begin = cut % width.entries();
                    let end = (begin + 1 + (base % 200) as usize).min(width.entries());
                    for slot in begin..end {
                        let distance = (slot - begin) as u64;
                        let word = match step {
                            0 => u64::MAX,
                            1 => (base >> 20).wrapping_add(distance),
                            2 => (base >> 20).wrapping_sub(distance),
                            _ => base | 1 << 63,
                        };
                        leaf.set_entry(width, slot, crate::frame::Entry(word));
                    }
                }
                for &(slot, word) in &patches {
                    leaf.set_entry(width, slot % width.entries(), crate::frame::Entry(word >> 15));
                }
                form_of(width, &leaf);
            }
        }
    }
}
