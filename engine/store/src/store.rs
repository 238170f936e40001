//! The store of one device: what its owner may ask, and where each answer of the disk goes.

use crate::anchor::{AnchorState, Quarantined};
use crate::api::{
    DiskOp, DiskResult, DiskToken, Event, ExtentSums, Output, Outputs, StoreError, Tag,
};
use crate::checkpoint::Checkpoint;
use crate::destage::Round;
use crate::extents::Extents;
use crate::format::{HeaderHash, PoolKey, Superblock};
use crate::gather::Wanted;
use crate::geometry::Geometry;
use crate::index::{EntryId, Index};
use crate::journal::Journal;
use crate::mutate::Broken;
use crate::reads::{Purpose, Reads};
use crate::recover::Recovering;
use crate::scrub::Scrub;
use crate::slots::Slot;
use crate::sums::Checksummed;
use bytes::Bytes;
use lockstep_types::{BlockRange, ExtentIndex, Nanos, ReplicaId, Sequence, millis};
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// An idle journal writes its mark after so long (R24: within a second).
const MARK_AFTER: Nanos = millis(500);

/// How a pool is opened.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OpenOptions {
    /// Bytes of the device.
    pub device_bytes: u64,
    /// Checksum pages kept in memory.
    pub cached_pages: usize,
    /// Payload bytes kept in memory after they are durable, so that destaging need not read them.
    pub recent_bytes: u64,
    /// The rule broken on purpose, if any.
    pub broken: Broken,
}

impl OpenOptions {
    /// The usual bounds for a device of so many bytes.
    pub fn new(device_bytes: u64) -> Self {
        Self {
            device_bytes,
            cached_pages: 2048,
            recent_bytes: 32 << 20,
            broken: Broken::default(),
        }
    }
}

/// Where a disk operation's answer goes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Op {
    /// A journal batch.
    Batch(u64),
    /// The data of a direct write.
    Direct {
        id: EntryId,
        extent: u32,
    },
    /// A part of a read.
    Part {
        job: u64,
        part: usize,
    },
    /// A checksum page that reads wait for.
    SumsPage {
        page: u32,
        generation: u32,
    },
    /// A stretch of the ring with payloads of a destaging round.
    RoundRead {
        offset: u64,
        wanted: Vec<Wanted>,
    },
    /// Data of a destaging round.
    RoundData,
    RoundFlush,
    /// Its delta pages.
    RoundDelta,
    Anchor,
    /// An entry of the replica table.
    Table(u32),
    /// An entry that is free from now on.
    TableFree(u32),
    CheckpointPage,
    CheckpointFlush,
    CheckpointDirectory,
    Recovery(u64),
}

/// What the store is at.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Phase {
    Recovering(Box<Recovering>),
    Ready,
    /// The device failed with this errno: nothing is acknowledged any more.
    Failed(i32),
}

/// The store of one device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Store {
    pub(crate) options: OpenOptions,
    pub(crate) broken: Broken,
    pub(crate) phase: Phase,
    pub(crate) superblock: Option<Superblock>,
    pub(crate) geometry: Geometry,
    pub(crate) key: PoolKey,
    pub(crate) next_token: DiskToken,
    pub(crate) ops: BTreeMap<DiskToken, Op>,
    pub(crate) slots: BTreeMap<u32, Slot>,
    pub(crate) by_replica: BTreeMap<ReplicaId, u32>,
    /// From which generation a free table entry goes on.
    pub(crate) free_generations: BTreeMap<u32, u64>,
    /// Table entries that are being freed on disk.
    pub(crate) freeing: BTreeSet<u32>,
    pub(crate) index: Index,
    pub(crate) journal: Journal,
    pub(crate) extents: Extents,
    pub(crate) sums: Checksummed,
    /// Generations of the checksum pages and of the map pages.
    pub(crate) sums_generations: Vec<u32>,
    pub(crate) map_generations: Vec<u32>,
    pub(crate) map_dirty: BTreeSet<u32>,
    /// The number of the next delta page; pages below the second one are durable.
    pub(crate) delta_head: u64,
    pub(crate) delta_durable: u64,
    pub(crate) anchor: AnchorState,
    pub(crate) reads: Reads,
    pub(crate) round: Option<Round>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) copies: BTreeMap<EntryId, Tag>,
    /// The order of the last copy.
    pub(crate) copy_order: u64,
    /// Extents that will be free once an anchor has said so much.
    pub(crate) quarantined: Vec<Quarantined>,
    /// Extents with the data of a direct write on its way.
    pub(crate) direct_writes: BTreeSet<u32>,
    pub(crate) recent: VecDeque<(EntryId, u64)>,
    pub(crate) recent_bytes: u64,
    pub(crate) last_write: Nanos,
    /// When the last batch of records was sent, and until when the next one waits (back-pressure).
    pub(crate) records_sent: Nanos,
    pub(crate) paced_until: Option<Nanos>,
    /// The last batch was an idle mark: nothing is to be said.
    pub(crate) marked: bool,
    /// Floors or a mark are to be written.
    pub(crate) floors_due: bool,
    /// The first batch after recovery is a mark: it overwrites what was torn.
    pub(crate) mark_first: bool,
    /// A round may find something to do that the last one did not.
    pub(crate) destage_due: bool,
    /// Records to be copied forward whose payload is being read, and bytes copied since anything else
    /// happened.
    pub(crate) forwards_unread: usize,
    pub(crate) forwarded: u64,
    /// The next record does not fit into the ring.
    pub(crate) stuck: bool,
    /// The tail is to pass void marks although the ring is not full.
    pub(crate) tail_pressed: bool,
    /// A table entry waits for an anchor to mark what it vouches for.
    pub(crate) marks_owed: bool,
    /// How often content moved from one place to another, or a place became free.
    pub(crate) moves: u64,
    /// When records that could not be read are tried again.
    pub(crate) retry_at: Option<Nanos>,
    pub(crate) scrub: Scrub,
    pub(crate) stopping: bool,
    /// Nothing new is begun until the owner has handed in all it has.
    held: bool,
    /// Why the pool could not be opened.
    pub(crate) refused: Option<String>,
    pub(crate) now: Nanos,
}

impl Store {
    /// A store that has not read anything yet. [`Store::start`] begins recovery.
    pub fn open(options: OpenOptions) -> Self {
        let geometry = Geometry::default();
        let broken = options.broken;
        Self {
            sums: Checksummed::new(options.cached_pages),
            broken,
            phase: Phase::Recovering(Box::default()),
            superblock: None,
            geometry,
            key: PoolKey([0; 16]),
            next_token: 0,
            ops: BTreeMap::new(),
            slots: BTreeMap::new(),
            by_replica: BTreeMap::new(),
            free_generations: BTreeMap::new(),
            freeing: BTreeSet::new(),
            index: Index::default(),
            journal: Journal::new(geometry.ring, 0, 1, HeaderHash::default()),
            extents: Extents::new(0),
            sums_generations: Vec::new(),
            map_generations: Vec::new(),
            map_dirty: Default::default(),
            delta_head: 0,
            delta_durable: 0,
            anchor: AnchorState::default(),
            reads: Reads::default(),
            round: None,
            checkpoint: None,
            copies: BTreeMap::new(),
            copy_order: 0,
            quarantined: Vec::new(),
            direct_writes: BTreeSet::new(),
            recent: Default::default(),
            recent_bytes: 0,
            last_write: 0,
            records_sent: 0,
            paced_until: None,
            marked: true,
            floors_due: false,
            mark_first: false,
            destage_due: true,
            forwards_unread: 0,
            forwarded: 0,
            stuck: false,
            tail_pressed: false,
            marks_owed: false,
            moves: 0,
            retry_at: None,
            scrub: Scrub::new(1, 0, Default::default(), 0), // sized by the superblock, once it is read
            stopping: false,
            held: false,
            refused: None,
            now: 0,
            options,
        }
    }

    /// A disk operation ended.
    pub fn disk_done(
        &mut self,
        now: Nanos,
        token: DiskToken,
        result: DiskResult,
        out: &mut Outputs,
    ) {
        self.now = now;
        let op = self
            .ops
            .remove(&token)
            .expect("every token is answered once");
        if let (Phase::Failed(_), false) = (&self.phase, matches!(op, Op::Part { .. })) {
            return;
        }
        match (op, result) {
            (Op::Part { job, part }, result) => self.part_read(job, part, result, out),
            (Op::SumsPage { page, generation }, result) => {
                self.sums_page_read(page, generation, result, out)
            }
            (Op::RoundRead { offset, wanted }, result) => {
                self.round_gathered(offset, wanted, result, out)
            }
            (Op::Recovery(step), result) => self.recovery_read(step, result, out),
            (op, DiskResult::Failed(errno)) => self.fail(errno, what_failed(&op), out),
            (Op::Batch(number), _) => self.batch_durable(number, out),
            (Op::Direct { id, extent }, _) => self.direct_written(id, extent),
            (Op::RoundData, _) => self.round_data_written(out),
            (Op::RoundFlush, _) => self.round_flushed(out),
            (Op::RoundDelta, _) => self.round_delta_written(),
            (Op::Anchor, _) => self.anchor_written(out),
            (Op::Table(number), _) => self.table_written(number, out),
            (Op::TableFree(number), _) => {
                self.freeing.remove(&number);
            }
            (Op::CheckpointPage, _) => self.checkpoint_page_written(out),
            (Op::CheckpointFlush, _) => self.checkpoint_flushed(out),
            (Op::CheckpointDirectory, _) => self.checkpoint_directory_written(out),
        }
        self.advance(out);
    }

    /// Time passed.
    pub fn timer(&mut self, now: Nanos, out: &mut Outputs) {
        self.now = now;
        if self.phase == Phase::Ready {
            let idle = now >= self.last_write + MARK_AFTER;
            if idle && !self.marked {
                self.floors_due = true; // R24: an idle journal writes its mark within a second
            }
            self.scrub_some(out);
            self.advance(out);
        }
    }

    /// When `timer` is due.
    pub fn next_timer(&self) -> Option<Nanos> {
        if self.phase != Phase::Ready {
            return None;
        }
        // Once it is due it waits for the batch in flight, not for time.
        let unmarked = !self.marked && !self.floors_due;
        let mark = unmarked.then_some(self.last_write + MARK_AFTER);
        let waits = self.destage_due && self.round.is_none() && self.index.len() > 0;
        let destage = waits.then_some(self.now.max(self.last_write) + millis(250));
        let scrub = self.scrub.due().filter(|_| !self.reads.scrubs());
        let paced = self.paced_until.filter(|_| !self.journal.in_flight);
        [mark, destage, self.retry_at, scrub, paced]
            .into_iter()
            .flatten()
            .min()
    }

    /// The owner has more to hand in at this moment: nothing new is begun until [`Store::release`], so
    /// that the next batch takes all of it.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Ends [`Store::hold`]: what is owed goes.
    pub fn release(&mut self, now: Nanos, out: &mut Outputs) {
        if std::mem::take(&mut self.held) {
            self.now = now;
            self.advance(out);
        }
    }

    /// Begins a clean end: floors and marks are written.
    pub fn shutdown(&mut self, now: Nanos, out: &mut Outputs) {
        self.now = now;
        self.stopping = true;
        self.floors_due = true;
        self.advance(out);
    }

    /// Whether nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        self.ops.is_empty()
            && (self.journal.pending.is_empty() && !self.floors_due || self.phase != Phase::Ready)
    }

    /// Why the pool could not be opened, in words.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Verifies the extents whose turn has come.
    fn scrub_some(&mut self, out: &mut Outputs) {
        if self.reads.scrubs() {
            return; // one at a time: a slow device is not to drown in them
        }
        let extents = &self.extents;
        let next = self
            .scrub
            .next(self.now, |extent| extents.get(extent).owner != 0);
        let Some(extent) = next else { return };
        let mapped = *self.extents.get(extent);
        let slot = self
            .slots
            .values()
            .find(|s| s.owner() == mapped.owner)
            .map(|s| s.number);
        if let Some(slot) = slot {
            self.start_read(
                slot,
                BlockRange::of_extent(mapped.index),
                Purpose::Scrub,
                out,
            );
        }
    }

    /// Every owed thing that can go, goes: a batch, a round, a checkpoint, the anchor.
    pub(crate) fn advance(&mut self, out: &mut Outputs) {
        if self.phase != Phase::Ready || self.held {
            return;
        }
        // Before the next batch, or a busy ring would never come to it.
        self.forward_pinned(out);
        self.build_batch(out);
        self.advance_destage(out);
        self.forward_pinned(out);
        self.build_batch(out); // with the floors that destaging waits for
        self.advance_checkpoint(out);
        self.write_anchor_if_due(out);
    }

    pub(crate) fn slot_of(&self, replica: ReplicaId) -> Result<u32, StoreError> {
        match self.by_replica.get(&replica) {
            Some(number) if !self.slots[number].deleting => Ok(*number),
            _ => Err(StoreError::NoReplica(replica)),
        }
    }

    pub(crate) fn working(&self) -> Result<(), StoreError> {
        match self.phase {
            Phase::Failed(errno) => Err(StoreError::Device(errno)),
            _ => Ok(()),
        }
    }

    pub(crate) fn submit(
        &mut self,
        op: Op,
        make: impl FnOnce(DiskToken) -> DiskOp,
        out: &mut Outputs,
    ) {
        let token = self.next_token;
        self.next_token += 1;
        self.ops.insert(token, op);
        out.push(Output::Disk(make(token)));
    }

    pub(crate) fn submit_write(
        &mut self,
        op: Op,
        offset: u64,
        parts: SmallVec<[Bytes; 4]>,
        durable: bool,
        out: &mut Outputs,
    ) {
        self.submit(
            op,
            |token| DiskOp::Write {
                token,
                offset,
                parts,
                durable,
            },
            out,
        );
    }

    /// The device never acknowledges again (safety.md, Disks): no write or flush is ever retried.
    pub(crate) fn fail(&mut self, errno: i32, what: &'static str, out: &mut Outputs) {
        if !matches!(self.phase, Phase::Failed(_)) {
            self.phase = Phase::Failed(errno);
            out.push(Output::Event(Event::DeviceFailed { errno, what }));
            let error = || StoreError::Device(errno);
            for tag in std::mem::take(&mut self.copies).into_values() {
                let result = Err(error());
                out.push(Output::Event(Event::Copied { tag, result }));
            }
            for slot in self.slots.values_mut() {
                let waiting = std::mem::take(&mut slot.waiting);
                let writing = slot.writing.take().map(|w| w.answering);
                for tag in writing.into_iter().flatten().chain(waiting) {
                    let result = Err(error());
                    out.push(Output::Event(Event::Done { tag, result }));
                }
            }
            self.fail_reads(errno, out);
        }
    }
}

impl ExtentSums {
    pub(crate) fn empty(index: ExtentIndex) -> Self {
        Self {
            index,
            present: 0,
            newest: Sequence::ZERO,
            checksums: Vec::new(),
        }
    }
}

fn what_failed(op: &Op) -> &'static str {
    match op {
        Op::Batch(_) => "a journal write",
        Op::Direct { .. } | Op::RoundData => "a data write",
        Op::RoundFlush | Op::CheckpointFlush => "a flush",
        Op::RoundDelta | Op::CheckpointPage | Op::CheckpointDirectory => "a metadata write",
        Op::Anchor => "the anchor's write",
        Op::Table(_) | Op::TableFree(_) => "a replica's state",
        Op::Part { .. } | Op::SumsPage { .. } | Op::RoundRead { .. } | Op::Recovery(_) => "a read",
    }
}
