//! Real folders, real threads, real time: three voters in one process, joined by channels.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use lockstep_consensus::log::{self, LogIdentity, SEGMENT_BYTES};
use lockstep_consensus::{Config, Member, Reconfiguration, Refusal, StateMachine};
use lockstep_consensus_io::{
    Applied, ConsensusError, ConsensusHandle, FolderError, LogFolder, RaftTransport, start,
};
use lockstep_types::{ClusterId, NodeId};

const CLUSTER: ClusterId = ClusterId::from_u128(7);
/// Far longer than anything here takes; a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps every command, and answers with how many there are.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<Vec<u8>>>>);

impl Journal {
    fn commands(&self) -> Vec<Vec<u8>> {
        self.0.lock().expect("not poisoned").clone()
    }
}

impl StateMachine for Journal {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Vec<u8> {
        let mut commands = self.0.lock().expect("not poisoned");
        commands.push(command.to_vec());
        commands.len().to_string().into_bytes()
    }

    fn snapshot(&self) -> Bytes {
        self.commands().join(&b'\n').into()
    }

    fn restore(&mut self, snapshot: &[u8]) {
        let lines = snapshot
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        *self.0.lock().expect("not poisoned") = lines.map(<[u8]>::to_vec).collect();
    }

    fn members(&self) -> Vec<Member> {
        (1..=3)
            .map(|id| Member {
                raft_id: id,
                node: node(id),
                witness: id == 3,
            })
            .collect()
    }
}

/// Hands frames straight to the other voters.
#[derive(Clone, Default)]
struct Wires(Arc<Mutex<BTreeMap<NodeId, ConsensusHandle>>>);

struct Wire {
    from: NodeId,
    wires: Wires,
}

impl RaftTransport for Wire {
    fn send(&self, to: NodeId, frame: Bytes) {
        if let Some(handle) = self.wires.0.lock().expect("not poisoned").get(&to) {
            handle.deliver(self.from, frame);
        }
    }
}

fn node(id: u64) -> NodeId {
    NodeId::from_u128(id.into())
}

fn identity(id: u64) -> LogIdentity {
    LogIdentity {
        cluster: CLUSTER,
        node: node(id),
        raft_id: id,
        incarnation: 40 + id,
    }
}

/// Starts a voter from its folder, which gets a log if it has none.
async fn voter(
    path: &Path,
    id: u64,
    founders: &[u64],
    wires: &Wires,
) -> (ConsensusHandle, Journal) {
    let mut folder = LogFolder::open(path).expect("a free folder");
    let log = match folder.recover(CLUSTER, node(id)).expect("a sound log") {
        Some(log) => log,
        None => folder
            .create(identity(id), Some(&log::genesis(founders, Bytes::new())))
            .expect("space"),
    };
    let journal = Journal::default();
    let wire = Wire {
        from: node(id),
        wires: wires.clone(),
    };
    let boot = log.writer.identity().incarnation + u64::from(std::process::id());
    let config = Config {
        witness: id == 3,
        boot,
    };
    let handle = start(folder, log, config, journal.clone(), wire).expect("a sound log");
    let others: Vec<(NodeId, ConsensusHandle)> = wires
        .0
        .lock()
        .expect("not poisoned")
        .iter()
        .map(|(node, handle)| (*node, handle.clone()))
        .collect();
    wires
        .0
        .lock()
        .expect("not poisoned")
        .insert(node(id), handle.clone());
    for (other, other_handle) in others {
        handle.set_link(other, true).await;
        other_handle.set_link(node(id), true).await;
    }
    (handle, journal)
}

async fn unplug(id: u64, wires: &Wires) {
    let handle = wires
        .0
        .lock()
        .expect("not poisoned")
        .remove(&node(id))
        .expect("it was plugged in");
    handle.stop().await;
    let others: Vec<ConsensusHandle> = wires
        .0
        .lock()
        .expect("not poisoned")
        .values()
        .cloned()
        .collect();
    for other in others {
        other.set_link(node(id), false).await;
    }
}

/// Proposes until it is acknowledged.
async fn commit(handle: &ConsensusHandle, command: &str) -> Applied {
    let attempts = async {
        loop {
            match handle.propose(Bytes::from(command.to_owned())).await {
                Ok(applied) => return applied,
                Err(ConsensusError::Refused { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, attempts)
        .await
        .expect("it commits in time")
}

async fn leads(handle: &ConsensusHandle) {
    let mut role = handle.role();
    let led = role.wait_for(|role| role.leader.is_some());
    tokio::time::timeout(PATIENCE, led)
        .await
        .expect("a leader in time")
        .expect("the voter lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_voter_remembers_what_it_acknowledged() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("raft");
    let wires = Wires::default();
    let (handle, _) = voter(&path, 1, &[1], &wires).await;
    for n in 1..=30 {
        let applied = commit(&handle, &format!("command {n}")).await;
        assert_eq!(applied.answer, n.to_string().into_bytes());
    }
    unplug(1, &wires).await;
    assert_eq!(handle.stopped().await, "it was told to");
    assert!(matches!(
        handle.propose(Bytes::from_static(b"late")).await,
        Err(ConsensusError::Stopped { .. })
    ));

    let (handle, journal) = voter(&path, 1, &[1], &wires).await;
    let applied = commit(&handle, "command 31").await;
    assert_eq!(applied.answer, b"31");
    let expected: Vec<Vec<u8>> = (1..=31)
        .map(|n| format!("command {n}").into_bytes())
        .collect();
    assert_eq!(journal.commands(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_voters_agree_and_one_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let wires = Wires::default();
    let mut voters = BTreeMap::new();
    for id in 1..=3 {
        voters.insert(
            id,
            voter(&dir.path().join(id.to_string()), id, &[1, 2, 3], &wires).await,
        );
    }
    commit(&voters[&1].0, "first").await;
    commit(&voters[&2].0, "second").await;
    unplug(1, &wires).await;
    commit(&voters[&2].0, "without 1").await;
    voters.insert(1, voter(&dir.path().join("1"), 1, &[1, 2, 3], &wires).await);
    leads(&voters[&1].0).await;
    let read = async {
        // A read is refused while its leader is being replaced.
        while voters[&1].0.read_index().await.is_err() {}
    };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("an answer in time");
    let of = |id: u64| voters[&id].1.commands();
    assert_eq!(of(1), of(2));
    assert!(of(1).contains(&b"without 1".to_vec()));
    let status = voters[&1].0.status().await.expect("it lives");
    assert_eq!((status.raft_id, status.conf.voters.len()), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_changes_the_voters() {
    let dir = tempfile::tempdir().expect("a folder");
    let wires = Wires::default();
    let mut voters = BTreeMap::new();
    for id in 1..=3 {
        voters.insert(
            id,
            voter(&dir.path().join(id.to_string()), id, &[1, 2, 3], &wires)
                .await
                .0,
        );
    }
    commit(&voters[&1], "begin").await;
    let drop_3 = Reconfiguration {
        remove: [3].into(),
        ..Reconfiguration::default()
    };
    let mut changed = 0;
    for handle in voters.values() {
        match handle.reconfigure(drop_3.clone()).await {
            Ok(_) => changed += 1,
            Err(ConsensusError::Refused {
                reason: Refusal::NotLeader,
                leader,
            }) => assert!(leader.is_some()),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(changed, 1);
    let status = voters[&1].status().await.expect("it lives");
    assert!(
        status.conf.voters.len() == 2 || status.conf.voters.contains(&3),
        "1 may have yet to hear of it"
    );
}

#[test]
fn two_daemons_cannot_share_a_log() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = LogFolder::open(dir.path()).expect("a free folder");
    let second = LogFolder::open(dir.path()).expect_err("it is taken");
    assert!(matches!(second, FolderError::InUse { .. }), "{second}");
    drop(first);
    LogFolder::open(dir.path()).expect("free again");
}

#[test]
fn a_log_is_not_overwritten() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut folder = LogFolder::open(dir.path()).expect("a free folder");
    assert!(
        folder
            .recover(CLUSTER, node(1))
            .expect("nothing is no corruption")
            .is_none()
    );
    folder.create(identity(1), None).expect("space");
    let again = folder.create(identity(2), None).expect_err("there is one");
    assert!(matches!(again, FolderError::Exists { .. }), "{again}");
    // Neither is a damaged one.
    let segment = dir.path().join(log::segment_name(1));
    let mut bytes = std::fs::read(&segment).expect("it is there");
    assert_eq!(bytes.len() as u64, SEGMENT_BYTES);
    bytes[10] ^= 1;
    std::fs::write(&segment, bytes).expect("space");
    assert!(matches!(
        folder.create(identity(2), None),
        Err(FolderError::Exists { .. })
    ));
    let corrupt = folder.recover(CLUSTER, node(1)).expect_err("damaged");
    assert!(
        corrupt
            .to_string()
            .contains("log-0000000000000001 at byte 0"),
        "{corrupt}"
    );
}

#[test]
fn what_a_crash_left_unfinished_is_removed() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut folder = LogFolder::open(dir.path()).expect("a free folder");
    folder
        .create(identity(1), Some(&log::genesis(&[1], Bytes::new())))
        .expect("space");
    let unfinished = dir.path().join("snapshot-0000000000000009.unfinished");
    let orphan = dir.path().join("snapshot-0000000000000009");
    std::fs::write(&unfinished, b"half").expect("space");
    std::fs::write(&orphan, b"never recorded").expect("space");
    let segment = dir.path().join(log::segment_name(1));
    let mut bytes = std::fs::read(&segment).expect("it is there");
    bytes[3 * 4096..3 * 4096 + 4].copy_from_slice(b"torn");
    std::fs::write(&segment, bytes).expect("space");

    let log = folder
        .recover(CLUSTER, node(1))
        .expect("a crash is no corruption")
        .expect("a log");
    assert!(log.torn.is_some());
    assert!(!unfinished.exists() && !orphan.exists());
    assert!(
        folder
            .recover(CLUSTER, node(1))
            .expect("sound")
            .expect("a log")
            .torn
            .is_none(),
        "cleaned up"
    );
}

/// A file system of 6 MiB takes one segment and not two. Runs in a mount namespace of its own.
#[test]
fn a_full_disk_is_survived() {
    let exe = std::env::current_exe().expect("this test");
    let inside = "a_full_disk_is_survived_inside";
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount"])
        .arg(exe);
    let status = command
        .args(["--exact", inside, "--ignored", "--nocapture"])
        .status();
    assert!(status.expect("unshare (util-linux) is installed").success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a file system; a_full_disk_is_survived runs it in a namespace"]
async fn a_full_disk_is_survived_inside() {
    let dir = tempfile::tempdir().expect("a folder");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"])
        .arg(dir.path())
        .status();
    assert!(mounted.expect("mount is installed").success());
    let wires = Wires::default();
    let path = dir.path().join("raft");
    let (handle, journal) = voter(&path, 1, &[1], &wires).await;
    let large = "x".repeat(900_000);
    let mut acknowledged = 0;
    let stalled = loop {
        match handle.propose(Bytes::from(large.clone())).await {
            Ok(_) => acknowledged += 1,
            Err(ConsensusError::Refused {
                reason: Refusal::NoLeader,
                ..
            }) => leads(&handle).await,
            Err(error) => break error,
        }
        assert!(acknowledged < 10, "the disk is never full");
    };
    assert!(acknowledged >= 3, "the first segment takes them");
    let unknown = ConsensusError::Refused {
        reason: Refusal::OutcomeUnknown,
        leader: Some(node(1)),
    };
    assert_eq!(stalled, unknown, "the attempt that met the full disk");
    let refused = handle
        .propose(Bytes::from_static(b"more"))
        .await
        .expect_err("full");
    assert!(
        matches!(
            refused,
            ConsensusError::Refused {
                reason: Refusal::StorageFull,
                ..
            }
        ),
        "{refused}"
    );

    let grown = Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(dir.path())
        .status();
    assert!(grown.expect("mount is installed").success());
    let applied = commit(&handle, "space again").await;
    assert_eq!(
        applied.answer,
        (acknowledged + 2).to_string().into_bytes(),
        "the stalled one took effect after all"
    );
    unplug(1, &wires).await;
    let (handle, recovered) = voter(&path, 1, &[1], &wires).await;
    commit(&handle, "and after a restart").await;
    assert_eq!(
        recovered.commands()[..acknowledged + 2],
        journal.commands()[..]
    );
    unplug(1, &wires).await;
    assert!(
        Command::new("umount")
            .arg(dir.path())
            .status()
            .expect("umount is installed")
            .success()
    );
}
