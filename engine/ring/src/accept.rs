//! Listening sockets: one accept in flight each, a pause when the system has no descriptors left.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use lockstep_types::{Nanos, millis};
use rustls::ServerConfig;

use crate::stream::Framing;
use crate::timer::NEVER;

/// How long to wait after EMFILE and its like.
const PAUSE: Nanos = millis(100);

pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) framing: Option<Framing>,
    pub(crate) in_flight: bool,
    pub(crate) closing: bool,
    /// Do not accept before.
    pub(crate) not_before: Nanos,
}

/// What an accept's result means.
pub(crate) enum Accepted {
    Connection(i32),
    /// The peer gave up, or a signal came: try again at once.
    Again,
    /// The system lacks something: try again later.
    Later,
    /// The listener was closed.
    Over,
}

impl Listener {
    pub(crate) fn new(
        socket: OwnedFd,
        tls: Option<Arc<ServerConfig>>,
        framing: Option<Framing>,
    ) -> Self {
        Self {
            socket,
            tls,
            framing,
            in_flight: false,
            closing: false,
            not_before: 0,
        }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whether an accept should be submitted now.
    pub(crate) fn wants_accept(&self, now: Nanos) -> bool {
        !self.in_flight && !self.closing && now >= self.not_before
    }

    /// When it wants to be looked at again.
    pub(crate) fn deadline(&self) -> Nanos {
        if self.in_flight || self.closing {
            NEVER
        } else {
            self.not_before
        }
    }

    pub(crate) fn on_result(&mut self, result: i32, now: Nanos) -> Accepted {
        self.in_flight = false;
        match result {
            fd if fd >= 0 => Accepted::Connection(fd),
            _ if self.closing => Accepted::Over,
            e if [libc::ECONNABORTED, libc::EINTR, libc::EAGAIN, libc::EPROTO].contains(&-e) => {
                Accepted::Again
            }
            _ => {
                self.not_before = now + PAUSE;
                Accepted::Later
            }
        }
    }
}
