// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way of records to the writer: at once, or through a thread that writes one while the next is
//! made.
//! Not here: what is in them (`page_record`).
//! Units: records in order.
//! Threads: the owner's, and at most one that writes.
//! Source: own. A record that was not written is told by its pfns: they are owed again.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use p2mtrack::frame::Pfn;

use crate::page_record::PageRecord;
use crate::pages::PageBatch;
use crate::sink::Sink;
use crate::writer::Writer;

/// Records that wait for the writing thread: one that is written, and the next.
const WAITING_MAX: usize = 1;

/// A record that came back, and whether it was written.
type Done<B> = (PageRecord<B>, io::Result<()>);

/// The way to a writer.
#[derive(Debug)]
pub(crate) struct Line<B, S> {
    writer: Arc<Mutex<Writer<S>>>,
    thread: Option<WriterThread<B>>,
    /// Records whose memory is used again.
    unused: Vec<PageRecord<B>>,
    /// Pfns of records that were taken over, and not written.
    lost: Vec<Pfn>,
    /// Why.
    fault: Option<io::Error>,
    /// How long the owner waited for the thread.
    pub(crate) waited: Duration,
}

/// A thread that writes.
#[derive(Debug)]
struct WriterThread<B> {
    records: SyncSender<PageRecord<B>>,
    done: Receiver<Done<B>>,
    /// Records that it has.
    under_way: usize,
    handle: JoinHandle<()>,
}

impl<B: PageBatch, S: Sink> Line<B, S> {
    /// A line that writes at once.
    pub(crate) fn new(writer: Writer<S>) -> Self {
        Self {
            writer: Arc::new(Mutex::new(writer)),
            thread: None,
            unused: Vec::new(),
            lost: Vec::new(),
            fault: None,
            waited: Duration::ZERO,
        }
    }

    /// An empty record.
    pub(crate) fn record(&mut self) -> PageRecord<B> {
        self.unused.pop().unwrap_or_else(PageRecord::new)
    }

    /// Takes a record over. With a thread it may not be written yet. A record of few pages is
    /// written at once if the thread has none: to wake it takes longer.
    ///
    /// # Errors
    /// It, or one before it, was not written: it is not taken over.
    pub(crate) fn put(&mut self, record: PageRecord<B>, has_few_pages: bool) -> io::Result<()> {
        self.collect();
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        match &mut self.thread {
            Some(thread) if !(has_few_pages && thread.under_way == 0) => {
                let begun = Instant::now();
                let sent = thread.records.send(record).map_err(|_| thread_ended());
                self.waited += begun.elapsed();
                sent?;
                thread.under_way += 1;
                self.collect();
                Ok(())
            }
            _ => {
                let written = record.write(&mut self.lock());
                self.take_back(record);
                written
            }
        }
    }

    /// Takes back what the thread is done with.
    fn collect(&mut self) {
        while let Some(done) = self.thread.as_mut().and_then(WriterThread::try_done) {
            self.settle(done);
        }
    }

    /// Waits until everything is written, and lends the writer for other records.
    ///
    /// # Errors
    /// Something was not written.
    pub(crate) fn writer(&mut self) -> io::Result<MutexGuard<'_, Writer<S>>> {
        self.drain();
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(self.lock()),
        }
    }

    /// Waits until everything is written, or not, and takes the pfns of what was not.
    pub(crate) fn take_lost(&mut self) -> Vec<Pfn> {
        self.drain();
        std::mem::take(&mut self.lost)
    }

    /// The writer, for its counts; what is under way may be counted or not.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Writer<S>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&mut self) {
        let begun = Instant::now();
        self.drain_all();
        self.waited += begun.elapsed();
    }

    fn drain_all(&mut self) {
        while let Some(done) = self.thread.as_mut().and_then(WriterThread::wait) {
            match done {
                Ok(done) => self.settle(done),
                Err(fault) => {
                    // What it had is neither written nor known to be lost: nothing may follow.
                    self.lock().break_off();
                    self.fault.get_or_insert(fault);
                    return;
                }
            }
        }
    }

    fn settle(&mut self, (record, written): Done<B>) {
        if let Err(fault) = written {
            self.lost.extend(record.pfns());
            self.fault.get_or_insert(fault);
        }
        self.take_back(record);
    }

    fn take_back(&mut self, mut record: PageRecord<B>) {
        record.clear();
        self.unused.push(record);
    }
}

impl<B: PageBatch + Send + 'static, S: Sink + Send + 'static> Line<B, S> {
    /// From now on records are written by a thread.
    ///
    /// # Errors
    /// There is no thread.
    pub(crate) fn start_thread(&mut self) -> io::Result<()> {
        let (records, incoming) = sync_channel::<PageRecord<B>>(WAITING_MAX);
        // Never full: so many can be under way.
        let (outgoing, done) = sync_channel::<Done<B>>(WAITING_MAX + 2);
        let writer = Arc::clone(&self.writer);
        let write = move || {
            for mut record in incoming {
                let written =
                    record.write(&mut writer.lock().unwrap_or_else(PoisonError::into_inner));
                record.unmap();
                if outgoing.send((record, written)).is_err() {
                    return; // the line is gone
                }
            }
        };
        let handle = std::thread::Builder::new().name("writer".to_owned()).spawn(write)?;
        self.thread = Some(WriterThread { records, done, under_way: 0, handle });
        Ok(())
    }
}

impl<B> WriterThread<B> {
    /// A record that came back, without waiting.
    fn try_done(&mut self) -> Option<Done<B>> {
        let done = self.done.try_recv().ok()?;
        self.under_way -= 1;
        Some(done)
    }

    /// Waits for a record; `None` if none is under way, an error if the thread ended with one.
    fn wait(&mut self) -> Option<io::Result<Done<B>>> {
        if self.under_way == 0 {
            return None;
        }
        let done = self.done.recv().map_err(|_| thread_ended());
        self.under_way -= usize::from(done.is_ok());
        Some(done)
    }
}

fn thread_ended() -> io::Error {
    io::Error::other("the thread that writes has ended")
}

impl<B, S> Drop for Line<B, S> {
    /// Waits for the thread: what was taken over is written, or not, before the sink goes.
    fn drop(&mut self) {
        if let Some(WriterThread { records, done, handle, .. }) = self.thread.take() {
            drop((records, done));
            let _ = handle.join(); // a panic of it was printed
        }
    }
}
