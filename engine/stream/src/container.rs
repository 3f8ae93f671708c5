// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a libxc stream comes in: nothing, libxl's stream, or a file of xl's around that.
//! Not here: whether it is right (`check`).
//! Units: libxl's header is big-endian; its records, and xl's header, are of the machine: little.
//! Threads: plain values.
//! Source: Xen `docs/specs/libxl-migration-stream.pandoc`; `tools/xl/xl.h`, `struct
//! save_file_header`.

use std::fmt;

use crate::header::{MARKER, big, little};

/// The format of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A libxc stream by itself.
    Libxc,
    /// A libxc stream in libxl's.
    Libxl,
    /// libxl's stream in a file of xl's, as `xl save` writes it and `xl migrate` sends it.
    Xl,
}

impl Format {
    /// The format by the first eight bytes.
    #[must_use]
    pub fn of(bytes: [u8; 8]) -> Option<Self> {
        match bytes {
            _ if bytes == XL_MAGIC[..8] => Some(Self::Xl),
            _ if bytes == LIBXL_IDENT.to_be_bytes() => Some(Self::Libxl),
            _ if bytes == MARKER.to_be_bytes() => Some(Self::Libxc),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Libxc => "libxc",
            Self::Libxl => "libxl",
            Self::Xl => "xl",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first bytes of a file of xl's.
pub const XL_MAGIC: &[u8; 32] = b"Xen saved domain, xl format\n \0 \r";
/// Bytes of xl's header.
pub const XL_HEADER_BYTES: usize = 48;
/// The number that shows the byte order.
pub const XL_BYTE_ORDER: u32 = 0x0102_0304;
/// Mandatory flag: a configuration as JSON is in the optional data.
pub const XL_FLAG_JSON: u32 = 1;
/// Mandatory flag: a libxl stream of version 2 follows.
pub const XL_FLAG_STREAM_V2: u32 = 2;

/// xl's header, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XlHeader {
    /// Whether it begins with [`XL_MAGIC`].
    pub has_magic: bool,
    /// [`XL_BYTE_ORDER`].
    pub byte_order: u32,
    /// [`XL_FLAG_STREAM_V2`], perhaps with [`XL_FLAG_JSON`].
    pub mandatory_flags: u32,
    /// Flags that a reader may ignore.
    pub optional_flags: u32,
    /// Bytes of the optional data, which follow.
    pub optional_bytes: u32,
}

impl XlHeader {
    /// Reads the fields.
    #[must_use]
    pub fn decode(bytes: &[u8; XL_HEADER_BYTES]) -> Self {
        let number = |at: usize| little(&bytes[at..at + 4]) as u32;
        Self {
            has_magic: bytes[..32] == XL_MAGIC[..],
            byte_order: number(32),
            mandatory_flags: number(36),
            optional_flags: number(40),
            optional_bytes: number(44),
        }
    }

    /// The header of a file with a configuration of `json_bytes` bytes, if it has one.
    #[must_use]
    pub fn encode(json_bytes: Option<u32>) -> [u8; XL_HEADER_BYTES] {
        let flags = XL_FLAG_STREAM_V2 | if json_bytes.is_some() { XL_FLAG_JSON } else { 0 };
        let optional_bytes = json_bytes.map_or(0, |bytes| bytes + 4);
        let mut bytes = [0; XL_HEADER_BYTES];
        bytes[..32].copy_from_slice(XL_MAGIC);
        let numbers = [XL_BYTE_ORDER, flags, 0, optional_bytes];
        for (into, number) in bytes[32..].chunks_exact_mut(4).zip(numbers) {
            into.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }
}

/// "LibxlFmt".
pub const LIBXL_IDENT: u64 = u64::from_be_bytes(*b"LibxlFmt");
/// Bytes of libxl's header.
pub const LIBXL_HEADER_BYTES: usize = 16;
/// The version of a libxl stream.
pub const LIBXL_VERSION: u32 = 2;
/// Option: converted from a legacy stream.
pub const LIBXL_OPTION_CONVERTED: u32 = 2;

/// libxl's header, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LibxlHeader {
    /// [`LIBXL_IDENT`].
    pub ident: u64,
    /// [`LIBXL_VERSION`].
    pub version: u32,
    /// Bit 0: big-endian; [`LIBXL_OPTION_CONVERTED`].
    pub options: u32,
}

impl LibxlHeader {
    /// The header of a stream that is written.
    pub const WRITTEN: Self = Self { ident: LIBXL_IDENT, version: LIBXL_VERSION, options: 0 };

    /// Reads the fields.
    #[must_use]
    pub fn decode(bytes: &[u8; LIBXL_HEADER_BYTES]) -> Self {
        Self {
            ident: big(&bytes[..8]),
            version: big(&bytes[8..12]) as u32,
            options: big(&bytes[12..16]) as u32,
        }
    }

    /// Writes the fields.
    #[must_use]
    pub fn encode(&self) -> [u8; LIBXL_HEADER_BYTES] {
        let mut bytes = [0; LIBXL_HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.ident.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.version.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.options.to_be_bytes());
        bytes
    }
}

/// Records of libxl's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LibxlRecord {
    /// The stream is complete.
    End = 0,
    /// A libxc stream follows, with its own headers.
    LibxcContext = 1,
    /// HVM only.
    EmulatorXenstoreData = 2,
    /// HVM only.
    EmulatorContext = 3,
    /// libxl has nothing to add to a CHECKPOINT; the libxc stream goes on.
    CheckpointEnd = 4,
    /// COLO only.
    CheckpointState = 5,
}

impl LibxlRecord {
    const ALL: [Self; 6] = [
        Self::End,
        Self::LibxcContext,
        Self::EmulatorXenstoreData,
        Self::EmulatorContext,
        Self::CheckpointEnd,
        Self::CheckpointState,
    ];

    /// The record with this number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The specification's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::End => "END",
            Self::LibxcContext => "LIBXC_CONTEXT",
            Self::EmulatorXenstoreData => "EMULATOR_XENSTORE_DATA",
            Self::EmulatorContext => "EMULATOR_CONTEXT",
            Self::CheckpointEnd => "CHECKPOINT_END",
            Self::CheckpointState => "CHECKPOINT_STATE",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        let header = LibxlHeader { options: 2, ..LibxlHeader::WRITTEN };
        assert_eq!(LibxlHeader::decode(&header.encode()), header);
        for (json, flags, bytes) in [(None, 2, 0), (Some(10), 3, 14)] {
            let header = XlHeader::decode(&XlHeader::encode(json));
            assert!(header.has_magic && header.byte_order == XL_BYTE_ORDER);
            assert_eq!((header.mandatory_flags, header.optional_bytes), (flags, bytes));
        }
    }

    #[test]
    fn a_format_is_known_by_its_first_bytes() {
        let first = |bytes: &[u8]| Format::of(bytes[..8].try_into().expect("eight bytes"));
        assert_eq!(first(XL_MAGIC), Some(Format::Xl));
        assert_eq!(first(&LibxlHeader::WRITTEN.encode()), Some(Format::Libxl));
        assert_eq!(first(&crate::header::ImageHeader::WRITTEN.encode()), Some(Format::Libxc));
        assert_eq!(first(b"P2MTRACE"), None);
    }

    #[test]
    fn a_record_is_found_by_its_number() {
        for kind in LibxlRecord::ALL {
            assert_eq!(LibxlRecord::of(kind as u32), Some(kind));
        }
        assert_eq!(LibxlRecord::of(6), None);
    }
}
