//! One disk request on its way: from parts to iovecs, through short results, to a whole length or
//! a typed error.

use std::ops::Range;

use bytes::Bytes;
use io_uring::{opcode, squeue, types};
use lockstep_types::BLOCK;

use crate::counters::Counters;
use crate::error::{IoError, IoErrorKind};
use crate::pool::{MAX_BUFFER, Pool, PoolBufMut};

/// The kernel takes at most this many parts at once.
const MAX_IOVECS: usize = 1024;
/// RWF_DSYNC: the write returns when it is durable (S1).
const RWF_DSYNC: i32 = libc::RWF_DSYNC;
/// Interrupted or momentarily refused this often in a row, a request fails.
const MAX_RETRIES: u32 = 1000;

/// How requests are built here.
#[derive(Clone, Copy)]
pub(crate) struct Features {
    /// The pool is registered as fixed buffer 0.
    pub(crate) fixed: bool,
    /// The kernel has WRITEV_FIXED (6.15).
    pub(crate) vectored_fixed: bool,
}

/// Where to: a descriptor, or a slot of the registered files.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    Descriptor(i32),
    Slot(u32),
}

enum Content {
    Write {
        #[cfg_attr(
            not(test),
            expect(dead_code, reason = "held until the kernel has let go")
        )]
        parts: Vec<Bytes>,
        durable: bool,
    },
    Read {
        buffer: PoolBufMut,
        range: Range<usize>,
    },
}

pub(crate) struct DiskIo {
    pub(crate) token: u64,
    target: Target,
    offset: u64,
    length: usize,
    done: usize,
    content: Content,
    /// What is left to transfer; addresses inside `content`.
    iovecs: Vec<libc::iovec>,
    /// First iovec not transferred.
    at: usize,
    all_fixed: bool,
    /// Alignment of what a short transfer is continued at.
    block: usize,
    retries: u32,
}

/// What a completion leads to.
pub(crate) enum Step {
    Again,
    Done(Result<(), IoError>),
}

impl DiskIo {
    /// A write of `parts`, in order, at `offset`. Parts that direct I/O cannot take are copied.
    pub(crate) fn write(
        (target, block): (Target, usize),
        offset: u64,
        parts: &[Bytes],
        durable: bool,
        token: u64,
        pool: &Pool,
        counters: &mut Counters,
    ) -> Self {
        let length: usize = parts.iter().map(Bytes::len).sum();
        assert!(length > 0, "a write writes something");
        assert_aligned(offset, length, block);
        let parts = align(parts, block, pool, counters);
        let mut iovecs: Vec<libc::iovec> = Vec::with_capacity(parts.len());
        let mut all_fixed = true;
        for part in &parts {
            all_fixed &= pool.locate(part).is_some();
            push_iovec(&mut iovecs, part);
        }
        counters.disk_writes += 1;
        Self {
            token,
            target,
            offset,
            length,
            done: 0,
            content: Content::Write { parts, durable },
            iovecs,
            at: 0,
            all_fixed,
            block,
            retries: 0,
        }
    }

    /// A read into `buffer[range]` at `offset`.
    pub(crate) fn read(
        (target, block): (Target, usize),
        offset: u64,
        mut buffer: PoolBufMut,
        range: Range<usize>,
        token: u64,
        pool: &Pool,
        counters: &mut Counters,
    ) -> Self {
        assert_aligned(offset, range.len(), block);
        assert!(
            !range.is_empty() && range.start.is_multiple_of(block),
            "an aligned target"
        );
        let into = &mut buffer[range.clone()];
        let all_fixed = pool.locate(into).is_some();
        let iovecs = vec![libc::iovec {
            iov_base: into.as_mut_ptr().cast(),
            iov_len: into.len(),
        }];
        counters.disk_reads += 1;
        Self {
            token,
            target,
            offset,
            length: range.len(),
            done: 0,
            content: Content::Read { buffer, range },
            iovecs,
            at: 0,
            all_fixed,
            block,
            retries: 0,
        }
    }

    /// The submission for what is left. The caller keeps `self` in place of the operation table,
    /// boxed, until its completion: the entry points into it.
    pub(crate) fn entry(&self, features: Features, counters: &mut Counters) -> squeue::Entry {
        let left = &self.iovecs[self.at..];
        let left = &left[..left.len().min(MAX_IOVECS)];
        let offset = self.offset + self.done as u64;
        let (fd, flags) = match self.target {
            Target::Descriptor(fd) => (types::Fd(fd), squeue::Flags::empty()),
            Target::Slot(slot) => (types::Fd(slot as i32), squeue::Flags::FIXED_FILE),
        };
        let (first, count) = (left[0], left.len() as u32);
        let fixed = features.fixed && self.all_fixed;
        counters.disk_fixed += u64::from(fixed && (count == 1 || features.vectored_fixed));
        let entry = match &self.content {
            Content::Write { durable, .. } => {
                let sync = if *durable { RWF_DSYNC } else { 0 };
                if fixed && count == 1 {
                    let (base, length) = (first.iov_base.cast_const().cast(), first.iov_len as u32);
                    opcode::WriteFixed::new(fd, base, length, 0)
                        .offset(offset)
                        .rw_flags(sync)
                        .build()
                } else if fixed && features.vectored_fixed {
                    opcode::WritevFixed::new(fd, left.as_ptr(), count, 0)
                        .offset(offset)
                        .rw_flags(sync)
                        .build()
                } else {
                    opcode::Writev::new(fd, left.as_ptr(), count)
                        .offset(offset)
                        .rw_flags(sync)
                        .build()
                }
            }
            Content::Read { .. } if fixed => {
                opcode::ReadFixed::new(fd, first.iov_base.cast(), first.iov_len as u32, 0)
                    .offset(offset)
                    .build()
            }
            Content::Read { .. } => {
                opcode::Read::new(fd, first.iov_base.cast(), first.iov_len as u32)
                    .offset(offset)
                    .build()
            }
        };
        entry.flags(flags)
    }

    /// Takes in a completion's result.
    pub(crate) fn complete(&mut self, result: i32, counters: &mut Counters) -> Step {
        match result {
            e if e == -libc::EINTR || e == -libc::EAGAIN => {
                self.retries += 1;
                if self.retries > MAX_RETRIES {
                    self.fail(-e)
                } else {
                    Step::Again
                }
            }
            e if e < 0 => self.fail(-e),
            n => {
                let moved = n as usize;
                if self.done + moved >= self.length {
                    assert_eq!(self.done + moved, self.length, "no more than was asked for");
                    self.done = self.length;
                    return Step::Done(Ok(()));
                }
                // Direct I/O goes on at a whole block.
                let whole = moved - moved % self.block;
                if whole == 0 {
                    let kind = match self.content {
                        Content::Read { .. } => IoErrorKind::BeyondEnd,
                        Content::Write { .. } => IoErrorKind::Other,
                    };
                    return Step::Done(Err(self.error(kind, 0)));
                }
                counters.disk_continued += 1;
                self.retries = 0;
                self.advance(whole);
                Step::Again
            }
        }
    }

    /// The filled buffer of a read.
    pub(crate) fn into_read(self) -> Option<Bytes> {
        match self.content {
            Content::Read { buffer, range } => Some(buffer.freeze().slice(range)),
            Content::Write { .. } => None,
        }
    }

    pub(crate) fn is_read(&self) -> bool {
        matches!(self.content, Content::Read { .. })
    }

    fn advance(&mut self, mut by: usize) {
        self.done += by;
        while by > 0 {
            let iovec = &mut self.iovecs[self.at];
            let step = by.min(iovec.iov_len);
            // SAFETY: `step` is at most the iovec's length, so the address stays within its part.
            iovec.iov_base = unsafe { iovec.iov_base.cast::<u8>().add(step) }.cast();
            iovec.iov_len -= step;
            by -= step;
            if iovec.iov_len == 0 {
                self.at += 1;
            }
        }
    }

    fn fail(&self, errno: i32) -> Step {
        Step::Done(Err(self.error(IoErrorKind::from_errno(errno), errno)))
    }

    fn error(&self, kind: IoErrorKind, errno: i32) -> IoError {
        IoError {
            action: if self.is_read() { "read" } else { "write" },
            offset: self.offset,
            length: self.length as u64,
            done: self.done as u64,
            kind,
            errno,
        }
    }
}

fn assert_aligned(offset: u64, length: usize, block: usize) {
    assert!(
        offset.is_multiple_of(block as u64) && length.is_multiple_of(block),
        "{length} bytes at {offset} are not whole blocks of {block}"
    );
}

/// Adjacent memory (blocks of one frame's payload, say) becomes one iovec.
fn push_iovec(iovecs: &mut Vec<libc::iovec>, part: &Bytes) {
    let base = part.as_ptr().cast_mut().cast::<libc::c_void>();
    if let Some(last) = iovecs.last_mut()
        && last.iov_base as usize + last.iov_len == base as usize
    {
        last.iov_len += part.len();
        return;
    }
    iovecs.push(libc::iovec {
        iov_base: base,
        iov_len: part.len(),
    });
}

/// Parts as they are where direct I/O can take them, runs of others copied together.
fn align(parts: &[Bytes], block: usize, pool: &Pool, counters: &mut Counters) -> Vec<Bytes> {
    let fits = |part: &Bytes| {
        (part.as_ptr() as usize).is_multiple_of(block) && part.len().is_multiple_of(block)
    };
    let mut out = Vec::with_capacity(parts.len());
    let mut rest = parts;
    while let Some((part, later)) = rest.split_first() {
        if part.is_empty() || fits(part) {
            if !part.is_empty() {
                out.push(part.clone());
            }
            rest = later;
            continue;
        }
        let (mut count, mut length) = (0, 0usize);
        // The whole write is whole blocks, so every run ends on a block at the latest with it.
        while count == 0 || !length.is_multiple_of(block) {
            length += rest[count].len();
            count += 1;
        }
        counters.bounced_runs += 1;
        counters.bounced_bytes += length as u64;
        bounce(&rest[..count], pool, &mut out);
        rest = &rest[count..];
    }
    out
}

/// Copies a run into aligned buffers: the pool's, or the heap's if the pool is exhausted, because
/// a journal batch must go out for buffers to come back.
fn bounce(run: &[Bytes], pool: &Pool, out: &mut Vec<Bytes>) {
    let mut left: usize = run.iter().map(Bytes::len).sum();
    let mut source = Source { parts: run, at: 0 };
    while left > 0 {
        let take = left.min(MAX_BUFFER);
        match pool.get(take) {
            Ok(mut buffer) => {
                source.fill(&mut buffer);
                out.push(buffer.freeze());
            }
            Err(_) => {
                let mut buffer = vec![0u8; take + BLOCK];
                let start = buffer.as_ptr().align_offset(BLOCK);
                source.fill(&mut buffer[start..start + take]);
                out.push(Bytes::from(buffer).slice(start..start + take));
            }
        }
        left -= take;
    }
}

/// A run being read from its front.
struct Source<'a> {
    parts: &'a [Bytes],
    at: usize,
}

impl Source<'_> {
    fn fill(&mut self, mut into: &mut [u8]) {
        while !into.is_empty() {
            let part = &self.parts[0][self.at..];
            let take = part.len().min(into.len());
            into[..take].copy_from_slice(&part[..take]);
            into = &mut into[take..];
            self.at += take;
            if self.at == self.parts[0].len() {
                self.parts = &self.parts[1..];
                self.at = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_with_the_fewest_copies() {
        let pool = Pool::new(MAX_BUFFER).expect("maps");
        let mut counters = Counters::default();
        let buffer = |length: usize, fill: u8| {
            let mut buffer = pool.get(length).expect("room");
            buffer.fill(fill);
            buffer.freeze()
        };
        let whole = buffer(8192, 1);
        let parts = [
            whole.slice(..4096),
            whole.slice(4096..),
            Bytes::from(vec![2u8; 100]),
            Bytes::from(vec![3u8; 3996]),
            Bytes::new(),
            buffer(4096, 4),
        ];
        let io = DiskIo::write(
            (Target::Descriptor(0), 4096),
            0,
            &parts,
            true,
            7,
            &pool,
            &mut counters,
        );
        assert_eq!(io.length, 16_384);
        assert_eq!((counters.bounced_runs, counters.bounced_bytes), (1, 4096));
        assert_eq!(io.iovecs[0].iov_len, 8192, "adjacent parts are one");
        assert!(io.all_fixed);
        let Content::Write { parts: held, .. } = &io.content else {
            panic!("a write")
        };
        let flat: Vec<u8> = held.iter().flat_map(|p| p.iter().copied()).collect();
        let expected: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
        assert_eq!(flat, expected);
    }

    #[test]
    fn an_exhausted_pool_does_not_stop_a_write() {
        let pool = Pool::new(MAX_BUFFER).expect("maps");
        let held = pool.get(MAX_BUFFER).expect("room");
        let mut counters = Counters::default();
        let odd = Bytes::from(vec![9u8; 5000]).slice(1..4097);
        let io = DiskIo::write(
            (Target::Descriptor(0), 512),
            512,
            std::slice::from_ref(&odd),
            false,
            0,
            &pool,
            &mut counters,
        );
        assert!(!io.all_fixed);
        let Content::Write { parts, .. } = &io.content else {
            panic!("a write")
        };
        assert_eq!(parts[0], odd);
        assert_eq!(parts[0].as_ptr() as usize % BLOCK, 0);
        drop(held);
    }

    #[test]
    fn short_transfers_go_on_at_whole_blocks() {
        let pool = Pool::new(MAX_BUFFER).expect("maps");
        let mut counters = Counters::default();
        let part = pool.get(4 * 4096).expect("room").freeze();
        let other = pool.get(4096).expect("room").freeze();
        let parts = [part.slice(..8192), other, part.slice(8192..)];
        let mut io = DiskIo::write(
            (Target::Descriptor(0), 4096),
            0,
            &parts,
            true,
            0,
            &pool,
            &mut counters,
        );
        let start = io.iovecs[0].iov_base as usize;
        assert!(matches!(io.complete(4096 + 77, &mut counters), Step::Again));
        assert_eq!((io.done, io.at), (4096, 0));
        assert_eq!(io.iovecs[0].iov_base as usize, start + 4096);
        assert!(matches!(io.complete(8192, &mut counters), Step::Again));
        assert_eq!((io.done, io.at), (12_288, 2));
        assert!(matches!(
            io.complete(-libc::EINTR, &mut counters),
            Step::Again
        ));
        assert!(matches!(
            io.complete(8192, &mut counters),
            Step::Done(Ok(()))
        ));
        assert_eq!(counters.disk_continued, 2);
    }

    #[test]
    fn failures_say_what_they_mean() {
        let pool = Pool::new(MAX_BUFFER).expect("maps");
        let mut counters = Counters::default();
        let parts = [pool.get(8192).expect("room").freeze()];
        let at = (Target::Descriptor(0), 4096);
        let mut io = DiskIo::write(at, 4096, &parts, true, 0, &pool, &mut counters);
        assert!(matches!(io.complete(4096, &mut counters), Step::Again));
        let Step::Done(Err(error)) = io.complete(-libc::EIO, &mut counters) else {
            panic!("fails")
        };
        assert_eq!((error.kind, error.errno), (IoErrorKind::Media, libc::EIO));
        assert_eq!((error.offset, error.length, error.done), (4096, 8192, 4096));
        let mut io = DiskIo::write(at, 0, &parts, true, 0, &pool, &mut counters);
        let Step::Done(Err(error)) = io.complete(0, &mut counters) else {
            panic!("fails")
        };
        assert_eq!(
            error.kind,
            IoErrorKind::Other,
            "a write of nothing is a failure"
        );
        let buffer = pool.get(4096).expect("room");
        let mut io = DiskIo::read(at, 0, buffer, 0..4096, 0, &pool, &mut counters);
        let Step::Done(Err(error)) = io.complete(0, &mut counters) else {
            panic!("fails")
        };
        assert_eq!(error.kind, IoErrorKind::BeyondEnd);
    }
}
