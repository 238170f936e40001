//! The system calls of this crate, and with [`crate::control`] the only places that are unsafe.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use crate::uapi::Descriptor;

/// Descriptors of requests, in memory that the kernel writes.
#[derive(Debug)]
pub(crate) struct Descriptors {
    base: NonNull<Descriptor>,
    count: usize,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone, and is only read, at whatever thread it is.
unsafe impl Send for Descriptors {}

impl Descriptors {
    /// Maps the first `count` of a queue's.
    pub(crate) fn map(queue: BorrowedFd<'_>, count: usize) -> Result<Self> {
        let bytes = (count * size_of::<Descriptor>()).next_multiple_of(4096);
        // SAFETY: a fresh mapping aliases nothing; the kernel keeps its memory as long as it is mapped.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                queue.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(Self {
            base: NonNull::new(base.cast()).expect("mmap gives no null"),
            count,
            bytes,
        })
    }

    /// One of them, as it is now: the kernel does not change it between handing the request out and its answer.
    pub(crate) fn get(&self, tag: u16) -> Descriptor {
        let tag = usize::from(tag);
        assert!(tag < self.count, "tag {tag} of {}", self.count);
        // SAFETY: inside the mapping, aligned as the kernel's array is, and any bytes are a valid descriptor; the
        // read is volatile, because another writes there.
        unsafe { self.base.add(tag).read_volatile() }
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nothing points into it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
