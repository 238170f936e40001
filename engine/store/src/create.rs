//! A new pool: what must be written before a store can be opened on it.

use crate::format::{Anchor, Features, HeaderHash, PageBytes, PoolKey, Superblock};
use crate::geometry::{Area, FormatOptions, Geometry, GeometryError};
use crate::scrub::ScrubPosition;
use bytes::Bytes;
use lockstep_types::{ClusterId, DeviceId, Incarnation, NodeId};

/// Whose pool it will be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NewPool {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The device's id, minted now.
    pub device: DeviceId,
    /// The key of its journal, random.
    pub key: [u8; 16],
    /// The first life of what is made on it (R4).
    pub incarnation: Incarnation,
}

/// Areas to fill with zeroes, and pages with their offsets.
pub type PoolWrites = (Vec<Area>, Vec<(u64, Bytes)>);

/// What to write, in this order: zeroes over the areas, flushed; then the pages, the superblocks last,
/// so that a pool half made is no pool.
///
/// # Errors
/// If the device cannot be laid out as asked.
pub fn pool_writes(pool: &NewPool, options: &FormatOptions) -> Result<PoolWrites, GeometryError> {
    let geometry = Geometry::compute(options)?;
    let key = PoolKey(pool.key);
    let superblock = Superblock {
        cluster: pool.cluster,
        node: pool.node,
        device: pool.device,
        key,
        incarnation: pool.incarnation,
        features: Features::default(),
        geometry,
    };
    let anchor = Anchor {
        generation: 1,
        tail_offset: 0,
        tail_number: 1,
        tail_lap: 0,
        tail_previous: HeaderHash::default(),
        mark: 0,
        // Delta pages are numbered from 1.
        delta_tail: 1,
        delta_mark: 1,
        directory_generation: 0,
        clean: true,
        scrub: ScrubPosition::default(),
    };
    let bytes = |page: PageBytes| Bytes::copy_from_slice(&page);
    let writes = vec![
        (geometry.anchor_slot(1), bytes(anchor.encode(&key))),
        (Geometry::superblock_slot(0), bytes(superblock.encode())),
        (Geometry::superblock_slot(1), bytes(superblock.encode())),
    ];
    // The ring and the tables are written once here: a file that was allocated and never written costs
    // several times as much a flush.
    let zeroes = vec![
        geometry.anchors,
        geometry.replicas,
        geometry.directory,
        geometry.delta,
        geometry.ring,
    ];
    Ok((zeroes, writes))
}
