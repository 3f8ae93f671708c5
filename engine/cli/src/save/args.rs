// SPDX-License-Identifier: MIT OR Apache-2.0
//! Options of `save`.
//! Not here: how the guest is saved (`p2mtrack_migrate::options`); what is done with them.
//! Units: times as 300ms, 60s or a number of seconds.
//! Threads: plain values.
//! Source: own; names of options are an interface and are not renamed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use p2mtrack_migrate::options::{SaveOptions, parse_time};
use p2mtrack_stream::container::Format;
use p2mtrack_xen::IfOn;

use super::out::Target;

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
    /// How long the guest may take to suspend
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    pub(super) suspend_timeout: Duration,
    /// Switch log-dirty off and on again if it is on already: another user of it loses its marks
    #[arg(long)]
    take_over: bool,
    #[command(flatten)]
    pub(super) options: SaveOptions,
    /// Print JSON, one object per line
    #[arg(long)]
    pub(super) json: bool,
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

impl SaveArgs {
    /// What the stream comes in.
    pub(super) const fn format(&self) -> Format {
        match self.format {
            FormatArg::Xl => Format::Xl,
            FormatArg::Libxl => Format::Libxl,
            FormatArg::Libxc => Format::Libxc,
        }
    }

    /// What to do with a log-dirty that is on.
    pub(super) const fn if_on(&self) -> IfOn {
        if self.take_over { IfOn::TakeOver } else { IfOn::Refuse }
    }
}
