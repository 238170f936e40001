//! Any bytes at all, as messages from /dev/fuse: every request that comes out of a session is inside the
//! volume and is answered once, and the session closes once. Compiled into the fuzz target of this name
//! and into a property test of `engine/frontend/fuse`.

use bytes::Bytes;
use lockstep_frontend::{Done, IoError, Op, ReadPart};
use lockstep_fuse::{HEAD, Limits, Message, Negotiated, Out, Session, Volume};

const SIZE: u64 = 1 << 20;
/// Of what the kernel offers, that it sends requests again.
const RESEND: u64 = 1 << 39;

/// Checks `data`: its first byte says whether INIT is over, the next two how long each message is, and
/// whether it says so itself.
pub fn check(data: &[u8]) {
    let [first, rest @ ..] = data else { return };
    let volume = Volume {
        name: "v".to_owned(),
        size: SIZE,
        read_only: first & 2 != 0,
    };
    let limits = Limits {
        max_request: 64 << 10,
        max_in_flight: 4,
    };
    let mut out = Vec::new();
    let mut session = match first & 1 {
        0 => Session::new(volume, limits),
        _ => {
            let agreed = Negotiated {
                minor: 41,
                flags: RESEND,
            };
            Session::resumed(volume, limits, agreed, &mut out)
        }
    };
    let mut rest = rest;
    let mut closed = false;
    while let [low, high, after @ ..] = rest {
        // The high bit lets the message lie of its length.
        let wanted = usize::from(*low) | usize::from(high & 0x1f) << 8;
        let (raw, after) = after.split_at(wanted.min(after.len()));
        rest = after;
        session.receive(message(raw, high & 0x80 == 0), &mut out);
        closed |= answer_all(&mut session, &mut out, closed);
    }
    assert_eq!(session.in_flight(), 0, "everything was answered");
}

/// A message as the device hands it in.
fn message(raw: &[u8], honest: bool) -> Message {
    let mut head = [0; HEAD];
    let first = raw.len().min(HEAD);
    head[..first].copy_from_slice(&raw[..first]);
    if honest {
        head[..4].copy_from_slice(&(raw.len() as u32).to_le_bytes());
    }
    Message {
        head,
        length: raw.len(),
        body: Bytes::copy_from_slice(&raw[first..]),
    }
}

/// Whether the session closed.
fn answer_all(session: &mut Session, out: &mut Vec<Out>, closed: bool) -> bool {
    let mut closes = false;
    let mut answers = Vec::new();
    for out in out.drain(..) {
        match out {
            Out::Send(parts) => {
                assert!(!closed, "nothing is said after the close");
                let bytes = parts.concat();
                let said = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
                assert_eq!(said as usize, bytes.len(), "a reply says how long it is");
            }
            Out::Request(request) => {
                let end = request.offset + u64::from(request.length);
                assert!(end <= SIZE, "inside the volume");
                assert!(request.length.is_multiple_of(4096) && request.offset.is_multiple_of(4096));
                let wanted = match request.op {
                    Op::Write => request.length as usize,
                    _ => 0,
                };
                assert_eq!(request.payload.len(), wanted);
                let answer = match request.op {
                    Op::Read => Ok(Done::Read(
                        [ReadPart::Zeroes(request.length)].into_iter().collect(),
                    )),
                    Op::Trim => Err(IoError::Io),
                    _ => Ok(Done::Plain),
                };
                answers.push((request.tag, answer));
            }
            Out::Ready(_) => {}
            Out::Close(_) => {
                assert!(!closed && !closes, "it closes once");
                closes = true;
            }
        }
    }
    let still_open = !closed && !closes;
    for (tag, answer) in answers {
        session.complete(tag, answer, out);
        let said = out.drain(..).count();
        assert_eq!(said, usize::from(still_open), "a request is answered once");
    }
    closes
}
