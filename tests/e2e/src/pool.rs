//! What stands on a pool's disk, read past the daemon.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lockstep_store::Geometry;
use lockstep_store::format::{Anchor, Batch, Superblock};
use lockstep_types::BLOCK;

/// The superblock of a pool.
///
/// # Panics
/// If there is none.
pub fn superblock(path: &Path) -> Superblock {
    let file = File::open(path).expect("a pool");
    let mut page = [0; BLOCK];
    file.read_exact_at(&mut page, 0).expect("it can be read");
    Superblock::decode(&page).expect("a superblock")
}

/// Where the structures of a pool lie.
pub fn geometry(path: &Path) -> Geometry {
    superblock(path).geometry
}

/// How often the journal's tail has gone around its ring, as of the last anchor.
pub fn journal_laps(path: &Path) -> u64 {
    let superblock = superblock(path);
    let file = File::open(path).expect("a pool");
    let anchors = superblock.geometry.anchors;
    (0..2)
        .filter_map(|slot| {
            let mut page = [0; BLOCK];
            let offset = anchors.offset + slot * BLOCK as u64;
            file.read_exact_at(&mut page, offset).ok()?;
            Anchor::decode(&page, &superblock.key).ok()
        })
        .map(|anchor| anchor.tail_lap)
        .max()
        .expect("one slot of the anchor is always good")
}

/// Makes every header of the ring say that it is of another version, authentic as before; how many.
///
/// # Panics
/// If the file is no pool, or cannot be written.
pub fn set_version_of_batches(path: &Path, version: u16) -> usize {
    let superblock = superblock(path);
    let ring = superblock.geometry.ring;
    let mut file = File::options();
    let file = file.read(true).write(true).open(path).expect("a pool");
    let mut bytes = vec![0; ring.length as usize];
    file.read_exact_at(&mut bytes, ring.offset)
        .expect("it can be read");
    let mut changed = 0;
    for at in (0..bytes.len()).step_by(BLOCK) {
        let Some(length) = Batch::header_bytes(&bytes[at..]) else {
            continue;
        };
        let Some(header) = bytes.get_mut(at..at + length) else {
            continue;
        };
        // S8: only what the key makes a header is one.
        if Batch::decode(header, &superblock.key).is_ok() {
            header[4..6].copy_from_slice(&version.to_le_bytes());
            Batch::seal(header, &superblock.key);
            changed += 1;
        }
    }
    file.write_all_at(&bytes, ring.offset)
        .expect("it can be written");
    file.sync_all().expect("flushed");
    changed
}

/// Makes a page say that it is of another version, with a checksum that is right.
pub fn set_version(page: &mut [u8; BLOCK], version: u16) {
    page[4..6].copy_from_slice(&version.to_le_bytes());
    page[12..16].fill(0);
    let sum = crc32c::crc32c(&page[..]);
    page[12..16].copy_from_slice(&sum.to_le_bytes());
}
