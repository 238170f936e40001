//! Who may write: one test a sentence.

mod common;
use common::*;
use lockstep_control::{Command, Expected, Outcome, Rejected, Rpo};
use lockstep_types::{Epoch, Incarnation};
use std::collections::{BTreeMap, BTreeSet};

const DEGRADE: Rpo = Rpo::WitnessedDegrade;

#[test]
fn a_volume_is_ready_with_all_copies_in_sync_once_the_last_is_made() {
    let mut log = Log::metro();
    log.ok(create(V, "vol", "a=2,b=1", DEGRADE, &[1, 2, 3]));
    log.ready(1);
    log.ready(3);
    assert!(!log.volume().is_ready());
    assert_eq!(log.code(attach(1, 1)), "not-ready");
    log.ready(2);
    assert_eq!(log.members(), [1, 2, 3]);
    assert_eq!(log.volume().membership.epoch, Epoch::ZERO);
}

#[test]
fn a_promotion_takes_the_next_epoch() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let membership = &log.volume().membership;
    assert_eq!(
        (membership.epoch, membership.primary),
        (Epoch::new(0, 1), Some(n(1)))
    );
    // A restarted daemon on the same node takes a new one.
    let again = log.promote(1, Some(1));
    log.ok(again);
    assert_eq!(log.volume().membership.epoch, Epoch::new(0, 2));
}

#[test]
fn every_change_of_membership_compares_epoch_and_version() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let stale = (
        log.promote(1, Some(1)),
        log.change(&[3], &[]),
        log.change(&[1], &[]),
    );
    log.ok(stale.1);
    let current = log.volume().membership.clone();
    for command in [stale.0, stale.2] {
        match log.refused(command) {
            Rejected::Conflict { current: told } => assert_eq!(*told, current),
            other => panic!("{other}"),
        }
    }
    let step_down = Command::StepDown {
        volume: V,
        expected: Expected {
            epoch: Epoch::ZERO,
            version: 0,
        },
        node: n(1),
    };
    assert_eq!(log.code(step_down), "conflict");
}

#[test]
fn of_two_racing_shrinks_one_wins() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let (mine, theirs) = (log.change(&[3], &[]), log.promote(1, Some(1)));
    log.ok(theirs);
    assert_eq!(log.code(mine), "conflict");
    assert_eq!(log.members(), [1, 3]);
}

#[test]
fn only_the_primary_of_the_epoch_changes_the_set() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let expected = log.expected();
    let change = Command::ChangeInSync {
        volume: V,
        expected,
        node: n(3),
        remove: BTreeSet::from([r(1)]),
        add: BTreeMap::new(),
        reason: String::new(),
    };
    assert_eq!(log.code(change), "not-primary");
    assert_eq!(
        log.code(Command::StepDown {
            volume: V,
            expected,
            node: n(3)
        }),
        "not-primary"
    );
    let repair = Command::SetRepairOnly {
        volume: V,
        expected,
        node: n(3),
        repair_only: true,
    };
    assert_eq!(log.code(repair), "not-primary");
}

#[test]
fn the_in_sync_set_never_becomes_empty() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let both = log.change(&[1, 3], &[]);
    assert_eq!(log.code(both), "empty-set");
    let one = log.change(&[3], &[]);
    log.ok(one);
    let last = log.change(&[1], &[]);
    assert_eq!(log.code(last), "empty-set");
}

#[test]
fn a_primary_without_a_copy_may_serve() {
    let mut log = Log::with_volume("*=1", DEGRADE, &[2, 3]);
    log.ok(attach(1, 1));
    let diskless = log.promote(1, Some(1));
    log.ok(diskless);
}

#[test]
fn a_promotion_names_the_records_attachment_and_node() {
    let mut log = Log::with_volume("*=1", DEGRADE, &[1, 3]);
    let unattached = log.promote(1, Some(1));
    assert_eq!(log.code(unattached), "wrong-attachment");
    log.ok(attach(1, 1));
    let (other_id, other_node) = (log.promote(1, Some(2)), log.promote(3, Some(1)));
    assert_eq!(log.code(other_id), "wrong-attachment");
    assert_eq!(log.code(other_node), "wrong-attachment");
}

#[test]
fn a_caretaker_names_no_attachment_and_stands_on_a_certified_copy() {
    let mut log = Log::with_volume("*=1", DEGRADE, &[1, 3]);
    let (outside, member) = (log.promote(2, None), log.promote(3, None));
    assert_eq!(log.code(outside), "no-certified-copy");
    log.ok(member);
    assert!(log.volume().membership.caretaker);
    let shrink = log.change(&[1], &[]);
    log.ok(shrink);
    let removed = log.promote(1, None);
    assert_eq!(log.code(removed), "no-certified-copy");
}

#[test]
fn a_caretaker_is_refused_while_the_attached_primary_answers() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let caretaker = log.promote(3, None);
    assert_eq!(log.code(caretaker), "attached");
    let Command::Promote {
        volume,
        expected,
        node,
        attachment,
        ..
    } = log.promote(3, None)
    else {
        unreachable!()
    };
    log.ok(Command::Promote {
        volume,
        expected,
        node,
        attachment,
        primary_silent: true,
    });
    // The attached node is back: its attachment id is unchanged, so it takes the volume.
    let back = log.promote(1, Some(1));
    log.ok(back);
    assert!(!log.volume().membership.caretaker);
}

#[test]
fn a_caretaker_steps_down_and_leaves_the_epoch_to_nobody() {
    let mut log = Log::with_volume("*=1", DEGRADE, &[1, 3]);
    let promote = log.promote(3, None);
    log.ok(promote);
    let late = log.change(&[1], &[]);
    let expected = log.expected();
    log.ok(Command::StepDown {
        volume: V,
        expected,
        node: n(3),
    });
    assert_eq!(log.volume().membership.primary, None);
    assert_eq!(log.code(late), "conflict");
    let change = log.change(&[1], &[]);
    assert_eq!(log.code(change), "not-primary");
}

#[test]
fn an_attached_primary_ends_by_detach_only() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let expected = log.expected();
    assert_eq!(
        log.code(Command::StepDown {
            volume: V,
            expected,
            node: n(1)
        }),
        "attached"
    );
}

#[test]
fn a_joiner_has_the_recorded_incarnation() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    let stale = log.change(&[], &[3]);
    log.ok(Command::Reincarnate {
        volume: V,
        replica: r(3),
        from: Incarnation(1),
        to: Incarnation(2),
    });
    let Command::ChangeInSync {
        volume,
        node,
        remove,
        add,
        reason,
        ..
    } = stale
    else {
        unreachable!()
    };
    let expected = log.expected();
    let stale = Command::ChangeInSync {
        volume,
        expected,
        node,
        remove,
        add,
        reason,
    };
    assert_eq!(log.code(stale), "incarnation");
    // Its space must exist in the new life, too.
    let unready = log.change(&[], &[3]);
    assert_eq!(log.code(unready), "replica-not-ready");
    log.ready(3);
    let good = log.change(&[], &[3]);
    log.ok(good);
    assert_eq!(log.volume().membership.in_sync[&r(3)], Incarnation(2));
}

#[test]
fn a_joiner_is_a_recorded_replica_outside_the_set() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let member = log.change(&[], &[3]);
    assert_eq!(log.code(member), "in-sync");
    let expected = log.expected();
    let stranger = Command::ChangeInSync {
        volume: V,
        expected,
        node: n(1),
        remove: BTreeSet::new(),
        add: BTreeMap::from([(r(4), Incarnation(1))]),
        reason: String::new(),
    };
    assert_eq!(log.code(stranger), "no-replica");
    log.ok(Command::AddReplica {
        volume: V,
        replica: new(4),
    });
    let unready = log.change(&[], &[4]);
    assert_eq!(log.code(unready), "replica-not-ready");
}

#[test]
fn removing_a_stranger_makes_sure_that_it_is_not_added_from_an_older_version() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    log.ok(Command::AddReplica {
        volume: V,
        replica: new(4),
    });
    log.ready(4);
    let late = log.change(&[], &[4]);
    let not_member = log.change(&[4], &[]);
    log.ok(not_member);
    assert_eq!(log.code(late), "conflict");
}

#[test]
fn strict_keeps_a_copy_in_each_named_site() {
    let mut log = Log::opened("a=2,b=1", Rpo::Strict, &[1, 2, 3]);
    let lost_b = log.change(&[3], &[]);
    assert_eq!(
        log.refused(lost_b),
        Rejected::StrictSite { site: "b".into() }
    );
    let one_of_a = log.change(&[2], &[]);
    log.ok(one_of_a);
    let lost_a = log.change(&[1], &[]);
    assert_eq!(
        log.refused(lost_a),
        Rejected::StrictSite { site: "a".into() }
    );
}

#[test]
fn strict_exchanges_a_lost_copy_for_a_verified_one_of_its_site() {
    let mut log = Log::opened("a=2,b=1", Rpo::Strict, &[1, 2, 3]);
    log.ok(Command::AddReplica {
        volume: V,
        replica: new(4),
    });
    log.ready(4);
    let exchange = log.change(&[3], &[4]);
    log.ok(exchange);
    assert_eq!(log.members(), [1, 2, 4]);
}

#[test]
fn strict_by_count_keeps_the_sites_in_which_copies_stand() {
    let mut log = Log::opened("2", Rpo::Strict, &[1, 3]);
    let lost_b = log.change(&[3], &[]);
    assert_eq!(
        log.refused(lost_b),
        Rejected::StrictSite { site: "b".into() }
    );
    let mut log = Log::opened("2", Rpo::Strict, &[1, 2]);
    let same_site = log.change(&[2], &[]);
    log.ok(same_site);
}

/// A copy that is merely marked counts until others stand for it (decision 0008).
#[test]
fn strict_by_count_keeps_the_site_of_a_copy_that_is_to_go() {
    let mut log = Log::opened("2", Rpo::Strict, &[1, 3]);
    log.ok(Command::MoveReplica {
        volume: V,
        from: r(3),
        to: new(2),
    });
    let too_early = log.change(&[3], &[]);
    assert_eq!(
        log.refused(too_early),
        Rejected::StrictSite { site: "b".into() }
    );
    log.ready(2);
    let certified = log.change(&[], &[2]);
    log.ok(certified);
    let now = log.change(&[3], &[]);
    log.ok(now);
    assert_eq!(log.members(), [1, 2]);

    let mut log = Log::opened("2", Rpo::Strict, &[1, 3]);
    log.ok(Command::RemoveReplica {
        volume: V,
        replica: r(3),
        even_below_policy: true,
    });
    let given_up = log.change(&[3], &[]);
    log.ok(given_up);
}

#[test]
fn a_site_that_lost_its_voters_gets_nothing_certified_until_it_votes_again() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    for (raft_id, node) in [(1, 1), (2, 3), (3, 9)] {
        log.ok(Command::PutVoter {
            raft_id,
            node: n(node),
        });
    }
    let vote = |log: &mut Log, ids: &[u64]| {
        log.index += 1;
        log.state
            .apply_configuration(log.index, ids.iter().copied().collect());
    };
    vote(&mut log, &[1, 2, 3]);
    let shrink = log.change(&[3], &[]);
    log.ok(shrink);
    vote(&mut log, &[1, 3]);
    let join = log.change(&[], &[3]);
    assert_eq!(
        log.refused(join.clone()),
        Rejected::SiteWithoutVoter { site: "b".into() }
    );
    log.ok(Command::PutVoter {
        raft_id: 4,
        node: n(4),
    });
    vote(&mut log, &[1, 3, 4]);
    log.ok(join);
}

#[test]
fn repair_only_belongs_to_an_epoch() {
    let mut log = Log::opened("*=1", Rpo::Strict, &[1, 3]);
    let expected = log.expected();
    log.ok(Command::SetRepairOnly {
        volume: V,
        expected,
        node: n(1),
        repair_only: true,
    });
    assert!(log.volume().membership.repair_only);
    let promote = log.promote(1, Some(1));
    log.ok(promote);
    assert!(!log.volume().membership.repair_only);
}

#[test]
fn epochs_go_on_in_the_clusters_generation() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    rebuild(&mut log, 3);
    let expected = log.expected();
    log.ok(Command::ForcePromote {
        volume: V,
        expected,
        replica: r(3),
        incarnation: Incarnation(1),
        may_rejoin: BTreeSet::new(),
        operator: "op".into(),
    });
    assert_eq!(log.volume().membership.epoch.generation(), 3);
    let before = log.volume().membership.epoch;
    let promote = log.promote(3, None);
    let Outcome::Membership(now) = log.ok(promote) else {
        panic!("a membership")
    };
    assert_eq!(now.epoch, before.next());
}

fn rebuild(log: &mut Log, generation: u32) {
    log.ok(Command::RebuildGeneration {
        generation,
        barred_voters: BTreeSet::new(),
        operator: "op".into(),
    });
}
