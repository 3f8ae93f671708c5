// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file that appears whole or not at all, and replaces nothing but a regular file.
//! Not here: what is in it.
//! Units: bytes.
//! Threads: one owner.
//! Source: Linux `open(2)`, O_TMPFILE: what has no name is gone with its program, whatever ended that.
//!
//! A name besides the target's is there only while it replaces a file, between `linkat` and `rename`. A system that
//! knows no files without a name (and some file systems) gets a copy for that time, made at the end.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, linkat};
use tempfile::{Builder, NamedTempFile, TempPath};

/// A file that has no name yet; it is gone unless it is committed.
#[derive(Debug)]
pub struct StagedFile {
    file: File,
    directory: File,
    path: PathBuf,
}

impl StagedFile {
    /// Begins a file in the directory of its target, once it is sure that the target may be replaced.
    ///
    /// # Errors
    /// The target is there and no regular file, or its name is none of a file's; or the directory's.
    pub fn create(path: &Path) -> io::Result<Self> {
        may_replace(path)?;
        let directory = File::open(directory_of(path))?; // what is opened now can be synced at the end
        let file = tempfile::tempfile_in(directory_of(path))?;
        Ok(Self { file, directory, path: path.to_path_buf() })
    }

    /// Gives it the target's name, replacing what is there; contents and name are on the disk after.
    ///
    /// # Errors
    /// Sync, link or rename failed, and the target is as it was; or the directory can't be synced.
    pub fn commit(self) -> io::Result<()> {
        self.file.sync_all()?;
        self.give_name()?;
        self.directory.sync_all()
    }

    /// The same, without waiting for the disk: for what is written again in a moment.
    ///
    /// # Errors
    /// As [`StagedFile::commit`].
    pub fn publish(self) -> io::Result<()> {
        self.give_name()
    }

    fn give_name(&self) -> io::Result<()> {
        let directory = directory_of(&self.path);
        let linked = match link(&self.file, &self.path) {
            Ok(()) => return Ok(()),
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {
                beside(directory, |name| link(&self.file, name))
            }
            Err(cause) => Err(cause),
        };
        let named = match linked {
            Ok(named) => named.into_temp_path(),
            Err(_) => copied(&self.file, directory)?, // whatever is wrong with the link: the copy tells
        };
        may_replace(&self.path)?; // much time has passed
        named.persist(&self.path).map_err(|refused| refused.error)
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

/// Makes something with a name that nothing in the directory has.
fn beside<R>(
    directory: &Path,
    make: impl FnMut(&Path) -> io::Result<R>,
) -> io::Result<NamedTempFile<R>> {
    Builder::new().prefix(".p2mtrack-").make_in(directory, make)
}

/// Gives a file without a name one that nothing has.
fn link(file: &File, name: &Path) -> io::Result<()> {
    let here = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, &*here, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

/// Where no link can be made: the same bytes in a file with a name.
fn copied(mut file: &File, directory: &Path) -> io::Result<TempPath> {
    let new = |name: &Path| File::options().write(true).create_new(true).open(name);
    let mut copy = beside(directory, new)?;
    file.rewind()?;
    io::copy(&mut file, copy.as_file_mut())?;
    copy.as_file().sync_all()?;
    Ok(copy.into_temp_path())
}

/// A rename replaces whatever has the name: that must be nothing, or a file like the new one.
fn may_replace(path: &Path) -> io::Result<()> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_file() => Ok(()),
        Ok(_) => refused("there, and not a regular file"),
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        Err(_) => match path.as_os_str().as_bytes() {
            // `Path` leaves out what ends it as a directory's.
            [] | [.., b'/'] | [.., b'/', b'.'] => refused("is no name of a file"),
            _ => Ok(()),
        },
    }
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
    use std::os::unix::fs::PermissionsExt;

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
        let staged = StagedFile { file, directory: directory_file, path: path.clone() };
        staged.commit().expect("whole");
        assert_eq!(fs::read(&path).expect("reads").as_slice(), b"three");
        assert_eq!(names(directory.path()), 1);
    }

    #[test]
    fn what_came_there_meanwhile_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        let file = staged(&path, "one");
        fs::create_dir(&path).expect("makes");
        let error = file.commit().expect_err("refused");
        assert_eq!(error.to_string(), "there, and not a regular file");
        assert!(path.is_dir() && names(directory.path()) == 1);
    }

    #[test]
    fn an_error_of_the_system_is_told_once() {
        let error = StagedFile::create(Path::new("/nowhere/at/all")).expect_err("no directory");
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
        let file = tempfile::tempfile().expect("a file");
        let error = copied(&file, Path::new("/nowhere/at/all")).expect_err("no directory");
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
    }
}
