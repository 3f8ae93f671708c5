// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands around the libxc stream: xl's header with the guest's configuration, libxl's header
//! and records.
//! Not here: their layout (`p2mtrack_stream::container`).
//! Units: bytes.
//! Threads: plain values.
//! Source: `xen-migrate.md` 1.3; libxl's record of a domain is `libxl-json` of its userdata, as of
//! its creation. What changed since (name, memory, devices), `xl list -l` has.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use p2mtrack_migrate::source::Source;
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

/// A guest's configuration as JSON, and the memory target that its receiver goes by.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) json: Option<String>,
    pub(super) target_kib: Option<u64>,
}

impl Config {
    fn new(config: &Map<String, Value>, json: String) -> Self {
        let memory = |key| config.get("b_info").and_then(|info| info.get(key));
        let target = memory("target_memkb").or_else(|| memory("max_memkb"));
        Self { target_kib: target.and_then(Value::as_u64), json: Some(json) }
    }
}

/// The configuration that was named. libxl's own files end with a NUL.
pub(super) fn named(path: &Path) -> Result<Config, Failure> {
    let file = File::open(path).map_err(Failure::file(path))?;
    if !file.metadata().map_err(Failure::file(path))?.is_file() {
        return Err(Failure::file(path)("it is no regular file"));
    }
    let text = io::read_to_string(file).map_err(Failure::file(path))?;
    let text = text.trim_end_matches('\0');
    let config = parse(text).map_err(Failure::file(path))?;
    Ok(Config::new(&config, text.to_owned()))
}

/// The domain's configuration, if the format has one: what `xl list -l` prints, which is what
/// `xl save` takes; else libxl's record of its creation, with its present name and target.
pub(super) fn of_domain(format: Format, source: &Source) -> Result<Config, Failure> {
    let none = Config { json: None, target_kib: source.target_kib() };
    if format != Format::Xl {
        return Ok(none);
    }
    if let Some(config) = by_xl(source.domain().domid()) {
        let json = Value::Object(config.clone()).to_string();
        return Ok(Config::new(&config, json));
    }
    note(
        "xl list -l does not print the configuration: what libxl noted when the domain was created \
         is taken, with devices that were detached since; --config FILE takes another",
    );
    let path = record_of(source.domain());
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            note(&format!(
                "{}: there is none, and no --config: xl restore will need a configuration",
                path.display()
            ));
            return Ok(none);
        }
        Err(error) => return Err(Failure::file(&path)(error)),
    };
    let config = parse(text.trim_end_matches('\0')).map_err(Failure::file(&path))?;
    let config = at_present(config, source.name(), source.target_kib());
    let json = Value::Object(config.clone()).to_string();
    Ok(Config::new(&config, json))
}

/// What `xl list -l` says of a domain.
fn by_xl(domid: u16) -> Option<Map<String, Value>> {
    let mut xl = Command::new("xl");
    xl.args(["list", "-l", &domid.to_string()]).stdin(Stdio::null()).process_group(0);
    let output = xl.output().ok().filter(|output| output.status.success())?;
    config_in(&output.stdout, domid)
}

fn config_in(listed: &[u8], domid: u16) -> Option<Map<String, Value>> {
    let listed: Value = serde_json::from_slice(listed).ok()?;
    let domains = listed.as_array().map_or(std::slice::from_ref(&listed), Vec::as_slice);
    let [domain] = domains else { return None };
    let is_it = domain.get("domid").and_then(Value::as_u64) == Some(domid.into());
    if is_it { domain.get("config")?.as_object().cloned() } else { None }
}

fn record_of(domain: &Domain) -> PathBuf {
    let name = format!("userdata-d.{}.{}.libxl-json", domain.domid(), domain.uuid());
    Path::new(USERDATA).join(name)
}

fn parse(text: &str) -> Result<Map<String, Value>, serde_json::Error> {
    serde_json::from_str(text)
}

/// The guest may have another name now than when it was created, and more memory or less.
fn at_present(
    mut config: Map<String, Value>,
    name: Option<&str>,
    target_kib: Option<u64>,
) -> Map<String, Value> {
    let created = config.get_mut("c_info").and_then(Value::as_object_mut);
    if let (Some(name), Some(created)) = (name, created) {
        created.insert("name".to_owned(), name.into());
    }
    let built = config.get_mut("b_info").and_then(Value::as_object_mut);
    if let (Some(target), Some(built)) = (target_kib, built) {
        built.insert("target_memkb".to_owned(), target.into());
        let most = built.get("max_memkb").and_then(Value::as_u64);
        if most.is_some_and(|most| most < target) {
            built.insert("max_memkb".to_owned(), target.into());
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
    fn the_present_name_and_target_are_put_in() {
        let with = |text, name, target| {
            let config = parse(text).expect("JSON");
            Value::Object(at_present(config, name, target)).to_string()
        };
        let text = r#"{"c_info":{"name":"g"},"b_info":{"max_memkb":100,"target_memkb":100}}"#;
        assert_eq!(with(text, None, None), text);
        let less = text.replace(r#"target_memkb":100"#, r#"target_memkb":90"#);
        assert_eq!(with(text, None, Some(90)), less);
        assert_eq!(
            with(text, Some("h"), Some(130)),
            text.replace("100", "130").replace("\"g\"", "\"h\"")
        );
        assert_eq!(with("{}", Some("h"), Some(90)), "{}");
    }

    #[test]
    fn a_listed_domain_has_its_configuration() {
        let config = |listed: &str| config_in(listed.as_bytes(), 7).map(Value::Object);
        let listed = r#"[{"domid":7,"config":{"c_info":{"name":"g"}}}]"#;
        assert_eq!(config(listed), Some(serde_json::json!({"c_info": {"name": "g"}})));
        assert_eq!(config(&listed[1..listed.len() - 1]), config(listed));
        for other in ["", "[]", "7", r#"[{"domid":8,"config":{}}]"#, r#"[{"domid":7}]"#] {
            assert_eq!(config(other), None, "{other}");
        }
    }

    #[test]
    fn a_configuration_says_what_its_receiver_may_hold() {
        let target = |text| Config::new(&parse(text).expect("JSON"), String::new()).target_kib;
        assert_eq!(target(r#"{"b_info":{"max_memkb":100,"target_memkb":90}}"#), Some(90));
        assert_eq!(target(r#"{"b_info":{"max_memkb":100}}"#), Some(100));
        assert_eq!(target("{}"), None);
    }

    #[test]
    fn a_named_file_is_taken_as_it_is_but_for_the_nul_behind_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config");
        let write = |bytes: &[u8]| fs::write(&path, bytes).expect("written");
        write(b"{\"b_info\": {}}\0");
        let json = named(&path).expect("JSON").json;
        assert_eq!(json.as_deref(), Some("{\"b_info\": {}}"));
        for bad in [&b"[]"[..], b"{}\0{}", b"", b"\xff"] {
            write(bad);
            assert!(named(&path).is_err(), "{bad:?}");
        }
        assert!(named(dir.path()).is_err());
    }
}
