//! What a model begins with: its cluster, its names, its spans of time, and the scopes it is explored in.

use super::{NAMES, NODES, Scope, VOLUME};
use crate::stamp;
use lockstep_control::{Attachment, Command, NewReplica, Node, Policy, Pool, Proposal, Rpo, State};
use lockstep_protocol::Timings;
use lockstep_types::{
    AttachmentId, BLOCK, BlockRange, ClusterId, DeviceId, FaultDomain, Incarnation, LineageId,
    Locality, NodeId, NodeRole, ReplicaId, Request, RequestOp, SECOND, checksum_blocks,
};

pub(super) fn node_id(node: usize) -> NodeId {
    NodeId::from_u128(node as u128 + 1)
}

pub(super) fn replica_id(node: usize) -> ReplicaId {
    ReplicaId::from_u128(0x70 + node as u128)
}

pub(super) fn index_of(id: NodeId) -> usize {
    id.as_u128() as usize - 1
}

pub(super) fn attachment(number: u8) -> AttachmentId {
    AttachmentId::from_u128(0xa0 + u128::from(number))
}

pub(super) fn site_of(node: NodeId) -> String {
    NAMES[index_of(node)][..1].to_string()
}

pub(super) fn timings() -> Timings {
    Timings {
        beacon: SECOND,
        lease: 2 * SECOND,
        write_age: 2 * SECOND,
        beacons_missed: 2,
        link_grace: SECOND,
        seal_silence: 2 * SECOND,
        start_grace: 2 * SECOND,
        copy_hold: 60 * SECOND,
        retry: SECOND,
        copies: 1,
        compare_pass: 0,
        ..Timings::default()
    }
}

/// A cluster of three nodes with the volume published to a1.
pub(super) fn founded() -> State {
    let mut commands = vec![Command::InitCluster {
        id: ClusterId::from_u128(1),
        name: "model".into(),
        ca_certificate: vec![1],
        sealed_ca_key: vec![1],
    }];
    let device = |node: usize| DeviceId::from_u128(0xd0 + node as u128);
    for (node, name) in NAMES.iter().enumerate() {
        commands.push(Command::PutNode(Node {
            id: node_id(node),
            name: (*name).into(),
            site: site_of(node_id(node)),
            zone: String::new(),
            rack: String::new(),
            role: NodeRole::Data,
            control_address: format!("{name}:1"),
            data_addresses: vec![format!("{name}:2")],
            cordoned: false,
        }));
        commands.push(Command::PutPool(Pool {
            device: device(node),
            node: node_id(node),
            name: "p".into(),
            extents: 1000,
            free_extents: 1000,
            places: 8,
        }));
    }
    let replicas = (0..NODES).map(|node| NewReplica {
        replica: replica_id(node),
        node: node_id(node),
        device: device(node),
        incarnation: Incarnation(1),
    });
    commands.push(Command::CreateVolume {
        volume: VOLUME,
        name: "v".into(),
        blocks: 64,
        lineage: LineageId::from_u128(7),
        policy: Policy {
            copies: "a=2,b=1".parse().expect("a grammar"),
            fault_domain: FaultDomain::Node,
            preferred_site: None,
            rpo: Rpo::WitnessedDegrade,
            locality: Locality::Prefer,
        },
        replicas: replicas.collect(),
    });
    commands.extend((0..NODES).map(|node| Command::ReplicaReady {
        volume: VOLUME,
        replica: replica_id(node),
        incarnation: Incarnation(1),
    }));
    commands.push(Command::Attach {
        volume: VOLUME,
        attachment: Attachment {
            id: attachment(0),
            node: node_id(0),
        },
    });
    let mut state = State::new();
    for command in commands {
        apply(&mut state, command).expect("the model is founded well");
    }
    state
}

pub(super) fn apply(state: &mut State, command: Command) -> Result<(), String> {
    let proposal = Proposal {
        at_unix_ms: 0,
        command,
    };
    let applied = state.apply(state.applied + 1, &proposal);
    applied.result.map(drop).map_err(|why| why.to_string())
}

/// The bytes of a value.
pub(super) fn payload(value: u64) -> bytes::Bytes {
    stamp::payload(value, 1, 0, 1)
}

pub(super) fn write_of(value: u64) -> Request {
    let payload = payload(value);
    assert_eq!(payload.len(), BLOCK);
    Request {
        range: BlockRange::new(0, 1),
        op: RequestOp::Write {
            checksums: checksum_blocks(&payload),
            payload,
        },
    }
}

pub(super) fn read_of() -> Request {
    Request {
        range: BlockRange::new(0, 1),
        op: RequestOp::Read,
    }
}

/// What is explored, by name.
pub const SCOPES: &[(&str, &str, Scope)] = &[
    (
        "move",
        "two epochs and two writes",
        Scope {
            writes: 2,
            moves: 1,
            ticks: 4,
            ..NOTHING
        },
    ),
    (
        "late",
        "two epochs, a write, and something held up",
        Scope {
            writes: 1,
            moves: 1,
            holds: 1,
            ticks: 4,
            ..NOTHING
        },
    ),
    (
        "crash",
        "two epochs, a write and a crash",
        Scope {
            writes: 1,
            moves: 1,
            crashes: 1,
            ticks: 5,
            ..NOTHING
        },
    ),
    (
        "cut",
        "two epochs, a write, a read and a link that closes",
        Scope {
            writes: 1,
            reads: 1,
            moves: 1,
            cuts: 1,
            ticks: 5,
            ..NOTHING
        },
    ),
    (
        "reads",
        "two epochs, a write, two reads, and something held up",
        Scope {
            writes: 1,
            reads: 2,
            moves: 1,
            holds: 1,
            ticks: 3,
            ..NOTHING
        },
    ),
    (
        "rejoin",
        "a replica with a record nobody else had rejoins during a write and a crash",
        Scope {
            writes: 1,
            crashes: 1,
            ticks: 3,
            unknown: 1,
            rejoin: true,
            ..NOTHING
        },
    ),
    (
        "all",
        "two epochs, two writes, a read, a crash, a cut, and something held up",
        Scope {
            writes: 2,
            reads: 1,
            moves: 1,
            crashes: 1,
            cuts: 1,
            holds: 1,
            ticks: 5,
            ..NOTHING
        },
    ),
    (
        "any",
        "any order: one write, one publication elsewhere, a crash",
        Scope {
            any_order: true,
            writes: 1,
            moves: 1,
            crashes: 1,
            ..NOTHING
        },
    ),
    (
        "pair",
        "any order: two copies, two epochs, two writes",
        Scope { writes: 2, ..PAIR },
    ),
    (
        "sealing",
        "any order, from SEAL on: two copies, a write under each of two epochs",
        SEALING,
    ),
    (
        "sealing-cut",
        "the same, and a link that closes",
        Scope { cuts: 1, ..SEALING },
    ),
    (
        "sealing-crash",
        "the same, and a crash instead",
        Scope {
            crashes: 1,
            ..SEALING
        },
    ),
];

const NOTHING: Scope = Scope {
    writes: 0,
    reads: 0,
    crashes: 0,
    cuts: 0,
    moves: 0,
    ticks: 0,
    any_order: false,
    holds: 0,
    unknown: 0,
    rejoin: false,
    pair: false,
    begun: false,
};

const PAIR: Scope = Scope {
    any_order: true,
    moves: 1,
    ticks: 3,
    pair: true,
    ..NOTHING
};

const SEALING: Scope = Scope {
    moves: 0,
    writes: 1,
    begun: true,
    ..PAIR
};
