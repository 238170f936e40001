//! The whole state.

use super::history::*;
use super::parts::*;
use super::{DecodeError, FORMAT, check_envelope};
use crate::event::Events;
use crate::record::{Membership, Replica, Volume};
use crate::state::{Cluster, State, Token, Tombstone, Voters};
use lockstep_types::{Epoch, Incarnation, MAX_VOLUME_BLOCKS, NodeId, ReplicaId};
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Snapshot {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint32, tag = "2")]
    version: u32,
    #[prost(uint64, tag = "3")]
    applied: u64,
    #[prost(uint32, tag = "10")]
    generation: u32,
    #[prost(message, optional, tag = "11")]
    cluster: Option<WireCluster>,
    #[prost(message, optional, tag = "12")]
    settings: Option<WireSettings>,
    #[prost(message, repeated, tag = "13")]
    nodes: Vec<WireNode>,
    #[prost(message, repeated, tag = "14")]
    pools: Vec<WirePool>,
    #[prost(message, repeated, tag = "15")]
    volumes: Vec<WireVolume>,
    #[prost(message, repeated, tag = "16")]
    tombstones: Vec<WireTombstone>,
    #[prost(message, repeated, tag = "17")]
    tokens: Vec<WireToken>,
    #[prost(message, optional, tag = "18")]
    voters: Option<WireVoters>,
    #[prost(message, repeated, tag = "19")]
    intervals: Vec<WireInterval>,
    #[prost(uint64, tag = "20")]
    intervals_forgotten: u64,
    #[prost(message, repeated, tag = "21")]
    events: Vec<WireEvent>,
    #[prost(uint64, tag = "22")]
    events_forgotten: u64,
    #[prost(message, repeated, tag = "23")]
    audit: Vec<WireEvent>,
    #[prost(uint64, tag = "24")]
    audit_forgotten: u64,
    /// 16 bytes each, oldest first.
    #[prost(bytes = "vec", tag = "25")]
    retired: Vec<u8>,
    #[prost(uint64, tag = "26")]
    rebuilt_unix_ms: u64,
    #[prost(bytes = "vec", repeated, tag = "27")]
    removed: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireCluster {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    ca_certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    sealed_ca_key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireVolume {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint64, tag = "3")]
    blocks: u64,
    #[prost(bytes = "vec", tag = "4")]
    lineage: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    policy: Option<WirePolicy>,
    #[prost(message, repeated, tag = "6")]
    replicas: Vec<WireReplica>,
    #[prost(uint64, tag = "7")]
    epoch: u64,
    #[prost(uint64, tag = "8")]
    record_version: u64,
    #[prost(bytes = "vec", optional, tag = "9")]
    primary: Option<Vec<u8>>,
    #[prost(bool, tag = "10")]
    caretaker: bool,
    #[prost(message, optional, tag = "11")]
    attachment: Option<WireAttachment>,
    #[prost(message, repeated, tag = "12")]
    in_sync: Vec<WireMember>,
    #[prost(bool, tag = "13")]
    repair_only: bool,
    #[prost(bool, tag = "14")]
    distrusted: bool,
    #[prost(message, repeated, tag = "15")]
    fenced: Vec<WireAttachment>,
    #[prost(bool, tag = "16")]
    deleting: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireReplica {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    node: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    device: Vec<u8>,
    #[prost(uint64, tag = "4")]
    incarnation: u64,
    #[prost(bool, tag = "5")]
    ready: bool,
    #[prost(bool, tag = "6")]
    leaving: bool,
    #[prost(bool, tag = "7")]
    even_below_policy: bool,
    #[prost(bool, tag = "8")]
    sealed_off: bool,
    #[prost(uint64, optional, tag = "9")]
    left_unix_ms: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireTombstone {
    #[prost(bytes = "vec", tag = "1")]
    volume: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    replica: Vec<u8>,
    #[prost(uint64, tag = "3")]
    incarnation: u64,
    #[prost(bytes = "vec", tag = "4")]
    node: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    device: Vec<u8>,
    #[prost(uint64, tag = "6")]
    extents: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireToken {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bytes = "vec", tag = "2")]
    secret_hash: Vec<u8>,
    #[prost(uint64, tag = "3")]
    expires_unix: u64,
    #[prost(uint32, tag = "4")]
    role: u32,
    #[prost(bytes = "vec", optional, tag = "5")]
    used_by: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireVoters {
    #[prost(message, repeated, tag = "1")]
    bound: Vec<WireVoter>,
    #[prost(uint64, repeated, tag = "2")]
    voting: Vec<u64>,
    #[prost(uint64, repeated, tag = "3")]
    barred: Vec<u64>,
    #[prost(string, repeated, tag = "4")]
    voterless_sites: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    told: Vec<WireVoter>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireVoter {
    #[prost(uint64, tag = "1")]
    raft_id: u64,
    #[prost(bytes = "vec", tag = "2")]
    node: Vec<u8>,
}

impl From<&State> for Snapshot {
    fn from(state: &State) -> Self {
        Self {
            format: FORMAT,
            version: state.version,
            applied: state.applied,
            generation: state.generation,
            rebuilt_unix_ms: state.rebuilt_unix_ms,
            cluster: state.cluster.as_ref().map(|cluster| WireCluster {
                id: put(cluster.id),
                name: cluster.name.clone(),
                ca_certificate: cluster.ca_certificate.clone(),
                sealed_ca_key: cluster.sealed_ca_key.clone(),
            }),
            settings: Some((&state.settings).into()),
            nodes: state.nodes.values().map(Into::into).collect(),
            pools: state.pools.values().map(Into::into).collect(),
            volumes: state.volumes.values().map(Into::into).collect(),
            tombstones: state.tombstones.values().map(Into::into).collect(),
            tokens: state.tokens.iter().map(put_token).collect(),
            voters: Some((&state.voters).into()),
            intervals: state.ledger.iter().map(Into::into).collect(),
            intervals_forgotten: state.ledger.forgotten,
            events: state.events.ring.iter().map(Into::into).collect(),
            events_forgotten: state.events.forgotten,
            audit: state.audit.ring.iter().map(Into::into).collect(),
            audit_forgotten: state.audit.forgotten,
            retired: state
                .retired
                .0
                .iter()
                .flat_map(|id| id.to_le_bytes())
                .collect(),
            removed: state.removed.iter().map(|node| put(*node)).collect(),
        }
    }
}

impl TryFrom<Snapshot> for State {
    type Error = DecodeError;

    fn try_from(wire: Snapshot) -> Read<Self> {
        check_envelope(wire.format, wire.version)?;
        let mut state = Self::new();
        state.version = wire.version;
        state.applied = wire.applied;
        state.generation = wire.generation;
        state.rebuilt_unix_ms = wire.rebuilt_unix_ms;
        state.settings = need(wire.settings, "settings")?.into();
        if let Some(cluster) = wire.cluster {
            state.cluster = Some(Cluster {
                id: get(&cluster.id, "cluster")?,
                name: cluster.name,
                ca_certificate: cluster.ca_certificate,
                sealed_ca_key: cluster.sealed_ca_key,
            });
        }
        for node in wire.nodes {
            let node = crate::Node::try_from(node)?;
            state.nodes.insert(node.id, node);
        }
        for pool in wire.pools {
            let pool = crate::Pool::try_from(pool)?;
            state.pools.insert(pool.device, pool);
        }
        for volume in wire.volumes {
            let volume = Volume::try_from(volume)?;
            state.volumes.insert(volume.id, volume);
        }
        for tombstone in wire.tombstones {
            let tombstone = Tombstone::try_from(tombstone)?;
            state.tombstones.insert(tombstone.replica, tombstone);
        }
        state.tokens = wire
            .tokens
            .into_iter()
            .map(get_token)
            .collect::<Read<_>>()?;
        state.voters = need(wire.voters, "voters")?.try_into()?;
        state.ledger = get_ledger(wire.intervals, wire.intervals_forgotten)?;
        state.events = get_events(Events::recent(), wire.events, wire.events_forgotten)?;
        state.audit = get_events(Events::audit(), wire.audit, wire.audit_forgotten)?;
        state.retired = get_retired(&wire.retired)?;
        let removed = wire.removed.iter().map(|node| get(node, "node"));
        state.removed = removed.collect::<Read<_>>()?;
        check_whole(&state)?;
        Ok(state)
    }
}

/// What tables say of one another, so that no later step meets a state that no command makes.
fn check_whole(state: &State) -> Read<()> {
    if state.generation >= 1 << 24 {
        return Err(DecodeError::Field("generation"));
    }
    if state
        .pools
        .values()
        .any(|pool| !state.nodes.contains_key(&pool.node))
    {
        return Err(DecodeError::Field("pool of an unknown node"));
    }
    for volume in state.volumes.values() {
        let homeless = |replica: &Replica| !state.nodes.contains_key(&replica.node);
        if volume.replicas.values().any(homeless) {
            return Err(DecodeError::Field("replica on an unknown node"));
        }
        if volume.membership.epoch.generation() > state.generation {
            return Err(DecodeError::Field("epoch"));
        }
    }
    Ok(())
}

impl From<&Volume> for WireVolume {
    fn from(volume: &Volume) -> Self {
        let membership = &volume.membership;
        Self {
            id: put(volume.id),
            name: volume.name.clone(),
            blocks: volume.blocks,
            lineage: put(volume.lineage),
            policy: Some((&volume.policy).into()),
            replicas: volume.replicas.iter().map(put_replica).collect(),
            epoch: membership.epoch.0,
            record_version: membership.version,
            primary: membership.primary.map(put),
            caretaker: membership.caretaker,
            attachment: membership.attachment.as_ref().map(Into::into),
            in_sync: membership
                .in_sync
                .iter()
                .map(|(id, life)| WireMember::put(*id, *life))
                .collect(),
            repair_only: membership.repair_only,
            distrusted: membership.distrusted,
            fenced: volume
                .fenced
                .iter()
                .map(|(id, node)| {
                    (&crate::Attachment {
                        id: *id,
                        node: *node,
                    })
                        .into()
                })
                .collect(),
            deleting: volume.deleting,
        }
    }
}

impl TryFrom<WireVolume> for Volume {
    type Error = DecodeError;

    fn try_from(wire: WireVolume) -> Read<Self> {
        let replicas: BTreeMap<_, _> = wire
            .replicas
            .into_iter()
            .map(get_replica)
            .collect::<Read<_>>()?;
        let membership = Membership {
            epoch: Epoch(wire.epoch),
            version: wire.record_version,
            primary: wire.primary.map(|id| get(&id, "primary")).transpose()?,
            caretaker: wire.caretaker,
            attachment: wire.attachment.map(TryInto::try_into).transpose()?,
            in_sync: wire
                .in_sync
                .iter()
                .map(WireMember::get)
                .collect::<Read<_>>()?,
            repair_only: wire.repair_only,
            distrusted: wire.distrusted,
        };
        let fenced = wire.fenced.into_iter().map(|fenced| {
            let attachment = crate::Attachment::try_from(fenced)?;
            Ok((attachment.id, attachment.node))
        });
        let volume = Self {
            id: get(&wire.id, "volume")?,
            name: wire.name,
            blocks: wire.blocks,
            lineage: get(&wire.lineage, "lineage")?,
            policy: need(wire.policy, "policy")?.try_into()?,
            replicas,
            membership,
            fenced: fenced.collect::<Read<_>>()?,
            deleting: wire.deleting,
        };
        let membership = &volume.membership;
        let members_known = membership
            .in_sync
            .keys()
            .all(|id| volume.replicas.contains_key(id));
        if volume.blocks == 0 || volume.blocks > MAX_VOLUME_BLOCKS {
            return Err(DecodeError::Field("blocks"));
        }
        if !members_known || (membership.caretaker && membership.primary.is_none()) {
            return Err(DecodeError::Field("membership"));
        }
        if volume.deleting && !volume.replicas.is_empty() {
            return Err(DecodeError::Field("deleting"));
        }
        Ok(volume)
    }
}

fn put_replica((id, replica): (&ReplicaId, &Replica)) -> WireReplica {
    WireReplica {
        id: put(*id),
        node: put(replica.node),
        device: put(replica.device),
        incarnation: replica.incarnation.0,
        ready: replica.ready,
        leaving: replica.leaving,
        even_below_policy: replica.even_below_policy,
        sealed_off: replica.sealed_off,
        left_unix_ms: replica.left_unix_ms,
    }
}

fn get_replica(wire: WireReplica) -> Read<(ReplicaId, Replica)> {
    let replica = Replica {
        node: get(&wire.node, "node")?,
        device: get(&wire.device, "device")?,
        incarnation: Incarnation(wire.incarnation),
        ready: wire.ready,
        leaving: wire.leaving,
        even_below_policy: wire.even_below_policy,
        sealed_off: wire.sealed_off,
        left_unix_ms: wire.left_unix_ms,
    };
    Ok((get(&wire.id, "replica")?, replica))
}

impl From<&Tombstone> for WireTombstone {
    fn from(tombstone: &Tombstone) -> Self {
        Self {
            volume: put(tombstone.volume),
            replica: put(tombstone.replica),
            incarnation: tombstone.incarnation.0,
            node: put(tombstone.node),
            device: put(tombstone.device),
            extents: tombstone.extents,
        }
    }
}

impl TryFrom<WireTombstone> for Tombstone {
    type Error = DecodeError;

    fn try_from(wire: WireTombstone) -> Read<Self> {
        Ok(Self {
            volume: get(&wire.volume, "volume")?,
            replica: get(&wire.replica, "replica")?,
            incarnation: Incarnation(wire.incarnation),
            node: get(&wire.node, "node")?,
            device: get(&wire.device, "device")?,
            extents: wire.extents,
        })
    }
}

fn put_token((id, token): (&u64, &Token)) -> WireToken {
    WireToken {
        id: *id,
        secret_hash: token.secret_hash.to_vec(),
        expires_unix: token.expires_unix,
        role: put_role(token.role),
        used_by: token.used_by.map(put),
    }
}

fn get_token(wire: WireToken) -> Read<(u64, Token)> {
    let token = Token {
        secret_hash: wire
            .secret_hash
            .try_into()
            .map_err(|_| DecodeError::Field("secret_hash"))?,
        expires_unix: wire.expires_unix,
        role: get_role(wire.role)?,
        used_by: wire.used_by.map(|id| get(&id, "used_by")).transpose()?,
    };
    Ok((wire.id, token))
}

impl From<&Voters> for WireVoters {
    fn from(voters: &Voters) -> Self {
        let put_all = |voters: &BTreeMap<u64, NodeId>| -> Vec<WireVoter> {
            let voters = voters.iter().map(|(raft_id, node)| WireVoter {
                raft_id: *raft_id,
                node: put(*node),
            });
            voters.collect()
        };
        Self {
            bound: put_all(&voters.bound),
            told: put_all(&voters.told),
            voting: voters.voting.iter().copied().collect(),
            barred: voters.barred.iter().copied().collect(),
            voterless_sites: voters.voterless_sites.iter().cloned().collect(),
        }
    }
}

impl TryFrom<WireVoters> for Voters {
    type Error = DecodeError;

    fn try_from(wire: WireVoters) -> Read<Self> {
        let get_all = |voters: Vec<WireVoter>| -> Read<BTreeMap<u64, NodeId>> {
            let voters = voters.into_iter();
            voters
                .map(|voter| Ok((voter.raft_id, get(&voter.node, "node")?)))
                .collect()
        };
        Ok(Self {
            bound: get_all(wire.bound)?,
            told: get_all(wire.told)?,
            voting: wire.voting.into_iter().collect(),
            barred: wire.barred.into_iter().collect(),
            voterless_sites: wire.voterless_sites.into_iter().collect(),
        })
    }
}
