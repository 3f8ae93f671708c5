// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two headers at the start of a libxc stream.
//! Not here: headers of its containers (`container`), or whether a header is right (`check`).
//! Units: the image header is big-endian, the domain header little-endian.
//! Threads: plain values.
//! Source: Xen `docs/specs/libxc-migration-stream.pandoc`, "Headers".

/// Bytes of the image header.
pub const IMAGE_HEADER_BYTES: usize = 24;
/// Bytes of the domain header.
pub const DOMAIN_HEADER_BYTES: usize = 16;
/// The first eight bytes.
pub const MARKER: u64 = u64::MAX;
/// "XENF".
pub const ID: u32 = 0x5845_4e46;
/// The version that is written.
pub const VERSION: u32 = 3;
/// The versions that are read.
pub const VERSIONS: [u32; 2] = [2, 3];
/// Bit 0 of the image header's options: records are big-endian.
pub const OPTION_BIG_ENDIAN: u16 = 1;
/// The domain type of a PV guest.
pub const TYPE_PV: u32 = 1;
/// Pages of 4 KiB.
pub const PAGE_SHIFT: u16 = 12;

/// The image header, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// [`MARKER`].
    pub marker: u64,
    /// [`ID`].
    pub id: u32,
    /// One of [`VERSIONS`].
    pub version: u32,
    /// Only [`OPTION_BIG_ENDIAN`] has a meaning.
    pub options: u16,
    /// Two reserved fields, one after the other: zero.
    pub reserved: u64,
}

/// The domain header, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainHeader {
    /// [`TYPE_PV`].
    pub domain_type: u32,
    /// [`PAGE_SHIFT`].
    pub page_shift: u16,
    /// Zero.
    pub reserved: u16,
    /// Version of the source's Xen: major and minor number.
    pub xen: (u32, u32),
}

/// The number of up to eight bytes, the most significant one first.
pub(crate) fn big(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The number of up to eight bytes, the least significant one first.
pub(crate) fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

impl ImageHeader {
    /// The header of a stream that is written.
    pub const WRITTEN: Self =
        Self { marker: MARKER, id: ID, version: VERSION, options: 0, reserved: 0 };

    /// Reads the fields.
    #[must_use]
    pub fn decode(bytes: &[u8; IMAGE_HEADER_BYTES]) -> Self {
        Self {
            marker: big(&bytes[..8]),
            id: big(&bytes[8..12]) as u32,
            version: big(&bytes[12..16]) as u32,
            options: big(&bytes[16..18]) as u16,
            reserved: big(&bytes[18..24]),
        }
    }

    /// Writes the fields.
    #[must_use]
    pub fn encode(&self) -> [u8; IMAGE_HEADER_BYTES] {
        let mut bytes = [0; IMAGE_HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.marker.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.id.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.version.to_be_bytes());
        bytes[16..18].copy_from_slice(&self.options.to_be_bytes());
        bytes[18..24].copy_from_slice(&self.reserved.to_be_bytes()[2..]);
        bytes
    }
}

impl DomainHeader {
    /// The header of a PV guest on this version of Xen.
    #[must_use]
    pub const fn pv(xen: (u32, u32)) -> Self {
        Self { domain_type: TYPE_PV, page_shift: PAGE_SHIFT, reserved: 0, xen }
    }

    /// Reads the fields.
    #[must_use]
    pub fn decode(bytes: &[u8; DOMAIN_HEADER_BYTES]) -> Self {
        Self {
            domain_type: little(&bytes[..4]) as u32,
            page_shift: little(&bytes[4..6]) as u16,
            reserved: little(&bytes[6..8]) as u16,
            xen: (little(&bytes[8..12]) as u32, little(&bytes[12..16]) as u32),
        }
    }

    /// Writes the fields.
    #[must_use]
    pub fn encode(&self) -> [u8; DOMAIN_HEADER_BYTES] {
        let mut bytes = [0; DOMAIN_HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.domain_type.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.page_shift.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.reserved.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.xen.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.xen.1.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        let image = ImageHeader { options: 1, reserved: 0x1234_5678_9abc, ..ImageHeader::WRITTEN };
        assert_eq!(ImageHeader::decode(&image.encode()), image);
        assert_eq!(&ImageHeader::WRITTEN.encode()[6..17], b"\xff\xffXENF\0\0\0\x03\0");
        let domain = DomainHeader { reserved: 0x102, ..DomainHeader::pv((4, 17)) };
        assert_eq!(DomainHeader::decode(&domain.encode()), domain);
        let bytes = b"\x01\0\0\0\x0c\0\0\0\x04\0\0\0\x11\0\0\0";
        assert_eq!(DomainHeader::pv((4, 17)).encode(), *bytes);
    }
}
