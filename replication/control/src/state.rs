//! The state itself and what can be read from it.

use crate::command::{Node, Pool, Settings};
use crate::event::Events;
use crate::ledger::Ledger;
use crate::mutate::Mutation;
use crate::policy;
use crate::record::{Policy, Volume};
use crate::{Change, Rejected};
use lockstep_placement::{Choice, Fitness, Host, Local, Refusal, Request, Space, Topology};
use lockstep_types::{
    ClusterId, DeviceId, EXTENT_BLOCKS, Incarnation, NodeId, NodeRole, ReplicaId, VolumeId,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The newest version of commands and snapshots that this build understands.
pub const VERSION: u32 = 1;
/// Replicas of one volume at most, leaving and sealed ones included.
pub const MAX_REPLICAS: usize = 16;
/// Join tokens at most.
pub const MAX_TOKENS: usize = 256;
/// Retired ids that are remembered. Ids are 128 random bits: what is forgotten after that many
/// deletions is not drawn again.
const MAX_RETIRED: usize = 65_536;

/// All that the cluster has agreed on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// None before the first entry.
    pub cluster: Option<Cluster>,
    /// Raised only by a forced rebuild; the upper half of every new epoch.
    pub generation: u32,
    /// When that was, by the clock of whoever did it; 0 before the first. Tells two rebuilds of one
    /// generation, made on two sides that did not know of each other, apart.
    pub rebuilt_unix_ms: u64,
    /// What commands may be proposed.
    pub version: u32,
    /// The last entry applied.
    pub applied: u64,
    /// Cluster-wide settings.
    pub settings: Settings,
    /// The nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// The pools.
    pub pools: BTreeMap<DeviceId, Pool>,
    /// The volumes, those being deleted included.
    pub volumes: BTreeMap<VolumeId, Volume>,
    /// Data to be deleted (R18).
    pub tombstones: BTreeMap<ReplicaId, Tombstone>,
    /// Nodes that were removed: their certificates are barred as long as the cluster lives.
    pub removed: BTreeSet<NodeId>,
    /// Join tokens.
    pub tokens: BTreeMap<u64, Token>,
    /// Who votes.
    pub voters: Voters,
    /// When acknowledged writes stood in one site only.
    pub ledger: Ledger,
    /// What happened of late.
    pub events: Events,
    /// Forced recoveries, kept apart so that no chatter pushes them out.
    pub audit: Events,
    /// Ids that are not used again (R18).
    pub retired: Retired,
    /// The rule that is broken on purpose; not part of a snapshot.
    #[cfg(feature = "mutate")]
    pub mutation: Option<Mutation>,
}

/// The cluster.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Its label.
    pub name: String,
    /// The certificate of its authority, PEM.
    pub ca_certificate: Vec<u8>,
    /// The authority's key, wrapped.
    pub sealed_ca_key: Vec<u8>,
}

/// A one-time join token.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Token {
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    /// Seconds since 1970.
    pub expires_unix: u64,
    /// What the joiner may be.
    pub role: NodeRole,
    /// Who used it.
    pub used_by: Option<NodeId>,
}

/// Data to be deleted by the node that holds it (R18): only this life of this replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tombstone {
    /// The volume.
    pub volume: VolumeId,
    /// The replica.
    pub replica: ReplicaId,
    /// The life that was recorded.
    pub incarnation: Incarnation,
    /// Where it is.
    pub node: NodeId,
    /// Its pool.
    pub device: DeviceId,
    /// Extents it may occupy until it is gone.
    pub extents: u64,
}

/// Who votes, as far as the state needs it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Voters {
    /// Raft ids and their nodes (R20).
    pub bound: BTreeMap<u64, NodeId>,
    /// The ids of the configuration in force; learners are not among them.
    pub voting: BTreeSet<u64>,
    /// Ids never to be used again.
    pub barred: BTreeSet<u64>,
    /// Sites that had a voter and have none: none of their replicas is certified meanwhile.
    pub voterless_sites: BTreeSet<String>,
    /// Those that voted when an event last said who does.
    pub told: BTreeMap<u64, NodeId>,
}

/// Ids that were used up, oldest first; at most 65,536.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Retired(pub(crate) VecDeque<u128>);

impl Retired {
    pub(crate) fn push(&mut self, id: u128) {
        if self.0.len() == MAX_RETIRED {
            self.0.pop_front();
        }
        self.0.push_back(id);
    }

    /// Whether the id was used up.
    pub fn contains(&self, id: u128) -> bool {
        self.0.contains(&id)
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            cluster: None,
            generation: 0,
            rebuilt_unix_ms: 0,
            version: 1,
            applied: 0,
            settings: Settings::default(),
            nodes: BTreeMap::new(),
            pools: BTreeMap::new(),
            volumes: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            removed: BTreeSet::new(),
            tokens: BTreeMap::new(),
            voters: Voters::default(),
            ledger: Ledger::default(),
            events: Events::recent(),
            audit: Events::audit(),
            retired: Retired::default(),
            #[cfg(feature = "mutate")]
            mutation: None,
        }
    }
}

impl State {
    /// Before the first entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything there is, for a data plane that starts.
    pub fn everything(&self) -> Vec<Change> {
        let mut all = vec![self.cluster_change()];
        all.extend(self.nodes.values().cloned().map(Change::Node));
        all.extend(self.pools.values().cloned().map(Change::Pool));
        all.extend(self.voters.bound.iter().map(|(id, node)| Change::Voter {
            raft_id: *id,
            node: *node,
        }));
        all.extend(
            self.volumes
                .values()
                .cloned()
                .map(|volume| Change::Volume(Box::new(volume))),
        );
        all.extend(self.tombstones.values().copied().map(Change::Tombstone));
        all
    }

    pub(crate) fn cluster_change(&self) -> Change {
        let id = self
            .cluster
            .as_ref()
            .map_or(ClusterId::NONE, |cluster| cluster.id);
        Change::Cluster {
            id,
            generation: self.generation,
            version: self.version,
            settings: self.settings,
        }
    }

    /// A volume by its id.
    ///
    /// # Errors
    /// [`Rejected::NoVolume`].
    pub fn volume(&self, id: VolumeId) -> Result<&Volume, Rejected> {
        self.volumes
            .get(&id)
            .ok_or(Rejected::NoVolume { volume: id })
    }

    /// A volume by its name.
    pub fn volume_named(&self, name: &str) -> Option<&Volume> {
        self.volumes.values().find(|volume| volume.name == name)
    }

    /// A node by its id.
    ///
    /// # Errors
    /// [`Rejected::NoNode`].
    pub fn node(&self, id: NodeId) -> Result<&Node, Rejected> {
        self.nodes.get(&id).ok_or(Rejected::NoNode { node: id })
    }

    /// A node by its name.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.values().find(|node| node.name == name)
    }

    /// The name of a node for a message.
    pub fn node_name(&self, id: NodeId) -> String {
        self.nodes
            .get(&id)
            .map_or_else(|| id.to_string(), |node| node.name.clone())
    }

    /// `node/pool` of a replica for a message.
    pub fn replica_name(&self, volume: &Volume, replica: ReplicaId) -> String {
        volume
            .replicas
            .get(&replica)
            .map_or_else(|| replica.to_string(), |held| self.node_name(held.node))
    }

    /// The sites that have a data node.
    pub fn data_sites(&self) -> BTreeSet<String> {
        let data = self
            .nodes
            .values()
            .filter(|node| node.role == NodeRole::Data);
        data.map(|node| node.site.clone()).collect()
    }

    /// Extents that may still be promised on a pool: by the settings' share of what it has, and of
    /// what it said is free.
    pub fn room(&self, device: DeviceId) -> u64 {
        let Some(pool) = self.pools.get(&device) else {
            return 0;
        };
        let share = |extents: u64| {
            let all = u128::from(extents) * u128::from(self.settings.overprovision_per_cent) / 100;
            u64::try_from(all).unwrap_or(u64::MAX)
        };
        share(pool.extents)
            .saturating_sub(self.promised(device))
            .min(share(pool.free_extents))
    }

    /// Replicas that a pool can hold beside those that are promised to it, deleted ones that are not yet gone
    /// included; `None` if it has not told how many it can hold.
    pub fn places_left(&self, device: DeviceId) -> Option<u32> {
        let places = self.pools.get(&device)?.places;
        let replicas = self.volumes.values().flat_map(|v| v.replicas.values());
        let living = replicas.filter(|replica| replica.device == device).count();
        let dying = self.tombstones.values();
        let dying = dying.filter(|gone| gone.device == device).count();
        let taken = u32::try_from(living + dying).unwrap_or(u32::MAX);
        (places > 0).then(|| places.saturating_sub(taken))
    }

    /// Extents promised to replicas of a pool, deleted ones that are not yet gone included.
    pub fn promised(&self, device: DeviceId) -> u64 {
        let living = self.volumes.values().map(|volume| {
            let here = volume
                .replicas
                .values()
                .filter(|replica| replica.device == device)
                .count();
            here as u64 * extents(volume.blocks)
        });
        let dying = self
            .tombstones
            .values()
            .filter(|tombstone| tombstone.device == device);
        living.sum::<u64>() + dying.map(|tombstone| tombstone.extents).sum::<u64>()
    }

    /// The nodes and their room, as placement sees them; `answering` are those heard from.
    pub fn topology(&self, answering: &BTreeSet<NodeId>) -> Topology {
        let mut hosts: BTreeMap<NodeId, Host> = BTreeMap::new();
        for node in self.nodes.values() {
            let fitness = match (node.cordoned, answering.contains(&node.id)) {
                (true, _) => Fitness::Cordoned,
                (false, true) => Fitness::Usable,
                (false, false) => Fitness::Down,
            };
            hosts.insert(
                node.id,
                Host {
                    id: node.id,
                    name: node.name.clone(),
                    site: node.site.clone(),
                    zone: node.zone.clone(),
                    rack: node.rack.clone(),
                    role: node.role,
                    fitness,
                    pools: Vec::new(),
                },
            );
        }
        for pool in self.pools.values() {
            let space = Space {
                device: pool.device,
                name: pool.name.clone(),
                free_extents: self.room(pool.device),
                has_place: self.places_left(pool.device) != Some(0),
            };
            hosts
                .get_mut(&pool.node)
                .expect("a pool's node is there")
                .pools
                .push(space);
        }
        Topology {
            hosts: hosts.into_values().collect(),
        }
    }

    /// Where the copies of a new volume would go.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn place(
        &self,
        policy: &Policy,
        blocks: u64,
        local: Option<Local>,
        answering: &BTreeSet<NodeId>,
    ) -> Result<Vec<Choice>, Refusal> {
        lockstep_placement::choose(&request(policy, blocks, local), &self.topology(answering))
    }

    /// Where the next copy that the policy asks for would go.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn place_one_more(
        &self,
        volume: &Volume,
        answering: &BTreeSet<NodeId>,
    ) -> Result<Choice, Refusal> {
        let request = request(&volume.policy, volume.blocks, None);
        lockstep_placement::add_one(
            &policy::staying(volume),
            &request,
            &self.topology(answering),
        )
    }

    /// Where the copy would go that takes this one's place.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::Satisfied`] if there is no such replica.
    pub fn place_instead_of(
        &self,
        volume: &Volume,
        leaving: ReplicaId,
        answering: &BTreeSet<NodeId>,
    ) -> Result<Choice, Refusal> {
        let held = volume.replicas.get(&leaving).ok_or(Refusal::Satisfied)?;
        let leaving = Choice {
            node: held.node,
            device: held.device,
        };
        let request = request(&volume.policy, volume.blocks, None);
        lockstep_placement::replace(
            &policy::staying(volume),
            leaving,
            &request,
            &self.topology(answering),
        )
    }

    /// Whether a rule is broken on purpose.
    #[cfg(feature = "mutate")]
    pub(crate) fn broken(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// No rule is broken on purpose in this build.
    #[cfg(not(feature = "mutate"))]
    pub(crate) const fn broken(&self, _: Mutation) -> bool {
        false
    }
}

/// Extents that hold so many blocks.
pub(crate) const fn extents(blocks: u64) -> u64 {
    blocks.div_ceil(EXTENT_BLOCKS)
}

fn request(policy: &Policy, blocks: u64, local: Option<Local>) -> Request {
    Request {
        copies: policy.copies.clone(),
        fault_domain: policy.fault_domain,
        extents: extents(blocks),
        local,
    }
}
