// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules of a stream: their names, and what they demand.
//! Not here: how they are checked (the other files of `check`).
//! Units: offsets in bytes.
//! Threads: plain values.
//! Source: Xen `docs/specs/libx{c,l}-migration-stream.pandoc`; what libxc's receiver refuses
//! (`xg_sr_restore*.c`) or breaks on; Xen's `verify-stream-v2`. Names are an interface.

use std::fmt;

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The byte of the stream.
    pub offset: u64,
    /// The rule.
    pub rule: Rule,
    /// What was found.
    pub words: String,
}

macro_rules! rules {
    ($($rule:ident $name:literal $text:literal)*) => {
        /// A rule of the format.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Rule {
            $(#[doc = $text] $rule,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$rule,)*];

            /// Its name, which does not change.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$rule => $name,)* }
            }

            /// What it demands.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$rule => $text,)* }
            }
        }
    };
}

rules! {
    XlMagic "xl-magic"
        "A file of xl's begins with xl's 32 bytes."
    XlByteOrder "xl-byte-order"
        "The byte order in xl's header is 0x01020304."
    XlFlags "xl-flags"
        "xl's mandatory flags are 2 (a libxl stream), or 3 (with a configuration as JSON)."
    XlConfig "xl-config"
        "With flag 1, xl's optional data is a u32 length and that many bytes of JSON."
    LibxlIdent "libxl-ident"
        "A libxl stream begins with LibxlFmt."
    LibxlVersion "libxl-version"
        "The version of a libxl stream is 2."
    LibxlOptions "libxl-options"
        "A libxl stream is little-endian, and its other options but \"converted\" are 0."
    LibxlRecord "libxl-record"
        "A libxl record of a PV guest is LIBXC_CONTEXT, CHECKPOINT_END or END."
    LibxlLength "libxl-length"
        "A libxl record of a PV guest has no body."
    LibxlOrder "libxl-order"
        "libxl's records are LIBXC_CONTEXT, a CHECKPOINT_END after each CHECKPOINT, and END."
    ImageMarker "image-marker"
        "The image header begins with eight bytes of ones."
    ImageId "image-id"
        "The id in the image header is XENF."
    ImageVersion "image-version"
        "The version in the image header is 2 or 3."
    ImageOptions "image-options"
        "The image header's options are 0: little-endian."
    ImageReserved "image-reserved"
        "The image header's reserved fields are 0."
    DomainType "domain-type"
        "The domain header's type is 1: x86 PV."
    DomainPageShift "domain-page-shift"
        "The domain header's page shift is 12."
    DomainReserved "domain-reserved"
        "The domain header's reserved field is 0."
    Truncated "truncated"
        "The stream does not end before END, unless a CHECKPOINT was sent."
    AfterEnd "after-end"
        "No byte follows the last record."
    RecordKnown "record-known"
        "Each record is one that the format knows."
    RecordOptional "record-optional"
        "No record is optional: after a CHECKPOINT a stock receiver fails at one."
    RecordLength "record-length"
        "A record's body has at most 128 MiB."
    RecordPv "record-pv"
        "No record is one of HVM guests, of a back channel, or TOOLSTACK."
    RecordVersion "record-version"
        "X86_CPUID_POLICY, X86_MSR_POLICY and STATIC_DATA_END come only in version 3."
    Padding "padding"
        "A record is padded with zeros to a multiple of eight bytes."
    BodyLength "body-length"
        "A record's body is as long as its kind, and the counts in it, say."
    Reserved "reserved"
        "Reserved fields of a record are 0."
    PvInfoFirst "pv-info-first"
        "The first record is X86_PV_INFO, and there is no other one."
    PvInfoWidth "pv-info-width"
        "Width and levels of X86_PV_INFO are 8 and 4, or 4 and 3."
    StaticData "static-data"
        "In version 3 one STATIC_DATA_END comes after the policies and before all other records."
    ListRange "list-range"
        "X86_PV_P2M_FRAMES has its first pfn not after its last, and a word for each leaf."
    ListGap "list-gap"
        "X86_PV_P2M_FRAMES begins within, or right after, what was listed before."
    ListShrinks "list-shrinks"
        "A list from pfn 0 on does not end before what was listed before: a receiver can't shrink."
    ListPfn "list-pfn"
        "At END and CHECKPOINT each listed leaf is a pfn of data."
    ListTwice "list-twice"
        "At END and CHECKPOINT a leaf that is listed twice has no frame in any of its entries."
    PageCount "page-count"
        "PAGE_DATA has at least one word, and a page for each word that has data."
    WordReserved "word-reserved"
        "Bits 52 to 59 of a word are 0."
    WordType "word-type"
        "A word's type is none of 5 to 8, and no level that the guest's width does not have."
    WordBroken "word-broken"
        "No frame is broken: the page can't be had."
    WordTwice "word-twice"
        "A pfn has one word in a record."
    PfnBeyondList "pfn-beyond-list"
        "A pfn is listed before its first word: a leaf has its entry."
    PteBeyondList "pte-beyond-list"
        "A PTE names no pfn that is not yet listed: a stock receiver dies of it."
    PteXen "pte-xen"
        "The slots of a page table that are Xen's own are 0."
    PteSuperpage "pte-superpage"
        "No PTE is a superpage."
    PteFrame "pte-frame"
        "At END and CHECKPOINT each present PTE of a page table names a pfn with a frame."
    VerifyPlace "verify-place"
        "VERIFY comes once, after all pages, in a stream without CHECKPOINT."
    VerifyWord "verify-word"
        "A word after VERIFY is the pfn's last word before it."
    StateOrder "state-order"
        "After all pages come X86_TSC_INFO, SHARED_INFO, and the records of vCPUs."
    StateMissing "state-missing"
        "Before END and each CHECKPOINT come X86_TSC_INFO, SHARED_INFO, and vCPU 0's BASIC record."
    VcpuId "vcpu-id"
        "A vCPU's number is below 8,192, and the number in its EXTENDED context is the same."
    VcpuOrder "vcpu-order"
        "vCPUs come in ascending order, each with BASIC, EXTENDED, XSAVE, MSRS in this order."
    VcpuBasic "vcpu-basic"
        "A vCPU that has any record has a BASIC record."
    VcpuStartInfo "vcpu-start-info"
        "edx of vCPU 0 is a pfn of data: start_info."
    VcpuGdt "vcpu-gdt"
        "A vCPU's GDT has at most 7,168 entries, and its frames are pfns of data."
    VcpuCr3 "vcpu-cr3"
        "cr3 of a vCPU names a pfn that is a page table of the highest level."
    VcpuCr1 "vcpu-cr1"
        "Control register 1 of a vCPU is 0, or bit 0 and a pfn that is a level 4 page table."
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Counts what is broken, and hands it on.
pub(crate) struct Findings<'r> {
    report: &'r mut dyn FnMut(Broken),
    pub(crate) broken: u64,
}

impl<'r> Findings<'r> {
    pub(crate) fn new(report: &'r mut dyn FnMut(Broken)) -> Self {
        Self { report, broken: 0 }
    }

    /// The rule does not hold at this byte.
    pub(crate) fn add(&mut self, offset: u64, rule: Rule, words: impl fmt::Display) {
        self.broken += 1;
        (self.report)(Broken { offset, rule, words: words.to_string() });
    }

    /// The rule is broken unless `holds`.
    pub(crate) fn expect(
        &mut self,
        holds: bool,
        offset: u64,
        rule: Rule,
        words: impl fmt::Display,
    ) -> bool {
        if !holds {
            self.add(offset, rule, words);
        }
        holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct_words_of_small_letters() {
        let names: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
        assert_eq!(names.len(), Rule::ALL.len());
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte == b'-' || byte.is_ascii_digit();
        assert!(names.iter().all(|name| name.bytes().all(is_plain)));
        assert!(Rule::ALL.iter().all(|rule| rule.text().ends_with('.')));
    }
}
