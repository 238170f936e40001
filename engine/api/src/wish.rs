//! What a caller wishes, read from messages: sizes, policies, names of things.

use crate::error::{invalid, not_found};
use crate::proto;
use lockstep_control::{Policy, Rpo, State, Volume};
use lockstep_placement::{Grammar, Local};
use lockstep_types::{
    BLOCK, FaultDomain, Locality, MAX_VOLUME_BLOCKS, NodeId, NodeRole, ReplicaId,
};
use tonic::Status;

/// A size in blocks.
///
/// # Errors
/// INVALID_ARGUMENT for 0, no multiple of 4,096, or more than 1 PiB.
pub fn blocks(bytes: u64) -> Result<u64, Status> {
    let block = BLOCK as u64;
    if bytes == 0 {
        return Err(invalid(
            "a volume of 0 bytes holds nothing; give a size like 10GiB",
        ));
    }
    // First, so that the next multiple below is a number.
    if bytes / block > MAX_VOLUME_BLOCKS {
        return Err(invalid(format!(
            "{bytes} bytes are more than the largest volume, 1 PiB"
        )));
    }
    if !bytes.is_multiple_of(block) {
        let up = bytes.next_multiple_of(block);
        return Err(invalid(format!(
            "{bytes} bytes are no multiple of {block}; the next is {up}"
        )));
    }
    Ok(bytes / block)
}

/// The policy of a new volume: defaults where nothing is said.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn new_policy(wish: &proto::Policy) -> Result<Policy, Status> {
    let defaults = Policy {
        copies: Grammar::Count(2),
        fault_domain: FaultDomain::Node,
        preferred_site: None,
        rpo: Rpo::default(),
        locality: Locality::default(),
    };
    changed_policy(&defaults, wish)
}

/// A policy with the wish's fields in place of its own; what is absent stays.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn changed_policy(policy: &Policy, wish: &proto::Policy) -> Result<Policy, Status> {
    let mut policy = policy.clone();
    if let Some(copies) = &wish.copies {
        policy.copies = copies
            .parse()
            .map_err(|error: lockstep_placement::GrammarError| invalid(error.to_string()))?;
    }
    if let Some(site) = &wish.preferred_site {
        policy.preferred_site = Some(site.clone()).filter(|site| !site.is_empty());
    }
    policy.fault_domain = match known(wish.fault_domain, "fault domain")? {
        proto::FaultDomain::Unspecified => policy.fault_domain,
        proto::FaultDomain::Site => FaultDomain::Site,
        proto::FaultDomain::Zone => FaultDomain::Zone,
        proto::FaultDomain::Rack => FaultDomain::Rack,
        proto::FaultDomain::Node => FaultDomain::Node,
    };
    policy.rpo = match known(wish.rpo, "rpo")? {
        proto::Rpo::Unspecified => policy.rpo,
        proto::Rpo::Strict => Rpo::Strict,
        proto::Rpo::WitnessedDegrade => Rpo::WitnessedDegrade,
    };
    policy.locality = match known(wish.locality, "locality")? {
        proto::Locality::Unspecified => policy.locality,
        proto::Locality::Prefer => Locality::Prefer,
        proto::Locality::Require => Locality::Require,
        proto::Locality::None => Locality::None,
    };
    Ok(policy)
}

/// A role.
///
/// # Errors
/// INVALID_ARGUMENT if none is named.
pub fn role(raw: i32) -> Result<NodeRole, Status> {
    match known(raw, "role")? {
        proto::Role::Data => Ok(NodeRole::Data),
        proto::Role::Witness => Ok(NodeRole::Witness),
        proto::Role::Unspecified => Err(invalid("a role is needed: data or witness")),
    }
}

/// A volume by id or name.
///
/// # Errors
/// NOT_FOUND.
pub fn volume<'a>(state: &'a State, named: &str) -> Result<&'a Volume, Status> {
    let by_id = named.parse().ok().and_then(|id| state.volumes.get(&id));
    by_id
        .or_else(|| state.volume_named(named))
        .ok_or_else(|| not_found("volume", named))
}

/// A node by id or name.
///
/// # Errors
/// NOT_FOUND.
pub fn node<'a>(state: &'a State, named: &str) -> Result<&'a lockstep_control::Node, Status> {
    let by_id = named
        .parse()
        .ok()
        .and_then(|id: NodeId| state.nodes.get(&id));
    by_id
        .or_else(|| state.node_named(named))
        .ok_or_else(|| not_found("node", named))
}

/// Where a volume will be used, if a node is named.
///
/// # Errors
/// NOT_FOUND.
pub fn local(state: &State, named: &str, required: bool) -> Result<Option<Local>, Status> {
    if named.is_empty() {
        return Ok(None);
    }
    let node = node(state, named)?.id;
    Ok(Some(Local { node, required }))
}

/// A pool by id, or by its name and its node's.
///
/// # Errors
/// NOT_FOUND; INVALID_ARGUMENT if several nodes have one of that name and none is named.
pub fn pool<'a>(
    state: &'a State,
    node: &str,
    named: &str,
) -> Result<&'a lockstep_control::Pool, Status> {
    if let Some(pool) = named.parse().ok().and_then(|id| state.pools.get(&id)) {
        return Ok(pool);
    }
    let on = if node.is_empty() {
        None
    } else {
        Some(self::node(state, node)?.id)
    };
    let fits = |pool: &&lockstep_control::Pool| {
        pool.name == named && on.is_none_or(|node| pool.node == node)
    };
    let mut found = state.pools.values().filter(fits);
    match (found.next(), found.next()) {
        (Some(pool), None) => Ok(pool),
        (None, _) => Err(not_found("pool", named)),
        (Some(_), Some(_)) => Err(invalid(format!(
            "several nodes have a pool '{named}'; name the node, too"
        ))),
    }
}

/// A replica of a volume by id, or by the node it is on.
///
/// # Errors
/// NOT_FOUND; INVALID_ARGUMENT if the node holds two.
pub fn replica(state: &State, volume: &Volume, named: &str) -> Result<ReplicaId, Status> {
    if let Some(id) = named
        .parse()
        .ok()
        .filter(|id| volume.replicas.contains_key(id))
    {
        return Ok(id);
    }
    let node = node(state, named).map(|node| node.id);
    let mut found = volume
        .replicas
        .iter()
        .filter(|(_, held)| Ok(held.node) == node.as_ref().copied().map_err(|_| ()));
    match (found.next(), found.next()) {
        (Some((id, _)), None) => Ok(*id),
        (None, _) => Err(not_found("replica", named)),
        (Some(_), Some(_)) => Err(invalid(format!(
            "node '{named}' holds two copies of volume '{}'; give the replica's id",
            volume.name
        ))),
    }
}

/// The enum value of a field.
fn known<E: TryFrom<i32>>(raw: i32, what: &str) -> Result<E, Status> {
    E::try_from(raw).map_err(|_| invalid(format!("{raw} is no {what} that this daemon knows")))
}
