//! Each switch breaks the rule it names: what was refused is done, or what was done is left out.
#![cfg(feature = "mutate")]

mod common;
use common::*;
use lockstep_control::{Attachment, Command, Expected, Mutation, Rpo};
use lockstep_types::{Epoch, Incarnation, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// Whether the rule is broken after the shortest history that needs it.
fn breaks(mutation: Mutation, log: Log) -> bool {
    let (sound, broken) = (log.clone(), {
        let mut log = log;
        log.state.mutation = Some(mutation);
        log
    });
    !violated(mutation, sound) && violated(mutation, broken)
}

fn violated(mutation: Mutation, mut log: Log) -> bool {
    let expected = log.expected();
    let stale = Expected {
        epoch: Epoch::ZERO,
        version: 0,
    };
    let change =
        |expected, node: u128, remove: &[u128], add: &[(u128, u64)]| Command::ChangeInSync {
            volume: V,
            expected,
            node: n(node),
            remove: remove.iter().map(|id| r(*id)).collect(),
            add: add
                .iter()
                .map(|(id, life)| (r(*id), Incarnation(*life)))
                .collect::<BTreeMap<_, _>>(),
            reason: String::new(),
        };
    let promote = |node: u128, attachment: Option<u128>| Command::Promote {
        volume: V,
        expected,
        node: n(node),
        attachment: attachment.map(a),
        primary_silent: false,
    };
    let mut done = |command| log.apply(command).result.is_ok();
    match mutation {
        Mutation::CasIgnored => done(change(stale, 1, &[3], &[])),
        Mutation::ForeignPrimary => done(change(expected, 3, &[1], &[])),
        Mutation::EpochStands => {
            done(promote(1, Some(1))) && log.volume().membership.epoch == expected.epoch
        }
        Mutation::AttachmentIgnored => done(promote(3, Some(7))),
        Mutation::PromoteOutside => {
            done(detach(1)) && {
                let outside = log.promote(4, None);
                log.apply(outside).result.is_ok()
            }
        }
        Mutation::CaretakerAnyTime => done(promote(3, None)),
        Mutation::EmptyInSync => done(change(expected, 1, &[1, 2, 3], &[])),
        Mutation::IncarnationIgnored => {
            done(Command::AddReplica {
                volume: V,
                replica: new(4),
            }) && done(Command::ReplicaReady {
                volume: V,
                replica: r(4),
                incarnation: Incarnation(1),
            }) && {
                let expected = log.expected();
                log.apply(change(expected, 1, &[], &[(4, 9)]))
                    .result
                    .is_ok()
            }
        }
        Mutation::UnreadyCertified => {
            done(Command::AddReplica {
                volume: V,
                replica: new(4),
            }) && {
                let expected = log.expected();
                log.apply(change(expected, 1, &[], &[(4, 1)]))
                    .result
                    .is_ok()
            }
        }
        Mutation::StrictShrink => {
            done(Command::SetPolicy {
                volume: V,
                policy: policy("a=2,b=1", Rpo::Strict),
            }) && {
                let expected = log.expected();
                log.apply(change(expected, 1, &[3], &[])).result.is_ok()
            }
        }
        Mutation::VoterlessSite => {
            log.ok(Command::PutVoter {
                raft_id: 1,
                node: n(3),
            });
            for voting in [BTreeSet::from([1]), BTreeSet::new()] {
                log.index += 1;
                log.state.apply_configuration(log.index, voting);
            }
            log.ok(change(expected, 1, &[3], &[]));
            let expected = log.expected();
            log.apply(change(expected, 1, &[], &[(3, 1)]))
                .result
                .is_ok()
        }
        Mutation::SizeShrinks => done(Command::ResizeVolume {
            volume: V,
            blocks: 1,
        }),
        Mutation::TombstoneUnasked => {
            done(change(expected, 1, &[3], &[])) && !log.state.tombstones.is_empty()
        }
        Mutation::IdReuse => {
            log.ok(detach(1));
            log.ok(Command::DeleteVolume { volume: V });
            for node in [1, 2, 3] {
                log.ok(Command::ReplicaGone {
                    volume: V,
                    replica: r(node),
                    incarnation: Incarnation(1),
                });
            }
            log.apply(create(
                VolumeId::from_u128(V.as_u128()),
                "vol",
                "a=2,b=1",
                Rpo::Strict,
                &[1, 2, 3],
            ))
            .result
            .is_ok()
        }
        Mutation::SecondAttachment => done(attach(2, 3)),
        Mutation::DetachKeepsEpoch => {
            done(detach(1)) && log.volume().membership.primary == Some(n(1))
        }
        Mutation::FencedRepublish => done(detach(1)) && done(attach(2, 1)),
        Mutation::IncarnationBack => {
            log.ok(change(expected, 1, &[3], &[]));
            let back = Command::Reincarnate {
                volume: V,
                replica: r(3),
                from: Incarnation(1),
                to: Incarnation(0),
            };
            log.apply(back).result.is_ok()
        }
        Mutation::RebuildTrusts => done(rebuild()) && !log.volume().membership.distrusted,
        Mutation::ForcedKeepsDevice => {
            let kept = Some(Attachment {
                id: a(1),
                node: n(1),
            });
            done(rebuild()) && log.volume().membership.attachment == kept
        }
        Mutation::ForcedKeepsSides => {
            let forced = Command::ForcePromote {
                volume: V,
                expected,
                replica: r(3),
                incarnation: Incarnation(1),
                may_rejoin: BTreeSet::new(),
                operator: String::new(),
            };
            done(forced) && !log.volume().replicas[&r(1)].sealed_off
        }
    }
}

fn rebuild() -> Command {
    Command::RebuildGeneration {
        generation: 1,
        barred_voters: BTreeSet::new(),
        operator: String::new(),
    }
}

#[test]
fn every_switch_breaks_its_rule() {
    for mutation in Mutation::ALL {
        let log = Log::opened("a=2,b=1", Rpo::WitnessedDegrade, &[1, 2, 3]);
        assert!(breaks(mutation, log), "{mutation:?} breaks nothing");
    }
}
