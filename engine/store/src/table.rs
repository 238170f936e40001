//! The replica table: what a replica durably is. Every change is one durable write to the other of
//! two slots, and then its twin, so that rot in one does not bring an older promise back.

use crate::api::{Event, Output, Outputs, StoreError, Tag};
use crate::format::{EntryState, MAX_VOIDS, ReplicaEntry, VoidMark};
use crate::index::EntryId;
use crate::mutate::Mutation;
use crate::slots::{Slot, Writing};
use crate::store::{Op, Phase, Store};
use bytes::Bytes;
use lockstep_types::{Nanos, ReplicaId, ReplicaMeta, Sequence, Stamp};
use smallvec::SmallVec;

impl Store {
    /// Makes a replica; answered by `Done`. Two windows of ring are reserved for it (R11, S5).
    pub fn create_replica(&mut self, now: Nanos, meta: ReplicaMeta, tag: Tag, out: &mut Outputs) {
        self.now = now;
        let recovering = matches!(self.phase, Phase::Recovering(_));
        assert!(
            !recovering,
            "a pool is known before replicas are made on it"
        );
        let taken = |n: &u32| self.slots.contains_key(n) || self.freeing.contains(n);
        let number = (0..self.geometry.max_replicas).find(|n| !taken(n));
        let number = match (self.working(), number) {
            (Err(error), _) => return done(tag, Err(error), out),
            _ if self.by_replica.contains_key(&meta.replica) => {
                return done(tag, Err(StoreError::Exists(meta.replica)), out);
            }
            (_, None) => {
                let what = "it has no place for another replica";
                return done(tag, Err(StoreError::Full { what }), out);
            }
            (_, Some(number)) => number,
        };
        self.by_replica.insert(meta.replica, number);
        let generation = self.free_generations.get(&number).copied().unwrap_or(0);
        // What the ring still holds of the entry's last owner is not this one's.
        let stranger = VoidMark {
            above: Sequence::ZERO,
            before_batch: self.journal.next_number,
        };
        let voids = match self.journal.batches.is_empty() {
            true => Vec::new(),
            false => vec![stranger],
        };
        let slot = Slot::new(number, meta, generation, voids);
        self.slots.insert(number, slot);
        self.size_windows();
        self.write_table(number, Some(tag), out);
    }

    /// Makes a replica's state durable; answered by `Done`. Several asked for at once may be answered
    /// by one write.
    pub fn put_meta(&mut self, now: Nanos, meta: &ReplicaMeta, tag: Tag, out: &mut Outputs) {
        self.now = now;
        let number = match self.working().and_then(|()| self.slot_of(meta.replica)) {
            Ok(number) => number,
            Err(error) => return done(tag, Err(error), out),
        };
        let slot = self.slots.get_mut(&number).expect("listed by replica");
        let blocks = slot.meta.blocks;
        slot.meta = meta.clone();
        slot.meta.blocks = slot.meta.blocks.max(blocks);
        slot.floor = slot.floor.max(meta.floor);
        self.write_table(number, Some(tag), out);
        self.write_anchor_if_due(out);
    }

    /// Deletes a replica's data. The caller holds a committed tombstone (R18).
    pub fn delete_replica(&mut self, now: Nanos, replica: ReplicaId, tag: Tag, out: &mut Outputs) {
        self.now = now;
        let number = match self.working().and_then(|()| self.slot_of(replica)) {
            Ok(number) => number,
            Err(error) => return done(tag, Err(error), out),
        };
        self.release_reservations(replica);
        self.void_records(number, None, StoreError::NoReplica(replica), out);
        let slot = self.slots.get_mut(&number).expect("listed by replica");
        slot.deleting = true;
        self.write_table(number, Some(tag), out);
    }

    /// Records above a sequence never count again (R15); answered by `Done` once that is durable.
    pub fn void_above(
        &mut self,
        now: Nanos,
        replica: ReplicaId,
        sequence: Sequence,
        tag: Tag,
        out: &mut Outputs,
    ) {
        self.now = now;
        let number = match self.working().and_then(|()| self.slot_of(replica)) {
            Ok(number) => number,
            Err(error) => return done(tag, Err(error), out),
        };
        self.void_records(number, Some(sequence), StoreError::Stale, out);
        let mark = VoidMark {
            above: sequence,
            before_batch: self.journal.next_number,
        };
        let slot = self.slots.get_mut(&number).expect("listed by replica");
        // An older mark with a higher bound is covered by this one.
        slot.voids.retain(|v| v.above < mark.above);
        slot.voids.push(mark);
        slot.last = Stamp::new(slot.last.epoch, slot.last.sequence.min(sequence));
        self.write_table(number, Some(tag), out);
        self.advance(out);
    }

    /// Takes records out of the index, all or those above a sequence. Their places in the ring stay
    /// until the table says so on disk: a crash before that must find them.
    fn void_records(
        &mut self,
        number: u32,
        above: Option<Sequence>,
        why: StoreError,
        out: &mut Outputs,
    ) {
        let dead: Vec<EntryId> = self
            .index
            .of_slot(number)
            .filter(|(_, e)| above.is_none_or(|above| e.stamp.sequence > above))
            .map(|(id, _)| id)
            .collect();
        for id in dead {
            let Some(entry) = self.take_entry(id) else {
                continue;
            };
            let slot = self.slots.get_mut(&number).expect("the caller has it");
            slot.ghosts.extend(entry.into_ghosts());
            if let Some(tag) = self.copies.remove(&id) {
                let result = Err(why.clone());
                out.push(Output::Event(Event::Copied { tag, result }));
            }
        }
        self.release_held(number);
    }

    /// Writes a replica's table entry to its other slot; at most one write of it is in flight.
    pub(crate) fn write_table(&mut self, number: u32, tag: Option<Tag>, out: &mut Outputs) {
        let slot = self.slots.get_mut(&number).expect("the caller has it");
        slot.waiting.extend(tag);
        slot.dirty = true;
        self.submit_table(number, out);
    }

    pub(crate) fn submit_table(&mut self, number: u32, out: &mut Outputs) {
        let (key, geometry) = (self.key, self.geometry);
        let tail = self.journal.tail_number();
        let slot = self.slots.get_mut(&number).expect("the caller has it");
        if slot.writing.is_some() || !slot.dirty && !slot.twin_due {
            return;
        }
        if self.owes_mark(number) {
            self.marks_owed = true;
            self.anchor.mark_due = true; // whoever asked sees to it that it goes
            return;
        }
        let slot = self.slots.get_mut(&number).expect("as above");
        slot.voids.retain(|v| v.before_batch > tail);
        if slot.voids.len() > MAX_VOIDS {
            // The entry has no room: the tail passes the oldest mark first.
            self.tail_pressed = true;
            return;
        }
        slot.twin_due = std::mem::take(&mut slot.dirty);
        slot.generation += 1;
        slot.meta.floor = slot.meta.floor.max(slot.floor);
        slot.writing = Some(Writing {
            answering: std::mem::take(&mut slot.waiting),
            ghosts: std::mem::take(&mut slot.ghosts),
            floor: slot.meta.floor,
            blocks: slot.meta.blocks,
            deleting: slot.deleting,
        });
        let page = Bytes::copy_from_slice(&slot.entry().encode(&key));
        let offset = geometry.replica_slot(number, slot.generation);
        let parts = SmallVec::from_elem(page, 1);
        self.submit_write(Op::Table(number), offset, parts, true, out);
    }

    /// Whether the entry would say of a replica that it is whole while its content lies in batches that no mark
    /// says to have been durable. Such a batch, decayed, is taken for torn, and other members' tails refute
    /// only what they would hold too: records, not copies (R24, docs/decisions/0018).
    fn owes_mark(&self, number: u32) -> bool {
        let slot = &self.slots[&number];
        let marked = self.journal.marked;
        let unmarked = |copy: bool, batch: Option<u64>| copy && batch.is_some_and(|b| b > marked);
        slot.meta.cut.is_none()
            && !slot.deleting
            && !self.broken.is(Mutation::R24CopiesUnmarked)
            && self
                .index
                .of_slot(number)
                .any(|(_, e)| unmarked(e.copy, e.batch))
    }

    pub(crate) fn table_written(&mut self, number: u32, out: &mut Outputs) {
        let slot = self
            .slots
            .get_mut(&number)
            .expect("it stays while it is written");
        let written = slot.writing.take().expect("a write was under way");
        slot.table_floor = written.floor;
        slot.durable_floor = slot.durable_floor.max(written.floor);
        slot.table_blocks = written.blocks;
        slot.deleted |= written.deleting;
        for tag in written.answering {
            done(tag, Ok(()), out);
        }
        self.bury(written.ghosts);
        self.destage_due = true;
        self.submit_table(number, out);
        self.purge(number);
    }

    /// Table writes that waited for the tail to pass void marks, or for the anchor to mark copies.
    pub(crate) fn retry_tables(&mut self, out: &mut Outputs) {
        let pressed = std::mem::take(&mut self.tail_pressed);
        if !std::mem::take(&mut self.marks_owed) && !pressed {
            return;
        }
        let waiting: Vec<u32> = self
            .slots
            .values()
            .filter(|s| (s.dirty || s.twin_due) && s.writing.is_none())
            .map(|s| s.number)
            .collect();
        for number in waiting {
            self.submit_table(number, out);
        }
    }

    /// Takes every extent of a deleted replica out of the map, once the table says that it is deleted
    /// and no destaging round writes to them.
    pub(crate) fn purge(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        if !slot.deleted || slot.purged || self.round.is_some() {
            return;
        }
        slot.purged = true;
        let owner = slot.owner();
        let owned: Vec<u32> = self.extents.of_owner(owner, 0).map(|(_, e)| e).collect();
        for extent in owned {
            self.extents.unmap(extent);
            self.quarantine(extent, 0, 0);
            self.mark_map_dirty(extent);
        }
    }

    /// Purges what waited for a round to end.
    pub(crate) fn purge_deleted(&mut self) {
        let deleted: Vec<u32> = self
            .slots
            .values()
            .filter(|s| s.deleted && !s.purged)
            .map(|s| s.number)
            .collect();
        for number in deleted {
            self.purge(number);
        }
    }

    /// S5: room in the ring for every replica's window.
    pub(crate) fn size_windows(&mut self) {
        self.journal.windows = self.slots.len() as u64 * u64::from(self.geometry.window_bytes);
    }

    /// A deleted replica is gone for good: nothing on disk names its extents any more.
    pub(crate) fn free_slot(&mut self, number: u32, out: &mut Outputs) {
        let Some(slot) = self.slots.remove(&number) else {
            return;
        };
        self.by_replica.remove(&slot.meta.replica);
        self.size_windows();
        self.journal.floors_in_flight.retain(|(s, _)| *s != number);
        let generation = slot.generation + 1;
        self.free_generations.insert(number, generation);
        let entry = ReplicaEntry {
            slot: number,
            generation,
            state: EntryState::Free,
        };
        let page = Bytes::copy_from_slice(&entry.encode(&self.key));
        let offset = self.geometry.replica_slot(number, generation);
        let parts = SmallVec::from_elem(page, 1);
        self.freeing.insert(number);
        self.submit_write(Op::TableFree(number), offset, parts, true, out);
    }
}

fn done(tag: Tag, result: Result<(), StoreError>, out: &mut Outputs) {
    out.push(Output::Event(Event::Done { tag, result }));
}
