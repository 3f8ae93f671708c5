// SPDX-License-Identifier: MIT OR Apache-2.0
//! `stream.write`, `stream.check`: a migration stream, written to a pipe, and checked in a file.
//! Not here: a whole migration through it.
//! Units: shares of the speed of the least that has to be done: a bare `writev` of the same pages,
//! one reading of the same file.
//! Threads: one, and another one that drains the pipe.
//! Source: batches of 1,024 pages, as the engine sends them.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use p2mtrack::frame::{FRAME_BYTES, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack_stream::cancel::Cancel;
use p2mtrack_stream::check::{Rule, check};
use p2mtrack_stream::container::Format;
use p2mtrack_stream::fd::FdSink;
use p2mtrack_stream::record::RecordKind;
use p2mtrack_stream::sink::Piece;
use p2mtrack_stream::word::{Word, WordKind};
use p2mtrack_stream::writer::Writer;

use crate::ab_run::{AbRun, WallClock};
use crate::figure::{Figure, Goal, Unit};
use crate::frames::{Frames, Pages};
use crate::peer::writev;
use crate::setup::Setup;

const OURS: &str = "p2mtrack";
const BARE: &str = "bare";

/// Pages of a record.
const BATCH_PAGES: usize = 1024;
/// Bytes that the other end of the pipe reads at once.
const DRAIN_BYTES: usize = 1 << 20;
/// One page in so many of the file is a page table.
const TABLE_EVERY: u64 = 256;

/// Measures.
#[must_use]
pub fn run(setup: &Setup) -> Vec<Figure> {
    let batches = (setup.pass_bytes / FRAME_BYTES / BATCH_PAGES).max(1);
    let apart = write("stream.write.apart", batches, 2);
    let beside = write("stream.write.beside", batches, 1);
    let worst = if apart.value < beside.value { &apart } else { &beside };
    let write = Figure {
        goal: Some(Goal::AtLeast(0.9)),
        floor: worst.floor,
        ..Figure::new(
            "stream.write",
            worst.value,
            Unit::Share,
            format!("the worst of both: {}", worst.name),
        )
    };
    vec![write, apart, beside, checked(batches)]
}

/// Pages that are mapped side by side (`step` 1), or each by itself (2).
fn write(name: &str, batches: usize, step: usize) -> Figure {
    let frames = Frames::new(BATCH_PAGES * step, Pages::Small).expect("memory");
    let leaf = p2mtrack::leaf::Leaf { words: [0x1234; 512] };
    (0..frames.len()).for_each(|frame| frames.write(frame, &leaf));
    let page = |at: usize| GuestLeaf::from_atomics(frames.frame(at * step));
    let words: Vec<_> =
        (0..BATCH_PAGES as u64).map(|pfn| Word::new(Pfn(pfn), WordKind::Data)).collect();
    let bare = writev::Batch::new((0..BATCH_PAGES).map(page));
    let pages = (batches * BATCH_PAGES) as u64;
    let ours = || {
        drained(|pipe| {
            let cancel = Arc::new(Cancel::new().expect("a descriptor"));
            let mut writer = Writer::new(FdSink::new(pipe.into(), cancel).expect("a pipe"));
            for _ in 0..batches {
                let pieces = (0..BATCH_PAGES).map(page).map(Piece::Live);
                writer.page_data(&words, pieces).expect("a reader");
            }
            writer.bytes - batches as u64 * (16 + 8 * BATCH_PAGES as u64)
        })
    };
    let theirs = || {
        drained(|pipe| {
            let written = |_| bare.write(pipe.as_fd()).expect("a reader");
            (0..batches).map(written).sum()
        })
    };
    let bytes = pages * FRAME_BYTES as u64;
    let run = AbRun::default().side(OURS, bytes, ours).side(BARE, bytes, theirs);
    let times = run.run(&WallClock::default());
    let value = times.speed(OURS, BARE);
    let layout = if step == 1 { "mapped side by side" } else { "each mapped by itself" };
    Figure {
        floor: Some(value),
        ..Figure::new(
            name,
            value,
            Unit::Share,
            format!("{pages} pages, {layout}, to a pipe, against a bare writev"),
        )
    }
}

/// Writes to a pipe while another thread drains it. Both ends are closed at the end.
fn drained(write: impl FnOnce(io::PipeWriter) -> u64) -> u64 {
    let (mut reader, writer) = io::pipe().expect("a pipe");
    let drain = std::thread::spawn(move || {
        let mut bytes = vec![0; DRAIN_BYTES];
        while reader.read(&mut bytes).expect("readable") > 0 {}
    });
    let written = write(writer);
    drain.join().expect("drained");
    written
}

/// A file in the cache.
fn checked(batches: usize) -> Figure {
    let mut file = made(batches).expect("a file");
    let length = file.metadata().expect("a file").len();
    let mut again = file.try_clone().expect("a descriptor");
    let run = AbRun::default()
        .side(OURS, length, || {
            again.rewind().expect("a file");
            let mut counted = Counted { file: &again, bytes: 0 };
            let mut broken = Vec::new();
            let report = &mut |found: p2mtrack_stream::check::Broken| broken.push(found.rule);
            let summary = check(&mut counted, Some(Format::Libxc), report).expect("readable");
            // It has no vCPUs.
            assert!(broken.iter().all(|&rule| rule == Rule::StateMissing), "{broken:?}");
            assert!(summary.tables > 0);
            counted.bytes
        })
        .side(BARE, length, || {
            file.rewind().expect("a file");
            let mut bytes = vec![0; DRAIN_BYTES];
            let mut whole = 0;
            loop {
                match file.read(&mut bytes).expect("readable") {
                    0 => return whole,
                    read => whole += read as u64,
                }
            }
        });
    let times = run.run(&WallClock::default());
    let value = times.speed(OURS, BARE);
    let detail = format!(
        "a file of {} MiB in the cache, one page in {TABLE_EVERY} a page table, against reading it",
        length >> 20
    );
    Figure {
        goal: Some(Goal::AtLeast(0.5)),
        floor: Some(value),
        ..Figure::new("stream.check", value, Unit::Share, detail)
    }
}

/// A file whose bytes are counted as they are read.
struct Counted<'f> {
    file: &'f File,
    bytes: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// A stream of so many batches; page tables name pfns at random.
fn made(batches: usize) -> io::Result<File> {
    let pfns = (batches * BATCH_PAGES) as u64;
    let mut writer = Writer::new(Vec::new());
    writer.headers((4, 17))?;
    writer.pv_info(Width::W64)?;
    writer.static_data_end()?;
    let leaves: Vec<_> = (0..pfns.div_ceil(512)).map(|at| Pfn(TABLE_EVERY * at + 1)).collect();
    writer.p2m_frames(pfns as u32 - 1, &leaves)?;
    let mut file = tempfile::tempfile()?;
    file.write_all(&writer.into_sink())?;
    let data = [0_u8; FRAME_BYTES];
    for batch in 0..batches as u64 {
        let mut writer = Writer::new(Vec::new());
        let first = batch * BATCH_PAGES as u64;
        let own: Vec<_> = (first..first + BATCH_PAGES as u64).map(Pfn).collect();
        let is_table = |pfn: &Pfn| pfn.0.is_multiple_of(TABLE_EVERY);
        let tables: Vec<_> =
            own.iter().filter(|pfn| is_table(pfn)).map(|pfn| table(*pfn, pfns)).collect();
        let mut next = tables.iter();
        let kind = |pfn: &Pfn| match is_table(pfn) {
            true => WordKind::Table { level: 1, pinned: false },
            false => WordKind::Data,
        };
        let words: Vec<_> = own.iter().map(|pfn| Word::new(*pfn, kind(pfn))).collect();
        let pieces = own.iter().map(|pfn| match is_table(pfn) {
            true => Piece::Own(next.next().expect("a table")),
            false => Piece::Own(&data),
        });
        writer.page_data(&words, pieces)?;
        file.write_all(&writer.into_sink())?;
    }
    let mut writer = Writer::new(Vec::new());
    writer.mark(RecordKind::End)?;
    file.write_all(&writer.into_sink())?;
    Ok(file)
}

/// A full page table.
fn table(pfn: Pfn, pfns: u64) -> Vec<u8> {
    let target = |slot: u64| (pfn.0 ^ slot).wrapping_mul(0x9e37_79b9_7f4a_7c15) % pfns;
    (0..512).flat_map(|slot| (target(slot) << 12 | 0x67).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_write_the_same_pages_and_read_the_same_bytes() {
        // A side asserts its count.
        for figure in [write("a", 2, 1), write("b", 2, 2), checked(2)] {
            assert!(figure.value > 0.0, "{figure:?}");
        }
    }
}
