//! What stands on a pool's disk, read past the daemon.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use lockstep_store::Geometry;
use lockstep_store::format::{Anchor, Superblock};
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

/// Makes a page say that it is of another version, with a checksum that is right.
pub fn set_version(page: &mut [u8; BLOCK], version: u16) {
    page[4..6].copy_from_slice(&version.to_le_bytes());
    page[12..16].fill(0);
    let sum = crc32c::crc32c(&page[..]);
    page[12..16].copy_from_slice(&sum.to_le_bytes());
}
