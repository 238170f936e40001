//! The durable form of a voter's log: what bytes go where, and what a folder of them means after a
//! crash. Pure: a shell reads whole files, and carries out [`DiskOp`]s one after the other.
//!
//! # Files
//!
//! | name | what |
//! |---|---|
//! | `log-<number, 16 hex digits>` | a segment: a header block, then batches |
//! | `snapshot-<index, 16 hex digits>` | the state machine at that index |
//!
//! # Torn or rotted
//!
//! A batch is what one write and one flush carry, and it starts on a block of its own. The next batch
//! is not written before that flush has returned, so:
//!
//! - a bad batch with a valid batch, or another segment, anywhere behind it had been flushed: it has
//!   rotted or was lost, and the log is corrupt;
//! - a bad batch with nothing valid behind it was being written when the power failed: nothing it
//!   says was ever answered for. It is dropped and reported.
//!
//! So that the last batch before a pause does not stand in that second case for ever, a log that has
//! been quiet for a second writes an empty batch, the mark (R24).
//!
//! # What is in a batch
//!
//! Entries always travel with the newest commit index known when they were received. A voter
//! therefore never holds an entry proposed under a configuration without also knowing, after any
//! crash, that this configuration was committed; raft's rule against campaigning with unapplied
//! configuration changes rests on it. A commit index alone is not worth a flush and waits for the
//! next batch.

mod record;
mod recover;
mod replay;
mod segment;
mod snapshot;
mod survivor;
mod writer;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use lockstep_types::{ClusterId, NodeId};
use raft_proto::eraftpb::Snapshot;

pub use record::{Checkpoint, LogRecord, Position};
pub use recover::{Fault, LogCorrupt, RecoveredLog, SegmentFile, SnapshotFile, TornTail, recover};
pub use survivor::Survivor;
pub use writer::LogWriter;
pub(crate) use writer::Unwritten;

/// Unit of placement in a segment: batches start on it.
pub const LOG_BLOCK: usize = 4096;
/// Length of a segment as it is created, in bytes. Only one that holds a single larger batch is longer.
pub const SEGMENT_BYTES: u64 = 4 << 20;
/// Longest payload of a batch, in bytes.
pub const MAX_BATCH: usize = 256 << 20;

/// Whose log this is. A voter's raft id is bound to its log's incarnation (R20): both are minted when
/// the log is created, and neither outlives it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LogIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that keeps the log.
    pub node: NodeId,
    /// The voter, never 0.
    pub raft_id: u64,
    /// The life of this log, minted by the shell.
    pub incarnation: u64,
}

/// One thing for the shell to do. The ops of a list are done in order, each durable before the next
/// one begins; a list that failed may be done again from its start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskOp {
    /// Write the whole file under a temporary name, flush it, rename it, flush the folder.
    WriteSnapshot {
        /// Names the file.
        index: u64,
        /// The whole file.
        bytes: Bytes,
    },
    /// Write `header` and zeroes up to [`SEGMENT_BYTES`] under a temporary name, flush it, rename it,
    /// flush the folder.
    CreateSegment {
        /// Names the file.
        number: u64,
        /// The first block.
        header: Bytes,
    },
    /// Write into a segment at a multiple of [`LOG_BLOCK`], and flush it.
    Append {
        /// The segment.
        segment: u64,
        /// Where, in bytes.
        offset: u64,
        /// What; a multiple of [`LOG_BLOCK`] long.
        bytes: Bytes,
    },
    /// Overwrite with zeroes from `from` to the end of the segment, and flush it.
    ZeroTail {
        /// The segment.
        segment: u64,
        /// Where from, in bytes.
        from: u64,
    },
    /// Flush a segment whose bytes may stand in the page cache only.
    Flush {
        /// The segment.
        segment: u64,
    },
    /// Remove a segment.
    RemoveSegment {
        /// Names the file.
        number: u64,
    },
    /// Remove a snapshot.
    RemoveSnapshot {
        /// Names the file.
        index: u64,
    },
}

/// File name of a segment.
pub fn segment_name(number: u64) -> String {
    format!("log-{number:016x}")
}

/// File name of a snapshot.
pub fn snapshot_name(index: u64) -> String {
    format!("snapshot-{index:016x}")
}

/// The number in a segment's file name.
pub fn parse_segment_name(name: &str) -> Option<u64> {
    parse_hex(name.strip_prefix("log-")?)
}

/// The index in a snapshot's file name.
pub fn parse_snapshot_name(name: &str) -> Option<u64> {
    parse_hex(name.strip_prefix("snapshot-")?)
}

/// Creates a log: the writer, and what the shell must do before the log may be used.
///
/// With `genesis` the voter begins at that snapshot, which every founding voter shares (see
/// [`genesis`]). Without it the voter knows nothing, and waits as a learner for the leader's snapshot.
pub fn create(identity: LogIdentity, genesis: Option<&Snapshot>) -> Vec<DiskOp> {
    assert_ne!(identity.raft_id, 0, "0 is nobody's raft id");
    writer::create(identity, genesis)
}

/// The snapshot every founding voter starts from. Its index is 1, not 0, so that a voter without a
/// log can never take itself for one that has applied it.
pub fn genesis(voters: &[u64], data: Bytes) -> Snapshot {
    begin(voters, Position { index: 1, term: 1 }, data)
}

/// The snapshot that a log of one voter begins with.
fn sole_voter(raft_id: u64, at: Position, data: Bytes) -> Snapshot {
    begin(&[raft_id], at, data)
}

fn begin(voters: &[u64], at: Position, data: Bytes) -> Snapshot {
    let mut snapshot = Snapshot {
        data,
        metadata: None,
    };
    let metadata = snapshot.mut_metadata();
    metadata.index = at.index;
    metadata.term = at.term;
    metadata.mut_conf_state().voters = voters.to_vec();
    snapshot
}

fn parse_hex(digits: &str) -> Option<u64> {
    let plain = digits.len() == 16
        && digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

/// Little-endian fields at fixed offsets of a slice whose length has been checked.
mod le {
    pub(super) fn u16(bytes: &[u8], at: usize) -> u16 {
        u16::from_le_bytes(array(bytes, at))
    }
    pub(super) fn u32(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(array(bytes, at))
    }
    pub(super) fn u64(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(array(bytes, at))
    }
    pub(super) fn u128(bytes: &[u8], at: usize) -> u128 {
        u128::from_le_bytes(array(bytes, at))
    }
    fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        bytes[at..at + N].try_into().expect("the slice is N long")
    }
}
