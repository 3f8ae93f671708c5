// SPDX-License-Identifier: MIT OR Apache-2.0
//! What xenstore says of a domain.
//! Not here: suspend and resume (`suspend`).
//! Units: KiB as in `memory/target`.
//! Threads: one owner.
//! Source: Xen `docs/misc/xenstore-paths.pandoc`.

use std::io;

use crate::domain::Domain;
use crate::xenstore::Xenstore;

/// A domain's part of xenstore.
#[derive(Debug)]
pub struct DomainStore {
    store: Xenstore,
    domid: u16,
}

impl DomainStore {
    /// For a domain.
    ///
    /// # Errors
    /// No xenstore.
    pub fn open(domain: &Domain) -> io::Result<Self> {
        Ok(Self { store: Xenstore::open()?, domid: domain.domid() })
    }

    /// How much memory the guest is to have, in KiB; `None` if that is not said.
    ///
    /// # Errors
    /// xenstore's, or it says no number.
    pub fn target_kib(&mut self) -> io::Result<Option<u64>> {
        let path = format!("/local/domain/{}/memory/target", self.domid);
        let Some(value) = self.store.value(&path)? else { return Ok(None) };
        let number = String::from_utf8_lossy(&value).parse();
        let words = || format!("{path} is no number: {}", value.escape_ascii());
        number.map(Some).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, words()))
    }

    /// Its name; `None` if it has none.
    ///
    /// # Errors
    /// xenstore's.
    pub fn name(&mut self) -> io::Result<Option<String>> {
        let name = self.store.value(&format!("/local/domain/{}/name", self.domid))?;
        Ok(name.map(|name| String::from_utf8_lossy(&name).into_owned()))
    }

    /// Whether PCI devices of this control domain are assigned to it.
    ///
    /// # Errors
    /// xenstore's.
    pub fn has_pci_devices(&mut self) -> io::Result<bool> {
        Ok(!self.store.names(&format!("backend/pci/{}", self.domid))?.is_empty())
    }
}
