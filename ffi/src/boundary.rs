// SPDX-License-Identifier: MIT OR Apache-2.0
//! The boundary that every call crosses: checks of pointer, process and thread; panics; the last
//! error.
//! Not here: what the calls do (`functions`, `handle`).
//! Units: none.
//! Threads: one call at a time on a handle, on any thread; a second one is refused, also from
//! inside a callback.
//! Source: `docs/abi.md`. A pool of threads does not survive a fork, and a panic must not cross
//! into C.

#![expect(unsafe_code, reason = "a host's pointers; docs/safety.md")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::ffi::c_int;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::abi;
use crate::error::Fault;
use crate::handle::Session;
use crate::origin::Origin;
use crate::quiet;

/// What a host holds a pointer to: `struct p2mt`.
#[derive(Debug)]
pub struct Handle {
    /// The process that created it.
    origin: Origin,
    /// A call is under way.
    busy: AtomicBool,
    kept: UnsafeCell<ManuallyDrop<Kept>>,
}

#[derive(Debug)]
struct Kept {
    session: Session,
    error: Option<Fault>,
    /// A call panicked: the state that it left is not trusted.
    poisoned: bool,
}

/// A call under way; there is no other until it is dropped.
struct Entered<'a>(&'a Handle);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release); // ORDER: with the swap in `occupy`
    }
}

impl Handle {
    fn new(session: Session) -> Self {
        let kept = Kept { session, error: None, poisoned: false };
        let kept = UnsafeCell::new(ManuallyDrop::new(kept));
        Self { origin: Origin::here(), busy: AtomicBool::new(false), kept }
    }

    /// Begins a call on a handle.
    ///
    /// # Safety
    /// `handle` is null, or came from [`create`] and was not taken back.
    unsafe fn occupy<'a>(
        handle: *const Self,
    ) -> Result<(Entered<'a>, &'a mut ManuallyDrop<Kept>), c_int> {
        // SAFETY: the caller's contract: what is not null lives. Only its atomic and its origin are
        // used so far.
        let handle = unsafe { handle.as_ref() }.ok_or(abi::E_ARGUMENT)?;
        if !handle.origin.is_here() {
            return Err(abi::E_FORKED);
        }
        // ORDER: Acquire: this call sees what the last call wrote before its Release in
        // `Entered::drop`.
        if handle.busy.swap(true, Ordering::Acquire) {
            return Err(abi::E_BUSY);
        }
        // SAFETY: `busy` was false and is true now: there is no other reference, and there will be
        // none before `Entered` is dropped.
        let kept = unsafe { &mut *handle.kept.get() };
        Ok((Entered(handle), kept))
    }
}

/// Runs a call. An error becomes the handle's last one.
///
/// # Safety
/// As of [`Handle::occupy`].
pub(crate) unsafe fn enter(
    handle: *mut Handle,
    call: impl FnOnce(&mut Session) -> Result<(), Fault>,
) -> c_int {
    // SAFETY: the caller's contract.
    let (_entered, kept) = match unsafe { Handle::occupy(handle) } {
        Ok(entered) => entered,
        Err(code) => return code,
    };
    if kept.poisoned {
        return abi::E_PANIC;
    }
    let session = &mut kept.session;
    let fault = match guarded(|| call(session)) {
        Ok(Ok(())) => return abi::OK,
        Ok(Err(fault)) => fault,
        Err(fault) => {
            kept.poisoned = true;
            fault
        }
    };
    if !fault.is_expected() {
        kept.session.say(abi::LOG_ERROR, format_args!("{}", fault.text()));
    }
    let code = fault.code();
    kept.error = Some(fault);
    code
}

/// Runs something that may panic. After a panic its state must not be used again.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Fault> {
    let _quiet = quiet::here();
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = format!("a defect of the library: {}", message(&*payload));
        std::mem::forget(payload); // dropping it might panic
        Fault::new(abi::E_PANIC, text)
    })
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("it panicked")
}

/// Makes a handle.
pub(crate) fn create(make: impl FnOnce() -> Result<Session, Fault>) -> Result<*mut Handle, Fault> {
    let session = without_signals(|| guarded(make))??;
    Ok(Box::into_raw(Box::new(Handle::new(session))))
}

/// Runs `work` with all signals blocked. Threads that it starts inherit the mask: the host's signal
/// handlers must not run on the library's threads.
fn without_signals<T>(work: impl FnOnce() -> T) -> T {
    let mut masks = [MaybeUninit::<libc::sigset_t>::uninit(), MaybeUninit::uninit()];
    let [all, before] = &mut masks;
    // SAFETY: a place for a set, which the call initialises.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: a set, and a place for another.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    let done = work();
    // SAFETY: the set that was written above: that call can't fail with these arguments.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    done
}

/// Frees a handle.
///
/// # Safety
/// As of [`Handle::occupy`]; the handle is not used after this returns [`abi::OK`].
pub(crate) unsafe fn destroy(handle: *mut Handle) -> c_int {
    if handle.is_null() {
        return abi::OK;
    }
    // SAFETY: the caller's contract.
    let kept = match unsafe { Handle::occupy(handle) } {
        Ok((entered, kept)) => {
            std::mem::forget(entered); // busy to the end: callbacks that call it are refused
            // SAFETY: it is not used again: the handle stays busy until it is freed.
            unsafe { ManuallyDrop::take(kept) }
        }
        Err(code) => return code,
    };
    // A panic here is dropped: the handle is freed in any case.
    let _ = guarded(|| {
        let Kept { mut session, poisoned, .. } = kept;
        if poisoned {
            session.unmap_all();
            std::mem::forget(session); // its inner state is not trusted
        } else {
            session.cancel();
        }
    });
    // SAFETY: it came from `create`, this call is the only one on it, and no callback is under way.
    drop(unsafe { Box::from_raw(handle) });
    abi::OK
}

/// The last error, also of a poisoned handle.
///
/// # Safety
/// As of [`Handle::occupy`].
pub(crate) unsafe fn last_error(handle: *const Handle) -> Result<abi::Error, c_int> {
    // SAFETY: the caller's contract.
    let (_entered, kept) = unsafe { Handle::occupy(handle) }?;
    Ok(kept.error.as_ref().map_or_else(crate::error::none, Fault::to_abi))
}

/// A host's array for reading.
///
/// # Safety
/// If `at` is neither null nor misaligned, it is readable for `count` values during `'a`, and
/// nothing writes them.
pub(crate) unsafe fn array<'a, T: Copy>(
    at: *const T,
    count: usize,
    name: &str,
) -> Result<&'a [T], Fault> {
    if count == 0 {
        return Ok(&[]);
    }
    expect_array(at, count, name)?;
    // SAFETY: the caller's contract, and the checks just made.
    Ok(unsafe { std::slice::from_raw_parts(at, count) })
}

/// A host's array for writing. What is there is not read.
///
/// # Safety
/// If `at` is neither null nor misaligned, it is writable for `count` values during `'a`, and
/// nothing else uses them.
pub(crate) unsafe fn array_mut<'a, T: Copy>(
    at: *mut T,
    count: usize,
    name: &str,
) -> Result<&'a mut [MaybeUninit<T>], Fault> {
    if count == 0 {
        return Ok(&mut []);
    }
    expect_array(at.cast_const(), count, name)?;
    // SAFETY: the caller's contract, and the checks just made.
    Ok(unsafe { std::slice::from_raw_parts_mut(at.cast(), count) })
}

fn expect_array<T>(at: *const T, count: usize, name: &str) -> Result<(), Fault> {
    if at.is_null() {
        return Err(Fault::argument(format!("{name} is NULL")));
    }
    if !at.is_aligned() {
        return Err(Fault::argument(format!("{name} is not aligned")));
    }
    if count > isize::MAX as usize / size_of::<T>() {
        return Err(Fault::argument(format!("{name} can't have {count} elements")));
    }
    Ok(())
}

/// A host's place for one value.
///
/// # Safety
/// If `at` is neither null nor misaligned, it is writable during `'a`, and nothing else uses it.
pub(crate) unsafe fn place<'a, T: Copy>(
    at: *mut T,
    name: &str,
) -> Result<&'a mut MaybeUninit<T>, Fault> {
    // SAFETY: the caller's contract, for one value.
    let array = unsafe { array_mut(at, 1, name) }?;
    Ok(&mut array[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::tests::session;

    /// There is no known way to make the library panic, so the test plants one behind the boundary.
    #[test]
    fn a_panic_becomes_a_code_and_poisons_the_handle() {
        let handle = create(|| Ok(session())).expect("creates");
        // SAFETY: it lives.
        let call = |work: fn(&mut Session) -> Result<(), Fault>| unsafe { enter(handle, work) };
        assert_eq!(call(|_| Err(Fault::argument("before"))), abi::E_ARGUMENT);
        assert_eq!(call(|_| panic!("planted {}", 7)), abi::E_PANIC);
        assert_eq!(call(|_| Ok(())), abi::E_PANIC, "poisoned");
        // SAFETY: it lives.
        let error = unsafe { last_error(handle) }.expect("is reported");
        let text: Vec<u8> = error.text.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        assert_eq!(String::from_utf8_lossy(&text), "a defect of the library: planted 7");
        // SAFETY: it lives, and is not used after.
        assert_eq!(unsafe { destroy(handle) }, abi::OK);
    }

    #[test]
    fn a_panic_in_create_makes_no_handle() {
        assert_eq!(create(|| panic!("planted")).expect_err("none").code(), abi::E_PANIC);
    }

    #[test]
    fn a_handle_in_use_is_refused() {
        let handle = create(|| Ok(session())).expect("creates");
        let again = move || {
            let handle = handle;
            // SAFETY: it lives.
            let inner = unsafe { enter(handle, |_| Ok(())) };
            // SAFETY: as above; it is in use, and therefore not destroyed.
            let destroyed = unsafe { destroy(handle) };
            (inner, destroyed)
        };
        let mut codes = (0, 0);
        // SAFETY: it lives.
        let outer = unsafe {
            enter(handle, |_| {
                codes = again();
                Ok(())
            })
        };
        assert_eq!((outer, codes), (abi::OK, (abi::E_BUSY, abi::E_BUSY)));
        // SAFETY: it lives, and is not used after.
        assert_eq!(unsafe { destroy(handle) }, abi::OK);
    }
}
