//! Turns what raft wants remembered into bytes and places.

use std::collections::VecDeque;

use bytes::Bytes;
use raft_proto::eraftpb::{Entry, HardState, Snapshot};

use super::record::{Checkpoint, Position};
use super::segment::{Place, SegmentHeader, encode_batch};
use super::{DiskOp, LOG_BLOCK, LogIdentity, LogRecord, SEGMENT_BYTES, snapshot};

/// Where the next batch goes, and what the log amounts to with everything encoded so far.
#[derive(Clone, PartialEq, Debug)]
pub struct LogWriter {
    pub(super) identity: LogIdentity,
    /// Number of the next batch.
    pub(super) next_batch: u64,
    /// Where the next batch goes in the newest segment.
    pub(super) offset: u64,
    /// All segments, oldest first; never empty.
    pub(super) segments: VecDeque<Segment>,
    pub(super) state: Checkpoint,
}

/// A segment on disk, as far as compaction must know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// The highest index of an entry in it, 0 if it has none.
    pub(super) highest: u64,
}

/// What has to become durable at once. Empty parts cost nothing.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Unwritten {
    /// A snapshot from the leader; it replaces the log before `entries` are appended.
    pub(crate) installed: Option<Snapshot>,
    /// Runs of entries; one that begins at or below the last index replaces what was there.
    pub(crate) entries: Vec<Entry>,
    /// A snapshot of the own state machine.
    pub(crate) compacted: Option<Snapshot>,
    /// Term and vote must be durable.
    pub(crate) hard_state_due: bool,
    /// Say that everything before has been flushed.
    pub(crate) mark: bool,
}

impl Unwritten {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl LogWriter {
    /// Whose log it is.
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    /// Encodes one batch with the newest hard state, and what must be done around it.
    pub(crate) fn encode(&mut self, hard_state: &HardState, unwritten: Unwritten) -> Vec<DiskOp> {
        let mut ops = Vec::new();
        let before = self.state.clone();
        let mut records = Vec::new();
        let old_base = self.state.base;
        if let Some(installed) = &unwritten.installed {
            ops.push(self.write_snapshot(installed));
            self.state.base = position(installed);
            self.state.last = self.state.base;
            records.push(LogRecord::Installed(self.state.base));
        }
        let highest = self.push_entries(unwritten.entries, &mut records);
        if let Some(compacted) = &unwritten.compacted {
            ops.push(self.write_snapshot(compacted));
            self.state.base = position(compacted);
            records.push(LogRecord::Compacted(self.state.base));
        }
        if *hard_state != self.state.hard_state {
            self.state.hard_state = hard_state.clone();
            records.push(LogRecord::HardState(hard_state.clone()));
        }
        if records.is_empty() {
            records.push(LogRecord::Mark);
        }
        self.push_batch(&before, records, &mut ops);
        let newest = self.segments.back_mut().expect("a log has a segment");
        newest.highest = newest.highest.max(highest);
        self.push_removals(old_base, &mut ops);
        ops
    }

    fn push_entries(&mut self, entries: Vec<Entry>, records: &mut Vec<LogRecord>) -> u64 {
        let mut highest = 0;
        for entry in entries {
            assert!(
                entry.index > self.state.base.index && entry.index <= self.state.last.index + 1,
                "raft hands out entries without a gap, behind the snapshot"
            );
            if entry.index <= self.state.last.index {
                records.push(LogRecord::Truncate { from: entry.index });
            }
            self.state.last = Position {
                index: entry.index,
                term: entry.term,
            };
            highest = highest.max(entry.index);
            records.push(LogRecord::Entry(entry));
        }
        highest
    }

    /// Places the batch, in a new segment if the newest is full.
    fn push_batch(
        &mut self,
        before: &Checkpoint,
        mut records: Vec<LogRecord>,
        ops: &mut Vec<DiskOp>,
    ) {
        let mut bytes = self.batch(&records);
        let fresh = self.offset == LOG_BLOCK as u64;
        if !fresh && self.offset + bytes.len() as u64 > SEGMENT_BYTES {
            let number = self.newest() + 1;
            let header = SegmentHeader {
                identity: self.identity,
                number,
                first_batch: self.next_batch,
            };
            ops.push(DiskOp::CreateSegment {
                number,
                header: header.encode(),
            });
            self.segments.push_back(Segment { number, highest: 0 });
            self.offset = LOG_BLOCK as u64;
            records.insert(0, LogRecord::Checkpoint(before.clone()));
            bytes = self.batch(&records);
        }
        let (segment, offset) = (self.newest(), self.offset);
        self.offset += bytes.len() as u64;
        self.next_batch += 1;
        ops.push(DiskOp::Append {
            segment,
            offset,
            bytes,
        });
    }

    /// Once a newer snapshot is durable and recorded: the old one, and the segments whose entries it
    /// all contains. The newest segment stays.
    fn push_removals(&mut self, old_base: Position, ops: &mut Vec<DiskOp>) {
        if self.state.base == old_base {
            return;
        }
        while self.segments.len() > 1 && self.segments[0].highest <= self.state.base.index {
            let oldest = self.segments.pop_front().expect("there are two");
            ops.push(DiskOp::RemoveSegment {
                number: oldest.number,
            });
        }
        if old_base.index != 0 {
            ops.push(DiskOp::RemoveSnapshot {
                index: old_base.index,
            });
        }
    }

    fn batch(&self, records: &[LogRecord]) -> Bytes {
        let place = Place {
            cluster: self.identity.cluster,
            incarnation: self.identity.incarnation,
            segment: self.newest(),
            offset: self.offset,
        };
        encode_batch(place, self.next_batch, records)
    }

    fn newest(&self) -> u64 {
        self.segments.back().expect("a log has a segment").number
    }

    fn write_snapshot(&self, snapshot: &Snapshot) -> DiskOp {
        let index = snapshot.get_metadata().index;
        DiskOp::WriteSnapshot {
            index,
            bytes: snapshot::encode(self.identity, snapshot),
        }
    }
}

/// The ops that create a log.
pub(super) fn create(identity: LogIdentity, genesis: Option<&Snapshot>) -> Vec<DiskOp> {
    let base = genesis.map(position).unwrap_or_default();
    let state = Checkpoint {
        hard_state: HardState {
            term: base.term,
            vote: 0,
            commit: base.index,
        },
        base,
        last: base,
    };
    let mut writer = LogWriter {
        identity,
        next_batch: 1,
        offset: LOG_BLOCK as u64,
        segments: VecDeque::from([Segment {
            number: 1,
            highest: 0,
        }]),
        state: state.clone(),
    };
    let header = SegmentHeader {
        identity,
        number: 1,
        first_batch: 1,
    };
    let mut ops: Vec<DiskOp> = genesis
        .map(|snapshot| writer.write_snapshot(snapshot))
        .into_iter()
        .collect();
    ops.push(DiskOp::CreateSegment {
        number: 1,
        header: header.encode(),
    });
    writer.push_batch(&state, vec![LogRecord::Checkpoint(state.clone())], &mut ops);
    ops
}

fn position(snapshot: &Snapshot) -> Position {
    let metadata = snapshot.get_metadata();
    Position {
        index: metadata.index,
        term: metadata.term,
    }
}
