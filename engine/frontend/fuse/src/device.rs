//! The descriptor of /dev/fuse.

use crate::protocol::{IN_HEADER, WRITE_IN};
use crate::session::{Message, Parts};
use crate::sys;
use bytes::{Bytes, BytesMut};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IoSlice, Result, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of the first buffer of a read: header and arguments of a write.
pub const HEAD: usize = IN_HEADER + WRITE_IN;
/// Bytes of the second: the longest payload.
pub const BODY: usize = 1 << 20;
/// Payloads up to this are copied out of the receive buffer; longer ones keep it.
const COPIED: usize = 64 << 10;

/// One connection to the kernel. It lives as long as any process has it open.
#[derive(Debug)]
pub struct Device {
    file: File,
    buffer: BytesMut,
}

/// What a read gave.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Message(Message),
    /// None is waiting.
    Nothing,
    /// The mount is gone, also by [`crate::Mount::abort`].
    Unmounted,
    /// The connection was aborted by hand, through /sys/fs/fuse/connections.
    Aborted,
}

impl Device {
    /// A new connection, not mounted yet. Needs /dev/fuse.
    pub fn open() -> Result<Self> {
        Self::new(
            OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/fuse")?,
        )
    }

    /// A connection that another process kept.
    pub fn adopt(descriptor: OwnedFd) -> Result<Self> {
        Self::new(File::from(descriptor))
    }

    fn new(file: File) -> Result<Self> {
        sys::set_nonblocking(file.as_fd())?;
        Ok(Self {
            file,
            buffer: BytesMut::new(),
        })
    }

    /// Reads one message without waiting.
    pub fn receive(&mut self) -> Result<Received> {
        if self.buffer.len() < BODY {
            self.buffer = BytesMut::zeroed(BODY);
        }
        let mut head = [0; HEAD];
        loop {
            let error = match sys::readv(self.file.as_fd(), &mut head, &mut self.buffer) {
                Ok(length) => {
                    let body = self.take(length.saturating_sub(HEAD));
                    return Ok(Received::Message(Message { head, length, body }));
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(Received::Nothing),
                // EINTR: a signal. ENOENT: the request was gone before it was read.
                Some(libc::EINTR | libc::ENOENT) => {}
                Some(libc::ENODEV) => return Ok(Received::Unmounted),
                Some(libc::ECONNABORTED) => return Ok(Received::Aborted),
                _ => return Err(error),
            }
        }
    }

    /// Waits until a message can be read, or the mount is gone.
    pub fn wait(&self) -> Result<()> {
        let fd = self.file.as_fd();
        sys::poll([fd, fd], [true, false]).map(drop)
    }

    fn take(&mut self, length: usize) -> Bytes {
        if length <= COPIED {
            Bytes::copy_from_slice(&self.buffer[..length])
        } else {
            self.buffer.split_to(length).freeze()
        }
    }

    /// Writes one message in one piece. False if the request it answers is gone.
    pub fn send(&self, parts: &Parts) -> Result<bool> {
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        loop {
            match (&self.file).write_vectored(&slices) {
                Ok(_) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Another descriptor of the same connection: what a keeper holds.
    pub fn duplicate(&self) -> Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
