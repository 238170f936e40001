//! Forced recovery of the control plane, offline: a log that survived its majority becomes the first
//! of a new cluster generation with one voter (safety.md, "Forced recovery"). And the other side of
//! it: a node whose log was barred sets it aside and joins the new generation under a new raft id.
//!
//! Files change in an order in which a crash leaves the old log, or both, or the new one:
//! the new log is made in `raft.rebuilding` and named `raft.rebuilt` once it is whole and durable;
//! `raft` is set aside; `raft.rebuilt` becomes `raft`. [`finish`] ends what was begun.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use bytes::Bytes;
use lockstep_consensus::log::{LogIdentity, RecoveredLog};
use lockstep_consensus_io::LogFolder;
use lockstep_control::rebuild::{self, OldLog, Successor};
use lockstep_control::{Node, State, encode_snapshot};
use lockstep_types::{ClusterId, NodeId};

use crate::directory::{Directory, DirectoryLock};
use crate::mint;

/// A stopped node's control plane, read whole and locked.
pub struct Stopped {
    directory: Directory,
    cluster: ClusterId,
    node: NodeId,
    log: RecoveredLog,
    state: State,
    _lock: DirectoryLock,
}

/// What a rebuild did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// The new generation.
    pub generation: u32,
    /// Raft ids that are never used again.
    pub barred: BTreeSet<u64>,
    /// Volumes that wait for a forced promotion, by name.
    pub volumes: Vec<String>,
    /// Where the old log lies now.
    pub old_log: PathBuf,
}

impl Stopped {
    /// Reads a stopped node's directory; its log is replayed to the last entry it holds.
    ///
    /// # Errors
    /// The daemon runs, the directory is no node's, or its log is damaged or never held a state.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        let directory = Directory::new(root);
        let (cluster, node) = directory.identity()?.ids()?;
        let lock = directory
            .lock()
            .with_context(|| format!("cannot use {}", root.display()))?;
        finish(&directory)?;
        let mut folder = LogFolder::open(&directory.raft())?;
        let log = folder.recover(cluster, node)?.with_context(|| {
            format!(
                "{} holds no raft log: rebuild on a node that has one",
                directory.raft().display()
            )
        })?;
        drop(folder);
        let survivor = log.survivor();
        let commands = survivor.commands.iter();
        let commands = commands.map(|(index, command)| (*index, command.as_ref()));
        let state = State::replay(survivor.snapshot.map(AsRef::as_ref), commands)?;
        ensure!(
            state.cluster.is_some(),
            "the raft log in {} never received the cluster's state: rebuild on another node",
            directory.raft().display()
        );
        Ok(Self {
            directory,
            cluster,
            node,
            log,
            state,
            _lock: lock,
        })
    }

    /// The cluster's state as this log knows it.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The other nodes that the state knows.
    pub fn others(&self) -> impl Iterator<Item = &Node> {
        let me = self.node;
        self.state.nodes.values().filter(move |node| node.id != me)
    }

    /// Makes this node the sole voter of a new generation. Whoever calls it has made sure that no
    /// majority of the old voters answers, and that a person has typed the cluster's name.
    ///
    /// # Errors
    /// The rules refuse it, or the directory cannot be written; the old log is in use still then, or
    /// the next start goes on with the new one.
    pub fn rebuild(self, operator: &str) -> anyhow::Result<Rebuilt> {
        let survivor = self.log.survivor();
        let raft_id = mint::number();
        let old = OldLog {
            last: survivor.last.index,
            voting: &survivor.voting,
            members: &survivor.members,
        };
        let new = Successor {
            raft_id,
            node: self.node,
            operator,
            at_unix_ms: unix_ms(),
        };
        let rebuild::Rebuilt {
            state,
            index,
            barred,
        } = self.state.rebuild_by_force(old, new)?;
        let data = Bytes::from(encode_snapshot(&state));
        let first = survivor.successor(raft_id, index, data);
        let identity = LogIdentity {
            cluster: self.cluster,
            node: self.node,
            raft_id,
            incarnation: mint::number(),
        };
        let old_log = install(&self.directory, self.log.identity.raft_id, |path| {
            let mut folder = LogFolder::open(path)?;
            folder.create(identity, Some(&first))?;
            Ok(())
        })?;
        let waiting = state.volumes.values().filter(|v| !v.deleting);
        Ok(Rebuilt {
            generation: state.generation,
            barred,
            volumes: waiting.map(|volume| volume.name.clone()).collect(),
            old_log,
        })
    }
}

/// Ends a rebuild that a crash interrupted after its log was whole.
///
/// # Errors
/// The system's.
pub fn finish(directory: &Directory) -> io::Result<()> {
    let (raft, rebuilt) = (directory.raft(), beside(directory, "rebuilt"));
    match (rebuilt.exists(), raft.exists()) {
        (false, _) => Ok(()),
        // The old log was not touched yet: nothing has happened, and nothing must come of it later.
        (true, true) => fs::remove_dir_all(&rebuilt),
        (true, false) => {
            tracing::warn!("a rebuild of the quorum was interrupted and is finished now");
            rename(directory, &rebuilt, &raft)
        }
    }
}

/// Takes a barred log out of use; where it lies now.
///
/// # Errors
/// The system's.
pub fn set_aside(directory: &Directory, raft_id: u64) -> io::Result<PathBuf> {
    let aside = beside(directory, &format!("barred-{raft_id:016x}"));
    rename(directory, &directory.raft(), &aside)?;
    Ok(aside)
}

/// Replaces the log by the one that `make` makes.
fn install(
    directory: &Directory,
    old: u64,
    make: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let rebuilding = beside(directory, "rebuilding");
    let rebuilt = beside(directory, "rebuilt");
    // Left by an attempt that a crash ended before the old log was touched.
    for left in [&rebuilding, &rebuilt] {
        match fs::remove_dir_all(left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    make(&rebuilding)?;
    rename(directory, &rebuilding, &rebuilt)?;
    let aside = set_aside(directory, old)?;
    rename(directory, &rebuilt, &directory.raft())?;
    Ok(aside)
}

fn beside(directory: &Directory, what: &str) -> PathBuf {
    directory.root().join(format!("raft.{what}"))
}

/// Renames inside the directory, durably.
fn rename(directory: &Directory, from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    File::open(directory.root())?.sync_all()
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NodeConfig, RoleName};
    use crate::join::client::NewNode;
    use crate::join::found::found;
    use lockstep_consensus::log::genesis;
    use lockstep_control::Command;

    const OLD: u64 = 77;

    fn commands(count: u64) -> State {
        let mut state = State::new();
        let init = Command::InitCluster {
            id: ClusterId::from_u128(9),
            name: "test".into(),
            ca_certificate: Vec::new(),
            sealed_ca_key: Vec::new(),
        };
        state.apply(2, &init.into()).result.expect("applied");
        for index in 3..3 + count {
            let token = Command::PutToken {
                id: index,
                secret_hash: [0; 32],
                expires_unix: u64::MAX,
                role: lockstep_types::NodeRole::Data,
            };
            state.apply(index, &token.into()).result.expect("applied");
        }
        state
    }

    /// A founded node whose log holds a state.
    fn node(place: &Path) -> Directory {
        let directory = Directory::new(place.join("a1"));
        let new = NewNode {
            node: NodeConfig {
                name: "a1".into(),
                site: "a".into(),
                zone: String::new(),
                rack: String::new(),
                role: RoleName::Data,
            },
            control: "127.0.0.1:7400".into(),
            data: "127.0.0.1:7401".into(),
            metrics: None,
        };
        let identity = found(&directory, "test", &new).expect("founded");
        let (cluster, node) = identity.ids().expect("ids");
        let mut state = commands(3);
        let me = Command::PutNode(Node {
            id: node,
            name: "a1".into(),
            site: "a".into(),
            zone: String::new(),
            rack: String::new(),
            role: lockstep_types::NodeRole::Data,
            control_address: "h:1".into(),
            data_addresses: vec!["h:2".into()],
            cordoned: false,
        });
        state.apply(10, &me.into()).result.expect("applied");
        let mut first = genesis(&[OLD, 5, 6], Bytes::from(encode_snapshot(&state)));
        let metadata = first.metadata.as_mut().expect("there is one");
        (metadata.index, metadata.term) = (10, 4);
        let identity = LogIdentity {
            cluster,
            node,
            raft_id: OLD,
            incarnation: 1,
        };
        let mut folder = LogFolder::open(&directory.raft()).expect("opened");
        folder.create(identity, Some(&first)).expect("created");
        directory
    }

    #[test]
    fn the_survivor_is_sole_voter_of_the_next_generation_and_all_old_ids_are_barred() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = node(place.path());
        let stopped = Stopped::open(directory.root()).expect("read");
        assert_eq!(stopped.state().tokens.len(), 3);
        let rebuilt = stopped.rebuild("me").expect("rebuilt");
        assert_eq!(rebuilt.generation, 1);
        assert_eq!(rebuilt.barred, BTreeSet::from([OLD, 5, 6]));
        assert!(rebuilt.old_log.exists());

        let again = Stopped::open(directory.root()).expect("read again");
        let state = again.state();
        assert_eq!((state.generation, state.tokens.len()), (1, 3));
        assert_eq!(state.voters.barred, rebuilt.barred);
        let voting: Vec<u64> = state.voters.voting.iter().copied().collect();
        assert_eq!(voting, [again.log.identity.raft_id]);
        assert!(!rebuilt.barred.contains(&voting[0]));
        assert_eq!(state.audit.iter().count(), 1);
        let survivor = again.log.survivor();
        assert!(survivor.last.term > 4 && survivor.last.index > 10);
        assert_eq!(again.rebuild("me").expect("once more").generation, 2);
    }

    #[test]
    fn a_crash_at_any_step_leaves_one_log() {
        for moved in [false, true] {
            let place = tempfile::tempdir().expect("a directory");
            let directory = node(place.path());
            let rebuilt = beside(&directory, "rebuilt");
            fs::create_dir(&rebuilt).expect("made");
            fs::write(rebuilt.join("new"), b"").expect("written");
            if moved {
                set_aside(&directory, OLD).expect("moved");
            }
            finish(&directory).expect("finished");
            assert!(!rebuilt.exists());
            assert_eq!(directory.raft().join("new").exists(), moved);
        }
    }

    #[test]
    fn a_running_daemon_is_not_rebuilt_under() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = node(place.path());
        let _lock = directory.lock().expect("locked");
        let error = Stopped::open(directory.root()).err().expect("refused");
        assert!(format!("{error:#}").contains("another daemon runs"));
    }
}
