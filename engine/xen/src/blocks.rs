// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mapped frames by slot: many in one mapping, each unmapped separately.
//! Not here: which frames (`p2m_source`).
//! Units: frames of 4 KiB; a block is at most 2 MiB of address space.
//! Threads: one owner maps; any number of readers in between.
//! Source: own. A mapping can't be unmapped in part (in a PVH control domain, privcmd's pages
//! belong to the whole mapping), and one for each frame would be more than a process may have:
//! `docs/decisions/0015`.
//!
//! When slots of a block are unmapped, the rest of it is mapped again, so that the unmapped frames
//! are free at once. Small blocks are merged when there are many.

use p2mtrack::frame::Mfn;
use p2mtrack::guest::GuestLeaf;
use p2mtrack::port::{MapFault, MapSlot};

use crate::error::XenError;
use crate::mapping::Mapping;

/// Frames of a block.
const BLOCK_FRAMES: usize = 512;
/// Blocks are merged when there are more than twice as many as needed, plus this: a process may
/// have 65,530 mappings.
const SPARE_BLOCKS: usize = 64;

/// Maps frames of one domain: by the hypervisor, or in a test.
pub(crate) type Map<'a, M> = &'a dyn Fn(&[u64]) -> Result<M, XenError>;

/// Mapped frames, of which a block is made.
pub(crate) trait Frames {
    /// Why a frame is not mapped; `None` if it is.
    fn fault(&self, index: usize) -> Option<MapFault>;
}

impl Frames for Mapping {
    fn fault(&self, index: usize) -> Option<MapFault> {
        Self::fault(self, index)
    }
}

/// Where a slot is.
#[derive(Clone, Copy, Debug)]
struct Place {
    block: u32,
    index: u16,
}

#[derive(Debug)]
struct Block<M> {
    mapping: M,
    /// For each frame of the mapping its slot, unless it was unmapped.
    slots: Vec<Option<u32>>,
    mfns: Vec<u64>,
}

/// All slots of a domain.
#[derive(Debug)]
pub(crate) struct Blocks<M> {
    places: Vec<Option<Place>>,
    unused_places: Vec<u32>,
    blocks: Vec<Option<Block<M>>>,
    unused_blocks: Vec<u32>,
}

impl<M> Default for Blocks<M> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            unused_places: Vec::new(),
            blocks: Vec::new(),
            unused_blocks: Vec::new(),
        }
    }
}

impl<M: Frames> Blocks<M> {
    /// Maps frames and keeps them mapped; one answer for each, in order.
    pub(crate) fn map(
        &mut self,
        frames: &[Mfn],
        answers: &mut Vec<Result<MapSlot, MapFault>>,
        map: Map<'_, M>,
    ) {
        for chunk in frames.chunks(BLOCK_FRAMES) {
            let mfns: Vec<u64> = chunk.iter().map(|mfn| mfn.0).collect();
            match map(&mfns) {
                Ok(mapping) => self.hold(mapping, mfns, answers),
                Err(error) => {
                    let fault = MapFault::Errno(error.errno());
                    answers.extend(chunk.iter().map(|_| Err(fault)));
                }
            }
        }
        self.merge(map);
    }

    /// Merges small blocks if there are many. Blocks with a frame that can't be mapped any more
    /// stay as they are.
    fn merge(&mut self, map: Map<'_, M>) {
        let held = self.places.len() - self.unused_places.len();
        let blocks = self.blocks.len() - self.unused_blocks.len();
        if blocks <= SPARE_BLOCKS + 2 * held.div_ceil(BLOCK_FRAMES) {
            return;
        }
        let size = |block: &Block<M>| block.slots.iter().flatten().count();
        let numbers = (0..).zip(&self.blocks);
        let small: Vec<_> = numbers
            .filter_map(|(number, block)| Some((number, size(block.as_ref()?))))
            .filter(|&(_, size)| size <= BLOCK_FRAMES / 2)
            .collect();
        let (mut group, mut frames) = (Vec::new(), 0);
        for (number, size) in small {
            if frames + size > BLOCK_FRAMES {
                self.join(&std::mem::take(&mut group), map);
                frames = 0;
            }
            group.push(number);
            frames += size;
        }
        self.join(&group, map);
    }

    /// Replaces several blocks by one.
    fn join(&mut self, numbers: &[u32], map: Map<'_, M>) {
        let blocks = numbers.iter().filter_map(|&number| self.blocks[number as usize].as_ref());
        let each = blocks.flat_map(|block| block.slots.iter().zip(&block.mfns));
        let held = each.filter_map(|(slot, &mfn)| Some(((*slot)?, mfn)));
        let (slots, mfns): (Vec<u32>, Vec<u64>) = held.unzip();
        let [first, rest @ ..] = numbers else { return };
        if rest.is_empty() {
            return;
        }
        let all = |mapping: &M| (0..mfns.len()).all(|index| mapping.fault(index).is_none());
        let Some(mapping) = map(&mfns).ok().filter(all) else { return };
        for &number in rest {
            self.blocks[number as usize] = None;
            self.unused_blocks.push(number);
        }
        for (index, &slot) in slots.iter().enumerate() {
            self.places[slot as usize] = Some(Place { block: *first, index: index as u16 });
        }
        let slots = slots.into_iter().map(Some).collect();
        self.blocks[*first as usize] = Some(Block { mapping, slots, mfns });
    }

    fn hold(&mut self, mapping: M, mfns: Vec<u64>, answers: &mut Vec<Result<MapSlot, MapFault>>) {
        let block = self.unused_blocks.pop().unwrap_or(self.blocks.len() as u32);
        let mut slots = Vec::with_capacity(mfns.len());
        for index in 0..mfns.len() {
            if let Some(fault) = mapping.fault(index) {
                slots.push(None);
                answers.push(Err(fault));
                continue;
            }
            let place = Some(Place { block, index: index as u16 });
            let slot = self.unused_places.pop().unwrap_or(self.places.len() as u32);
            if slot as usize == self.places.len() {
                self.places.push(place);
            } else {
                self.places[slot as usize] = place;
            }
            slots.push(Some(slot));
            answers.push(Ok(MapSlot(slot)));
        }
        self.put(block, Block { mapping, slots, mfns });
    }

    /// Stores a block, unless it has no slots.
    fn put(&mut self, number: u32, block: Block<M>) {
        let block = block.slots.iter().any(Option::is_some).then_some(block);
        if block.is_none() {
            self.unused_blocks.push(number);
        }
        if number as usize == self.blocks.len() {
            self.blocks.push(block);
        } else {
            self.blocks[number as usize] = block;
        }
    }

    /// Unmaps slots; ignores a slot that is not mapped.
    pub(crate) fn unmap(&mut self, slots: &[MapSlot], map: Map<'_, M>) {
        let mut touched = Vec::new();
        for slot in slots {
            let Some(place) = self.places.get_mut(slot.0 as usize).and_then(Option::take) else {
                continue;
            };
            self.unused_places.push(slot.0);
            if let Some(block) = &mut self.blocks[place.block as usize] {
                block.slots[place.index as usize] = None;
            }
            touched.push(place.block);
        }
        touched.sort_unstable();
        touched.dedup();
        for number in touched {
            self.shrink(number, map);
        }
    }

    /// Maps the remaining slots of a block again, alone. If that fails (one of the frames is not
    /// the domain's any more, and no walk has found that yet), the block stays as it is until its
    /// next slot is unmapped.
    fn shrink(&mut self, number: u32, map: Map<'_, M>) {
        let Some(block) = self.blocks[number as usize].take() else { return };
        let held = |index: &usize| block.slots[*index].is_some();
        let left: Vec<usize> = (0..block.slots.len()).filter(held).collect();
        if left.is_empty() {
            return self.put(number, block);
        }
        let mfns: Vec<u64> = left.iter().map(|&index| block.mfns[index]).collect();
        let Some(mapping) = map(&mfns)
            .ok()
            .filter(|mapping| (0..mfns.len()).all(|index| mapping.fault(index).is_none()))
        else {
            return self.put(number, block);
        };
        let slots: Vec<_> = left.iter().map(|&index| block.slots[index]).collect();
        for (index, slot) in slots.iter().flatten().enumerate() {
            self.places[*slot as usize] = Some(Place { block: number, index: index as u16 });
        }
        self.put(number, Block { mapping, slots, mfns });
    }

    fn place(&self, slot: MapSlot) -> Option<(&M, usize)> {
        let place = (*self.places.get(slot.0 as usize)?)?;
        let block = self.blocks.get(place.block as usize)?.as_ref()?;
        Some((&block.mapping, place.index.into()))
    }
}

impl Blocks<Mapping> {
    /// The memory of a mapped slot.
    pub(crate) fn live(&self, slot: MapSlot) -> Option<GuestLeaf<'_>> {
        let (mapping, index) = self.place(slot)?;
        mapping.live(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::rc::Rc;

    /// Frames that the domain owns, and those that are mapped.
    #[derive(Default)]
    struct World {
        owned: BTreeSet<u64>,
        mapped: Vec<u64>,
    }

    struct Mapped {
        world: Rc<RefCell<World>>,
        frames: Vec<(u64, Option<MapFault>)>,
    }

    impl Frames for Mapped {
        fn fault(&self, index: usize) -> Option<MapFault> {
            self.frames[index].1
        }
    }

    impl Drop for Mapped {
        fn drop(&mut self) {
            let mut world = self.world.borrow_mut();
            for (mfn, _) in self.frames.iter().filter(|(_, fault)| fault.is_none()) {
                let at = world.mapped.iter().position(|mapped| mapped == mfn).expect("mapped");
                world.mapped.swap_remove(at);
            }
        }
    }

    fn mapper(world: &Rc<RefCell<World>>) -> impl Fn(&[u64]) -> Result<Mapped, XenError> {
        let world = Rc::clone(world);
        move |mfns| {
            let mut inner = world.borrow_mut();
            let fault = |mfn| (!inner.owned.contains(&mfn)).then_some(MapFault::NotOwned);
            let frames: Vec<_> = mfns.iter().map(|&mfn| (mfn, fault(mfn))).collect();
            inner
                .mapped
                .extend(frames.iter().filter(|frame| frame.1.is_none()).map(|frame| frame.0));
            Ok(Mapped { world: Rc::clone(&world), frames })
        }
    }

    fn mfn(blocks: &Blocks<Mapped>, slot: MapSlot) -> Option<u64> {
        blocks.place(slot).map(|(mapping, index)| mapping.frames[index].0)
    }

    #[test]
    fn an_unmapped_frame_is_free_at_once_and_the_others_stay() {
        let world = Rc::new(RefCell::new(World { owned: (0..2000).collect(), ..World::default() }));
        let (map, mut blocks, mut answers) = (mapper(&world), Blocks::default(), Vec::new());
        let frames: Vec<_> = (0..1100).map(Mfn).chain([Mfn(5000)]).collect();
        blocks.map(&frames, &mut answers, &map);
        assert_eq!(answers.pop(), Some(Err(MapFault::NotOwned)));
        let slots: Vec<_> = answers.iter().map(|answer| answer.expect("mapped")).collect();
        let (given, kept): (Vec<_>, Vec<_>) = slots.iter().partition(|slot| slot.0 % 3 == 0);
        blocks.unmap(&given, &map);
        assert_eq!(world.borrow().mapped.len(), kept.len());
        for &slot in &kept {
            assert_eq!(mfn(&blocks, slot), Some(slot.0.into()));
        }
        assert!(given.iter().all(|&slot| mfn(&blocks, slot).is_none()));
        // Unmapped twice: nothing happens. The slots are used again.
        blocks.unmap(&given, &map);
        answers.clear();
        blocks.map(&[Mfn(1500)], &mut answers, &map);
        let slot = answers[0].expect("mapped");
        assert!(given.contains(&slot) && mfn(&blocks, slot) == Some(1500));
        blocks.unmap(&kept, &map);
        blocks.unmap(&[slot], &map);
        assert!(world.borrow().mapped.is_empty() && blocks.blocks.iter().all(Option::is_none));
    }

    #[test]
    fn a_block_with_a_lost_frame_stays_until_it_can_be_mapped_again() {
        let world = Rc::new(RefCell::new(World { owned: (0..4).collect(), ..World::default() }));
        let (map, mut blocks, mut answers) = (mapper(&world), Blocks::default(), Vec::new());
        blocks.map(&[Mfn(0), Mfn(1), Mfn(2), Mfn(3)], &mut answers, &map);
        let slots: Vec<_> = answers.iter().map(|answer| answer.expect("mapped")).collect();
        world.borrow_mut().owned.remove(&1); // the guest gave it away; it is still mapped
        blocks.unmap(&slots[..1], &map);
        assert_eq!(world.borrow().mapped.len(), 4);
        assert_eq!(mfn(&blocks, slots[1]), Some(1));
        blocks.unmap(&slots[1..2], &map);
        assert_eq!(world.borrow().mapped, [2, 3]);
        assert_eq!((mfn(&blocks, slots[2]), mfn(&blocks, slots[3])), (Some(2), Some(3)));
    }

    #[test]
    fn leaves_that_move_one_by_one_do_not_use_up_the_mappings() {
        let world = Rc::new(RefCell::new(World { owned: (0..9000).collect(), ..World::default() }));
        let (map, mut blocks, mut answers) = (mapper(&world), Blocks::default(), Vec::new());
        let frames: Vec<_> = (0..1000).map(Mfn).collect();
        blocks.map(&frames, &mut answers, &map);
        let mut slots: Vec<_> = answers.drain(..).map(|answer| answer.expect("mapped")).collect();
        let mut frames: Vec<_> = (0..1000).collect::<Vec<u64>>();
        for turn in 0..3000_usize {
            let (at, frame) = (turn * 7 % 1000, 1000 + turn as u64);
            blocks.unmap(&[slots[at]], &map);
            blocks.map(&[Mfn(frame)], &mut answers, &map);
            (slots[at], frames[at]) = (answers.pop().expect("one").expect("mapped"), frame);
            let there = blocks.blocks.iter().flatten().count();
            assert!(there <= SPARE_BLOCKS + 4, "{there} blocks after {turn}");
            assert_eq!(there, blocks.blocks.len() - blocks.unused_blocks.len());
        }
        for (&slot, &frame) in slots.iter().zip(&frames) {
            assert_eq!(mfn(&blocks, slot), Some(frame));
        }
        assert_eq!(world.borrow().mapped.len(), 1000);
        // A frame that the guest gave away meanwhile does no harm.
        world.borrow_mut().owned.remove(&frames[0]);
        for frame in 5000..5200 {
            blocks.map(&[Mfn(frame)], &mut answers, &map);
        }
        assert_eq!(mfn(&blocks, slots[0]), Some(frames[0]));
        assert_eq!(world.borrow().mapped.len(), 1200);
    }

    #[test]
    fn a_call_that_fails_is_the_answer_for_each_frame() {
        let (mut blocks, mut answers) = (Blocks::<Mapped>::default(), Vec::new());
        let refuse = |_: &[u64]| Err(XenError::new("map frames", libc::ENOMEM));
        blocks.map(&[Mfn(0), Mfn(1)], &mut answers, &refuse);
        assert_eq!(answers, [Err(MapFault::Errno(libc::ENOMEM)); 2]);
    }
}
