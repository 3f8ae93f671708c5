// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a migration stream costs in the engine: pages that are sent, page tables that are
//! normalised.
//! Not here: writing to a descriptor, which is the kernel's.
//! Units: pages of a batch; PTEs of a table.
//! Threads: one.
//! Source: `StreamTransport`; a guest of 1 GiB whose frames lie in runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use p2mtrack::config::Config;
use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::{FRAME_WORDS, Leaf};
use p2mtrack::migration::Migration;
use p2mtrack::port::{Answer, FrameList, MapFault, Page, PortError, Ports, Transport};
use p2mtrack::table::{Resolved, TableCopy, TableView};
use p2mtrack_bench::plain::{Order, PlainGuest, PlainPorts};
use p2mtrack_stream::pages::{PageBatch, Pages};
use p2mtrack_stream::sink::{Piece, Sink};
use p2mtrack_stream::transport::{StreamTransport, Tail};
use p2mtrack_stream::writer::Writer;

/// The page that every frame has.
#[derive(Debug)]
struct OnePage(Arc<[AtomicU64; FRAME_WORDS]>);

impl Pages for OnePage {
    type Batch = Self;

    fn map(&mut self, _: &[Mfn]) -> Result<Self, PortError> {
        Ok(Self(Arc::clone(&self.0)))
    }
}

impl PageBatch for OnePage {
    fn page(&self, _: usize) -> Result<GuestLeaf<'_>, MapFault> {
        Ok(GuestLeaf::from_atomics(&self.0))
    }
}

/// A sink that only counts pieces.
#[derive(Debug, Default)]
struct Counter(u64);

impl Sink for Counter {
    fn write(&mut self, pieces: &mut dyn Iterator<Item = Piece<'_>>) -> io::Result<()> {
        pieces.for_each(|_| self.0 += 1);
        Ok(())
    }
}

/// Nothing is behind the pages.
#[derive(Debug)]
struct NoTail;

impl Tail<Counter> for NoTail {
    fn write(&mut self, _: &mut Writer<Counter>) -> Result<(), PortError> {
        Ok(())
    }
}

/// No page is a table.
struct NoTables;

impl TableView for NoTables {
    fn width(&self) -> Width {
        Width::W64
    }

    fn resolve(&self, _: Pfn, _: Mfn) -> Resolved {
        Resolved::Unresolved
    }

    fn is_compat_m2p(&self, _: Mfn) -> bool {
        false
    }
}

/// A transport and the batch that it sends.
#[derive(Debug)]
pub(crate) struct Sending {
    transport: StreamTransport<OnePage, Counter, NoTail>,
    batch: Vec<Page>,
    answers: Vec<Answer>,
}

impl Sending {
    /// Batches of so many pages.
    pub(crate) fn new(pages: u64) -> Self {
        let page = OnePage(Arc::new(std::array::from_fn(|_| AtomicU64::new(0))));
        let writer = Writer::new(Counter::default());
        let mut transport = StreamTransport::new(writer, page, NoTail, Width::W64);
        let leaves = [Some(Pfn(1))];
        let list = FrameList { width: Width::W64, pfn_count: pages, leaves: &leaves };
        transport.frame_list(list).expect("counted");
        let page = |pfn: u64| {
            let mfn = Mfn(pfn + 1);
            Page { pfn: Pfn(pfn), mfn, entry: Entry::frame(mfn), kind: FrameType::Data }
        };
        let batch = (0..pages).map(page).collect();
        Self { transport, batch, answers: Vec::with_capacity(pages as usize) }
    }

    /// Sends the batch. Returns the pages that were accepted.
    pub(crate) fn send(&mut self) -> u64 {
        self.answers.clear();
        self.transport.send(&self.batch, &NoTables, &mut self.answers).expect("counted");
        self.answers.len() as u64
    }
}

/// Pfns of the guest whose page tables are normalised.
const PFNS: u64 = 1 << 18;

/// A migration after its first copy, and a page table.
#[derive(Debug)]
pub(crate) struct Normalising {
    migration: Migration,
    ports: PlainPorts<'static>,
    source: TableCopy,
    copy: [TableCopy; 1],
}

impl Normalising {
    /// A full table over pfns that follow one another.
    pub(crate) fn new() -> Self {
        // Lives as long as the program, which measures it and ends.
        let guest: &'static PlainGuest = Box::leak(Box::new(PlainGuest::new(PFNS, Order::Runs)));
        let mut ports = PlainPorts::new(guest);
        let mut nobody = ();
        let mut lent = ports.lend(&mut nobody);
        let mut migration = Migration::start(Config::default(), &mut lent).expect("starts");
        migration.round(&mut lent).expect("the guest does nothing");
        let mut words = Leaf::default();
        for (word, pfn) in words.words.iter_mut().zip(1024..) {
            *word = guest.frame(pfn).0 << 12 | 0x67;
        }
        let source = TableCopy::new(Pfn(0), 1, words);
        let copy = [source.clone()];
        Self { migration, ports, source, copy }
    }

    /// Normalises the table. Returns the pfn that its last PTE then names.
    pub(crate) fn normalise(&mut self) -> u64 {
        self.copy[0].words.words.copy_from_slice(&self.source.words.words);
        let mut nobody = ();
        let Ports { mut guest, .. } = self.ports.lend(&mut nobody);
        self.migration.tracker().view(&mut guest).normalise_all(&mut self.copy);
        assert_eq!(self.copy[0].fault, None);
        self.copy[0].words.words[FRAME_WORDS - 1] >> 12
    }
}
