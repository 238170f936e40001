//! A metro cluster to try commands on: nodes 1 and 2 in site a, 3 and 4 in site b, witness 9.
#![allow(dead_code, reason = "each test file uses a part")]

use lockstep_control::{
    Applied, Attachment, Command, Expected, NewReplica, Node, Outcome, Policy, Pool, Proposal,
    Rejected, Rpo, State, Volume,
};
use lockstep_types::{
    AttachmentId, ClusterId, DeviceId, FaultDomain, Incarnation, LineageId, Locality, NodeId,
    NodeRole, ReplicaId, VolumeId,
};
use std::collections::{BTreeMap, BTreeSet};

pub const V: VolumeId = VolumeId::from_u128(0x7001);

pub fn n(id: u128) -> NodeId {
    NodeId::from_u128(id)
}

/// The pool of a node: its number times ten.
pub fn d(node: u128) -> DeviceId {
    DeviceId::from_u128(node * 10)
}

/// The replica of a volume on a node.
pub fn r(node: u128) -> ReplicaId {
    ReplicaId::from_u128(0x100 + node)
}

pub fn a(id: u128) -> AttachmentId {
    AttachmentId::from_u128(0xa000 + id)
}

pub fn new(node: u128) -> NewReplica {
    NewReplica {
        replica: r(node),
        node: n(node),
        device: d(node),
        incarnation: Incarnation(1),
    }
}

pub fn node(id: u128, site: &str, role: NodeRole) -> Node {
    Node {
        id: n(id),
        name: format!("{site}{id}"),
        site: site.into(),
        zone: String::new(),
        rack: String::new(),
        role,
        control_address: format!("node{id}:7000"),
        data_addresses: vec![format!("node{id}:7001")],
        cordoned: false,
    }
}

pub fn pool(node: u128, extents: u64) -> Pool {
    Pool {
        device: d(node),
        node: n(node),
        name: "p0".into(),
        extents,
        free_extents: extents,
        places: 0,
    }
}

pub fn policy(copies: &str, rpo: Rpo) -> Policy {
    Policy {
        copies: copies.parse().expect("a grammar"),
        fault_domain: FaultDomain::Node,
        preferred_site: None,
        rpo,
        locality: Locality::Prefer,
    }
}

/// A state with its log index.
#[derive(Clone)]
pub struct Log {
    pub state: State,
    pub index: u64,
    pub at: u64,
}

impl Log {
    pub fn empty() -> Self {
        Self {
            state: State::new(),
            index: 0,
            at: 1_000,
        }
    }

    pub fn metro() -> Self {
        let mut log = Self::empty();
        log.ok(Command::InitCluster {
            id: ClusterId::from_u128(0xc),
            name: "metro".into(),
            ca_certificate: vec![1],
            sealed_ca_key: vec![2],
        });
        for (id, site) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
            log.ok(Command::PutNode(node(id, site, NodeRole::Data)));
            log.ok(Command::PutPool(pool(id, 1000)));
        }
        log.ok(Command::PutNode(node(9, "w", NodeRole::Witness)));
        log
    }

    /// With a ready volume of 64 blocks on these nodes.
    pub fn with_volume(copies: &str, rpo: Rpo, nodes: &[u128]) -> Self {
        let mut log = Self::metro();
        log.ok(create(V, "vol", copies, rpo, nodes));
        for node in nodes {
            log.ok(Command::ReplicaReady {
                volume: V,
                replica: r(*node),
                incarnation: Incarnation(1),
            });
        }
        log
    }

    /// Attached to node 1, which is its primary under attachment 1.
    pub fn opened(copies: &str, rpo: Rpo, nodes: &[u128]) -> Self {
        let mut log = Self::with_volume(copies, rpo, nodes);
        log.ok(attach(1, 1));
        let promote = log.promote(1, Some(1));
        log.ok(promote);
        log
    }

    pub fn apply(&mut self, command: Command) -> Applied {
        self.index += 1;
        self.at += 1;
        let before = self.state.clone();
        let applied = self.state.apply(
            self.index,
            &Proposal {
                at_unix_ms: self.at,
                command,
            },
        );
        if applied.result.is_err() {
            let expected = State {
                applied: self.index,
                ..before
            };
            assert_eq!(self.state, expected, "a refused command changes nothing");
        }
        applied
    }

    pub fn ok(&mut self, command: Command) -> Outcome {
        let shown = format!("{command:?}");
        self.apply(command)
            .result
            .unwrap_or_else(|refused| panic!("{shown}: {refused}"))
    }

    pub fn refused(&mut self, command: Command) -> Rejected {
        let shown = format!("{command:?}");
        let refused = self.apply(command).result.expect_err(&shown);
        assert!(refused.to_string().len() > 10, "refusals have words");
        refused
    }

    pub fn code(&mut self, command: Command) -> &'static str {
        self.refused(command).code()
    }

    pub fn volume(&self) -> &Volume {
        &self.state.volumes[&V]
    }

    pub fn expected(&self) -> Expected {
        self.volume().membership.expected()
    }

    pub fn members(&self) -> Vec<u128> {
        self.volume()
            .membership
            .in_sync
            .keys()
            .map(|id| id.as_u128() - 0x100)
            .collect()
    }

    pub fn promote(&self, node: u128, attachment: Option<u128>) -> Command {
        Command::Promote {
            volume: V,
            expected: self.expected(),
            node: n(node),
            attachment: attachment.map(a),
            primary_silent: false,
        }
    }

    /// A change of the in-sync set by its primary.
    pub fn change(&self, remove: &[u128], add: &[u128]) -> Command {
        Command::ChangeInSync {
            volume: V,
            expected: self.expected(),
            node: self.volume().membership.primary.unwrap_or(n(1)),
            remove: remove.iter().map(|node| r(*node)).collect::<BTreeSet<_>>(),
            add: add
                .iter()
                .map(|node| (r(*node), self.volume().replicas[&r(*node)].incarnation))
                .collect::<BTreeMap<_, _>>(),
            reason: "test".into(),
        }
    }

    pub fn ready(&mut self, node: u128) {
        let incarnation = self.volume().replicas[&r(node)].incarnation;
        self.ok(Command::ReplicaReady {
            volume: V,
            replica: r(node),
            incarnation,
        });
    }
}

pub fn create(id: VolumeId, name: &str, copies: &str, rpo: Rpo, nodes: &[u128]) -> Command {
    Command::CreateVolume {
        volume: id,
        name: name.into(),
        blocks: 64,
        lineage: LineageId::from_u128(5),
        policy: policy(copies, rpo),
        replicas: nodes.iter().map(|node| new(*node)).collect(),
    }
}

pub fn attach(id: u128, node: u128) -> Command {
    Command::Attach {
        volume: V,
        attachment: Attachment {
            id: a(id),
            node: n(node),
        },
    }
}

pub fn detach(id: u128) -> Command {
    Command::Detach {
        volume: V,
        attachment: a(id),
        device_gone: false,
    }
}

/// One of every command.
pub fn samples() -> Vec<(&'static str, Command)> {
    let mut all = cluster_samples();
    all.extend(volume_samples());
    all
}

fn cluster_samples() -> Vec<(&'static str, Command)> {
    let data = node(1, "a", NodeRole::Data);
    vec![
        (
            "InitCluster",
            Command::InitCluster {
                id: ClusterId::from_u128(0x0102_0304),
                name: "metro".into(),
                ca_certificate: vec![1, 2, 3],
                sealed_ca_key: vec![4, 5],
            },
        ),
        (
            "PutNode",
            Command::PutNode(Node {
                zone: "z1".into(),
                rack: "r1".into(),
                cordoned: true,
                ..data
            }),
        ),
        ("RemoveNode", Command::RemoveNode { node: n(1) }),
        (
            "CordonNode",
            Command::CordonNode {
                node: n(1),
                cordoned: true,
            },
        ),
        ("PutPool", Command::PutPool(pool(1, 1000))),
        (
            "PutPoolWithPlaces",
            Command::PutPool(Pool {
                places: 256,
                ..pool(1, 1000)
            }),
        ),
        ("RemovePool", Command::RemovePool { device: d(1) }),
        (
            "PutToken",
            Command::PutToken {
                id: 7,
                secret_hash: [9; 32],
                expires_unix: 1_700_000_000,
                role: NodeRole::Witness,
            },
        ),
        ("UseToken", Command::UseToken { id: 7, node: n(2) }),
        (
            "RebuildGeneration",
            Command::RebuildGeneration {
                generation: 2,
                barred_voters: BTreeSet::from([3, 300]),
                operator: "anna".into(),
            },
        ),
        (
            "SetClusterVersion",
            Command::SetClusterVersion { version: 2 },
        ),
        (
            "PutVoter",
            Command::PutVoter {
                raft_id: 11,
                node: n(3),
            },
        ),
        ("RemoveVoter", Command::RemoveVoter { raft_id: 11 }),
        (
            "SetSettings",
            Command::SetSettings(lockstep_control::Settings {
                overprovision_per_cent: 150,
            }),
        ),
    ]
}

fn volume_samples() -> Vec<(&'static str, Command)> {
    use lockstep_types::{Epoch, Sequence, Stamp};
    let expected = Expected {
        epoch: Epoch::new(1, 5),
        version: 12,
    };
    let (volume, replica, incarnation) = (V, r(3), Incarnation(4));
    let mut wish = policy("a=2,b=1", Rpo::Strict);
    wish.preferred_site = Some("a".into());
    wish.locality = Locality::Require;
    wish.fault_domain = FaultDomain::Rack;
    let add = BTreeMap::from([(r(4), Incarnation(2))]);
    let stamp = Stamp::new(Epoch::new(1, 5), Sequence(99));
    vec![
        (
            "CreateVolume",
            create(V, "vol", "*=1", Rpo::WitnessedDegrade, &[1, 3]),
        ),
        (
            "ReplicaReady",
            Command::ReplicaReady {
                volume,
                replica,
                incarnation,
            },
        ),
        ("DeleteVolume", Command::DeleteVolume { volume }),
        (
            "ReplicaGone",
            Command::ReplicaGone {
                volume,
                replica,
                incarnation,
            },
        ),
        (
            "ResizeVolume",
            Command::ResizeVolume {
                volume,
                blocks: 1 << 20,
            },
        ),
        ("Attach", attach(1, 2)),
        (
            "Detach",
            Command::Detach {
                volume,
                attachment: a(1),
                device_gone: true,
            },
        ),
        (
            "DeviceGone",
            Command::DeviceGone {
                volume,
                attachment: a(1),
            },
        ),
        (
            "Promote",
            Command::Promote {
                volume,
                expected,
                node: n(1),
                attachment: Some(a(1)),
                primary_silent: false,
            },
        ),
        (
            "PromoteCaretaker",
            Command::Promote {
                volume,
                expected,
                node: n(1),
                attachment: None,
                primary_silent: true,
            },
        ),
        (
            "StepDown",
            Command::StepDown {
                volume,
                expected,
                node: n(1),
            },
        ),
        (
            "ChangeInSync",
            Command::ChangeInSync {
                volume,
                expected,
                node: n(1),
                remove: BTreeSet::from([r(3)]),
                add,
                reason: "silent for 2 s".into(),
            },
        ),
        (
            "SetRepairOnly",
            Command::SetRepairOnly {
                volume,
                expected,
                node: n(1),
                repair_only: true,
            },
        ),
        (
            "AddReplica",
            Command::AddReplica {
                volume,
                replica: new(4),
            },
        ),
        (
            "MoveReplica",
            Command::MoveReplica {
                volume,
                from: r(3),
                to: new(4),
            },
        ),
        (
            "RemoveReplica",
            Command::RemoveReplica {
                volume,
                replica,
                even_below_policy: true,
            },
        ),
        ("KeepReplica", Command::KeepReplica { volume, replica }),
        (
            "Reincarnate",
            Command::Reincarnate {
                volume,
                replica,
                from: incarnation,
                to: Incarnation(5),
            },
        ),
        (
            "SetPolicy",
            Command::SetPolicy {
                volume,
                policy: wish,
            },
        ),
        (
            "NoteSequence",
            Command::NoteSequence {
                volume,
                bound: lockstep_control::Bound::End,
                stamp,
            },
        ),
        (
            "ForcePromote",
            Command::ForcePromote {
                volume,
                expected,
                replica,
                incarnation,
                may_rejoin: BTreeSet::from([r(1)]),
                operator: "anna".into(),
            },
        ),
        (
            "DiscardSealed",
            Command::DiscardSealed {
                volume,
                replica,
                operator: String::new(),
            },
        ),
        (
            "DiscardSealed",
            Command::DiscardSealed {
                volume,
                replica,
                operator: "anna".into(),
            },
        ),
        ("NoteVoters", Command::NoteVoters),
        (
            "NoteCertificate",
            Command::NoteCertificate {
                teller: n(1),
                fate: lockstep_control::Fate::Refused,
                whose: "node 'b1'".into(),
                detail: "it has expired".into(),
            },
        ),
    ]
}

/// A state with something in every table.
pub fn full() -> Log {
    let mut log = Log::opened("a=2,b=1", Rpo::WitnessedDegrade, &[1, 2, 3]);
    log.ok(Command::PutVoter {
        raft_id: 1,
        node: n(1),
    });
    log.ok(Command::PutVoter {
        raft_id: 2,
        node: n(3),
    });
    for voting in [[1, 2].as_slice(), &[1]] {
        log.index += 1;
        log.state
            .apply_configuration(log.index, voting.iter().copied().collect());
    }
    log.ok(Command::RemoveVoter { raft_id: 2 });
    log.ok(Command::PutToken {
        id: 1,
        secret_hash: [3; 32],
        expires_unix: 900,
        role: NodeRole::Data,
    });
    log.ok(Command::UseToken { id: 1, node: n(8) });
    log.ok(Command::RemoveReplica {
        volume: V,
        replica: r(2),
        even_below_policy: true,
    });
    let shrink = log.change(&[2, 3], &[]);
    log.ok(shrink);
    log.ok(Command::AddReplica {
        volume: V,
        replica: new(4),
    });
    let stamp = lockstep_types::Stamp::new(log.expected().epoch, lockstep_types::Sequence(7));
    log.ok(Command::NoteSequence {
        volume: V,
        bound: lockstep_control::Bound::Begin,
        stamp,
    });
    log.ok(detach(1));
    log.ok(attach(2, 3));
    let expected = log.expected();
    log.ok(Command::ForcePromote {
        volume: V,
        expected,
        replica: r(3),
        incarnation: Incarnation(2),
        may_rejoin: BTreeSet::new(),
        operator: "anna".into(),
    });
    let promote = log.promote(3, None);
    log.ok(promote);
    log.ok(Command::PutPool(Pool {
        device: DeviceId::from_u128(0x55),
        name: "p1".into(),
        ..pool(4, 10)
    }));
    log.ok(Command::RemovePool {
        device: DeviceId::from_u128(0x55),
    });
    log
}
