//! One connection of the server, from the first byte to the last.

use crate::arena::Arena;
use crate::close::CloseReason;
use crate::export::{ExportError, ExportInfo, Listed};
use crate::inbox::Inbox;
use crate::negotiate::{self, Agreed, Ask, Next, Replies};
use crate::transmit::{Pending, Transmission};
use crate::wire::{self, Head, command};
use bytes::{BufMut, Bytes};
use lockstep_frontend::{Answer, Flags, InFlight, IoError, Op, Payload, Request};
use smallvec::SmallVec;

/// Bytes to write to the socket, in order: heads of replies and handles of the data.
pub type Parts = SmallVec<[Bytes; 4]>;

/// An option that is too long is skipped up to this, and ends the connection beyond.
const MAX_SKIPPED_OPTION: u32 = 1 << 20;

/// The bounds of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes one read or write may have; announced to the client. A write up to twice as long is
    /// skipped and refused, a longer one ends the connection.
    pub max_request: u32,
    /// Requests handed up and not answered.
    pub max_in_flight: usize,
    /// Bytes of payload handed up, of reads not answered, and of replies not sent; one request
    /// more may be taken while below.
    pub max_bytes: usize,
    /// Bytes of one option's data.
    pub max_option: u32,
    /// Whether this socket is encrypted by STARTTLS.
    pub tls: Tls,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_request: 32 << 20,
            max_in_flight: 256,
            max_bytes: 64 << 20,
            max_option: 64 << 10,
            tls: Tls::Unsupported,
        }
    }
}

/// Whether a client must encrypt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tls {
    /// A Unix socket: STARTTLS is refused.
    Unsupported,
    /// A TCP socket: nothing but STARTTLS is answered before it.
    Required,
}

/// What a client wants an export for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Intent {
    /// To know about it.
    Inspect,
    /// To use it: if `export` answers `Ok`, requests follow. Bind the attachment here (R12).
    Open,
}

/// What the shell does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Out {
    /// Write these to the socket, then tell [`Session::sent`].
    Send(Parts),
    /// Do this and answer by [`Session::complete`].
    Request(Request),
    /// Say what is known of this export by [`Session::export`].
    WantExport {
        /// As the client named it; at most 4096 bytes, and empty for "the default one".
        name: String,
        /// What for.
        intent: Intent,
    },
    /// Say which exports there are by [`Session::list`].
    WantList,
    /// Once all that was to be sent is sent, start TLS; `receive` is given plaintext from then on.
    StartTls,
    /// Flush what is to be sent and close the socket. Nothing follows.
    Close(CloseReason),
}

#[derive(Debug)]
enum Phase {
    ClientFlags,
    OptionHead,
    OptionData {
        option: u32,
        length: u32,
    },
    /// Skipping the data of an option that is refused for its length.
    SkipOption {
        option: u32,
        left: u32,
    },
    /// The node was asked.
    Asked(Ask),
    RequestHead,
    /// A write whose payload has not arrived in full.
    Payload(Head, Flags),
    /// Skipping the payload of a write that is refused.
    SkipPayload {
        cookie: u64,
        error: IoError,
        left: u32,
    },
    /// The client said goodbye or the node is stopping; requests are still unanswered.
    Draining(CloseReason),
    Closed,
}

/// Whether there may be more to do.
#[derive(PartialEq)]
enum Step {
    Went,
    Waits,
}

/// One connection. See the crate's documentation for the calling contract.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    inbox: Inbox,
    phase: Phase,
    agreed: Agreed,
    transmission: Option<Transmission>,
    in_flight: InFlight<Pending>,
    /// Bytes of unanswered reads and writes.
    in_flight_bytes: usize,
    /// Bytes handed out to be sent and not reported sent.
    unsent: usize,
    shutting_down: bool,
    arena: Arena,
}

impl Session {
    /// A connection just accepted.
    pub fn new(limits: Limits) -> Self {
        assert!(limits.max_in_flight > 0 && limits.max_request >= lockstep_types::BLOCK as u32);
        Self {
            limits,
            inbox: Inbox::default(),
            phase: Phase::ClientFlags,
            agreed: Agreed::default(),
            transmission: None,
            in_flight: InFlight::default(),
            in_flight_bytes: 0,
            unsent: 0,
            shutting_down: false,
            arena: Arena::default(),
        }
    }

    /// Greets the client.
    pub fn start(&mut self, out: &mut Vec<Out>) {
        let flags = wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES;
        let greeting = self.arena.build(wire::GREETING, |to| {
            to.put_u64(wire::NBDMAGIC);
            to.put_u64(wire::IHAVEOPT);
            to.put_u16(flags);
        });
        self.send(std::iter::once(greeting).collect(), out);
    }

    /// Takes what arrived. Payloads of writes are handed up as slices of `bytes`; only pieces
    /// below 4 KiB are copied together.
    pub fn receive(&mut self, bytes: Bytes, out: &mut Vec<Out>) {
        if matches!(self.phase, Phase::Draining(_) | Phase::Closed) {
            return;
        }
        self.inbox.push(bytes);
        self.pump(out);
    }

    /// Answers `WantExport`.
    pub fn export(&mut self, answer: Result<ExportInfo, ExportError>, out: &mut Vec<Out>) {
        let Some(ask) = self.take_ask() else { return };
        let mut replies = Replies::default();
        let max = self.limits.max_request;
        let next = negotiate::on_export(&mut self.agreed, ask, answer, max, &mut replies);
        self.follow(next, replies, out);
        self.pump(out);
    }

    /// Answers `WantList`.
    pub fn list(&mut self, exports: &[Listed], out: &mut Vec<Out>) {
        let Some(ask) = self.take_ask() else { return };
        assert_eq!(ask, Ask::List, "an export is answered with `export`");
        let mut replies = Replies::default();
        let next = negotiate::on_list(exports, &mut replies);
        self.follow(next, replies, out);
        self.pump(out);
    }

    /// Answers a request. Panics if `tag` is not unanswered, or the answer does not fit the
    /// request. After the connection has closed the answer is dropped.
    pub fn complete(&mut self, tag: u64, answer: Answer, out: &mut Vec<Out>) {
        let pending = self.in_flight.take(tag);
        self.in_flight_bytes -= cost(pending.op, pending.length);
        if matches!(self.phase, Phase::Closed) {
            return;
        }
        let transmission = self
            .transmission
            .as_ref()
            .expect("requests follow the handshake");
        let parts = transmission.reply(&mut self.arena, &pending, answer);
        self.send(parts, out);
        self.pump(out);
    }

    /// `count` bytes of what `Out::Send` gave have been written to the socket.
    pub fn sent(&mut self, count: usize, out: &mut Vec<Out>) {
        assert!(count <= self.unsent, "more sent than there was to send");
        self.unsent -= count;
        self.pump(out);
    }

    /// Whether to read from the socket. While not, at most what is already on its way may still be
    /// given to `receive`: this is the back-pressure, and what bounds the memory of a connection.
    pub fn wants_more(&self) -> bool {
        match self.phase {
            Phase::Asked(_) | Phase::Draining(_) | Phase::Closed => false,
            Phase::Payload(..) | Phase::SkipPayload { .. } | Phase::SkipOption { .. } => true,
            _ => self.has_room(),
        }
    }

    /// Bytes of a write's payload that have not arrived, 0 between requests. A shell that gives
    /// exactly these in one aligned buffer saves the copy into one.
    pub fn payload_missing(&self) -> usize {
        match &self.phase {
            Phase::Payload(head, _) => (head.length as usize).saturating_sub(self.inbox.len()),
            _ => 0,
        }
    }

    /// Requests handed up and unanswered.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes received and not yet understood.
    pub fn buffered(&self) -> usize {
        self.inbox.len()
    }

    /// Takes no more requests: what is in flight is answered, later ones get ESHUTDOWN, then the
    /// connection closes.
    pub fn shutdown(&mut self, out: &mut Vec<Out>) {
        self.shutting_down = true;
        if self.transmission.is_none() || self.in_flight.is_empty() {
            self.close(CloseReason::Shutdown, out);
        }
    }

    /// The volume has grown to `size` bytes (a multiple of 4096); sizes only grow (R8).
    pub fn grown(&mut self, size: u64) {
        if let Some(transmission) = &mut self.transmission {
            assert!(size >= transmission.export.size, "sizes only grow");
            transmission.export.size = size;
            transmission.export.check();
        }
    }

    fn take_ask(&mut self) -> Option<Ask> {
        match std::mem::replace(&mut self.phase, Phase::OptionHead) {
            Phase::Asked(ask) => Some(ask),
            Phase::Closed => {
                self.phase = Phase::Closed;
                None
            }
            other => panic!("an answer to no question, in {other:?}"),
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < self.limits.max_in_flight
            && self.in_flight_bytes.saturating_add(self.unsent) < self.limits.max_bytes
    }

    fn send(&mut self, parts: Parts, out: &mut Vec<Out>) {
        self.unsent += parts.iter().map(Bytes::len).sum::<usize>();
        out.push(Out::Send(parts));
    }

    fn close(&mut self, reason: CloseReason, out: &mut Vec<Out>) {
        if !matches!(self.phase, Phase::Closed) {
            self.phase = Phase::Closed;
            self.inbox.clear();
            out.push(Out::Close(reason));
        }
    }

    fn pump(&mut self, out: &mut Vec<Out>) {
        while self.step(out) == Step::Went {}
    }

    /// Understands the next thing in the inbox, if it is there in full and there is room for it.
    fn step(&mut self, out: &mut Vec<Out>) -> Step {
        let went = match self.phase {
            Phase::Asked(_) | Phase::Closed => None,
            Phase::Draining(ref reason) => {
                if self.in_flight.is_empty() {
                    let reason = reason.clone();
                    self.close(reason, out);
                }
                None
            }
            Phase::OptionData { option, length } => self.on_option(option, length, out),
            Phase::SkipOption { option, left } => self.skip_option(option, left, out),
            Phase::Payload(head, flags) => self.inbox.take(head.length as usize).map(|payload| {
                self.phase = Phase::RequestHead;
                self.hand_up(&head, Op::Write, flags, payload, out);
            }),
            Phase::SkipPayload {
                cookie,
                error,
                left,
            } => self.skip_payload(cookie, error, left, out),
            // What follows takes on something new, so it waits for room.
            _ if !self.has_room() => None,
            Phase::ClientFlags => self.on_client_flags(out),
            Phase::OptionHead => self.on_option_head(out),
            Phase::RequestHead => self.on_request_head(out),
        };
        // Draining and closing are noticed after the last completion.
        if self.shutting_down && self.transmission.is_some() && self.in_flight.is_empty() {
            self.close(CloseReason::Shutdown, out);
        }
        if went.is_some() {
            Step::Went
        } else {
            Step::Waits
        }
    }

    fn on_client_flags(&mut self, out: &mut Vec<Out>) -> Option<()> {
        let flags = u32::from_be_bytes(self.inbox.take_head::<{ wire::CLIENT_FLAGS }>()?);
        let fixed = u32::from(wire::FLAG_FIXED_NEWSTYLE);
        let no_zeroes = u32::from(wire::FLAG_NO_ZEROES);
        if flags & !(fixed | no_zeroes) != 0 {
            self.close(CloseReason::NotNbd { flags }, out);
            return None;
        }
        self.agreed.fixed = flags & fixed != 0;
        self.agreed.no_zeroes = flags & no_zeroes != 0;
        self.phase = Phase::OptionHead;
        Some(())
    }

    fn on_option_head(&mut self, out: &mut Vec<Out>) -> Option<()> {
        let head = self.inbox.take_head::<{ wire::OPTION_HEAD }>()?;
        let magic = wire::u64_at(&head, 0);
        let (option, length) = (wire::u32_at(&head, 8), wire::u32_at(&head, 12));
        if magic != wire::IHAVEOPT {
            self.close(CloseReason::BadOptionMagic { magic }, out);
            return None;
        }
        self.phase = if length <= self.limits.max_option {
            Phase::OptionData { option, length }
        } else if length <= MAX_SKIPPED_OPTION && self.agreed.fixed {
            Phase::SkipOption {
                option,
                left: length,
            }
        } else {
            self.close(CloseReason::OptionTooLong { option, length }, out);
            return None;
        };
        Some(())
    }

    fn on_option(&mut self, option: u32, length: u32, out: &mut Vec<Out>) -> Option<()> {
        let data = self.inbox.take(length as usize)?.into_bytes();
        self.phase = Phase::OptionHead;
        let mut replies = Replies::default();
        let tls = self.limits.tls;
        let next = negotiate::on_option(&mut self.agreed, tls, option, &data, &mut replies);
        self.follow(next, replies, out);
        Some(())
    }

    fn skip_option(&mut self, option: u32, left: u32, out: &mut Vec<Out>) -> Option<()> {
        let left = left - self.inbox.skip(left as usize) as u32;
        if left > 0 {
            self.phase = Phase::SkipOption { option, left };
            return None;
        }
        self.phase = Phase::OptionHead;
        let mut replies = Replies::default();
        let why = "more data than this server takes for an option";
        let next = replies.refuse(option, wire::reply::ERR_TOO_BIG, why);
        self.follow(next, replies, out);
        Some(())
    }

    /// Sends `replies` and goes where the handshake leads.
    fn follow(&mut self, next: Next, replies: Replies, out: &mut Vec<Out>) {
        let replies = replies.finish();
        if !replies.is_empty() {
            self.send(std::iter::once(replies).collect(), out);
        }
        match next {
            Next::Option => {}
            Next::Ask(ask) => {
                out.push(match &ask {
                    Ask::List => Out::WantList,
                    Ask::ExportName { name } | Ask::Info { name, go: true, .. } => {
                        Out::WantExport {
                            name: name.clone(),
                            intent: Intent::Open,
                        }
                    }
                    Ask::Info {
                        name, go: false, ..
                    }
                    | Ask::Contexts { name, .. } => Out::WantExport {
                        name: name.clone(),
                        intent: Intent::Inspect,
                    },
                });
                self.phase = Phase::Asked(ask);
            }
            Next::StartTls if self.inbox.len() > 0 => {
                self.close(
                    CloseReason::BytesBeforeTls {
                        count: self.inbox.len(),
                    },
                    out,
                );
            }
            Next::StartTls => out.push(Out::StartTls),
            Next::Transmit(export) => {
                self.transmission = Some(Transmission {
                    export,
                    structured: self.agreed.structured,
                    allocation: self.agreed.allocation_for.is_some(),
                    max_request: self.limits.max_request,
                });
                self.phase = Phase::RequestHead;
            }
            Next::Close(reason) => self.close(reason, out),
        }
    }

    fn on_request_head(&mut self, out: &mut Vec<Out>) -> Option<()> {
        let raw = self.inbox.take_head::<{ wire::REQUEST_HEAD }>()?;
        let head = match Head::decode(&raw) {
            Ok(head) => head,
            Err(magic) => {
                self.close(CloseReason::BadRequestMagic { magic }, out);
                return None;
            }
        };
        if head.command == command::DISC {
            self.phase = Phase::Draining(CloseReason::ClientDisconnected);
            self.inbox.clear();
            return Some(());
        }
        let max = self.limits.max_request;
        if head.command == command::WRITE && head.length > max.saturating_mul(2) {
            // Neither kept nor waited for: 4 GiB of payload would follow.
            self.close(
                CloseReason::WriteTooLong {
                    length: head.length,
                    max,
                },
                out,
            );
            return None;
        }
        let transmission = self
            .transmission
            .as_ref()
            .expect("requests follow the handshake");
        let checked = match self.shutting_down {
            true => Err(IoError::Shutdown),
            false => transmission.check(&head),
        };
        match checked {
            Ok((Op::Write, flags)) => self.phase = Phase::Payload(head, flags),
            Ok((op, flags)) => self.hand_up(&head, op, flags, Payload::new(), out),
            Err(error) if head.command == command::WRITE => {
                self.phase = Phase::SkipPayload {
                    cookie: head.cookie,
                    error,
                    left: head.length,
                };
            }
            Err(error) => {
                let op = match head.command {
                    command::READ => Some(Op::Read),
                    command::BLOCK_STATUS => Some(Op::BlockStatus),
                    _ => None,
                };
                let parts = transmission.error(&mut self.arena, head.cookie, op, error);
                self.send(parts, out);
            }
        }
        Some(())
    }

    fn skip_payload(
        &mut self,
        cookie: u64,
        error: IoError,
        left: u32,
        out: &mut Vec<Out>,
    ) -> Option<()> {
        let left = left - self.inbox.skip(left as usize) as u32;
        if left > 0 {
            self.phase = Phase::SkipPayload {
                cookie,
                error,
                left,
            };
            return None;
        }
        self.phase = Phase::RequestHead;
        let transmission = self
            .transmission
            .as_ref()
            .expect("requests follow the handshake");
        let parts = transmission.error(&mut self.arena, cookie, Some(Op::Write), error);
        self.send(parts, out);
        Some(())
    }

    fn hand_up(&mut self, head: &Head, op: Op, flags: Flags, payload: Payload, out: &mut Vec<Out>) {
        let (offset, length) = (head.offset, head.length);
        let tag = self.in_flight.insert(Pending {
            cookie: head.cookie,
            op,
            offset,
            length,
            whole: head.flags & wire::flag::DF != 0,
            one_run: flags.one_run,
        });
        self.in_flight_bytes += cost(op, length);
        out.push(Out::Request(Request {
            tag,
            op,
            offset,
            length,
            flags,
            payload,
        }));
    }
}

/// Bytes a request holds until it is answered.
fn cost(op: Op, length: u32) -> usize {
    if matches!(op, Op::Read | Op::Write) {
        length as usize
    } else {
        0
    }
}

impl Out {
    /// All bytes of a `Send`, in one handle; for tests and small shells.
    pub fn into_sent(self) -> Option<Bytes> {
        match self {
            Self::Send(parts) => {
                let mut payload = Payload::new();
                parts.into_iter().for_each(|part| payload.push(part));
                Some(payload.into_bytes())
            }
            _ => None,
        }
    }
}
