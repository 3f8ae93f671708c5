// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owner and type of frames, as Xen has them.
//! Not here: what follows (the tracker).
//! Units: at most 1,024 frames a call.
//! Threads: one owner.
//! Source: Xen `XEN_DOMCTL_getpageframeinfo3`; types: `xen-save-path.md` 2.5.

use p2mtrack::frame::{FrameType, Mfn};
use p2mtrack::port::{FrameTypes, PortError, QUERY_FRAMES_MAX};

use crate::buffer::Buffer;
use crate::domain::Domain;
use crate::error::XenError;

/// A domain's frame types as a port.
#[derive(Debug)]
pub struct XenFrameTypes {
    domain: Domain,
    frames: Buffer,
}

impl XenFrameTypes {
    /// For the frames of a domain.
    ///
    /// # Errors
    /// No memory.
    pub fn new(domain: Domain) -> Result<Self, XenError> {
        let frames = Buffer::new(&domain.xen().privcmd, QUERY_FRAMES_MAX * 8)?;
        Ok(Self { domain, frames })
    }
}

const CALL: &str = "ask for frame types";
const TRIES: u32 = 4;

impl FrameTypes for XenFrameTypes {
    fn query(&mut self, frames: &[Mfn], types: &mut [FrameType]) -> Result<(), PortError> {
        let domid = self.domain.domid();
        let error = |errno| XenError::new(CALL, errno).of(domid);
        if frames.len() > QUERY_FRAMES_MAX || frames.len() != types.len() {
            return Err(error(libc::E2BIG).into());
        }
        // Xen reads type and pin one after the other: a frame in between the two looks like none that there is.
        for _ in 0..TRIES {
            self.ask(frames).map_err(error)?;
            let answers = types.iter_mut().zip(self.frames.words());
            let known = |(kind, &word): (&mut FrameType, &u64)| {
                frame_type(word).map(|found| *kind = found).is_some()
            };
            if answers.map(known).fold(true, |all, one| all & one) {
                return Ok(());
            }
        }
        Err(error(libc::EPROTO).hint("a type that no Xen is known to have").into())
    }
}

impl XenFrameTypes {
    fn ask(&mut self, frames: &[Mfn]) -> Result<(), i32> {
        for (word, mfn) in self.frames.words_mut().iter_mut().zip(frames) {
            *word = mfn.0;
        }
        let domid = self.domain.domid();
        self.domain.calls().frame_types(domid, &mut self.frames, frames.len())
    }
}

/// `XEN_DOMCTL_PFINFO_*`: four bits from bit 28 on.
const fn frame_type(word: u64) -> Option<FrameType> {
    Some(match word >> 28 & 0xf {
        0 => FrameType::Data,
        level @ 1..=4 => FrameType::Table { level: level as u8, pinned: false },
        pinned @ 9..=0xc => FrameType::Table { level: (pinned - 8) as u8, pinned: true },
        0xd => FrameType::Broken,
        // XTAB, and what a sender of old made of it.
        0xe | 0xf => FrameType::NotOwned,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_xen() {
        assert_eq!(frame_type(0), Some(FrameType::Data));
        for level in 1..=4_u8 {
            let table = |pinned| Some(FrameType::Table { level, pinned });
            assert_eq!(frame_type(u64::from(level) << 28), table(false));
            assert_eq!(frame_type(u64::from(level) << 28 | 1 << 31), table(true));
        }
        assert_eq!(frame_type(0xd << 28), Some(FrameType::Broken));
        assert_eq!(frame_type(0xf << 28), Some(FrameType::NotOwned));
        for unknown in 5..=8 {
            assert_eq!(frame_type(unknown << 28), None);
        }
    }
}
