//! Cutting a client's request into pieces the core takes, and joining their responses.
//!
//! A read or write piece lies inside one extent (256 KiB); a trim or zeroes piece covers at most
//! `MAX_DISCARD_BLOCKS` (64 MiB) and ends on a multiple of that, so that the work of one record is
//! bounded (S11). The pieces are an iterator: a trim of 4 GiB allocates nothing.

use crate::answer::append_blocks;
use crate::{Answer, Done, IoError, Op, ReadParts, Request};
use lockstep_types::{
    BLOCK, BlockRange, EXTENT_BLOCKS, MAX_DISCARD_BLOCKS, RequestError, Response,
};

/// One piece of a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Piece {
    /// 0 for the first, counting up; what [`Join::finish`] wants.
    pub index: u32,
    /// The piece's blocks.
    pub range: BlockRange,
    /// Where its bytes begin in the request's payload.
    pub payload_at: usize,
}

/// The pieces of a read, write, trim or zeroes, in order; at least one. Panics for a flush or a
/// status, which have none.
pub fn pieces(request: &Request) -> impl ExactSizeIterator<Item = Piece> + use<> {
    let step = match request.op {
        Op::Read | Op::Write => EXTENT_BLOCKS,
        Op::Trim | Op::WriteZeroes => MAX_DISCARD_BLOCKS,
        Op::Flush | Op::BlockStatus => panic!("{:?} is not cut into pieces", request.op),
    };
    let range = request.range().expect("sessions refuse an empty range");
    Pieces {
        range,
        next: range.start,
        index: 0,
        step,
    }
}

struct Pieces {
    range: BlockRange,
    next: u64,
    index: u32,
    /// Blocks; pieces end on multiples of it.
    step: u64,
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.next == self.range.end() {
            return None;
        }
        let end = ((self.next / self.step + 1) * self.step).min(self.range.end());
        let count = u32::try_from(end - self.next).expect("a piece is at most one step");
        let piece = Piece {
            index: self.index,
            range: BlockRange::new(self.next, count),
            payload_at: (self.next - self.range.start) as usize * BLOCK,
        };
        self.next = end;
        self.index += 1;
        Some(piece)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = if self.next == self.range.end() {
            0
        } else {
            (self.range.end() - 1) / self.step - self.next / self.step + 1
        };
        let left = left as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Pieces {}

/// Collects the responses to the pieces of one request. The request is answered when all pieces
/// are, also after a failure: a piece that may still write must not outlive its request's answer.
#[derive(Clone, Debug)]
pub struct Join {
    unfinished: u32,
    error: Option<IoError>,
    /// One a piece for a read, otherwise empty.
    reads: Vec<Option<ReadParts>>,
}

impl Join {
    /// For the pieces of `request`.
    pub fn new(request: &Request) -> Self {
        let count = pieces(request).len();
        let reads = if request.op == Op::Read {
            vec![None; count]
        } else {
            Vec::new()
        };
        let unfinished = u32::try_from(count).expect("a request has at most 2^20 blocks");
        Self {
            unfinished,
            error: None,
            reads,
        }
    }

    /// Takes the response to the piece `index`; with the last one gives the answer. The first
    /// error wins. Panics if a piece of a read is answered twice or without data.
    pub fn finish(
        &mut self,
        index: u32,
        response: Result<Response, RequestError>,
    ) -> Option<Answer> {
        assert!(self.unfinished > 0, "a piece answered after the last");
        match response {
            Err(error) => self.error = self.error.or(Some(error.into())),
            Ok(Response::Data(data)) => {
                let place = &mut self.reads[index as usize];
                assert!(place.is_none(), "a piece answered twice");
                let mut parts = ReadParts::new();
                append_blocks(&mut parts, data);
                *place = Some(parts);
            }
            Ok(Response::Done) => assert!(self.reads.is_empty(), "a read without data"),
        }
        self.unfinished -= 1;
        (self.unfinished == 0).then(|| self.answer())
    }

    fn answer(&mut self) -> Answer {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.reads.is_empty() {
            return Ok(Done::Plain);
        }
        let parts = self.reads.iter_mut().flat_map(|parts| {
            parts
                .take()
                .expect("without an error every piece brought its data")
        });
        Ok(Done::Read(parts.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Flags, Payload, ReadPart};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn request(op: Op, offset: u64, length: u32) -> Request {
        Request {
            tag: 1,
            op,
            offset,
            length,
            flags: Flags::default(),
            payload: Payload::new(),
        }
    }

    proptest! {
        #[test]
        fn pieces_tile_the_request(start in 0u64..100_000, count in 1u32..(1 << 20), trim: bool) {
            let op = if trim { Op::Trim } else { Op::Write };
            let request = request(op, start * 4096, count.saturating_mul(4096));
            let count = request.length / 4096;
            let cut = pieces(&request);
            let announced = cut.len();
            let all: Vec<_> = cut.collect();
            prop_assert_eq!(all.len(), announced);
            let mut next = start;
            for (index, piece) in all.iter().enumerate() {
                prop_assert_eq!(piece.index as usize, index);
                prop_assert_eq!(piece.range.start, next);
                prop_assert_eq!(piece.payload_at as u64, (next - start) * 4096);
                if trim {
                    prop_assert!(u64::from(piece.range.count) <= MAX_DISCARD_BLOCKS);
                } else {
                    prop_assert!(piece.range.in_one_extent());
                }
                next = piece.range.end();
            }
            prop_assert_eq!(next, start + u64::from(count));
        }
    }

    #[test]
    fn the_largest_trim_is_few_pieces() {
        assert_eq!(pieces(&request(Op::Trim, 4096, u32::MAX - 4095)).len(), 64);
    }

    #[test]
    fn a_read_is_joined_in_order() {
        let request = request(Op::Read, 63 * 4096, 3 * 4096);
        let mut join = Join::new(&request);
        let last = Bytes::from(vec![2; 4096]);
        let first = Bytes::from(vec![1; 4096]);
        let tail = Response::Data(vec![(1, None), (1, Some(last.clone()))]);
        assert_eq!(join.finish(1, Ok(tail)), None);
        let answer = join.finish(0, Ok(Response::Data(vec![(1, Some(first.clone()))])));
        let parts = [
            ReadPart::Data(first),
            ReadPart::Zeroes(4096),
            ReadPart::Data(last),
        ];
        assert_eq!(answer, Some(Ok(Done::Read(parts.into_iter().collect()))));
    }

    #[test]
    fn the_first_error_wins_and_waits_for_the_rest() {
        let request = request(Op::Write, 63 * 4096, 70 * 4096);
        let mut join = Join::new(&request);
        assert_eq!(join.finish(2, Err(RequestError::NoSpace)), None);
        assert_eq!(join.finish(0, Err(RequestError::Fenced)), None);
        assert_eq!(
            join.finish(1, Ok(Response::Done)),
            Some(Err(IoError::NoSpace))
        );
    }
}
