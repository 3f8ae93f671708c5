// SPDX-License-Identifier: MIT OR Apache-2.0
//! How regular leaves are: entries as runs of step +1, -1 or 0.
//! Not here: the forms in which the engine holds leaves.
//! Units: leaf positions.
//! Threads: plain values.
//! Source: own; why runs matter: the captures, `tests/traces/README.md`.

use p2mtrack_trace::NONE;
use serde::Serialize;

/// Leaves by the number of their runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Forms {
    /// No valid entry, or no leaf.
    pub(crate) hole: u64,
    /// One run.
    pub(crate) affine: u64,
    /// Two to eight runs.
    pub(crate) segments_2_8: u64,
    /// Nine to 32 runs.
    pub(crate) segments_9_32: u64,
    /// More than 32 runs.
    pub(crate) segments_more: u64,
}

impl Forms {
    /// Counts leaves of this many entries.
    pub(crate) fn of(entries: &[u64], leaf_entries: usize) -> Self {
        let mut forms = Self::default();
        for leaf in entries.chunks(leaf_entries) {
            let form = match segments(leaf) {
                1 if leaf[0] == NONE && leaf[leaf.len() - 1] == NONE => &mut forms.hole,
                ..=1 => &mut forms.affine,
                2..=8 => &mut forms.segments_2_8,
                9..=32 => &mut forms.segments_9_32,
                _ => &mut forms.segments_more,
            };
            *form += 1;
        }
        forms
    }

    /// Names and counts, in order.
    pub(crate) const fn rows(&self) -> [(&'static str, u64); 5] {
        [
            ("holes", self.hole),
            ("one run", self.affine),
            ("2 to 8 runs", self.segments_2_8),
            ("9 to 32 runs", self.segments_9_32),
            ("more runs", self.segments_more),
        ]
    }
}

/// Number of runs in a leaf, each as long as possible.
fn segments(leaf: &[u64]) -> u64 {
    let (mut runs, mut at) = (0, 0);
    while at < leaf.len() {
        runs += 1;
        let step = |i: usize| leaf.get(i + 1).map(|next| next.wrapping_sub(leaf[i]));
        let first = step(at);
        at += 1;
        if matches!(first, Some(0 | 1 | u64::MAX)) {
            while step(at - 1) == first {
                at += 1;
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_go_up_down_and_level() {
        assert_eq!(segments(&[5, 6, 7, 8]), 1);
        assert_eq!(segments(&[8, 7, 6, 6, 6]), 2);
        assert_eq!(segments(&[1, 10, 20]), 3);
        assert_eq!(segments(&[NONE, NONE, 3, 4]), 2);
        assert_eq!(segments(&[NONE, 0, 1]), 1, "wraps as entries do");
        assert_eq!(segments(&[9]), 1);
    }

    #[test]
    fn leaves_are_counted_by_their_runs() {
        let hole = [NONE; 64];
        let run: Vec<u64> = (100..164).collect();
        let scattered: Vec<u64> = (0..64).map(|i| 3 * i).collect();
        let two = [&run[..32], &hole[..32]].concat();
        let ten = [&scattered[..9], &run[..55]].concat();
        let forms = Forms::of(&[&hole[..], &run, &scattered, &two, &ten].concat(), 64);
        assert_eq!(forms.rows().map(|row| row.1), [1; 5]);
    }
}
