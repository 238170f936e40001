//! The loop of a data-plane thread. Methods queue, [`Reactor::turn`] submits, waits and reports.
//!
//! # Calling contract
//! - One reactor a thread; it cannot leave it.
//! - Drain the events of a turn before the next one; act on them in order.
//! - Buffers handed in stay untouched until their event comes; dropping the reactor waits for the
//!   kernel to let go of everything first.

mod commands;
mod connections;
mod disks;
mod serve;
mod submission;
mod watches;

use std::io;
use std::marker::PhantomData;

use bytes::Bytes;
use io_uring::{IoUring, Probe, opcode};
use lockstep_types::{Nanos, seconds};
use rustls::pki_types::CertificateDer;

use crate::accept::Listener;
use crate::connection::Connection;
use crate::counters::Counters;
use crate::disk::Disk;
use crate::disk_io::{DiskIo, Features, Target};
use crate::error::{CloseReason, IoError};
use crate::mailbox::Waker;
use crate::pool::{MAX_BUFFER, Pool};
use crate::socket::{Address, ConnId, ListenerId};
use crate::sys;
use crate::timer::{NEVER, boottime};

use commands::Driver;
use submission::{build_ring, register_pool};
use watches::Watch;

pub use commands::DriverId;
pub use watches::WatchId;

/// Sizes and bounds of a reactor.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes of the buffer pool, rounded up to MiB.
    pub pool: usize,
    /// Submission queue entries, a power of two.
    pub entries: u32,
    /// Connections at most; more are turned away. Times `receive_buffer` this must leave the pool
    /// room for payloads: strangers that only knock hold a buffer each until the handshake times
    /// out.
    pub max_connections: usize,
    /// Receive buffer of a connection in bytes, 32 KiB to 1 MiB; a TLS record must fit.
    pub receive_buffer: usize,
    /// Bytes queued on a connection before [`crate::SendError::Full`].
    pub send_bound: usize,
    /// Dialling and handshake together take at most this long.
    pub handshake_timeout: Nanos,
    /// A connection being closed sends for at most this long.
    pub drain_timeout: Nanos,
    /// Try to register the pool and the disks with the kernel.
    pub register: bool,
    /// Ask for single issuer and deferred task work; off, a plain ring is set up, as on old
    /// kernels.
    pub modern_setup: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pool: 64 << 20,
            entries: 512,
            max_connections: 256,
            receive_buffer: 64 << 10,
            send_bound: 4 << 20,
            handshake_timeout: seconds(5),
            drain_timeout: seconds(1),
            register: true,
            modern_setup: true,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A write is complete, and durable if it was asked to be (S1).
    DiskWritten {
        /// The request's.
        token: u64,
        /// All of it, or why not.
        result: Result<(), IoError>,
    },
    /// A read is complete.
    DiskRead {
        /// The request's.
        token: u64,
        /// All of it, or why not.
        result: Result<Bytes, IoError>,
    },
    /// A flush is complete: writes reported before it was asked for are durable.
    Flushed {
        /// The request's.
        token: u64,
        /// Or why not.
        result: Result<(), IoError>,
    },
    /// A listener has a new connection; not usable before [`Event::Connected`].
    Accepted {
        /// Which listener.
        listener: ListenerId,
        /// The new connection.
        conn: ConnId,
        /// Who.
        peer: Address,
    },
    /// A connection is ready: the handshake is over.
    Connected {
        /// Which.
        conn: ConnId,
        /// The peer's certificate under TLS; its chain and identity were checked.
        certificate: Option<CertificateDer<'static>>,
    },
    /// Bytes of a connection without framing.
    Received {
        /// Which.
        conn: ConnId,
        /// At least one.
        data: Bytes,
    },
    /// A frame of a connection with framing.
    Frame {
        /// Which.
        conn: ConnId,
        /// The whole header.
        head: Bytes,
        /// The payload, aligned to 4 KiB if not empty.
        payload: Bytes,
    },
    /// A send queue that was full is half empty.
    Writable {
        /// Which.
        conn: ConnId,
    },
    /// A connection is over; its id will not be seen again.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// A watched descriptor can be read, or has failed; it is not watched until it is armed again.
    Readable {
        /// Which.
        watch: WatchId,
    },
    /// A driver has ended a command.
    Commanded {
        /// Whose.
        driver: DriverId,
        /// The command's.
        token: u16,
        /// As the driver says it; below zero an errno.
        result: i32,
    },
    /// Some mailbox may hold messages.
    Mail,
    /// The deadline given to the turn has passed.
    Timer,
}

/// Kinds of submissions, in the top byte of their user data.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Disk,
    Accept,
    Connect,
    Receive,
    Send,
    Mail,
    Cancel,
    Watch,
    Command,
}

impl Kind {
    fn tag(self, slot: u32) -> u64 {
        (self as u64) << 56 | u64::from(slot)
    }

    fn untag(data: u64) -> (Self, usize) {
        let kind = match data >> 56 {
            0 => Self::Disk,
            1 => Self::Accept,
            2 => Self::Connect,
            3 => Self::Receive,
            4 => Self::Send,
            5 => Self::Mail,
            6 => Self::Cancel,
            7 => Self::Watch,
            8 => Self::Command,
            kind => unreachable!("no submission is of kind {kind}"),
        };
        (kind, (data & 0xffff_ffff) as usize)
    }
}

enum DiskOp {
    Transfer(Box<DiskIo>),
    Flush { token: u64 },
}

struct DiskSlot {
    disk: Disk,
    target: Target,
}

/// One thread's ring.
pub struct Reactor {
    // Fields drop in this order, after `drop` has emptied the kernel of everything.
    ring: IoUring,
    pool: Pool,
    config: Config,
    features: Features,
    files_registered: bool,
    disks: Vec<DiskSlot>,
    disk_ops: Vec<Option<DiskOp>>,
    free_disk_ops: Vec<u32>,
    /// Transfers that the next turn submits.
    transfers: Vec<u32>,
    connections: Vec<Option<Box<Connection>>>,
    generations: Vec<u32>,
    free_connections: Vec<u32>,
    open_connections: usize,
    listeners: Vec<Option<Listener>>,
    watches: Vec<Option<Watch>>,
    drivers: Vec<Option<Driver>>,
    /// Connections with something to submit or settle.
    dirty: Vec<u32>,
    /// Connections waiting for a pool buffer.
    stalled: Vec<u32>,
    /// Connections with a deadline.
    timed: Vec<u32>,
    /// Events of calls between turns.
    ready: Vec<Event>,
    completions: Vec<(u64, i32, u32)>,
    /// Some socket held more than its last receive took.
    more_waiting: bool,
    waker: Waker,
    mail_count: Box<u64>,
    in_flight: usize,
    counters: Counters,
    _bound_to_its_thread: PhantomData<*mut ()>,
}

/// Slots for registered files.
const FILE_SLOTS: u32 = 64;
/// Receives of a turn beyond the first, where a socket holds more than a buffer takes.
const DRAINS: usize = 4;
/// How often a stalled connection looks for buffers that other threads may have returned.
const STALL_POLL: Nanos = 1_000_000;

impl Reactor {
    /// Sets up ring and pool on this thread.
    ///
    /// # Errors
    /// The kernel has no io_uring, or no memory.
    pub fn new(config: Config) -> io::Result<Self> {
        assert!(
            (32 << 10..=MAX_BUFFER).contains(&config.receive_buffer),
            "32 KiB to 1 MiB"
        );
        sys::keep_freed_memory();
        let ring = build_ring(&config)?;
        let pool = Pool::new(config.pool)?;
        let mut probe = Probe::new();
        let probed = ring.submitter().register_probe(&mut probe).is_ok();
        let features = Features {
            fixed: config.register && register_pool(&ring, &pool),
            vectored_fixed: probed && probe.is_supported(opcode::WritevFixed::CODE),
        };
        let files_registered =
            config.register && ring.submitter().register_files_sparse(FILE_SLOTS).is_ok();
        let mut reactor = Self {
            ring,
            pool,
            config,
            features,
            files_registered,
            disks: Vec::new(),
            disk_ops: Vec::new(),
            free_disk_ops: Vec::new(),
            transfers: Vec::new(),
            connections: Vec::new(),
            generations: Vec::new(),
            free_connections: Vec::new(),
            open_connections: 0,
            listeners: Vec::new(),
            watches: Vec::new(),
            drivers: Vec::new(),
            dirty: Vec::new(),
            stalled: Vec::new(),
            timed: Vec::new(),
            ready: Vec::new(),
            completions: Vec::new(),
            more_waiting: false,
            waker: Waker::new()?,
            mail_count: Box::new(0),
            in_flight: 0,
            counters: Counters::default(),
            _bound_to_its_thread: PhantomData,
        };
        reactor.arm_mail();
        Ok(reactor)
    }

    /// The pool of this thread.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Wakes this reactor from any thread; see [`crate::mailbox()`].
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Whether the pool is registered with the kernel.
    pub fn has_fixed_buffers(&self) -> bool {
        self.features.fixed
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        Counters {
            pool_exhausted: self.pool.exhausted(),
            ..self.counters
        }
    }

    /// Submits what is queued for sockets now, not with the next turn: whoever has work left before
    /// that lets the peers begin meanwhile.
    pub fn push(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        let mut events = std::mem::take(&mut self.ready);
        self.serve_dirty(boottime(), &mut events);
        self.ready = events;
        self.enter(None);
    }

    /// One turn of the loop: submits everything queued, waits until something happens or
    /// `deadline` (nanoseconds of CLOCK_BOOTTIME, [`NEVER`] for none) passes, and appends what
    /// happened. May return without events.
    ///
    /// The wait itself is measured while the machine is awake: after a suspend the turn may return
    /// as late as it would have without it, so whoever holds a lease reads [`boottime`] before
    /// acting on it.
    pub fn turn(&mut self, deadline: Nanos, events: &mut Vec<Event>) {
        self.counters.turns += 1;
        self.pool.reclaim();
        let now = boottime();
        self.expire(now);
        events.append(&mut self.ready);
        self.retry_stalled(events);
        self.serve_dirty(now, events);
        self.submit_transfers();
        let idle = events.is_empty() && self.ring.completion().is_empty();
        if idle && now < deadline && self.waker.fall_asleep() {
            let until = deadline.min(self.own_deadline());
            self.enter(Some(until.saturating_sub(now)));
        } else {
            self.enter(None);
        }
        let mail = self.waker.get_up();
        self.reap(events);
        self.drain_sockets(now, events);
        if mail {
            events.push(Event::Mail);
        }
        if deadline != NEVER && boottime() >= deadline {
            events.push(Event::Timer);
        }
    }
}

impl Reactor {
    /// Receives on where a buffer ended before the socket did, so that requests which were sent together
    /// are seen together: cut in two, they would cost two journal batches, one after the other.
    fn drain_sockets(&mut self, now: Nanos, events: &mut Vec<Event>) {
        for _ in 0..DRAINS {
            if !std::mem::take(&mut self.more_waiting) {
                return;
            }
            self.serve_dirty(now, events);
            self.enter(None);
            self.reap(events);
        }
    }
}

fn slot_of(conn: ConnId) -> usize {
    (conn.0 & 0xffff_ffff) as usize
}
