//! Any bytes at all, as a voter finds them in its folder: no log, a log that can go on, or a corrupt
//! one, and never a panic. Compiled into the fuzz target of this name and into a property test of
//! `replication/consensus`.

use bytes::Bytes;
use lockstep_consensus::log::{LOG_BLOCK, SegmentFile, SnapshotFile, recover};
use lockstep_types::{ClusterId, NodeId};

/// The golden log's cluster and node.
const CLUSTER: ClusterId = ClusterId::from_u128(12);
const NODE: NodeId = NodeId::from_u128(13);

/// Of a batch: magic, and bytes before its payload.
const BATCH: &[u8] = b"LSRB";
const BATCH_HEADER: usize = 32;
/// Of a snapshot: bytes before its body.
const SNAPSHOT_HEADER: usize = 72;

/// Checks `data` as one segment, as two cut at a block, and as a snapshot beside a segment: as it is,
/// and with every checksum made right, without which nothing would come as far as the records.
pub fn check(data: &[u8]) {
    let sound = sealed(data);
    let snapshot = sealed_snapshot(data);
    for segment in [data, &sound] {
        go(&[segment], &[]);
        if segment.len() > 2 * LOG_BLOCK {
            let (one, two) = segment.split_at(2 * LOG_BLOCK);
            go(&[one, two], &[]);
        }
        go(&[segment], &[data]);
        go(&[segment], &[&snapshot]);
        go(&[], &[data]);
    }
}

/// A segment whose header and batches have the checksums that their bytes want.
pub fn sealed(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    if bytes.len() < LOG_BLOCK {
        return bytes;
    }
    let sum = crc32c::crc32c(&bytes[..LOG_BLOCK - 4]);
    bytes[LOG_BLOCK - 4..LOG_BLOCK].copy_from_slice(&sum.to_le_bytes());
    // Cluster, incarnation and segment, as the header says them.
    let mut seed = [bytes[8..24].to_vec(), bytes[48..64].to_vec(), vec![0; 8]].concat();
    let mut at = LOG_BLOCK;
    while at + BATCH_HEADER <= bytes.len() {
        seed[32..].copy_from_slice(&(at as u64).to_le_bytes());
        at += match bytes[at..].starts_with(BATCH) {
            true => seal_batch(&mut bytes[at..], &seed).next_multiple_of(LOG_BLOCK),
            false => LOG_BLOCK,
        };
    }
    bytes
}

/// Makes the batch at the start of the bytes one: what it says is longer than they are becomes what is
/// there. Gives its length.
fn seal_batch(bytes: &mut [u8], seed: &[u8]) -> usize {
    let there = bytes.len() - BATCH_HEADER;
    let said = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes")) as usize;
    let payload = said.min(there);
    let sum = |part: &[u8]| crc32c::crc32c_append(crc32c::crc32c(seed), part).to_le_bytes();
    bytes[4..8].copy_from_slice(&(payload as u32).to_le_bytes());
    let payload_sum = sum(&bytes[BATCH_HEADER..][..payload]);
    bytes[20..24].copy_from_slice(&payload_sum);
    bytes[24..28].fill(0);
    let header_sum = sum(&bytes[..28]);
    bytes[28..32].copy_from_slice(&header_sum);
    BATCH_HEADER + payload
}

/// A snapshot whose lengths and checksums are those of its bytes.
pub fn sealed_snapshot(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let Some(body) = bytes.len().checked_sub(SNAPSHOT_HEADER) else {
        return bytes;
    };
    let said = u32::from_le_bytes(bytes[56..60].try_into().expect("four bytes")) as usize;
    let configuration = said.min(body);
    bytes[48..56].copy_from_slice(&((body - configuration) as u64).to_le_bytes());
    bytes[56..60].copy_from_slice(&(configuration as u32).to_le_bytes());
    let sum = crc32c::crc32c(&bytes[SNAPSHOT_HEADER..]);
    bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..68]);
    bytes[68..72].copy_from_slice(&sum.to_le_bytes());
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
