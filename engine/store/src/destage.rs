//! Destaging: records at or below the durable floor go to their place, extent by extent, and the tail
//! follows (S2, S4, R25). Order: data, flush, delta pages, tail, reuse.

use crate::api::{DiskOp, DiskResult, Event, Output, Outputs};
use crate::format::{DELTAS_PER_PAGE, Delta, DeltaPage};
use crate::gather::{Gather, Piece, Wanted, gather};
use crate::index::{Forward, Place};
use crate::mutate::Mutation;
use crate::reads::{Purpose, first_mismatch};
use crate::store::{Op, Store};
use crate::work::{Block, Work};
use bytes::Bytes;
use lockstep_types::{BLOCK, BlockRange, EXTENT_BLOCKS, Nanos, millis, seconds};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Reads of a round in flight at once.
const READS: usize = 2;
/// Data writes of a round that go to the device together.
const WRITES: usize = 16;
/// The ring's fill, in 1/65536, from which on records are destaged though more keep coming: until then a
/// burst has the device to itself.
const BEGIN: u32 = 65536 / 8 * 3;
/// Without writes for so long, everything that may be destaged is.
const IDLE: Nanos = millis(200);
/// A record whose payload in the ring is bad is tried again after so long: a repair may have come.
pub(crate) const BAD_AGAIN: Nanos = seconds(1);
/// After so many tries it is bad in its place instead of the ring, which others need.
const BAD_TRIES: u32 = 5;

/// One round.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Round {
    extents: Vec<Work>,
    step: Step,
    /// Stretches of the ring that are still to be read.
    reads: VecDeque<Gather>,
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

impl Round {
    /// Extents that were free before it.
    pub fn fresh_targets(&self) -> impl Iterator<Item = u32> + '_ {
        let fresh = self.extents.iter().filter(|w| w.fresh);
        fresh.filter_map(|w| w.target)
    }

    /// Which blocks of which records are to be written, those of one record that lie side by side
    /// together.
    fn pieces(&self) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        for (at, work) in self.extents.iter().enumerate() {
            let base = u64::from(work.index) * EXTENT_BLOCKS;
            for Block { block, entry, .. } in &work.blocks {
                let (entry, address) = (*entry, base + u64::from(*block));
                match pieces.last_mut() {
                    Some(p) if p.at == at && p.entry == entry && p.range.end() == address => {
                        p.range.count += 1
                    }
                    _ => pieces.push(Piece {
                        at,
                        entry,
                        range: BlockRange::new(address, 1),
                    }),
                }
            }
        }
        pieces
    }

    /// Whether it writes into an extent.
    pub fn targets(&self, extent: u32) -> bool {
        self.extents.iter().any(|w| w.target == Some(extent))
    }
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
        let full = self.journal.fill() > BEGIN || waiting || self.tail_pressed;
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
        let extents = self.choose_work();
        if extents.is_empty() {
            self.destage_due = false;
            return;
        }
        self.round = Some(Round {
            extents,
            step: Step::Reading,
            reads: VecDeque::new(),
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

    /// Finds the payloads; those that lie in the ring only are read from there.
    fn read_round(&mut self, out: &mut Outputs) {
        let Some(round) = &self.round else { return };
        let mut wanted = Vec::new();
        for Piece { at, entry, range } in round.pieces() {
            let record = self.index.get(entry).expect("chosen just now");
            let skip = (range.start - record.range.start) * BLOCK as u64;
            match (&record.payload, record.place) {
                (Some(payload), _) => {
                    let bytes = payload.slice(skip as usize..skip as usize + range.bytes());
                    self.take_payload(Piece { at, entry, range }, bytes);
                }
                (None, Place::Ring(offset)) => wanted.push(Wanted {
                    offset: offset + skip,
                    piece: Piece { at, entry, range },
                }),
                (None, _) => unreachable!("the data of a direct write is in its place"),
            }
        }
        self.round.as_mut().expect("as above").reads = gather(wanted);
        self.feed_reads(out);
    }

    fn feed_reads(&mut self, out: &mut Outputs) {
        loop {
            let Some(round) = &mut self.round else { return };
            if round.reading >= READS {
                return;
            }
            let Some(Gather { offset, wanted }) = round.reads.pop_front() else {
                break;
            };
            round.reading += 1;
            let length = wanted.last().map_or(0, Wanted::end) - offset;
            let length = length as u32;
            self.submit(
                Op::RoundRead { offset, wanted },
                |token| DiskOp::Read {
                    token,
                    offset,
                    length,
                },
                out,
            );
        }
        if self.round.as_ref().is_some_and(|r| r.reading == 0) {
            self.write_round(out);
        }
    }

    /// A stretch of the ring was read. What is not what it should be may have moved (S5), or is bad: it is
    /// looked up and read by itself (S9).
    pub(crate) fn round_gathered(
        &mut self,
        start: u64,
        wanted: Vec<Wanted>,
        result: DiskResult,
        out: &mut Outputs,
    ) {
        let read = match result {
            DiskResult::Read(bytes) => bytes,
            _ => Bytes::new(),
        };
        for Wanted { offset, piece } in wanted {
            let from = (offset - start) as usize;
            let Some(record) = self.index.get(piece.entry) else {
                self.take_payload(piece, Bytes::new());
                continue;
            };
            let first = (piece.range.start - record.range.start) as usize;
            let expected = &record.checksums.as_slice()[first..][..piece.range.count as usize];
            let bytes = read.get(from..from + piece.range.bytes());
            if bytes.is_some_and(|bytes| first_mismatch(bytes, expected).is_none()) {
                let bytes = read.slice(from..from + piece.range.bytes());
                self.take_payload(piece, bytes);
                continue;
            }
            if let Some(round) = &mut self.round {
                round.reading += 1;
            }
            let Piece { at, entry, range } = piece;
            self.start_entry_read(entry, range, Purpose::Destage { at, entry }, out);
        }
        self.round_read_one(out);
    }

    /// A piece was read by itself.
    pub(crate) fn round_read(
        &mut self,
        piece: Piece,
        payload: Bytes,
        bad: Option<BlockRange>,
        out: &mut Outputs,
    ) {
        match (bad, self.index.get_mut(piece.entry)) {
            (Some(range), Some(entry)) => {
                // The owner repairs it from another replica, and the repair, being newer, is destaged
                // instead.
                let replica = self.slots[&entry.slot].meta.replica;
                out.push(Output::Event(Event::Corrupt { replica, range }));
                entry.bad_tries += 1;
                if entry.bad_tries < BAD_TRIES {
                    entry.bad_until = self.now + BAD_AGAIN;
                    self.retry_at = Some(entry.bad_until);
                    self.skip_work(piece.at);
                } else {
                    self.take_sound_blocks(piece, &payload);
                }
            }
            _ => self.take_payload(piece, payload),
        }
        self.round_read_one(out);
    }

    fn skip_work(&mut self, at: usize) {
        if let Some(round) = &mut self.round {
            round.extents[at].skip = true;
        }
    }

    /// What can be read of a piece that no repair came for. The metadata will say of the rest what its
    /// bytes should be, and whatever lies in its place is then bad and to be repaired like any other block
    /// (S9): an unreadable record must not hold the ring for ever.
    fn take_sound_blocks(&mut self, piece: Piece, payload: &Bytes) {
        let Some(round) = &mut self.round else { return };
        let work = &mut round.extents[piece.at];
        for (at, wanted) in work.blocks_of(piece.range).iter_mut().enumerate() {
            let bytes = payload.get(at * BLOCK..(at + 1) * BLOCK);
            if bytes.is_some_and(|bytes| crc32c::crc32c(bytes) == wanted.sum) {
                wanted.bytes = Some(payload.slice(at * BLOCK..(at + 1) * BLOCK));
            }
        }
    }

    fn take_payload(&mut self, piece: Piece, payload: Bytes) {
        let Piece { at, entry, range } = piece;
        let Some(round) = &mut self.round else { return };
        let work = &mut round.extents[at];
        if self.index.get(entry).is_none() {
            // Voided or superseded meanwhile: what was read may be anything.
            work.skip = true;
            return;
        }
        for (at, wanted) in work.blocks_of(range).iter_mut().enumerate() {
            assert_eq!(wanted.entry, entry, "a piece is blocks of one record");
            wanted.bytes = Some(payload.slice(at * BLOCK..(at + 1) * BLOCK));
        }
    }

    fn round_read_one(&mut self, out: &mut Outputs) {
        if let Some(round) = &mut self.round {
            round.reading -= 1;
        }
        self.feed_reads(out);
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
            for Block { block, bytes, .. } in &mut work.blocks {
                let Some(bytes) = bytes.take() else { continue }; // it could not be read
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
        if self.round.as_ref().is_some_and(|r| r.writing > 0) {
            return; // they go together: one submission and one look at what ended serve them all
        }
        loop {
            let Some(round) = &mut self.round else { return };
            if round.writing >= WRITES {
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
}
