// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which calls are for the stock helper.
//! Not here: how it is started (`process`).
//! Units: one call.
//! Threads: plain values.
//! Source: own. Nothing is changed before this is decided: the stock helper gets descriptors,
//! signals and command line as they came. A PV guest inside the PVH shim is a PVH guest to Xen.

use p2mtrack_xen::{Domain, Unknown, Xen};

use crate::call::{Call, SaveCall, Stream};

/// The first libxl whose messages have these numbers. A helper can't see libxl's version; it is
/// that of the running Xen, as libxl works with no other.
const FIRST: (u32, u32) = (4, 14);

/// Whether libxl numbers its messages in another way, if the running Xen has this version.
#[must_use]
pub fn is_too_old(version: Option<(u32, u32)>) -> bool {
    version.is_some_and(|version| version < FIRST)
}

/// Whether a call is for the stock helper, on this version of Xen.
#[must_use]
pub fn is_for_stock(call: &Call, version: Option<(u32, u32)>) -> bool {
    let Call::Save(SaveCall { domid, stream, .. }) = *call else { return true };
    stream == Stream::Other || is_too_old(version) || version.is_some() && is_not_pv(domid)
}

/// Whether Xen says that a domain is no PV guest. One that it says nothing of is refused later, in
/// words.
fn is_not_pv(domid: u32) -> bool {
    let Ok(domid) = u16::try_from(domid) else { return false };
    let domain = Xen::open(Unknown::Accept).and_then(|xen| Domain::open(&xen, domid));
    domain.is_err_and(|error| error.is_not_pv())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn without_xen(line: &str) -> bool {
        let words: Vec<_> = line.split_whitespace().map(OsString::from).collect();
        is_for_stock(&Call::parse(&words), None)
    }

    #[test]
    fn restores_colo_and_what_is_not_understood_are_for_the_stock_helper() {
        for line in [
            "--restore-domain 11 20 2 1 0 2 0 768 0",
            "--save-domain 15 11 7 1 136 2",
            "--save-domain 15 11 7 1 136 9",
            "--save-domain 15 11 7",
            "",
        ] {
            assert!(without_xen(line), "{line}");
        }
        for line in ["--save-domain 15 11 7 1 136 0", "--save-domain 15 11 7 3 136 1"] {
            assert!(!without_xen(line), "{line}");
        }
    }

    #[test]
    fn everything_is_for_the_stock_helper_of_a_xen_before_4_14() {
        let words = ["--save-domain", "15", "11", "7", "1", "136", "0"].map(OsString::from);
        let call = Call::parse(&words);
        for version in [(3, 4), (4, 0), (4, 12), (4, 13)] {
            assert!(is_for_stock(&call, Some(version)) && is_too_old(Some(version)));
        }
        // Here is no Xen that says anything of the domain.
        for version in [(4, 14), (4, 22), (5, 0)] {
            assert!(!is_for_stock(&call, Some(version)) && !is_too_old(Some(version)));
        }
    }
}
