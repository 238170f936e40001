//! One connection: what has come in and what it becomes, what goes out, and how it ends. It makes
//! no system call; the reactor submits for it and brings it the results.

mod secure;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use bytes::Bytes;
use lockstep_types::Nanos;

use crate::counters::Counters;
use crate::error::{CloseReason, Exhausted};
use crate::outbound::Outbound;
use crate::pool::{Pool, PoolBufMut};
use crate::reactor::Event;
use crate::socket::{self, ConnId, RawAddress};
use crate::stream::{FeedError, Frame, Framing, StreamBuffer};
use crate::sys;
use crate::timer::NEVER;
use crate::tls::Tls;

/// A payload with at least this much missing is received straight into its buffer.
const DIRECT: usize = 16 * 1024;
/// Raw data up to this size is copied out of the staging buffer instead of replacing it.
const COPY_OUT: usize = 8 * 1024;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Dialling.
    Connecting,
    /// TLS is being set up.
    Handshaking,
    /// In use.
    Open,
    /// Sending what is queued, then half-closed until the peer closes too.
    Draining,
    /// Shut; waiting for the kernel to hand back what is in flight.
    Closing,
}

/// What a connection borrows from its reactor.
pub(crate) struct Context<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) counters: &'a mut Counters,
    pub(crate) events: &'a mut Vec<Event>,
}

pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) state: State,
    fd: OwnedFd,
    /// Held in place while dialling.
    address: Option<Box<RawAddress>>,
    tls: Option<Box<Tls>>,
    pub(crate) outbound: Outbound,
    /// Small parts on their way into one TLS record; kept for its room.
    record: Vec<u8>,
    staging: PoolBufMut,
    /// Received and not used up: `staging[start..end]`.
    start: usize,
    end: usize,
    /// Decrypted bytes that found no pool buffer yet.
    overflow: Vec<u8>,
    stream: Option<StreamBuffer>,
    /// The payload buffer the kernel is receiving into.
    direct: Option<(PoolBufMut, usize)>,
    /// A `recv` is in flight.
    pub(crate) receiving: bool,
    /// A payload waits for a pool buffer.
    pub(crate) stalled: bool,
    /// The caller wants no more for now.
    pub(crate) paused: bool,
    /// The socket had nothing more at the last receive: wait for it before trying.
    drained_socket: bool,
    half_closed: bool,
    said_goodbye: bool,
    reason: Option<CloseReason>,
    /// When a handshake or draining is given up.
    pub(crate) deadline: Nanos,
    /// In the reactor's list of connections to look after.
    pub(crate) dirty: bool,
}

/// A `recv` to submit.
pub(crate) struct Receive {
    pub(crate) at: *mut u8,
    pub(crate) length: u32,
    pub(crate) poll_first: bool,
}

impl Connection {
    /// # Errors
    /// No pool buffer for receiving.
    pub(crate) fn new(
        id: ConnId,
        (fd, state): (OwnedFd, State),
        tls: Option<Tls>,
        framing: Option<Framing>,
        (pool, receive_buffer, send_bound): (&Pool, usize, usize),
    ) -> Result<Self, Exhausted> {
        let mut staging = pool.get(receive_buffer)?;
        staging.set_len(staging.capacity());
        Ok(Self {
            id,
            state,
            fd,
            address: None,
            tls: tls.map(Box::new),
            outbound: Outbound::new(send_bound),
            record: Vec::new(),
            staging,
            start: 0,
            end: 0,
            overflow: Vec::new(),
            stream: framing.map(StreamBuffer::new),
            direct: None,
            receiving: false,
            stalled: false,
            paused: false,
            drained_socket: true,
            half_closed: false,
            said_goodbye: false,
            reason: None,
            deadline: NEVER,
            dirty: false,
        })
    }

    /// As [`socket::round_trip`].
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        socket::round_trip(&self.fd)
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn hold_address(&mut self, address: RawAddress) -> &RawAddress {
        self.address.insert(Box::new(address))
    }

    /// The socket is connected: begin the handshake, or be open.
    pub(crate) fn begin(&mut self, handshake_deadline: Nanos, cx: &mut Context<'_>) {
        self.address = None;
        if self.tls.is_some() {
            self.state = State::Handshaking;
            self.deadline = handshake_deadline;
            self.run_tls(cx); // a client speaks first
        } else {
            self.state = State::Open;
            self.deadline = NEVER;
            cx.events.push(Event::Connected {
                conn: self.id,
                certificate: None,
            });
        }
    }

    /// A plain connection goes on under TLS, this side as the server: what was queued before goes out in
    /// the clear, what comes in from now on is the handshake.
    pub(crate) fn start_tls(&mut self, tls: Tls, handshake_deadline: Nanos) {
        assert!(
            self.tls.is_none() && self.stream.is_none(),
            "TLS begins once, on a connection without framing"
        );
        if self.state != State::Open {
            return; // it is ending
        }
        self.outbound.move_queue_to_wire();
        self.tls = Some(Box::new(tls));
        self.state = State::Handshaking;
        self.deadline = handshake_deadline;
    }

    /// Changes how later bytes are cut, beginning with `leftover`: bytes the caller was given and
    /// that belong to the new framing.
    pub(crate) fn set_framing(
        &mut self,
        framing: Option<Framing>,
        mut leftover: &[u8],
        cx: &mut Context<'_>,
    ) {
        assert!(
            self.direct.is_none()
                && !self
                    .stream
                    .as_ref()
                    .is_some_and(StreamBuffer::is_inside_frame),
            "framing changes between frames"
        );
        self.stream = framing.map(StreamBuffer::new);
        let Some(stream) = &mut self.stream else {
            return;
        };
        match feed(self.id, stream, &mut leftover, cx) {
            Ok(()) => {}
            Err(FeedError::Exhausted(_)) => {
                self.overflow.extend_from_slice(leftover);
                self.stall(cx);
            }
            Err(FeedError::Bad(why)) => self.end(CloseReason::BadFrame(why)),
        }
    }

    /// What to receive into next, if anything should be received.
    pub(crate) fn next_receive(&mut self) -> Option<Receive> {
        let wanted = match self.state {
            State::Handshaking => true,
            // rustls must not be asked for a goodbye after its staged bytes were thrown away.
            State::Draining => self.said_goodbye,
            State::Open => !self.paused && !self.stalled,
            State::Connecting | State::Closing => false,
        };
        if !wanted || self.receiving {
            return None;
        }
        let poll_first = std::mem::replace(&mut self.drained_socket, false);
        if self.state == State::Open
            && self.tls.is_none()
            && self.start == self.end
            && let Some((mut buffer, range)) = self
                .stream
                .as_mut()
                .and_then(|stream| stream.direct(DIRECT))
        {
            let into = buffer.part_mut(range.clone());
            let receive = Receive {
                at: into.as_mut_ptr(),
                length: into.len() as u32,
                poll_first,
            };
            self.direct = Some((buffer, range.len()));
            self.receiving = true;
            return Some(receive);
        }
        if self.state == State::Draining || self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.staging.len() - self.end < self.staging.len() / 2 {
            self.staging.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let whole = self.end..self.staging.capacity();
        let free = self.staging.part_mut(whole);
        assert!(
            !free.is_empty(),
            "a full staging buffer was refused when it filled"
        );
        self.receiving = true;
        Some(Receive {
            at: free.as_mut_ptr(),
            length: free.len() as u32,
            poll_first,
        })
    }

    /// A `recv` is back.
    pub(crate) fn on_received(&mut self, result: i32, more_waiting: bool, cx: &mut Context<'_>) {
        self.receiving = false;
        let got = usize::try_from(result).unwrap_or(0);
        let filled = self.direct.is_none() && self.end + got == self.staging.capacity();
        self.drained_socket = !more_waiting && !filled;
        cx.counters.receives += 1;
        cx.counters.received_bytes += got as u64;
        if let Some((buffer, asked)) = self.direct.take() {
            assert!(got <= asked, "the kernel keeps to the length it was given");
            cx.counters.direct_payload_bytes += got as u64;
            let stream = self
                .stream
                .as_mut()
                .expect("only framed streams receive directly");
            if let Some(frame) = stream.put_back(buffer, got) {
                cx.events.push(frame_event(self.id, frame));
            }
        } else {
            self.end += got;
        }
        match result {
            _ if self.state == State::Closing => {}
            e if e == -libc::EINTR || e == -libc::EAGAIN => {}
            e if e < 0 => self.shut(CloseReason::Broken(-e)),
            0 => self.on_end_of_stream(),
            _ if self.state == State::Draining => {}
            _ => self.process(cx),
        }
    }

    /// Whether its socket held more frames than the last receive took, and they may be received. Bytes
    /// without framing are looked at first: they may say how to cut what follows.
    pub(crate) fn has_more_waiting(&self) -> bool {
        let receives = self.state == State::Open && !self.paused && !self.stalled;
        receives && self.stream.is_some() && !self.drained_socket
    }

    /// Buffers may have come back: go on where it stopped.
    pub(crate) fn retry(&mut self, cx: &mut Context<'_>) {
        if !self.stalled || self.state != State::Open {
            self.stalled = false;
            return;
        }
        self.stalled = false;
        if let Some(stream) = &mut self.stream {
            let overflow = std::mem::take(&mut self.overflow);
            let mut input = &overflow[..];
            match feed(self.id, stream, &mut input, cx) {
                Ok(()) => {}
                Err(FeedError::Exhausted(_)) => {
                    self.overflow = input.to_vec();
                    self.stalled = true; // counted when it began
                    return;
                }
                Err(FeedError::Bad(why)) => return self.end(CloseReason::BadFrame(why)),
            }
        }
        if !self.receiving {
            self.process(cx);
        }
    }

    /// Makes queued parts ready to go out: encrypts them if need be, says goodbye if it is time.
    pub(crate) fn prepare_send(&mut self, cx: &mut Context<'_>) {
        if !matches!(self.state, State::Open | State::Draining) || self.outbound.is_in_flight() {
            return;
        }
        if self.tls.is_none() {
            self.outbound.move_queue_to_wire();
        } else {
            while !self.outbound.queue.is_empty()
                && !self.outbound.wire_bytes_ready()
                && self.state != State::Closing
            {
                self.encrypt_batch(cx);
            }
        }
        if self.state == State::Draining && self.outbound.queue.is_empty() {
            self.say_goodbye(cx);
        }
    }

    /// A `sendmsg` is back.
    pub(crate) fn on_sent(&mut self, result: i32, cx: &mut Context<'_>) {
        let taken = usize::try_from(result).unwrap_or(0);
        self.outbound.completed(taken);
        cx.counters.sent_bytes += taken as u64;
        match result {
            _ if self.state == State::Closing => {}
            e if e == -libc::EINTR || e == -libc::EAGAIN => {}
            e if e < 0 => self.shut(CloseReason::Broken(-e)),
            _ => {
                if self.state == State::Open && self.outbound.take_relief() {
                    cx.events.push(Event::Writable { conn: self.id });
                }
            }
        }
    }

    /// Half-closes once everything is out; whether that is now done.
    pub(crate) fn after_send(&mut self) {
        if self.state == State::Draining
            && self.said_goodbye
            && self.outbound.is_drained()
            && !self.half_closed
        {
            self.half_closed = true;
            sys::shutdown(self.fd(), libc::SHUT_WR);
        }
    }

    /// Ends in order: sends what is queued first. A second call changes nothing.
    pub(crate) fn end(&mut self, reason: CloseReason) {
        match self.state {
            State::Open => {
                self.reason.get_or_insert(reason);
                self.state = State::Draining;
            }
            State::Connecting | State::Handshaking => self.shut(reason),
            State::Draining | State::Closing => {}
        }
    }

    /// Ends now. What is queued is dropped.
    pub(crate) fn shut(&mut self, reason: CloseReason) {
        if self.state == State::Closing {
            return;
        }
        self.reason.get_or_insert(reason);
        self.state = State::Closing;
        self.outbound.discard();
        sys::shutdown(self.fd(), libc::SHUT_RDWR);
    }

    /// The handshake or the draining took too long.
    pub(crate) fn expire(&mut self) {
        self.shut(match self.state {
            State::Connecting => CloseReason::ConnectFailed(libc::ETIMEDOUT),
            _ => CloseReason::HandshakeTimeout, // while draining, the first reason stands
        });
    }

    /// Why it ended, once nothing of it is left in the kernel.
    pub(crate) fn finished(&self) -> Option<CloseReason> {
        let idle = !self.receiving && !self.outbound.is_in_flight() && self.address.is_none();
        (self.state == State::Closing && idle)
            .then(|| self.reason.clone().expect("whoever closes says why"))
    }

    /// Dialling is over; the address need not stay.
    pub(crate) fn release_address(&mut self) {
        self.address = None;
    }

    fn process(&mut self, cx: &mut Context<'_>) {
        if !self.overflow.is_empty() {
            return self.stall(cx); // what came before must go first
        }
        if self.tls.is_some() {
            return self.run_tls(cx);
        }
        if let Some(stream) = &mut self.stream {
            let mut input = &*self.staging.part_mut(self.start..self.end);
            let fed = feed(self.id, stream, &mut input, cx);
            self.start = self.end - input.len();
            match fed {
                Ok(()) => {}
                Err(FeedError::Exhausted(_)) => self.stall(cx),
                Err(FeedError::Bad(why)) => self.end(CloseReason::BadFrame(why)),
            }
        } else if self.start < self.end {
            let data = self.take_raw(cx.pool);
            cx.events.push(Event::Received {
                conn: self.id,
                data,
            });
        }
    }

    /// The staged bytes as they are: the buffer itself if they are many and another can be had.
    fn take_raw(&mut self, pool: &Pool) -> Bytes {
        let range = self.start..self.end;
        (self.start, self.end) = (0, 0);
        if range.len() > COPY_OUT
            && let Ok(mut next) = pool.get(self.staging.len())
        {
            next.set_len(next.capacity());
            return std::mem::replace(&mut self.staging, next)
                .freeze()
                .slice(range);
        }
        Bytes::copy_from_slice(&self.staging[range])
    }

    fn on_end_of_stream(&mut self) {
        let inside = self
            .stream
            .as_ref()
            .is_some_and(StreamBuffer::is_inside_frame);
        let reason = match self.state {
            State::Draining => CloseReason::Local, // the first reason stands
            _ if self.tls.is_some() || inside => CloseReason::Truncated,
            _ => CloseReason::Peer,
        };
        self.shut(reason);
    }

    fn stall(&mut self, cx: &mut Context<'_>) {
        if !self.stalled {
            self.stalled = true;
            cx.counters.receive_stalls += 1;
        }
    }
}

/// Cuts `input` into frames and hands them up.
fn feed(
    id: ConnId,
    stream: &mut StreamBuffer,
    input: &mut &[u8],
    cx: &mut Context<'_>,
) -> Result<(), FeedError> {
    let result = loop {
        match stream.feed(input, cx.pool) {
            Ok(Some(frame)) => cx.events.push(frame_event(id, frame)),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    cx.counters.copied_payload_bytes += stream.take_copied();
    result
}

fn frame_event(conn: ConnId, frame: Frame) -> Event {
    Event::Frame {
        conn,
        head: frame.head,
        payload: frame.payload,
    }
}
