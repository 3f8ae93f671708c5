// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every rule of the checker fires on a stream that breaks only it, in both widths.
//! Not here: streams of real guests (`stream_stock`).
//! Units: as in `sample_stream`.
//! Threads: one.
//! Source: the specification.

use p2mtrack::frame::Width;
use p2mtrack_stream::check::Rule;
use p2mtrack_stream::container::{Format, LibxlRecord};
use p2mtrack_stream::record::RecordKind as Kind;
use p2mtrack_stream::word::WordKind;
use p2mtrack_tests::sample_stream::{
    ABSENT, GDT, L1, L2, L3, L4, LEAVES, Record, START_INFO, Stream, USER, basic, checked,
    extended, libxl_record, page, page_data, parts, pfns, pte, registers, rules, table, vcpu,
};

const WIDTHS: [Width; 2] = [Width::W64, Width::W32];
const JSON: &[u8] = b"{\"c_info\":{\"type\":\"pv\"}}";

/// A stream that breaks a rule, in bytes.
type Case = (Rule, &'static str, fn(Width) -> Vec<u8>);

/// A good libxc stream with a change.
fn changed(width: Width, change: impl FnOnce(&mut Stream)) -> Vec<u8> {
    let mut stream = Stream::good(width);
    change(&mut stream);
    stream.libxc()
}

/// The same, at a byte of the whole.
fn poked(mut bytes: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    assert_ne!(bytes[at], byte);
    bytes[at] = byte;
    bytes
}

fn xl(width: Width, at: usize, byte: u8) -> Vec<u8> {
    poked(Stream::good(width).xl(JSON), at, byte)
}

fn libxl(width: Width, at: usize, byte: u8) -> Vec<u8> {
    poked(Stream::good(width).libxl(), at, byte)
}

fn libxc(width: Width, at: usize, byte: u8) -> Vec<u8> {
    poked(Stream::good(width).libxc(), at, byte)
}

/// More pages after the first ones.
fn more(width: Width, parts: &[(u64, WordKind, Vec<u8>)]) -> Vec<u8> {
    changed(width, |s| s.insert(Kind::TscInfo, page_data(parts)))
}

/// A change of vCPU 0's registers.
fn vcpu_0(width: Width, at: fn([usize; 4], usize) -> usize, word: u64) -> Vec<u8> {
    changed(width, |s| {
        let bytes = width.bits() as usize / 8;
        let at = 8 + at(registers(width), bytes);
        s.record(Kind::VcpuBasic).body[at..at + bytes]
            .copy_from_slice(&word.to_le_bytes()[..bytes]);
    })
}

/// A list of these leaves from `start` to `end`.
fn list(start: u32, end: u32, leaves: &[u64]) -> Record {
    let mut body = [start.to_le_bytes(), end.to_le_bytes()].concat();
    leaves.iter().for_each(|leaf| body.extend(leaf.to_le_bytes()));
    Record::new(Kind::P2mFrames, body)
}

fn pfns32(width: Width) -> u32 {
    pfns(width) as u32
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    (Rule::XlMagic, "xl", |w| xl(w, 9, b'X')),
    (Rule::XlByteOrder, "xl", |w| xl(w, 32, 1)),
    (Rule::XlFlags, "xl", |w| xl(w, 36, 7)),
    (Rule::XlFlags, "xl", |w| xl(w, 36, 1)),
    (Rule::XlConfig, "xl", |w| xl(w, 52, b'!')),
    (Rule::XlConfig, "xl", |w| xl(w, 51, 1)),
    (Rule::LibxlIdent, "libxl", |w| libxl(w, 0, b'X')),
    (Rule::LibxlVersion, "libxl", |w| libxl(w, 11, 1)),
    (Rule::LibxlOptions, "libxl", |w| libxl(w, 15, 4)),
    (Rule::LibxlOptions, "libxl", |w| libxl(w, 15, 1)),
    (Rule::LibxlRecord, "libxl", |w| {
        let mut bytes = Stream::good(w).libxl();
        bytes.splice(16..16, libxl_record(LibxlRecord::EmulatorContext));
        bytes
    }),
    (Rule::LibxlRecord, "libxl", |w| {
        let mut bytes = Stream::good(w).libxl();
        bytes.splice(16..16, [99, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }),
    (Rule::LibxlLength, "libxl", |w| {
        let mut bytes = Stream::good(w).libxl();
        let end = bytes.len() - 4;
        bytes.splice(end.., [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }),
    (Rule::LibxlOrder, "libxl", |w| {
        let mut bytes = Stream::good(w).libxl();
        bytes.splice(16..16, libxl_record(LibxlRecord::CheckpointEnd));
        bytes
    }),
    (Rule::LibxlOrder, "libxl", |w| {
        let mut bytes = Stream::good(w).libxl();
        let end = bytes.len() - 8;
        bytes.splice(end..end, libxl_record(LibxlRecord::CheckpointEnd));
        bytes
    }),
    (Rule::ImageMarker, "libxc", |w| libxc(w, 7, 0xfe)),
    (Rule::ImageId, "libxc", |w| libxc(w, 8, b'Y')),
    (Rule::ImageVersion, "libxc", |w| libxc(w, 15, 4)),
    (Rule::ImageVersion, "libxc", |w| libxc(w, 15, 1)),
    (Rule::ImageOptions, "libxc", |w| libxc(w, 17, 1)),
    (Rule::ImageOptions, "libxc", |w| libxc(w, 16, 1)),
    (Rule::ImageReserved, "libxc", |w| libxc(w, 18, 1)),
    (Rule::ImageReserved, "libxc", |w| libxc(w, 23, 1)),
    (Rule::DomainType, "libxc", |w| libxc(w, 24, 2)),
    (Rule::DomainPageShift, "libxc", |w| libxc(w, 28, 13)),
    (Rule::DomainReserved, "libxc", |w| libxc(w, 31, 1)),
    (Rule::Truncated, "libxc", |w| { let mut b = Stream::good(w).libxc(); b.pop(); b }),
    (Rule::Truncated, "libxc", |w| changed(w, |s| { s.remove(Kind::End); })),
    (Rule::Truncated, "libxc", |w| Stream::good(w).libxc()[..30].to_vec()),
    (Rule::Truncated, "libxl", |w| { let mut b = Stream::good(w).libxl(); b.truncate(b.len() - 8); b }),
    (Rule::Truncated, "libxc", |w| { // inside of the first CHECKPOINT
        let mut stream = Stream::remus(w);
        let at = stream.place(Kind::Checkpoint);
        stream.records.truncate(at + 1);
        stream.records[at].length = Some(8);
        stream.libxc()
    }),
    (Rule::AfterEnd, "libxc", |w| changed(w, |s| s.rest = vec![0])),
    (Rule::AfterEnd, "libxl", |w| { let mut b = Stream::good(w).libxl(); b.push(0); b }),
    (Rule::RecordKnown, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, Record { number: 0x13, ..Record::new(Kind::End, vec![1; 3]) });
    })),
    (Rule::RecordOptional, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, Record { number: 0x8000_0013, ..Record::new(Kind::End, vec![1; 3]) });
    })),
    (Rule::RecordLength, "libxc", |w| changed(w, |s| {
        s.record(Kind::TscInfo).length = Some((128 << 20) + 1);
    })),
    (Rule::RecordPv, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, Record::new(Kind::HvmContext, vec![1; 16]));
    })),
    (Rule::RecordPv, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, Record::new(Kind::Toolstack, vec![1; 16]));
    })),
    (Rule::RecordPv, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, Record::new(Kind::CheckpointDirtyPfnList, vec![]));
    })),
    (Rule::RecordVersion, "libxc", |w| libxc(w, 15, 2)),
    (Rule::Padding, "libxc", |w| changed(w, |s| {
        s.insert(Kind::VcpuXsave, vcpu(Kind::VcpuXsave, 2, &[0; 17]));
        s.remove(Kind::VcpuXsave);
        let at = s.place(Kind::VcpuXsave);
        s.records[at] = Record { pad: 1, ..vcpu(Kind::VcpuXsave, 2, &[0; 17]) };
    })),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.record(Kind::SharedInfo).body.truncate(4088))),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.record(Kind::TscInfo).body.extend([0; 8]))),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.record(Kind::CpuidPolicy).body.truncate(40))),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.record(Kind::CpuidPolicy).body.clear())),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.record(Kind::MsrPolicy).body.truncate(8))),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.record(Kind::StaticDataEnd).body.extend([0; 8]))),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.record(Kind::End).body.extend([0; 8]))),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.record(Kind::VcpuXsave).body.truncate(16))),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.record(Kind::VcpuMsrs).body.truncate(8))),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.record(Kind::VcpuExtended).body.extend([0; 8]))),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.record(Kind::VcpuBasic).body.truncate(2000))),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.insert(Kind::TscInfo, Record::new(Kind::PageData, vec![0; 4])))),
    (Rule::BodyLength, "libxc", |w| changed(w, |s| s.insert(Kind::TscInfo, Record::new(Kind::P2mFrames, vec![0; 4])))),
    (Rule::Reserved, "libxc", |w| changed(w, |s| s.record(Kind::PvInfo).body[7] = 1)),
    (Rule::Reserved, "libxc", |w| changed(w, |s| s.record(Kind::PageData).body[4] = 1)),
    (Rule::Reserved, "libxc", |w| changed(w, |s| s.record(Kind::TscInfo).body[20] = 1)),
    (Rule::Reserved, "libxc", |w| changed(w, |s| s.record(Kind::VcpuBasic).body[4] = 1)),
    (Rule::PvInfoFirst, "libxc", |w| changed(w, |s| {
        let info = s.record(Kind::PvInfo).clone();
        s.insert(Kind::TscInfo, info);
    })),
    (Rule::PvInfoFirst, "libxc", |w| changed(w, |s| {
        let policy = s.remove(Kind::CpuidPolicy);
        s.insert(Kind::PvInfo, policy);
    })),
    (Rule::PvInfoWidth, "libxc", |w| changed(w, |s| {
        s.insert(Kind::CpuidPolicy, Record::new(Kind::PvInfo, vec![8, 4, 0, 0, 0, 0, 0, 0]));
        s.remove(Kind::PvInfo);
        s.record(Kind::PvInfo).body[1] = 5;
        if w == Width::W32 {
            *s = Stream::good(Width::W64);
            s.record(Kind::PvInfo).body[0] = 4;
        }
    })),
    (Rule::StaticData, "libxc", |w| changed(w, |s| { s.remove(Kind::StaticDataEnd); })),
    (Rule::StaticData, "libxc", |w| changed(w, |s| {
        let end = s.record(Kind::StaticDataEnd).clone();
        s.insert(Kind::TscInfo, end);
    })),
    (Rule::StaticData, "libxc", |w| changed(w, |s| {
        let policy = s.remove(Kind::MsrPolicy);
        s.insert(Kind::P2mFrames, policy);
    })),
    (Rule::ListRange, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, list(2, 1, &LEAVES));
    })),
    (Rule::ListRange, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, list(0, pfns32(w) - 1, &LEAVES[..1]));
    })),
    (Rule::ListRange, "libxc", |w| changed(w, |s| {
        let length = s.record(Kind::P2mFrames).body.len() - 8;
        s.record(Kind::P2mFrames).body.truncate(length);
    })),
    (Rule::ListGap, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, list(2 * pfns32(w), 2 * pfns32(w), &LEAVES[..1]));
    })),
    (Rule::ListShrinks, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, list(0, pfns32(w) - 2, &LEAVES));
    })),
    (Rule::ListPfn, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, list(0, pfns32(w) - 1, &[LEAVES[0], ABSENT]));
    })),
    (Rule::ListPfn, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, list(0, pfns32(w) - 1, &[LEAVES[0], 1 << 40]));
    })),
    (Rule::ListTwice, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, list(0, pfns32(w) - 1, &[LEAVES[0]; 2]));
    })),
    (Rule::PageCount, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, Record::new(Kind::PageData, vec![0; 8]));
    })),
    (Rule::PageCount, "libxc", |w| changed(w, |s| {
        let mut record = page_data(&parts(w)[..1]);
        record.body[0] = 0xff;
        record.body[2] = 0xff;
        s.insert(Kind::TscInfo, record);
    })),
    (Rule::PageCount, "libxc", |w| changed(w, |s| s.record(Kind::PageData).body.truncate(9000))),
    (Rule::WordReserved, "libxc", |w| changed(w, |s| s.record(Kind::PageData).body[8 + 6] = 0x10)),
    (Rule::WordType, "libxc", |w| changed(w, |s| {
        let mut record = page_data(&[(20, WordKind::Absent, vec![])]);
        record.body[15] = 0x50;
        s.insert(Kind::TscInfo, record);
    })),
    (Rule::WordBroken, "libxc", |w| more(w, &[(20, WordKind::Broken, vec![])])),
    (Rule::WordTwice, "libxc", |w| more(w, &[
        (20, WordKind::Absent, vec![]), (21, WordKind::Absent, vec![]), (20, WordKind::Absent, vec![]),
    ])),
    (Rule::PfnBeyondList, "libxc", |w| more(w, &[(pfns(w), WordKind::Absent, vec![])])),
    (Rule::PfnBeyondList, "libxc", |w| changed(w, |s| {
        let list = s.remove(Kind::P2mFrames);
        s.insert(Kind::TscInfo, list);
        let first = page_data(&parts(w));
        s.insert(Kind::TscInfo, first);
    })),
    (Rule::PteBeyondList, "libxc", |w| more(w, &[
        (L1, table(1), page(&[(0, pte(START_INFO)), (7, pte(pfns(w)))])),
    ])),
    (Rule::PteXen, "libxc", |w| more(w, &[match w {
        Width::W64 => (L4, table(4), page(&[(511, pte(L3)), (256, 2)])),
        Width::W32 => (L3, table(3), page(&[(3, pte(L2)), (4, 2)])),
    }])),
    (Rule::PteXen, "libxc", |w| more(w, &[match w {
        Width::W64 => (L4, table(4), page(&[(511, pte(L3)), (271, pte(GDT))])),
        Width::W32 => (L3, table(3), page(&[(3, pte(L2)), (511, pte(GDT))])),
    }])),
    (Rule::PteSuperpage, "libxc", |w| more(w, &[
        (L2, table(2), page(&[(0, pte(L1)), (1, pte(GDT) | 0x80)])),
    ])),
    (Rule::PteFrame, "libxc", |w| more(w, &[(L1, table(1), page(&[(0, pte(ABSENT))]))])),
    (Rule::PteFrame, "libxc", |w| more(w, &[(L1, table(1), page(&[(511, pte(400))]))])),
    (Rule::PteFrame, "libxc", |w| more(w, &[(L1, WordKind::Absent, vec![])])),
    (Rule::VerifyPlace, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, Record::new(Kind::Verify, vec![]));
        s.insert(Kind::TscInfo, Record::new(Kind::Verify, vec![]));
    })),
    (Rule::VerifyPlace, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, Record::new(Kind::Verify, vec![]));
        let list = s.record(Kind::P2mFrames).clone();
        s.insert(Kind::TscInfo, list);
    })),
    (Rule::VerifyPlace, "libxc", |w| {
        let mut stream = Stream::remus(w);
        let at = stream.place(Kind::Checkpoint);
        stream.records.insert(at + 1, Record::new(Kind::Verify, vec![]));
        stream.libxc()
    }),
    (Rule::VerifyWord, "libxc", |w| changed(w, |s| {
        s.insert(Kind::TscInfo, Record::new(Kind::Verify, vec![]));
        s.insert(Kind::TscInfo, page_data(&[(ABSENT, WordKind::Data, page(&[]))]));
    })),
    (Rule::StateOrder, "libxc", |w| changed(w, |s| {
        let tsc = s.remove(Kind::TscInfo);
        s.insert(Kind::VcpuBasic, tsc);
    })),
    (Rule::StateOrder, "libxc", |w| changed(w, |s| {
        let shared = s.remove(Kind::SharedInfo);
        s.insert(Kind::End, shared);
    })),
    (Rule::StateOrder, "libxc", |w| changed(w, |s| {
        let again = s.record(Kind::SharedInfo).clone();
        s.insert(Kind::SharedInfo, again);
    })),
    (Rule::StateOrder, "libxc", |w| changed(w, |s| s.insert(Kind::End, page_data(&parts(w)[..1])))),
    (Rule::StateMissing, "libxc", |w| changed(w, |s| { s.remove(Kind::TscInfo); })),
    (Rule::StateMissing, "libxc", |w| changed(w, |s| { s.remove(Kind::SharedInfo); })),
    (Rule::StateMissing, "libxc", |w| changed(w, |s| {
        s.remove(Kind::VcpuBasic);
        s.remove(Kind::VcpuExtended);
    })),
    (Rule::StateMissing, "libxc", |w| {
        let mut stream = Stream::remus(w);
        stream.remove(Kind::TscInfo);
        stream.libxc()
    }),
    (Rule::VcpuId, "libxc", |w| changed(w, |s| {
        s.insert(Kind::End, vcpu(Kind::VcpuBasic, 8192, &basic(w)));
    })),
    (Rule::VcpuId, "libxc", |w| changed(w, |s| {
        s.record(Kind::VcpuExtended).body = vcpu(Kind::VcpuExtended, 0, &extended(2)).body;
    })),
    (Rule::VcpuOrder, "libxc", |w| changed(w, |s| {
        s.insert(Kind::End, vcpu(Kind::VcpuBasic, 1, &basic(w)));
    })),
    (Rule::VcpuOrder, "libxc", |w| changed(w, |s| {
        let msrs = s.remove(Kind::VcpuMsrs);
        s.insert(Kind::VcpuXsave, msrs);
    })),
    (Rule::VcpuOrder, "libxc", |w| changed(w, |s| {
        s.insert(Kind::VcpuXsave, vcpu(Kind::VcpuExtended, 2, &extended(2)));
    })),
    (Rule::VcpuBasic, "libxc", |w| changed(w, |s| {
        s.insert(Kind::End, vcpu(Kind::VcpuExtended, 3, &extended(3)));
    })),
    (Rule::VcpuStartInfo, "libxc", |w| vcpu_0(w, |at, _| at[0], ABSENT)),
    (Rule::VcpuStartInfo, "libxc", |w| vcpu_0(w, |at, _| at[0], L1)),
    (Rule::VcpuGdt, "libxc", |w| vcpu_0(w, |at, _| at[1], L1)),
    (Rule::VcpuGdt, "libxc", |w| vcpu_0(w, |at, _| at[2], 513)),
    (Rule::VcpuCr3, "libxc", |w| vcpu_0(w, |at, word| at[3] + 3 * word, L2 << 12)),
    (Rule::VcpuCr3, "libxc", |w| vcpu_0(w, |at, word| at[3] + 3 * word, 0)),
];

fn format(name: &str) -> Format {
    [Format::Libxc, Format::Libxl, Format::Xl]
        .into_iter()
        .find(|format| format.name() == name)
        .expect("a format")
}

#[test]
fn a_rule_fires_on_a_stream_that_breaks_only_it() {
    for width in WIDTHS {
        for (number, (rule, name, bytes)) in CASES.iter().enumerate() {
            let found = checked(&bytes(width), Some(format(name))).1;
            let rules: Vec<_> = found.iter().map(|found| found.rule).collect();
            assert!(
                !rules.is_empty() && rules.iter().all(|found| found == rule),
                "case {number}, {rule}, {width:?}: {found:#?}"
            );
        }
    }
}

#[test]
fn every_rule_has_a_case() {
    let only_64 = [Rule::VcpuCr1];
    for rule in Rule::ALL {
        let has_case = CASES.iter().any(|case| case.0 == *rule) || only_64.contains(rule);
        assert!(has_case, "{rule}");
    }
}

#[test]
fn what_only_one_width_can_break_is_found() {
    for cr1 in [USER << 12, L3 << 12 | 1, ABSENT << 12 | 1, 1] {
        let bytes = vcpu_0(Width::W64, |at, word| at[3] + word, cr1);
        assert_eq!(rules(&bytes, None), [Rule::VcpuCr1], "{cr1:#x}");
    }
    let none = vcpu_0(Width::W64, |at, word| at[3] + word, 0);
    assert_eq!(rules(&none, None), []);
    let level_4 = more(Width::W32, &[(20, table(4), page(&[]))]);
    assert_eq!(rules(&level_4, None), [Rule::WordType]);
    let entries = vcpu_0(Width::W64, |at, _| at[2], 7169);
    assert_eq!(rules(&entries, None), [Rule::VcpuGdt]);
}

#[test]
fn good_streams_break_nothing_in_any_container() {
    for width in WIDTHS {
        for stream in [Stream::good(width), Stream::remus(width)] {
            for (bytes, format) in [
                (stream.libxc(), Format::Libxc),
                (stream.libxl(), Format::Libxl),
                (stream.xl(JSON), Format::Xl),
                (stream.xl(&[JSON, b"\0"].concat()), Format::Xl),
            ] {
                let (summary, broken) = checked(&bytes, None);
                assert_eq!(broken, []);
                assert_eq!((summary.format, summary.version), (format, 3));
                let tables = if width == Width::W64 { 5 } else { 3 };
                assert_eq!((summary.pfns, summary.tables), (10, tables));
                let again = summary.checkpoints;
                assert_eq!(summary.pages, 9 + again);
                assert_eq!(summary.records, stream.records.len() as u64);
            }
        }
    }
}

#[test]
fn a_stream_of_version_2_needs_no_static_data_end() {
    for width in WIDTHS {
        let mut stream = Stream::good(width);
        stream.image[15] = 2;
        for kind in [Kind::CpuidPolicy, Kind::MsrPolicy, Kind::StaticDataEnd] {
            stream.remove(kind);
        }
        let (summary, broken) = checked(&stream.libxc(), None);
        assert_eq!((summary.version, broken), (2, vec![]));
    }
}

#[test]
fn after_a_checkpoint_a_stream_may_break_off_anywhere() {
    for width in WIDTHS {
        let mut stream = Stream::remus(width);
        let whole = stream.libxl();
        let at = stream.place(Kind::Checkpoint);
        stream.records.truncate(at + 1);
        let from = stream.libxl().len() - 16;
        for end in from..whole.len() {
            assert_eq!(rules(&whole[..end], None), [], "{end}");
        }
        assert_eq!(rules(&whole[..from - 1], None), [Rule::Truncated]);
    }
}

#[test]
fn a_hole_may_be_listed_twice() {
    for width in WIDTHS {
        // The third and the fourth leaf have no frames.
        let leaves = [LEAVES[0], LEAVES[1], LEAVES[1], LEAVES[1]];
        let twice = changed(width, |s| {
            s.insert(Kind::TscInfo, list(0, 2 * pfns32(width) - 1, &leaves));
        });
        assert_eq!(rules(&twice, None), []);
    }
}

#[test]
fn pages_after_verify_are_compared_and_not_noted() {
    for width in WIDTHS {
        let bytes = changed(width, |s| {
            s.insert(Kind::TscInfo, Record::new(Kind::Verify, vec![]));
            s.insert(Kind::TscInfo, page_data(&parts(width)));
        });
        let (summary, broken) = checked(&bytes, None);
        assert_eq!((summary.pages, broken), (18, vec![]));
    }
}

#[test]
fn a_table_whose_pfn_has_another_word_later_in_the_record_is_none() {
    for width in WIDTHS {
        let parts = [(20, table(1), page(&[(0, pte(ABSENT))])), (20, WordKind::Absent, vec![])];
        assert_eq!(rules(&more(width, &parts), None), [Rule::WordTwice]);
    }
}

/// A breach is told once, until what broke the rule is sent again; points do not cost more.
#[test]
fn many_points_do_not_repeat_what_is_broken() {
    let width = Width::W64;
    let mut stream = Stream::remus(width);
    let at = stream.place(Kind::Checkpoint);
    let leaves: Vec<u64> = (100_000..120_000).collect();
    let end = 512 * (2 + leaves.len() as u32) - 1;
    let all = [&LEAVES[..], &leaves].concat();
    stream.insert(Kind::TscInfo, list(0, end, &all));
    stream.insert(Kind::TscInfo, page_data(&[(L1, table(1), page(&[(0, pte(ABSENT))]))]));
    let point = Record::new(Kind::Checkpoint, vec![]);
    stream.records.splice(at + 3..at + 3, std::iter::repeat_n(point, 50_000));
    let found = checked(&stream.libxc(), None).1;
    let of = |rule| found.iter().filter(|found| found.rule == rule).count();
    assert_eq!((of(Rule::ListPfn), of(Rule::PteFrame)), (leaves.len(), 1));
}

#[test]
fn a_frame_that_is_lost_between_two_points_is_missed_by_its_table() {
    for width in WIDTHS {
        let mut stream = Stream::remus(width);
        let at = stream.place(Kind::Checkpoint);
        stream.records.insert(at + 1, page_data(&[(GDT, WordKind::Absent, vec![])]));
        let found = checked(&stream.libxc(), None).1;
        let rules: Vec<_> = found.iter().map(|found| found.rule).collect();
        assert!(rules.contains(&Rule::PteFrame) && rules.contains(&Rule::VcpuGdt), "{found:#?}");
        // A leaf, too.
        let mut stream = Stream::remus(width);
        stream.records.insert(at + 1, page_data(&[(LEAVES[1], WordKind::Absent, vec![])]));
        assert_eq!(self::rules(&stream.libxc(), None), [Rule::ListPfn]);
    }
}

#[test]
fn offsets_are_those_of_the_fault() {
    let width = Width::W64;
    let bytes = more(width, &[(20, WordKind::Absent, vec![]), (20, WordKind::Absent, vec![])]);
    let found = checked(&bytes, None).1;
    // 8 bytes of header, 8 of count: the second word.
    let record = 40 + Stream::good(width).bodies()[..6].concat().len() as u64;
    assert_eq!(found[0].offset, record + 24);
    let bytes = more(width, &[(L1, table(1), page(&[(9, pte(ABSENT))]))]);
    let found = checked(&bytes, None).1;
    assert_eq!(found[0].offset, record + 24 + 72);
    assert!(found[0].words.contains("slot 9"), "{}", found[0].words);
}
