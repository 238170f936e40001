//! Random histories: what holds after every command.

mod common;
use common::*;
use lockstep_control::{
    Change, Command, Expected, NewReplica, Proposal, Rpo, State, Volume, decode_proposal,
    decode_snapshot, encode_proposal, encode_snapshot,
};
use lockstep_types::{Epoch, Incarnation, ReplicaId, VolumeId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What a random step is made of; turned into a command that fits the state more often than not.
type Draw = (u8, u8, u8, u8, bool);

fn draw() -> impl Strategy<Value = Vec<Draw>> {
    prop::collection::vec(
        (
            0..40u8,
            any::<u8>(),
            any::<u8>(),
            any::<u8>(),
            prop::bool::weighted(0.85),
        ),
        1..160,
    )
}

struct World {
    log: Log,
    minted: u128,
    mirror: Mirror,
    epochs: BTreeMap<VolumeId, Epoch>,
    lives: BTreeMap<ReplicaId, Incarnation>,
    buried: BTreeSet<u128>,
}

/// What a data plane knows that only follows changes.
#[derive(Default)]
struct Mirror(BTreeMap<String, Change>);

impl Mirror {
    fn follow(&mut self, change: &Change) {
        match change {
            Change::Cluster { .. } => drop(self.0.insert("cluster".into(), change.clone())),
            Change::Node(node) => drop(self.0.insert(format!("node {}", node.id), change.clone())),
            Change::NodeGone(id) => drop(self.0.remove(&format!("node {id}"))),
            Change::Pool(pool) => drop(
                self.0
                    .insert(format!("pool {}", pool.device), change.clone()),
            ),
            Change::PoolGone(id) => drop(self.0.remove(&format!("pool {id}"))),
            Change::Volume(volume) => drop(
                self.0
                    .insert(format!("volume {}", volume.id), change.clone()),
            ),
            Change::VolumeGone(id) => drop(self.0.remove(&format!("volume {id}"))),
            Change::Tombstone(it) => drop(
                self.0
                    .insert(format!("tombstone {}", it.replica), change.clone()),
            ),
            Change::TombstoneGone { replica, .. } => {
                drop(self.0.remove(&format!("tombstone {replica}")))
            }
            Change::Voter { raft_id, .. } => {
                drop(self.0.insert(format!("voter {raft_id}"), change.clone()))
            }
            Change::VoterGone { raft_id } => drop(self.0.remove(&format!("voter {raft_id}"))),
        }
    }
}

impl World {
    fn new() -> Self {
        let log = Log::with_volume("a=2,b=1", Rpo::WitnessedDegrade, &[1, 2, 3]);
        let mut mirror = Mirror::default();
        log.state
            .everything()
            .iter()
            .for_each(|change| mirror.follow(change));
        let (epochs, lives, buried) = Default::default();
        Self {
            log,
            minted: 0x1_0000,
            mirror,
            epochs,
            lives,
            buried,
        }
    }

    fn mint(&mut self) -> u128 {
        self.minted += 1;
        self.minted
    }

    fn command(&mut self, (kind, x, y, z, fits): Draw) -> Option<Command> {
        // Three draws of eight change who may write; deletions and the like are rare.
        let kind = match kind {
            4 | 5 if !x.is_multiple_of(4) => 7,
            0..4 | 9 if !x.is_multiple_of(3) => 19,
            26..30 => 16,
            30..34 => 20,
            34..37 => 12,
            37..40 => 18,
            other => other,
        };
        let state = self.log.state.clone();
        let node = n(u128::from(x % 5) + 1);
        if kind < 4 {
            return Some(self.cluster_command(kind, x, y));
        }
        let volumes: Vec<&Volume> = state.volumes.values().collect();
        if kind < 7 || volumes.is_empty() {
            return Some(self.create(x, y));
        }
        let volume = volumes[usize::from(y) % volumes.len()];
        let id = volume.id;
        let expected = if fits {
            volume.membership.expected()
        } else {
            Expected {
                epoch: Epoch(1),
                version: u64::from(x),
            }
        };
        let primary = volume.membership.primary.filter(|_| fits).unwrap_or(node);
        let attachment = volume.membership.attachment;
        let all: Vec<_> = volume.replicas.keys().copied().collect();
        let pick = |by: u8| {
            all.get(usize::from(by) % all.len().max(1))
                .copied()
                .unwrap_or(ReplicaId::from_u128(1))
        };
        let (replica, other) = (pick(z), pick(x));
        let member = nth(volume.membership.in_sync.keys(), z).unwrap_or(replica);
        let outside = |id: &&ReplicaId| !volume.membership.in_sync.contains_key(id);
        let joiner = nth(volume.replicas.keys().filter(outside), z).unwrap_or(replica);
        let sealed = |(_, it): &(&ReplicaId, &lockstep_control::Replica)| it.sealed_off;
        let sealed = nth(volume.replicas.iter().filter(sealed).map(|(id, _)| id), z);
        let life = |id: ReplicaId| {
            volume
                .replicas
                .get(&id)
                .map_or(Incarnation(1), |it| it.incarnation)
        };
        let incarnation = volume
            .replicas
            .get(&replica)
            .map_or(Incarnation(1), |it| it.incarnation);
        let new = |minted: u128| NewReplica {
            replica: ReplicaId::from_u128(minted),
            ..new(u128::from(x % 4) + 1)
        };
        let tombstone = state
            .tombstones
            .values()
            .nth(usize::from(z) % state.tombstones.len().max(1));
        let minted = self.mint();
        Some(match kind {
            7 | 8 => {
                let unready = |(_, it): &(&ReplicaId, &lockstep_control::Replica)| !it.ready;
                let waiting = nth(volume.replicas.iter().filter(unready).map(|(id, _)| id), z);
                let replica = waiting.unwrap_or(replica);
                Command::ReplicaReady {
                    volume: id,
                    replica,
                    incarnation: life(replica),
                }
            }
            9 => Command::DeleteVolume { volume: id },
            10 => {
                let it = tombstone?;
                Command::ReplicaGone {
                    volume: it.volume,
                    replica: it.replica,
                    incarnation: it.incarnation,
                }
            }
            24 if sealed.is_some() && z % 3 == 1 => Command::DiscardSealed {
                volume: id,
                replica: sealed?,
                operator: "drawn".into(),
            },
            11 if volume.membership.caretaker => Command::StepDown {
                volume: id,
                expected,
                node: primary,
            },
            11 => Command::ResizeVolume {
                volume: id,
                blocks: u64::from(z) * 8,
            },
            12 | 13 => {
                let attachment = lockstep_control::Attachment {
                    id: a(minted),
                    node,
                };
                Command::Attach {
                    volume: id,
                    attachment,
                }
            }
            14 => Command::Detach {
                volume: id,
                attachment: attachment.map_or(a(9), |it| it.id),
                device_gone: z.is_multiple_of(2),
            },
            15 => Command::DeviceGone {
                volume: id,
                attachment: *volume.fenced.keys().next()?,
            },
            16 | 17 => {
                let node = attachment.map_or(node, |it| it.node);
                Command::Promote {
                    volume: id,
                    expected,
                    node,
                    attachment: attachment.map(|it| it.id),
                    primary_silent: z.is_multiple_of(2),
                }
            }
            18 => Command::Promote {
                volume: id,
                expected,
                node,
                attachment: None,
                primary_silent: z.is_multiple_of(2),
            },
            19 => Command::ChangeInSync {
                volume: id,
                expected,
                node: primary,
                remove: BTreeSet::from([member]),
                add: BTreeMap::new(),
                reason: "drawn".into(),
            },
            20 | 21 => Command::ChangeInSync {
                volume: id,
                expected,
                node: primary,
                remove: if z.is_multiple_of(4) {
                    BTreeSet::from([member])
                } else {
                    BTreeSet::new()
                },
                add: BTreeMap::from([(joiner, life(joiner))]),
                reason: "drawn".into(),
            },
            22 => match z % 3 {
                0 => Command::AddReplica {
                    volume: id,
                    replica: new(minted),
                },
                1 => Command::MoveReplica {
                    volume: id,
                    from: replica,
                    to: new(minted),
                },
                _ => Command::KeepReplica {
                    volume: id,
                    replica,
                },
            },
            23 => Command::RemoveReplica {
                volume: id,
                replica,
                even_below_policy: x.is_multiple_of(2),
            },
            24 => Command::Reincarnate {
                volume: id,
                replica: joiner,
                from: life(joiner),
                to: Incarnation(u64::from(x % 8)),
            },
            _ => match z % 4 {
                0 => Command::ForcePromote {
                    volume: id,
                    expected,
                    replica,
                    incarnation,
                    may_rejoin: BTreeSet::from([other]),
                    operator: "drawn".into(),
                },
                1 => Command::DiscardSealed {
                    volume: id,
                    replica: sealed.unwrap_or(replica),
                    operator: "drawn".into(),
                },
                2 => Command::StepDown {
                    volume: id,
                    expected,
                    node: primary,
                },
                _ => Command::SetPolicy {
                    volume: id,
                    policy: policy(
                        ["2", "*=1", "a=2,b=1", "a=1"][usize::from(x % 4)],
                        Rpo::Strict,
                    ),
                },
            },
        })
    }

    fn cluster_command(&mut self, kind: u8, x: u8, y: u8) -> Command {
        let id = u128::from(x % 5) + 1;
        match kind {
            0 => Command::CordonNode {
                node: n(id),
                cordoned: y.is_multiple_of(3),
            },
            1 if y.is_multiple_of(16) => Command::RebuildGeneration {
                generation: self.log.state.generation + 1,
                barred_voters: BTreeSet::from([u64::from(y)]),
                operator: "drawn".into(),
            },
            1 => Command::PutVoter {
                raft_id: u64::from(y % 6),
                node: n(id),
            },
            2 => Command::RemoveNode { node: n(id) },
            _ => Command::RemoveVoter {
                raft_id: u64::from(y % 6),
            },
        }
    }

    fn create(&mut self, x: u8, y: u8) -> Command {
        let (copies, nodes): (_, &[u128]) = [
            ("2", [1, 3].as_slice()),
            ("*=1", &[2, 4]),
            ("a=2,b=1", &[1, 2, 3]),
            ("a=1", &[1]),
        ][usize::from(x % 4)];
        let rpo = if y.is_multiple_of(2) {
            Rpo::Strict
        } else {
            Rpo::WitnessedDegrade
        };
        let id = VolumeId::from_u128(self.mint());
        let mut command = create(id, &format!("v{}", y % 4), copies, rpo, nodes);
        if let Command::CreateVolume { replicas, .. } = &mut command {
            for replica in replicas {
                replica.replica = ReplicaId::from_u128(self.mint());
            }
        }
        command
    }

    fn step(&mut self, command: Command) {
        let proposal = Proposal {
            at_unix_ms: self.log.at,
            command: command.clone(),
        };
        assert_eq!(decode_proposal(&encode_proposal(&proposal)), Ok(proposal));
        let before = self.log.state.clone();
        let forced = matches!(command, Command::ForcePromote { .. });
        let applied = self.log.apply(command);
        applied
            .changes
            .iter()
            .for_each(|change| self.mirror.follow(change));
        self.check(&before, forced);
    }

    fn check(&mut self, before: &State, forced: bool) {
        let state = &self.log.state;
        for volume in state.volumes.values() {
            let membership = &volume.membership;
            let epoch = self.epochs.entry(volume.id).or_default();
            assert!(membership.epoch >= *epoch, "V7: epochs never go back");
            *epoch = membership.epoch;
            for (id, replica) in &volume.replicas {
                let life = self.lives.entry(*id).or_default();
                assert!(
                    replica.incarnation >= *life,
                    "V7: incarnations never go back"
                );
                *life = replica.incarnation;
                assert!(
                    !self.buried.contains(&id.as_u128()),
                    "R18: a deleted replica is back"
                );
                assert!(
                    !state.tombstones.contains_key(id),
                    "R18: a recorded replica has a tombstone"
                );
            }
            for (id, life) in &membership.in_sync {
                let replica = &volume.replicas[id];
                assert_eq!(
                    replica.incarnation, *life,
                    "R4: members are in the recorded life"
                );
                assert!(replica.ready && !replica.sealed_off);
            }
            if let Some(was) = before.volumes.get(&volume.id) {
                let unready = was.is_ready() && !volume.is_ready();
                assert!(
                    !unready || volume.deleting,
                    "R11: the in-sync set became empty"
                );
                assert!(volume.blocks >= was.blocks, "R8: sizes only grow");
                assert!(
                    volume == was || membership.version > was.membership.version,
                    "every change counts"
                );
                let changed = membership
                    .in_sync
                    .keys()
                    .any(|id| !was.membership.in_sync.contains_key(id));
                let by_primary = was.membership.primary.is_some() || !was.is_ready();
                assert!(
                    !changed || by_primary || forced,
                    "a set grew without a primary"
                );
            }
            if let Some(attachment) = membership.attachment {
                assert!(!volume.fenced.contains_key(&attachment.id), "R12");
                assert!(
                    volume.fenced.values().all(|node| *node != attachment.node),
                    "R12: an old device lives"
                );
            }
            assert!(
                !membership.distrusted || membership.primary.is_none(),
                "a distrusted volume is open"
            );
        }
        self.buried
            .extend(state.tombstones.keys().map(|id| id.as_u128()));
        assert!(self.buried.iter().all(|id| {
            let held = before
                .volumes
                .values()
                .any(|volume| volume.replicas.contains_key(&ReplicaId::from_u128(*id)));
            held || before.tombstones.contains_key(&ReplicaId::from_u128(*id))
                || before.retired.contains(*id)
        }));
    }
}

#[test]
fn histories_reach_every_command_of_volumes() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut accepted: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..400 {
        let mut world = World::new();
        for draw in draw().new_tree(&mut runner).expect("a tree").current() {
            let Some(command) = world.command(draw) else {
                continue;
            };
            let shown = format!("{command:?}");
            let kind = shown
                .split(|c: char| !c.is_alphanumeric())
                .next()
                .expect("a name")
                .to_owned();
            let events = world.log.state.volumes.clone();
            world.step(command);
            *accepted.entry(kind).or_default() += u32::from(world.log.state.volumes != events);
        }
    }
    for kind in [
        "CreateVolume",
        "ReplicaReady",
        "DeleteVolume",
        "ReplicaGone",
        "ResizeVolume",
        "Attach",
        "Detach",
        "DeviceGone",
        "Promote",
        "StepDown",
        "ChangeInSync",
        "AddReplica",
        "MoveReplica",
        "KeepReplica",
        "RemoveReplica",
        "Reincarnate",
        "SetPolicy",
        "ForcePromote",
        "DiscardSealed",
        "RebuildGeneration",
    ] {
        let count = accepted.get(kind).copied().unwrap_or(0);
        assert!(
            count >= 10,
            "{kind} took effect {count} times in all histories: {accepted:?}"
        );
    }
}

/// The one that a draw points at.
fn nth<'a>(mut ids: impl Iterator<Item = &'a ReplicaId> + Clone, by: u8) -> Option<ReplicaId> {
    let count = ids.clone().count().max(1);
    ids.nth(usize::from(by) % count).copied()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_rules(draws in draw()) {
        let mut world = World::new();
        for draw in draws {
            if let Some(command) = world.command(draw) {
                world.step(command);
            }
        }
        let state = &world.log.state;
        prop_assert_eq!(decode_snapshot(&encode_snapshot(state)), Ok(state.clone()));
        let mut whole = Mirror::default();
        state.everything().iter().for_each(|change| whole.follow(change));
        prop_assert_eq!(whole.0, world.mirror.0, "a data plane that follows changes knows all");
    }
}
