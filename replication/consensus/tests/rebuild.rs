//! Forced recovery: a log that survived its majority goes on as the first of a new cluster generation.

mod world;

use std::collections::BTreeSet;

use lockstep_types::{NodeId, seconds};
use world::{Machine, World, identity};

const A: u128 = 1;
const B: u128 = 2;
const W: u128 = 3;

/// What B's log holds becomes a log of one voter, under a new raft id.
fn rebuild(world: &mut World, raft_id: u64) -> BTreeSet<u64> {
    let log = world.nodes[&B]
        .disk
        .recover(world::CLUSTER, NodeId::from_u128(B))
        .expect("no corruption")
        .expect("a log");
    let survivor = log.survivor();
    let mut machine = survivor
        .snapshot
        .map_or_else(Machine::default, Machine::decode);
    for (index, command) in &survivor.commands {
        machine.commands.insert(*index, (*command).clone());
    }
    machine.applied = survivor.last.index + 1;
    let first = survivor.successor(raft_id, machine.applied, machine.encode());
    world.forget_member(identity(B, 2).raft_id);
    world.add_node(B, raft_id, false, Some(&first));
    survivor.members.clone()
}

#[test]
fn the_survivor_goes_on_alone_with_everything_it_holds_and_the_old_voters_never_reach_it() {
    let mut world = World::new(31, &[1, 2, 3], 3);
    assert!(world.run_until(seconds(5), |world| world.leader().is_some()));
    for n in 0..5 {
        let command = format!("before {n}");
        assert!(world.commit(A, &command, seconds(2)).is_some());
    }
    assert!(world.run_until(seconds(5), World::converged));
    world.kill(A);
    world.kill(W);
    assert_eq!(world.commit(B, "without a majority", seconds(3)), None);
    world.kill(B);

    let barred = rebuild(&mut world, 20);
    assert_eq!(barred, BTreeSet::from([1, 2, 3]));
    assert!(world.commit(B, "after", seconds(5)).is_some());
    let commands = world.nodes[&B].machine.commands.len();
    assert!(commands >= 6, "{commands} commands survived");

    // An old voter returns with its old log: it asks for votes and gets none, and unsettles nobody.
    world.start(A);
    let term = world.nodes[&B].role.term;
    world.run(seconds(10));
    assert_eq!(world.leader(), Some(B));
    assert_eq!(world.nodes[&B].role.term, term, "nobody made it campaign");
    assert!(world.commit(B, "undisturbed", seconds(2)).is_some());
    assert!(
        !world.nodes[&A]
            .machine
            .commands
            .values()
            .any(|command| &command[..] == b"after"),
        "an old log is fed nothing"
    );

    // It sets its log aside and joins under a new id (R20).
    world.kill(A);
    world.forget_member(1);
    world.add_node(A, 21, false, None);
    let learn = world.reconfigure(B, &[], &[21], &[]);
    assert!(world.run_until(seconds(5), |world| matches!(
        world.settled.get(&learn),
        Some(Ok(_))
    )));
    world.forget_member(3);
    assert!(world.run_until(seconds(20), |world| {
        world.nodes[&A].machine.commands == world.nodes[&B].machine.commands
    }));
}

#[test]
fn a_learner_without_a_leader_does_not_believe_in_one() {
    let mut world = World::new(32, &[1], 9);
    assert!(world.commit(A, "one", seconds(5)).is_some());
    world.add_node(B, 5, false, None);
    let learn = world.reconfigure(A, &[], &[5], &[]);
    assert!(world.run_until(seconds(5), |world| matches!(
        world.settled.get(&learn),
        Some(Ok(_))
    )));
    assert!(world.run_until(seconds(5), |world| world.nodes[&B].role.leader_id == 1));
    world.kill(A);
    assert!(
        world.run_until(seconds(5), |world| world.nodes[&B].role.leader_id == 0),
        "the leader is gone and the learner says that there is one"
    );
    world.start(A);
    assert!(world.run_until(seconds(10), |world| world.nodes[&B].role.leader_id == 1));
}
