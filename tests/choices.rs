// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only source of randomness of a hostile case: a byte string, read from front to back.
//! Not here: what is chosen (`hostile_guest`).
//! Units: bytes; a choice takes as few as it needs.
//! Threads: one owner.
//! Source: own. Zero is the most harmless choice everywhere, and an exhausted string gives zeros,
//! so that a shorter or smaller string is a simpler case: proptest shrinks it, a fuzzer mutates it.

/// Choices read out of a byte string.
#[derive(Clone, Debug)]
pub struct Choices<'a> {
    left: &'a [u8],
}

impl<'a> Choices<'a> {
    /// The choices in these bytes; zeros after them.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// Whether no bytes are left, so that everything that follows is zero.
    #[must_use]
    pub const fn is_exhausted(&self) -> bool {
        self.left.is_empty()
    }

    fn byte(&mut self) -> u64 {
        let Some((&first, rest)) = self.left.split_first() else { return 0 };
        self.left = rest;
        u64::from(first)
    }

    /// Any word.
    pub fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | self.byte())
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        match n {
            0 | 1 => 0,
            2..=0x100 => self.byte() % n,
            0x101..=0x1_0000 => (self.byte() << 8 | self.byte()) % n,
            _ => self.word() % n,
        }
    }

    /// True once in `n` times (`n` up to 256); never for an exhausted string, unless `n` is 1.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == n - 1
    }

    /// One of several.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_string_gives_zeros() {
        let mut choices = Choices::new(&[7, 1, 2]);
        assert_eq!((choices.below(4), choices.below(0x200)), (3, 0x102));
        assert!(choices.is_exhausted());
        assert_eq!((choices.word(), choices.below(9), choices.pick(&[5, 6])), (0, 0, 5));
        assert!(!choices.once_in(2) && choices.once_in(1));
        assert!(Choices::new(&[3]).once_in(4));
    }
}
