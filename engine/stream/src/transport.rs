// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine's transport to a receiver of the libxc stream.
//! Not here: where the bytes go (`sink`), how pages are mapped (`pages`), the state behind them
//! (the caller's `Tail`).
//! Units: pfns; a batch is one PAGE_DATA record.
//! Threads: the engine's, and one that writes if asked for.
//! Source: `xen-migrate.md` 2 and 4: a pfn that lost its frame gets an XTAB word, which a stock
//! receiver only notes; all of them get one more at the consistent point, after every table.

use std::io;
use std::time::Duration;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{FrameType, Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{Answer, Deferral, FrameList, Page, PortError, QUERY_FRAMES_MAX, Transport};
use p2mtrack::table::TableView;

use crate::frame_list::{SentList, is_hole};
use crate::line::Line;
use crate::page_record::PageRecord;
use crate::pages::{PageBatch, Pages};
use crate::populated::Populated;
use crate::sink::Sink;
use crate::verify::Verify;
use crate::word::{Word, WordKind};
use crate::writer::Writer;

/// For fewer pages it does not pay to wake the thread that writes. A batch of so few is nearly
/// always the last one of a round.
const FEW_PAGES: usize = QUERY_FRAMES_MAX / 2;

/// Words of a record without pages.
const ABSENT_WORDS_MAX: usize = 65_536;

/// The records behind the pages of a consistent point: X86_TSC_INFO, SHARED_INFO, those of vCPUs,
/// and END or CHECKPOINT, unless that is written when even more is known to be well.
pub trait Tail<S> {
    /// Reads what names frames: their pfns `view` knows now, and not later.
    ///
    /// # Errors
    /// It can't be read, or names a frame that no pfn has.
    fn read(&mut self, view: &dyn TableView) -> Result<(), PortError> {
        let _ = view;
        Ok(())
    }

    /// Writes them all.
    ///
    /// # Errors
    /// They can't be written, or got.
    fn write(&mut self, writer: &mut Writer<S>) -> Result<(), PortError>;
}

/// The digest of a page.
pub type Digest = fn(&Leaf) -> u64;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages.
    pub pages: u64,
    /// Of these, page tables.
    pub tables: u64,
    /// Words that say that a pfn has no frame.
    pub absent: u64,
    /// Frame lists.
    pub lists: u64,
}

/// Pfns that were seen to lose their frame.
#[derive(Debug)]
struct Churn {
    pfns: PfnBitmap,
    /// So many pages of them are kept for later in a round.
    most: u64,
    /// So many were.
    kept: u64,
}

impl Default for Churn {
    fn default() -> Self {
        Self { pfns: PfnBitmap::new(0), most: 0, kept: 0 }
    }
}

impl Churn {
    /// Whether a page of this pfn is kept for later.
    fn keeps(&mut self, pfn: Pfn) -> bool {
        let keeps = self.kept < self.most && self.pfns.get(pfn);
        self.kept += u64::from(keeps);
        keeps
    }
}

/// A transport that writes a libxc stream. Its headers and static records are written before: see
/// [`StreamTransport::new`].
#[derive(Debug)]
pub struct StreamTransport<P: Pages, S, T> {
    line: Line<P::Batch, S>,
    pages: P,
    tail: T,
    width: Width,
    list: SentList,
    /// Pfns whose last word has a frame.
    held: PfnBitmap,
    counts: Counts,
    /// Pages are written from copies, which have this digest.
    digest: Option<Digest>,
    /// What a stock receiver holds, if that is what the stream is for.
    populated: Option<Populated>,
    churn: Churn,
    /// Every page is to come once more, at the next consistent point.
    verify: Option<Verify>,
    /// Frames of a batch; kept, so that a batch needs no memory of its own.
    frames: Vec<Mfn>,
}

impl<P: Pages, S: Sink, T: Tail<S>> StreamTransport<P, S, T> {
    /// A transport for a guest of this width. `writer` has written the headers and all records up
    /// to STATIC_DATA_END.
    pub fn new(writer: Writer<S>, pages: P, tail: T, width: Width) -> Self {
        Self {
            line: Line::new(writer),
            pages,
            tail,
            width,
            list: SentList::default(),
            held: PfnBitmap::new(0),
            counts: Counts::default(),
            digest: None,
            populated: None,
            churn: Churn::default(),
            verify: None,
            frames: Vec::new(),
        }
    }

    /// The same, but each page is copied first, and written from the copy. Answers are
    /// [`Answer::AcceptedCopy`] with the digest of the copy, of a page table before it was
    /// normalised.
    #[must_use]
    pub fn copying(self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self }
    }

    /// The same for a stock receiver, which may hold so many pfns: more are an error.
    #[must_use]
    pub fn for_stock(self, limit: u64) -> Self {
        Self { populated: Some(Populated::new(limit)), ..self }
    }

    /// The same, but behind the last round every page comes once more, to be compared.
    #[must_use]
    pub fn verified(self) -> Self {
        Self { verify: Some(Verify::default()), ..self }
    }

    /// From now on so many pages of pfns that were seen to lose their frame are kept for later in
    /// each round, which begins now: a stock receiver gives no frame back, and they may lose theirs
    /// again.
    pub const fn keep_for_later(&mut self, most: u64) {
        (self.churn.most, self.churn.kept) = (most, 0);
    }

    /// What a stock receiver holds.
    pub const fn populated(&self) -> Option<&Populated> {
        self.populated.as_ref()
    }

    /// Pfns that a stock receiver holds, and whose last word has no frame.
    pub fn leaked(&self) -> impl Iterator<Item = Pfn> {
        let populated = self.populated.iter();
        populated.flat_map(|populated| populated.beyond(&self.held))
    }

    /// What was given to the sink.
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes that the sink took; what is under way may be counted or not.
    pub fn bytes(&self) -> u64 {
        self.line.lock().bytes
    }

    /// How long the engine's thread has waited for the one that writes.
    pub const fn waited(&self) -> Duration {
        self.line.waited
    }

    /// How many pfns have a frame by their last word.
    pub fn held_pfns(&self) -> u64 {
        self.held.count()
    }

    /// Calls `look` with the writer, once everything is written.
    ///
    /// # Errors
    /// Something was not written.
    pub fn with_writer<R>(&mut self, look: impl FnOnce(&mut Writer<S>) -> R) -> io::Result<R> {
        Ok(look(&mut *self.line.writer()?))
    }

    /// The records behind the pages.
    pub const fn tail_mut(&mut self) -> &mut T {
        &mut self.tail
    }

    /// Decides every page of a batch: answers, and puts what is sent into the record.
    fn decide(
        record: &mut PageRecord<P::Batch>,
        digest: Option<Digest>,
        churn: &mut Churn,
        pages: &[Page],
        batch: &P::Batch,
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) {
        let (first, keeps) = (answers.len(), churn.most > 0);
        for (index, page) in pages.iter().enumerate() {
            let answer = match batch.page(index) {
                Ok(_) if keeps && churn.keeps(page.pfn) => Answer::Deferred(Deferral::Later),
                Ok(live) => Self::add(record, digest, page, index, live),
                Err(fault) => Answer::Deferred(Deferral::MapFailed(fault)),
            };
            answers.push(answer);
        }
        record.normalise(view);
        let mut tables = 0..;
        for (page, answer) in pages.iter().zip(&mut answers[first..]) {
            if !page.kind.is_table() || matches!(answer, Answer::Deferred(_)) {
                continue;
            }
            let word = Word::new(page.pfn, page.kind.into());
            let index = tables.next().expect("endless");
            if let Err(fault) = record.add_table(word, index) {
                *answer = Answer::Deferred(Deferral::Table(fault));
            }
        }
    }

    /// Adds a page that is mapped; of a page table only its words, which are still the source's.
    fn add(
        record: &mut PageRecord<P::Batch>,
        digest: Option<Digest>,
        page: &Page,
        index: usize,
        live: GuestLeaf<'_>,
    ) -> Answer {
        let word = Word::new(page.pfn, page.kind.into());
        let level = match page.kind {
            FrameType::Table { level, .. } => Some(level),
            _ => None,
        };
        if level.is_none() && digest.is_none() {
            record.add_mapped(word, index);
            return Answer::Accepted;
        }
        let mut copy = Leaf::default();
        live.fetch(&mut copy);
        let answer =
            digest.map_or(Answer::Accepted, |of| Answer::AcceptedCopy { digest: of(&copy) });
        match level {
            Some(level) => record.take_table(page.pfn, level, copy),
            None => record.add_copy(word, copy),
        }
        answer
    }

    /// Writes the frame list, if it is not what was sent last.
    fn write_list(&mut self, settled: bool) -> Result<(), PortError> {
        let (width, held) = (self.width, &self.held);
        let has_frame = |pfn: Pfn| held.get(pfn);
        let next = self.list.next(settled, has_frame, |leaf| is_hole(width, leaf, has_frame))?;
        let Some((last, leaves)) = next else { return Ok(()) };
        let written = self.line.writer().and_then(|mut writer| writer.p2m_frames(last, leaves));
        if written.is_err() {
            self.list.forget();
        }
        written?;
        self.counts.lists += 1;
        Ok(())
    }

    /// Says that pfns have no frame. Pfns that the receiver does not know are left out: it has none
    /// for them.
    fn write_absent(&mut self, pfns: &[Pfn]) -> io::Result<()> {
        let mut writer = self.line.writer()?;
        let mut words = Vec::new();
        for pfns in pfns.chunks(ABSENT_WORDS_MAX) {
            words.clear();
            let known = pfns.iter().filter(|pfn| pfn.0 < self.list.sent_pfns());
            words.extend(known.map(|&pfn| Word::new(pfn, WordKind::Absent)));
            if words.is_empty() {
                continue;
            }
            writer.page_data(&words, std::iter::empty())?;
            self.counts.absent += words.len() as u64;
            for pfn in words.iter().map(|word| word.pfn()) {
                if self.held.get(pfn) {
                    self.held.clear(pfn);
                }
            }
        }
        Ok(())
    }
}

impl<P, S, T> StreamTransport<P, S, T>
where
    P: Pages,
    P::Batch: Send + 'static,
    S: Sink + Send + 'static,
    T: Tail<S>,
{
    /// The same with a second thread: it writes a batch while the next one is mapped. What it could
    /// not write is owed again ([`Transport::returned`]).
    ///
    /// # Errors
    /// There is no thread.
    pub fn with_thread(mut self) -> io::Result<Self> {
        self.line.start_thread()?;
        Ok(self)
    }
}

/// Adds pfns to a set, which grows.
fn hold_all(held: &mut PfnBitmap, pfns: impl Iterator<Item = Pfn> + Clone) {
    let length = pfns.clone().map(|pfn| pfn.0 + 1).max().unwrap_or(0);
    if length > held.pfns() {
        held.resize(length.next_multiple_of(1 << 15));
    }
    pfns.for_each(|pfn| _ = held.set(pfn));
}

impl<P: Pages, S: Sink, T: Tail<S>> Transport for StreamTransport<P, S, T> {
    fn send(
        &mut self,
        pages: &[Page],
        view: &dyn TableView,
        answers: &mut Vec<Answer>,
    ) -> Result<(), PortError> {
        self.frames.clear();
        self.frames.extend(pages.iter().map(|page| page.mfn));
        let batch = self.pages.map(&self.frames)?;
        let first = answers.len();
        let mut record = self.line.record();
        let (digest, churn) = (self.digest, &mut self.churn);
        Self::decide(&mut record, digest, churn, pages, &batch, view, answers);
        if record.is_empty() {
            return Ok(());
        }
        if let Some(populated) = &mut self.populated {
            record.pfns().for_each(|pfn| populated.add(pfn));
            record.tables().for_each(|table| populated.add_named(table));
            populated.check()?;
        }
        record.set_batch(batch);
        let (sent, tables) = record.counts();
        hold_all(&mut self.held, record.pfns());
        if let Some(verify) = &mut self.verify {
            let is_sent = |answer: &Answer| !matches!(answer, Answer::Deferred(_));
            let sent = pages.iter().zip(&answers[first..]).filter(|(_, answer)| is_sent(answer));
            sent.for_each(|(page, _)| verify.add(page.pfn, page.mfn, page.kind));
        }
        self.line.put(record, pages.len() < FEW_PAGES)?;
        self.counts.pages += sent;
        self.counts.tables += tables;
        Ok(())
    }

    fn frame_list(&mut self, list: FrameList<'_>) -> Result<(), PortError> {
        self.list.take(&list)?;
        self.write_list(false)
    }

    fn gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        Ok(self.write_absent(pfns)?)
    }

    fn note_gone(&mut self, pfns: &[Pfn]) -> Result<(), PortError> {
        hold_all(&mut self.churn.pfns, pfns.iter().copied());
        Ok(self.write_absent(pfns)?)
    }

    fn returned(&mut self, into: &mut Vec<Pfn>) -> Result<(), PortError> {
        into.append(&mut self.line.take_lost());
        Ok(())
    }

    fn settled(&mut self, view: &dyn TableView) -> Result<(), PortError> {
        self.tail.read(view)?;
        match &mut self.verify {
            Some(verify) => verify.read_tables(&mut self.pages, view),
            None => Ok(()),
        }
    }

    fn consistent(&mut self) -> Result<(), PortError> {
        self.write_list(true)?;
        if let Some(verify) = self.verify.take() {
            let held = |pfn| self.held.get(pfn);
            verify.write(&mut self.pages, held, &mut *self.line.writer()?)?;
        }
        let mut writer = self.line.writer()?;
        if writer.is_broken() {
            return Err("the stream broke off before".into());
        }
        let tail = &mut self.tail;
        writer.at_once(|writer| tail.write(writer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use p2mtrack::frame::Entry;
    use p2mtrack::port::MapFault;
    use p2mtrack::table::{PTE_PRESENT, Resolved};

    use crate::header::{DOMAIN_HEADER_BYTES, IMAGE_HEADER_BYTES};
    use crate::reader::Reader;
    use crate::record::RecordKind;
    use crate::sink::Piece;

    /// The frame of pfn `p` is `p + 100`, and every word of it `p`; frame 7 can't be mapped.
    struct Frames;

    struct Batch(Vec<Result<Box<[AtomicU64; 512]>, MapFault>>);

    impl Pages for Frames {
        type Batch = Batch;

        fn map(&mut self, frames: &[Mfn]) -> Result<Batch, PortError> {
            let page = |word| Box::new(std::array::from_fn(|_| AtomicU64::new(word)));
            let map = |&Mfn(mfn)| match mfn {
                7 => Err(MapFault::NotOwned),
                _ => Ok(page(mfn - 100)),
            };
            Ok(Batch(frames.iter().map(map).collect()))
        }
    }

    impl PageBatch for Batch {
        fn page(&self, index: usize) -> Result<GuestLeaf<'_>, MapFault> {
            self.0[index].as_ref().map(|page| GuestLeaf::from_atomics(page)).map_err(|&f| f)
        }
    }

    struct NoTail;

    impl<S: Sink> Tail<S> for NoTail {
        fn write(&mut self, _: &mut Writer<S>) -> Result<(), PortError> {
            Ok(())
        }
    }

    /// Names the frame's own pfn.
    struct View;

    impl TableView for View {
        fn width(&self) -> Width {
            Width::W64
        }
        fn resolve(&self, _: Pfn, mfn: Mfn) -> Resolved {
            if mfn.0 == 99 { Resolved::Foreign } else { Resolved::Pfn(Pfn(mfn.0 + 1000)) }
        }
        fn is_compat_m2p(&self, _: Mfn) -> bool {
            false
        }
    }

    /// Takes a record when it is told to; fails when it is told so, and from then on.
    struct Told {
        told: Receiver<bool>,
        bytes: Vec<u8>,
    }

    impl Sink for Told {
        fn write(&mut self, pieces: &mut dyn Iterator<Item = Piece<'_>>) -> io::Result<()> {
            if self.told.recv().expect("told") {
                return self.bytes.write(pieces);
            }
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    fn page(pfn: u64, kind: FrameType) -> Page {
        let mfn = Mfn(pfn + 100);
        Page { pfn: Pfn(pfn), mfn, entry: Entry::frame(mfn), kind }
    }

    fn data(pfns: impl IntoIterator<Item = u64>) -> Vec<Page> {
        pfns.into_iter().map(|pfn| page(pfn, FrameType::Data)).collect()
    }

    type Slow = StreamTransport<Frames, Told, NoTail>;

    /// Pages of a batch that goes through the thread.
    const FULL: u64 = QUERY_FRAMES_MAX as u64;

    /// A transport whose sink is told what to do. The list covers 1,024 pfns.
    fn slow() -> (Slow, Sender<bool>) {
        let (tell, told) = channel();
        tell.send(true).expect("told");
        let writer = Writer::new(Told { told, bytes: Vec::new() });
        let mut transport = StreamTransport::new(writer, Frames, NoTail, Width::W64)
            .with_thread()
            .expect("a thread");
        let leaves = [Some(Pfn(1)), Some(Pfn(2))];
        let list = FrameList { width: Width::W64, pfn_count: 1024, leaves: &leaves };
        transport.frame_list(list).expect("written");
        (transport, tell)
    }

    fn send(transport: &mut Slow, pages: &[Page]) -> Result<Vec<Answer>, PortError> {
        let mut answers = Vec::new();
        transport.send(pages, &View, &mut answers).map(|()| answers)
    }

    #[test]
    fn pfns_that_lost_their_frame_wait_for_a_stock_receiver_that_gives_none_back() {
        let writer = Writer::new(Vec::new());
        let transport = StreamTransport::new(writer, Frames, NoTail, Width::W64);
        let mut transport = transport.for_stock(4);
        let leaves = [Some(Pfn(1)), Some(Pfn(2))];
        let list = FrameList { width: Width::W64, pfn_count: 1024, leaves: &leaves };
        transport.frame_list(list).expect("written");
        let send = |transport: &mut StreamTransport<_, _, _>, pfns: &[u64]| {
            let mut answers = Vec::new();
            let sent = transport.send(&data(pfns.iter().copied()), &View, &mut answers);
            sent.map(|()| answers.iter().map(|answer| matches!(answer, Answer::Accepted)).collect())
        };
        let all: Vec<bool> = send(&mut transport, &[3, 4, 5]).expect("sent");
        assert_eq!(all, [true; 3]);
        transport.note_gone(&[Pfn(4), Pfn(5), Pfn(6)]).expect("written");
        assert!(transport.leaked().eq([Pfn(4), Pfn(5)]), "6 was never sent");
        // Two of the three wait; in the next round, as many again.
        for _ in 0..2 {
            transport.keep_for_later(2);
            let some: Vec<bool> = send(&mut transport, &[4, 5, 6]).expect("sent");
            assert_eq!(some, [false, false, true]);
        }
        transport.keep_for_later(0);
        assert_eq!(send(&mut transport, &[4, 5]).expect("sent"), [true; 2]);
        assert_eq!(transport.leaked().count(), 0);
        let refused = send(&mut transport, &[8]).expect_err("a fifth pfn");
        assert!(refused.is::<crate::populated::TooMany>(), "{refused}");
    }

    /// The pfns in a stream's PAGE_DATA records, and the first word of each page.
    fn sent(bytes: &[u8]) -> Vec<(u64, u64)> {
        let mut reader = Reader::new(bytes);
        let mut found = Vec::new();
        while reader.offset() < bytes.len() as u64 {
            let header = reader.record_header().expect("a record");
            if header.number != 1 {
                reader.skip("a body", header.length.into()).expect("a body");
                continue;
            }
            let mut words = Vec::new();
            let mut head = [0; 8];
            reader.fill("a count", &mut head).expect("a count");
            reader
                .words(usize::from(head[0]) | usize::from(head[1]) << 8, &mut words)
                .expect("words");
            for word in words {
                let mut page = Leaf::default();
                if word.kind().is_some_and(WordKind::has_page) {
                    reader.table(&mut page).expect("a page");
                }
                found.push((word.pfn().0, page.words[0]));
            }
        }
        found
    }

    #[test]
    fn the_next_batch_is_mapped_while_one_is_written() {
        let (mut transport, tell) = slow();
        // Nothing is written yet, and two batches are taken over.
        for first in [0, FULL] {
            let answers = send(&mut transport, &data(first..first + FULL)).expect("taken over");
            assert!(answers.iter().all(|answer| matches!(answer, Answer::Accepted)));
        }
        [true; 2].into_iter().for_each(|go| tell.send(go).expect("told"));
        let bytes = transport.with_writer(|writer| writer.sink().bytes.clone()).expect("written");
        assert_eq!(sent(&bytes), (0..2 * FULL).map(|pfn| (pfn, pfn)).collect::<Vec<_>>());
        assert_eq!(transport.counts(), Counts { pages: 2 * FULL, lists: 1, ..Counts::default() });
    }

    #[test]
    fn what_a_thread_could_not_send_is_returned_and_the_error_is_told_once() {
        let (mut transport, tell) = slow();
        [true, false].into_iter().for_each(|go| tell.send(go).expect("told"));
        for first in [0, FULL] {
            send(&mut transport, &data(first..first + FULL)).expect("taken over");
        }
        let mut lost = Vec::new();
        transport.returned(&mut lost).expect("waited for");
        lost.sort_unstable();
        assert_eq!(lost, (FULL..2 * FULL).map(Pfn).collect::<Vec<_>>());
        transport.returned(&mut lost).expect("nothing more");
        assert_eq!(lost.len(), FULL as usize);
        let told = send(&mut transport, &data(0..1)).expect_err("the cause").to_string();
        assert!(told.contains("no storage space"), "{told}");
        transport.consistent().expect_err("a batch is missing");
        transport.gone(&[Pfn(1)]).expect_err("the stream is broken");
    }

    #[test]
    fn a_consistent_point_waits_for_what_is_under_way() {
        let (mut transport, tell) = slow();
        tell.send(false).expect("told");
        send(&mut transport, &data(0..FULL)).expect("taken over");
        transport.consistent().expect_err("a batch was not written");
        let mut lost = Vec::new();
        transport.returned(&mut lost).expect("waited for");
        assert_eq!(lost.len(), FULL as usize);
    }

    #[test]
    fn a_small_batch_is_written_at_once_if_nothing_is_under_way() {
        let (mut transport, tell) = slow();
        tell.send(true).expect("told");
        send(&mut transport, &data(10_000..10_004)).expect("written");
        let bytes = transport.line.lock().sink().bytes.clone(); // nothing is waited for
        assert_eq!(sent(&bytes), (10_000..10_004).map(|pfn| (pfn, pfn)).collect::<Vec<_>>());
        tell.send(false).expect("told");
        send(&mut transport, &data(10_004..10_005)).expect_err("its own fault");
        let mut lost = Vec::new();
        transport.returned(&mut lost).expect("nothing was taken over");
        assert_eq!(lost, []);
    }

    #[test]
    fn a_transport_that_is_dropped_waits_for_its_thread() {
        let (mut transport, tell) = slow();
        send(&mut transport, &data(0..FULL)).expect("taken over");
        tell.send(true).expect("told");
        drop(transport);
        tell.send(true).expect_err("the sink is gone");
    }

    #[test]
    fn each_page_has_its_answer_and_tables_are_sent_from_the_copy() {
        let mut transport =
            StreamTransport::new(Writer::new(Vec::new()), Frames, NoTail, Width::W64);
        let leaves = [Some(Pfn(1))];
        let list = FrameList { width: Width::W64, pfn_count: 512, leaves: &leaves };
        transport.frame_list(list).expect("written");
        let table = FrameType::Table { level: 1, pinned: false };
        let present = (55 << 12 | PTE_PRESENT, 99 << 12 | PTE_PRESENT);
        let unmapped = Page { mfn: Mfn(7), ..page(9, FrameType::Data) };
        // Every word of a frame is its pfn: a table whose words are PTEs.
        let at = |pfn: u64| Page { mfn: Mfn(pfn + 100), ..page(20, table) };
        let pages = [page(5, FrameType::Data), unmapped, at(present.0), at(present.1)];
        let mut answers = Vec::new();
        transport.send(&pages, &View, &mut answers).expect("written");
        assert!(matches!(
            answers[..],
            [
                Answer::Accepted,
                Answer::Deferred(Deferral::MapFailed(MapFault::NotOwned)),
                Answer::Accepted,
                Answer::Deferred(Deferral::Table(_)),
            ]
        ));
        let bytes = transport.with_writer(|writer| writer.sink().clone()).expect("written");
        assert_eq!(sent(&bytes), [(5, 5), (20, 1055 << 12 | PTE_PRESENT)]);
        assert_eq!(transport.counts(), Counts { pages: 2, tables: 1, lists: 1, absent: 0 });
        assert!(bytes.len() > IMAGE_HEADER_BYTES + DOMAIN_HEADER_BYTES);
    }

    /// The words' sum, each at its place.
    fn sum(page: &Leaf) -> u64 {
        page.words.iter().fold(0, |sum: u64, word| sum.rotate_left(1).wrapping_add(*word))
    }

    /// A page that another thread writes all the time.
    struct Restless(std::sync::Arc<[AtomicU64; 512]>);

    impl Pages for Restless {
        type Batch = Self;

        fn map(&mut self, _: &[Mfn]) -> Result<Self, PortError> {
            Ok(Self(std::sync::Arc::clone(&self.0)))
        }
    }

    impl PageBatch for Restless {
        fn page(&self, _: usize) -> Result<GuestLeaf<'_>, MapFault> {
            Ok(GuestLeaf::from_atomics(&self.0))
        }
    }

    #[test]
    fn a_copy_is_sent_as_it_was_answered_for() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let words = std::sync::Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (page_words, over) = (std::sync::Arc::clone(&words), &is_over);
            scope.spawn(move || {
                // ORDER: words and the flag are each used by themselves
                for count in (1..).take_while(|_| !over.load(Ordering::Relaxed)) {
                    page_words.iter().for_each(|word| word.store(count, Ordering::Relaxed));
                }
            });
            let mut transport =
                StreamTransport::new(Writer::new(Vec::new()), Restless(words), NoTail, Width::W64)
                    .copying(sum);
            let mut answers = Vec::new();
            for _ in 0..200 {
                let pages = data([1, 2, 3]);
                transport.send(&pages, &View, &mut answers).expect("written");
            }
            is_over.store(true, Ordering::Relaxed);
            let bytes = transport.with_writer(|w| w.sink().clone()).expect("written");
            // 8 bytes of header, 8 of count, three words.
            let records = bytes.chunks_exact(40 + 3 * 4096);
            let pages = records.flat_map(|record| record[40..].chunks_exact(4096));
            let sums = pages.map(|page| {
                let mut copy = Leaf::default();
                bytemuck::cast_slice_mut(&mut copy.words).copy_from_slice(page);
                sum(&copy)
            });
            let told = answers.iter().map(|answer| match answer {
                Answer::AcceptedCopy { digest } => *digest,
                other => panic!("{other:?}"),
            });
            assert!(sums.eq(told));
        });
    }

    #[test]
    fn behind_verify_comes_each_page_once_more_but_none_of_a_pfn_that_is_gone() {
        let writer = Writer::new(Vec::new());
        let mut transport = StreamTransport::new(writer, Frames, NoTail, Width::W64).verified();
        let leaves = [Some(Pfn(1))];
        let list = FrameList { width: Width::W64, pfn_count: 500, leaves: &leaves };
        transport.frame_list(list).expect("written");
        let mut pages = data([1, 2, 3]);
        pages.push(page(4, FrameType::Table { level: 1, pinned: true }));
        transport.send(&pages, &View, &mut Vec::new()).expect("written");
        transport.settled(&View).expect("nothing names a frame");
        transport.gone(&[Pfn(2)]).expect("written");
        let before = transport.bytes() as usize;
        transport.consistent().expect("written");
        let bytes = transport.with_writer(|writer| writer.sink().clone()).expect("written");
        let first = sent(&bytes[..before]);
        let again = sent(&bytes[before..]);
        assert_eq!(bytes[before..before + 4], (RecordKind::Verify as u32).to_le_bytes());
        let still: Vec<_> = first.iter().copied().filter(|&(pfn, _)| pfn != 2).collect();
        assert_eq!((first.len(), still.len()), (5, 3), "four pages, and a word without one");
        assert_eq!(again, still);
    }

    #[test]
    fn pfns_past_the_list_are_not_said_gone() {
        let mut transport =
            StreamTransport::new(Writer::new(Vec::new()), Frames, NoTail, Width::W64);
        transport.gone(&[Pfn(3)]).expect("nothing to say");
        let leaves = [Some(Pfn(1))];
        let list = FrameList { width: Width::W64, pfn_count: 500, leaves: &leaves };
        transport.frame_list(list).expect("written");
        transport.note_gone(&[Pfn(499), Pfn(500)]).expect("written");
        let bytes = transport.with_writer(|writer| writer.sink().clone()).expect("written");
        assert_eq!(sent(&bytes), [(499, 0)]);
    }
}
