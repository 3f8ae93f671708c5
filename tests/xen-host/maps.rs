// SPDX-License-Identifier: MIT OR Apache-2.0
//! `xen-maps DOMID`: what it costs a sender to map a guest's pages and to let go of them.
//! Not here: the sender.
//! Units: microseconds a page; medians of several turns.
//! Threads: one in each process.
//! Source: own. Runs in the control domain of `tests/xen-host`; an emulated machine, so that only
//! ratios mean something.

#![expect(unsafe_code, reason = "fork; docs/safety.md")]

use std::error::Error;
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use p2mtrack::frame::{FrameType, Mfn};
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{FrameTypes, M2p};
use p2mtrack_xen::{Domain, PageBatch, Unknown, Xen, XenGuest, XenPages};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Pages of a batch.
const BATCH: usize = 1024;
/// Pages that are mapped in a turn.
const PAGES: usize = 24 * BATCH;
const TURNS: usize = 5;
/// Batches of a child.
const CHILDREN: [usize; 3] = [1, 4, PAGES / BATCH];

fn main() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let domid = words.first().ok_or("xen-maps DOMID")?;
    let domain = Domain::open(&Xen::open(Unknown::Refuse)?, domid.parse()?)?;
    match words.get(1) {
        None => measure(domid, &domain),
        Some(pages) => hold(&domain, pages.parse()?),
    }
}

/// Frames of the domain, in ascending order.
fn frames(domain: &Domain) -> Outcome<Vec<Mfn>> {
    let mut guest = XenGuest::open(domain)?;
    let mut found = Vec::with_capacity(PAGES);
    let all: Vec<_> = (0..guest.m2p.frames()).map(Mfn).collect();
    for frames in all.chunks(BATCH) {
        let mut kinds = vec![FrameType::NotOwned; frames.len()];
        guest.types.query(frames, &mut kinds)?;
        let own = frames.iter().zip(kinds).filter(|(_, kind)| *kind == FrameType::Data);
        found.extend(own.map(|(mfn, _)| *mfn));
        if found.len() >= PAGES {
            found.truncate(PAGES);
            return Ok(found);
        }
    }
    Err("the guest is too small".into())
}

fn map(pages: &XenPages, frames: &[Mfn]) -> Outcome<Vec<PageBatch>> {
    let batches = frames.chunks(BATCH).map(|batch| pages.map(batch));
    Ok(batches.collect::<Result<Vec<_>, _>>()?)
}

/// Maps so many frames, whose numbers are the words of its standard input, says so, and exits with
/// them when its input ends.
fn hold(domain: &Domain, count: usize) -> Outcome {
    let mut words = vec![0; 8 * count];
    io::stdin().read_exact(&mut words)?;
    let frame = |word: &[u8]| Ok(Mfn(u64::from_le_bytes(word.try_into()?)));
    let frames = words.chunks(8).map(frame).collect::<Outcome<Vec<_>>>()?;
    let batches = map(&XenPages::new(domain)?, &frames)?;
    println!("held");
    io::stdin().read_to_end(&mut Vec::new())?;
    std::mem::forget(batches);
    Ok(())
}

/// How long a process takes to exit with these pages.
fn exit(domid: &str, frames: &[Mfn]) -> Outcome<Duration> {
    let mut held = Command::new(std::env::current_exe()?)
        .args([domid, &frames.len().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let words: Vec<u8> = frames.iter().flat_map(|mfn| mfn.0.to_le_bytes()).collect();
    held.stdin.as_mut().ok_or("no input")?.write_all(&words)?;
    let mut line = String::new();
    let told = held.stdout.take().ok_or("no output")?;
    BufReader::new(told).read_line(&mut line)?;
    let begun = Instant::now();
    drop(held.stdin.take());
    let ended = held.wait()?;
    let time = begun.elapsed();
    if line == "held\n" && ended.success() { Ok(time) } else { Err("it holds no pages".into()) }
}

/// Reads every page of a batch, as a copy into a pipe would.
fn copy(batch: &PageBatch, count: usize) -> Outcome {
    let mut page = Leaf::default();
    for index in 0..count {
        batch.page(index).map_err(|fault| fault.to_string())?.fetch(&mut page);
        black_box(&page);
    }
    Ok(())
}

/// How long a child takes that maps batches, copies their pages, and exits with all of them.
fn child(pages: &XenPages, frames: &[Mfn]) -> Outcome<Duration> {
    let begun = Instant::now();
    // SAFETY: this process has one thread, so that the child may do what it does.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error().into());
    }
    if pid == 0 {
        let done = frames.chunks(BATCH).all(|frames| {
            pages.map(frames).is_ok_and(|batch| {
                let copied = copy(&batch, frames.len()).is_ok();
                std::mem::forget(batch);
                copied
            })
        });
        // SAFETY: ends the child, and runs nothing of the parent's.
        unsafe { libc::_exit(i32::from(!done)) };
    }
    let mut status = 0;
    // SAFETY: `status` is the child's alone.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    if waited == pid && status == 0 { Ok(begun.elapsed()) } else { Err("the child failed".into()) }
}

/// Microseconds a page, the median of all turns.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn micros(time: Duration, pages: usize) -> f64 {
    time.as_secs_f64() * 1e6 / pages as f64
}

fn measure(domid: &str, domain: &Domain) -> Outcome {
    let frames = &frames(domain)?[..];
    let pages = XenPages::new(domain)?;
    let [mut mapped, mut read, mut unmapped, mut ended] = [(); 4].map(|()| Vec::new());
    let mut children = CHILDREN.map(|_| Vec::new());
    for _ in 0..TURNS {
        let [mut map, mut copied, mut unmap] = [Duration::ZERO; 3];
        for frames in frames.chunks(BATCH) {
            let begun = Instant::now();
            let batch = pages.map(frames)?;
            map += begun.elapsed();
            let begun = Instant::now();
            copy(&batch, frames.len())?;
            copied += begun.elapsed();
            let begun = Instant::now();
            drop(batch);
            unmap += begun.elapsed();
        }
        let times = [map, copied, unmap];
        let all = [&mut mapped, &mut read, &mut unmapped];
        all.into_iter().zip(times).for_each(|(all, time)| all.push(micros(time, PAGES)));
        for (batches, times) in CHILDREN.into_iter().zip(&mut children) {
            let mut time = Duration::ZERO;
            for frames in frames.chunks(batches * BATCH) {
                time += child(&pages, frames)?;
            }
            times.push(micros(time, PAGES));
        }
        let with = exit(domid, frames)?;
        ended.push(micros(with.saturating_sub(exit(domid, &[])?), PAGES));
    }
    println!(
        "microseconds a page, {PAGES} pages in batches of {BATCH}: map {:.2}, copy {:.2}, munmap \
         {:.2}; exit with all {:.2}",
        median(&mut mapped),
        median(&mut read),
        median(&mut unmapped),
        median(&mut ended)
    );
    for (batches, times) in CHILDREN.into_iter().zip(&mut children) {
        let time = median(times);
        println!("a child for each {batches} batches that maps, copies, exits: {time:.2}");
    }
    Ok(())
}
