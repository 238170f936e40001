//! Whatever a peer sends is refused or understood; whatever is understood was sent.

#[path = "common/arbitrary.rs"]
mod arbitrary;
#[path = "../../../fuzz/checks/wire_decode.rs"]
mod wire_decode;

use bytes::Bytes;
use lockstep_wire::{FrameLengths, HEADER, Message, WireError, decode, encode, encode_into, peek};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn messages_come_back(message in arbitrary::message()) {
        let encoded = encode(&message);
        let payload: Bytes = encoded.payload.concat().into();
        let lengths = FrameLengths { body: encoded.head.len() - HEADER, payload: payload.len() };
        prop_assert_eq!(peek(&encoded.head), Ok(Some(lengths)));
        let decoded = decode(&encoded.head, payload).expect("what encodes decodes");
        prop_assert!(decoded.payload_is_intact());
        prop_assert_eq!(decoded, message);
    }

    #[test]
    fn frames_of_a_link_stand_one_after_another(messages in prop::collection::vec(arbitrary::message(), 1..5)) {
        let mut heads = Vec::new();
        let mut apart = Vec::new();
        for message in &messages {
            encode_into(message, &mut heads);
            apart.extend_from_slice(&encode(message).head);
        }
        prop_assert_eq!(heads, apart);
    }

    /// One damaged byte of the head is always seen.
    #[test]
    fn damage_is_seen(message in arbitrary::message(), at in any::<prop::sample::Index>(), with in 1..=255u8) {
        let encoded = encode(&message);
        let mut head = encoded.head.to_vec();
        let at = at.index(head.len());
        head[at] ^= with;
        prop_assert!(decode(&head, encoded.payload.concat().into()).is_err(), "byte {}", at);
    }

    /// Nor does a peer that makes its checksums right get anything but messages through.
    #[test]
    fn forgeries_are_refused_or_messages(
        message in arbitrary::message(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let encoded = encode(&message);
        let mut head = encoded.head.to_vec();
        for (at, with) in edits {
            let at = at.index(head.len());
            head[at] = with;
        }
        if let Some(cut) = cut {
            head.truncate(HEADER.max(cut.index(head.len())));
        }
        wire_decode::seal(&mut head);
        head.extend_from_slice(&encoded.payload.concat());
        wire_decode::check(&head);
    }

    #[test]
    fn noise_is_refused_or_messages(kind in any::<u8>(), mut noise in prop::collection::vec(any::<u8>(), 0..600)) {
        wire_decode::check(&noise);
        if noise.len() > HEADER {
            noise[6] = kind % 0x51;
            wire_decode::check(&noise);
        }
    }
}

#[test]
fn a_short_header_is_waited_for_and_a_strange_one_refused() {
    let head = encode(&failed()).head.to_vec();
    assert_eq!(peek(&head[..HEADER - 1]), Ok(None));
    let damaged = |at: usize, with: &[u8]| {
        let mut head = head.clone();
        head[at..at + with.len()].copy_from_slice(with);
        let error = peek(&head).expect_err("this header is refused");
        assert_eq!(
            decode(&head, Bytes::new()),
            Err(error),
            "decode judges as peek"
        );
        error
    };
    assert_eq!(damaged(0, b"HTTP").code(), "wire-magic");
    assert_eq!(damaged(4, &[2, 0]), WireError::WrongVersion { found: 2 });
    assert_eq!(damaged(4, &[0, 0]), WireError::WrongVersion { found: 0 });
    assert_eq!(damaged(6, &[0x3f]), WireError::UnknownKind { kind: 0x3f });
    assert_eq!(
        damaged(8, &[65]),
        WireError::WrongHeaderLength { found: 65 }
    );
    for unused in [7, 10, 11, 20, 23, 48, 59] {
        assert_eq!(
            damaged(unused, &[1]),
            WireError::NotZero { place: "header" }
        );
    }
    let long = (1u32 << 20) + 1;
    assert_eq!(
        damaged(12, &long.to_le_bytes()),
        WireError::BodyTooLong { length: long }
    );
    for length in [4095u32, (256 << 10) + 4096, u32::MAX] {
        assert_eq!(
            damaged(16, &length.to_le_bytes()),
            WireError::WrongPayloadLength { length }
        );
    }
}

#[test]
fn parts_of_the_wrong_length_are_refused() {
    let head = encode(&failed()).head;
    assert_eq!(
        decode(&head[..40], Bytes::new()).map_err(|e| e.code()),
        Err("wire-length")
    );
    assert_eq!(
        decode(&head[..head.len() - 1], Bytes::new()).map_err(|e| e.code()),
        Err("wire-length")
    );
    assert_eq!(
        decode(&head, Bytes::from_static(&[0; 4096])).map_err(|e| e.code()),
        Err("wire-length")
    );
}

fn failed() -> Message {
    Message::Reply(lockstep_wire::ReplicaReply {
        header: lockstep_wire::Header {
            volume: lockstep_types::VolumeId::from_u128(1),
            replica: lockstep_types::ReplicaId::from_u128(2),
            incarnation: lockstep_types::Incarnation(3),
            epoch: lockstep_types::Epoch(4),
        },
        body: lockstep_wire::ReplyBody::Failed,
    })
}
