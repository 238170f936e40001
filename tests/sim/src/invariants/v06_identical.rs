//! V6: at quiescence the certified copies of a volume are the same byte for byte, read through a store
//! of their own over a copy of each device.

use crate::coverage::Coverage;
use crate::disk::Disk;
use crate::queue::EventQueue;
use crate::world::World;
use crate::world::plan::FaultKind;
use lockstep_store::{Event, OpenOptions, Output, ReadData, Recovery, Store, StoreError};
use lockstep_types::{BLOCK, BlockRange, EXTENT_BLOCKS, Gap, Nanos, ReplicaId, SECOND, VolumeId};

pub fn members(world: &mut World) -> Result<(), String> {
    let volumes: Vec<VolumeId> = world.committed.state.volumes.keys().copied().collect();
    for volume in volumes {
        // It waits for a person, and what was under way when it closed has not been decided (R9, world seed 2658191).
        if world.waits_for_the_lost(volume) {
            continue;
        }
        let record = world.committed.state.volumes[&volume].clone();
        let mut first: Option<(String, Vec<Vec<u8>>)> = None;
        for (member, life) in &record.membership.in_sync {
            if world.losses.is_lost(*member, *life) {
                continue;
            }
            let Some(held) = record.replicas.get(member) else {
                continue;
            };
            let node = world.index_of(held.node);
            let Some(slot) = world.nodes[node]
                .disks
                .iter()
                .find(|disk| disk.device == held.device)
            else {
                continue;
            };
            if world.nodes[node].process.is_none() || slot.disk.is_dead(world.now()) {
                continue;
            }
            // Found out, and kept in the record because no other may stand for it (R9, `strict`).
            if world.plan.liar == Some(node) && world.checks.waiting.contains_key(&volume) {
                continue;
            }
            let name = world.nodes[node].name.clone();
            // What decayed on the device that rots, and was not met yet, is for the scrub to find.
            let rots = (node == world.plan.victim || world.plan.over_budget)
                && world.plan.every(FaultKind::Corruption).is_some();
            let found = read_whole(slot.disk.clone(), *member, record.blocks, rots)
                .map_err(|why| format!("{volume:?} on {name}: {why}"))?;
            match &mut first {
                None => first = Some((name, found)),
                Some((other, expected)) => {
                    compare(volume, other, expected, &name, &found)?;
                    know_more(expected, found);
                }
            }
        }
        world.coverage.hit("quiescence: copies compared");
    }
    Ok(())
}

/// What the first copies could not be read of is compared with later ones as the next one has it.
fn know_more(expected: &mut [Vec<u8>], found: Vec<Vec<u8>>) {
    let pairs = expected.iter_mut().zip(found);
    for (known, more) in pairs.filter(|(known, _)| known.is_empty()) {
        *known = more;
    }
}

fn compare(
    volume: VolumeId,
    one: &str,
    a: &[Vec<u8>],
    two: &str,
    b: &[Vec<u8>],
) -> Result<(), String> {
    let known = |block: &[u8]| !block.is_empty();
    let differ = a
        .iter()
        .zip(b)
        .position(|(a, b)| known(a) && known(b) && a != b);
    let Some(block) = differ else { return Ok(()) };
    let name =
        |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().expect("a block has eight bytes"));
    let (on_one, on_two) = (name(&a[block]), name(&b[block]));
    Err(format!(
        "{volume:?} block {block}: {one} has {on_one:#x}, {two} has {on_two:#x}"
    ))
}

/// Recovered after a crash that did not happen, a rotted journal is gapped; the store that runs still has in
/// memory what it lost.
fn is_gapped(recovery: &Recovery, replica: ReplicaId) -> bool {
    let found = recovery.replicas.iter();
    found
        .filter(|r| r.meta.replica == replica)
        .any(|r| r.meta.gap == Gap::Corrupt)
}

/// Blocks of a replica that its device does not give any more.
pub(crate) fn unreadable_blocks(disk: &Disk, replica: ReplicaId, blocks: u64) -> usize {
    match read_whole(disk.clone(), replica, blocks, true) {
        Ok(found) => found.iter().filter(|block| block.is_empty()).count(),
        Err(_) => blocks as usize,
    }
}

/// Every block of a replica, empty where it `rots` and cannot be read. The device is a copy, on which nothing goes wrong.
fn read_whole(
    mut disk: Disk,
    replica: ReplicaId,
    blocks: u64,
    rots: bool,
) -> Result<Vec<Vec<u8>>, String> {
    let mut coverage = Coverage::default();
    disk.settle();
    let mut store = Store::open(OpenOptions::new(disk.bytes()));
    let mut queue: EventQueue<u64> = EventQueue::default();
    let mut content: Vec<Vec<u8>> = Vec::new();
    let mut out = Vec::new();
    let mut ready = false;
    store.start(0, &mut out);
    while queue.now() < 60 * SECOND {
        let mut next = None;
        for output in std::mem::take(&mut out) {
            match output {
                Output::Disk(op) => {
                    let submitted = disk.submit(queue.now(), op);
                    queue.at(submitted.done_at, submitted.id);
                }
                Output::Event(Event::Recovered(recovery)) => {
                    if rots && is_gapped(&recovery, replica) {
                        return Ok(vec![Vec::new(); blocks as usize]);
                    }
                    ready = true;
                    next = Some(0);
                }
                Output::Event(Event::Read { result, .. }) => {
                    match result {
                        Ok(data) => add(&mut content, data),
                        Err(StoreError::Corrupt(_)) if rots => {
                            let count = EXTENT_BLOCKS.min(blocks - content.len() as u64);
                            content.extend((0..count).map(|_| Vec::new()));
                        }
                        Err(error) => return Err(error.to_string()),
                    }
                    next = Some(content.len() as u64);
                }
                Output::Event(_) => {}
            }
        }
        let now: Nanos = queue.now();
        if let Some(from) = next.filter(|_| ready) {
            if from >= blocks {
                return Ok(content);
            }
            let count = EXTENT_BLOCKS.min(blocks - from) as u32;
            store.read(now, from, replica, BlockRange::new(from, count), &mut out);
            continue;
        }
        let Some(id) = queue.pop() else {
            // A pool whose metadata rotted beyond use says so and serves nobody.
            let unknown = rots.then(|| vec![Vec::new(); blocks as usize]);
            return unknown.ok_or("the store says nothing any more".into());
        };
        if let Some((token, result)) = disk.complete(queue.now(), id, &mut coverage) {
            store.disk_done(queue.now(), token, result, &mut out);
        }
    }
    Err("reading it takes for ever".into())
}

/// What a read gave, block by block.
fn add(content: &mut Vec<Vec<u8>>, data: ReadData) {
    for (count, bytes) in data.pieces {
        match bytes {
            Some(bytes) => content.extend(bytes.chunks_exact(BLOCK).map(<[u8]>::to_vec)),
            None => content.extend((0..count).map(|_| vec![0; BLOCK])),
        }
    }
}
