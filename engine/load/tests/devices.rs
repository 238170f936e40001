//! The oracle over concurrent loads on a model device: a right one is never blamed, and each kind
//! of wrong one is caught, with a text that names what happened.

use lockstep_load::{Action, Dice, Generator, Operation, Oracle, Overlap, Profile, Violation, Why};
use lockstep_types::{BLOCK, BlockRange, VolumeId};
use std::collections::BTreeMap;

const VOLUME: VolumeId = VolumeId::from_u128(0xabc);
const BLOCKS: u64 = 256;
const DEPTH: usize = 12;

/// What the device does wrong, now and then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    None,
    /// Acknowledges and does nothing.
    LostWrite,
    /// Returns what was there before the last write.
    StaleRead,
    /// Does a write that was acknowledged or failed once more, over a later one.
    FlipBack,
    /// Writes one block further.
    Misdirected,
    /// Writes half a block.
    Torn,
    /// Loses a bit.
    Rot,
    /// Does a failed write after the volume was opened anew.
    LateWrite,
    /// Forgets a discard.
    LostDiscard,
    /// Returns another volume's block.
    WrongVolume,
}

/// One block's part of an operation, done at a moment of its own.
struct Step {
    operation: usize,
    block: u64,
}

struct InFlight {
    operation: Operation,
    /// For a write its payload, for a read what it found.
    bytes: Vec<u8>,
    todo: u32,
    lost: bool,
}

struct Device {
    now: BTreeMap<u64, Vec<u8>>,
    before: BTreeMap<u64, Vec<u8>>,
    /// Failed writes that are still to happen.
    late: Vec<(BlockRange, Vec<u8>)>,
}

impl Device {
    fn put(&mut self, block: u64, bytes: Vec<u8>) {
        let old = self.now.insert(block, bytes);
        self.before
            .insert(block, old.unwrap_or_else(|| vec![0; BLOCK]));
    }

    fn get(&self, block: u64) -> Vec<u8> {
        self.now
            .get(&block)
            .cloned()
            .unwrap_or_else(|| vec![0; BLOCK])
    }
}

struct World {
    fault: Fault,
    dice: Dice,
    device: Device,
    oracle: Oracle,
    generator: Generator,
    in_flight: BTreeMap<usize, InFlight>,
    steps: Vec<Step>,
    next: usize,
}

impl World {
    fn new(fault: Fault, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let overlap = if dice.chance(70) {
            Overlap::Allowed
        } else {
            Overlap::Refused
        };
        let profile = Profile {
            overlap,
            ..Profile::new(BLOCKS)
        };
        Self {
            fault,
            generator: Generator::new(dice.roll(), profile),
            dice,
            device: Device {
                now: BTreeMap::new(),
                before: BTreeMap::new(),
                late: Vec::new(),
            },
            oracle: Oracle::new(VOLUME, BLOCKS),
            in_flight: BTreeMap::new(),
            steps: Vec::new(),
            next: 0,
        }
    }

    fn run(&mut self, events: u32) -> Result<(), Box<Violation>> {
        for _ in 0..events {
            match self.dice.below(10) {
                0..4 if self.in_flight.len() < DEPTH => self.begin(),
                9 if self.dice.chance(30) => self.late_write(),
                8 if self.dice.chance(4) => self.reopen()?,
                _ => self.step()?,
            }
        }
        self.reopen()?;
        for range in self.oracle.written(64) {
            let read = self.oracle.begin(9, Action::Read(range));
            let bytes: Vec<u8> = (range.start..range.end())
                .flat_map(|block| self.device.get(block))
                .collect();
            self.oracle.verify_read(read, &bytes)?;
        }
        Ok(())
    }

    fn begin(&mut self) {
        let oracle = &self.oracle;
        let Some(action) = self.generator.next(|range| oracle.is_busy(range)) else {
            return;
        };
        let client = self.dice.below(3) as u32;
        let operation = self.oracle.begin(client, action);
        let Some(range) = action.range() else {
            return self.oracle.acknowledge(operation);
        };
        let bytes = match action {
            Action::Write(_) => operation.payload(VOLUME).to_vec(),
            _ => vec![0; range.bytes()],
        };
        let changes = !matches!(action, Action::Read(_));
        let lost = changes
            && self.faulty()
            && match self.fault {
                Fault::LostWrite => matches!(action, Action::Write(_)),
                Fault::LostDiscard => matches!(action, Action::Discard(_) | Action::Zeroes(_)),
                _ => false,
            };
        let number = self.next;
        self.next += 1;
        self.steps
            .extend((range.start..range.end()).map(|block| Step {
                operation: number,
                block,
            }));
        self.in_flight.insert(
            number,
            InFlight {
                operation,
                bytes,
                todo: range.count,
                lost,
            },
        );
    }

    fn faulty(&mut self) -> bool {
        let one_in = if self.fault == Fault::LostDiscard {
            5
        } else {
            50
        };
        self.fault != Fault::None && self.dice.below(one_in) == 0
    }

    /// One block of one operation, and the operation's end with the last.
    fn step(&mut self) -> Result<(), Box<Violation>> {
        if self.steps.is_empty() {
            return Ok(());
        }
        let at = self.dice.below(self.steps.len() as u64) as usize;
        let Step {
            operation: number,
            block,
        } = self.steps.swap_remove(at);
        let faulty = self.faulty();
        let place = self
            .in_flight
            .get_mut(&number)
            .expect("its steps are not done");
        let range = place
            .operation
            .action
            .range()
            .expect("flushes have no steps");
        let offset = (block - range.start) as usize * BLOCK;
        let slot = offset..offset + BLOCK;
        place.todo -= 1;
        let last = place.todo == 0;
        if let Action::Read(_) = place.operation.action {
            let mut bytes = self.device.get(block);
            if faulty {
                match self.fault {
                    Fault::StaleRead => {
                        bytes = self.device.before.get(&block).cloned().unwrap_or(bytes);
                    }
                    Fault::Rot => bytes[1000] ^= 1,
                    Fault::WrongVolume if bytes[0] != 0 => {
                        let stamp = lockstep_load::Stamp {
                            volume: VolumeId::from_u128(0xdef),
                            block,
                            operation: 1,
                            client: 1,
                        };
                        stamp.fill(&mut bytes);
                    }
                    _ => {}
                }
            }
            place.bytes[slot].copy_from_slice(&bytes);
        } else if !place.lost {
            let mut bytes = place.bytes[slot].to_vec();
            let mut target = block;
            if faulty && self.fault == Fault::Torn {
                bytes[2048..].copy_from_slice(&self.device.get(block)[2048..]);
            }
            if faulty && self.fault == Fault::Misdirected {
                target = (block + 1) % BLOCKS;
            }
            self.device.put(target, bytes);
        }
        if last { self.end(number) } else { Ok(()) }
    }

    fn end(&mut self, number: usize) -> Result<(), Box<Violation>> {
        let InFlight {
            operation, bytes, ..
        } = self.in_flight.remove(&number).expect("it is there");
        match operation.action {
            Action::Read(_) if self.dice.chance(3) => self.oracle.fail(operation),
            Action::Read(_) => self.oracle.verify_read(operation, &bytes)?,
            action => {
                // It happened, and happens no more, unless the device repeats it.
                if self.fault == Fault::FlipBack && self.dice.chance(10) {
                    self.device
                        .late
                        .push((action.range().expect("a change has a range"), bytes));
                }
                if self.dice.chance(4) {
                    self.oracle.fail(operation);
                } else {
                    self.oracle.acknowledge(operation);
                }
            }
        }
        Ok(())
    }

    /// An operation is cut off in the middle; or a write that failed happens at last.
    fn late_write(&mut self) {
        if !self.device.late.is_empty() && self.dice.chance(50) {
            let at = self.dice.below(self.device.late.len() as u64) as usize;
            let (range, bytes) = self.device.late.swap_remove(at);
            for (index, block) in (range.start..range.end()).enumerate() {
                self.device
                    .put(block, bytes[index * BLOCK..(index + 1) * BLOCK].to_vec());
            }
            return;
        }
        let Some(number) = self.in_flight.keys().next_back().copied() else {
            return;
        };
        let InFlight {
            operation, bytes, ..
        } = self.in_flight.remove(&number).expect("it is there");
        let range = operation.action.range().expect("flushes have no steps");
        let untouched = self
            .steps
            .iter()
            .filter(|step| step.operation == number)
            .count();
        self.steps.retain(|step| step.operation != number);
        // Only what has not happened at all may happen later.
        if !matches!(operation.action, Action::Read(_)) && untouched == range.count as usize {
            self.device.late.push((range, bytes));
        }
        self.oracle.fail(operation);
    }

    /// Everything ends, then the volume opens anew: what failed happens no more.
    fn reopen(&mut self) -> Result<(), Box<Violation>> {
        while !self.in_flight.is_empty() {
            self.step()?;
        }
        self.oracle.fence();
        if self.fault != Fault::LateWrite {
            self.device.late.clear();
        }
        Ok(())
    }
}

#[test]
fn a_right_device_is_never_blamed() {
    for seed in 0..60 {
        let mut world = World::new(Fault::None, seed);
        world
            .run(4000)
            .unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        let counts = world.oracle.counts();
        assert!(counts.acknowledged > 100 && counts.failed > 10 && counts.verified_blocks > 1000);
    }
}

/// Runs seeds until the fault is caught; every third seed must.
fn caught(fault: Fault) -> Vec<Violation> {
    let found: Vec<_> = (0..15)
        .filter_map(|seed| World::new(fault, seed).run(4000).err().map(|found| *found))
        .collect();
    assert!(found.len() >= 5, "{fault:?}: {} of 15", found.len());
    found
}

#[test]
fn lost_writes() {
    let all = caught(Fault::LostWrite);
    assert!(
        all.iter()
            .all(|found| matches!(found.why, Why::Replaced { .. }))
    );
    let text = all[0].to_string();
    assert!(
        text.contains("expected") && text.contains("acknowledged"),
        "{text}"
    );
}

#[test]
fn lost_discards() {
    caught(Fault::LostDiscard);
}

#[test]
fn stale_reads() {
    let all = caught(Fault::StaleRead);
    assert!(
        all.iter()
            .all(|found| matches!(found.why, Why::Replaced { .. }))
    );
}

#[test]
fn writes_that_flip_back() {
    caught(Fault::FlipBack);
}

#[test]
fn writes_that_come_after_the_volume_was_opened_anew() {
    caught(Fault::LateWrite);
}

#[test]
fn misdirected_writes() {
    let all = caught(Fault::Misdirected);
    let found = all
        .iter()
        .find(|found| found.why == Why::Misdirected)
        .expect("one reads as such");
    assert!(
        found
            .to_string()
            .contains("misdirected: that was written to block"),
        "{found}"
    );
}

#[test]
fn torn_blocks() {
    let all = caught(Fault::Torn);
    assert!(
        all.iter()
            .any(|found| found.to_string().contains("from byte 2048 on")),
        "{all:?}"
    );
}

#[test]
fn rot() {
    let all = caught(Fault::Rot);
    let wrong = |found: &Violation| matches!(found.why, Why::Torn { at: 1000, .. } | Why::Garbage);
    assert!(all.iter().all(wrong), "{all:?}");
}

#[test]
fn another_volumes_data() {
    let all = caught(Fault::WrongVolume);
    assert!(all.iter().all(|found| found.why == Why::OtherVolume));
}

/// The memory of a block that has come to rest is one value, whatever happened before.
#[test]
fn memory_stays_small() {
    let mut world = World::new(Fault::None, 1);
    world.run(20_000).expect("a right device");
    let oracle = &mut world.oracle;
    for block in 0..BLOCKS {
        let write = oracle.begin(1, Action::Write(BlockRange::new(block, 1)));
        oracle.acknowledge(write);
    }
    assert!((0..BLOCKS).all(|block| oracle.expected(block).len() == 1));
    assert_eq!(oracle.written(1000), [BlockRange::new(0, BLOCKS as u32)]);
}
