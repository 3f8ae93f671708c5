// SPDX-License-Identifier: MIT OR Apache-2.0
//! `xen-ports DOMID look|suspend|on|state|frames|entries`: the ports of a real Xen, each checked
//! against known facts about a running guest.
//! Not here: rounds of the engine (`p2mtrack track`), verdicts of cases (`dom0/cases`).
//! Units: frames of 4 KiB.
//! Threads: one.
//! Source: own. Runs in the control domain of `tests/xen-host`.

use std::error::Error;
use std::time::Duration;

use p2mtrack::config::Config;
use p2mtrack::frame::{Claim, FrameType, Mfn, Pfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::monitor::Monitor;
use p2mtrack::port::{
    FrameTypes, LogDirty, M2p, MapFault, P2mSource, QUERY_FRAMES_MAX, Unlogged, conformance,
};
use p2mtrack::shared_info;
use p2mtrack_xen::{Domain, Suspender, Unknown, Xen, XenGuest, XenState};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    let usage = "xen-ports DOMID look|suspend|on|state|frames|entries";
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [domid, what] = words.as_slice() else { return Err(usage.into()) };
    let xen = Xen::open(Unknown::Refuse)?;
    let mut domain = Domain::open(&xen, domid.parse()?)?;
    match what.as_str() {
        "look" => {
            check(&domain)?;
            unmapping(&xen)
        }
        "suspend" => suspend(&domain),
        // It is left on: for the next process it belongs to another one.
        "on" => Ok(XenGuest::open(&domain)?.log_dirty.enable()?),
        "state" => state(&domain),
        "frames" => {
            println!("{}", domain.info()?.frames);
            Ok(())
        }
        "entries" => {
            println!("{}", entries(&mut XenGuest::open(&domain)?)?.len());
            Ok(())
        }
        _ => Err(usage.into()),
    }
}

/// Xen's calls are used to unmap.
fn unmapping(xen: &Xen) -> Outcome {
    if xen.unmaps_by_calls() == Some(true) { Ok(()) } else { Err("pages go by traps".into()) }
}

fn suspend(domain: &Domain) -> Outcome {
    let mut suspender = Suspender::new(domain)?;
    suspender.suspend(Duration::from_secs(20), &|| false)?;
    println!("suspended");
    suspender.resume()?;
    println!("resumed");
    Ok(())
}

/// Whether log-dirty is on. The only way to find out is to try to switch it on.
fn state(domain: &Domain) -> Outcome {
    let mut log = XenGuest::open(domain)?.log_dirty;
    let is_off = log.enable().is_ok();
    if is_off {
        log.disable()?;
    }
    println!("{}", if is_off { "off" } else { "on" });
    Ok(())
}

fn expect(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(what.into()) }
}

fn check(domain: &Domain) -> Outcome {
    let mut guest = XenGuest::open(domain)?;
    let mut suspender = Suspender::new(domain)?;
    // The state of a suspended guest does not change between two reads.
    suspender.suspend(Duration::from_secs(20), &|| false)?;
    guest.p2m.still_suspended()?;
    let checked = conforms(&mut guest).and_then(|()| check_suspended(&mut guest));
    let checked = checked.and_then(|()| check_state(domain, &mut guest));
    suspender.resume()?;
    checked?;
    check_running(&mut guest)
}

/// What the guest is besides its memory, as its stream carries it.
fn check_state(domain: &Domain, guest: &mut XenGuest) -> Outcome {
    let mut state = XenState::new(domain)?;
    expect(!state.has_vnuma()?, "virtual NUMA nodes")?;
    let (major, minor) = domain.xen().version_numbers()?;
    expect(domain.xen().version()?.starts_with(&format!("{major}.{minor}")), "Xen's version")?;
    let policy = state.cpu_policy()?;
    let whole = policy.leaves.len().is_multiple_of(24) && policy.msrs.len().is_multiple_of(16);
    expect(whole && !policy.leaves.is_empty() && !policy.msrs.is_empty(), "CPU policies")?;
    let tsc = state.tsc()?;
    expect(tsc.mode <= 2 && (tsc.khz > 0 || tsc.mode == 2), "the TSC")?;
    let roots = shared_info::roots(domain.width(), &state.shared_info()?);
    expect(roots == guest.p2m.roots()?, "shared_info")?;
    let vcpus = (0..state.vcpus()?).map(|vcpu| state.vcpu(vcpu)).collect::<Result<Vec<_>, _>>()?;
    let online: Vec<_> =
        (0_u32..).zip(&vcpus).filter_map(|(n, it)| Some((n, it.as_ref()?))).collect();
    expect(online.first().is_some_and(|(vcpu, _)| *vcpu == 0), "vcpu 0")?;
    for (vcpu, found) in &online {
        let named = [vcpu.to_le_bytes(), (found.extended.len() as u32).to_le_bytes()].concat();
        expect(found.extended.starts_with(&named), "an extended context")?;
        check_xsave(&found.xsave)?;
        expect(found.msrs.len().is_multiple_of(16), "MSRs")?;
    }
    let (_, first) = online[0];
    println!(
        "state: {} leaves, {} MSRs, TSC mode {} of {} kHz, {} of {} vcpus online, xsave {} bytes",
        policy.leaves.len() / 24,
        policy.msrs.len() / 16,
        tsc.mode,
        tsc.khz,
        online.len(),
        vcpus.len(),
        first.xsave.len()
    );
    Ok(())
}

/// A receiver takes an area only if it has the length of what the vCPU has used: x87 and SSE in
/// their old place, a header, and AVX behind it.
fn check_xsave(area: &[u8]) -> Outcome {
    let word = |at: usize| area.get(at..).and_then(|rest| rest.first_chunk()).copied();
    let (Some(xcr0), Some(used)) = (word(0), word(8)) else {
        return expect(area.is_empty(), "an xsave area");
    };
    let (xcr0, used) = (u64::from_le_bytes(xcr0), u64::from_le_bytes(used));
    println!("xsave: xcr0 {xcr0:#x}, used {used:#x}, {} bytes", area.len());
    expect(xcr0 & 1 == 1 && xcr0 & !used == 0 || used == 0, "xcr0 of an xsave area")?;
    let length = match used {
        0 => 16,
        1..4 => 16 + 512 + 64,
        4..8 => 16 + 512 + 64 + 256,
        _ => return Ok(()), // other states of a vCPU are not laid out here
    };
    expect(area.len() == length, "the length of an xsave area")
}

/// The guest was resumed, and what reads a suspended one says so.
fn check_running(guest: &mut XenGuest) -> Outcome {
    expect(guest.unlogged.pfns(&mut Vec::new()).is_err(), "the rings of a running guest")?;
    expect(guest.p2m.still_suspended().is_err(), "a running guest that is called suspended")
}

/// The rules for every back end.
fn conforms(guest: &mut XenGuest) -> Outcome {
    let pfns = guest.p2m.roots()?.pfn_count;
    let mut nobody = ();
    let (mut lent, log_dirty) = guest.lend(&mut nobody);
    conformance::guest(&mut lent)?;
    conformance::log_dirty(log_dirty, pfns, None)?;
    println!("SHOW ports of a real Xen conform: guest, log-dirty");
    Ok(())
}

fn check_suspended(guest: &mut XenGuest) -> Outcome {
    let frames = entries(guest)?;
    let held = guest.p2m.domain_frames()?;
    println!(
        "{} pfns with a frame, the domain holds {held}, the machine {}",
        frames.len(),
        guest.m2p.frames()
    );
    // shared_info and the like belong to the domain and are in no p2m.
    expect(
        frames.len() as u64 <= held && held - (frames.len() as u64) < 64,
        "frames of the domain",
    )?;
    let named = frames.iter().filter(|(pfn, mfn)| guest.m2p.pfn(*mfn) == Some(*pfn)).count();
    expect(named == frames.len(), "m2p[p2m[pfn]] = pfn")?;
    expect(guest.m2p.pfn(Mfn(guest.m2p.frames())).is_none(), "an m2p entry past the machine")?;
    types(guest, &frames)?;
    maps(guest, &frames)?;
    unlogged(guest, &frames)
}

/// Pfns with frames, by the engine's first copy.
fn entries(guest: &mut XenGuest) -> Result<Vec<(Pfn, Mfn)>, Box<dyn Error + Send + Sync>> {
    let width = guest.p2m.width();
    let mut monitor = Monitor::new(Config::default(), width)?;
    let mut nobody = ();
    let (mut lent, log_dirty) = guest.lend(&mut nobody);
    monitor.observe(&mut lent, log_dirty, |_, _| ())?;
    let tracker = monitor.tracker();
    let frame = |pfn| match tracker.shadow_entry(pfn).claim(width) {
        Claim::Frame(mfn) => Some((pfn, mfn)),
        _ => None,
    };
    let frames = (0..tracker.pfns()).map(Pfn).filter_map(frame).collect();
    monitor.release(&mut guest.p2m);
    Ok(frames)
}

fn types(guest: &mut XenGuest, frames: &[(Pfn, Mfn)]) -> Outcome {
    let (mut tables, mut pinned, mut data) = ([0; 5], 0, 0);
    for batch in frames.chunks(QUERY_FRAMES_MAX) {
        let mfns: Vec<Mfn> = batch.iter().map(|(_, mfn)| *mfn).collect();
        let mut kinds = vec![FrameType::Broken; mfns.len()];
        guest.types.query(&mfns, &mut kinds)?;
        for kind in kinds {
            match kind {
                FrameType::Data => data += 1,
                FrameType::Table { level, pinned: is_pinned } => {
                    tables[usize::from(level)] += 1;
                    pinned += u64::from(is_pinned);
                }
                other => return Err(format!("{other:?} among the guest's own frames").into()),
            }
        }
    }
    println!("types: {data} data, tables by level {:?}, {pinned} pinned", &tables[1..]);
    expect(data > 0 && tables[1..].iter().all(|&tables| tables > 0) && pinned > 0, "types")?;
    let strangers = [Mfn(0), Mfn(guest.m2p.frames()), Mfn(1 << 51)];
    let mut kinds = [FrameType::Data; 3];
    guest.types.query(&strangers, &mut kinds)?;
    expect(kinds == [FrameType::NotOwned; 3], "types of frames that are not the domain's")
}

/// Many frames at once, some of them not the domain's; unmapped in two parts.
fn maps(guest: &mut XenGuest, frames: &[(Pfn, Mfn)]) -> Outcome {
    let mut mfns: Vec<Mfn> = frames.iter().step_by(7).map(|(_, mfn)| *mfn).collect();
    mfns.insert(5, Mfn(0));
    let mut answers = Vec::new();
    guest.p2m.map(&mfns, &mut answers);
    expect(answers[5] == Err(MapFault::NotOwned), "a frame that is not the domain's is mapped")?;
    let slots: Vec<_> = answers.iter().filter_map(|answer| answer.ok()).collect();
    expect(slots.len() == mfns.len() - 1, "frames that can't be mapped")?;
    let (first, second): (Vec<_>, Vec<_>) = slots.iter().partition(|slot| slot.0 % 2 == 0);
    let own = mfns.iter().filter(|mfn| mfn.0 != 0);
    let copies: Vec<_> = own
        .clone()
        .map(|&mfn| {
            let mut copy = Leaf::default();
            guest.p2m.read(mfn, &mut copy).map(|()| copy)
        })
        .collect::<Result<_, _>>()
        .map_err(|fault| fault.to_string())?;
    guest.p2m.unmap(&first);
    for (slot, copy) in slots.iter().zip(&copies).filter(|(slot, _)| second.contains(slot)) {
        let mut live = Leaf::default();
        guest.p2m.live(*slot).fetch(&mut live);
        expect(live.words == copy.words, "a frame that changed when others were unmapped")?;
    }
    guest.p2m.unmap(&second);
    println!("maps: {} frames mapped, and unmapped in two parts", slots.len());
    Ok(())
}

fn unlogged(guest: &mut XenGuest, frames: &[(Pfn, Mfn)]) -> Outcome {
    let mut pfns = Vec::new();
    guest.unlogged.pfns(&mut pfns)?;
    println!("unlogged: {pfns:x?}, transfers {}", guest.unlogged.accepts_transfer()?);
    let owned = pfns.iter().all(|pfn| frames.binary_search_by_key(pfn, |(pfn, _)| *pfn).is_ok());
    expect(owned, "unlogged pfns have frames")?;
    // The rings twice: start_info names them, and the daemons have them mapped by grants, writable.
    let times = |pfn: &Pfn| pfns.iter().filter(|other| *other == pfn).count();
    let [start_info, store, console, granted @ ..] = pfns.as_slice() else {
        return Err("start_info, store and console".into());
    };
    expect(times(start_info) == 1 && times(store) == 2 && times(console) == 2, "mapped grants")?;
    expect(granted.len() == 2, "unmapped grants are listed")
}
