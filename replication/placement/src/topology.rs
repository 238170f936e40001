//! What there is to place copies on.

use lockstep_types::{DeviceId, FaultDomain, NodeId, NodeRole};
use std::collections::BTreeSet;

/// The nodes of a cluster with their pools, at one moment. The order of hosts and pools is of no
/// consequence.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Topology {
    /// The nodes.
    pub hosts: Vec<Host>,
}

/// A node as placement sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Host {
    /// Its id; breaks ties.
    pub id: NodeId,
    /// Its label.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Its zone inside the site; empty if the site has none.
    pub zone: String,
    /// Its rack inside the zone; empty if the zone has none.
    pub rack: String,
    /// Witnesses are given nothing.
    pub role: NodeRole,
    /// Whether it may be given something now.
    pub fitness: Fitness,
    /// Its pools.
    pub pools: Vec<Space>,
}

/// Whether a node may be given a copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fitness {
    /// Yes.
    Usable,
    /// An operator keeps new things away.
    Cordoned,
    /// It does not answer.
    Down,
}

/// Room on one pool.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Space {
    /// The pool.
    pub device: DeviceId,
    /// Its label.
    pub name: String,
    /// Extents that may still be promised.
    pub free_extents: u64,
    /// Whether it can hold one more replica, however small.
    pub has_place: bool,
}

/// What a node shares at one level: the labels from the site down to it. An absent label is shared
/// by all nodes without one, which errs on the safe side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Domain<'a> {
    labels: [&'a str; 3],
    node: NodeId,
}

impl Host {
    /// The domain of this node at a level.
    pub fn domain(&self, level: FaultDomain) -> Domain<'_> {
        let depth = depth(level);
        let all = [self.site.as_str(), self.zone.as_str(), self.rack.as_str()];
        let mut labels = [""; 3];
        labels[..depth.min(3)].copy_from_slice(&all[..depth.min(3)]);
        let node = if depth > 3 { self.id } else { NodeId::NONE };
        Domain { labels, node }
    }

    /// Whether it ever holds data.
    pub fn holds_data(&self) -> bool {
        self.role == NodeRole::Data
    }
}

impl Topology {
    /// The sites that have a data node, whether it answers or not.
    pub fn data_sites(&self) -> BTreeSet<String> {
        self.hosts
            .iter()
            .filter(|host| host.holds_data())
            .map(|host| host.site.clone())
            .collect()
    }

    /// A node by its id.
    pub fn host(&self, id: NodeId) -> Option<&Host> {
        self.hosts.iter().find(|host| host.id == id)
    }
}

/// Labels that make up the level's name: 1 for a site, 4 for a node.
const fn depth(level: FaultDomain) -> usize {
    match level {
        FaultDomain::Site => 1,
        FaultDomain::Zone => 2,
        FaultDomain::Rack => 3,
        FaultDomain::Node => 4,
    }
}
