// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sink that takes so many bytes a second, if it is asked to.
//! Not here: where they go.
//! Units: bytes a second; a record that is written is paid for by a pause behind it.
//! Threads: one writer; another thread may cancel, which ends a pause.
//! Source: own. What was not used is not saved up: after a pause of the writer's there is no burst.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::sink::{Piece, Sink};

/// A sink with a pace.
#[derive(Debug)]
pub struct Paced<S> {
    sink: S,
    /// Bytes a second; `None` is as fast as it goes.
    rate: Option<u64>,
    /// When what was written is paid for.
    free: Instant,
    writing: Duration,
    cancel: Arc<Cancel>,
}

impl<S> Paced<S> {
    /// A sink that takes `rate` bytes a second, or as many as it can.
    pub fn new(sink: S, rate: Option<u64>, cancel: Arc<Cancel>) -> Self {
        Self { sink, rate, free: Instant::now(), writing: Duration::ZERO, cancel }
    }

    /// From now on as fast as it goes.
    pub const fn hurry(&mut self) {
        self.rate = None;
    }

    /// How long the sink took for what it was given, pauses apart.
    pub const fn writing(&self) -> Duration {
        self.writing
    }

    /// The sink: what it is given itself is not paid for.
    pub const fn inner_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// Ends, and returns the sink.
    pub fn into_sink(self) -> S {
        self.sink
    }

    /// Pays for so many bytes that were written from `begun` on. A cancellation ends the pause; the
    /// next write fails then.
    fn pay(&mut self, bytes: u64, begun: Instant) -> io::Result<()> {
        let Some(rate) = self.rate else { return Ok(()) };
        let price = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        self.free = self.free.max(begun) + price;
        self.cancel.wait(self.free.saturating_duration_since(Instant::now()))?;
        Ok(())
    }
}

impl<S: Sink> Sink for Paced<S> {
    fn write(&mut self, pieces: &mut dyn Iterator<Item = Piece<'_>>) -> io::Result<()> {
        let (begun, mut bytes) = (Instant::now(), 0);
        let written = self.sink.write(&mut pieces.inspect(|piece| bytes += piece.bytes() as u64));
        self.writing += begun.elapsed();
        written?;
        self.pay(bytes, begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paced(rate: Option<u64>) -> (Paced<Vec<u8>>, Arc<Cancel>) {
        let cancel = Arc::new(Cancel::new().expect("a descriptor"));
        (Paced::new(Vec::new(), rate, Arc::clone(&cancel)), cancel)
    }

    fn write(sink: &mut Paced<Vec<u8>>, bytes: usize) {
        let bytes = vec![7; bytes];
        sink.write(&mut std::iter::once(Piece::Own(&bytes))).expect("memory");
    }

    #[test]
    fn bytes_are_paid_for_with_time() {
        let (mut sink, _) = paced(Some(1_000_000));
        let begun = Instant::now();
        (0..5).for_each(|_| write(&mut sink, 10_000));
        assert!(begun.elapsed() >= Duration::from_millis(50));
        // A sink that is slow itself has paid with that.
        std::thread::sleep(Duration::from_millis(20));
        let begun = Instant::now();
        write(&mut sink, 30_000);
        assert!(begun.elapsed() >= Duration::from_millis(30), "nothing is saved up");
        assert!(sink.writing() < Duration::from_millis(50), "pauses are no writing");
        sink.hurry();
        write(&mut sink, 99_970_000);
        assert_eq!(sink.into_sink().len(), 100_050_000);
    }

    #[test]
    fn a_cancellation_ends_a_pause() {
        let (mut sink, cancel) = paced(Some(1)); // a day for what follows
        let ended = std::thread::spawn(move || write(&mut sink, 86_400));
        cancel.cancel();
        ended.join().expect("ended");
    }
}
