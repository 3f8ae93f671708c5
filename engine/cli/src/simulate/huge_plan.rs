// SPDX-License-Identifier: MIT OR Apache-2.0
//! A run of a huge guest as it was asked for: size, shape, rounds, and the command that repeats it.
//! Not here: the options (`args`), the run (`huge`).
//! Units: pages of 4 KiB; rounds between the first copy and the suspend.
//! Threads: plain values.
//! Source: options are an interface: see `--help`.

use std::path::PathBuf;

use p2mtrack::frame::{FRAME_BYTES, Width};
use p2mtrack_synthetic::TransportKind;
use p2mtrack_synthetic::huge::{PFNS_MAX, Shape};

use super::args::{
    GUEST_BYTES_MIN, P2mName, SHOW_GUEST_BYTES, SimulateArgs, TrackerName, WidthName,
};
use crate::size::in_words;

/// Default number of live rounds.
const ROUNDS: u64 = 4;
/// The largest guest.
const HUGE_BYTES_MAX: u64 = PFNS_MAX * FRAME_BYTES as u64;

/// One run as it was asked for.
pub(super) struct Plan {
    pub(super) pages: u64,
    pub(super) shape: Shape,
    pub(super) seed: u64,
    pub(super) rounds: u64,
    pub(super) capture: Option<PathBuf>,
    options: String,
}

impl Plan {
    pub(super) fn new(args: &SimulateArgs) -> Result<Self, String> {
        refuse(args)?;
        let bytes = args.guest_size.unwrap_or(SHOW_GUEST_BYTES);
        if !(GUEST_BYTES_MIN..=HUGE_BYTES_MAX).contains(&bytes) {
            return Err("--guest-size of a huge guest is from 8MiB to 8TiB".to_owned());
        }
        let shape = args.huge.shape.unwrap_or(Shape::Superpage);
        if (shape == Shape::Real) != args.huge.capture.is_some() {
            return Err("--shape real takes --capture FILE, and no other shape does".to_owned());
        }
        let leaf_bytes = (Width::W64.entries() * FRAME_BYTES) as u64;
        let pages = bytes.next_multiple_of(leaf_bytes) / FRAME_BYTES as u64;
        let rounds = args.huge.rounds.unwrap_or(ROUNDS);
        let threads = args.threads.map(|threads| format!(" --threads {threads}"));
        let options = threads.unwrap_or_default() + &args.compare.options();
        let capture = args.huge.capture.clone();
        Ok(Self { pages, shape, seed: args.seed, rounds, capture, options })
    }

    /// The guest's memory.
    pub(super) const fn bytes(&self) -> u64 {
        self.pages * FRAME_BYTES as u64
    }

    /// The command that repeats the run.
    pub(super) fn command(&self) -> String {
        let (size, shape) = (in_words(self.bytes()).replace(' ', ""), self.shape);
        let capture = self.capture.as_ref().map(|path| format!(" --capture {}", path.display()));
        format!(
            "p2mtrack simulate --guest-size {size} --shape {shape}{} --seed {} --rounds {}{}",
            capture.unwrap_or_default(),
            self.seed,
            self.rounds,
            self.options
        )
    }
}

/// Refuses the first option that a huge guest does not support.
fn refuse(args: &SimulateArgs) -> Result<(), String> {
    let given = [
        ("--scenario", args.scenario.is_some()),
        ("--seeds", args.seeds.is_some()),
        ("--width 32", args.width == WidthName::W32),
        ("--p2m tree", args.p2m == Some(P2mName::Tree)),
        ("--tracker upstream", args.tracker.is_some_and(TrackerName::has_upstream)),
        ("--checkpoints", args.checkpoints > 0),
        ("--faults", args.faults.is_some()),
        ("--steps", args.steps.is_some()),
        ("--programs", args.programs.is_some()),
        ("--no-plain-writes", args.no_plain_writes),
        ("--story", args.story),
        ("--record", args.record.is_some()),
        ("--transport stream", args.transport() == TransportKind::Stream),
    ];
    given.into_iter().find(|(_, given)| *given).map_or(Ok(()), |(option, _)| {
        Err(format!("a huge guest (--shape, or more than 256GiB) can't have {option}"))
    })
}
