//! One message: a first line, a text, descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Bytes of an entry's text, at most.
pub const MAX_TEXT: usize = 16 << 10;
/// Descriptors of an entry, at most.
pub const MAX_DESCRIPTORS: usize = 4;
/// Bytes of a message: its first line is short.
const MAX_MESSAGE: usize = MAX_TEXT + 1024;

/// What was received.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) verb: String,
    pub(crate) key: String,
    pub(crate) text: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Sends `verb key\ntext` with descriptors.
pub(crate) fn send(
    socket: impl AsFd,
    verb: &str,
    key: &str,
    text: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if text.len() > MAX_TEXT || descriptors.len() > MAX_DESCRIPTORS || key.contains(['\n', ' ']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "an entry has a key of one word, at most {MAX_TEXT} bytes of text and {MAX_DESCRIPTORS} descriptors"
            ),
        ));
    }
    let head = format!("{verb} {key}\n");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits, "the space was made for as many");
    }
    let parts = [IoSlice::new(head.as_bytes()), IoSlice::new(text)];
    sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message; none if the other side has closed.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<Message>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if got.bytes == 0 {
        return Ok(None);
    }
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    if got
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(invalid("a message that is too long"));
    }
    bytes.truncate(got.bytes);
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(|| invalid("a message without a first line"))?;
    let line =
        std::str::from_utf8(&bytes[..end]).map_err(|_| invalid("a first line that is no text"))?;
    let (verb, key) = line.split_once(' ').unwrap_or((line, ""));
    Ok(Some(Message {
        verb: verb.to_owned(),
        key: key.to_owned(),
        text: bytes[end + 1..].to_vec(),
        descriptors,
    }))
}
