// SPDX-License-Identifier: MIT OR Apache-2.0
//! One batch on the wire: entries, types, one foreign map of all frames, contents; the live entry
//! is trusted.
//! Not here: which pfns are sent when (`passes`).
//! Units: at most 1,024 pfns.
//! Threads: one; the guest runs between any two of the calls, and while contents are read.
//! Source: libxc `write_batch`, `x86_pv_normalise_page`.

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::frame::{Entry, FrameType, Mfn, Pfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::FrameTypes;
use p2mtrack::table::{TableCause, normalise};

use super::abort::Abort;
use super::p2m::{P2m, View};
use crate::fault::Fault;
use crate::ports::{Shared, map_check};
use crate::simulation::SimPorts;

/// A frame of the batch that is mapped.
struct Mapped {
    pfn: Pfn,
    mfn: Mfn,
    kind: FrameType,
}

/// Sends some pfns. Those that can't be sent now are set in `deferred`, for the suspended pass.
pub(super) fn send(
    shared: &Shared,
    ports: &mut SimPorts,
    p2m: &P2m,
    pfns: &[Pfn],
    deferred: &mut PfnBitmap,
) -> Result<(), Abort> {
    let (mut named, mut absent) = (Vec::with_capacity(pfns.len()), Vec::new());
    for &pfn in pfns {
        match p2m.entry(&ports.p2m, pfn) {
            Entry::INVALID => {
                deferred.set(pfn);
                absent.push(pfn);
            }
            // The raw word with its tags: Xen does not know such a frame.
            entry => named.push((pfn, Mfn(entry.0))),
        }
    }
    let frames: Vec<Mfn> = named.iter().map(|&(_, mfn)| mfn).collect();
    let mut kinds = vec![FrameType::NotOwned; frames.len()];
    ports.types.query(&frames, &mut kinds)?;
    let mut wanted = Vec::with_capacity(named.len());
    for ((pfn, mfn), kind) in named.into_iter().zip(kinds) {
        match kind {
            FrameType::NotOwned | FrameType::Broken => absent.push(pfn),
            kind => wanted.push(Mapped { pfn, mfn, kind }),
        }
    }
    let held = hold(shared, &wanted)?;
    for pfn in absent {
        shared.lock().receiver.take_absent(pfn.0);
    }
    let sent = wanted.iter().try_for_each(|page| send_page(shared, ports, p2m, page, deferred));
    let mut world = shared.lock();
    for mfn in held {
        world.xen.machine.drop_hold(mfn.0);
    }
    sent
}

/// One foreign map of all frames: a single frame that can't be mapped ends the migration.
fn hold(shared: &Shared, wanted: &[Mapped]) -> Result<Vec<Mfn>, Abort> {
    let mut world = shared.enter();
    if world.faults.strikes(Fault::TransportFailure) {
        return Err(Abort::struck_by(Fault::TransportFailure, "write the stream: broken pipe"));
    }
    for page in wanted {
        let struck = world.faults.struck().len();
        if let Err(fault) = map_check(&mut world, page.mfn) {
            let cause = format!("map pfn {:#x}, mfn {:#x}: {fault}", page.pfn.0, page.mfn.0);
            let injected = world.faults.struck().len() > struck;
            return Err(Abort { cause, fault: injected.then_some(Fault::MapFailure) });
        }
    }
    for page in wanted {
        world.xen.machine.hold(page.mfn.0);
    }
    Ok(wanted.iter().map(|page| page.mfn).collect())
}

fn send_page(
    shared: &Shared,
    ports: &SimPorts,
    p2m: &P2m,
    page: &Mapped,
    deferred: &mut PfnBitmap,
) -> Result<(), Abort> {
    let mut world = shared.enter();
    let refused = match page.kind {
        FrameType::Table { level, .. } => {
            let mut words = Box::new(Leaf::default());
            world.xen.machine.copy_words(page.mfn.0, &mut words);
            drop(world);
            let pfns = p2m.pfns();
            let view = View { p2m, pfns, knows_tags: false, source: &ports.p2m, m2p: &ports.m2p };
            match normalise(page.pfn, level, &mut words, &view) {
                Ok(()) => shared.lock().receiver.take_table(page.pfn.0, page.kind, words),
                Err(fault) if fault.cause == TableCause::Superpage => {
                    return Err(Abort::because(format_args!("pfn {:#x}: {fault}", page.pfn.0)));
                }
                // In the suspended pass too, where it is not tried again.
                Err(_) => {
                    deferred.set(page.pfn);
                    shared.lock().receiver.take_absent(page.pfn.0);
                    Ok(())
                }
            }
        }
        _ => {
            let content = world.xen.machine.content(page.mfn.0);
            world.receiver.take_data(page.pfn.0, page.kind, content)
        }
    };
    refused.map_err(|refusal| Abort::because(format_args!("the receiver refused: {refusal:?}")))
}
