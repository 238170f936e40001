//! What a round of destaging takes on: which extents, from the tail on, and what happens to each of them.

use crate::index::{EntryId, Place, Winner, ranked};
use crate::mutate::Mutation;
use crate::store::Store;
use bytes::Bytes;
use lockstep_types::{Checksums, EXTENT_BLOCKS, ExtentIndex, RecordKind, Sequence};
use std::collections::BTreeMap;

/// Batches looked at from the tail on to find a round's worth of extents.
const LOOK: usize = 1024;

/// What happens to one extent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Work {
    pub slot: u32,
    pub index: ExtentIndex,
    /// Every record at or below the floor that touches it.
    pub entries: Vec<EntryId>,
    pub newest: Sequence,
    /// Blocks to be written, and their bytes once read.
    pub blocks: BTreeMap<u8, Block>,
    /// Blocks that become holes.
    pub cleared: u64,
    /// A direct write below the others: its extent becomes the place.
    pub direct: Option<Direct>,
    pub target: Option<u32>,
    pub fresh: bool,
    /// Something could not be read, or there is no place: the extent waits for a later round.
    pub skip: bool,
    /// Its deltas are in the log, or on their way there.
    pub logged: bool,
}

/// One block to be written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Block {
    pub entry: EntryId,
    pub sum: u32,
    pub bytes: Option<Bytes>,
}

/// A direct write that gets its place.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Direct {
    pub extent: u32,
    pub birth: Sequence,
    pub sums: Checksums,
}

impl Store {
    /// The next extents, from the tail on.
    pub(crate) fn choose_work(&mut self) -> Vec<Work> {
        let mut chosen = Vec::new();
        let mut looked_at: Vec<(u32, ExtentIndex)> = Vec::new();
        let mut plain = Vec::new();
        let most = self.round_extents() as usize;
        let batches = self.journal.batches.iter().take(LOOK);
        let durable = batches.take_while(|b| b.durable);
        for (number, id) in durable.flat_map(|b| b.entries.iter().map(|id| (b.number, *id))) {
            let Some(entry) = self.index.get(id).filter(|e| e.batch == Some(number)) else {
                continue;
            };
            if entry.hidden || !self.may_destage(entry.slot, entry.stamp.sequence) {
                continue;
            }
            if entry.attached == 0 {
                plain.push(id);
                continue;
            }
            for index in entry.range.extents() {
                let key = (entry.slot, index);
                let here = self.index.holds(id, index);
                if here && chosen.len() < most && !looked_at.contains(&key) {
                    looked_at.push(key);
                    // What cannot be done now keeps nothing behind it from its turn.
                    chosen.extend(self.work_of(entry.slot, index));
                }
            }
            if chosen.len() >= most {
                break;
            }
        }
        for id in plain {
            self.drop_plain(id);
        }
        chosen
    }

    /// Records without blocks have no place to go to. A size stays until the table has it (R8).
    fn drop_plain(&mut self, id: EntryId) {
        let entry = self.index.get(id).expect("looked at by the caller");
        let written = self.slots[&entry.slot].table_blocks;
        if entry.kind == RecordKind::Resize && entry.range.start > written {
            return;
        }
        if let Some(entry) = self.take_entry(id) {
            self.bury(entry.into_ghosts());
        }
    }

    /// R25, S4: only at or below the floor that is on disk.
    pub(crate) fn may_destage(&self, slot: u32, sequence: Sequence) -> bool {
        let Some(slot) = self.slots.get(&slot) else {
            return false;
        };
        sequence <= slot.durable_floor.sequence || self.broken.is(Mutation::R25DestageAboveFloor)
    }

    /// What a round does to an extent; none if there is nothing to do, or a record is unreadable.
    fn work_of(&self, slot: u32, index: ExtentIndex) -> Option<Work> {
        let up_to = match self.broken.is(Mutation::R25DestageAboveFloor) {
            true => Sequence(u64::MAX),
            false => self.slots[&slot].durable_floor.sequence,
        };
        let of = |id: &EntryId| self.index.get(*id).expect("listed by extent");
        let mut entries = self.index.touching(slot, index, up_to);
        // A copy at or below the floor may still be on its way: what is newer waits for it.
        let durable = entries.iter().take_while(|id| of(id).durable).count();
        entries.truncate(durable);
        if entries.is_empty() {
            return None;
        }
        let mapped = self.extents.find(self.slots[&slot].owner(), index);
        let newest = entries.iter().map(|id| of(id).stamp.sequence).max();
        let mut work = Work {
            slot,
            index,
            newest: newest.unwrap_or_default(),
            blocks: BTreeMap::new(),
            cleared: 0,
            direct: None,
            target: mapped,
            fresh: false,
            skip: false,
            logged: false,
            entries,
        };
        let birth = mapped.map_or(Sequence::ZERO, |e| self.extents.get(e).birth);
        let newest_first = ranked(&work.entries, self.broken.is(Mutation::S3OldestWins));
        let (winners, _) = self.index.winners_among(newest_first, index, u64::MAX);
        for Winner { entry: id, bits } in winners {
            let entry = of(&id);
            if entry.bad_until > self.now {
                return None;
            }
            // S3: no older record is written into a newer extent.
            if entry.stamp.sequence >= birth {
                self.add_winner(&mut work, id, bits);
            }
        }
        Some(work)
    }

    fn add_winner(&self, work: &mut Work, id: EntryId, bits: u64) {
        let entry = self.index.get(id).expect("winners are live");
        match (entry.kind, entry.place) {
            (RecordKind::Write, Place::Extent(extent)) => {
                work.direct = Some(Direct {
                    extent,
                    birth: entry.stamp.sequence,
                    sums: entry.checksums.clone(),
                });
            }
            (RecordKind::Write, _) => {
                let base = u64::from(work.index) * EXTENT_BLOCKS;
                for block in (0..EXTENT_BLOCKS as u8).filter(|b| bits & (1 << b) != 0) {
                    let at = base + u64::from(block) - entry.range.start;
                    let block_of = Block {
                        entry: id,
                        sum: entry.checksums.as_slice()[at as usize],
                        bytes: None,
                    };
                    work.blocks.insert(block, block_of);
                }
            }
            _ if self.broken.is(Mutation::DiscardIgnored) => {}
            _ => work.cleared |= bits,
        }
    }
}
