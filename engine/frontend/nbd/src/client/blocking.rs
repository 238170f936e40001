//! A client over a real socket, with as many requests outstanding as its user likes.

use super::{ClientError, Connection, Content, Event, Export, Options, Reply};
use crate::session::Parts;
use bytes::{Bytes, BytesMut};
use lockstep_frontend::{Flags, Op, Payload, Runs};
use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Bytes read from the socket at a time.
const CHUNK: usize = 256 << 10;
/// How long a write may stand still before replies are drained: a server that cannot send its
/// replies stops reading, so a client that only writes would wait for ever.
const STUCK: Duration = Duration::from_millis(10);

#[derive(Debug)]
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A client that blocks its caller. After an error other than `Failed` it is of no more use:
/// drop it, connect again, and count every unanswered write as unknown.
#[derive(Debug)]
pub struct Blocking {
    socket: Socket,
    connection: Connection,
    export: Export,
    replies: VecDeque<Reply>,
    buffer: BytesMut,
    timeout: Duration,
}

impl Blocking {
    /// Connects to a Unix socket. `timeout` bounds the wait for any one answer.
    pub fn connect_unix(
        path: impl AsRef<Path>,
        options: Options,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        Self::handshake(Socket::Unix(UnixStream::connect(path)?), options, timeout)
    }

    /// Connects over TCP. `timeout` bounds the wait for any one answer.
    pub fn connect_tcp(
        address: impl ToSocketAddrs,
        options: Options,
        timeout: Duration,
    ) -> Result<Self, ClientError> {
        let socket = TcpStream::connect(address)?;
        // Without it small requests wait 40 ms for the last one's acknowledgement.
        socket.set_nodelay(true)?;
        Self::handshake(Socket::Tcp(socket), options, timeout)
    }

    /// Shakes hands over a connected socket, and leaves the socket to whoever sends the requests, with no timeout of
    /// its own. `timeout` bounds the wait for any one answer. `options` ask for simple replies: of others the
    /// server would have to be told nothing more either.
    pub fn shake_hands(
        socket: UnixStream,
        options: Options,
        timeout: Duration,
    ) -> Result<(UnixStream, Export), ClientError> {
        let client = Self::handshake(Socket::Unix(socket), options, timeout)?;
        let export = client.export;
        let Socket::Unix(socket) = client.socket else {
            unreachable!("it was one before");
        };
        // The server is silent until it is asked: nothing of the stream has been read too far.
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        Ok((socket, export))
    }

    fn handshake(socket: Socket, options: Options, timeout: Duration) -> Result<Self, ClientError> {
        socket.set_timeouts(timeout, STUCK)?;
        let mut client = Self {
            socket,
            connection: Connection::new(options),
            export: Export::default(),
            replies: VecDeque::new(),
            buffer: BytesMut::new(),
            timeout,
        };
        while !client.pump()? {}
        Ok(client)
    }

    /// What the server said of the export.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// Sends a request and returns its cookie; the answer comes from [`Blocking::next_reply`].
    pub fn submit(
        &mut self,
        op: Op,
        offset: u64,
        length: u32,
        flags: Flags,
        payload: Payload,
    ) -> Result<u64, ClientError> {
        let (cookie, parts) = self.connection.submit(op, offset, length, flags, payload);
        self.send(&parts)?;
        Ok(cookie)
    }

    /// The next answer, to whichever request. Panics if none is outstanding.
    pub fn next_reply(&mut self) -> Result<Reply, ClientError> {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return Ok(reply);
            }
            assert!(self.connection.outstanding() > 0, "nothing to wait for");
            self.pump()?;
        }
    }

    /// Requests whose answer `next_reply` has not given.
    pub fn outstanding(&self) -> usize {
        self.connection.outstanding() + self.replies.len()
    }

    /// Reads `length` bytes from `offset`.
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Bytes, ClientError> {
        match self.call(Op::Read, offset, length, Flags::default(), Payload::new())? {
            Content::Data(bytes) => Ok(bytes),
            other => super::broken(format!("{other:?} for a read")),
        }
    }

    /// Writes `bytes` at `offset`.
    pub fn write(&mut self, offset: u64, bytes: Bytes) -> Result<(), ClientError> {
        let length = u32::try_from(bytes.len()).expect("a write of less than 4 GiB");
        self.call(Op::Write, offset, length, Flags::default(), bytes.into())
            .map(drop)
    }

    /// Waits until every answered write is durable.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.call(Op::Flush, 0, 0, Flags::default(), Payload::new())
            .map(drop)
    }

    /// Discards a range.
    pub fn trim(&mut self, offset: u64, length: u32) -> Result<(), ClientError> {
        self.call(Op::Trim, offset, length, Flags::default(), Payload::new())
            .map(drop)
    }

    /// Zeroes a range.
    pub fn write_zeroes(
        &mut self,
        offset: u64,
        length: u32,
        flags: Flags,
    ) -> Result<(), ClientError> {
        self.call(Op::WriteZeroes, offset, length, flags, Payload::new())
            .map(drop)
    }

    /// Which parts of a range hold data; may end before the range does.
    pub fn block_status(&mut self, offset: u64, length: u32) -> Result<Runs, ClientError> {
        match self.call(
            Op::BlockStatus,
            offset,
            length,
            Flags::default(),
            Payload::new(),
        )? {
            Content::Status(runs) => Ok(runs),
            other => super::broken(format!("{other:?} for a status")),
        }
    }

    /// Says goodbye and closes.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        let parts = self.connection.disconnect();
        self.send(&parts)
    }

    fn call(
        &mut self,
        op: Op,
        offset: u64,
        length: u32,
        flags: Flags,
        payload: Payload,
    ) -> Result<Content, ClientError> {
        let cookie = self.submit(op, offset, length, flags, payload)?;
        loop {
            if let Some(at) = self.replies.iter().position(|reply| reply.cookie == cookie) {
                let reply = self.replies.remove(at).expect("it was just found");
                return Ok(reply.result?);
            }
            self.pump()?;
        }
    }

    /// Reads once from the socket; true when the handshake ended.
    fn pump(&mut self) -> Result<bool, ClientError> {
        if self.buffer.len() < CHUNK / 8 {
            self.buffer = BytesMut::zeroed(CHUNK);
        }
        let count = match self.socket.read(&mut self.buffer) {
            Ok(0) => return Err(ClientError::Closed),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(false),
            Err(error) if is_timeout(&error) => return Err(ClientError::TimedOut(self.timeout)),
            Err(error) => return Err(error.into()),
        };
        let bytes = self.buffer.split_to(count).freeze();
        let mut events = Vec::new();
        self.connection.receive(bytes, &mut events)?;
        let mut ready = false;
        for event in events {
            match event {
                Event::Send(parts) => self.send(&parts)?,
                Event::Ready(export) => {
                    self.export = export;
                    ready = true;
                }
                Event::Reply(reply) => self.replies.push_back(reply),
            }
        }
        Ok(ready)
    }

    fn send(&mut self, parts: &Parts) -> Result<(), ClientError> {
        let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            match self.socket.write_vectored(left) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => IoSlice::advance_slices(&mut left, count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A reply is on its way: the server stands still because of one.
                Err(error) if is_timeout(&error) => {
                    self.pump()?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Socket {
    fn set_timeouts(&self, read: Duration, write: Duration) -> std::io::Result<()> {
        match self {
            Self::Unix(socket) => {
                socket.set_read_timeout(Some(read))?;
                socket.set_write_timeout(Some(write))
            }
            Self::Tcp(socket) => {
                socket.set_read_timeout(Some(read))?;
                socket.set_write_timeout(Some(write))
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(buffer),
            Self::Tcp(socket) => socket.read(buffer),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> std::io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write_vectored(slices),
            Self::Tcp(socket) => socket.write_vectored(slices),
        }
    }
}
