// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole simulated world, and its step-wise scheduler: at each port call the guest may take
//! some steps.
//! Not here: the ports (`ports`, `transport`), what the steps do (`exec`).
//! Units: a step is one store or one hypercall; a round ends when log-dirty is taken.
//! Threads: behind one mutex; never a sleep, never a clock.
//! Source: none; a model.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::dice::Dice;
use crate::exec::Executor;
use crate::fault::{Fault, Faults};
use crate::guest::{Guest, Shape, build};
use crate::limits::{Begun, Limits};
use crate::machine::Owner;
use crate::program::Program;
use crate::receiver::Receiver;
use crate::scenario::Mix;
use crate::xen::Xen;
use crate::{behaviour, page_table};

/// Programs that may be under way, most of them waiting.
const PROGRAMS_MAX: usize = 48;

/// Purposes of the random streams; a number is added to each.
const PACE: u64 = 1 << 60;
const STEPS: u64 = 2 << 60;
const PROGRAMS: u64 = 3 << 60;
const SUSPENDS: u64 = 4 << 60;
const RESUMES: u64 = 5 << 60;

/// The state of the whole simulation.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) xen: Xen,
    pub(crate) guest: Guest,
    /// The stream of the step that is being taken; every step and every program has one of its own.
    pub(crate) dice: Dice,
    /// When the guest runs, and for how long.
    pub(crate) pace: Dice,
    pub(crate) mix: Mix,
    pub(crate) faults: Faults,
    pub(crate) receiver: Receiver,
    /// Frames of other domains.
    pub(crate) others: Vec<u64>,
    pub(crate) suspended: bool,
    /// Paused by the caller at any point, not at a consistent boundary.
    pub(crate) paused: bool,
    /// Times that log-dirty was taken.
    pub(crate) rounds: u64,
    /// Queries of the grant table.
    pub(crate) grant_queries: u64,
    /// Mappings that a tracker holds.
    pub(crate) maps_held: u64,
    pub(crate) cancelled: Arc<AtomicBool>,
    /// The programs that the guest began, in order.
    pub(crate) begun: Vec<Begun>,
    pub(crate) steps: u64,
    /// Where the caller broke a port's contract.
    pub(crate) breaches: Vec<&'static str>,
    /// Consistent points that were confirmed.
    pub(crate) confirmed: u64,
    limits: Limits,
    /// The seed of the streams.
    seed: u64,
    /// Attempts to plan a program, failed ones included.
    pub(crate) planned: u64,
    suspends: u64,
    programs: Vec<Program>,
    /// Steps that the guest may still take in this round.
    budget: u64,
    /// Port calls before the next burst of steps.
    skip: u64,
    rounds_since_start: u64,
    rounds_wanted: u64,
    /// How far the steps of a round are spread over it: some guests do all at its start.
    spread: u64,
}

impl World {
    /// The world of a seed.
    pub(crate) fn new(
        shape: Shape,
        mix: Mix,
        mut faults: Faults,
        limits: Limits,
        seed: u64,
    ) -> Self {
        let mut dice = Dice::new(seed, 0x57);
        let (mut xen, guest) = build(shape, &mut dice);
        xen.log.fail_in = faults.next_failing_mark();
        let others = (0..xen.machine.m2p.frames())
            .filter(|&mfn| xen.machine.owner(mfn) == Owner::Other)
            .take(65_536)
            .collect();
        let receiver = Receiver::new(shape.width, guest.roots.pfn_count, dice.chance(1, 2));
        let rounds_wanted = dice.between(3, 8);
        let spread = dice.pick(&[4, 16, 32]);
        let mut world = Self {
            xen,
            guest,
            dice,
            pace: Dice::new(seed, PACE),
            mix,
            faults,
            receiver,
            others,
            suspended: false,
            paused: false,
            rounds: 0,
            grant_queries: 0,
            maps_held: 0,
            cancelled: Arc::default(),
            begun: Vec::new(),
            steps: 0,
            breaches: Vec::new(),
            confirmed: 0,
            limits,
            seed,
            planned: 0,
            suspends: 0,
            programs: Vec::new(),
            budget: 0,
            skip: 0,
            rounds_since_start: 0,
            rounds_wanted,
            spread,
        };
        world.budget = world.budget_of_round();
        world
    }

    /// A port was called: the moment in which the guest may run.
    pub(crate) fn tick(&mut self) {
        if self.suspended || self.paused {
            return;
        }
        if self.faults.strikes(Fault::Cancel) {
            self.cancelled.store(true, Ordering::Relaxed); // ORDER: a flag of its own
        }
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.burst();
        let pause = if self.rounds_since_start < 2 { self.pause() } else { 16 };
        self.skip = self.pace.magnitude(pause.max(4)) - 1;
    }

    /// Calls between two bursts, in a round that handles each page once.
    pub(crate) const fn pause(&self) -> u64 {
        let steps = if self.mix.steps == 0 { 1 } else { self.mix.steps };
        self.spread * self.guest.frames_at_start() / steps
    }

    /// The guest runs for a while, within the budget of the round.
    pub(crate) fn burst(&mut self) {
        if self.suspended || self.paused || self.budget == 0 {
            return;
        }
        let steps = self.pace.magnitude(self.mix.burst).min(self.budget);
        self.budget -= steps;
        for _ in 0..steps {
            self.step();
        }
    }

    /// The guest runs as long as it would in the rest of a round.
    pub(crate) fn run_out(&mut self) {
        while !self.suspended && !self.paused && self.budget > 0 {
            self.burst();
        }
    }

    /// Notes that the caller broke a port's contract.
    pub(crate) fn breach(&mut self, what: &'static str) {
        if !self.breaches.contains(&what) {
            self.breaches.push(what);
        }
    }

    /// Steps fade from round to round, so that rounds converge.
    fn budget_of_round(&mut self) -> u64 {
        let most = self.mix.steps / (1 + self.rounds_since_start / 2);
        if most == 0 { 0 } else { self.pace.magnitude(most) + most / 4 }
    }

    /// Log-dirty was taken: a new round.
    pub(crate) fn round_begins(&mut self) {
        self.rounds += 1;
        self.rounds_since_start += 1;
        // The length of a round must not depend on the number of calls in the one before.
        self.pace = Dice::new(self.seed, PACE | self.rounds);
        self.budget = self.budget_of_round();
        // A pause that was drawn for the first round's many calls is too long for the next.
        self.skip = self.pace.below(16);
    }

    /// Whether the seed's number of live rounds is over.
    pub(crate) const fn wants_suspend(&self) -> bool {
        self.rounds_since_start >= self.rounds_wanted
    }

    /// One step of one vCPU.
    pub(crate) fn step(&mut self) {
        if self.limits.steps.is_some_and(|most| self.steps >= most) {
            return;
        }
        // What one step draws must not shift any other, so that a schedule can be cut and thinned
        // out.
        self.dice = Dice::new(self.seed, STEPS | self.steps);
        self.steps += 1;
        if self.dice.chance(self.mix.plain_writes, 16) {
            return self.plain_write();
        }
        let (rounds, grant_queries) = (self.rounds, self.grant_queries);
        let ready: Vec<usize> = (0..self.programs.len())
            .filter(|&at| !self.programs[at].is_waiting(rounds, grant_queries))
            .collect();
        // A program that waits lets its vCPU go on with another.
        let has_capacity = ready.len() < self.mix.vcpus && self.programs.len() < PROGRAMS_MAX;
        if has_capacity && (ready.is_empty() || self.dice.chance(1, 6)) {
            return self.begin_program();
        }
        if !ready.is_empty() {
            let at = self.dice.pick(&ready);
            self.run_program(at);
        }
    }

    fn plain_write(&mut self) {
        if let Some(pfn) = self.guest.pick_data(&self.xen.machine, &mut self.dice) {
            let mfn = self.guest.frame(&self.xen.machine, pfn).expect("plain data has a frame");
            if !self.limits.no_writes {
                self.xen.guest_writes(mfn);
            }
        }
    }

    /// Plans a new program and starts it.
    fn begin_program(&mut self) {
        self.planned += 1;
        let number = self.planned;
        self.dice = Dice::new(self.seed, PROGRAMS | number);
        let Some(behaviour) = self.mix.draw(&mut self.dice) else { return };
        let (guest, xen, others) = (&mut self.guest, &mut self.xen, &mut self.others);
        let program = behaviour::plan(behaviour, guest, xen, others, &mut self.dice);
        let Some(mut program) = program else { return };
        program.idle = !self.limits.runs(number);
        if !program.idle {
            self.begun.push(Begun { number, step: self.steps, behaviour: behaviour.name() });
        }
        self.programs.push(program);
    }

    /// One step of a program; a finished one releases what it claimed.
    fn run_program(&mut self, at: usize) {
        let mut program = std::mem::take(&mut self.programs[at]);
        let mut executor = Executor {
            xen: &mut self.xen,
            guest: &mut self.guest,
            others: &mut self.others,
            dice: &mut self.dice,
            rounds: self.rounds,
            grant_queries: self.grant_queries,
        };
        executor.advance(&mut program);
        if program.steps.is_empty() {
            self.programs.swap_remove(at);
            let adds = program.adds.clone();
            self.guest.release(&self.xen.machine, program.claimed);
            for pfn in adds {
                if self.guest.is_hole(&self.xen.machine, pfn) {
                    self.guest.holes.push(pfn);
                }
            }
        } else {
            self.programs[at] = program;
        }
    }

    /// The guest runs on to a consistent boundary and stops there.
    pub(crate) fn suspend(&mut self) {
        if self.suspended {
            return;
        }
        self.suspends += 1;
        self.dice = Dice::new(self.seed, SUSPENDS | self.suspends);
        self.close_sections();
        // Some programs finish, others stay between two steps.
        for at in (0..self.programs.len()).rev() {
            if self.dice.chance(1, 2) {
                self.finish_program(at);
            }
        }
        if self.guest.pins_all {
            for (table, level) in self.guest.tables.clone() {
                if self.xen.machine.level(table) == level && !self.xen.machine.is_pinned(table) {
                    page_table::pin(&mut self.xen, table, level);
                }
            }
        }
        self.suspended = true;
    }

    fn close_sections(&mut self) {
        loop {
            let open: Vec<usize> =
                (0..self.programs.len()).filter(|&at| self.programs[at].open > 0).collect();
            if open.is_empty() {
                return;
            }
            let at = self.dice.pick(&open);
            self.run_program(at);
        }
    }

    /// Runs a program to its end and skips its waits.
    fn finish_program(&mut self, at: usize) {
        let left = self.programs.len();
        let program = &self.programs[at];
        let keeps = program.after_grant_query > self.grant_queries
            || program.steps.iter().any(|step| behaviour::outlives_suspend(*step));
        while !keeps && self.programs.len() == left {
            self.run_program(at);
        }
    }

    /// The guest goes on after a checkpoint or a cancelled migration.
    pub(crate) fn resume(&mut self) {
        if !self.suspended {
            return;
        }
        self.suspended = false;
        self.guest.rewrite_lists(&mut self.xen);
        if self.guest.pins_all {
            self.unpin_held_tables();
        }
        self.rounds_since_start = 0;
        self.pace = Dice::new(self.seed, RESUMES | self.suspends);
        self.rounds_wanted = self.pace.between(1, 3);
        self.mix.steps = (self.mix.steps / 2).max(self.mix.steps.min(64));
        self.budget = self.budget_of_round();
    }

    /// Linux unpins at resume; a table that another table names stays a table.
    fn unpin_held_tables(&mut self) {
        for (table, level) in self.guest.tables.clone() {
            let machine = &self.xen.machine;
            let held = machine.ptes_to(table).any(|(parent, _)| machine.level(parent) == level + 1);
            if held && machine.is_pinned(table) {
                page_table::unpin(&mut self.xen, table);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultSet;
    use crate::guest::P2mKind;
    use crate::premise;
    use crate::scenario::Scenario;
    use p2mtrack::frame::{Entry, Mfn, Width};
    use p2mtrack::port::LOG_DIRTY_LEAF_PFNS;
    use std::collections::BTreeSet;

    fn world(scenario: Scenario, seed: u64) -> World {
        let mut dice = Dice::new(seed, 9);
        let width = dice.pick(&[Width::W32, Width::W64]);
        let kind = dice.pick(&[P2mKind::Linear, P2mKind::Tree]);
        let shape = Shape { guest_bytes: 8 << 20, width, kind, gap: scenario.gap(seed) };
        let mix = scenario.mix(2048, &mut dice);
        let mut world = World::new(
            shape,
            mix,
            Faults::sample(&FaultSet::default(), 1, 1),
            Limits::default(),
            seed,
        );
        world.xen.log.enable().expect("was off");
        world
    }

    /// Whenever no program is inside a section the guest could be suspended: the premises hold.
    #[test]
    fn the_premises_hold_after_every_program() {
        // An unoptimised build is twenty times slower.
        for seed in 0..if cfg!(debug_assertions) { 210 } else { 4200 } {
            let scenario = Scenario::ALL[seed as usize % Scenario::ALL.len()];
            let mut world = world(scenario, seed);
            if scenario.is_hostile() {
                continue;
            }
            let mut under_way = 0;
            for step in 0..240 {
                world.step();
                if step % 40 == 0 {
                    world.round_begins();
                    world.grant_queries += 1;
                }
                let now = world.programs.len();
                let ended = std::mem::replace(&mut under_way, now) > now;
                if ended && world.programs.iter().all(|program| program.open == 0) {
                    let held = premise::check(&world);
                    held.unwrap_or_else(|error| {
                        panic!("{scenario}, seed {seed}, step {step}: {error}")
                    });
                }
            }
            world.suspend();
            premise::check(&world)
                .unwrap_or_else(|error| panic!("{scenario}, seed {seed}: {error}"));
        }
    }

    /// PTEs to frames on which p2m and m2p agree, tagged and untagged, for each width.
    #[test]
    fn foreign_ptes_match_in_every_way_when_the_guest_is_suspended() {
        let mut seen = BTreeSet::new();
        for seed in 0..40 {
            let mut world = world(Scenario::ForeignPte, seed);
            for _ in 0..400 {
                world.step();
            }
            world.suspend();
            let World { xen, guest, .. } = &world;
            for &(table, level) in &guest.tables {
                for (_, mfn) in page_table::guest_ptes(xen, table, level) {
                    let Some(pfn) = xen.machine.m2p.pfn(mfn) else { continue };
                    if xen.machine.is_guest(mfn) {
                        continue;
                    }
                    let entry = guest.entry(&xen.machine, pfn);
                    let agree =
                        |tag| if tag { Entry::foreign(guest.width, Mfn(mfn)) } else { Entry(mfn) };
                    let tags = [false, true].into_iter().filter(|&tag| entry == agree(tag));
                    seen.extend(tags.map(|tag| (guest.width.bits(), tag)));
                }
            }
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn a_wide_guest_has_frames_in_several_leaves_of_the_log() {
        for seed in 0..20 {
            let world = world(Scenario::Wide, seed);
            let machine = &world.xen.machine;
            let leaf = |mfn| machine.m2p.pfn(mfn).map(|pfn| pfn / LOG_DIRTY_LEAF_PFNS);
            let frames = (0..machine.m2p.frames()).filter(|&mfn| machine.is_guest(mfn));
            let leaves: BTreeSet<u64> = frames.filter_map(leaf).collect();
            assert!(leaves.len() >= 2 && machine.guest_frames() < 4096, "{seed}: {leaves:?}");
        }
    }

    /// References, owners and counts stay in step, whatever a guest does.
    #[test]
    fn the_machine_adds_up() {
        for seed in 0..if cfg!(debug_assertions) { 12 } else { 60 } {
            let mut world =
                world(if seed % 3 == 0 { Scenario::Hostile } else { Scenario::Mixed }, seed);
            for round in 0..20 {
                for _ in 0..100 {
                    world.step();
                }
                world.round_begins();
                if round % 7 == 6 {
                    world.suspend();
                    world.resume();
                }
            }
            let machine = &world.xen.machine;
            let owned = (0..machine.m2p.frames()).filter(|&mfn| machine.is_guest(mfn)).count();
            assert_eq!(owned as u64, machine.guest_frames());
            for &mfn in &machine.free {
                assert_eq!((machine.owner(mfn), machine.refs(mfn)), (Owner::Free, 0));
                assert_eq!(machine.m2p.pfn(mfn), None);
            }
        }
    }

    #[test]
    fn nothing_steps_while_suspended_and_rounds_are_bounded() {
        let mut world = world(Scenario::Mixed, 5);
        for _ in 0..100_000 {
            world.tick();
        }
        let steps = world.steps;
        assert!(steps > 0 && steps <= 2 * world.mix.steps, "{steps}");
        world.suspend();
        let steps = world.steps;
        for _ in 0..1000 {
            world.tick();
        }
        assert_eq!(world.steps, steps);
    }

    #[test]
    fn a_resume_resets_the_generation_and_dirties_the_lists() {
        for seed in 0..8 {
            let mut world = world(Scenario::Remus, seed);
            for _ in 0..400 {
                world.step();
            }
            world.suspend();
            world.xen.log.disable();
            world.xen.log.enable().expect("was off");
            world.resume();
            assert_eq!(world.guest.roots.generation, 0);
            if world.guest.kind() == P2mKind::Tree {
                let top = world.xen.machine.m2p.pfn(world.guest.root()).expect("has a pfn");
                assert!(world.xen.log.is_marked(top));
            }
        }
    }
}
