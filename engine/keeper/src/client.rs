//! The daemon's side.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::message::{self, Message};

/// Something that is kept.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub key: String,
    /// What was said of it.
    pub text: Vec<u8>,
    /// What is kept open: duplicates of the keeper's.
    pub descriptors: Vec<OwnedFd>,
}

/// Why the keeper did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// It does not answer.
    #[error(
        "the keeper at {path} does not answer: {source}; it may have been killed, and with it every block device it kept"
    )]
    Gone {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("the keeper refused: {why}")]
    Refused {
        /// In its words.
        why: String,
    },
}

/// A connection to the keeper. Every call is one exchange, and blocks for it.
#[derive(Debug)]
pub struct Keeper {
    socket: OwnedFd,
    path: PathBuf,
}

impl Keeper {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not connect.
    pub fn connect(path: &Path) -> Result<Self, KeeperError> {
        let gone = |source: rustix::io::Errno| KeeperError::Gone {
            path: path.to_owned(),
            source: source.into(),
        };
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(gone)?;
        let address = SocketAddrUnix::new(path).map_err(gone)?;
        connect(&socket, &address).map_err(gone)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }

    /// The keeper's process id.
    ///
    /// # Errors
    /// The system's; also if the keeper is in another PID namespace.
    pub fn pid(&self) -> io::Result<i32> {
        Ok(socket_peercred(&self.socket)?.pid.as_raw_nonzero().get())
    }

    /// Whether it has ended since this connection was made, and with it all that it kept.
    pub fn has_ended(&self) -> bool {
        let mut socket = [PollFd::new(&self.socket, PollFlags::IN)];
        // It says nothing that it is not asked: what can be read is the end.
        poll(&mut socket, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Keeps an entry, or changes one: without descriptors those that are there stay.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn put(
        &self,
        key: &str,
        text: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), KeeperError> {
        self.ask("put", key, text, descriptors).map(drop)
    }

    /// Lets go of an entry; nothing happens if it is not there.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn remove(&self, key: &str) -> Result<(), KeeperError> {
        self.ask("drop", key, &[], &[]).map(drop)
    }

    /// All that is kept, by key.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn list(&self) -> Result<Vec<Entry>, KeeperError> {
        self.ask("list", "", &[], &[])
    }

    /// Ends the keeper: it closes everything it has.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn stop(&self) -> Result<(), KeeperError> {
        self.ask("stop", "", &[], &[]).map(drop)
    }

    fn ask(
        &self,
        verb: &str,
        key: &str,
        text: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Vec<Entry>, KeeperError> {
        let gone = |source| KeeperError::Gone {
            path: self.path.clone(),
            source,
        };
        message::send(&self.socket, verb, key, text, descriptors).map_err(gone)?;
        let mut entries = Vec::new();
        loop {
            let closed = || io::Error::from(io::ErrorKind::ConnectionReset);
            let Message {
                verb,
                key,
                text,
                descriptors,
            } = message::receive(&self.socket)
                .and_then(|message| message.ok_or_else(closed))
                .map_err(gone)?;
            match verb.as_str() {
                "ok" => return Ok(entries),
                "entry" => entries.push(Entry {
                    key,
                    text,
                    descriptors,
                }),
                _ => {
                    return Err(KeeperError::Refused {
                        why: String::from_utf8_lossy(&text).into_owned(),
                    });
                }
            }
        }
    }
}
