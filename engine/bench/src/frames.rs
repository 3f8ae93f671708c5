// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that stands for mapped frames of a guest: anonymous, with the requested page size.
//! Not here: what the frames contain.
//! Units: frames of 4,096 bytes; pages of 4 KiB or 2 MiB of this machine.
//! Threads: words are atomics: any number of writers and readers.
//! Source: a foreign mapping has 4 KiB pages, each with its own translation, which costs as much as
//! the memory access.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use p2mtrack::leaf::{FRAME_WORDS, Leaf};
use p2mtrack_synthetic::huge::mapping::{Mapping, Use};

/// The words of a frame.
pub type FrameWords = [AtomicU64; FRAME_WORDS];

/// Pages of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// 4 KiB, as in a foreign mapping.
    Small,
    /// 2 MiB, as far as the system provides them.
    Huge,
}

impl Pages {
    /// The name in figures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Small => "4k",
            Self::Huge => "huge",
        }
    }
}

/// Zeroed frames. A frame that is never written costs no memory.
#[derive(Debug)]
pub struct Frames(Mapping<FrameWords>);

impl Frames {
    /// Reserves frames.
    ///
    /// # Errors
    /// There is no address space.
    pub fn new(frames: usize, pages: Pages) -> io::Result<Self> {
        let usage = match pages {
            Pages::Small => Use::Sparse,
            Pages::Huge => Use::Dense,
        };
        Mapping::new(frames, usage).map(Self)
    }

    /// The number of frames, written or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The words of a frame.
    ///
    /// # Panics
    /// If there is no such frame.
    #[must_use]
    pub fn frame(&self, index: usize) -> &FrameWords {
        &self.0[index]
    }

    /// All frames.
    #[must_use]
    pub fn all(&self) -> &[FrameWords] {
        &self.0
    }

    /// Writes a frame.
    ///
    /// # Panics
    /// If there is no such frame.
    pub fn write(&self, index: usize, leaf: &Leaf) {
        for (word, &new) in self.frame(index).iter().zip(&leaf.words) {
            word.store(new, Ordering::Relaxed); // ORDER: threads that read it are started later
        }
    }

    /// The share of the resident memory that is in huge pages; `None` where the system does not
    /// report it.
    #[must_use]
    pub fn huge_share(&self) -> Option<f64> {
        let maps = fs::read_to_string("/proc/self/smaps").ok()?;
        huge_share_at(&maps, self.0.as_ptr() as u64)
    }
}

/// The same for the mapping that contains an address. The system merges neighbouring mappings of
/// the same kind.
fn huge_share_at(maps: &str, address: u64) -> Option<f64> {
    let contains = |line: &&str| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let bound = |text| u64::from_str_radix(text, 16).ok();
        let bounds = range.and_then(|(from, to)| Some(bound(from)?..bound(to)?));
        bounds.is_some_and(|bounds| bounds.contains(&address))
    };
    let mut lines = maps.lines().skip_while(|line| !contains(line));
    let mut kib = |key: &str| {
        let line = lines.find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse::<f64>().ok()
    };
    let (resident, huge) = (kib("Rss:")?, kib("AnonHugePages:")?);
    (resident > 0.0).then(|| huge / resident)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack::guest::GuestLeaf;

    #[test]
    fn frames_are_zeroed_and_keep_what_is_written() {
        for pages in [Pages::Small, Pages::Huge] {
            let frames = Frames::new(1000, pages).expect("memory");
            assert_eq!((frames.len(), frames.is_empty()), (1000, false));
            let leaf = Leaf { words: std::array::from_fn(|slot| slot as u64 * 3) };
            frames.write(999, &leaf);
            let mut copy = Leaf::HOLE;
            GuestLeaf::from_atomics(frames.frame(999)).fetch(&mut copy);
            assert_eq!(copy, leaf);
            GuestLeaf::from_atomics(frames.frame(998)).fetch(&mut copy);
            assert_eq!(copy, Leaf::default());
        }
    }

    #[test]
    fn small_pages_are_not_huge() {
        let frames = Frames::new(4096, Pages::Small).expect("memory");
        (0..4096).for_each(|index| frames.write(index, &Leaf::HOLE));
        if let Some(share) = frames.huge_share() {
            assert!(share < 0.5, "{share}");
        }
    }

    #[test]
    fn the_share_is_that_of_the_mapping_that_contains_the_address() {
        let maps = "1000-2000 rw-p 0 00:00 0\nRss:      4 kB\nAnonHugePages:   0 kB\nVmFlags: rd\n\
                    2000-9000 rw-p 0 00:00 0\nRss:      8 kB\nAnonHugePages:   2 kB\n";
        assert_eq!(huge_share_at(maps, 0x1fff), Some(0.0));
        assert_eq!(huge_share_at(maps, 0x2000), Some(0.25));
        assert_eq!(huge_share_at(maps, 0x9000), None);
    }
}
