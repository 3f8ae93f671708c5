// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metadata of a trace about its guest and its recording, as JSON in the first block.
//! Not here: anything that changes from round to round (`round`).
//! Units: `max_mfn` is a count of machine frames, `pfn_count` a count of pfns, `width` in bits.
//! Threads: plain values.
//! Source: own; keys as in the captures' META where both have them.

use p2mtrack::frame::Width;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Which structures of the p2m a trace holds frames of. The guest may publish more (see its roots).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// The page tables of the linear list.
    Linear,
    /// Top and mid frames of the 3-level tree.
    Tree,
    /// Both.
    Both,
}

/// The first block of a trace. Keys that this version does not know are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The trace's name.
    pub name: String,
    /// The guest's width; 32 or 64 in the file.
    #[serde(serialize_with = "write_width", deserialize_with = "read_width")]
    pub width: Width,
    /// Pfns of the guest when recording began.
    pub pfn_count: u64,
    /// Frames of the machine: one past the last mfn, despite the name.
    pub max_mfn: u64,
    /// The guest's kernel.
    #[serde(default)]
    pub kernel: String,
    /// The hypervisor.
    #[serde(default)]
    pub xen: String,
    /// Which structures the trace holds.
    pub flavour: Flavour,
    /// What the guest was doing.
    #[serde(default)]
    pub load: String,
    /// Rounds after the first copy that the recorder meant to make. The last block says how many
    /// there are.
    #[serde(default)]
    pub rounds: u64,
    /// The program that recorded.
    #[serde(default)]
    pub source: String,
}

fn write_width<S: Serializer>(width: &Width, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u32(width.bits())
}

pub(crate) fn read_width<'de, D: Deserializer<'de>>(from: D) -> Result<Width, D::Error> {
    match u64::deserialize(from)? {
        32 => Ok(Width::W32),
        64 => Ok(Width::W64),
        bits => Err(de::Error::custom(format_args!("width {bits} is neither 32 nor 64"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_ignored_and_missing_words_are_empty() {
        let text =
            r#"{"name":"n","width":32,"pfn_count":1,"max_mfn":2,"flavour":"both","later":[]}"#;
        let meta: Meta = serde_json::from_str(text).expect("parses");
        assert_eq!((meta.width, meta.flavour, meta.load.as_str()), (Width::W32, Flavour::Both, ""));
        let again: Meta =
            serde_json::from_str(&serde_json::to_string(&meta).expect("writes")).expect("parses");
        assert_eq!(again, meta);
    }

    #[test]
    fn other_widths_are_refused() {
        let text = r#"{"name":"n","width":16,"pfn_count":1,"max_mfn":2,"flavour":"tree"}"#;
        let error = serde_json::from_str::<Meta>(text).expect_err("16 bits");
        assert!(error.to_string().contains("width 16"));
    }
}
