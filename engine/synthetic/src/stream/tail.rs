// SPDX-License-Identifier: MIT OR Apache-2.0
//! The records behind the pages of a simulated guest: a clock, shared_info with its roots, one
//! vCPU.
//! Not here: a real guest's (`engine/xen`).
//! Units: byte offsets as in Xen's public headers.
//! Threads: under the world's lock.
//! Source: `p2mtrack::shared_info`; `p2mtrack_stream::vcpu`.

use std::sync::Arc;

use p2mtrack::frame::{FRAME_BYTES, FrameType, Pfn, Width};
use p2mtrack::port::PortError;
use p2mtrack_stream::record::RecordKind;
use p2mtrack_stream::transport::Tail;
use p2mtrack_stream::vcpu::{Converted, EXTENDED_BYTES_MAX};
use p2mtrack_stream::writer::{TscInfo, Writer};

use crate::ports::Shared;
use crate::receiver::Receiver;
use crate::stream::line::Line;

/// Writes them.
#[derive(Debug)]
pub(crate) struct SimTail {
    pub(crate) shared: Arc<Shared>,
    /// What ends them: CHECKPOINT or END.
    pub(crate) mark: RecordKind,
    /// A guest without a root page table has none to name in cr3.
    pub(crate) has_root: bool,
}

impl Tail<Line> for SimTail {
    fn write(&mut self, writer: &mut Writer<Line>) -> Result<(), PortError> {
        let world = self.shared.lock();
        let width = world.guest.width;
        let (data, root) = named(&world.receiver, width);
        self.has_root = root.is_some();
        drop(world);
        writer.tsc_info(&TscInfo::default())?;
        writer.shared_info(&[0; FRAME_BYTES])?;
        let registers = Converted {
            edx: data,
            gdt_entries: 512,
            gdt_frames: vec![data],
            cr3: root.unwrap_or(Pfn(0)),
            cr1: 0,
        };
        writer.vcpu(RecordKind::VcpuBasic, 0, &registers.context(width))?;
        let mut extended = [0; EXTENDED_BYTES_MAX];
        extended[4] = EXTENDED_BYTES_MAX as u8;
        writer.vcpu(RecordKind::VcpuExtended, 0, &extended)?;
        writer.mark(self.mark)?;
        Ok(())
    }
}

/// A pfn of data, and a root page table if there is one.
fn named(receiver: &Receiver, width: Width) -> (Pfn, Option<Pfn>) {
    let top = Converted::root_level(width);
    let (mut data, mut root) = (None, None);
    for pfn in 0..receiver.pfns() {
        match receiver.get(pfn).map(|page| page.kind) {
            Some(FrameType::Data) if data.is_none() => data = Some(Pfn(pfn)),
            Some(FrameType::Table { level, .. }) if level == top => root = Some(Pfn(pfn)),
            _ => {}
        }
        if data.is_some() && root.is_some() {
            break;
        }
    }
    (data.unwrap_or(Pfn(0)), root)
}
