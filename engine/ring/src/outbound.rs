//! What a connection has to send: a bounded queue of parts, and the one `sendmsg` in flight that
//! carries as many of them as fit.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// Parts of one `sendmsg`.
const MAX_PARTS: usize = 256;
/// Bytes of one `sendmsg`, about: the last part may go over it.
const MAX_BYTES: usize = 1 << 20;

pub(crate) struct Outbound {
    /// Given by the caller, not yet on the wire queue (TLS: not yet encrypted).
    pub(crate) queue: VecDeque<Bytes>,
    /// Ready to go out as they are, in order.
    wire: VecDeque<Bytes>,
    /// Bytes in `queue`, in `wire` and in flight.
    pending: usize,
    bound: usize,
    /// The caller was refused and waits for a sign.
    starved: bool,
    message: Box<Message>,
    in_flight: bool,
}

/// What the kernel reads while a `sendmsg` is in flight; boxed, so that it stays in place.
struct Message {
    header: libc::msghdr,
    iovecs: Vec<libc::iovec>,
    /// Keeps the memory of `iovecs` alive.
    parts: Vec<Bytes>,
}

impl Outbound {
    pub(crate) fn new(bound: usize) -> Self {
        // SAFETY: all-zero is a valid, empty msghdr.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        let message = Box::new(Message {
            header,
            iovecs: Vec::new(),
            parts: Vec::new(),
        });
        Self {
            queue: VecDeque::new(),
            wire: VecDeque::new(),
            pending: 0,
            bound,
            starved: false,
            message,
            in_flight: false,
        }
    }

    /// Queues parts unless the bound is reached; one call may go over it by its own length.
    pub(crate) fn push(&mut self, parts: impl IntoIterator<Item = Bytes>) -> bool {
        if self.pending >= self.bound {
            self.starved = true;
            return false;
        }
        for part in parts {
            if !part.is_empty() {
                self.pending += part.len();
                self.queue.push_back(part);
            }
        }
        true
    }

    /// Bytes not yet taken by the kernel.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Whether a refused caller may try again; says so once.
    pub(crate) fn take_relief(&mut self) -> bool {
        let relief = self.starved && self.pending <= self.bound / 2;
        self.starved &= !relief;
        relief
    }

    /// Takes the next piece of plaintext to encrypt: at most `most` bytes, and never more than
    /// one part.
    pub(crate) fn next_plain(&mut self, most: usize) -> Option<Bytes> {
        let front = self.queue.front_mut()?;
        let piece = if front.len() > most {
            front.split_to(most)
        } else {
            self.queue.pop_front().expect("just seen")
        };
        self.pending -= piece.len();
        Some(piece)
    }

    /// Appends bytes that go out as they are.
    pub(crate) fn push_wire(&mut self, part: Bytes) {
        self.pending += part.len();
        self.wire.push_back(part);
    }

    /// A plain connection's queue is its wire.
    pub(crate) fn move_queue_to_wire(&mut self) {
        self.wire.append(&mut self.queue);
    }

    pub(crate) fn wire_bytes_ready(&self) -> bool {
        !self.wire.is_empty()
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Nothing queued, nothing in flight.
    pub(crate) fn is_drained(&self) -> bool {
        self.pending == 0 && !self.in_flight
    }

    /// Builds the next message; `None` if one is in flight or nothing is ready. The pointer stays
    /// valid until [`Self::completed`]; the caller keeps `self` until then.
    pub(crate) fn next_message(&mut self) -> Option<*const libc::msghdr> {
        if self.in_flight || self.wire.is_empty() {
            return None;
        }
        let message = &mut *self.message;
        message.iovecs.clear();
        let mut bytes = 0;
        while message.parts.len() < MAX_PARTS && bytes < MAX_BYTES {
            let Some(part) = self.wire.pop_front() else {
                break;
            };
            bytes += part.len();
            message.iovecs.push(libc::iovec {
                iov_base: part.as_ptr().cast_mut().cast(),
                iov_len: part.len(),
            });
            message.parts.push(part);
        }
        message.header.msg_iov = message.iovecs.as_mut_ptr();
        message.header.msg_iovlen = message.iovecs.len() as _;
        self.in_flight = true;
        Some(std::ptr::from_ref(&message.header))
    }

    /// The message is back, with this many bytes taken; the rest goes first in the next one.
    pub(crate) fn completed(&mut self, mut taken: usize) {
        assert!(self.in_flight, "a completion has its message");
        self.in_flight = false;
        self.pending -= taken;
        let mut left = VecDeque::new();
        for mut part in self.message.parts.drain(..) {
            let step = taken.min(part.len());
            part.advance(step);
            taken -= step;
            if !part.is_empty() {
                left.push_back(part);
            }
        }
        while let Some(part) = left.pop_back() {
            self.wire.push_front(part);
        }
    }

    /// Forgets everything queued.
    pub(crate) fn discard(&mut self) {
        for part in self.queue.drain(..).chain(self.wire.drain(..)) {
            self.pending -= part.len();
        }
    }
}

// The pointers in `Message` point into its own boxes and into `Bytes`, never into `Outbound`.

#[cfg(test)]
mod tests {
    use super::*;

    fn part(fill: u8, length: usize) -> Bytes {
        Bytes::from(vec![fill; length])
    }

    #[test]
    fn partial_sends_keep_the_order() {
        let mut out = Outbound::new(1000);
        assert!(out.push([part(1, 10), Bytes::new(), part(2, 20), part(3, 30)]));
        out.move_queue_to_wire();
        assert!(out.next_message().is_some());
        assert!(out.next_message().is_none(), "one at a time");
        assert!(out.push([part(4, 5)]));
        out.move_queue_to_wire();
        out.completed(15);
        assert_eq!(out.pending(), 50);
        assert!(out.next_message().is_some());
        let sizes: Vec<usize> = out
            .message
            .iovecs
            .iter()
            .map(|iovec| iovec.iov_len)
            .collect();
        assert_eq!(sizes, [15, 30, 5]);
        assert_eq!(out.message.parts[0][0], 2);
        out.completed(50);
        assert!(out.is_drained());
    }

    #[test]
    fn the_bound_pushes_back_and_relief_comes_once() {
        let mut out = Outbound::new(100);
        assert!(out.push([part(1, 150)]), "one call may go over");
        assert!(!out.push([part(1, 1)]));
        out.move_queue_to_wire();
        out.next_message().expect("ready");
        out.completed(90);
        assert!(!out.take_relief(), "still above half");
        out.next_message().expect("ready");
        out.completed(20);
        assert!(out.take_relief());
        assert!(!out.take_relief());
        assert!(out.push([part(1, 1)]));
    }
}
