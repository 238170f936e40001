//! Nodes, pools, tokens, voters, versions, and forced recovery.

mod common;
use common::*;
use lockstep_control::{
    Command, Fate, Outcome, Rejected, Rpo, Severity, decode_snapshot, encode_snapshot,
};
use lockstep_types::{ClusterId, Incarnation, NodeRole};
use std::collections::BTreeSet;

const DEGRADE: Rpo = Rpo::WitnessedDegrade;

fn init(id: u128) -> Command {
    Command::InitCluster {
        id: ClusterId::from_u128(id),
        name: "metro".into(),
        ca_certificate: Vec::new(),
        sealed_ca_key: Vec::new(),
    }
}

fn vote(log: &mut Log, ids: &[u64]) {
    log.index += 1;
    log.state
        .apply_configuration(log.index, ids.iter().copied().collect());
}

fn rebuild(generation: u32, barred: &[u64]) -> Command {
    let barred_voters = barred.iter().copied().collect();
    Command::RebuildGeneration {
        generation,
        barred_voters,
        operator: "anna".into(),
    }
}

fn force(log: &Log, node: u128, incarnation: u64, may_rejoin: &[u128]) -> Command {
    Command::ForcePromote {
        volume: V,
        expected: log.expected(),
        replica: r(node),
        incarnation: Incarnation(incarnation),
        may_rejoin: may_rejoin.iter().map(|node| r(*node)).collect(),
        operator: "anna".into(),
    }
}

#[test]
fn there_is_one_cluster_and_nothing_before_it() {
    let mut log = Log::empty();
    assert_eq!(
        log.code(Command::PutNode(node(1, "a", NodeRole::Data))),
        "no-cluster"
    );
    log.ok(init(1));
    assert_eq!(log.ok(init(1)), Outcome::Unchanged);
    assert_eq!(log.code(init(2)), "cluster-exists");
}

#[test]
fn a_nodes_labels_never_change_and_its_addresses_may() {
    let mut log = Log::metro();
    let mut moved = node(1, "a", NodeRole::Data);
    moved.control_address = "elsewhere:1".into();
    log.ok(Command::PutNode(moved.clone()));
    for field in ["site", "zone", "rack", "role", "name"] {
        let mut other = moved.clone();
        match field {
            "site" => other.site = "b".into(),
            "zone" => other.zone = "z".into(),
            "rack" => other.rack = "r".into(),
            "role" => other.role = NodeRole::Witness,
            _ => other.name = "other".into(),
        }
        assert_eq!(log.code(Command::PutNode(other)), "immutable", "{field}");
    }
    let mut twin = node(8, "a", NodeRole::Data);
    twin.name = "a1".into();
    assert_eq!(log.code(Command::PutNode(twin)), "name-taken");
    let mut bad = node(8, "../a", NodeRole::Data);
    assert_eq!(log.code(Command::PutNode(bad.clone())), "invalid");
    bad.site = "a".into();
    bad.name = "a8".into();
    bad.control_address = "x".repeat(300);
    assert_eq!(log.code(Command::PutNode(bad)), "invalid");
}

#[test]
fn joining_again_does_not_lift_a_cordon() {
    let mut log = Log::metro();
    log.ok(Command::CordonNode {
        node: n(1),
        cordoned: true,
    });
    log.ok(Command::PutNode(node(1, "a", NodeRole::Data)));
    assert!(log.state.nodes[&n(1)].cordoned);
}

fn last_event(log: &Log) -> (Severity, String) {
    let last = log.state.events.iter().next_back().expect("an event");
    (last.severity, last.text.clone())
}

#[test]
fn a_removed_node_is_remembered_as_long_as_the_cluster_lives() {
    let mut log = Log::metro();
    log.ok(Command::RemoveNode { node: n(1) });
    assert_eq!(log.state.removed, BTreeSet::from([n(1)]));
    let again = decode_snapshot(&encode_snapshot(&log.state)).expect("decodes");
    assert_eq!(again, log.state);
    assert_eq!(
        log.code(Command::PutNode(node(1, "a", NodeRole::Data))),
        "id-used"
    );
    assert!(last_event(&log).1.contains("its certificate is barred"));
}

#[test]
fn who_votes_is_told_when_it_has_changed() {
    let mut log = Log::metro();
    for (raft_id, id) in [(11, 1), (12, 2), (13, 3), (14, 1)] {
        log.ok(Command::PutVoter {
            raft_id,
            node: n(id),
        });
    }
    let name = |log: &Log, id| log.state.node_name(n(id));
    vote(&mut log, &[11]);
    log.ok(Command::NoteVoters);
    let a = name(&log, 1);
    assert_eq!(
        last_event(&log),
        (
            Severity::Info,
            format!("voters of the control plane: '{a}' votes now; they are '{a}'")
        )
    );
    assert_eq!(log.ok(Command::NoteVoters), Outcome::Unchanged);
    vote(&mut log, &[11, 12, 13]);
    log.ok(Command::NoteVoters);
    // A new log on the same node, and one less.
    vote(&mut log, &[13, 14]);
    let again = decode_snapshot(&encode_snapshot(&log.state)).expect("decodes");
    assert_eq!(again, log.state, "what was told outlives a snapshot");
    log.ok(Command::NoteVoters);
    let (b, c) = (name(&log, 2), name(&log, 3));
    assert_eq!(
        last_event(&log),
        (
            Severity::Warning,
            format!(
                "voters of the control plane: '{a}' votes with a new log, '{b}' votes no longer; they are '{c}', '{a}'"
            )
        )
    );
    // One whose node is not known yet cannot be named.
    vote(&mut log, &[13, 99]);
    assert_eq!(log.ok(Command::NoteVoters), Outcome::Unchanged);
}

#[test]
fn certificates_are_told_of_in_printable_words() {
    let mut log = Log::metro();
    let note = |teller, fate, detail: &str| Command::NoteCertificate {
        teller: n(teller),
        fate,
        whose: "node 'x\u{1b}[2J'".into(),
        detail: detail.into(),
    };
    let long = "y".repeat(5000);
    for (fate, severity, words) in [
        (Fate::Issued, Severity::Info, "issued a certificate to"),
        (Fate::Renewed, Severity::Info, "was renewed"),
        (Fate::Refused, Severity::Warning, "refused the certificate"),
        (Fate::Denied, Severity::Warning, "issued no certificate to"),
    ] {
        log.ok(note(1, fate, &long));
        let (told, text) = last_event(&log);
        assert_eq!(told, severity);
        assert!(
            text.contains(words) && text.contains("node 'x[2J'"),
            "{text}"
        );
        assert!(text.len() < 500 && !text.contains('\u{1b}'), "{text}");
    }
    assert_eq!(log.code(note(77, Fate::Issued, "")), "no-node");
}

#[test]
fn a_node_in_use_is_not_removed() {
    let mut log = Log::opened("*=1", DEGRADE, &[2, 3]);
    let remove = |id| Command::RemoveNode { node: n(id) };
    assert!(
        log.refused(remove(2))
            .to_string()
            .contains("a copy of volume 'vol'")
    );
    assert!(log.refused(remove(1)).to_string().contains("attached"));
    log.ok(Command::PutVoter {
        raft_id: 1,
        node: n(4),
    });
    vote(&mut log, &[1]);
    assert!(log.refused(remove(4)).to_string().contains("voter"));
    // A log that only learns goes with its node, and its id is not used again (R20).
    vote(&mut log, &[]);
    log.ok(remove(4));
    assert_eq!(
        log.code(Command::PutVoter {
            raft_id: 1,
            node: n(3)
        }),
        "voter-barred"
    );
    assert!(!log.state.pools.contains_key(&d(4)));
    assert_eq!(log.ok(remove(4)), Outcome::Unchanged);
    assert_eq!(
        log.code(Command::PutNode(node(4, "b", NodeRole::Data))),
        "id-used"
    );
}

#[test]
fn a_removed_nodes_devices_and_tombstones_go_with_it() {
    let mut log = Log::opened("a=2,b=1", DEGRADE, &[1, 2, 3]);
    log.ok(detach(1));
    log.ok(Command::DeleteVolume { volume: V });
    for node in [1, 2, 3] {
        log.ok(Command::RemoveNode { node: n(node) });
    }
    assert!(log.state.volumes.is_empty() && log.state.tombstones.is_empty());
}

#[test]
fn a_pool_in_use_is_not_removed_and_belongs_to_one_node() {
    let mut log = Log::with_volume("*=1", DEGRADE, &[1, 3]);
    assert_eq!(log.code(Command::RemovePool { device: d(1) }), "in-use");
    log.ok(Command::RemovePool { device: d(2) });
    let mut moved = pool(1, 1000);
    moved.node = n(2);
    assert_eq!(log.code(Command::PutPool(moved)), "in-use");
    assert_eq!(log.code(Command::PutPool(pool(9, 10))), "witness");
    let mut twin = pool(1, 10);
    twin.device = d(7);
    assert_eq!(log.code(Command::PutPool(twin)), "name-taken");
    let mut full = pool(1, 1000);
    full.free_extents = 1001;
    assert_eq!(log.code(Command::PutPool(full)), "invalid");
}

#[test]
fn a_token_serves_one_node_before_it_expires() {
    let mut log = Log::metro();
    log.at = 50_000;
    let put = |id, expires_unix| Command::PutToken {
        id,
        secret_hash: [7; 32],
        expires_unix,
        role: NodeRole::Data,
    };
    log.ok(put(1, 60));
    assert_eq!(log.code(put(1, 60)), "id-used");
    let using = |id, node| Command::UseToken { id, node: n(node) };
    log.ok(using(1, 5));
    assert_eq!(log.ok(using(1, 5)), Outcome::Unchanged);
    assert_eq!(log.code(using(1, 6)), "token");
    assert_eq!(log.code(using(2, 6)), "token");
    log.ok(put(3, 60));
    log.at = 60_000;
    assert_eq!(log.code(using(3, 6)), "token");
    log.ok(put(4, 90));
    assert_eq!(log.state.tokens.len(), 1, "expired ones are forgotten");
}

#[test]
fn a_voters_id_is_bound_to_one_node_and_never_used_again() {
    let mut log = Log::metro();
    let put = |raft_id, node| Command::PutVoter {
        raft_id,
        node: n(node),
    };
    log.ok(put(1, 1));
    assert_eq!(log.ok(put(1, 1)), Outcome::Unchanged);
    assert_eq!(log.code(put(1, 3)), "voter-barred");
    log.index += 1;
    log.state
        .apply_configuration(log.index, BTreeSet::from([1]));
    assert_eq!(log.code(Command::RemoveVoter { raft_id: 1 }), "in-use");
    log.index += 1;
    log.state.apply_configuration(log.index, BTreeSet::new());
    log.ok(Command::RemoveVoter { raft_id: 1 });
    assert_eq!(log.code(put(1, 1)), "voter-barred");
    assert_eq!(log.code(put(0, 1)), "voter-barred");
}

#[test]
fn the_cluster_version_only_rises() {
    let mut log = Log::metro();
    log.ok(Command::SetClusterVersion { version: 2 });
    assert_eq!(
        log.ok(Command::SetClusterVersion { version: 2 }),
        Outcome::Unchanged
    );
    assert_eq!(
        log.code(Command::SetClusterVersion { version: 1 }),
        "cluster-version"
    );
}

#[test]
fn after_a_rebuild_nothing_recorded_is_trusted() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    assert_eq!(
        log.refused(rebuild(0, &[])),
        Rejected::Generation {
            current: 0,
            given: 0
        }
    );
    log.ok(Command::PutVoter {
        raft_id: 5,
        node: n(1),
    });
    log.ok(rebuild(1, &[5, 6]));
    assert!(log.state.voters.bound.is_empty());
    for barred in [5, 6] {
        assert_eq!(
            log.code(Command::PutVoter {
                raft_id: barred,
                node: n(1)
            }),
            "voter-barred"
        );
    }
    let membership = log.volume().membership.clone();
    assert!(
        membership.distrusted && membership.primary.is_none() && membership.attachment.is_none()
    );
    assert_eq!(
        log.volume().fenced.keys().collect::<Vec<_>>(),
        [&a(1)],
        "its device may hold requests"
    );
    assert_eq!(log.code(attach(2, 3)), "distrusted");
    let (promote, change) = (log.promote(1, None), log.change(&[3], &[]));
    assert_eq!(log.code(promote), "distrusted");
    assert_eq!(log.code(change), "distrusted");
    let remove = Command::RemoveReplica {
        volume: V,
        replica: r(3),
        even_below_policy: true,
    };
    assert_eq!(log.code(remove), "distrusted");
}

#[test]
fn only_a_forced_promotion_opens_a_distrusted_volume() {
    let mut log = Log::opened("a=2,b=1", DEGRADE, &[1, 2, 3]);
    log.ok(rebuild(1, &[]));
    let forced = force(&log, 2, 1, &[1]);
    log.ok(forced);
    assert_eq!(log.members(), [2]);
    let sealed: Vec<_> = log
        .volume()
        .replicas
        .values()
        .map(|replica| replica.sealed_off)
        .collect();
    assert_eq!(
        sealed,
        [false, false, true],
        "a1 was compared, b3 was not seen"
    );
    log.ok(attach(2, 2));
    let promote = log.promote(2, Some(2));
    log.ok(promote);
    let rejoin = log.change(&[], &[1]);
    log.ok(rejoin);
    let sealed = log.change(&[], &[3]);
    assert_eq!(log.code(sealed), "sealed-off");
}

#[test]
fn a_rebuild_distrusts_a_volume_that_its_log_has_never_seen_opened() {
    let mut log = Log::metro();
    log.ok(create(V, "vol", "*=1", DEGRADE, &[1, 3]));
    log.ready(1);
    log.ok(rebuild(1, &[]));
    log.ready(3);
    assert!(
        !log.volume().is_ready(),
        "the lost log may have opened it, and its copies differ"
    );
}

#[test]
fn a_rebuild_that_bars_a_sites_voters_certifies_nothing_there() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    for (raft_id, node) in [(1, 1), (2, 3)] {
        log.ok(Command::PutVoter {
            raft_id,
            node: n(node),
        });
    }
    log.index += 1;
    log.state
        .apply_configuration(log.index, BTreeSet::from([1, 2]));
    log.ok(rebuild(1, &[2]));
    assert_eq!(
        log.state.voters.voterless_sites,
        BTreeSet::from(["b".to_owned()])
    );
}

#[test]
fn a_forced_promotion_seals_the_overwritten_side_until_it_is_discarded_by_name() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    let forced = force(&log, 3, 1, &[1]);
    log.ok(forced);
    assert_eq!(log.members(), [3]);
    let volume = log.volume();
    assert!(
        volume.replicas[&r(1)].sealed_off,
        "it was certified: no word of the proposer's saves it"
    );
    assert_eq!(
        (volume.membership.attachment, volume.fenced.len()),
        (None, 1)
    );
    let remove = Command::RemoveReplica {
        volume: V,
        replica: r(1),
        even_below_policy: true,
    };
    assert_eq!(log.code(remove), "sealed-off");
    let discard = |node| Command::DiscardSealed {
        volume: V,
        replica: r(node),
        operator: "berta".into(),
    };
    assert_eq!(log.code(discard(3)), "not-sealed-off");
    log.ok(discard(1));
    assert!(log.state.tombstones.contains_key(&r(1)));
    let audit: Vec<_> = log
        .state
        .audit
        .iter()
        .map(|event| (event.severity, event.text.as_str()))
        .collect();
    assert!(
        audit.len() == 2 && audit[0].0 == Severity::Forced && audit[0].1.contains("anna"),
        "{audit:?}"
    );
    assert!(
        audit[1].1.contains("berta discarded") && audit[1].1.contains("'vol'"),
        "{audit:?}"
    );
}

#[test]
fn a_leaving_replica_that_was_sealed_off_is_kept() {
    let mut log = Log::opened("a=2,b=1", DEGRADE, &[1, 2, 3]);
    log.ok(Command::RemoveReplica {
        volume: V,
        replica: r(2),
        even_below_policy: true,
    });
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    let forced = force(&log, 3, 1, &[]);
    log.ok(forced);
    assert!(log.volume().replicas[&r(2)].sealed_off && log.state.tombstones.is_empty());
}

#[test]
fn a_forced_promotion_never_goes_back_to_an_earlier_life() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    log.ok(Command::Reincarnate {
        volume: V,
        replica: r(3),
        from: Incarnation(1),
        to: Incarnation(3),
    });
    let back = force(&log, 3, 1, &[]);
    assert_eq!(log.code(back), "incarnation");
    let stale = force(&log, 3, 3, &[]);
    let promote = log.promote(1, Some(1));
    log.ok(promote);
    assert_eq!(log.code(stale), "conflict");
    // A rebuilt log may not know of the life that the disk has.
    let later = force(&log, 3, 4, &[]);
    log.ok(later);
    assert_eq!(log.volume().replicas[&r(3)].incarnation, Incarnation(4));
}
