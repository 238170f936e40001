//! Publications and fencing (R12).

mod common;
use common::*;
use lockstep_control::{Attachment, Command, Outcome, Rejected, Rpo};

const DEGRADE: Rpo = Rpo::WitnessedDegrade;

#[test]
fn one_attachment_lives_at_a_time() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    assert_eq!(
        log.refused(attach(2, 3)),
        Rejected::Attached { node: "a1".into() }
    );
}

#[test]
fn publishing_again_to_the_same_node_gives_the_same_attachment() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let before = log.state.volumes.clone();
    let again = log.ok(attach(2, 1));
    assert_eq!(
        again,
        Outcome::Attached(Attachment {
            id: a(1),
            node: n(1)
        })
    );
    assert_eq!(log.state.volumes, before);
}

#[test]
fn detaching_ends_the_epoch_of_the_primary_that_served_it() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    let (epoch, late) = (log.volume().membership.epoch, log.change(&[3], &[]));
    log.ok(detach(1));
    let membership = &log.volume().membership;
    assert_eq!((membership.attachment, membership.primary), (None, None));
    assert!(membership.epoch > epoch);
    assert_eq!(log.code(late), "conflict");
    let fresh = log.change(&[3], &[]);
    assert_eq!(log.code(fresh), "not-primary");
}

#[test]
fn detaching_leaves_a_caretakers_epoch_alone() {
    let mut log = Log::with_volume("*=1", DEGRADE, &[1, 3]);
    let caretaker = log.promote(3, None);
    log.ok(caretaker);
    log.ok(attach(1, 1));
    let epoch = log.volume().membership.epoch;
    log.ok(detach(1));
    assert_eq!(log.volume().membership.epoch, epoch);
    assert_eq!(log.volume().membership.primary, Some(n(3)));
}

#[test]
fn a_node_gets_the_volume_again_only_when_its_old_device_is_gone() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    log.ok(detach(1));
    assert_eq!(
        log.refused(attach(2, 1)),
        Rejected::OldDevice {
            node: "a1".into(),
            attachment: a(1)
        }
    );
    log.ok(attach(2, 3));
    log.ok(detach(2));
    log.ok(Command::DeviceGone {
        volume: V,
        attachment: a(1),
    });
    log.ok(attach(3, 1));
    assert_eq!(log.volume().fenced.keys().collect::<Vec<_>>(), [&a(2)]);
}

#[test]
fn a_fenced_node_may_still_be_caretaker() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    log.ok(detach(1));
    let caretaker = log.promote(1, None);
    log.ok(caretaker);
}

#[test]
fn a_clean_detach_says_that_the_device_is_gone() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    log.ok(Command::Detach {
        volume: V,
        attachment: a(1),
        device_gone: true,
    });
    log.ok(attach(2, 1));
}

#[test]
fn detaching_twice_or_an_unknown_attachment_is_no_error() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    log.ok(detach(1));
    assert_eq!(log.ok(detach(1)), Outcome::Unchanged);
    assert_eq!(log.ok(detach(77)), Outcome::Unchanged);
    // The node's own word comes later.
    log.ok(Command::Detach {
        volume: V,
        attachment: a(1),
        device_gone: true,
    });
    assert!(log.volume().fenced.is_empty());
    assert_eq!(
        log.ok(Command::DeviceGone {
            volume: V,
            attachment: a(1)
        }),
        Outcome::Unchanged
    );
}

#[test]
fn a_detach_of_an_old_attachment_leaves_the_new_one() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    log.ok(detach(1));
    log.ok(attach(2, 3));
    log.ok(detach(1));
    assert_eq!(
        log.volume().membership.attachment,
        Some(Attachment {
            id: a(2),
            node: n(3)
        })
    );
}

#[test]
fn a_fenced_attachment_id_is_not_used_again() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    log.ok(detach(1));
    assert_eq!(log.code(attach(1, 3)), "id-used");
    assert_eq!(
        log.code(Command::Attach {
            volume: V,
            attachment: Attachment {
                id: Default::default(),
                node: n(3)
            }
        }),
        "id-used"
    );
}

#[test]
fn nothing_is_attached_to_a_witness_or_a_cordoned_node() {
    let mut log = Log::with_volume("*=1", DEGRADE, &[1, 3]);
    assert_eq!(log.code(attach(1, 9)), "witness");
    assert_eq!(log.code(attach(1, 77)), "no-node");
    log.ok(Command::CordonNode {
        node: n(1),
        cordoned: true,
    });
    assert_eq!(log.code(attach(1, 1)), "cordoned");
    let caretaker = log.promote(1, None);
    assert_eq!(log.code(caretaker), "cordoned");
}

#[test]
fn a_cordoned_node_keeps_what_is_attached_to_it() {
    let mut log = Log::opened("*=1", DEGRADE, &[1, 3]);
    log.ok(Command::CordonNode {
        node: n(1),
        cordoned: true,
    });
    let again = log.promote(1, Some(1));
    log.ok(again);
}
