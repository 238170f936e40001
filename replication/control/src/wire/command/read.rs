//! A message as its command.

use super::super::parts::*;
use super::*;
use crate::command::Command;
use lockstep_types::{Incarnation, ReplicaId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// The command of a message.
pub(super) fn command(kind: Kind) -> Read<Command> {
    Ok(match kind {
        Kind::InitCluster(it) => Command::InitCluster {
            id: get(&it.id, "cluster")?,
            name: it.name,
            ca_certificate: it.ca_certificate,
            sealed_ca_key: it.sealed_ca_key,
        },
        Kind::PutNode(node) => Command::PutNode(node.try_into()?),
        Kind::RemoveNode(it) => Command::RemoveNode {
            node: get(&it.node, "node")?,
        },
        Kind::CordonNode(it) => Command::CordonNode {
            node: get(&it.node, "node")?,
            cordoned: it.flag,
        },
        Kind::PutPool(pool) => Command::PutPool(pool.try_into()?),
        Kind::RemovePool(device) => Command::RemovePool {
            device: get(&device, "device")?,
        },
        Kind::PutToken(it) => Command::PutToken {
            id: it.id,
            secret_hash: it
                .secret_hash
                .try_into()
                .map_err(|_| DecodeError::Field("secret_hash"))?,
            expires_unix: it.expires_unix,
            role: get_role(it.role)?,
        },
        Kind::UseToken(it) => Command::UseToken {
            id: it.id,
            node: get(&it.node, "node")?,
        },
        Kind::RebuildGeneration(it) => Command::RebuildGeneration {
            generation: it.generation,
            barred_voters: it.barred_voters.into_iter().collect(),
            operator: it.operator,
        },
        Kind::SetClusterVersion(version) => Command::SetClusterVersion { version },
        Kind::PutVoter(it) => Command::PutVoter {
            raft_id: it.id,
            node: get(&it.node, "node")?,
        },
        Kind::RemoveVoter(raft_id) => Command::RemoveVoter { raft_id },
        Kind::SetSettings(settings) => Command::SetSettings(settings.into()),
        Kind::NoteVoters(true) => Command::NoteVoters,
        Kind::NoteVoters(false) => return Err(DecodeError::Field("voters")),
        Kind::NoteCertificate(it) => Command::NoteCertificate {
            teller: get(&it.teller, "node")?,
            fate: get_fate(it.fate)?,
            whose: it.whose,
            detail: it.detail,
        },
        other => return read_volume(other),
    })
}

fn read_volume(kind: Kind) -> Read<Command> {
    Ok(match kind {
        Kind::CreateVolume(it) => Command::CreateVolume {
            volume: get(&it.volume, "volume")?,
            name: it.name,
            blocks: it.blocks,
            lineage: get(&it.lineage, "lineage")?,
            policy: need(it.policy, "policy")?.try_into()?,
            replicas: it
                .replicas
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Read<_>>()?,
        },
        Kind::DeleteVolume(volume) => Command::DeleteVolume {
            volume: get(&volume, "volume")?,
        },
        Kind::ResizeVolume(it) => Command::ResizeVolume {
            volume: get(&it.volume, "volume")?,
            blocks: it.blocks,
        },
        Kind::Attach(it) => Command::Attach {
            volume: get(&it.volume, "volume")?,
            attachment: need(it.attachment, "attachment")?.try_into()?,
        },
        Kind::Detach(it) => Command::Detach {
            volume: get(&it.volume, "volume")?,
            attachment: get(&it.id, "attachment")?,
            device_gone: it.device_gone,
        },
        Kind::DeviceGone(it) => Command::DeviceGone {
            volume: get(&it.volume, "volume")?,
            attachment: get(&it.id, "attachment")?,
        },
        Kind::SetPolicy(it) => Command::SetPolicy {
            volume: get(&it.volume, "volume")?,
            policy: need(it.policy, "policy")?.try_into()?,
        },
        Kind::NoteSequence(it) => Command::NoteSequence {
            volume: get(&it.volume, "volume")?,
            bound: get_bound(it.bound)?,
            stamp: need(it.stamp, "stamp")?.into(),
        },
        other => return read_membership(other),
    })
}

fn read_membership(kind: Kind) -> Read<Command> {
    Ok(match kind {
        Kind::Promote(it) => Command::Promote {
            volume: get(&it.volume, "volume")?,
            expected: need(it.expected, "expected")?.into(),
            node: get(&it.node, "node")?,
            attachment: it.attachment.map(|id| get(&id, "attachment")).transpose()?,
            primary_silent: it.flag,
        },
        Kind::StepDown(it) => Command::StepDown {
            volume: get(&it.volume, "volume")?,
            expected: need(it.expected, "expected")?.into(),
            node: get(&it.node, "node")?,
        },
        Kind::SetRepairOnly(it) => Command::SetRepairOnly {
            volume: get(&it.volume, "volume")?,
            expected: need(it.expected, "expected")?.into(),
            node: get(&it.node, "node")?,
            repair_only: it.flag,
        },
        Kind::ChangeInSync(it) => {
            let primary = need(it.primary, "primary")?;
            Command::ChangeInSync {
                volume: get(&primary.volume, "volume")?,
                expected: need(primary.expected, "expected")?.into(),
                node: get(&primary.node, "node")?,
                remove: replicas(&it.remove)?,
                add: it
                    .add
                    .iter()
                    .map(WireMember::get)
                    .collect::<Read<BTreeMap<_, _>>>()?,
                reason: it.reason,
            }
        }
        Kind::ForcePromote(it) => {
            let (replica, incarnation) = need(it.chosen, "chosen")?.get()?;
            Command::ForcePromote {
                volume: get(&it.volume, "volume")?,
                expected: need(it.expected, "expected")?.into(),
                replica,
                incarnation,
                may_rejoin: replicas(&it.may_rejoin)?,
                operator: it.operator,
            }
        }
        other => return read_replica(other),
    })
}

fn read_replica(kind: Kind) -> Read<Command> {
    let of = |it: &OfReplica| -> Read<(VolumeId, ReplicaId, Incarnation)> {
        Ok((
            get(&it.volume, "volume")?,
            get(&it.replica, "replica")?,
            Incarnation(it.incarnation),
        ))
    };
    Ok(match kind {
        Kind::ReplicaReady(it) => {
            let (volume, replica, incarnation) = of(&it)?;
            Command::ReplicaReady {
                volume,
                replica,
                incarnation,
            }
        }
        Kind::ReplicaGone(it) => {
            let (volume, replica, incarnation) = of(&it)?;
            Command::ReplicaGone {
                volume,
                replica,
                incarnation,
            }
        }
        Kind::KeepReplica(it) => {
            let (volume, replica, _) = of(&it)?;
            Command::KeepReplica { volume, replica }
        }
        Kind::DiscardSealed(it) => {
            let (volume, replica, _) = of(&it)?;
            Command::DiscardSealed {
                volume,
                replica,
                operator: it.operator,
            }
        }
        Kind::RemoveReplica(it) => {
            let (volume, replica, _) = of(&it)?;
            Command::RemoveReplica {
                volume,
                replica,
                even_below_policy: it.flag,
            }
        }
        Kind::Reincarnate(it) => {
            let (volume, replica, from) = of(&it)?;
            Command::Reincarnate {
                volume,
                replica,
                from,
                to: Incarnation(it.to),
            }
        }
        Kind::AddReplica(it) => Command::AddReplica {
            volume: get(&it.volume, "volume")?,
            replica: need(it.replica, "replica")?.try_into()?,
        },
        Kind::MoveReplica(it) => Command::MoveReplica {
            volume: get(&it.volume, "volume")?,
            from: get(&it.from, "from")?,
            to: need(it.replica, "replica")?.try_into()?,
        },
        _ => unreachable!("the other kinds were read before"),
    })
}

fn replicas(ids: &[Vec<u8>]) -> Read<BTreeSet<ReplicaId>> {
    ids.iter().map(|id| get(id, "replica")).collect()
}
