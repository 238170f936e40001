//! Destaging: records at or below the durable floor go to their place, extent by extent, and the tail
//! follows (S2, S4, R25). Order: data, flush, delta pages, tail, reuse.

use crate::api::{DiskOp, Event, Output, Outputs};
use crate::extents::Mapped;
use crate::format::{DELTAS_PER_PAGE, Delta, DeltaPage, seeded};
use crate::index::{EntryId, Forward, Place, Winner, ranked};
use crate::mutate::Mutation;
use crate::reads::Purpose;
use crate::store::{Op, Phase, Store};
use bytes::Bytes;
use lockstep_types::{
    BLOCK, BlockRange, Checksums, EXTENT_BLOCKS, ExtentIndex, Nanos, RecordKind, Sequence, millis,
    seconds,
};
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};

/// Data writes of a round in flight at once.
const DEPTH: usize = 8;
/// Without writes for so long, everything that may be destaged is.
const IDLE: Nanos = millis(200);
/// A record whose payload in the ring is bad is tried again after so long: a repair may have come.
pub(crate) const BAD_AGAIN: Nanos = seconds(1);
/// Batches looked at from the tail on to find a round's worth of extents.
const LOOK: usize = 1024;

/// One round.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Round {
    extents: Vec<Work>,
    step: Step,
    /// Reads of payloads under way.
    reading: usize,
    writes: VecDeque<(u64, Bytes)>,
    writing: usize,
    deltas: Vec<Delta>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Step {
    Reading,
    Writing,
    Flushing,
    Logging { pages: usize },
}

/// What happens to one extent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Work {
    slot: u32,
    index: ExtentIndex,
    /// Every record at or below the floor that touches it.
    entries: Vec<EntryId>,
    newest: Sequence,
    /// Blocks to be written, and their bytes once read.
    blocks: BTreeMap<u8, Block>,
    /// Blocks that become holes.
    cleared: u64,
    /// A direct write below the others: its extent becomes the place.
    direct: Option<Direct>,
    target: Option<u32>,
    fresh: bool,
    /// Something could not be read, or there is no place: the extent waits for a later round.
    skip: bool,
    /// Its deltas are in the log, or on their way there.
    logged: bool,
}

impl Round {
    /// Extents that were free before it.
    pub fn fresh_targets(&self) -> impl Iterator<Item = u32> + '_ {
        let fresh = self.extents.iter().filter(|w| w.fresh);
        fresh.filter_map(|w| w.target)
    }

    /// Whether it writes into an extent.
    pub fn targets(&self, extent: u32) -> bool {
        self.extents.iter().any(|w| w.target == Some(extent))
    }
}

/// One block to be written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Block {
    entry: EntryId,
    sum: u32,
    bytes: Option<Bytes>,
}

/// A direct write that gets its place.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Direct {
    extent: u32,
    birth: Sequence,
    sums: Checksums,
}

impl Store {
    /// Begins a round, if there is reason to.
    pub(crate) fn advance_destage(&mut self, out: &mut Outputs) {
        self.move_tail();
        if self.retry_at.is_some_and(|at| at <= self.now) {
            self.retry_at = None;
            self.destage_due = true;
        }
        if self.round.is_some() || !self.delta_room() || self.journal.batches.is_empty() {
            return;
        }
        let waiting = !self.journal.pending.is_empty() && !self.journal.in_flight;
        let full = self.journal.fill() > 65536 / 4 || waiting || self.tail_pressed;
        if !full && !self.is_idle() {
            return;
        }
        if full {
            // Floors that are only in memory hold records in the ring (R25).
            self.floors_due |= self.floors_lag();
        }
        // Looking again is worth it only once a floor rose, a place became free, or a round ended.
        if !self.destage_due {
            return;
        }
        let extents = self.choose();
        if extents.is_empty() {
            self.destage_due = false;
            return;
        }
        self.round = Some(Round {
            extents,
            step: Step::Reading,
            reading: 0,
            writes: VecDeque::new(),
            writing: 0,
            deltas: Vec::new(),
        });
        self.read_round(out);
    }

    /// Nothing was written for a while: whatever may be destaged is.
    pub(crate) fn is_idle(&self) -> bool {
        self.now >= self.last_write + IDLE || self.stopping
    }

    /// The next extents, from the tail on.
    fn choose(&mut self) -> Vec<Work> {
        let mut chosen: Vec<(u32, ExtentIndex)> = Vec::new();
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
                if here && chosen.len() < most && !chosen.contains(&key) {
                    chosen.push(key);
                }
            }
            if chosen.len() >= most {
                break;
            }
        }
        for id in plain {
            self.drop_plain(id);
        }
        let works = chosen.into_iter();
        works
            .filter_map(|(slot, index)| self.work_of(slot, index))
            .collect()
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

    /// Gathers the payloads, from memory or from the ring.
    fn read_round(&mut self, out: &mut Outputs) {
        let Some(round) = &self.round else { return };
        let mut wanted: Vec<(usize, EntryId, BlockRange)> = Vec::new();
        for (at, work) in round.extents.iter().enumerate() {
            let base = u64::from(work.index) * EXTENT_BLOCKS;
            let mut run: Option<(EntryId, BlockRange)> = None;
            for (block, Block { entry: id, .. }) in &work.blocks {
                let address = base + u64::from(*block);
                match &mut run {
                    Some((entry, range)) if entry == id && range.end() == address => {
                        range.count += 1
                    }
                    _ => {
                        wanted.extend(run.take().map(|(id, range)| (at, id, range)));
                        run = Some((*id, BlockRange::new(address, 1)));
                    }
                }
            }
            wanted.extend(run.map(|(id, range)| (at, id, range)));
        }
        self.round.as_mut().expect("as above").reading = wanted.len() + 1;
        for (extent, entry, range) in wanted {
            self.start_entry_read(entry, range, Purpose::Destage { extent, entry }, out);
        }
        self.round_read_one(out);
    }

    pub(crate) fn round_read(
        &mut self,
        at: usize,
        id: EntryId,
        range: BlockRange,
        payload: Bytes,
        bad: Option<BlockRange>,
        out: &mut Outputs,
    ) {
        let Some(round) = &mut self.round else { return };
        let work = &mut round.extents[at];
        let entry = self.index.get_mut(id);
        match (bad, entry) {
            // Voided or superseded meanwhile: what was read may be anything.
            (_, None) => work.skip = true,
            (Some(bad), Some(entry)) => {
                // The journal's copy is bad: the owner repairs it from another replica, and the
                // repair, being newer, is destaged instead.
                entry.bad_until = self.now + BAD_AGAIN;
                self.retry_at = Some(entry.bad_until);
                work.skip = true;
                let replica = self.slots[&work.slot].meta.replica;
                out.push(Output::Event(Event::Corrupt {
                    replica,
                    range: bad,
                }));
            }
            (None, Some(_)) => {
                for (at, address) in (range.start..range.end()).enumerate() {
                    let block = (address % EXTENT_BLOCKS) as u8;
                    if let Some(wanted) = work.blocks.get_mut(&block)
                        && wanted.entry == id
                    {
                        wanted.bytes = Some(payload.slice(at * BLOCK..(at + 1) * BLOCK));
                    }
                }
            }
        }
        self.round_read_one(out);
    }

    fn round_read_one(&mut self, out: &mut Outputs) {
        let Some(round) = &mut self.round else { return };
        round.reading -= 1;
        if round.reading == 0 {
            self.write_round(out);
        }
    }

    /// Everything is in memory: find each extent its place and write the blocks.
    fn write_round(&mut self, out: &mut Outputs) {
        let Some(mut round) = self.round.take() else {
            return;
        };
        for work in &mut round.extents {
            // Records may have been superseded or voided while their payload was read.
            let alive = work.entries.iter().all(|id| self.index.get(*id).is_some());
            work.skip = work.skip || !alive || !self.find_place(work);
            if work.skip {
                continue;
            }
            let Some(target) = work.target else { continue };
            let base = self.geometry.extent_offset(target);
            for (block, Block { bytes, .. }) in &work.blocks {
                let bytes = bytes.clone().expect("every payload was read");
                round
                    .writes
                    .push_back((base + u64::from(*block) * BLOCK as u64, bytes));
            }
        }
        round.extents.retain(|w| !w.skip);
        if round.extents.is_empty() {
            // Nothing to do until a repair comes, or a place is free.
            self.destage_due = false;
            self.anchor.due |= !self.quarantined.is_empty();
            return self.purge_deleted();
        }
        round.step = Step::Writing;
        self.round = Some(round);
        self.feed_writes(out);
    }

    fn find_place(&mut self, work: &mut Work) -> bool {
        if let Some(direct) = &work.direct {
            work.target = Some(direct.extent);
            return true;
        }
        if work.target.is_none() && !work.blocks.is_empty() {
            work.target = self.extents.take();
            work.fresh = work.target.is_some();
            return work.fresh;
        }
        true
    }

    fn feed_writes(&mut self, out: &mut Outputs) {
        loop {
            let Some(round) = &mut self.round else { return };
            if round.writing >= DEPTH {
                return;
            }
            let Some((offset, first)) = round.writes.pop_front() else {
                break;
            };
            let mut parts: SmallVec<[Bytes; 4]> = SmallVec::new();
            let mut end = offset + first.len() as u64;
            parts.push(first);
            while let Some((next, _)) = round.writes.front()
                && *next == end
            {
                let (_, bytes) = round.writes.pop_front().expect("looked at above");
                end += bytes.len() as u64;
                parts.push(bytes);
            }
            round.writing += 1;
            self.submit_write(Op::RoundData, offset, parts, false, out);
        }
        let Some(round) = &mut self.round else { return };
        if round.writing == 0 && round.writes.is_empty() && round.step == Step::Writing {
            round.step = Step::Flushing;
            if self.broken.is(Mutation::S2NoFlushAfterData) {
                return self.round_flushed(out);
            }
            self.submit(Op::RoundFlush, |token| DiskOp::Flush { token }, out);
        }
    }

    pub(crate) fn round_data_written(&mut self, out: &mut Outputs) {
        if let Some(round) = &mut self.round {
            round.writing -= 1;
        }
        self.feed_writes(out);
    }

    /// S2: the data is on stable media; now the metadata that names it.
    pub(crate) fn round_flushed(&mut self, out: &mut Outputs) {
        let Some(mut round) = self.round.take() else {
            return;
        };
        // The deltas of one extent lie in one page: a crash that leaves some pages of a round leaves each
        // extent as it was or as it will be, never as new as a record that is half in place.
        let mut pages: Vec<Vec<Delta>> = Vec::new();
        for work in &mut round.extents {
            work.logged = self.slots.get(&work.slot).is_some_and(|s| !s.deleting);
            if !work.logged {
                continue;
            }
            let deltas = self.deltas_of(work);
            match pages.last_mut() {
                Some(page) if page.len() + deltas.len() <= DELTAS_PER_PAGE => page.extend(deltas),
                _ if deltas.is_empty() => {}
                _ => pages.push(deltas),
            }
        }
        round.deltas = pages.concat();
        round.step = Step::Logging { pages: pages.len() };
        let none = pages.is_empty();
        self.round = Some(round);
        for deltas in pages {
            let number = self.delta_head;
            self.delta_head += 1;
            let page = DeltaPage { number, deltas }.encode(&self.key);
            let offset = self.geometry.delta_page(number);
            let parts = SmallVec::from_elem(Bytes::copy_from_slice(&page), 1);
            self.submit_write(Op::RoundDelta, offset, parts, true, out);
        }
        if none || self.broken.is(Mutation::S2TailBeforeDeltas) {
            self.finish_round();
        }
    }

    fn deltas_of(&self, work: &Work) -> Vec<Delta> {
        let mut deltas = Vec::new();
        let slot = &self.slots[&work.slot];
        let (owner, lineage) = (slot.owner(), slot.meta.lineage);
        let (index, sequence) = (work.index, work.newest);
        let Some(extent) = work.target else {
            return deltas;
        };
        let base = u64::from(index) * EXTENT_BLOCKS;
        let written = |block: u8, sum: u32| {
            let stored = seeded(lineage, base + u64::from(block), sum);
            Delta::BlockWritten {
                extent,
                block,
                stored,
                sequence,
            }
        };
        let mut valid = self.extents.get(extent).valid;
        if work.fresh || work.direct.is_some() {
            let direct = work.direct.as_ref().map(|d| d.birth);
            let birth = direct.unwrap_or_else(|| self.oldest_winner(work));
            deltas.push(Delta::Mapped {
                extent,
                owner,
                index,
                birth,
                sequence,
            });
            valid = 0;
        }
        if let Some(direct) = &work.direct {
            let sums = direct.sums.as_slice().iter().enumerate();
            let below = sums.filter(|(block, _)| !work.blocks.contains_key(&(*block as u8)));
            deltas.extend(below.map(|(block, sum)| written(block as u8, *sum)));
            valid = u64::MAX;
        }
        for (block, Block { sum, .. }) in &work.blocks {
            deltas.push(written(*block, *sum));
            valid |= 1 << block;
        }
        let bitmap = valid & !work.cleared;
        if bitmap == 0 {
            deltas.push(Delta::Freed { extent });
        } else if work.cleared != 0 {
            // Also if nothing is there to be cleared: the extent is as new as the discard (R16).
            deltas.push(Delta::Valid {
                extent,
                bitmap,
                sequence,
            });
        }
        let replaced = self.extents.find(owner, index);
        let replaced = replaced.filter(|old| *old != extent);
        deltas.extend(replaced.map(|extent| Delta::Freed { extent }));
        deltas
    }

    /// The oldest record that wins a block of a fresh extent: no older one is written into it later.
    fn oldest_winner(&self, work: &Work) -> Sequence {
        let winners = work.blocks.values();
        let stamps = winners.filter_map(|b| self.index.get(b.entry));
        let oldest = stamps.map(|e| e.stamp.sequence).min();
        oldest.unwrap_or(work.newest)
    }

    pub(crate) fn round_delta_written(&mut self) {
        let Some(Round {
            step: Step::Logging { pages },
            ..
        }) = &mut self.round
        else {
            return;
        };
        *pages -= 1;
        if *pages == 0 {
            self.finish_round();
        }
    }

    /// The metadata is durable: reads switch to the new places, and the records are not needed here any
    /// more.
    fn finish_round(&mut self) {
        let Some(round) = self.round.take() else {
            return;
        };
        self.delta_durable = self.delta_head;
        self.destage_due = true;
        self.moves += 1;
        self.forwarded = 0;
        for delta in &round.deltas {
            self.apply_delta(delta);
        }
        for work in round.extents {
            self.finish_work(work);
        }
        self.release_quarantine();
        self.purge_deleted();
    }

    fn finish_work(&mut self, work: Work) {
        if !work.logged {
            // The replica was deleted meanwhile.
            if let Some(extent) = work.target.filter(|_| work.fresh) {
                self.extents.give_back(extent);
            }
            return;
        }
        let slot = self
            .slots
            .get_mut(&work.slot)
            .expect("it is not freed during a round");
        let mapped = self.extents.find(slot.owner(), work.index).is_some();
        if !mapped {
            slot.note_hole(work.index, work.newest);
        }
        self.index.set_mapped(work.slot, work.index, mapped);
        for id in work.entries {
            let Some(entry) = self.index.detach(id, work.index) else {
                continue;
            };
            if entry.forward == Forward::Waiting {
                // Older records of the replica may lie beyond it already.
                let last = self.journal.next_number - 1;
                let first = entry.batch.expect("it was journaled before");
                self.journal.together.push((first, last));
                self.forward_left(entry.slot);
            }
            let ghosts = entry.into_ghosts();
            self.bury(ghosts);
        }
    }

    /// What a delta changes in memory; recovery replays the log through the same function.
    pub(crate) fn apply_delta(&mut self, delta: &Delta) {
        match *delta {
            Delta::BlockWritten {
                extent,
                block,
                stored,
                sequence,
            } => {
                self.sums.set(extent, block, stored);
                self.change_valid(extent, sequence, |valid| valid | 1 << block);
            }
            Delta::Mapped {
                extent,
                owner,
                index,
                birth,
                sequence,
            } => {
                let entry = Mapped {
                    owner,
                    index,
                    valid: 0,
                    newest: sequence,
                    birth,
                };
                self.quarantined.retain(|q| q.extent != extent);
                let replaced = self.extents.map(extent, entry);
                self.mark_map_dirty(extent);
                if let Some(old) = replaced {
                    self.unmap(old);
                }
            }
            Delta::Freed { extent } => self.unmap(extent),
            Delta::Valid {
                extent,
                bitmap,
                sequence,
            } => self.change_valid(extent, sequence, |_| bitmap),
        }
    }

    fn change_valid(&mut self, extent: u32, newest: Sequence, valid: impl Fn(u64) -> u64) {
        let mut entry = *self.extents.get(extent);
        if entry.owner != 0 {
            entry.valid = valid(entry.valid);
            entry.newest = entry.newest.max(newest);
            self.extents.map(extent, entry);
        }
        self.mark_map_dirty(extent);
    }

    /// Takes an extent out of the map. While recovering it is free at once: what names it comes later.
    fn unmap(&mut self, extent: u32) {
        self.mark_map_dirty(extent);
        if !self.extents.unmap(extent) {
            return;
        }
        match self.phase {
            Phase::Recovering(_) => self.extents.give_back(extent),
            _ => self.quarantine(extent, 0, self.delta_durable),
        }
    }

    pub(crate) fn mark_map_dirty(&mut self, extent: u32) {
        self.map_dirty
            .insert(extent / crate::geometry::EXTENTS_PER_MAP_PAGE);
    }
}
