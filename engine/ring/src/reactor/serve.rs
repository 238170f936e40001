//! Connections of a reactor from the kernel's side: what is submitted for them, what completions
//! do to them, their deadlines.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{opcode, types};
use lockstep_types::Nanos;

use super::{Event, Kind, Reactor, STALL_POLL, slot_of};
use crate::accept::{Accepted, Listener};
use crate::connection::{Connection, Context, State};
use crate::error::{CloseReason, Exhausted};
use crate::socket::{ConnId, ListenerId, peer_address, tune};
use crate::stream::Framing;
use crate::sys;
use crate::timer::{NEVER, boottime};
use crate::tls::Tls;

impl Reactor {
    /// Runs `act` on a connection that is still there, and looks after it.
    pub(super) fn with(
        &mut self,
        conn: ConnId,
        act: impl FnOnce(&mut Connection, &mut Context<'_>),
    ) {
        if self.connection(conn).is_none() {
            return;
        }
        let slot = slot_of(conn);
        let mut events = std::mem::take(&mut self.ready);
        self.act(slot, &mut events, act);
        self.ready = events;
    }

    pub(super) fn act(
        &mut self,
        slot: usize,
        events: &mut Vec<Event>,
        act: impl FnOnce(&mut Connection, &mut Context<'_>),
    ) {
        let connection = self.connections[slot]
            .as_deref_mut()
            .expect("the slot is taken");
        let was_connecting = connection.state == State::Connecting;
        let mut cx = Context {
            pool: &self.pool,
            counters: &mut self.counters,
            events,
        };
        act(connection, &mut cx);
        let (state, stalled) = (connection.state, connection.stalled);
        if was_connecting && state == State::Closing {
            self.cancel(Kind::Connect.tag(slot as u32));
        }
        if stalled && !self.stalled.contains(&(slot as u32)) {
            self.stalled.push(slot as u32);
        }
        self.touch(slot);
    }

    pub(super) fn insert(
        &mut self,
        socket: (OwnedFd, State),
        tls: Option<Tls>,
        framing: Option<Framing>,
    ) -> Result<ConnId, Exhausted> {
        let slot = match self.free_connections.pop() {
            Some(slot) => slot,
            None => {
                self.connections.push(None);
                self.generations.push(0);
                self.connections.len() as u32 - 1
            }
        };
        let generation = self.generations[slot as usize];
        let conn = ConnId(u64::from(generation) << 32 | u64::from(slot));
        let bounds = (
            &self.pool,
            self.config.receive_buffer,
            self.config.send_bound,
        );
        match Connection::new(conn, socket, tls, framing, bounds) {
            Ok(connection) => {
                self.connections[slot as usize] = Some(Box::new(connection));
                self.open_connections += 1;
                Ok(conn)
            }
            Err(exhausted) => {
                self.free_connections.push(slot);
                Err(exhausted)
            }
        }
    }

    pub(super) fn touch(&mut self, slot: usize) {
        if let Some(connection) = &mut self.connections[slot]
            && !std::mem::replace(&mut connection.dirty, true)
        {
            self.dirty.push(slot as u32);
        }
    }

    pub(super) fn set_deadline(&mut self, slot: usize, deadline: Nanos) {
        if let Some(connection) = &mut self.connections[slot] {
            connection.deadline = deadline;
            if !self.timed.contains(&(slot as u32)) {
                self.timed.push(slot as u32);
            }
        }
    }

    /// Submits sends and receives for connections that changed, and buries those that ended.
    pub(super) fn serve_dirty(&mut self, now: Nanos, events: &mut Vec<Event>) {
        // Serving may dirty again (a failed encryption, say): go on until quiet.
        while let Some(slot) = self.dirty.pop() {
            self.serve(slot as usize, now, events);
        }
        for slot in 0..self.listeners.len() {
            if self.listeners[slot]
                .as_ref()
                .is_some_and(|l| l.wants_accept(now))
            {
                self.arm_accept(slot);
            }
        }
    }

    pub(super) fn serve(&mut self, slot: usize, now: Nanos, events: &mut Vec<Event>) {
        let Some(connection) = self.connections[slot].as_deref_mut() else {
            return;
        };
        connection.dirty = false;
        let mut cx = Context {
            pool: &self.pool,
            counters: &mut self.counters,
            events,
        };
        connection.prepare_send(&mut cx);
        connection.after_send();
        let fd = types::Fd(connection.fd());
        let sending = !matches!(connection.state, State::Connecting | State::Closing);
        let message = if sending {
            connection.outbound.next_message()
        } else {
            None
        };
        let receive = connection.next_receive();
        if connection.stalled && !self.stalled.contains(&(slot as u32)) {
            self.stalled.push(slot as u32);
        }
        let drains = connection.state == State::Draining && connection.deadline == NEVER;
        if let Some(reason) = connection.finished() {
            events.push(Event::Closed {
                conn: connection.id,
                reason,
            });
            return self.remove(slot);
        }
        if drains {
            self.set_deadline(slot, now + self.config.drain_timeout);
        }
        if let Some(header) = message {
            self.counters.sends += 1;
            let flags = (libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32;
            let entry = opcode::SendMsg::new(fd, header).flags(flags).build();
            // SAFETY: the message is boxed in the connection, which is not removed while a send
            // is in flight, and holds the parts it points to.
            unsafe { self.submit(entry, Kind::Send.tag(slot as u32)) };
        }
        if let Some(receive) = receive {
            const POLL_FIRST: u16 = 1; // IORING_RECVSEND_POLL_FIRST
            let entry = opcode::Recv::new(fd, receive.at, receive.length)
                .ioprio(if receive.poll_first { POLL_FIRST } else { 0 })
                .build();
            // SAFETY: the target lies in a buffer of the connection that nothing else touches and
            // that is not dropped while the receive is in flight (`finished`).
            unsafe { self.submit(entry, Kind::Receive.tag(slot as u32)) };
        }
    }

    pub(super) fn remove(&mut self, slot: usize) {
        self.connections[slot] = None;
        self.generations[slot] = self.generations[slot].wrapping_add(1);
        self.free_connections.push(slot as u32);
        self.open_connections -= 1;
    }

    pub(super) fn on_connect(&mut self, slot: usize, result: i32, events: &mut Vec<Event>) {
        let connection = self.connections[slot]
            .as_deref_mut()
            .expect("held while dialling");
        let deadline = connection.deadline;
        let peer = peer_address(connection.fd());
        self.act(slot, events, |connection, cx| {
            connection.release_address();
            match (connection.state, result) {
                (State::Closing, _) => {}
                (_, 0) => connection.begin(deadline, cx),
                (_, e) => connection.shut(CloseReason::ConnectFailed(-e)),
            }
        });
        if let (Ok(peer), Some(connection)) = (peer, &self.connections[slot]) {
            tune(connection.fd(), &peer);
        }
    }

    pub(super) fn on_accept(&mut self, slot: usize, result: i32, events: &mut Vec<Event>) {
        let listener = self.listeners[slot].as_mut().expect("held while accepting");
        match listener.on_result(result, boottime()) {
            Accepted::Connection(fd) => {
                let socket = sys::owned(fd).expect("a descriptor");
                self.welcome(slot, socket, events);
            }
            Accepted::Again => {}
            Accepted::Later => self.counters.accept_errors += 1,
            Accepted::Over => self.listeners[slot] = None,
        }
        if self.listeners[slot]
            .as_ref()
            .is_some_and(|listener| listener.closing)
        {
            self.listeners[slot] = None;
        }
    }

    pub(super) fn welcome(&mut self, slot: usize, socket: OwnedFd, events: &mut Vec<Event>) {
        let listener = self.listeners[slot].as_ref().expect("held while accepting");
        let framing = listener.framing;
        // Gone already: nothing to tell anybody.
        let Ok(peer) = peer_address(socket.as_raw_fd()) else {
            return;
        };
        let tls = listener.tls.clone().map(Tls::server);
        if self.open_connections >= self.config.max_connections {
            self.counters.refused_connections += 1;
            return;
        }
        tune(socket.as_raw_fd(), &peer);
        let Ok(tls) = tls.transpose() else {
            self.counters.refused_connections += 1;
            return;
        };
        let Ok(conn) = self.insert((socket, State::Connecting), tls, framing) else {
            self.counters.refused_connections += 1;
            return;
        };
        events.push(Event::Accepted {
            listener: ListenerId(slot as u32),
            conn,
            peer,
        });
        let deadline = boottime() + self.config.handshake_timeout;
        self.set_deadline(slot_of(conn), deadline);
        self.act(slot_of(conn), events, |connection, cx| {
            connection.begin(deadline, cx)
        });
    }

    pub(super) fn expire(&mut self, now: Nanos) {
        let mut timed = std::mem::take(&mut self.timed);
        timed.retain(|&slot| {
            let slot = slot as usize;
            let Some(connection) = self.connections[slot].as_deref() else {
                return false;
            };
            if connection.deadline > now {
                // An open connection has none; it gets another when it is closed.
                return connection.deadline != NEVER;
            }
            let conn = connection.id;
            self.with(conn, |connection, _| {
                connection.deadline = NEVER;
                connection.expire();
            });
            false
        });
        self.timed = timed;
    }

    pub(super) fn retry_stalled(&mut self, events: &mut Vec<Event>) {
        for slot in std::mem::take(&mut self.stalled) {
            if self.connections[slot as usize].is_some() {
                self.act(slot as usize, events, Connection::retry);
            }
        }
    }

    /// The nearest deadline of the reactor's own.
    pub(super) fn own_deadline(&self) -> Nanos {
        let connections = self
            .timed
            .iter()
            .filter_map(|&slot| self.connections[slot as usize].as_ref())
            .map(|connection| connection.deadline);
        let listeners = self.listeners.iter().flatten().map(Listener::deadline);
        let stalled = (!self.stalled.is_empty()).then(|| boottime() + STALL_POLL);
        connections
            .chain(listeners)
            .chain(stalled)
            .min()
            .unwrap_or(NEVER)
    }

    pub(super) fn arm_accept(&mut self, slot: usize) {
        let listener = self.listeners[slot].as_mut().expect("it wants to accept");
        listener.in_flight = true;
        let entry = opcode::Accept::new(
            types::Fd(listener.fd()),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
        .flags(libc::SOCK_CLOEXEC)
        .build();
        // SAFETY: no address is asked for, so it points to no memory.
        unsafe { self.submit(entry, Kind::Accept.tag(slot as u32)) };
    }
}
