// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mistakes of a host, one by one: the code that each call returns, and that nothing else changes.
//! Not here: mistakes in any order (`sequences`); migrations of a guest (`ffi/examples`).
//! Units: one tiny guest, whose p2m has no frame but its own leaf.
//! Threads: one, and a second one that is refused; a child process.
//! Source: `docs/abi.md`.
#![cfg(not(miri))] // forks

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{null, null_mut};

use p2mtrack::cause::Cause;
use p2mtrack_ffi::abi;
use p2mtrack_ffi::functions as f;

const EIO: c_int = -5;

/// A hypervisor whose guest does not change, and whose callbacks fail on request.
struct Host {
    m2p: Vec<u64>,
    /// The number of frames that the host reports for the domain.
    holds: u64,
    /// The callback that fails now.
    fails: &'static str,
    said: Vec<String>,
    /// What one test's `map` answers for every frame, and the calls of its list or `types`.
    map_says: c_int,
    asked: u32,
}

/// The host behind `user`, and the arguments of the callback.
///
/// # Safety
/// It is the one that the handle was made with, and lives.
/// The arguments are what the library passed.
unsafe fn at<'a, C>(user: *mut c_void, call: *const C) -> (&'a mut Host, &'a C) {
    // SAFETY: the caller's contract.
    let of = unsafe { &mut *user.cast::<Host>() };
    // SAFETY: as above.
    (of, unsafe { &*call })
}

macro_rules! callback {
    ($name:ident, $call:ty, |$of:ident $(, $host:ident)?| $body:expr) => {
        unsafe extern "C" fn $name(user: *mut c_void, call: *const $call) -> c_int {
            // SAFETY: as promised to the host; the header: the call's arguments.
            let (host, $of) = unsafe { at(user, call) };
            if host.fails == stringify!($name) {
                return EIO;
            }
            $(let $host = host;)?
            $body
        }
    };
}

callback!(domain_frames, abi::DomainFramesCall, |call, host| {
    // SAFETY: the header: a place for it.
    unsafe { call.frames.write(host.holds) };
    0
});
callback!(roots, abi::RootsCall, |call| {
    let roots = abi::Roots { pfn_count: 512, frame_list_list: 1, ..Default::default() };
    // SAFETY: the header: a place for them.
    unsafe { call.roots.write(roots) };
    0
});
callback!(read, abi::ReadCall, |call| {
    for word in 0..512 {
        let value = match (call.mfn, word) {
            (1 | 2, 0) => call.mfn + 1, // top names mid, mid names the leaf
            _ => abi::NONE,
        };
        // SAFETY: the header: space for 512 words.
        unsafe { call.words.wrapping_add(word).write(value) };
    }
    0
});
callback!(map, abi::MapCall, |call| {
    static LEAF: [u64; 512] = {
        let mut words = [abi::NONE; 512];
        words[0] = 3; // its own frame
        words
    };
    for index in 0..call.count {
        // SAFETY: the header: space for `count`.
        unsafe { call.addresses.wrapping_add(index).write(LEAF.as_ptr().cast()) };
    }
    0
});
callback!(unmap, abi::UnmapCall, |_call| 0);
callback!(types, abi::TypesCall, |call| {
    for index in 0..call.count {
        // SAFETY: the header: space for `count`.
        unsafe { call.types.wrapping_add(index).write(0) };
    }
    0
});
callback!(unlogged, abi::UnloggedCall, |call| {
    // SAFETY: the header: a place for it.
    unsafe { call.count.write(0) };
    0
});
callback!(accepts_transfer, abi::AcceptsTransferCall, |call| {
    // SAFETY: the header: a place for it.
    unsafe { call.accepts.write(0) };
    0
});

callback!(transfers, abi::TransfersCall, |call| {
    // SAFETY: the header: a place for it.
    unsafe { call.count.write(0) };
    0
});

unsafe extern "C" fn log(user: *mut c_void, call: *const abi::LogCall) -> c_int {
    // SAFETY: as promised to the host; the header: the call's arguments.
    let (host, call) = unsafe { at(user, call) };
    // SAFETY: the header: a string.
    let text = unsafe { CStr::from_ptr(call.text) }.to_string_lossy().into_owned();
    host.said.push(text);
    0
}

fn host(of: &mut Host) -> abi::Host {
    abi::Host {
        size: size_of::<abi::Host>() as u32,
        zero: 0,
        user: (&raw mut *of).cast(),
        domain_frames: Some(domain_frames),
        roots: Some(roots),
        read: Some(read),
        map: Some(map),
        unmap: Some(unmap),
        types: Some(types),
        unlogged: Some(unlogged),
        accepts_transfer: Some(accepts_transfer),
        log: Some(log),
        m2p: of.m2p.as_ptr(),
        m2p_frames: of.m2p.len() as u64,
        compat_m2p_mfn: abi::NONE,
        transfers: Some(transfers),
    }
}

fn config() -> abi::Config {
    abi::Config { size: size_of::<abi::Config>() as u32, width: 64, ..Default::default() }
}

fn fresh() -> Box<Host> {
    let mut m2p = vec![abi::NONE; 8];
    m2p[3] = 0;
    Box::new(Host { m2p, holds: 8, fails: "", said: vec![], map_says: 0, asked: 0 })
}

fn create(host: &abi::Host, config: &abi::Config) -> Result<*mut f::Handle, Box<abi::Error>> {
    let mut error = no_error();
    let mut handle = null_mut();
    // SAFETY: all of them live.
    match unsafe { f::p2mt_create(config, host, &raw mut error, &raw mut handle) } {
        abi::OK => Ok(handle),
        code => {
            assert_eq!((code, handle.is_null()), (error.code, true));
            Err(Box::new(error))
        }
    }
}

fn no_error() -> abi::Error {
    let (size, text) = (size_of::<abi::Error>() as u32, [0; abi::ERROR_TEXT_BYTES]);
    abi::Error { size, code: 1, errnum: 0, level: 0, pfn: 0, mfn: 0, text }
}

fn text_of(error: &abi::Error) -> String {
    // SAFETY: the text ends with a zero.
    unsafe { CStr::from_ptr(error.text.as_ptr()) }.to_string_lossy().into_owned()
}

fn last_error(handle: *mut f::Handle) -> abi::Error {
    let mut error = no_error();
    // SAFETY: both live.
    assert_eq!(unsafe { f::p2mt_last_error(handle, &raw mut error) }, abi::OK);
    error
}

fn destroy(handle: *mut f::Handle) {
    // SAFETY: it lives, and is not used after.
    assert_eq!(unsafe { f::p2mt_destroy(handle) }, abi::OK);
}

fn begin(handle: *mut f::Handle, stage: u32) -> c_int {
    let mut buffer = abi::LogBuffer { words: null_mut(), pfns: 0 };
    // SAFETY: both live.
    let code = unsafe { f::p2mt_begin(handle, stage, &raw mut buffer) };
    assert_eq!(buffer.words.is_null(), buffer.pfns == 0);
    code
}

fn frame_list(handle: *mut f::Handle) -> c_int {
    let (mut leaves, mut count, mut pfns, mut serial) = ([0; 8], 0, 0, 0);
    let (to, number) = (leaves.as_mut_ptr(), &raw mut serial);
    // SAFETY: there is space.
    let code = unsafe { f::p2mt_frame_list(handle, to, 8, &raw mut count, &raw mut pfns, number) };
    let expected = if code == abi::OK { (1, 512, 1) } else { (0, 0, 0) };
    assert_eq!((count, pfns, serial), expected, "the list of this guest never changes");
    code
}

fn frame_list_sent(handle: *mut f::Handle) -> c_int {
    // SAFETY: it lives.
    unsafe { f::p2mt_frame_list_sent(handle, 1) }
}

fn send_frame_list(handle: *mut f::Handle) {
    assert_eq!([frame_list(handle), frame_list_sent(handle)], [abi::OK; 2]);
}

/// Takes and answers pages until there are none.
fn send_all(handle: *mut f::Handle) {
    loop {
        assert_eq!(take(handle), abi::OK);
        if accept(handle) == abi::E_ORDER {
            return; // there were none
        }
    }
}

/// Accepts what was taken, which is at most one page: this guest has no more.
fn accept(handle: *mut f::Handle) -> c_int {
    // SAFETY: it lives.
    unsafe { f::p2mt_accept(handle, 1) }
}

/// Returns the guest's only page.
fn return_page(handle: *mut f::Handle) -> c_int {
    return_pfn(handle, 0)
}

fn return_pfn(handle: *mut f::Handle, pfn: u64) -> c_int {
    // SAFETY: one pfn is there.
    unsafe { f::p2mt_return(handle, [pfn].as_ptr(), 1) }
}

fn scan(handle: *mut f::Handle) -> c_int {
    // SAFETY: it lives.
    unsafe { f::p2mt_scan(handle, u64::MAX, null_mut()) }
}

fn take(handle: *mut f::Handle) -> c_int {
    take_with_flags(handle).0
}

fn take_with_flags(handle: *mut f::Handle) -> (c_int, u32) {
    let mut pages = vec![abi::Page::default(); abi::BATCH_MAX];
    let (mut count, mut flags) = (0, 0);
    let (capacity, to) = (pages.len(), pages.as_mut_ptr());
    // SAFETY: there is space.
    let code = unsafe { f::p2mt_take(handle, to, 32, capacity, &raw mut count, &raw mut flags) };
    (code, flags)
}

#[test]
#[expect(clippy::multiple_unsafe_ops_per_block, reason = "a table of calls")]
fn a_handle_is_made_of_what_the_header_asks_for_or_not_at_all() {
    let mut state = fresh();
    let good = host(&mut state);
    let lacking = [
        (abi::Host { domain_frames: None, ..good }, "p2mt_host.domain_frames is NULL"),
        (abi::Host { roots: None, ..good }, "p2mt_host.roots is NULL"),
        (abi::Host { read: None, ..good }, "p2mt_host.read is NULL"),
        (abi::Host { map: None, ..good }, "p2mt_host.map is NULL"),
        (abi::Host { unmap: None, ..good }, "p2mt_host.unmap is NULL"),
        (abi::Host { types: None, ..good }, "p2mt_host.types is NULL"),
        (abi::Host { unlogged: None, ..good }, "p2mt_host.unlogged is NULL"),
        (abi::Host { accepts_transfer: None, ..good }, "p2mt_host.accepts_transfer is NULL"),
        (abi::Host { m2p: null(), ..good }, "p2mt_host.m2p is NULL"),
        (abi::Host { zero: 1, ..good }, "p2mt_host.zero is not 0"),
    ];
    let narrow = abi::Config { width: 32, ..config() };
    for compat_m2p_mfn in [0, abi::NONE] {
        let error = create(&abi::Host { compat_m2p_mfn, ..good }, &narrow).expect_err("32 bits");
        let text = "p2mt_host.compat_m2p_mfn is missing for a 32-bit guest";
        assert_eq!((error.code, text_of(&error).as_str()), (abi::E_ARGUMENT, text));
    }
    destroy(create(&abi::Host { compat_m2p_mfn: 7, ..good }, &narrow).expect("has all"));
    for (host, text) in &lacking {
        let error = create(host, &config()).expect_err("lacks something");
        assert_eq!((error.code, text_of(&error)), (abi::E_ARGUMENT, (*text).to_owned()));
    }
    for size in [0, 8, 111, 116, 4097] {
        let error = create(&abi::Host { size, ..good }, &config()).expect_err("size");
        assert_eq!(error.code, abi::E_SIZE);
    }
    let mut handle = null_mut();
    let mut short = abi::Error { size: 8, ..no_error() };
    // SAFETY: all of them live.
    let code =
        unsafe { f::p2mt_create(&config(), &raw const good, &raw mut short, &raw mut handle) };
    assert_eq!((code, handle.is_null()), (abi::E_SIZE, true), "there is no place for an error");
    // SAFETY: nulls are checked before anything else.
    let codes = unsafe {
        [
            f::p2mt_create(null(), &raw const good, null_mut(), &raw mut handle),
            f::p2mt_create(&config(), null(), null_mut(), &raw mut handle),
            f::p2mt_create(&config(), &raw const good, null_mut(), null_mut()),
        ]
    };
    assert_eq!((codes, handle.is_null()), ([abi::E_ARGUMENT; 3], true));
    destroy(create(&abi::Host { log: None, ..good }, &config()).expect("a log is not required"));
    destroy(create(&abi::Host { transfers: None, ..good }, &config()).expect("neither are these"));
    destroy(null_mut());
}

#[test]
#[expect(clippy::multiple_unsafe_ops_per_block, reason = "a table of calls")]
fn null_handles_and_null_places_are_arguments() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    let nobody = null_mut();
    let (mut count, mut flags) = (7, 7);
    let mut pages = vec![abi::Page::default(); abi::BATCH_MAX];
    let to = pages.as_mut_ptr();
    // SAFETY: nulls are checked before anything else; the rest lives.
    let codes = unsafe {
        [
            f::p2mt_begin(nobody, 0, null_mut()),
            f::p2mt_begin(handle, 0, null_mut()),
            f::p2mt_scan(nobody, 0, null_mut()),
            f::p2mt_take(handle, null_mut(), 32, 1024, &raw mut count, &raw mut flags),
            f::p2mt_take(handle, to, 32, 1024, null_mut(), &raw mut flags),
            f::p2mt_take(handle, to, 32, 1024, &raw mut count, null_mut()),
            f::p2mt_take(handle, to, 32, 1023, &raw mut count, &raw mut flags),
            f::p2mt_normalise(handle, 0, null_mut(), null_mut()),
            f::p2mt_answer(handle, null(), 16, 1),
            f::p2mt_cleared_ptes(handle, null_mut(), 16, 0, null_mut()),
            f::p2mt_cleared_ptes(handle, null_mut(), 16, 1, &raw mut count),
            f::p2mt_frame_list(handle, null_mut(), 0, null_mut(), null_mut(), null_mut()),
            f::p2mt_return(handle, null(), 1),
            f::p2mt_gone(handle, 0, null_mut(), 1, &raw mut count),
            f::p2mt_stats(handle, null_mut()),
            f::p2mt_why(handle, 0, null_mut()),
            f::p2mt_last_error(handle, null_mut()),
            f::p2mt_last_error(nobody, null_mut()),
            f::p2mt_verify(handle, 2),
            f::p2mt_feed(handle, 1, null(), 0),
        ]
    };
    assert_eq!(codes, [abi::E_ARGUMENT; 20]);
    assert_eq!((count, flags), (7, 7), "written only on success");
    destroy(handle);
}

#[test]
fn calls_out_of_order_change_nothing() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    // SAFETY: it lives.
    let end = || unsafe { f::p2mt_end(handle, null_mut()) };
    // SAFETY: as above; there are no answers.
    let answer = || unsafe { f::p2mt_answer(handle, null(), 16, 0) };
    assert_eq!([scan(handle), take(handle), end(), answer()], [abi::E_ORDER; 4]);
    assert_eq!([accept(handle), frame_list(handle)], [abi::E_ORDER; 2]);
    assert_eq!(begin(handle, 9), abi::E_ARGUMENT);
    assert_eq!(begin(handle, abi::FINAL), abi::OK);
    assert_eq!([take(handle), end()], [abi::E_ORDER; 2]);
    assert_eq!([scan(handle), scan(handle)], [abi::OK, abi::E_ORDER]);
    let text = "p2mt_scan called while the log was handed over already";
    assert_eq!(text_of(&last_error(handle)), text);
    assert_eq!(end(), abi::E_ORDER);
    assert_eq!(
        text_of(&last_error(handle)),
        "p2mt_end called while the frame list changed and was not sent"
    );
    send_frame_list(handle);
    assert_eq!(end(), abi::E_ORDER);
    assert_eq!(text_of(&last_error(handle)), "p2mt_end called while not everything is settled");
    // SAFETY: it lives.
    assert_eq!(unsafe { f::p2mt_cancel(handle) }, abi::OK);
    assert_eq!([answer(), return_page(handle), frame_list(handle)], [abi::E_ORDER; 3]);
    assert_eq!(begin(handle, abi::LIVE), abi::E_ORDER);
    assert_eq!(text_of(&last_error(handle)), "p2mt_begin called while the migration is cancelled");
    destroy(handle);
}

#[test]
fn what_was_returned_keeps_a_suspended_round_open() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    // SAFETY: it lives.
    let end = || unsafe { f::p2mt_end(handle, null_mut()) };
    let settle = || {
        assert_eq!([begin(handle, abi::FINAL), scan(handle)], [abi::OK; 2]);
        send_frame_list(handle);
        send_all(handle);
    };
    settle();
    assert_eq!([return_page(handle), end()], [abi::OK, abi::E_ORDER]);
    settle();
    assert_eq!([end(), return_page(handle)], [abi::OK, abi::E_ORDER]);
    destroy(handle);
}

#[test]
fn a_pfn_that_was_never_taken_is_not_returned() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    assert_eq!([begin(handle, abi::LIVE), scan(handle)], [abi::OK; 2]);
    assert_eq!(return_page(handle), abi::E_ARGUMENT, "not yet");
    assert_eq!([take(handle), return_page(handle)], [abi::OK; 2]);
    for pfn in [3, 511, 512, u64::MAX] {
        assert_eq!(return_pfn(handle, pfn), abi::E_ARGUMENT);
        let text = format!("p2mt_return: pfn {pfn:#x} was never taken; no pfn was returned");
        assert_eq!(text_of(&last_error(handle)), text);
    }
    destroy(handle);
}

#[test]
fn a_mapping_has_to_be_dropped_until_a_round_ended_that_said_so() {
    let mut state = fresh();
    (state.m2p[1], state.m2p[2]) = (1, 2); // or its upper frames are walked in every round
    let handle = create(&host(&mut state), &config()).expect("creates");
    let remap = || {
        assert_eq!([begin(handle, abi::LIVE), scan(handle)], [abi::OK; 2]);
        let (code, flags) = take_with_flags(handle);
        assert_eq!(code, abi::OK);
        send_frame_list(handle);
        flags & abi::DO_REMAP
    };
    assert_eq!(remap(), abi::DO_REMAP, "the first walk");
    assert_eq!(remap(), abi::DO_REMAP, "that round did not end");
    send_all_after_take(handle);
    // SAFETY: it lives.
    assert_eq!(unsafe { f::p2mt_end(handle, null_mut()) }, abi::OK);
    assert_eq!(remap(), 0);
    destroy(handle);
}

/// Answers what was taken, and all that comes after it.
fn send_all_after_take(handle: *mut f::Handle) {
    assert_eq!(accept(handle), abi::OK);
    send_all(handle);
}

#[test]
fn pfns_gone_are_those_of_the_round_that_is_settled() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    let gone = || {
        let (mut pfns, mut count) = ([0; 4], 0);
        // SAFETY: there is space.
        unsafe { f::p2mt_gone(handle, 0, pfns.as_mut_ptr(), 4, &raw mut count) }
    };
    assert_eq!([begin(handle, abi::CHECKPOINT), scan(handle)], [abi::OK; 2]);
    send_frame_list(handle);
    send_all(handle);
    assert_eq!([gone(), gone()], [abi::OK; 2]);
    state.fails = "roots";
    assert_eq!([begin(handle, abi::LIVE), gone()], [abi::E_HOST, abi::E_ORDER]);
    destroy(handle);
}

#[test]
fn signals_are_the_hosts() {
    let mut state = fresh();
    let config = abi::Config { threads: 2, ..config() };
    let handle = create(&host(&mut state), &config).expect("creates");
    let ours = || {
        let tasks = std::fs::read_dir("/proc/self/task").expect("threads");
        let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status"));
        let statuses = tasks.filter_map(|task| status(task.ok()?).ok());
        statuses.filter(|status| status.contains("Name:\tp2mtrack-")).collect::<Vec<_>>()
    };
    while ours().len() < 2 {
        std::thread::yield_now(); // a thread sets its own name
    }
    let ours = ours();
    // All signals but KILL and STOP, which can't be blocked, and two that libc reserves.
    let all: u64 = !(1 << 8 | 1 << 18 | 0b11 << 31);
    let masked = |status: &String| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t"));
        mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|m| m & all == all)
    };
    assert!(ours.iter().all(masked), "{ours:?}");
    let mine = std::fs::read_to_string("/proc/thread-self/status").expect("this one");
    assert!(!masked(&mine), "and the host's mask is as it was");
    destroy(handle);
}

#[test]
fn a_callback_that_fails_is_named_and_the_round_can_be_begun_again() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    for fails in ["domain_frames", "roots", "accepts_transfer", "transfers"] {
        state.fails = fails;
        assert_eq!(begin(handle, abi::LIVE), abi::E_HOST);
        let error = last_error(handle);
        assert_eq!((error.code, error.errnum), (abi::E_HOST, EIO));
        assert!(
            text_of(&error).ends_with(&format!("callback {fails} returned -5")),
            "{}",
            text_of(&error)
        );
        assert_eq!(state.said.last(), Some(&text_of(&error)), "the log hears of it");
    }
    state.fails = "unlogged";
    assert_eq!(begin(handle, abi::CHECKPOINT), abi::E_HOST);
    state.fails = "";
    assert_eq!([begin(handle, abi::LIVE), scan(handle)], [abi::OK; 2]);
    destroy(handle);
}

/// One pfn has a frame; the host reports more frames.
#[test]
fn frames_that_no_pfn_has_end_a_suspended_round_unless_they_are_only_to_be_reported() {
    let size = size_of::<abi::Report>() as u32;
    for unaccounted in [abi::UNACCOUNTED_REFUSE, abi::UNACCOUNTED_REPORT] {
        let mut state = fresh();
        state.m2p.resize(2000, abi::NONE);
        let config = abi::Config { unaccounted, ..config() };
        let handle = create(&host(&mut state), &config).expect("creates");
        let mut found = vec![];
        for (stage, holds) in [(abi::LIVE, 8), (abi::CHECKPOINT, 1025), (abi::CHECKPOINT, 1026)] {
            state.holds = holds;
            assert_eq!([begin(handle, stage), scan(handle)], [abi::OK; 2]);
            if stage == abi::LIVE {
                send_frame_list(handle);
            }
            while take(handle) == abi::OK && accept(handle) == abi::OK {}
            let mut report = abi::Report { size, ..Default::default() };
            // SAFETY: both live.
            let code = unsafe { f::p2mt_end(handle, &raw mut report) };
            found.push((code, report.unaccounted_frames));
        }
        assert_eq!(found[..2], [(abi::OK, i64::MIN), (abi::OK, 1024)]);
        if unaccounted == abi::UNACCOUNTED_REPORT {
            assert_eq!(found[2], (abi::OK, 1025));
        } else {
            assert_eq!(found[2].0, abi::E_ORDER, "there is no round");
            assert_eq!([begin(handle, abi::FINAL), scan(handle)], [abi::OK; 2]);
            assert_eq!(take(handle), abi::E_UNACCOUNTED);
            let error = last_error(handle);
            let text = "the domain holds 1026 frames, and 1025 of them have no pfn in its p2m";
            assert!(text_of(&error).starts_with(text), "{}", text_of(&error));
            state.holds = 8;
            assert_eq!([begin(handle, abi::FINAL), scan(handle), take(handle)], [abi::OK; 3]);
        }
        destroy(handle);
    }
}

/// A host of the first version ends before `transfers`: the library must not read past its end.
#[test]
fn a_host_that_is_shorter_has_no_callback_for_transfers() {
    let mut state = fresh();
    let shorter = abi::Host { size: 112, ..host(&mut state) };
    let handle = create(&shorter, &config()).expect("creates");
    state.fails = "transfers";
    assert_eq!([begin(handle, abi::LIVE), scan(handle)], [abi::OK; 2]);
    destroy(handle);
}

#[test]
fn a_list_that_grows_for_ever_is_asked_for_a_few_times() {
    unsafe extern "C" fn pfns(user: *mut c_void, call: *const abi::UnloggedCall) -> c_int {
        // SAFETY: as promised to the host; the header: the call's arguments.
        let (host, call) = unsafe { at(user, call) };
        host.asked += 1;
        // SAFETY: the header: a place for it.
        unsafe { call.count.write(call.capacity + 1) };
        0
    }
    unsafe extern "C" fn names(user: *mut c_void, call: *const abi::TransfersCall) -> c_int {
        // SAFETY: as promised to the host; the two are laid out alike.
        unsafe { pfns(user, call.cast()) }
    }
    let mut state = fresh();
    let good = host(&mut state);
    for (of, host, stage) in [
        ("transfer entries", abi::Host { transfers: Some(names), ..good }, abi::LIVE),
        ("unlogged pfns", abi::Host { unlogged: Some(pfns), ..good }, abi::CHECKPOINT),
    ] {
        state.asked = 0;
        let handle = create(&host, &config()).expect("creates");
        assert_eq!((begin(handle, stage), state.asked), (abi::E_HOST, 8));
        let text = text_of(&last_error(handle));
        let expected = format!("the list of {of} grows each time that it is read");
        assert!(text.ends_with(&expected), "{text}");
        destroy(handle);
    }
}

#[test]
fn a_list_that_does_not_fit_is_asked_for_again_with_more_capacity() {
    unsafe extern "C" fn names(user: *mut c_void, call: *const abi::TransfersCall) -> c_int {
        // SAFETY: as promised to the host; the header: the call's arguments.
        let (host, call) = unsafe { at(user, call) };
        host.asked += 1;
        let count = if host.asked > 3 { 1 } else { 300 };
        // SAFETY: the header: a place for it.
        unsafe { call.count.write(count) };
        for index in 0..call.capacity.min(count) {
            // SAFETY: the header: space for `capacity`.
            unsafe { call.names.wrapping_add(index).write(index as u64 + 1) };
        }
        0
    }
    let mut state = fresh();
    let host = abi::Host { transfers: Some(names), ..host(&mut state) };
    let handle = create(&host, &config()).expect("creates");
    for asked in [3, 5] {
        assert_eq!([begin(handle, abi::LIVE), scan(handle)], [abi::OK; 2]);
        assert_eq!(
            state.asked, asked,
            "twice a round, and once more when it does not fit: the buffer stays"
        );
    }
    let mut why = abi::PfnState { size: 24, ..Default::default() };
    for (pfn, owed) in [(0, false), (1, true), (300, true), (301, false)] {
        // SAFETY: both live.
        assert_eq!(unsafe { f::p2mt_why(handle, pfn, &raw mut why) }, abi::OK);
        assert_eq!(why.causes & 1 << Cause::Unlogged as u32 != 0, owed, "{pfn}");
    }
    destroy(handle);
}

#[test]
fn a_p2m_that_cannot_be_read_is_an_error_of_the_suspended_round_with_level_and_mfn() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    state.fails = "read";
    assert_eq!([begin(handle, abi::FINAL), scan(handle)], [abi::OK, abi::E_STRUCTURE]);
    let error = last_error(handle);
    assert_eq!((error.level, error.mfn, error.pfn, error.errnum), (2, 1, 0, EIO));
    destroy(handle);
}

/// A failure that the engine tolerates: it is logged once a round, and the error that follows names
/// it.
#[test]
fn a_type_query_that_fails_is_a_warning_and_then_the_cause() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    state.fails = "types";
    assert_eq!([begin(handle, abi::LIVE), scan(handle)], [abi::OK; 2]);
    send_frame_list(handle);
    assert_eq!([take(handle), take(handle)], [abi::OK; 2]);
    let warning = "the host's callback types returned -5";
    assert_eq!(state.said.iter().filter(|said| *said == warning).count(), 1);
    // SAFETY: it lives.
    assert_eq!(unsafe { f::p2mt_end(handle, null_mut()) }, abi::OK);
    let uncertainties =
        state.said.iter().filter(|said| said.contains("uncertainty of kind query-failed"));
    assert_eq!(uncertainties.count(), 1, "{:?}", state.said);
    assert_eq!([begin(handle, abi::FINAL), scan(handle), take(handle)], [0, 0, abi::E_ENTRY]);
    let error = last_error(handle);
    assert_eq!((error.errnum, error.pfn, error.mfn), (EIO, 0, 3));
    assert!(text_of(&error).ends_with(warning), "{}", text_of(&error));
    destroy(handle);
}

/// Pfns for which the log was not read are uncertain: the report counts this from the scan on, the
/// log names it when the round ends.
#[test]
fn uncertainties_are_counted_by_the_scan_and_named_at_the_end() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    let mut report = abi::Report { size: size_of::<abi::Report>() as u32, ..Default::default() };
    for number in 0..=6 {
        assert_eq!(begin(handle, abi::LIVE), abi::OK);
        // SAFETY: both live.
        assert_eq!(unsafe { f::p2mt_scan(handle, 0, &raw mut report) }, abi::OK);
        let uncertainties = u64::from(number > 0); // the first round reads no log
        assert_eq!((report.round, report.uncertain), (number, uncertainties));
        // Everything is owed as an uncertainty: there is no estimate of convergence.
        assert_eq!((report.dirty_rate.is_nan(), report.shrinking), (true, -1));
        // SAFETY: as above.
        let ended = unsafe { f::p2mt_end(handle, null_mut()) };
        assert_eq!(
            ended,
            if number < 6 { abi::OK } else { abi::E_UNCERTAIN },
            "five are tolerated"
        );
    }
    let said = state.said.iter().filter(|said| said.ends_with("short-bitmap, 1 times"));
    assert_eq!((said.count(), last_error(handle).errnum), (6, 0));
    let totals = totals(handle);
    assert_eq!((totals.rounds, totals.rounds_given_up), (6, 1), "at once");
    destroy(handle);
}

/// Live rounds with an uncertainty: five are tolerated. Returns the error that ends the sixth.
fn until_it_is_no_longer_tolerated(handle: *mut f::Handle) -> abi::Error {
    for number in 0..=5 {
        assert_eq!([begin(handle, abi::LIVE), scan(handle), take(handle)], [abi::OK; 3]);
        // SAFETY: it lives.
        let ended = unsafe { f::p2mt_end(handle, null_mut()) };
        assert_eq!(ended, if number < 5 { abi::OK } else { abi::E_UNCERTAIN });
    }
    last_error(handle)
}

/// A p2m that can't be followed for more rounds than are tolerated: the error is that of the walk,
/// which names the frame, not `E_UNCERTAIN`.
#[test]
fn a_p2m_that_is_not_readable_for_too_long_names_its_frame() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    assert_eq!([begin(handle, abi::LIVE), scan(handle), take(handle)], [abi::OK; 3]);
    state.fails = "read";
    for number in 0..=5 {
        assert_eq!(begin(handle, abi::LIVE), abi::OK);
        // SAFETY: it lives. Nothing was read of the log, so that the p2m is walked again.
        let scanned = unsafe { f::p2mt_scan(handle, 0, null_mut()) };
        assert_eq!(scanned, if number < 5 { abi::OK } else { abi::E_STRUCTURE });
        // SAFETY: it lives.
        let ended = (number < 5).then(|| unsafe { f::p2mt_end(handle, null_mut()) });
        assert!(ended.is_none_or(|ended| ended == abi::OK));
    }
    let error = last_error(handle);
    assert_eq!((error.code, error.errnum, error.mfn), (abi::E_STRUCTURE, EIO, 1), "its top");
    destroy(handle);
}

/// A type query that fails for too long: the error names the callback.
#[test]
fn an_uncertainty_that_runs_on_names_the_callback_behind_it() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    state.fails = "types";
    let error = until_it_is_no_longer_tolerated(handle);
    assert_eq!(error.errnum, EIO);
    assert!(
        text_of(&error).ends_with("the host's callback types returned -5"),
        "{}",
        text_of(&error)
    );
    destroy(handle);
}

/// A leaf that can't be mapped for too long: the error names its frame.
#[test]
fn a_leaf_that_is_not_mapped_for_too_long_is_named() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    state.fails = "map";
    let error = until_it_is_no_longer_tolerated(handle);
    assert_eq!((error.errnum, error.pfn, error.mfn, error.level), (EIO, 0, 3, 0));
    let warned = state.said.iter().filter(|said| said.ends_with("callback map returned -5"));
    assert_eq!(warned.count(), 6, "once a round");
    destroy(handle);
}

/// Errors of single frames, and answers that make no sense: each errno is reported once a round;
/// `NOT_OWNED` is no failure. An error names the last of them.
#[test]
fn failures_of_single_frames_are_reported_once() {
    unsafe extern "C" fn map(user: *mut c_void, call: *const abi::MapCall) -> c_int {
        // SAFETY: as promised to the host; the header: the call's arguments.
        let (host, call) = unsafe { at(user, call) };
        for index in 0..call.count {
            // SAFETY: the header: space for `count`.
            unsafe { call.errors.wrapping_add(index).write(host.map_says) };
        }
        0
    }
    unsafe extern "C" fn types(user: *mut c_void, call: *const abi::TypesCall) -> c_int {
        // SAFETY: as promised to the host; the header: the call's arguments.
        let (state, call) = unsafe { at(user, call) };
        for index in 0..call.count {
            // SAFETY: the header: space for `count`.
            unsafe { call.types.wrapping_add(index).write(8 << 28) };
        }
        state.asked += 1;
        if state.asked > 1 { -11 } else { 0 }
    }
    let mut state = fresh();
    let odd = abi::Host { map: Some(map), types: Some(types), ..host(&mut state) };
    let handle = create(&odd, &config()).expect("creates");
    for (says, times) in [(abi::NOT_OWNED, 0), (-12, 1)] {
        state.map_says = says;
        assert_eq!([begin(handle, abi::LIVE), scan(handle), take(handle)], [abi::OK; 3]);
        let said = state.said.iter().filter(|said| said.contains("callback map said -12 of"));
        assert_eq!(said.count(), times);
    }
    destroy(handle);
    let odd = abi::Host { types: Some(types), ..host(&mut state) };
    let handle = create(&odd, &config()).expect("creates");
    assert_eq!([begin(handle, abi::FINAL), scan(handle), take(handle)], [0, 0, abi::E_ENTRY]);
    let said: Vec<_> = state.said.iter().filter(|said| said.contains("callback types")).collect();
    assert_eq!(said.len(), 3, "{said:?}"); // the third is the error
    assert!(said[0].contains("said 0x80000000 of") && said[1].ends_with("returned -11"));
    assert_eq!(last_error(handle).errnum, -11, "the last of them");
    destroy(handle);
}

/// Reading the frame list does not count as sending it.
#[test]
fn a_frame_list_that_was_read_and_not_sent_is_asked_for_again() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    assert_eq!([begin(handle, abi::LIVE), scan(handle)], [abi::OK; 2]);
    assert_eq!(frame_list_sent(handle), abi::E_ARGUMENT, "it was not read");
    assert_eq!([frame_list(handle), take(handle), accept(handle)], [0, 0, abi::E_ORDER]);
    assert_eq!([begin(handle, abi::FINAL), scan(handle)], [abi::OK; 2]);
    let mut pages = vec![abi::Page::default(); abi::BATCH_MAX];
    let (mut count, mut flags, to) = (0, 0, pages.as_mut_ptr());
    // SAFETY: there is space.
    let code = unsafe { f::p2mt_take(handle, to, 32, 1024, &raw mut count, &raw mut flags) };
    assert_eq!((code, count, flags & abi::DO_FRAME_LIST), (abi::OK, 1, abi::DO_FRAME_LIST));
    assert_eq!([accept(handle), frame_list_sent(handle), accept(handle)], [abi::E_ORDER, 0, 0]);
    assert_eq!(take(handle), abi::OK);
    // SAFETY: it lives.
    assert_eq!(unsafe { f::p2mt_end(handle, null_mut()) }, abi::OK);
    destroy(handle);
}

/// Answers have to match the pages taken: one too few or too many, of another size or at another
/// time is a mistake.
#[test]
fn answers_are_for_the_pages_taken_and_a_mistake_changes_nothing() {
    let mut state = fresh();
    let handle = create(&host(&mut state), &config()).expect("creates");
    assert_eq!([begin(handle, abi::LIVE), scan(handle)], [abi::OK; 2]);
    send_frame_list(handle);
    assert_eq!(take(handle), abi::OK);
    let all = [abi::PageAnswer::default(); 2];
    let unknown = abi::PageAnswer { verdict: 1, reason: abi::DEFER_MAP, errnum: -6000, zero: 0 };
    // SAFETY: so many are there.
    let answer = |answers: &[abi::PageAnswer], size, count| unsafe {
        f::p2mt_answer(handle, answers.as_ptr(), size, count)
    };
    // SAFETY: as above.
    let accept_some = |count| unsafe { f::p2mt_accept(handle, count) };
    assert_eq!([answer(&all, 16, 0), answer(&all, 16, 2)], [abi::E_ARGUMENT; 2]);
    assert_eq!([accept_some(0), accept_some(2)], [abi::E_ARGUMENT; 2]);
    assert_eq!([answer(&[unknown], 16, 1), answer(&all, 8, 1)], [abi::E_ARGUMENT, abi::E_SIZE]);
    let totals = totals(handle);
    assert_eq!((totals.pages_accepted, totals.owed > 0), (0, true));
    assert_eq!([accept(handle), accept(handle)], [abi::OK, abi::E_ORDER]);
    assert_eq!(self::totals(handle).pages_accepted, 1, "also of a round under way");
    assert_eq!(begin(handle, abi::LIVE), abi::OK);
    let totals = self::totals(handle);
    assert_eq!((totals.pages_accepted, totals.rounds, totals.rounds_given_up), (1, 0, 1));
    destroy(handle);
}

fn totals(handle: *mut f::Handle) -> abi::Totals {
    let mut totals = abi::Totals { size: size_of::<abi::Totals>() as u32, ..Default::default() };
    // SAFETY: both live.
    assert_eq!(unsafe { f::p2mt_stats(handle, &raw mut totals) }, abi::OK);
    totals
}

#[test]
fn a_second_thread_is_refused_while_a_call_runs() {
    static HANDLE: std::sync::atomic::AtomicPtr<f::Handle> =
        std::sync::atomic::AtomicPtr::new(null_mut());
    unsafe extern "C" fn slow(_: *mut c_void, _: *const abi::DomainFramesCall) -> c_int {
        let other = std::thread::spawn(|| {
            // SAFETY: it lives: a call is on it.
            unsafe { f::p2mt_cancel(HANDLE.load(std::sync::atomic::Ordering::SeqCst)) }
        });
        other.join().unwrap_or(abi::OK)
    }
    let mut state = fresh();
    let host = abi::Host { domain_frames: Some(slow), ..host(&mut state) };
    let handle = create(&host, &config()).expect("creates");
    HANDLE.store(handle, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(begin(handle, abi::LIVE), abi::E_HOST);
    assert_eq!(last_error(handle).errnum, abi::E_BUSY);
    destroy(handle);
}

unsafe extern "C" {
    fn fork() -> c_int;
    fn _exit(status: c_int) -> !;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
}

/// In the child of a process with an engine of two threads calls return an error.
#[test]
fn a_handle_in_a_forked_child_is_refused() {
    let mut state = fresh();
    let config = abi::Config { threads: 2, ..config() };
    let handle = create(&host(&mut state), &config).expect("creates");
    // SAFETY: the child makes calls that touch nothing of the parent's threads, and exits at once.
    let child = unsafe { fork() };
    if child == 0 {
        // SAFETY: it lives, and its process is checked first.
        let codes =
            [begin(handle, 0), scan(handle), take(handle), unsafe { f::p2mt_destroy(handle) }];
        let refused = codes == [abi::E_FORKED; 4];
        // SAFETY: ends the child without its parent's destructors.
        unsafe { _exit(if refused { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: a place for the status.
    assert_eq!(unsafe { waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child was not refused");
    assert_eq!([begin(handle, abi::LIVE), scan(handle)], [abi::OK; 2], "the parent goes on");
    destroy(handle);
}

#[test]
fn codes_have_meanings() {
    let meaning = |code| {
        let text = f::p2mt_strerror(code);
        // SAFETY: a constant string.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    assert_eq!(meaning(abi::OK), "no error");
    assert_eq!(meaning(abi::E_FORKED), "the handle was created by another process");
    assert_eq!(meaning(-9999), meaning(1));
    assert_eq!(f::p2mt_version(), 0x0100);
}
