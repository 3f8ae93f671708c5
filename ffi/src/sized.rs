// SPDX-License-Identifier: MIT OR Apache-2.0
//! Structures that may grow: the caller passes the size that it knows, in the first word or, for an
//! array, as an argument.
//! Not here: what is in them (`abi`).
//! Units: bytes.
//! Threads: the caller's.
//! Source: the rule of Linux's `copy_struct_from_user`: what one side does not know must be zero,
//! or is zero.

#![expect(unsafe_code, reason = "a host's structures are raw bytes; docs/safety.md")]

use std::mem::{MaybeUninit, size_of};

use crate::abi;
use crate::error::Fault;

/// The most bytes that any structure of this interface will ever have.
const SIZE_MAX: usize = 4096;

/// A structure that may grow, and of which any bytes are a value.
///
/// # Safety
/// `repr(C)`; no padding; all bit patterns are values (pointers are only numbers until they are
/// used; callbacks are `Option`s).
pub(crate) unsafe trait Grows: Copy {
    /// Bytes of the structure in the first version that had it.
    const FIRST: usize;
    const NAME: &'static str;
}

/// One that starts with its size.
///
/// # Safety
/// The first field is the size as `u32`.
pub(crate) unsafe trait Sized32: Grows {}

macro_rules! grows {
    ($($type:ty, $first:expr, $name:expr;)*) => {$(
        const _: () = assert!(size_of::<$type>() >= $first && size_of::<$type>() <= SIZE_MAX);
        // SAFETY: `repr(C)` structures of `abi`, made of integers, a float, pointers and optional
        // functions; `tests/header.rs` shows that they have no padding.
        unsafe impl Grows for $type {
            const FIRST: usize = $first;
            const NAME: &'static str = $name;
        }
    )*};
}

macro_rules! sized {
    ($($type:ty, $first:expr, $name:expr;)*) => {$(
        grows! { $type, $first, $name; }
        const _: () = assert!(std::mem::offset_of!($type, size) == 0);
        // SAFETY: its first field is `size: u32`, as was just asserted; `tests/header.rs` has its
        // length.
        unsafe impl Sized32 for $type {}
    )*};
}

sized! {
    abi::Config, 40, "p2mt_config";
    abi::Host, 112, "p2mt_host";
    abi::TableFault, 24, "p2mt_table_fault";
    abi::Report, 360, "p2mt_report";
    abi::Totals, 72, "p2mt_totals";
    abi::PfnState, 24, "p2mt_pfn_state";
    abi::Error, 520, "p2mt_error";
}

// Elements of arrays.
grows! {
    abi::Page, 32, "p2mt_page";
    abi::PageAnswer, 16, "p2mt_page_answer";
    abi::ClearedPte, 16, "p2mt_cleared_pte";
}

/// Sizes of elements are multiples of it. Arrays may have any alignment: an element that grows may
/// need more alignment than a host that knows a shorter one gives it.
const STEP: usize = 8;

/// Checks that a structure can have so many bytes.
fn expect_size<T: Grows>(size: usize) -> Result<(), Fault> {
    let (name, first) = (T::NAME, T::FIRST);
    if (first..=SIZE_MAX).contains(&size) {
        return Ok(());
    }
    let text = format!("struct {name} is given as {size} bytes; {first} to {SIZE_MAX} are allowed");
    Err(Fault::new(abi::E_SIZE, text))
}

/// Checks that it ends with a field.
fn expect_multiple<T: Grows>(size: usize, step: usize) -> Result<(), Fault> {
    if size.is_multiple_of(step) {
        return Ok(());
    }
    let text = format!("struct {} is given as {size} bytes, not a multiple of {step}", T::NAME);
    Err(Fault::new(abi::E_SIZE, text))
}

/// Checks that nothing is set past what this library knows.
fn expect_zeroes<T: Grows>(more: &[u8]) -> Result<(), Fault> {
    if more.iter().all(|&byte| byte == 0) {
        return Ok(());
    }
    let text = format!("struct {} has fields set that this library does not know", T::NAME);
    Err(Fault::new(abi::E_SIZE, text))
}

/// The size that the caller gives for its structure.
///
/// # Safety
/// `at` is null, or readable for a `u32` at any alignment.
unsafe fn size_of_theirs<T: Sized32>(at: *const T) -> Result<usize, Fault> {
    if at.is_null() {
        return Err(Fault::argument(format!("no struct {} (NULL)", T::NAME)));
    }
    // SAFETY: the caller's contract, and not null.
    let size = unsafe { at.cast::<u32>().read_unaligned() } as usize;
    expect_size::<T>(size)?;
    expect_multiple::<T>(size, align_of::<T>())?;
    Ok(size)
}

/// Copies a structure of the caller's. Fields that the caller does not know are zero.
///
/// # Safety
/// `at` is null, or readable for as many bytes as its first word says, but at least for that word.
pub(crate) unsafe fn read<T: Sized32>(at: *const T) -> Result<T, Fault> {
    // SAFETY: the caller's contract.
    let size = unsafe { size_of_theirs(at) }?;
    let mut bytes = [0_u8; SIZE_MAX];
    // SAFETY: the caller's contract gives `size` bytes there, and `bytes` is large enough.
    unsafe { std::ptr::copy_nonoverlapping(at.cast::<u8>(), bytes.as_mut_ptr(), size) };
    expect_zeroes::<T>(&bytes[size_of::<T>()..])?;
    // SAFETY: there are at least `size_of::<T>()` bytes, and any bytes are a value of a type that
    // `Grows`.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Checks the size of an output structure, before anything is done that can't be undone.
///
/// # Safety
/// As of [`read`].
pub(crate) unsafe fn check<T: Sized32>(at: *mut T) -> Result<(), Fault> {
    // SAFETY: the caller's contract.
    unsafe { size_of_theirs(at.cast_const()) }.map(|_| ())
}

/// Writes a structure as far as the caller knows it. Fields that this library does not know become
/// zero; the size stays.
///
/// # Safety
/// `at` is null, or readable and writable for as many bytes as its first word says, but at least
/// for that word.
pub(crate) unsafe fn write<T: Sized32>(at: *mut T, value: T) -> Result<(), Fault> {
    // SAFETY: the caller's contract.
    let size = unsafe { size_of_theirs(at.cast_const()) }?;
    let known = size.min(size_of::<T>());
    let word = size_of::<u32>();
    let (to, from) = (at.cast::<u8>(), (&raw const value).cast::<u8>());
    // SAFETY: past the first word there are `known - word` bytes of the value, and as many of the
    // caller's.
    unsafe {
        std::ptr::copy_nonoverlapping(from.wrapping_add(word), to.wrapping_add(word), known - word);
    };
    // SAFETY: the caller's contract gives `size` bytes there.
    unsafe { std::ptr::write_bytes(to.wrapping_add(known), 0, size - known) };
    Ok(())
}

/// An array of the caller's, whose elements may be longer or shorter than this library knows them.
#[derive(Debug)]
pub(crate) struct Rows<T> {
    at: *mut T,
    /// Bytes of an element.
    size: usize,
    count: usize,
}

impl<T: Grows> Rows<T> {
    /// Reads no element yet.
    pub(crate) fn new(at: *mut T, size: usize, count: usize) -> Result<Self, Fault> {
        let name = T::NAME;
        expect_size::<T>(size)?;
        expect_multiple::<T>(size, STEP)?;
        if count > 0 && at.is_null() {
            return Err(Fault::argument(format!("no array of struct {name} (NULL)")));
        }
        if count > isize::MAX as usize / size {
            let text = format!("no array can have {count} elements of struct {name}");
            return Err(Fault::argument(text));
        }
        Ok(Self { at, size, count })
    }

    fn row(&self, index: usize) -> *mut u8 {
        assert!(index < self.count, "row {index} of {}", self.count);
        self.at.cast::<u8>().wrapping_add(index * self.size)
    }

    /// Copies an element of the caller's. Fields that the caller does not know are zero.
    ///
    /// # Safety
    /// The array given to [`Rows::new`] is readable, with that count and element size.
    pub(crate) unsafe fn get(&self, index: usize) -> Result<T, Fault> {
        let row = self.row(index);
        let known = self.size.min(size_of::<T>());
        // SAFETY: the caller's contract: the element has `size` bytes, of which these are the rest.
        let more =
            unsafe { std::slice::from_raw_parts(row.wrapping_add(known), self.size - known) };
        expect_zeroes::<T>(more)?;
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: the caller's contract gives `known` bytes there, and `value` is large enough.
        unsafe {
            std::ptr::copy_nonoverlapping(row.cast_const(), value.as_mut_ptr().cast(), known);
        };
        // SAFETY: zeroes or the caller's bytes: any are a value of a type that `Grows`.
        Ok(unsafe { value.assume_init() })
    }

    /// Writes elements as far as the caller knows them, and returns how many it wrote. Fields that
    /// this library does not know become zero.
    ///
    /// # Safety
    /// The array given to [`Rows::new`] is writable, with that count and element size.
    pub(crate) unsafe fn fill(&mut self, values: impl Iterator<Item = T>) -> usize {
        if self.count == 0 || self.size != size_of::<T>() || !self.at.is_aligned() {
            // SAFETY: the caller's contract.
            return (0..self.count)
                .zip(values)
                .map(|(row, value)| unsafe { self.put(row, value) })
                .count();
        }
        // SAFETY: the caller's contract, for elements of this library's size; not null, and
        // aligned, as was just checked.
        let to =
            unsafe { std::slice::from_raw_parts_mut(self.at.cast::<MaybeUninit<T>>(), self.count) };
        to.iter_mut().zip(values).map(|(to, value)| to.write(value)).count()
    }

    /// Writes one element.
    ///
    /// # Safety
    /// As of [`Rows::fill`].
    unsafe fn put(&mut self, index: usize, value: T) {
        let (row, known) = (self.row(index), self.size.min(size_of::<T>()));
        // SAFETY: the caller's contract gives `size` bytes there, of which `known` are of the
        // value.
        unsafe { std::ptr::copy_nonoverlapping((&raw const value).cast(), row, known) };
        // SAFETY: as above.
        unsafe { std::ptr::write_bytes(row.wrapping_add(known), 0, self.size - known) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A structure of a later version, which knows more.
    #[repr(C)]
    struct Later {
        config: abi::Config,
        more: u64,
    }

    #[test]
    fn what_the_library_does_not_know_must_be_zero() {
        let mut later = Later { config: abi::Config { width: 64, ..Default::default() }, more: 0 };
        later.config.size = size_of::<Later>() as u32;
        // SAFETY: as long as it says.
        let known = |later: &Later| unsafe { read((&raw const *later).cast::<abi::Config>()) };
        assert_eq!(known(&later).expect("knows no more").width, 64);
        later.more = 1;
        assert_eq!(known(&later).expect_err("knows more").code(), abi::E_SIZE);
    }

    #[test]
    fn a_size_that_makes_no_sense_is_refused_and_nothing_behind_it_is_touched() {
        for size in [0, 1, 39, 4097, u32::MAX] {
            let config = abi::Config { size, ..Default::default() };
            // SAFETY: only its first word is read.
            let refused = unsafe { read(&raw const config) };
            assert_eq!(refused.expect_err("no size").code(), abi::E_SIZE);
        }
        // SAFETY: null is an argument.
        let null = unsafe { read(std::ptr::null::<abi::Config>()) };
        assert_eq!(null.expect_err("null").code(), abi::E_ARGUMENT);
    }

    #[test]
    fn elements_of_a_later_version_are_written_and_read_with_their_stride() {
        let value = abi::PageAnswer { verdict: 1, reason: 5, errnum: -12, zero: 0 };
        let mut words = [7_u64; 7];
        let mut rows =
            Rows::new(words.as_mut_ptr().cast::<abi::PageAnswer>(), 24, 2).expect("fits");
        // SAFETY: two of 24 bytes are there.
        assert_eq!(unsafe { rows.fill([value; 3].into_iter()) }, 2);
        let written = [1 | 5 << 32, u64::from(-12_i32 as u32), 0];
        // SAFETY: as above.
        let read = unsafe { rows.get(1) };
        assert_eq!(read.expect("knows no more").errnum, -12);
        assert_eq!((&words[..3], &words[3..6], words[6]), (&written[..], &written[..], 7));
        words[5] = 1;
        let rows = Rows::new(words.as_mut_ptr().cast::<abi::PageAnswer>(), 24, 2).expect("fits");
        // SAFETY: as above.
        let read = unsafe { rows.get(1) };
        assert_eq!(read.expect_err("knows more").code(), abi::E_SIZE);
    }

    #[test]
    fn elements_of_a_size_that_makes_no_sense_are_refused() {
        let mut page = abi::Page::default();
        for (size, count, code) in [
            (0, 1, abi::E_SIZE),
            (24, 1, abi::E_SIZE),
            (36, 1, abi::E_SIZE),
            (40 + 4, 1, abi::E_SIZE),
            (4104, 1, abi::E_SIZE),
            (32, usize::MAX / 32, abi::E_ARGUMENT),
        ] {
            let rows = Rows::new(&raw mut page, size, count);
            assert_eq!(rows.expect_err("no size").code(), code);
        }
        let mut bytes = [7_u8; 33];
        let at = bytes.as_mut_ptr().wrapping_add(1);
        let mut rows = Rows::new(at.cast::<abi::Page>(), 32, 1).expect("anywhere");
        // SAFETY: 32 bytes are there.
        assert_eq!(unsafe { rows.fill([page].into_iter()) }, 1);
        assert_eq!((bytes[0], &bytes[1..]), (7, &[0; 32][..]));
        let null = Rows::<abi::Page>::new(std::ptr::null_mut(), 32, 1);
        assert_eq!(null.expect_err("null").code(), abi::E_ARGUMENT);
        assert!(Rows::<abi::Page>::new(std::ptr::null_mut(), 32, 0).is_ok());
    }

    #[test]
    fn a_shorter_structure_is_written_as_far_as_it_goes_and_a_longer_one_zeroed() {
        let mut words = [7_u64; 8];
        words[0] = 32 | 7 << 32;
        let value = abi::PfnState { size: 1, causes: 2, defer: 3, zero: 0, entry: 5 };
        // SAFETY: 32 bytes are there.
        unsafe { write(words.as_mut_ptr().cast::<abi::PfnState>(), value) }.expect("fits");
        assert_eq!(words, [32 | 2 << 32, 3, 5, 0, 7, 7, 7, 7]);
    }
}
