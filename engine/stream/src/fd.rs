// SPDX-License-Identifier: MIT OR Apache-2.0
//! A descriptor as a sink: a file, a pipe or a socket. Live pages go to the kernel from where they
//! are mapped, uncopied.
//! Not here: what is written (`writer`).
//! Units: bytes.
//! Threads: one writer; another thread may cancel.
//! Source: writev(2), sendmsg(2), pipe(7), proc(5). The descriptor is shared with other processes,
//! so that its O_NONBLOCK is not touched (`docs/decisions/0026`).

#![expect(unsafe_code, reason = "live pages have no references; docs/safety.md")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use p2mtrack::frame::FRAME_BYTES;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};

use crate::cancel::Cancel;
use crate::sink::{Piece, Sink};

/// The most pieces of one call (`IOV_MAX`, `UIO_MAXIOV`).
const PIECES_MAX: usize = 1024;
/// A pipe that can be written takes so many bytes at once (`PIPE_BUF`).
const PIPE_BYTES: usize = 4096;
/// What a pipe is to hold: the most that Linux allows without a privilege.
const PIPE_SIZE: usize = 1 << 20;
/// How often a pipe is looked at until it is empty.
const DRAIN_PAUSE: Duration = Duration::from_millis(2);

/// How a write is kept from blocking where it can't be cancelled.
#[derive(Debug)]
enum Way {
    /// A pipe, opened once more: this description is ours, and does not block.
    Own(OwnedFd),
    /// A socket: each call says that it must not block.
    Socket,
    /// A pipe that can't be opened again: no more is written than it takes.
    Little,
    /// A file: no write waits for another process.
    File,
}

/// A descriptor that is written to.
#[derive(Debug)]
pub struct FdSink {
    fd: OwnedFd,
    way: Way,
    cancel: Arc<Cancel>,
    /// What is to be written; kept, so that a record needs no memory of its own.
    pieces: Vec<libc::iovec>,
}

// SAFETY: between two calls `pieces` is empty: the pointers in it live as long as a call.
unsafe impl Send for FdSink {}

impl FdSink {
    /// Takes a descriptor. SIGPIPE has to be ignored, as Rust programs do: a pipe without readers
    /// is an error then (EPIPE).
    ///
    /// # Errors
    /// The descriptor can't be looked at.
    pub fn new(fd: OwnedFd, cancel: Arc<Cancel>) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        let way = match kind {
            FileType::Socket => Way::Socket,
            FileType::Fifo => {
                widen(fd.as_fd());
                open_again(fd.as_fd()).map_or(Way::Little, Way::Own)
            }
            _ => Way::File,
        };
        Ok(Self { fd, way, cancel, pieces: Vec::new() })
    }

    /// Waits until a pipe's reader has taken everything. What else it is written to says nothing
    /// about its reader.
    ///
    /// # Errors
    /// The reader is gone, and with it what it has not taken; or it was cancelled.
    pub fn wait_drained(&self) -> io::Result<()> {
        if !matches!(self.way, Way::Own(_) | Way::Little) {
            return Ok(());
        }
        loop {
            // In this order: a reader that takes everything and leaves is none that is gone.
            let is_gone = self.has_no_reader()?;
            if rustix::io::ioctl_fionread(&self.fd)? == 0 {
                return Ok(());
            }
            if is_gone {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if self.cancel.wait(DRAIN_PAUSE)? {
                return Err(cancelled());
            }
        }
    }

    fn has_no_reader(&self) -> io::Result<bool> {
        let mut end = [PollFd::new(&self.fd, PollFlags::empty())];
        match rustix::event::poll(&mut end, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(_) => Ok(end[0].revents().contains(PollFlags::ERR)),
            Err(rustix::io::Errno::INTR) => Ok(false), // it is looked at again
            Err(fault) => Err(fault.into()),
        }
    }

    /// Writes all of `pieces`, from number `at` on.
    fn put(&mut self) -> io::Result<()> {
        let mut at = 0;
        while at < self.pieces.len() {
            if self.cancel.is_cancelled() {
                return Err(cancelled());
            }
            if matches!(self.way, Way::Little) && self.cancel.wait_to_write(self.fd.as_fd())? {
                return Err(cancelled());
            }
            match self.put_some(at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => at = self.pass(at, bytes),
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                    if self.cancel.wait_to_write(self.target())? {
                        return Err(cancelled());
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    fn target(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Own(fd) => fd.as_fd(),
            _ => self.fd.as_fd(),
        }
    }

    /// One call. Returns how many bytes it wrote.
    fn put_some(&mut self, at: usize) -> io::Result<usize> {
        let fd = self.target().as_raw_fd();
        let left = &mut self.pieces[at..];
        let (count, length) = (left.len().min(PIECES_MAX), left[0].iov_len);
        let (first, base) = (left.as_mut_ptr(), left[0].iov_base);
        let written = match self.way {
            Way::Little => {
                let bytes = length.min(PIPE_BYTES);
                // SAFETY: the piece is readable for its length during this call of `write`.
                unsafe { libc::write(fd, base, bytes) }
            }
            Way::Socket => {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                // SAFETY: all zeros is a valid `msghdr`: no address, no control data, no pieces.
                let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
                message.msg_iov = first;
                message.msg_iovlen = count as _;
                // SAFETY: `count` pieces follow `first`, each readable during this call.
                unsafe { libc::sendmsg(fd, &raw const message, flags) }
            }
            // SAFETY: `count` pieces follow `first`, each readable during this call.
            Way::Own(_) | Way::File => unsafe { libc::writev(fd, first, count as libc::c_int) },
        };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    /// The first piece that is not written yet, after so many bytes from number `at` on; what was
    /// written of it is cut off.
    fn pass(&mut self, at: usize, mut bytes: usize) -> usize {
        let mut at = at;
        while let Some(piece) = self.pieces.get_mut(at) {
            if bytes < piece.iov_len {
                piece.iov_base = piece.iov_base.wrapping_byte_add(bytes);
                piece.iov_len -= bytes;
                break;
            }
            bytes -= piece.iov_len;
            at += 1;
        }
        at
    }
}

/// Takes over a descriptor that this program was started with. It is not passed on: a child that
/// kept it open would keep the receiver waiting.
///
/// # Errors
/// There is none of this number, it is this program's own, or it can't be written.
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: asks for flags; a number without a descriptor is an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    // What this program has opened is close-on-exec, and what it was started with is not.
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF)); // -1 too has that bit
    }
    // SAFETY: asks for flags; a number without a descriptor is an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::O_ACCMODE == libc::O_RDONLY {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it can only be read"));
    }
    // SAFETY: it is open, and by the caller's word nothing else of this program's owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Children of this program get no descriptor that it was started with, but the first three.
pub fn pass_on_nothing() {
    // SAFETY: sets a flag of descriptors; it closes none.
    if unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as _) } == 0 {
        return;
    }
    // A kernel before 5.11.
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for number in numbers.filter(|&number| number >= 3) {
        // SAFETY: as above; a number without a descriptor is an error.
        let _ = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// A pipe takes more at once, where that is allowed: at 64 KiB, its usual size, sender and receiver
/// wait for each other most of the time (`docs/perf.md`).
fn widen(fd: BorrowedFd<'_>) {
    if rustix::pipe::fcntl_getpipe_size(fd).is_ok_and(|bytes| bytes < PIPE_SIZE) {
        let _ = rustix::pipe::fcntl_setpipe_size(fd, PIPE_SIZE);
    }
}

/// The same pipe by a description of its own.
fn open_again(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

impl Sink for FdSink {
    fn write(&mut self, pieces: &mut dyn Iterator<Item = Piece<'_>>) -> io::Result<()> {
        self.pieces.clear();
        for piece in pieces {
            let (base, length) = match piece {
                Piece::Own(bytes) => (bytes.as_ptr(), bytes.len()),
                Piece::Live(page) => (page.as_ptr(), FRAME_BYTES),
            };
            if length == 0 {
                continue; // a call with nothing else would write nothing
            }
            match self.pieces.last_mut() {
                Some(last)
                    if last.iov_base.wrapping_byte_add(last.iov_len) == base.cast_mut().cast() =>
                {
                    last.iov_len += length; // the pages of a batch are mapped side by side
                }
                _ => self
                    .pieces
                    .push(libc::iovec { iov_base: base.cast_mut().cast(), iov_len: length }),
            }
        }
        let put = self.put();
        self.pieces.clear();
        put
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use p2mtrack::guest::GuestLeaf;
    use p2mtrack::leaf::FRAME_WORDS;

    /// A descriptor to write to, and the other end.
    type Ends = (OwnedFd, Box<dyn Read + Send>);

    fn pipe() -> Ends {
        let (reader, writer) = io::pipe().expect("a pipe");
        (writer.into(), Box::new(reader))
    }

    fn socket() -> Ends {
        let (reader, writer) = UnixStream::pair().expect("a pair");
        (writer.into(), Box::new(reader))
    }

    fn sink(fd: OwnedFd) -> FdSink {
        FdSink::new(fd, Arc::new(Cancel::new().expect("a descriptor"))).expect("a descriptor")
    }

    /// A pipe that can't be opened once more.
    fn little(fd: OwnedFd) -> FdSink {
        FdSink { way: Way::Little, ..sink(fd) }
    }

    fn page(seed: u64) -> [AtomicU64; FRAME_WORDS] {
        std::array::from_fn(|at| AtomicU64::new(seed << 32 | at as u64))
    }

    /// Writes records of own bytes and live pages, some side by side, and what they are.
    fn write_all(sink: &mut FdSink) -> io::Result<Vec<u8>> {
        let pages: Vec<_> = (0..1500).map(page).collect();
        let mut whole: Vec<u8> = Vec::new();
        for length in [0, 1, 8, 4096, 70_000] {
            let own: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut pieces = pages
                .iter()
                .map(|page| Piece::Live(GuestLeaf::from_atomics(page)))
                .chain([Piece::Own(&own), Piece::Own(&[])]);
            sink.write(&mut pieces)?;
            pages
                .iter()
                .map(|page| Piece::Live(GuestLeaf::from_atomics(page)))
                .try_for_each(|piece| whole.write(&mut std::iter::once(piece)))?;
            whole.extend(&own);
        }
        Ok(whole)
    }

    #[test]
    fn everything_arrives_in_order_however_it_is_cut() {
        type Make = (fn() -> Ends, fn(OwnedFd) -> FdSink);
        for (ends, make) in [(pipe, sink), (pipe, little), (socket, sink)] as [Make; 3] {
            let (fd, mut reader) = ends();
            let drained = std::thread::spawn(move || {
                let mut bytes: Vec<u8> = Vec::new();
                let mut piece = vec![0; 10_007]; // no multiple of a page
                loop {
                    match reader.read(&mut piece).expect("readable") {
                        0 => return bytes,
                        read => bytes.extend(&piece[..read]),
                    }
                }
            });
            let mut sink = make(fd);
            let whole = write_all(&mut sink).expect("written");
            drop(sink);
            assert!(drained.join().expect("drained") == whole);
        }
        let mut file = tempfile::tempfile().expect("a file");
        let whole = write_all(&mut sink(file.try_clone().expect("a descriptor").into()));
        let mut bytes: Vec<u8> = Vec::new();
        io::Seek::rewind(&mut file).expect("a file");
        file.read_to_end(&mut bytes).expect("readable");
        assert!(bytes == whole.expect("written"));
    }

    #[test]
    fn a_blocked_write_ends_when_it_is_cancelled() {
        for ends in [pipe, socket] {
            for make in [sink, little] as [fn(OwnedFd) -> FdSink; 2] {
                let (fd, reader) = ends();
                let watched = fd.try_clone().expect("a descriptor");
                let mut sink = make(fd);
                let cancel = Arc::clone(&sink.cancel);
                let blocked = std::thread::spawn(move || write_all(&mut sink).map(|_| ()));
                // Until nothing more fits.
                let mut watch = [PollFd::new(&watched, PollFlags::OUT)];
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                while rustix::event::poll(&mut watch, Some(&now)).expect("polled") > 0 {
                    std::thread::yield_now();
                }
                cancel.cancel();
                let ended = blocked.join().expect("ended").expect_err("cancelled");
                assert_eq!(ended.raw_os_error(), Some(libc::ECANCELED));
                let flags = rustix::fs::fcntl_getfl(&watched).expect("flags");
                assert!(!flags.contains(OFlags::NONBLOCK), "the description is shared");
                drop(reader);
            }
        }
    }

    #[test]
    fn a_pipe_is_drained_when_its_reader_has_taken_everything() {
        let (fd, mut reader) = pipe();
        let mut sink = sink(fd);
        sink.wait_drained().expect("nothing was written");
        let write = |sink: &mut FdSink| {
            sink.write(&mut std::iter::once(Piece::Own(&[7; 9]))).expect("it fits");
        };
        write(&mut sink);
        let cancel = Arc::clone(&sink.cancel);
        let waits = std::thread::spawn(move || (sink.wait_drained(), sink));
        reader.read_exact(&mut [0; 9]).expect("what was written");
        let (drained, mut sink) = waits.join().expect("ended");
        drained.expect("all is taken");
        write(&mut sink);
        drop(reader);
        let gone = sink.wait_drained().expect_err("it is lost");
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
        let (fd, _reader) = pipe();
        sink.fd = fd;
        write(
            &mut FdSink::new(sink.fd.try_clone().expect("one"), Arc::clone(&cancel)).expect("one"),
        );
        cancel.cancel();
        let ended = sink.wait_drained().expect_err("cancelled");
        assert_eq!(ended.raw_os_error(), Some(libc::ECANCELED));
    }

    #[test]
    fn an_inherited_descriptor_is_taken_over_and_not_passed_on() {
        use std::os::fd::IntoRawFd;
        let (reader, writer) = io::pipe().expect("a pipe");
        let passed = |fd: &OwnedFd| {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).expect("a flag");
        };
        let writer = OwnedFd::from(writer);
        let own = inherited(writer.as_raw_fd()).expect_err("opened by this program");
        assert_eq!(own.raw_os_error(), Some(libc::EBADF));
        passed(&writer);
        let number = writer.into_raw_fd();
        let taken = inherited(number).expect("open");
        let flags = rustix::io::fcntl_getfd(&taken).expect("flags");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let reader = OwnedFd::from(reader);
        passed(&reader);
        assert!(inherited(reader.as_raw_fd()).is_err(), "it can only be read");
        assert!(inherited(1 << 20).is_err(), "it is not open");
    }

    #[test]
    fn nothing_is_written_after_a_cancellation() {
        let (fd, mut reader) = pipe();
        let mut sink = sink(fd);
        sink.cancel.cancel();
        let ended = write_all(&mut sink).expect_err("cancelled");
        assert_eq!(ended.raw_os_error(), Some(libc::ECANCELED));
        drop(sink);
        assert_eq!(reader.read(&mut [0]).expect("the end"), 0);
    }

    #[test]
    fn a_reader_that_is_gone_and_a_full_disk_are_errors() {
        for ends in [pipe, socket] {
            let (fd, reader) = ends();
            drop(reader);
            let ended = write_all(&mut sink(fd)).expect_err("nobody reads");
            assert_eq!(ended.kind(), io::ErrorKind::BrokenPipe);
        }
        let full = std::fs::File::options().write(true).open("/dev/full").expect("a device");
        let ended = write_all(&mut sink(full.into())).expect_err("full");
        assert_eq!(ended.raw_os_error(), Some(libc::ENOSPC));
    }

    #[test]
    fn signals_do_not_end_a_write() {
        let seen = Arc::new(AtomicBool::new(false));
        let signal = signal_hook::consts::SIGUSR1;
        signal_hook::flag::register(signal, Arc::clone(&seen)).expect("registered");
        let (fd, mut reader) = pipe();
        let is_done = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&is_done);
        let writer = std::thread::spawn(move || {
            let whole = write_all(&mut sink(fd)).expect("written");
            done.store(true, Ordering::Release); // ORDER: Acquire below
            whole
        });
        let mut bytes: Vec<u8> = Vec::new();
        let mut piece = vec![0; 1 << 20];
        loop {
            signal_hook::low_level::raise(signal).expect("raised");
            let pid = rustix::process::getpid();
            rustix::process::kill_process(pid, rustix::process::Signal::USR1).expect("sent");
            match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => bytes.extend(&piece[..read]),
                Err(fault) => assert_eq!(fault.kind(), io::ErrorKind::Interrupted),
            }
        }
        assert!(bytes == writer.join().expect("ended"));
        // ORDER: Release above; SeqCst in the handler.
        assert!(is_done.load(Ordering::Acquire) && seen.load(Ordering::Relaxed));
    }
}
