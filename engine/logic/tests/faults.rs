//! What goes wrong around a volume, one thing at a time.

mod world;

use bytes::Bytes;
use lockstep_control::{Command, NewReplica};
use lockstep_logic::io::{AttachmentState, Input, NodeEvent};
use lockstep_types::{
    BLOCK, Incarnation, RequestError, RequestOp, Response, SECOND, Sequence, Stamp,
    checksum_blocks, millis,
};
use world::{V, World, a, n, r};

fn three() -> World {
    let mut world = World::new(&["a", "b", "c"]);
    world.create_volume("3", &[1, 2, 3], 1024);
    world.attach(n(1), a(1));
    for block in 0..20 {
        world.write(n(1), a(1), block * 40, 1);
    }
    world
}

#[test]
fn a_detached_volume_is_healed_by_a_caretaker_that_steps_down() {
    let mut world = three();
    world.kill(n(3));
    world.write(n(1), a(1), 0, 2);
    world.detach(n(1), a(1));
    world.start(n(3));
    world.until(20 * SECOND, "healed", |w| w.in_sync().len() == 3);
    world.until(10 * SECOND, "stepped down", |w| {
        w.volume().membership.primary.is_none()
    });
    world.kill(n(1));
    world.kill(n(2));
    // A caretaker that stepped down has given its lease back, but two of three must be given up.
    world.attach(n(3), a(2));
    assert_eq!(world.read(n(3), a(2), 0), 2);
    assert_eq!(world.read(n(3), a(2), 40), 1);
}

#[test]
fn a_remote_device_fails() {
    let mut world = three();
    world.machine(n(2)).broken_disk = Some(5);
    world.write(n(1), a(1), 0, 2);
    assert_eq!(world.in_sync(), [r(1), r(3)]);
    assert_eq!(world.read(n(1), a(1), 0), 2);
}

#[test]
fn an_idle_device_that_fails_leaves_too() {
    let mut world = three();
    world.pass(10 * SECOND);
    world.machine(n(2)).broken_disk = Some(5);
    world.write(n(1), a(1), 0, 2);
    world.machine(n(3)).broken_disk = Some(5);
    world.until(10 * SECOND, "all others have left", |w| {
        w.in_sync() == [r(1)]
    });
}

#[test]
fn the_local_device_fails_and_the_primary_goes_remote() {
    let mut world = three();
    world.machine(n(1)).broken_disk = Some(5);
    world.write(n(1), a(1), 0, 2);
    assert_eq!(world.in_sync(), [r(2), r(3)]);
    assert_eq!(world.read(n(1), a(1), 0), 2);
    assert_eq!(world.read(n(1), a(1), 40), 1);
}

#[test]
fn a_blank_device_is_reborn_and_resynced() {
    let mut world = three();
    world.kill(n(2));
    world.machine(n(2)).format(2);
    world.start(n(2));
    world.until(20 * SECOND, "certified in its new life", |w| {
        w.volume().membership.in_sync.get(&r(2)) == Some(&Incarnation(2))
    });
    world.kill(n(1));
    world.kill(n(3));
    let node = world.take_over(n(1), n(2), a(2));
    for block in 0..20 {
        assert_eq!(world.read(node, a(2), block * 40), 1);
    }
}

#[test]
fn a_blank_device_is_noticed_although_its_link_never_was() {
    let mut world = three();
    world.machine(n(2)).node = None;
    world.machine(n(2)).format(2);
    world.start(n(2));
    world.until(20 * SECOND, "certified in its new life", |w| {
        w.volume().membership.in_sync.get(&r(2)) == Some(&Incarnation(2))
    });
}

#[test]
fn a_loss_in_a_detached_volume_is_healed() {
    let mut world = three();
    world.detach(n(1), a(1));
    world.kill(n(1));
    world.machine(n(1)).format(2);
    world.start(n(1));
    world.until(40 * SECOND, "certified in its new life", |w| {
        w.volume().membership.in_sync.get(&r(1)) == Some(&Incarnation(2))
    });
    world.until(10 * SECOND, "stepped down", |w| {
        w.volume().membership.primary.is_none()
    });
    world.attach(n(1), a(2));
    assert_eq!(world.read(n(1), a(2), 40), 1);
}

#[test]
fn a_device_of_a_detached_volume_that_fails_leaves() {
    let mut world = three();
    world.write(n(1), a(1), 0, 5);
    world.detach(n(1), a(1));
    world.machine(n(2)).broken_disk = Some(5);
    // Its idle mark meets the error.
    world.until(40 * SECOND, "it has left", |w| w.in_sync() == [r(1), r(3)]);
}

#[test]
fn a_copy_whose_device_failed_returns_compared_from_its_first_extent() {
    let mut world = three();
    world.machine(n(2)).broken_disk = Some(5);
    world.write(n(1), a(1), 0, 2);
    assert_eq!(world.in_sync(), [r(1), r(3)]);
    world.machine(n(2)).broken_disk = None;
    world.kill(n(2));
    world.start(n(2));
    world.until(20 * SECOND, "certified again", |w| w.in_sync().len() == 3);
    assert_eq!(cuts(&world, 2), [Stamp::ZERO]);
    // It has been compared: the next absence costs what changed in it.
    world.kill(n(2));
    world.write(n(1), a(1), 0, 3);
    world.start(n(2));
    world.until(20 * SECOND, "certified once more", |w| {
        w.in_sync().len() == 3
    });
    let cuts = cuts(&world, 2);
    assert!(cuts.len() == 2 && cuts[1] > Stamp::ZERO, "{cuts:?}");
}

#[test]
fn a_copy_whose_device_failed_unnoticed_leaves_when_it_is_back() {
    let mut world = three();
    for i in 1..=3 {
        world.machine(n(i)).no_control = true; // its removal cannot be decided
    }
    world.machine(n(2)).broken_disk = Some(5);
    world.begin_write(n(1), a(1), 0, 2);
    world.pass(SECOND);
    world.kill(n(1));
    world.machine(n(2)).broken_disk = None;
    world.kill(n(2));
    for i in 1..=3 {
        world.machine(n(i)).no_control = false;
    }
    assert_eq!(world.in_sync().len(), 3);
    world.start(n(2));
    world.start(n(1));
    let node = world.take_over(n(1), n(3), a(2));
    world.until(40 * SECOND, "certified again", |w| {
        w.in_sync().len() == 3 && cuts(w, 2) == [Stamp::ZERO]
    });
    assert_eq!(world.read(node, a(2), 40), 1);
}

#[test]
fn an_only_copy_whose_device_failed_serves_again_after_a_start() {
    let mut world = World::new(&["a"]);
    world.create_volume("1", &[1], 1024);
    world.attach(n(1), a(1));
    world.write(n(1), a(1), 0, 1);
    world.machine(n(1)).broken_disk = Some(5);
    world.begin_write(n(1), a(1), 40, 2);
    world.pass(SECOND);
    world.machine(n(1)).broken_disk = None;
    world.kill(n(1));
    world.start(n(1));
    world.take_over(n(1), n(1), a(2));
    assert_eq!(world.read(n(1), a(2), 0), 1);
    world.write(n(1), a(2), 40, 3);
}

#[test]
fn the_ledger_knows_what_stood_in_one_site_only() {
    let mut world = World::new(&["a", "b"]);
    world.create_volume("*=1", &[1, 2], 1024);
    world.attach(n(1), a(1));
    for block in 0..5 {
        world.write(n(1), a(1), block, 1);
    }
    world.kill(n(2));
    for block in 0..7 {
        world.write(n(1), a(1), block, 2);
    }
    let open = world.state.ledger.open(V).expect("one site only").clone();
    assert_eq!(open.begin.expect("told").sequence, Sequence(6));
    world.start(n(2));
    world.until(20 * SECOND, "healed", |w| w.in_sync().len() == 2);
    world.pass(SECOND);
    let closed = world.state.ledger.iter().next().expect("one interval");
    assert_eq!(closed.end.expect("told").sequence, Sequence(12));
}

#[test]
fn everything_restarts() {
    let mut world = three();
    for i in 1..=3 {
        world.kill(n(i));
    }
    for i in 1..=3 {
        world.start(n(i));
    }
    world.until(20 * SECOND, "it opens again", |w| w.is_open(n(1)));
    assert_eq!(world.in_sync().len(), 3);
    for block in 0..20 {
        assert_eq!(world.read(n(1), a(1), block * 40), 1);
    }
    world.write(n(1), a(1), 0, 9);
}

#[test]
fn a_clean_stop_ends_and_comes_back() {
    let mut world = three();
    let began = world.now;
    world.step(n(1), Input::Stop);
    world.until(10 * SECOND, "stopped", |w| w.nodes[&n(1)].stopped);
    assert!(world.now - began < SECOND);
    world.kill(n(1));
    world.start(n(1));
    let began = world.now;
    world.until(10 * SECOND, "it opens again", |w| w.is_open(n(1)));
    assert!(world.now - began < SECOND, "the lease was given back");
    assert_eq!(world.read(n(1), a(1), 0), 1);
}

#[test]
fn an_isolated_primary_is_fenced_and_its_requests_fail() {
    let mut world = three();
    world.cut_link(n(1), n(2), true);
    world.cut_link(n(1), n(3), true);
    world.machine(n(1)).no_control = true;
    let held = world.begin_write(n(1), a(1), 0, 2);
    world.pass(4 * SECOND);
    let read = world.send(n(1), a(1), 40, 1, RequestOp::Read);
    world.pass(10 * SECOND);
    assert!(!world.completed.contains_key(&held), "it suspends");
    assert!(!world.completed.contains_key(&read), "its lease ran out");
    let node = world.take_over(n(1), n(2), a(2));
    world.write(node, a(2), 0, 3);
    world.reconnect_control(n(1));
    assert_eq!(world.answer(held), Err(RequestError::Fenced));
    assert_eq!(world.answer(read), Err(RequestError::Fenced));
    assert_eq!(
        world.nodes[&n(1)].attachments[&V],
        (a(1), AttachmentState::Fenced)
    );
    world.heal_link(n(1), n(2));
    world.heal_link(n(1), n(3));
    world.until(20 * SECOND, "healed", |w| w.in_sync().len() == 3);
    assert_eq!(world.read(node, a(2), 0), 3);
    world.detach(node, a(2));
    world.attach(n(1), a(3));
    assert_eq!(world.read(n(1), a(3), 0), 3);
}

#[test]
fn a_silent_cut_costs_three_seconds() {
    let mut world = three();
    world.cut_link(n(1), n(2), false);
    let began = world.now;
    world.write(n(1), a(1), 0, 2);
    assert!(world.now - began <= 3 * SECOND);
    assert_eq!(world.in_sync(), [r(1), r(3)]);
}

#[test]
fn without_a_control_plane_io_goes_on_while_all_answer() {
    let mut world = three();
    world.control_answers = false;
    world.pass(60 * SECOND);
    world.write(n(1), a(1), 0, 2); // R19
    world.kill(n(3));
    let held = world.begin_write(n(1), a(1), 0, 3);
    world.pass(10 * SECOND);
    assert!(!world.completed.contains_key(&held), "nothing shrinks");
    world.start(n(3));
    assert_eq!(world.answer(held), Ok(Response::Done), "it came back whole");
    world.control_answers = true;
    world.pass(5 * SECOND);
    world.write(n(1), a(1), 0, 4);
    world.until(20 * SECOND, "all are certified", |w| w.in_sync().len() == 3);
}

#[test]
fn a_deleted_volume_leaves_nothing() {
    let mut world = three();
    world.detach(n(1), a(1));
    world.commit(Command::DeleteVolume { volume: V });
    world.until(10 * SECOND, "gone", |w| w.state.volumes.is_empty());
    for machine in world.nodes.values() {
        let node = machine.node.as_ref().expect("it runs");
        let seen = node.inspect(world.now);
        assert!(seen.replicas.is_empty());
        assert_eq!(seen.pools[0].free_extents, seen.pools[0].total_extents);
    }
}

#[test]
fn a_copy_moves() {
    let mut world = World::new(&["a", "b", "c"]);
    world.create_volume("2", &[1, 2], 1024);
    world.attach(n(1), a(1));
    for block in 0..20 {
        world.write(n(1), a(1), block * 40, 1);
    }
    let device = world.machine(n(3)).device;
    world.commit(Command::MoveReplica {
        volume: V,
        from: r(2),
        to: NewReplica {
            replica: r(3),
            node: n(3),
            device,
            incarnation: Incarnation(1),
        },
    });
    world.until(30 * SECOND, "moved", |w| w.in_sync() == [r(1), r(3)]);
    world.until(10 * SECOND, "the old data is gone", |w| {
        w.state.tombstones.is_empty()
    });
    world.write(n(1), a(1), 0, 2);
    world.kill(n(1));
    let node = world.take_over(n(1), n(3), a(2));
    assert_eq!(world.read(node, a(2), 0), 2);
    assert_eq!(world.read(node, a(2), 760), 1);
}

#[test]
fn a_volume_grows() {
    let mut world = three();
    world.commit(Command::ResizeVolume {
        volume: V,
        blocks: 2048,
    });
    world.until(5 * SECOND, "the front-end knows", |w| {
        w.nodes[&n(1)].attachments[&V].1 == AttachmentState::Open { blocks: 2048 }
    });
    world.write(n(1), a(1), 2047, 5);
    world.kill(n(1));
    let node = world.take_over(n(1), n(2), a(2));
    assert_eq!(world.read(node, a(2), 2047), 5);
}

#[test]
fn discards_and_zeroes_read_as_zero_everywhere() {
    let mut world = three();
    let tag = world.send(n(1), a(1), 0, 256, RequestOp::Discard);
    assert_eq!(world.answer(tag), Ok(Response::Done));
    let tag = world.send(n(1), a(1), 256, 100, RequestOp::WriteZeroes);
    assert_eq!(world.answer(tag), Ok(Response::Done));
    for at in [n(1), n(2), n(3)] {
        if at != n(1) {
            let from = world.volume().membership.attachment.expect("attached").node;
            world.kill(from);
            world.take_over(from, at, a(at.as_u128()));
        }
        let id = world.volume().membership.attachment.expect("attached").id;
        assert_eq!(world.read(at, id, 0), 0);
        assert_eq!(world.read(at, id, 280), 0);
        assert_eq!(world.read(at, id, 360), 1);
    }
}

#[test]
fn whole_extents_go_straight_to_their_place() {
    let mut world = three();
    let payload = Bytes::from(vec![8; 64 * BLOCK]);
    let checksums = checksum_blocks(&payload);
    let op = RequestOp::Write { checksums, payload };
    let tag = world.send(n(1), a(1), 128, 64, op);
    assert_eq!(world.answer(tag), Ok(Response::Done));
    world.pass(SECOND);
    world.kill(n(1));
    let node = world.take_over(n(1), n(2), a(2));
    assert_eq!(world.read(node, a(2), 130), 8);
    assert_eq!(world.read(node, a(2), 191), 8);
}

#[test]
fn an_attach_without_a_certified_copy_is_refused_with_words() {
    let mut world = three();
    world.detach(n(1), a(1));
    for i in [1, 2] {
        world.kill(n(i));
    }
    world.commit(Command::ResizeVolume {
        volume: V,
        blocks: 2048,
    });
    world.machine(n(3)).broken_disk = Some(5);
    world.kill(n(3));
    world.start(n(3));
    let ticket = world.id();
    world.step(
        n(3),
        Input::Attach {
            ticket,
            volume: V,
            attachment: a(2),
        },
    );
    world.pass(30 * SECOND);
    let why = world.answered[&ticket].clone().expect_err("nobody answers");
    assert!(why.contains("must return"), "{why}");
    assert!(world.volume().membership.attachment.is_none());
}

#[test]
fn a_pool_without_room_says_so_and_loses_nothing() {
    let mut world = World::new(&["a", "b"]);
    world.commit(Command::SetSettings(lockstep_control::Settings {
        overprovision_per_cent: 1000,
    }));
    world.create_volume("2", &[1, 2], 64 * 400);
    world.attach(n(1), a(1));
    let mut written = 0;
    let mut refused = false;
    for extent in 0..400 {
        let tag = world.begin_write(n(1), a(1), extent * 64, 1);
        match world.answer(tag) {
            Ok(_) => written = extent + 1,
            Err(RequestError::NoSpace) => {
                refused = true;
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused && written > 100, "{written} extents were taken");
    for extent in 0..written {
        assert_eq!(world.read(n(1), a(1), extent * 64), 1);
    }
    let tag = world.send(n(1), a(1), 0, 64 * 32, RequestOp::Discard);
    assert_eq!(world.answer(tag), Ok(Response::Done));
    world.pass(5 * SECOND);
    world.write(n(1), a(1), 0, 2);
}

#[test]
fn events_tell_the_story() {
    let mut world = three();
    world.kill(n(2));
    world.write(n(1), a(1), 0, 2);
    world.start(n(2));
    world.until(20 * SECOND, "healed", |w| w.in_sync().len() == 3);
    world.pass(millis(1));
    let told = |what: fn(&NodeEvent) -> bool| world.events.iter().any(|(_, e)| what(e));
    assert!(told(
        |e| matches!(e, NodeEvent::Evicting { replica, .. } if *replica == r(2))
    ));
    assert!(told(|e| matches!(e, NodeEvent::ResyncStarted { .. })));
    assert!(told(|e| matches!(e, NodeEvent::ResyncVerified { .. })));
}

/// Where the resyncs of a copy began.
fn cuts(world: &World, replica: u128) -> Vec<Stamp> {
    let events = world.events.iter().map(|(_, event)| event);
    events
        .filter_map(|event| match event {
            NodeEvent::ResyncStarted {
                replica: it, cut, ..
            } if *it == r(replica) => Some(*cut),
            _ => None,
        })
        .collect()
}
