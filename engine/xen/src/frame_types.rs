// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owner and type of frames, as Xen reports them.
//! Not here: what follows from them (the tracker).
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
        // Xen reads type and pin one after the other: if they change in between, they may be a type
        // that does not exist.
        for _ in 0..TRIES {
            self.ask(frames).map_err(error)?;
            let answers = types.iter_mut().zip(self.frames.words());
            let known = |(kind, &word): (&mut FrameType, &u64)| {
                FrameType::from_pfinfo(word as u32).map(|found| *kind = found).is_some()
            };
            if answers.map(known).fold(true, |all, one| all & one) {
                return Ok(());
            }
        }
        Err(error(libc::EPROTO).hint("a type that no known Xen has").into())
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
