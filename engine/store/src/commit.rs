//! Group commit: records become durable batch by batch (S1), and are answered then, not before.

use crate::api::{Event, Output, Outputs};
use crate::format::{BatchBuilder, Descriptor, RecordFlags};
use crate::index::{Entry, EntryId, Forward, Place};
use crate::journal::{BatchInfo, Room};
use crate::mutate::Mutation;
use crate::pressure::distance;
use crate::store::{Op, Store};
use bytes::Bytes;
use lockstep_types::{BLOCK, BlockRange, Checksums, Nanos, RecordKind, Stamp};
use smallvec::SmallVec;
use std::collections::{BTreeSet, VecDeque};

/// Records in one batch at most: one header block's worth of single blocks, and then some.
const MAX_RECORDS: usize = 128;

impl Store {
    /// A new record waits for its batch. The data of a direct write goes to its place first, and
    /// whatever of the same replica comes after it waits for that, so that the journal holds each
    /// replica's records in the order of their sequences.
    pub(crate) fn enqueue(&mut self, id: EntryId, out: &mut Outputs) {
        let entry = self.index.get(id).expect("just inserted");
        let (number, place) = (entry.slot, entry.place);
        let slot = self.slots.get_mut(&number).expect("the record's");
        slot.held.push_back(id);
        if let Place::Extent(extent) = place {
            let data = entry.payload.clone().expect("a new record has its payload");
            let offset = self.geometry.extent_offset(extent);
            self.direct_writes.insert(extent);
            let parts = SmallVec::from_elem(data, 1);
            self.submit_write(Op::Direct { id, extent }, offset, parts, true, out);
        }
        self.release_held(number);
    }

    /// The data of a direct write is durable: its record may be journaled (S1).
    pub(crate) fn direct_written(&mut self, id: EntryId, extent: u32) {
        self.direct_writes.remove(&extent);
        self.release_quarantine();
        let Some(entry) = self.index.get_mut(id) else {
            return;
        };
        // From here on the data is read from its place.
        entry.payload = None;
        let number = entry.slot;
        self.release_held(number);
    }

    /// Records that need not wait any more join the queue, in order.
    pub(crate) fn release_held(&mut self, number: u32) {
        let slot = self.slots.get_mut(&number).expect("the caller has it");
        if slot.forwarding > 0 {
            return;
        }
        while let Some(id) = slot.held.front().copied() {
            if let Some(entry) = self.index.get(id) {
                let unwritten = matches!(entry.place, Place::Extent(_)) && entry.payload.is_some();
                if unwritten {
                    return;
                }
                self.journal.pending.push_back(id);
            }
            slot.held.pop_front();
        }
    }

    /// Sends the next batch, if none is in flight and there is anything to say.
    pub(crate) fn build_batch(&mut self, out: &mut Outputs) {
        if self.journal.in_flight {
            return;
        }
        let mut draft = Draft::default();
        self.journal.needed = self.index.in_ring();
        self.paced_until = self.pace();
        // What recovery found torn at the head is overwritten by a batch of its own place, so that it
        // cannot be taken for what follows it.
        if !self.mark_first {
            self.draft_forwards(&mut draft);
            if self.paced_until.is_none() {
                self.draft_records(&mut draft);
            }
        }
        // A ring that is full of records above durable floors is freed by making the floors durable.
        let paced = self.paced_until.is_some();
        let stuck = draft.ids.is_empty() && !self.journal.pending.is_empty() && !paced;
        self.stuck = stuck;
        if self.floors_due || self.mark_first || stuck && self.floors_lag() {
            self.draft_floors(&mut draft, out);
        }
        if draft.ids.is_empty() && !draft.marks {
            if stuck {
                self.make_room_in_empty_ring();
            }
            return;
        }
        self.send_batch(draft, out);
    }

    /// Until when records wait, if they do, so that the ring does not run full.
    fn pace(&self) -> Option<Nanos> {
        if self.journal.pending.is_empty() || self.stopping {
            return None;
        }
        let due = self.records_sent + distance(self.journal.fill());
        (self.now < due).then_some(due)
    }

    /// A batch that is longer than the rest of the lap, and than what is free before it, begins the
    /// next one: an empty ring takes whatever is not longer than itself.
    fn make_room_in_empty_ring(&mut self) {
        if !self.journal.batches.is_empty() {
            return;
        }
        if self.journal.tail == self.journal.head {
            self.journal.skip_lap();
        }
        self.anchor.due |= self.journal.tail != self.journal.head;
    }

    /// One record less of a replica waits to be copied forward.
    pub(crate) fn forward_left(&mut self, number: u32) {
        let slot = self.slots.get_mut(&number).expect("the record's");
        slot.forwarding -= 1;
        self.release_held(number);
    }

    fn draft_records(&mut self, draft: &mut Draft) {
        while let Some(id) = self.journal.pending.front().copied() {
            let alive = self.index.get(id).is_some();
            if alive && !self.draft_one(id, Room::Records, draft) {
                break;
            }
            self.journal.pending.pop_front();
        }
        if self.stuck && draft.ids.is_empty() {
            self.draft_superseding(draft);
        }
    }

    /// Records that let others go may take the room kept for copying those forward (R11), unless some are
    /// on their way.
    fn draft_superseding(&mut self, draft: &mut Draft) {
        let room = match self.journal.forwards.is_empty() {
            true => Room::Forwards,
            false => Room::Ahead,
        };
        let mut passed_over = BTreeSet::new();
        let mut left = VecDeque::new();
        for id in std::mem::take(&mut self.journal.pending) {
            let Some(entry) = self.index.get(id) else {
                continue;
            };
            let (slot, next) = (entry.slot, !entry.supersedes.is_empty());
            let next = next && !passed_over.contains(&slot);
            if !next || !self.draft_one(id, room, draft) {
                passed_over.insert(slot);
                left.push_back(id);
            }
        }
        self.journal.pending = left;
    }

    /// Adds a record if the batch and the ring have room for it.
    pub(crate) fn draft_one(&mut self, id: EntryId, room: Room, draft: &mut Draft) -> bool {
        let entry = self.index.get(id).expect("the caller looked");
        let descriptor = self.describe(entry);
        let Some(shape) = draft.builder.shape_with(Some(&descriptor)) else {
            return false;
        };
        let payload = u64::from(shape.payload_blocks) * BLOCK as u64;
        let too_long = payload > self.journal.max_payload() || draft.ids.len() >= MAX_RECORDS;
        if !draft.ids.is_empty() && too_long || !self.journal.fits(shape.bytes(), room) {
            return false;
        }
        if descriptor.payload_blocks() > 0 {
            let payload = entry.payload.clone();
            draft
                .parts
                .push(payload.expect("a record keeps its payload until it is journaled"));
        }
        draft.builder.push(descriptor);
        draft.ids.push(id);
        true
    }

    fn describe(&self, entry: &Entry) -> Descriptor {
        let slot = &self.slots[&entry.slot];
        let mut flags = match entry.batch {
            Some(_) => RecordFlags::COPY_FORWARD,
            None => RecordFlags::NONE,
        };
        if entry.copy {
            flags = flags.with(RecordFlags::COPY);
        }
        let mut extent = 0;
        if let Place::Extent(own) = entry.place {
            flags = flags.with(RecordFlags::DIRECT);
            extent = own;
        }
        let floor = match self.broken.is(Mutation::FloorNotPersisted) {
            true => Stamp::ZERO,
            false => slot.floor,
        };
        Descriptor {
            slot: entry.slot,
            kind: entry.kind,
            flags,
            range: entry.range,
            stamp: entry.stamp,
            floor,
            extent,
            argument: entry.order,
            checksums: entry.checksums.clone(),
        }
    }

    pub(crate) fn floors_lag(&self) -> bool {
        self.slots.values().any(|s| s.floor > s.durable_floor)
    }

    /// Floors that rose since they were last on disk; without any, an empty batch is the mark (R24).
    fn draft_floors(&mut self, draft: &mut Draft, out: &mut Outputs) {
        let lagging: Vec<(u32, Stamp)> = self
            .slots
            .values()
            // The mark after recovery is one block, so that it lies where the torn batch did.
            .filter(|s| s.floor > s.durable_floor && !s.deleting && !self.mark_first)
            .map(|s| (s.number, s.floor))
            .collect();
        let room = match lagging.is_empty() && !self.mark_first {
            true => Room::Forwards,
            false => Room::Floors,
        };
        for (number, floor) in &lagging {
            let descriptor = floor_only(*number, *floor);
            let shape = draft.builder.shape_with(Some(&descriptor));
            if shape.is_none_or(|s| !self.journal.fits(s.bytes(), room)) {
                break;
            }
            draft.builder.push(descriptor);
        }
        let shape = draft
            .builder
            .shape_with(None)
            .expect("what was pushed fits");
        if self.journal.fits(shape.bytes(), room) {
            draft.marks = true;
            self.floors_due = false;
            return;
        }
        // Not even a block fits: then none is torn, and anchor and table say what the batch would have.
        self.mark_first = false;
        if lagging.is_empty() {
            self.floors_due = false;
            self.marked = true;
            self.anchor.mark_due = true; // R24: the anchor is a mark, too
        }
        for (number, floor) in lagging {
            let writing = &self.slots[&number].writing;
            if writing.as_ref().is_none_or(|w| w.floor < floor) {
                self.write_table(number, None, out);
            }
        }
    }

    fn send_batch(&mut self, draft: Draft, out: &mut Outputs) {
        let shape = draft
            .builder
            .shape_with(None)
            .expect("what was pushed fits");
        let position = self.journal.place(shape.bytes());
        let number = self.journal.next_number;
        let previous = self.journal.previous;
        let marks_only = draft.ids.is_empty();
        let batch = draft.builder.finish(
            number,
            self.journal.lap(position),
            self.journal.durable,
            self.journal.tail_number().min(number),
            previous,
        );
        let (header, hash) = batch.encode(&self.key);
        let mut entries = draft.ids.iter();
        for (descriptor, at) in batch.places() {
            self.journal
                .floors_in_flight
                .push((descriptor.slot, descriptor.floor));
            if !descriptor.flags.has(RecordFlags::FLOOR_ONLY) {
                let id = *entries.next().expect("one record a descriptor");
                let offset = at.map(|at| self.journal.offset(position) + at);
                self.note_journaled(id, number, offset);
            }
        }
        self.journal.batches.push_back(BatchInfo {
            number,
            position,
            bytes: shape.bytes(),
            previous,
            live: draft.ids.len() as u32,
            entries: draft.ids,
            durable: false,
        });
        self.journal.head = position + shape.bytes();
        self.journal.next_number += 1;
        self.journal.previous = hash;
        self.journal.in_flight = true;
        self.mark_first = false;
        self.last_write = self.now;
        if !marks_only {
            self.records_sent = self.now;
        }
        // After records a mark is owed; after a mark alone nothing is.
        self.marked = marks_only;
        let mut parts: SmallVec<[Bytes; 4]> = SmallVec::new();
        parts.push(header);
        parts.extend(draft.parts);
        let offset = self.journal.offset(position);
        let durable = !self.broken.is(Mutation::S1AckBeforeDurable);
        self.submit_write(Op::Batch(number), offset, parts, durable, out);
    }

    /// A record is in a batch on its way. One that is copied forward stays where it was until that is
    /// durable (S5).
    fn note_journaled(&mut self, id: EntryId, number: u64, offset: Option<u64>) {
        let entry = self.index.get_mut(id).expect("drafted records are live");
        let place = offset.map_or(entry.place, Place::Ring);
        if entry.batch.is_some() {
            entry.forward = Forward::InFlight {
                batch: number,
                place,
            };
            if self.broken.is(Mutation::S5TailPassesUnflushedCopy)
                && let Some(before) = entry.batch.replace(number)
            {
                entry.forward = Forward::No;
                entry.place = place;
                self.journal.forget(before);
            }
        } else {
            entry.place = place;
            self.index.journaled(id, number);
        }
    }

    /// A batch has returned from its durable write: its records are durable, its floors on disk.
    pub(crate) fn batch_durable(&mut self, number: u64, out: &mut Outputs) {
        self.journal.in_flight = false;
        // It carries what was durable when it was sent.
        self.journal.marked = self.journal.marked.max(self.journal.durable);
        self.journal.durable = number;
        let info = self
            .journal
            .batch_mut(number)
            .expect("a batch in flight is in the ring");
        info.durable = true;
        let ids = info.entries.clone();
        for (slot, floor) in std::mem::take(&mut self.journal.floors_in_flight) {
            if let Some(slot) = self.slots.get_mut(&slot) {
                // A floor says as much as any lower one before it.
                slot.floor_batch = number;
                if floor > slot.durable_floor {
                    slot.durable_floor = floor;
                    self.destage_due = true;
                }
            }
        }
        for id in ids {
            self.record_durable(id, number, out);
        }
        self.forget_old_payloads();
    }

    fn record_durable(&mut self, id: EntryId, number: u64, out: &mut Outputs) {
        let Some(entry) = self.index.get_mut(id) else {
            return; // it does not count any more
        };
        if let Forward::InFlight { batch, place } = entry.forward
            && batch == number
        {
            entry.forward = Forward::No;
            entry.place = place;
            let before = entry
                .batch
                .replace(number)
                .expect("it was journaled before");
            self.journal.forget(before);
        }
        if entry.batch != Some(number) {
            return;
        }
        let entry = self.index.get_mut(id).expect("as above");
        let length = entry.payload.as_ref().map_or(0, |p| p.len() as u64);
        let first = !std::mem::replace(&mut entry.durable, true);
        if first {
            self.forwarded = 0;
        }
        let entry = self.index.get_mut(id).expect("as above");
        let (slot, stamp, copy) = (entry.slot, entry.stamp, entry.copy);
        let (kind, range) = (entry.kind, entry.range);
        let superseded = std::mem::take(&mut entry.supersedes);
        if length > 0 {
            self.recent.push_back((id, length));
            self.recent_bytes += length;
        }
        // R11: what it superseded is free now.
        for old in superseded {
            if let Some(entry) = self.take_entry(old) {
                self.bury(entry.into_ghosts());
            }
        }
        if !first {
            return;
        }
        self.destage_due |= stamp.sequence <= self.slots[&slot].durable_floor.sequence;
        if kind == RecordKind::Resize {
            self.note_resize(slot, range.start, out);
        }
        if !copy {
            let replica = self.slots[&slot].meta.replica;
            out.push(Output::Event(Event::Durable { replica, stamp }));
        } else if let Some(tag) = self.copies.remove(&id) {
            let result = Ok(());
            out.push(Output::Event(Event::Copied { tag, result }));
        }
    }

    /// R8: a size outlives the record that told it.
    fn note_resize(&mut self, slot: u32, blocks: u64, out: &mut Outputs) {
        let held = self.slots.get_mut(&slot).expect("the record's");
        if held.table_blocks < blocks {
            held.meta.blocks = held.meta.blocks.max(blocks);
            self.write_table(slot, None, out);
        }
    }

    fn forget_old_payloads(&mut self) {
        while self.recent_bytes > self.options.recent_bytes {
            let Some((id, length)) = self.recent.pop_front() else {
                break;
            };
            self.recent_bytes -= length;
            if let Some(entry) = self.index.get_mut(id)
                && entry.forward == Forward::No
            {
                entry.payload = None;
            }
        }
    }
}

fn floor_only(slot: u32, floor: Stamp) -> Descriptor {
    Descriptor {
        slot,
        kind: RecordKind::Nothing,
        flags: RecordFlags::FLOOR_ONLY,
        range: BlockRange::new(0, 1),
        stamp: floor,
        floor,
        extent: 0,
        argument: 0,
        checksums: Checksums::none(),
    }
}

/// A batch in the making.
#[derive(Default)]
pub(crate) struct Draft {
    builder: BatchBuilder,
    ids: Vec<EntryId>,
    parts: Vec<Bytes>,
    /// It carries floors, or is itself the mark.
    marks: bool,
}
