// SPDX-License-Identifier: MIT OR Apache-2.0
//! A domain's p2m: its roots in shared_info, its frames by foreign mappings.
//! Not here: what the frames contain (the tracker walks them).
//! Units: frames of 4 KiB.
//! Threads: any number may call `live`; the owner calls the rest.
//! Source: the port's contract; `xen-save-path.md` 2.1: shared_info is never in log-dirty, so that
//! it is read each time.

use p2mtrack::frame::{FRAME_BYTES, Mfn, Width};
use p2mtrack::guest::GuestLeaf;
use p2mtrack::leaf::Leaf;
use p2mtrack::port::{MapFault, MapSlot, P2mSource, PortError, Roots};
use p2mtrack::shared_info;

use crate::blocks::Blocks;
use crate::domain::Domain;
use crate::error::XenError;
use crate::mapping::{self, Mapping};

/// A domain's p2m as a port.
#[derive(Debug)]
pub struct XenP2m {
    domain: Domain,
    shared_info: Mapping,
    blocks: Blocks<Mapping>,
}

impl XenP2m {
    /// Maps shared_info.
    ///
    /// # Errors
    /// The domain is gone, or its shared_info can't be mapped.
    pub fn new(mut domain: Domain) -> Result<Self, XenError> {
        let mfn = domain.info()?.shared_info;
        let shared_info = Mapping::frames(&domain.xen().privcmd, domain.domid(), &[mfn.0])?;
        if shared_info.live(0).is_none() {
            let fault = shared_info.fault(0).unwrap_or(MapFault::NotOwned);
            return Err(mapping::not_mapped("map shared_info", fault).of(domain.domid()));
        }
        Ok(Self { domain, shared_info, blocks: Blocks::default() })
    }
}

/// The call that asks whether the guest is still suspended.
pub const CHECK: &str = "check the suspend";

impl XenError {
    /// Whether a guest that was suspended is not any more.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.call == CHECK
    }
}

impl P2mSource for XenP2m {
    fn width(&self) -> Width {
        self.domain.width()
    }

    fn domain_frames(&mut self) -> Result<u64, PortError> {
        Ok(self.domain.info()?.frames)
    }

    fn still_suspended(&mut self) -> Result<(), PortError> {
        if self.domain.info()?.is_suspended() {
            return Ok(());
        }
        let error = XenError::new(CHECK, libc::EINVAL).of(self.domain.domid());
        Err(error.hint("the guest is not suspended any more: another program resumed it").into())
    }

    fn roots(&mut self) -> Result<Roots, PortError> {
        let Some(live) = self.shared_info.live(0) else {
            return Err(XenError::new("read shared_info", libc::EPERM).into()); // `new` checked
        };
        let mut copy = Leaf::default();
        live.fetch(&mut copy);
        let page: &[u8; FRAME_BYTES] = bytemuck::cast_ref(&copy.words);
        Ok(shared_info::roots(self.domain.width(), page))
    }

    fn read(&mut self, mfn: Mfn, into: &mut Leaf) -> Result<(), MapFault> {
        mapping::copy(&self.domain.xen().privcmd, self.domain.domid(), mfn, into)
    }

    fn map(&mut self, frames: &[Mfn], answers: &mut Vec<Result<MapSlot, MapFault>>) {
        let (privcmd, domid) = (&self.domain.xen().privcmd, self.domain.domid());
        self.blocks.map(frames, answers, &|mfns| Mapping::frames(privcmd, domid, mfns));
    }

    fn unmap(&mut self, slots: &[MapSlot]) {
        let (privcmd, domid) = (&self.domain.xen().privcmd, self.domain.domid());
        self.blocks.unmap(slots, &|mfns| Mapping::frames(privcmd, domid, mfns));
    }

    fn live(&self, slot: MapSlot) -> GuestLeaf<'_> {
        let Some(live) = self.blocks.live(slot) else { panic!("slot {} is not mapped", slot.0) };
        live
    }
}
