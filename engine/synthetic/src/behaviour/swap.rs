// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames that change their pfn: p2m entries and `MMU_MACHPHYS_UPDATE`, page tables untouched.
//! Not here: frames that change their owner.
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: NetBSD, old netfront page flipping; `xen-save-path.md` 4.2 and 6.5.

use crate::behaviour::Plan;
use crate::program::{Name, Step, Val};

/// Which of the two tables is written first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Any order, at once.
    Any,
    /// The p2m, and rounds later the m2p.
    P2mFirst,
    /// The m2p, and rounds later the p2m.
    M2pFirst,
}

const fn entry(pfn: u64, mfn: u64) -> Step {
    Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) }
}

const fn machphys(mfn: u64, pfn: u64) -> Step {
    Step::Machphys { mfn: Val::Is(mfn), pfn }
}

impl Plan<'_> {
    /// Puts p2m writes and m2p writes in an order, with stores into the frames in between.
    pub(super) fn reorder(
        &mut self,
        order: Order,
        mut p2m: Vec<Step>,
        mut m2p: Vec<Step>,
        writes: Vec<Step>,
    ) -> Vec<Step> {
        self.dice().shuffle(&mut p2m);
        self.dice().shuffle(&mut m2p);
        let wait = vec![Step::AwaitRounds(self.dice().between(1, 3))];
        let updates = match order {
            Order::Any => self.dice().riffle(vec![p2m, m2p]),
            Order::P2mFirst => [p2m, wait, m2p].concat(),
            Order::M2pFirst => [m2p, wait, p2m].concat(),
        };
        self.dice().riffle(vec![updates, writes])
    }

    /// Two pfns swap their frames.
    pub(super) fn swap(&mut self, one: (u64, u64), two: (u64, u64), order: Order, data: &[u64]) {
        let p2m = vec![entry(one.0, two.1), entry(two.0, one.1)];
        let m2p = vec![machphys(one.1, two.0), machphys(two.1, one.0)];
        let stores = if self.chance(1, 2) { self.dice().below(4) } else { 0 };
        let writes = if data.is_empty() {
            vec![]
        } else {
            (0..stores).map(|_| Step::Write(Val::Is(self.dice().pick(data)))).collect()
        };
        let steps = self.reorder(order, p2m, m2p, writes);
        self.section(steps);
    }

    /// Two data pages swap.
    pub(super) fn frame_swap(&mut self) -> Option<()> {
        let (one, two) = (self.data()?, self.data()?);
        self.swap(one, two, Order::Any, &[one.1, two.1]);
        // Back again, or once more.
        if self.chance(1, 6) {
            let back = ((one.0, two.1), (two.0, one.1));
            self.swap(back.0, back.1, Order::Any, &[]);
        }
        Some(())
    }

    /// A data page moves to a pfn that has none.
    pub(super) fn frame_move(&mut self) -> Option<()> {
        self.move_to_hole(Order::Any)
    }

    fn move_to_hole(&mut self, order: Order) -> Option<()> {
        let (from, mfn) = self.data()?;
        let to = self.hole()?;
        let p2m = vec![entry(to, mfn), Step::Entry { pfn: from, name: Name::Nothing }];
        let writes = if self.chance(1, 3) { vec![Step::Write(Val::Is(mfn))] } else { vec![] };
        let steps = self.reorder(order, p2m, vec![machphys(mfn, to)], writes);
        self.section(steps);
        Some(())
    }

    /// A swap, a move or a page of the p2m itself, slowly.
    pub(super) fn slow_move(&mut self, order: Order) -> Option<()> {
        match self.dice().below(6) {
            0 | 1 => self.move_to_hole(order),
            2 => {
                let kernel = self.kernel_frame()?;
                let data = self.data()?;
                self.swap(kernel, data, order, &[data.1]);
                Some(())
            }
            _ => {
                let (one, two) = (self.data()?, self.data()?);
                self.swap(one, two, order, &[one.1, two.1]);
                Some(())
            }
        }
    }
}
