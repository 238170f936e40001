//! The control state as messages, and wishes from messages.

use lockstep_api::error::stable_code;
use lockstep_api::{proto, show, wish};
use lockstep_control::{Attachment, Command, NewReplica, Node, Policy, Pool, Rpo, State, View};
use lockstep_types::{
    AttachmentId, ClusterId, DeviceId, FaultDomain, Incarnation, LineageId, Locality, NodeId,
    NodeRole, ReplicaId, VolumeId,
};
use tonic::Code;

fn state() -> State {
    let mut state = State::new();
    let mut commands = vec![Command::InitCluster {
        id: ClusterId::from_u128(1),
        name: "c".into(),
        ca_certificate: Vec::new(),
        sealed_ca_key: Vec::new(),
    }];
    for (id, site) in [(1, "a"), (2, "b")] {
        commands.push(Command::PutNode(Node {
            id: NodeId::from_u128(id),
            name: format!("{site}{id}"),
            site: site.into(),
            zone: String::new(),
            rack: String::new(),
            role: NodeRole::Data,
            control_address: "h:1".into(),
            data_addresses: vec!["h:2".into()],
            cordoned: false,
        }));
        commands.push(Command::PutPool(Pool {
            device: DeviceId::from_u128(id * 10),
            node: NodeId::from_u128(id),
            name: "p0".into(),
            extents: 4096,
            free_extents: 4000,
            places: 64,
        }));
    }
    let replica = |id: u128| NewReplica {
        replica: ReplicaId::from_u128(0x100 + id),
        node: NodeId::from_u128(id),
        device: DeviceId::from_u128(id * 10),
        incarnation: Incarnation(1),
    };
    let volume = VolumeId::from_u128(0x77);
    commands.push(Command::CreateVolume {
        volume,
        name: "pg".into(),
        blocks: 64 * 16,
        lineage: LineageId::from_u128(1),
        policy: wish::new_policy(&proto::Policy {
            copies: Some("*=1".into()),
            ..Default::default()
        })
        .expect("good"),
        replicas: vec![replica(1), replica(2)],
    });
    for id in [1, 2] {
        let replica = ReplicaId::from_u128(0x100 + id);
        commands.push(Command::ReplicaReady {
            volume,
            replica,
            incarnation: Incarnation(1),
        });
    }
    let attachment = Attachment {
        id: AttachmentId::from_u128(5),
        node: NodeId::from_u128(1),
    };
    commands.push(Command::Attach { volume, attachment });
    for (index, command) in (1..).zip(commands) {
        state.apply(index, &command.into()).result.expect("good");
    }
    state
}

#[test]
fn a_volume_is_shown_with_names_and_bytes() {
    let state = state();
    let view = View {
        answering: state.nodes.keys().copied().collect(),
        quorum: true,
        ..View::default()
    };
    let shown = show::volume(&state, wish::volume(&state, "pg").expect("there"), &view);
    assert_eq!(
        (shown.name.as_str(), shown.bytes, shown.id.len()),
        ("pg", 4 << 20, 32)
    );
    assert_eq!(shown.status(), proto::VolumeStatus::Suspended);
    assert!(shown.headline.contains("not opened"), "{}", shown.headline);
    let nodes: Vec<_> = shown
        .replicas
        .iter()
        .map(|it| (it.node.as_str(), it.pool.as_str(), it.certified))
        .collect();
    assert_eq!(nodes, [("a1", "p0", true), ("b2", "p0", true)]);
    assert_eq!(shown.attachment.map(|it| it.node), Some("a1".into()));
    let policy = shown.policy.expect("shown");
    assert_eq!(
        (policy.copies(), policy.rpo()),
        ("*=1", proto::Rpo::WitnessedDegrade)
    );
    let pool = show::pool(
        &state,
        wish::pool(&state, "a1", "p0").expect("there"),
        Some("EIO"),
    );
    assert_eq!(
        (pool.bytes, pool.bytes_promised, pool.replicas),
        (1 << 30, 4 << 20, 1)
    );
    let sites = show::sites(&state, &view);
    assert_eq!(
        sites
            .iter()
            .map(|site| site.name.as_str())
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[test]
fn things_are_found_by_id_or_name_and_missing_ones_are_named() {
    let state = state();
    let id = VolumeId::from_u128(0x77).to_string();
    let volume = wish::volume(&state, &id).expect("by id");
    assert_eq!(volume.name, "pg");
    assert_eq!(
        wish::replica(&state, volume, "b2").ok(),
        Some(ReplicaId::from_u128(0x102))
    );
    assert_eq!(
        wish::node(&state, "a1").expect("by name").id,
        NodeId::from_u128(1)
    );
    let missing = wish::volume(&state, "nope").expect_err("missing");
    assert_eq!(
        (missing.code(), stable_code(&missing)),
        (Code::NotFound, Some("not-found"))
    );
    assert_eq!(
        wish::pool(&state, "", "p0")
            .expect_err("two of them")
            .code(),
        Code::InvalidArgument
    );
    assert!(wish::replica(&state, volume, "nope").is_err());
}

#[test]
fn bad_sizes_say_what_would_be_good() {
    assert_eq!(wish::blocks(8192).ok(), Some(2));
    for (bytes, why) in [(0, "0 bytes"), (4097, "8192"), (u64::MAX - 4095, "1 PiB")] {
        let error = wish::blocks(bytes).expect_err("bad");
        assert!(
            error.code() == Code::InvalidArgument && error.message().contains(why),
            "{}",
            error.message()
        );
    }
}

#[test]
fn absent_fields_of_a_policy_change_nothing() {
    let policy = Policy {
        copies: "a=2,b=1".parse().expect("good"),
        fault_domain: FaultDomain::Rack,
        preferred_site: Some("a".into()),
        rpo: Rpo::Strict,
        locality: Locality::Require,
    };
    assert_eq!(
        wish::changed_policy(&policy, &proto::Policy::default()).ok(),
        Some(policy.clone())
    );
    assert_eq!(
        wish::new_policy(&show::policy(&policy)).ok(),
        Some(policy.clone())
    );
    let wished = proto::Policy {
        preferred_site: Some(String::new()),
        ..Default::default()
    };
    assert_eq!(
        wish::changed_policy(&policy, &wished)
            .expect("good")
            .preferred_site,
        None
    );
    for bad in [
        proto::Policy {
            copies: Some("nine".into()),
            ..Default::default()
        },
        proto::Policy {
            rpo: 99,
            ..Default::default()
        },
    ] {
        assert_eq!(
            wish::changed_policy(&policy, &bad).expect_err("bad").code(),
            Code::InvalidArgument
        );
    }
}
