// SPDX-License-Identifier: MIT OR Apache-2.0
//! How libxl starts a helper: its command line.
//! Not here: what is done then.
//! Units: descriptors and domain IDs in decimal, bits of flags.
//! Threads: plain values.
//! Source: `xen-migrate.md` 1.1: `--save-domain IO_FD RECV_FD DOMID FLAGS CBFLAGS STREAM` and
//! `--restore-domain IO_FD SEND_BACK_FD DOMID …`. What is not understood is for the stock helper.

use std::ffi::OsString;

/// Bits of FLAGS.
const LIVE: u32 = 1 << 0;
const DEBUG: u32 = 1 << 1;

/// What a helper is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A save.
    Save(SaveCall),
    /// A restore.
    Restore {
        /// The domain.
        domid: u32,
    },
    /// What only the stock helper may know.
    Other,
}

/// A save as libxl asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveCall {
    /// Where the stream goes.
    pub io_fd: i32,
    /// The domain.
    pub domid: u32,
    flags: u32,
    /// What kind of stream it is.
    pub stream: Stream,
}

/// What kind of stream it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// It ends.
    Plain,
    /// One checkpoint after the other.
    Remus,
    /// COLO, or one that is not known.
    Other,
}

impl SaveCall {
    fn new(io_fd: i128, domid: i128, flags: i128, stream: i128) -> Option<Self> {
        let io_fd = i32::try_from(io_fd).ok().filter(|&number| number >= 0)?;
        let stream = match stream {
            0 => Stream::Plain,
            1 => Stream::Remus,
            _ => Stream::Other,
        };
        Some(Self { io_fd, domid: domid.try_into().ok()?, flags: flags.try_into().ok()?, stream })
    }

    /// Most of the guest is copied while it runs.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.flags & LIVE != 0
    }

    /// Every page comes once more, to be compared.
    #[must_use]
    pub const fn is_verified(&self) -> bool {
        self.flags & DEBUG != 0
    }
}

impl Call {
    /// Reads a command line without the program's name.
    #[must_use]
    pub fn parse(words: &[OsString]) -> Self {
        let words: Option<Vec<&str>> = words.iter().map(|word| word.to_str()).collect();
        let Some((&side, numbers)) = words.as_deref().and_then(<[_]>::split_first) else {
            return Self::Other;
        };
        // What stands for no descriptor may be -1, also as a word without a sign.
        let numbers: Option<Vec<i128>> = numbers.iter().map(|word| word.parse().ok()).collect();
        let known = match (side, numbers.as_deref()) {
            // The second descriptor is for COLO.
            ("--save-domain", Some(&[io_fd, _, domid, flags, _, stream])) => {
                SaveCall::new(io_fd, domid, flags, stream).map(Self::Save)
            }
            ("--restore-domain", Some(&[_, _, domid, ..])) => {
                domid.try_into().ok().map(|domid| Self::Restore { domid })
            }
            _ => None,
        };
        known.unwrap_or(Self::Other)
    }

    /// The domain, if there is one.
    #[must_use]
    pub const fn domid(&self) -> Option<u32> {
        match self {
            Self::Save(SaveCall { domid, .. }) | Self::Restore { domid } => Some(*domid),
            Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Call {
        Call::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn command_lines_of_libxl_are_read() {
        let Call::Save(save) = parse("--save-domain 15 11 7 1 136 0") else { panic!("a save") };
        assert_eq!((save.io_fd, save.domid), (15, 7));
        assert_eq!((save.is_live(), save.is_verified(), save.stream), (true, false, Stream::Plain));
        let Call::Save(save) = parse("--save-domain 15 16 2 3 184 1") else { panic!("a save") };
        assert_eq!((save.is_live(), save.is_verified(), save.stream), (true, true, Stream::Remus));
        let Call::Save(save) = parse("--save-domain 15 16 2 0 184 2") else { panic!("a save") };
        assert_eq!((save.is_live(), save.stream), (false, Stream::Other));
        for none in ["-1", "4294967295", "18446744073709551615"] {
            let Call::Save(save) = parse(&format!("--save-domain 15 {none} 7 1 136 0")) else {
                panic!("a save without a second descriptor")
            };
            assert_eq!((save.io_fd, save.domid), (15, 7));
        }
        let restore = parse("--restore-domain 11 20 2 1 0 2 0 768 0");
        assert_eq!(restore, Call::Restore { domid: 2 });
    }

    #[test]
    fn what_is_not_understood_is_for_the_stock_helper() {
        for line in [
            "",
            "--help",
            "--save-domain",
            "--save-domain 15 11 7 1 136",
            "--save-domain 15 11 7 1 136 0 0",
            "--save-domain 15 11 x 1 136 0",
            "--save-domain -1 11 7 1 136 0",
            "--save-domain 4294967295 11 7 1 136 0",
            "--save-domain 15 11 -7 1 136 0",
            "--restore-domain 11",
        ] {
            assert_eq!(parse(line), Call::Other, "{line}");
        }
    }
}
