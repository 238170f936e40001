//! Where nodes are, as Kubernetes says it; and where a volume can be reached: from every site that holds
//! data. Never where its copies are, because a PersistentVolume's affinity cannot follow a rebalance.

use std::collections::{BTreeSet, HashMap};

use lockstep_api::proto::{Node, Role};
use tonic::Status;

use crate::proto::{Topology, TopologyRequirement};

const SITE: &str = "topology.lockstep.dev/site";
const ZONE: &str = "topology.lockstep.dev/zone";
const RACK: &str = "topology.lockstep.dev/rack";
const NODE: &str = "topology.lockstep.dev/node";

/// What kubelet puts on this node.
pub fn of_node(node: &Node) -> Topology {
    let all = [
        (SITE, &node.site),
        (ZONE, &node.zone),
        (RACK, &node.rack),
        (NODE, &node.name),
    ];
    let said = all.into_iter().filter(|(_, value)| !value.is_empty());
    Topology {
        segments: said
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect(),
    }
}

/// From where every volume can be reached.
pub fn reachable(nodes: &[Node]) -> Vec<Topology> {
    let sites: BTreeSet<&str> = data_nodes(nodes).map(|node| node.site.as_str()).collect();
    let topology = |site: &str| Topology {
        segments: HashMap::from([(SITE.to_owned(), site.to_owned())]),
    };
    sites.into_iter().map(topology).collect()
}

/// The node that a new volume is to be near, if the requirement names one: the scheduler has chosen it.
///
/// # Errors
/// RESOURCE_EXHAUSTED if no node of this cluster satisfies the requirement: another node may.
pub fn local_node(
    requirement: Option<&TopologyRequirement>,
    nodes: &[Node],
) -> Result<Option<String>, Status> {
    let Some(requirement) = requirement else {
        return Ok(None);
    };
    let satisfied = |topology: &Topology| data_nodes(nodes).any(|node| is_in(node, topology));
    if !requirement.requisite.is_empty() && !requirement.requisite.iter().any(satisfied) {
        return Err(nowhere(&requirement.requisite));
    }
    let all = requirement.preferred.iter().chain(&requirement.requisite);
    let named = all.filter_map(|topology| topology.segments.get(NODE));
    let named = named.into_iter().next();
    Ok(named
        .filter(|name| data_nodes(nodes).any(|node| node.name == **name))
        .cloned())
}

/// Whether a segment is part of this cluster.
pub fn exists(topology: &Topology, nodes: &[Node]) -> bool {
    data_nodes(nodes).any(|node| is_in(node, topology))
}

fn data_nodes(nodes: &[Node]) -> impl Iterator<Item = &Node> {
    nodes.iter().filter(|node| node.role() == Role::Data)
}

fn is_in(node: &Node, topology: &Topology) -> bool {
    let own = of_node(node).segments;
    topology
        .segments
        .iter()
        .all(|(key, value)| own.get(key) == Some(value))
}

fn nowhere(requisite: &[Topology]) -> Status {
    let mut all: Vec<String> = requisite
        .iter()
        .flat_map(|it| {
            it.segments
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
        })
        .collect();
    all.sort();
    all.dedup();
    all.truncate(8);
    Status::resource_exhausted(format!(
        "no node with a pool is at {}; nodes are labelled from what they joined as",
        all.join(" or ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, site: &str, role: Role) -> Node {
        Node {
            name: name.into(),
            site: site.into(),
            role: role.into(),
            ..Node::default()
        }
    }

    fn cluster() -> [Node; 4] {
        [
            node("a1", "a", Role::Data),
            node("a2", "a", Role::Data),
            node("b1", "b", Role::Data),
            node("w", "w", Role::Witness),
        ]
    }

    fn at(pairs: &[(&str, &str)]) -> Topology {
        let owned = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        Topology {
            segments: owned.collect(),
        }
    }

    #[test]
    fn volumes_are_reached_from_data_sites() {
        assert_eq!(
            reachable(&cluster()),
            [at(&[(SITE, "a")]), at(&[(SITE, "b")])]
        );
        assert_eq!(of_node(&cluster()[0]), at(&[(SITE, "a"), (NODE, "a1")]));
    }

    #[test]
    fn the_scheduler_s_node_is_the_local_one() {
        let requirement = TopologyRequirement {
            requisite: vec![
                at(&[(NODE, "b1"), (SITE, "b")]),
                at(&[(NODE, "a1"), (SITE, "a")]),
            ],
            preferred: vec![at(&[(NODE, "a1"), (SITE, "a")])],
        };
        let chosen = local_node(Some(&requirement), &cluster()).expect("satisfied");
        assert_eq!(chosen.as_deref(), Some("a1"));
        assert_eq!(local_node(None, &cluster()).expect("any"), None);
        let elsewhere = TopologyRequirement {
            requisite: vec![at(&[(SITE, "w")]), at(&[("zone", "a")])],
            preferred: vec![],
        };
        let refused = local_node(Some(&elsewhere), &cluster()).expect_err("nowhere");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    }
}
