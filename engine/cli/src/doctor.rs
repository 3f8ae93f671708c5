// SPDX-License-Identifier: MIT OR Apache-2.0
//! `doctor`: what this machine has, what it lacks, and what to do about it.
//! Not here: any change of the machine.
//! Units: bytes.
//! Threads: one.
//! Source: what log-dirty needs of Xen: `xen-save-path.md` 6.1; memory of the engine:
//! `docs/perf.md`.

use std::error::Error;
use std::fs;
use std::process::ExitCode;

use p2mtrack::config::{Config, UNACCOUNTED_FRAMES_MAX};
use p2mtrack::diff::Kernel;
use p2mtrack::monitor::Monitor;
use p2mtrack::port::M2p;
use p2mtrack_xen::{Domain, Host, KNOWN_DOMCTLS, Unknown, Xen, XenError, XenGuest, XenM2p};
use serde::Serialize;

use crate::failure::{Failure, VERDICT};
use crate::findings::unaccounted;
use crate::output::{BAD, GOOD, NOTE, Output};
use crate::size::{in_words, parse_size};

/// Check whether this machine can track guests, and advise what to do if not
///
/// Exit status: 0 it can, 1 it can't.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Memory of the guest to track
    #[arg(long, value_name = "SIZE", default_value = "64GiB", value_parser = parse_size)]
    guest_size: u64,
    /// Check this guest too
    #[arg(long, value_name = "DOMID")]
    domain: Option<u16>,
    /// Print JSON, one object per line
    #[arg(long)]
    json: bool,
    /// Continue on a Xen whose interface is newer than this program
    #[arg(long)]
    unknown_xen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    Poor,
    Bad,
}

/// One thing that was checked.
#[derive(Debug, Serialize)]
struct Finding {
    event: &'static str,
    name: &'static str,
    state: State,
    found: String,
    advice: Option<String>,
}

#[derive(Serialize)]
struct Verdict {
    event: &'static str,
    good: usize,
    poor: usize,
    bad: usize,
}

pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let mut out = Output::stdout(args.json);
    let findings = examine(args);
    for finding in &findings {
        print(&mut out, finding)?;
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let verdict = Verdict {
        event: "doctor",
        good: count(State::Good),
        poor: count(State::Poor),
        bad: count(State::Bad),
    };
    out.object(&verdict)?;
    out.finish()?;
    Ok(if verdict.bad == 0 { ExitCode::SUCCESS } else { ExitCode::from(VERDICT) })
}

fn print(out: &mut Output, finding: &Finding) -> Result<(), Failure> {
    out.object(finding)?;
    let (style, word) = match finding.state {
        State::Good => (GOOD, "good"),
        State::Poor => (NOTE, "poor"),
        State::Bad => (BAD, "bad"),
    };
    out.text(format_args!("{style}{word:<5}{style:#} {:<15} {}", finding.name, finding.found))?;
    if let Some(advice) = &finding.advice {
        out.text(format_args!("      {:<15} {advice}", ""))?;
    }
    Ok(())
}

fn finding(name: &'static str, state: State, found: impl Into<String>) -> Finding {
    Finding { event: "finding", name, state, found: found.into(), advice: None }
}

impl Finding {
    fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

fn examine(args: &DoctorArgs) -> Vec<Finding> {
    let mut findings = vec![kernel(), memory(args.guest_size)];
    let unknown = if args.unknown_xen { Unknown::Accept } else { Unknown::Refuse };
    match Xen::open(unknown) {
        Err(error) => findings.push(closed(&error)),
        Ok(xen) => {
            findings.push(finding("privcmd", State::Good, "/dev/xen/privcmd answers"));
            findings.extend(hypervisor(&xen));
            findings.extend(machine(&xen));
            findings.push(m2p(&xen));
            findings.push(pool(&xen, args));
            findings.extend(args.domain.map(|domid| p2m(&xen, domid)));
        }
    }
    findings
}

fn kernel() -> Finding {
    match Kernel::choose() {
        Ok(kernel) if ![Kernel::SCALAR, Kernel::WIDE].contains(&kernel) => {
            finding("simd", State::Good, format!("kernel {kernel}"))
        }
        Ok(kernel) => finding("simd", State::Poor, format!("kernel {kernel}"))
            .advise("rounds take longer; a control domain sees AVX2 if Xen's cpuid policy lets it"),
        Err(error) => finding("simd", State::Bad, error.to_string()),
    }
}

/// The most memory that the engine takes: the shadow of a p2m without any order, 2 bitmaps of the
/// log, ten causes with their summaries, the notes of what was sent, and for each leaf its frame,
/// backing pfn, position and mapping.
fn engine_bytes(guest_bytes: u64) -> u64 {
    let pfns = guest_bytes / 4096;
    let p2m = 8 * pfns;
    p2m * 52 / 100 + 16 * pfns / 8 + pfns.div_ceil(512) * 256 + (16 << 20)
}

fn memory(guest_bytes: u64) -> Finding {
    let needed = engine_bytes(guest_bytes);
    let size = in_words(guest_bytes);
    let words =
        format!("a guest of {size} takes at most {} of this domain", in_words(round_up(needed)));
    match available() {
        None => finding("memory", State::Poor, words)
            .advise("/proc/meminfo does not say how much is available"),
        Some(there) if there >= needed => finding(
            "memory",
            State::Good,
            format!("{words}; {} are available", in_words(round_up(there))),
        ),
        Some(there) => finding(
            "memory",
            State::Bad,
            format!("{words}; {} are available", in_words(round_up(there))),
        )
        .advise("give the control domain more (dom0_mem), or track a smaller guest"),
    }
}

/// Whole MiB, for people.
fn round_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(1 << 20)
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn closed(error: &XenError) -> Finding {
    finding("privcmd", State::Bad, error.to_string())
        .advise("run it as root in the control domain (modprobe xen-privcmd), on a Xen that is listed in docs/xen.md")
}

fn hypervisor(xen: &Xen) -> Vec<Finding> {
    let version = match xen.version() {
        Ok(version) => finding("xen", State::Good, format!("Xen {version}")),
        Err(error) => finding("xen", State::Poor, error.to_string()),
    };
    let domctl = xen.domctl();
    let known = KNOWN_DOMCTLS.iter().find(|(known, _)| *known == domctl);
    let interface = match known {
        Some((_, versions)) => {
            finding("domctl", State::Good, format!("interface {domctl}, that of Xen {versions}"))
        }
        None => finding("domctl", State::Poor, format!("interface {domctl}, which is unknown"))
            .advise("--unknown-xen continues with it; ask for a release that knows it"),
    };
    vec![version, interface]
}

fn machine(xen: &Xen) -> Vec<Finding> {
    let info = match Host::new(xen).and_then(|mut host| host.physical_info()) {
        Ok(info) => info,
        Err(error) => return vec![finding("shadow-paging", State::Poor, error.to_string())],
    };
    let shadow = if info.shadow {
        finding("shadow-paging", State::Good, "built in: PV guests have log-dirty")
    } else {
        finding("shadow-paging", State::Bad, "not built in: no PV guest has log-dirty")
            .advise("a Xen with CONFIG_SHADOW_PAGING=y is needed (Debian's has it off)")
    };
    let pv = if info.pv {
        finding("pv", State::Good, "PV guests run here")
    } else {
        finding("pv", State::Bad, "no PV guests run here")
            .advise("a Xen with CONFIG_PV=y is needed")
    };
    vec![pv, shadow]
}

fn m2p(xen: &Xen) -> Finding {
    match XenM2p::new(xen) {
        Ok(m2p) => {
            let (covered, frames) = (m2p.covered(), m2p.frames());
            finding("m2p", State::Good, format!("mapped: it covers {covered} of {frames} frames"))
        }
        Err(error) => finding("m2p", State::Bad, error.to_string())
            .advise("a security policy (XSM) forbids it, or the control domain lacks memory: 8 bytes for each frame of the machine"),
    }
}

/// Pages of the paging pool that the log of a guest takes if all of it is dirty: one for each
/// 32,768 pfns, and their tree.
fn log_pages(guest_bytes: u64) -> u64 {
    let leaves = (guest_bytes / 4096).div_ceil(32_768);
    let middle = leaves.div_ceil(512);
    leaves + middle + middle.div_ceil(512) + 1
}

fn pool(xen: &Xen, args: &DoctorArgs) -> Finding {
    let name = "paging-pool";
    let needed = |bytes| log_pages(bytes) * 4096;
    let Some(domid) = args.domain else {
        let words = format!(
            "the log of a guest of {} takes {} of its pool, besides its shadow page tables",
            in_words(args.guest_size),
            in_words(round_up(needed(args.guest_size)))
        );
        return finding(name, State::Good, words).advise("--domain DOMID checks a guest's pool");
    };
    let query = || {
        let mut domain = Domain::open(xen, domid)?;
        Ok::<_, XenError>((
            domain.info()?.frames_max.saturating_mul(4096),
            domain.paging_pool_bytes(),
        ))
    };
    match query() {
        Err(error) => finding(name, State::Bad, error.to_string()).advise("see `xl list`"),
        Ok((_, Err(error))) => finding(name, State::Poor, error.to_string())
            .advise("Xen 4.17 and later report the size of a guest's pool"),
        Ok((guest, Ok(pool))) => {
            let words = format!(
                "domain {domid} has a pool of {}; its log takes {}",
                in_words(round_up(pool)),
                in_words(round_up(needed(guest)))
            );
            // Xen makes the pool when log-dirty is first switched on; until then its size is 0.
            if pool == 0 || pool >= 2 * needed(guest) {
                finding(name, State::Good, words)
            } else {
                finding(name, State::Poor, words).advise(
                    "if it is too small, log-dirty fails with ENOMEM and everything is sent again: raise \
                     shadow_memory in the guest's configuration",
                )
            }
        }
    }
}

/// Reads a guest's p2m once, without its log: whether it names the frames that the domain holds.
fn p2m(xen: &Xen, domid: u16) -> Finding {
    let name = "p2m";
    match unaccounted_frames(xen, domid) {
        Err(error) => finding(name, State::Bad, error.to_string())
            .advise("a guest that has just started publishes its p2m later; see `xl console`"),
        Ok(frames) if frames.unsigned_abs() <= UNACCOUNTED_FRAMES_MAX => {
            finding(name, State::Good, unaccounted(frames))
        }
        Ok(frames) => finding(name, State::Bad, unaccounted(frames)).advise(format!(
            "more than {UNACCOUNTED_FRAMES_MAX} end a migration with an error of the kind \"unaccounted\": what the p2m \
             does not name is not migrated"
        )),
    }
}

/// Frames that a domain holds and its p2m does not name, from a first copy, which reads no log.
fn unaccounted_frames(xen: &Xen, domid: u16) -> Result<i64, Box<dyn Error + Send + Sync>> {
    let domain = Domain::open(xen, domid)?;
    let mut guest = XenGuest::open(&domain)?;
    let mut monitor = Monitor::new(Config::default(), domain.width())?;
    let mut observer = ();
    let (mut lent, log_dirty) = guest.lend(&mut observer);
    let report = monitor.observe(&mut lent, log_dirty, |_, _| ());
    monitor.release(lent.p2m);
    report?.unaccounted_frames.ok_or_else(|| "its p2m can't be followed now".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_takes_one_page_for_128_mib_and_its_tree() {
        assert_eq!(log_pages(128 << 20), 1 + 1 + 1 + 1);
        assert_eq!(log_pages(4 << 40), 32_768 + 64 + 1 + 1);
        assert_eq!(log_pages((128 << 20) + 4096), 2 + 1 + 1 + 1);
    }

    #[test]
    fn the_engine_bound_is_more_than_was_ever_measured() {
        // docs/perf.md: 4 TiB in random order took 16,878 MiB, of which the guest took 8 GiB and
        // the rest of the simulation 2.8 GiB.
        let most = engine_bytes(4 << 40);
        assert!((6 << 30..9 << 30).contains(&most), "{most}");
    }
}
