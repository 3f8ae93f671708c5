// SPDX-License-Identifier: MIT OR Apache-2.0
//! Xen's own verifier accepts what we write, in both widths and in every container.
//! Not here: our checker (`stream_rules`); where the verifier comes from (`streams/verify`).
//! Units: its exit status: 0 good, 1 a bad stream.
//! Threads: each run is a process.
//! Source: Xen `tools/python/scripts/verify-stream-v2`.
#![cfg(not(miri))] // starts processes

use std::path::PathBuf;
use std::process::Command;

use p2mtrack::config::Config;
use p2mtrack::frame::Width;
use p2mtrack_synthetic::run::{Ending, migrate_into_bytes};
use p2mtrack_synthetic::{Scenario, SimConfig, Verdict};
use p2mtrack_tests::sample_stream::Stream;

/// The verifier's exit status and output for these bytes.
fn verify(format: &str, bytes: &[u8]) -> (Option<i32>, String) {
    let root = std::env::var_os("P2MTRACK_XEN_VERIFIER");
    let root = PathBuf::from(root.expect("P2MTRACK_XEN_VERIFIER, as tests/streams/verify sets it"));
    let directory = tempfile::tempdir().expect("directory");
    let file = directory.path().join("stream");
    std::fs::write(&file, bytes).expect("a file");
    let output = Command::new("python3")
        .arg("-B")
        .arg(root.join("bin/verify-stream-v2"))
        .args(["-f", format, "-i"])
        .arg(&file)
        .env("PYTHONPATH", root.join("lib/python"))
        .output()
        .expect("python3");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What the engine writes for a guest that balloons, grows and reshapes its p2m.
#[test]
#[ignore = "needs Xen's verifier: tests/streams/verify"]
fn xens_verifier_accepts_whole_migrations() {
    for width in [Width::W64, Width::W32] {
        for (scenario, seed) in [(Scenario::Mixed, 1), (Scenario::Hotplug, 2), (Scenario::Remus, 3)]
        {
            let config = SimConfig { width, ..SimConfig::plain(scenario, seed, 8 << 20) };
            let engine = scenario.engine(seed, Config::default());
            let (run, bytes) = migrate_into_bytes(&config, engine, u64::MAX);
            assert_eq!(run.ending, Ending::Judged(Verdict::Identical), "{:?}", run.error);
            let (status, words) = verify("libxc", &bytes);
            assert_eq!(status, Some(0), "{scenario} {width:?}: {words}");
        }
    }
}

#[test]
#[ignore = "needs Xen's verifier: tests/streams/verify"]
fn xens_verifier_accepts_what_we_write() {
    for width in [Width::W64, Width::W32] {
        let (good, remus) = (Stream::good(width), Stream::remus(width));
        for (format, bytes) in [
            ("libxc", good.libxc()),
            ("libxc", remus.libxc()), // in a libxl stream it does not follow a CHECKPOINT
            ("libxl", good.libxl()),
            ("xl", good.xl(b"{}")),
        ] {
            let (status, words) = verify(format, &bytes);
            assert_eq!(status, Some(0), "{format}, {width:?}: {words}");
        }
        // It does verify.
        let mut bad = good.libxc();
        bad[31] = 1;
        assert_eq!(verify("libxc", &bad).0, Some(1));
    }
}
