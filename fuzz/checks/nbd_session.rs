//! Any bytes at all, as an NBD client may send them: every request that comes out of a session is inside
//! the volume, is answered once, and the session closes once. Compiled into the fuzz target of this name
//! and into a property test of `engine/frontend/nbd`.

use bytes::Bytes;
use lockstep_nbd::{Done, ExportInfo, IoError, Limits, Op, Out, ReadPart, Run, Session};

/// Checks `data`: its first byte says how it is cut, and whether the handshake is over.
pub fn check(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let rest = Bytes::copy_from_slice(rest);
    converse(&rest, usize::from(first >> 1) + 1, first & 1 == 1);
}

fn export() -> ExportInfo {
    ExportInfo {
        size: 1 << 20,
        read_only: false,
        preferred_block: 4096,
        multi_conn: true,
        fast_zero: false,
        description: String::new(),
    }
}

/// Runs a session over the bytes, cut at `cuts`, answering everything; past its handshake if `open`.
pub fn converse(raw: &Bytes, cuts: usize, open: bool) {
    let limits = Limits {
        max_in_flight: 3,
        max_bytes: 128 << 10,
        max_request: 64 << 10,
        ..Limits::default()
    };
    let mut session = Session::new(limits);
    let mut queue = std::collections::VecDeque::new();
    let mut out = Vec::new();
    session.start(&mut out);
    if open {
        session.receive(Bytes::from_static(b"\0\0\0\x03"), &mut out);
        session.receive(
            Bytes::from_static(b"IHAVEOPT\0\0\0\x01\0\0\0\x01v"),
            &mut out,
        );
    }
    let mut chunks = raw.chunks(cuts).map(Bytes::copy_from_slice);
    let mut closed = false;
    loop {
        queue.extend(out.drain(..));
        match queue.pop_front() {
            Some(Out::Send(parts)) => session.sent(parts.iter().map(Bytes::len).sum(), &mut out),
            Some(Out::WantExport { .. }) => session.export(Ok(export()), &mut out),
            Some(Out::WantList) => session.list(&[], &mut out),
            Some(Out::StartTls) => panic!("there is no TLS"),
            Some(Out::Close(_)) => {
                assert!(!closed, "closed twice");
                closed = true;
            }
            Some(Out::Request(request)) => {
                assert!(request.op == Op::Flush || request.range().is_some());
                let end = request.offset + u64::from(request.length);
                assert!(end <= export().size, "inside the volume");
                let wanted = if request.op == Op::Write {
                    request.length as usize
                } else {
                    0
                };
                assert_eq!(request.payload.len(), wanted);
                let answer = match request.op {
                    Op::Read => Ok(Done::Read(
                        [ReadPart::Zeroes(request.length)].into_iter().collect(),
                    )),
                    Op::BlockStatus => {
                        let run = Run {
                            length: request.length,
                            allocated: true,
                        };
                        Ok(Done::Status([run].into_iter().collect()))
                    }
                    Op::Trim => Err(IoError::Io),
                    _ => Ok(Done::Plain),
                };
                session.complete(request.tag, answer, &mut out);
            }
            None => {
                assert_eq!(session.in_flight(), 0);
                assert!(
                    closed || session.wants_more(),
                    "everything was answered and sent"
                );
                let Some(chunk) = chunks.next() else { return };
                session.receive(chunk, &mut out);
            }
        }
    }
}
