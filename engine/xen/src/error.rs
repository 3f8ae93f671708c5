// SPDX-License-Identifier: MIT OR Apache-2.0
//! A call that the hypervisor or the kernel refused: call, domain, errno, and what the user may do
//! about it.
//! Not here: what the engine makes of it (`p2mtrack::error`).
//! Units: errno as Linux numbers it; Xen's own numbers are the same ones.
//! Threads: plain values.
//! Source: Xen `public/errno.h`; causes of each errno: `xen-save-path.md` 6.2.

use std::{error, fmt, io};

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XenError {
    pub(crate) call: &'static str,
    domid: Option<u16>,
    errno: i32,
    pub(crate) hint: Option<&'static str>,
}

impl XenError {
    /// `call` failed with this errno.
    #[must_use]
    pub const fn new(call: &'static str, errno: i32) -> Self {
        Self { call, domid: None, errno, hint: None }
    }

    /// The call failed for this domain.
    #[must_use]
    pub(crate) const fn of(self, domid: u16) -> Self {
        Self { domid: Some(domid), ..self }
    }

    /// What the user may do about it.
    #[must_use]
    pub(crate) const fn hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// The errno.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        self.errno
    }
}

/// For `map_err`: an errno of this call.
pub(crate) fn failed(call: &'static str) -> impl FnOnce(i32) -> XenError {
    move |errno| XenError::new(call, errno)
}

impl fmt::Display for XenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.call)?;
        if let Some(domid) = self.domid {
            write!(f, " of domain {domid}")?;
        }
        write!(f, ": {}", io::Error::from_raw_os_error(self.errno))?;
        self.hint.map_or(Ok(()), |hint| write!(f, ": {hint}"))
    }
}

impl error::Error for XenError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_call_domain_errno_and_remedy() {
        let error = XenError::new("clean log-dirty", libc::ENOMEM).of(7).hint("enlarge the pool");
        let text = error.to_string();
        assert!(text.starts_with("clean log-dirty of domain 7: Cannot allocate memory"), "{text}");
        assert!(text.ends_with(": enlarge the pool"), "{text}");
        assert_eq!(error.errno(), 12);
    }
}
