// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands around the libxc stream: xl's header with the guest's configuration, libxl's header
//! and records.
//! Not here: their layout (`p2mtrack_stream::container`).
//! Units: bytes.
//! Threads: plain values.
//! Source: `xen-migrate.md` 1.3; libxl's record of a domain is `libxl-json` of its userdata. The
//! target in that record is the one of its creation: libxl puts in the present one, too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use p2mtrack_stream::container::{Format, LibxlHeader, LibxlRecord, XlHeader};
use p2mtrack_xen::Domain;
use serde_json::{Map, Value};

use crate::failure::{Failure, note};

/// Where libxl keeps its records of domains.
const USERDATA: &str = "/var/lib/xen";

/// What stands before and behind the libxc stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) before: Vec<u8>,
    pub(super) behind: Vec<u8>,
}

/// A libxl record without a body.
fn record(kind: LibxlRecord) -> impl Iterator<Item = u8> {
    [kind as u32, 0].into_iter().flat_map(u32::to_le_bytes)
}

impl Container {
    /// Of this format, with a configuration as JSON if there is one.
    pub(super) fn new(format: Format, config: Option<&str>) -> io::Result<Self> {
        let mut before = Vec::new();
        if format == Format::Xl {
            // With the NUL behind it: xl reads it as a string of C's.
            let config = config.map(|config| [config.as_bytes(), b"\0"].concat());
            let length = config.as_ref().map(|config| u32::try_from(config.len())).transpose();
            let length = length.map_err(|_| io::ErrorKind::InvalidData)?;
            before.extend(XlHeader::encode(length));
            if let (Some(config), Some(length)) = (config, length) {
                before.extend(length.to_le_bytes());
                before.extend(config);
            }
        }
        let mut behind = Vec::new();
        if format != Format::Libxc {
            before.extend(LibxlHeader::WRITTEN.encode());
            before.extend(record(LibxlRecord::LibxcContext));
            behind.extend(record(LibxlRecord::End));
        }
        Ok(Self { before, behind })
    }
}

/// A guest's configuration as JSON, and the memory target in it.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) json: Option<String>,
    pub(super) target_kib: Option<u64>,
}

/// The configuration that was named.
pub(super) fn named(path: &Path) -> Result<Config, Failure> {
    let text = fs::read_to_string(path).map_err(Failure::file(path))?;
    if text.contains('\0') {
        return Err(Failure::file(path)("it is no JSON: it has a NUL"));
    }
    let config = parse(&text).map_err(Failure::file(path))?;
    let target = config.get("b_info").and_then(|info| info.get("target_memkb"));
    Ok(Config { target_kib: target.and_then(Value::as_u64), json: Some(text) })
}

/// libxl's record of a domain with the present memory target, if the format has a configuration.
pub(super) fn of_domain(
    format: Format,
    domain: &Domain,
    target_kib: Option<u64>,
) -> Result<Config, Failure> {
    let json = if format == Format::Xl { record_json(domain, target_kib)? } else { None };
    Ok(Config { json, target_kib })
}

fn record_json(domain: &Domain, target_kib: Option<u64>) -> Result<Option<String>, Failure> {
    let path = record_of(domain);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let config = parse(text.trim_end_matches('\0')).map_err(Failure::file(&path))?;
            Ok(Some(Value::Object(with_target(config, target_kib)).to_string()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            note(&format!(
                "{}: there is none, and no --config: xl restore will need a configuration",
                path.display()
            ));
            Ok(None)
        }
        Err(error) => Err(Failure::file(&path)(error)),
    }
}

fn record_of(domain: &Domain) -> PathBuf {
    let name = format!("userdata-d.{}.{}.libxl-json", domain.domid(), domain.uuid());
    Path::new(USERDATA).join(name)
}

fn parse(text: &str) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_str(text)
}

/// The guest may hold more or less now than when it was created.
fn with_target(mut config: Map<String, Value>, target_kib: Option<u64>) -> Map<String, Value> {
    let info = config.get_mut("b_info").and_then(Value::as_object_mut);
    if let (Some(target), Some(info)) = (target_kib, info) {
        info.insert("target_memkb".to_owned(), target.into());
        let most = info.get("max_memkb").and_then(Value::as_u64);
        if most.is_some_and(|most| most < target) {
            info.insert("max_memkb".to_owned(), target.into());
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_has_its_headers_and_ends() {
        let bare = Container::new(Format::Libxc, None).expect("made");
        assert_eq!(bare, Container { before: vec![], behind: vec![] });
        let libxl = Container::new(Format::Libxl, None).expect("made");
        assert_eq!((libxl.before.len(), libxl.behind.len()), (24, 8));
        let xl = Container::new(Format::Xl, Some("{}")).expect("made");
        assert_eq!(xl.before.len(), 48 + 4 + 3 + 24);
        assert_eq!(xl.before[48..55], *b"\x03\0\0\0{}\0");
        let without = Container::new(Format::Xl, None).expect("made");
        assert_eq!((without.before.len(), without.behind), (48 + 24, libxl.behind));
    }

    #[test]
    fn the_present_target_is_put_in() {
        let config = |text| parse(text).expect("JSON");
        let with = |text, target| Value::Object(with_target(config(text), target)).to_string();
        let text = r#"{"c_info":{"name":"g"},"b_info":{"max_memkb":100,"target_memkb":100}}"#;
        assert_eq!(with(text, None), text);
        assert_eq!(
            with(text, Some(90)),
            text.replace(r#"target_memkb":100"#, r#"target_memkb":90"#)
        );
        assert_eq!(with(text, Some(130)), text.replace("100", "130"));
        assert_eq!(with("{}", Some(90)), "{}");
    }
}
