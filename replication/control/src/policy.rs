//! What a volume was promised, and whether a set of copies keeps it. Free functions over a lookup of
//! nodes, so that a data plane that follows [`crate::Change`]s can ask the same questions.

use crate::command::Node;
use crate::record::{Policy, Rpo, Volume};
use lockstep_placement::{Choice, Grammar, spreads_over};
use lockstep_types::{FaultDomain, NodeId, NodeRole, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// The nodes of the cluster.
pub type Nodes = BTreeMap<NodeId, Node>;

/// What nodes share at one level: site, zone, rack, node; empty beyond the level.
type Domain<'a> = (&'a str, &'a str, &'a str, NodeId);

/// The domain of a node at a level.
pub fn domain(node: &Node, level: FaultDomain) -> Domain<'_> {
    let (site, zone, rack) = (node.site.as_str(), node.zone.as_str(), node.rack.as_str());
    match level {
        FaultDomain::Site => (site, "", "", NodeId::NONE),
        FaultDomain::Zone => (site, zone, "", NodeId::NONE),
        FaultDomain::Rack => (site, zone, rack, NodeId::NONE),
        FaultDomain::Node => (site, zone, rack, node.id),
    }
}

/// The sites of these replicas.
pub fn sites_of<'a, 'b>(
    volume: &Volume,
    nodes: &'a Nodes,
    replicas: impl IntoIterator<Item = &'b ReplicaId>,
) -> BTreeSet<&'a str> {
    replicas
        .into_iter()
        .filter_map(|id| node_of(volume, nodes, *id))
        .map(|node| node.site.as_str())
        .collect()
}

/// Whether these replicas are all that the policy asks for: enough of them, apart at its fault
/// domain, in the sites it names.
pub fn holds(
    policy: &Policy,
    volume: &Volume,
    nodes: &Nodes,
    replicas: &BTreeSet<ReplicaId>,
) -> bool {
    let held: Vec<_> = replicas
        .iter()
        .filter_map(|id| node_of(volume, nodes, *id))
        .collect();
    let apart = |site: Option<&str>| {
        let there = held
            .iter()
            .filter(|node| site.is_none_or(|site| node.site == site));
        there
            .map(|node| domain(node, policy.fault_domain))
            .collect::<BTreeSet<_>>()
            .len() as u32
    };
    match &policy.copies {
        Grammar::Count(n) => apart(None) >= *n,
        Grammar::Sites(wanted) => wanted.iter().all(|(site, n)| apart(Some(site)) >= *n),
        Grammar::EachSite(n) => data_sites(nodes).iter().all(|site| apart(Some(site)) >= *n),
    }
}

/// Whether the certified copies that stay are enough without this one: then its primary may let it
/// go, and a tombstone follows.
pub fn holds_without(volume: &Volume, nodes: &Nodes, replica: ReplicaId) -> bool {
    let others =
        volume.membership.in_sync.keys().filter(|id| {
            **id != replica && volume.replicas.get(id).is_some_and(|held| !held.leaving)
        });
    holds(&volume.policy, volume, nodes, &others.copied().collect())
}

/// The sites in which `strict` keeps at least one certified copy: those the grammar names, or, where
/// it only counts, those in which copies stand. One that is to go stands until it may (decision 0008).
/// None if the volume is not `strict`.
pub fn kept_sites(volume: &Volume, nodes: &Nodes) -> BTreeSet<String> {
    if volume.policy.rpo != Rpo::Strict {
        return BTreeSet::new();
    }
    match &volume.policy.copies {
        Grammar::Sites(wanted) => wanted.keys().cloned().collect(),
        Grammar::EachSite(_) => data_sites(nodes).into_iter().map(str::to_owned).collect(),
        Grammar::Count(_) => standing_sites(volume, nodes)
            .into_iter()
            .map(str::to_owned)
            .collect(),
    }
}

/// The site that `strict` forbids to empty: to be kept, held by `before`, not by `after`.
pub fn emptied_site(
    volume: &Volume,
    nodes: &Nodes,
    before: &BTreeSet<ReplicaId>,
    after: &BTreeSet<ReplicaId>,
) -> Option<String> {
    let (had, has) = (
        sites_of(volume, nodes, before),
        sites_of(volume, nodes, after),
    );
    kept_sites(volume, nodes)
        .into_iter()
        .find(|site| had.contains(site.as_str()) && !has.contains(site.as_str()))
}

/// The one site of all certified copies, if the volume was promised two.
pub fn exposed_site<'a>(volume: &Volume, nodes: &'a Nodes) -> Option<&'a str> {
    let held = standing_sites(volume, nodes).len();
    if !spreads_over(&volume.policy.copies, data_sites(nodes).len(), held) {
        return None;
    }
    let sites = sites_of(volume, nodes, volume.membership.in_sync.keys());
    match sites.len() {
        1 => sites.into_iter().next(),
        _ => None,
    }
}

/// Copies that are to stay, as placement sees them.
pub(crate) fn staying(volume: &Volume) -> Vec<Choice> {
    let staying = volume
        .replicas
        .values()
        .filter(|replica| !replica.leaving && !replica.sealed_off);
    staying
        .map(|replica| Choice {
            node: replica.node,
            device: replica.device,
        })
        .collect()
}

fn standing_sites<'a>(volume: &Volume, nodes: &'a Nodes) -> BTreeSet<&'a str> {
    let standing = volume.replicas.iter().filter(|(id, replica)| {
        let may_go = || replica.even_below_policy || holds_without(volume, nodes, **id);
        !(replica.sealed_off || (replica.leaving && may_go()))
    });
    standing
        .filter_map(|(_, replica)| nodes.get(&replica.node))
        .map(|node| node.site.as_str())
        .collect()
}

fn data_sites(nodes: &Nodes) -> BTreeSet<&str> {
    nodes
        .values()
        .filter(|node| node.role == NodeRole::Data)
        .map(|node| node.site.as_str())
        .collect()
}

fn node_of<'a>(volume: &Volume, nodes: &'a Nodes, replica: ReplicaId) -> Option<&'a Node> {
    nodes.get(&volume.replicas.get(&replica)?.node)
}
