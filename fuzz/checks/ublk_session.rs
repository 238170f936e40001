//! Any descriptors at all, as the kernel may give them: each is handed up inside the volume and aligned (S12), or
//! refused at once, and every tag is answered exactly once. Compiled into the fuzz target of this name and into a
//! property test of `engine/frontend/ublk`.
//!
//! Input: 24 bytes a request; the tag is what is left of its first byte.

use lockstep_frontend::{Done, IoError, Op, Payload, ReadPart};
use lockstep_ublk::uapi::Descriptor;
use lockstep_ublk::{Out, Session};

const SIZE: u64 = 1 << 30;
const DEPTH: u16 = 8;

/// Checks `data` as requests, each answered when its tag comes again.
pub fn check(data: &[u8]) {
    let mut session = Session::new(SIZE, false, DEPTH);
    let mut unanswered = [None; DEPTH as usize];
    for bytes in data.chunks_exact(24) {
        let word =
            |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let descriptor = Descriptor {
            operation_and_flags: word(0),
            // No more than a machine has memory for.
            sectors: word(4) % 4096,
            start: u64::from(word(8)) << (bytes[12] % 40),
            address: 0,
        };
        let tag = u16::from(bytes[23]) % DEPTH;
        answer(&mut session, tag, &mut unanswered, bytes[22]);
        let payload = vec![0_u8; Session::payload_of(&descriptor)];
        let mut out = Vec::new();
        session.receive(
            tag,
            &descriptor,
            Payload::from(bytes::Bytes::from(payload)),
            &mut out,
        );
        assert_eq!(out.len(), 1);
        match &out[0] {
            Out::Request(request) => {
                assert_eq!(request.tag, u64::from(tag));
                assert_eq!(request.offset % 4096, 0);
                assert_eq!(request.length % 4096, 0);
                assert!(request.offset + u64::from(request.length) <= SIZE);
                assert_eq!(request.length == 0, request.op == Op::Flush);
                unanswered[usize::from(tag)] = Some((request.op, request.length));
            }
            Out::Commit { result, data, .. } => assert!(*result < 0 && data.is_empty()),
        }
    }
    for tag in 0..DEPTH {
        answer(&mut session, tag, &mut unanswered, 0);
    }
    assert_eq!(session.in_flight(), 0);
}

fn answer(session: &mut Session, tag: u16, unanswered: &mut [Option<(Op, u32)>], dice: u8) {
    let Some((op, length)) = unanswered[usize::from(tag)].take() else {
        return;
    };
    let answer = match op {
        _ if dice.is_multiple_of(3) => Err(IoError::Io),
        Op::Read => Ok(Done::Read([ReadPart::Zeroes(length)].into_iter().collect())),
        _ => Ok(Done::Plain),
    };
    let failed = answer.is_err();
    let mut out = Vec::new();
    session.complete(tag.into(), answer, &mut out);
    let [
        Out::Commit {
            tag: told, result, ..
        },
    ] = &out[..]
    else {
        panic!("one answer: {out:?}");
    };
    assert_eq!(*told, tag);
    assert_eq!(*result < 0, failed);
}
