// SPDX-License-Identifier: MIT OR Apache-2.0
//! `GNTTABOP_transfer`: frames that come with contents of another domain, unmarked.
//! Not here: grants (`grant`, `backend`).
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: `xen/common/grant_table.c` gnttab_transfer; an entry meets a look unless the p2m is written while it stands.

use crate::behaviour::Plan;
use crate::grant::Offer;
use crate::program::{Name, Step, Val};
use crate::world::World;

/// Looks at the grant table between the last transfer and the withdrawal of its entry: without any the
/// offer is one that nobody can see.
const LOOKS: u64 = 1;

/// When a look at the grant table meets a transfer entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Before the frame comes.
    AtTheOffer,
    /// Once it came.
    AtTheFrame,
}

impl Plan<'_> {
    /// A frame of another domain arrives at a ballooned pfn.
    pub(super) fn transfer_in(&mut self) -> Option<()> {
        let pfn = self.hole()?;
        let mfn = self.take_foreign()?;
        self.push(Step::Accept(pfn));
        self.arrive(pfn, mfn, true);
        Some(())
    }

    fn wait_if(&mut self, slow: bool) {
        let wait = if slow { self.maybe_wait() } else { vec![] };
        self.extend(wait);
    }

    /// A frame of another domain that nobody maps; it is not theirs to free any more.
    pub(super) fn take_foreign(&mut self) -> Option<u64> {
        let at = {
            let World { others, xen, dice, .. } = &mut *self.world;
            (0..8).find_map(|_| {
                let at = dice.index(others.len());
                (xen.machine.refs(*others.get(at)?) == 0).then_some(at)
            })?
        };
        Some(self.world.others.swap_remove(at))
    }

    fn arrive(&mut self, pfn: u64, mfn: u64, slow: bool) {
        self.wait_if(slow);
        self.extend([Step::WriteUnlogged(mfn), Step::TransferIn { mfn, pfn }]);
        self.wait_if(slow);
        self.push(Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) });
        if self.chance(1, 4) {
            self.push(Step::Write(Val::Is(mfn)));
        }
        self.extend([Step::AwaitLooks(LOOKS), Step::Withdraw]);
    }

    /// A frame goes to another domain, which writes it, and comes back to the same pfn.
    pub(super) fn transfer_back(&mut self) -> Option<()> {
        let (pfn, mfn) = self.unmapped_data()?;
        let there = self.dice().below(1 << 16);
        // Most transfers take no time; some pages were surely copied before.
        let slow = self.chance(1, 3);
        if self.chance(1, 6) {
            self.push(Step::AwaitRounds(1));
        }
        self.push(Step::Accept(pfn));
        if self.chance(1, 2) {
            self.push(Step::Write(Val::Is(mfn)));
        }
        self.push(Step::Entry { pfn, name: Name::Nothing });
        self.wait_if(slow);
        self.push(Step::TransferOut { mfn, pfn, there, touched: true });
        self.arrive(pfn, mfn, slow);
        Some(())
    }

    /// Transfers whose entry of the p2m is written at no other moment than it has to be, and offers that stand no longer.
    pub(super) fn transfers(&mut self) -> Option<()> {
        match self.dice().below(8) {
            0..3 => self.given_and_got_back(),
            3..6 => self.comes_by_transfer(),
            6 => self.swift(),
            _ => self.in_vain(),
        }
    }

    /// A frame goes out and comes back with the contents of another domain. Its entry stays all the while, or is written
    /// again afterwards: as it was, or with another tag.
    fn given_and_got_back(&mut self) -> Option<()> {
        let (pfn, mfn) = self.unmapped_data()?;
        let own = Val::Is(mfn);
        let there = self.dice().below(1 << 16);
        let tagged = self.chance(1, 3);
        if tagged {
            self.push(Step::Entry { pfn, name: Name::Foreign(own) });
            self.wait_if(true);
        }
        let rewritten = self.chance(1, 2);
        let look = self.look(!rewritten);
        self.push(Step::Accept(pfn));
        self.look_if(look == Some(Look::AtTheOffer));
        self.push(Step::Open);
        self.push(Step::TransferOut { mfn, pfn, there, touched: tagged });
        self.wait_if(true);
        self.come(pfn, mfn);
        if rewritten {
            let name = self.foreign_name(own);
            self.push(Step::Entry { pfn, name });
        }
        self.push(Step::Close);
        self.look_if(look == Some(Look::AtTheFrame));
        self.push(Step::Withdraw);
        if tagged || rewritten {
            let wait = self.dice().between(1, 9);
            self.extend([Step::AwaitRounds(wait), Step::Entry { pfn, name: Name::Frame(own) }]);
        }
        Some(())
    }

    /// A frame goes out for good, and only much later its entry: whoever looks at entries alone finds nothing. The other
    /// domain may have it at the same pfn.
    pub(super) fn given_away(&mut self) -> Option<()> {
        self.has_frames_to_spare()?;
        let (pfn, mfn) = self.unmapped_data()?;
        let same = self.chance(1, 2);
        let there = if same { pfn } else { self.dice().below(1 << 16) };
        if self.chance(1, 2) {
            self.push(Step::Write(Val::Is(mfn)));
        }
        self.push(Step::TransferOut { mfn, pfn, there, touched: false });
        let wait = self.dice().between(1, 9);
        self.extend([Step::AwaitRounds(wait), Step::Entry { pfn, name: Name::Nothing }]);
        Some(())
    }

    /// A pfn names a frame of another domain, and that frame comes to it: nobody writes the entry any more.
    fn comes_by_transfer(&mut self) -> Option<()> {
        let pfn = self.hole()?;
        let mfn = self.take_foreign()?;
        let name = self.foreign_name(Val::Is(mfn));
        let mut before = vec![Step::Entry { pfn, name }];
        let wait = self.dice().between(1, 6);
        before.push(Step::AwaitRounds(wait));
        let late = self.chance(1, 4);
        let look = self.look(true);
        if late {
            self.push(Step::Accept(pfn));
            self.extend(before);
        } else {
            self.extend(before);
            self.push(Step::Accept(pfn));
        }
        self.look_if(look == Some(Look::AtTheOffer));
        self.come(pfn, mfn);
        self.look_if(look == Some(Look::AtTheFrame));
        self.push(Step::Withdraw);
        let wait = self.dice().between(1, 9);
        self.push(Step::AwaitRounds(wait));
        self.push(Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) });
        Some(())
    }

    /// Offered, used and withdrawn before anybody looks; the entry is written.
    fn swift(&mut self) -> Option<()> {
        let back = self.chance(1, 2);
        let (pfn, mfn) =
            if back { self.unmapped_data()? } else { (self.hole()?, self.take_foreign()?) };
        self.push(Step::Accept(pfn));
        if back {
            let there = self.dice().below(1 << 16);
            self.push(Step::Entry { pfn, name: Name::Nothing });
            self.push(Step::TransferOut { mfn, pfn, there, touched: true });
        }
        self.come(pfn, mfn);
        self.extend([Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) }, Step::Withdraw]);
        Some(())
    }

    /// Nobody takes the offer up.
    fn in_vain(&mut self) -> Option<()> {
        let pfn = self.hole()?;
        self.push(Step::Accept(pfn));
        self.wait_if(true);
        self.push(Step::Withdraw);
        Some(())
    }

    /// Another domain writes a frame and gives it: Xen writes the entry of the grant table at once, or word by word.
    fn come(&mut self, pfn: u64, mfn: u64) {
        self.push(Step::WriteUnlogged(mfn));
        if self.chance(1, 2) {
            return self.push(Step::TransferIn { mfn, pfn });
        }
        self.push(Step::Offer(Offer::Committed(pfn)));
        self.push(Step::TransferIn { mfn, pfn });
        self.push(Step::Offer(Offer::Committed(mfn)));
        self.push(Step::Offer(Offer::Completed(mfn)));
    }

    /// The look that meets a transfer entry; it must meet one unless the p2m is written.
    fn look(&mut self, must: bool) -> Option<Look> {
        let any = [Some(Look::AtTheOffer), Some(Look::AtTheFrame), None];
        self.dice().pick(if must { &any[..2] } else { &any[..] })
    }

    fn look_if(&mut self, wanted: bool) {
        self.extend(wanted.then_some(Step::AwaitLooks(LOOKS)));
    }
}
