//! TLS of a connection: records in and out, the handshake's and the ending's turns.

use bytes::Bytes;

use super::{Connection, Context, State, feed};
use crate::error::CloseReason;
use crate::reactor::Event;
use crate::stream::FeedError;
use crate::timer::NEVER;
use crate::tls::{Outcome, Output, RECORD, Wish};

/// Plaintext encrypted into one output buffer.
const BATCH: usize = 256 * 1024;
/// Parts up to this are gathered into full records: a record costs more than the copy of a block.
const SMALL: usize = 8192;

impl Connection {
    /// Takes in records, hands up what they hold, queues what the handshake wants to say.
    pub(super) fn run_tls(&mut self, cx: &mut Context<'_>) {
        let first_event = cx.events.len();
        let mut output = Output::empty();
        let outcome = self.drive(Wish::Receive, &mut output, cx);
        if let Some(bytes) = output.take() {
            self.outbound.push_wire(bytes);
        }
        let tls = self.tls.as_ref().expect("a TLS connection");
        if self.state == State::Handshaking && !tls.is_handshaking() {
            self.state = State::Open;
            self.deadline = NEVER;
            let certificate = tls.peer_certificate();
            // Before any data that came with the handshake's end.
            cx.events.insert(
                first_event,
                Event::Connected {
                    conn: self.id,
                    certificate,
                },
            );
        }
        match outcome {
            Ok(Outcome::Idle) if self.end - self.start == self.staging.len() => {
                let why = "a TLS message is larger than the receive buffer";
                self.shut(CloseReason::BadFrame(why));
            }
            Ok(Outcome::Idle | Outcome::SinkFull) => {}
            Ok(Outcome::PeerClosed) => self.on_goodbye(),
            Err(error) => self.fail_tls(error),
        }
    }

    /// One batch of the queue into one output buffer.
    pub(super) fn encrypt_batch(&mut self, cx: &mut Context<'_>) {
        let mut left = self
            .outbound
            .queue
            .iter()
            .map(Bytes::len)
            .sum::<usize>()
            .min(BATCH);
        let mut output = Output::for_batch(cx.pool, left, self.outbound.queue.len());
        cx.counters.heap_outputs += u64::from(output.is_from_heap());
        let mut record = std::mem::take(&mut self.record);
        while left > 0 {
            let piece = self
                .outbound
                .next_plain(left)
                .expect("as much is queued as was summed");
            left -= piece.len();
            let mut rest = &piece[..];
            while !rest.is_empty() && piece.len() <= SMALL {
                let (now, later) = rest.split_at(rest.len().min(RECORD - record.len()));
                record.extend_from_slice(now);
                rest = later;
                if record.len() == RECORD {
                    self.encrypt(&record, &mut output, cx);
                    record.clear();
                }
            }
            if !rest.is_empty() {
                self.encrypt(&record, &mut output, cx);
                record.clear();
                self.encrypt(rest, &mut output, cx);
            }
        }
        self.encrypt(&record, &mut output, cx);
        record.clear();
        self.record = record;
        // Also after a failure: what was encrypted before it is in order.
        if let Some(bytes) = output.take() {
            self.outbound.push_wire(bytes);
        }
    }

    fn encrypt(&mut self, plain: &[u8], output: &mut Output, cx: &mut Context<'_>) {
        if plain.is_empty() || !matches!(self.state, State::Open | State::Draining) {
            return;
        }
        match self.drive(Wish::Encrypt(plain), output, cx) {
            Ok(Outcome::PeerClosed) => self.on_goodbye(),
            Ok(_) => {}
            Err(error) => self.fail_tls(error),
        }
    }

    pub(super) fn say_goodbye(&mut self, cx: &mut Context<'_>) {
        if std::mem::replace(&mut self.said_goodbye, true) || self.tls.is_none() {
            return;
        }
        let mut output = Output::empty();
        // Whatever it answers, this side is leaving.
        let _ = self.drive(Wish::Close, &mut output, cx);
        if let Some(bytes) = output.take() {
            self.outbound.push_wire(bytes);
        }
    }

    /// Runs the session over everything staged. Data that comes up goes to the stream.
    fn drive(
        &mut self,
        wish: Wish<'_>,
        output: &mut Output,
        cx: &mut Context<'_>,
    ) -> Result<Outcome, rustls::Error> {
        let Self {
            id,
            tls,
            staging,
            start,
            end,
            stream,
            overflow,
            state,
            ..
        } = self;
        let deaf = *state == State::Draining;
        let mut trouble = None;
        let mut sink = |mut plain: &[u8]| {
            let Some(stream) = stream.as_mut() else {
                if !deaf {
                    let data = Bytes::copy_from_slice(plain);
                    cx.events.push(Event::Received { conn: *id, data });
                }
                return true;
            };
            if deaf {
                return true;
            }
            if !overflow.is_empty() {
                overflow.extend_from_slice(plain);
                return false;
            }
            match feed(*id, stream, &mut plain, cx) {
                Ok(()) => true,
                Err(error) => {
                    overflow.extend_from_slice(plain);
                    trouble = Some(error);
                    false
                }
            }
        };
        let tls = tls.as_mut().expect("a TLS connection");
        let incoming = staging.part_mut(*start..*end);
        let (used, outcome) = tls.drive(incoming, output, wish, &mut sink);
        self.start += used;
        match trouble {
            None => {}
            Some(FeedError::Exhausted(_)) => self.stall(cx),
            Some(FeedError::Bad(why)) => self.end(CloseReason::BadFrame(why)),
        }
        outcome
    }

    /// The alert that says why is sent before the connection ends.
    fn fail_tls(&mut self, error: rustls::Error) {
        self.reason.get_or_insert(CloseReason::Tls(error));
        if self.outbound.wire_bytes_ready() {
            self.outbound.queue.clear();
            self.said_goodbye = true;
            self.state = State::Draining;
        } else {
            self.shut(CloseReason::Local);
        }
    }

    fn on_goodbye(&mut self) {
        match self.state {
            State::Draining => self.shut(CloseReason::Local),
            State::Handshaking => self.shut(CloseReason::Truncated),
            _ => self.end(CloseReason::Peer),
        }
    }
}
