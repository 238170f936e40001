//! The io_uring of a reactor: its setup, submission, completion and end.

use std::io;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use lockstep_types::Nanos;

use super::{Config, Event, Kind, Reactor};
use crate::connection::Connection;
use crate::error::CloseReason;
use crate::pool::Pool;
use crate::timer::NEVER;

impl Reactor {
    pub(super) fn arm_mail(&mut self) {
        let fd = types::Fd(self.waker.event_fd());
        let count = std::ptr::from_mut(&mut *self.mail_count);
        let entry = opcode::Read::new(fd, count.cast(), 8).build();
        // SAFETY: eight bytes in a box that lives as long as the reactor, which reads nothing of
        // it and does not drop it before the kernel is done.
        unsafe { self.submit(entry, Kind::Mail.tag(0)) };
    }

    pub(super) fn cancel(&mut self, tag: u64) {
        let entry = opcode::AsyncCancel::new(tag).build();
        // SAFETY: a cancellation points to no memory.
        unsafe { self.submit(entry, Kind::Cancel.tag(0)) };
    }

    /// # Safety
    /// Whatever the entry points to stays in place until its completion is reaped.
    pub(super) unsafe fn submit(&mut self, entry: squeue::Entry, tag: u64) {
        let entry = entry.user_data(tag);
        // SAFETY: the caller's promise.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.counters.enters += 1;
            match self.ring.submit() {
                Ok(_) => {}
                // The completion queue is full: make room, keep what comes for the next reap.
                Err(e) if is_busy(&e) => self.collect(),
                Err(e) => panic!("io_uring_enter failed: {e}"),
            }
        }
        self.in_flight += 1;
    }

    /// Submits; waits for a completion at most `wait` nanoseconds if given.
    pub(super) fn enter(&mut self, wait: Option<Nanos>) {
        let must = {
            let queue = self.ring.submission();
            !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
        };
        let result = match wait {
            None if !must => return,
            None => self.ring.submit(),
            Some(nanos) => {
                let limit = types::Timespec::new()
                    .sec(nanos / 1_000_000_000)
                    .nsec((nanos % 1_000_000_000) as u32);
                let forever = nanos >= NEVER / 2;
                let arguments = types::SubmitArgs::new();
                if forever {
                    self.ring.submitter().submit_with_args(1, &arguments)
                } else {
                    self.ring
                        .submitter()
                        .submit_with_args(1, &arguments.timespec(&limit))
                }
            }
        };
        self.counters.enters += 1;
        match result {
            Ok(_) => {}
            Err(e) if is_busy(&e) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => {}
            Err(e) => panic!("io_uring_enter failed: {e}"),
        }
    }

    /// Moves completions out of the ring.
    pub(super) fn collect(&mut self) {
        let completions = self.ring.completion();
        self.completions
            .extend(completions.map(|c| (c.user_data(), c.result(), c.flags())));
    }

    pub(super) fn reap(&mut self, events: &mut Vec<Event>) {
        self.collect();
        let mut completions = std::mem::take(&mut self.completions);
        for (data, result, flags) in completions.drain(..) {
            let (kind, slot) = Kind::untag(data);
            self.in_flight -= usize::from(kind != Kind::Command);
            match kind {
                Kind::Disk => self.on_disk(slot, result, events),
                Kind::Accept => self.on_accept(slot, result, events),
                Kind::Connect => self.on_connect(slot, result, events),
                Kind::Receive => {
                    let more = cqueue::sock_nonempty(flags);
                    self.act(slot, events, |c, cx| c.on_received(result, more, cx));
                    let connection = self.connections[slot].as_deref();
                    self.more_waiting |= connection.is_some_and(Connection::has_more_waiting);
                }
                Kind::Send => self.act(slot, events, |c, cx| c.on_sent(result, cx)),
                Kind::Mail => self.arm_mail(),
                Kind::Cancel => {}
                Kind::Watch => self.on_watch(slot, events),
                Kind::Command => self.on_command(slot, result, events),
            }
        }
        if self.completions.is_empty() {
            self.completions = completions; // keep its room
        }
    }
}

impl Drop for Reactor {
    /// Nothing that the kernel may still write into or read from is dropped before it let go.
    fn drop(&mut self) {
        // What was asked for is carried out, also if no turn came after it.
        self.submit_transfers();
        for connection in self.connections.iter_mut().flatten() {
            connection.shut(CloseReason::Local);
        }
        while self.in_flight > 0 {
            // What is only queued must be submitted before it can be cancelled; disk transfers
            // cannot be, and end by themselves.
            let submitted = self.ring.submit();
            let everything = types::CancelBuilder::any();
            let _ = self.ring.submitter().register_sync_cancel(None, everything);
            match submitted.and_then(|_| self.ring.submit_and_wait(1)) {
                Ok(_) => {}
                Err(e) if is_busy(&e) || e.raw_os_error() == Some(libc::EINTR) => {}
                // Memory the kernel may use must not be freed: better to stop here.
                Err(e) => {
                    eprintln!("io_uring_enter failed while shutting down: {e}");
                    std::process::abort();
                }
            }
            self.collect();
            let counted = |(data, ..): &&(u64, i32, u32)| Kind::untag(*data).0 != Kind::Command;
            self.in_flight -= self.completions.iter().filter(counted).count();
            self.completions.clear();
        }
        // The kernel takes a ring apart later, on its own time; a disk's claim (R23) must end with
        // the disk, so that a successor in this process can have it at once.
        if self.files_registered {
            let _ = self.ring.submitter().unregister_files();
        }
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN))
}

/// The best setup the kernel takes: deferred task work (6.1), cooperative (5.19), plain.
pub(super) fn build_ring(config: &Config) -> io::Result<IoUring> {
    let completions = config.entries * 4;
    if config.modern_setup {
        let deferred = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completions)
            .dontfork()
            .build(config.entries);
        if let Ok(ring) = deferred {
            return Ok(ring);
        }
        let cooperative = IoUring::builder()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(completions)
            .dontfork()
            .build(config.entries);
        if let Ok(ring) = cooperative {
            return Ok(ring);
        }
    }
    IoUring::builder()
        .setup_cqsize(completions)
        .dontfork()
        .build(config.entries)
}

pub(super) fn register_pool(ring: &IoUring, pool: &Pool) -> bool {
    // SAFETY: the mapping outlives the ring's use of it: it is unmapped only after the last buffer
    // and the pool are gone, and the registration pins its pages besides.
    unsafe { ring.submitter().register_buffers(&[pool.mapping()]) }.is_ok()
}
