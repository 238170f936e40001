//! What a volume is to be used as, and by how many: read from the messages that ask for it.

use crate::proto;
use proto::volume_capability::access_mode::Mode;
use proto::volume_capability::{AccessType, MountVolume};
use tonic::Status;

/// Bytes of all mount options together, at most: as many as the kernel takes in one page.
const MAX_OPTIONS: usize = 4096;

/// A file system that can be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileSystem {
    /// The default.
    Ext4,
    /// At least 300 MiB.
    Xfs,
    /// At least 128 MiB.
    Btrfs,
}

impl FileSystem {
    /// As mount and blkid call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Bytes of the smallest device that its mkfs takes.
    pub fn least(self) -> u64 {
        match self {
            Self::Ext4 => 16 << 20,
            Self::Xfs => 300 << 20,
            Self::Btrfs => 128 << 20,
        }
    }

    /// The one of that name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Ext4, Self::Xfs, Self::Btrfs]
            .into_iter()
            .find(|it| it.name() == name)
    }
}

/// How it is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Access {
    /// As a block device.
    Block,
    /// As a mounted file system.
    Mount {
        /// Which one is made on an empty volume.
        filesystem: FileSystem,
        /// Each as it was given: one option, or several with commas.
        options: Vec<String>,
    },
}

/// A use that this driver serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capability {
    /// How.
    pub access: Access,
    /// By one pod at a time (ReadWriteOncePod).
    pub one_pod: bool,
    /// Nobody writes.
    pub read_only: bool,
}

/// Reads one.
///
/// # Errors
/// INVALID_ARGUMENT: something is missing, unknown, or not served; the message says what is.
pub fn read(capability: Option<&proto::VolumeCapability>) -> Result<Capability, Status> {
    let capability =
        capability.ok_or_else(|| Status::invalid_argument("the volume capability is missing"))?;
    let mode = capability.access_mode.as_ref().map(|it| it.mode());
    let (one_pod, read_only) = match mode {
        Some(Mode::SingleNodeWriter | Mode::SingleNodeMultiWriter) => (false, false),
        Some(Mode::SingleNodeSingleWriter) => (true, false),
        Some(Mode::SingleNodeReaderOnly) => (false, true),
        Some(
            several @ (Mode::MultiNodeReaderOnly
            | Mode::MultiNodeSingleWriter
            | Mode::MultiNodeMultiWriter),
        ) => {
            let words = format!(
                "{} is not served: a volume is attached to one node at a time; ReadWriteOnce and ReadWriteOncePod are",
                several.as_str_name()
            );
            return Err(Status::invalid_argument(words));
        }
        Some(Mode::Unknown) | None => {
            return Err(Status::invalid_argument("the access mode is missing"));
        }
    };
    let access = match &capability.access_type {
        Some(AccessType::Block(_)) => Access::Block,
        Some(AccessType::Mount(mount)) => read_mount(mount)?,
        None => {
            return Err(Status::invalid_argument(
                "the access type is missing: block or mount",
            ));
        }
    };
    Ok(Capability {
        access,
        one_pod,
        read_only,
    })
}

/// Reads all that a volume is to be used as.
///
/// # Errors
/// As [`read`], and if there are none.
pub fn read_all(capabilities: &[proto::VolumeCapability]) -> Result<Vec<Capability>, Status> {
    if capabilities.is_empty() {
        return Err(Status::invalid_argument(
            "the volume capabilities are missing",
        ));
    }
    capabilities.iter().map(|it| read(Some(it))).collect()
}

/// Bytes that a volume must have for all of them.
pub fn least_bytes(capabilities: &[Capability]) -> u64 {
    let least = capabilities.iter().map(|it| match it.access {
        Access::Block => 0,
        Access::Mount { filesystem, .. } => filesystem.least(),
    });
    least.max().unwrap_or(0)
}

fn read_mount(mount: &MountVolume) -> Result<Access, Status> {
    let filesystem = match mount.fs_type.as_str() {
        "" => FileSystem::Ext4,
        named => FileSystem::of(named).ok_or_else(|| {
            let shown: String = named.chars().take(40).filter(|c| !c.is_control()).collect();
            let words = format!("file system '{shown}' is not served; ext4, xfs and btrfs are");
            Status::invalid_argument(words)
        })?,
    };
    let bytes: usize = mount.mount_flags.iter().map(|flag| flag.len() + 1).sum();
    if bytes > MAX_OPTIONS {
        let words = format!("{bytes} bytes of mount options; at most {MAX_OPTIONS} are taken");
        return Err(Status::invalid_argument(words));
    }
    if mount.mount_flags.iter().any(|flag| flag.contains('\0')) {
        return Err(Status::invalid_argument("a mount option contains a NUL"));
    }
    if !mount.volume_mount_group.is_empty() {
        return Err(Status::invalid_argument(
            "volume_mount_group is not served: the CO applies the group (fsGroupPolicy File)",
        ));
    }
    Ok(Access::Mount {
        filesystem,
        options: mount.mount_flags.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::volume_capability::{AccessMode, BlockVolume};

    fn capability(access: Option<AccessType>, mode: Mode) -> proto::VolumeCapability {
        proto::VolumeCapability {
            access_type: access,
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    fn mount(filesystem: &str) -> Option<AccessType> {
        Some(AccessType::Mount(MountVolume {
            fs_type: filesystem.into(),
            ..MountVolume::default()
        }))
    }

    #[test]
    fn what_one_node_can_use_is_served() {
        let block = Some(AccessType::Block(BlockVolume {}));
        let read_block = read(Some(&capability(block, Mode::SingleNodeSingleWriter)));
        assert_eq!(
            read_block.expect("served"),
            Capability {
                access: Access::Block,
                one_pod: true,
                read_only: false
            }
        );
        let all = [
            capability(mount(""), Mode::SingleNodeWriter),
            capability(mount("xfs"), Mode::SingleNodeReaderOnly),
        ];
        let all = read_all(&all).expect("served");
        assert!(all[1].read_only);
        assert_eq!(least_bytes(&all), 300 << 20);
    }

    #[test]
    fn the_rest_is_refused_with_words() {
        let cases = [
            (None, "missing"),
            (
                Some(capability(None, Mode::SingleNodeWriter)),
                "access type",
            ),
            (Some(capability(mount(""), Mode::Unknown)), "access mode"),
            (
                Some(capability(mount("ntfs"), Mode::SingleNodeWriter)),
                "ext4",
            ),
            (
                Some(capability(mount(""), Mode::MultiNodeMultiWriter)),
                "ReadWriteOnce",
            ),
        ];
        for (case, word) in cases {
            let refused = read(case.as_ref()).expect_err("refused");
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(word), "{}", refused.message());
        }
        assert!(read_all(&[]).is_err());
    }
}
