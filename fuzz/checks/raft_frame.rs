//! Any bytes at all, as a voter receives them from a peer that passed TLS: they are refused, or are one
//! frame, which is written and read back as the same. Compiled into the fuzz target of this name and
//! into a property test of `replication/consensus`.

use bytes::Bytes;
use lockstep_consensus::frame::Frame;
use lockstep_types::ClusterId;

const CLUSTER: ClusterId = ClusterId::from_u128(12);
const HEADER: usize = 64;

/// Checks `data` as it is, and with cluster, length and checksum made right.
pub fn check(data: &[u8]) {
    read(&Bytes::copy_from_slice(data));
    if data.len() < HEADER {
        return;
    }
    let mut frame = data.to_vec();
    frame[..6].copy_from_slice(&b"LSRF\x01\x00"[..6]);
    frame[7] = 0;
    frame[8..24].copy_from_slice(&CLUSTER.as_u128().to_le_bytes());
    let length = (frame.len() - HEADER) as u32;
    frame[56..60].copy_from_slice(&length.to_le_bytes());
    frame[60..64].fill(0);
    let sum = crc32c::crc32c(&frame);
    frame[60..64].copy_from_slice(&sum.to_le_bytes());
    read(&frame.into());
}

fn read(bytes: &Bytes) {
    if let Ok(frame) = Frame::decode(CLUSTER, bytes) {
        let again = frame.encode();
        assert_eq!(Frame::decode(CLUSTER, &again), Ok(frame));
    }
}
