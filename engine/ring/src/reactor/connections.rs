//! Connections of a reactor from the caller's side: listening, dialling, sending, ending.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use io_uring::{opcode, types};
use rustls::ServerConfig;

use super::{Kind, Reactor, slot_of};
use crate::accept::Listener;
use crate::connection::{Connection, State};
use crate::error::{CloseReason, SendError, SocketError};
use crate::socket::{
    Address, ConnId, ListenerId, RawAddress, Transport, dialling, listening, local_address,
    peer_address, tune,
};
use crate::stream::Framing;
use crate::sys;
use crate::timer::boottime;
use crate::tls::Tls;

impl Reactor {
    /// Listens; accepted connections run over `transport` and are cut by `framing`.
    ///
    /// # Errors
    /// See [`SocketError`].
    ///
    /// # Panics
    /// If the transport is that of a client.
    pub fn listen(
        &mut self,
        address: &Address,
        transport: Transport,
        framing: Option<Framing>,
    ) -> Result<ListenerId, SocketError> {
        let tls = match transport {
            Transport::Plain => None,
            Transport::TlsServer(config) => Some(config),
            Transport::TlsClient(..) => panic!("a listener is a TLS server"),
        };
        let listener = Listener::new(listening(address)?, tls, framing);
        self.listeners.push(Some(listener));
        let slot = self.listeners.len() - 1;
        self.arm_accept(slot);
        Ok(ListenerId(slot as u32))
    }

    /// Where a listener listens: the port, if 0 was asked for.
    pub fn local_address(&self, listener: ListenerId) -> Option<Address> {
        let listener = self.listeners[listener.0 as usize].as_ref()?;
        local_address(listener.fd()).ok()
    }

    /// Stops listening; connections accepted before stay.
    pub fn stop_listening(&mut self, listener: ListenerId) {
        let slot = listener.0 as usize;
        let Some(entry) = &mut self.listeners[slot] else {
            return;
        };
        if !entry.in_flight {
            self.listeners[slot] = None;
        } else if !std::mem::replace(&mut entry.closing, true) {
            self.cancel(Kind::Accept.tag(slot as u32));
        }
    }

    /// Dials; [`crate::Event::Connected`] or [`crate::Event::Closed`] answers.
    ///
    /// # Errors
    /// See [`SocketError`].
    ///
    /// # Panics
    /// If the transport is that of a server.
    pub fn connect(
        &mut self,
        address: &Address,
        transport: Transport,
        framing: Option<Framing>,
    ) -> Result<ConnId, SocketError> {
        let tls = match transport {
            Transport::Plain => None,
            Transport::TlsClient(config, name) => Some(Tls::client(config, name)?),
            Transport::TlsServer(_) => panic!("a dialler is a TLS client"),
        };
        let raw = RawAddress::new(address)?;
        let socket = dialling(address, &raw)?;
        tune(socket.as_raw_fd(), address);
        let conn = self.insert((socket, State::Connecting), tls, framing)?;
        let slot = slot_of(conn);
        self.set_deadline(slot, boottime() + self.config.handshake_timeout);
        let connection = self.connections[slot].as_mut().expect("just inserted");
        let fd = types::Fd(connection.fd());
        let raw = connection.hold_address(raw);
        let entry = opcode::Connect::new(fd, raw.as_ptr(), raw.length()).build();
        // SAFETY: the address is boxed and held by the connection until the completion.
        unsafe { self.submit(entry, Kind::Connect.tag(slot as u32)) };
        Ok(conn)
    }

    /// Takes over a connected stream socket, as a plain connection that is open at once.
    ///
    /// # Errors
    /// No receive buffer; the socket cannot be made blocking.
    pub fn adopt(
        &mut self,
        socket: OwnedFd,
        framing: Option<Framing>,
    ) -> Result<ConnId, SocketError> {
        let system = |source| SocketError::System {
            action: "adopt",
            address: "a connected socket".into(),
            source,
        };
        sys::set_blocking(socket.as_raw_fd()).map_err(system)?;
        let peer = peer_address(socket.as_raw_fd()).map_err(system)?;
        tune(socket.as_raw_fd(), &peer);
        let conn = self.insert((socket, State::Open), None, framing)?;
        self.touch(slot_of(conn));
        Ok(conn)
    }

    /// Queues parts for sending in order; all queued in a turn leave in one `sendmsg`.
    ///
    /// # Errors
    /// [`SendError::Full`]: nothing was taken, [`crate::Event::Writable`] follows. [`SendError::Closed`].
    pub fn send(
        &mut self,
        conn: ConnId,
        parts: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), SendError> {
        let connection = self.connection(conn).ok_or(SendError::Closed)?;
        if matches!(connection.state, State::Draining | State::Closing) {
            return Err(SendError::Closed);
        }
        if !connection.outbound.push(parts) {
            return Err(SendError::Full);
        }
        self.touch(slot_of(conn));
        Ok(())
    }

    /// Bytes queued on a connection and not yet taken by the kernel; 0 if it is gone.
    pub fn unsent(&mut self, conn: ConnId) -> usize {
        self.connection(conn)
            .map_or(0, |connection| connection.outbound.pending())
    }

    /// The round trip that the kernel has measured on a TCP connection; none on another, or one that is gone.
    pub fn round_trip(&mut self, conn: ConnId) -> Option<Duration> {
        self.connection(conn)?.round_trip()
    }

    /// Stops (`true`) or resumes receiving on a connection: back-pressure towards the peer.
    pub fn pause(&mut self, conn: ConnId, paused: bool) {
        if let Some(connection) = self.connection(conn) {
            connection.paused = paused;
            self.touch(slot_of(conn));
        }
    }

    /// Puts an open plain connection without framing under TLS, this side as the server. What was sent
    /// before goes out in the clear; nothing may be sent until [`crate::Event::Connected`] comes a
    /// second time.
    ///
    /// # Errors
    /// rustls refuses the configuration.
    ///
    /// # Panics
    /// If the connection has TLS or framing.
    pub fn start_tls(
        &mut self,
        conn: ConnId,
        config: Arc<ServerConfig>,
    ) -> Result<(), SocketError> {
        let tls = Tls::server(config)?;
        let deadline = boottime() + self.config.handshake_timeout;
        if self.connection(conn).is_some() {
            self.set_deadline(slot_of(conn), deadline);
            self.with(conn, |connection, _| connection.start_tls(tls, deadline));
        }
        Ok(())
    }

    /// Changes a connection's framing between frames. `leftover`: bytes handed up already that
    /// belong to the new framing.
    pub fn set_framing(&mut self, conn: ConnId, framing: Option<Framing>, leftover: &[u8]) {
        self.with(conn, |connection, cx| {
            connection.set_framing(framing, leftover, cx)
        });
    }

    /// Closes in order: what is queued is sent first, within the drain timeout.
    pub fn close(&mut self, conn: ConnId) {
        self.with(conn, |connection, _| connection.end(CloseReason::Local));
    }

    /// Closes now; what is queued is dropped.
    pub fn abort(&mut self, conn: ConnId) {
        self.with(conn, |connection, _| connection.shut(CloseReason::Local));
    }

    pub(super) fn connection(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let slot = slot_of(conn);
        let connection = self.connections.get_mut(slot)?.as_deref_mut()?;
        (connection.id == conn).then_some(connection)
    }
}
