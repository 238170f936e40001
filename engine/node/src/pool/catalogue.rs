//! Which pools this node has: `pools/NAME.toml` in the data directory. What a pool is stands in its
//! own superblock; the file only says where to look and what to expect.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lockstep_ring::disk::OpenOptionsDisk;
use lockstep_ring::{Disk, DiskError};
use lockstep_store::format::Superblock;
use lockstep_types::{BLOCK, ClusterId, DeviceId};
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

/// Either copy of the superblock.
pub(super) fn read_superblock(disk: &Disk) -> anyhow::Result<Superblock> {
    let mut why = None;
    for offset in [0, BLOCK as u64] {
        let mut page = AlignedPage::new();
        disk.read_blocking(page.bytes(), offset)
            .with_context(|| format!("cannot read {}", disk.path().display()))?;
        match Superblock::decode(page.bytes()) {
            Ok(superblock) => return Ok(superblock),
            Err(error) => why = Some(error),
        }
    }
    let why = why.expect("two copies were tried");
    Err(anyhow::anyhow!(
        "{} is no pool: {why}",
        disk.path().display()
    ))
}

/// Writes a damaged copy of the superblock anew from the other one: with both gone nothing of the
/// pool could be found any more.
fn mend_superblocks(disk: &Disk, good: &Superblock) -> anyhow::Result<()> {
    if good.is_read_only() {
        return Ok(());
    }
    for offset in [0, BLOCK as u64] {
        let mut page = AlignedPage::new();
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

/// A block at an address fit for direct I/O.
struct AlignedPage {
    memory: Vec<u8>,
    skip: usize,
}

impl AlignedPage {
    fn new() -> Self {
        let memory = vec![0; 2 * BLOCK];
        let skip = memory.as_ptr().align_offset(BLOCK);
        Self { memory, skip }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.skip..self.skip + BLOCK]
    }
}
