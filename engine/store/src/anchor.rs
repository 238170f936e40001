//! The anchor: how far the tail of the journal and of the delta log may go, and what is free once they
//! have gone there (S2, S4).

use crate::api::Outputs;
use crate::format::Anchor;
use crate::index::Ghost;
use crate::mutate::Mutation;
use crate::store::{Op, Store};
use bytes::Bytes;
use lockstep_types::BLOCK;
use smallvec::SmallVec;

/// The anchor on disk and on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct AnchorState {
    pub generation: u64,
    /// What the one on disk says.
    pub written: Said,
    /// What the one on its way says.
    pub writing: Option<Said>,
    /// What the next one says of the delta log and the directory.
    pub delta_tail: u64,
    pub directory_generation: u32,
    /// Something may have changed that the next anchor must say.
    pub due: bool,
    /// The next anchor stands for the mark that an idle journal writes (R24).
    pub mark_due: bool,
    /// The mark that the one on its way carries.
    pub marking: u64,
}

/// What an anchor says that others wait for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Said {
    pub tail: u64,
    pub tail_number: u64,
    pub delta_tail: u64,
    pub delta_mark: u64,
    pub directory_generation: u32,
}

/// An extent that is not free yet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Quarantined {
    pub extent: u32,
    /// The tail passes this batch first: it names the extent.
    pub batch: u64,
    /// The anchor counts the delta pages below this one as durable first: one of them frees the
    /// extent, and its loss must not go unnoticed once the extent is used again.
    pub delta: u64,
}

impl Store {
    /// Batches at the tail that nobody needs: the anchor will say so, and then their space is free.
    pub(crate) fn move_tail(&mut self) {
        let count = self.journal.dead_front();
        let gain = self.journal.position_after(count) - self.journal.tail;
        let enough = gain >= (self.geometry.ring.length / 32).max(BLOCK as u64);
        let all = self.journal.batches.len() == count;
        let wanted = !self.journal.pending.is_empty() || !self.journal.forwards.is_empty();
        if count > 0 && (enough || all || wanted || self.tail_pressed) {
            self.anchor.due = true;
        }
    }

    /// How many batches the tail may pass. A floor that only they say is written to the table first
    /// (R11: the floor is kept durably).
    fn passable(&mut self, out: &mut Outputs) -> usize {
        let mut count = self.journal.dead_front();
        if count == 0 {
            return 0;
        }
        let next = self.journal.batches.get(count).map(|b| b.number);
        let next = next.unwrap_or(self.journal.next_number);
        let lagging: Vec<(u32, u64)> = self
            .slots
            .values()
            .filter(|s| s.floor_batch < next && s.table_floor < s.durable_floor && !s.deleting)
            .map(|s| (s.number, s.floor_batch))
            .collect();
        for (slot, batch) in lagging {
            if self.broken.is(Mutation::R11FloorForgotten) {
                break;
            }
            count = count.min(self.journal.batches.partition_point(|b| b.number < batch));
            if self.slots[&slot].writing.is_none() {
                self.write_table(slot, None, out);
            }
        }
        self.keep_together(count)
    }

    /// No tail between batches that must be passed together.
    pub(crate) fn keep_together(&self, mut count: usize) -> usize {
        let journal = &self.journal;
        loop {
            let next = journal.batches.get(count).map(|b| b.number);
            let next = next.unwrap_or(journal.next_number);
            let between = |(first, last): &&(u64, u64)| (first + 1..=*last).contains(&next);
            match journal.together.iter().find(between) {
                Some((first, _)) if !self.broken.is(Mutation::S5OrderIgnored) => {
                    count = journal.batches.partition_point(|b| b.number < *first);
                }
                _ => return count,
            }
        }
    }

    /// Writes the anchor: journal tail, delta tail, directory generation. One at a time.
    pub(crate) fn write_anchor_if_due(&mut self, out: &mut Outputs) {
        if !(self.anchor.due || self.anchor.mark_due) || self.anchor.writing.is_some() {
            return;
        }
        let count = self.passable(out);
        self.anchor.due = false;
        let (number, previous) = match self.journal.batches.get(count) {
            Some(batch) => (batch.number, batch.previous),
            None => (self.journal.next_number, self.journal.previous),
        };
        let said = Said {
            tail: self.journal.position_after(count),
            tail_number: number,
            delta_tail: self.anchor.delta_tail,
            delta_mark: self.delta_durable,
            directory_generation: self.anchor.directory_generation,
        };
        if said == self.anchor.written && !std::mem::take(&mut self.anchor.mark_due) {
            return; // the tail waits for the table, which is being written
        }
        self.anchor.mark_due = false;
        self.anchor.generation += 1;
        let ring = self.geometry.ring.length;
        let anchor = Anchor {
            generation: self.anchor.generation,
            tail_offset: said.tail % ring,
            tail_number: number,
            tail_lap: said.tail / ring,
            tail_previous: previous,
            mark: self.journal.durable,
            delta_tail: said.delta_tail,
            delta_mark: said.delta_mark,
            directory_generation: said.directory_generation,
            clean: self.stopping && self.journal.batches.len() == count,
            scrub: self.scrub.position(),
        };
        self.anchor.writing = Some(said);
        self.anchor.marking = self.journal.durable;
        let page = Bytes::copy_from_slice(&anchor.encode(&self.key));
        let offset = self.geometry.anchor_slot(anchor.generation);
        self.submit_write(Op::Anchor, offset, SmallVec::from_elem(page, 1), true, out);
    }

    /// The tail on disk moved: the ring before it may be written again (S2).
    pub(crate) fn anchor_written(&mut self, out: &mut Outputs) {
        let said = self.anchor.writing.take().expect("one was on its way");
        self.anchor.written = said;
        self.journal.marked = self.journal.marked.max(self.anchor.marking);
        self.moves += 1;
        self.journal.tail = said.tail;
        let passed = self
            .journal
            .batches
            .partition_point(|b| b.number < said.tail_number);
        self.journal.batches.drain(..passed);
        let tail = said.tail_number;
        self.journal.together.retain(|(_, last)| *last >= tail);
        self.release_quarantine();
        self.checkpoint_anchored(out);
        self.retry_tables(out);
    }

    /// What dead records leave is free, as far as nobody else names it.
    pub(crate) fn bury(&mut self, ghosts: Vec<Ghost>) {
        for Ghost { batch, extent } in ghosts {
            if let Some(batch) = batch {
                self.journal.forget(batch);
            }
            if let Some(extent) = extent.filter(|e| self.extents.is_taken(*e)) {
                self.quarantine(extent, batch.unwrap_or(0), 0);
            }
        }
        self.release_quarantine();
    }

    /// An extent that is taken will be free once an anchor says so much.
    pub(crate) fn quarantine(&mut self, extent: u32, batch: u64, delta: u64) {
        self.quarantined.push(Quarantined {
            extent,
            batch,
            delta,
        });
        self.anchor.due |= delta > self.anchor.written.delta_mark;
    }

    /// Gives back what nothing on disk names, nobody writes to, and no round destages into (S4).
    pub(crate) fn release_quarantine(&mut self) {
        let said = self.anchor.written;
        let mut kept = std::mem::take(&mut self.quarantined);
        kept.retain(|q| {
            let named = q.batch >= said.tail_number || q.delta > said.delta_mark;
            let written = self.direct_writes.contains(&q.extent)
                && !self.broken.is(Mutation::S4ReuseWhileWritten);
            let target = self.round.as_ref().is_some_and(|r| r.targets(q.extent));
            let free = !named && !written && !target;
            if free {
                self.extents.give_back(q.extent);
                self.destage_due = true;
            }
            !free
        });
        self.quarantined = kept;
    }
}
