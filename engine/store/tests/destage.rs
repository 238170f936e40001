//! What destaging does with payloads in the ring that are not what they were.

mod common;

use common::*;
use lockstep_store::{Event, StoreError};
use lockstep_types::{
    BLOCK, BlockRange, RecordKind, ReplicaId, Sequence, Stamp, checksum_blocks, seconds,
};

/// Spoils the one place where a block's content lies.
fn rot(bench: &mut Bench, content: &[u8]) {
    let pages = tiny().device_bytes / BLOCK as u64;
    let lies_at = |page: &u64| bench.disk.peek(page * BLOCK as u64, BLOCK) == content;
    let places: Vec<u64> = (0..pages).filter(lies_at).collect();
    assert_eq!(places.len(), 1, "it lies in the ring and nowhere else");
    bench.disk.poke(places[0] * BLOCK as u64, &[0x5a; BLOCK]);
}

fn corrupt_ranges(bench: &mut Bench, replica: ReplicaId) -> Vec<BlockRange> {
    let mut ranges = Vec::new();
    while let Some(range) = bench.take(|event| match event {
        Event::Corrupt { replica: r, range } if *r == replica => Some(*range),
        _ => None,
    }) {
        ranges.push(range);
    }
    ranges
}

#[test]
fn one_bad_payload_among_neighbours_is_the_only_one_that_counts_as_bad() {
    let mut bench = Bench::new(&tiny(), 5);
    let replica = bench.create(1);
    let of = |number: u64| BlockRange::new(number * 70, 2);
    for number in 1..=8 {
        let record = write(stamp(1, number), of(number), number);
        bench.append(replica, record, Stamp::ZERO);
    }
    bench.settle();
    rot(&mut bench, &content(4, of(4))[..BLOCK]);
    bench.call(|store, _, _| store.set_floor(replica, stamp(1, 8)));
    bench.idle(seconds(3));
    let bad = corrupt_ranges(&mut bench, replica);
    assert!(!bad.is_empty());
    assert!(bad.iter().all(|range| *range == BlockRange::new(280, 1)));
    for number in (1..=8).filter(|number| *number != 4) {
        let expected = content(number, of(number)).to_vec();
        assert_eq!(bench.read(replica, of(number)), Ok(expected));
    }
    // Everything else is in its place, each in an extent of its own; what cannot go there takes none, however
    // often it is tried, but one is kept for it.
    assert_eq!(bench.store.free_extents(), bench.store.total_extents() - 8);
}

#[test]
fn what_nobody_repairs_is_bad_in_its_place_and_holds_the_ring_no_longer() {
    let mut bench = Bench::new(&tiny(), 6);
    let replica = bench.create(1);
    let range = BlockRange::new(64, 3);
    bench.append(replica, write(stamp(1, 1), range, 1), Stamp::ZERO);
    bench.settle();
    rot(&mut bench, &content(1, range)[BLOCK..2 * BLOCK]);
    bench.call(|store, _, _| store.set_floor(replica, stamp(1, 1)));
    bench.idle(seconds(2));
    assert!(!corrupt_ranges(&mut bench, replica).is_empty());
    bench.idle(seconds(8));
    corrupt_ranges(&mut bench, replica);
    bench.idle(seconds(8));
    assert_eq!(
        corrupt_ranges(&mut bench, replica),
        [],
        "it is not tried again"
    );

    let bad = BlockRange::new(65, 1);
    for _ in 0..2 {
        assert_eq!(bench.read(replica, range), Err(StoreError::Corrupt(bad)));
        for sound in [64, 66] {
            let sound = BlockRange::new(sound, 1);
            let at = (sound.start - range.start) as usize * BLOCK;
            let expected = content(1, range)[at..at + BLOCK].to_vec();
            assert_eq!(bench.read(replica, sound), Ok(expected));
        }
        bench.restart();
        let ring = bench.store.tail(replica, Sequence::ZERO);
        assert!(ring.is_empty(), "nothing is left in the ring");
    }

    let tag = bench.tag();
    let good = content(1, range).slice(BLOCK..2 * BLOCK);
    bench.call(|store, now, out| {
        let (kind, sums) = (RecordKind::Write, checksum_blocks(&good));
        let payload = good.clone();
        store.copy(
            now,
            tag,
            replica,
            stamp(1, 1),
            kind,
            bad,
            sums,
            payload,
            out,
        );
    });
    bench.settle();
    let expected = content(1, range).to_vec();
    assert_eq!(bench.read(replica, range), Ok(expected));
}

/// R25: what was destaged was below a floor. The batch that carried the floor is the last one, and the device
/// lost it: no mark speaks of it, and the records that follow must count all the same.
#[test]
fn what_was_destaged_under_a_floor_that_is_lost_is_not_missing() {
    let mut bench = Bench::new(&tiny(), 7);
    let replica = bench.create(1);
    for number in 1..=3 {
        let record = write(stamp(1, number), BlockRange::new(number * 70, 2), number);
        bench.append(replica, record, Stamp::ZERO);
        bench.settle();
    }
    bench.idle(seconds(3));
    let ring = bench.geometry.ring;
    let pages: Vec<u64> = (ring.offset..ring.offset + ring.length)
        .step_by(BLOCK)
        .collect();
    let before: Vec<Vec<u8>> = pages
        .iter()
        .map(|page| bench.disk.peek(*page, BLOCK).to_vec())
        .collect();
    bench.call(|store, _, _| store.set_floor(replica, stamp(1, 1)));
    bench.idle(seconds(3));
    let mut lost = 0;
    for (page, was) in pages.iter().zip(&before) {
        if bench.disk.peek(*page, BLOCK) != was.as_slice() {
            bench.disk.poke(*page, was);
            lost += 1;
        }
    }
    assert_eq!(lost, 1, "the floor's batch is one block");
    let recovery = bench.crash(DROP);
    assert_eq!(recovery.replicas[0].last, stamp(1, 3));
    assert_eq!(recovery.replicas[0].meta.floor, stamp(1, 1));
}
