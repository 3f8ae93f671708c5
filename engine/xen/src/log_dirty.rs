// SPDX-License-Identifier: MIT OR Apache-2.0
//! Xen's write log of a domain: on, off, read and clear.
//! Not here: recovery (the tracker: after a failed CLEAN it switches off and on and owes
//! everything).
//! Units: pfns; bit `pfn & 7` of byte `pfn >> 3`.
//! Threads: one owner.
//! Source: `xen-save-path.md` 6: one call for the whole prefix, ENOMEM sticks until OFF, EBUSY is
//! another program's call.

use std::thread;
use std::time::Duration;

use p2mtrack::bitmap::PfnBitmap;
use p2mtrack::port::{LOG_DIRTY_LEAF_PFNS, LogBuffer, LogDirty, PortError};

use crate::buffer::Buffer;
use crate::domain::Domain;
use crate::domctl::ShadowOp;
use crate::error::XenError;

/// How often a call is tried while Xen is busy: another program's call takes milliseconds.
const BUSY_TRIES: u32 = 200;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The buffer's size is rounded up to a multiple of this, to allow for growth: the log of 8 GiB.
const SPARE_PFNS: u64 = 1 << 21;

/// What to do when log-dirty is on already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfOn {
    /// Refuse: it is another program's.
    #[default]
    Refuse,
    /// Switch it off first, whichever program left it on.
    TakeOver,
}

/// Where the log comes from: a domain, or a test's script.
trait Shadow {
    /// On or off.
    fn switch(&mut self, op: ShadowOp) -> Result<(), i32>;
    /// Fills [`Shadow::words`] with the log of the prefix `0..pfns`. Returns how many pfns of it
    /// were read.
    fn read(&mut self, op: ShadowOp, pfns: u64) -> Result<u64, i32>;
    /// What was read last, possibly with words of earlier reads.
    fn words(&self) -> &[u64];
    /// An error if the domain is dying or gone.
    fn is_there(&mut self) -> Result<(), XenError>;
    fn domid(&self) -> u16;
}

/// A domain's log.
#[derive(Debug)]
struct DomainLog {
    domain: Domain,
    bitmap: Option<Buffer>,
}

impl Shadow for DomainLog {
    fn switch(&mut self, op: ShadowOp) -> Result<(), i32> {
        let domid = self.domain.domid();
        self.domain.calls().shadow(domid, op)
    }

    fn read(&mut self, op: ShadowOp, pfns: u64) -> Result<u64, i32> {
        let domid = self.domain.domid();
        let bytes = pfns.div_ceil(8);
        if self.bitmap.as_ref().is_none_or(|bitmap| (bitmap.bytes() as u64) < bytes) {
            let spare = pfns.next_multiple_of(SPARE_PFNS).div_ceil(8) as usize;
            let privcmd = self.domain.calls().privcmd();
            let bitmap = Buffer::new(privcmd, spare).or_else(|_| {
                self.bitmap = None; // there may be no memory for both at once
                Buffer::new(privcmd, spare)
            });
            self.bitmap = Some(bitmap.map_err(|error| error.errno())?);
        }
        let Some(bitmap) = &mut self.bitmap else { return Err(libc::ENOMEM) };
        self.domain.calls().shadow_bitmap(domid, op, bitmap, pfns)
    }

    fn words(&self) -> &[u64] {
        self.bitmap.as_ref().map_or(&[], Buffer::words)
    }

    fn is_there(&mut self) -> Result<(), XenError> {
        self.domain.info().map(|_| ())
    }

    fn domid(&self) -> u16 {
        self.domain.domid()
    }
}

/// A domain's write log as a port.
#[derive(Debug)]
pub struct XenLogDirty {
    log: Log<DomainLog>,
}

#[derive(Debug)]
struct Log<S> {
    shadow: S,
    if_on: IfOn,
    /// It is on, and we switched it on.
    ours: bool,
}

impl XenLogDirty {
    /// The log of a domain. Nothing is switched yet.
    ///
    /// # Errors
    /// No memory.
    pub fn new(domain: &Domain) -> Result<Self, XenError> {
        let shadow = DomainLog { domain: domain.another()?, bitmap: None };
        Ok(Self { log: Log { shadow, if_on: IfOn::Refuse, ours: false } })
    }

    /// `enable`, with `if_on` for a log that is on already.
    pub(crate) fn switch_on(&mut self, if_on: IfOn) -> Result<(), XenError> {
        self.log.if_on = if_on;
        self.log.enable()
    }

    /// Notes that a guard has switched it on for this tracker.
    pub(crate) const fn adopt(&mut self) {
        self.log.own();
    }

    /// Switches off what a dead tracker left on.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn switch_off_after(&mut self) -> Result<(), XenError> {
        self.log.off()
    }

    /// Switches it off, if we have it on.
    ///
    /// # Errors
    /// The hypervisor's.
    pub(crate) fn switch_off(&mut self) -> Result<(), XenError> {
        self.log.disable()
    }

    /// The error of an `enable` that the guard made.
    pub(crate) fn refused(&self, errno: i32) -> XenError {
        self.log.error(ENABLE, errno)
    }

    /// Reads the log of `0..into.pfns()` without clearing it. Returns how many pfns were read.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn peek(&mut self, into: &mut PfnBitmap) -> Result<u64, XenError> {
        into.reset(into.pfns());
        self.log.read(ShadowOp::Peek, LogBuffer::over(into))
    }
}

impl LogDirty for XenLogDirty {
    fn enable(&mut self) -> Result<(), PortError> {
        Ok(self.log.enable()?)
    }

    fn disable(&mut self) -> Result<(), PortError> {
        Ok(self.switch_off()?)
    }

    fn clean(&mut self, into: LogBuffer<'_>) -> Result<u64, PortError> {
        Ok(self.log.read(ShadowOp::Clean, into)?)
    }
}

/// The call that switches log-dirty on.
pub const ENABLE: &str = "enable log-dirty";

impl XenError {
    /// Whether log-dirty could not be switched on, possibly because it is on.
    #[must_use]
    pub fn is_on_already(&self) -> bool {
        self.is_of_log_dirty() && self.errno() == libc::EINVAL
    }

    /// Whether log-dirty could not be switched on.
    #[must_use]
    pub fn is_of_log_dirty(&self) -> bool {
        self.call == ENABLE
    }
}

impl<S> Log<S> {
    /// Makes the log ours. `TakeOver` holds only for the first time: from now on, a log that is on
    /// and not ours is refused.
    const fn own(&mut self) {
        (self.ours, self.if_on) = (true, IfOn::Refuse);
    }
}

impl<S: Shadow> Log<S> {
    fn enable(&mut self) -> Result<(), XenError> {
        let mut result = self.patiently(|shadow| shadow.switch(ShadowOp::EnableLogDirty));
        if result == Err(libc::EINVAL) && (self.ours || self.if_on == IfOn::TakeOver) {
            self.off()?;
            result = self.patiently(|shadow| shadow.switch(ShadowOp::EnableLogDirty));
        }
        result.map_err(|errno| self.error(ENABLE, errno))?;
        self.own();
        Ok(())
    }

    /// Leaves a log alone that is not ours.
    fn disable(&mut self) -> Result<(), XenError> {
        if self.ours { self.off() } else { Ok(()) }
    }

    fn off(&mut self) -> Result<(), XenError> {
        let off = self.patiently(|shadow| shadow.switch(ShadowOp::Off));
        off.map_err(|errno| self.error("disable log-dirty", errno))?;
        self.ours = false; // another program may switch it on now
        Ok(())
    }

    /// Adds to `into` also what was read before an error: after a CLEAN, Xen does not have it.
    fn read(&mut self, op: ShadowOp, mut into: LogBuffer<'_>) -> Result<u64, XenError> {
        let call = if op == ShadowOp::Clean { "clean log-dirty" } else { "peek at log-dirty" };
        let pfns = into.pfns();
        if pfns == 0 || !pfns.is_multiple_of(LOG_DIRTY_LEAF_PFNS) {
            return Err(self.error(call, libc::EINVAL)); // a CLEAN clears whole leaves of the log
        }
        let result = self.patiently(|shadow| shadow.read(op, pfns));
        into.add(0, self.shadow.words());
        let read = result.map_err(|errno| self.error(call, errno))?;
        // Of a dying domain Xen does nothing and answers 0: the log looks read, and empty.
        self.shadow.is_there()?;
        Ok(read)
    }

    /// Repeats a call while Xen is busy with another one for this domain.
    fn patiently<T>(&mut self, mut call: impl FnMut(&mut S) -> Result<T, i32>) -> Result<T, i32> {
        for _ in 1..BUSY_TRIES {
            match call(&mut self.shadow) {
                Err(libc::EBUSY) => thread::sleep(BUSY_PAUSE),
                result => return result,
            }
        }
        call(&mut self.shadow)
    }

    fn error(&self, call: &'static str, errno: i32) -> XenError {
        let error = XenError::new(call, errno).of(self.shadow.domid());
        match errno {
            libc::EINVAL if call == ENABLE => error.hint(
                "it is on already (another program migrates or tracks this domain, or died doing \
                 so), or a PCI device is assigned",
            ),
            libc::EOPNOTSUPP | libc::ENOSYS => {
                error.hint("this Xen is built without shadow paging (CONFIG_SHADOW_PAGING)")
            }
            libc::ENOMEM => error.hint("the domain's paging pool, or the machine, is too small"),
            libc::EBUSY => error.hint("another program's call for this domain does not end"),
            libc::ESRCH => error.hint("the domain is gone"),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A log that answers from a script.
    #[derive(Default)]
    struct Script {
        on: bool,
        /// Another program switches it on as soon as it is off.
        thief: bool,
        device: bool,
        busy: u32,
        answers: VecDeque<Result<u64, i32>>,
        words: Vec<u64>,
        calls: Vec<ShadowOp>,
        dying: bool,
    }

    impl Script {
        fn busy(&mut self, op: ShadowOp) -> Result<(), i32> {
            self.calls.push(op);
            if self.busy > 0 {
                self.busy -= 1;
                return Err(libc::EBUSY);
            }
            Ok(())
        }
    }

    impl Shadow for Script {
        fn switch(&mut self, op: ShadowOp) -> Result<(), i32> {
            self.busy(op)?;
            if op == ShadowOp::EnableLogDirty && (self.on || self.device) {
                return Err(libc::EINVAL);
            }
            self.on = op == ShadowOp::EnableLogDirty || self.thief;
            Ok(())
        }

        fn read(&mut self, op: ShadowOp, pfns: u64) -> Result<u64, i32> {
            self.busy(op)?;
            self.answers.pop_front().unwrap_or(Ok(pfns))
        }

        fn words(&self) -> &[u64] {
            &self.words
        }

        fn is_there(&mut self) -> Result<(), XenError> {
            let gone = XenError::new("get the state", libc::ESRCH).of(3);
            if self.dying { Err(gone) } else { Ok(()) }
        }

        fn domid(&self) -> u16 {
            3
        }
    }

    const fn log(shadow: Script, if_on: IfOn) -> Log<Script> {
        Log { shadow, if_on, ours: false }
    }

    #[test]
    fn a_log_that_is_on_already_is_taken_over_only_on_request() {
        let on = || Script { on: true, ..Script::default() };
        let error = log(on(), IfOn::Refuse).enable().expect_err("refused");
        assert!(error.to_string().contains("domain 3") && error.is_on_already());
        let mut taken = log(on(), IfOn::TakeOver);
        taken.enable().expect("taken over");
        assert!(taken.shadow.on);
        // Once, and not again later in the run.
        taken.disable().expect("off");
        taken.shadow.on = true;
        assert_eq!(taken.enable().expect_err("theirs").errno(), libc::EINVAL);
        // An assigned device prevents log-dirty in any case.
        let device = Script { device: true, ..Script::default() };
        assert_eq!(log(device, IfOn::TakeOver).enable().expect_err("device").errno(), libc::EINVAL);
    }

    #[test]
    fn only_our_own_log_is_restarted() {
        let mut log = log(Script::default(), IfOn::Refuse);
        log.enable().expect("on");
        // OFF failed after a CLEAN that failed: it is still on, and ours.
        log.enable().expect("off and on again");
        assert_eq!(
            log.shadow.calls[1..],
            [ShadowOp::EnableLogDirty, ShadowOp::Off, ShadowOp::EnableLogDirty]
        );
        // Another program switches it on between our OFF and our ON.
        log.shadow.thief = true;
        assert_eq!(log.enable().expect_err("theirs").errno(), libc::EINVAL);
        log.disable().expect("nothing to do");
        assert!(log.shadow.on);
        let mut log = self::log(Script::default(), IfOn::Refuse);
        log.enable().expect("on");
        log.disable().expect("off");
        log.shadow.on = true; // by another program, again
        assert_eq!(log.enable().expect_err("theirs").errno(), libc::EINVAL);
        log.disable().expect("nothing to do");
        assert!(log.shadow.on);
    }

    #[test]
    fn a_busy_hypervisor_is_waited_for_but_not_for_ever() {
        let mut log = log(Script { busy: 3, ..Script::default() }, IfOn::Refuse);
        log.enable().expect("on in the end");
        assert_eq!(log.shadow.calls.len(), 4);
        log.shadow.busy = u32::MAX;
        log.own();
        assert_eq!(log.disable().expect_err("never").errno(), libc::EBUSY);
    }

    #[test]
    fn law_4_what_was_read_before_an_error_is_kept() {
        let words = vec![0b101, 1 << 63];
        let mut log = log(Script { words, ..Script::default() }, IfOn::Refuse);
        log.shadow.answers = [Err(libc::EFAULT), Err(libc::ENOMEM), Ok(100)].into();
        for errno in [libc::EFAULT, libc::ENOMEM] {
            let mut into = PfnBitmap::new(LOG_DIRTY_LEAF_PFNS);
            let error = log.read(ShadowOp::Clean, LogBuffer::over(&mut into)).expect_err("fails");
            assert_eq!((error.errno(), into.count()), (errno, 3));
        }
        let mut into = PfnBitmap::new(LOG_DIRTY_LEAF_PFNS);
        assert_eq!(log.read(ShadowOp::Clean, LogBuffer::over(&mut into)), Ok(100));
    }

    #[test]
    fn law_4_the_empty_log_of_a_dying_domain_is_an_error() {
        for op in [ShadowOp::Clean, ShadowOp::Peek] {
            let mut log = log(Script { dying: true, ..Script::default() }, IfOn::Refuse);
            let mut into = PfnBitmap::new(LOG_DIRTY_LEAF_PFNS);
            let error = log.read(op, LogBuffer::over(&mut into)).expect_err("it is dying");
            assert_eq!((error.errno(), log.shadow.calls.len()), (libc::ESRCH, 1));
        }
    }

    #[test]
    fn a_prefix_that_would_clear_unread_bits_is_refused() {
        let mut log = log(Script::default(), IfOn::Refuse);
        for pfns in [0, 1, LOG_DIRTY_LEAF_PFNS + 64] {
            let mut into = PfnBitmap::new(pfns);
            let error = log.read(ShadowOp::Clean, LogBuffer::over(&mut into)).expect_err("refused");
            assert_eq!(error.errno(), libc::EINVAL);
        }
        assert!(log.shadow.calls.is_empty());
    }
}
