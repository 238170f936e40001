//! Bytes received and not yet understood, in the handles they came in.

use bytes::{Bytes, BytesMut};
use lockstep_frontend::Payload;
use std::collections::VecDeque;

/// Chunks below this are copied together: a peer that sends single bytes must not make us hold a
/// handle, and the receive buffer behind it, for each.
const SMALL: usize = 4096;

/// A queue of received bytes.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    chunks: VecDeque<Bytes>,
    /// Small chunks since the last large one.
    tail: BytesMut,
    /// Of both.
    len: usize,
}

impl Inbox {
    pub fn push(&mut self, chunk: Bytes) {
        self.len += chunk.len();
        if chunk.len() >= SMALL {
            self.seal_tail();
            self.chunks.push_back(chunk);
            return;
        }
        if self.tail.capacity() - self.tail.len() < chunk.len() {
            self.tail.reserve(SMALL.max(self.tail.len()));
        }
        self.tail.extend_from_slice(&chunk);
    }

    /// Moves the tail to the chunks; only when it is consumed or a large chunk follows.
    fn seal_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The next `N` bytes, left in place, if they are there.
    pub fn peek<const N: usize>(&self) -> Option<[u8; N]> {
        if self.len < N {
            return None;
        }
        let mut head = [0; N];
        let mut at = 0;
        let tail = &self.tail[..];
        for chunk in self.chunks.iter().map(|chunk| &chunk[..]).chain([tail]) {
            let take = chunk.len().min(N - at);
            head[at..at + take].copy_from_slice(&chunk[..take]);
            at += take;
            if at == N {
                break;
            }
        }
        Some(head)
    }

    /// Removes the next `N` bytes, if they are there.
    pub fn take_head<const N: usize>(&mut self) -> Option<[u8; N]> {
        let head = self.peek()?;
        self.skip(N);
        Some(head)
    }

    /// Removes the next `count` bytes without copying, if they are there.
    pub fn take(&mut self, count: usize) -> Option<Payload> {
        if self.len < count {
            return None;
        }
        self.seal_tail();
        let mut payload = Payload::new();
        while payload.len() < count {
            let chunk = self
                .chunks
                .front_mut()
                .expect("the length says there is more");
            let part = chunk.split_to(chunk.len().min(count - payload.len()));
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            payload.push(part);
        }
        self.len -= count;
        Some(payload)
    }

    /// Drops up to `count` bytes; how many.
    pub fn skip(&mut self, count: usize) -> usize {
        let count = count.min(self.len);
        self.seal_tail();
        let mut left = count;
        while left > 0 {
            let chunk = self
                .chunks
                .front_mut()
                .expect("the length says there is more");
            let take = chunk.len().min(left);
            let _ = chunk.split_to(take);
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            left -= take;
        }
        self.len -= count;
        count
    }

    pub fn clear(&mut self) {
        self.chunks.clear();
        self.tail.clear();
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_cross_chunks_and_large_payloads_are_not_copied() {
        let mut inbox = Inbox::default();
        let big = Bytes::from(vec![9; 5000]);
        let address = big.as_ptr();
        for chunk in [&b"ab"[..], b"", b"cd"] {
            inbox.push(Bytes::from_static(chunk));
        }
        inbox.push(big);
        inbox.push(Bytes::from_static(b"tail"));
        assert_eq!(inbox.peek::<3>(), Some(*b"abc"));
        assert_eq!(inbox.take_head::<4>(), Some(*b"abcd"));
        assert!(inbox.take(5005).is_none());
        let payload = inbox.take(4998).expect("five thousand are there");
        assert_eq!(payload.parts()[0].as_ptr(), address);
        assert_eq!(inbox.peek::<4>(), Some([9, 9, b't', b'a']));
        assert_eq!((inbox.len(), inbox.skip(9), inbox.len()), (6, 6, 0));
        assert!(inbox.peek::<1>().is_none());
    }

    #[test]
    fn single_bytes_become_few_handles() {
        let mut inbox = Inbox::default();
        (0..10_000).for_each(|at| inbox.push(Bytes::from(vec![at as u8])));
        let payload = inbox.take(10_000).expect("all are there");
        assert_eq!(payload.parts().len(), 1);
        assert!(
            payload
                .into_bytes()
                .iter()
                .enumerate()
                .all(|(at, byte)| *byte == at as u8)
        );
    }
}
