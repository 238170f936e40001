//! Copies that match their own checksums and are not what was written (R17): a device that lost writes it
//! had acknowledged, put together from two images of it.

use super::script::{Script, two_sites_by};
use crate::disk::{Disk, Media};
use crate::run::{Config, Outcome};
use crate::world::World;
use crate::world::client::Habits;
use crate::world::plan::Plan;
use bytes::Bytes;
use lockstep_store::format::{Anchor, Delta, DeltaPage, PoolKey, Superblock};
use lockstep_store::geometry::Geometry;
use lockstep_types::{BLOCK, Nanos, SECOND, checksum_blocks, millis};
use std::collections::{BTreeMap, BTreeSet};

/// When it happens: the volume is open and has been written to by then.
const CUT: Nanos = 20 * SECOND;

/// What the metadata says of the blocks whose content is the older one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stamps {
    /// Nothing: the device lost what it said of them, too.
    Older,
    /// The content of before is what was written, under the same stamp.
    Same,
}

/// Partial writes only, so that extents keep their places.
fn patchy(plan: &mut Plan) {
    plan.duration = 75 * SECOND;
    plan.habits = Some(Habits {
        reads: 40,
        zeroes: 0,
        hot: 64,
        hot_share: 20,
        whole: 0,
        depth: 12,
    });
}

/// A device loses what it wrote to the place of a few blocks and to their metadata, after it acknowledged
/// it and the journal passed it; then the other copy's machine is lost. Without R17: every block of the copy
/// matches its checksum, it is promoted, and what was acknowledged before is read as it was earlier.
pub fn lost_write(config: &Config) -> Outcome {
    two_sites_by(config, patchy, |world| {
        loses_writes(world, Stamps::Older);
        world.at(CUT + 32 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            w.kill_machine("a1");
            w.publish_at("b1");
            w.hush(false);
        });
        world.at(CUT + 48 * SECOND, |w| {
            if w.coverage.get(PUT_BACK) > 0 && w.coverage.get("compare: lost write found") == 0 {
                w.fail("expected", "a lost write was found");
            }
            w.start_again("a1");
        });
    })
}

/// A device fails an operation; what else it lost of what it had acknowledged is found by nobody, for every
/// block that it gives agrees with its checksum. It answers again, its copy is certified, and the other
/// copy's machine is lost. Without R24's word of a failed device, the resync takes what changed while it was
/// away, and what was acknowledged before is read as it was earlier.
pub fn failed_device(config: &Config) -> Outcome {
    two_sites_by(config, patchy, |world| {
        world.at(CUT + 7 * SECOND, |w| {
            let node = w.named("b1");
            let now = w.now();
            w.nodes[node].disks[0].disk.profile.dies_at = Some(now);
            w.hush(false); // somebody has to meet it
        });
        world.at(CUT + 7 * SECOND + millis(500), |w| w.hush(true));
        loses_writes(world, Stamps::Older);
        world.at(CUT + 8 * SECOND + millis(100), |w| {
            let node = w.named("b1");
            w.nodes[node].disks[0].disk.profile.dies_at = None;
            w.at_certification_of("b1", |w| {
                w.kill_machine("a1");
                w.publish_at("b1");
                w.hush(false);
                let back = w.now() + 15 * SECOND;
                w.at(back, |w| w.start_again("a1"));
            });
        });
    })
}

/// Two copies differ under one stamp, and nothing tells which is right: it is reported and stays. Somebody
/// then exchanges one of the devices.
pub fn equal_stamps(config: &Config) -> Outcome {
    two_sites_by(config, patchy, |world| {
        loses_writes(world, Stamps::Same);
        world.at(CUT + 32 * SECOND, |w| {
            w.expect_in_sync(&["a1", "b1"]);
            if w.coverage.get(PUT_BACK) > 0 && w.coverage.get("compare: copies differ") == 0 {
                w.fail("expected", "the difference was reported");
            }
            let acted = ["compare: lost write found", "repair: blocks repaired"];
            if acted.iter().any(|what| w.coverage.get(what) > 0) {
                w.fail("expected", "nobody judged copies of one stamp");
            }
            w.kill_machine("b1");
        });
        world.at(CUT + 33 * SECOND, |w| {
            w.start_blank("b1");
            w.hush(false);
        });
    })
}

const PUT_BACK: &str = "script: older blocks put back";

/// Nobody writes; a few blocks are written; nobody writes, until everything lies in its place; b1 loses power,
/// and has the blocks of before when it comes back.
fn loses_writes(world: &mut World, stamps: Stamps) {
    world.at(CUT, |w| w.hush(true));
    world.at(CUT + 4 * SECOND, move |w| {
        let node = w.named("b1");
        let before = w.nodes[node].disks[0].disk.media().clone();
        w.hush(false);
        w.at(CUT + 8 * SECOND, move |w| {
            w.kill_machine("b1");
            let put_back = put_back(&mut w.nodes[node].disks[0].disk, &before, stamps);
            w.coverage.add(PUT_BACK, put_back);
        });
    });
    world.at(CUT + 4 * SECOND + millis(150), |w| w.hush(true));
    world.at(CUT + 8 * SECOND + millis(300), |w| w.start_again("b1"));
}

/// Gives blocks that were written since `before` the content of then, and metadata that agrees with it; how
/// many. None if a checkpoint came between: then map and checksum pages would have to be made up.
fn put_back(disk: &mut Disk, before: &Media, stamps: Stamps) -> u64 {
    let page = |media: &Media, offset: u64| media.read(offset / BLOCK as u64, 1);
    let first = page(disk.media(), 0).expect("a device has a first page");
    let Superblock { geometry, key, .. } = Superblock::decode(&first).expect("a pool");
    let (_, from) = delta_log(before, &geometry, &key);
    let (log, _) = delta_log(disk.media(), &geometry, &key);
    if log.first().is_none_or(|oldest| oldest.number > from) {
        return 0;
    }
    let news: Vec<DeltaPage> = log.into_iter().filter(|page| page.number >= from).collect();
    let moved: BTreeSet<u32> = news
        .iter()
        .flat_map(|p| &p.deltas)
        .filter_map(moves)
        .collect();
    // The last stored checksum of each block that stayed in its place.
    let mut stored = BTreeMap::new();
    for delta in news.iter().flat_map(|page| &page.deltas) {
        if let Delta::BlockWritten {
            extent,
            block,
            stored: sum,
            ..
        } = *delta
            && !moved.contains(&extent)
        {
            stored.insert((extent, block), sum);
        }
    }
    for ((extent, block), sum) in &mut stored {
        let offset = geometry.extent_offset(*extent) + u64::from(*block) * BLOCK as u64;
        let (old, new) = (page(before, offset), page(disk.media(), offset));
        let (Some(old), Some(new)) = (old, new) else {
            continue;
        };
        let sum_of = |block: &Bytes| checksum_blocks(block).as_slice()[0];
        *sum ^= sum_of(&new) ^ sum_of(&old);
        disk.media_mut().write_stable(offset / BLOCK as u64, &[old]);
    }
    for mut page in news {
        page.deltas.retain_mut(|delta| match delta {
            Delta::BlockWritten {
                extent,
                block,
                stored: sum,
                ..
            } => {
                let older = stored.get(&(*extent, *block));
                *sum = *older.unwrap_or(sum);
                older.is_none() || stamps == Stamps::Same
            }
            _ => true,
        });
        let bytes = Bytes::copy_from_slice(&page.encode(&key));
        let at = geometry.delta_page(page.number) / BLOCK as u64;
        disk.media_mut().write_stable(at, &[bytes]);
    }
    stored.len() as u64
}

/// The delta log of an image from its tail on, and the number of the page that would be next.
fn delta_log(media: &Media, geometry: &Geometry, key: &PoolKey) -> (Vec<DeltaPage>, u64) {
    let read = |offset: u64| media.read(offset / BLOCK as u64, 1);
    let slots = [0, 1].map(|slot| read(geometry.anchor_slot(slot)));
    let anchors = slots.into_iter().flatten();
    let anchors = anchors.filter_map(|page| Anchor::decode(&page, key).ok());
    let anchor = anchors.max_by_key(|anchor| anchor.generation);
    let mut next = anchor.expect("a pool has an anchor").delta_tail;
    let mut log = Vec::new();
    while let Some(bytes) = read(geometry.delta_page(next))
        && let Ok(page) = DeltaPage::decode(&bytes, key)
        && page.number == next
    {
        log.push(page);
        next += 1;
    }
    (log, next)
}

/// The extent that gets another place, or other blocks, by a delta.
fn moves(delta: &Delta) -> Option<u32> {
    match delta {
        Delta::BlockWritten { .. } => None,
        Delta::Mapped { extent, .. } | Delta::Freed { extent } | Delta::Valid { extent, .. } => {
            Some(*extent)
        }
    }
}
