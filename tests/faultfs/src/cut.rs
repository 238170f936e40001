//! Power cuts: what stands on the disk when it stops between any two changes of a recording. A
//! write is durable when it asked for that itself or its file was flushed later; a name when its
//! directory was. Everything else was dropped, kept or torn at 512 bytes; names go in order.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};

use crate::image::{Change, Image};

const SECTOR: usize = 512;

/// Everything that happened to an image since it was whole.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub(crate) base: Image,
    pub(crate) changes: Vec<Change>,
}

/// A moment at which the power goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cut {
    /// So many changes had returned, and nothing was under way.
    After(usize),
    /// So many changes had returned, and the next was under way.
    During(usize),
}

impl Cut {
    /// Changes that had returned.
    pub fn returned(self) -> usize {
        match self {
            Self::After(count) | Self::During(count) => count,
        }
    }
}

impl Recording {
    /// Changes in all.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Every flush boundary: the moments just before and just after something became durable.
    pub fn boundaries(&self) -> Vec<Cut> {
        let flushes = self.changes.iter().enumerate().filter(|(_, change)| {
            matches!(
                change,
                Change::Sync { .. } | Change::Write { durable: true, .. }
            )
        });
        flushes
            .flat_map(|(at, _)| [Cut::During(at), Cut::After(at + 1)])
            .collect()
    }

    /// What stands on the disk after a cut. `dice` gives the fate of what was not durable.
    pub fn image(&self, cut: Cut, dice: &mut dyn FnMut() -> u64) -> Image {
        let mut image = self.base.clone();
        let returned = &self.changes[..cut.returned()];
        let durable = durable(returned);
        // Names are journalled: once one is lost, so are all later ones that were not flushed.
        let mut names_lost = false;
        for (change, durable) in returned.iter().zip(durable) {
            if durable {
                image.apply(change);
                continue;
            }
            match change {
                Change::Write { .. } => maul(&mut image, change, dice),
                Change::Sync { .. } => {}
                Change::Resize { .. }
                | Change::Create { .. }
                | Change::Remove { .. }
                | Change::Rename { .. } => {
                    names_lost |= dice().is_multiple_of(3);
                    if !names_lost {
                        image.apply(change);
                    }
                }
            }
        }
        if let (Cut::During(at), Some(change @ Change::Write { .. })) =
            (cut, self.changes.get(cut.returned()))
        {
            debug_assert_eq!(at, cut.returned());
            maul(&mut image, change, dice);
        }
        image
    }
}

/// Which changes are durable at the end of all of them.
fn durable(changes: &[Change]) -> Vec<bool> {
    let mut synced = BTreeSet::new();
    let mut durable: Vec<bool> = changes
        .iter()
        .rev()
        .map(|change| match change {
            Change::Write { file, durable, .. } => *durable || synced.contains(file),
            Change::Resize { file, .. } => synced.contains(file),
            // A flush of the new file makes its name durable too, on every file system in use.
            Change::Create { parent, inode, .. } => {
                synced.contains(parent) || synced.contains(inode)
            }
            Change::Remove { parent, .. } => synced.contains(parent),
            Change::Rename { to, .. } => synced.contains(&to.0),
            Change::Sync { inode } => {
                synced.insert(*inode);
                true
            }
        })
        .collect();
    durable.reverse();
    durable
}

/// Drops, keeps or tears a write.
fn maul(image: &mut Image, change: &Change, dice: &mut dyn FnMut() -> u64) {
    let Change::Write {
        file,
        offset,
        bytes,
        durable,
    } = change
    else {
        panic!("{change:?} is no write");
    };
    match dice() % 3 {
        0 => {}
        1 => image.apply(change),
        _ => {
            let Some(content) = image.file(*file) else {
                return;
            };
            let old = content.read(*offset, bytes.len());
            let bytes = tear(&old, bytes, dice);
            image.apply(&Change::Write {
                file: *file,
                offset: *offset,
                bytes,
                durable: *durable,
            });
        }
    }
}

/// Some sectors of the new bytes, and the old ones (zeroes past the old end) elsewhere.
fn tear(old: &[u8], new: &Bytes, dice: &mut dyn FnMut() -> u64) -> Bytes {
    let mut torn = BytesMut::from(&new[..]);
    for (number, sector) in torn.chunks_mut(SECTOR).enumerate() {
        if dice().is_multiple_of(2) {
            let start = number * SECTOR;
            for (at, byte) in sector.iter_mut().enumerate() {
                *byte = old.get(start + at).copied().unwrap_or(0);
            }
        }
    }
    torn.freeze()
}
