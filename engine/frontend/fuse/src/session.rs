//! The file system without I/O: one message in, plain data out.

use crate::protocol::{self as wire, InHeader, InitAnswer, Negotiated, falloc, opcode};
use crate::volume::{FILE, Volume};
use bytes::{Bytes, BytesMut};
use lockstep_frontend::{
    Answer, Done, Flags, InFlight, IoError, Op, Payload, ReadPart, ReadParts, Request,
};
use lockstep_types::BLOCK;
use smallvec::SmallVec;

/// Bytes of one message to /dev/fuse: written by one `writev`, never in parts.
pub type Parts = SmallVec<[Bytes; 4]>;

/// Bytes of arguments looked at; longer ones are names that are too long.
const MAX_ARGUMENTS: usize = 1024;

/// The bounds of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes a read or write may have; a multiple of 4096 that the receive buffers hold.
    pub max_request: u32,
    /// Requests handed up and not answered; a further one waits in the kernel.
    pub max_in_flight: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_request: 1 << 20,
            max_in_flight: 512,
        }
    }
}

/// One message as read from /dev/fuse: its first 80 bytes, and the rest. Of a write the rest is
/// exactly the payload, so that reading it into an aligned buffer saves the copy into one.
#[derive(Clone, Debug)]
pub struct Message {
    /// The header and the first 40 bytes of arguments; zero where the message is shorter.
    pub head: [u8; wire::IN_HEADER + wire::WRITE_IN],
    /// Bytes of the whole message, as `readv` returned.
    pub length: usize,
    /// What follows byte 80.
    pub body: Bytes,
}

/// What the shell does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Out {
    /// Write these to /dev/fuse in one piece. ENOENT means that the request is gone (its caller
    /// died, or a newer server asked for it again) and is no error; neither is EINVAL or ENOSYS
    /// for a notification on a kernel that lacks it.
    Send(Parts),
    /// Do this and answer by [`Session::complete`].
    Request(Request),
    /// INIT is agreed: keep this beside the descriptor for the next server.
    Ready(Negotiated),
    /// Nothing follows.
    Close(CloseReason),
}

/// Why a session ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    /// The mount is gone.
    #[error("the mount is gone")]
    Unmounted,
    /// The kernel is too old.
    #[error("the kernel speaks FUSE {major}.{minor}; 7.31 (Linux 5.4) is the oldest that will do")]
    TooOld {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
    /// A message that is none.
    #[error("a message of {length} bytes from /dev/fuse that says it has {said}")]
    Malformed {
        /// Bytes read.
        length: usize,
        /// Bytes announced.
        said: u32,
    },
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    unique: u64,
    op: Op,
    length: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Init,
    Serving,
    Closed,
}

/// One connection to the kernel. Every `Out::Request` is answered by one `complete`, also after
/// the close.
#[derive(Debug)]
pub struct Session {
    volume: Volume,
    limits: Limits,
    phase: Phase,
    in_flight: InFlight<Pending>,
    resent: u64,
    arena: BytesMut,
}

impl Session {
    /// For a mount just made.
    pub fn new(volume: Volume, limits: Limits) -> Self {
        volume.check();
        assert!(limits.max_in_flight > 0 && limits.max_request.is_multiple_of(BLOCK as u32));
        let phase = Phase::Init;
        let in_flight = InFlight::default();
        Self {
            volume,
            limits,
            phase,
            in_flight,
            resent: 0,
            arena: BytesMut::new(),
        }
    }

    /// For a mount that an earlier server left, with what it agreed. Asks for all unanswered
    /// requests again. Panics if that was not agreed: then a restart cannot be survived, and the
    /// connection must be aborted.
    pub fn resumed(volume: Volume, limits: Limits, agreed: Negotiated, out: &mut Vec<Out>) -> Self {
        assert!(
            agreed.can_resend(),
            "this kernel does not send requests again"
        );
        let mut session = Self::new(volume, limits);
        session.phase = Phase::Serving;
        let notice = session.build(wire::OUT_HEADER, wire::put_resend);
        out.push(Out::Send(std::iter::once(notice).collect()));
        session
    }

    /// Takes one message.
    pub fn receive(&mut self, message: Message, out: &mut Vec<Out>) {
        if self.phase == Phase::Closed {
            return;
        }
        let (raw, _) = message
            .head
            .split_first_chunk()
            .expect("a head begins with a header");
        let header = InHeader::decode(raw);
        let rest = message.length.saturating_sub(message.head.len());
        let whole = message.length >= wire::IN_HEADER && message.body.len() == rest;
        if !whole || header.length as usize != message.length {
            let reason = CloseReason::Malformed {
                length: message.length,
                said: header.length,
            };
            return self.close(reason, out);
        }
        self.resent += u64::from(header.unique & wire::RESENT != 0);
        match (header.opcode, self.phase) {
            (opcode::INIT, _) => self.on_init(&header, &message, out),
            (opcode::DESTROY, _) => {
                self.reply(header.unique, 0, &Bytes::new(), out);
                self.close(CloseReason::Unmounted, out);
            }
            // These have no reply.
            (opcode::FORGET | opcode::BATCH_FORGET, _) => {}
            (_, Phase::Init) => self.refuse(header.unique, libc::EIO as u32, out),
            _ => self.serve(&header, &message, out),
        }
    }

    /// Answers a request. Panics if `tag` is not unanswered, or the answer does not fit. After the
    /// close the answer is dropped.
    pub fn complete(&mut self, tag: u64, answer: Answer, out: &mut Vec<Out>) {
        let pending = self.in_flight.take(tag);
        if self.phase == Phase::Closed {
            return;
        }
        match answer {
            Err(error) => self.refuse(pending.unique, error.errno(), out),
            Ok(Done::Plain) if pending.op == Op::Write => {
                let result = self.build(wire::WRITE_OUT, |to| wire::put_write(to, pending.length));
                self.reply(pending.unique, 0, &result, out);
            }
            Ok(Done::Plain) => {
                assert_ne!(pending.op, Op::Read, "a read answered without data");
                self.reply(pending.unique, 0, &Bytes::new(), out);
            }
            Ok(Done::Read(data)) => self.reply_data(&pending, data, out),
            Ok(Done::Status(_)) => panic!("FUSE asks for no status"),
        }
    }

    /// Whether to read the next message. While not, requests wait in the kernel.
    pub fn wants_more(&self) -> bool {
        self.phase != Phase::Closed && self.in_flight.len() < self.limits.max_in_flight
    }

    /// Requests handed up and unanswered.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Messages so far that the kernel sent again.
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// The volume has grown to `size` bytes (R8). The kernel learns it from
    /// [`crate::LoopDevice::grow`].
    pub fn grown(&mut self, size: u64) {
        assert!(size >= self.volume.size, "sizes only grow");
        self.volume.size = size;
        self.volume.check();
    }

    fn on_init(&mut self, header: &InHeader, message: &Message, out: &mut Vec<Out>) {
        match wire::on_init(&arguments(message)) {
            InitAnswer::Older => {
                let nothing = Negotiated {
                    minor: wire::MINOR,
                    flags: 0,
                };
                let result = self.build(wire::INIT_OUT, |to| wire::put_init(to, &nothing, 0, 0));
                self.reply(header.unique, 0, &result, out);
            }
            InitAnswer::Refused { major, minor } => {
                self.refuse(header.unique, libc::EPROTO as u32, out);
                self.close(CloseReason::TooOld { major, minor }, out);
            }
            InitAnswer::Agreed(agreed) => {
                let background = u16::try_from(self.limits.max_in_flight).unwrap_or(u16::MAX);
                let max = self.limits.max_request;
                let result = self.build(wire::INIT_OUT, |to| {
                    wire::put_init(to, &agreed, max, background)
                });
                self.reply(header.unique, 0, &result, out);
                self.phase = Phase::Serving;
                out.push(Out::Ready(agreed));
            }
        }
    }

    fn serve(&mut self, header: &InHeader, message: &Message, out: &mut Vec<Out>) {
        let unique = header.unique;
        match header.opcode {
            opcode::READ | opcode::WRITE | opcode::FSYNC | opcode::FALLOCATE => {
                match self.check(header, message) {
                    Ok(Some(request)) => self.hand_up(unique, request, out),
                    Ok(None) => self.reply(unique, 0, &Bytes::new(), out),
                    Err(errno) => self.refuse(unique, errno, out),
                }
            }
            opcode::LOOKUP => self.on_lookup(header, message, out),
            opcode::GETATTR => self.on_getattr(header, out),
            // A size is the volume's own affair; times and modes are nobody's.
            opcode::SETATTR if wire::u32_at(&arguments(message), 0) & wire::FATTR_SIZE != 0 => {
                self.refuse(unique, libc::EPERM as u32, out);
            }
            opcode::SETATTR => self.on_getattr(header, out),
            opcode::OPEN if header.node == FILE => {
                // Direct, so that no page cache lies between the loop device and us; parallel, so
                // that the kernel does not send one write after the other; and no flush at close,
                // for which a process that forks or dies would wait while there is no server.
                let flags = wire::fopen::DIRECT_IO
                    | wire::fopen::PARALLEL_DIRECT_WRITES
                    | wire::fopen::NOFLUSH;
                let result = self.build(wire::OPEN_OUT, |to| wire::put_open(to, flags));
                self.reply(unique, 0, &result, out);
            }
            opcode::STATFS => {
                let size = self.volume.size;
                let result = self.build(wire::STATFS_OUT, |to| wire::put_statfs(to, size));
                self.reply(unique, 0, &result, out);
            }
            opcode::RELEASE => self.reply(unique, 0, &Bytes::new(), out),
            // Unknown, so that the kernel asks no more: FLUSH, since every answered write is
            // durable (R2) and closing has nothing to add; INTERRUPT, since requests are short;
            // and all that one file does not need.
            _ => self.refuse(unique, libc::ENOSYS as u32, out),
        }
    }

    fn on_lookup(&mut self, header: &InHeader, message: &Message, out: &mut Vec<Out>) {
        let arguments = arguments(message);
        let name = arguments.strip_suffix(&[0]).unwrap_or(&arguments);
        let known = header.node == wire::ROOT && name == self.volume.name.as_bytes();
        match self.volume.attributes(FILE).filter(|_| known) {
            Some(attributes) => {
                let result = self.build(wire::ENTRY_OUT, |to| wire::put_entry(to, &attributes));
                self.reply(header.unique, 0, &result, out);
            }
            None => self.refuse(header.unique, libc::ENOENT as u32, out),
        }
    }

    fn on_getattr(&mut self, header: &InHeader, out: &mut Vec<Out>) {
        match self.volume.attributes(header.node) {
            Some(attributes) => {
                let result = self.build(wire::ATTR_OUT, |to| wire::put_attr(to, &attributes));
                self.reply(header.unique, 0, &result, out);
            }
            None => self.refuse(header.unique, libc::ENOENT as u32, out),
        }
    }

    /// The request behind a message that moves data, its tag still open; `None` if there is
    /// nothing to do. The error is an errno.
    fn check(&self, header: &InHeader, message: &Message) -> Result<Option<Request>, u32> {
        const EINVAL: u32 = libc::EINVAL as u32;
        if header.node != FILE {
            // FSYNC of the directory included: there is nothing to make durable.
            return if header.opcode == opcode::FSYNC {
                Ok(None)
            } else {
                Err(EINVAL)
            };
        }
        let at = |at| wire::u64_at(&message.head, wire::IN_HEADER + at);
        let (offset, size) = (at(8), at(16) as u32);
        let mut flags = Flags::default();
        let mut payload = Payload::new();
        let (op, offset, length) = match header.opcode {
            opcode::FSYNC => (Op::Flush, 0, 0),
            opcode::READ => {
                // A read may reach past the end, and is answered short.
                let there = self.volume.size.saturating_sub(offset).min(u64::from(size));
                (Op::Read, offset, there)
            }
            opcode::WRITE => {
                if message.body.len() != size as usize {
                    return Err(EINVAL);
                }
                payload = message.body.clone().into();
                (Op::Write, offset, u64::from(size))
            }
            _ => {
                let mode = wire::u32_at(&message.head, wire::IN_HEADER + 24);
                let op = match mode {
                    _ if mode == falloc::PUNCH_HOLE | falloc::KEEP_SIZE => Op::Trim,
                    _ if mode & !falloc::KEEP_SIZE == falloc::ZERO_RANGE => Op::WriteZeroes,
                    _ => return Err(libc::EOPNOTSUPP as u32),
                };
                flags.no_hole = op == Op::WriteZeroes;
                (op, offset, at(16))
            }
        };
        if op == Op::Read && length == 0 {
            return Ok(None);
        }
        self.check_range(op, offset, length)?;
        let length = u32::try_from(length).map_err(|_| EINVAL)?;
        Ok(Some(Request {
            tag: 0,
            op,
            offset,
            length,
            flags,
            payload,
        }))
    }

    fn check_range(&self, op: Op, offset: u64, length: u64) -> Result<(), u32> {
        if op == Op::Flush {
            return Ok(());
        }
        if self.volume.read_only && op != Op::Read {
            return Err(IoError::NotPermitted.errno());
        }
        let block = BLOCK as u64;
        let aligned = offset.is_multiple_of(block) && length.is_multiple_of(block);
        let moves_data = matches!(op, Op::Read | Op::Write);
        let too_long = moves_data && length > u64::from(self.limits.max_request);
        // S12: the device's logical block says so.
        if length == 0 || !aligned || too_long {
            return Err(IoError::Invalid.errno());
        }
        let end = offset.checked_add(length);
        if end.is_none_or(|end| end > self.volume.size) {
            return Err(IoError::NoSpace.errno());
        }
        Ok(())
    }

    fn hand_up(&mut self, unique: u64, mut request: Request, out: &mut Vec<Out>) {
        let Request { op, length, .. } = request;
        request.tag = self.in_flight.insert(Pending { unique, op, length });
        out.push(Out::Request(request));
    }

    fn reply_data(&mut self, pending: &Pending, data: ReadParts, out: &mut Vec<Out>) {
        assert_eq!(pending.op, Op::Read, "data for {:?}", pending.op);
        let length: usize = data.iter().map(ReadPart::len).sum();
        assert_eq!(
            length, pending.length as usize,
            "a read is answered in full"
        );
        let unique = pending.unique;
        let header = self.build(wire::OUT_HEADER, |to| {
            wire::put_header(to, unique, 0, length)
        });
        let mut parts: Parts = std::iter::once(header).collect();
        for part in data {
            match part {
                ReadPart::Data(bytes) => parts.push(bytes),
                ReadPart::Zeroes(length) => push_zeroes(&mut parts, length as usize),
            }
        }
        out.push(Out::Send(parts));
    }

    fn refuse(&mut self, unique: u64, errno: u32, out: &mut Vec<Out>) {
        self.reply(unique, errno, &Bytes::new(), out);
    }

    fn reply(&mut self, unique: u64, errno: u32, result: &Bytes, out: &mut Vec<Out>) {
        let length = result.len();
        let header = self.build(wire::OUT_HEADER, |to| {
            wire::put_header(to, unique, errno, length)
        });
        let mut parts: Parts = std::iter::once(header).collect();
        if !result.is_empty() {
            parts.push(result.clone());
        }
        out.push(Out::Send(parts));
    }

    fn close(&mut self, reason: CloseReason, out: &mut Vec<Out>) {
        self.phase = Phase::Closed;
        out.push(Out::Close(reason));
    }

    /// What `write` appends, `length` bytes, cut from a growing buffer.
    fn build(&mut self, length: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
        if self.arena.capacity() < length {
            self.arena.reserve(4096);
        }
        write(&mut self.arena);
        let built = self.arena.split().freeze();
        debug_assert_eq!(built.len(), length);
        built
    }
}

/// The arguments of a short message in one piece; zero-filled to 88 bytes, the longest fixed ones.
fn arguments(message: &Message) -> SmallVec<[u8; 128]> {
    let first = &message.head[wire::IN_HEADER..];
    let mut all: SmallVec<[u8; 128]> = SmallVec::new();
    let length = message.length.saturating_sub(wire::IN_HEADER);
    all.extend_from_slice(&first[..first.len().min(length)]);
    all.extend_from_slice(&message.body[..message.body.len().min(MAX_ARGUMENTS)]);
    if matches!(
        InHeader::decode(message.head.first_chunk().expect("a header")).opcode,
        opcode::SETATTR
    ) {
        all.resize(all.len().max(88), 0);
    }
    all
}

const ZEROES: &[u8] = &[0; 64 << 10];

fn push_zeroes(parts: &mut Parts, mut length: usize) {
    while length > 0 {
        let take = length.min(ZEROES.len());
        parts.push(Bytes::from_static(&ZEROES[..take]));
        length -= take;
    }
}
