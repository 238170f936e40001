//! What a seed does to the store.

use super::Step;
use crate::disk::Profile;
use crate::rng::Rng;
use lockstep_types::{BLOCK, EXTENT, EXTENT_BLOCKS, Nanos, millis};
use std::collections::VecDeque;

/// What a record takes of the ring beside its blocks, at most.
pub const HEADERS: u64 = 2 * BLOCK as u64;

/// What a seed does to the store.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes of the device.
    pub device_bytes: u64,
    /// Bytes of its ring.
    pub ring_bytes: u64,
    /// Replicas.
    pub replicas: usize,
    /// Replicas that the pool has room for: they share half the ring.
    pub most_replicas: u32,
    /// Blocks of each.
    pub blocks: u64,
    /// What the owner does first, one step at a time.
    pub script: VecDeque<Step>,
    /// Actions of the owner after that.
    pub actions: u64,
    /// Mean time between them.
    pub think: Nanos,
    /// Crashes per thousand actions.
    pub crashes: u64,
    /// Per cent of crashes that are kills rather than power cuts.
    pub kills: u32,
    /// How soon after a crash the store opens again, at least and at most.
    pub restart: (Nanos, Nanos),
    /// The path to the device is so many times slower from the moment a crash is decided on; a
    /// successor comes by another path.
    pub stuck: u64,
    /// Per cent of writes of a whole extent.
    pub whole: u32,
    /// Per cent of discards and zeroes.
    pub zeroes: u32,
    /// Per cent of reads.
    pub reads: u32,
    /// The first replica's floor stands still.
    pub pinned: bool,
    /// Per cent of writes whose payload imitates what stands in the journal.
    pub forged: u32,
    /// Half of those are headers of batches to come, made without the key.
    pub forgers: bool,
    /// Per cent of actions that void a tail, as a resync that begins again does.
    pub voids: u32,
    /// Per cent of actions that raise a floor.
    pub floors: u32,
    /// Corruption: read error, rot, misdirected, lost.
    pub corruption: [u32; 4],
    /// It strikes metadata only: pages, deltas, the directory.
    pub metadata_only: bool,
    /// The power goes after so many disk operations were begun or ended.
    pub cut_at: Option<u64>,
    /// The device.
    pub profile: Profile,
}

impl Plan {
    /// Bytes of the ring reserved for each replica (R11): two of the windows that its owner keeps above
    /// the floor.
    pub fn reserved(&self) -> u64 {
        self.ring_bytes / 2 / u64::from(self.most_replicas) / BLOCK as u64 * BLOCK as u64
    }

    /// Whether records stay inside the window of their replica, as in every real pool. Where they do not,
    /// a whole extent that must go through the journal may wait for ever.
    pub fn fits_its_window(&self) -> bool {
        self.whole == 0 || self.reserved() >= EXTENT as u64
    }

    /// Whether the window has room for a record of so many blocks, with so many bytes above the floor. As
    /// with a primary, one that is longer than the window goes alone.
    pub fn has_room(&self, above: u64, blocks: u32) -> bool {
        let window = self.reserved() / 2;
        let bytes = u64::from(blocks) * BLOCK as u64 + HEADERS;
        match self.whole {
            0 => above == 0 || above + bytes <= window,
            // Beyond the window on purpose: nothing may be lost for that.
            _ => above <= window,
        }
    }

    /// Blocks of a partial record at most: without whole extents all of them fit the window.
    pub fn largest(&self) -> u32 {
        match self.whole {
            0 => ((self.reserved() / 2 - HEADERS) / BLOCK as u64) as u32,
            _ => EXTENT_BLOCKS as u32,
        }
    }

    /// That of a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let corrupting = rng.per_cent(25);
        let ring_bytes = rng.between(2, 6) << 18;
        Self {
            device_bytes: rng.between(8, 14) << 20,
            ring_bytes,
            replicas: rng.between(1, 3) as usize,
            most_replicas: 4,
            blocks: rng.between(2, 10) * EXTENT_BLOCKS,
            script: VecDeque::new(),
            actions: rng.between(100, 900),
            think: rng.between(20_000, millis(3)),
            crashes: rng.below(12),
            kills: rng.below(100) as u32,
            restart: (100_000, millis(20)),
            stuck: 1,
            whole: rng.rate(300_000) / 10_000,
            zeroes: rng.rate(300_000) / 10_000,
            reads: rng.between(5, 50) as u32,
            pinned: rng.per_cent(20),
            forged: 4,
            forgers: false,
            voids: 0,
            floors: 8,
            metadata_only: false,
            cut_at: None,
            corruption: if corrupting {
                [
                    rng.rate(20_000),
                    rng.rate(30_000),
                    rng.rate(10_000),
                    rng.rate(10_000),
                ]
            } else {
                [0; 4]
            },
            profile: Profile::draw(rng),
        }
    }
}
