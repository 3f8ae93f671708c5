// SPDX-License-Identifier: MIT OR Apache-2.0
//! `replay FILE`: what the engine finds in a recorded guest, round by round.
//! Not here: what it should have found (`check`), how it is printed (`findings`).
//! Units: sums are over the rounds after the first copy.
//! Threads: as `--threads` says.
//! Source: rule of each count: the head of `p2mtrack_trace::naive`.

use std::process::ExitCode;

use p2mtrack::config::Config;
use p2mtrack::report::RoundReport;

use crate::args::ReplayArgs;
use crate::check::Check;
use crate::failure::{Failure, VERDICT};
use crate::findings::{Owed, RoundLine, Totals, print_first_copy, print_round, print_verdict};
use crate::follow::Follower;
use crate::output::Output;
use crate::recording::Recording;

pub(crate) fn run(args: &ReplayArgs) -> Result<ExitCode, Failure> {
    let Recording { reader, .. } = Recording::open(&args.file)?;
    let config = Config { threads: args.threads.into(), ..args.compare.config() };
    let mut follower = Follower::new(&args.file, &reader, config)?;
    let mut check = args.check.then(|| {
        let meta = reader.meta();
        Check::new(meta.width, meta.max_mfn, false)
    });
    let mut totals = Totals::of("replay");
    let mut out = Output::stdout(args.json);
    loop {
        let (report, owed) = observe(&mut follower)?;
        if let Some(check) = &mut check {
            check_round(check, &follower, &report, &owed);
        }
        if follower.number() == 0 {
            print_first_copy(&mut out, &report, &owed, follower.tracker().pfns())?;
        } else {
            totals.add(&report);
            let line = RoundLine::new(follower.number(), &report, &owed);
            out.object(&line)?;
            print_round(&mut out, &line)?;
        }
        if !follower.advance()? {
            break;
        }
    }
    totals.missed = check.as_ref().map(Check::missed);
    totals.pending = check.as_ref().map(Check::pending);
    out.object(&totals)?;
    print_verdict(&mut out, &totals, check.as_ref())?;
    out.finish()?;
    let passed = check.as_ref().is_none_or(Check::is_passed);
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(VERDICT) })
}

/// Observes the current round.
pub(crate) fn observe(follower: &mut Follower<'_>) -> Result<(RoundReport, Owed), Failure> {
    let mut owed = Owed::default();
    let report = follower.observe(|pfn, causes| owed.add(pfn, causes))?;
    Ok((report, owed))
}

/// Compares all of the current round's p2m with what the engine knows of it. A round in which the
/// engine could not follow the structure is skipped: the next one judges it.
pub(crate) fn check_round(
    check: &mut Check,
    follower: &Follower<'_>,
    report: &RoundReport,
    owed: &Owed,
) {
    if report.p2m_unreadable {
        return check.skip(&owed.pfns, follower.tracker());
    }
    let round = follower.round();
    check.round(&round.entries, round.after.pfn_count, &owed.pfns, follower.tracker());
}
