// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where `save` writes its stream.
//! Not here: what is in it.
//! Units: bytes.
//! Threads: one owner.
//! Source: own. A file has no name until it is complete.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2mtrack_stream::cancel::Cancel;
use p2mtrack_stream::fd::{FdSink, inherited};
use p2mtrack_trace::StagedFile;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::failure::{Failure, note};
use crate::signals::uninterrupted;
use crate::written::stage;

/// What `--out` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    File(PathBuf),
    Fd(i32),
    Stdout,
}

impl Target {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stdout);
        }
        let Some(number) = text.strip_prefix("fd:") else { return Ok(Self::File(text.into())) };
        match number.parse() {
            Ok(number @ 3..) => Ok(Self::Fd(number)),
            _ => Err(format!("'{text}' is not fd:N with a number from 3 on; - is standard output")),
        }
    }

    /// Its words in messages.
    pub(super) fn words(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Fd(number) => format!("fd:{number}"),
            Self::Stdout => "standard output".to_owned(),
        }
    }
}

/// An open target.
pub(super) struct Out {
    /// Of a file.
    path: PathBuf,
    staged: Option<StagedFile>,
    /// To bring what was written to the disk, if that is where it is.
    fd: Option<OwnedFd>,
}

impl Out {
    /// Opens it. A file must not be one that can't be replaced; if the source is to be given up, it
    /// must be one from which a stream comes back.
    pub(super) fn open(
        target: &Target,
        is_kept: bool,
        cancel: &Arc<Cancel>,
    ) -> Result<(Self, FdSink), Failure> {
        let staged = match target {
            Target::File(path) => Some(stage(path)?),
            _ => None,
        };
        let opened = open(target, staged.as_ref(), is_kept, cancel);
        let (fd, sink) = opened
            .map_err(|error| Failure::Unusable { about: target.words(), source: error.into() })?;
        let path = match target {
            Target::File(path) => path.clone(),
            _ => PathBuf::new(),
        };
        Ok((Self { path, staged, fd }, sink))
    }

    /// What is written is on the disk, if that is where it goes.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.fd.as_ref().map_or(Ok(()), |fd| Ok(rustix::fs::fsync(fd)?))
    }

    /// END has arrived. A reader that is gone has not got it. What is cancelled now is complete all
    /// the same: what is in a pipe can't be taken back.
    pub(super) fn arrived(&self, sink: &FdSink) -> io::Result<()> {
        match sink.wait_drained() {
            Err(error) if error.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) => Ok(()),
            drained => drained.and_then(|()| self.sync()),
        }
    }

    /// A file that is on the disk gets its name, or there is none.
    pub(super) fn name(&mut self) -> io::Result<()> {
        let Some(file) = self.staged.take() else { return Ok(()) };
        let named = uninterrupted(|| file.publish());
        named.map_err(|failure| io::Error::other(failure.words()))??;
        let above = self.path.parent().filter(|above| !above.as_os_str().is_empty());
        let synced = File::open(above.unwrap_or(Path::new("."))).and_then(|above| above.sync_all());
        if let Err(error) = synced {
            note(&format!("{}: its name may not survive a crash: {error}", self.path.display()));
        }
        Ok(())
    }

    /// A file is brought to the disk, and gets its name.
    pub(super) fn publish(&mut self) -> io::Result<()> {
        let Some(file) = self.staged.take() else { return Ok(()) };
        uninterrupted(|| file.commit()).map_err(|failure| io::Error::other(failure.words()))?
    }

    /// Whether nobody can read it before [`Out::publish`].
    pub(super) const fn is_hidden(&self) -> bool {
        self.staged.is_some()
    }
}

/// A descriptor to sync, and the sink.
fn open(
    target: &Target,
    staged: Option<&StagedFile>,
    is_kept: bool,
    cancel: &Arc<Cancel>,
) -> io::Result<(Option<OwnedFd>, FdSink)> {
    let fd = match (target, staged) {
        (Target::Fd(number), _) => inherited(*number)?,
        (_, Some(file)) => file.descriptor()?,
        (_, None) => io::stdout().as_fd().try_clone_to_owned()?,
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    if is_kept && kind == FileType::CharacterDevice {
        let words = "it is a device, from which no guest comes back: --after resume";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
    }
    let is_on_disk = matches!(kind, FileType::RegularFile | FileType::BlockDevice);
    let synced = if is_on_disk { Some(fd.try_clone()?) } else { None };
    Ok((synced, FdSink::new(fd, Arc::clone(cancel))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_file_a_descriptor_or_standard_output() {
        assert_eq!(Target::parse("-"), Ok(Target::Stdout));
        assert_eq!(Target::parse("fd:3"), Ok(Target::Fd(3)));
        assert_eq!(Target::parse("./fd:x"), Ok(Target::File("./fd:x".into())));
        for bad in ["fd:", "fd:0", "fd:2", "fd:-1", "fd:x", "fd:99999999999"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
