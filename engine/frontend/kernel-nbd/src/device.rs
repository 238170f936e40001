//! Devices of the kernel's NBD client.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exchange::{family, request};
use crate::message::{Message, attribute, command, value};

/// What a device is made with.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// Bytes, a multiple of `block`.
    pub size: u64,
    /// Bytes of a logical block: a power of two from 512 to a page.
    pub block: u32,
    /// The server's transmission flags, as its handshake gave them.
    pub flags: u16,
    /// How long a request waits for its answer before the kernel gives the connection up and sends it again by
    /// the next one. Whole seconds, at least one: with none, what a server has left unanswered would wait for 30 s.
    pub request_timeout: Duration,
    /// How long requests wait for a connection before they fail. Whole seconds, at least one.
    pub dead_after: Duration,
    /// What is behind the device: only who names it reconnects it.
    pub backend: String,
}

/// Why the kernel's NBD client did not do as it was told.
#[derive(Debug, thiserror::Error)]
#[error("the kernel's NBD client cannot {action}: {source}")]
pub struct Error {
    /// What was to be done, to which device.
    pub action: String,
    /// The kernel's reason.
    pub source: io::Error,
}

impl Error {
    /// Whether the connection that was to be replaced is not dead, or not known to be yet.
    pub fn is_still_connected(&self) -> bool {
        self.source.raw_os_error() == Some(28)
    }
}

fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let action = action.into();
    move |source| Error { action, source }
}

/// Why this host offers no such device; none if it does. It does not tell what this process may.
pub fn unavailable() -> Option<String> {
    match family() {
        Ok(Some(_)) => None,
        Ok(None) => Some(
            "the kernel has no NBD client ('modprobe nbd' on the host loads it; it is seen from the host's network namespace only)"
                .into(),
        ),
        Err(error) => Some(format!("the kernel does not say whether it has an NBD client: {error}")),
    }
}

/// Makes a device over `socket`, whose server has finished its handshake: TCP or a Unix stream. Its number.
///
/// # Errors
/// The kernel's; above all this process lacks `CAP_SYS_ADMIN`.
pub fn connect(socket: BorrowedFd<'_>, parameters: &Parameters) -> Result<u32, Error> {
    let descriptor = socket.as_raw_fd() as u32;
    let attributes = request(command::CONNECT, |message| {
        message
            .u64(attribute::SIZE_BYTES, parameters.size)
            .u64(attribute::BLOCK_SIZE_BYTES, parameters.block.into())
            .u64(
                attribute::TIMEOUT,
                parameters.request_timeout.as_secs().max(1),
            )
            .u64(
                attribute::DEAD_CONN_TIMEOUT,
                parameters.dead_after.as_secs().max(1),
            )
            .u64(attribute::SERVER_FLAGS, parameters.flags.into())
            .text(attribute::BACKEND_IDENTIFIER, &parameters.backend)
            .socket(descriptor)
    })
    .map_err(failed("make a device"))?;
    let number = value(&attributes, attribute::INDEX).and_then(|bytes| bytes.first_chunk());
    number
        .map(|bytes| u32::from_ne_bytes(*bytes))
        .ok_or_else(|| failed("say which device it made")(io::ErrorKind::InvalidData.into()))
}

/// Gives a device a socket in place of a dead one: what waits goes on.
///
/// # Errors
/// [`Error::is_still_connected`]; the device is another's by now, or gone.
pub fn reconnect(number: u32, backend: &str, socket: BorrowedFd<'_>) -> Result<(), Error> {
    let descriptor = socket.as_raw_fd() as u32;
    reconfigure(number, backend, |message| message.socket(descriptor))
        .map_err(failed(format!("reconnect /dev/nbd{number}")))
}

/// The volume behind a device has grown to `size` bytes.
///
/// # Errors
/// The device is another's by now, or gone.
pub fn resize(number: u32, backend: &str, size: u64) -> Result<(), Error> {
    reconfigure(number, backend, |message| {
        message.u64(attribute::SIZE_BYTES, size)
    })
    .map_err(failed(format!("resize /dev/nbd{number}")))
}

fn reconfigure(
    number: u32,
    backend: &str,
    build: impl FnOnce(Message) -> Message,
) -> io::Result<()> {
    request(command::RECONFIGURE, |message| {
        let message = message.u32(attribute::INDEX, number);
        build(message.text(attribute::BACKEND_IDENTIFIER, backend))
    })
    .map(drop)
}

/// Ends a device: what waits, and whatever is asked of it later, fails.
///
/// # Errors
/// The kernel's. A device that has ended is none.
pub fn disconnect(number: u32) -> Result<(), Error> {
    if !is_connected(number) {
        return Ok(());
    }
    request(command::DISCONNECT, |message| {
        message.u32(attribute::INDEX, number)
    })
    .map(drop)
    .map_err(failed(format!("disconnect /dev/nbd{number}")))
}

/// The node of a device.
pub fn path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/nbd{number}"))
}

/// Whether a device is in use: it has a connection or waits for one, or somebody has it open still.
pub fn is_connected(number: u32) -> bool {
    attribute_of(number, "pid").is_some()
}

/// What is behind a device; none if it is not in use, or by somebody who did not say.
pub fn backend_of(number: u32) -> Option<String> {
    attribute_of(number, "backend")
}

/// The device with this behind it.
pub fn find(backend: &str) -> Option<u32> {
    let numbers = fs::read_dir("/sys/block")
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix("nbd")?.parse().ok()
        });
    numbers
        .into_iter()
        .find(|number| backend_of(*number).as_deref() == Some(backend))
}

fn attribute_of(number: u32, name: &str) -> Option<String> {
    let path = Path::new("/sys/block")
        .join(format!("nbd{number}"))
        .join(name);
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}
