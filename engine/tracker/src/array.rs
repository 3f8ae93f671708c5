// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arrays of plain values: zeroed, aligned, and on huge pages if they are large.
//! Not here: what the values mean.
//! Units: values; a cache line has 64 bytes, a huge page 2 MiB.
//! Threads: as the values: atomics are shared freely.
//! Source: `docs/perf.md`, "Huge pages": what a lookup at random waits for is the walk of the page
//! tables.

#![expect(unsafe_code, reason = "anonymous memory is a pointer; docs/safety.md")]

use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;

#[cfg(not(loom))]
pub(crate) use bytemuck::Zeroable as Zero;
#[cfg(not(any(loom, miri)))]
use memmap2::{MmapMut, MmapRaw};
/// Values that begin as zero; loom has to know each atomic.
#[cfg(loom)]
pub(crate) use std::default::Default as Zero;

/// Bytes to which the first value is aligned: two shards never write to one cache line.
const LINE_BYTES: usize = 64;
/// An array of this size and more is mapped, and aligned to it.
#[cfg(not(any(loom, miri)))]
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Zeroed values. What is never written costs no memory, down to the page.
pub(crate) struct Array<T> {
    memory: Memory<T>,
    first: NonNull<T>,
    length: usize,
    /// Values that there is memory for. Those past the length are zero.
    capacity: usize,
}

/// Who has the memory.
enum Memory<T> {
    /// The program's allocator.
    Heap(*mut [T]),
    /// The system.
    #[cfg(not(any(loom, miri)))]
    Mapped { _map: MmapRaw },
}

// SAFETY: the memory belongs to the array alone, as that of a `Vec` does.
unsafe impl<T: Send> Send for Array<T> {}
// SAFETY: as above; through a shared array there are only shared values.
unsafe impl<T: Sync> Sync for Array<T> {}

impl<T: Zero> Array<T> {
    /// `length` zeroed values.
    ///
    /// # Panics
    /// If there is no address space for them.
    pub(crate) fn zeroed(length: usize) -> Self {
        const { assert!(cfg!(loom) || !std::mem::needs_drop::<T>()) };
        const { assert!(LINE_BYTES.is_multiple_of(size_of::<T>())) };
        #[cfg(not(any(loom, miri)))]
        if let Some(mapped) = Self::mapped(length) {
            return mapped;
        }
        let slack = if cfg!(loom) { 0 } else { LINE_BYTES / size_of::<T>() - 1 };
        #[cfg(not(loom))]
        let values = bytemuck::zeroed_slice_box(length + slack);
        #[cfg(loom)]
        let values: Box<[T]> = (0..length).map(|_| T::default()).collect();
        let values = Box::into_raw(values);
        let begin = values.cast::<T>();
        let first = begin.wrapping_add(begin.align_offset(LINE_BYTES).min(slack));
        let first = NonNull::new(first).unwrap_or(NonNull::dangling());
        Self { memory: Memory::Heap(values), first, length, capacity: length }
    }

    /// The same of the system's memory, if there is so much that it pays. Where the system has no
    /// huge pages, or no memory, the array works without.
    #[cfg(not(any(loom, miri)))]
    fn mapped(length: usize) -> Option<Self> {
        let bytes = length.checked_mul(size_of::<T>()).filter(|&bytes| bytes >= HUGE_PAGE_BYTES)?;
        let map = MmapRaw::from(MmapMut::map_anon(bytes.checked_add(HUGE_PAGE_BYTES)?).ok()?);
        let at = map.as_mut_ptr().align_offset(HUGE_PAGE_BYTES);
        #[cfg(target_os = "linux")]
        let _ = map.advise_range(memmap2::Advice::HugePage, at, bytes);
        let first = NonNull::new(map.as_mut_ptr().wrapping_add(at).cast())?;
        Some(Self { memory: Memory::Mapped { _map: map }, first, length, capacity: length })
    }
}

impl<T> Array<T> {
    /// The addresses of its values, if it is mapped.
    pub(crate) fn mapped_at(&self) -> Option<Range<usize>> {
        let first = self.first.addr().get();
        let heap = matches!(self.memory, Memory::Heap(_));
        (!heap).then(|| first..first + self.length * size_of::<T>())
    }
}

impl<T: Zero + Copy> Array<T> {
    /// Changes the length. New values are zero. An array that grows gets twice its length, so that
    /// many small steps do not copy it each time.
    pub(crate) fn resize(&mut self, length: usize) {
        if length < self.length || length > self.capacity {
            let capacity = if length < self.length { length } else { length.max(2 * self.length) };
            let old = std::mem::replace(self, Self::zeroed(capacity));
            let kept = length.min(old.length);
            self[..kept].copy_from_slice(&old[..kept]);
        }
        self.length = length;
    }
}

impl<T> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `length` values are there from `first` on, aligned, for as long as `memory` is.
        // They began as zeros, which is a value, and are only written through this slice.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.length) }
    }
}

impl<T> DerefMut for Array<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.length) }
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        #[cfg_attr(any(loom, miri), expect(irrefutable_let_patterns, reason = "the one kind"))]
        if let Memory::Heap(values) = self.memory {
            // SAFETY: it was a box, and nobody else has it.
            drop(unsafe { Box::from_raw(values) });
        }
    }
}

impl<T: Zero> Default for Array<T> {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl<T: Zero + Copy> Clone for Array<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::zeroed(self.length);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T: PartialEq> PartialEq for Array<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Array<T> {}

impl<T: fmt::Debug> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn values_are_zeroed_aligned_and_kept() {
        let large = if cfg!(miri) { 1 << 12 } else { 3 << 18 };
        for length in [0, 1, 7, 100, large, large + 5] {
            let mut array = Array::<u64>::zeroed(length);
            assert!(array.len() == length && array.iter().all(|&value| value == 0));
            assert!(array.as_ptr().cast::<u8>().align_offset(LINE_BYTES) == 0, "{length}");
            array.iter_mut().zip(1..).for_each(|(value, number)| *value = number);
            let copy = array.clone();
            array.resize(length / 2);
            array.resize(length);
            let kept = (1..).take(length / 2).chain(std::iter::repeat(0));
            assert!(array.iter().copied().eq(kept.take(length)));
            assert!(copy.iter().copied().eq((1..).take(length)) && (length == 0 || copy != array));
        }
    }

    #[test]
    #[cfg(not(miri))]
    fn a_large_array_is_aligned_to_huge_pages() {
        let array = Array::<u32>::zeroed(HUGE_PAGE_BYTES / 4);
        assert_eq!(array.as_ptr().cast::<u8>().align_offset(HUGE_PAGE_BYTES), 0);
        let at = array.mapped_at().expect("a large one is mapped");
        assert_eq!((at.start, at.len()), (array.as_ptr().addr(), HUGE_PAGE_BYTES));
        let array = Array::<u32>::zeroed(HUGE_PAGE_BYTES / 4 - 1);
        assert_eq!(array.mapped_at(), None, "a small one is the allocator's");
    }

    /// A guest whose p2m frames move to ever higher pfns lets a bitmap grow word by word.
    #[test]
    fn an_array_that_grows_often_moves_rarely() {
        let mut array = Array::<u64>::zeroed(1000);
        let (mut places, mut last) = (0, array.as_ptr());
        for length in 1001..9000 {
            array.resize(length);
            assert_eq!(array[length - 1], 0);
            array[length - 1] = length as u64;
            places += u32::from(array.as_ptr() != last);
            last = array.as_ptr();
        }
        assert!(places <= 4, "moved {places} times");
        assert!((1001..9000).all(|length| array[length - 1] == length as u64));
    }

    #[test]
    fn an_array_goes_to_another_thread() {
        let mut array = Array::<u64>::zeroed(10);
        array[3] = 7;
        let array = std::thread::spawn(move || array).join().expect("no panic");
        assert_eq!(array[3], 7);
    }
}
