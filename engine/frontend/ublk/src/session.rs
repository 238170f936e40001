//! The requests of one device, without I/O: what the kernel describes becomes a request, an answer becomes what the
//! kernel is told.

use lockstep_frontend::{Answer, Done, Flags, IoError, Op, Payload, ReadPart, ReadParts, Request};
use lockstep_types::BLOCK;

use crate::uapi::{Descriptor, flag, operation};

const SECTOR: u64 = 512;

/// What the shell does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Out {
    /// Do this and answer by [`Session::complete`].
    Request(Request),
    /// Copy the bytes to the request of the tag, then answer it with the result and ask for the tag's next.
    Commit {
        /// The tag.
        tag: u16,
        /// Of a read, otherwise empty.
        data: ReadParts,
        /// Bytes, 0, or an errno, negative.
        result: i32,
    },
}

/// What is known of a request that the kernel waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pending {
    op: Op,
    length: u32,
    /// It was told of an error already, by [`Session::fail`].
    failed: bool,
}

/// One device. Every [`Out::Request`] is answered once.
#[derive(Debug)]
pub struct Session {
    size: u64,
    read_only: bool,
    pending: Vec<Option<Pending>>,
    in_flight: usize,
    failing: bool,
}

impl Session {
    /// A device of `size` bytes and `depth` tags.
    pub fn new(size: u64, read_only: bool, depth: u16) -> Self {
        Self {
            size,
            read_only,
            pending: vec![None; depth.into()],
            in_flight: 0,
            failing: false,
        }
    }

    /// Everything that waits fails now, and whatever comes later: the device is about to be taken away, and the kernel
    /// waits for what it has handed out. Answers to it are still to be given, and are told nobody.
    pub fn fail(&mut self, out: &mut Vec<Out>) {
        self.failing = true;
        for (tag, pending) in self.pending.iter_mut().enumerate() {
            if let Some(pending) = pending.as_mut().filter(|it| !it.failed) {
                pending.failed = true;
                out.push(refuse(tag as u16, IoError::Io));
            }
        }
    }

    /// Bytes that the request of a tag has to be given with, as the payload of [`Session::receive`].
    pub fn payload_of(descriptor: &Descriptor) -> usize {
        let is_write = descriptor.operation_and_flags as u8 == operation::WRITE;
        if is_write {
            descriptor.sectors as usize * SECTOR as usize
        } else {
            0
        }
    }

    /// The kernel has a request for `tag`.
    ///
    /// # Panics
    /// If there is no such tag, or its last request is unanswered.
    pub fn receive(&mut self, tag: u16, it: &Descriptor, payload: Payload, out: &mut Vec<Out>) {
        let understood = if self.failing {
            Err(IoError::Io)
        } else {
            self.understand(it)
        };
        match understood {
            Ok((op, offset, length, flags)) => {
                let pending = &mut self.pending[usize::from(tag)];
                assert!(pending.is_none(), "a tag has one request at a time");
                *pending = Some(Pending {
                    op,
                    length,
                    failed: false,
                });
                self.in_flight += 1;
                out.push(Out::Request(Request {
                    tag: tag.into(),
                    op,
                    offset,
                    length,
                    flags,
                    payload,
                }));
            }
            Err(error) => out.push(refuse(tag, error)),
        }
    }

    /// Answers a request.
    ///
    /// # Panics
    /// If `tag` has none, or the answer does not fit it.
    pub fn complete(&mut self, tag: u64, answer: Answer, out: &mut Vec<Out>) {
        let pending = self.pending[tag as usize]
            .take()
            .expect("a request is answered once");
        self.in_flight -= 1;
        if pending.failed {
            return;
        }
        let tag = tag as u16;
        match answer {
            Err(error) => out.push(refuse(tag, error)),
            Ok(Done::Read(data)) => {
                assert_eq!(pending.op, Op::Read, "data for {:?}", pending.op);
                let length: usize = data.iter().map(ReadPart::len).sum();
                assert_eq!(
                    length, pending.length as usize,
                    "a read is answered in full"
                );
                let result = length as i32;
                out.push(Out::Commit { tag, data, result });
            }
            Ok(Done::Plain | Done::Status(_)) => {
                let result = if pending.op == Op::Write {
                    pending.length as i32
                } else {
                    0
                };
                let data = ReadParts::new();
                out.push(Out::Commit { tag, data, result });
            }
        }
    }

    /// Requests handed up and unanswered.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The volume has grown to `size` bytes; sizes only grow (R8).
    pub fn grown(&mut self, size: u64) {
        assert!(size >= self.size, "sizes only grow");
        self.size = size;
    }

    fn understand(&self, it: &Descriptor) -> Result<(Op, u64, u32, Flags), IoError> {
        let bits = it.operation_and_flags;
        let op = match bits as u8 {
            operation::READ => Op::Read,
            operation::WRITE => Op::Write,
            operation::FLUSH => return Ok((Op::Flush, 0, 0, Flags::default())),
            operation::DISCARD => Op::Trim,
            operation::WRITE_ZEROES => Op::WriteZeroes,
            _ => return Err(IoError::Unsupported),
        };
        if self.read_only && op != Op::Read {
            return Err(IoError::NotPermitted);
        }
        let flags = Flags {
            fua: bits & flag::FUA != 0,
            no_hole: op == Op::WriteZeroes && bits & flag::NOUNMAP != 0,
            one_run: false,
        };
        let length = u64::from(it.sectors) * SECTOR;
        let offset = it.start.checked_mul(SECTOR).ok_or(IoError::Invalid)?;
        let end = offset.checked_add(length).ok_or(IoError::Invalid)?;
        let block = BLOCK as u64;
        // S12: the device's logical block says so.
        if length == 0 || !offset.is_multiple_of(block) || !length.is_multiple_of(block) {
            return Err(IoError::Invalid);
        }
        if end > self.size {
            return Err(IoError::NoSpace);
        }
        let length = u32::try_from(length).map_err(|_| IoError::Invalid)?;
        Ok((op, offset, length, flags))
    }
}

fn refuse(tag: u16, error: IoError) -> Out {
    Out::Commit {
        tag,
        data: ReadParts::new(),
        result: -(error.errno() as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn asked(operation: u32, start: u64, sectors: u32) -> Descriptor {
        Descriptor {
            operation_and_flags: operation,
            sectors,
            start,
            address: 0,
        }
    }

    fn receive(session: &mut Session, descriptor: &Descriptor) -> Out {
        let mut out = Vec::new();
        let payload = vec![7_u8; Session::payload_of(descriptor)];
        session.receive(
            3,
            descriptor,
            Payload::from(bytes::Bytes::from(payload)),
            &mut out,
        );
        assert_eq!(out.len(), 1);
        out.remove(0)
    }

    fn complete(session: &mut Session, answer: Answer) -> Out {
        let mut out = Vec::new();
        session.complete(3, answer, &mut out);
        assert_eq!(out.len(), 1);
        out.remove(0)
    }

    fn committed(data: ReadParts, result: i32) -> Out {
        Out::Commit {
            tag: 3,
            data,
            result,
        }
    }

    #[test]
    fn each_operation_is_understood_and_answered_as_the_kernel_wants_it() {
        let mut session = Session::new(SIZE, false, 8);
        let rows: [(u32, Op, Answer, i32); 5] = [
            (
                u32::from(operation::WRITE),
                Op::Write,
                Ok(Done::Plain),
                8192,
            ),
            (u32::from(operation::DISCARD), Op::Trim, Ok(Done::Plain), 0),
            (
                u32::from(operation::WRITE_ZEROES),
                Op::WriteZeroes,
                Ok(Done::Plain),
                0,
            ),
            (
                u32::from(operation::WRITE) | flag::FUA,
                Op::Write,
                Ok(Done::Plain),
                8192,
            ),
            (u32::from(operation::WRITE), Op::Write, Err(IoError::Io), -5),
        ];
        for (bits, op, answer, result) in rows {
            let Out::Request(request) = receive(&mut session, &asked(bits, 8, 16)) else {
                panic!("{op:?} is refused");
            };
            assert_eq!((request.tag, request.op), (3, op));
            assert_eq!((request.offset, request.length), (4096, 8192));
            assert_eq!(request.flags.fua, bits & flag::FUA != 0);
            assert_eq!(
                request.payload.len(),
                if op == Op::Write { 8192 } else { 0 }
            );
            assert_eq!(session.in_flight(), 1);
            assert_eq!(
                complete(&mut session, answer),
                committed(ReadParts::new(), result)
            );
            assert_eq!(session.in_flight(), 0);
        }
    }

    #[test]
    fn a_read_gives_its_bytes_and_a_flush_has_no_range() {
        let mut session = Session::new(SIZE, false, 8);
        let Out::Request(read) = receive(&mut session, &asked(0, 0, 8)) else {
            panic!("refused");
        };
        assert_eq!((read.op, read.length), (Op::Read, 4096));
        let data: ReadParts = [ReadPart::Zeroes(4096)].into_iter().collect();
        let answer = complete(&mut session, Ok(Done::Read(data.clone())));
        assert_eq!(answer, committed(data, 4096));
        let Out::Request(flush) =
            receive(&mut session, &asked(operation::FLUSH.into(), u64::MAX, 0))
        else {
            panic!("refused");
        };
        assert_eq!((flush.op, flush.offset, flush.length), (Op::Flush, 0, 0));
        assert_eq!(
            complete(&mut session, Ok(Done::Plain)),
            committed(ReadParts::new(), 0)
        );
    }

    #[test]
    fn what_fails_is_told_once_whenever_its_answer_comes() {
        let mut session = Session::new(SIZE, false, 8);
        receive(&mut session, &asked(0, 0, 8));
        let failed = committed(ReadParts::new(), -5);
        for _ in 0..2 {
            let mut out = Vec::new();
            session.fail(&mut out);
            assert!(out.is_empty() || out == [failed.clone()], "{out:?}");
        }
        // The kernel may use the tag again before the node has answered.
        assert_eq!(receive(&mut session, &asked(0, 0, 8)), failed);
        assert_eq!(session.in_flight(), 1);
        let mut out = Vec::new();
        session.complete(3, Err(IoError::Io), &mut out);
        assert!(out.is_empty());
        assert_eq!(session.in_flight(), 0);
    }

    #[test]
    fn what_no_volume_has_is_refused_at_once() {
        let mut session = Session::new(SIZE, false, 8);
        let write = u32::from(operation::WRITE);
        let rows = [
            (asked(write, 1, 8), IoError::Invalid),
            (asked(write, 0, 7), IoError::Invalid),
            (asked(write, 0, 0), IoError::Invalid),
            (asked(write, u64::MAX, 8), IoError::Invalid),
            (asked(write, SIZE / 512, 8), IoError::NoSpace),
            (asked(18, 0, 8), IoError::Unsupported),
        ];
        for (descriptor, error) in rows {
            let expected = committed(ReadParts::new(), -(error.errno() as i32));
            assert_eq!(
                receive(&mut session, &descriptor),
                expected,
                "{descriptor:?}"
            );
        }
        session.grown(2 * SIZE);
        assert!(matches!(
            receive(&mut session, &asked(write, SIZE / 512, 8)),
            Out::Request(_)
        ));
        let mut session = Session::new(SIZE, true, 8);
        let refused = committed(ReadParts::new(), -(IoError::NotPermitted.errno() as i32));
        assert_eq!(receive(&mut session, &asked(write, 0, 8)), refused);
        assert!(matches!(
            receive(&mut session, &asked(0, 0, 8)),
            Out::Request(_)
        ));
    }
}
