//! The frame between nodes: frozen bytes, and that nothing damaged or foreign is taken for one.

use std::collections::BTreeSet;

use bytes::Bytes;
use lockstep_consensus::frame::{Body, Frame, FrameError};
use lockstep_types::{ClusterId, NodeId};
use raft_proto::eraftpb::{Message, MessageType};

const CLUSTER: ClusterId = ClusterId::from_u128(0xc);

fn frame(body: Body) -> Frame {
    Frame {
        cluster: CLUSTER,
        origin: NodeId::from_u128(0xa),
        destination: NodeId::from_u128(0xb),
        body,
    }
}

fn raft_frame() -> Frame {
    let message = Message {
        msg_type: MessageType::MsgHeartbeat as i32,
        to: 2,
        from: 1,
        term: 5,
        ..Message::default()
    };
    frame(Body::Raft(message))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const WHAT_TO_DO: &str = "the bytes between nodes have changed, and nodes of the last release speak the old ones: \
                          give the frame a new version that is sent only to nodes that read it, and keep a reader \
                          for this one, or leave the frame alone. Nothing else will do";

#[test]
fn golden_bytes() {
    let ends = "0c000000000000000000000000000000\
                0a000000000000000000000000000000\
                0b000000000000000000000000000000";
    assert_eq!(
        hex(&raft_frame().encode()),
        format!("4c53524601000100{ends}080000006a98e3570808100218012005"),
        "{WHAT_TO_DO}"
    );
    let links = frame(Body::Links(BTreeSet::from([NodeId::from_u128(0x11)])));
    assert_eq!(
        hex(&links.encode()),
        format!("4c53524601000200{ends}10000000327033c411000000000000000000000000000000"),
        "{WHAT_TO_DO}"
    );
}

#[test]
fn what_is_encoded_is_read_back() {
    for frame in [raft_frame(), frame(Body::Links(BTreeSet::new()))] {
        assert_eq!(Frame::decode(CLUSTER, &frame.encode()), Ok(frame));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = raft_frame().encode();
    for at in 0..bytes.len() * 8 {
        let mut rotten = bytes.to_vec();
        rotten[at / 8] ^= 1 << (at % 8);
        assert!(
            Frame::decode(CLUSTER, &Bytes::from(rotten)).is_err(),
            "bit {at}"
        );
    }
}

#[test]
fn another_clusters_frame_and_a_short_one_are_refused() {
    let bytes = raft_frame().encode();
    let other = ClusterId::from_u128(0xd);
    assert_eq!(
        Frame::decode(other, &bytes),
        Err(FrameError::Cluster(CLUSTER))
    );
    for length in 0..bytes.len() {
        assert_eq!(
            Frame::decode(CLUSTER, &bytes.slice(..length)),
            Err(FrameError::Shape),
            "{length} bytes"
        );
    }
}
