//! The control state as messages.

use crate::proto;
use lockstep_control::{
    Event, Explanation, Interval, Policy, Rpo, Severity, State, Status, View, Volume, explain,
};
use lockstep_types::{BLOCK, EXTENT, FaultDomain, Locality, NodeId, NodeRole};

/// A volume with what one node's view says of it.
pub fn volume(state: &State, volume: &Volume, view: &View) -> proto::Volume {
    shown(state, volume, view, &explain(state, volume, view))
}

/// A volume explained.
pub fn explanation(state: &State, volume: &Volume, view: &View) -> proto::Explanation {
    let explanation = explain(state, volume, view);
    proto::Explanation {
        volume: Some(shown(state, volume, view, &explanation)),
        notes: explanation.notes,
        must_return: explanation.must_return,
        remedies: explanation.remedies,
    }
}

/// A node.
pub fn node(state: &State, node: &lockstep_control::Node, view: &View) -> proto::Node {
    let voting = |raft_id: &u64| state.voters.voting.contains(raft_id);
    let mut bound = state.voters.bound.iter();
    let replicas = |volume: &Volume| {
        volume
            .replicas
            .values()
            .filter(|it| it.node == node.id)
            .count()
    };
    let attached = |volume: &&Volume| {
        volume
            .membership
            .attachment
            .is_some_and(|it| it.node == node.id)
    };
    proto::Node {
        id: node.id.to_string(),
        name: node.name.clone(),
        site: node.site.clone(),
        zone: node.zone.clone(),
        rack: node.rack.clone(),
        role: role(node.role).into(),
        control_address: node.control_address.clone(),
        data_addresses: node.data_addresses.clone(),
        cordoned: node.cordoned,
        answering: view.answering.contains(&node.id),
        voter: bound.any(|(raft_id, at)| *at == node.id && voting(raft_id)),
        replicas: count(state.volumes.values().map(replicas).sum()),
        attachments: count(state.volumes.values().filter(attached).count()),
    }
}

/// A pool; `failed` is why it serves no more.
pub fn pool(state: &State, pool: &lockstep_control::Pool, failed: Option<&str>) -> proto::Pool {
    let replicas = |volume: &Volume| {
        volume
            .replicas
            .values()
            .filter(|it| it.device == pool.device)
            .count()
    };
    proto::Pool {
        id: pool.device.to_string(),
        name: pool.name.clone(),
        node: state.node_name(pool.node),
        bytes: bytes_of_extents(pool.extents),
        bytes_free: bytes_of_extents(pool.free_extents),
        bytes_promised: bytes_of_extents(state.promised(pool.device)),
        replicas: count(state.volumes.values().map(replicas).sum()),
        failed: failed.unwrap_or_default().to_owned(),
        places: pool.places,
        bytes_room: Some(bytes_of_extents(state.room(pool.device))),
    }
}

/// The sites, by name.
pub fn sites(state: &State, view: &View) -> Vec<proto::Site> {
    let names: std::collections::BTreeSet<_> = state
        .nodes
        .values()
        .map(|node| node.site.as_str())
        .collect();
    names
        .into_iter()
        .map(|name| site(state, name, view))
        .collect()
}

/// An event.
pub fn event(state: &State, event: &Event) -> proto::Event {
    let volume = |id| {
        state
            .volumes
            .get(&id)
            .map_or_else(|| id.to_string(), |volume| volume.name.clone())
    };
    proto::Event {
        index: event.index,
        at_unix_ms: event.at_unix_ms,
        severity: match event.severity {
            Severity::Info => proto::Severity::Info,
            Severity::Warning => proto::Severity::Warning,
            Severity::Forced => proto::Severity::Forced,
        }
        .into(),
        volume: event.volume.map(volume).unwrap_or_default(),
        node: event.node.map(|id| state.node_name(id)).unwrap_or_default(),
        text: event.text.clone(),
    }
}

/// The ledger, of all volumes or one.
pub fn ledger(state: &State, of: Option<lockstep_types::VolumeId>) -> proto::LedgerReply {
    let wanted = state
        .ledger
        .iter()
        .filter(|interval| of.is_none_or(|id| interval.volume == id));
    proto::LedgerReply {
        intervals: wanted.map(interval).collect(),
        forgotten: state.ledger.forgotten(),
    }
}

/// A policy.
pub fn policy(policy: &Policy) -> proto::Policy {
    proto::Policy {
        copies: Some(policy.copies.to_string()),
        fault_domain: match policy.fault_domain {
            FaultDomain::Site => proto::FaultDomain::Site,
            FaultDomain::Zone => proto::FaultDomain::Zone,
            FaultDomain::Rack => proto::FaultDomain::Rack,
            FaultDomain::Node => proto::FaultDomain::Node,
        }
        .into(),
        preferred_site: policy.preferred_site.clone(),
        rpo: match policy.rpo {
            Rpo::Strict => proto::Rpo::Strict,
            Rpo::WitnessedDegrade => proto::Rpo::WitnessedDegrade,
        }
        .into(),
        locality: match policy.locality {
            Locality::Prefer => proto::Locality::Prefer,
            Locality::Require => proto::Locality::Require,
            Locality::None => proto::Locality::None,
        }
        .into(),
    }
}

/// A status.
pub const fn status(status: Status) -> proto::VolumeStatus {
    match status {
        Status::Distrusted => proto::VolumeStatus::Distrusted,
        Status::Suspended => proto::VolumeStatus::Suspended,
        Status::RepairOnly => proto::VolumeStatus::RepairOnly,
        Status::Degraded => proto::VolumeStatus::Degraded,
        Status::Creating => proto::VolumeStatus::Creating,
        Status::Deleting => proto::VolumeStatus::Deleting,
        Status::Healthy => proto::VolumeStatus::Healthy,
    }
}

fn shown(state: &State, volume: &Volume, view: &View, explanation: &Explanation) -> proto::Volume {
    let membership = &volume.membership;
    let attachment = |id: lockstep_types::AttachmentId, node: NodeId| proto::Attachment {
        id: id.to_string(),
        node: state.node_name(node),
    };
    proto::Volume {
        id: volume.id.to_string(),
        name: volume.name.clone(),
        bytes: volume.blocks * BLOCK as u64,
        policy: Some(policy(&volume.policy)),
        status: status(explanation.status).into(),
        headline: explanation.headline.clone(),
        epoch: membership.epoch.to_string(),
        version: membership.version,
        primary: membership
            .primary
            .map(|id| state.node_name(id))
            .unwrap_or_default(),
        caretaker: membership.caretaker,
        attachment: membership.attachment.map(|it| attachment(it.id, it.node)),
        replicas: explanation
            .replicas
            .iter()
            .map(|line| replica(state, volume, view, line))
            .collect(),
        fenced: volume
            .fenced
            .iter()
            .map(|(id, node)| attachment(*id, *node))
            .collect(),
    }
}

fn replica(
    state: &State,
    volume: &Volume,
    view: &View,
    line: &lockstep_control::ReplicaLine,
) -> proto::Replica {
    let held = &volume.replicas[&line.replica];
    let progress = view
        .replicas
        .get(&line.replica)
        .and_then(|report| report.resync);
    proto::Replica {
        id: line.replica.to_string(),
        node: line.node.clone(),
        pool: state
            .pools
            .get(&held.device)
            .map_or_else(|| held.device.to_string(), |pool| pool.name.clone()),
        site: line.site.clone(),
        incarnation: held.incarnation.0,
        certified: line.certified,
        able: line.able,
        leaving: held.leaving,
        sealed_off: held.sealed_off,
        text: line.text.clone(),
        resync: progress.map(|progress| proto::Resync {
            extents_done: progress.done,
            extents: progress.total,
            bytes_copied: progress.bytes,
        }),
    }
}

fn site(state: &State, name: &str, view: &View) -> proto::Site {
    let here = |node: NodeId| state.nodes.get(&node).is_some_and(|node| node.site == name);
    let nodes: Vec<_> = state
        .nodes
        .values()
        .filter(|node| node.site == name)
        .collect();
    let data = nodes.iter().filter(|node| node.role == NodeRole::Data);
    let pools: Vec<_> = state
        .pools
        .values()
        .filter(|pool| here(pool.node))
        .collect();
    let voters = state
        .voters
        .voting
        .iter()
        .filter_map(|id| state.voters.bound.get(id));
    proto::Site {
        name: name.to_owned(),
        nodes: count(data.clone().count()),
        nodes_answering: count(
            data.filter(|node| view.answering.contains(&node.id))
                .count(),
        ),
        witnesses: count(
            nodes
                .iter()
                .filter(|node| node.role == NodeRole::Witness)
                .count(),
        ),
        voters: count(voters.filter(|node| here(**node)).count()),
        bytes: bytes_of_extents(pools.iter().map(|pool| pool.extents).sum()),
        bytes_free: bytes_of_extents(pools.iter().map(|pool| pool.free_extents).sum()),
        voterless: state.voters.voterless_sites.contains(name),
    }
}

fn interval(interval: &Interval) -> proto::Interval {
    let stamp =
        |stamp: Option<lockstep_types::Stamp>| stamp.map(|it| it.to_string()).unwrap_or_default();
    proto::Interval {
        volume: interval.volume.to_string(),
        name: interval.name.clone(),
        site: interval.site.clone(),
        begin_unix_ms: interval.begin_unix_ms,
        end_unix_ms: interval.end_unix_ms,
        begin: stamp(interval.begin),
        end: stamp(interval.end),
    }
}

const fn role(role: NodeRole) -> proto::Role {
    match role {
        NodeRole::Data => proto::Role::Data,
        NodeRole::Witness => proto::Role::Witness,
    }
}

const fn bytes_of_extents(extents: u64) -> u64 {
    extents.saturating_mul(EXTENT as u64)
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
