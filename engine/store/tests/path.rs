//! The plain path: format, open, append, durable, read, crash, recover, read.

mod common;

use common::*;
use lockstep_types::BlockRange;

#[test]
fn what_was_acknowledged_is_read_back_after_a_crash() {
    let mut bench = Bench::new(&tiny(), 1);
    let replica = bench.create(1);
    let range = BlockRange::new(3, 4);
    bench.append(replica, write(stamp(1, 1), range, 9), stamp(0, 0));
    bench.settle();
    assert!(bench.take_durable(replica, stamp(1, 1)));
    assert_eq!(bench.read(replica, range), Ok(content(9, range).to_vec()));
    let recovery = bench.crash(DROP);
    assert_eq!(recovery.replicas.len(), 1);
    assert_eq!(recovery.replicas[0].last, stamp(1, 1));
    assert_eq!(bench.read(replica, range), Ok(content(9, range).to_vec()));
    bench.call(|store, _, _| store.set_floor(replica, stamp(1, 1)));
    bench.idle(lockstep_types::seconds(3));
    assert_eq!(bench.read(replica, range), Ok(content(9, range).to_vec()));
    assert_eq!(bench.store.free_extents(), bench.store.total_extents() - 1);
    let recovery = bench.crash(DROP);
    assert_eq!(recovery.replicas[0].last, stamp(1, 1));
    assert_eq!(bench.read(replica, range), Ok(content(9, range).to_vec()));
}
