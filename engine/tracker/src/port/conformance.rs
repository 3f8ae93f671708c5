// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conformance: the rules of the ports as checks, in parts. The author of a new back end runs them
//! first.
//! Not here: what the engine does with a port's answers, or with a port that breaks a rule.
//! Units: as in `port`.
//! Threads: the caller's, and one that reads a mapping at the same time.
//! Source: the contracts of the traits in `port`; a rule is named in the error of its check.
//!
//! The guest must be suspended while its parts are checked: [`guest`] runs all of them. [`live`] is
//! for a caller that can have a frame written meanwhile, [`log_dirty`] and [`transport`] for one
//! that has these ports, too.
//!
//! ```
//! use p2mtrack::port::{Guest, conformance};
//! fn my_back_end_conforms(guest: &mut Guest<'_>) {
//!     conformance::guest(guest).unwrap_or_else(|broken| panic!("{broken}"));
//! }
//! ```

use std::fmt;
use std::thread;

use super::{
    Answer, FrameList, FrameTypes, Guest, LOG_DIRTY_LEAF_PFNS, LogBuffer, LogDirty, M2p, MapSlot,
    P2mSource, Page, PortError, QUERY_FRAMES_MAX, Transport, Unlogged,
};
use crate::bitmap::PfnBitmap;
use crate::config::Config;
use crate::error::Error;
use crate::frame::{Claim, Entry, FrameType, Mfn, Pfn, Width};
use crate::guest::GuestLeaf;
use crate::leaf::{FRAME_WORDS, Leaf};
use crate::monitor::Monitor;
use crate::table::TableView;

/// A rule that a port breaks.
#[derive(Debug)]
pub struct Broken {
    /// The trait's name.
    pub port: &'static str,
    /// The rule.
    pub rule: &'static str,
    /// What was seen instead.
    pub seen: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; but {}", self.port, self.rule, self.seen)
    }
}

impl std::error::Error for Broken {}

/// The outcome of a part.
pub type Outcome = Result<(), Broken>;

/// Checks a rule of one port.
fn rule(
    port: &'static str,
    rule: &'static str,
    holds: bool,
    seen: impl FnOnce() -> String,
) -> Outcome {
    if holds { Ok(()) } else { Err(Broken { port, rule, seen: seen() }) }
}

/// Checks that a call succeeds.
fn works<T>(
    port: &'static str,
    call: &'static str,
    result: Result<T, PortError>,
) -> Result<T, Broken> {
    result.map_err(|error| Broken { port, rule: call, seen: error.to_string() })
}

/// All parts of a suspended guest: p2m, m2p, types, unlogged writers, and that the engine can
/// follow its p2m. Each entry of its p2m that is valid and has no tag must name a frame of its own.
///
/// Nothing may be written meanwhile: [`live`] is for a caller that can have a frame written.
///
/// # Errors
/// The first rule that does not hold.
pub fn guest(guest: &mut Guest<'_>) -> Outcome {
    m2p(guest.m2p)?;
    unlogged(guest.unlogged)?;
    let (frames, strange) = frames(guest)?;
    p2m(guest.p2m, guest.m2p, &frames)?;
    rule(
        "M2p",
        "the pfn of a leaf's frame is the one whose entry names it",
        strange.is_none(),
        || format!("{strange:?}"),
    )?;
    many(guest.m2p, &frames)?;
    types(guest.types, guest.m2p, &frames)
}

/// No log: the first round does not read it.
struct NoLog;

impl LogDirty for NoLog {
    fn enable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn disable(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn clean(&mut self, _: LogBuffer<'_>) -> Result<u64, PortError> {
        Err("the first round reads no log".into())
    }
}

/// A frame, and the pfn that the m2p has for it.
type Named = (Mfn, Option<Pfn>);

/// Frames of the guest's pfns and of its leaves, as the engine finds them; and, if there is one, a
/// leaf's frame that the entry of its pfn by the m2p does not name.
fn frames(guest: &mut Guest<'_>) -> Result<(Vec<Mfn>, Option<Named>), Broken> {
    const PORT: &str = "P2mSource";
    let width = guest.p2m.width();
    let found = |error: Error| Broken {
        port: PORT,
        rule: "the engine can follow the p2m of a suspended guest",
        seen: error.to_string(),
    };
    let mut monitor = Monitor::new(Config::default(), width).map_err(found)?;
    let seen = monitor.observe(guest, &mut NoLog, |_, _| ());
    let tracker = monitor.tracker();
    let there = |mfn: &Mfn| mfn.0 < guest.m2p.frames();
    let claim = |pfn: Pfn| tracker.shadow_entry(pfn).claim(width);
    let leaves: Vec<Mfn> = tracker.leaf_frames().iter().copied().filter(there).take(8).collect();
    let named = (0..tracker.pfns()).filter_map(|pfn| match claim(Pfn(pfn)) {
        Claim::Frame(mfn) => Some(mfn).filter(there),
        _ => None,
    });
    let mut frames: Vec<_> = leaves.iter().copied().chain(named.take(64)).collect();
    let strange = leaves.into_iter().map(|mfn| (mfn, guest.m2p.pfn(mfn))).find(|&(mfn, pfn)| {
        pfn.is_none_or(|pfn| pfn.0 >= tracker.pfns() || claim(pfn) != Claim::Frame(mfn))
    });
    monitor.release(guest.p2m);
    let report = seen.map_err(found)?;
    rule(PORT, "the roots of a suspended guest can be followed", !report.p2m_unreadable, || {
        "the walk failed".into()
    })?;
    frames.sort_unstable();
    frames.dedup();
    rule(PORT, "a guest has frames", frames.len() > 1, || format!("{} were found", frames.len()))?;
    Ok((frames, strange))
}

/// The m2p.
///
/// # Errors
/// The first rule that does not hold.
pub fn m2p(m2p: &dyn M2p) -> Outcome {
    const PORT: &str = "M2p";
    let frames = m2p.frames();
    rule(
        PORT,
        "`frames` is the same at every call, and not 0",
        frames > 0 && frames == m2p.frames(),
        || format!("{frames}, then {}", m2p.frames()),
    )?;
    for mfn in [frames, frames + 1, 1 << 52, u64::MAX] {
        let pfn = m2p.pfn(Mfn(mfn));
        rule(PORT, "a frame past the end has no pfn", pfn.is_none(), || {
            format!("{mfn:#x} has {pfn:?}")
        })?;
    }
    Ok(())
}

/// Leaves whose entries are looked up in every way, at most.
const LOOKED_UP_LEAVES_MAX: usize = 256;

/// The m2p looked up for many frames at once, those of a suspended guest: entries of others may
/// change. A port that has these calls from the trait keeps this.
fn many(m2p: &dyn M2p, own: &[Mfn]) -> Outcome {
    const PORT: &str = "M2p";
    // A few past the end, too.
    let past = (0..3).map(|at| Mfn(m2p.frames() + at));
    let frames: Vec<_> = own.iter().copied().chain(past).collect();
    for asked in frames.chunks(FRAME_WORDS) {
        let each: Vec<_> = asked.iter().map(|&mfn| m2p.pfn(mfn)).collect();
        let mut at_once = vec![Some(Pfn(u64::MAX)); asked.len()];
        m2p.pfns(asked, &mut at_once);
        rule(PORT, "`pfns` says what `pfn` does", at_once == each, || {
            format!("another pfn for one of the frames from {} on", asked[0])
        })?;
        for (&mfn, pfn) in asked.iter().zip(&each) {
            let Some(pfn) = *pfn else { continue };
            // As far as own frames and pfns follow one another, and one further.
            let next = |at: u64| Mfn(mfn.0 + at);
            let named = |at: u64| m2p.pfn(next(at)) == Some(Pfn(pfn.0.wrapping_add(at)));
            let run = (1..).find(|&at| !own.contains(&next(at)) || !named(at)).unwrap_or(1);
            let is_further = own.contains(&next(run)) && m2p.is_run(mfn, pfn, run + 1);
            rule(
                PORT,
                "`is_run` says what `pfn` does",
                m2p.is_run(mfn, pfn, run)
                    && !is_further
                    && !m2p.is_run(mfn, Pfn(pfn.0.wrapping_add(1)), 1),
                || format!("a run of {run} frames from {mfn} on, {pfn}"),
            )?;
        }
    }
    Ok(())
}

/// The p2m source of a suspended guest that has these frames, all of them the domain's own.
///
/// # Errors
/// The first rule that does not hold.
pub fn p2m(p2m: &mut dyn P2mSource, m2p: &dyn M2p, frames: &[Mfn]) -> Outcome {
    const PORT: &str = "P2mSource";
    let [first, second] = [p2m.roots(), p2m.roots()];
    let first = works(PORT, "`roots` can be read at any time", first)?;
    let second = works(PORT, "`roots` can be read at any time", second)?;
    rule(PORT, "the roots of a suspended guest do not change", first == second, || {
        format!("{first:?}, then {second:?}")
    })?;
    let held = works(PORT, "`domain_frames` can be asked for", p2m.domain_frames())?;
    rule(PORT, "a domain holds no more frames than the machine has", held <= m2p.frames(), || {
        format!("{held} of {}", m2p.frames())
    })?;
    let mut leaf = Leaf::default();
    for mfn in [m2p.frames(), u64::MAX >> 12, u64::MAX] {
        let read = p2m.read(Mfn(mfn), &mut leaf);
        rule(PORT, "a frame past the machine's end can't be read", read.is_err(), || {
            format!("{mfn:#x} was read")
        })?;
    }
    maps(p2m, m2p, frames)
}

/// Mappings: one answer for each frame, in order. A mapping has the words that `read` gives.
fn maps(p2m: &mut dyn P2mSource, m2p: &dyn M2p, frames: &[Mfn]) -> Outcome {
    const PORT: &str = "P2mSource";
    let mut answers = Vec::new();
    p2m.map(&[], &mut answers);
    rule(PORT, "`map` of nothing answers nothing", answers.is_empty(), || format!("{answers:?}"))?;
    // A frame past the machine's end among the guest's frames.
    let mut asked = frames.to_vec();
    asked.insert(1, Mfn(m2p.frames()));
    p2m.map(&asked, &mut answers);
    rule(PORT, "`map` answers once for each frame", answers.len() == asked.len(), || {
        format!("{} answers for {} frames", answers.len(), asked.len())
    })?;
    let mapped: Vec<_> = asked.iter().copied().zip(&answers).collect();
    for &(mfn, answer) in &mapped {
        let there = mfn.0 < m2p.frames();
        rule(
            PORT,
            "`map` maps the domain's frames and no others, in their order",
            answer.is_ok() == there,
            || format!("{mfn}: {answer:?}"),
        )?;
    }
    let held: Vec<(Mfn, MapSlot)> =
        mapped.iter().filter_map(|&(mfn, answer)| Some((mfn, (*answer).ok()?))).collect();
    show(p2m, &held)?;
    // Some are unmapped and mapped again: these and the others show the right frames.
    let (unmapped, kept): (Vec<_>, Vec<_>) = (0..).zip(&held).partition(|(n, _)| n % 2 == 0);
    let slots =
        |part: &[(i32, &(Mfn, MapSlot))]| part.iter().map(|(_, held)| held.1).collect::<Vec<_>>();
    p2m.unmap(&slots(&unmapped));
    p2m.unmap(&[]);
    let again: Vec<Mfn> = unmapped.iter().map(|(_, held)| held.0).collect();
    let mut answers = Vec::new();
    p2m.map(&again, &mut answers);
    let anew: Vec<_> = again.into_iter().zip(answers.into_iter().flatten()).collect();
    rule(PORT, "an unmapped frame can be mapped again", anew.len() == unmapped.len(), || {
        format!("{} of {} frames", anew.len(), unmapped.len())
    })?;
    let all: Vec<_> = kept.iter().map(|(_, held)| **held).chain(anew).collect();
    let shown = show(p2m, &all);
    p2m.unmap(&all.iter().map(|held| held.1).collect::<Vec<_>>());
    shown
}

/// Mappings show what `read` gives, to more than one thread at once.
fn show(p2m: &mut dyn P2mSource, held: &[(Mfn, MapSlot)]) -> Outcome {
    const PORT: &str = "P2mSource";
    let copy = |live: GuestLeaf<'_>| {
        let mut copy = Leaf::default();
        live.fetch(&mut copy);
        copy
    };
    let mut copies = Vec::with_capacity(held.len());
    for &(mfn, _) in held {
        let mut read = Leaf::default();
        let fault = p2m.read(mfn, &mut read).err();
        rule(PORT, "a frame that can be mapped can be read", fault.is_none(), || {
            format!("{mfn}: {fault:?}")
        })?;
        copies.push(read);
    }
    let p2m: &dyn P2mSource = p2m;
    let compare =
        || held.iter().zip(&copies).find(|((_, slot), read)| copy(p2m.live(*slot)) != **read);
    let wrong = thread::scope(|scope| {
        let beside = scope.spawn(compare);
        compare().or(beside.join().unwrap_or_default())
    });
    rule(PORT, "`live` is the frame that was mapped, for all threads", wrong.is_none(), || {
        format!("{:?} shows something else", wrong.map(|(held, _)| *held))
    })?;
    look_up(p2m, &held[..held.len().min(LOOKED_UP_LEAVES_MAX)])
}

/// Entries looked up in many held leaves at once. A port that has these calls from the trait keeps
/// this.
fn look_up(p2m: &dyn P2mSource, held: &[(Mfn, MapSlot)]) -> Outcome {
    const PORT: &str = "P2mSource";
    let width = p2m.width();
    let entry = |slot, position: usize| p2m.live(slot).entry(width, position);
    // By position: each entry is in another leaf than the one before.
    for position in 0..width.entries() {
        let places: Vec<_> = held.iter().map(|&(_, slot)| (slot, position as u32)).collect();
        let mut at_once = vec![Entry(u64::MAX - 1); places.len()];
        p2m.entries(&places, &mut at_once);
        let wrong =
            held.iter().zip(at_once).find(|((_, slot), read)| entry(*slot, position) != *read);
        rule(PORT, "`entries` says what `live` does", wrong.is_none(), || {
            format!("{wrong:?} at position {position}")
        })?;
    }
    for &(mfn, slot) in held {
        for position in 0..width.entries() {
            let first = entry(slot, position);
            let named = |at: usize| {
                let past = position + at >= width.entries();
                !past && entry(slot, position + at) == Entry(first.0.wrapping_add(at as u64))
            };
            let Some(frame) = first.claim(width).named().filter(|&mfn| Entry::frame(mfn) == first)
            else {
                continue;
            };
            let count = (1..).find(|&at| !named(at)).unwrap_or(1) as u64;
            let is_run = |frame, count| p2m.is_run(slot, position as u32, frame, count);
            let is_further = position as u64 + count < width.entries() as u64;
            rule(
                PORT,
                "`is_run` says what `live` does",
                is_run(frame, count)
                    && !is_run(Mfn(frame.0 ^ 1), 1)
                    && !(is_further && is_run(frame, count + 1)),
                || format!("a run of {count} entries from position {position} of {mfn} on"),
            )?;
        }
    }
    Ok(())
}

/// The live memory of one frame of the domain, which `write` changes: a mapping shows what is
/// written after it was made.
///
/// # Errors
/// The first rule that does not hold.
pub fn live(p2m: &mut dyn P2mSource, frame: Mfn, write: &mut dyn FnMut()) -> Outcome {
    const PORT: &str = "P2mSource";
    let mut answers = Vec::new();
    p2m.map(&[frame], &mut answers);
    let slot = answers.first().copied().and_then(Result::ok);
    let Some(slot) = slot else {
        return rule(PORT, "`map` maps a frame of the domain", false, || format!("{answers:?}"));
    };
    let copy = |p2m: &dyn P2mSource| {
        let mut copy = Leaf::default();
        p2m.live(slot).fetch(&mut copy);
        copy
    };
    let before = copy(p2m);
    write();
    let after = copy(p2m);
    let mut read = Leaf::default();
    let fault = p2m.read(frame, &mut read).err();
    p2m.unmap(&[slot]);
    rule(PORT, "`live` shows what is written after `map`", before != after, || {
        format!("{frame} is as before the write")
    })?;
    rule(PORT, "`read` gives what `live` shows", fault.is_none() && read == after, || {
        format!("{frame}: {}", fault.map_or("other words".into(), |fault| fault.to_string()))
    })
}

/// Frame types, for a guest that has these frames, all of them the domain's own.
///
/// # Errors
/// The first rule that does not hold.
pub fn types(types: &mut dyn FrameTypes, m2p: &dyn M2p, frames: &[Mfn]) -> Outcome {
    const PORT: &str = "FrameTypes";
    let mut query = |frames: &[Mfn]| {
        // If the port leaves out a frame, this type remains and breaks a rule.
        let mut kinds = vec![FrameType::Broken; frames.len()];
        works(PORT, "up to 1,024 frames can be asked about", types.query(frames, &mut kinds))?;
        Ok(kinds)
    };
    query(&[])?;
    let stranger = Mfn(m2p.frames());
    let mut asked: Vec<Mfn> = frames.iter().copied().cycle().take(QUERY_FRAMES_MAX).collect();
    asked[QUERY_FRAMES_MAX / 2] = stranger;
    let kinds = query(&asked)?;
    for (&mfn, &kind) in asked.iter().zip(&kinds) {
        let ours = matches!(kind, FrameType::Data | FrameType::Table { level: 1..=4, .. });
        rule(
            PORT,
            "a frame of the domain's own is data or a table of level 1 to 4, and no other is",
            ours == (mfn != stranger),
            || format!("{mfn} is {kind:?}"),
        )?;
    }
    asked.reverse();
    let mut again = query(&asked)?;
    again.reverse();
    rule(PORT, "answers are in the order of the frames", kinds == again, || {
        "in reverse order the frames have other types".into()
    })
}

/// Unlogged writers of a suspended guest.
///
/// # Errors
/// The first rule that does not hold.
pub fn unlogged(unlogged: &mut dyn Unlogged) -> Outcome {
    const PORT: &str = "Unlogged";
    let mut pfns = vec![Pfn(u64::MAX)];
    works(PORT, "`pfns` lists them", unlogged.pfns(&mut pfns))?;
    rule(PORT, "`pfns` appends", pfns.first() == Some(&Pfn(u64::MAX)), || {
        "it replaced what was there".into()
    })?;
    works(PORT, "`accepts_transfer` answers", unlogged.accepts_transfer())?;
    let mut entries = Vec::new();
    let known = works(PORT, "`transfers` answers", unlogged.transfers(&mut entries))?;
    rule(
        PORT,
        "a port that does not know the transfer entries names none",
        known || entries.is_empty(),
        || format!("{} were named", entries.len()),
    )
}

/// Log-dirty of a suspended guest with `pfns` pfns. It must be off, and is off again at the end.
/// `write` causes writes of pages that log-dirty marks, and returns their pfns: best more than one,
/// with a leaf of the p2m among them. Without it that part is skipped.
///
/// # Errors
/// The first rule that does not hold.
pub fn log_dirty(
    log_dirty: &mut dyn LogDirty,
    pfns: u64,
    write: Option<&mut dyn FnMut() -> Vec<Pfn>>,
) -> Outcome {
    const PORT: &str = "LogDirty";
    let span = pfns.max(1).next_multiple_of(LOG_DIRTY_LEAF_PFNS);
    let clean = |log_dirty: &mut dyn LogDirty| {
        let mut bits = PfnBitmap::new(span);
        let read =
            works(PORT, "`clean` reads the log", log_dirty.clean(LogBuffer::over(&mut bits)))?;
        rule(PORT, "`clean` reads no more than it was asked for", read <= span, || {
            format!("{read} of {span}")
        })?;
        rule(PORT, "`clean` reads something", read > 0, || "nothing was read".into())?;
        Ok((bits, read))
    };
    works(PORT, "`enable` switches on what is off", log_dirty.enable())?;
    clean(log_dirty)?;
    let (bits, _) = clean(log_dirty)?;
    rule(PORT, "`clean` clears what it read", bits.count() == 0, || {
        format!("a suspended guest has {} dirty pfns", bits.count())
    })?;
    if let Some(write) = write {
        let written = write();
        let (bits, read) = clean(log_dirty)?;
        let lost = written.iter().find(|pfn| pfn.0 < read && !bits.get(**pfn));
        rule(PORT, "a page that was written is dirty", lost.is_none(), || {
            format!("{lost:?} is not")
        })?;
        let (bits, _) = clean(log_dirty)?;
        let kept = written.iter().find(|pfn| bits.get(**pfn));
        rule(PORT, "it is dirty once", kept.is_none(), || format!("{kept:?} still is"))?;
    }
    works(PORT, "`disable` switches off what is on", log_dirty.disable())?;
    works(PORT, "after `disable` it can be switched on again", log_dirty.enable())?;
    works(PORT, "`disable` switches off what is on", log_dirty.disable())
}

/// A transport, for pages of a suspended guest (`Tracker::batch`); `view` resolves their tables
/// (`Tracker::view`, after the same `Tracker::take`). The destination is of no use afterwards:
/// nothing that was sent has to be true.
///
/// What the destination has is not checked, nor are the answers for page tables: compare the
/// destination with the source after a migration.
///
/// # Errors
/// The first rule that does not hold.
pub fn transport(
    transport: &mut dyn Transport,
    width: Width,
    pages: &[Page],
    view: &dyn TableView,
    m2p: &dyn M2p,
) -> Outcome {
    const PORT: &str = "Transport";
    let last = pages.iter().map(|page| page.pfn.0 + 1).max().unwrap_or(1);
    let leaves = vec![pages.first().map(|page| page.pfn); width.leaves(last) as usize];
    let list = FrameList { width, pfn_count: last, leaves: &leaves };
    works(PORT, "`frame_list` takes a list", transport.frame_list(list))?;
    let mut asked: Vec<Page> = pages.to_vec();
    let stranger = Mfn(m2p.frames());
    let gone =
        Page { pfn: Pfn(0), mfn: stranger, entry: Entry::frame(stranger), kind: FrameType::Data };
    asked.push(gone);
    for batch in asked.chunks(QUERY_FRAMES_MAX) {
        let mut answers = Vec::new();
        works(PORT, "`send` takes up to 1,024 pages", transport.send(batch, view, &mut answers))?;
        rule(PORT, "`send` answers once for each page", answers.len() == batch.len(), || {
            format!("{} answers for {} pages", answers.len(), batch.len())
        })?;
        let accepts =
            |answer: &Answer| matches!(answer, Answer::Accepted | Answer::AcceptedCopy { .. });
        let wrong = batch.iter().zip(&answers).find(|(page, answer)| {
            page.mfn == stranger && !matches!(answer, Answer::Deferred(_))
                || page.kind == FrameType::Data && page.mfn != stranger && !accepts(answer)
        });
        rule(
            PORT,
            "a page that can be read is accepted, one whose frame is not there is deferred",
            wrong.is_none(),
            || format!("{wrong:?}"),
        )?;
    }
    let mut returned = vec![Pfn(u64::MAX)];
    works(PORT, "`returned` lists what was lost", transport.returned(&mut returned))?;
    rule(PORT, "`returned` appends", returned.first() == Some(&Pfn(u64::MAX)), || {
        "it replaced what was there".into()
    })?;
    works(PORT, "`gone` takes pfns of a suspended guest", transport.gone(&[Pfn(0)]))?;
    works(PORT, "`consistent` is confirmed", transport.consistent())
}
