// SPDX-License-Identifier: MIT OR Apache-2.0
//! The p2m as upstream has it: found and mapped once, its extent and its generation remembered,
//! never looked up again.
//! Not here: sending (`batch`).
//! Units: pfns; the mapping is linear over the leaves in order.
//! Threads: one.
//! Source: libxc `map_p2m_tree`, `map_p2m_list`, `map_p2m_leaves`, `get_p2m_generation`,
//! `mfn_in_pseudophysmap`.

use p2mtrack::frame::{Claim, Entry, Mfn, Pfn, Width};
use p2mtrack::port::{M2p, MapSlot, P2mSource, Roots};
use p2mtrack::table::{Resolved, TableView};

use super::abort::Abort;
use crate::ports::{Shared, SimM2p, SimP2m};
use crate::simulation::{SimPorts, Simulation};
use crate::walk::walk;

/// The mapping of the whole migration.
pub(super) struct P2m {
    width: Width,
    slots: Vec<Option<MapSlot>>,
    /// The pfns of the leaves, as they were when they were mapped.
    list: Vec<Option<Pfn>>,
    pfns: u64,
    generation: Option<u64>,
}

impl P2m {
    /// Finds and maps every leaf. More lenient than upstream in three ways, so that only the
    /// tracking is compared: the guest is paused meanwhile; an empty slot of the tree is a leaf
    /// without frames, where upstream refuses the guest; and the count is not trimmed by table
    /// borders, where upstream cuts off the end of some lists.
    pub(super) fn map(shared: &Shared, ports: &mut SimPorts) -> Result<Self, Abort> {
        shared.lock().paused = true;
        let p2m = Self::find(shared, ports);
        shared.lock().paused = false;
        p2m
    }

    /// The same while the guest runs: leaves are mapped one by one, and the p2m may change after it
    /// was walked.
    pub(super) fn map_meanwhile(shared: &Shared, ports: &mut SimPorts) -> Result<Self, Abort> {
        Self::find(shared, ports)
    }

    fn find(shared: &Shared, ports: &mut SimPorts) -> Result<Self, Abort> {
        let roots = ports.p2m.roots()?;
        let width = ports.p2m.width();
        let frames = find_leaves(shared, width, &roots)?;
        let mut p2m = Self {
            width,
            slots: Vec::with_capacity(frames.len()),
            list: vec![None; frames.len()],
            pfns: roots.pfn_count,
            // A tree has no generation.
            generation: (roots.p2m_cr3 != 0).then_some(roots.generation),
        };
        match p2m.map_leaves(&frames, ports) {
            Ok(()) => Ok(p2m),
            Err(abort) => {
                p2m.unmap(&mut ports.p2m);
                Err(abort)
            }
        }
    }

    /// One linear mapping; every leaf has to be a frame that p2m and m2p agree on.
    fn map_leaves(&mut self, frames: &[Option<u64>], ports: &mut SimPorts) -> Result<(), Abort> {
        for &mfn in frames {
            let Some(mfn) = mfn else {
                self.slots.push(None);
                continue;
            };
            let mut answer = Vec::new();
            ports.p2m.map(&[Mfn(mfn)], &mut answer);
            match answer.pop() {
                Some(Ok(slot)) => self.slots.push(Some(slot)),
                Some(Err(fault)) => {
                    return Err(Abort::because(format_args!("map leaf: {fault}")));
                }
                None => return Err(Abort::because("map leaf: no answer")),
            }
        }
        for (position, &mfn) in frames.iter().enumerate() {
            let Some(mfn) = mfn else { continue };
            let pfn = self.pfn_of(&ports.p2m, &ports.m2p, Mfn(mfn));
            let pfn = pfn.ok_or_else(|| {
                Abort::because(format_args!("leaf {position}, mfn {mfn:#x}, is not in the p2m"))
            })?;
            self.list[position] = Some(pfn);
        }
        Ok(())
    }

    /// The frame that the live entry of a pfn names, tags or not.
    pub(super) fn frame(&self, source: &SimP2m, pfn: Pfn) -> Option<Mfn> {
        match self.entry(source, pfn).claim(self.width) {
            Claim::Frame(mfn) | Claim::Foreign(mfn) => Some(mfn),
            Claim::Invalid | Claim::Identity => None,
        }
    }

    /// Unmaps every leaf.
    pub(super) fn unmap(&self, source: &mut SimP2m) {
        let slots: Vec<MapSlot> = self.slots.iter().copied().flatten().collect();
        source.unmap(&slots);
    }

    /// Pfns that are migrated; the number never changes.
    pub(super) const fn pfns(&self) -> u64 {
        self.pfns
    }

    /// The frame list of the stream.
    pub(super) fn list(&self) -> &[Option<Pfn>] {
        &self.list
    }

    /// The live entry of a pfn, from the leaves as they were mapped.
    pub(super) fn entry(&self, source: &SimP2m, pfn: Pfn) -> Entry {
        match self.slots.get(self.width.leaf_of(pfn).0 as usize) {
            Some(&Some(slot)) => source.live(slot).entry(self.width, self.width.slot_of(pfn)),
            _ => Entry::INVALID,
        }
    }

    /// The pfn of a frame, if p2m and m2p agree on it.
    fn pfn_of(&self, source: &SimP2m, m2p: &SimM2p, mfn: Mfn) -> Option<Pfn> {
        let pfn = m2p.pfn(mfn).filter(|pfn| pfn.0 < self.pfns)?;
        (self.entry(source, pfn) == Entry::frame(mfn)).then_some(pfn)
    }

    /// The only check while the guest runs: did the list's mapping change? A tree is not checked.
    pub(super) fn check_generation(&self, source: &mut SimP2m) -> Result<(), Abort> {
        let Some(then) = self.generation else { return Ok(()) };
        let now = source.roots()?.generation;
        if now == then {
            return Ok(());
        }
        Err(Abort::because(format_args!("p2m generation changed from {then} to {now}")))
    }
}

/// The frames of all leaves at this moment. A list that lacks one of them is refused.
fn find_leaves(shared: &Shared, width: Width, roots: &Roots) -> Result<Vec<Option<u64>>, Abort> {
    let leaves = width.leaves(roots.pfn_count);
    let world = shared.lock();
    let mut frames = walk(&world.xen.machine, width, roots)
        .map_err(|nothing| Abort::because(format_args!("map the p2m: {nothing}")))?;
    let is_list = roots.p2m_cr3 != 0;
    if is_list && (frames.len() as u64 != leaves || frames.contains(&None)) {
        return Err(Abort::because("map the p2m: the list has no frame for a leaf"));
    }
    // The walk of a tree bounds its leaves; it ends with the last that has a frame.
    frames.resize(leaves as usize, None);
    Ok(frames)
}

/// How a PTE's frame becomes a pfn.
pub(super) struct View<'a> {
    pub(super) p2m: &'a P2m,
    /// Pfns that may be named.
    pub(super) pfns: u64,
    /// Linux's tags are ignored in the comparison; upstream takes them for a part of the frame.
    pub(super) knows_tags: bool,
    pub(super) source: &'a SimP2m,
    pub(super) m2p: &'a SimM2p,
}

impl View<'_> {
    fn agrees(&self, pfn: Pfn, mfn: Mfn) -> bool {
        if self.knows_tags {
            self.p2m.frame(self.source, pfn) == Some(mfn)
        } else {
            self.p2m.entry(self.source, pfn) == Entry::frame(mfn)
        }
    }
}

impl TableView for View<'_> {
    fn width(&self) -> Width {
        self.p2m.width
    }

    fn resolve(&self, _: Pfn, mfn: Mfn) -> Resolved {
        let pfn = self.m2p.pfn(mfn).filter(|pfn| pfn.0 < self.pfns);
        pfn.filter(|&pfn| self.agrees(pfn, mfn)).map_or(Resolved::Unresolved, Resolved::Pfn)
    }

    fn is_compat_m2p(&self, mfn: Mfn) -> bool {
        self.m2p.compat_frame() == Some(mfn)
    }
}

/// A sender's own mapping of the p2m, for senders in other crates.
#[expect(missing_debug_implementations, reason = "no field is worth printing")]
pub struct SendersP2m(P2m);

impl SendersP2m {
    /// Finds and maps every leaf, as upstream does at the start.
    ///
    /// # Errors
    /// Why upstream would give up.
    pub fn map(simulation: &Simulation, ports: &mut SimPorts) -> Result<Self, String> {
        P2m::map(simulation.shared(), ports).map(Self).map_err(|abort| abort.cause)
    }

    /// Unmaps every leaf.
    pub fn unmap(self, source: &mut SimP2m) {
        self.0.unmap(source);
    }

    /// The frame that the live entry of a pfn names, tags or not.
    #[must_use]
    pub fn frame(&self, source: &SimP2m, pfn: Pfn) -> Option<Mfn> {
        self.0.frame(source, pfn)
    }
}
