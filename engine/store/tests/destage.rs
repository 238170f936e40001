//! What destaging does with payloads in the ring that are not what they were.

mod common;

use common::*;
use lockstep_store::Event;
use lockstep_types::{BLOCK, BlockRange, ReplicaId, Stamp, seconds};

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
