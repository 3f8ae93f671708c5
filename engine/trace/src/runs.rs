// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sequences of numbers as runs of differences to the round before, and sets of pfns as stretches.
//! Not here: which sequences a round has (`rounds`, `writer`).
//! Units: positions in a sequence; the code itself is described in `format`.
//! Threads: one.
//! Source: own; real p2ms are runs of step +1, and 0 for holes.

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::Pfn;

use crate::cursor::{Cursor, put_varint, unzigzag, zigzag};
use crate::error::{TraceError, TraceFault};

/// What each position adds to the one before, by code.
const STEPS: [u64; 3] = [0, 1, u64::MAX];

/// Positions that decoding may still process, in the whole file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    left: u64,
    limit: u64,
}

impl Budget {
    /// A budget of `limit` positions.
    pub(crate) const fn new(limit: u64) -> Self {
        Self { left: limit, limit }
    }

    /// Pays for `positions`.
    pub(crate) fn spend(&mut self, positions: u64) -> Result<(), TraceFault> {
        let found = self.limit - self.left;
        self.left = self.left.checked_sub(positions).ok_or(TraceFault::Limit {
            what: "work to decode",
            found: found.saturating_add(positions),
            limit: self.limit,
        })?;
        Ok(())
    }
}

/// Length and step code of the run that begins at `start` and goes on while values differ from the
/// old ones.
fn measure(
    start: usize,
    length: usize,
    old: &impl Fn(usize) -> u64,
    new: &impl Fn(usize) -> u64,
) -> (usize, usize) {
    let differs = |i: usize| i < length && new(i) != old(i);
    if !differs(start + 1) {
        return (1, 0);
    }
    let first_step = new(start + 1).wrapping_sub(new(start));
    let Some(code) = STEPS.iter().position(|&step| step == first_step) else {
        return (1, 0);
    };
    let mut end = start + 2;
    while differs(end) && new(end).wrapping_sub(new(end - 1)) == first_step {
        end += 1;
    }
    (end - start, code)
}

/// Appends how `new` differs from `old`, both of `length` positions.
pub(crate) fn put_runs(
    out: &mut Vec<u8>,
    length: usize,
    old: impl Fn(usize) -> u64,
    new: impl Fn(usize) -> u64,
) {
    let (mut runs, mut count) = (Vec::new(), 0);
    let (mut position, mut end, mut last) = (0, 0, 0);
    while position < length {
        if new(position) == old(position) {
            position += 1;
            continue;
        }
        let (run, code) = measure(position, length, &old, &new);
        put_varint(&mut runs, (position - end) as u64);
        put_varint(&mut runs, ((run - 1) as u64) << 2 | code as u64);
        put_varint(&mut runs, zigzag(new(position).wrapping_sub(last)));
        position += run;
        (end, last) = (position, new(position - 1));
        count += 1;
    }
    put_varint(out, count);
    out.append(&mut runs);
}

/// Reads runs over `length` positions and passes each position and value in them to `put`.
pub(crate) fn take_runs(
    cursor: &mut Cursor<'_>,
    budget: &mut Budget,
    length: u64,
    mut put: impl FnMut(usize, u64) -> Result<(), TraceFault>,
) -> Result<(), TraceError> {
    let count = cursor.varint("number of runs")?;
    let (mut position, mut last) = (0_u64, 0_u64);
    for _ in 0..count {
        let start = cursor.offset();
        let here = |fault: TraceFault| fault.at(start);
        let gap = cursor.varint("positions to skip")?;
        let head = cursor.varint("length and step of a run")?;
        let distance = unzigzag(cursor.varint("value of a run")?);
        let run = (head >> 2) + 1;
        let code = (head & 3) as usize;
        TraceFault::limit("step code of a run", code as u64, 2).map_err(here)?;
        let first = position.saturating_add(gap);
        position = first.saturating_add(run);
        TraceFault::limit("end of a run", position, length).map_err(here)?;
        budget.spend(run).map_err(here)?;
        let mut value = last.wrapping_add(distance);
        for at in first..position {
            put(at as usize, value).map_err(here)?;
            last = value;
            value = value.wrapping_add(STEPS[code]);
        }
    }
    Ok(())
}

/// Appends a set of pfns.
pub(crate) fn put_bitmap(out: &mut Vec<u8>, bitmap: &PfnBitmap) {
    let mut stretches: Vec<(u64, u64)> = Vec::new();
    for Pfn(pfn) in bitmap.iter() {
        match stretches.last_mut() {
            Some((_, end)) if *end == pfn => *end += 1,
            _ => stretches.push((pfn, pfn + 1)),
        }
    }
    put_varint(out, bitmap.pfns());
    put_varint(out, stretches.len() as u64);
    let mut at = 0;
    for (first, end) in stretches {
        put_varint(out, first - at);
        put_varint(out, end - first - 1);
        at = end;
    }
}

/// Reads a set of pfns of at most `pfns_max` pfns.
pub(crate) fn take_bitmap(
    cursor: &mut Cursor<'_>,
    budget: &mut Budget,
    pfns_max: u64,
) -> Result<PfnBitmap, TraceError> {
    let pfns = cursor.varint("pfns of a log-dirty bitmap")?;
    cursor.check(TraceFault::limit("pfns of a log-dirty bitmap", pfns, pfns_max))?;
    cursor.check(budget.spend(pfns / 64))?;
    let mut bitmap = PfnBitmap::new(pfns);
    let count = cursor.varint("number of stretches")?;
    let mut at = 0_u64;
    for _ in 0..count {
        let first = at.saturating_add(cursor.varint("pfns to skip")?);
        let set = cursor.varint("pfns set")?.saturating_add(1);
        at = first.saturating_add(set);
        cursor.check(TraceFault::limit("end of a stretch", at, pfns))?;
        cursor.check(budget.spend(set))?;
        for pfn in first..at {
            bitmap.set(Pfn(pfn));
        }
    }
    Ok(bitmap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(old: &[u64], new: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        put_runs(&mut out, new.len(), |i| old.get(i).copied().unwrap_or(u64::MAX), |i| new[i]);
        out
    }

    fn decode(bytes: &[u8], old: &[u64], length: usize) -> Result<Vec<u64>, TraceError> {
        let mut new = old.to_vec();
        new.resize(length, u64::MAX);
        let mut cursor = Cursor::new(bytes, 0);
        let put = |at: usize, value| {
            new[at] = value;
            Ok(())
        };
        take_runs(&mut cursor, &mut Budget::new(1 << 20), length as u64, put)?;
        cursor.end()?;
        Ok(new)
    }

    /// Sequences with runs of every step, holes, and noise.
    fn sequence() -> impl Strategy<Value = Vec<u64>> {
        let piece = (any::<u64>(), 0_usize..4, 1_usize..40);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| {
            let mut all = Vec::new();
            for (value, step, length) in pieces {
                let step = STEPS.get(step).copied().unwrap_or(0x1234_5678_9abc_def1);
                all.extend((0..length as u64).map(|i| value.wrapping_add(step.wrapping_mul(i))));
            }
            all
        })
    }

    proptest! {
        #[test]
        fn runs_round_trip(old in sequence(), new in sequence()) {
            let bytes = encode(&old, &new);
            let kept = &old[..old.len().min(new.len())];
            prop_assert_eq!(decode(&bytes, kept, new.len()).expect("decodes"), new);
        }

        #[test]
        fn bitmaps_round_trip(pfns in 1_u64..400, set in prop::collection::vec(0_u64..400, 0..200)) {
            let mut bitmap = PfnBitmap::new(pfns);
            for pfn in set {
                bitmap.set(Pfn(pfn));
            }
            let mut bytes = Vec::new();
            put_bitmap(&mut bytes, &bitmap);
            let mut cursor = Cursor::new(&bytes, 0);
            let read = take_bitmap(&mut cursor, &mut Budget::new(1 << 20), 400).expect("decodes");
            prop_assert_eq!(read, bitmap);
            prop_assert!(cursor.end().is_ok());
        }
    }

    #[test]
    fn a_run_is_a_few_bytes_whatever_its_length() {
        let up: Vec<u64> = (0..1 << 16).map(|i| 0x17_0000 + i).collect();
        assert!(encode(&[], &up).len() <= 10);
        let hole = vec![u64::MAX; 1 << 16];
        assert_eq!(encode(&[], &hole), [0]);
        assert!(encode(&up, &hole).len() <= 8);
    }

    #[test]
    fn hostile_runs_are_bounded() {
        let mut bytes = vec![1, 0];
        put_varint(&mut bytes, u64::MAX - 3);
        bytes.push(0);
        let text = decode(&bytes, &[], 8).expect_err("too long").to_string();
        assert!(text.contains("end of a run is 4611686018427387904, expected at most 8"), "{text}");
        let text = decode(&[1, 0, 3, 0], &[], 8).expect_err("step code").to_string();
        assert!(text.contains("step code"), "{text}");
        let text = decode(&[5, 0, 0, 2], &[], 8).expect_err("runs missing").to_string();
        assert!(text.contains("positions to skip needs 1 bytes"), "{text}");
        let mut cursor = Cursor::new(&[1, 0, 0x1c, 0], 0);
        let error = take_runs(&mut cursor, &mut Budget::new(7), 8, |_, _| Ok(()));
        assert!(error.expect_err("budget").to_string().contains("work to decode is 8"));
    }

    #[test]
    fn hostile_bitmaps_are_bounded() {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, u64::MAX);
        let read = |bytes: &[u8]| {
            let mut cursor = Cursor::new(bytes, 0);
            take_bitmap(&mut cursor, &mut Budget::new(1 << 20), 1 << 10)
        };
        assert!(read(&bytes).expect_err("length").to_string().contains("at most 1024"));
        assert!(read(&[64, 1, 63, 1]).expect_err("tail").to_string().contains("end of a stretch"));
    }
}
