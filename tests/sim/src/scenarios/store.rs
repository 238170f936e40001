//! Named scenarios of one store on one device. Each says what would go wrong without the rule.

use crate::rng::Rng;
use crate::run::{Config, Outcome, Words};
use crate::store_world::{Plan, Step, run_counting, run_plan};
use lockstep_types::{BlockRange, EXTENT_BLOCKS, RecordKind, millis};

/// A healthy device and a small pool; the scenario says the rest.
fn calm(config: &Config) -> (Plan, Rng) {
    let mut rng = Rng::new(config.seed);
    let drawn = Plan::draw(&mut rng.split("plan"));
    let plan = Plan {
        ring_bytes: 512 << 10,
        device_bytes: 8 << 20,
        corruption: [0; 4],
        pinned: false,
        crashes: 0,
        ..drawn
    };
    (plan, rng)
}

/// A crash between every two steps of S2. Without it: data is written in place, the power goes before
/// the flush, and the tail has already passed the record that had the only good copy.
///
/// A short life is lived once and its disk operations are counted; then once more for each of them,
/// with the power cut right there.
pub fn every_step(config: &Config) -> Outcome {
    let (mut plan, rng) = calm(config);
    plan.replicas = 1;
    plan.blocks = 2 * EXTENT_BLOCKS;
    plan.actions = 24;
    plan.whole = 20;
    plan.ring_bytes = 2 << 20;
    plan.think = millis(4);
    plan.reads = 5;
    plan.floors = 40;
    cut_at_every_step(config, plan, rng)
}

/// The power goes a second time while the tail is rolled forward that the first cut left. Without R11: a
/// record is appended again under the next epoch, the older one of its sequence is forgotten at once, the
/// anchor moves the tail past it, and the power goes before the younger one is durable. Neither is there any
/// more, and it had been acknowledged.
pub fn cut_while_rolling(config: &Config) -> Outcome {
    let (mut plan, rng) = calm(config);
    plan.replicas = 1;
    plan.blocks = 2 * EXTENT_BLOCKS;
    plan.actions = 24;
    plan.think = millis(4);
    plan.reads = 5;
    plan.floors = 5;
    plan.whole = 0;
    plan.crashes = 120;
    cut_at_every_step(config, plan, rng)
}

/// Lives a short life, and then once more for each of its disk operations, with the power cut right there.
fn cut_at_every_step(config: &Config, plan: Plan, rng: Rng) -> Outcome {
    let (mut all, steps) = run_counting(config, plan.clone(), rng.clone());
    for cut_at in 1..=steps {
        if all.failure.is_some() || config.words == Words::Aloud && all.events > 100_000 {
            break;
        }
        let plan = Plan {
            cut_at: Some(cut_at),
            ..plan.clone()
        };
        let one = run_plan(config, plan, rng.clone());
        all.failure = one.failure.map(|mut failure| {
            failure.why = format!("power cut at disk step {cut_at}: {}", failure.why);
            failure
        });
        all.coverage.merge(&one.coverage);
        all.simulated += one.simulated;
        all.events += one.events;
        all.operations += one.operations;
        all.hash = all.hash.rotate_left(5) ^ one.hash;
        all.steps.extend(one.steps);
    }
    all
}

/// The ring wraps many times while the floor of one replica stands still. Without S5: the tail reaches
/// its oldest record and either waits for it, so that nobody writes any more, or passes it, so that it
/// is gone after the next crash.
pub fn pinned(config: &Config) -> Outcome {
    let (mut plan, rng) = calm(config);
    plan.replicas = 3;
    plan.blocks = 4 * EXTENT_BLOCKS;
    plan.pinned = true;
    plan.whole = 0;
    plan.actions = 1500;
    plan.think = 200_000;
    plan.reads = 10;
    plan.floors = 25;
    plan.crashes = 4;
    run_plan(config, plan, rng)
}

/// Whole extents are written in place while older small writes to the same blocks wait in the ring.
/// Without S3: the small write, older, is destaged over the extent that superseded it.
pub fn direct_over_waiting(config: &Config) -> Outcome {
    let (mut plan, rng) = calm(config);
    plan.replicas = 2;
    plan.blocks = 2 * EXTENT_BLOCKS;
    plan.whole = 25;
    plan.ring_bytes = 2 << 20;
    plan.actions = 700;
    plan.reads = 25;
    plan.floors = 6;
    plan.crashes = 12;
    run_plan(config, plan, rng)
}

/// Clients write what stands in the journal back into it. Without S8: after a crash the scan takes a
/// guest's block for a batch, and recovers records that nobody made.
pub fn forged(config: &Config) -> Outcome {
    let (mut plan, rng) = calm(config);
    plan.replicas = 2;
    plan.forged = 70;
    plan.forgers = true;
    plan.actions = 600;
    plan.reads = 10;
    plan.zeroes = 0;
    plan.whole = 0;
    plan.crashes = 25;
    run_plan(config, plan, rng)
}

/// A write of a map page, a checksum page, a delta or the directory is answered and never done. Without
/// the generations of the directory: the slot before it, which is sound and older, is taken for good.
pub fn lost_page(config: &Config) -> Outcome {
    let (mut plan, mut rng) = calm(config);
    plan.corruption = [0, 0, 0, rng.between(2_000, 60_000) as u32];
    plan.metadata_only = true;
    plan.replicas = 2;
    plan.blocks = 4 * EXTENT_BLOCKS;
    plan.actions = 900;
    plan.reads = 30;
    plan.floors = 25;
    plan.crashes = 8;
    run_plan(config, plan, rng)
}

/// More is written than fits. Without S6: a write is sequenced that finds no extent, its record can never
/// leave the ring, and the ring fills up for all.
pub fn full(config: &Config) -> Outcome {
    let (mut plan, rng) = calm(config);
    plan.replicas = 3;
    plan.blocks = 16 * EXTENT_BLOCKS;
    plan.ring_bytes = 2 << 20;
    plan.actions = 1500;
    plan.think = millis(1);
    plan.reads = 5;
    plan.zeroes = 5;
    plan.floors = 30;
    plan.crashes = 3;
    run_plan(config, plan, rng)
}

/// Reads are under way while the blocks they read are destaged over. Without S9: what was merely
/// overtaken is called corrupt.
pub fn racing_reads(config: &Config) -> Outcome {
    let (mut plan, rng) = calm(config);
    plan.replicas = 1;
    plan.blocks = 2 * EXTENT_BLOCKS;
    plan.actions = 2500;
    plan.think = 25_000;
    plan.reads = 55;
    plan.zeroes = 2;
    plan.floors = 20;
    plan.profile.latency = 500_000;
    plan.profile.lanes = 16;
    plan.profile.flush = 50_000;
    run_plan(config, plan, rng)
}

/// A volume's floor hardly moves, and its records fill several batches when they are copied forward. Without
/// S5's order: the floor rises while the older ones are copied already and the newer ones still wait; those
/// are destaged from where they lie, the tail passes them, and after a crash the older ones, which lie
/// beyond it, count again.
pub fn pinned_holes(config: &Config) -> Outcome {
    let (mut plan, rng) = calm(config);
    plan.replicas = 2;
    plan.most_replicas = 2;
    plan.ring_bytes = 8 << 20;
    plan.device_bytes = 16 << 20;
    plan.blocks = 2 * EXTENT_BLOCKS;
    plan.pinned = true;
    plan.whole = 0;
    plan.zeroes = 10;
    plan.actions = 4000;
    plan.think = 300_000;
    plan.reads = 20;
    plan.floors = 40;
    plan.crashes = 15;
    plan.profile.latency = 10_000;
    plan.profile.page_time = 40_000;
    plan.profile.flush = 50_000;
    plan.profile.lanes = 16;
    run_plan(config, plan, rng)
}

/// A write, many more of its volume, and a discard of its extent wait above a floor that stands still, while
/// another volume fills the ring. They are copied forward: the copy of the write is durable, and the discard
/// still waits for its own, when the floor rises. It is destaged from where it lies, and nothing names the
/// extent any more. Without S5's order: the tail passes the discard, but not the copy of the write, which
/// lies alone in the ring after a power cut, and counts again.
pub fn overtaken_discard(config: &Config) -> Outcome {
    let (mut plan, mut rng) = calm(config);
    plan.replicas = 2;
    plan.most_replicas = 2;
    plan.ring_bytes = 16 << 20;
    plan.device_bytes = 24 << 20;
    plan.blocks = 8 * EXTENT_BLOCKS;
    plan.whole = 0;
    plan.actions = 1;
    plan.think = millis(30);
    plan.profile.latency = 20_000;
    plan.profile.page_time = 40_000;
    plan.profile.flush = 50_000;
    plan.profile.lanes = 8;
    let extent = rng.below(4) as u32;
    let first = BlockRange::new(u64::from(extent) * EXTENT_BLOCKS + rng.below(48), 16);
    let more = BlockRange::new(5 * EXTENT_BLOCKS, 48);
    let mut script = vec![Step::Record(RecordKind::Write, first)];
    script.extend([Step::Record(RecordKind::Write, more); 8]);
    script.push(Step::Record(
        RecordKind::Discard,
        BlockRange::of_extent(extent),
    ));
    // The other volume's floor follows until shortly before the ring is half full: what is above it then
    // lies before the copies, and keeps the tail there.
    script.push(Step::FillRing {
        to: 46,
        floor: true,
    });
    script.push(Step::FillRing {
        to: 50,
        floor: false,
    });
    script.push(Step::Wait(rng.between(millis(5), millis(14))));
    script.extend([Step::Floor, Step::Wait(millis(60))]);
    plan.script = script.into();
    run_plan(config, plan, rng)
}

/// (1) A block is written, and the floor follows. (2) It is written again, and nobody asks for anything, so that
/// whatever may be destaged is. (3) The second write is made void: it was the tail of a replica that was not
/// there. Without R25: it lies in the block's place, and what it wrote over is nowhere any more.
pub fn void_after_rest(config: &Config) -> Outcome {
    let (mut plan, mut rng) = calm(config);
    plan.replicas = 1;
    plan.blocks = 2 * EXTENT_BLOCKS;
    plan.whole = 0;
    plan.actions = 1;
    let block = BlockRange::new(rng.below(2 * EXTENT_BLOCKS), 1);
    let write = Step::Record(RecordKind::Write, block);
    let rest = Step::Wait(millis(1500));
    plan.script = [
        write,
        rest,
        Step::Floor,
        rest,
        write,
        rest,
        Step::Void,
        rest,
    ]
    .into();
    run_plan(config, plan, rng)
}

/// Tails are voided while whole extents are being written to their places. Without S4: the extent is given
/// to another record, and the old write lands over it.
pub fn void_in_flight(config: &Config) -> Outcome {
    let (mut plan, rng) = calm(config);
    plan.replicas = 2;
    plan.blocks = 6 * EXTENT_BLOCKS;
    plan.ring_bytes = 2 << 20;
    plan.whole = 60;
    plan.zeroes = 5;
    plan.voids = 8;
    plan.actions = 1200;
    plan.think = 100_000;
    plan.reads = 15;
    plan.floors = 20;
    plan.crashes = 2;
    plan.profile.latency = 400_000;
    plan.profile.page_time = 8_000;
    plan.profile.lanes = 12;
    run_plan(config, plan, rng)
}

/// A store is killed while its path to the device is stuck, and opens again at once by another path, while
/// writes of its predecessor are still on their way. Without R23's claim: they land under the successor,
/// over what it has written since.
pub fn late_writes(config: &Config) -> Outcome {
    let (mut plan, rng) = calm(config);
    plan.replicas = 1;
    plan.blocks = 2 * EXTENT_BLOCKS;
    plan.actions = 900;
    plan.think = 60_000;
    plan.reads = 15;
    plan.floors = 20;
    plan.crashes = 30;
    plan.kills = 100;
    plan.restart = (1_000, 30_000);
    plan.stuck = 100;
    plan.profile.latency = 100_000;
    plan.profile.page_time = 20_000;
    plan.profile.lanes = 8;
    run_plan(config, plan, rng)
}
