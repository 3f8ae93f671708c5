// SPDX-License-Identifier: MIT OR Apache-2.0
//! `xen-migrate DOMID CASE`: whole migrations of a real guest into a destination that is compared
//! with it, page by page.
//! Not here: `p2mtrack track`, which sends nothing (`dom0/cases`).
//! Units: frames of 4 KiB.
//! Threads: one.
//! Source: own. Runs in the control domain of `tests/xen-host`; it writes only what the guest could
//! have written.
//!
//! Cases:
//! * `plain`: three live rounds, then the end.
//! * `stale`: the m2p has another pfn for frames that the guest writes. Linux maps every frame in
//!   its direct map, so that a table can't be normalised: an error that names it. With the m2p
//!   restored the migration completes.
//! * `alias`: pfns of the balloon get entries with frames that the guest writes; a checkpoint, the
//!   guest goes on, then the end.
//! * `foreign`: PTEs name frames of the control domain, whose m2p has the same pfn as the guest's
//!   p2m.
//! * `nowhere`: a p2m that leads nowhere, and a Xen that reports no frame as the domain's.

mod destination;
mod pokes;

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use p2mtrack::config::{AliasPolicy, Config, ForeignPtePolicy, UnaccountedPolicy};
use p2mtrack::error::Error as Failure;
use p2mtrack::frame::{Claim, Entry, FrameType, Mfn, Pfn, Width};
use p2mtrack::leaf::Leaf;
use p2mtrack::migration::Migration;
use p2mtrack::port::{FrameTypes, Guest, M2p, P2mSource, PortError, Ports};
use p2mtrack::report::RoundReport;
use p2mtrack::table::TableCause;
use p2mtrack_xen::{Domain, Suspender, Unknown, Xen, XenGuest};

use crate::destination::{Content, Destination};
use crate::pokes::Pokes;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;
/// A page that a case damages, and its frame.
type Victim = (Pfn, Mfn);
type Victims = Vec<Victim>;
/// How a migration ended.
type End = Result<RoundReport, Failure>;

/// Offset in shared_info of a 64-bit guest: `arch.p2m_cr3`.
const P2M_CR3: u64 = 0xc28;
/// Pages that a case damages.
const VICTIMS: usize = 24;
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the guest runs between two rounds.
const RUN: Duration = Duration::from_millis(800);

fn main() -> Outcome {
    let usage = "xen-migrate DOMID plain|stale|alias|foreign|nowhere";
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [domid, case] = words.as_slice() else { return Err(usage.into()) };
    let xen = Xen::open(Unknown::Refuse)?;
    let mut scene = Scene::open(&Domain::open(&xen, domid.parse()?)?)?;
    let outcome = match case.as_str() {
        "plain" => scene.plain(),
        "stale" => scene.stale(),
        "alias" => scene.alias(),
        "foreign" => scene.foreign(),
        "nowhere" => scene.nowhere(),
        _ => Err(usage.into()),
    };
    let closed = scene.close();
    outcome.and(closed)
}

/// A guest, its destination, and its suspender.
struct Scene {
    domid: u16,
    guest: XenGuest,
    destination: Destination,
    suspender: Suspender,
    suspended: bool,
    pokes: Pokes,
    /// Frames whose pfns differ from the m2p.
    expected: BTreeMap<Mfn, Vec<Pfn>>,
}

fn expect(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(what.into()) }
}

impl Scene {
    fn open(domain: &Domain) -> Outcome<Self> {
        Ok(Self {
            domid: domain.domid(),
            guest: XenGuest::open(domain)?,
            destination: Destination::new(domain)?,
            suspender: Suspender::new(domain)?,
            suspended: false,
            pokes: Pokes::new(domain.domid()),
            expected: BTreeMap::new(),
        })
    }

    fn suspend(&mut self) -> Outcome {
        self.suspender.suspend(PATIENCE, &|| false)?;
        self.suspended = true;
        Ok(())
    }

    fn resume(&mut self) -> Outcome {
        self.suspender.resume()?;
        self.suspended = false;
        Ok(())
    }

    /// Restores the guest and resumes it, whatever happened.
    fn close(&mut self) -> Outcome {
        self.pokes.undo()?;
        if self.suspended { self.resume() } else { Ok(()) }
    }

    /// Lends the ports for one call.
    fn with<T>(&mut self, call: impl FnOnce(&mut Ports<'_>) -> T) -> T {
        let mut nobody = ();
        let (guest, log_dirty) = self.guest.lend(&mut nobody);
        call(&mut Ports { guest, log_dirty, transport: &mut self.destination })
    }

    /// A migration, and three rounds of it while the guest runs.
    fn begin(&mut self, config: Config) -> Outcome<Migration> {
        let mut migration = self.with(|ports| Migration::start(config, ports))?;
        for _ in 0..3 {
            self.with(|ports| migration.round(ports))?;
            std::thread::sleep(RUN);
        }
        Ok(migration)
    }

    /// A migration of a suspended guest, all in one round, then cancelled.
    fn at_once(&mut self, config: Config) -> Outcome<(Migration, End)> {
        let mut migration = self.with(|ports| Migration::start(config, ports))?;
        let result = self.with(|ports| migration.finish(ports));
        self.with(|ports| migration.cancel(ports))?;
        Ok((migration, result))
    }

    fn plain(&mut self) -> Outcome {
        let mut migration = self.begin(Config::default())?;
        self.suspend()?;
        let report = self.with(|ports| migration.finish(ports))?;
        let checked = self.destination.expect_all(&mut self.guest, &self.expected)?;
        let held = self.guest.p2m.domain_frames()?;
        let unaccounted = report.unaccounted_frames.ok_or("the books of a suspended round")?;
        println!("SHOW {checked} frames of {held} compared, {unaccounted} not accounted for");
        expect(checked > 0 && held - (checked as u64) < 64, "frames with a pfn")?;
        Ok(())
    }

    fn stale(&mut self) -> Outcome {
        let mut migration = self.begin(Config::default())?;
        let victims = self.make_stale(&migration)?;
        // A change of the m2p alone breaks a premise: begin a new migration.
        self.with(|ports| migration.cancel(ports))?;
        let mut migration = self.begin(Config::default())?;
        self.suspend()?;
        let error = match self.with(|ports| migration.checkpoint(ports)) {
            Err(error @ Failure::Table { fault, .. }) if fault.cause == TableCause::Unresolved => {
                error
            }
            other => return Err(format!("frames without a pfn: {other:?}").into()),
        };
        self.pokes.undo()?;
        self.with(|ports| migration.finish(ports))?;
        let checked = self.destination.expect_all(&mut self.guest, &self.expected)?;
        println!(
            "SHOW {} pages damaged: {error}; restored, {checked} frames compared",
            victims.len()
        );
        Ok(())
    }

    /// A checkpoint, the guest goes on and writes, the end: after both the destination equals the
    /// source.
    fn alias(&mut self) -> Outcome {
        let copy = Config { alias: AliasPolicy::Copy, ..Config::default() };
        self.suspend()?; // in a live round a deferred pfn looks like one without a frame
        let (migration, all) = self.at_once(copy)?;
        all?;
        let victims = self.make_aliases(&migration)?;
        self.resume()?;
        let mut migration = self.begin(copy)?;
        self.suspend()?;
        self.with(|ports| migration.checkpoint(ports))?;
        let first = self.destination.expect_all(&mut self.guest, &self.expected)?;
        let before = self.contents(&victims)?;
        self.resume()?;
        std::thread::sleep(4 * RUN); // an emulated guest is slow, and must write most of them
        self.suspend()?;
        let written = before.iter().zip(self.contents(&victims)?).filter(|(old, new)| *old != new);
        let written = written.count();
        let report = self.with(|ports| migration.finish(ports))?;
        let second = self.destination.expect_all(&mut self.guest, &self.expected)?;
        let (aliases, unaccounted) = (report.settled.aliases, report.unaccounted_frames);
        println!(
            "SHOW {aliases} aliases, {written} of their frames written after the checkpoint; {first} and {second} pfns \
             compared; {unaccounted:?} frames not accounted for"
        );
        expect(aliases == victims.len() as u64, "every alias is counted")?;
        expect(2 * written > victims.len(), "the guest wrote most of them")
    }

    fn contents(&mut self, victims: &[Victim]) -> Outcome<Vec<Content>> {
        let mfns: Vec<Mfn> = victims.iter().map(|(_, mfn)| *mfn).collect();
        self.destination.contents(&mfns)
    }

    /// Pages that the guest writes repeatedly, and their frames.
    fn victims(&self, migration: &Migration) -> Outcome<Victims> {
        let pages = self.destination.pages.iter().filter(|(_, content)| content.is_pattern);
        let width = self.guest.p2m.width();
        let frame =
            |(&pfn, _)| Some((pfn, frame_of(migration.tracker().shadow_entry(pfn), width)?));
        let mut victims: Vec<_> = pages.filter_map(frame).collect();
        victims.sort_unstable();
        expect(victims.len() >= 8 * VICTIMS, "too few pages that the guest writes")?;
        Ok(victims)
    }

    /// Pfns of the balloon: they have no frame, and are in leaves that name frames.
    fn holes(&self, migration: &Migration) -> Vec<Pfn> {
        let width = self.guest.p2m.width();
        let is_hole =
            |pfn: &Pfn| migration.tracker().shadow_entry(*pfn).claim(width) == Claim::Invalid;
        let named = |leaf: u64| (leaf * 512..(leaf + 1) * 512).map(Pfn).any(|pfn| !is_hole(&pfn));
        let leaves = 0..self.destination.leaves.len() as u64;
        leaves
            .filter(|&leaf| named(leaf))
            .flat_map(|leaf| (leaf * 512..(leaf + 1) * 512).map(Pfn))
            .filter(is_hole)
            .collect()
    }

    fn make_stale(&mut self, migration: &Migration) -> Outcome<Victims> {
        let pages = self.victims(migration)?;
        let hole = *self.holes(migration).last().ok_or("a pfn without a frame")?;
        let victims: Vec<_> = pages.iter().copied().step_by(4).take(VICTIMS).collect();
        for (number, &(pfn, mfn)) in victims.iter().enumerate() {
            let says = match number % 3 {
                0 => u64::MAX,
                1 => hole.0,
                // a pfn that has another frame, and is none of the victims
                _ => pages[4 * number + 1].0.0,
            };
            self.pokes.m2p(self.domid, mfn, says, pfn)?;
        }
        Ok(victims)
    }

    fn make_aliases(&mut self, migration: &Migration) -> Outcome<Victims> {
        let holes = self.holes(migration);
        let victims: Vec<_> =
            self.victims(migration)?.into_iter().step_by(4).take(VICTIMS).collect();
        expect(holes.len() >= VICTIMS, "too few pfns without a frame")?;
        for (&(pfn, mfn), &hole) in victims.iter().zip(&holes) {
            self.entry(migration, hole, Entry(mfn.0))?;
            self.expected.insert(mfn, vec![pfn, hole]);
        }
        Ok(victims)
    }

    /// Writes an entry of the p2m.
    fn entry(&mut self, migration: &Migration, pfn: Pfn, entry: Entry) -> Outcome {
        let leaf = self.destination.leaves[pfn.0 as usize / 512].ok_or("a leaf without a pfn")?;
        let mfn = frame_of(migration.tracker().shadow_entry(leaf), self.guest.p2m.width());
        let mfn = mfn.ok_or("a leaf without a frame")?;
        self.pokes.word(mfn, pfn.0 as usize % 512, entry.0)
    }

    /// Tagged or not, refused or cleared: a PTE never names the guest's pfn. The guest is suspended
    /// all the time.
    fn foreign(&mut self) -> Outcome {
        self.suspend()?;
        let (migration, first) = self.at_once(clear())?;
        first?;
        let width = self.guest.p2m.width();
        let foreign: Victims = (0..512 * self.destination.leaves.len() as u64)
            .filter_map(|pfn| match migration.tracker().shadow_entry(Pfn(pfn)).claim(width) {
                Claim::Foreign(mfn) => Some((Pfn(pfn), mfn)),
                _ => None,
            })
            .collect();
        expect(!foreign.is_empty(), "no grant is mapped")?;
        let pfns: Vec<Pfn> = foreign.iter().map(|(pfn, _)| *pfn).collect();
        for &(pfn, mfn) in &foreign {
            let before =
                self.guest.m2p.pfn(mfn).ok_or("a frame of the control domain without a pfn")?;
            self.pokes.m2p(0, mfn, pfn.0, before)?;
        }
        self.expect_foreign("tagged", &pfns)?;
        for &(pfn, mfn) in &foreign {
            self.entry(&migration, pfn, Entry(mfn.0))?;
        }
        self.expect_foreign("untagged", &pfns)?;
        Ok(())
    }

    fn expect_foreign(&mut self, how: &str, pfns: &[Pfn]) -> Outcome {
        for foreign_pte in [ForeignPtePolicy::Refuse, ForeignPtePolicy::Clear] {
            let config = Config { foreign_pte, ..Config::default() };
            self.destination.tables.clear();
            let (migration, result) = self.at_once(config)?;
            let naming = self.destination.tables_naming(pfns);
            expect(naming == 0, &format!("{how}: {naming} tables name the guest's own pfns"))?;
            match (foreign_pte, result) {
                (ForeignPtePolicy::Refuse, Err(error @ Failure::Table { .. })) => {
                    println!("SHOW {how}, refused: {error}");
                }
                (ForeignPtePolicy::Clear, Ok(_)) => {
                    let cleared: usize =
                        migration.tracker().cleared_ptes().map(|(_, mfns)| mfns.len()).sum();
                    println!(
                        "SHOW {how}, cleared: {cleared} PTEs, {} pfns with such a frame",
                        pfns.len()
                    );
                    expect(cleared > 0, "PTEs that were cleared")?;
                }
                (policy, result) => return Err(format!("{how}, {policy:?}: {result:?}").into()),
            }
        }
        Ok(())
    }

    /// It ends with an error that has the number of frames; with the policy to report, the number
    /// is the same.
    fn nowhere(&mut self) -> Outcome {
        self.suspend()?;
        let (migration, first) = self.at_once(clear())?;
        let unaccounted = first?.unaccounted_frames.ok_or("the books of a suspended round")?;
        println!("SHOW as it is: {unaccounted} frames not accounted for");
        let zeros = self.page_of_zeros(&migration)?;
        self.pokes.shared_info(P2M_CR3, zeros.0 << 12)?;
        self.expect_unaccounted("a root of zeros")?;
        self.pokes.undo()?;
        self.expect_disowned()?;
        Ok(())
    }

    fn page_of_zeros(&self, migration: &Migration) -> Outcome<Mfn> {
        let zeros = Content::of(&Leaf::default().words);
        let mut pages = self.destination.pages.iter().filter(|(_, content)| **content == zeros);
        let frame =
            |(&pfn, _)| frame_of(migration.tracker().shadow_entry(pfn), self.guest.p2m.width());
        pages.find_map(frame).ok_or_else(|| "no page of zeros".into())
    }

    fn expect_unaccounted(&mut self, how: &str) -> Outcome {
        let (_, refused) = self.at_once(clear())?;
        let report = Config { unaccounted: UnaccountedPolicy::Report, ..clear() };
        let (_, reported) = self.at_once(report)?;
        said(how, &refused, &reported)
    }

    /// Xen reports every frame as not the domain's.
    fn expect_disowned(&mut self) -> Outcome {
        let mut ends = Vec::new();
        for unaccounted in [UnaccountedPolicy::Refuse, UnaccountedPolicy::Report] {
            let config = Config { unaccounted, ..clear() };
            let (mut nobody, mut disowned) = ((), Disowned);
            let (guest, log_dirty) = self.guest.lend(&mut nobody);
            let guest = Guest { types: &mut disowned, ..guest };
            let mut ports = Ports { guest, log_dirty, transport: &mut self.destination };
            let mut migration = Migration::start(config, &mut ports)?;
            ends.push(migration.finish(&mut ports));
            migration.cancel(&mut ports)?;
        }
        said("types of nothing", &ends[0], &ends[1])
    }
}

/// Grants may be mapped at that time, and are not part of this check.
fn clear() -> Config {
    Config { foreign_pte: ForeignPtePolicy::Clear, ..Config::default() }
}

/// The frame that an entry names.
fn frame_of(entry: Entry, width: Width) -> Option<Mfn> {
    match entry.claim(width) {
        Claim::Frame(mfn) => Some(mfn),
        _ => None,
    }
}

/// One migration ends with the error, the other with a report, and the number is the same.
fn said(how: &str, refused: &End, reported: &End) -> Outcome {
    let (Err(error), Ok(report)) = (refused, reported) else {
        return Err(format!("{how}: {refused:?} and {reported:?}").into());
    };
    println!("SHOW {how}: {error}");
    let same =
        error.kind() == "unaccounted" && error.unaccounted_frames() == report.unaccounted_frames;
    expect(same, &format!("{how}: the report says {:?}", report.unaccounted_frames))
}

/// Types of a Xen that reports no frame as the domain's.
struct Disowned;

impl FrameTypes for Disowned {
    fn query(&mut self, mfns: &[Mfn], into: &mut [FrameType]) -> Result<(), PortError> {
        into[..mfns.len()].fill(FrameType::NotOwned);
        Ok(())
    }
}
