//! A command as its message.

use super::super::parts::*;
use super::*;
use crate::command::Command;
use crate::record::Expected;
use lockstep_types::{Incarnation, ReplicaId, VolumeId};

/// The message of a command.
pub(super) fn kind(command: &Command) -> Kind {
    cluster_kind(command)
        .or_else(|| volume_kind(command))
        .or_else(|| membership_kind(command))
        .or_else(|| replica_kind(command))
        .expect("every command has a kind")
}

fn cluster_kind(command: &Command) -> Option<Kind> {
    Some(match command {
        Command::InitCluster {
            id,
            name,
            ca_certificate,
            sealed_ca_key,
        } => Kind::InitCluster(InitCluster {
            id: put(*id),
            name: name.clone(),
            ca_certificate: ca_certificate.clone(),
            sealed_ca_key: sealed_ca_key.clone(),
        }),
        Command::PutNode(node) => Kind::PutNode(node.into()),
        Command::RemoveNode { node } => Kind::RemoveNode(NodeFlag {
            node: put(*node),
            flag: false,
        }),
        Command::CordonNode { node, cordoned } => Kind::CordonNode(NodeFlag {
            node: put(*node),
            flag: *cordoned,
        }),
        Command::PutPool(pool) => Kind::PutPool(pool.into()),
        Command::RemovePool { device } => Kind::RemovePool(put(*device)),
        Command::PutToken {
            id,
            secret_hash,
            expires_unix,
            role,
        } => Kind::PutToken(PutToken {
            id: *id,
            secret_hash: secret_hash.to_vec(),
            expires_unix: *expires_unix,
            role: put_role(*role),
        }),
        Command::UseToken { id, node } => Kind::UseToken(NumberedNode {
            id: *id,
            node: put(*node),
        }),
        Command::RebuildGeneration {
            generation,
            barred_voters,
            operator,
        } => Kind::RebuildGeneration(Rebuild {
            generation: *generation,
            barred_voters: barred_voters.iter().copied().collect(),
            operator: operator.clone(),
        }),
        Command::SetClusterVersion { version } => Kind::SetClusterVersion(*version),
        Command::PutVoter { raft_id, node } => Kind::PutVoter(NumberedNode {
            id: *raft_id,
            node: put(*node),
        }),
        Command::RemoveVoter { raft_id } => Kind::RemoveVoter(*raft_id),
        Command::SetSettings(settings) => Kind::SetSettings(settings.into()),
        Command::NoteVoters => Kind::NoteVoters(true),
        Command::NoteCertificate {
            teller,
            fate,
            whose,
            detail,
        } => Kind::NoteCertificate(CertificateNote {
            teller: put(*teller),
            fate: put_fate(*fate),
            whose: whose.clone(),
            detail: detail.clone(),
        }),
        _ => return None,
    })
}

fn volume_kind(command: &Command) -> Option<Kind> {
    Some(match command {
        Command::CreateVolume {
            volume,
            name,
            blocks,
            lineage,
            policy,
            replicas,
        } => Kind::CreateVolume(CreateVolume {
            volume: put(*volume),
            name: name.clone(),
            blocks: *blocks,
            lineage: put(*lineage),
            policy: Some(policy.into()),
            replicas: replicas.iter().map(Into::into).collect(),
        }),
        Command::DeleteVolume { volume } => Kind::DeleteVolume(put(*volume)),
        Command::ResizeVolume { volume, blocks } => Kind::ResizeVolume(Resize {
            volume: put(*volume),
            blocks: *blocks,
        }),
        Command::Attach { volume, attachment } => {
            let attachment = Some(attachment.into());
            Kind::Attach(OfAttachment {
                volume: put(*volume),
                attachment,
                ..OfAttachment::default()
            })
        }
        Command::Detach {
            volume,
            attachment,
            device_gone,
        } => {
            let (id, device_gone) = (put(*attachment), *device_gone);
            Kind::Detach(OfAttachment {
                volume: put(*volume),
                attachment: None,
                id,
                device_gone,
            })
        }
        Command::DeviceGone { volume, attachment } => {
            let id = put(*attachment);
            Kind::DeviceGone(OfAttachment {
                volume: put(*volume),
                id,
                ..OfAttachment::default()
            })
        }
        Command::SetPolicy { volume, policy } => Kind::SetPolicy(SetPolicy {
            volume: put(*volume),
            policy: Some(policy.into()),
        }),
        Command::NoteSequence {
            volume,
            bound,
            stamp,
        } => {
            let stamp = Some((*stamp).into());
            Kind::NoteSequence(Note {
                volume: put(*volume),
                bound: put_bound(*bound),
                stamp,
            })
        }
        _ => return None,
    })
}

fn membership_kind(command: &Command) -> Option<Kind> {
    Some(match command {
        Command::Promote {
            volume,
            expected,
            node,
            attachment,
            primary_silent,
        } => {
            let mut of = of_primary(*volume, expected, put(*node), *primary_silent);
            of.attachment = attachment.map(put);
            Kind::Promote(of)
        }
        Command::StepDown {
            volume,
            expected,
            node,
        } => Kind::StepDown(of_primary(*volume, expected, put(*node), false)),
        Command::SetRepairOnly {
            volume,
            expected,
            node,
            repair_only,
        } => Kind::SetRepairOnly(of_primary(*volume, expected, put(*node), *repair_only)),
        Command::ChangeInSync {
            volume,
            expected,
            node,
            remove,
            add,
            reason,
        } => Kind::ChangeInSync(ChangeInSync {
            primary: Some(of_primary(*volume, expected, put(*node), false)),
            remove: remove.iter().map(|replica| put(*replica)).collect(),
            add: add
                .iter()
                .map(|(replica, life)| WireMember::put(*replica, *life))
                .collect(),
            reason: reason.clone(),
        }),
        Command::ForcePromote {
            volume,
            expected,
            replica,
            incarnation,
            may_rejoin,
            operator,
        } => Kind::ForcePromote(ForcePromote {
            volume: put(*volume),
            expected: Some(expected.into()),
            chosen: Some(WireMember::put(*replica, *incarnation)),
            may_rejoin: may_rejoin.iter().map(|replica| put(*replica)).collect(),
            operator: operator.clone(),
        }),
        _ => return None,
    })
}

fn replica_kind(command: &Command) -> Option<Kind> {
    Some(match command {
        Command::ReplicaReady {
            volume,
            replica,
            incarnation,
        } => Kind::ReplicaReady(of_replica(*volume, *replica, *incarnation)),
        Command::ReplicaGone {
            volume,
            replica,
            incarnation,
        } => Kind::ReplicaGone(of_replica(*volume, *replica, *incarnation)),
        Command::KeepReplica { volume, replica } => {
            Kind::KeepReplica(of_replica(*volume, *replica, Incarnation::ZERO))
        }
        Command::DiscardSealed {
            volume,
            replica,
            operator,
        } => {
            let of = of_replica(*volume, *replica, Incarnation::ZERO);
            Kind::DiscardSealed(OfReplica {
                operator: operator.clone(),
                ..of
            })
        }
        Command::RemoveReplica {
            volume,
            replica,
            even_below_policy,
        } => {
            let of = of_replica(*volume, *replica, Incarnation::ZERO);
            Kind::RemoveReplica(OfReplica {
                flag: *even_below_policy,
                ..of
            })
        }
        Command::Reincarnate {
            volume,
            replica,
            from,
            to,
        } => Kind::Reincarnate(OfReplica {
            to: to.0,
            ..of_replica(*volume, *replica, *from)
        }),
        Command::AddReplica { volume, replica } => Kind::AddReplica(Join {
            volume: put(*volume),
            replica: Some(replica.into()),
            from: Vec::new(),
        }),
        Command::MoveReplica { volume, from, to } => Kind::MoveReplica(Join {
            volume: put(*volume),
            replica: Some(to.into()),
            from: put(*from),
        }),
        _ => return None,
    })
}

fn of_primary(volume: VolumeId, expected: &Expected, node: Vec<u8>, flag: bool) -> OfPrimary {
    OfPrimary {
        volume: put(volume),
        expected: Some(expected.into()),
        node,
        attachment: None,
        flag,
    }
}

fn of_replica(volume: VolumeId, replica: ReplicaId, incarnation: Incarnation) -> OfReplica {
    OfReplica {
        volume: put(volume),
        replica: put(replica),
        incarnation: incarnation.0,
        to: 0,
        flag: false,
        operator: String::new(),
    }
}
