// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every scenario finds the changes that were planted in it, with each kernel, form and number of
//! threads.
//! Not here: how fast; nothing here checks a time.
//! Units: changed pfns.
//! Threads: one and three, which cut the list unevenly.
//! Source: a benchmark with a wrong result must fail.

use p2mtrack::diff::Kernel;
use p2mtrack::shadow::Forms;
use p2mtrack_bench::ab_run::Side;
use p2mtrack_bench::catalog::ENTRIES;
use p2mtrack_bench::diff::Diff;
use p2mtrack_bench::figures::{affine, density, random, scattered};
use p2mtrack_bench::frames::Pages;
use p2mtrack_bench::p2m::{LiveP2m, Planted};
use p2mtrack_bench::pool::Pool;
use p2mtrack_bench::setup::Setup;
use p2mtrack_synthetic::huge::Shape;

/// A guest of 256 MiB: 128 leaves, each compared twice in a pass.
fn setup(kernel: Kernel, threads: usize) -> Setup {
    let pool = Pool::new(threads).expect("threads");
    Setup { guest_bytes: 256 << 20, kernel, forms: Forms::Auto, pass_bytes: 1 << 20, pool }
}

fn each_setup(check: impl Fn(&Setup)) {
    for &kernel in Kernel::available() {
        for threads in [1, 3] {
            check(&setup(kernel, threads));
        }
    }
}

/// Two leaves of 128 have changes: in leaf 0 two pfns, in leaf 97 three.
fn finds_what_is_planted(diff: &Diff<'_>, p2m: &LiveP2m, repeats: u64) {
    diff.prove();
    assert_eq!(diff.compare(Kernel::SCALAR), 0);
    let planted = p2m.plant();
    assert_eq!(planted, Planted { pfns: 5, leaves: 2 });
    assert_eq!(diff.compare(Kernel::SCALAR), 5 * repeats);
    p2m.plant();
}

#[test]
fn whole_p2ms() {
    each_setup(|setup| {
        for shape in [Shape::Runs, Shape::Superpage] {
            let p2m = affine::p2m(setup, shape);
            finds_what_is_planted(&Diff::whole(setup, &p2m, setup.forms), &p2m, 2);
        }
        let p2m = random::p2m(setup);
        let diff = Diff::whole(setup, &p2m, Forms::Packed);
        assert_eq!(diff.held().packed, 128);
        finds_what_is_planted(&diff, &p2m, 2);
        let p2m = random::p2m(setup);
        let diff = Diff::whole(setup, &p2m, Forms::Raw);
        assert_eq!(diff.held().raw, 128);
        finds_what_is_planted(&diff, &p2m, 2);
    });
}

#[test]
fn scattered_leaves() {
    each_setup(|setup| {
        for pages in [Pages::Small, Pages::Huge] {
            for (variant, percent) in scattered::VARIANTS.into_iter().zip([5, 1, 1]) {
                let mut p2m = scattered::p2m(setup, &setup.pool, pages, variant);
                p2m.list(scattered::listed(p2m.leaves(), percent));
                p2m.copy_again(Pages::Small);
                let diff = scattered::diff(setup, &setup.pool, &p2m, variant);
                diff.prove();
                assert_eq!(diff.held().raw > 0, variant.is_raw);
            }
        }
    });
}

#[test]
fn any_density() {
    each_setup(|setup| {
        for (_, shape, forms) in density::helds(setup) {
            let p2ms = density::p2ms(setup, shape);
            density::ab_run(&density::diffs(setup, &p2ms, forms))
                .sides()
                .iter()
                .for_each(Side::run);
        }
    });
}

#[test]
fn every_figure_is_a_number_under_its_entrys_name() {
    for entry in &ENTRIES {
        for figure in (entry.run)(&setup(Kernel::detect(), 2)) {
            let mut rests = entry.names.iter().filter_map(|name| figure.name.strip_prefix(name));
            assert!(rests.any(|rest| rest.is_empty() || rest.starts_with('.')));
            assert!(figure.value.is_finite() && figure.value > 0.0, "{figure:?}");
            assert!(figure.floor.is_none_or(|share| share.is_finite() && share > 0.0));
            assert!(figure.peers.iter().all(|(_, x)| x.is_finite() && *x > 0.0));
        }
    }
}
