// SPDX-License-Identifier: MIT OR Apache-2.0
//! A vCPU's registers as they are on the wire: where the mfns stand that become pfns, and how.
//! Not here: the calls that read and write them (`engine/xen`).
//! Units: byte offsets into `vcpu_guest_context` of the guest's width.
//! Threads: plain values.
//! Source: `struct vcpu_guest_context` in Xen `public/arch-x86/xen.h`, compiled for both widths;
//! libxc `xg_sr_save_x86_pv.c`, `write_one_vcpu_basic`.

use std::{error, fmt};

use p2mtrack::frame::{Mfn, Pfn, Width};

use crate::header::little;

/// Entries of a GDT that fit the frames that Xen maps (`FIRST_RESERVED_GDT_ENTRY`).
pub const GDT_ENTRIES_MAX: u64 = 7168;
/// Entries of a GDT in a frame.
const GDT_FRAME_ENTRIES: u64 = 512;
/// vCPUs of a PV guest (`MAX_VIRT_CPUS`).
pub const VCPUS_MAX: u32 = 8192;
/// The most bytes of an EXTENDED context.
pub const EXTENDED_BYTES_MAX: usize = 128;
/// The fewest bytes of an xsave area: xcr0 and xcr0_accum stand at its start.
pub const XSAVE_BYTES_MIN: usize = 16;
/// Bytes of an MSR: index, flags, value.
pub const MSR_BYTES: usize = 16;

/// Where things stand in a vCPU's registers.
struct Offsets {
    bytes: usize,
    edx: usize,
    gdt_frames: usize,
    gdt_entries: usize,
    ctrlreg: usize,
}

const fn offsets(width: Width) -> Offsets {
    match width {
        Width::W32 => {
            Offsets { bytes: 2800, edx: 524, gdt_frames: 2640, gdt_entries: 2704, ctrlreg: 2716 }
        }
        Width::W64 => {
            Offsets { bytes: 5168, edx: 616, gdt_frames: 4832, gdt_entries: 4960, ctrlreg: 4984 }
        }
    }
}

/// Bytes of a BASIC record's context.
#[must_use]
pub const fn basic_bytes(width: Width) -> usize {
    offsets(width).bytes
}

/// The pfns in a vCPU's registers, as on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// edx: of vCPU 0 the pfn of start_info.
    pub edx: Pfn,
    /// Entries of the GDT.
    pub gdt_entries: u64,
    /// The GDT's frames, as far as its entries reach; at most 14.
    pub gdt_frames: Vec<Pfn>,
    /// The root page table.
    pub cr3: Pfn,
    /// The guest's user page table, as the whole word: 0, or a pfn and bit 0 (64 bits only).
    pub cr1: u64,
}

/// A register that names a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// edx of vCPU 0: start_info.
    Edx,
    /// A frame of the GDT, by its number.
    Gdt(u8),
    /// The root page table.
    Cr3,
    /// The user page table.
    Cr1,
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edx => f.write_str("edx"),
            Self::Gdt(number) => write!(f, "GDT frame {number}"),
            Self::Cr3 => f.write_str("cr3"),
            Self::Cr1 => f.write_str("cr1"),
        }
    }
}

/// Why a vCPU's registers can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextFault {
    /// The context has so many bytes, which is not the guest's width.
    Length(usize),
    /// The GDT has so many entries, more than [`GDT_ENTRIES_MAX`].
    GdtEntries(u64),
    /// No pfn has the frame that a register names.
    Frame {
        /// The register.
        register: Register,
        /// The frame.
        mfn: Mfn,
    },
}

impl fmt::Display for ContextFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(bytes) => write!(f, "the context has {bytes} bytes"),
            Self::GdtEntries(entries) => {
                write!(f, "the GDT has {entries} entries, more than {GDT_ENTRIES_MAX}")
            }
            Self::Frame { register, mfn } => {
                write!(f, "{register} names {mfn}, a frame that no pfn has")
            }
        }
    }
}

impl error::Error for ContextFault {}

/// Replaces the mfns in a vCPU's context by pfns, as a sender does. `resolve` finds the pfn of a
/// frame, which p2m and m2p agree on.
///
/// # Errors
/// See [`ContextFault`]; the context is then partly converted and must not be sent.
pub fn convert(
    width: Width,
    vcpu: u32,
    context: &mut [u8],
    mut resolve: impl FnMut(Mfn) -> Option<Pfn>,
) -> Result<(), ContextFault> {
    // The source's mfns stand where the pfns will.
    let Some(source) = Converted::read(width, context) else {
        return Err(ContextFault::Length(context.len()));
    };
    if source.gdt_entries > GDT_ENTRIES_MAX {
        return Err(ContextFault::GdtEntries(source.gdt_entries));
    }
    let mut pfn = |register, Pfn(mfn)| {
        let mfn = Mfn(mfn);
        resolve(mfn).ok_or(ContextFault::Frame { register, mfn })
    };
    let mut converted = source.clone();
    if vcpu == 0 {
        converted.edx = pfn(Register::Edx, source.edx)?;
    }
    for (number, frame) in (0..).zip(&mut converted.gdt_frames) {
        *frame = pfn(Register::Gdt(number), *frame)?;
    }
    converted.cr3 = pfn(Register::Cr3, source.cr3)?;
    if source.cr1 != 0 {
        let Pfn(user) = pfn(Register::Cr1, Pfn(source.cr1 >> 12))?;
        converted.cr1 = user << 12 | 1;
    }
    converted.put(width, context);
    Ok(())
}

impl Converted {
    /// Reads the registers of a BASIC record's context; `None` if it has not the right length.
    #[must_use]
    pub fn read(width: Width, context: &[u8]) -> Option<Self> {
        let at = offsets(width);
        if context.len() != at.bytes {
            return None;
        }
        let word_bytes = width.bits() as usize / 8;
        let word = |at: usize| little(&context[at..at + word_bytes]);
        let gdt_entries = word(at.gdt_entries);
        let frames = gdt_entries.min(GDT_ENTRIES_MAX).div_ceil(GDT_FRAME_ENTRIES) as usize;
        let cr3 = word(at.ctrlreg + 3 * word_bytes);
        Some(Self {
            edx: Pfn(word(at.edx)),
            gdt_entries,
            gdt_frames: (0..frames).map(|n| Pfn(word(at.gdt_frames + n * word_bytes))).collect(),
            cr3: Pfn(match width {
                Width::W32 => cr3 >> 12 | (cr3 & 0xfff) << 20,
                Width::W64 => cr3 >> 12,
            }),
            cr1: match width {
                Width::W32 => 0,
                Width::W64 => word(at.ctrlreg + word_bytes),
            },
        })
    }

    /// A BASIC record's context with these registers, and zeros.
    #[must_use]
    pub fn context(&self, width: Width) -> Vec<u8> {
        let mut context = vec![0; offsets(width).bytes];
        self.put(width, &mut context);
        context
    }

    /// Puts these registers into a context of the right length.
    fn put(&self, width: Width, context: &mut [u8]) {
        let at = offsets(width);
        let word_bytes = width.bits() as usize / 8;
        let mut put = |at: usize, word: u64| {
            context[at..at + word_bytes].copy_from_slice(&word.to_le_bytes()[..word_bytes]);
        };
        put(at.edx, self.edx.0);
        put(at.gdt_entries, self.gdt_entries);
        for (n, frame) in self.gdt_frames.iter().enumerate() {
            put(at.gdt_frames + n * word_bytes, frame.0);
        }
        let cr3 = match width {
            Width::W32 => self.cr3.0 << 12 | self.cr3.0 >> 20,
            Width::W64 => self.cr3.0 << 12,
        };
        put(at.ctrlreg + 3 * word_bytes, cr3);
        if width == Width::W64 {
            put(at.ctrlreg + word_bytes, self.cr1);
        }
    }

    /// The level of the table that cr3 names.
    #[must_use]
    pub const fn root_level(width: Width) -> u8 {
        match width {
            Width::W32 => 3,
            Width::W64 => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(context: &mut [u8], width: Width, at: usize, word: u64) {
        let bytes = width.bits() as usize / 8;
        context[at..at + bytes].copy_from_slice(&word.to_le_bytes()[..bytes]);
    }

    /// A source's context whose frames are 1,000 above their pfns, and what is on the wire of it.
    fn source(width: Width, edx: u64) -> (Vec<u8>, Converted) {
        let wire = Converted {
            edx: Pfn(edx),
            gdt_entries: 1025,
            gdt_frames: vec![Pfn(7), Pfn(8), Pfn(9)],
            cr3: Pfn(0x12_3456),
            cr1: if width == Width::W64 { 0x77_7777 << 12 | 1 } else { 0 },
        };
        let mfn = |pfn: &Pfn| Pfn(pfn.0 + 1000);
        let of_mfns = Converted {
            edx: Pfn(edx + 1000),
            gdt_frames: wire.gdt_frames.iter().map(mfn).collect(),
            cr3: mfn(&wire.cr3),
            cr1: if width == Width::W64 { (0x77_7777 + 1000) << 12 } else { 0 },
            ..wire.clone()
        };
        let mut context = of_mfns.context(width);
        let at = offsets(width);
        context[at.bytes - 1] = 0xee; // other registers stay
        put(&mut context, width, at.gdt_frames + 3 * width.bits() as usize / 8, 0x5555);
        (context, wire)
    }

    #[test]
    fn the_mfns_of_a_source_become_pfns() {
        for width in [Width::W64, Width::W32] {
            for vcpu in [0, 1] {
                let (mut context, mut wire) = source(width, 0x99);
                let before = context.clone();
                let below = |Mfn(mfn): Mfn| mfn.checked_sub(1000).map(Pfn);
                convert(width, vcpu, &mut context, below).expect("all have pfns");
                if vcpu > 0 {
                    wire.edx.0 += 1000; // a plain register of the others
                }
                assert_eq!(Converted::read(width, &context), Some(wire));
                let changed = context.iter().zip(&before).filter(|(a, b)| a != b).count();
                assert!(changed < 40 && context.last() == before.last());
                let at = offsets(width).gdt_frames + 3 * width.bits() as usize / 8;
                assert_eq!(context[at..at + 4], before[at..at + 4], "past the entries");
            }
        }
    }

    #[test]
    fn a_user_page_table_that_is_not_there_stays_so() {
        let registers =
            Converted { edx: Pfn(1), gdt_entries: 0, gdt_frames: Vec::new(), cr3: Pfn(2), cr1: 0 };
        let mut context = registers.context(Width::W64);
        convert(Width::W64, 0, &mut context, |mfn| Some(Pfn(mfn.0))).expect("all have pfns");
        assert_eq!(Converted::read(Width::W64, &context), Some(registers));
    }

    #[test]
    fn each_register_without_a_pfn_is_named() {
        let (good, _) = source(Width::W64, 0x99);
        for (mfn, register) in [
            (0x99 + 1000, Register::Edx),
            (1008, Register::Gdt(1)),
            (0x12_3456 + 1000, Register::Cr3),
            (0x77_7777 + 1000, Register::Cr1),
        ] {
            let mfn = Mfn(mfn);
            let fault =
                convert(Width::W64, 0, &mut good.clone(), |frame| (frame != mfn).then_some(Pfn(1)));
            assert_eq!(fault, Err(ContextFault::Frame { register, mfn }));
        }
        let mut short = good[1..].to_vec();
        let length = convert(Width::W64, 0, &mut short, |_| Some(Pfn(1)));
        assert_eq!(length, Err(ContextFault::Length(5167)));
        let mut many = good;
        put(&mut many, Width::W64, offsets(Width::W64).gdt_entries, 7169);
        let entries = convert(Width::W64, 0, &mut many, |_| Some(Pfn(1)));
        assert_eq!(entries, Err(ContextFault::GdtEntries(7169)));
    }

    #[test]
    fn pfns_stand_where_libxc_writes_them() {
        for width in [Width::W64, Width::W32] {
            let at = offsets(width);
            let word = width.bits() as usize / 8;
            let mut context = vec![0; at.bytes];
            put(&mut context, width, at.edx, 0x1234);
            put(&mut context, width, at.gdt_entries, 513);
            put(&mut context, width, at.gdt_frames, 7);
            put(&mut context, width, at.gdt_frames + word, 8);
            let cr3 = if width == Width::W64 { 0x15_6789_a000 } else { 0x6789_a015 };
            put(&mut context, width, at.ctrlreg + 3 * word, cr3);
            put(&mut context, width, at.ctrlreg + word, 0x9001);
            let read = Converted::read(width, &context).expect("the right length");
            assert_eq!(
                read,
                Converted {
                    edx: Pfn(0x1234),
                    gdt_entries: 513,
                    gdt_frames: vec![Pfn(7), Pfn(8)],
                    cr3: Pfn(0x156_789a),
                    cr1: if width == Width::W64 { 0x9001 } else { 0 },
                }
            );
            let again = Converted::read(width, &read.context(width));
            assert_eq!(again.as_ref(), Some(&read));
            assert_eq!(Converted::read(width, &context[1..]), None);
            put(&mut context, width, at.gdt_entries, u64::MAX);
            let read = Converted::read(width, &context).expect("the right length");
            assert_eq!(read.gdt_frames.len(), 14);
        }
    }
}
