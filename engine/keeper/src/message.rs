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
/// Bytes of an entry's key, at most.
pub const MAX_KEY: usize = 256;
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

/// Verb, key and text of a message's bytes. What [`send`] would not send is refused: an entry taken
/// in could not be given back, and the list would end with it.
///
/// # Errors
/// In words.
pub fn parse(bytes: &[u8]) -> Result<(&str, &str, &[u8]), &'static str> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or("a message without a first line")?;
    let (line, text) = (&bytes[..end], &bytes[end + 1..]);
    let line = std::str::from_utf8(line).map_err(|_| "a first line that is no text")?;
    let (verb, key) = line.split_once(' ').unwrap_or((line, ""));
    match is_sendable(key, text) {
        true => Ok((verb, key, text)),
        false => Err("a key of several words, or too long a key or text"),
    }
}

fn is_sendable(key: &str, text: &[u8]) -> bool {
    key.len() <= MAX_KEY && !key.contains(['\n', ' ']) && text.len() <= MAX_TEXT
}

/// Sends `verb key\ntext` with descriptors.
pub(crate) fn send(
    socket: impl AsFd,
    verb: &str,
    key: &str,
    text: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if !is_sendable(key, text) || descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "an entry has a key of one word and at most {MAX_KEY} bytes, at most {MAX_TEXT} bytes of text and {MAX_DESCRIPTORS} descriptors"
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
    let (verb, key, text) = parse(&bytes[..got.bytes]).map_err(invalid)?;
    Ok(Some(Message {
        verb: verb.to_owned(),
        key: key.to_owned(),
        text: text.to_vec(),
        descriptors,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, recv, socketpair};

    /// Every message there is, as a keeper of version 1 understands and says it.
    const FROZEN: [(&str, &str, &str, &str); 8] = [
        ("put", "a1", "text", "put a1\ntext"),
        ("drop", "a1", "", "drop a1\n"),
        ("list", "", "", "list \n"),
        ("stop", "", "", "stop \n"),
        ("ok", "", "", "ok \n"),
        ("entry", "a1", "text", "entry a1\ntext"),
        ("no", "", "why", "no \nwhy"),
        ("put", "a1", "two\nlines", "put a1\ntwo\nlines"),
    ];
    const WHAT_TO_DO: &str = "the messages between keeper and daemon have changed, and a keeper lives on through \
                              upgrades of the daemon: give what is new a new verb, which a keeper of the last release \
                              answers with 'no', and keep the old one, or leave them alone. Nothing else will do";

    #[test]
    fn golden_bytes() {
        for (verb, key, text, frozen) in FROZEN {
            let (ours, theirs) = socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )
            .expect("a pair");
            send(&ours, verb, key, text.as_bytes(), &[]).expect("sent");
            let mut sent = [0; 100];
            let (length, _) = recv(&theirs, &mut sent[..], RecvFlags::empty()).expect("received");
            assert_eq!(&sent[..length], frozen.as_bytes(), "{WHAT_TO_DO}");
            let read = parse(frozen.as_bytes());
            assert_eq!(read, Ok((verb, key, text.as_bytes())), "{WHAT_TO_DO}");
        }
    }

    #[test]
    fn what_could_not_be_given_back_is_not_taken_in() {
        let long = "k".repeat(MAX_KEY + 1);
        let text = "t".repeat(MAX_TEXT + 1);
        for bad in [
            "put a b\n".to_owned(),
            format!("put {long}\n"),
            format!("put k\n{text}"),
            "put k".to_owned(),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:.20}");
        }
    }
}
