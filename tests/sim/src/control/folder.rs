//! The folder of a voter's raft log: files on a small disk, each operation durable before the next.

use crate::coverage::Coverage;
use crate::disk::SECTOR;
use crate::rng::Rng;
use bytes::Bytes;
use lockstep_consensus::log::{DiskOp, SEGMENT_BYTES, SegmentFile, SnapshotFile};
use std::collections::BTreeMap;

/// The files. Segments are created as 4 MiB of zeroes; only what was written is kept here.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    segments: BTreeMap<u64, Segment>,
    snapshots: BTreeMap<u64, Bytes>,
}

#[derive(Clone, Debug, Default)]
struct Segment {
    /// What a read sees; zeroes follow up to `length`.
    bytes: Vec<u8>,
    length: usize,
    /// What a power cut leaves, where that may differ: a killed process's last write stands in the
    /// page cache until it is flushed.
    durable: Option<Box<(Vec<u8>, usize)>>,
}

impl Folder {
    /// Whether there is no log at all.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.snapshots.is_empty()
    }

    /// Carries an operation out, durably.
    pub fn carry_out(&mut self, op: &DiskOp) {
        match op {
            DiskOp::WriteSnapshot { index, bytes } => {
                self.snapshots.insert(*index, bytes.clone());
            }
            DiskOp::RemoveSnapshot { index } => {
                self.snapshots.remove(index);
            }
            DiskOp::RemoveSegment { number } => {
                self.segments.remove(number);
            }
            DiskOp::CreateSegment { number, header } => {
                let segment = Segment {
                    bytes: header.to_vec(),
                    length: SEGMENT_BYTES as usize,
                    durable: None,
                };
                self.segments.insert(*number, segment);
            }
            DiskOp::Append {
                segment,
                offset,
                bytes,
            } => {
                self.segment(*segment).write(*offset as usize, bytes);
                self.segment(*segment).durable = None;
            }
            DiskOp::ZeroTail { segment, from } => {
                let segment = self.segment(*segment);
                segment.bytes.truncate(*from as usize);
                segment.durable = None;
            }
            DiskOp::Flush { segment } => self.segment(*segment).durable = None,
        }
    }

    /// The process ended in the middle of an operation; with `power` gone too, sectors are at stake.
    pub fn interrupt(&mut self, op: &DiskOp, power: bool, rng: &mut Rng, coverage: &mut Coverage) {
        match op {
            // Renamed at the end: there or not.
            DiskOp::WriteSnapshot { .. }
            | DiskOp::RemoveSnapshot { .. }
            | DiskOp::RemoveSegment { .. } => {
                if rng.per_cent(50) {
                    self.carry_out(op);
                }
            }
            DiskOp::CreateSegment { number, header } => {
                if rng.per_cent(70) {
                    let mut segment = Segment {
                        length: rng.below(SEGMENT_BYTES + 1) as usize,
                        ..Segment::default()
                    };
                    if rng.per_cent(50) {
                        segment.write_torn(0, header, rng);
                    }
                    self.segments.insert(*number, segment);
                    coverage.hit("log: creation interrupted");
                }
            }
            DiskOp::Append {
                segment,
                offset,
                bytes,
            } => {
                coverage.hit("log: append interrupted");
                let segment = self.segment(*segment);
                if power {
                    segment.write_torn(*offset as usize, bytes, rng);
                } else if rng.per_cent(60) {
                    // In the page cache: seen by the next process, gone with the power.
                    segment
                        .durable
                        .get_or_insert_with(|| Box::new((segment.bytes.clone(), segment.length)));
                    segment.write(*offset as usize, bytes);
                }
            }
            DiskOp::ZeroTail { segment, from } => {
                let segment = self.segment(*segment);
                let from = *from as usize;
                for at in (from..segment.bytes.len()).step_by(SECTOR) {
                    let end = (at + SECTOR).min(segment.bytes.len());
                    if rng.per_cent(50) {
                        segment.bytes[at..end].fill(0);
                    }
                }
            }
            DiskOp::Flush { .. } => {}
        }
        if power {
            self.power_cut(coverage);
        }
    }

    /// The power goes: what stood only in the page cache is gone.
    pub fn power_cut(&mut self, coverage: &mut Coverage) {
        for segment in self.segments.values_mut() {
            if let Some(durable) = segment.durable.take() {
                coverage.hit("log: page cache lost");
                (segment.bytes, segment.length) = *durable;
            }
        }
    }

    /// All is lost: a new disk.
    pub fn wipe(&mut self) {
        *self = Self::default();
    }

    /// The files as a starting process reads them.
    pub fn files(&self) -> (Vec<SegmentFile>, Vec<SnapshotFile>) {
        let segments = self.segments.iter().map(|(number, segment)| {
            let mut bytes = segment.bytes.clone();
            bytes.resize(segment.length.max(bytes.len()), 0);
            SegmentFile {
                number: *number,
                bytes: bytes.into(),
            }
        });
        let snapshots = self.snapshots.iter().map(|(index, bytes)| SnapshotFile {
            index: *index,
            bytes: bytes.clone(),
        });
        (segments.collect(), snapshots.collect())
    }

    fn segment(&mut self, number: u64) -> &mut Segment {
        self.segments
            .get_mut(&number)
            .expect("a log writes to segments it has created")
    }
}

impl Segment {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
        self.length = self.length.max(end);
    }

    fn write_torn(&mut self, offset: usize, bytes: &[u8], rng: &mut Rng) {
        let style = rng.below(3);
        for (i, sector) in bytes.chunks(SECTOR).enumerate() {
            match style {
                0 => {}
                1 => self.write(offset + i * SECTOR, sector),
                _ if rng.per_cent(10) => {
                    let garbage: Vec<u8> =
                        (0..sector.len()).map(|_| rng.next_u64() as u8).collect();
                    self.write(offset + i * SECTOR, &garbage);
                }
                _ if rng.per_cent(50) => self.write(offset + i * SECTOR, sector),
                _ => {}
            }
        }
    }
}
