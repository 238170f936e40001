//! A folder in memory that carries out the log's ops, and tears them.

use std::collections::BTreeMap;

use bytes::Bytes;
use lockstep_consensus::log::{
    self, DiskOp, LogCorrupt, RecoveredLog, SEGMENT_BYTES, SegmentFile, SnapshotFile, segment_name,
    snapshot_name,
};
use lockstep_types::{ClusterId, NodeId};

/// Torn writes come in units of this many bytes.
const SECTOR: usize = 512;

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Disk {
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Disk {
    pub fn names(&self) -> Vec<&str> {
        self.files.keys().map(String::as_str).collect()
    }

    /// Carries out all of `ops`, durably.
    pub fn carry_out(&mut self, ops: &[DiskOp]) {
        for op in ops {
            self.carry_out_one(op);
        }
    }

    fn carry_out_one(&mut self, op: &DiskOp) {
        match op {
            DiskOp::WriteSnapshot { index, bytes } => {
                self.files.insert(snapshot_name(*index), bytes.to_vec());
            }
            DiskOp::CreateSegment { number, header } => {
                let mut file = header.to_vec();
                file.resize(SEGMENT_BYTES as usize, 0);
                self.files.insert(segment_name(*number), file);
            }
            DiskOp::Append {
                segment,
                offset,
                bytes,
            } => {
                let file = self
                    .files
                    .get_mut(&segment_name(*segment))
                    .expect("the segment is there");
                let end = *offset as usize + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[*offset as usize..end].copy_from_slice(bytes);
            }
            DiskOp::ZeroTail { segment, from } => {
                self.files
                    .get_mut(&segment_name(*segment))
                    .expect("the segment is there")[*from as usize..]
                    .fill(0);
            }
            DiskOp::Flush { .. } => {}
            DiskOp::RemoveSegment { number } => {
                self.files.remove(&segment_name(*number));
            }
            DiskOp::RemoveSnapshot { index } => {
                self.files.remove(&snapshot_name(*index));
            }
        }
    }

    /// Carries out some of `ops`, the last of them in part, as `dice` say.
    pub fn tear(&mut self, ops: &[DiskOp], dice: u64) {
        let done = (dice % (ops.len() as u64 + 1)) as usize;
        self.carry_out(&ops[..done]);
        let bits = dice.rotate_left(17) | dice.rotate_right(9);
        match ops.get(done) {
            Some(DiskOp::Append {
                segment,
                offset,
                bytes,
            }) => {
                let mut torn = bytes.to_vec();
                for (at, sector) in torn.chunks_mut(SECTOR).enumerate() {
                    match bits.rotate_left(at as u32 * 3) & 7 {
                        0..=2 => sector.fill(0),
                        3 => sector.fill(0xa5),
                        _ => {}
                    }
                }
                self.carry_out_one(&DiskOp::Append {
                    segment: *segment,
                    offset: *offset,
                    bytes: torn.into(),
                });
            }
            Some(DiskOp::CreateSegment { number, header }) => {
                let whole = bits & 1 == 0;
                let mut file = if whole {
                    header.to_vec()
                } else {
                    vec![0; header.len()]
                };
                file.resize((bits % SEGMENT_BYTES) as usize, 0);
                self.files.insert(segment_name(*number), file);
            }
            // Written under another name first, and removed or not: there is no between.
            _ => {}
        }
    }

    pub fn recover(
        &self,
        cluster: ClusterId,
        node: NodeId,
    ) -> Result<Option<RecoveredLog>, LogCorrupt> {
        let (mut segments, mut snapshots) = (Vec::new(), Vec::new());
        for (name, bytes) in &self.files {
            let bytes = Bytes::copy_from_slice(bytes);
            if let Some(number) = log::parse_segment_name(name) {
                segments.push(SegmentFile { number, bytes });
            } else if let Some(index) = log::parse_snapshot_name(name) {
                snapshots.push(SnapshotFile { index, bytes });
            }
        }
        log::recover(cluster, node, &segments, &snapshots)
    }
}
