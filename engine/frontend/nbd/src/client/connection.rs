//! A client's connection without I/O: bytes in, events out.

use super::options::Handshake;
use super::{ClientError, Export, Options, broken};
use crate::arena::Arena;
use crate::inbox::Inbox;
use crate::session::Parts;
use crate::wire::{self, Head, chunk, command, flag, u16_at, u32_at, u64_at};
use bytes::{BufMut, Bytes, BytesMut};
use lockstep_frontend::{Flags, IoError, Op, Payload, ReadPart, Run, Runs};
use std::collections::BTreeMap;

/// Longest option reply and longest chunk that carries no data of a read, in bytes.
const MAX_SMALL: u32 = 1 << 20;

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Write these to the socket.
    Send(Parts),
    /// Requests may follow.
    Ready(Export),
    /// A request was answered.
    Reply(Reply),
}

/// The answer to one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// What `submit` gave.
    pub cookie: u64,
    /// What came of it.
    pub result: Result<Content, IoError>,
}

/// What a request brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Done.
    Plain,
    /// The bytes of a read, as many as asked for.
    Data(Bytes),
    /// The runs of a status.
    Status(Runs),
}

#[derive(Debug)]
enum Phase {
    Greeting,
    Options(Handshake),
    Requests { structured: bool },
    Failed,
}

#[derive(Debug)]
struct Pending {
    op: Op,
    offset: u64,
    length: u32,
    /// Chunks of a read: offset in the request, and what is there.
    parts: Vec<(u64, ReadPart)>,
    /// Bytes that they have; never more than were asked for.
    given: u64,
    runs: Option<Runs>,
    error: Option<IoError>,
}

/// One connection of a client. Give `receive` whatever arrives; after an error it is of no use.
#[derive(Debug)]
pub struct Connection {
    inbox: Inbox,
    phase: Phase,
    options: Options,
    pending: BTreeMap<u64, Pending>,
    next_cookie: u64,
    arena: Arena,
}

impl Connection {
    /// A connection just made; the server speaks first.
    pub fn new(options: Options) -> Self {
        Self {
            inbox: Inbox::default(),
            phase: Phase::Greeting,
            options,
            pending: BTreeMap::new(),
            next_cookie: 1,
            arena: Arena::default(),
        }
    }

    /// Takes what arrived.
    pub fn receive(&mut self, bytes: Bytes, events: &mut Vec<Event>) -> Result<(), ClientError> {
        self.inbox.push(bytes);
        while self
            .step(events)
            .inspect_err(|_| self.phase = Phase::Failed)?
        {}
        Ok(())
    }

    /// A new request: its cookie, and what to send. `length` counts for a write too.
    pub fn submit(
        &mut self,
        op: Op,
        offset: u64,
        length: u32,
        flags: Flags,
        payload: Payload,
    ) -> (u64, Parts) {
        assert!(
            matches!(self.phase, Phase::Requests { .. }),
            "requests follow the handshake"
        );
        assert_eq!(
            payload.len(),
            if op == Op::Write { length as usize } else { 0 }
        );
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let raw = [
            (flags.fua, flag::FUA),
            (flags.no_hole, flag::NO_HOLE),
            (flags.one_run, flag::REQ_ONE),
        ];
        let flags = raw
            .iter()
            .filter(|(set, _)| *set)
            .fold(0, |all, (_, flag)| all | flag);
        let command = match op {
            Op::Read => command::READ,
            Op::Write => command::WRITE,
            Op::Flush => command::FLUSH,
            Op::Trim => command::TRIM,
            Op::WriteZeroes => command::WRITE_ZEROES,
            Op::BlockStatus => command::BLOCK_STATUS,
        };
        let pending = Pending {
            op,
            offset,
            length,
            parts: Vec::new(),
            given: 0,
            runs: None,
            error: None,
        };
        self.pending.insert(cookie, pending);
        let mut parts = self.head(Head {
            flags,
            command,
            cookie,
            offset,
            length,
        });
        parts.extend(payload.parts().iter().cloned());
        (cookie, parts)
    }

    /// Says goodbye.
    pub fn disconnect(&mut self) -> Parts {
        self.head(Head {
            flags: 0,
            command: command::DISC,
            cookie: 0,
            offset: 0,
            length: 0,
        })
    }

    /// Requests without an answer.
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    fn head(&mut self, head: Head) -> Parts {
        let head = self
            .arena
            .build(wire::REQUEST_HEAD, |to| to.put_slice(&head.encode()));
        std::iter::once(head).collect()
    }

    /// Understands the next thing; false if it has not arrived in full.
    fn step(&mut self, events: &mut Vec<Event>) -> Result<bool, ClientError> {
        match self.phase {
            Phase::Greeting => {
                let Some(greeting) = self.inbox.take_head() else {
                    return Ok(false);
                };
                let handshake = Handshake::new(self.options.clone());
                let first = handshake.greet(&greeting)?;
                events.push(Event::Send(std::iter::once(first).collect()));
                self.phase = Phase::Options(handshake);
                Ok(true)
            }
            Phase::Options(_) => self.on_option_reply(events),
            Phase::Requests { structured } => {
                let Some(magic) = self.inbox.peek::<4>() else {
                    return Ok(false);
                };
                match u32::from_be_bytes(magic) {
                    wire::SIMPLE_REPLY_MAGIC => self.on_simple(structured, events),
                    wire::CHUNK_MAGIC if structured => self.on_chunk(events),
                    magic => broken(format!("{magic:#010x} where a reply begins")),
                }
            }
            Phase::Failed => broken("it did so before"),
        }
    }

    fn on_option_reply(&mut self, events: &mut Vec<Event>) -> Result<bool, ClientError> {
        const HEAD: usize = wire::OPTION_REPLY_HEAD;
        let Some(head) = self.inbox.peek::<HEAD>() else {
            return Ok(false);
        };
        if u64_at(&head, 0) != wire::OPTION_REPLY_MAGIC {
            return broken("garbage where an option reply begins");
        }
        let length = u32_at(&head, 16);
        if length > MAX_SMALL {
            return broken(format!("an option reply of {length} bytes"));
        }
        if self.inbox.len() < HEAD + length as usize {
            return Ok(false);
        }
        self.inbox.skip(HEAD);
        let data = self
            .inbox
            .take(length as usize)
            .expect("it is there")
            .into_bytes();
        let Phase::Options(handshake) = &mut self.phase else {
            unreachable!("only called during the handshake")
        };
        match handshake.on_reply(u32_at(&head, 8), u32_at(&head, 12), &data)? {
            None => {}
            Some(Ok(next)) => events.push(Event::Send(std::iter::once(next).collect())),
            Some(Err(export)) => {
                events.push(Event::Ready(export));
                self.phase = Phase::Requests {
                    structured: handshake.structured,
                };
            }
        }
        Ok(true)
    }

    fn on_simple(
        &mut self,
        structured: bool,
        events: &mut Vec<Event>,
    ) -> Result<bool, ClientError> {
        const HEAD: usize = wire::SIMPLE_REPLY_HEAD;
        let Some(head) = self.inbox.peek::<HEAD>() else {
            return Ok(false);
        };
        let (errno, cookie) = (u32_at(&head, 4), u64_at(&head, 8));
        let Some(pending) = self.pending.get(&cookie) else {
            return broken(format!(
                "a reply to request {cookie}, which is not outstanding"
            ));
        };
        let reads = pending.op == Op::Read && errno == 0;
        if pending.op == Op::BlockStatus && errno == 0 || (reads && structured) {
            return broken(format!("a simple reply to {:?}", pending.op));
        }
        let length = if reads { pending.length as usize } else { 0 };
        if self.inbox.len() < HEAD + length {
            return Ok(false);
        }
        self.inbox.skip(HEAD);
        let data = self.inbox.take(length).expect("it is there");
        self.pending.remove(&cookie);
        let result = match errno {
            0 if reads => Ok(Content::Data(data.into_bytes())),
            0 => Ok(Content::Plain),
            errno => Err(IoError::from_errno(errno)),
        };
        events.push(Event::Reply(Reply { cookie, result }));
        Ok(true)
    }

    fn on_chunk(&mut self, events: &mut Vec<Event>) -> Result<bool, ClientError> {
        const HEAD: usize = wire::CHUNK_HEAD;
        let Some(head) = self.inbox.peek::<HEAD>() else {
            return Ok(false);
        };
        let (flags, kind) = (u16_at(&head, 4), u16_at(&head, 6));
        let (cookie, length) = (u64_at(&head, 8), u32_at(&head, 16));
        let Some(pending) = self.pending.get_mut(&cookie) else {
            return broken(format!(
                "a chunk for request {cookie}, which is not outstanding"
            ));
        };
        let most = if kind == chunk::OFFSET_DATA {
            pending.length.saturating_add(8)
        } else {
            MAX_SMALL
        };
        if length > most {
            return broken(format!("a chunk of type {kind} with {length} bytes"));
        }
        if self.inbox.len() < HEAD + length as usize {
            return Ok(false);
        }
        self.inbox.skip(HEAD);
        let data = self
            .inbox
            .take(length as usize)
            .expect("it is there")
            .into_bytes();
        pending.on_chunk(kind, data)?;
        if flags & chunk::DONE != 0 {
            let pending = self.pending.remove(&cookie).expect("it was just there");
            let result = pending.finish()?;
            events.push(Event::Reply(Reply { cookie, result }));
        }
        Ok(true)
    }
}

impl Pending {
    fn on_chunk(&mut self, kind: u16, data: Bytes) -> Result<(), ClientError> {
        match kind {
            chunk::NONE if data.is_empty() => {}
            chunk::OFFSET_DATA if self.op == Op::Read && data.len() > 8 => {
                self.on_part(u64_at(&data, 0), ReadPart::Data(data.slice(8..)))?;
            }
            chunk::OFFSET_HOLE if self.op == Op::Read && data.len() == 12 => {
                self.on_part(u64_at(&data, 0), ReadPart::Zeroes(u32_at(&data, 8)))?;
            }
            chunk::BLOCK_STATUS
                if self.op == Op::BlockStatus && data.len() > 4 && data.len() % 8 == 4 =>
            {
                let runs = data[4..].chunks_exact(8).map(|run| Run {
                    length: u32_at(run, 0),
                    allocated: u32_at(run, 4) & wire::STATE_HOLE_ZERO != wire::STATE_HOLE_ZERO,
                });
                self.runs = Some(runs.collect());
            }
            _ if kind & chunk::ERROR_BIT != 0 && data.len() >= 6 => {
                self.error = Some(IoError::from_errno(u32_at(&data, 0)));
            }
            _ => {
                let length = data.len();
                return broken(format!(
                    "a chunk of type {kind}, {length} bytes, for {:?}",
                    self.op
                ));
            }
        }
        Ok(())
    }

    /// A server that goes on giving must not fill the memory.
    fn on_part(&mut self, offset: u64, part: ReadPart) -> Result<(), ClientError> {
        let bytes = part.len() as u64;
        self.given += bytes;
        if bytes == 0 || self.given > u64::from(self.length) {
            return broken(format!("more than the {} bytes of a read", self.length));
        }
        self.parts.push((offset, part));
        Ok(())
    }

    fn finish(mut self) -> Result<Result<Content, IoError>, ClientError> {
        if let Some(error) = self.error {
            return Ok(Err(error));
        }
        Ok(Ok(match self.op {
            Op::Read => Content::Data(self.assemble()?),
            Op::BlockStatus => match self.runs.take() {
                Some(runs) => Content::Status(runs),
                None => return broken("a status without runs"),
            },
            _ => Content::Plain,
        }))
    }

    /// The read's bytes, if the chunks tile it exactly.
    fn assemble(&mut self) -> Result<Bytes, ClientError> {
        self.parts.sort_by_key(|(offset, _)| *offset);
        let mut next = self.offset;
        for (offset, part) in &self.parts {
            if *offset != next {
                return broken(format!(
                    "a read with bytes missing or given twice at {next}"
                ));
            }
            next += part.len() as u64;
        }
        if next != self.offset + u64::from(self.length) {
            return broken(format!(
                "a read of {} bytes answered up to {next}",
                self.length
            ));
        }
        if let [(_, ReadPart::Data(whole))] = &self.parts[..] {
            return Ok(whole.clone());
        }
        let mut whole = BytesMut::with_capacity(self.length as usize);
        for (_, part) in &self.parts {
            match part {
                ReadPart::Data(bytes) => whole.put_slice(bytes),
                ReadPart::Zeroes(length) => whole.put_bytes(0, *length as usize),
            }
        }
        Ok(whole.freeze())
    }
}
