//! The boundary of the store: what its owner asks, what it answers, and the disk operations that a
//! shell (io_uring, or the simulator) carries out for it.
//!
//! Contract: the owner calls [`Store`](crate::Store) methods with `now`; each pushes plain data onto
//! [`Outputs`]. Disk operations may complete in any order; each is answered exactly once by
//! `Store::disk_done`. No method blocks, reads a clock or allocates in proportion to the pool.

use bytes::Bytes;
use lockstep_types::{
    BlockRange, Checksums, ExtentIndex, Nanos, Record, RecordKind, ReplicaId, ReplicaMeta,
    Sequence, Stamp,
};
use smallvec::SmallVec;

/// Chosen by the owner, given back with the answer.
pub type Tag = u64;
/// Chosen by the store, given back by the shell.
pub type DiskToken = u64;

/// What the shell must do on the pool's device. Offsets and lengths are multiples of 4096 bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum DiskOp {
    /// Read `length` bytes at `offset`.
    Read {
        token: DiskToken,
        offset: u64,
        length: u32,
    },
    /// Write the parts back to back at `offset`; when `durable` (S1, RWF_DSYNC) this very write is on
    /// stable media when it is answered. The parts' lengths add up to a multiple of 4096.
    Write {
        token: DiskToken,
        offset: u64,
        parts: SmallVec<[Bytes; 4]>,
        durable: bool,
    },
    /// Every write answered before this was issued is on stable media when this is answered.
    Flush { token: DiskToken },
}

/// How a disk operation ended. A write that failed is unknown: none, some or all of it may be there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum DiskResult {
    /// The bytes, exactly as many as asked for.
    Read(Bytes),
    /// A write or flush was carried out.
    Done,
    /// It failed, with the system's error number.
    Failed(i32),
}

/// What the store wants done, in order.
pub type Outputs = Vec<Output>;

/// One thing the store wants done or has to say.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Output {
    /// For the shell.
    Disk(DiskOp),
    /// For the owner.
    Event(Event),
}

/// What the store tells its owner.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// Recovery is complete; what it found, a report a replica.
    Recovered(Recovery),
    /// The record is durable (S1): it has returned from its durable write.
    Durable { replica: ReplicaId, stamp: Stamp },
    /// The copy of `tag` is durable, or refused.
    Copied {
        tag: Tag,
        result: Result<(), StoreError>,
    },
    /// A metadata change, a new replica, a void or a deletion of `tag` is durable.
    Done {
        tag: Tag,
        result: Result<(), StoreError>,
    },
    /// A read of `tag` ended.
    Read {
        tag: Tag,
        result: Result<ReadData, StoreError>,
    },
    /// A read of a journaled record of `tag` ended.
    RecordRead {
        tag: Tag,
        result: Result<Record, StoreError>,
    },
    /// Checksums of one extent of `tag`.
    ExtentSums {
        tag: Tag,
        result: Result<ExtentSums, StoreError>,
    },
    /// Scrub or destaging met blocks that do not match their checksums (S9 was tried); the owner
    /// repairs them from another certified replica by a copy.
    Corrupt {
        replica: ReplicaId,
        range: BlockRange,
    },
    /// The device will never acknowledge again (safety.md, Disks). Every later request fails.
    DeviceFailed { errno: i32, what: &'static str },
}

/// Bytes read, in order; `None` is a hole of so many blocks. Checksums are one a block, holes
/// counted as zeroes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReadData {
    /// The pieces.
    pub pieces: Vec<(u32, Option<Bytes>)>,
    /// One a block.
    pub checksums: Checksums,
}

/// One extent as a replica holds it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ExtentSums {
    /// The extent.
    pub index: ExtentIndex,
    /// Bit i: block i is present (not a hole).
    pub present: u64,
    /// The highest sequence that touched it.
    pub newest: Sequence,
    /// CRC32C of each present block in order.
    pub checksums: Vec<u32>,
}

/// A journaled record without its payload.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TailRecord {
    /// Its stamp.
    pub stamp: Stamp,
    /// Its kind.
    pub kind: RecordKind,
    /// Its range.
    pub range: BlockRange,
    /// Of its payload.
    pub checksums: Checksums,
}

/// What recovery found.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Recovery {
    /// Every replica of the pool.
    pub replicas: Vec<RecoveredReplica>,
    /// Batches beyond the last mark that were torn and dropped (R24).
    pub torn_batches: u64,
    /// A batch at or below a mark was bad (R24).
    pub corrupt: bool,
}

/// One replica after recovery.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RecoveredReplica {
    /// Its metadata; `floor` raised to the highest the journal knows, `gap` set as R24 says.
    pub meta: ReplicaMeta,
    /// The last stamp durable without a gap.
    pub last: Stamp,
    /// Records that a torn batch beyond the mark named, whose header could still be read: durable
    /// here never, perhaps elsewhere.
    pub torn: Vec<TailRecord>,
}

/// Operating errors of the store.
#[derive(Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum StoreError {
    /// No replica of that id is here.
    #[error("replica {0} is not in this pool")]
    NoReplica(ReplicaId),
    /// A replica of that id is here already.
    #[error("replica {0} is in this pool already")]
    Exists(ReplicaId),
    /// Data extents, ring windows, or replica slots are used up.
    #[error("the pool is full: {what}; free space, add a pool, or move replicas away")]
    Full { what: &'static str },
    /// Blocks did not match their checksums, read twice (S9).
    #[error("blocks {}..{} are corrupt on this device", .0.start, .0.end())]
    Corrupt(BlockRange),
    /// The device failed (errno).
    #[error("the device failed with error {0}; its replicas are served elsewhere; replace it")]
    Device(i32),
    /// The journal no longer holds that record.
    #[error("record {0} is no longer in the journal")]
    Gone(Stamp),
    /// Something newer was written to the range since (R16); read again.
    #[error("the range was written since")]
    Stale,
}

/// What [`Store::append`](crate::Store::append) is given beside the record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AppendContext {
    /// The volume's floor as the primary last told it: kept durably with the record (R11), and the
    /// limit of destaging (R25).
    pub floor: Stamp,
    /// Whether this record gives back one reserved extent, used or not (R7): the primary charged it.
    pub charged: bool,
    /// The time.
    pub now: Nanos,
}
