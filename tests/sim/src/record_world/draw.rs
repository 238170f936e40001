//! Commands of a seed: each would be right for some record, and about half of them for this one.

use crate::rng::Rng;
use lockstep_control::{
    Attachment, Command, Expected, NewReplica, Node, Policy, Pool, Rpo, State, Volume,
};
use lockstep_types::{
    AttachmentId, ClusterId, DeviceId, FaultDomain, Incarnation, LineageId, Locality, NodeId,
    NodeRole, ReplicaId, VolumeId,
};
use std::collections::{BTreeMap, BTreeSet};

/// The next thing to happen to the log.
pub enum Step {
    /// A command.
    Command(Command),
    /// Another set of raft ids votes.
    Voting(Vec<u64>),
}

/// Makes commands.
pub struct Draw {
    rng: Rng,
    minted: u128,
}

const SITES: [(u64, &str); 4] = [(1, "a"), (2, "a"), (3, "b"), (4, "b")];
const NAMES: [&str; 3] = ["one", "two", "three"];

fn node_id(node: u64) -> NodeId {
    NodeId::from_u128(u128::from(node))
}

fn device_of(node: u64) -> DeviceId {
    DeviceId::from_u128(0xd00 + u128::from(node))
}

/// A metro cluster: nodes 1 and 2 in a, 3 and 4 in b, and the witness 9.
pub fn founding() -> Vec<Command> {
    let node = |id: u64, site: &str, role| {
        Command::PutNode(Node {
            id: node_id(id),
            name: format!("{site}{id}"),
            site: site.into(),
            zone: String::new(),
            rack: String::new(),
            role,
            control_address: format!("node{id}:7000"),
            data_addresses: vec![format!("node{id}:7001")],
            cordoned: false,
        })
    };
    let mut commands = vec![Command::InitCluster {
        id: ClusterId::from_u128(0xc),
        name: "metro".into(),
        ca_certificate: vec![1],
        sealed_ca_key: vec![2],
    }];
    for (id, site) in SITES {
        commands.push(node(id, site, NodeRole::Data));
        commands.push(Command::PutPool(Pool {
            device: device_of(id),
            node: node_id(id),
            name: "p0".into(),
            extents: 100_000,
            free_extents: 100_000,
            places: 256,
        }));
    }
    commands.push(node(9, "w", NodeRole::Witness));
    commands.extend([1, 3, 9].map(|raft_id| Command::PutVoter {
        raft_id,
        node: node_id(raft_id),
    }));
    commands
}

impl Draw {
    /// Of a seed.
    pub fn new(rng: Rng) -> Self {
        Self { rng, minted: 1000 }
    }

    fn mint(&mut self) -> u128 {
        self.minted += 1;
        self.minted
    }

    /// What happens next.
    pub fn next(&mut self, state: &State) -> Step {
        if self.rng.per_cent(2) {
            let sets: [&[u64]; 3] = [&[1, 3, 9], &[1, 9], &[3, 9]];
            return Step::Voting(self.rng.pick(&sets).to_vec());
        }
        let volumes: Vec<Volume> = state.volumes.values().cloned().collect();
        if volumes.is_empty() || volumes.len() < 4 && self.rng.per_cent(4) {
            return Step::Command(self.create(state));
        }
        if state.tombstones.len() > 4 {
            return Step::Command(self.gone(state, &volumes[0]));
        }
        let mut volume = self.rng.pick(&volumes).clone();
        if volume.deleting && self.rng.per_cent(90) {
            volume = volumes.into_iter().find(|v| !v.deleting).unwrap_or(volume);
        }
        if !volume.is_ready() && !volume.deleting && self.rng.per_cent(80) {
            return Step::Command(self.ready(&volume));
        }
        Step::Command(match self.rng.below(100) {
            0..=24 => self.change(&volume),
            25..=44 => self.promote(&volume),
            45..=64 => self.publication(&volume),
            65..=74 => self.copies(&volume),
            75..=80 => self.ready(&volume),
            81..=84 => Command::ResizeVolume {
                volume: volume.id,
                blocks: self.rng.between(1, 8) * 64,
            },
            85..=88 => self.reincarnate(&volume),
            89..=93 => self.gone(state, &volume),
            94 if self.rng.per_cent(40) => Command::DeleteVolume { volume: volume.id },
            94 => self.change(&volume),
            95 => self.policy(&volume),
            96 => Command::RebuildGeneration {
                generation: state.generation + 1,
                barred_voters: BTreeSet::new(),
                operator: "drawn".into(),
            },
            _ => self.force(&volume),
        })
    }

    fn node(&mut self) -> NodeId {
        node_id(self.rng.between(1, 4))
    }

    fn replica(&mut self, volume: &Volume) -> ReplicaId {
        let all: Vec<ReplicaId> = volume.replicas.keys().copied().collect();
        match all.is_empty() {
            true => ReplicaId::from_u128(1),
            false => *self.rng.pick(&all),
        }
    }

    /// One that is not certified, if there is one.
    fn outside(&mut self, volume: &Volume) -> ReplicaId {
        let members = &volume.membership.in_sync;
        let ids = volume.replicas.keys();
        let all: Vec<ReplicaId> = ids
            .filter(|id| !members.contains_key(id))
            .copied()
            .collect();
        match all.is_empty() {
            true => self.replica(volume),
            false => *self.rng.pick(&all),
        }
    }

    /// Its life, or now and then another.
    fn life(&mut self, volume: &Volume, replica: ReplicaId) -> Incarnation {
        let held = volume.replicas.get(&replica);
        let known = held.map_or(Incarnation(1), |held| held.incarnation);
        match self.rng.per_cent(15) {
            true => Incarnation(self.rng.between(0, 4)),
            false => known,
        }
    }

    fn expected(&mut self, volume: &Volume) -> Expected {
        let expected = volume.membership.expected();
        match self.rng.per_cent(15) {
            true => Expected {
                version: expected.version.saturating_sub(self.rng.between(1, 3)),
                ..expected
            },
            false => expected,
        }
    }

    fn primary(&mut self, volume: &Volume) -> NodeId {
        let other = self.node();
        match self.rng.per_cent(15) {
            true => other,
            false => volume.membership.primary.unwrap_or(other),
        }
    }

    fn new_replica(&mut self) -> NewReplica {
        let node = self.rng.between(1, 4);
        NewReplica {
            replica: ReplicaId::from_u128(self.mint()),
            node: node_id(node),
            device: device_of(node),
            incarnation: Incarnation(1),
        }
    }

    fn create(&mut self, state: &State) -> Command {
        let shapes: [(&str, &[u64]); 4] = [
            ("2", &[1, 3]),
            ("*=1", &[2, 4]),
            ("a=2,b=1", &[1, 2, 3]),
            ("a=1", &[1]),
        ];
        let (copies, nodes) = *self.rng.pick(&shapes);
        let minted = VolumeId::from_u128(self.mint());
        let retired: Vec<VolumeId> = (1001..self.minted)
            .filter(|id| state.retired.contains(*id))
            .map(VolumeId::from_u128)
            .collect();
        // An id that was used before must be refused (R18).
        let volume = match !retired.is_empty() && self.rng.per_cent(50) {
            true => *self.rng.pick(&retired),
            false => minted,
        };
        let replicas = nodes
            .iter()
            .map(|node| NewReplica {
                replica: ReplicaId::from_u128(self.mint()),
                node: node_id(*node),
                device: device_of(*node),
                incarnation: Incarnation(1),
            })
            .collect();
        Command::CreateVolume {
            volume,
            name: (*self.rng.pick(&NAMES)).into(),
            blocks: 256,
            lineage: LineageId::from_u128(5),
            policy: wish(copies, self.rng.per_cent(50)),
            replicas,
        }
    }

    fn ready(&mut self, volume: &Volume) -> Command {
        let unready: Vec<ReplicaId> = volume
            .replicas
            .iter()
            .filter(|(_, held)| !held.ready)
            .map(|(id, _)| *id)
            .collect();
        let replica = match unready.is_empty() {
            true => self.replica(volume),
            false => *self.rng.pick(&unready),
        };
        Command::ReplicaReady {
            volume: volume.id,
            replica,
            incarnation: self.life(volume, replica),
        }
    }

    fn change(&mut self, volume: &Volume) -> Command {
        let members: Vec<ReplicaId> = volume.membership.in_sync.keys().copied().collect();
        let (mut remove, mut add) = (BTreeSet::new(), BTreeMap::new());
        if self.rng.per_cent(55) && !members.is_empty() {
            remove.insert(*self.rng.pick(&members));
            if self.rng.per_cent(20) {
                remove.extend(members);
            }
        }
        // One for another, at once, is how `strict` exchanges a member.
        if remove.is_empty() || self.rng.per_cent(25) {
            let joiner = self.outside(volume);
            add.insert(joiner, self.life(volume, joiner));
        }
        Command::ChangeInSync {
            volume: volume.id,
            expected: self.expected(volume),
            node: self.primary(volume),
            remove,
            add,
            reason: "drawn".into(),
        }
    }

    fn promote(&mut self, volume: &Volume) -> Command {
        let record = volume.membership.attachment;
        let (node, attachment) = match record {
            Some(record) if self.rng.per_cent(70) => (record.node, Some(record.id)),
            _ if self.rng.per_cent(20) => (self.node(), Some(AttachmentId::from_u128(self.minted))),
            _ => (self.node(), None),
        };
        Command::Promote {
            volume: volume.id,
            expected: self.expected(volume),
            node,
            attachment,
            primary_silent: self.rng.per_cent(40),
        }
    }

    fn publication(&mut self, volume: &Volume) -> Command {
        let minted = AttachmentId::from_u128(self.mint());
        let fenced: Vec<(AttachmentId, NodeId)> = volume
            .fenced
            .iter()
            .map(|(id, node)| (*id, *node))
            .collect();
        let attached = volume.membership.attachment;
        match self.rng.below(10) {
            0..=4 => {
                let node = match !fenced.is_empty() && self.rng.per_cent(40) {
                    true => self.rng.pick(&fenced).1,
                    false => self.node(),
                };
                Command::Attach {
                    volume: volume.id,
                    attachment: Attachment { id: minted, node },
                }
            }
            5..=7 => Command::Detach {
                volume: volume.id,
                attachment: attached.map_or(minted, |attached| attached.id),
                device_gone: self.rng.per_cent(50),
            },
            _ => Command::DeviceGone {
                volume: volume.id,
                attachment: match fenced.is_empty() {
                    true => minted,
                    false => self.rng.pick(&fenced).0,
                },
            },
        }
    }

    fn copies(&mut self, volume: &Volume) -> Command {
        let (id, replica) = (volume.id, self.replica(volume));
        let to = self.new_replica();
        match self.rng.below(6) {
            0..=2 => Command::AddReplica {
                volume: id,
                replica: to,
            },
            3 => Command::MoveReplica {
                volume: id,
                from: replica,
                to,
            },
            4 => Command::RemoveReplica {
                volume: id,
                replica,
                even_below_policy: self.rng.per_cent(50),
            },
            _ => Command::KeepReplica {
                volume: id,
                replica,
            },
        }
    }

    fn reincarnate(&mut self, volume: &Volume) -> Command {
        let replica = self.outside(volume);
        Command::Reincarnate {
            volume: volume.id,
            replica,
            from: self.life(volume, replica),
            to: Incarnation(self.rng.between(0, 5)),
        }
    }

    fn gone(&mut self, state: &State, volume: &Volume) -> Command {
        let all: Vec<_> = state.tombstones.values().copied().collect();
        match all.is_empty() {
            true => self.ready(volume),
            false => {
                let tombstone = *self.rng.pick(&all);
                Command::ReplicaGone {
                    volume: tombstone.volume,
                    replica: tombstone.replica,
                    incarnation: tombstone.incarnation,
                }
            }
        }
    }

    fn policy(&mut self, volume: &Volume) -> Command {
        let copies = *self.rng.pick(&["2", "*=1", "a=2,b=1"]);
        Command::SetPolicy {
            volume: volume.id,
            policy: wish(copies, self.rng.per_cent(50)),
        }
    }

    fn force(&mut self, volume: &Volume) -> Command {
        let replica = self.replica(volume);
        if self.rng.per_cent(40) {
            return Command::DiscardSealed {
                volume: volume.id,
                replica,
                operator: "drawn".into(),
            };
        }
        Command::ForcePromote {
            volume: volume.id,
            expected: self.expected(volume),
            replica,
            incarnation: self.life(volume, replica),
            may_rejoin: BTreeSet::from([self.replica(volume)]),
            operator: "drawn".into(),
        }
    }
}

fn wish(copies: &str, strict: bool) -> Policy {
    Policy {
        copies: copies.parse().expect("a grammar"),
        fault_domain: FaultDomain::Node,
        preferred_site: None,
        rpo: if strict {
            Rpo::Strict
        } else {
            Rpo::WitnessedDegrade
        },
        locality: Locality::Prefer,
    }
}
