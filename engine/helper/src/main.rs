// SPDX-License-Identifier: MIT OR Apache-2.0
//! p2mtrack-save-helper, the program that `LIBXL_SAVE_HELPER` names.
//! Not here: what it does (the library of this crate).
//! Units: exit status as the stock helper's: 0 when libxl was told how it ended.
//! Threads: the save's own.
//! Source: `xen-migrate.md` 1.1. There is no Rust `main`: what std does before it (SIGPIPE ignored,
//! closed descriptors opened) would reach the stock helper.

#![no_main]
#![deny(unsafe_code)]

use std::env;
use std::ffi::{OsString, c_char, c_int};
use std::io::{self, Write};

use p2mtrack_allocator::OrEnd;
use p2mtrack_helper::call::Call;
use p2mtrack_helper::hand_over::{is_for_stock, is_too_old};
use p2mtrack_helper::line::Line;
use p2mtrack_helper::note::note;
use p2mtrack_helper::options::Options;
use p2mtrack_helper::process::{Arguments, ignore_sigpipe};
use p2mtrack_helper::stock::Places;
use p2mtrack_helper::{guard, observe, options, save};
use p2mtrack_xen::Xen;

/// A helper without memory ends, and says so.
#[global_allocator]
static ALLOCATOR: OrEnd<std::alloc::System> = OrEnd(std::alloc::System);

const HELP: &str = "\
p2mtrack-save-helper: saves PV guests for libxl in place of its own helper, which gets all others.
It is not started by hand: set LIBXL_SAVE_HELPER to its path for xl or for libvirt's daemon.

P2MTRACK_STOCK_HELPER    the stock helper [default: beside this program as dpkg-divert names it,
                         or where the running Xen has it]
P2MTRACK_HELPER_OPTIONS  options, as in a shell:
";

/// The program's beginning.
///
/// # Safety
/// The C library calls it, once, with the command line.
#[expect(unsafe_code, reason = "a C main; docs/safety.md")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(_: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: it is `main`'s second argument.
    let arguments = unsafe { Arguments::new(argv) };
    let words: Vec<OsString> = env::args_os().collect();
    run(&words, arguments).into()
}

/// Prints a text: std does not flush it at the end without a Rust `main`.
fn print(text: &str) -> u8 {
    let mut stdout = io::stdout();
    let printed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    u8::from(printed.is_err())
}

fn run(words: &[OsString], arguments: Arguments) -> u8 {
    let behind = words.get(1..).unwrap_or_default();
    match behind.first().and_then(|word| word.to_str()) {
        Some(guard::WORD) => return guard::run(&behind[1..]),
        Some("--help") => {
            return print(&format!("{HELP}{}", options::help()));
        }
        Some("--version") => {
            return print(concat!("p2mtrack-save-helper ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        _ => {}
    }
    let call = Call::parse(behind);
    let version = Xen::running_version().ok();
    let is_for_stock = is_for_stock(&call, version);
    let options = Options::of_this_process();
    let observed = options.as_ref().ok().filter(|options| options.observe);
    if let (Call::Save(call), false, None) = (call, is_for_stock, observed) {
        ignore_sigpipe();
        let Ok(line) = Line::open() else { return 1 }; // there is no libxl
        save::run(&call, options, line);
        return 0;
    }
    let places = Places::of_this_process(words.first(), version);
    let failed = match (places.find(), observed) {
        (Ok(helper), None) => {
            let error = arguments.become_program(&helper);
            (error.raw_os_error(), format!("{}: {error}", helper.display()))
        }
        (Ok(helper), Some(options)) => {
            ignore_sigpipe();
            let report = options.save.report.as_deref();
            match observe::run(&helper, words, call, report) {
                Ok(status) => return observe::end_like(status),
                Err(error) => (error.raw_os_error(), format!("{}: {error}", helper.display())),
            }
        }
        (Err(words), _) => (Some(libc::ENOENT), words),
    };
    ignore_sigpipe();
    let (errno, words) = failed;
    match Line::open() {
        Ok(line) if !is_too_old(version) => {
            save::refuse(&line, errno.unwrap_or(libc::EIO), &words);
            0
        }
        _ => {
            note(&words); // libxl would drop our messages, and wait for ever
            1
        }
    }
}
