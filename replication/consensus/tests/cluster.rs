//! Replicas together: the rows of safety.md's table as far as raft decides them, and random trouble.

mod world;

use std::hash::Hasher as _;

use lockstep_consensus::frame::{Body, Frame};
use lockstep_consensus::{Input, Refusal};
use lockstep_types::{NodeId, millis, seconds};
use raft_proto::eraftpb::{ConfState, Message, MessageType, Snapshot, SnapshotMetadata};
use world::World;

// One node a site: raft ids 1 (A), 2 (B), 3 (W). Two a site: 1 and 2 (A), 3 and 4 (B), 5 (W).
const A: u128 = 1;
const B: u128 = 2;
const W: u128 = 3;

fn three(seed: u64) -> World {
    World::new(seed, &[1, 2, 3], 3)
}

fn five(seed: u64) -> World {
    World::new(seed, &[1, 2, 3, 4, 5], 5)
}

/// Runs until `node` leads.
fn lead(world: &mut World, node: u128) {
    assert!(
        world.run_until(seconds(5), |world| world.leader().is_some()),
        "no leader"
    );
    if world.leader() != Some(node) {
        let leader = world.leader().expect("there is one");
        world.input(
            leader,
            Input::TransferLeader {
                to: NodeId::from_u128(node),
            },
        );
    }
    assert!(
        world.run_until(seconds(5), |world| world.leader() == Some(node)),
        "node {node} does not lead"
    );
}

fn heal_and_converge(world: &mut World) {
    assert!(
        world.run_until(seconds(20), World::converged),
        "replicas do not agree"
    );
}

#[test]
fn a_leader_is_found_and_is_no_witness() {
    for seed in 0..20 {
        let mut world = five(seed);
        assert!(world.run_until(seconds(3), |world| world.leader().is_some()));
        assert_ne!(world.leader(), Some(5));
        for at in 1..=5 {
            assert!(
                world.commit(at, "from everywhere", seconds(2)).is_some(),
                "proposed on node {at}"
            );
        }
        heal_and_converge(&mut world);
    }
}

#[test]
fn a_single_voter_leads_alone() {
    let mut world = World::new(1, &[1], 9);
    assert!(world.commit(1, "alone", seconds(5)).is_some());
    world.kill(1);
    world.start(1);
    assert!(
        world.run_until(seconds(5), |world| world.nodes[&1].machine.commands.len()
            == 1)
    );
}

#[test]
fn b_isolated_a_and_w_go_on() {
    let mut world = five(2);
    lead(&mut world, 3);
    world.set_cut(&[3, 4], &[1, 2, 5], true);
    assert!(
        world.commit(1, "a goes on", seconds(5)).is_some(),
        "A continues after at most 5 s"
    );
    assert_eq!(world.commit(4, "b must not", seconds(8)), None);
    world.set_cut(&[3, 4], &[1, 2, 5], false);
    heal_and_converge(&mut world);
}

#[test]
fn a_isolated_b_and_w_go_on() {
    let mut world = five(3);
    lead(&mut world, 1);
    world.set_cut(&[1, 2], &[3, 4, 5], true);
    assert!(world.commit(3, "b goes on", seconds(5)).is_some());
    assert_eq!(world.commit(1, "a must not", seconds(8)), None);
    world.set_cut(&[1, 2], &[3, 4, 5], false);
    heal_and_converge(&mut world);
}

#[test]
fn w_lost_changes_nothing() {
    let mut world = three(4);
    lead(&mut world, A);
    world.kill(W);
    let term = world.nodes[&A].role.term;
    assert!(world.commit(B, "without w", millis(500)).is_some());
    world.run(seconds(10));
    assert_eq!(
        (world.leader(), world.nodes[&A].role.term),
        (Some(A), term),
        "the same leader all along"
    );
}

#[test]
fn a_b_cut_and_both_see_w_it_relays() {
    for (leader, seed) in [(A, 5), (B, 6)] {
        let mut world = three(seed);
        lead(&mut world, leader);
        world.set_cut(&[A], &[B], true);
        world.run(seconds(5));
        let term = world.nodes[&leader].role.term;
        for at in [A, B] {
            assert!(
                world.commit(at, "through w", seconds(1)).is_some(),
                "proposed on node {at}"
            );
        }
        world.run(seconds(10));
        assert_eq!(
            (world.leader(), world.nodes[&leader].role.term),
            (Some(leader), term),
            "nobody is unsettled"
        );
        assert!(world.converged(), "both sides have everything");
    }
}

/// W tolerates 200 ms there and back, and twice that as a relay.
#[test]
fn a_distant_witness_unsettles_nobody() {
    let mut world = three(31);
    world.chaos.witness_delay = millis(100);
    lead(&mut world, A);
    world.set_cut(&[A], &[B], true);
    let term = world.nodes[&A].role.term;
    world.run(seconds(30));
    assert_eq!((world.leader(), world.nodes[&A].role.term), (Some(A), term));
    assert!(world.commit(B, "through a distant w", seconds(2)).is_some());
    // And it elects in time.
    world.set_cut(&[A], &[W], true);
    assert!(world.commit(B, "b and a distant w", seconds(5)).is_some());
}

#[test]
fn a_b_cut_with_two_nodes_a_site() {
    let mut world = five(7);
    lead(&mut world, 1);
    world.set_cut(&[1, 2], &[3, 4], true);
    world.run(seconds(3));
    for at in 1..=5 {
        assert!(
            world.commit(at, "everywhere", seconds(3)).is_some(),
            "proposed on node {at}"
        );
    }
    heal_and_converge(&mut world);
}

#[test]
fn a_w_cut_only_has_no_effect() {
    let mut world = three(8);
    lead(&mut world, A);
    let term = world.nodes[&A].role.term;
    world.set_cut(&[A], &[W], true);
    assert!(world.commit(A, "through b", millis(500)).is_some());
    world.run(seconds(10));
    assert_eq!((world.leader(), world.nodes[&A].role.term), (Some(A), term));
    assert!(world.converged(), "w has everything through b");
}

#[test]
fn one_way_loss_is_a_cut() {
    let mut world = three(9);
    lead(&mut world, A);
    world.set_cut_one_way(A, B, true);
    world.run(seconds(5));
    for at in [A, B] {
        assert!(world.commit(at, "through w", seconds(3)).is_some());
    }
    heal_and_converge(&mut world);
}

#[test]
fn a_b_cut_then_a_w_cut_isolates_a() {
    let mut world = three(10);
    lead(&mut world, A);
    world.set_cut(&[A], &[B], true);
    world.run(seconds(5));
    world.set_cut(&[A], &[W], true);
    assert!(world.commit(B, "b and w", seconds(5)).is_some());
    assert_eq!(world.commit(A, "a must not", seconds(6)), None);
    world.set_cut(&[A], &[B, W], false);
    heal_and_converge(&mut world);
}

#[test]
fn all_three_cut_nobody_commits() {
    let mut world = three(11);
    lead(&mut world, A);
    world.set_cut(&[A, B, W], &[A, B, W], true);
    world.run(seconds(3));
    for at in [A, B, W] {
        assert_eq!(world.commit(at, "nobody", seconds(3)), None);
    }
    assert_eq!(world.leader(), None, "CheckQuorum: the old leader knows");
    world.set_cut(&[A, B, W], &[A, B, W], false);
    assert!(world.commit(A, "again", seconds(6)).is_some());
}

/// safety.md: when A dies, the newest committed entry may stand on W alone.
#[test]
fn the_newest_entry_on_w_alone_survives_and_b_leads_in_the_end() {
    for seed in 0..10 {
        let mut world = three(100 + seed);
        lead(&mut world, A);
        assert!(world.commit(A, "before", seconds(1)).is_some());
        world.set_cut(&[B], &[A, W], true);
        let index = world
            .commit(A, "on a and w", seconds(1))
            .expect("a and w are a quorum");
        world.kill(A);
        world.set_cut(&[B], &[W], false);
        let healed = world.now;
        assert!(
            world.run_until(seconds(5), |world| world.nodes[&B]
                .machine
                .commands
                .contains_key(&index)),
            "b never gets what was acknowledged"
        );
        assert!(
            world.run_until(seconds(5), |world| world.leader() == Some(B)),
            "w hands over to b"
        );
        assert!(
            world.now - healed <= seconds(5),
            "took {} ms",
            (world.now - healed) / 1_000_000
        );
        assert!(world.commit(B, "after", seconds(1)).is_some());
    }
}

/// It need not wait for its own timeout, the longest of all.
#[test]
fn w_campaigns_at_once_when_it_refuses_an_older_log() {
    let mut world = three(30);
    lead(&mut world, A);
    world.set_cut(&[B], &[A, W], true);
    assert!(world.commit(A, "on a and w", seconds(1)).is_some());
    world.kill(A);
    world.kill(B);
    // Past W's support of A, short of its own timeout; B has only just started.
    world.run(millis(1200));
    world.set_cut(&[B], &[W], false);
    world.start(B);
    world.run(millis(100));
    assert_eq!(world.leader(), None, "nobody has campaigned yet");
    let older = Message {
        msg_type: MessageType::MsgRequestPreVote as i32,
        from: 2,
        to: 3,
        term: world.nodes[&W].role.term + 1,
        index: 1,
        log_term: 1,
        ..Message::default()
    };
    let (origin, destination) = (NodeId::from_u128(B), NodeId::from_u128(W));
    let frame = Frame {
        cluster: world::CLUSTER,
        origin,
        destination,
        body: Body::Raft(older),
    }
    .encode();
    world.input(
        W,
        Input::Frame {
            from: origin,
            frame,
        },
    );
    assert!(world.run_until(millis(100), |world| world.leader() == Some(W)));
}

#[test]
fn a_witness_hands_over_only_to_one_that_reaches_a_quorum() {
    let mut world = three(12);
    lead(&mut world, W);
    assert!(world.run_until(seconds(10), |world| {
        world.leader().is_some_and(|leader| leader != W)
    }));
    // Nobody but W reaches anybody: it keeps the lead as long as it has it.
    let mut world = five(13);
    world.run(seconds(3));
    world.kill(1);
    world.kill(3);
    world.set_cut(&[2], &[4], true);
    assert!(
        world
            .commit(2, "2, 4 and 5 are three of five", seconds(10))
            .is_some()
    );
    assert_ne!(world.leader(), None);
}

#[test]
fn a_replaced_voter_joins_under_a_new_id_and_catches_up_by_snapshot() {
    let mut world = three(14);
    lead(&mut world, A);
    for n in 0..20 {
        assert!(
            world
                .commit(A, &format!("command {n}"), seconds(1))
                .is_some()
        );
    }
    // B comes back with an empty disk: a new voter on the same node (R20).
    world.kill(B);
    world.forget_member(2);
    world.add_node(B, 7, false, None);
    let learn = world.reconfigure(A, &[], &[7], &[]);
    assert!(world.run_until(seconds(5), |world| world.settled.contains_key(&learn)));
    assert!(
        world.run_until(seconds(20), World::converged),
        "the learner catches up"
    );
    let swap = world.reconfigure(A, &[7], &[], &[2]);
    assert!(world.run_until(seconds(5), |world| matches!(
        world.settled.get(&swap),
        Some(Ok(_))
    )));
    let settled = |world: &World| {
        let conf = world.nodes[&B]
            .consensus
            .as_ref()
            .expect("alive")
            .status()
            .conf;
        conf.voters_outgoing.is_empty() && conf.voters.len() == 3 && conf.voters.contains(&7)
    };
    assert!(
        world.run_until(seconds(5), settled),
        "the joint configuration is left by itself"
    );
    world.kill(W);
    assert!(
        world
            .commit(B, "a and the new b are a quorum", seconds(5))
            .is_some()
    );
    assert!(world.converged());
}

#[test]
fn five_become_three_in_one_joint_change_and_grow_back() {
    let mut world = five(15);
    lead(&mut world, 1);
    world.kill(3);
    world.kill(4);
    let shrink = world.reconfigure(1, &[], &[], &[3, 4]);
    assert!(world.run_until(seconds(10), |world| matches!(
        world.settled.get(&shrink),
        Some(Ok(_))
    )));
    world.run(seconds(2));
    world.kill(5);
    assert!(
        world
            .commit(1, "1 and 2 are two of three", seconds(5))
            .is_some()
    );
    world.start(5);
    world.add_node(3, 13, false, None);
    world.add_node(4, 14, false, None);
    lead(&mut world, 1);
    let learn = world.reconfigure(1, &[], &[13, 14], &[]);
    assert!(world.run_until(seconds(5), |world| matches!(
        world.settled.get(&learn),
        Some(Ok(_))
    )));
    assert!(world.run_until(seconds(20), World::converged));
    world.run(seconds(1));
    let grow = world.reconfigure(1, &[13, 14], &[], &[]);
    assert!(world.run_until(seconds(5), |world| matches!(
        world.settled.get(&grow),
        Some(Ok(_))
    )));
    world.run(seconds(1));
    world.kill(1);
    world.kill(5);
    assert!(
        world
            .commit(2, "2, 13 and 14 are three of five", seconds(8))
            .is_some()
    );
}

#[test]
fn a_site_and_a_node_of_the_other_at_once_suspend_and_one_after_the_other_go_on() {
    let mut world = five(21);
    lead(&mut world, 3);
    for node in [1, 2, 4] {
        world.kill(node);
    }
    assert_eq!(
        world.commit(3, "two of five are no majority", seconds(5)),
        None
    );

    let mut world = five(22);
    lead(&mut world, 3);
    world.kill(1);
    world.kill(2);
    let shrink = world.reconfigure(3, &[], &[], &[1, 2]);
    assert!(world.run_until(seconds(10), |world| matches!(
        world.settled.get(&shrink),
        Some(Ok(_))
    )));
    world.run(seconds(2));
    world.kill(4);
    assert!(
        world
            .commit(3, "3 and the witness are two of three", seconds(5))
            .is_some()
    );
}

#[test]
fn a_removed_leader_steps_down() {
    let mut world = three(16);
    lead(&mut world, A);
    let ticket = world.reconfigure(A, &[], &[], &[1]);
    assert!(world.run_until(seconds(5), |world| matches!(
        world.settled.get(&ticket),
        Some(Ok(_))
    )));
    assert!(world.run_until(seconds(5), |world| world.leader() == Some(B)));
    assert!(!world.nodes[&A].role.leading);
    assert!(world.commit(B, "b and w", seconds(2)).is_some());
}

#[test]
fn nothing_is_acknowledged_before_it_is_durable() {
    let mut world = three(17);
    lead(&mut world, A);
    world.kill(W);
    world.nodes.get_mut(&B).expect("b").disk_stuck = true;
    assert_eq!(world.commit(A, "only a is durable", seconds(2)), None);
}

#[test]
fn a_leader_with_a_full_disk_hands_over() {
    let mut world = three(18);
    lead(&mut world, A);
    world.run(seconds(3));
    world.nodes.get_mut(&A).expect("a").disk_stuck = true;
    let stuck = world.propose(A, "stuck");
    world.run(millis(20));
    let token = world.writing_token(A).expect("it is writing");
    world.input(A, Input::PersistStalled { token });
    assert!(world.run_until(seconds(5), |world| world.leader() == Some(B)));
    assert!(world.commit(B, "goes on", seconds(2)).is_some());
    assert!(world.run_until(seconds(10), |world| world.settled.contains_key(&stuck)));
    assert_eq!(world.settled[&stuck], Err(Refusal::OutcomeUnknown));
}

#[test]
fn a_read_sees_every_acknowledged_command() {
    let mut world = five(19);
    lead(&mut world, 1);
    for n in 0..10u128 {
        let at = n % 5 + 1;
        let index = world.commit(at, "write", seconds(2)).expect("acknowledged");
        let reader = (n + 2) % 5 + 1;
        let ticket = world.read(reader);
        assert!(world.run_until(seconds(2), |world| world.settled.contains_key(&ticket)));
        assert!(world.settled[&ticket].expect("answered") >= index);
        assert!(
            world.nodes[&reader].machine.commands.contains_key(&index),
            "the state machine got there first"
        );
    }
    world.set_cut(&[1], &[2, 3, 4, 5], true);
    let cut_off = world.read(1);
    world.run(seconds(8));
    assert_eq!(
        world.settled[&cut_off],
        Err(Refusal::OutcomeUnknown),
        "a minority answers no read"
    );
}

/// More commands than a log keeps without a snapshot.
fn fill(world: &mut World, at: u128) {
    let before = world
        .settled
        .values()
        .filter(|result| result.is_ok())
        .count();
    for batch in 0..100 {
        for n in 0..100 {
            world.propose(at, format!("{batch}.{n} {}", "x".repeat(200)));
        }
        world.run(millis(30));
    }
    world.run(seconds(1));
    let after = world
        .settled
        .values()
        .filter(|result| result.is_ok())
        .count();
    assert!(after >= before + 10_000, "{before} {after}");
}

#[test]
fn the_log_is_compacted_and_a_laggard_gets_a_snapshot() {
    let mut world = three(20);
    lead(&mut world, A);
    world.kill(B);
    fill(&mut world, A);
    let names = world.nodes[&A].disk.names();
    assert_eq!(names.len(), 2, "one snapshot, one segment: {names:?}");
    world.start(B);
    assert!(world.run_until(seconds(20), World::converged));
    world.kill(A);
    world.start(A);
    assert!(
        world.run_until(seconds(20), World::converged),
        "what was compacted is recovered"
    );
}

#[test]
fn a_snapshot_that_got_lost_is_sent_again() {
    let mut world = three(22);
    lead(&mut world, A);
    world.kill(B);
    fill(&mut world, A);
    world.chaos.longest_frame = 100_000;
    world.start(B);
    world.run(seconds(2));
    world.chaos.longest_frame = 0;
    assert!(!world.converged(), "it is not so short");
    assert!(world.run_until(seconds(10), World::converged));
}

#[test]
fn newer_snapshots_wait_while_one_is_being_installed() {
    let mut world = three(23);
    lead(&mut world, A);
    world.kill(B);
    fill(&mut world, A);
    world.nodes.get_mut(&B).expect("b").disk_stuck = true;
    world.start(B);
    world.run(seconds(1));
    fill(&mut world, A);
    // Another leader, say, which knows nothing of the first one.
    let newer = SnapshotMetadata {
        conf_state: Some(ConfState::from((vec![1, 2, 3], vec![]))),
        index: world.nodes[&A].machine.applied,
        term: world.nodes[&A].role.term,
    };
    let snapshot = Snapshot {
        data: world.nodes[&A].machine.encode(),
        metadata: Some(newer),
    };
    let message = Message {
        msg_type: MessageType::MsgSnapshot as i32,
        from: 1,
        to: 2,
        term: world.nodes[&A].role.term,
        snapshot: Some(snapshot),
        ..Message::default()
    };
    let (origin, destination) = (NodeId::from_u128(A), NodeId::from_u128(B));
    let frame = Frame {
        cluster: world::CLUSTER,
        origin,
        destination,
        body: Body::Raft(message),
    }
    .encode();
    world.input(
        B,
        Input::Frame {
            from: origin,
            frame,
        },
    );
    world.unstick(B);
    assert!(world.run_until(seconds(20), World::converged));
}

/// R24: a log that has been quiet for a second says that all of it has been flushed.
#[test]
fn after_a_quiet_second_no_batch_can_rot_unnoticed() {
    let mut world = three(24);
    lead(&mut world, A);
    assert!(
        world
            .commit(A, "the last for a while", seconds(1))
            .is_some()
    );
    world.run(seconds(2));
    let node = world.nodes.get_mut(&B).expect("b");
    let segment = node
        .disk
        .files
        .get_mut("log-0000000000000001")
        .expect("there is one");
    let command = b"the last for a while";
    let at = segment
        .windows(command.len())
        .position(|bytes| bytes == command)
        .expect("it is written");
    segment[at] ^= 1;
    let corrupt = node
        .disk
        .recover(world::CLUSTER, NodeId::from_u128(B))
        .expect_err("it had been flushed");
    assert_eq!(corrupt.offset as usize, at / 4096 * 4096);
}

#[test]
fn a_pause_longer_than_every_timeout_unsettles_nobody_who_was_paused() {
    let mut world = three(21);
    lead(&mut world, A);
    let term = world.nodes[&A].role.term;
    // All processes stop for a minute; then each one's timer comes before any message (R22).
    world.now += seconds(60);
    world.run(seconds(5));
    assert_eq!((world.leader(), world.nodes[&A].role.term), (Some(A), term));
}

/// Crashes with torn writes, cuts, loss and repetition; then quiet, and everything must agree.
#[test]
fn random_trouble() {
    let seeds: u64 =
        std::env::var("CONSENSUS_SEEDS").map_or(30, |seeds| seeds.parse().expect("a number"));
    let acknowledged: usize = (0..seeds).map(|seed| trouble(seed).0).sum();
    assert!(
        acknowledged as u64 > 20 * seeds,
        "{acknowledged}: too much trouble to learn anything"
    );
}

/// raft-rs draws its timeouts by chance and keeps hash maps; here neither shows.
#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 4] {
        assert_eq!(trouble(seed), trouble(seed));
    }
    assert_ne!(trouble(3), trouble(5));
}

/// How many commands were acknowledged, and a digest of every frame sent.
fn trouble(seed: u64) -> (usize, u64) {
    let nodes: u64 = if seed.is_multiple_of(2) { 3 } else { 5 };
    let ids: Vec<u64> = (1..=nodes).collect();
    let mut world = World::new(1000 + seed, &ids, nodes);
    world.chaos.lost_per_mille = world.roll(100);
    world.chaos.repeated_per_mille = world.roll(200);
    world.chaos.witness_delay = millis(1) + world.roll(millis(90));
    world.chaos.disk_delay = millis(1) + world.roll(millis(20));
    let node_of = |n: u64| u128::from(n % nodes + 1);
    for round in 0..120 {
        let (dice, one, other) = (world.roll(100), world.roll(nodes), world.roll(nodes));
        let (one, other) = (node_of(one), node_of(other));
        match dice {
            0..=7 => world.kill_if_alive(one),
            8..=27 => world.start_if_down(one),
            28..=35 if one != other => world.set_cut(&[one], &[other], true),
            36..=55 if one != other => world.set_cut(&[one], &[other], false),
            _ => {}
        }
        for n in 0..3 {
            world.propose(one, format!("{seed}.{round}.{n}"));
        }
        let pause = millis(1) + world.roll(millis(400));
        world.run(pause);
    }
    world.chaos.lost_per_mille = 0;
    let all: Vec<u128> = (1..=u128::from(nodes)).collect();
    world.set_cut(&all, &all, false);
    for node in &all {
        world.start_if_down(*node);
    }
    assert!(
        world.commit(1, "quiet again", seconds(10)).is_some(),
        "seed {seed}: nothing commits"
    );
    assert!(
        world.run_until(seconds(20), World::converged),
        "seed {seed}: replicas do not agree"
    );
    let acknowledged = world
        .settled
        .values()
        .filter(|result| result.is_ok())
        .count();
    (acknowledged, world.trace.finish())
}
