//! Field numbers on the wire, frozen: a change here breaks every cluster that is running.

use bytes::Bytes;
use prost::Message as _;
use raft_proto::prelude::*;

const WHAT_TO_DO: &str = "raft's messages and log entries have other bytes than voters in the field read and have on \
                          disk: leave every field its number and type, and give what is new a new number. Nothing \
                          else will do";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn a_message_with_every_field() {
    let entry = Entry {
        entry_type: EntryType::EntryConfChangeV2 as i32,
        term: 2,
        index: 3,
        data: Bytes::from_static(b"d"),
        context: Bytes::from_static(b"c"),
        sync_log: true,
    };
    let conf = ConfState {
        voters: vec![1, 2],
        learners: vec![3],
        voters_outgoing: vec![4],
        learners_next: vec![5],
        auto_leave: true,
    };
    let metadata = SnapshotMetadata {
        conf_state: Some(conf),
        index: 6,
        term: 7,
    };
    let message = Message {
        msg_type: MessageType::MsgRequestPreVoteResponse as i32,
        to: 1,
        from: 2,
        term: 3,
        log_term: 4,
        index: 5,
        entries: vec![entry],
        commit: 8,
        commit_term: 15,
        snapshot: Some(Snapshot {
            data: Bytes::from_static(b"s"),
            metadata: Some(metadata),
        }),
        request_snapshot: 13,
        reject: true,
        reject_hint: 11,
        context: Bytes::from_static(b"x"),
        deprecated_priority: 14,
        priority: 16,
    };
    let bytes = message.encode_to_vec();
    assert_eq!(
        hex(&bytes),
        "0812100118022003280430053a0e080210021803220164280132016340084a1a0a017312150a0f0a020102\
         1201031a01042201052801100618075001580b620178680d700e780f800110",
        "{WHAT_TO_DO}"
    );
    assert_eq!(Message::decode(&bytes[..]), Ok(message), "{WHAT_TO_DO}");
}

#[test]
fn a_change_and_a_hard_state() {
    let change = ConfChangeV2 {
        transition: ConfChangeTransition::Explicit as i32,
        changes: vec![ConfChangeSingle {
            change_type: ConfChangeType::AddLearnerNode as i32,
            node_id: 9,
        }],
        context: Bytes::from_static(b"z"),
    };
    assert_eq!(
        hex(&change.encode_to_vec()),
        "08021204080210091a017a",
        "{WHAT_TO_DO}"
    );
    let old = ConfChange {
        change_type: ConfChangeType::RemoveNode as i32,
        node_id: 2,
        context: Bytes::from_static(b"z"),
        id: 1,
    };
    assert_eq!(
        hex(&old.encode_to_vec()),
        "08011001180222017a",
        "{WHAT_TO_DO}"
    );
    assert_eq!(
        hex(&HardState {
            term: 1,
            vote: 2,
            commit: 3
        }
        .encode_to_vec()),
        "080110021803",
        "{WHAT_TO_DO}"
    );
}
