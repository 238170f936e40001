//! Work that goes on without a client: repair under `strict`, volumes whose attached node is silent,
//! and copies that are to go.

mod world;

use lockstep_control::{Command, NewReplica, Rpo};
use lockstep_logic::io::Input;
use lockstep_types::{Incarnation, Response, SECOND};
use world::{V, World, a, n, r};

/// A `strict` volume on nodes 1 (site a) and 2 (site b), attached to 1, with some data; node 3 is in b.
fn strict() -> World {
    let mut world = World::new(&["a", "b", "b"]);
    world.create_volume("*=1", &[1, 2], 1024);
    let mut policy = world.volume().policy.clone();
    policy.rpo = Rpo::Strict;
    world.commit(Command::SetPolicy { volume: V, policy });
    world.run();
    world.attach(n(1), a(1));
    for block in 0..20 {
        world.write(n(1), a(1), block * 40, 1);
    }
    world
}

fn add_on_3(world: &mut World) {
    let device = world.machine(n(3)).device;
    world.commit(Command::AddReplica {
        volume: V,
        replica: NewReplica {
            replica: r(3),
            node: n(3),
            device,
            incarnation: Incarnation(1),
        },
    });
    world.run();
}

/// Site b's only copy dies and then the primary's process: nothing opens for clients.
fn strict_without_b() -> World {
    let mut world = strict();
    world.kill(n(2));
    world.pass(5 * SECOND);
    world.kill(n(1));
    world.start(n(1));
    let ticket = world.id();
    world.step(
        n(1),
        Input::Attach {
            ticket,
            volume: V,
            attachment: a(1),
        },
    );
    world.pass(40 * SECOND);
    assert!(!world.is_open(n(1)), "strict serves nothing without site b");
    assert_eq!(world.in_sync(), [r(1), r(2)]);
    world
}

#[test]
fn under_strict_a_lost_copy_is_exchanged_for_a_verified_one_of_its_site_in_one_step() {
    let mut world = strict_without_b();
    add_on_3(&mut world);
    world.until(60 * SECOND, "exchanged", |w| w.in_sync() == [r(1), r(3)]);
    world.until(30 * SECOND, "open", |w| w.is_open(n(1)));
    world.write(n(1), a(1), 0, 2);
    assert_eq!(world.read(n(1), a(1), 0), 2);
    assert_eq!(world.read(n(1), a(1), 760), 1);
    world.until(10 * SECOND, "told", |w| !w.volume().membership.repair_only);
    // The new copy stands for the site: it has everything.
    world.detach(n(1), a(1));
    world.attach(n(3), a(2));
    assert_eq!(world.read(n(3), a(2), 0), 2);
    assert_eq!(world.read(n(3), a(2), 760), 1);
}

#[test]
fn who_was_verified_while_repairing_knows_after_a_restart_how_far_it_is() {
    let mut world = strict();
    world.detach(n(1), a(1));
    world.kill(n(2));
    add_on_3(&mut world);
    world.until(90 * SECOND, "exchanged", |w| w.in_sync() == [r(1), r(3)]);
    // Nobody writes: its content lies in copies, and it has no record of its own.
    world.until(60 * SECOND, "left alone", |w| {
        w.volume().membership.primary.is_none()
    });
    world.kill(n(3));
    world.start(n(3));
    world.attach(n(1), a(2));
    world.until(60 * SECOND, "open", |w| w.is_open(n(1)));
    assert_eq!(world.in_sync(), [r(1), r(3)]);
    assert_eq!(world.read(n(1), a(2), 760), 1);
}

#[test]
fn while_repairing_no_client_is_served_and_the_record_says_so() {
    let mut world = strict_without_b();
    let tag = world.begin_write(n(1), a(1), 0, 7);
    // The copy that could stand in never gets anywhere: its disk takes nothing.
    add_on_3(&mut world);
    world.machine(n(3)).broken_disk = Some(5);
    world.until(60 * SECOND, "repairing", |w| {
        w.volume().membership.repair_only
    });
    assert!(!world.is_open(n(1)));
    assert!(!world.completed.contains_key(&tag), "nothing completes");
    assert_eq!(
        world.in_sync(),
        [r(1), r(2)],
        "strict keeps the site's copy"
    );
}

#[test]
fn a_member_that_returns_first_is_sealed_and_the_reconcile_redone() {
    let mut world = strict_without_b();
    let tag = world.begin_write(n(1), a(1), 0, 7);
    add_on_3(&mut world);
    world.machine(n(3)).broken_disk = Some(5);
    world.until(60 * SECOND, "repairing", |w| {
        w.volume().membership.repair_only
    });
    let epoch = world.volume().membership.epoch;
    world.start(n(2));
    world.until(60 * SECOND, "open again", |w| w.is_open(n(1)));
    assert!(world.volume().membership.epoch > epoch, "one epoch later");
    assert!(world.in_sync().contains(&r(2)));
    assert_eq!(world.answer(tag), Ok(Response::Done), "what waited is done");
    assert_eq!(world.read(n(1), a(1), 0), 7);
}

#[test]
fn a_silent_node_keeps_its_volume_and_a_caretaker_heals_it_meanwhile() {
    let mut world = World::new(&["a", "b", "c"]);
    world.create_volume("3", &[1, 2, 3], 1024);
    world.attach(n(1), a(1));
    for block in 0..20 {
        world.write(n(1), a(1), block * 40, 1);
    }
    // 3 has left the set and is back, when the primary's node dies.
    world.kill(n(3));
    world.write(n(1), a(1), 0, 2);
    assert_eq!(world.in_sync(), [r(1), r(2)]);
    world.kill(n(1));
    world.start(n(3));
    world.pass(3 * SECOND);
    assert!(!world.volume().membership.caretaker, "not at once");
    world.until(60 * SECOND, "healed", |w| w.in_sync() == [r(2), r(3)]);
    let attachment = world.volume().membership.attachment.expect("it stays");
    assert_eq!((attachment.node, attachment.id), (n(1), a(1)));
    // Its node returns: the volume is its again, under the same publication (R12).
    world.start(n(1));
    let ticket = world.id();
    world.step(
        n(1),
        Input::Attach {
            ticket,
            volume: V,
            attachment: a(1),
        },
    );
    world.until(60 * SECOND, "open at its node", |w| w.is_open(n(1)));
    assert!(!world.volume().membership.caretaker);
    assert_eq!(world.read(n(1), a(1), 0), 2);
}

#[test]
fn a_caretaker_never_comes_while_the_attached_node_answers() {
    let mut world = World::new(&["a", "b", "c"]);
    world.create_volume("3", &[1, 2, 3], 1024);
    world.attach(n(1), a(1));
    world.write(n(1), a(1), 0, 1);
    world.kill(n(3));
    world.write(n(1), a(1), 0, 2);
    let epoch = world.volume().membership.epoch;
    world.pass(60 * SECOND);
    assert_eq!(world.volume().membership.epoch, epoch);
    assert!(!world.volume().membership.caretaker);
}

#[test]
fn a_copy_that_the_policy_needs_stays_certified_until_another_stands_in() {
    let mut world = World::new(&["a", "b", "c"]);
    world.create_volume("2", &[1, 2], 1024);
    world.attach(n(1), a(1));
    world.write(n(1), a(1), 0, 1);
    world.commit(Command::RemoveReplica {
        volume: V,
        replica: r(2),
        even_below_policy: false,
    });
    world.run();
    world.pass(20 * SECOND);
    assert_eq!(world.in_sync(), [r(1), r(2)], "two were asked for");
    add_on_3(&mut world);
    world.until(30 * SECOND, "replaced", |w| w.in_sync() == [r(1), r(3)]);
    assert_eq!(world.read(n(1), a(1), 0), 1);
}

#[test]
fn under_strict_a_copy_may_move_to_the_other_site_if_only_copies_are_counted() {
    let mut world = World::new(&["a", "b", "a"]);
    world.create_volume("2", &[1, 2], 1024);
    let mut policy = world.volume().policy.clone();
    policy.rpo = Rpo::Strict;
    world.commit(Command::SetPolicy { volume: V, policy });
    world.run();
    world.attach(n(1), a(1));
    world.write(n(1), a(1), 0, 1);
    world.commit(Command::RemoveReplica {
        volume: V,
        replica: r(2),
        even_below_policy: false,
    });
    world.run();
    // It counts as long as nothing stands for it, also when it dies.
    world.kill(n(2));
    world.pass(20 * SECOND);
    assert_eq!(world.in_sync(), [r(1), r(2)], "`strict` keeps site b");
    world.start(n(2));
    add_on_3(&mut world);
    world.until(60 * SECOND, "moved", |w| w.in_sync() == [r(1), r(3)]);
    world.write(n(1), a(1), 0, 2);
    assert_eq!(world.read(n(1), a(1), 0), 2);
}

/// Nobody restarts the primary: what it holds for the lost copy does not stand in the new one's way.
#[test]
fn under_strict_a_primary_with_writes_in_flight_exchanges_a_lost_copy() {
    let mut world = strict();
    let tag = world.begin_write(n(1), a(1), 0, 7);
    world.kill(n(2));
    world.pass(10 * SECOND);
    add_on_3(&mut world);
    world.until(120 * SECOND, "exchanged", |w| w.in_sync() == [r(1), r(3)]);
    assert_eq!(world.answer(tag), Ok(Response::Done));
}

/// Sites a and b do not see each other, and each could bring a copy of its own up to date.
fn decided_by(preferred: &str) -> Vec<lockstep_types::ReplicaId> {
    let mut world = World::new(&["a", "b", "a", "b"]);
    world.create_volume("2", &[1, 2], 1024);
    let mut policy = world.volume().policy.clone();
    policy.preferred_site = Some(preferred.into());
    world.commit(Command::SetPolicy { volume: V, policy });
    world.run();
    world.attach(n(1), a(1));
    world.write(n(1), a(1), 0, 1);
    world.detach(n(1), a(1));
    for (here, there) in [(1, 2), (1, 4), (3, 2), (3, 4)] {
        world.cut_link(n(here), n(there), true);
    }
    for i in [3, 4] {
        let device = world.machine(n(i)).device;
        world.commit(Command::AddReplica {
            volume: V,
            replica: NewReplica {
                replica: r(i),
                node: n(i),
                device,
                incarnation: Incarnation(1),
            },
        });
    }
    world.until(120 * SECOND, "decided", |w| {
        let in_sync = w.in_sync();
        in_sync.len() == 2 && in_sync != [r(1), r(2)]
    });
    world.in_sync()
}

#[test]
fn the_preferred_site_decides_what_nobody_has_open() {
    assert_eq!(decided_by("a"), [r(1), r(3)]);
    assert_eq!(decided_by("b"), [r(2), r(4)]);
}

/// R9, R24: under `strict` a copy whose device failed may not leave, and does not count as it is either: the
/// volume waits, and goes on when somebody accepts fewer for a while.
#[test]
fn under_strict_a_copy_whose_device_failed_waits_for_a_decision() {
    let mut world = strict();
    world.machine(n(2)).broken_disk = Some(5);
    let tag = world.begin_write(n(1), a(1), 0, 7);
    world.pass(10 * SECOND);
    world.machine(n(2)).broken_disk = None;
    world.kill(n(2));
    world.start(n(2));
    world.pass(40 * SECOND);
    assert!(!world.completed.contains_key(&tag));
    let mut policy = world.volume().policy.clone();
    policy.rpo = Rpo::WitnessedDegrade;
    world.commit(Command::SetPolicy { volume: V, policy });
    world.until(60 * SECOND, "compared and certified", |w| {
        w.completed.contains_key(&tag) && w.in_sync() == [r(1), r(2)]
    });
    assert_eq!(world.read(n(1), a(1), 0), 7);
}
