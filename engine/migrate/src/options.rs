// SPDX-License-Identifier: MIT OR Apache-2.0
//! Options that say how a guest is saved, which several programs have.
//! Not here: where the stream goes, and who suspends the guest.
//! Units: times as 300ms, 60s or a number of seconds; sizes as 64GiB.
//! Threads: plain values.
//! Source: own; names of options are an interface and are not renamed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use p2mtrack::config::{AliasPolicy, Config, ForeignPtePolicy, UnaccountedPolicy};
use p2mtrack_xen::{IfOn, Unknown};

use crate::plan::{Plan, Receiver, Unconverged};
use crate::policy::Limits;

/// Suffixes of sizes, and how many bits each is worth.
const SIZE_SUFFIXES: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];

/// How a guest is saved.
#[derive(Debug, Args)]
pub struct SaveOptions {
    /// The most rounds while the guest runs, the first copy included
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    max_rounds: u64,
    /// The last round comes when no more pages than these are left
    #[arg(long, value_name = "N", default_value_t = 50)]
    dirty_pages: u64,
    /// The last round comes when the guest is estimated to stand still for no longer than this
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = parse_time)]
    downtime: Duration,
    /// What to do when rounds or time are over, or what is left did not shrink in three rounds: the
    /// last round all the same, or an error
    #[arg(long, value_enum, default_value = "suspend")]
    unconverged: UnconvergedArg,
    /// Begin no round but the last one later than this
    #[arg(long, value_name = "S", value_parser = parse_time)]
    max_time: Option<Duration>,
    /// Bytes a second while the guest runs, as 1GiB; the last round is never slowed [default: as
    /// fast as it goes]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub rate: Option<u64>,
    /// A page table that names a frame of another domain: an error, or the PTE is cleared
    #[arg(long, value_enum, default_value = "refuse")]
    foreign_pte: ForeignPteArg,
    /// Two pfns with one frame: an error, or each gets a copy
    #[arg(long, value_enum, default_value = "refuse")]
    alias: AliasArg,
    /// Frames that the domain holds and that no pfn has: an error, or only reported
    #[arg(long, value_enum, default_value = "refuse")]
    unaccounted: UnaccountedArg,
    /// Who reads the stream: stock, Xen's own restore, which gives no frame back
    #[arg(long, value_enum, default_value = "stock")]
    receiver: ReceiverArg,
    /// Threads that compare; one more writes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Append the line about the whole save, as JSON, to this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Continue on a Xen whose interface is newer than this program
    #[arg(long)]
    pub unknown_xen: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UnconvergedArg {
    Suspend,
    Abort,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ForeignPteArg {
    Refuse,
    Clear,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AliasArg {
    Refuse,
    Copy,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum UnaccountedArg {
    Refuse,
    Report,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ReceiverArg {
    Stock,
}

impl SaveOptions {
    /// What to do about an interface of Xen's that is not known.
    #[must_use]
    pub const fn unknown(&self) -> Unknown {
        if self.unknown_xen { Unknown::Accept } else { Unknown::Refuse }
    }

    /// The plan of a live save, or of a suspended guest, of which a stock receiver may hold so many
    /// pfns.
    #[must_use]
    pub fn plan(&self, live: bool, if_on: IfOn, stock_pfns: u64) -> Plan {
        Plan {
            live,
            limits: Limits {
                rounds: self.max_rounds,
                dirty_pages: self.dirty_pages,
                downtime: self.downtime,
                time: self.max_time,
            },
            unconverged: match self.unconverged {
                UnconvergedArg::Suspend => Unconverged::Suspend,
                UnconvergedArg::Abort => Unconverged::Abort,
            },
            if_on,
            receiver: match self.receiver {
                ReceiverArg::Stock => Receiver::Stock { pfns: stock_pfns },
            },
            verify: false,
            checkpoints: false,
            config: self.engine(),
        }
    }

    fn engine(&self) -> Config {
        Config {
            threads: self.threads.into(),
            foreign_pte: match self.foreign_pte {
                ForeignPteArg::Refuse => ForeignPtePolicy::Refuse,
                ForeignPteArg::Clear => ForeignPtePolicy::Clear,
            },
            alias: match self.alias {
                AliasArg::Refuse => AliasPolicy::Refuse,
                AliasArg::Copy => AliasPolicy::Copy,
            },
            unaccounted: match self.unaccounted {
                UnaccountedArg::Refuse => UnaccountedPolicy::Refuse,
                UnaccountedArg::Report => UnaccountedPolicy::Report,
            },
            ..Config::default()
        }
    }
}

/// Reads a time: a number with ms or s, or of seconds.
///
/// # Errors
/// It is none, or too long.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let (digits, millis) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1000),
        (None, None) => (text, 1000),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is not a time: a number of seconds, or with s or ms"))?;
    let millis = number.checked_mul(millis).ok_or_else(|| format!("'{text}' is too long"))?;
    Ok(Duration::from_millis(millis))
}

fn parse_rate(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("at 0 bytes a second nothing is ever sent".to_owned()),
        rate => Ok(rate),
    }
}

/// Reads a size in bytes.
///
/// # Errors
/// It is none, or too large.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let found =
        SIZE_SUFFIXES.iter().find_map(|(suffix, bits)| Some((text.strip_suffix(suffix)?, *bits)));
    let (digits, bits) = found.unwrap_or((text, 0));
    let number: u64 = digits.trim().parse().map_err(|_| {
        format!("'{text}' is not a size: a number of bytes, or with KiB, MiB, GiB or TiB")
    })?;
    number.checked_mul(1 << bits).ok_or_else(|| format!("'{text}' is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_or_milliseconds() {
        for (text, millis) in [("300ms", 300), ("60s", 60_000), ("7", 7000), ("0ms", 0)] {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(millis)));
        }
        for bad in
            ["", "s", "ms", "1.5s", "-1", "1m", "99999999999999999999", "18446744073709551615"]
        {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
        assert_eq!((parse_rate("1GiB"), parse_rate("0").is_err()), (Ok(1 << 30), true));
    }
}
