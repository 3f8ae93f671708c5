// SPDX-License-Identifier: MIT OR Apache-2.0
//! A captured p2m, repeated: its runs and its holes are kept, the gaps between its frames are not.
//! Not here: captures (`p2mtrack-trace`).
//! Units: pages and frames from 0; a tile is whole leaves.
//! Threads: plain values.
//! Source: own. Each range of frames that the capture does not name becomes a single frame, so that
//! a tile needs few more frames than pages and no two runs merge.

use p2mtrack::leaf::FRAME_WORDS;

/// No page, or no frame.
const NONE: u32 = u32::MAX;

/// One tile, both ways.
#[derive(Clone, Debug)]
pub(crate) struct Tile {
    frames: Vec<u32>,
    pages: Vec<u32>,
}

/// Why a captured p2m can't be a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TileFault {
    /// It is not whole leaves, or there is none, or too much.
    Length(usize),
    /// No entry names a frame.
    Empty,
    /// Two entries name this frame.
    Twice(u64),
}

impl std::fmt::Display for TileFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length(entries) => write!(f, "{entries} entries are no whole leaves to tile"),
            Self::Empty => f.write_str("no entry of the p2m to tile names a frame"),
            Self::Twice(frame) => write!(f, "two entries of the p2m to tile name {frame:#x}"),
        }
    }
}

impl std::error::Error for TileFault {}

/// Entries of the largest tile: a guest of 256 GiB.
const ENTRIES_MAX: usize = 1 << 26;
/// Entries from here on are tagged or invalid: no frame of the guest.
const FRAMES_END: u64 = 1 << 52;

impl Tile {
    /// Takes the entries of a captured p2m, whole leaves; all ones where there is no frame.
    pub(crate) fn new(entries: &[u64]) -> Result<Self, TileFault> {
        let whole = entries.len().is_multiple_of(FRAME_WORDS);
        if !whole || entries.is_empty() || entries.len() > ENTRIES_MAX {
            return Err(TileFault::Length(entries.len()));
        }
        let mut named: Vec<(u64, u32)> = entries
            .iter()
            .zip(0..)
            .filter(|&(&e, _)| e < FRAMES_END)
            .map(|(&e, p)| (e, p))
            .collect();
        named.sort_unstable();
        let Some(&(lowest, _)) = named.first() else { return Err(TileFault::Empty) };
        if let Some(pair) = named.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(TileFault::Twice(pair[0].0));
        }
        let mut tile = Self { frames: vec![NONE; entries.len()], pages: Vec::new() };
        let mut last = lowest;
        for (frame, page) in named {
            if frame > last + 1 {
                tile.pages.push(NONE);
            }
            last = frame;
            tile.frames[page as usize] = tile.pages.len() as u32;
            tile.pages.push(page);
        }
        tile.pages.push(NONE); // keeps the runs of two tiles from merging
        Ok(tile)
    }

    /// The frame of a page, if it has one.
    pub(crate) fn frame(&self, page: u64) -> Option<u64> {
        let (tile, within) = (page / self.frames.len() as u64, page % self.frames.len() as u64);
        let frame = self.frames[within as usize];
        (frame != NONE).then(|| tile * self.pages.len() as u64 + u64::from(frame))
    }

    /// The page of a frame, if it has one.
    pub(crate) fn page(&self, frame: u64) -> Option<u64> {
        let (tile, within) = (frame / self.pages.len() as u64, frame % self.pages.len() as u64);
        let page = self.pages[within as usize];
        (page != NONE).then(|| tile * self.frames.len() as u64 + u64::from(page))
    }

    /// Frames that this many pages are spread over.
    pub(crate) fn span(&self, pages: u64) -> u64 {
        pages.div_ceil(self.frames.len() as u64) * self.pages.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_runs_and_holes_and_closes_gaps() {
        let mut entries = [u64::MAX; FRAME_WORDS];
        entries[..6].copy_from_slice(&[900, 901, u64::MAX, 5000, 4999, 1 << 63 | 7]);
        let tile = Tile::new(&entries).expect("fine");
        let frames: Vec<_> = (0..6).map(|page| tile.frame(page)).collect();
        assert_eq!(frames, [Some(0), Some(1), None, Some(4), Some(3), None]);
        assert_eq!(tile.frame(512 + 3), Some(6 + 4));
        assert_eq!(tile.page(6 + 4), Some(512 + 3));
        assert_eq!((tile.page(2), tile.page(5)), (None, None));
        assert_eq!(tile.span(513), 12);
    }

    #[test]
    fn refuses_what_is_no_p2m() {
        assert_eq!(Tile::new(&[]).err(), Some(TileFault::Length(0)));
        assert_eq!(Tile::new(&[1; 511]).err(), Some(TileFault::Length(511)));
        assert_eq!(Tile::new(&[7; 512]).err(), Some(TileFault::Twice(7)));
        assert_eq!(Tile::new(&[u64::MAX; 512]).err(), Some(TileFault::Empty));
    }
}
