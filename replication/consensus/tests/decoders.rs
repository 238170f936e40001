//! Whatever stands in a voter's folder or arrives from a peer: the checks that the fuzz targets run too,
//! over damaged logs and frames and over noise.

#[path = "../../../fuzz/checks/raft_frame.rs"]
mod raft_frame;
#[path = "../../../fuzz/checks/raft_log.rs"]
mod raft_log;

use lockstep_consensus::frame::{Body, Frame};
use lockstep_consensus::log::{
    DiskOp, LOG_BLOCK, LogIdentity, SegmentFile, SnapshotFile, create, genesis, recover,
};
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

/// The golden log's segment, of which the file lists what is not zero, and its snapshot.
fn golden_log() -> [Vec<u8>; 2] {
    let mut segment = vec![0; 6 * LOG_BLOCK];
    let mut snapshot = Vec::new();
    for line in include_str!("../src/log/golden.txt").lines() {
        let (name, hex) = line.split_once(": ").expect("a name and bytes");
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
            .collect();
        let at = match name {
            "header" => 0,
            "header crc" => LOG_BLOCK - 4,
            "checkpoint" => LOG_BLOCK,
            "entries" => 2 * LOG_BLOCK,
            "truncate" => 3 * LOG_BLOCK,
            "mark" => 4 * LOG_BLOCK,
            "installed" => 5 * LOG_BLOCK,
            "snapshot" => {
                snapshot = bytes;
                continue;
            }
            other => panic!("what is '{other}'?"),
        };
        segment[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    [segment, snapshot]
}

/// Where something stands in the golden segment: most of it is zeroes.
fn busy_byte() -> impl Strategy<Value = usize> {
    (0usize..6, 0usize..160).prop_map(|(block, at)| block * LOG_BLOCK + at)
}

/// The check makes checksums right as a writer does, and so comes as far as the records.
#[test]
fn the_golden_log_is_one_and_has_the_checksums_that_the_check_makes() {
    let [segment, snapshot] = golden_log();
    assert!(raft_log::sealed(&segment) == segment);
    assert!(raft_log::sealed_snapshot(&snapshot) == snapshot);
    let mut changed = segment.clone();
    // The vote of the last hard state.
    changed[5 * LOG_BLOCK + 32 + 24 + 8 + 8] ^= 1;
    for (segment, vote) in [(segment, 0), (raft_log::sealed(&changed), 1)] {
        let segment = SegmentFile {
            number: 1,
            bytes: segment.into(),
        };
        let snapshot = SnapshotFile {
            index: 9,
            bytes: snapshot.clone().into(),
        };
        let (cluster, node) = (ClusterId::from_u128(12), NodeId::from_u128(13));
        let log = recover(cluster, node, &[segment], &[snapshot]);
        let log = log.expect("no fault").expect("a log");
        assert_eq!(log.hard_state.vote, vote);
    }
}

/// Found by the fuzzer: what follows the last index there is was computed, and the daemon ended instead of saying
/// what is wrong with the log.
#[test]
fn an_index_that_nothing_can_follow_is_no_record() {
    let [segment, _] = golden_log();
    // Where the checkpoint says that the log ends, and where an installed snapshot does: behind the header of
    // the batch, that of the record, and, in the checkpoint, a hard state and the base.
    for at in [LOG_BLOCK + 32 + 8 + 24 + 16, 5 * LOG_BLOCK + 32 + 8] {
        let mut changed = segment.clone();
        changed[at..at + 8].fill(0xff);
        raft_log::check(&changed);
    }
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
    fn a_golden_log_that_was_changed_is_refused_or_another(
        flips in prop::collection::vec((busy_byte(), any::<u8>()), 0..5),
        in_snapshot in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
    ) {
        let [mut segment, snapshot] = golden_log();
        for (at, value) in flips {
            segment[at] = value;
        }
        raft_log::check(&segment);
        raft_log::check(&damaged(snapshot, &in_snapshot));
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
