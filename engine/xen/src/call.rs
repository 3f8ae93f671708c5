// SPDX-License-Identifier: MIT OR Apache-2.0
//! One hypercall: its argument is copied to memory that a hypercall can use, and back.
//! Not here: which calls there are (`domctl`, `memory`, `grant_table`, `version`).
//! Units: arguments are structures of the hypervisor's public headers.
//! Threads: one owner for each `Caller`.
//! Source: numbers of the calls: Xen `public/xen.h`.

#![expect(unsafe_code, reason = "a hypercall accesses any address that it gets; docs/safety.md")]

use std::sync::Arc;

use bytemuck::Pod;

use crate::buffer::Buffer;
use crate::error::XenError;
use crate::privcmd::Privcmd;

/// A hypercall that takes one structure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// `__HYPERVISOR_memory_op`.
    Memory(u32),
    /// `__HYPERVISOR_xen_version`.
    Version(u32),
    /// `__HYPERVISOR_grant_table_op`.
    GrantTable(u32),
    /// `__HYPERVISOR_sysctl`.
    Sysctl,
    /// `__HYPERVISOR_domctl`.
    Domctl,
}

impl Op {
    const fn arguments(self, address: u64) -> (u64, [u64; 5]) {
        match self {
            Self::Memory(command) => (12, [command as u64, address, 0, 0, 0]),
            Self::Version(command) => (17, [command as u64, address, 0, 0, 0]),
            Self::GrantTable(command) => (20, [command as u64, address, 1, 0, 0]),
            Self::Sysctl => (35, [address, 0, 0, 0, 0]),
            Self::Domctl => (36, [address, 0, 0, 0, 0]),
        }
    }
}

/// A way to make hypercalls.
#[derive(Debug)]
pub(crate) struct Caller {
    privcmd: Arc<Privcmd>,
    argument: Buffer,
}

impl Caller {
    pub(crate) fn new(privcmd: &Arc<Privcmd>) -> Result<Self, XenError> {
        Ok(Self { argument: Buffer::new(privcmd, 4096)?, privcmd: Arc::clone(privcmd) })
    }

    pub(crate) const fn privcmd(&self) -> &Arc<Privcmd> {
        &self.privcmd
    }

    /// Makes a call. What it wrote into its argument is copied back, also when it failed.
    ///
    /// # Errors
    /// Its errno.
    ///
    /// # Safety
    /// `T` is the structure that this call takes, and no longer than a page; every address in it is
    /// of a [`Buffer`] borrowed mutably for the call, and as long as the call takes it to be.
    pub(crate) unsafe fn call<T: Pod>(&mut self, op: Op, argument: &mut T) -> Result<u64, i32> {
        const { assert!(size_of::<T>() <= 4096) };
        let length = size_of::<T>();
        let page = bytemuck::cast_slice_mut::<u64, u8>(self.argument.words_mut());
        page[..length].copy_from_slice(bytemuck::bytes_of(argument));
        let (number, arguments) = op.arguments(self.argument.address());
        // SAFETY: the argument is a page of our own; addresses within it are the caller's promise.
        let answer = unsafe { self.privcmd.hypercall(number, arguments) };
        let page = bytemuck::cast_slice::<u64, u8>(self.argument.words());
        bytemuck::bytes_of_mut(argument).copy_from_slice(&page[..length]);
        answer
    }

    /// Makes a `xen_version` call, which writes its result into the argument.
    ///
    /// # Errors
    /// Its errno.
    pub(crate) fn version<T: Pod>(&mut self, command: u32, argument: &mut T) -> Result<u64, i32> {
        // SAFETY: no command of this call takes an address, and none writes more than a page.
        unsafe { self.call(Op::Version(command), argument) }
    }
}
