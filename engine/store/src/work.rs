//! What a round of destaging takes on: which extents, from the tail on, and what happens to each of them.

use crate::checkpoint::DELTAS_BESIDE_BLOCKS;
use crate::format::DELTAS_PER_PAGE;
use crate::index::{Claim, EntryId, Place, winners_among};
use crate::mutate::Mutation;
use crate::store::Store;
use bytes::Bytes;
use lockstep_types::{BlockRange, Checksums, EXTENT_BLOCKS, ExtentIndex, RecordKind, Sequence};
use std::collections::{BTreeMap, BTreeSet};

/// Batches looked at from the tail on to find a round's worth of work.
const LOOK: usize = 1024;
/// Blocks of a round, about; extents of a round at most.
const BLOCKS: u64 = 256;

/// What happens to one extent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Work {
    pub slot: u32,
    pub index: ExtentIndex,
    /// Every record at or below the floor that touches it.
    pub entries: Vec<EntryId>,
    pub newest: Sequence,
    /// Blocks to be written, in order, and their bytes once read.
    pub blocks: Vec<Block>,
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
    /// Its number in the extent.
    pub block: u8,
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

/// A stretch of batches, and what in it may go to its place.
#[derive(Default)]
struct Window {
    /// Extents that its records touch, in order.
    extents: Vec<(u32, ExtentIndex)>,
    /// The newest sequence of each replica in it.
    up_to: BTreeMap<u32, Sequence>,
    /// Records without blocks.
    plain: Vec<EntryId>,
    /// The batch behind it, counted from the tail.
    next: usize,
}

impl Work {
    /// Those of its blocks that are a range, which they are without gaps.
    pub fn blocks_of(&mut self, range: BlockRange) -> &mut [Block] {
        let first = (range.start % EXTENT_BLOCKS) as u8;
        let from = self.blocks.partition_point(|b| b.block < first);
        &mut self.blocks[from..][..range.count as usize]
    }

    /// How many deltas it may need: mapped, its blocks, valid, what it replaces freed.
    fn most_deltas(&self) -> usize {
        let blocks = match self.direct {
            Some(_) => EXTENT_BLOCKS as usize,
            None => self.blocks.len(),
        };
        blocks + DELTAS_BESIDE_BLOCKS
    }
}

/// Pages that so many deltas fill at most, if those of one extent lie in one page: of two pages in a row
/// the first did not have room for all that the second begins with.
fn pages_for(deltas: usize) -> u64 {
    match deltas <= DELTAS_PER_PAGE {
        true => 1,
        false => (2 * deltas / DELTAS_PER_PAGE + 1) as u64,
    }
}

impl Store {
    /// The next extents: those of the first batches from the tail on that have anything to be done, so
    /// that what is read lies side by side, and the tail can pass all of it afterwards.
    pub(crate) fn choose_work(&mut self) -> Vec<Work> {
        let mut from = 0;
        loop {
            let window = self.window(from);
            for id in window.plain {
                self.drop_plain(id);
            }
            let mut chosen = Vec::new();
            let mut deltas = 0;
            for (slot, index) in window.extents {
                // What cannot be done now keeps nothing behind it from its turn.
                let Some(work) = self.work_of(slot, index, window.up_to[&slot]) else {
                    continue;
                };
                deltas += work.most_deltas();
                if pages_for(deltas) > self.round_pages() {
                    break;
                }
                chosen.push(work);
            }
            if !chosen.is_empty() || window.next == from {
                return chosen;
            }
            from = window.next;
        }
    }

    /// The batches from one on, until there is enough for a round.
    fn window(&self, from: usize) -> Window {
        let mut window = Window {
            next: from,
            ..Window::default()
        };
        let mut known = BTreeSet::new();
        let mut blocks = 0;
        let batches = self.journal.batches.range(from.min(LOOK)..);
        for batch in batches
            .take(LOOK - from.min(LOOK))
            .take_while(|b| b.durable)
        {
            if blocks >= BLOCKS {
                break;
            }
            window.next += 1;
            for id in &batch.entries {
                let entry = self
                    .index
                    .get(*id)
                    .filter(|e| e.batch == Some(batch.number));
                let Some(entry) = entry else { continue };
                let sequence = entry.stamp.sequence;
                if entry.hidden || !self.may_destage(entry.slot, sequence) {
                    continue;
                }
                if entry.attached == 0 {
                    window.plain.push(*id);
                    continue;
                }
                let up_to = window.up_to.entry(entry.slot).or_default();
                *up_to = sequence.max(*up_to);
                blocks += u64::from(entry.range.count);
                for index in entry.range.extents() {
                    let key = (entry.slot, index);
                    let wanted = window.extents.len() < BLOCKS as usize;
                    if wanted && self.index.holds(*id, index) && known.insert(key) {
                        window.extents.push(key);
                    }
                }
            }
        }
        window
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

    /// What a round does to an extent with its records up to a sequence; none if there is nothing to do,
    /// or a record is unreadable. Blocks that a newer record wins, which may be destaged too, wait for
    /// the round that takes it.
    fn work_of(&self, slot: u32, index: ExtentIndex, up_to: Sequence) -> Option<Work> {
        let floor = match self.broken.is(Mutation::R25DestageAboveFloor) {
            true => Sequence(u64::MAX),
            false => self.slots[&slot].durable_floor.sequence,
        };
        let of = |id: EntryId| self.index.get(id).expect("listed by extent");
        let all = self.index.claims(slot, index, floor);
        // A copy at or below the floor may still be on its way: what is newer waits for it.
        let here = |claim: &&Claim| !claim.is_copy() || of(claim.entry()).durable;
        let all = &all[..all.iter().take_while(here).count()];
        let mine = &all[..all.partition_point(|claim| claim.sequence() <= up_to)];
        let newest = mine.last()?.sequence();
        let mapped = self.extents.find(self.slots[&slot].owner(), index);
        let mut work = Work {
            slot,
            index,
            newest,
            blocks: Vec::new(),
            cleared: 0,
            direct: None,
            target: mapped,
            fresh: false,
            skip: false,
            logged: false,
            entries: mine.iter().map(Claim::entry).collect(),
        };
        let birth = mapped.map_or(Sequence::ZERO, |e| self.extents.get(e).birth);
        let (winners, _) = match self.broken.is(Mutation::S3OldestWins) {
            true => winners_among(all.iter(), u64::MAX),
            false => winners_among(all.iter().rev(), u64::MAX),
        };
        for winner in winners.iter().filter(|w| w.sequence <= up_to) {
            if of(winner.entry).bad_until > self.now {
                return None;
            }
            // S3: no older record is written into a newer extent.
            if winner.sequence >= birth {
                self.add_winner(&mut work, winner.entry, winner.bits);
            }
        }
        work.blocks.sort_unstable_by_key(|b| b.block);
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
                    work.blocks.push(Block {
                        block,
                        entry: id,
                        sum: entry.checksums.as_slice()[at as usize],
                        bytes: None,
                    });
                }
            }
            _ if self.broken.is(Mutation::DiscardIgnored) => {}
            _ => work.cleared |= bits,
        }
    }
}
