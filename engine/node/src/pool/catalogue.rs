//! Which pools this node has: `pools/NAME.toml` in the data directory. What a pool is stands in its
//! own superblock; the file only says where to look and what to expect.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lockstep_control::Pool;
use lockstep_ring::disk::OpenOptionsDisk;
use lockstep_ring::{Disk, DiskError};
use lockstep_store::format::{Superblock, newest};
use lockstep_types::{BLOCK, ClusterId, DeviceId, NodeId};
use serde::{Deserialize, Serialize};

use crate::directory::{self, Directory};
use crate::ending;

/// A line of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The pool's file or block device.
    pub path: PathBuf,
    /// The device id in its superblock.
    pub device: String,
}

/// A pool, claimed and known to be the one that was meant.
#[derive(Debug)]
pub struct OpenPool {
    /// Its label.
    pub name: String,
    /// Its id.
    pub device: DeviceId,
    /// The claimed disk (R23).
    pub disk: Disk,
    /// Data extents in all.
    pub extents: u64,
    /// Replicas that it can hold.
    pub places: u32,
}

impl OpenPool {
    /// What its node says of it.
    pub fn record(&self, node: NodeId) -> Pool {
        Pool {
            device: self.device,
            node,
            name: self.name.clone(),
            extents: self.extents,
            free_extents: self.extents,
            places: self.places,
        }
    }
}

/// The pools of a data directory, by name.
///
/// # Errors
/// A file of the catalogue is unreadable.
pub fn entries(directory: &Directory) -> anyhow::Result<Vec<(String, Entry)>> {
    let mut entries = Vec::new();
    let place = directory.pools();
    for file in
        std::fs::read_dir(&place).with_context(|| format!("cannot list {}", place.display()))?
    {
        let path = file?.path();
        let (Some(name), Some("toml")) = (
            path.file_stem().and_then(|s| s.to_str()),
            path.extension().and_then(|s| s.to_str()),
        ) else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let entry = toml::from_str(&text)
            .map_err(|e| anyhow::anyhow!("{} is refused:\n{e}", path.display()))?;
        entries.push((name.to_owned(), entry));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

/// Adds a pool to the catalogue.
///
/// # Errors
/// The system's.
pub fn add(directory: &Directory, name: &str, entry: &Entry) -> anyhow::Result<()> {
    let path = directory.pools().join(format!("{name}.toml"));
    let text = toml::to_string(entry).context("a catalogue entry is plain TOML")?;
    directory::replace(&path, text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Claims every pool of the catalogue. A pool that cannot be used is told of and left out: the
/// node's other pools serve.
///
/// # Errors
/// The catalogue itself is unreadable, or a pool is claimed by another process: that may be another
/// daemon of this very node.
pub fn open_all(directory: &Directory, cluster: ClusterId) -> anyhow::Result<Vec<OpenPool>> {
    let mut pools = Vec::new();
    for (name, entry) in entries(directory)? {
        match open(&name, &entry, cluster) {
            Ok(pool) => pools.push(pool),
            Err(error) if is_claimed(&error) => return Err(error),
            Err(error) => {
                tracing::error!(pool = %name, error = %format!("{error:#}"), "a pool is left out")
            }
        }
    }
    Ok(pools)
}

fn is_claimed(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(DiskError::Claimed { .. }))
}

fn open(name: &str, entry: &Entry, cluster: ClusterId) -> anyhow::Result<OpenPool> {
    // R23: claimed before a byte is read, by the descriptor that will do the I/O.
    let disk = ending::wait_while(
        &format!("the last operations on {}", entry.path.display()),
        || Disk::open(&entry.path, disk_options()),
        |error| {
            matches!(error, DiskError::Claimed { .. })
                && !ending::is_held_by_the_living(&entry.path)
        },
    )?;
    let superblock = read_superblock(&disk)?;
    if superblock.cluster != cluster {
        bail!(
            "{} belongs to another cluster ({})",
            entry.path.display(),
            superblock.cluster
        );
    }
    let expected: DeviceId = entry.device.parse()?;
    if superblock.device != expected {
        bail!(
            "{} holds device {}, and this pool was device {expected}; the disks may have changed places",
            entry.path.display(),
            superblock.device
        );
    }
    let needed = superblock.geometry.device_bytes;
    if disk.size() < needed {
        bail!(
            "{} has {} bytes, and its superblock says {needed}: it was cut off; restore all of it, or make a new pool",
            entry.path.display(),
            disk.size()
        );
    }
    mend_superblocks(&disk, &superblock)?;
    Ok(OpenPool {
        name: name.to_owned(),
        device: expected,
        extents: superblock.geometry.extents.into(),
        places: superblock.geometry.max_replicas,
        disk,
    })
}

/// How pools are opened. A file system without direct I/O is refused unless a test says otherwise.
pub(super) fn disk_options() -> OpenOptionsDisk {
    OpenOptionsDisk {
        require_direct: std::env::var_os("LOCKSTEP_ALLOW_BUFFERED_POOLS").is_none(),
        ..OpenOptionsDisk::default()
    }
}

/// Either copy of the superblock; neither if a newer Lockstep wrote one of them, which must not be mended
/// from the other.
pub(super) fn read_superblock(disk: &Disk) -> anyhow::Result<Superblock> {
    let read = |offset| {
        let mut page = Aligned::new(BLOCK);
        disk.read_blocking(page.bytes(), offset)
            .with_context(|| format!("cannot read {}", disk.path().display()))?;
        anyhow::Ok(Superblock::decode(page.bytes()))
    };
    let copies = [read(0)?, read(BLOCK as u64)?];
    newest(copies, |_| 0)
        .map_err(|why| anyhow::anyhow!("{} is no pool: {why}", disk.path().display()))
}

/// Writes a damaged copy of the superblock anew from the other one: with both gone nothing of the
/// pool could be found any more.
fn mend_superblocks(disk: &Disk, good: &Superblock) -> anyhow::Result<()> {
    if good.is_read_only() {
        return Ok(());
    }
    for offset in [0, BLOCK as u64] {
        let mut page = Aligned::new(BLOCK);
        // A copy that cannot even be read is damaged too.
        let read = disk.read_blocking(page.bytes(), offset);
        if read.is_ok() && Superblock::decode(page.bytes()).as_ref() == Ok(good) {
            continue;
        }
        tracing::warn!(path = %disk.path().display(), offset, "a damaged superblock is written anew from its other copy");
        page.bytes().copy_from_slice(&good.encode());
        disk.write_blocking(page.bytes(), offset)
            .and_then(|()| disk.flush_blocking())
            .with_context(|| format!("cannot mend a superblock of {}", disk.path().display()))?;
    }
    Ok(())
}

/// The superblock of whatever is at `path`, if it is a pool's.
pub(super) fn superblock_at(path: &Path) -> Option<Superblock> {
    let options = OpenOptionsDisk {
        require_direct: false,
        claim: false,
        writable: false,
    };
    read_superblock(&Disk::open(path, options).ok()?).ok()
}

/// Zeroes at an address fit for direct I/O.
pub(super) struct Aligned {
    memory: Vec<u8>,
    skip: usize,
    length: usize,
}

impl Aligned {
    pub(super) fn new(length: usize) -> Self {
        let memory = vec![0; length + BLOCK];
        let skip = memory.as_ptr().align_offset(BLOCK);
        Self {
            memory,
            skip,
            length,
        }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.skip..self.skip + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen;

    const FROZEN: &str = r#"path = "/dev/vdb"
device = "00000000000000000000000000000003"
"#;

    #[test]
    fn golden_text_of_an_entry() {
        let entry: Entry = frozen::read("pools/NAME.toml", toml::from_str(FROZEN));
        let expected = Entry {
            path: "/dev/vdb".into(),
            device: DeviceId::from_u128(3).to_string(),
        };
        assert_eq!(entry, expected);
        let now = toml::to_string(&entry).expect("plain TOML");
        frozen::assert_frozen("pools/NAME.toml", &now, FROZEN);
    }

    /// The other copy would be taken, and the newer one written over from it.
    #[test]
    fn a_pool_of_which_one_superblock_is_of_a_newer_version_is_refused() {
        use crate::pool::create::{CreatePool, create};
        use crate::units::Size;
        use lockstep_types::NodeId;
        use std::os::unix::fs::FileExt;

        let place = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(place.path().join("n"));
        directory.create().expect("created");
        let path = place.path().join("pool.img");
        let new = CreatePool {
            name: "p0",
            path: &path,
            size: Some(Size(64 << 20)),
            journal: None,
            overwrite: None,
        };
        let cluster = ClusterId::from_u128(1);
        let node = NodeId::from_u128(2);
        create(&directory, cluster, node, &new, &mut |_, _| {}).expect("made");
        let (_, entry) = entries(&directory).expect("listed").remove(0);
        for copy in [0, BLOCK as u64] {
            let file = std::fs::File::options();
            let file = file.clone().read(true).write(true).open(&path);
            let file = file.expect("opened");
            let mut good = [0; BLOCK];
            file.read_exact_at(&mut good, copy).expect("read");
            let mut newer = good;
            newer[4..6].copy_from_slice(&2u16.to_le_bytes());
            newer[12..16].fill(0);
            let sum = crc32c::crc32c(&newer);
            newer[12..16].copy_from_slice(&sum.to_le_bytes());
            file.write_all_at(&newer, copy).expect("written");
            file.sync_all().expect("flushed");
            let refused = open("p0", &entry, cluster).expect_err("not mended");
            assert!(format!("{refused:#}").contains("version 2"), "{refused:#}");
            let mut still = [0; BLOCK];
            file.read_exact_at(&mut still, copy).expect("read");
            assert_eq!(still, newer, "nothing was changed");
            file.write_all_at(&good, copy).expect("written");
            file.sync_all().expect("flushed");
        }
        open("p0", &entry, cluster).expect("good again");
    }
}
