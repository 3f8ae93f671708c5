// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file that appears only when it is complete, and replaces nothing but a regular file.
//! Not here: what is in it.
//! Units: bytes.
//! Threads: one owner.
//! Source: Linux `open(2)`, O_TMPFILE: a file without a name is gone when its program ends in any
//! way.
//!
//! A name other than the target's exists only while a file is replaced, between `linkat` and
//! `rename`. On systems and file systems without unnamed files, a copy that is made at the end has
//! that name.

use std::error::Error;
use std::fmt;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, linkat, syncfs};
use tempfile::{Builder, NamedTempFile, TempPath};

/// Mode of a directory in which only owners may replace files.
const STICKY: u32 = 0o1000;
/// The capability to act as the owner of any file.
const CAP_FOWNER: u32 = 3;

/// A file that has no name yet; it is gone unless it is committed.
#[derive(Debug)]
pub struct StagedFile {
    file: File,
    /// None if it can be written but not read.
    directory: Option<File>,
    path: PathBuf,
}

impl StagedFile {
    /// Begins a file in the directory of its target, after a check that the target may be replaced.
    ///
    /// # Errors
    /// The target exists and may not be replaced, or `path` can't be the name of a file; or an
    /// error of the directory.
    pub fn create(path: &Path) -> io::Result<Self> {
        let (there, directory) = (may_replace(path)?, directory_of(path));
        let file = tempfile::tempfile_in(directory)?;
        if let Some(there) = there {
            let above = directory.metadata()?;
            let user = file.metadata()?.uid(); // our file: its owner is our user
            may_rename(there.uid(), (above.uid(), above.mode()), user, may_all)?;
        }
        let directory = match File::open(directory) {
            Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => None,
            opened => Some(opened?), // opened now, so that it can be synced at the end
        };
        Ok(Self { file, directory, path: path.to_path_buf() })
    }

    /// A descriptor of the file, to write to.
    ///
    /// # Errors
    /// None is left.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// The file with what was written so far.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file the target's name. It replaces an existing target, and gets the target's mode
    /// and, if permitted, owner. Then contents and name are on the disk.
    ///
    /// # Errors
    /// Sync or link failed: there is no new file. The rename failed: the new file has the name in
    /// the error. The directory can't be synced: the new file is there, but perhaps not after a
    /// crash. In all cases but the last the target is unchanged.
    pub fn commit(self) -> io::Result<()> {
        self.file.sync_all()?;
        if let Err((named, cause)) = self.give_name()? {
            return Err(kept(named, cause));
        }
        match &self.directory {
            Some(directory) => directory.sync_all(),
            None => Ok(syncfs(&self.file)?), // the name, and everything else that is not synced
        }
    }

    /// The same without waiting for the disk, for a file that is soon written again. A file that
    /// can't be renamed is not kept.
    ///
    /// # Errors
    /// As [`StagedFile::commit`].
    pub fn publish(self) -> io::Result<()> {
        self.give_name()?.map_err(|(_, cause)| cause)
    }

    /// The inner error holds the file's other name, if it could not get the target's.
    fn give_name(&self) -> io::Result<Result<(), (TempPath, io::Error)>> {
        let replaces = may_replace(&self.path); // again: it may have changed since
        if let Ok(Some(there)) = &replaces {
            resemble(&self.file, there)?;
        }
        let directory = directory_of(&self.path);
        let linked = match link(&self.file, &self.path) {
            Ok(()) => return Ok(Ok(())),
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                beside(directory, |name| link(&self.file, name))
            }
            Err(cause) => Err(cause),
        };
        let named = match linked {
            Ok(named) => named.into_temp_path(),
            // any other error of the link: make a copy, and return its error
            Err(_) => copied(&self.file, directory)?,
        };
        Ok(match replaces {
            Err(cause) => Err((named, cause)),
            Ok(_) => named.persist(&self.path).map_err(|refused| (refused.path, refused.error)),
        })
    }
}

/// A file that was kept under another name than the target's.
#[derive(Debug)]
struct Kept {
    name: PathBuf,
    cause: io::Error,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kept as {}", self.name.display())
    }
}

impl Error for Kept {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.cause)
    }
}

/// Keeps the file beside the target, so that it need not be made again.
fn kept(named: TempPath, cause: io::Error) -> io::Error {
    match named.keep() {
        Ok(name) => io::Error::new(cause.kind(), Kept { name, cause }),
        Err(_) => cause,
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes a file with an unused name in the directory.
fn beside<R>(
    directory: &Path,
    make: impl FnMut(&Path) -> io::Result<R>,
) -> io::Result<NamedTempFile<R>> {
    Builder::new().prefix(".p2mtrack-").make_in(directory, make)
}

/// Gives a file without a name an unused one.
fn link(file: &File, name: &Path) -> io::Result<()> {
    let here = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, &*here, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

/// If no link can be made: a copy in a file with a name.
fn copied(mut file: &File, directory: &Path) -> io::Result<TempPath> {
    let new = |name: &Path| File::options().write(true).create_new(true).open(name);
    let mut copy = beside(directory, new)?;
    resemble(copy.as_file(), &file.metadata()?)?;
    file.rewind()?;
    io::copy(&mut file, copy.as_file_mut())?;
    copy.as_file().sync_all()?;
    Ok(copy.into_temp_path())
}

/// Gives a file the mode of another, and its owner and group as far as permitted: a user who could
/// not read the old file must not read the new one.
fn resemble(file: &File, there: &Metadata) -> io::Result<()> {
    let now = file.metadata()?;
    if (now.uid(), now.gid()) != (there.uid(), there.gid()) {
        // Only root may change the owner; other users may set a group that they belong to.
        let _ = fchown(file, Some(there.uid()), Some(there.gid()))
            .or_else(|_| fchown(file, None, Some(there.gid())));
    }
    file.set_permissions(Permissions::from_mode(there.mode() & 0o777))
}

fn refused<T>(why: &'static str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// A rename replaces anything that has the name, so it must be unused or a regular file's.
fn may_replace(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_file() => Ok(Some(there)),
        Ok(_) => refused("exists, and is not a regular file"),
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        Err(_) => match path.as_os_str().as_bytes() {
            // `Path` drops an ending that marks a directory.
            [] | [.., b'/'] | [.., b'/', b'.'] => refused("not a name that a file can have"),
            _ => Ok(None),
        },
    }
}

/// In a directory with the sticky bit, such as `/tmp`, only the owner of the directory or of the
/// file may replace the file.
fn may_rename(
    there: u32,
    (directory, mode): (u32, u32),
    user: u32,
    may_all: impl FnOnce(u32) -> bool,
) -> io::Result<()> {
    if mode & STICKY != 0 && there != user && directory != user && !may_all(user) {
        return refused(
            "exists, and is another user's, in a directory where only its owner may replace it",
        );
    }
    Ok(())
}

/// Whether this process has CAP_FOWNER, which root may lack. If the system does not say, only root
/// has it.
fn may_all(user: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.map_or(user == 0, |set| set >> CAP_FOWNER & 1 == 1)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
#[cfg(not(miri))] // links files
mod tests {
    use super::*;

    fn names(directory: &Path) -> usize {
        fs::read_dir(directory).expect("lists").count()
    }

    fn staged(path: &Path, text: &str) -> StagedFile {
        let mut file = StagedFile::create(path).expect("begins");
        file.write_all(text.as_bytes()).expect("writes");
        file
    }

    #[test]
    fn a_file_has_no_name_until_it_is_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        for (text, before) in [("one", 0), ("two", 1), ("three", 1)] {
            let file = staged(&path, text);
            assert_eq!(names(directory.path()), before);
            if text == "two" { file.publish() } else { file.commit() }.expect("whole");
            assert_eq!(fs::read(&path).expect("reads").as_slice(), text.as_bytes());
            assert_eq!(names(directory.path()), 1);
        }
        drop(staged(&path, "four"));
        assert_eq!(fs::read(&path).expect("reads"), b"three");
    }

    #[test]
    fn without_links_it_is_a_copy() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode();
        for text in ["one", "two"] {
            let file = staged(&path, text);
            let copy = copied(&file.file, directory.path()).expect("copies");
            assert_eq!(fs::read(&copy).expect("reads"), text.as_bytes());
            file.commit().expect("whole");
            assert_eq!(mode(&copy), mode(&path));
            drop(copy);
            assert_eq!(names(directory.path()), 1);
        }
        // A file that has lost its name can't be linked again.
        let mut file = NamedTempFile::new_in(directory.path()).expect("a file");
        file.write_all(b"three").expect("writes");
        let (file, name) = file.into_parts();
        drop(name);
        let directory_file = File::open(directory.path()).expect("a directory");
        let staged = StagedFile { file, directory: Some(directory_file), path: path.clone() };
        staged.commit().expect("whole");
        assert_eq!(fs::read(&path).expect("reads").as_slice(), b"three");
        assert_eq!(names(directory.path()), 1);
    }

    #[test]
    fn a_directory_in_place_of_the_target_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let file = staged(&path, "one");
        fs::create_dir(&path).expect("makes");
        let error = file.commit().expect_err("refused");
        let cause = error.get_ref().and_then(Error::source).expect("a cause");
        assert_eq!(cause.to_string(), "exists, and is not a regular file");
        assert!(path.is_dir() && names(directory.path()) == 2);
        let message = error.to_string();
        let name = message.strip_prefix("kept as ").expect("a name");
        assert_eq!(fs::read(name).expect("reads"), b"one");
        let file = staged(&directory.path().join("other"), "two");
        fs::create_dir(directory.path().join("other")).expect("makes");
        let error = file.publish().expect_err("refused");
        assert_eq!(error.to_string(), "exists, and is not a regular file");
        assert_eq!(names(directory.path()), 3, "not kept: it is written again");
    }

    #[test]
    fn only_owners_replace_files_in_a_sticky_directory() {
        let (open, sticky) = (0o41777 & !STICKY, 0o41777);
        for (there, above, mode, may_all, expected) in [
            (0, 0, sticky, false, false),
            (0, 0, sticky, true, true),
            (0, 0, open, false, true),
            (7, 0, sticky, false, true),
            (0, 7, sticky, false, true),
        ] {
            let result = may_rename(there, (above, mode), 7, |_| may_all);
            assert_eq!(result.is_ok(), expected, "{there} {above} {mode:o} {may_all}");
        }
    }

    #[test]
    fn a_new_file_gets_the_mode_of_the_replaced_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        for mode in [0o600, 0o640, 0o444] {
            staged(&path, "one").commit().expect("whole");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
            staged(&path, "two").commit().expect("whole");
            assert_eq!(path.metadata().expect("a file").mode() & 0o7777, mode);
        }
    }

    #[test]
    fn an_error_of_the_system_is_reported_once() {
        let error = StagedFile::create(Path::new("/nowhere/at/all")).expect_err("no directory");
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
        let file = tempfile::tempfile().expect("a file");
        let error = copied(&file, Path::new("/nowhere/at/all")).expect_err("no directory");
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
    }
}
