//! A replica table that was blanked while what it described is still there.

mod common;

use common::*;
use lockstep_types::BlockRange;

/// Blanks both slots of the first entry, as a stray discard would.
fn blank_the_entry(bench: &mut Bench) {
    let geometry = bench.geometry;
    for generation in 0..2 {
        let offset = geometry.replica_slot(0, generation);
        bench.disk.poke(offset, &[0; lockstep_types::BLOCK]);
    }
}

fn written() -> (Bench, lockstep_types::ReplicaId) {
    let mut bench = Bench::new(&tiny(), 1);
    let replica = bench.create(1);
    bench.append(
        replica,
        write(stamp(1, 1), BlockRange::new(3, 4), 9),
        stamp(0, 0),
    );
    bench.settle();
    assert!(bench.take_durable(replica, stamp(1, 1)));
    (bench, replica)
}

fn is_refused(mut bench: Bench) {
    blank_the_entry(&mut bench);
    let said = bench.reopen_or_refused();
    let why = said.expect_err("a copy made in its place would own the old data");
    assert!(why.contains("replica table entry"), "{why}");
    assert!(why.contains("its data is still there"), "{why}");
}

/// R4: the delta log still maps extents to the entry. A copy made anew in its place would own them
/// after the next crash, though its new life never wrote them.
#[test]
fn a_blank_entry_whose_extents_are_mapped_is_refused() {
    let (mut bench, replica) = written();
    bench.call(|store, _, _| store.set_floor(replica, stamp(1, 1)));
    bench.idle(lockstep_types::seconds(3));
    assert_eq!(bench.store.free_extents(), bench.store.total_extents() - 1);
    is_refused(bench);
}

/// The same with a map page, after a clean end.
#[test]
fn a_blank_entry_named_by_a_checkpoint_is_refused() {
    let (mut bench, replica) = written();
    bench.call(|store, _, _| store.set_floor(replica, stamp(1, 1)));
    bench.idle(lockstep_types::seconds(3));
    bench.restart();
    bench.settle();
    is_refused(bench);
}

/// The same with nothing but a record in the ring.
#[test]
fn a_blank_entry_whose_records_are_in_the_ring_is_refused() {
    let (bench, _) = written();
    is_refused(bench);
}

/// What was deleted properly left a blank look nowhere: its entry says that it is free.
#[test]
fn what_a_deleted_replica_left_behind_is_no_lost_entry() {
    let (mut bench, replica) = written();
    bench.call(|store, _, _| store.set_floor(replica, stamp(1, 1)));
    bench.idle(lockstep_types::seconds(3));
    let tag = bench.tag();
    bench.call(|store, now, out| store.delete_replica(now, replica, tag, out));
    bench.settle();
    assert_eq!(bench.done(tag), Some(Ok(())));
    let recovery = bench.crash(DROP);
    assert_eq!(recovery.replicas.len(), 0);
    bench.idle(lockstep_types::seconds(3));
    let recovery = bench.crash(DROP);
    assert_eq!(recovery.replicas.len(), 0);
    assert_eq!(bench.store.free_extents(), bench.store.total_extents());
}
