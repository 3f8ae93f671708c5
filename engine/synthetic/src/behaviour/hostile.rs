// SPDX-License-Identifier: MIT OR Apache-2.0
//! A guest that lies: about its roots, its p2m and its m2p; it may be suspended amid any lie.
//! Not here: anything that an honest guest does.
//! Units: pfn and mfn as plain numbers.
//! Threads: under the world's lock.
//! Source: law 6 of the project's design.

use crate::behaviour::plan::Plan;
use crate::behaviour::reshape::own_leaf;
use crate::grant::Offer;
use crate::guest::Layout;
use crate::program::{Name, Step, Val};

/// A lie, some rounds, and perhaps the truth again.
pub(super) fn hostile(plan: &mut Plan<'_>) -> Option<()> {
    let (lie, truth) = match plan.dice.below(12) {
        0 => odd_generation(plan),
        1 => (vec![Step::Generation(plan.dice.word())], vec![]),
        2 => alias(plan)?,
        3 => named_word(plan, false)?,
        4 => named_word(plan, true)?,
        5 => m2p_lie(plan)?,
        6 => wrong_count(plan)?,
        7 => wrong_roots(plan)?,
        8 => wrong_slot(plan, 0)?,
        9 => wrong_slot(plan, 1)?,
        10 => wrong_transfer(plan),
        _ => wrong_slot(plan, 2)?,
    };
    plan.extend(lie);
    let wait = plan.dice.between(1, 6);
    plan.push(Step::AwaitRounds(wait));
    plan.extend(truth);
    Some(())
}

fn odd_generation(plan: &mut Plan<'_>) -> (Vec<Step>, Vec<Step>) {
    let now = plan.guest.roots.generation;
    (vec![Step::Generation(now | 1)], vec![Step::Generation((now | 1).wrapping_add(1))])
}

/// Two pfns name one frame.
fn alias(plan: &mut Plan<'_>) -> Option<(Vec<Step>, Vec<Step>)> {
    let ((pfn, own), (_, other)) = (plan.data()?, plan.data()?);
    let entry = |mfn| Step::Entry { pfn, name: Name::Frame(Val::Is(mfn)) };
    Some((vec![entry(other)], vec![entry(own)]))
}

/// An entry names a frame of another domain, or is any word.
fn named_word(plan: &mut Plan<'_>, any: bool) -> Option<(Vec<Step>, Vec<Step>)> {
    let (pfn, own) = plan.data()?;
    let word = if any { plan.dice.word() } else { plan.foreign()? };
    let lie = Step::Entry { pfn, name: Name::Word(word) };
    Some((vec![lie], vec![Step::Entry { pfn, name: Name::Frame(Val::Is(own)) }]))
}

/// A transfer entry names any word.
fn wrong_transfer(plan: &mut Plan<'_>) -> (Vec<Step>, Vec<Step>) {
    let word = if plan.chance(1, 2) { plan.dice.word() } else { plan.dice.below(1 << 17) };
    let offer =
        plan.dice.pick(&[Offer::Made(word), Offer::Committed(word), Offer::Completed(word)]);
    (vec![Step::Accept(word), Step::Offer(offer)], vec![Step::Withdraw])
}

fn m2p_lie(plan: &mut Plan<'_>) -> Option<(Vec<Step>, Vec<Step>)> {
    let (pfn, mfn) = plan.data()?;
    let mfn = Val::Is(mfn);
    let wrong = if plan.chance(1, 4) { 1 << 31 } else { plan.dice.below(1 << 17) };
    Some((vec![Step::Machphys { mfn, pfn: wrong }], vec![Step::Machphys { mfn, pfn }]))
}

fn wrong_count(plan: &mut Plan<'_>) -> Option<(Vec<Step>, Vec<Step>)> {
    plan.lock_structure()?;
    let now = plan.guest.roots.pfn_count;
    let wrong = plan.dice.pick(&[0, 1, 2 * now, 1 << 27, 1 << 31, 1 << 40, 1 << 63, u64::MAX]);
    let wrong = if plan.guest.width.bits() == 32 { wrong & 0xffff_ffff } else { wrong };
    Some((vec![Step::Count(wrong)], vec![Step::Count(now)]))
}

/// Roots that point to nothing, to another domain, or to a page of data.
fn wrong_roots(plan: &mut Plan<'_>) -> Option<(Vec<Step>, Vec<Step>)> {
    plan.lock_structure()?;
    let roots = plan.guest.roots;
    let foreign = plan.foreign()?;
    let (_, data) = plan.data()?;
    let mfn = plan.dice.pick(&[0, foreign, data, 1 << 30, u64::MAX]);
    let width = plan.guest.width;
    let lie = match plan.guest.layout {
        Layout::Linear(_) => Step::Roots {
            frame_list_list: roots.frame_list_list,
            p2m_cr3: crate::guest::cr3_of(width, mfn & 0xf_ffff_ffff),
        },
        Layout::Tree(_) => Step::Roots { frame_list_list: mfn, p2m_cr3: 0 },
    };
    let truth = Step::Roots { frame_list_list: roots.frame_list_list, p2m_cr3: roots.p2m_cr3 };
    Some((vec![lie], vec![truth]))
}

/// A slot above a leaf names its own table (0), another leaf (1), or no frame of the guest (2).
fn wrong_slot(plan: &mut Plan<'_>, how: u8) -> Option<(Vec<Step>, Vec<Step>)> {
    plan.lock_structure()?;
    let (position, leaf) = own_leaf(plan)?;
    let foreign = plan.foreign()?;
    let Plan { guest, dice, .. } = &mut *plan;
    let parent = guest.structure_frame(1, guest.key_of_leaf(position))?;
    let wrong = match how {
        0 => parent,
        1 => guest.leaves[dice.index(guest.leaves.len())],
        _ => foreign,
    };
    let step = |mfn: Option<u64>| match &guest.layout {
        Layout::Linear(_) => Step::Pte {
            table: parent,
            slot: ((guest.base_page() + position) & 511) as u16,
            to: mfn.map(Val::Is),
        },
        Layout::Tree(_) => Step::Slot {
            mfn: parent,
            slot: position as usize & (guest.width.entries() - 1),
            word: mfn.unwrap_or(1 << 29),
        },
    };
    let wrong = (how < 2 && wrong != crate::guest::NONE).then_some(wrong);
    Some((vec![step(wrong)], vec![step(Some(leaf))]))
}
