//! Nodes and their pools.

use super::{Apply, Applying, Change, Outcome, label};
use crate::Rejected;
use crate::command::{Node, Pool};
use crate::event::Severity;
use lockstep_types::{DeviceId, NodeId, NodeRole, VolumeId};

/// Data-plane threads, and so addresses, of a node at most.
const MAX_ADDRESSES: usize = 64;
/// Characters of an address at most.
const MAX_ADDRESS: usize = 255;

impl Apply<'_> {
    pub(super) fn put_node(&mut self, node: &Node) -> Applying {
        label("node name", &node.name)?;
        label("site name", &node.site)?;
        for (what, text) in [("zone name", &node.zone), ("rack name", &node.rack)] {
            if !text.is_empty() {
                label(what, text)?;
            }
        }
        check_addresses(node)?;
        let name = node.name.clone();
        if self
            .state
            .nodes
            .values()
            .any(|other| other.name == name && other.id != node.id)
        {
            return Err(Rejected::NameTaken { what: "node", name });
        }
        let mut node = node.clone();
        let known = self.state.nodes.get(&node.id);
        if let Some(known) = known {
            check_labels(known, &node)?;
            node.cordoned = known.cordoned;
            if *known == node {
                return Ok(Outcome::Unchanged);
            }
        } else {
            self.fresh(node.id.as_u128(), self.state.removed.contains(&node.id))?;
            let text = format!("node '{name}' joined site '{}'", node.site);
            self.tell(Severity::Info, None, Some(node.id), text);
        }
        self.state.nodes.insert(node.id, node.clone());
        self.changes.push(Change::Node(node));
        self.refresh_ledgers();
        Ok(Outcome::Done)
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Applying {
        let Some(node) = self.state.nodes.get(&id) else {
            return Ok(Outcome::Unchanged);
        };
        let what = format!("node '{}'", node.name);
        if let Some(by) = self.user_of(id) {
            return Err(Rejected::InUse { what, by });
        }
        let pools: Vec<_> = self
            .state
            .pools
            .values()
            .filter(|pool| pool.node == id)
            .collect();
        for device in pools
            .into_iter()
            .map(|pool| pool.device)
            .collect::<Vec<_>>()
        {
            self.forget_pool(device);
        }
        // Its devices go with it, so nothing can come back through them (R12).
        let fenced_there = |volume: &&VolumeId| {
            self.state.volumes[volume]
                .fenced
                .values()
                .any(|at| *at == id)
        };
        let fenced: Vec<_> = self
            .state
            .volumes
            .keys()
            .filter(fenced_there)
            .copied()
            .collect();
        for volume in fenced {
            let mut volume = self.state.volumes[&volume].clone();
            volume.fenced.retain(|_, at| *at != id);
            self.put_volume(volume)?;
        }
        // Its log, which only learns, is no voter's again (R20).
        let bound = self
            .state
            .voters
            .bound
            .iter()
            .filter(|(_, node)| **node == id);
        for raft_id in bound.map(|(raft_id, _)| *raft_id).collect::<Vec<_>>() {
            self.remove_voter(raft_id)?;
        }
        self.state.nodes.remove(&id);
        self.state.retired.push(id.as_u128());
        self.state.removed.insert(id);
        self.changes.push(Change::NodeGone(id));
        self.tell(
            Severity::Info,
            None,
            Some(id),
            format!("{what} was removed, its certificate is barred"),
        );
        self.refresh_ledgers();
        Ok(Outcome::Done)
    }

    pub(super) fn cordon_node(&mut self, id: NodeId, cordoned: bool) -> Applying {
        let mut node = self.state.node(id)?.clone();
        if node.cordoned == cordoned {
            return Ok(Outcome::Unchanged);
        }
        node.cordoned = cordoned;
        let text = format!(
            "node '{}' was {}",
            node.name,
            if cordoned { "cordoned" } else { "uncordoned" }
        );
        self.tell(Severity::Info, None, Some(id), text);
        self.state.nodes.insert(id, node.clone());
        self.changes.push(Change::Node(node));
        Ok(Outcome::Done)
    }

    pub(super) fn put_pool(&mut self, pool: &Pool) -> Applying {
        label("pool name", &pool.name)?;
        let node = self.state.node(pool.node)?;
        let name = node.name.clone();
        if node.role == NodeRole::Witness {
            return Err(Rejected::Witness { node: name });
        }
        if pool.extents == 0 || pool.free_extents > pool.extents {
            let why = format!("{} of {} extents free", pool.free_extents, pool.extents);
            return Err(Rejected::Bad {
                what: "pool",
                text: pool.name.clone(),
                why,
            });
        }
        let mut others = self
            .state
            .pools
            .values()
            .filter(|other| other.device != pool.device);
        if others.any(|other| other.node == pool.node && other.name == pool.name) {
            return Err(Rejected::NameTaken {
                what: "pool",
                name: pool.name.clone(),
            });
        }
        match self.state.pools.get(&pool.device) {
            Some(known) if known == pool => return Ok(Outcome::Unchanged),
            Some(known) if known.node != pool.node => {
                let by = format!("node '{}'", self.state.node_name(known.node));
                return Err(Rejected::InUse {
                    what: format!("pool '{}'", pool.name),
                    by,
                });
            }
            Some(_) => {}
            None => {
                self.fresh(pool.device.as_u128(), false)?;
                let text = format!("pool '{}' was added to node '{name}'", pool.name);
                self.tell(Severity::Info, None, Some(pool.node), text);
            }
        }
        self.state.pools.insert(pool.device, pool.clone());
        self.changes.push(Change::Pool(pool.clone()));
        Ok(Outcome::Done)
    }

    pub(super) fn remove_pool(&mut self, device: DeviceId) -> Applying {
        let Some(pool) = self.state.pools.get(&device).cloned() else {
            return Ok(Outcome::Unchanged);
        };
        let what = format!(
            "pool '{}' of node '{}'",
            pool.name,
            self.state.node_name(pool.node)
        );
        let on_it = |volume: &&crate::Volume| {
            volume
                .replicas
                .values()
                .any(|replica| replica.device == device)
        };
        if let Some(volume) = self.state.volumes.values().find(on_it) {
            return Err(Rejected::InUse {
                what,
                by: format!("a copy of volume '{}'", volume.name),
            });
        }
        self.forget_pool(device);
        self.tell(
            Severity::Info,
            None,
            Some(pool.node),
            format!("{what} was removed"),
        );
        Ok(Outcome::Done)
    }

    /// Drops a pool without replicas; what its tombstones name left the cluster with it.
    fn forget_pool(&mut self, device: DeviceId) {
        let dying = self
            .state
            .tombstones
            .values()
            .filter(|tombstone| tombstone.device == device);
        for replica in dying.map(|tombstone| tombstone.replica).collect::<Vec<_>>() {
            self.drop_tombstone(replica);
        }
        self.state.pools.remove(&device);
        self.state.retired.push(device.as_u128());
        self.changes.push(Change::PoolGone(device));
    }

    /// What still needs a node.
    fn user_of(&self, id: NodeId) -> Option<String> {
        for volume in self.state.volumes.values() {
            let name = &volume.name;
            if volume.replicas.values().any(|replica| replica.node == id) {
                return Some(format!("a copy of volume '{name}'; move or remove it"));
            }
            if volume
                .membership
                .attachment
                .is_some_and(|attachment| attachment.node == id)
            {
                return Some(format!("volume '{name}' is attached there; detach it"));
            }
            if volume.membership.primary == Some(id) {
                return Some(format!("it is the primary of volume '{name}'"));
            }
        }
        let voting = &self.state.voters.voting;
        let mut bound = self.state.voters.bound.iter();
        let voter = bound.find(|(raft_id, node)| **node == id && voting.contains(raft_id));
        voter.map(|(raft_id, _)| {
            format!("it is voter {raft_id} of the control plane; replace the voter first")
        })
    }

    /// What sites there are decides what `*=N` promises.
    fn refresh_ledgers(&mut self) {
        for volume in self.state.volumes.values().cloned().collect::<Vec<_>>() {
            self.refresh_ledger(&volume);
        }
    }
}

fn check_addresses(node: &Node) -> Result<(), Rejected> {
    let all = std::iter::once(&node.control_address).chain(&node.data_addresses);
    for address in all {
        if address.is_empty()
            || address.len() > MAX_ADDRESS
            || address.contains(char::is_whitespace)
        {
            let why = format!("HOST:PORT of at most {MAX_ADDRESS} characters is needed");
            return Err(Rejected::Bad {
                what: "address",
                text: address.chars().take(40).collect(),
                why,
            });
        }
    }
    if node.data_addresses.len() > MAX_ADDRESSES {
        return Err(Rejected::Limit {
            what: "data addresses of a node",
            max: MAX_ADDRESSES,
        });
    }
    Ok(())
}

/// Placement stands on these: they never change under a node that holds copies.
fn check_labels(known: &Node, node: &Node) -> Result<(), Rejected> {
    let fields = [
        ("name", known.name == node.name),
        ("site", known.site == node.site),
        ("zone", known.zone == node.zone),
        ("rack", known.rack == node.rack),
        ("role", known.role == node.role),
    ];
    match fields.iter().find(|(_, same)| !same) {
        Some((field, _)) => Err(Rejected::Immutable {
            field,
            node: known.name.clone(),
        }),
        None => Ok(()),
    }
}
