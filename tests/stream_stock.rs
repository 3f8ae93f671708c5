// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams that stock tools wrote break no rule.
//! Not here: what breaks one (`stream_rules`).
//! Units: as in the checker's summary.
//! Threads: one.
//! Source: `tests/streams/README.md`.
#![cfg(not(miri))] // reads the disk

use std::fs::File;
use std::path::Path;

use liblzma::read::XzDecoder;
use p2mtrack_stream::check::{Summary, check};
use p2mtrack_stream::container::Format;

#[test]
fn what_xl_save_wrote_breaks_no_rule() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("streams/cold-128.xl.xz");
    let file = XzDecoder::new(File::open(path).expect("a stream"));
    let mut broken = Vec::new();
    let summary = check(file, None, &mut |found| broken.push(found)).expect("readable");
    assert_eq!(broken, []);
    let expected = Summary {
        format: Format::Xl,
        version: 3,
        records: 43,
        pages: 32_768,
        pfns: 32_768,
        tables: 209,
        checkpoints: 0,
        broken: 0,
    };
    assert_eq!(summary, expected);
}
