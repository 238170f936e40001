//! After the handshake: which requests are taken, and how answers are written.

use crate::arena::Arena;
use crate::export::ExportInfo;
use crate::session::Parts;
use crate::wire::{self, Head, chunk, command, flag};
use bytes::{BufMut, Bytes};
use lockstep_frontend::{Answer, Done, Flags, IoError, Op, ReadPart, ReadParts, Runs};
use lockstep_types::BLOCK;

/// What a reply needs to know of its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub cookie: u64,
    pub op: Op,
    pub offset: u64,
    pub length: u32,
    /// The read's data must come in one chunk.
    pub whole: bool,
    /// The status may have one run only.
    pub one_run: bool,
}

/// The export a connection has, and how it speaks.
#[derive(Clone, Debug)]
pub(crate) struct Transmission {
    pub export: ExportInfo,
    pub structured: bool,
    pub allocation: bool,
    pub max_request: u32,
}

impl Transmission {
    /// Whether the request may be done; the error is the client's answer.
    pub fn check(&self, head: &Head) -> Result<(Op, Flags), IoError> {
        let (op, allowed) = match head.command {
            command::READ if self.structured => (Op::Read, flag::DF),
            command::READ => (Op::Read, 0),
            command::WRITE => (Op::Write, 0),
            command::FLUSH => (Op::Flush, 0),
            command::TRIM => (Op::Trim, 0),
            command::WRITE_ZEROES => (Op::WriteZeroes, flag::NO_HOLE | flag::FAST_ZERO),
            command::BLOCK_STATUS if self.allocation => (Op::BlockStatus, flag::REQ_ONE),
            _ => return Err(IoError::Invalid),
        };
        // FUA may stand on any request; on those that write nothing it asks for nothing.
        if head.flags & !(allowed | flag::FUA) != 0 {
            return Err(IoError::Invalid);
        }
        self.check_range(op, head)?;
        if head.flags & flag::FAST_ZERO != 0
            && (!self.export.fast_zero || head.flags & flag::NO_HOLE != 0)
        {
            return Err(IoError::Unsupported);
        }
        let flags = Flags {
            fua: head.flags & flag::FUA != 0,
            no_hole: head.flags & flag::NO_HOLE != 0,
            one_run: head.flags & flag::REQ_ONE != 0,
        };
        Ok((op, flags))
    }

    fn check_range(&self, op: Op, head: &Head) -> Result<(), IoError> {
        if op == Op::Flush {
            let none = head.offset == 0 && head.length == 0;
            return none.then_some(()).ok_or(IoError::Invalid);
        }
        let writes = matches!(op, Op::Write | Op::Trim | Op::WriteZeroes);
        if writes && self.export.read_only {
            return Err(IoError::NotPermitted);
        }
        let block = BLOCK as u32;
        let aligned =
            head.offset.is_multiple_of(u64::from(block)) && head.length.is_multiple_of(block);
        let moves_data = matches!(op, Op::Read | Op::Write);
        // S12: the handshake said so.
        if head.length == 0 || !aligned || (moves_data && head.length > self.max_request) {
            return Err(IoError::Invalid);
        }
        let end = head.offset.checked_add(u64::from(head.length));
        if end.is_some_and(|end| end <= self.export.size) {
            return Ok(());
        }
        let needs_space = matches!(op, Op::Write | Op::WriteZeroes);
        Err(if needs_space {
            IoError::NoSpace
        } else {
            IoError::Invalid
        })
    }

    /// The reply to a request that was handed up.
    pub fn reply(&self, arena: &mut Arena, pending: &Pending, answer: Answer) -> Parts {
        match answer {
            Err(error) => self.error(arena, pending.cookie, Some(pending.op), error),
            Ok(Done::Plain) => {
                let plain = !matches!(pending.op, Op::Read | Op::BlockStatus);
                assert!(plain, "{:?} answered without data", pending.op);
                std::iter::once(simple(arena, pending.cookie, 0)).collect()
            }
            Ok(Done::Read(data)) => {
                assert_eq!(pending.op, Op::Read, "data for {:?}", pending.op);
                let length: usize = data.iter().map(ReadPart::len).sum();
                assert_eq!(
                    length, pending.length as usize,
                    "a read is answered in full"
                );
                if self.structured {
                    chunks(arena, pending, data)
                } else {
                    let head = simple(arena, pending.cookie, 0);
                    let mut parts: Parts = std::iter::once(head).collect();
                    data.into_iter()
                        .for_each(|part| push_data(&mut parts, part));
                    parts
                }
            }
            Ok(Done::Status(runs)) => {
                assert_eq!(pending.op, Op::BlockStatus, "a status for {:?}", pending.op);
                std::iter::once(status(arena, pending, &runs)).collect()
            }
        }
    }

    /// The reply that refuses. A read and a status have no simple reply once structured ones are
    /// agreed.
    pub fn error(&self, arena: &mut Arena, cookie: u64, op: Option<Op>, error: IoError) -> Parts {
        let structured = self.structured && matches!(op, Some(Op::Read | Op::BlockStatus));
        if !structured {
            return std::iter::once(simple(arena, cookie, error.errno())).collect();
        }
        let message = error.to_string();
        let length = 6 + message.len();
        let reply = arena.build(wire::CHUNK_HEAD + length, |to| {
            put_chunk(to, chunk::DONE, chunk::ERROR, cookie, length);
            to.put_u32(error.errno());
            to.put_u16(message.len() as u16);
            to.put_slice(message.as_bytes());
        });
        std::iter::once(reply).collect()
    }
}

fn simple(arena: &mut Arena, cookie: u64, errno: u32) -> Bytes {
    arena.build(wire::SIMPLE_REPLY_HEAD, |to| {
        to.put_u32(wire::SIMPLE_REPLY_MAGIC);
        to.put_u32(errno);
        to.put_u64(cookie);
    })
}

fn put_chunk(to: &mut impl BufMut, flags: u16, kind: u16, cookie: u64, length: usize) {
    to.put_u32(wire::CHUNK_MAGIC);
    to.put_u16(flags);
    to.put_u16(kind);
    to.put_u64(cookie);
    to.put_u32(u32::try_from(length).expect("a chunk is no longer than its request"));
}

/// A read in chunks: neighbouring data in one, holes by themselves.
fn chunks(arena: &mut Arena, pending: &Pending, data: ReadParts) -> Parts {
    let mut parts = Parts::new();
    let end = pending.offset + u64::from(pending.length);
    let mut offset = pending.offset;
    let mut left = data.into_iter().peekable();
    while let Some(first) = left.next() {
        let mut group: Parts = Parts::new();
        let mut length = first.len();
        let hole = matches!(first, ReadPart::Zeroes(_)) && !pending.whole;
        if !hole {
            push_data(&mut group, first);
        }
        while let Some(next) =
            left.next_if(|next| pending.whole || hole == matches!(next, ReadPart::Zeroes(_)))
        {
            length += next.len();
            if !hole {
                push_data(&mut group, next);
            }
        }
        let done = if offset + length as u64 == end {
            chunk::DONE
        } else {
            0
        };
        parts.push(arena.build(wire::CHUNK_HEAD + 12, |to| {
            if hole {
                put_chunk(to, done, chunk::OFFSET_HOLE, pending.cookie, 12);
                to.put_u64(offset);
                to.put_u32(length as u32);
            } else {
                put_chunk(to, done, chunk::OFFSET_DATA, pending.cookie, 8 + length);
                to.put_u64(offset);
            }
        }));
        parts.append(&mut group);
        offset += length as u64;
    }
    parts
}

/// Zeroes of zero-filled reads are sent from one constant.
const ZEROES: &[u8] = &[0; 64 << 10];

fn push_data(parts: &mut Parts, part: ReadPart) {
    match part {
        ReadPart::Data(bytes) => parts.push(bytes),
        ReadPart::Zeroes(length) => {
            let mut left = length as usize;
            while left > 0 {
                let take = left.min(ZEROES.len());
                parts.push(Bytes::from_static(&ZEROES[..take]));
                left -= take;
            }
        }
    }
}

fn status(arena: &mut Arena, pending: &Pending, runs: &Runs) -> Bytes {
    assert!(!runs.is_empty(), "a status has a run");
    let covered: u64 = runs.iter().map(|run| u64::from(run.length)).sum();
    assert!(
        covered <= u64::from(pending.length),
        "a status stays inside its request"
    );
    let mut merged = Runs::new();
    for run in runs {
        assert!(
            run.length > 0 && run.length.is_multiple_of(BLOCK as u32),
            "a run is whole blocks"
        );
        match merged.last_mut() {
            Some(last) if last.allocated == run.allocated => last.length += run.length,
            _ => merged.push(*run),
        }
    }
    if pending.one_run {
        merged.truncate(1);
    }
    let length = 4 + 8 * merged.len();
    arena.build(wire::CHUNK_HEAD + length, |to| {
        put_chunk(to, chunk::DONE, chunk::BLOCK_STATUS, pending.cookie, length);
        to.put_u32(wire::ALLOCATION_ID);
        for run in &merged {
            to.put_u32(run.length);
            to.put_u32(if run.allocated {
                0
            } else {
                wire::STATE_HOLE_ZERO
            });
        }
    })
}
