//! The descriptor of a device's requests.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use lockstep_frontend::ReadPart;
use zerocopy::IntoBytes;

use crate::sys::Descriptors;
use crate::uapi::{Descriptor, IoCommand, io as command, transfer_offset};

/// Zeroes to copy from.
const ZEROES: &[u8] = &[0; 64 << 10];

/// Queue 0 of a device. It may be opened by one process at a time.
#[derive(Debug)]
pub struct Queue {
    file: File,
    descriptors: Descriptors,
    depth: u16,
}

/// A command for the ring: its number and what it carries.
pub type Command = (u32, [u8; 16]);

impl Queue {
    /// Opens the queue of device `number`.
    ///
    /// # Errors
    /// The system's; `ResourceBusy` while another process has it.
    pub fn open(number: u32, depth: u16) -> io::Result<Self> {
        let path = format!("/dev/ublkc{number}");
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let descriptors = Descriptors::map(file.as_fd(), depth.into())?;
        Ok(Self {
            file,
            descriptors,
            depth,
        })
    }

    /// Its tags.
    pub fn tags(&self) -> std::ops::Range<u16> {
        0..self.depth
    }

    /// Another descriptor of it, for the ring.
    ///
    /// # Errors
    /// The system's.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Asks for the first request of a tag.
    pub fn fetch(tag: u16) -> Command {
        (command::FETCH, bytes(tag, 0))
    }

    /// Answers a request and asks for the tag's next.
    pub fn commit(tag: u16, result: i32) -> Command {
        (command::COMMIT_AND_FETCH, bytes(tag, result))
    }

    /// The request of a tag that the ring has told of.
    pub fn descriptor(&self, tag: u16) -> Descriptor {
        self.descriptors.get(tag)
    }

    /// Copies the bytes of a write.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, tag: u16, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, transfer_offset(tag))
    }

    /// Copies bytes to a read.
    ///
    /// # Errors
    /// The system's.
    pub fn write<'a>(
        &self,
        tag: u16,
        parts: impl IntoIterator<Item = &'a ReadPart>,
    ) -> io::Result<()> {
        let mut at = transfer_offset(tag);
        for part in parts {
            match part {
                ReadPart::Data(bytes) => self.file.write_all_at(bytes, at)?,
                ReadPart::Zeroes(length) => self.write_zeroes(at, *length as usize)?,
            }
            at += part.len() as u64;
        }
        Ok(())
    }

    fn write_zeroes(&self, mut at: u64, mut length: usize) -> io::Result<()> {
        while length > 0 {
            let take = length.min(ZEROES.len());
            match self.file.write_at(&ZEROES[..take], at) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(done) => (at, length) = (at + done as u64, length - done),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn bytes(tag: u16, result: i32) -> [u8; 16] {
    let command = IoCommand {
        queue: 0,
        tag,
        result,
        address: 0,
    };
    command.as_bytes().try_into().expect("sixteen bytes")
}
