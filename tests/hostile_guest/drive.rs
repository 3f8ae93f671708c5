// SPDX-License-Identifier: MIT OR Apache-2.0
//! One hostile case: a migration of a random machine, stepped to its end, and everything that must
//! be true then.
//! Not here: how the engine may call a port (`ports`), what must have arrived (`judge`).
//! Units: port calls in one call of the engine.
//! Threads: one.
//! Source: laws 6 and 7 of `docs/design.md`; the errors' promise: pfn, mfn, level and cause.

use std::error::Error as _;

use p2mtrack::config::{
    AliasPolicy, Config, ForeignPtePolicy, Rewalk, Sender, UnaccountedPolicy, Verify,
};
use p2mtrack::diff::Kernel;
use p2mtrack::error::Error;
use p2mtrack::migration::Migration;
use p2mtrack::port::{Ports, Roots};
use p2mtrack::report::RoundReport;
use p2mtrack::shadow::Forms;

use super::{Hostility, Machine, State};

/// Port calls in one call of the engine, without reads of live leaves and the m2p. A live round
/// makes at most 3 passes over the structure, of at most 8 walks each; a walk reads the roots at
/// most 65 times and each of 320 frames at most 5 times (4 levels, leaf): 40,000. The structure of
/// a suspended guest is stable after a few passes, whatever it wrote, unless the host lets it run:
/// then the engine gives up after 64 sweeps with 16 attempts each.
pub(crate) const CALLS_MAX: u64 = 40_000;
/// Reads in one call: entries that are compared, resolved or looked up in the m2p. The entries of
/// each listed position are read a few times. Not counted: entries of page tables, which the
/// transport looks up.
pub(crate) const READS_MAX: u64 = 1_000_000;

/// How a case ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// `completed`, `cancelled`, or the kind of the error.
    pub name: &'static str,
    /// Pfns that were compared with the destination.
    pub judged: u64,
    /// The most port calls in one call of the engine.
    pub calls: u64,
    /// The most reads.
    pub reads: u64,
}

/// Migrates the machine's guest, as far as its random plan goes.
///
/// # Panics
/// If any check fails.
pub fn drive(machine: &Machine<'_>) -> End {
    let mut end = End { name: "cancelled", judged: 0, calls: 0, reads: 0 };
    let config = machine.config();
    let mut migration = match machine.step(&mut end, |ports| Migration::start(config, ports)) {
        Ok(migration) => migration,
        Err(error) => {
            end.name = named(&error, machine);
            machine.expect_left_alone();
            return end;
        }
    };
    let rounds = 1 + machine.state().choices.below(8);
    for _ in 0..rounds {
        let suspended = machine.state().choices.once_in(8);
        let result = machine.pause(suspended, || {
            machine.step(&mut end, |ports| match suspended {
                true => migration.checkpoint(ports),
                false => migration.round(ports),
            })
        });
        if let Err(error) = result {
            end.name = named(&error, machine);
            if !machine.state().choices.once_in(2) {
                machine.cancel(&mut end, &mut migration);
                return end;
            }
        }
    }
    if machine.state().choices.once_in(8) {
        machine.cancel(&mut end, &mut migration);
        return end;
    }
    let result = machine.pause(true, || machine.step(&mut end, |ports| migration.finish(ports)));
    match result {
        Ok(report) => machine.expect_complete(&mut end, &mut migration, &report),
        Err(error) => {
            end.name = named(&error, machine);
            machine.cancel(&mut end, &mut migration);
        }
    }
    end
}

impl Machine<'_> {
    fn config(&self) -> Config {
        let choices = &mut self.state().choices;
        Config {
            threads: 1,
            kernel: Some(choices.pick(Kernel::available())),
            shadow: Some(choices.pick(&Forms::ALL)),
            rewalk: choices.pick(&[Rewalk::WhenNeeded, Rewalk::WhenNeeded, Rewalk::EveryRound]),
            verify: choices.pick(&[Verify::Dirty, Verify::Dirty, Verify::Full]),
            uncertain_rounds_max: choices.pick(&[5, 0, 1, 2]),
            alias: choices.pick(&[AliasPolicy::Refuse, AliasPolicy::Copy]),
            foreign_pte: choices.pick(&[ForeignPtePolicy::Refuse, ForeignPtePolicy::Clear]),
            unaccounted: choices.pick(&[UnaccountedPolicy::Refuse, UnaccountedPolicy::Report]),
            sender: choices.pick(&[
                Sender::Engine,
                Sender::CallerNormalises,
                Sender::CallerReadsP2m,
            ]),
        }
    }

    /// One call of the engine, with its port calls counted.
    fn step<T>(&self, end: &mut End, call: impl FnOnce(&mut Ports<'_>) -> T) -> T {
        {
            let mut st = self.state();
            (st.calls, st.reads) = (0, 0);
        }
        let result = self.with_ports(call);
        let st = self.state();
        end.calls = end.calls.max(st.calls);
        end.reads = end.reads.max(st.reads);
        result
    }

    /// Runs `call` with the guest suspended, or not.
    fn pause<T>(&self, suspended: bool, call: impl FnOnce() -> T) -> T {
        if suspended {
            let st = &mut *self.state();
            self.repent(st);
            st.suspended = true;
        }
        let result = call();
        self.state().suspended = false;
        result
    }

    fn cancel(&self, end: &mut End, migration: &mut Migration) {
        let cancelled = self.step(end, |ports| migration.cancel(ports));
        if let Err(error) = cancelled {
            named(&error, self);
            assert!(self.state().off_refused, "cancel failed although the port did not: {error}");
        }
        self.expect_left_alone();
        self.expect_over(end, migration);
    }

    fn expect_complete(&self, end: &mut End, migration: &mut Migration, report: &RoundReport) {
        end.name = "completed";
        assert_eq!(
            (migration.tracker().owed(), report.pages.left, report.p2m_unreadable),
            (0, 0, false)
        );
        self.expect_left_alone();
        {
            let st = &*self.state();
            assert_eq!(report.log_left_on, st.off_refused, "the report's `log_left_on`");
            if self.temper.hostility == Hostility::Guest {
                end.judged = self.judge(st);
            }
        }
        self.expect_over(end, migration);
    }

    /// The engine has left nothing mapped or switched on.
    fn expect_left_alone(&self) {
        self.expect_unmapped();
        let st = self.state();
        assert!(!st.log_on || st.off_refused, "log-dirty is left on");
    }

    pub(crate) fn expect_unmapped(&self) {
        let held = self.state().slots.iter().flatten().count();
        assert_eq!(held, 0, "{held} frames are left mapped");
    }

    fn expect_over(&self, end: &mut End, migration: &mut Migration) {
        let again = self.step(end, |ports| migration.round(ports));
        assert!(matches!(again, Err(Error::Order { .. })), "a round after the end: {again:?}");
    }

    /// Arbitrary roots.
    pub(crate) fn some_roots(&self, st: &mut State<'_>) -> Roots {
        let home = self.home_roots();
        let mfn = self.some_word(st, super::OWN);
        let pfn_count = self.some_count(st);
        match st.choices.below(6) {
            0 => home,
            1 => Roots { pfn_count, ..home },
            2 => Roots { generation: st.choices.word(), ..home },
            3 => Roots { frame_list_list: mfn, ..home },
            4 => Roots { p2m_cr3: super::cr3_of(self.temper.width, mfn), ..home },
            _ => Roots { p2m_vaddr: home.p2m_vaddr.wrapping_add(4096 * (mfn & 7)), ..home },
        }
    }
}

/// The kind of an error.
///
/// # Panics
/// If the error does not name its subject.
pub(crate) fn named(error: &Error, machine: &Machine<'_>) -> &'static str {
    let text = error.to_string();
    let says = |what: &[String]| {
        what.iter().for_each(|what| assert!(text.contains(what), "{text:?} without {what:?}"));
    };
    let honest_host = machine.temper.hostility == Hostility::Guest;
    match error {
        Error::Port { port, source } => {
            says(&[(*port).to_owned()]);
            assert!(error.source().is_some() && !source.to_string().is_empty(), "{text}");
            "port"
        }
        Error::Page { pfn, mfn, .. } => {
            says(&[pfn.to_string(), mfn.to_string()]);
            assert!(error.source().is_some(), "{text}");
            "page"
        }
        Error::Roots { value, .. } => {
            says(&[format!("{value:#x}")]);
            "roots"
        }
        Error::Width { given, cause } => {
            says(&[given.bits().to_string(), cause.to_string()]);
            assert_eq!(*given, machine.temper.width);
            "width"
        }
        Error::Structure { level, mfn, pfn, cause } => {
            says(&[pfn.to_string(), mfn.to_string(), level.to_string(), cause.to_string()]);
            assert!(u32::from(*level) <= 4, "{text}");
            "structure"
        }
        Error::P2mSize { pfn, limit, .. } => {
            says(&[pfn.to_string(), format!("{limit:#x}")]);
            "p2m-size"
        }
        Error::TooManyDeferred { pfn, waiting, .. } => {
            says(&[pfn.to_string(), waiting.to_string()]);
            "too-many-deferred"
        }
        Error::Unaccounted { unaccounted_frames, domain_frames, limit } => {
            let count = unaccounted_frames.unsigned_abs();
            says(&[count.to_string(), domain_frames.to_string(), limit.to_string()]);
            assert!(count > *limit, "{text}");
            "unaccounted"
        }
        Error::Uncertain { uncertainty, rounds, .. } => {
            says(&[uncertainty.to_string(), rounds.to_string()]);
            assert!(*rounds > 0, "{text}");
            "uncertainty"
        }
        Error::Entry { pfn, mfn, cause } => {
            says(&[pfn.to_string(), cause.to_string()]);
            says(&mfn.iter().map(ToString::to_string).collect::<Vec<_>>());
            "entry"
        }
        Error::Table { pfn, fault } => {
            says(&[pfn.to_string(), fault.mfn.to_string(), fault.slot.to_string()]);
            let in_bounds = (1..=4).contains(&fault.level) && fault.slot < 512;
            assert!(in_bounds || !honest_host, "{text}");
            "table"
        }
        _ => panic!("not an end of a migration: {text}"),
    }
}
