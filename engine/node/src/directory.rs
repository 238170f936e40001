//! A node's data directory.
//!
//! | path | what |
//! |---|---|
//! | `node.toml` | configuration |
//! | `identity.toml` | cluster and node id; the first addresses to dial |
//! | `certs/` | ca.pem, node.pem, node.key |
//! | `cluster-secret` | opens the wrapped CA key; data nodes only, 0600 |
//! | `raft/` | the raft log |
//! | `raft.barred-ID/` | a log that a forced rebuild put out of use; kept for whoever wants to look |
//! | `pools/NAME.toml` | where a pool is, and its device id |
//! | `devices/ATTACHMENT` | the FUSE mount behind a block device of a volume attached here (R12) |
//! | `keeper.sock` | the keeper of those devices, 0600 |
//! | `admin.sock` | administration, 0600 |
//! | `exports/VOLUME.sock` | NBD of an attached volume, 0600 |
//! | `lock` | held by the running daemon |

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lockstep_types::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};

use crate::ending;
use crate::join::protocol::Member;

/// Paths inside a data directory.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

/// `identity.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The cluster's id.
    pub cluster: String,
    /// This node's id.
    pub node: String,
    /// Made by `cluster init`: the first daemon start bootstraps the control plane.
    #[serde(default)]
    pub founder: bool,
    /// The cluster's label; of a founder only.
    #[serde(default)]
    pub cluster_name: String,
    /// The members when this node joined.
    #[serde(default)]
    pub members: Vec<Member>,
}

impl Identity {
    /// The ids, parsed.
    ///
    /// # Errors
    /// The file was changed by hand into something else.
    pub fn ids(&self) -> anyhow::Result<(ClusterId, NodeId)> {
        Ok((self.cluster.parse()?, self.node.parse()?))
    }
}

/// The directory's lock; released when the process ends, however it ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl Directory {
    /// The directory at `root`; nothing is touched.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Creates it, mode 0700, with its inner directories.
    ///
    /// # Errors
    /// The system's.
    pub fn create(&self) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for directory in [
            self.root.clone(),
            self.raft(),
            self.pools(),
            self.attachments(),
            self.exports(),
        ] {
            builder.create(directory)?;
        }
        Ok(())
    }

    /// Takes the lock: one daemon a directory. A daemon that was killed may hold it until the kernel
    /// has ended its last disk operation; that is waited for, a living one is not.
    ///
    /// # Errors
    /// Another daemon holds it, or the system's.
    pub fn lock(&self) -> io::Result<DirectoryLock> {
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        ending::wait_while(
            &format!("the daemon that ran in {} to end", self.root.display()),
            || file.try_lock(),
            |error| {
                matches!(error, fs::TryLockError::WouldBlock)
                    && !ending::is_held_by_the_living(&path)
            },
        )
        .map_err(|error| match error {
            fs::TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::AddrInUse,
                format!(
                    "another daemon runs in {}; stop it first ('lockstep down' or SIGTERM)",
                    self.root.display()
                ),
            ),
            fs::TryLockError::Error(error) => error,
        })?;
        Ok(DirectoryLock { _file: file })
    }

    /// Itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `node.toml`.
    pub fn config(&self) -> PathBuf {
        self.root.join("node.toml")
    }

    /// `certs/`.
    pub fn certificates(&self) -> PathBuf {
        self.root.join("certs")
    }

    /// `raft/`.
    pub fn raft(&self) -> PathBuf {
        self.root.join("raft")
    }

    /// `pools/`.
    pub fn pools(&self) -> PathBuf {
        self.root.join("pools")
    }

    /// `attachments/`.
    pub fn attachments(&self) -> PathBuf {
        self.root.join("attachments")
    }

    /// `exports/`.
    pub fn exports(&self) -> PathBuf {
        self.root.join("exports")
    }

    /// The NBD socket of a volume.
    pub fn export(&self, volume: &str) -> PathBuf {
        self.exports().join(format!("{volume}.sock"))
    }

    /// `devices/`.
    pub fn devices(&self) -> PathBuf {
        self.root.join("devices")
    }

    /// `keeper.sock`.
    pub fn keeper_socket(&self) -> PathBuf {
        self.root.join("keeper.sock")
    }

    /// `admin.sock`.
    pub fn admin_socket(&self) -> PathBuf {
        self.root.join("admin.sock")
    }

    /// Reads `identity.toml`.
    ///
    /// # Errors
    /// Missing or malformed.
    pub fn identity(&self) -> anyhow::Result<Identity> {
        let path = self.root.join("identity.toml");
        let text = fs::read_to_string(&path).map_err(|e| {
            anyhow::anyhow!("cannot read {}: {e}; 'lockstep cluster init' or 'lockstep node join' makes a data directory", path.display())
        })?;
        toml::from_str(&text).map_err(|e| anyhow::anyhow!("{} is refused:\n{e}", path.display()))
    }

    /// Writes `identity.toml`.
    ///
    /// # Errors
    /// The system's.
    pub fn write_identity(&self, identity: &Identity) -> io::Result<()> {
        let text = toml::to_string(identity).expect("an identity is plain TOML");
        replace(&self.root.join("identity.toml"), text.as_bytes())
    }

    /// The secret that opens the wrapped CA key; none on a witness.
    ///
    /// # Errors
    /// The system's, or a file of another length.
    pub fn cluster_secret(&self) -> io::Result<Option<[u8; 32]>> {
        match fs::read(self.root.join("cluster-secret")) {
            Ok(bytes) => bytes.try_into().map(Some).map_err(|_| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "cluster-secret is not 32 bytes; copy it from another data node",
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps the secret that opens the wrapped CA key.
    ///
    /// # Errors
    /// The system's.
    pub fn write_cluster_secret(&self, secret: &[u8; 32]) -> io::Result<()> {
        replace(&self.root.join("cluster-secret"), secret)
    }
}

/// Writes a file whole or not at all, mode 0600: beside it, synced, renamed, directory synced.
///
/// # Errors
/// The system's.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().expect("files lie in a directory");
    let name = path
        .file_name()
        .expect("files have names")
        .to_string_lossy();
    let temporary = directory.join(format!(".{name}.new"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen;

    #[test]
    fn one_daemon_a_directory() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(place.path().join("n1"));
        directory.create().expect("created");
        let lock = directory.lock().expect("free");
        assert!(
            directory
                .lock()
                .expect_err("held")
                .to_string()
                .contains("another daemon")
        );
        drop(lock);
        directory.lock().expect("free again");
    }

    const FROZEN: &str = r#"cluster = "00000000000000000000000000000001"
node = "00000000000000000000000000000002"
founder = true
cluster_name = "c"

[[members]]
node = "00000000000000000000000000000003"
role = "witness"
address = "h:1"
"#;

    #[test]
    fn golden_text_of_an_identity() {
        let identity: Identity = frozen::read("identity.toml", toml::from_str(FROZEN));
        assert!(identity.founder && identity.cluster_name == "c");
        assert_eq!(identity.members[0].address, "h:1");
        let now = toml::to_string(&identity).expect("plain TOML");
        frozen::assert_frozen("identity.toml", &now, FROZEN);
        // A node that joined has no more than this.
        let least = "cluster = \"1\"\nnode = \"2\"\n";
        frozen::read("identity.toml", toml::from_str::<Identity>(least));
    }

    #[test]
    fn identity_and_secret_round_trip() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(place.path());
        directory.create().expect("created");
        assert_eq!(directory.cluster_secret().expect("reads"), None);
        directory.write_cluster_secret(&[7; 32]).expect("writes");
        assert_eq!(directory.cluster_secret().expect("reads"), Some([7; 32]));
        let identity = Identity {
            cluster: ClusterId::from_u128(1).to_string(),
            node: NodeId::from_u128(2).to_string(),
            founder: true,
            cluster_name: "c".into(),
            members: vec![Member {
                node: NodeId::from_u128(3).to_string(),
                role: crate::join::protocol::Role::Witness,
                address: "h:1".into(),
            }],
        };
        directory.write_identity(&identity).expect("writes");
        let read = directory.identity().expect("reads");
        assert_eq!(read, identity);
        assert_eq!(
            read.ids().expect("ids"),
            (ClusterId::from_u128(1), NodeId::from_u128(2))
        );
    }
}
