// SPDX-License-Identifier: MIT OR Apache-2.0
//! Anonymous memory with a value for each pfn or frame: zero, and not allocated until it is
//! written.
//! Not here: what the values mean.
//! Units: values; memory comes in pages of the system, or in large ones on request.
//! Threads: as the values: atomics are shared freely.
//! Source: own; `docs/safety.md`, "Anonymous memory".

#![expect(unsafe_code, reason = "anonymous memory is a pointer; docs/safety.md")]

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Zeroable;
use memmap2::{MmapMut, MmapRaw};

/// How the memory will be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// All of it: large pages make its first touch cheaper.
    Dense,
    /// Here and there: untouched pages stay free.
    Sparse,
}

/// Zeroed memory for values of one kind.
pub struct Mapping<T> {
    map: MmapRaw,
    length: usize,
    values: PhantomData<T>,
}

impl<T: Zeroable> Mapping<T> {
    /// Maps `length` values, all zero.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub fn new(length: usize, usage: Use) -> io::Result<Self> {
        const { assert!(align_of::<T>() <= 4096 && size_of::<T>() > 0) };
        let bytes = length.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapRaw::from(MmapMut::map_anon(bytes.max(1))?);
        #[cfg(target_os = "linux")]
        {
            let advice = match usage {
                Use::Dense => memmap2::Advice::HugePage,
                Use::Sparse => memmap2::Advice::NoHugePage,
            };
            // A system without large pages refuses; the mapping works without them.
            let _ = map.advise(advice);
        }
        Ok(Self { map, length, values: PhantomData })
    }
}

impl<T: Zeroable> Deref for Mapping<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the map begins on a page, is `length` values long and lives as long as `self`. It
        // began as zeros, which is a value (`Zeroable`), and is only written through this slice.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.length) }
    }
}

impl<T: Zeroable> DerefMut for Mapping<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.length) }
    }
}

impl<T> fmt::Debug for Mapping<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("length", &self.length).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn begins_as_zeros_and_keeps_what_is_stored() {
        for usage in [Use::Dense, Use::Sparse] {
            let mut map: Mapping<AtomicU32> = Mapping::new(5000, usage).expect("memory");
            assert!(map.len() == 5000 && map.iter_mut().all(|value| *value.get_mut() == 0));
            map[4999].store(7, Ordering::Relaxed); // ORDER: one thread
            assert_eq!(*map[4999].get_mut(), 7);
        }
        assert!(Mapping::<u64>::new(0, Use::Sparse).expect("memory").is_empty());
        assert!(Mapping::<u64>::new(usize::MAX, Use::Sparse).is_err());
    }
}
