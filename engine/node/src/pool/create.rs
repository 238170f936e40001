//! Making a pool: a fully allocated file, or a block device that holds nothing else. Nothing that
//! looks like data is overwritten unless the operator names it.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use anyhow::{Context, bail};
use lockstep_ring::Disk;
use lockstep_ring::disk::create_file;
use lockstep_store::geometry::FormatOptions;
use lockstep_store::{NewPool, pool_writes};
use lockstep_types::{BLOCK, ClusterId, DeviceId, Incarnation, NodeId};

use super::catalogue::{self, Aligned, Entry, disk_options, superblock_at};
use super::signature;
use crate::directory::Directory;
use crate::units::Size;
use crate::{label, mint};

const MIB: u64 = 1 << 20;
/// The smallest pool.
const SMALLEST: u64 = 64 * MIB;
/// Ring bytes reserved for each replica (S5): two of the windows that a primary keeps above the floor (R11).
const WINDOW: u32 = 2 * MIB as u32;
/// Replicas in a pool at most.
const MOST_REPLICAS: u64 = 4096;
/// Bytes zeroed at a time.
const CHUNK: usize = 1 << 20;

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct CreatePool<'a> {
    /// The pool's label on this node.
    pub name: &'a str,
    /// A file to be made, or a block device.
    pub path: &'a Path,
    /// Bytes; of a device all of it when not given.
    pub size: Option<Size>,
    /// Bytes of the journal; derived from the size when not given.
    pub journal: Option<Size>,
    /// The operator has said what may be overwritten: the path itself, once more.
    pub overwrite: Option<&'a Path>,
}

/// A pool that was made.
#[derive(Clone, Copy, Debug)]
pub struct Created {
    /// Its id.
    pub device: DeviceId,
    /// Bytes in use.
    pub bytes: u64,
    /// Bytes of its journal.
    pub journal: u64,
    /// Data extents of 256 KiB.
    pub extents: u64,
    /// Replicas that it can hold.
    pub places: u32,
}

/// Told while a pool is written: bytes so far, and in all.
pub type Tell<'a> = &'a mut dyn FnMut(u64, u64);

/// Makes a pool and adds it to the node's catalogue. A file that this call made is removed again
/// when it fails.
///
/// # Errors
/// The name or path is taken, the device holds something else, is in use or too small.
pub fn create(
    directory: &Directory,
    cluster: ClusterId,
    node: NodeId,
    new: &CreatePool<'_>,
    tell: Tell<'_>,
) -> anyhow::Result<Created> {
    label::check("pool", new.name)?;
    for (name, entry) in catalogue::entries(directory)? {
        if name == new.name {
            bail!(
                "this node has a pool '{name}' already, at {}",
                entry.path.display()
            );
        }
        if entry.path == new.path {
            bail!(
                "{} is pool '{name}' of this node already",
                entry.path.display()
            );
        }
    }
    let made = make_room(new)?;
    let result =
        claim(new, made).and_then(|disk| format(directory, cluster, node, new, &disk, tell));
    if result.is_err() && made {
        let _ = std::fs::remove_file(new.path);
    }
    result
}

/// The file, if there is none yet; whether this call made it.
fn make_room(new: &CreatePool<'_>) -> anyhow::Result<bool> {
    let path = new.path;
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let Some(size) = new.size else {
                bail!(
                    "{} does not exist; give --size to make a file of that size",
                    path.display()
                );
            };
            check_size(path, size.0)?;
            create_file(path, size.0)?;
            return Ok(true);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", path.display()));
        }
    };
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        bail!("{} is neither a file nor a block device", path.display());
    }
    Ok(false)
}

/// R23: claimed before what is there is looked at, and until all is written, so that nobody else makes
/// or opens a pool there meanwhile.
fn claim(new: &CreatePool<'_>, made: bool) -> anyhow::Result<Disk> {
    let disk = Disk::open(new.path, disk_options())?;
    if !made {
        refuse_content(new.path, new.overwrite)?;
    }
    Ok(disk)
}

/// Refuses a device with anything on it, unless the operator named it as what may be overwritten.
fn refuse_content(path: &Path, overwrite: Option<&Path>) -> anyhow::Result<()> {
    let allowed = overwrite == Some(path);
    if overwrite.is_some() && !allowed {
        bail!(
            "--overwrite must name {} itself, so that no other device is meant",
            path.display()
        );
    }
    let mut found: Vec<String> = Vec::new();
    if let Some(superblock) = superblock_at(path) {
        found.push(format!(
            "a Lockstep pool (cluster {}, device {})",
            superblock.cluster, superblock.device
        ));
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let size = length(&file)?;
    let signatures =
        signature::probe(&file, size).with_context(|| format!("cannot read {}", path.display()))?;
    found.extend(signatures.into_iter().map(|signature| signature.what));
    if found.is_empty() && std::fs::metadata(path)?.is_file() && !is_blank(&file, size)? {
        found.push("a file with content".into());
    }
    match (found.is_empty(), allowed) {
        (true, _) => Ok(()),
        (false, true) => {
            tracing::warn!(path = %path.display(), what = %found.join(", "), "overwriting as told");
            Ok(())
        }
        (false, false) => bail!(
            "{} holds {}; nothing was changed. If that may be destroyed, say so: --overwrite {}",
            path.display(),
            found.join(" and "),
            path.display()
        ),
    }
}

/// Whether the first and last MiB are zero.
fn is_blank(file: &File, size: u64) -> anyhow::Result<bool> {
    let length = size.min(MIB) as usize;
    let mut bytes = vec![0; length];
    for offset in [0, size - length as u64] {
        file.read_exact_at(&mut bytes, offset)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn format(
    directory: &Directory,
    cluster: ClusterId,
    node: NodeId,
    new: &CreatePool<'_>,
    disk: &Disk,
    tell: Tell<'_>,
) -> anyhow::Result<Created> {
    let bytes = match new.size {
        Some(size) if size.0 > disk.size() => {
            bail!(
                "{} has {} and not {size}",
                new.path.display(),
                Size(disk.size())
            );
        }
        Some(size) => size.0,
        None => disk.size(),
    };
    check_size(new.path, bytes)?;
    let device = DeviceId::from_u128(mint::id());
    let options = options(bytes, new.journal);
    let pool = NewPool {
        cluster,
        node,
        device,
        key: mint::bytes(),
        incarnation: Incarnation(mint::number()),
    };
    let (zeroes, pages) = pool_writes(&pool, &options)?;
    let zeroes: Vec<_> = zeroes
        .iter()
        .map(|area| (area.offset, area.length))
        .collect();
    write(disk, &zeroes, &pages, tell)
        .with_context(|| format!("cannot write {}", new.path.display()))?;
    let path = std::path::absolute(new.path)?;
    let superblock = catalogue::read_superblock(disk)?;
    catalogue::add(
        directory,
        new.name,
        &Entry {
            path,
            device: device.to_string(),
        },
    )?;
    Ok(Created {
        device,
        bytes,
        journal: options.ring_bytes,
        extents: superblock.geometry.extents.into(),
        places: options.max_replicas,
    })
}

/// Zeroes, flushed; then the pages in order, each durable before the next: the superblocks come
/// last, so that a pool half made is no pool. By the descriptor that holds the claim (R23).
fn write(
    disk: &Disk,
    zeroes: &[(u64, u64)],
    pages: &[(u64, bytes::Bytes)],
    tell: Tell<'_>,
) -> std::io::Result<()> {
    let mut chunk = Aligned::new(CHUNK);
    let chunk = chunk.bytes();
    let total = zeroes.iter().map(|(_, length)| length).sum();
    let mut done = 0;
    for (offset, length) in zeroes {
        let (mut at, end) = (*offset, offset + length);
        while at < end {
            let now = (end - at).min(CHUNK as u64);
            disk.write_blocking(&chunk[..now as usize], at)?;
            at += now;
            done += now;
            tell(done, total);
        }
    }
    disk.flush_blocking()?;
    for (offset, page) in pages {
        let mut aligned = Aligned::new(page.len().next_multiple_of(BLOCK));
        let aligned = &mut aligned.bytes()[..page.len()];
        aligned.copy_from_slice(page);
        disk.write_blocking(aligned, *offset)?;
        disk.flush_blocking()?;
    }
    Ok(())
}

fn options(bytes: u64, journal: Option<Size>) -> FormatOptions {
    // Room for a burst of a second or so, and a bound on what recovery reads.
    let ring = journal.map_or((bytes / 8).clamp(16 * MIB, 1024 * MIB), |size| size.0);
    let ring = ring & !0xfff;
    FormatOptions {
        device_bytes: bytes,
        ring_bytes: ring,
        delta_bytes: (bytes / 256).clamp(MIB, 64 * MIB) & !0xfff,
        max_replicas: (ring / 2 / u64::from(WINDOW)).clamp(1, MOST_REPLICAS) as u32,
        window_bytes: WINDOW.min((ring / 2) as u32 & !0xfff),
    }
}

fn check_size(path: &Path, bytes: u64) -> anyhow::Result<()> {
    if bytes < SMALLEST || !bytes.is_multiple_of(4096) {
        bail!(
            "{} would have {}; a pool has at least {} and a multiple of 4096 bytes",
            path.display(),
            Size(bytes),
            Size(SMALLEST)
        );
    }
    Ok(())
}

/// Bytes of a file or block device.
fn length(file: &File) -> std::io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    let mut file = file;
    file.seek(SeekFrom::End(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool<'a>(name: &'a str, path: &'a Path) -> CreatePool<'a> {
        CreatePool {
            name,
            path,
            size: Some(Size(64 * MIB)),
            journal: None,
            overwrite: None,
        }
    }

    fn try_create(directory: &Directory, new: &CreatePool<'_>) -> Result<Created, String> {
        create(
            directory,
            ClusterId::from_u128(1),
            NodeId::from_u128(2),
            new,
            &mut |_, _| {},
        )
        .map_err(|e| format!("{e:#}"))
    }

    #[test]
    fn a_pool_is_made_once_and_found_again() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(place.path().join("n"));
        directory.create().expect("created");
        let path = place.path().join("pool.img");
        let made = try_create(&directory, &pool("p0", &path)).expect("made");
        let pools = catalogue::open_all(&directory, ClusterId::from_u128(1)).expect("opens");
        assert_eq!(
            (pools[0].device, pools[0].extents),
            (made.device, made.extents)
        );
        let claimed =
            catalogue::open_all(&directory, ClusterId::from_u128(1)).expect_err("claimed twice");
        assert!(
            claimed.to_string().contains("in use by another process"),
            "{claimed}"
        );
        drop(pools);
        assert!(
            catalogue::open_all(&directory, ClusterId::from_u128(9))
                .expect("opens")
                .is_empty(),
            "foreign"
        );
        let error = try_create(&directory, &pool("p0", &path)).expect_err("the name");
        assert!(error.contains("has a pool 'p0' already"), "{error}");
        let error = try_create(&directory, &pool("p1", &path)).expect_err("the path");
        assert!(
            error.contains("is pool 'p0' of this node already"),
            "{error}"
        );
    }

    /// R23: from before the first byte to after the last.
    #[test]
    fn a_pool_is_claimed_while_it_is_made() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(place.path().join("n"));
        directory.create().expect("created");
        let path = place.path().join("pool.img");
        let (cluster, node) = (ClusterId::from_u128(1), NodeId::from_u128(2));
        let mut told = Vec::new();
        let mut tell = |done, total| {
            let claimed = Disk::open(&path, disk_options()).expect_err("it is being made");
            assert!(claimed.to_string().contains("in use"), "{claimed}");
            told.push((done, total));
        };
        create(&directory, cluster, node, &pool("p0", &path), &mut tell).expect("made");
        let (done, total) = *told.last().expect("it takes several writes");
        assert_eq!(done, total);
        assert!(told.is_sorted() && told.len() > 1);
        drop(Disk::open(&path, disk_options()).expect("free again"));
    }

    #[test]
    fn what_holds_something_is_refused_unless_named() {
        let place = tempfile::tempdir().expect("a directory");
        let (one, two) = (
            Directory::new(place.path().join("1")),
            Directory::new(place.path().join("2")),
        );
        one.create().expect("created");
        two.create().expect("created");
        let path = place.path().join("pool.img");
        try_create(&one, &pool("p", &path)).expect("made");
        let error = try_create(&two, &pool("p", &path)).expect_err("another node's pool");
        assert!(
            error.contains("holds a Lockstep pool (cluster 0"),
            "{error}"
        );
        let wrong = place.path().join("other");
        let error = try_create(
            &two,
            &CreatePool {
                overwrite: Some(&wrong),
                ..pool("p", &path)
            },
        )
        .expect_err("named");
        assert!(error.contains("must name"), "{error}");
        try_create(
            &two,
            &CreatePool {
                overwrite: Some(&path),
                ..pool("p", &path)
            },
        )
        .expect("named, overwritten");

        let text = place.path().join("text");
        std::fs::write(&text, vec![b'x'; 70 << 20]).expect("written");
        let error = try_create(&two, &pool("q", &text)).expect_err("content");
        assert!(error.contains("a file with content"), "{error}");
    }

    #[test]
    fn bad_sizes_and_names_leave_nothing_behind() {
        let place = tempfile::tempdir().expect("a directory");
        let directory = Directory::new(place.path().join("n"));
        directory.create().expect("created");
        let path = place.path().join("pool.img");
        for (new, expected) in [
            (
                CreatePool {
                    size: None,
                    ..pool("p", &path)
                },
                "give --size",
            ),
            (
                CreatePool {
                    size: Some(Size(4096)),
                    ..pool("p", &path)
                },
                "at least 64MiB",
            ),
            (
                CreatePool {
                    size: Some(Size((64 << 20) + 1)),
                    ..pool("p", &path)
                },
                "multiple of 4096",
            ),
            (
                CreatePool {
                    name: "../p",
                    ..pool("p", &path)
                },
                "cannot name a pool",
            ),
            (
                CreatePool {
                    size: Some(Size(1 << 50)),
                    ..pool("p", &path)
                },
                "no room",
            ),
            (
                CreatePool {
                    journal: Some(Size(4096)),
                    ..pool("p", &path)
                },
                "the journal ring",
            ),
        ] {
            let error = try_create(&directory, &new).expect_err(expected);
            assert!(error.contains(expected), "{error}");
            assert!(!path.exists(), "{expected}");
        }
    }
}
