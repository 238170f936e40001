//! The tail never waits for a volume: records above the floor that it reaches are appended again at the
//! head under their own stamps (S5).

use crate::api::{Event, Output, Outputs};
use crate::commit::Draft;
use crate::destage::BAD_AGAIN;
use crate::index::{Entry, EntryId, Forward};
use crate::journal::Room;
use crate::mutate::Mutation;
use crate::reads::Purpose;
use crate::store::Store;
use bytes::Bytes;
use lockstep_types::{BLOCK, BlockRange};

impl Store {
    /// If the ring fills up, or has no room for the next record, and nothing at its tail may be destaged, all
    /// pinned records of the replicas there are copied forward, in order. What is new of these replicas
    /// waits until they are, so that each replica's records lie in the order of their sequences.
    ///
    /// Where the tail stands in records of several replicas, or comes to those of another meanwhile, all go in
    /// the order of the ring: what is copied must free its own room, or the copies would fill the ring and
    /// none would.
    pub(crate) fn forward_pinned(&mut self, out: &mut Outputs) {
        let pressed = self.journal.fill() > 65536 / 2 || self.tail_pressed || self.stuck;
        let under_way = !self.journal.forwards.is_empty();
        let worth = self.forward_is_worth_it() || self.tail_pressed || under_way;
        if !pressed || !worth || self.journal.in_flight {
            return;
        }
        let slots = self.pinned_at_tail();
        if slots.is_empty() {
            return;
        }
        let several = under_way || slots.len() > 1;
        for slot in slots {
            self.forward_slot(slot, out);
        }
        if several {
            self.order_forwards();
        }
    }

    /// The order of the ring, in which each replica's records lie in the order of their sequences.
    fn order_forwards(&mut self) {
        let batch_of = |id: &EntryId| self.index.get(*id).and_then(|e| e.batch);
        self.journal
            .forwards
            .make_contiguous()
            .sort_by_key(batch_of);
    }

    /// Whether it would free enough: a quarter of the ring, or anything if a record waits for it; and
    /// something happened since the ring was copied round last (or it would be copied for ever).
    fn forward_is_worth_it(&self) -> bool {
        let ring = self.geometry.ring.length;
        let used = self.journal.head - self.journal.tail;
        let least = if self.stuck { ring / 32 } else { ring / 4 };
        used >= self.index.in_ring() + least && self.forwarded < 2 * ring
    }

    /// The replicas whose records hold the first batch that is needed and are not on their way already;
    /// none if anything in it can be destaged, or will be free by itself.
    fn pinned_at_tail(&mut self) -> Vec<u32> {
        let mut slots = Vec::new();
        let Some(front) = self.journal.front().filter(|b| b.durable) else {
            return slots;
        };
        for id in &front.entries {
            let Some(entry) = self
                .index
                .get(*id)
                .filter(|e| e.batch == Some(front.number))
            else {
                continue;
            };
            if !entry.hidden && self.may_destage(entry.slot, entry.stamp.sequence) {
                return Vec::new();
            }
            if entry.forward == Forward::No {
                slots.push(entry.slot);
            }
        }
        slots.sort_unstable();
        slots.dedup();
        // A record that cannot be read holds the tail until it is repaired.
        if slots.iter().any(|slot| self.is_held_by_a_bad_one(*slot)) {
            slots.clear();
        }
        slots
    }

    fn is_held_by_a_bad_one(&mut self, slot: u32) -> bool {
        let now = self.now;
        let records = self.index.of_slot(slot);
        let bad = records.filter(|(_, e)| e.bad_until > now);
        let bad: Vec<EntryId> = bad.map(|(id, _)| id).collect();
        bad.into_iter().any(|id| !self.mend_from_newer(id))
    }

    /// A hidden record that cannot be read has the content of the one that takes its place (R11), which waits for
    /// the tail to pass it: where that is in memory, it is taken from there (world seed 2400515).
    fn mend_from_newer(&mut self, id: EntryId) -> bool {
        let newer = self.index.get(id).filter(|bad| bad.hidden).and_then(|bad| {
            let newer = self.index.at(bad.slot, bad.stamp.sequence)?;
            let newer = self.index.get(newer).filter(|e| !e.hidden)?;
            let same = (newer.kind, newer.range) == (bad.kind, bad.range)
                && newer.checksums == bad.checksums;
            newer.payload.clone().filter(|_| same)
        });
        let Some(payload) = newer else {
            return false;
        };
        let bad = self.index.get_mut(id).expect("looked at above");
        bad.payload = Some(payload);
        bad.bad_until = 0;
        true
    }

    fn forward_slot(&mut self, number: u32, out: &mut Outputs) {
        let floor = self.slots[&number].durable_floor.sequence;
        let pinned: Vec<EntryId> = self
            .index
            .of_slot(number)
            .filter(|(_, e)| e.durable && (e.hidden || e.stamp.sequence > floor))
            .filter(|(_, e)| e.forward == Forward::No)
            .map(|(id, _)| id)
            .collect();
        if self.broken.is(Mutation::S5PinnedRecordDropped) {
            for id in pinned {
                if let Some(entry) = self.take_entry(id) {
                    self.bury(entry.into_ghosts());
                }
            }
            return;
        }
        self.hold_back(number);
        self.slots
            .get_mut(&number)
            .expect("its records are here")
            .forwarding += pinned.len();
        for id in pinned {
            self.journal.forwards.push_back(id);
            let entry = self.index.get_mut(id).expect("listed above");
            entry.forward = Forward::Waiting;
            self.forwarded += entry.weight();
            if entry.is_only_on_disk() {
                let range = entry.range;
                self.forwards_unread += 1;
                self.start_entry_read(id, range, Purpose::Forward(id), out);
            }
        }
    }

    /// Records on their way forward, in order (S5).
    pub(crate) fn draft_forwards(&mut self, draft: &mut Draft) {
        if self.forwards_unread > 0 || self.journal.forwards.is_empty() {
            return; // those that are read together need fewer blocks
        }
        if self.room_is_about_to_come() {
            return;
        }
        let covered = self.covered();
        while let Some(id) = self.journal.forwards.front().copied() {
            let waiting = self.index.get(id).map(|e| (e.forward, e.slot, e.batch));
            let Some((Forward::Waiting, slot, batch)) = waiting else {
                self.journal.forwards.pop_front();
                continue;
            };
            let room = match batch < Some(covered) {
                true => Room::Forwards,
                false => Room::Ahead,
            };
            if !self.draft_one(id, room, draft) {
                return;
            }
            self.journal.forwards.pop_front();
            self.forward_left(slot);
        }
    }

    /// Whether the tail is about to pass some batches, and what waits would go in smaller ones before: these
    /// take more of the ring than they free.
    fn room_is_about_to_come(&self) -> bool {
        let waiting = self.journal.forwards.iter();
        let mut want = 0;
        for id in waiting {
            want += self.index.get(*id).map_or(0, Entry::weight);
            if want >= self.journal.max_payload() {
                break;
            }
        }
        let want = want.min(self.journal.max_payload()) + 2 * BLOCK as u64;
        let want = want.next_multiple_of(BLOCK as u64);
        !self.journal.fits(want, Room::Forwards)
            && self.keep_together(self.journal.dead_front()) > 0
    }

    /// The first batch of those that are needed which is not free once its records are copied forward that
    /// are on their way: what is copied of those before it frees its own room.
    fn covered(&self) -> u64 {
        let needed = self.journal.dead_front();
        for batch in self.journal.batches.iter().skip(needed) {
            let mut records = batch.entries.iter().filter_map(|id| self.index.get(*id));
            let stays = |e: &Entry| e.batch == Some(batch.number) && e.forward != Forward::Waiting;
            if !batch.durable || records.any(stays) {
                return batch.number;
            }
        }
        self.journal.next_number
    }

    /// New records of a replica leave the queue and wait behind what is copied forward.
    fn hold_back(&mut self, number: u32) {
        let (mine, others) = std::mem::take(&mut self.journal.pending)
            .into_iter()
            .filter(|id| self.index.get(*id).is_some())
            .partition(|id| self.index.get(*id).is_some_and(|e| e.slot == number));
        self.journal.pending = others;
        let slot = self.slots.get_mut(&number).expect("its records are here");
        let mut held: std::collections::VecDeque<EntryId> = mine;
        held.append(&mut slot.held);
        slot.held = held;
    }

    pub(crate) fn forward_read(
        &mut self,
        id: EntryId,
        payload: Bytes,
        bad: Option<BlockRange>,
        out: &mut Outputs,
    ) {
        self.forwards_unread -= 1;
        let Some(entry) = self.index.get_mut(id) else {
            return;
        };
        let Some(range) = bad else {
            entry.payload = Some(payload);
            return;
        };
        if self.mend_from_newer(id) {
            return;
        }
        // It stays where it is, and holds the tail.
        let entry = self.index.get_mut(id).expect("looked at above");
        entry.bad_until = self.now + BAD_AGAIN;
        self.retry_at = Some(entry.bad_until);
        let number = entry.slot;
        if std::mem::take(&mut entry.forward) == Forward::Waiting {
            self.forward_left(number);
        }
        let replica = self.slots[&number].meta.replica;
        out.push(Output::Event(Event::Corrupt { replica, range }));
    }
}
