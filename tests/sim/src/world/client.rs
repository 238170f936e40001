//! A client of an attached volume: keeps requests outstanding, and knows what it asked for.

use crate::invariants::v05_linearizable::{BlockHistory, Step, Value, Violation};
use crate::rng::Rng;
use crate::stamp;
use bytes::Bytes;
use lockstep_types::{
    BLOCK, BlockRange, EXTENT_BLOCKS, Request, RequestOp, Response, checksum_blocks,
};
use std::collections::BTreeMap;

/// All that clients did to one volume.
#[derive(Clone, Debug, Default)]
pub struct VolumeHistory {
    blocks: BTreeMap<u64, BlockHistory>,
}

/// A request that has not been answered.
#[derive(Clone, Debug)]
pub struct Outstanding {
    /// When it was first sent.
    pub start: Step,
    /// What it is.
    pub kind: Kind,
    /// Where.
    pub range: BlockRange,
    /// What it writes; 0 for zeroes.
    pub value: Value,
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Read.
    Read,
    /// Write of a value.
    Write,
    /// Discard.
    Discard,
    /// Write of zeroes.
    Zeroes,
}

/// What a client tends to do, drawn a seed.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Per cent of reads.
    pub reads: u32,
    /// Per cent of discards and writes of zeroes together.
    pub zeroes: u32,
    /// Blocks that most requests go to.
    pub hot: u64,
    /// Per cent that go there.
    pub hot_share: u32,
    /// Per cent of writes of a whole extent.
    pub whole: u32,
    /// Requests outstanding at most.
    pub depth: usize,
}

impl Habits {
    /// Those of a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        Self {
            reads: rng.between(10, 60) as u32,
            zeroes: rng.rate(200_000) / 10_000,
            hot: rng.between(1, 64),
            hot_share: rng.between(0, 95) as u32,
            whole: rng.rate(100_000) / 10_000,
            depth: rng.between(1, 16) as usize,
        }
    }

    /// The next request on a volume of so many blocks.
    pub fn next(&self, rng: &mut Rng, blocks: u64, value: Value) -> (Kind, BlockRange, Value) {
        let kind = match rng.below(100) as u32 {
            n if n < self.reads => Kind::Read,
            n if n < self.reads + self.zeroes => *rng.pick(&[Kind::Discard, Kind::Zeroes]),
            _ => Kind::Write,
        };
        if kind == Kind::Write && rng.per_cent(self.whole) {
            let extent = rng.below(blocks / EXTENT_BLOCKS) as u32;
            return (kind, BlockRange::of_extent(extent), value);
        }
        let area = if rng.per_cent(self.hot_share) {
            self.hot.min(blocks)
        } else {
            blocks
        };
        let start = rng.below(area);
        let in_extent = EXTENT_BLOCKS - start % EXTENT_BLOCKS;
        let most = in_extent.min(blocks - start).min(1 << rng.below(6));
        let range = BlockRange::new(start, rng.between(1, most) as u32);
        let value = if kind == Kind::Write { value } else { 0 };
        (kind, range, value)
    }
}

impl Outstanding {
    /// The request as a front-end passes it on.
    pub fn request(&self, volume: u64) -> Request {
        let op = match self.kind {
            Kind::Read => RequestOp::Read,
            Kind::Discard => RequestOp::Discard,
            Kind::Zeroes => RequestOp::WriteZeroes,
            Kind::Write => {
                let payload =
                    stamp::payload(self.value, volume, self.range.start, self.range.count);
                RequestOp::Write {
                    checksums: checksum_blocks(&payload),
                    payload,
                }
            }
        };
        Request {
            range: self.range,
            op,
        }
    }
}

impl VolumeHistory {
    /// A request is sent for the first time.
    pub fn starts(&mut self, request: &Outstanding) {
        for block in blocks(request.range) {
            let history = self.blocks.entry(block).or_default();
            match request.kind {
                Kind::Read => history.read_starts(request.start),
                _ => history.write_starts(request.start, request.value),
            }
        }
    }

    /// A request was answered well.
    ///
    /// # Errors
    /// If no order explains the answer (V5).
    pub fn ends(
        &mut self,
        request: &Outstanding,
        now: Step,
        volume: u64,
        answer: &Response,
    ) -> Result<(), String> {
        let bytes = match (request.kind, answer) {
            (Kind::Read, Response::Data(pieces)) => flatten(pieces, request.range)?,
            (Kind::Read, Response::Done) => return Err("a read was answered without data".into()),
            (_, Response::Data(_)) => return Err("a write was answered with data".into()),
            (_, Response::Done) => {
                return self.each(request, |history, _| {
                    history.write_ends(request.start, now, request.value)
                });
            }
        };
        let mut values = Vec::with_capacity(request.range.count as usize);
        for (i, block) in blocks(request.range).enumerate() {
            let bytes = &bytes[i];
            values.push(match bytes {
                None => 0,
                Some(bytes) => stamp::value_of(bytes, volume, block)?,
            });
        }
        self.each(request, |history, i| {
            history.read_ends(request.start, now, values[i])
        })
    }

    /// A request failed, or its device is gone. A write is unknown from now on.
    pub fn fails(&mut self, request: &Outstanding) {
        if request.kind == Kind::Read {
            for block in blocks(request.range) {
                self.blocks
                    .entry(block)
                    .or_default()
                    .read_fails(request.start);
            }
        }
    }

    fn each(
        &mut self,
        request: &Outstanding,
        mut f: impl FnMut(&mut BlockHistory, usize) -> Result<(), Violation>,
    ) -> Result<(), String> {
        for (i, block) in blocks(request.range).enumerate() {
            let history = self.blocks.get_mut(&block).expect("it began");
            f(history, i).map_err(|violation| {
                let Violation { value, why } = violation;
                format!(
                    "block {block}: {:?} of {value:#x} begun at step {}: {why}",
                    request.kind, request.start
                )
            })?;
        }
        Ok(())
    }
}

/// One slice a block.
fn flatten(
    pieces: &[(u32, Option<Bytes>)],
    range: BlockRange,
) -> Result<Vec<Option<Bytes>>, String> {
    let mut all = Vec::with_capacity(range.count as usize);
    for (count, bytes) in pieces {
        if let Some(bytes) = bytes
            && bytes.len() != *count as usize * BLOCK
        {
            return Err(format!(
                "a piece of {count} blocks has {} bytes",
                bytes.len()
            ));
        }
        all.extend((0..*count as usize).map(|i| {
            bytes
                .as_ref()
                .map(|bytes| bytes.slice(i * BLOCK..(i + 1) * BLOCK))
        }));
    }
    if all.len() == range.count as usize {
        return Ok(all);
    }
    Err(format!(
        "a read of {} blocks was answered with {}",
        range.count,
        all.len()
    ))
}

fn blocks(range: BlockRange) -> std::ops::Range<u64> {
    range.start..range.end()
}
