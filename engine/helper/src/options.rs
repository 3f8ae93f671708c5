// SPDX-License-Identifier: MIT OR Apache-2.0
//! Options of the helper, which libxl can't give: they are in an environment variable.
//! Not here: what is done with them.
//! Units: words as a shell splits them, without its variables and commands.
//! Threads: plain values.
//! Source: own; names of options are an interface and are not renamed.

use std::env;
use std::ffi::OsStr;

use clap::{CommandFactory, FromArgMatches, Parser};
use p2mtrack_migrate::options::SaveOptions;

/// Holds the options.
pub const VARIABLE: &str = "P2MTRACK_HELPER_OPTIONS";

/// Options of the helper.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
pub struct Options {
    /// Run the stock helper, and append a line about it to the report
    #[arg(long)]
    pub observe: bool,
    /// How a guest is saved.
    #[command(flatten)]
    pub save: SaveOptions,
}

impl Options {
    /// Those of this process's environment.
    ///
    /// # Errors
    /// They are wrong: words for people.
    pub fn of_this_process() -> Result<Self, String> {
        Self::parse_from_text(&env::var_os(VARIABLE).unwrap_or_default())
    }

    /// Reads them.
    ///
    /// # Errors
    /// They are wrong: words for people.
    pub fn parse_from_text(text: &OsStr) -> Result<Self, String> {
        let wrong = |what: &str| format!("{VARIABLE}: {what}");
        let text = text.to_str().ok_or_else(|| wrong("it is not UTF-8"))?;
        let words = shlex::split(text).ok_or_else(|| wrong("a quote has no end"))?;
        let matches = Self::command().try_get_matches_from(words);
        let options = matches.and_then(|matches| Self::from_arg_matches(&matches));
        options.map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            wrong(first.strip_prefix("error: ").unwrap_or(first))
        })
    }
}

/// What `--help` says about the options.
#[must_use]
pub fn help() -> String {
    Options::command().no_binary_name(false).help_template("{options}").render_help().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2mtrack_xen::IfOn;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::time::Duration;

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse_from_text(text.as_ref())
    }

    #[test]
    fn options_are_those_of_save() {
        Options::command().debug_assert();
        let options = parse("--downtime 0 --max-rounds 5 --report '/a b/c'").expect("right");
        let plan = options.save.plan(true, IfOn::TakeOver, 7);
        assert_eq!((plan.limits.downtime, plan.limits.rounds), (Duration::ZERO, 5));
        assert_eq!(options.save.report.as_deref(), Some(Path::new("/a b/c")));
        assert!(!options.observe && parse(" --observe\n").expect("right").observe);
        assert!(parse("").is_ok());
    }

    #[test]
    fn options_that_libxl_decides_or_that_do_not_exist_are_refused_in_one_line() {
        let refused = [
            "--out x",
            "--format xl",
            "--config x",
            "--after leave",
            "--live",
            "--json",
            "--suspend-timeout 5",
            "--take-over",
            "--help",
            "--version",
            "--downtime",
            "--downtime x",
            "7",
            "--rate 0",
            "'",
        ];
        for text in refused {
            let words = parse(text).expect_err(text);
            assert!(words.starts_with("P2MTRACK_HELPER_OPTIONS: "), "{words}");
            assert!(!words.contains('\n') && words.len() > 30, "{words}");
        }
        Options::parse_from_text(OsStr::from_bytes(b"\xff")).expect_err("not UTF-8");
    }
}
