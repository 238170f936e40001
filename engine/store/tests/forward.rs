//! The ring goes on under records that may not be destaged (S5).

mod common;

use common::*;
use lockstep_store::FormatOptions;
use lockstep_types::{BLOCK, BlockRange, ReplicaId, Stamp, millis, seconds};

/// Appends so many records of one block, none of which may be destaged.
fn pin(bench: &mut Bench, replica: ReplicaId, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let record = write(stamp(1, number), BlockRange::new(number, 1), number);
        bench.append(replica, record, Stamp::ZERO);
    }
    bench.settle();
}

/// More is pinned than windows allow, as by a copy that is resynced while the floor stands still, and the tail
/// comes to a record of another replica while it is copied forward. Without joining the copies on their way
/// these fill the ring, and the other one's record holds the tail for good (world seed 800302).
#[test]
fn what_is_copied_forward_frees_its_own_room_whosoever_it_is() {
    for pinned in [1, 20, 40, 50, 55, 60, 64] {
        goes_round_under(pinned);
    }
}

fn goes_round_under(pinned: u64) {
    let format = FormatOptions {
        window_bytes: 16 << 10,
        ..tiny()
    };
    let mut bench = Bench::new(&format, pinned);
    let [long, short, busy] = [1, 2, 3].map(|n| bench.create(n));
    pin(&mut bench, long, 1..=1);
    pin(&mut bench, short, 1..=5);
    pin(&mut bench, long, 2..=pinned);
    let mut last = Stamp::ZERO;
    for number in 1..=200 {
        let record = write(stamp(1, number), BlockRange::new(number % 64, 1), number);
        bench.append(busy, record, last);
        bench.idle(millis(300));
        last = stamp(1, number);
        assert!(
            bench.take_durable(busy, last),
            "record {number} waits for ever under {pinned}: {}",
            bench.store.outline()
        );
    }
    bench.restart();
    for (replica, count) in [(long, pinned), (short, 5)] {
        for number in 1..=count {
            let range = BlockRange::new(number, 1);
            let expected = content(number, range).to_vec();
            assert_eq!(bench.read(replica, range), Ok(expected));
        }
    }
}

/// What lies at the tail cannot be read, and may not be destaged; the ring fills up behind it. Then its record is
/// rolled forward: it has no room in the ring, and needs none to say what the bad one was (world seed 2400515).
#[test]
fn a_bad_record_at_the_tail_is_mended_by_the_one_that_takes_its_place() {
    let mut bench = Bench::new(&tiny(), 9);
    let [rotten, busy] = [1, 2].map(|n| bench.create(n));
    let range = BlockRange::new(3, 2);
    let all = |epoch: u64| {
        (1..=4).map(move |number| {
            let of = if number == 2 {
                range
            } else {
                BlockRange::new(10 * number, 1)
            };
            write(stamp(epoch, number), of, number)
        })
    };
    for record in all(1) {
        bench.append(rotten, record, Stamp::ZERO);
        bench.settle();
    }
    let place = (0..tiny().device_bytes / BLOCK as u64)
        .map(|page| page * BLOCK as u64)
        .find(|at| bench.disk.peek(*at, BLOCK) == content(2, range)[..BLOCK]);
    bench.disk.poke(place.expect("in the ring"), &[0x5a; BLOCK]);
    let mut number = 0;
    let mut last = Stamp::ZERO;
    loop {
        number += 1;
        assert!(number < 500, "the ring never fills up");
        let record = write(stamp(1, number), BlockRange::new(number % 64, 1), number);
        bench.append(busy, record, last);
        bench.idle(millis(300));
        last = stamp(1, number);
        if !bench.take_durable(busy, last) {
            break;
        }
    }
    bench.idle(seconds(20));
    assert!(!bench.take_durable(busy, last), "nothing mends it");
    for record in all(2) {
        bench.append(rotten, record, Stamp::ZERO);
    }
    bench.idle(seconds(20));
    assert!(bench.take_durable(busy, last), "{}", bench.store.outline());
    for number in 1..=4 {
        assert!(bench.take_durable(rotten, stamp(2, number)));
    }
    bench.restart();
    assert_eq!(bench.read(rotten, range), Ok(content(2, range).to_vec()));
}
