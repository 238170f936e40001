//! Replicas of the pool: their durable state, floors, and the order in which their records are
//! journaled.

use crate::api::Tag;
use crate::format::{EntryState, Held, ReplicaEntry, VoidMark};
use crate::index::{EntryId, Ghost};
use lockstep_types::{ExtentIndex, ReplicaMeta, Sequence, Stamp};
use std::collections::{BTreeMap, VecDeque};

/// Discarded extents remembered a replica; beyond that all are taken for as new as the newest.
const MAX_HOLES: usize = 65_536;

/// A table write under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Writing {
    /// To be answered by it.
    pub answering: Vec<Tag>,
    /// To be buried once it is durable.
    pub ghosts: Vec<Ghost>,
    /// What it says.
    pub floor: Stamp,
    pub blocks: u64,
    pub deleting: bool,
}

/// One replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Slot {
    /// Its number in the table.
    pub number: u32,
    /// Its state, as last asked to be durable.
    pub meta: ReplicaMeta,
    /// The table entry's generation on disk or under way.
    pub generation: u64,
    /// Void marks that still matter.
    pub voids: Vec<VoidMark>,
    /// Its data is being deleted.
    pub deleting: bool,
    /// That is on disk.
    pub deleted: bool,
    /// Its extents are out of the map.
    pub purged: bool,
    /// The table write under way, if one is.
    pub writing: Option<Writing>,
    /// To be answered by the next one.
    pub waiting: Vec<Tag>,
    /// What records leave that the next one makes void.
    pub ghosts: Vec<Ghost>,
    /// The state changed since the last write was begun.
    pub dirty: bool,
    /// The last write has no twin in the other slot yet: rot there would bring the state before it
    /// back.
    pub twin_due: bool,
    /// The highest floor told.
    pub floor: Stamp,
    /// The highest floor that is on disk: the limit of destaging (R25).
    pub durable_floor: Stamp,
    /// The floor in the table on disk.
    pub table_floor: Stamp,
    /// The last durable batch that says the floor: the tail passes it only when the table says as
    /// much.
    pub floor_batch: u64,
    /// The size in the table on disk (R8).
    pub table_blocks: u64,
    /// The last record appended.
    pub last: Stamp,
    /// Reserved extents not used yet (R7).
    pub reserved: u32,
    /// Records that wait for their batch to be copied forward. Newer ones are held meanwhile.
    pub forwarding: usize,
    /// Records that wait for the data of a direct write before them, or for older ones to be copied
    /// forward, in order, dead ones too.
    pub held: VecDeque<EntryId>,
    /// Whole extents discarded and freed: the sequence, so that no older copy is taken (R16).
    pub holes: BTreeMap<ExtentIndex, Sequence>,
    /// Anything not in `holes` may have been discarded up to here.
    pub holes_below: Sequence,
}

impl Slot {
    /// A replica.
    pub fn new(number: u32, meta: ReplicaMeta, generation: u64, voids: Vec<VoidMark>) -> Self {
        let (floor, blocks) = (meta.floor, meta.blocks);
        Self {
            number,
            meta,
            generation,
            voids,
            deleting: false,
            deleted: false,
            purged: false,
            writing: None,
            waiting: Vec::new(),
            ghosts: Vec::new(),
            dirty: false,
            twin_due: false,
            floor,
            durable_floor: floor,
            table_floor: floor,
            floor_batch: 0,
            table_blocks: blocks,
            last: floor,
            reserved: 0,
            forwarding: 0,
            held: VecDeque::new(),
            holes: BTreeMap::new(),
            holes_below: Sequence::ZERO,
        }
    }

    /// What owns its extents.
    pub fn owner(&self) -> u32 {
        ReplicaEntry::owner(self.number)
    }

    /// The table entry to write.
    pub fn entry(&self) -> ReplicaEntry {
        let held = Held {
            meta: self.meta.clone(),
            frozen: Vec::new(),
            voids: self.voids.clone(),
        };
        let state = if self.deleting {
            EntryState::Deleted(held)
        } else {
            EntryState::Live(held)
        };
        ReplicaEntry {
            slot: self.number,
            generation: self.generation,
            state,
        }
    }

    /// An extent was freed by a discard.
    pub fn note_hole(&mut self, index: ExtentIndex, sequence: Sequence) {
        self.holes.insert(index, sequence);
        if self.holes.len() > MAX_HOLES {
            let newest = self.holes.values().max().copied().unwrap_or_default();
            self.holes_below = self.holes_below.max(newest);
            self.holes.clear();
        }
    }

    /// Whether nothing of it is being written or waits to be.
    pub fn is_settled(&self) -> bool {
        self.writing.is_none() && !self.dirty && !self.twin_due
    }

    /// Whether a batch is older than the replica itself: its entry belonged to another then.
    pub fn is_older(&self, batch: u64) -> bool {
        let before = |v: &VoidMark| v.above == Sequence::ZERO && batch < v.before_batch;
        self.voids.iter().any(before)
    }

    /// The newest discard that may have freed an extent.
    pub fn hole(&self, index: ExtentIndex) -> Sequence {
        self.holes
            .get(&index)
            .copied()
            .unwrap_or_default()
            .max(self.holes_below)
    }
}
