//! The store of a model's replica: what it was told, what of that is durable, and the operations
//! between, done in order. The real store is proved by worlds of its own; here only the moment counts
//! at which something becomes durable.

use bytes::Bytes;
use lockstep_protocol::{ReplicaStore, Secondary};
use lockstep_types::{
    BlockRange, Checksums, ExtentIndex, Gap, Nanos, Record, RecordKind, ReplicaMeta, Sequence,
    Stamp, checksum_blocks,
};
use lockstep_wire::{ExtentContent, ReadPieces, ReplicaReply, TailEntry};
use std::collections::{BTreeMap, VecDeque};

/// What a device holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Held {
    /// The replica's own knowledge.
    pub meta: ReplicaMeta,
    /// Records, the newest of each sequence.
    records: BTreeMap<Sequence, Record>,
    /// Content that came by copies: when it was read, and the bytes.
    copied: BTreeMap<u64, (Sequence, Option<Bytes>)>,
}

/// Something on its way to the device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// A record, and the floor that travels with it; durable when it ends (S1).
    Append(Record, Stamp),
    /// The replica's knowledge.
    Meta(u64, Box<ReplicaMeta>),
    /// Records above a sequence never were.
    Void(u64, Sequence),
    /// Content read elsewhere.
    Copy(u64, Sequence, BlockRange, Option<Bytes>),
    /// Answered when it ends.
    Read(u64, BlockRange),
    /// A record of the journal.
    ReadRecord(u64, Stamp),
    /// Checksums of the only extent.
    Sums(u64),
}

/// A device with one replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Device {
    /// What survives a crash.
    pub disk: Held,
    /// What the running store would answer from.
    memory: Held,
    /// In order; one ends at a time.
    pub ops: VecDeque<Op>,
    tags: u64,
}

/// How a crash treats what was on its way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Crash {
    /// All of it had reached the device.
    Kept,
    /// None had.
    Dropped,
    /// None had, and recovery sees that a batch was begun (R24).
    Torn,
}

impl Held {
    fn new(meta: ReplicaMeta) -> Self {
        Self {
            meta,
            records: BTreeMap::new(),
            copied: BTreeMap::new(),
        }
    }

    fn do_op(&mut self, op: &Op) {
        match op {
            Op::Append(record, floor) => {
                self.records.insert(record.stamp.sequence, record.clone());
                self.meta.floor = self.meta.floor.max(*floor);
            }
            Op::Meta(_, meta) => {
                let floor = self.meta.floor.max(meta.floor);
                self.meta = ReplicaMeta {
                    floor,
                    ..(**meta).clone()
                };
            }
            Op::Void(_, above) => {
                self.records.retain(|sequence, _| sequence <= above);
            }
            Op::Copy(_, read_at, range, bytes) => {
                for block in range.start..range.end() {
                    self.copied.insert(block, (*read_at, bytes.clone()));
                }
            }
            Op::Read(..) | Op::ReadRecord(..) | Op::Sums(_) => {}
        }
    }

    /// What the block reads as: the newest record that touches it, or a copy that is newer (S3, R16).
    pub fn content(&self, block: u64) -> Option<&Bytes> {
        let touching = |record: &&Record| {
            let range = record.touches();
            range.is_some_and(|range| range.start <= block && block < range.end())
        };
        let record = self.records.values().rev().find(touching);
        let copied = self.copied.get(&block);
        match (record, copied) {
            (Some(record), Some((at, bytes))) if record.stamp.sequence <= *at => bytes.as_ref(),
            (Some(record), _) => (record.kind == RecordKind::Write).then_some(&record.payload),
            (None, Some((_, bytes))) => bytes.as_ref(),
            (None, None) => None,
        }
    }

    /// Whether it holds a record with this payload.
    pub fn holds(&self, payload: &Bytes) -> bool {
        self.records
            .values()
            .any(|record| record.payload == *payload)
    }

    /// The last stamp without a gap above the floor.
    pub fn last(&self) -> Stamp {
        let mut last = self.meta.floor;
        while let Some(record) = self.records.get(&last.sequence.next()) {
            last = record.stamp;
        }
        // What stands at the floor's sequence may carry a newer epoch than the floor told.
        self.records
            .get(&last.sequence)
            .map_or(last, |record| record.stamp.max(last))
    }

    fn newest(&self) -> Sequence {
        let recorded = self.records.values().rev().find(|r| r.touches().is_some());
        let recorded = recorded.map_or(Sequence::ZERO, |r| r.stamp.sequence);
        let copied = self.copied.values().map(|(at, _)| *at).max();
        recorded.max(copied.unwrap_or_default())
    }
}

impl Device {
    /// A replica that knows this.
    pub fn new(meta: ReplicaMeta) -> Self {
        Self {
            disk: Held::new(meta.clone()),
            memory: Held::new(meta),
            ops: VecDeque::new(),
            tags: 0,
        }
    }

    fn push(&mut self, make: impl FnOnce(u64) -> Op) -> u64 {
        self.tags += 1;
        let op = make(self.tags);
        self.memory.do_op(&op);
        self.ops.push_back(op);
        self.tags
    }

    /// The oldest operation ends, and the replica is told.
    pub fn finish_one(
        &mut self,
        now: Nanos,
        secondary: &mut Secondary,
        out: &mut Vec<(lockstep_types::NodeId, ReplicaReply)>,
    ) {
        let Some(op) = self.ops.pop_front() else {
            return;
        };
        self.disk.do_op(&op);
        match op {
            Op::Append(record, _) => secondary.on_durable(now, [record.stamp], self, out),
            Op::Meta(tag, _) | Op::Void(tag, _) => secondary.on_done(now, tag, true, self, out),
            Op::Copy(tag, ..) => secondary.on_copied(tag, Ok(()), out),
            Op::Read(tag, range) => secondary.on_read(tag, Ok(self.read_now(range)), out),
            Op::ReadRecord(tag, stamp) => {
                let record = self.memory.records.get(&stamp.sequence);
                let record = record.filter(|record| record.stamp == stamp).cloned();
                secondary.on_record(tag, record, out);
            }
            Op::Sums(tag) => {
                let content = self.sums();
                secondary.on_sums(tag, self.memory.newest(), Ok(content), out);
            }
        }
    }

    /// The process is gone. Gives the last durable stamp, as recovery finds it.
    pub fn crash(&mut self, how: Crash) -> Stamp {
        let appends = self.ops.iter().any(|op| matches!(op, Op::Append(..)));
        for op in std::mem::take(&mut self.ops) {
            if how == Crash::Kept {
                self.disk.do_op(&op);
            }
        }
        if how == Crash::Torn && appends {
            self.disk.meta.gap = self.disk.meta.gap.max(Gap::Torn);
        }
        self.memory = self.disk.clone();
        self.disk.last()
    }

    /// Whether a record is on its way: only then can a crash tear one.
    pub fn is_appending(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::Append(..)))
    }

    fn read_now(&self, range: BlockRange) -> ReadPieces {
        let mut pieces = Vec::new();
        let mut sums: Vec<u32> = Vec::new();
        for block in range.start..range.end() {
            let content = self.memory.content(block).cloned();
            sums.extend(match &content {
                Some(bytes) => checksum_blocks(bytes).as_slice().to_vec(),
                None => vec![lockstep_types::checksum_of_zeroes()],
            });
            pieces.push((1, content));
        }
        ReadPieces {
            pieces,
            checksums: sums.into_iter().collect(),
        }
    }

    fn sums(&self) -> ExtentContent {
        let mut content = ExtentContent {
            present: 0,
            checksums: Vec::new(),
        };
        for block in 0..super::BLOCKS {
            if let Some(bytes) = self.memory.content(block) {
                content.present |= 1 << block;
                content.checksums.extend(checksum_blocks(bytes).as_slice());
            }
        }
        content
    }
}

impl ReplicaStore for Device {
    fn append(&mut self, record: Record, floor: Stamp, _charged: bool) {
        self.push(|_| Op::Append(record, floor));
    }

    fn copy(
        &mut self,
        read_at: Stamp,
        _kind: RecordKind,
        range: BlockRange,
        _checksums: Checksums,
        payload: Bytes,
    ) -> u64 {
        let bytes = (!payload.is_empty()).then_some(payload);
        self.push(|tag| Op::Copy(tag, read_at.sequence, range, bytes))
    }

    fn put_meta(&mut self, meta: &ReplicaMeta) -> u64 {
        let meta = Box::new(meta.clone());
        self.push(|tag| Op::Meta(tag, meta))
    }

    fn void_above(&mut self, sequence: Sequence) -> u64 {
        self.push(|tag| Op::Void(tag, sequence))
    }

    fn read(&mut self, range: BlockRange) -> u64 {
        self.push(|tag| Op::Read(tag, range))
    }

    fn read_record(&mut self, stamp: Stamp) -> u64 {
        self.push(|tag| Op::ReadRecord(tag, stamp))
    }

    fn extent_sums(&mut self, _index: ExtentIndex) -> u64 {
        self.push(Op::Sums)
    }

    fn tail(&self, above: Sequence) -> Vec<TailEntry> {
        let tail = self.memory.records.range(above.next()..);
        tail.map(|(_, record)| TailEntry {
            stamp: record.stamp,
            kind: record.kind,
            range: record.range,
            checksums: record.checksums.clone(),
        })
        .collect()
    }

    fn extents_newer(
        &self,
        than: Sequence,
        from: ExtentIndex,
    ) -> (Vec<(ExtentIndex, Sequence)>, Option<ExtentIndex>) {
        let newest = self.memory.newest();
        let there = from == 0 && newest > than;
        (there.then_some((0, newest)).into_iter().collect(), None)
    }

    fn extents_present(
        &self,
        from: ExtentIndex,
    ) -> (Vec<(ExtentIndex, Sequence)>, Option<ExtentIndex>) {
        self.extents_newer(Sequence::ZERO, from)
    }

    fn extent_newest(&self, _index: ExtentIndex) -> Sequence {
        self.memory.newest()
    }

    fn set_floor(&mut self, floor: Stamp) {
        // A floor travels with records; by itself it may be lost.
        self.memory.meta.floor = self.memory.meta.floor.max(floor);
    }

    fn reserve(&mut self, extents: u32) -> u32 {
        extents
    }

    fn release_reservations(&mut self) {}
}
