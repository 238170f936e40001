//! Whatever stands in a voter's folder or arrives from a peer: the checks that the fuzz targets run too,
//! over damaged logs and frames and over noise.

#[path = "../../../fuzz/checks/raft_frame.rs"]
mod raft_frame;
#[path = "../../../fuzz/checks/raft_log.rs"]
mod raft_log;

use lockstep_consensus::frame::{Body, Frame};
use lockstep_consensus::log::{DiskOp, LogIdentity, create, genesis};
use lockstep_types::{ClusterId, NodeId};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The files of a fresh log: a snapshot, and the header of a segment.
fn fresh_log() -> Vec<Vec<u8>> {
    let identity = LogIdentity {
        cluster: ClusterId::from_u128(12),
        node: NodeId::from_u128(13),
        raft_id: 7,
        incarnation: 9,
    };
    let first = genesis(&[7], b"state".to_vec().into());
    let files = create(identity, Some(&first)).into_iter();
    files
        .filter_map(|op| match op {
            DiskOp::WriteSnapshot { bytes, .. }
            | DiskOp::CreateSegment { header: bytes, .. }
            | DiskOp::Append { bytes, .. } => Some(bytes.to_vec()),
            _ => None,
        })
        .collect()
}

fn frame() -> Vec<u8> {
    let nodes = (1..4).map(NodeId::from_u128);
    let frame = Frame {
        cluster: ClusterId::from_u128(12),
        origin: NodeId::from_u128(1),
        destination: NodeId::from_u128(2),
        body: Body::Links(nodes.collect::<BTreeSet<_>>()),
    };
    frame.encode().to_vec()
}

fn damaged(mut bytes: Vec<u8>, flips: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    for (at, value) in flips {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_log_is_refused_or_goes_on(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5)) {
        let files = fresh_log();
        prop_assert!(files.len() >= 2, "a snapshot and a segment");
        for file in &files {
            raft_log::check(&damaged(file.clone(), &flips));
        }
        raft_log::check(&damaged(files.concat(), &flips));
    }

    #[test]
    fn a_damaged_frame_is_refused_or_another(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5), kind in 0u8..4) {
        let mut bytes = damaged(frame(), &flips);
        raft_frame::check(&bytes);
        bytes[6] = kind;
        raft_frame::check(&bytes);
    }

    #[test]
    fn noise_is_neither(noise in prop::collection::vec(any::<u8>(), 0..600)) {
        raft_log::check(&noise);
        raft_frame::check(&noise);
    }
}
