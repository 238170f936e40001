//! A pool on which a newer Lockstep has written: refused by the version it found, never cut short.

mod common;

use common::*;
use lockstep_store::format::{Batch, PoolKey};
use lockstep_types::{BLOCK, BlockRange, ReplicaId, seconds};

const KEY: PoolKey = PoolKey([7; 16]);
const OTHER: u16 = 2;
const REFUSED: &str = "the journal batch header is refused: its version 2 is unknown to this \
                       Lockstep; run a newer one";

/// A pool with so many records, a batch each, of which none has gone to its place.
fn written(records: u64) -> (Bench, ReplicaId) {
    let mut bench = Bench::new(&tiny(), 1);
    let replica = bench.create(1);
    for n in 1..=records {
        let record = write(stamp(1, n), BlockRange::new(n, 1), n);
        bench.append(replica, record, stamp(0, 0));
        bench.settle();
        assert!(bench.take_durable(replica, stamp(1, n)));
    }
    (bench, replica)
}

/// Where the batches of the ring lie that have records with blocks, by number.
fn batches(bench: &Bench) -> Vec<(u64, u64)> {
    let ring = bench.geometry.ring;
    let mut found: Vec<(u64, u64)> = (ring.offset..ring.offset + ring.length)
        .step_by(BLOCK)
        .filter_map(|offset| {
            let header = bench.disk.peek(offset, BLOCK);
            let parsed = Batch::decode(&header, &KEY).ok()?;
            let mut records = parsed.batch.records.iter();
            let some = records.any(|record| !record.checksums.is_empty());
            some.then_some((parsed.batch.number, offset))
        })
        .collect();
    found.sort_unstable();
    found
}

/// Makes a header say that it is of another version; under the key or not.
fn set_version(bench: &mut Bench, offset: u64, key: &PoolKey) {
    let mut header = bench.disk.peek(offset, BLOCK).to_vec();
    header[4..6].copy_from_slice(&OTHER.to_le_bytes());
    Batch::seal(&mut header, key);
    bench.disk.poke(offset, &header);
}

/// R24: the last batch lies beyond the mark, and was acknowledged all the same.
#[test]
fn a_batch_of_a_newer_version_at_the_end_of_the_chain_refuses_the_pool() {
    for records in [1, 5] {
        let (mut bench, _) = written(records);
        let (_, last) = *batches(&bench).last().expect("there are some");
        set_version(&mut bench, last, &KEY);
        let refused = bench.reopen_or_refused().expect_err("not cut short");
        assert_eq!(refused, REFUSED);
    }
}

#[test]
fn a_batch_of_a_newer_version_in_the_chain_refuses_the_pool() {
    let (bench, _) = written(5);
    for (_, offset) in batches(&bench) {
        let mut bench = bench.clone();
        set_version(&mut bench, offset, &KEY);
        let refused = bench.reopen_or_refused().expect_err("not passed over");
        assert_eq!(refused, REFUSED);
    }
}

/// The chain ends in a bad batch, and what lies behind it is of a newer version.
#[test]
fn a_batch_of_a_newer_version_behind_a_bad_one_refuses_the_pool() {
    let (mut bench, _) = written(5);
    let found = batches(&bench);
    let [.., (_, bad), (_, last)] = found[..] else {
        panic!("there are several")
    };
    bench.disk.poke(bad, &[0; BLOCK]);
    set_version(&mut bench, last, &KEY);
    let refused = bench.reopen_or_refused().expect_err("not cut short");
    assert_eq!(refused, REFUSED);
}

/// An upgrade that was taken back with the journal empty leaves headers behind, of earlier laps.
#[test]
fn a_batch_of_a_newer_version_that_the_tail_has_passed_is_nothing() {
    let (mut bench, replica) = written(3);
    let old = batches(&bench);
    bench.call(|store, _, _| store.set_floor(replica, stamp(1, 3)));
    bench.idle(seconds(3));
    for (_, offset) in old {
        set_version(&mut bench, offset, &KEY);
    }
    let recovery = bench.reopen_or_refused().expect("nothing is needed of it");
    assert!(!recovery.corrupt, "{recovery:?}");
    let range = BlockRange::new(2, 1);
    assert_eq!(bench.read(replica, range), Ok(content(2, range).to_vec()));
}

/// S8: a guest writes what it likes into its blocks, versions too.
#[test]
fn an_imitation_of_a_newer_version_is_nothing() {
    let (mut bench, replica) = written(3);
    let (_, last) = *batches(&bench).last().expect("there are some");
    let mut imitation = bench.disk.peek(last, BLOCK).to_vec();
    imitation[4..6].copy_from_slice(&OTHER.to_le_bytes());
    Batch::seal(&mut imitation, &PoolKey([8; 16]));
    bench.disk.poke(last + 2 * BLOCK as u64, &imitation);
    let recovery = bench.reopen_or_refused().expect("it opens");
    assert!(!recovery.corrupt, "{recovery:?}");
    let range = BlockRange::new(3, 1);
    assert_eq!(bench.read(replica, range), Ok(content(3, range).to_vec()));
}

/// R3: the older slot of a replica's entry knows nothing of what was promised since.
#[test]
fn an_entry_whose_newer_slot_is_of_a_newer_version_refuses_the_pool() {
    let (bench, _) = written(1);
    for slot in 0..2 {
        let mut bench = bench.clone();
        let offset = bench.geometry.replica_slot(0, slot);
        let mut page = bench.disk.peek(offset, BLOCK).to_vec();
        page[4..6].copy_from_slice(&OTHER.to_le_bytes());
        page[12..16].fill(0);
        let sum = crc32c::crc32c(&page);
        page[12..16].copy_from_slice(&sum.to_le_bytes());
        bench.disk.poke(offset, &page);
        let refused = bench.reopen_or_refused().expect_err("no older promise");
        assert!(refused.contains("its version 2 is unknown"), "{refused}");
    }
}
