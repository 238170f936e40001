//! Recovery: from the superblock to a store that serves. Everything is indexed before anything is
//! written to its place (S3), and nothing is dropped silently (R24).
//!
//! Steps: superblocks, anchors, replica table, directory, map pages, delta log, ring. Each is read in
//! bounded pieces; one read is in flight at a time.

use crate::anchor::Said;
use crate::api::{DiskOp, DiskResult, Event, Output, Outputs, RecoveredReplica, Recovery};
use crate::extents::{Extents, Mapped};
use crate::format::{
    Anchor, Delta, DeltaPage, DirectoryPage, EntryState, FormatError, MapPage, PoolKey,
    ReplicaEntry, Structure, Superblock, Why, newest,
};
use crate::geometry::{EXTENTS_PER_MAP_PAGE, GENERATIONS_PER_DIRECTORY_PAGE};
use crate::journal::Journal;
use crate::mutate::Mutation;
use crate::rescan::Scan;
use crate::scrub::Scrub;
use crate::slots::Slot;
use crate::store::{Op, Phase, Store};
use bytes::Bytes;
use lockstep_types::{BLOCK, RecordKind};
use smallvec::SmallVec;

const BLOCK64: u64 = BLOCK as u64;
/// The error number that stands for metadata which cannot be read.
const EIO: i32 = 5;
/// Bytes of metadata in one read.
const CHUNK: u64 = 1024 * 1024;

/// Progress of a recovery.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Recovering {
    step: Step,
    /// Answers of older steps are not for this one.
    serial: u64,
    pub anchor: Option<Anchor>,
    generations: Vec<u32>,
    /// The next page, or the next byte, of the step.
    next: u64,
    /// Delta pages of a round that broke off, to be overwritten before the log goes on.
    stale: u64,
    pub scan: Scan,
    /// Table entries to be written before the store serves, and the next of them.
    tables: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
enum Step {
    /// What is read may be what a process wrote that has ended, and lie in the device's cache alone: it is
    /// flushed before it is read, or a mark would call durable what the next power cut takes away.
    #[default]
    Flushing,
    Superblocks,
    Anchors,
    Table,
    Directory,
    Map,
    Deltas,
    StaleDeltas,
    Clearing,
    Ring,
    Gaps,
}

impl Store {
    /// Begins recovery; `Recovered` follows, or `DeviceFailed` with the reason.
    pub fn start(&mut self, now: lockstep_types::Nanos, out: &mut Outputs) {
        self.now = now;
        let recovering = self.recovering();
        recovering.serial += 1;
        let op = Op::Recovery(recovering.serial);
        self.submit(op, |token| DiskOp::Flush { token }, out);
    }

    fn ask_superblocks(&mut self, out: &mut Outputs) {
        self.recovering().step = Step::Superblocks;
        self.ask(0, 2 * BLOCK64, out);
    }

    pub(crate) fn recovering(&mut self) -> &mut Recovering {
        match &mut self.phase {
            Phase::Recovering(recovering) => recovering,
            _ => unreachable!("only while recovering"),
        }
    }

    pub(crate) fn ask(&mut self, offset: u64, length: u64, out: &mut Outputs) {
        let recovering = self.recovering();
        recovering.serial += 1;
        let serial = recovering.serial;
        let length = u32::try_from(length).expect("recovery reads small pieces");
        self.submit(
            Op::Recovery(serial),
            |token| DiskOp::Read {
                token,
                offset,
                length,
            },
            out,
        );
    }

    pub(crate) fn recovery_read(&mut self, serial: u64, result: DiskResult, out: &mut Outputs) {
        let Phase::Recovering(recovering) = &self.phase else {
            return;
        };
        assert_eq!(recovering.serial, serial, "one read is in flight at a time");
        let step = recovering.step;
        let bytes = match result {
            DiskResult::Read(bytes) => bytes,
            DiskResult::Done if matches!(step, Step::Flushing | Step::Clearing | Step::Gaps) => {
                Bytes::new()
            }
            DiskResult::Done => unreachable!("recovery asked for a read"),
            DiskResult::Failed(errno) => return self.fail(errno, "a read while recovering", out),
        };
        let good = match step {
            Step::Flushing => {
                self.ask_superblocks(out);
                Ok(())
            }
            Step::Superblocks => self.take_superblocks(&bytes, out),
            Step::Anchors => self.take_anchors(&bytes, out),
            Step::Table => self.take_table(&bytes, out),
            Step::Directory => self.take_directory(&bytes, out),
            Step::Map => self.take_map(&bytes, out),
            Step::Deltas => self.take_deltas(&bytes, out),
            Step::StaleDeltas => self.take_stale(&bytes, out),
            Step::Clearing => self.clear_stale(out),
            Step::Ring => self.take_ring(bytes, out),
            Step::Gaps => {
                self.write_gaps(out);
                Ok(())
            }
        };
        if let Err(error) = good {
            self.refuse(&error, out);
        }
    }

    /// The pool cannot be opened; nothing was changed on it.
    fn refuse(&mut self, error: &FormatError, out: &mut Outputs) {
        self.refused = Some(error.to_string());
        self.fail(EIO, "its metadata", out);
    }

    fn take_superblocks(&mut self, bytes: &[u8], out: &mut Outputs) -> Result<(), FormatError> {
        let (a, b) = bytes.split_at(BLOCK);
        let superblock = newest([Superblock::decode(a), Superblock::decode(b)], |_| 0)?;
        let geometry = superblock.geometry;
        self.geometry = geometry;
        self.key = superblock.key;
        self.superblock = Some(superblock);
        self.extents = Extents::new(geometry.extents);
        self.sums_generations = vec![0; geometry.checksum_pages() as usize];
        self.map_generations = vec![0; geometry.map_pages() as usize];
        self.recovering().step = Step::Anchors;
        self.ask(geometry.anchors.offset, geometry.anchors.length, out);
        Ok(())
    }

    fn take_anchors(&mut self, bytes: &[u8], out: &mut Outputs) -> Result<(), FormatError> {
        let (a, b) = bytes.split_at(BLOCK);
        let (key, geometry) = (self.key, self.geometry);
        let anchor = newest([Anchor::decode(a, &key), Anchor::decode(b, &key)], |x| {
            x.generation
        })?;
        self.anchor.generation = anchor.generation;
        self.anchor.delta_tail = anchor.delta_tail;
        self.anchor.directory_generation = anchor.directory_generation;
        self.anchor.written = Said {
            tail: anchor.tail_lap * geometry.ring.length + anchor.tail_offset,
            tail_number: anchor.tail_number,
            delta_tail: anchor.delta_tail,
            delta_mark: anchor.delta_mark,
            directory_generation: anchor.directory_generation,
        };
        self.delta_head = anchor.delta_tail;
        let recovering = self.recovering();
        recovering.anchor = Some(anchor);
        recovering.step = Step::Table;
        recovering.next = 0;
        self.ask_table(out);
        Ok(())
    }

    fn ask_table(&mut self, out: &mut Outputs) {
        let next = self.recovering().next;
        let area = self.geometry.replicas;
        let length = CHUNK.min(area.length - next);
        self.ask(area.offset + next, length, out);
    }

    fn take_table(&mut self, bytes: &[u8], out: &mut Outputs) -> Result<(), FormatError> {
        let first = self.recovering().next / (2 * BLOCK64);
        for (at, pair) in bytes.chunks_exact(2 * BLOCK).enumerate() {
            let number = first as u32 + at as u32;
            if pair.iter().all(|b| *b == 0) {
                continue; // never used
            }
            let (a, b) = pair.split_at(BLOCK);
            let slots = [
                table_entry(a, &self.key, number),
                table_entry(b, &self.key, number),
            ];
            let twins = matches!(&slots, [Ok(a), Ok(b)] if a.state == b.state);
            self.take_entry_of_table(newest(slots, |e| e.generation)?, twins);
        }
        let done = self.recovering().next + bytes.len() as u64;
        self.recovering().next = done;
        if done < self.geometry.replicas.length {
            self.ask_table(out);
            return Ok(());
        }
        let recovering = self.recovering();
        recovering.next = 0;
        if self.anchor.directory_generation == 0 {
            return self.begin_deltas(out);
        }
        self.recovering().step = Step::Directory;
        self.ask_directory(out);
        Ok(())
    }

    fn take_entry_of_table(&mut self, entry: ReplicaEntry, twins: bool) {
        let ReplicaEntry {
            slot: number,
            generation,
            state,
        } = entry;
        let (held, deleting) = match state {
            EntryState::Free => {
                self.free_generations.insert(number, generation);
                return;
            }
            EntryState::Live(held) => (held, false),
            EntryState::Deleted(held) => (held, true),
        };
        self.by_replica.insert(held.meta.replica, number);
        let mut slot = Slot::new(number, held.meta, generation, held.voids);
        slot.deleting = deleting;
        slot.deleted = deleting;
        slot.twin_due = !twins;
        self.slots.insert(number, slot);
    }

    fn ask_directory(&mut self, out: &mut Outputs) {
        let page = self.recovering().next as u32;
        let offset = self
            .geometry
            .directory_slot(page, self.anchor.directory_generation);
        let pages = (self.geometry.directory_pages() - page).min((CHUNK / BLOCK64) as u32);
        self.ask(offset, u64::from(pages) * BLOCK64, out);
    }

    fn take_directory(&mut self, bytes: &[u8], out: &mut Outputs) -> Result<(), FormatError> {
        let generation = self.anchor.directory_generation;
        let key = self.key;
        for page in bytes.chunks_exact(BLOCK) {
            let number = self.recovering().next as u32;
            let directory = DirectoryPage::decode(page, &key, number, generation)?;
            let recovering = self.recovering();
            recovering.generations.extend(directory.generations);
            recovering.next += 1;
        }
        if self.recovering().next < u64::from(self.geometry.directory_pages()) {
            self.ask_directory(out);
            return Ok(());
        }
        let generations = std::mem::take(&mut self.recovering().generations);
        let maps = self.map_generations.len();
        assert!(
            generations.len()
                <= (self.geometry.directory_pages() * GENERATIONS_PER_DIRECTORY_PAGE) as usize
        );
        self.map_generations = generations[..maps].to_vec();
        self.sums_generations = generations[maps..maps + self.sums_generations.len()].to_vec();
        let recovering = self.recovering();
        recovering.step = Step::Map;
        recovering.next = 0;
        self.ask_map(out)
    }

    /// Map pages that were ever written, both slots of a run of pages in one read.
    fn ask_map(&mut self, out: &mut Outputs) -> Result<(), FormatError> {
        let total = u64::from(self.geometry.map_pages());
        let next = self.recovering().next;
        if next >= total {
            return self.begin_deltas(out);
        }
        let pages = (total - next).min(CHUNK / (2 * BLOCK64));
        self.ask(
            self.geometry.map.offset + next * 2 * BLOCK64,
            pages * 2 * BLOCK64,
            out,
        );
        Ok(())
    }

    fn take_map(&mut self, bytes: &[u8], out: &mut Outputs) -> Result<(), FormatError> {
        for pair in bytes.chunks_exact(2 * BLOCK) {
            let page = self.recovering().next as u32;
            self.recovering().next += 1;
            let generation = self.map_generations[page as usize];
            if generation == 0 {
                continue;
            }
            let slot = (generation & 1) as usize * BLOCK;
            // An older generation here than the directory names is a lost write.
            let map = match MapPage::decode(&pair[slot..slot + BLOCK], &self.key, page, generation)
            {
                Err(_) if self.broken.is(Mutation::LostPageUnnoticed) => continue,
                decoded => decoded?,
            };
            for (at, entry) in map.entries.iter().enumerate().filter(|(_, e)| !e.is_free()) {
                let extent = page * EXTENTS_PER_MAP_PAGE + at as u32;
                if !self.is_owned(entry.owner)? {
                    self.mark_map_dirty(extent); // a deleted replica's
                    continue;
                }
                let mapped = Mapped {
                    owner: entry.owner,
                    index: entry.index,
                    valid: entry.valid,
                    newest: entry.newest,
                    birth: entry.birth,
                };
                self.claim(extent, mapped);
            }
        }
        self.ask_map(out)
    }

    /// S4: if two extents claim one place, the higher stamp wins.
    fn claim(&mut self, extent: u32, mapped: Mapped) {
        if let Some(other) = self.extents.find(mapped.owner, mapped.index) {
            let held = self.extents.get(other);
            if (held.birth, held.newest) >= (mapped.birth, mapped.newest) {
                self.mark_map_dirty(extent);
                return;
            }
            self.extents.unmap(other);
            self.extents.give_back(other);
            self.mark_map_dirty(other);
        }
        self.extents.map(extent, mapped);
    }

    fn begin_deltas(&mut self, out: &mut Outputs) -> Result<(), FormatError> {
        let recovering = self.recovering();
        recovering.step = Step::Deltas;
        self.ask_deltas(out);
        Ok(())
    }

    /// The next run of delta pages that does not cross the end of the area.
    fn ask_deltas(&mut self, out: &mut Outputs) {
        let pages = self.geometry.delta_pages();
        let left = pages - self.delta_head % pages;
        let offset = self.geometry.delta_page(self.delta_head);
        self.ask(offset, left.min(CHUNK / BLOCK64) * BLOCK64, out);
    }

    fn take_deltas(&mut self, bytes: &[u8], out: &mut Outputs) -> Result<(), FormatError> {
        let key = self.key;
        for page in bytes.chunks_exact(BLOCK) {
            let used = self.delta_head - self.anchor.delta_tail;
            let decoded = DeltaPage::decode(page, &key);
            let page = decoded.as_ref().ok();
            let page = page.filter(|p| p.number == self.delta_head);
            let Some(page) = page.filter(|_| used < self.geometry.delta_pages()) else {
                let mark = self.anchor.written.delta_mark;
                if self.delta_head < mark && !self.broken.is(Mutation::LostPageUnnoticed) {
                    let newer = decoded.err().filter(|e| e.why.is_of_a_newer_one());
                    return Err(newer.unwrap_or_else(lost_delta));
                }
                self.delta_durable = self.delta_head;
                self.recovering().step = Step::StaleDeltas;
                self.recovering().next = 0;
                self.ask_stale(out);
                return Ok(());
            };
            for delta in &page.deltas {
                if self.is_known(delta)? {
                    self.apply_delta(delta);
                }
            }
            self.delta_head += 1;
        }
        self.ask_deltas(out);
        Ok(())
    }

    /// Deltas of deleted replicas name owners that are gone.
    fn is_known(&self, delta: &Delta) -> Result<bool, FormatError> {
        match delta {
            Delta::Mapped { owner, .. } => self.is_owned(*owner),
            _ => Ok(true),
        }
    }

    /// Whether a replica's data stands under this owner: not if it was deleted.
    fn is_owned(&self, owner: u32) -> Result<bool, FormatError> {
        let number = ReplicaEntry::slot_of(owner);
        self.is_in_table(number)?;
        Ok(self.slots.get(&number).is_some_and(|s| !s.deleting))
    }

    /// A replica's entry is durable before anything names it, and stays when it is freed. One that is
    /// blank and named has been lost; made anew it would take over what its last owner left (R4).
    pub(crate) fn is_in_table(&self, number: u32) -> Result<(), FormatError> {
        let written =
            self.slots.contains_key(&number) || self.free_generations.contains_key(&number);
        match written {
            true => Ok(()),
            false => Err(FormatError::new(
                Structure::Replica,
                Why::Lost("it is blank, and its data is still there"),
            )),
        }
    }

    /// Pages beyond the end, of a round that broke off, must not follow the next round's: they are
    /// looked for in the whole area, and overwritten.
    fn ask_stale(&mut self, out: &mut Outputs) {
        let next = self.recovering().next;
        let area = self.geometry.delta;
        let length = CHUNK.min(area.length - next);
        self.ask(area.offset + next, length, out);
    }

    fn take_stale(&mut self, bytes: &[u8], out: &mut Outputs) -> Result<(), FormatError> {
        let (head, key) = (self.delta_head, self.key);
        let recovering = self.recovering();
        for page in bytes.chunks_exact(BLOCK) {
            if let Ok(page) = DeltaPage::decode(page, &key)
                && page.number >= head
            {
                recovering.stale = recovering.stale.max(page.number + 1 - head);
            }
        }
        recovering.next += bytes.len() as u64;
        let stale = recovering.stale;
        if recovering.next < self.geometry.delta.length {
            self.ask_stale(out);
            return Ok(());
        }
        if stale > self.round_pages() {
            // More than one round can leave: an older anchor than the newest was read.
            return Err(lost_delta());
        }
        self.clear_stale(out)
    }

    fn clear_stale(&mut self, out: &mut Outputs) -> Result<(), FormatError> {
        let stale = self.recovering().stale;
        if stale == 0 {
            return self.begin_ring(out);
        }
        let number = self.delta_head + stale - 1;
        let recovering = self.recovering();
        recovering.stale -= 1;
        recovering.step = Step::Clearing;
        let offset = self.geometry.delta_page(number);
        self.put(offset, Bytes::from_static(&[0; BLOCK]), out);
        Ok(())
    }

    fn begin_ring(&mut self, out: &mut Outputs) -> Result<(), FormatError> {
        let ring = self.geometry.ring;
        let anchor = self.recovering().anchor.expect("taken before");
        let position = anchor.tail_lap * ring.length + anchor.tail_offset;
        self.journal = Journal::new(ring, position, anchor.tail_number, anchor.tail_previous);
        let recovering = self.recovering();
        recovering.step = Step::Ring;
        recovering
            .scan
            .begin(position, anchor.tail_number, anchor.tail_previous);
        self.ask_ring(position, out);
        Ok(())
    }

    /// The ring is known. What it lost is written to the table before anything is written over it: it
    /// would not be seen again (R24).
    pub(crate) fn end_recovery(&mut self, out: &mut Outputs) {
        let gaps = std::mem::take(&mut self.recovering().scan.gaps);
        let mut tables = Vec::new();
        for (number, gap) in gaps {
            if let Some(slot) = self.slots.get_mut(&number).filter(|s| s.meta.gap < gap) {
                slot.meta.gap = gap;
                tables.push(number);
            }
        }
        let recovering = self.recovering();
        recovering.tables = tables;
        recovering.step = Step::Gaps;
        self.write_gaps(out);
    }

    fn write_gaps(&mut self, out: &mut Outputs) {
        let Some(number) = self.recovering().tables.pop() else {
            return self.finish_recovery(out);
        };
        let key = self.key;
        let slot = self.slots.get_mut(&number).expect("it has a gap");
        slot.generation += 1;
        slot.twin_due = true;
        let page = Bytes::copy_from_slice(&slot.entry().encode(&key));
        let offset = self.geometry.replica_slot(number, slot.generation);
        self.put(offset, page, out);
    }

    /// One durable write of recovery.
    fn put(&mut self, offset: u64, page: Bytes, out: &mut Outputs) {
        let recovering = self.recovering();
        recovering.serial += 1;
        let op = Op::Recovery(recovering.serial);
        self.submit_write(op, offset, SmallVec::from_elem(page, 1), true, out);
    }

    fn finish_recovery(&mut self, out: &mut Outputs) {
        let Phase::Recovering(mut recovering) = std::mem::replace(&mut self.phase, Phase::Ready)
        else {
            unreachable!("recovery is finished once")
        };
        let mut report = Recovery {
            replicas: Vec::new(),
            torn_batches: recovering.scan.torn_batches,
            corrupt: recovering.scan.corrupt,
        };
        for (number, slot) in &mut self.slots {
            slot.floor = slot.floor.max(slot.meta.floor);
            slot.meta.floor = slot.floor;
            slot.last = slot.floor;
            for (_, entry) in self.index.above(*number, slot.floor.sequence) {
                if entry.stamp.sequence != slot.last.sequence.next() {
                    break;
                }
                slot.last = entry.stamp;
            }
            // R8: a size that the table does not have yet.
            let sizes = self.index.of_slot(*number).map(|(_, e)| e);
            let sizes = sizes.filter(|e| e.kind == RecordKind::Resize);
            let blocks = sizes.map(|e| e.range.start).max().unwrap_or(0);
            slot.dirty |= slot.meta.blocks < blocks;
            slot.meta.blocks = slot.meta.blocks.max(blocks);
            if !slot.deleting {
                report.replicas.push(RecoveredReplica {
                    meta: slot.meta.clone(),
                    last: slot.last,
                    torn: recovering.scan.torn.remove(number).unwrap_or_default(),
                });
            }
        }
        let anchor = recovering.anchor.expect("taken first");
        self.scrub = Scrub::new(self.geometry.extents, 0, anchor.scrub, self.now);
        self.last_write = self.now;
        self.marked = false; // the first thing said is a mark
        self.mark_first = true;
        self.size_windows();
        out.push(Output::Event(Event::Recovered(report)));
        self.purge_deleted();
        for number in self.slots.keys().copied().collect::<Vec<_>>() {
            self.submit_table(number, out);
        }
    }
}

/// An entry of the table; one that was never written is free.
fn table_entry(page: &[u8], key: &PoolKey, number: u32) -> Result<ReplicaEntry, FormatError> {
    if page.iter().all(|b| *b == 0) {
        return Ok(ReplicaEntry {
            slot: number,
            generation: 0,
            state: EntryState::Free,
        });
    }
    ReplicaEntry::decode(page, key, number)
}

fn lost_delta() -> FormatError {
    FormatError::new(Structure::Delta, Why::Lost("pages of it are missing"))
}
