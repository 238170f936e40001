//! File systems on a device: which one is there, making one where certainly nothing is, checking one before
//! it is mounted, growing one.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use lockstep_types::{BLOCK, VolumeId};

use super::command::{run, succeed};
use super::{HostError, marker};
use crate::capability::FileSystem;

/// A look at the first blocks of a device.
const LOOK: Duration = Duration::from_secs(30);
/// Making or growing a file system, checking one.
const WORK: Duration = Duration::from_secs(600);

/// What is on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// One of the file systems that we mount.
    FileSystem(FileSystem),
    /// Something that was recognised and that is not for us.
    Other(String),
    /// Nothing that anybody recognises.
    Unknown,
}

/// Looks at a device.
///
/// # Errors
/// blkid cannot tell for sure.
pub async fn probe(device: &Path) -> Result<Content, HostError> {
    let device = device.display().to_string();
    let said = run("blkid", &["-p", "-o", "export", &device], LOOK).await?;
    match said.code {
        Some(0) => Ok(content_of(&said.output)),
        Some(2) if said.words.is_empty() => Ok(Content::Unknown),
        // 8: more than one signature, and no way to tell which one counts.
        _ => Err(HostError::Refused(format!(
            "blkid cannot tell what is on {device}, which stays as it is: {}",
            said.words
        ))),
    }
}

fn content_of(output: &str) -> Content {
    let value = |key: &str| {
        output
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    let kind = value("TYPE").unwrap_or_default();
    let ours = [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Btrfs];
    match ours.into_iter().find(|it| it.name() == kind) {
        Some(filesystem) => Content::FileSystem(filesystem),
        None => Content::Other(match value("PTTYPE") {
            Some(table) if kind.is_empty() => format!("a partition table ({table})"),
            _ if kind.is_empty() => "something that blkid recognises".into(),
            _ => kind.to_owned(),
        }),
    }
}

/// A device whose file system may have to be made.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The volume.
    pub volume: VolumeId,
    /// Its block device.
    pub device: &'a Path,
    /// Bytes.
    pub bytes: u64,
}

/// Makes sure that the wished file system is there: it was found, or nothing was and the volume is blank, and
/// it is made. Whatever else there is stays as it is.
///
/// # Errors
/// Something else is there; mkfs fails.
pub async fn ensure(
    candidate: Candidate<'_>,
    found: Content,
    blank: bool,
    wished: FileSystem,
) -> Result<(), HostError> {
    let volume = candidate.volume;
    match found {
        Content::FileSystem(found) if found == wished => {}
        Content::FileSystem(found) => {
            return Err(HostError::Refused(format!(
                "volume {volume} holds {}, and {} is asked for; it stays as it is",
                found.name(),
                wished.name()
            )));
        }
        Content::Other(what) => {
            return Err(HostError::Refused(format!(
                "volume {volume} holds {what}; it is not formatted"
            )));
        }
        Content::Unknown => {
            if !blank && !has_note(candidate)? {
                return Err(HostError::Refused(format!(
                    "volume {volume} has been written to, and nobody recognises what is on it; it is not formatted. If it may be, discard all of it first (blkdiscard)"
                )));
            }
            put_note(candidate)?;
            make(candidate, wished).await?;
        }
    }
    // Before the first mount, whoever made the file system and was interrupted then.
    if has_note(candidate)? {
        clear_note(candidate)?;
    }
    Ok(())
}

/// Makes a file system on a device that is certainly blank.
///
/// # Errors
/// The tool's.
pub async fn make(candidate: Candidate<'_>, wished: FileSystem) -> Result<(), HostError> {
    let device = candidate.device.display().to_string();
    let arguments: &[&str] = match wished {
        // No discard: the volume is blank.
        FileSystem::Ext4 => &["-q", "-F", "-m0", "-E", "nodiscard", &device],
        FileSystem::Xfs => &["-q", "-f", "-K", &device],
        FileSystem::Btrfs => &["-q", "-f", "-K", &device],
    };
    tracing::info!(volume = %candidate.volume, filesystem = wished.name(), "making the file system");
    succeed(&format!("mkfs.{}", wished.name()), arguments, WORK).await?;
    let device = File::open(candidate.device).and_then(|device| device.sync_all());
    device.map_err(|error| HostError::failed("flush a new file system", error))
}

/// Whether the note lies there that something is being made.
pub(super) fn has_note(candidate: Candidate<'_>) -> Result<bool, HostError> {
    let mut block = [0; BLOCK];
    let read = File::open(candidate.device)
        .and_then(|device| device.read_exact_at(&mut block, marker::place(candidate.bytes)));
    read.map_err(|error| HostError::failed(format!("read {}", candidate.device.display()), error))?;
    Ok(marker::is_of(&block, candidate.volume))
}

/// Puts it there, durably.
pub(super) fn put_note(candidate: Candidate<'_>) -> Result<(), HostError> {
    write_note(candidate, &marker::block(candidate.volume))
}

/// Takes it off, durably.
pub(super) fn clear_note(candidate: Candidate<'_>) -> Result<(), HostError> {
    write_note(candidate, &[0; BLOCK])
}

fn write_note(candidate: Candidate<'_>, block: &[u8]) -> Result<(), HostError> {
    let write = || {
        let device = OpenOptions::new().write(true).open(candidate.device)?;
        device.write_all_at(block, marker::place(candidate.bytes))?;
        device.sync_all()
    };
    write()
        .map_err(|error| HostError::failed(format!("write {}", candidate.device.display()), error))
}

/// Checks a file system that is not mounted; what can be repaired without a question is.
///
/// # Errors
/// It is damaged, and a person must decide.
pub async fn check(device: &Path, filesystem: FileSystem) -> Result<(), HostError> {
    // xfs and btrfs repair themselves while they are mounted, from their own logs.
    if filesystem != FileSystem::Ext4 {
        return Ok(());
    }
    check_with(&["-p", &device.display().to_string()]).await
}

async fn check_with(arguments: &[&str]) -> Result<(), HostError> {
    let said = run("e2fsck", arguments, WORK).await?;
    match said.code {
        // 1 and 2: errors were corrected.
        Some(0..=2) => Ok(()),
        _ => Err(HostError::Refused(format!(
            "the file system is damaged, and e2fsck wants a person to decide: {}",
            said.words
        ))),
    }
}

/// Grows a file system that is not mounted to its device, where its kind can be grown so: a volume may have
/// grown while it was nowhere mounted, and ext4 grows without a privilege then.
///
/// # Errors
/// The tool's.
pub async fn grow_unmounted(
    candidate: Candidate<'_>,
    filesystem: FileSystem,
) -> Result<(), HostError> {
    if filesystem != FileSystem::Ext4 {
        return Ok(());
    }
    let device = candidate.device.display().to_string();
    let said = succeed("dumpe2fs", &["-h", &device], LOOK).await?;
    let bytes = ext4_bytes(&said.output);
    let bytes = bytes.ok_or_else(|| HostError::failed("read what dumpe2fs says", said.words))?;
    // Less than a block group is not worth a check of everything, and may not be usable.
    if bytes + (128 << 20) > candidate.bytes && bytes * 2 > candidate.bytes {
        return Ok(());
    }
    // What resize2fs wants to have been done before.
    check_with(&["-f", "-p", &device]).await?;
    succeed("resize2fs", &[&device], WORK).await.map(drop)
}

/// Bytes of a file system, from its header as dumpe2fs prints it.
fn ext4_bytes(header: &str) -> Option<u64> {
    let value = |name: &str| -> Option<u64> {
        let line = header.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    value("Block count:")?.checked_mul(value("Block size:")?)
}

/// Grows a file system to its device; it may be mounted, and xfs and btrfs must be, at `mounted`.
///
/// # Errors
/// The tool's.
pub async fn grow(device: &Path, filesystem: FileSystem, mounted: &Path) -> Result<(), HostError> {
    let (device, mounted) = (device.display().to_string(), mounted.display().to_string());
    let (tool, arguments): (_, &[&str]) = match filesystem {
        FileSystem::Ext4 => ("resize2fs", &[&device]),
        FileSystem::Xfs => ("xfs_growfs", &["-d", &mounted]),
        FileSystem::Btrfs => ("btrfs", &["filesystem", "resize", "max", &mounted]),
    };
    succeed(tool, arguments, WORK).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blkid_says_is_read() {
        let ext4 = "DEVNAME=/dev/loop0\nUUID=1\nTYPE=ext4\nUSAGE=filesystem";
        assert_eq!(content_of(ext4), Content::FileSystem(FileSystem::Ext4));
        let luks = "DEVNAME=/dev/loop0\nTYPE=crypto_LUKS\nUSAGE=crypto";
        assert_eq!(content_of(luks), Content::Other("crypto_LUKS".into()));
        let table = "DEVNAME=/dev/loop0\nPTUUID=1\nPTTYPE=gpt";
        assert_eq!(
            content_of(table),
            Content::Other("a partition table (gpt)".into())
        );
    }

    #[test]
    fn the_size_of_a_file_system_is_read() {
        let header =
            "Block count:              16384\nFree blocks:   1\nBlock size:               4096\n";
        assert_eq!(ext4_bytes(header), Some(64 << 20));
        assert_eq!(ext4_bytes("Block count: x"), None);
    }

    #[tokio::test]
    async fn a_device_is_probed_without_being_touched() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("image");
        File::create(&path)
            .and_then(|it| it.set_len(64 << 20))
            .expect("made");
        assert_eq!(probe(&path).await.expect("told"), Content::Unknown);
        let image = path.display().to_string();
        succeed("mkfs.ext4", &["-q", "-F", &image], WORK)
            .await
            .expect("made");
        let found = probe(&path).await.expect("told");
        assert_eq!(found, Content::FileSystem(FileSystem::Ext4));
        check(&path, FileSystem::Ext4).await.expect("well");
        File::options()
            .write(true)
            .open(&path)
            .and_then(|it| it.set_len(256 << 20))
            .expect("grown");
        let candidate = Candidate {
            volume: VolumeId::from_u128(1),
            device: &path,
            bytes: 256 << 20,
        };
        grow_unmounted(candidate, FileSystem::Ext4)
            .await
            .expect("grown");
        let said = succeed("dumpe2fs", &["-h", &image], LOOK)
            .await
            .expect("told");
        assert_eq!(ext4_bytes(&said.output), Some(256 << 20));
    }
}
