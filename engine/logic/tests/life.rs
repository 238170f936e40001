//! The life of a volume on three nodes: made, attached, written, degraded, healed, taken over.

mod world;

use lockstep_types::SECOND;
use world::{World, a, n, r};

#[test]
fn a_volume_is_made_attached_written_and_read() {
    let mut world = World::new(&["a", "b", "c"]);
    world.create_volume("3", &[1, 2, 3], 1024);
    assert_eq!(world.in_sync(), [r(1), r(2), r(3)]);
    world.attach(n(1), a(1));
    for block in 0..50 {
        world.write(n(1), a(1), block * 7, block as u8 + 1);
    }
    for block in 0..50 {
        assert_eq!(world.read(n(1), a(1), block * 7), block as u8 + 1);
    }
    assert_eq!(world.read(n(1), a(1), 1023), 0);
}

#[test]
fn a_node_dies_and_is_resynced_when_it_returns() {
    let mut world = World::new(&["a", "b", "c"]);
    world.create_volume("3", &[1, 2, 3], 1024);
    world.attach(n(1), a(1));
    for block in 0..20 {
        world.write(n(1), a(1), block, 1);
    }
    world.kill(n(2));
    let began = world.now;
    world.write(n(1), a(1), 3, 2); // waits for the shrink
    assert!(
        world.now - began < SECOND,
        "a closed link costs at most a second"
    );
    assert_eq!(world.in_sync(), [r(1), r(3)]);
    for block in 10..200 {
        world.write(n(1), a(1), block, 3);
    }
    world.start(n(2));
    world.until(30 * SECOND, "the copy is certified again", |w| {
        w.in_sync().len() == 3
    });
    world.write(n(1), a(1), 4, 4);
    // The others leave: what is read now comes from the one that was away.
    world.kill(n(3));
    world.until(10 * SECOND, "the shrink", |w| w.in_sync() == [r(1), r(2)]);
    world.kill(n(1));
    let node = world.take_over(n(1), n(2), a(2));
    assert_eq!(world.read(node, a(2), 3), 2);
    assert_eq!(world.read(node, a(2), 4), 4);
    assert_eq!(world.read(node, a(2), 5), 1);
    for block in 10..200 {
        assert_eq!(world.read(node, a(2), block), 3, "block {block}");
    }
}

#[test]
fn two_copies_fail_over() {
    let mut world = World::new(&["a", "b"]);
    world.create_volume("2", &[1, 2], 1024);
    world.attach(n(1), a(1));
    for block in 0..20 {
        world.write(n(1), a(1), block, 7);
    }
    world.kill(n(1));
    let node = world.take_over(n(1), n(2), a(2));
    assert_eq!(world.in_sync(), [r(2)]);
    for block in 0..20 {
        assert_eq!(world.read(node, a(2), block), 7);
    }
    world.write(node, a(2), 5, 8);
    world.start(n(1));
    world.until(30 * SECOND, "the copy is certified again", |w| {
        w.in_sync().len() == 2
    });
    world.detach(node, a(2));
    world.attach(n(1), a(3));
    assert_eq!(world.read(n(1), a(3), 5), 8);
    assert_eq!(world.read(n(1), a(3), 6), 7);
}

#[test]
fn a_process_restarts_under_its_attachment() {
    let mut world = World::new(&["a", "b", "c"]);
    world.create_volume("3", &[1, 2, 3], 1024);
    world.attach(n(1), a(1));
    world.write(n(1), a(1), 9, 5);
    world.kill(n(1));
    world.start(n(1));
    world.until(10 * SECOND, "it opens again", |w| w.is_open(n(1)));
    assert_eq!(world.read(n(1), a(1), 9), 5);
    world.write(n(1), a(1), 9, 6);
    assert_eq!(world.in_sync().len(), 3);
}

#[test]
fn a_diskless_primary_serves() {
    let mut world = World::new(&["a", "b", "c"]);
    world.create_volume("2", &[1, 2], 1024);
    world.attach(n(3), a(1));
    world.write(n(3), a(1), 9, 5);
    assert_eq!(world.read(n(3), a(1), 9), 5);
}
