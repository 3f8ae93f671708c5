// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is around a libxc stream: xl's header, libxl's header and records.
//! Not here: the numbers (`container`).
//! Units: offsets in bytes.
//! Threads: one.
//! Source: `tools/xl/xl_saverestore.c`, `xl_vmcontrol.c`; libxl `libxl_stream_read.c`.

use std::io::Read;

use crate::check::libxc::{Halt, Libxc};
use crate::check::rule::Rule;
use crate::container::{
    Format, LIBXL_HEADER_BYTES, LIBXL_IDENT, LIBXL_OPTION_CONVERTED, LIBXL_VERSION, LibxlHeader,
    LibxlRecord, XL_BYTE_ORDER, XL_FLAG_JSON, XL_FLAG_STREAM_V2, XL_HEADER_BYTES, XlHeader,
};
use crate::header::little;
use crate::reader::RecordHeader;
use crate::record::{BODY_BYTES_MAX, RecordKind};

/// Checks a stream in its container, and that nothing follows.
pub(super) fn check<R: Read>(check: &mut Libxc<'_, R>, format: Format) -> Result<(), Halt> {
    match format {
        Format::Libxc => {
            check.headers()?;
            while check.part()? != RecordKind::End {}
        }
        Format::Libxl => libxl(check)?,
        Format::Xl => {
            xl_header(check)?;
            libxl(check)?;
        }
    }
    let offset = check.reader.offset();
    let is_at_end = check.reader.is_at_end()?;
    let found = "there are bytes behind the last record";
    check.findings.expect(is_at_end, offset, Rule::AfterEnd, found);
    Ok(())
}

/// xl's header and optional data.
fn xl_header<R: Read>(check: &mut Libxc<'_, R>) -> Result<(), Halt> {
    let mut bytes = [0; XL_HEADER_BYTES];
    check.reader.fill("xl's header", &mut bytes)?;
    let header = XlHeader::decode(&bytes);
    let has_magic =
        check.findings.expect(header.has_magic, 0, Rule::XlMagic, "the file begins otherwise");
    let order = header.byte_order;
    let found = format_args!("the byte order is {order:#x}");
    let is_native = check.findings.expect(order == XL_BYTE_ORDER, 32, Rule::XlByteOrder, found);
    if !has_magic || !is_native {
        return Err(Halt::Lost);
    }
    let flags = header.mandatory_flags;
    let is_known = flags & !XL_FLAG_JSON == XL_FLAG_STREAM_V2;
    let found = format_args!("the mandatory flags are {flags:#x}");
    check.findings.expect(is_known, 36, Rule::XlFlags, found);
    xl_config(check, flags & XL_FLAG_JSON != 0, header.optional_bytes)
}

fn xl_config<R: Read>(check: &mut Libxc<'_, R>, has_json: bool, bytes: u32) -> Result<(), Halt> {
    let offset = check.reader.offset();
    let mut data = Vec::new();
    check.reader.body("xl's optional data", bytes as usize, &mut data)?;
    let json = data.split_at_checked(4).map(|(length, json)| (little(length), json));
    match json {
        Some((length, json)) if has_json && length <= json.len() as u64 => {
            // xl writes the NUL of the text, too.
            let json = &json[..length as usize];
            let json = json.strip_suffix(b"\0").unwrap_or(json);
            let parsed = serde_json::from_slice::<serde::de::IgnoredAny>(json);
            if let Err(cause) = parsed {
                let found = format_args!("the configuration is no JSON: {cause}");
                check.findings.add(offset, Rule::XlConfig, found);
            }
        }
        _ => {
            let found = format_args!("the optional data of {bytes} bytes has no configuration");
            check.findings.expect(!has_json, offset, Rule::XlConfig, found);
        }
    }
    Ok(())
}

/// libxl's header and records, with the libxc stream in them.
fn libxl<R: Read>(check: &mut Libxc<'_, R>) -> Result<(), Halt> {
    libxl_header(check)?;
    let mut context = None;
    loop {
        let offset = check.reader.offset();
        let record = libxl_record(check)?;
        let is_in_place = match record {
            None => continue,
            Some(LibxlRecord::LibxcContext) => {
                let is_first = context.is_none();
                if is_first {
                    check.headers()?;
                }
                is_first
            }
            Some(LibxlRecord::CheckpointEnd) => context == Some(RecordKind::Checkpoint),
            Some(_) => context == Some(RecordKind::End),
        };
        let name = record.map_or("", LibxlRecord::name);
        let found = match context {
            None => format!("{name} comes before LIBXC_CONTEXT"),
            Some(kind) => format!("{name} comes after {}", kind.name()),
        };
        if !check.findings.expect(is_in_place, offset, Rule::LibxlOrder, found) {
            return Err(Halt::Lost);
        }
        if record == Some(LibxlRecord::End) {
            return Ok(());
        }
        context = Some(check.part()?);
    }
}

fn libxl_header<R: Read>(check: &mut Libxc<'_, R>) -> Result<(), Halt> {
    let offset = check.reader.offset();
    let mut bytes = [0; LIBXL_HEADER_BYTES];
    check.reader.fill("libxl's header", &mut bytes)?;
    let LibxlHeader { ident, version, options } = LibxlHeader::decode(&bytes);
    let found = format_args!("the identification is {ident:#x}");
    let is_libxl = check.findings.expect(ident == LIBXL_IDENT, offset, Rule::LibxlIdent, found);
    let found = format_args!("the version is {version}");
    let is_known =
        check.findings.expect(version == LIBXL_VERSION, offset + 8, Rule::LibxlVersion, found);
    let found = format_args!("options are {options:#x}");
    let is_plain = options & !LIBXL_OPTION_CONVERTED == 0;
    check.findings.expect(is_plain, offset + 12, Rule::LibxlOptions, found);
    if is_libxl && is_known && options & 1 == 0 { Ok(()) } else { Err(Halt::Lost) }
}

/// One record of libxl's; `None` if it is none of a PV guest's.
fn libxl_record<R: Read>(check: &mut Libxc<'_, R>) -> Result<Option<LibxlRecord>, Halt> {
    let offset = check.reader.offset();
    let RecordHeader { number, length } = check.reader.record_header()?;
    let found = format_args!("a libxl record has {length:#x} bytes");
    if !check.findings.expect(length <= BODY_BYTES_MAX, offset, Rule::LibxlLength, found) {
        return Err(Halt::Lost);
    }
    let record = LibxlRecord::of(number);
    let is_of_pv = matches!(
        record,
        Some(LibxlRecord::End | LibxlRecord::LibxcContext | LibxlRecord::CheckpointEnd)
    );
    let name = record.map_or("unknown", LibxlRecord::name);
    let found = format_args!("a libxl record has the number {number:#x}, {name}");
    if check.findings.expect(is_of_pv, offset, Rule::LibxlRecord, found) {
        let found = format_args!("{name} has {length} bytes");
        check.findings.expect(length == 0, offset, Rule::LibxlLength, found);
    }
    check.reader.skip("a libxl record's body", length.into())?;
    let at = check.reader.offset();
    let is_zero = check.reader.padding(length)?;
    check.findings.expect(is_zero, at, Rule::Padding, "the padding of a record is not zeros");
    Ok(record.filter(|_| is_of_pv))
}
