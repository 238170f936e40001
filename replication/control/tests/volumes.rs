//! Volumes and their copies: made, grown, moved, deleted (R8, R18).

mod common;
use common::*;
use lockstep_control::{Change, Command, NewReplica, Outcome, Rejected, Rpo, Settings};
use lockstep_types::{DeviceId, FaultDomain, Incarnation, ReplicaId, VolumeId};

const DEGRADE: Rpo = Rpo::WitnessedDegrade;

fn gone(node: u128) -> Command {
    Command::ReplicaGone {
        volume: V,
        replica: r(node),
        incarnation: Incarnation(1),
    }
}

fn remove(node: u128, even_below_policy: bool) -> Command {
    Command::RemoveReplica {
        volume: V,
        replica: r(node),
        even_below_policy,
    }
}

fn tombstones(log: &Log) -> Vec<u128> {
    log.state
        .tombstones
        .keys()
        .map(|id| id.as_u128() - 0x100)
        .collect()
}

#[test]
fn the_same_name_and_wish_give_the_same_volume() {
    let mut log = Log::with_volume("*=1", DEGRADE, &[1, 3]);
    let other_id = VolumeId::from_u128(0x7002);
    let again = log.ok(create(other_id, "vol", "*=1", DEGRADE, &[2, 4]));
    assert_eq!(
        again,
        Outcome::Volume {
            id: V,
            created: false
        }
    );
    assert_eq!(
        log.code(create(other_id, "vol", "*=1", Rpo::Strict, &[2, 4])),
        "name-taken"
    );
    log.ok(Command::DeleteVolume { volume: V });
    assert_eq!(
        log.code(create(other_id, "vol", "*=1", DEGRADE, &[2, 4])),
        "deleting"
    );
}

#[test]
fn bad_names_and_sizes_are_refused_with_words() {
    let mut log = Log::metro();
    for name in ["", "../x", &"n".repeat(300), "a b"] {
        assert_eq!(
            log.code(create(V, name, "*=1", DEGRADE, &[1, 3])),
            "invalid",
            "{name}"
        );
    }
    for blocks in [0, u64::MAX] {
        let Command::CreateVolume {
            volume,
            name,
            lineage,
            policy,
            replicas,
            ..
        } = create(V, "v", "*=1", DEGRADE, &[1, 3])
        else {
            unreachable!()
        };
        let command = Command::CreateVolume {
            volume,
            name,
            blocks,
            lineage,
            policy,
            replicas,
        };
        assert_eq!(log.code(command), "invalid");
    }
}

#[test]
fn copies_are_what_the_policy_asks_for_where_it_asks() {
    let mut log = Log::metro();
    assert_eq!(log.code(create(V, "v", "c=1", DEGRADE, &[1])), "placement");
    assert_eq!(
        log.code(create(V, "v", "a=2,b=1", DEGRADE, &[1, 3])),
        "policy-not-met"
    );
    assert_eq!(
        log.code(create(V, "v", "*=1", DEGRADE, &[1, 2])),
        "policy-not-met"
    );
    assert_eq!(log.code(create(V, "v", "2", DEGRADE, &[1, 9])), "witness");
    assert_eq!(log.code(create(V, "v", "2", DEGRADE, &[1, 1])), "id-used");
    let mut command = create(V, "v", "2", DEGRADE, &[1, 2]);
    let Command::CreateVolume { replicas, .. } = &mut command else {
        unreachable!()
    };
    replicas[1] = NewReplica {
        replica: r(2),
        ..new(1)
    };
    assert_eq!(log.code(command.clone()), "shared-domain");
    let Command::CreateVolume {
        replicas,
        policy: p,
        ..
    } = &mut command
    else {
        unreachable!()
    };
    replicas[1] = new(2);
    p.fault_domain = FaultDomain::Rack;
    assert_eq!(log.code(command), "shared-domain");
    log.ok(Command::CordonNode {
        node: n(1),
        cordoned: true,
    });
    assert_eq!(
        log.code(create(V, "v", "*=1", DEGRADE, &[1, 3])),
        "cordoned"
    );
}

#[test]
fn no_more_is_promised_on_a_pool_than_the_settings_allow() {
    let mut log = Log::metro();
    let sized = |id: u128, name: &str, blocks, base: u128| {
        let Command::CreateVolume {
            lineage, policy, ..
        } = create(V, name, "*=1", DEGRADE, &[])
        else {
            unreachable!()
        };
        let at = |node: u128| NewReplica {
            replica: ReplicaId::from_u128(base + node),
            ..new(node)
        };
        let replicas = vec![at(1), at(3)];
        Command::CreateVolume {
            volume: VolumeId::from_u128(id),
            name: name.into(),
            blocks,
            lineage,
            policy,
            replicas,
        }
    };
    assert_eq!(log.code(sized(1, "v1", 1001 * 64, 0x200)), "no-room");
    log.ok(sized(1, "v1", 600 * 64, 0x200));
    assert_eq!(log.code(sized(2, "v2", 401 * 64, 0x300)), "no-room");
    log.ok(Command::SetSettings(Settings {
        overprovision_per_cent: 200,
    }));
    log.ok(sized(2, "v2", 401 * 64, 0x300));
    assert_eq!(log.state.promised(d(1)), 1001);
    let grow = |blocks| Command::ResizeVolume {
        volume: VolumeId::from_u128(1),
        blocks,
    };
    assert_eq!(log.code(grow(1600 * 64)), "no-room");
    log.ok(grow(1599 * 64));
    assert_eq!(
        log.code(Command::SetSettings(Settings {
            overprovision_per_cent: 0
        })),
        "invalid"
    );
}

#[test]
fn a_pool_holds_as_many_copies_as_its_journal_has_windows() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let mut holds_one = log.state.pools[&d(1)].clone();
    assert_eq!(log.state.places_left(d(1)), None, "it has not told");
    holds_one.places = 1;
    log.ok(Command::PutPool(holds_one.clone()));
    assert_eq!(log.state.places_left(d(1)), Some(0));
    let at = |node: u128| NewReplica {
        replica: ReplicaId::from_u128(0x900 + node),
        ..new(node)
    };
    let second = |log: &Log| {
        let Command::CreateVolume {
            lineage, policy, ..
        } = create(V, "second", "*=1", DEGRADE, &[])
        else {
            unreachable!()
        };
        assert!(log.state.volumes.contains_key(&V));
        Command::CreateVolume {
            volume: VolumeId::from_u128(2),
            name: "second".into(),
            blocks: 64,
            lineage,
            policy,
            replicas: vec![at(1), at(3)],
        }
    };
    assert_eq!(log.code(second(&log)), "no-place");
    holds_one.places = 2;
    log.ok(Command::PutPool(holds_one));
    log.ok(second(&log));
    assert_eq!(log.state.places_left(d(1)), Some(0));
}

#[test]
fn sizes_only_grow() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let resize = |blocks| Command::ResizeVolume { volume: V, blocks };
    log.ok(resize(128));
    assert_eq!(log.ok(resize(128)), Outcome::Unchanged);
    assert_eq!(
        log.refused(resize(64)),
        Rejected::Shrink { from: 128, to: 64 }
    );
    assert_eq!(log.code(resize(0)), "shrink");
    assert_eq!(log.volume().blocks, 128);
}

#[test]
fn an_attached_volume_is_not_deleted() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    assert_eq!(
        log.refused(Command::DeleteVolume { volume: V }),
        Rejected::Attached { node: "a1".into() }
    );
}

#[test]
fn deleting_leaves_tombstones_and_ends_with_the_last() {
    let mut log = Log::with_volume("*=1", DEGRADE, &[1, 3]);
    let applied = log.apply(Command::DeleteVolume { volume: V });
    assert!(applied.result.is_ok());
    let named = applied.changes.iter().filter_map(|change| match change {
        Change::Tombstone(it) => Some((it.volume, it.replica, it.incarnation, it.node)),
        _ => None,
    });
    let named: Vec<_> = named.collect();
    assert_eq!(
        named,
        [
            (V, r(1), Incarnation(1), n(1)),
            (V, r(3), Incarnation(1), n(3))
        ]
    );
    assert_eq!(
        log.ok(Command::DeleteVolume { volume: V }),
        Outcome::Unchanged
    );
    assert_eq!(log.code(attach(1, 1)), "deleting");
    let promote = log.promote(1, None);
    assert_eq!(log.code(promote), "deleting");
    log.ok(gone(1));
    assert_eq!(log.ok(gone(1)), Outcome::Unchanged);
    let last = log.apply(gone(3));
    assert!(last.changes.contains(&Change::VolumeGone(V)));
    assert!(log.state.volumes.is_empty() && log.state.tombstones.is_empty());
}

#[test]
fn deleting_fences_a_caretaker() {
    let mut log = Log::with_volume("*=1", DEGRADE, &[1, 3]);
    let caretaker = log.promote(3, None);
    log.ok(caretaker);
    let epoch = log.volume().membership.epoch;
    log.ok(Command::DeleteVolume { volume: V });
    assert!(log.volume().membership.epoch > epoch);
    assert_eq!(log.volume().membership.primary, None);
}

#[test]
fn ids_are_never_used_again() {
    let mut log = Log::with_volume("*=1", DEGRADE, &[1, 3]);
    log.ok(Command::DeleteVolume { volume: V });
    assert_eq!(
        log.code(create(V, "new", "*=1", DEGRADE, &[2, 4])),
        "id-used"
    );
    let other = VolumeId::from_u128(0x7002);
    // The replica's data may still be there.
    assert_eq!(
        log.code(create(other, "new", "*=1", DEGRADE, &[1, 3])),
        "id-used"
    );
    log.ok(gone(1));
    log.ok(gone(3));
    assert_eq!(
        log.code(create(V, "new", "*=1", DEGRADE, &[2, 4])),
        "id-used"
    );
    assert_eq!(
        log.code(create(other, "new", "*=1", DEGRADE, &[1, 3])),
        "id-used"
    );
}

#[test]
fn data_goes_only_by_a_tombstone_that_names_its_life() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    assert_eq!(log.code(gone(3)), "no-tombstone");
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    // Out of the in-sync set is not deleted.
    assert!(log.state.tombstones.is_empty());
    log.ok(remove(3, true));
    let other_life = Command::ReplicaGone {
        volume: V,
        replica: r(3),
        incarnation: Incarnation(2),
    };
    assert_eq!(log.code(other_life), "no-tombstone");
    assert_eq!(tombstones(&log), [3]);
}

#[test]
fn a_replica_to_be_removed_stays_until_it_is_out_of_the_set() {
    let mut log = Log::opened("a=2,b=1", DEGRADE, &[1, 2, 3]);
    log.ok(remove(2, true));
    assert!(log.volume().replicas[&r(2)].leaving && tombstones(&log).is_empty());
    let shrink = log.change(&[2], &[]);
    log.ok(shrink);
    assert_eq!(tombstones(&log), [2]);
    assert!(!log.volume().replicas.contains_key(&r(2)));
}

#[test]
fn a_replica_the_policy_needs_stays_until_another_stands_in() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    log.ok(Command::MoveReplica {
        volume: V,
        from: r(3),
        to: new(4),
    });
    log.ready(4);
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    assert!(tombstones(&log).is_empty(), "b has no other certified copy");
    // Still wanted, so it may come back meanwhile.
    let back = log.change(&[], &[3]);
    log.ok(back);
    let both = log.change(&[], &[4]);
    log.ok(both);
    assert!(tombstones(&log).is_empty(), "it is in the set");
    let out = log.change(&[3], &[]);
    log.ok(out);
    assert_eq!(tombstones(&log), [3]);
    assert_eq!(log.members(), [1, 4]);
}

#[test]
fn a_replica_given_up_by_the_operator_does_not_return() {
    let mut log = Log::opened("a=2,b=1", DEGRADE, &[1, 2, 3]);
    log.ok(remove(2, false));
    log.ok(remove(2, true));
    assert_eq!(log.ok(remove(2, true)), Outcome::Unchanged);
    assert_eq!(log.ok(remove(2, false)), Outcome::Unchanged);
    let shrink = log.change(&[2], &[]);
    log.ok(shrink);
    assert_eq!(tombstones(&log), [2]);
}

#[test]
fn a_removal_can_be_taken_back_before_it_is_carried_out() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    log.ok(remove(3, true));
    log.ok(Command::KeepReplica {
        volume: V,
        replica: r(3),
    });
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    assert!(tombstones(&log).is_empty());
}

#[test]
fn the_last_certified_copy_is_not_removed() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    assert_eq!(log.code(remove(1, true)), "empty-set");
    log.ok(remove(3, true));
    assert_eq!(log.code(remove(1, false)), "empty-set");
}

#[test]
fn a_volume_that_waits_for_a_dead_node_is_ready_without_its_copy() {
    let mut log = Log::metro();
    log.ok(create(V, "vol", "a=2,b=1", DEGRADE, &[1, 2, 3]));
    log.ready(1);
    log.ready(3);
    log.ok(remove(2, true));
    assert_eq!(log.members(), [1, 3]);
    assert_eq!(tombstones(&log), [2]);
}

#[test]
fn copies_share_no_fault_domain_and_no_pool() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let same_node = NewReplica {
        replica: r(50),
        ..new(1)
    };
    let add = |replica| Command::AddReplica { volume: V, replica };
    assert_eq!(log.code(add(same_node.clone())), "shared-domain");
    let mut second = pool(1, 1000);
    second.device = DeviceId::from_u128(0x99);
    second.name = "p1".into();
    log.ok(Command::PutPool(second));
    let other_pool = NewReplica {
        device: DeviceId::from_u128(0x99),
        ..same_node
    };
    assert_eq!(log.code(add(other_pool.clone())), "shared-domain");
    // In its own place it may: a disk is exchanged.
    log.ok(Command::MoveReplica {
        volume: V,
        from: r(1),
        to: other_pool,
    });
    assert_eq!(
        log.code(add(NewReplica {
            device: d(2),
            ..new(4)
        })),
        "no-pool"
    );
}

#[test]
fn an_incarnation_only_rises_and_only_outside_the_set() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let life = |from, to| Command::Reincarnate {
        volume: V,
        replica: r(3),
        from: Incarnation(from),
        to: Incarnation(to),
    };
    assert_eq!(log.code(life(1, 2)), "in-sync");
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    assert_eq!(log.code(life(1, 1)), "incarnation");
    assert_eq!(log.code(life(2, 3)), "incarnation");
    log.ok(life(1, 5));
    assert_eq!(log.ok(life(1, 5)), Outcome::Unchanged);
    assert_eq!(log.code(life(5, 4)), "incarnation");
    assert!(!log.volume().replicas[&r(3)].ready);
}

#[test]
fn a_tombstone_follows_the_life_that_its_node_finds() {
    let mut log = Log::opened("a=2,b=1", DEGRADE, &[1, 2, 3]);
    let shrink = log.change(&[2], &[]);
    log.ok(shrink);
    log.ok(remove(2, true));
    log.ok(Command::Reincarnate {
        volume: V,
        replica: r(2),
        from: Incarnation(1),
        to: Incarnation(2),
    });
    assert_eq!(log.code(gone(2)), "no-tombstone");
    log.ok(Command::ReplicaGone {
        volume: V,
        replica: r(2),
        incarnation: Incarnation(2),
    });
}

#[test]
fn a_policy_names_sites_that_exist_and_decides_what_may_leave() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let mut wish = policy("a=1", DEGRADE);
    wish.preferred_site = Some("c".into());
    assert_eq!(
        log.code(Command::SetPolicy {
            volume: V,
            policy: wish.clone()
        }),
        "placement"
    );
    log.ok(remove(3, false));
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    assert!(tombstones(&log).is_empty());
    wish.preferred_site = Some("a".into());
    log.ok(Command::SetPolicy {
        volume: V,
        policy: wish.clone(),
    });
    assert_eq!(tombstones(&log), [3], "no longer asked for");
    assert_eq!(
        log.ok(Command::SetPolicy {
            volume: V,
            policy: wish
        }),
        Outcome::Unchanged
    );
}
