// SPDX-License-Identifier: MIT OR Apache-2.0
//! A round in Rust: the steps, with pages taken and accepted.
//! Not here: the guest (`fixture`).
//! Units: pages.
//! Threads: the caller's.
//! Source: `p2mtrack::migration`.

use p2mtrack::config::Config;
use p2mtrack::frame::{FrameType, Mfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{Answer, FrameTypes, Guest, PortError, QUERY_FRAMES_MAX};
use p2mtrack::report::Stage as Kind;
use p2mtrack::table::normalise;
use p2mtrack::tracker::Tracker;
use p2mtrack_synthetic::huge::ports::GuestPorts;

use crate::fixture::Fixture;
use crate::{Round, Side};

/// The side.
pub(crate) struct InRust<'s> {
    fixture: &'s Fixture,
    ports: GuestPorts<'static>,
    tracker: Tracker,
    second: bool,
}

impl<'s> InRust<'s> {
    /// Makes the side, and the first copy.
    pub(crate) fn new(fixture: &'s Fixture) -> Self {
        let tracker = Tracker::new(Config::default(), Width::W64).expect("no threads");
        let mut side = Self { fixture, ports: fixture.ports(), tracker, second: false };
        side.fixture.change(false);
        side.fixture.clean(&mut []); // the first round reads no log
        side.round();
        side
    }
}

impl Side for InRust<'_> {
    fn prepare(&mut self, round: Round) {
        match round {
            Round::Quiet => {}
            Round::Written => self.fixture.write(),
            Round::Busy => {
                self.second = !self.second;
                self.fixture.change(self.second);
            }
        }
    }

    fn round(&mut self) -> u64 {
        let Self { fixture, ports, tracker, .. } = self;
        let mut observer = ();
        let lent = ports.lend(&mut observer).guest;
        let mut types = Types(fixture);
        let mut guest = Guest { m2p: fixture, types: &mut types, ..lent };
        let mut buffer = tracker.begin(&mut guest, Kind::Live).expect("begins");
        let read = buffer.pfns();
        if read > 0 {
            fixture.clean(buffer.words_mut());
        }
        tracker.scan(&mut guest, read).expect("scans");
        let mut pages = 0;
        loop {
            let taken = tracker.take(&mut guest).expect("takes").len();
            if tracker.frame_list_changed() {
                std::hint::black_box(tracker.frame_list());
                tracker.frame_list_sent();
            }
            if taken == 0 {
                break;
            }
            pages += taken as u64;
            normalise_tables(tracker, &mut guest);
            let answers = (0..taken).map(|_| Answer::Accepted);
            tracker.answer(&mut guest, answers).expect("answers");
        }
        tracker.end(&mut guest).expect("ends");
        pages
    }
}

/// The page tables of the first copy; there are none later. A sender checks each page for them.
fn normalise_tables(tracker: &Tracker, guest: &mut Guest<'_>) {
    for page in tracker.batch() {
        let FrameType::Table { level, .. } = page.kind else { continue };
        let mut table = Leaf::default();
        assert_eq!(guest.p2m.read(page.mfn, &mut table), Ok(()));
        let done = normalise(page.pfn, level, &mut table, &tracker.view(guest));
        assert_eq!(done, Ok(()));
    }
}

/// The fixture's type words as the port's types.
struct Types<'s>(&'s Fixture);

impl FrameTypes for Types<'_> {
    fn query(&mut self, frames: &[Mfn], types: &mut [FrameType]) -> Result<(), PortError> {
        let (mut mfns, mut words) = ([0; QUERY_FRAMES_MAX], [0; QUERY_FRAMES_MAX]);
        for (to, mfn) in mfns.iter_mut().zip(frames) {
            *to = mfn.0;
        }
        self.0.type_words(&mfns[..frames.len()], &mut words);
        for (kind, &word) in types.iter_mut().zip(&words) {
            *kind = FrameType::from_pfinfo(word).ok_or("no type")?;
        }
        Ok(())
    }
}
