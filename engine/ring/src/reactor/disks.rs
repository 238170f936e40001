//! Disks of a reactor: requests in, completions out.

use bytes::Bytes;
use io_uring::{opcode, squeue, types};

use super::{DiskOp, DiskSlot, Event, FILE_SLOTS, Kind, Reactor};
use crate::disk::{Disk, DiskId};
use crate::disk_io::{DiskIo, Step, Target};
use crate::error::{Exhausted, IoError, IoErrorKind};
use crate::pool::PoolBufMut;

impl Reactor {
    /// Takes over a claimed disk.
    pub fn add_disk(&mut self, disk: Disk) -> DiskId {
        let slot = self.disks.len() as u32;
        let registered = self.files_registered
            && slot < FILE_SLOTS
            && self
                .ring
                .submitter()
                .register_files_update(slot, &[disk.fd()])
                .is_ok();
        let target = if registered {
            Target::Slot(slot)
        } else {
            Target::Descriptor(disk.fd())
        };
        self.disks.push(DiskSlot { disk, target });
        DiskId(slot)
    }

    /// The disk behind an id.
    pub fn disk(&self, disk: DiskId) -> &Disk {
        &self.disks[disk.0 as usize].disk
    }

    /// Queues a write of `parts` one after the other at `offset`; [`Event::DiskWritten`] answers.
    /// `durable` makes this write, and only it, durable before it is reported (S1).
    ///
    /// # Panics
    /// If offset or total length are not multiples of the disk's block.
    pub fn disk_write(
        &mut self,
        disk: DiskId,
        offset: u64,
        parts: &[Bytes],
        durable: bool,
        token: u64,
    ) {
        let at = self.place(disk);
        let io = DiskIo::write(
            at,
            offset,
            parts,
            durable,
            token,
            &self.pool,
            &mut self.counters,
        );
        self.start_transfer(Box::new(io));
    }

    /// Queues a read of `length` bytes, at most 1 MiB; [`Event::DiskRead`] answers.
    ///
    /// # Errors
    /// The pool is exhausted; nothing was queued.
    ///
    /// # Panics
    /// As [`Self::disk_write`].
    pub fn disk_read(
        &mut self,
        disk: DiskId,
        offset: u64,
        length: usize,
        token: u64,
    ) -> Result<(), Exhausted> {
        let buffer = self.pool.get(length)?;
        self.disk_read_into(disk, offset, buffer, token);
        Ok(())
    }

    /// As [`Self::disk_read`], filling a buffer the caller has.
    pub fn disk_read_into(&mut self, disk: DiskId, offset: u64, buffer: PoolBufMut, token: u64) {
        let range = 0..buffer.len();
        let at = self.place(disk);
        let io = DiskIo::read(
            at,
            offset,
            buffer,
            range,
            token,
            &self.pool,
            &mut self.counters,
        );
        self.start_transfer(Box::new(io));
    }

    /// Queues an fdatasync; [`Event::Flushed`] answers. It covers writes *reported* before.
    pub fn disk_flush(&mut self, disk: DiskId, token: u64) {
        let (target, _) = self.place(disk);
        let slot = self.hold_disk_op(DiskOp::Flush { token });
        let (fd, flags) = match target {
            Target::Descriptor(fd) => (types::Fd(fd), squeue::Flags::empty()),
            Target::Slot(slot) => (types::Fd(slot as i32), squeue::Flags::FIXED_FILE),
        };
        let entry = opcode::Fsync::new(fd)
            .flags(types::FsyncFlags::DATASYNC)
            .build();
        // SAFETY: an fsync points to no memory.
        unsafe { self.submit(entry.flags(flags), Kind::Disk.tag(slot)) };
    }

    pub(super) fn place(&self, disk: DiskId) -> (Target, usize) {
        let slot = &self.disks[disk.0 as usize];
        (slot.target, slot.disk.block() as usize)
    }

    pub(super) fn hold_disk_op(&mut self, op: DiskOp) -> u32 {
        match self.free_disk_ops.pop() {
            Some(slot) => {
                self.disk_ops[slot as usize] = Some(op);
                slot
            }
            None => {
                self.disk_ops.push(Some(op));
                self.disk_ops.len() as u32 - 1
            }
        }
    }

    pub(super) fn start_transfer(&mut self, io: Box<DiskIo>) {
        let slot = self.hold_disk_op(DiskOp::Transfer(io));
        self.transfers.push(slot);
    }

    /// Submits the transfers begun since the last turn. They come after what is sent to peers: a
    /// peer's disk is further away than our own.
    pub(super) fn submit_transfers(&mut self) {
        let mut transfers = std::mem::take(&mut self.transfers);
        for slot in transfers.drain(..) {
            let Some(DiskOp::Transfer(io)) = &self.disk_ops[slot as usize] else {
                unreachable!("it is held from its beginning to its completion");
            };
            let entry = io.entry(self.features, &mut self.counters);
            // SAFETY: the transfer is boxed and stays in its slot until its completion; its iovecs
            // and buffers live in it.
            unsafe { self.submit(entry, Kind::Disk.tag(slot)) };
        }
        self.transfers = transfers;
    }

    pub(super) fn on_disk(&mut self, slot: usize, result: i32, events: &mut Vec<Event>) {
        let op = self.disk_ops[slot]
            .as_mut()
            .expect("a completion has its operation");
        match op {
            DiskOp::Flush { token } => {
                let token = *token;
                let result = if result < 0 {
                    Err(flush_error(-result))
                } else {
                    Ok(())
                };
                events.push(Event::Flushed { token, result });
            }
            DiskOp::Transfer(io) => match io.complete(result, &mut self.counters) {
                Step::Again => {
                    let entry = io.entry(self.features, &mut self.counters);
                    // SAFETY: as in `start_transfer`: the same box, still in its slot.
                    unsafe { self.submit(entry, Kind::Disk.tag(slot as u32)) };
                    return;
                }
                Step::Done(result) => {
                    let Some(DiskOp::Transfer(io)) = self.disk_ops[slot].take() else {
                        unreachable!("it was just there");
                    };
                    let token = io.token;
                    events.push(if io.is_read() {
                        let result =
                            result.map(|()| io.into_read().expect("a read has its buffer"));
                        Event::DiskRead { token, result }
                    } else {
                        Event::DiskWritten { token, result }
                    });
                }
            },
        }
        self.disk_ops[slot] = None;
        self.free_disk_ops.push(slot as u32);
    }
}

fn flush_error(errno: i32) -> IoError {
    let kind = IoErrorKind::from_errno(errno);
    IoError {
        action: "flush",
        offset: 0,
        length: 0,
        done: 0,
        kind,
        errno,
    }
}
