// SPDX-License-Identifier: MIT OR Apache-2.0
//! The running hypervisor: its version, and the version of the tools' interface that it accepts.
//! Not here: any operation on a domain (`domctl`).
//! Units: versions as Xen numbers them.
//! Threads: a handle is shared; each port makes its own calls.
//! Source: Xen `public/domctl.h`, `version.h`: a domctl of another version is answered with EACCES.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::call::Caller;
use crate::domctl::Domctl;
use crate::error::{XenError, failed};
use crate::privcmd::Privcmd;

/// A version of the tools' interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomctlVersion(pub u32);

/// Versions whose structures were compared, with the Xen that has them. Tested on: 4.17.
pub const KNOWN_DOMCTLS: [(DomctlVersion, &str); 7] = [
    (DomctlVersion(0x12), "4.13, 4.14"),
    (DomctlVersion(0x13), "4.15"),
    (DomctlVersion(0x14), "4.16"),
    (DomctlVersion(0x15), "4.17"),
    (DomctlVersion(0x16), "4.18"),
    (DomctlVersion(0x17), "4.19 to 4.21"),
    (DomctlVersion(0x18), "4.22"),
];

/// How often a call is tried that fails with EFAULT.
const TRIES: u32 = 4;

/// Versions after the known ones are tried up to this one.
const SEARCHED: u32 = 0x40;

impl DomctlVersion {
    /// Whether its structures are known.
    fn is_known(self) -> bool {
        KNOWN_DOMCTLS.iter().any(|(known, _)| *known == self)
    }
}

impl fmt::Display for DomctlVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What to do about an interface version that is not in [`KNOWN_DOMCTLS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unknown {
    /// Refuse.
    #[default]
    Refuse,
    /// Assume the structures of the last known one. They have not moved for ten years.
    Accept,
}

/// A hypervisor.
#[derive(Clone, Debug)]
pub struct Xen {
    pub(crate) privcmd: Arc<Privcmd>,
    domctl: DomctlVersion,
}

impl Xen {
    /// Opens the hypervisor's interface and finds its version.
    ///
    /// # Errors
    /// No Xen, no permission, or no known version.
    pub fn open(unknown: Unknown) -> Result<Self, XenError> {
        let privcmd = Privcmd::open().map_err(|error| cannot_open(&error))?;
        let privcmd = Arc::new(privcmd);
        let domctl = probe(|version| Domctl::new(&privcmd, version)?.ask())?;
        if !domctl.is_known() && unknown == Unknown::Refuse {
            return Err(XenError::new("find the domctl version", libc::EACCES)
                .hint("this Xen's version is newer than this program"));
        }
        Ok(Self { privcmd, domctl })
    }

    /// Whether foreign pages are unmapped by Xen's calls, as far as these work
    /// (`docs/decisions/0029`); `None` if none were yet.
    #[must_use]
    pub fn unmaps_by_calls(&self) -> Option<bool> {
        self.privcmd.unmaps_by_calls()
    }

    /// The running hypervisor's version as two numbers, whatever interface it has.
    ///
    /// # Errors
    /// No Xen, or no permission.
    pub fn running_version() -> Result<(u32, u32), XenError> {
        let privcmd = Privcmd::open().map_err(|error| cannot_open(&error))?;
        let mut caller = Caller::new(&Arc::new(privcmd))?;
        numbers(&mut caller).map_err(failed("ask for Xen's version"))
    }

    /// The version of the tools' interface.
    #[must_use]
    pub const fn domctl(&self) -> DomctlVersion {
        self.domctl
    }

    /// The hypervisor's version as two numbers.
    ///
    /// # Errors
    /// The call fails.
    pub fn version_numbers(&self) -> Result<(u32, u32), XenError> {
        let mut caller = Caller::new(&self.privcmd)?;
        numbers(&mut caller).map_err(failed("ask for Xen's version"))
    }

    /// The hypervisor's version, such as `4.17.5`.
    ///
    /// # Errors
    /// The call fails.
    pub fn version(&self) -> Result<String, XenError> {
        let mut caller = Caller::new(&self.privcmd)?;
        name(&mut caller).map_err(failed("ask for Xen's version"))
    }

    pub(crate) fn calls(&self) -> Result<Domctl, XenError> {
        Domctl::new(&self.privcmd, self.domctl.0)
    }
}

fn cannot_open(error: &io::Error) -> XenError {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    XenError::new("open /dev/xen/privcmd", errno).hint(match errno {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => {
            "no Xen, not its control domain, or the module xen-privcmd is not loaded"
        }
        libc::EACCES | libc::EPERM => "only root may",
        _ => "the control domain's kernel refuses",
    })
}

/// The version that `ask` does not answer with EACCES.
fn probe(
    mut ask: impl FnMut(u32) -> Result<Result<(), i32>, XenError>,
) -> Result<DomctlVersion, XenError> {
    let known = KNOWN_DOMCTLS.iter().rev().map(|(version, _)| version.0);
    let last = KNOWN_DOMCTLS[KNOWN_DOMCTLS.len() - 1].0.0;
    let call = "find the domctl version";
    for version in known.chain(last + 1..SEARCHED) {
        let mut answers = (0..TRIES).map(|_| ask(version));
        // EFAULT says nothing about the version.
        let answer = answers.find(|answer| !matches!(answer, Ok(Err(libc::EFAULT))));
        match answer.unwrap_or(Ok(Err(libc::EFAULT)))? {
            Err(libc::EACCES) => {}
            // Xen checks the version before it answers these.
            Ok(()) | Err(libc::ESRCH) => return Ok(DomctlVersion(version)),
            Err(libc::EPERM) => {
                return Err(XenError::new(call, libc::EPERM).hint("not a control domain"));
            }
            Err(errno) => return Err(XenError::new(call, errno)),
        }
    }
    Err(XenError::new(call, libc::EACCES).hint("Xen refuses every version that was tried"))
}

impl Domctl {
    /// A harmless call, for its errno.
    fn ask(mut self) -> Result<Result<(), i32>, XenError> {
        Ok(self.domain_info(0).map(|_| ()))
    }
}

fn numbers(caller: &mut Caller) -> Result<(u32, u32), i32> {
    const VERSION: u32 = 0;
    let number = caller.version(VERSION, &mut 0_u64)?;
    Ok(((number >> 16) as u32, (number & 0xffff) as u32))
}

fn name(caller: &mut Caller) -> Result<String, i32> {
    const EXTRAVERSION: u32 = 1;
    let (major, minor) = numbers(caller)?;
    let mut extra = [0_u8; 16];
    caller.version(EXTRAVERSION, &mut extra)?;
    let end = extra.iter().position(|&byte| byte == 0).unwrap_or(extra.len());
    let extra = String::from_utf8_lossy(&extra[..end]);
    Ok(format!("{major}.{minor}{extra}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_by_asking() {
        let finds = |speaks: u32, other: Result<(), i32>| {
            probe(|version| Ok(if version == speaks { other } else { Err(libc::EACCES) }))
        };
        for speaks in [0x12, 0x15, 0x18, 0x1a] {
            for answer in [Ok(()), Err(libc::ESRCH)] {
                let found = finds(speaks, answer).expect("found");
                assert_eq!(found, DomctlVersion(speaks));
                assert_eq!(found.is_known(), speaks <= 0x18);
            }
        }
        let mut faults = 3;
        let found = probe(|_| {
            faults -= 1;
            Ok(if faults >= 0 { Err(libc::EFAULT) } else { Ok(()) })
        });
        assert_eq!(found, Ok(DomctlVersion(0x18)));
        assert_eq!(probe(|_| Ok(Err(libc::EFAULT))).expect_err("no").errno(), libc::EFAULT);
        assert_eq!(finds(0x11, Ok(())).expect_err("too old").errno(), libc::EACCES);
        let error = probe(|_| Ok(Err(libc::EPERM))).expect_err("a guest");
        assert!(error.to_string().ends_with("not a control domain"), "{error}");
    }
}
