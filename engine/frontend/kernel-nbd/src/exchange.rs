//! One request to the kernel and its answer, over a socket of generic netlink made for it.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{GENERIC, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use crate::message::{Answer, CONTROL, Message, answers, attribute, command, value};

/// The family's name.
const FAMILY: &str = "nbd";
/// How long the kernel may take to answer; it answers at once, or waits for what is under way on the device.
const PATIENCE: Duration = Duration::from_secs(30);
/// The only request on its socket.
const NUMBER: u32 = 1;

/// The number of the NBD client's family; none if the kernel does not have one here.
pub(crate) fn family() -> io::Result<Option<u16>> {
    let request = Message::new(CONTROL, command::GET_FAMILY, NUMBER);
    match ask(request.text(attribute::FAMILY_NAME, FAMILY)) {
        Ok(attributes) => Ok(value(&attributes, attribute::FAMILY_ID)
            .and_then(|bytes| bytes.first_chunk())
            .map(|bytes| u16::from_ne_bytes(*bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A request to the NBD client; the attributes of the answer.
pub(crate) fn request(which: u8, build: impl FnOnce(Message) -> Message) -> io::Result<Vec<u8>> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the kernel has no NBD client");
    let family = family()?.ok_or_else(missing)?;
    ask(build(Message::new(family, which, NUMBER)))
}

fn ask(message: Message) -> io::Result<Vec<u8>> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(GENERIC),
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &message.finish(), SendFlags::empty(), &kernel)?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let (length, _) = match recv(&socket, &mut *buffer, RecvFlags::empty()) {
            Err(Errno::INTR) => continue,
            received => received?,
        };
        for answer in answers(&buffer[..length], NUMBER) {
            match answer {
                Answer::Attributes(attributes) => found = attributes.to_vec(),
                Answer::End(0) => return Ok(found),
                Answer::End(errno) => return Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}
