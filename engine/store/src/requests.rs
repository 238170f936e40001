//! What the owner asks for: records, copies, reads, space.

use crate::api::{AppendContext, Event, Output, Outputs, StoreError, Tag};
use crate::index::{Entry, EntryId, Forward, Place};
use crate::mutate::Mutation;
use crate::reads::Purpose;
use crate::store::Store;
use bytes::Bytes;
use lockstep_types::{
    BlockRange, Checksums, ExtentIndex, Nanos, Record, RecordKind, ReplicaId, Stamp,
};

impl Store {
    /// Appends a sequenced record; `Durable` follows. It never fails for lack of ring: it waits. A record
    /// that is held under an older epoch is superseded at once for readers, and for recovery once the
    /// new one is durable (R11); before an epoch's first record all older ones are durable (R10).
    ///
    /// # Panics
    /// If the replica is not here, or the same sequence is held under a higher epoch: the secondary
    /// has checked both (R3).
    pub fn append(
        &mut self,
        replica: ReplicaId,
        record: Record,
        context: AppendContext,
        out: &mut Outputs,
    ) {
        self.now = context.now;
        if self.working().is_err() {
            return;
        }
        let number = self
            .slot_of(replica)
            .expect("a record goes to a replica that is here");
        let slot = self.slots.get_mut(&number).expect("listed by replica");
        slot.floor = slot.floor.max(context.floor);
        if context.charged && slot.reserved > 0 {
            slot.reserved -= 1;
            self.extents.unreserve(1);
        }
        let mut supersedes = Vec::new();
        if let Some(held) = self.index.at(number, record.stamp.sequence) {
            let entry = self.index.get(held).expect("listed by sequence");
            assert!(
                entry.stamp.epoch <= record.stamp.epoch,
                "an older epoch was refused before (R3)"
            );
            if entry.stamp == record.stamp {
                if entry.durable {
                    let stamp = record.stamp;
                    out.push(Output::Event(Event::Durable { replica, stamp }));
                }
                return;
            }
            supersedes = self.supersede(held);
        }
        self.slots.get_mut(&number).expect("as above").last = record.stamp;
        let mut entry = Entry::new(number, record.stamp, record.kind, record.range);
        entry.checksums = record.checksums;
        entry.payload = Some(record.payload);
        entry.supersedes = supersedes;
        if let Some(extent) = self.direct_extent(record.kind, record.range) {
            entry.place = Place::Extent(extent);
        }
        let id = self.insert(entry);
        self.enqueue(id, out);
        self.release_held(number);
        self.advance(out);
    }

    /// Journals content that was read from another replica at a stamp (R16); answered by `Copied`.
    #[allow(clippy::too_many_arguments)]
    pub fn copy(
        &mut self,
        now: Nanos,
        tag: Tag,
        replica: ReplicaId,
        read_at: Stamp,
        kind: RecordKind,
        range: BlockRange,
        checksums: Checksums,
        payload: Bytes,
        out: &mut Outputs,
    ) {
        self.now = now;
        let number = self.working().and_then(|()| self.slot_of(replica));
        let fresh = kind == RecordKind::Write && !self.is_present(replica, range.extent());
        let number = number.and_then(|number| match fresh && self.free_extents() == 0 {
            true => Err(StoreError::Full {
                what: "it has no free extent for a copy",
            }),
            false => Ok(number),
        });
        let number = match number {
            Ok(number) => number,
            Err(error) => {
                let result = Err(error);
                return out.push(Output::Event(Event::Copied { tag, result }));
            }
        };
        let mut entry = Entry::new(number, read_at, kind, range);
        entry.checksums = checksums;
        entry.copy = true;
        self.copy_order += 1;
        entry.order = self.copy_order;
        entry.payload = Some(payload);
        let id = self.insert(entry);
        self.copies.insert(id, tag);
        self.enqueue(id, out);
        self.advance(out);
    }

    /// Reads blocks, all verified; answered by `Read`.
    pub fn read(
        &mut self,
        now: Nanos,
        tag: Tag,
        replica: ReplicaId,
        range: BlockRange,
        out: &mut Outputs,
    ) {
        self.now = now;
        match self.working().and_then(|()| self.slot_of(replica)) {
            Ok(slot) => self.start_read(slot, range, Purpose::Client(tag), out),
            Err(error) => out.push(Output::Event(Event::Read {
                tag,
                result: Err(error),
            })),
        }
    }

    /// Reads a journaled record whole; answered by `RecordRead`.
    pub fn read_record(
        &mut self,
        now: Nanos,
        tag: Tag,
        replica: ReplicaId,
        stamp: Stamp,
        out: &mut Outputs,
    ) {
        self.now = now;
        let found = self
            .working()
            .and_then(|()| self.slot_of(replica))
            .and_then(|slot| {
                let id = self
                    .index
                    .at(slot, stamp.sequence)
                    .ok_or(StoreError::Gone(stamp))?;
                let entry = self.index.get(id).expect("listed by sequence");
                if entry.stamp == stamp {
                    Ok((slot, id))
                } else {
                    Err(StoreError::Gone(stamp))
                }
            });
        match found {
            Ok((slot, id)) => self.start_record_read(slot, id, tag, out),
            Err(error) => out.push(Output::Event(Event::RecordRead {
                tag,
                result: Err(error),
            })),
        }
    }

    /// The presence and checksums of one extent, without its data; answered by `ExtentSums`.
    pub fn extent_sums(
        &mut self,
        now: Nanos,
        tag: Tag,
        replica: ReplicaId,
        index: ExtentIndex,
        out: &mut Outputs,
    ) {
        self.now = now;
        match self.working().and_then(|()| self.slot_of(replica)) {
            Ok(slot) => self.start_sums(slot, index, tag, out),
            Err(error) => out.push(Output::Event(Event::ExtentSums {
                tag,
                result: Err(error),
            })),
        }
    }

    /// Raises a replica's floor, the limit of destaging once it is on disk (R25).
    pub fn set_floor(&mut self, replica: ReplicaId, floor: Stamp) {
        if let Ok(number) = self.slot_of(replica) {
            let slot = self.slots.get_mut(&number).expect("listed by replica");
            if floor > slot.floor {
                slot.floor = floor;
                self.marked = false;
            }
        }
    }

    /// Reserves extents (R7); how many were granted.
    pub fn reserve(&mut self, replica: ReplicaId, extents: u32) -> u32 {
        let Ok(number) = self.slot_of(replica) else {
            return 0;
        };
        if self.broken.is(Mutation::S6NoReservation) {
            return extents;
        }
        let pledged = self.index.unmapped();
        let room = self.extents.available().saturating_sub(pledged);
        let granted = self.extents.reserve(extents.min(room));
        self.slots
            .get_mut(&number)
            .expect("listed by replica")
            .reserved += granted;
        granted
    }

    /// Gives a replica's reservations back: its epoch is over (R7).
    pub fn release_reservations(&mut self, replica: ReplicaId) {
        if let Ok(number) = self.slot_of(replica) {
            let slot = self.slots.get_mut(&number).expect("listed by replica");
            let reserved = std::mem::take(&mut slot.reserved);
            self.extents
                .unreserve(reserved.min(self.extents.reserved()));
        }
    }

    /// Free extents that nobody was promised.
    pub fn free_extents(&self) -> u32 {
        self.extents
            .available()
            .saturating_sub(self.index.unmapped())
    }

    /// Extents in all.
    pub fn total_extents(&self) -> u32 {
        self.extents.total()
    }

    /// R11: one record per sequence, that of the highest epoch. An old one that is durable is let go only
    /// once the new one is; gives those for which that holds.
    fn supersede(&mut self, id: EntryId) -> Vec<EntryId> {
        let entry = self.index.get_mut(id).expect("the caller looked");
        let mut waiting = std::mem::take(&mut entry.supersedes);
        if entry.durable && !self.broken.is(Mutation::R11SupersededTooEarly) {
            self.index.hide(id);
            waiting.push(id);
        } else if let Some(old) = self.take_entry(id) {
            self.bury(old.into_ghosts());
        }
        waiting
    }

    /// Whole extents go to their place first, if there is a free one (S6).
    fn direct_extent(&mut self, kind: RecordKind, range: BlockRange) -> Option<u32> {
        let whole = kind == RecordKind::Write && range.is_whole_extent();
        let spare = self.extents.available() > self.index.unmapped();
        if whole && spare {
            self.extents.take()
        } else {
            None
        }
    }

    /// Takes a record out of the index: it never counts again, and what it hid shows. Its places are
    /// the caller's to bury.
    pub(crate) fn take_entry(&mut self, id: EntryId) -> Option<Entry> {
        let entry = self.index.remove(id)?;
        if entry.forward == Forward::Waiting {
            let slot = self.slots.get_mut(&entry.slot).expect("the record's");
            slot.forwarding -= 1;
        }
        Some(entry)
    }

    fn insert(&mut self, entry: Entry) -> EntryId {
        let owner = self.slots[&entry.slot].owner();
        let extents = &self.extents;
        let mapped = |index| extents.find(owner, index).is_some();
        self.index.insert(entry, |_| false, mapped)
    }
}
