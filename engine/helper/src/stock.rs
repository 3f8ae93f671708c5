// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the stock helper is.
//! Not here: how it is started.
//! Units: paths.
//! Threads: plain values.
//! Source: `LIBEXEC_BIN` of Xen's build, Debian's and Fedora's packages; dpkg-divert(1).

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// Names the stock helper.
pub const VARIABLE: &str = "P2MTRACK_STOCK_HELPER";
/// Its name.
const NAME: &str = "libxl-save-helper";
/// What dpkg-divert adds to a name.
const DIVERTED: &str = ".distrib";
/// Where it is if Xen was built from its sources, or by a distribution.
const DIRECTORIES: [&str; 6] = [
    "/usr/lib/xen/bin",
    "/usr/libexec/xen/bin",
    "/usr/lib64/xen/bin",
    "/usr/local/lib/xen/bin",
    "/usr/local/libexec/xen/bin",
    "/usr/local/lib64/xen/bin",
];

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// What the environment names: then nothing else is looked at.
    pub named: Option<OsString>,
    /// How this program was started, and where it is.
    pub ours: Vec<PathBuf>,
    /// The running Xen, if it answers.
    pub xen: Option<(u32, u32)>,
}

impl Places {
    /// Of this process, which was started as `argument`.
    #[must_use]
    pub fn of_this_process(argument: Option<&OsString>, xen: Option<(u32, u32)>) -> Self {
        let started = argument.map(PathBuf::from).filter(|path| path.components().count() > 1);
        let ours = started.into_iter().chain(env::current_exe()).collect();
        Self { named: env::var_os(VARIABLE).filter(|name| !name.is_empty()), ours, xen }
    }

    /// The places in the order in which they are looked at.
    fn paths(&self) -> Vec<PathBuf> {
        if let Some(named) = &self.named {
            return vec![named.into()];
        }
        let diverted = self.ours.iter().flat_map(|path| {
            let beside = path.with_file_name(format!("{NAME}{DIVERTED}"));
            let mut itself = path.clone().into_os_string();
            itself.push(DIVERTED);
            [itself.into(), beside]
        });
        let of_xen = self.xen.map(|(major, minor)| format!("/usr/lib/xen-{major}.{minor}/bin"));
        let usual = of_xen.iter().map(String::as_str).chain(DIRECTORIES);
        diverted.chain(usual.map(|directory| Path::new(directory).join(NAME))).collect()
    }

    /// The first of them that is a program, and not this one.
    ///
    /// # Errors
    /// There is none: words for people.
    pub fn find(&self) -> Result<PathBuf, String> {
        let ourselves = fs::metadata("/proc/self/exe").map(|file| (file.dev(), file.ino())).ok();
        self.find_but(ourselves)
    }

    fn find_but(&self, ourselves: Option<(u64, u64)>) -> Result<PathBuf, String> {
        let is_other = |path: &Path| {
            fs::metadata(path).is_ok_and(|file| {
                file.is_file() && ourselves.is_none_or(|ours| ours != (file.dev(), file.ino()))
            }) && rustix::fs::access(path, Access::EXEC_OK).is_ok()
        };
        let paths = self.paths();
        paths.iter().find(|path| is_other(path)).cloned().ok_or_else(|| match &self.named {
            Some(named) => format!(
                "{VARIABLE}={} is no program, or this program itself",
                named.to_string_lossy()
            ),
            None => {
                let looked: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
                format!(
                    "there is no {NAME} of Xen's: set {VARIABLE} (looked at {})",
                    looked.join(", ")
                )
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn program(path: &Path) {
        fs::write(path, "#!/bin/sh\n").expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
    }

    fn id(path: &Path) -> Option<(u64, u64)> {
        fs::metadata(path).map(|file| (file.dev(), file.ino())).ok()
    }

    #[test]
    fn what_the_environment_names_comes_first_then_what_was_diverted_then_the_running_xens() {
        let named = Places { named: Some("/a/b".into()), ..Places::default() };
        assert_eq!(named.paths(), [PathBuf::from("/a/b")]);
        let ours = vec!["/x/bin/libxl-save-helper".into(), "/usr/bin/p2mtrack-save-helper".into()];
        let paths = Places { ours, xen: Some((4, 17)), ..Places::default() }.paths();
        let first: Vec<_> = paths[..6].iter().map(|path| path.to_string_lossy()).collect();
        assert_eq!(
            first,
            [
                "/x/bin/libxl-save-helper.distrib",
                "/x/bin/libxl-save-helper.distrib",
                "/usr/bin/p2mtrack-save-helper.distrib",
                "/usr/bin/libxl-save-helper.distrib",
                "/usr/lib/xen-4.17/bin/libxl-save-helper",
                "/usr/lib/xen/bin/libxl-save-helper",
            ]
        );
    }

    #[test]
    fn it_is_never_this_program_itself_by_whatever_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let find = |name: &str| {
            let named = Some(at(name).into_os_string());
            Places { named, ..Places::default() }.find_but(id(&at("ours")))
        };
        program(&at("ours"));
        symlink(at("ours"), at("link")).expect("a link");
        fs::hard_link(at("ours"), at("hard")).expect("a link");
        for name in ["ours", "link", "hard", "missing", "."] {
            let words = find(name).expect_err(name);
            assert!(words.starts_with("P2MTRACK_STOCK_HELPER=/"), "{words}");
        }
        fs::write(at("no-program"), "").expect("written");
        fs::set_permissions(at("no-program"), fs::Permissions::from_mode(0o644)).expect("set");
        find("no-program").expect_err("it can't be executed");
        program(&at("stock"));
        assert_eq!(find("stock"), Ok(at("stock")));
        // Diverted: this program has the name, and the stock helper another one.
        let ours = vec![at("libxl-save-helper")];
        fs::hard_link(at("ours"), at("libxl-save-helper")).expect("a link");
        program(&at("libxl-save-helper.distrib"));
        let places = Places { ours, ..Places::default() };
        assert_eq!(places.find_but(id(&at("ours"))), Ok(at("libxl-save-helper.distrib")));
    }
}
