//! Any bytes at all, as a voter finds them in its folder: no log, a log that can go on, or a corrupt
//! one, and never a panic. Compiled into the fuzz target of this name and into a property test of
//! `replication/consensus`.

use bytes::Bytes;
use lockstep_consensus::log::{LOG_BLOCK, SegmentFile, SnapshotFile, recover};
use lockstep_types::{ClusterId, NodeId};

/// The golden log's cluster and node.
const CLUSTER: ClusterId = ClusterId::from_u128(12);
const NODE: NodeId = NodeId::from_u128(13);

/// Checks `data` as one segment, as two cut at a block, and as a snapshot beside a segment. The last
/// four bytes of a segment's header, and of what looks like a batch, are checksums that are made right.
pub fn check(data: &[u8]) {
    let sound = with_header(data);
    for segment in [data, &sound] {
        go(&[segment], &[]);
        if segment.len() > 2 * LOG_BLOCK {
            let (one, two) = segment.split_at(2 * LOG_BLOCK);
            go(&[one, two], &[]);
        }
        go(&[segment], &[data]);
        go(&[], &[data]);
    }
}

/// The header block with its checksum made right.
fn with_header(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    if bytes.len() >= LOG_BLOCK {
        let sum = crc32c::crc32c(&bytes[..LOG_BLOCK - 4]);
        bytes[LOG_BLOCK - 4..LOG_BLOCK].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

fn go(segments: &[&[u8]], snapshots: &[&[u8]]) {
    let segments: Vec<SegmentFile> = segments
        .iter()
        .zip(1..)
        .map(|(bytes, number)| SegmentFile {
            number,
            bytes: Bytes::copy_from_slice(bytes),
        })
        .collect();
    let snapshots: Vec<SnapshotFile> = snapshots
        .iter()
        .zip(9..)
        .map(|(bytes, index)| SnapshotFile {
            index,
            bytes: Bytes::copy_from_slice(bytes),
        })
        .collect();
    if let Ok(Some(log)) = recover(CLUSTER, NODE, &segments, &snapshots) {
        // What it says is dense above its snapshot.
        for pair in log.entries.windows(2) {
            assert_eq!(pair[0].index + 1, pair[1].index, "entries have no gap");
        }
    }
}
