//! Reads: each block from where its newest content lies, every byte from disk verified. A mismatch is
//! looked up and read once more before it counts as corruption, for it may have raced destaging (S9).

use crate::api::{
    DiskOp, DiskResult, Event, ExtentSums, Output, Outputs, ReadData, StoreError, Tag,
};
use crate::format::{ChecksumPage, seeded};
use crate::gather::Piece;
use crate::index::{EntryId, Place};
use crate::locate::{Part, Source};
use crate::mutate::Mutation;
use crate::store::{Op, Store};
use crate::sums::{Sums, page_of};
use bytes::Bytes;
use lockstep_types::{
    BLOCK, BlockRange, Checksums, EXTENT_BLOCKS, ExtentIndex, Record, RecordKind, Stamp,
    checksum_of_zeroes,
};
use std::collections::BTreeMap;

/// What a read is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Purpose {
    Client(Tag),
    /// A whole record.
    Record(Tag, EntryId, Stamp),
    /// A payload to be copied forward.
    Forward(EntryId),
    /// Blocks of a record to be destaged: the place of their extent in the round.
    Destage {
        at: usize,
        entry: EntryId,
    },
    Scrub,
}

/// Reads under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Reads {
    jobs: BTreeMap<u64, Job>,
    /// Sums asked for, and those who wait for a checksum page.
    sums: BTreeMap<u64, (Tag, u32, ExtentIndex)>,
    pages: BTreeMap<u32, Vec<u64>>,
    next: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Job {
    slot: u32,
    range: BlockRange,
    purpose: Purpose,
    parts: Vec<Part>,
    again: bool,
    /// How often anything had moved when the parts were located.
    moves: u64,
    /// Parts or pages that it waits for.
    waiting: usize,
    /// Only this record's blocks are wanted, whoever wins them.
    only: Option<EntryId>,
    failed: bool,
}

impl Reads {
    /// Whether an extent is being scrubbed.
    pub fn scrubs(&self) -> bool {
        self.jobs.values().any(|job| job.purpose == Purpose::Scrub)
    }

    /// Whether a read of a replica is under way.
    pub fn concern(&self, slot: u32) -> bool {
        self.jobs.values().any(|j| j.slot == slot) || self.sums.values().any(|s| s.1 == slot)
    }
}

impl Store {
    pub(crate) fn start_read(
        &mut self,
        slot: u32,
        range: BlockRange,
        purpose: Purpose,
        out: &mut Outputs,
    ) {
        self.start_job(Job::new(slot, range, purpose, None), out);
    }

    /// Reads one record's own payload, for replication, forwarding or destaging.
    pub(crate) fn start_entry_read(
        &mut self,
        id: EntryId,
        range: BlockRange,
        purpose: Purpose,
        out: &mut Outputs,
    ) {
        let slot = self.index.get(id).expect("the caller looked it up").slot;
        self.start_job(Job::new(slot, range, purpose, Some(id)), out);
    }

    pub(crate) fn start_record_read(
        &mut self,
        _slot: u32,
        id: EntryId,
        tag: Tag,
        out: &mut Outputs,
    ) {
        let entry = self.index.get(id).expect("the caller looked it up");
        if entry.kind == RecordKind::Write {
            let (range, stamp) = (entry.range, entry.stamp);
            return self.start_entry_read(id, range, Purpose::Record(tag, id, stamp), out);
        }
        let record = Record {
            stamp: entry.stamp,
            kind: entry.kind,
            range: entry.range,
            checksums: Checksums::none(),
            payload: Bytes::new(),
        };
        out.push(Output::Event(Event::RecordRead {
            tag,
            result: Ok(record),
        }));
    }

    fn start_job(&mut self, mut job: Job, out: &mut Outputs) {
        let key = self.reads.next;
        self.reads.next += 1;
        job.parts = self.locate(job.slot, job.range, job.only);
        job.moves = self.moves;
        self.reads.jobs.insert(key, job);
        self.issue(key, out);
    }

    /// Asks the disk for everything that is not here yet.
    fn issue(&mut self, key: u64, out: &mut Outputs) {
        let job = self.reads.jobs.get(&key).expect("the caller has it");
        let parts: Vec<(usize, BlockRange, Source, bool)> = job
            .parts
            .iter()
            .enumerate()
            .map(|(i, p)| (i, p.range, p.from, p.expected.is_none()))
            .collect();
        let mut waiting = 0;
        for (part, range, from, unknown) in parts {
            let (offset, extent) = match from {
                Source::Hole | Source::Memory => continue,
                Source::Ring(offset) => (offset, None),
                Source::Direct { extent, offset } | Source::Mapped { extent, offset } => {
                    (offset, Some(extent))
                }
            };
            if let Some(extent) = extent {
                self.extents.read_begins(extent);
                if unknown && !self.fill_expected(key, part, extent) {
                    waiting += 1;
                    self.want_page(page_of(extent), key, out);
                }
            }
            waiting += 1;
            let length = range.bytes() as u32;
            self.submit(
                Op::Part { job: key, part },
                |token| DiskOp::Read {
                    token,
                    offset,
                    length,
                },
                out,
            );
        }
        self.reads.jobs.get_mut(&key).expect("as above").waiting = waiting;
        if waiting == 0 {
            self.finish_job(key, out);
        }
    }

    /// The stored checksums of a part, unseeded, if they are in memory.
    fn fill_expected(&mut self, key: u64, part: usize, extent: u32) -> bool {
        let job = self.reads.jobs.get_mut(&key).expect("the caller has it");
        let range = job.parts[part].range;
        let slot = job.slot;
        let Some(sums) = self.sums.get(extent, range.bits_in(range.extent())) else {
            return false;
        };
        let expected = self.unseeded(slot, range, &sums);
        self.reads.jobs.get_mut(&key).expect("as above").parts[part].expected = Some(expected);
        true
    }

    fn unseeded(&self, slot: u32, range: BlockRange, sums: &Sums) -> Vec<u32> {
        let lineage = self.slots[&slot].meta.lineage;
        (range.start..range.end())
            .map(|block| seeded(lineage, block, sums[(block % EXTENT_BLOCKS) as usize]))
            .collect()
    }

    fn want_page(&mut self, page: u32, key: u64, out: &mut Outputs) {
        let waiters = self.reads.pages.entry(page).or_default();
        waiters.push(key);
        if waiters.len() > 1 {
            return;
        }
        let generation = self.sums_generations[page as usize];
        let offset = self.geometry.checksum_slot(page, generation);
        let op = Op::SumsPage { page, generation };
        self.submit(
            op,
            |token| DiskOp::Read {
                token,
                offset,
                length: BLOCK as u32,
            },
            out,
        );
    }

    /// Reads a checksum page for a checkpoint, too.
    pub(crate) fn prefetch_page(&mut self, page: u32, out: &mut Outputs) {
        self.want_page(page, u64::MAX, out);
    }

    pub(crate) fn sums_page_read(
        &mut self,
        page: u32,
        generation: u32,
        result: DiskResult,
        out: &mut Outputs,
    ) {
        let waiters = self.reads.pages.remove(&page).unwrap_or_default();
        let decoded = match result {
            DiskResult::Read(bytes) if generation == 0 => {
                let _ = bytes;
                Some(ChecksumPage::empty(page))
            }
            // An older generation than the directory says is a lost write, not a good page.
            DiskResult::Read(bytes) => {
                ChecksumPage::decode(&bytes, &self.key, page, generation).ok()
            }
            _ => None,
        };
        // A checkpoint may have written the page anew meanwhile.
        let current = self.sums_generations[page as usize] == generation;
        let good = decoded.is_some();
        if current && let Some(decoded) = decoded {
            self.sums.insert(decoded);
        }
        for key in waiters {
            if key == u64::MAX {
                self.checkpoint_page_loaded(page, good);
                continue;
            }
            if let Some((tag, slot, index)) = self.reads.sums.remove(&key) {
                match good || !current {
                    true => self.start_sums(slot, index, tag, out),
                    false => {
                        let result = Err(StoreError::Corrupt(BlockRange::of_extent(index)));
                        out.push(Output::Event(Event::ExtentSums { tag, result }));
                    }
                }
                continue;
            }
            let Some(job) = self.reads.jobs.get(&key) else {
                continue;
            };
            let missing: Vec<(usize, u32)> = job
                .parts
                .iter()
                .enumerate()
                .filter_map(|(i, p)| match p.from {
                    Source::Mapped { extent, .. }
                        if p.expected.is_none() && page_of(extent) == page =>
                    {
                        Some((i, extent))
                    }
                    _ => None,
                })
                .collect();
            for (part, extent) in missing {
                if !good || !self.fill_expected(key, part, extent) {
                    self.reads.jobs.get_mut(&key).expect("as above").failed = true;
                }
            }
            self.one_less(key, out);
        }
    }

    pub(crate) fn part_read(
        &mut self,
        key: u64,
        part: usize,
        result: DiskResult,
        out: &mut Outputs,
    ) {
        let Some(job) = self.reads.jobs.get_mut(&key) else {
            return;
        };
        if let Source::Direct { extent, .. } | Source::Mapped { extent, .. } = job.parts[part].from
        {
            self.extents.read_ended(extent);
        }
        match result {
            DiskResult::Read(bytes) if bytes.len() == job.parts[part].range.bytes() => {
                job.parts[part].data = Some(bytes);
            }
            _ => job.failed = true,
        }
        self.one_less(key, out);
    }

    fn one_less(&mut self, key: u64, out: &mut Outputs) {
        let Some(job) = self.reads.jobs.get_mut(&key) else {
            return;
        };
        job.waiting -= 1;
        if job.waiting == 0 {
            self.finish_job(key, out);
        }
    }

    fn finish_job(&mut self, key: u64, out: &mut Outputs) {
        let mut job = self.reads.jobs.remove(&key).expect("it is finished once");
        let bad = job.first_bad();
        let alive = job.only.is_none_or(|id| self.index.get(id).is_some());
        let due = job.moves != self.moves || !job.again;
        let again = due && !self.broken.is(Mutation::S9NotReadAgain);
        if bad.is_some() && again && alive {
            job.again = true; // S9: it may have moved while it was read
            job.failed = false;
            return self.start_job(job, out);
        }
        let bad = if self.broken.is(Mutation::S9CorruptServed) {
            None
        } else {
            bad
        };
        match job.purpose {
            Purpose::Client(tag) => {
                let replica = self.slots[&job.slot].meta.replica;
                let result = match bad {
                    _ if self.slots[&job.slot].deleting => Err(StoreError::NoReplica(replica)),
                    None => Ok(job.into_data()),
                    Some(range) => Err(StoreError::Corrupt(range)),
                };
                out.push(Output::Event(Event::Read { tag, result }));
            }
            Purpose::Record(tag, id, stamp) => {
                let result = self.record_of(id, stamp, &job, bad);
                out.push(Output::Event(Event::RecordRead { tag, result }));
            }
            Purpose::Forward(id) => self.forward_read(id, job.payload(), bad, out),
            Purpose::Destage { at, entry } => {
                let range = job.range;
                self.round_read(Piece { at, entry, range }, job.payload(), bad, out)
            }
            Purpose::Scrub => {
                if bad.is_some()
                    && let Some(slot) = self.slots.get(&job.slot).filter(|s| !s.deleting)
                {
                    let replica = slot.meta.replica;
                    let found = job.bad_runs().into_iter();
                    out.extend(found.map(|range| Output::Event(Event::Corrupt { replica, range })));
                }
            }
        }
    }

    fn record_of(
        &self,
        id: EntryId,
        stamp: Stamp,
        job: &Job,
        bad: Option<BlockRange>,
    ) -> Result<Record, StoreError> {
        let Some(entry) = self.index.get(id) else {
            return Err(StoreError::Gone(stamp));
        };
        if let Some(range) = bad {
            // What is newer is destaged over a direct write in its place.
            let direct = matches!(entry.place, Place::Extent(_));
            return Err(
                match direct && self.may_destage(entry.slot, stamp.sequence) {
                    true => StoreError::Gone(stamp),
                    false => StoreError::Corrupt(range),
                },
            );
        }
        Ok(Record {
            stamp: entry.stamp,
            kind: entry.kind,
            range: entry.range,
            checksums: entry.checksums.clone(),
            payload: job.payload(),
        })
    }

    /// Presence and checksums of an extent: the records' where they win, the stored ones elsewhere.
    pub(crate) fn start_sums(
        &mut self,
        slot: u32,
        index: ExtentIndex,
        tag: Tag,
        out: &mut Outputs,
    ) {
        let held = &self.slots[&slot];
        if held.deleting {
            let result = Err(StoreError::NoReplica(held.meta.replica));
            return out.push(Output::Event(Event::ExtentSums { tag, result }));
        }
        let (winners, left) = self.index.winners(slot, index, u64::MAX);
        let mapped = self.extents.find(held.owner(), index);
        let valid = mapped.map_or(0, |e| self.extents.get(e).valid) & left;
        let mut stored = [0; EXTENT_BLOCKS as usize];
        if let Some(extent) = mapped
            && valid != 0
        {
            match self.sums.get(extent, valid) {
                Some(sums) => stored = sums,
                None => {
                    let key = self.reads.next;
                    self.reads.next += 1;
                    self.reads.sums.insert(key, (tag, slot, index));
                    return self.want_page(page_of(extent), key, out);
                }
            }
        }
        let lineage = self.slots[&slot].meta.lineage;
        let mut sums = ExtentSums::empty(index);
        sums.newest = self.extent_newest(self.slots[&slot].meta.replica, index);
        for block in 0..EXTENT_BLOCKS {
            let address = u64::from(index) * EXTENT_BLOCKS + block;
            let winner = winners.iter().find(|w| w.bits & (1 << block) != 0);
            let sum = match winner.map(|w| self.index.get(w.entry).expect("winners are live")) {
                Some(e) if e.kind == RecordKind::Write => {
                    Some(e.checksums.as_slice()[(address - e.range.start) as usize])
                }
                Some(_) => None,
                None if valid & (1 << block) != 0 => {
                    Some(seeded(lineage, address, stored[block as usize]))
                }
                None => None,
            };
            if let Some(sum) = sum {
                sums.present |= 1 << block;
                sums.checksums.push(sum);
            }
        }
        out.push(Output::Event(Event::ExtentSums {
            tag,
            result: Ok(sums),
        }));
    }

    pub(crate) fn fail_reads(&mut self, errno: i32, out: &mut Outputs) {
        let error = || StoreError::Device(errno);
        for job in std::mem::take(&mut self.reads.jobs).into_values() {
            match job.purpose {
                Purpose::Client(tag) => out.push(Output::Event(Event::Read {
                    tag,
                    result: Err(error()),
                })),
                Purpose::Record(tag, ..) => out.push(Output::Event(Event::RecordRead {
                    tag,
                    result: Err(error()),
                })),
                _ => {}
            }
        }
        for (tag, _, _) in std::mem::take(&mut self.reads.sums).into_values() {
            out.push(Output::Event(Event::ExtentSums {
                tag,
                result: Err(error()),
            }));
        }
        self.reads.pages.clear();
    }
}

/// The first run of blocks that are not what their checksums say: where it begins, and how long it is.
pub(crate) fn first_mismatch(data: &[u8], expected: &[u32]) -> Option<(usize, usize)> {
    let is_bad = |at: &usize| crc32c::crc32c(&data[at * BLOCK..][..BLOCK]) != expected[*at];
    let at = (0..expected.len()).find(is_bad)?;
    Some((at, (at..expected.len()).take_while(is_bad).count()))
}

impl Job {
    fn new(slot: u32, range: BlockRange, purpose: Purpose, only: Option<EntryId>) -> Self {
        Self {
            slot,
            range,
            purpose,
            parts: Vec::new(),
            again: false,
            moves: 0,
            waiting: 0,
            only,
            failed: false,
        }
    }

    /// The first run of blocks whose bytes are not what their checksums say: what is repaired at once.
    fn first_bad(&self) -> Option<BlockRange> {
        for part in &self.parts {
            if part.from == Source::Hole {
                continue;
            }
            let (Some(data), Some(expected)) = (&part.data, &part.expected) else {
                return Some(part.range);
            };
            if part.from == Source::Memory {
                continue; // verified where it entered the node
            }
            if let Some((at, run)) = first_mismatch(data, expected) {
                return Some(BlockRange::new(part.range.start + at as u64, run as u32));
            }
        }
        self.failed.then_some(self.range)
    }

    /// Every such run: a scrub that told of the first one alone would come to the next a pass later.
    fn bad_runs(&self) -> Vec<BlockRange> {
        let mut runs = Vec::new();
        let elsewhere = [Source::Hole, Source::Memory];
        for part in self.parts.iter().filter(|p| !elsewhere.contains(&p.from)) {
            let (Some(data), Some(expected)) = (&part.data, &part.expected) else {
                runs.push(part.range);
                continue;
            };
            let mut from = 0;
            while let Some((at, run)) = first_mismatch(&data[from * BLOCK..], &expected[from..]) {
                let start = part.range.start + (from + at) as u64;
                runs.push(BlockRange::new(start, run as u32));
                from += at + run;
            }
        }
        if runs.is_empty() {
            runs.push(self.range);
        }
        runs
    }

    fn into_data(self) -> ReadData {
        let mut checksums = Checksums::none();
        let mut pieces = Vec::with_capacity(self.parts.len());
        for part in self.parts {
            match part.from {
                Source::Hole => {
                    checksums.0.extend(std::iter::repeat_n(
                        checksum_of_zeroes(),
                        part.range.count as usize,
                    ));
                    pieces.push((part.range.count, None));
                }
                _ => {
                    checksums.0.extend(part.expected.unwrap_or_default());
                    pieces.push((part.range.count, part.data));
                }
            }
        }
        ReadData { pieces, checksums }
    }

    /// The bytes of a read of one record, which is in one piece.
    fn payload(&self) -> Bytes {
        self.parts
            .first()
            .and_then(|p| p.data.clone())
            .unwrap_or_default()
    }
}
