//! Small reply heads cut from one growing buffer: one allocation for a hundred replies.

use bytes::{Bytes, BytesMut};

/// Bytes allocated at a time.
const CHUNK: usize = 4096;

/// Where reply heads are written.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    buffer: BytesMut,
}

impl Arena {
    /// What `write` appends, at most `room` bytes of it, as a handle.
    pub fn build(&mut self, room: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
        if self.buffer.capacity() < room {
            self.buffer.reserve(room.max(CHUNK));
        }
        write(&mut self.buffer);
        debug_assert!(self.buffer.len() <= room);
        self.buffer.split().freeze()
    }
}
