//! The vocabulary every other crate shares: ids, stamps, block geometry, records, the durable
//! state of a replica, and what a client may ask. PURE: plain data, no clock, no I/O.
#![forbid(unsafe_code)]

mod checksum;
mod geometry;
mod ids;
mod record;
mod replica;
mod request;
mod site;
mod time;

pub use checksum::{Checksums, checksum_blocks, checksum_of_zeroes};
pub use geometry::{
    BLOCK, BlockRange, EXTENT, EXTENT_BLOCKS, ExtentIndex, MAX_DISCARD_BLOCKS, MAX_VOLUME_BLOCKS,
};
pub use ids::{
    AttachmentId, ClusterId, DeviceId, Epoch, Incarnation, LineageId, NodeId, ParseIdError,
    ReplicaId, ResyncNumber, Sequence, SnapshotId, Stamp, VolumeId,
};
pub use record::{Record, RecordKind};
pub use replica::{Cut, EpochStart, Gap, MAX_HISTORY, ReplicaMeta, extend_history, last_common};
pub use request::{Request, RequestError, RequestOp, Response};
pub use site::{FaultDomain, Locality, NodeRole};
pub use time::{DRIFT_PER_CENT, Nanos, SECOND, millis, seconds};
