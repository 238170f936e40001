//! Reads a log back, and tells a torn tail from damage (see the parent module).

use std::collections::VecDeque;

use bytes::Bytes;
use lockstep_types::{ClusterId, NodeId};
use raft_proto::eraftpb::{Entry, EntryType, HardState, Snapshot};

use super::record::Checkpoint;
use super::replay::Replay;
use super::segment::{BadHeader, Batch, Place, SegmentHeader, decode_batch};
use super::writer::Segment;
use super::{
    DiskOp, LOG_BLOCK, LogIdentity, LogRecord, LogWriter, segment_name, snapshot, snapshot_name,
};

/// A segment as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentFile {
    /// The number in its name.
    pub number: u64,
    /// The whole file.
    pub bytes: Bytes,
}

/// A snapshot as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotFile {
    /// The index in its name.
    pub index: u64,
    /// The whole file.
    pub bytes: Bytes,
}

/// A log that can go on. The shell carries out `cleanup` before the log is used.
#[derive(Clone, PartialEq, Debug)]
pub struct RecoveredLog {
    /// Whose log it is.
    pub identity: LogIdentity,
    /// Term, vote and commit index.
    pub hard_state: HardState,
    /// The newest durable snapshot; a voter that has yet to receive its first has none.
    pub snapshot: Option<Snapshot>,
    /// The entries behind it, without a gap.
    pub entries: Vec<Entry>,
    /// Goes on where the log ends.
    pub writer: LogWriter,
    /// What a crash left behind, and the flush without which nothing read here counts as durable.
    pub cleanup: Vec<DiskOp>,
    /// The batch that was being written when the power failed.
    pub torn: Option<TornTail>,
}

impl RecoveredLog {
    /// The commands behind the snapshot, with their indexes. Those above the commit index may never
    /// have been acknowledged; only a forced recovery looks at them.
    pub fn commands(&self) -> impl Iterator<Item = (u64, &Bytes)> {
        let normal = |entry: &&Entry| {
            entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty()
        };
        self.entries
            .iter()
            .filter(normal)
            .map(|entry| (entry.index, &entry.data))
    }
}

/// A batch that was being written when the power failed, and was dropped. Nobody was told of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The file.
    pub file: String,
    /// Where the batch began, in bytes.
    pub offset: u64,
}

/// A log that must not be used: what it promised can no longer be known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the raft log is corrupt in {file} at byte {offset}: {fault}. This voter can no longer vouch for what it \
     promised: move its log folder away, and the node joins again as a new voter from the others' state"
)]
pub struct LogCorrupt {
    /// The file.
    pub file: String,
    /// Where, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// A segment's header fails its checksum, though the segment was in use.
    #[error("the segment's header is damaged")]
    Header,
    /// A version of another program.
    #[error("format version {0} is unknown to this program")]
    Version(u16),
    /// The log of another node, cluster or voter, or a file under another's name.
    #[error("it belongs to another log: {found:?}")]
    Foreign {
        /// Whose it says it is.
        found: LogIdentity,
    },
    /// The file does not hold the segment its name says.
    #[error("the file holds segment {0}")]
    Misnamed(u64),
    /// A batch that had been flushed fails its checksum.
    #[error("a batch that had been flushed is damaged or lost")]
    Batch,
    /// A batch is not the one after its predecessor.
    #[error("batch {expected} should be here, not {found}")]
    Number {
        /// The number due.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// A segment between others is not there.
    #[error("segment {0} is missing")]
    MissingSegment(u64),
    /// Segments that are still needed are not there.
    #[error("the segments with entries {from} to {to} are missing")]
    MissingEntries {
        /// The first missing entry.
        from: u64,
        /// The last missing entry.
        to: u64,
    },
    /// The snapshot the log begins with is not there, or damaged.
    #[error("the snapshot is missing or damaged")]
    Snapshot,
    /// An entry is not the one after its predecessor.
    #[error("entry {expected} should follow, not {found}")]
    Gap {
        /// The index due.
        expected: u64,
        /// The index found.
        found: u64,
    },
    /// Valid bytes that contradict each other.
    #[error("{0}")]
    Inconsistent(&'static str),
}

/// Reads the log of `node` in `cluster`.
///
/// `None`: there is no log here, or only one whose creation did not finish; the voter it may have
/// belonged to is gone, and the node needs a new one (R20).
pub fn recover(
    cluster: ClusterId,
    node: NodeId,
    segments: &[SegmentFile],
    snapshots: &[SnapshotFile],
) -> Result<Option<RecoveredLog>, LogCorrupt> {
    let mut files: Vec<&SegmentFile> = segments.iter().collect();
    files.sort_by_key(|file| file.number);
    let mut scans = Vec::new();
    for (at, file) in files.iter().enumerate() {
        if at > 0 && file.number != files[at - 1].number + 1 {
            let missing = files[at - 1].number + 1;
            return Err(corrupt(missing, 0, Fault::MissingSegment(missing)));
        }
        scans.push(Scan::new(file, at + 1 == files.len())?);
    }
    let unfinished = scans.pop_if(|scan| scan.batches.is_empty());
    let Some(oldest) = scans.first() else {
        return match unfinished {
            Some(scan) if scan.number != 1 => Err(corrupt(1, 0, Fault::MissingSegment(1))),
            _ => Ok(None),
        };
    };
    let identity = oldest
        .identity
        .expect("a segment with batches has a header");
    check_identity(cluster, node, identity, &scans)?;
    check_numbers(&scans)?;
    let replay = replay(&scans)?;
    let snapshot = find_snapshot(identity, &replay.state, snapshots)?;

    let newest = scans.last().expect("there is an oldest");
    let mut cleanup = vec![DiskOp::Flush {
        segment: newest.number,
    }];
    cleanup.extend(newest.torn.then_some(DiskOp::ZeroTail {
        segment: newest.number,
        from: newest.end,
    }));
    cleanup.extend(unfinished.as_ref().map(|scan| DiskOp::RemoveSegment {
        number: scan.number,
    }));
    let orphans = snapshots
        .iter()
        .filter(|file| file.index != replay.state.base.index);
    cleanup.extend(orphans.map(|file| DiskOp::RemoveSnapshot { index: file.index }));

    let torn = unfinished.iter().chain([newest]).find(|scan| scan.torn);
    let torn = torn.map(|scan| TornTail {
        file: segment_name(scan.number),
        offset: scan.end,
    });
    Ok(Some(RecoveredLog {
        identity,
        hard_state: replay.state.hard_state.clone(),
        snapshot,
        writer: LogWriter {
            identity,
            next_batch: newest.next_batch(),
            offset: newest.end,
            segments: scans.iter().map(Scan::summary).collect(),
            state: replay.state,
        },
        entries: replay.entries.into(),
        cleanup,
        torn,
    }))
}

/// One segment, read as far as it is valid.
struct Scan {
    number: u64,
    identity: Option<LogIdentity>,
    first_batch: u64,
    /// With the offset of each.
    batches: VecDeque<(u64, Batch)>,
    /// Where the valid part ends.
    end: u64,
    /// Whether something that is no batch stands behind it.
    torn: bool,
}

impl Scan {
    /// `newest`: no segment stands behind it, so that its end may be torn.
    fn new(file: &SegmentFile, newest: bool) -> Result<Self, LogCorrupt> {
        let header = match SegmentHeader::decode(&file.bytes) {
            Ok(header) => header,
            Err(BadHeader::Version(version)) => {
                return Err(corrupt(file.number, 4, Fault::Version(version)));
            }
            // A segment is created whole before its first batch is written.
            Err(BadHeader::Damaged) if newest && is_zero(&file.bytes, LOG_BLOCK) => {
                return Ok(Self::unfinished(file));
            }
            Err(BadHeader::Damaged) => return Err(corrupt(file.number, 0, Fault::Header)),
        };
        if header.number != file.number {
            return Err(corrupt(file.number, 56, Fault::Misnamed(header.number)));
        }
        let mut scan = Self {
            identity: Some(header.identity),
            first_batch: header.first_batch,
            end: LOG_BLOCK as u64,
            ..Self::unfinished(file)
        };
        let place = |offset| Place {
            cluster: header.identity.cluster,
            incarnation: header.identity.incarnation,
            segment: header.number,
            offset,
        };
        while let Some(batch) = decode_batch(place(scan.end), &file.bytes) {
            let expected = scan.next_batch();
            if batch.number != expected {
                let found = batch.number;
                return Err(corrupt(
                    file.number,
                    scan.end,
                    Fault::Number { expected, found },
                ));
            }
            let length = batch.length;
            scan.batches.push_back((scan.end, batch));
            scan.end += length;
        }
        scan.torn = !is_zero(&file.bytes, scan.end as usize);
        let beyond = (scan.end..file.bytes.len() as u64)
            .step_by(LOG_BLOCK)
            .skip(1);
        let lost = beyond
            .into_iter()
            .any(|offset| decode_batch(place(offset), &file.bytes).is_some());
        // R24: a bad batch with something behind it had been flushed.
        if lost || (scan.torn && !newest) || (scan.batches.is_empty() && !newest) {
            return Err(corrupt(file.number, scan.end, Fault::Batch));
        }
        Ok(scan)
    }

    fn unfinished(file: &SegmentFile) -> Self {
        Self {
            number: file.number,
            identity: None,
            first_batch: 0,
            batches: VecDeque::new(),
            end: 0,
            torn: !is_zero(&file.bytes, 0),
        }
    }

    fn next_batch(&self) -> u64 {
        self.first_batch + self.batches.len() as u64
    }

    fn summary(&self) -> Segment {
        let records = self.batches.iter().flat_map(|(_, batch)| &batch.records);
        let highest = records.map(|record| {
            if let LogRecord::Entry(entry) = record {
                entry.index
            } else {
                0
            }
        });
        Segment {
            number: self.number,
            highest: highest.max().unwrap_or(0),
        }
    }
}

fn check_identity(
    cluster: ClusterId,
    node: NodeId,
    identity: LogIdentity,
    scans: &[Scan],
) -> Result<(), LogCorrupt> {
    for scan in scans {
        let found = scan.identity.expect("a segment with batches has a header");
        if found != identity || found.cluster != cluster || found.node != node {
            return Err(corrupt(scan.number, 8, Fault::Foreign { found }));
        }
    }
    Ok(())
}

fn check_numbers(scans: &[Scan]) -> Result<(), LogCorrupt> {
    for pair in scans.windows(2) {
        let (expected, found) = (pair[0].next_batch(), pair[1].first_batch);
        if expected != found {
            return Err(corrupt(
                pair[0].number,
                pair[0].end,
                Fault::Number { expected, found },
            ));
        }
    }
    Ok(())
}

fn replay(scans: &[Scan]) -> Result<Replay, LogCorrupt> {
    let mut replay: Option<Replay> = None;
    for scan in scans {
        for (at, (offset, batch)) in scan.batches.iter().enumerate() {
            let fail = |fault| corrupt(scan.number, *offset, fault);
            let mut records = batch.records.iter().cloned();
            if at == 0 {
                let Some(LogRecord::Checkpoint(checkpoint)) = records.next() else {
                    return Err(fail(Fault::Inconsistent(
                        "a segment begins without a checkpoint",
                    )));
                };
                match &replay {
                    Some(replay) if replay.state != checkpoint => {
                        return Err(fail(Fault::Inconsistent(
                            "a checkpoint contradicts the segments before it",
                        )));
                    }
                    Some(_) => {}
                    None => replay = Some(Replay::new(checkpoint)),
                }
            }
            let replay = replay.as_mut().expect("the first batch made it");
            records
                .try_for_each(|record| replay.apply(record))
                .map_err(fail)?;
        }
    }
    let replay = replay.expect("a segment has a batch");
    replay
        .finish()
        .map_err(|fault| corrupt(scans[0].number, 0, fault))?;
    Ok(replay)
}

fn find_snapshot(
    identity: LogIdentity,
    state: &Checkpoint,
    snapshots: &[SnapshotFile],
) -> Result<Option<Snapshot>, LogCorrupt> {
    if state.base.index == 0 {
        return Ok(None);
    }
    let file = snapshots.iter().find(|file| file.index == state.base.index);
    let snapshot = file.and_then(|file| snapshot::decode(identity, &file.bytes));
    let fits = |snapshot: &Snapshot| {
        let metadata = snapshot.get_metadata();
        (metadata.index, metadata.term) == (state.base.index, state.base.term)
    };
    let damaged = LogCorrupt {
        file: snapshot_name(state.base.index),
        offset: 0,
        fault: Fault::Snapshot,
    };
    snapshot.filter(fits).map(Some).ok_or(damaged)
}

fn is_zero(bytes: &Bytes, from: usize) -> bool {
    // A segment is mostly zeroes: whole runs of them at once.
    let clear = |run: &[u8]| run.iter().fold(0, |all, byte| all | byte) == 0;
    bytes
        .get(from..)
        .is_none_or(|rest| rest.chunks(4096).all(clear))
}

fn corrupt(segment: u64, offset: u64, fault: Fault) -> LogCorrupt {
    LogCorrupt {
        file: segment_name(segment),
        offset,
        fault,
    }
}
