// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes as people write them: 64GiB, 256MiB, 4TiB.
//! Not here: limits of what they are used for.
//! Units: bytes; binary suffixes only, as usual for memory.
//! Threads: pure.
//! Source: IEC 80000-13.

pub(crate) use p2mtrack_migrate::options::parse_size;
pub(crate) use p2mtrack_synthetic::options::size_in_words as in_words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_trip() {
        for (text, bytes) in
            [("64GiB", 64 << 30), ("4TiB", 4 << 40), ("256 MiB", 256 << 20), ("17", 17)]
        {
            assert_eq!(parse_size(text), Ok(bytes));
            assert_eq!(parse_size(&in_words(bytes).replace(' ', "")), Ok(bytes));
        }
        for bad in ["", "GiB", "-1", "1.5GiB", "64GB", "99999999999TiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
