// SPDX-License-Identifier: MIT OR Apache-2.0
//! Options of `save`.
//! Not here: what is done with them.
//! Units: times as 300ms, 60s or a number of seconds; sizes as in `size`.
//! Threads: plain values.
//! Source: own; names of options are an interface and are not renamed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use p2mtrack::config::{AliasPolicy, Config, ForeignPtePolicy, UnaccountedPolicy};
use p2mtrack_migrate::plan::{Plan, Receiver, Unconverged};
use p2mtrack_migrate::policy::Limits;
use p2mtrack_stream::container::Format;
use p2mtrack_xen::IfOn;

use super::out::Target;
use crate::size::parse_size;

/// Save a PV guest as a stream that xl restore reads
///
/// With --live the guest runs while most of it is copied. It then stands still for the last round,
/// and runs on, unless --after says otherwise. After any error it runs on, too: if this process is
/// killed, a guard process switches log-dirty off and resumes the guest.
///
/// Exit status: 0 saved, 2 usage, or refused before anything was touched, 3 ended in an error and
/// the source runs on, 4 log-dirty could not be switched off, or the source not resumed.
#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The guest's domain ID
    #[arg(value_parser = clap::value_parser!(u16).range(1..0x7ff0))]
    pub(super) domid: u16,
    /// Copy most of the guest while it runs
    #[arg(long)]
    pub(super) live: bool,
    /// Where the stream goes: a file, which gets its name when it is complete; fd:N, a descriptor
    /// that this program was started with; or - for standard output
    #[arg(long, value_name = "FILE|fd:N|-", value_parser = Target::parse)]
    pub(super) out: Target,
    /// What the stream comes in: a file as xl save writes it, libxl's stream, or nothing
    #[arg(long, value_enum, default_value = "xl")]
    format: FormatArg,
    /// The guest's configuration, as JSON that libxl writes, for --format xl [default: what xl
    /// list -l prints]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// What becomes of the source when the stream is complete: it runs on, it stays suspended, or
    /// xl destroys it
    #[arg(long, value_enum, default_value = "resume")]
    pub(super) after: AfterArg,
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
    pub(super) rate: Option<u64>,
    /// How long the guest may take to suspend
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    suspend_timeout: Duration,
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
    /// Switch log-dirty off and on again if it is on already: another user of it loses its marks
    #[arg(long)]
    take_over: bool,
    /// Threads that compare; one more writes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Append the line about the whole save, as JSON, to this file
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,
    /// Print JSON, one object per line
    #[arg(long)]
    pub(super) json: bool,
    /// Continue on a Xen whose interface is newer than this program
    #[arg(long)]
    pub(super) unknown_xen: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatArg {
    Xl,
    Libxl,
    Libxc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum AfterArg {
    Resume,
    Leave,
    Destroy,
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

impl SaveArgs {
    /// What the stream comes in.
    pub(super) const fn format(&self) -> Format {
        match self.format {
            FormatArg::Xl => Format::Xl,
            FormatArg::Libxl => Format::Libxl,
            FormatArg::Libxc => Format::Libxc,
        }
    }

    /// How the guest is to be saved, of which a stock receiver may hold so many pfns.
    pub(super) fn plan(&self, stock_pfns: u64) -> Plan {
        Plan {
            live: self.live,
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
            suspend_timeout: self.suspend_timeout,
            if_on: if self.take_over { IfOn::TakeOver } else { IfOn::Refuse },
            receiver: match self.receiver {
                ReceiverArg::Stock => Receiver::Stock { pfns: stock_pfns },
            },
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
fn parse_time(text: &str) -> Result<Duration, String> {
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
