//! Recovery of the ring: the chain of batches from the tail on, each authentic and whole (S8); what the
//! end of the chain means (R24); and what of it still counts (S3).

use crate::api::{Outputs, TailRecord};
use crate::format::{
    Batch, Descriptor, FormatError, HeaderHash, ParsedBatch, RecordFlags, Structure, Why,
};
use crate::index::{Claim, Entry, EntryId, Place, changes_blocks};
use crate::journal::BatchInfo;
use crate::mutate::Mutation;
use crate::store::Store;
use bytes::Bytes;
use lockstep_types::{BLOCK, ExtentIndex, Gap, RecordKind};
use std::collections::BTreeMap;

const BLOCK64: u64 = BLOCK as u64;
/// Bytes of the ring looked at in one read; longer than any batch.
const WINDOW: u64 = 512 * 1024;

/// Where the scan is, and what it found.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Scan {
    /// Where the next batch is looked for, and what it must say.
    position: u64,
    expected: u64,
    previous: HeaderHash,
    window: Bytes,
    window_at: u64,
    /// Where the lap before seemed to end, while the start of the next one is looked at.
    lap_end: Option<u64>,
    /// After the end of the chain: the search for later headers.
    search: Option<Search>,
    /// Which record holds an extent by a direct write.
    claims: BTreeMap<u32, EntryId>,
    /// Copies by slot and order, so that one that was copied forward is met once.
    copies: BTreeMap<(u32, u64), EntryId>,
    pub torn: BTreeMap<u32, Vec<TailRecord>>,
    pub torn_batches: u64,
    pub corrupt: bool,
    pub gaps: BTreeMap<u32, Gap>,
}

/// The search for headers beyond the end of the chain.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Search {
    at: u64,
    until: u64,
    /// The batch at the end had a good header and a bad payload.
    torn: Option<Box<ParsedBatch>>,
}

impl Scan {
    pub fn begin(&mut self, position: u64, number: u64, previous: HeaderHash) {
        self.position = position;
        self.expected = number;
        self.previous = previous;
    }

    fn window_from(&self, position: u64) -> Option<Bytes> {
        let skip = position.checked_sub(self.window_at)? as usize;
        (skip < self.window.len()).then(|| self.window.slice(skip..))
    }
}

impl Store {
    fn scan(&mut self) -> &mut Scan {
        &mut self.recovering().scan
    }

    pub(crate) fn ask_ring(&mut self, position: u64, out: &mut Outputs) {
        let ring = self.geometry.ring;
        self.scan().window_at = position;
        let length = self.window_at_most(position);
        self.ask(ring.offset + position % ring.length, length, out);
    }

    /// Bytes of a window from a position on: it ends with the lap.
    fn window_at_most(&self, position: u64) -> u64 {
        let ring = self.geometry.ring.length;
        WINDOW.min(ring - position % ring)
    }

    pub(crate) fn take_ring(&mut self, bytes: Bytes, out: &mut Outputs) -> Result<(), FormatError> {
        self.scan().window = bytes;
        match self.scan().search.take() {
            Some(search) => self.go_on_searching(search, out),
            None => self.go_on_scanning(out),
        }
    }

    /// Takes every batch that lies whole in the window.
    fn go_on_scanning(&mut self, out: &mut Outputs) -> Result<(), FormatError> {
        loop {
            let position = self.scan().position;
            let Some(rest) = self.scan().window_from(position) else {
                self.ask_ring(position, out);
                return Ok(());
            };
            match self.parse(position, &rest)? {
                Some((parsed, payload)) if parsed.batch.payload_matches(&payload) => {
                    self.take_batch(position, parsed)?;
                }
                Some((parsed, _)) => return self.chain_ends(Some(parsed), out),
                None if (rest.len() as u64) < self.window_at_most(position) => {
                    self.ask_ring(position, out);
                    return Ok(());
                }
                None => return self.nothing_here(position, out),
            }
        }
    }

    /// No batch here: the chain ends, unless the next one was too long for the rest of the lap.
    fn nothing_here(&mut self, position: u64, out: &mut Outputs) -> Result<(), FormatError> {
        let ring = self.geometry.ring.length;
        let next_lap = (position / ring + 1) * ring;
        if position.is_multiple_of(ring) || next_lap - self.journal.tail >= ring {
            return self.chain_ends(None, out);
        }
        let scan = self.scan();
        scan.lap_end = Some(position);
        scan.position = next_lap;
        self.ask_ring(next_lap, out);
        Ok(())
    }

    /// The batch at the start of the bytes, if it is the one expected and lies whole in them.
    fn parse(
        &mut self,
        position: u64,
        bytes: &Bytes,
    ) -> Result<Option<(ParsedBatch, Bytes)>, FormatError> {
        let Some(header) = header_in(bytes) else {
            return Ok(None);
        };
        self.refuse_unknown(header)?;
        let lap = self.journal.lap(position);
        let scan = self.scan();
        let expected = (scan.expected, scan.previous, lap);
        Ok(self
            .decode(header)
            .filter(|p| (p.batch.number, p.batch.previous, p.batch.lap) == expected)
            .filter(|p| bytes.len() as u64 >= p.shape.bytes())
            .map(|parsed| {
                let payload = header.len()..parsed.shape.bytes() as usize;
                (parsed, bytes.slice(payload))
            }))
    }

    /// A batch that a newer Lockstep wrote holds records that may have been acknowledged: to end the
    /// chain before it would truncate it silently (R24). One with a number below the one expected is of
    /// an earlier lap, from before an upgrade was taken back with the journal empty: nobody needs it.
    fn refuse_unknown(&mut self, header: &[u8]) -> Result<(), FormatError> {
        match Batch::unknown(header, &self.key) {
            Some(batch) if batch.number >= self.scan().expected => {
                let why = Why::Version(batch.version);
                Err(FormatError::new(Structure::Batch, why))
            }
            _ => Ok(()),
        }
    }

    /// S8: a guest block that imitates a header fails the key.
    fn decode(&self, header: &[u8]) -> Option<ParsedBatch> {
        #[cfg(feature = "mutate")]
        if self.broken.is(Mutation::S8KeyNotChecked) {
            return Batch::decode_any(header).ok();
        }
        Batch::decode(header, &self.key).ok()
    }

    /// The chain of batches ends at the position. What lies beyond says whether the batch there was
    /// ever flushed (R24).
    fn chain_ends(
        &mut self,
        torn: Option<ParsedBatch>,
        out: &mut Outputs,
    ) -> Result<(), FormatError> {
        let until = self.journal.tail + self.geometry.ring.length;
        let scan = self.scan();
        if let Some(end) = scan.lap_end.take().filter(|_| torn.is_none()) {
            scan.position = end;
        }
        let at = scan.position;
        scan.search = Some(Search {
            at,
            until,
            torn: torn.map(Box::new),
        });
        self.ask_ring(at, out);
        Ok(())
    }

    /// Looks for a header with a later number: there is one only if the batch that is missing or bad
    /// was flushed, for one batch is in flight at a time.
    fn go_on_searching(
        &mut self,
        mut search: Search,
        out: &mut Outputs,
    ) -> Result<(), FormatError> {
        while search.at < search.until {
            let at = search.at;
            let rest = self.scan().window_from(at);
            let cut_short = rest.as_ref().is_none_or(|rest| {
                Batch::header_bytes(rest).is_some_and(|header| rest.len() < header)
                    && (rest.len() as u64) < self.window_at_most(at)
            });
            if cut_short {
                self.scan().search = Some(search);
                self.ask_ring(at, out);
                return Ok(());
            }
            if let Some(header) = rest.as_ref().and_then(header_in) {
                self.refuse_unknown(header)?;
                if let Some(found) = self.later_header(header) {
                    return self.skip_gap(search, found, out);
                }
            }
            search.at += BLOCK64;
        }
        self.end_of_ring(search.torn);
        self.end_recovery(out);
        Ok(())
    }

    fn later_header(&mut self, header: &[u8]) -> Option<ParsedBatch> {
        let parsed = self.decode(header)?;
        (parsed.batch.number > self.scan().expected).then_some(parsed)
    }

    /// A flushed batch is bad or missing: corruption (R24). What it named, or everything if its header
    /// cannot be read or more than one is missing, is gapped; the chain goes on behind it.
    fn skip_gap(
        &mut self,
        search: Search,
        found: ParsedBatch,
        out: &mut Outputs,
    ) -> Result<(), FormatError> {
        let one = found.batch.number == self.scan().expected + 1;
        let named: Vec<u32> = match search.torn.filter(|_| one) {
            Some(parsed) => parsed.batch.records.iter().map(|d| d.slot).collect(),
            None => self.slots.keys().copied().collect(),
        };
        self.note_corrupt(named);
        let scan = self.scan();
        scan.lap_end = None;
        scan.position = search.at;
        scan.expected = found.batch.number;
        scan.previous = found.batch.previous;
        self.go_on_scanning(out)
    }

    fn note_corrupt(&mut self, slots: Vec<u32>) {
        if self.broken.is(Mutation::R24TruncateSilently) {
            return;
        }
        let scan = self.scan();
        scan.corrupt = true;
        scan.gaps
            .extend(slots.into_iter().map(|slot| (slot, Gap::Corrupt)));
    }

    /// Nothing valid lies beyond. A batch with a good header and a bad payload is torn, unless it is
    /// known to have been flushed.
    fn end_of_ring(&mut self, torn: Option<Box<ParsedBatch>>) {
        let mark = self.recovering().anchor.expect("taken before").mark;
        if mark >= self.scan().expected {
            return self.note_corrupt(self.slots.keys().copied().collect());
        }
        let Some(parsed) = torn else { return };
        if self.broken.is(Mutation::R24TruncateSilently) {
            return;
        }
        let here: Vec<Descriptor> = parsed
            .batch
            .records
            .into_iter()
            .filter(|d| !d.flags.has(RecordFlags::FLOOR_ONLY) && self.slots.contains_key(&d.slot))
            .collect();
        let scan = self.scan();
        scan.torn_batches += 1;
        for d in here {
            let gap = scan.gaps.entry(d.slot).or_default();
            *gap = (*gap).max(Gap::Torn);
            // A copy is sent again while its replica is resynced; a mark covers those of one that is whole (R24).
            if !d.flags.has(RecordFlags::COPY) {
                scan.torn.entry(d.slot).or_default().push(TailRecord {
                    stamp: d.stamp,
                    kind: d.kind,
                    range: d.range,
                    checksums: d.checksums,
                });
            }
        }
    }

    /// A good batch: its records are indexed, its floors known.
    fn take_batch(&mut self, position: u64, parsed: ParsedBatch) -> Result<(), FormatError> {
        let ParsedBatch { batch, hash, shape } = parsed;
        let number = batch.number;
        if batch.tail_number > self.anchor.written.tail_number {
            // An anchor that was durable then is not the one that was read.
            let why = Why::Lost("a later one was written");
            return Err(FormatError::new(Structure::Anchor, why));
        }
        self.journal.batches.push_back(BatchInfo {
            number,
            position,
            bytes: shape.bytes(),
            previous: batch.previous,
            live: 0,
            entries: Vec::new(),
            durable: true,
        });
        for (descriptor, at) in batch.places() {
            let at = at.map(|at| self.journal.offset(position) + at);
            self.is_in_table(descriptor.slot)?;
            if let Some(id) = self.take_record(number, descriptor, at) {
                let info = self.journal.batches.back_mut().expect("pushed above");
                info.entries.push(id);
                info.live += 1;
            }
        }
        let head = position + shape.bytes();
        self.journal.head = head;
        self.journal.next_number = number + 1;
        self.journal.durable = number;
        self.journal.previous = hash;
        let scan = self.scan();
        scan.lap_end = None;
        scan.begin(head, number + 1, hash);
        Ok(())
    }

    /// One record of a good batch; gives its entry if it counts.
    fn take_record(
        &mut self,
        number: u64,
        descriptor: &Descriptor,
        at: Option<u64>,
    ) -> Option<EntryId> {
        let slot = self.slots.get_mut(&descriptor.slot)?;
        if slot.deleting || slot.is_older(number) {
            return None;
        }
        slot.floor = slot.floor.max(descriptor.floor);
        slot.durable_floor = slot.durable_floor.max(slot.floor);
        slot.floor_batch = number;
        let sequence = descriptor.stamp.sequence;
        let void = slot.voids.iter().any(|v| v.covers(sequence, number));
        let void = void && !self.broken.is(Mutation::VoidForgotten);
        let flags = descriptor.flags;
        if flags.has(RecordFlags::FLOOR_ONLY) || flags.has(RecordFlags::VOID) || void {
            return None;
        }
        let mut entry = Entry::new(
            descriptor.slot,
            descriptor.stamp,
            descriptor.kind,
            descriptor.range,
        );
        entry.checksums = descriptor.checksums.clone();
        entry.copy = flags.has(RecordFlags::COPY);
        entry.order = descriptor.argument;
        entry.place = match at {
            Some(at) => Place::Ring(at),
            None if flags.has(RecordFlags::DIRECT) => Place::Extent(descriptor.extent),
            None => Place::Memory,
        };
        // Records without payload have all of it.
        entry.payload = (descriptor.kind != RecordKind::Write).then(Bytes::new);
        entry.batch = Some(number);
        entry.durable = true;
        self.copy_order = self.copy_order.max(entry.order);
        match entry.copy {
            true => self.index_copy(entry),
            false => self.index_record(entry),
        }
    }

    fn index_record(&mut self, entry: Entry) -> Option<EntryId> {
        if let Some(held) = self.index.at(entry.slot, entry.stamp.sequence) {
            let before = self
                .index
                .get(held)
                .expect("listed by sequence")
                .stamp
                .epoch;
            if before == entry.stamp.epoch {
                return Some(self.moved_forward(held, entry));
            }
            // R11: that of the highest epoch stays.
            let older = (entry.stamp.epoch < before) != self.broken.is(Mutation::S3OlderRecordWins);
            if older {
                return None;
            }
            let old = self.index.remove(held).expect("looked at above");
            self.bury(old.into_ghosts());
        }
        self.index_new(entry)
    }

    fn index_copy(&mut self, entry: Entry) -> Option<EntryId> {
        let key = (entry.slot, entry.order);
        if let Some(held) = self.scan().copies.get(&key).copied()
            && self.index.get(held).is_some()
        {
            return Some(self.moved_forward(held, entry));
        }
        let id = self.index_new(entry)?;
        self.scan().copies.insert(key, id);
        Some(id)
    }

    /// The same record again, copied forward (S5): from here on it lies there.
    fn moved_forward(&mut self, held: EntryId, entry: Entry) -> EntryId {
        let original = self.index.get_mut(held).expect("the caller looked");
        original.place = entry.place;
        if let Some(before) = std::mem::replace(&mut original.batch, entry.batch) {
            self.journal.forget(before);
        }
        held
    }

    /// Puts a record into the index, unless it is in its place already (S3).
    fn index_new(&mut self, entry: Entry) -> Option<EntryId> {
        let owner = self.slots[&entry.slot].owner();
        let (sequence, copy) = (entry.stamp.sequence, entry.copy);
        let in_place = |store: &Self, index: ExtentIndex| {
            let extent = store.extents.find(owner, index);
            let newest = extent.map(|e| store.extents.get(e).newest);
            newest.is_some_and(|n| n > sequence || n == sequence && !copy)
        };
        let placed: Vec<ExtentIndex> = match changes_blocks(entry.kind) {
            true => entry
                .range
                .extents()
                .filter(|i| in_place(self, *i))
                .collect(),
            false => Vec::new(),
        };
        if !copy {
            self.drop_outranked_copies(&entry, &placed);
        }
        if !copy && !placed.is_empty() {
            // R25: a floor above it was durable, though the batch that said so may be lost.
            let slot = self.slots.get_mut(&entry.slot).expect("looked at above");
            slot.floor = slot.floor.max(entry.stamp);
        }
        if changes_blocks(entry.kind) && placed.len() == entry.range.extents().count() {
            return None;
        }
        let claim = match entry.place {
            Place::Extent(extent) if !self.claim_extent(extent) => return None,
            Place::Extent(extent) => Some(extent),
            _ => None,
        };
        let extents = &self.extents;
        let mapped = |index| extents.find(owner, index).is_some();
        let id = self
            .index
            .insert(entry, |index| placed.contains(&index), mapped);
        if let Some(extent) = claim {
            self.scan().claims.insert(extent, id);
        }
        Some(id)
    }

    /// Where a record is in place, so are the copies of its sequence that were made before its epoch: they
    /// must not be laid over it.
    fn drop_outranked_copies(&mut self, entry: &Entry, placed: &[ExtentIndex]) {
        let stamp = entry.stamp;
        for index in placed {
            let claims = self.index.claims(entry.slot, *index, stamp.sequence);
            let ids: Vec<EntryId> = claims.iter().map(Claim::entry).collect();
            for id in ids {
                let held = self.index.get(id).expect("listed by extent");
                let outranked = held.stamp.sequence == stamp.sequence && held.stamp < stamp;
                if held.copy
                    && outranked
                    && let Some(dead) = self.index.detach(id, *index)
                {
                    self.bury(dead.into_ghosts());
                }
            }
        }
    }

    /// A direct write holds its extent, unless that belongs to another by now: then the record was
    /// superseded and destaged long ago. For the same reason the later of two records that name one
    /// extent has it, and the earlier one is dead (S4).
    fn claim_extent(&mut self, extent: u32) -> bool {
        if extent >= self.extents.total() || self.extents.get(extent).owner != 0 {
            return false;
        }
        if let Some(before) = self.scan().claims.remove(&extent)
            && let Some(dead) = self.index.remove(before)
            && let Some(batch) = dead.batch
        {
            self.journal.forget(batch);
        }
        self.quarantined.retain(|q| q.extent != extent);
        self.extents.take_this(extent) || self.extents.is_taken(extent)
    }
}

/// The header blocks at the start of the bytes, if they say to be some and lie whole in them.
fn header_in(bytes: &Bytes) -> Option<&[u8]> {
    bytes.get(..Batch::header_bytes(bytes)?)
}
