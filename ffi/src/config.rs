// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host's configuration as the engine's.
//! Not here: what they mean.
//! Units: those of the header.
//! Threads: plain values.
//! Source: `include/p2mtrack.h`, `p2mtrack::config`.

use p2mtrack::config::{AliasPolicy, Config, ForeignPtePolicy, Sender, UnaccountedPolicy, Verify};
use p2mtrack::diff::Kernel;
use p2mtrack::frame::Width;
use p2mtrack::report::Stage;

use crate::abi;
use crate::convert::KERNELS;
use crate::error::Fault;

/// The most threads that make sense; a larger number is a mistake.
const THREADS_MAX: u32 = 1024;

fn unknown(what: &str, value: u32) -> Fault {
    Fault::argument(format!("{value} is not a valid {what}"))
}

pub(crate) fn width(value: u32) -> Result<Width, Fault> {
    match value {
        abi::WIDTH_32 => Ok(Width::W32),
        abi::WIDTH_64 => Ok(Width::W64),
        _ => Err(unknown("width", value)),
    }
}

pub(crate) fn verify(value: u32) -> Result<Verify, Fault> {
    match value {
        abi::VERIFY_DIRTY => Ok(Verify::Dirty),
        abi::VERIFY_FULL => Ok(Verify::Full),
        _ => Err(unknown("way to verify", value)),
    }
}

pub(crate) fn stage(value: u32) -> Result<Stage, Fault> {
    match value {
        abi::LIVE => Ok(Stage::Live),
        abi::CHECKPOINT => Ok(Stage::Checkpoint),
        abi::FINAL => Ok(Stage::Final),
        _ => Err(unknown("stage", value)),
    }
}

pub(crate) fn sender(value: u32) -> Result<Sender, Fault> {
    match value {
        abi::FULL => Ok(Sender::Engine),
        abi::PASSIVE => Ok(Sender::CallerNormalises),
        abi::HOST_READS_P2M => Ok(Sender::CallerReadsP2m),
        _ => Err(unknown("mode", value)),
    }
}

fn kernel(value: u32) -> Result<Option<Kernel>, Fault> {
    if value == abi::KERNEL_AUTO {
        return Ok(None);
    }
    let name = KERNELS.iter().find(|(number, _)| *number == value).map(|(_, name)| *name);
    let name = name.ok_or_else(|| unknown("kernel", value))?;
    name.parse().map(Some).map_err(|error| Fault::argument(format!("{error}")))
}

/// The whole configuration.
pub(crate) fn config(theirs: &abi::Config) -> Result<Config, Fault> {
    if theirs.threads > THREADS_MAX {
        return Err(unknown("number of threads", theirs.threads));
    }
    let ours = Config::default();
    Ok(Config {
        threads: theirs.threads as usize,
        kernel: kernel(theirs.kernel)?,
        verify: verify(theirs.verify)?,
        sender: sender(theirs.mode)?,
        alias: match theirs.alias {
            abi::ALIAS_REFUSE => AliasPolicy::Refuse,
            abi::ALIAS_COPY => AliasPolicy::Copy,
            alias => return Err(unknown("policy for aliases", alias)),
        },
        foreign_pte: match theirs.foreign_pte {
            abi::FOREIGN_PTE_REFUSE => ForeignPtePolicy::Refuse,
            abi::FOREIGN_PTE_CLEAR => ForeignPtePolicy::Clear,
            foreign_pte => return Err(unknown("policy for foreign PTEs", foreign_pte)),
        },
        unaccounted: match theirs.unaccounted {
            abi::UNACCOUNTED_REFUSE => UnaccountedPolicy::Refuse,
            abi::UNACCOUNTED_REPORT => UnaccountedPolicy::Report,
            unaccounted => return Err(unknown("policy for unaccounted frames", unaccounted)),
        },
        uncertain_rounds_max: match theirs.uncertain_rounds_max {
            0 => ours.uncertain_rounds_max,
            rounds => rounds,
        },
        ..ours
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(change: impl FnOnce(&mut abi::Config)) -> i32 {
        let mut theirs = abi::Config { width: 64, ..Default::default() };
        change(&mut theirs);
        config(&theirs).map_or_else(|fault| fault.code(), |_| abi::OK)
    }

    #[test]
    fn what_is_not_in_the_header_is_refused() {
        assert_eq!(code(|_| {}), abi::OK);
        assert_eq!(code(|c| c.threads = 1025), abi::E_ARGUMENT);
        assert_eq!(code(|c| c.kernel = 9), abi::E_ARGUMENT);
        assert_eq!(code(|c| c.verify = 2), abi::E_ARGUMENT);
        assert_eq!(code(|c| c.mode = 3), abi::E_ARGUMENT);
        assert_eq!(code(|c| c.alias = 2), abi::E_ARGUMENT);
        assert_eq!(code(|c| c.foreign_pte = 2), abi::E_ARGUMENT);
        assert_eq!(code(|c| c.unaccounted = 2), abi::E_ARGUMENT);
        assert_eq!(width(16).expect_err("none").code(), abi::E_ARGUMENT);
        assert_eq!(stage(3).expect_err("none").code(), abi::E_ARGUMENT);
    }

    #[test]
    fn choices_are_passed_on() {
        let theirs = abi::Config {
            threads: 3,
            kernel: abi::KERNEL_SCALAR,
            verify: abi::VERIFY_FULL,
            alias: abi::ALIAS_COPY,
            foreign_pte: abi::FOREIGN_PTE_CLEAR,
            uncertain_rounds_max: 9,
            unaccounted: abi::UNACCOUNTED_REPORT,
            ..Default::default()
        };
        let ours = config(&theirs).expect("known");
        assert_eq!(
            (ours.threads, ours.kernel, ours.verify),
            (3, Some(Kernel::SCALAR), Verify::Full)
        );
        assert_eq!((ours.alias, ours.uncertain_rounds_max), (AliasPolicy::Copy, 9));
        assert_eq!(ours.foreign_pte, ForeignPtePolicy::Clear);
        assert_eq!(ours.unaccounted, UnaccountedPolicy::Report);
    }
}
