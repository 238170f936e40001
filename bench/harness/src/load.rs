//! A load of one NBD connection at a fixed depth, one thread, one write to the socket for all
//! requests that a read of it made possible.

use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use lockstep_floor::report::{Report, Run, Samples};
use lockstep_floor::{cpu, disk};
use lockstep_nbd::client::{Connection, Content, Event, Options as Export};
use lockstep_nbd::{Flags, Op, Payload};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::interrupt;

/// Bytes read from the socket at a time.
const CHUNK: usize = 256 << 10;
/// Without an answer for so long the measurement ends in an error.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a wait for an answer looks whether the process was asked to end.
const LOOK: Duration = Duration::from_millis(250);

/// Options of `lockstep-bench load`.
#[derive(clap::Args)]
pub struct Options {
    /// The Unix socket of the export.
    #[arg(long)]
    socket: PathBuf,
    /// Its name; empty for the default one.
    #[arg(long, default_value = "")]
    export: String,
    /// Processes whose processor time is counted.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    #[command(flatten)]
    workload: Workload,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// What is asked of the export.
#[derive(clap::Args, Clone, Debug)]
pub struct Workload {
    /// Requests in flight.
    #[arg(long, default_value_t = 1)]
    pub depth: usize,
    /// Seconds measured.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 1.0)]
    pub warm: f64,
    /// Bytes of a request, a multiple of 4096.
    #[arg(long, default_value_t = 4096)]
    pub block: u32,
    /// Bytes of the volume that are used, from its beginning; all of it when not given.
    #[arg(long)]
    pub range: Option<u64>,
    /// Percent of the requests that read; the others write.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub reads: u8,
    /// A flush after every write, and the time of both is the latency: a database's log.
    #[arg(long)]
    pub sync: bool,
    /// Ask for every write to be durable by itself (FUA), where the server offers that: ours are anyway.
    #[arg(long)]
    pub fua: bool,
    /// One request after the other instead of scattered; ends after one pass if so asked.
    #[arg(long)]
    pub sequential: bool,
    /// Requests a second, evenly spaced; as many as go when not given. The latency of one that could not
    /// be sent when it was due counts from then.
    #[arg(long)]
    pub rate: Option<f64>,
}

/// Measures and prints.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut client = Client::connect(&options.socket, &options.export)?;
    client
        .drive(&options.workload, &options.pids)?
        .print(options.json)
}

/// What a socket can do, of whichever kind.
trait Stream: Read + Write + AsFd + Send {}
impl Stream for UnixStream {}
impl Stream for TcpStream {}

/// What was driven.
pub struct Driven {
    /// Latencies in nanoseconds.
    pub samples: Vec<u64>,
    /// How long.
    pub time: Duration,
    /// Processor time in nanoseconds.
    pub cpu_nanos: u64,
    /// Bytes written to disks.
    pub written: u64,
}

/// A connection that is measured with.
pub struct Client {
    stream: Box<dyn Stream>,
    connection: Connection,
    /// Bytes of the export.
    pub size: u64,
    flags: u16,
    buffer: BytesMut,
    events: Vec<Event>,
    /// Requests to be written.
    outgoing: Vec<Bytes>,
    content: Bytes,
    dice: u64,
    next: u64,
    begun: HashMap<u64, Begun>,
}

/// A request in flight.
#[derive(Clone, Copy)]
struct Begun {
    at: Instant,
    /// A flush is to follow, and counts with it.
    then_flush: bool,
}

impl Client {
    /// Connects to a Unix socket and agrees on the export.
    pub fn connect(socket: &Path, export: &str) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("nothing serves at {}", socket.display()))?;
        stream.set_read_timeout(Some(LOOK))?;
        Self::agree(Box::new(stream), export)
    }

    /// Connects to `HOST:PORT`.
    pub fn connect_tcp(address: &str, export: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)
            .with_context(|| format!("nothing serves NBD at {address}"))?;
        stream.set_read_timeout(Some(LOOK))?;
        // Without it a request waits for the acknowledgement of the one before: 40 ms.
        stream.set_nodelay(true)?;
        Self::agree(Box::new(stream), export)
    }

    fn agree(stream: Box<dyn Stream>, export: &str) -> anyhow::Result<Self> {
        let mut client = Self {
            stream,
            connection: Connection::new(Export::new(export)),
            size: 0,
            flags: 0,
            buffer: BytesMut::new(),
            events: Vec::new(),
            outgoing: Vec::new(),
            content: content(),
            dice: 0x9e37_79b9_7f4a_7c15,
            next: 0,
            begun: HashMap::new(),
        };
        while client.size == 0 {
            client.receive()?;
            for event in std::mem::take(&mut client.events) {
                match event {
                    Event::Send(parts) => client.outgoing.extend(parts),
                    Event::Ready(export) => {
                        ensure!(export.size > 0, "the export holds no bytes");
                        (client.size, client.flags) = (export.size, export.flags);
                    }
                    Event::Reply(_) => bail!("a reply before any request"),
                }
            }
            client.flush()?;
        }
        Ok(client)
    }

    /// Whether the server makes a write durable that asks for it.
    pub fn offers_fua(&self) -> bool {
        const SEND_FUA: u16 = 1 << 3;
        self.flags & SEND_FUA != 0
    }

    /// Whether the server refuses writes.
    pub fn is_read_only(&self) -> bool {
        const READ_ONLY: u16 = 1 << 1;
        self.flags & READ_ONLY != 0
    }

    /// The bytes that lie there.
    pub fn read_at(&mut self, offset: u64, length: u32) -> anyhow::Result<Bytes> {
        ensure!(self.begun.is_empty(), "other requests are under way");
        let parts = Payload::new();
        let flags = Flags::default();
        let (_, parts) = self
            .connection
            .submit(Op::Read, offset, length, flags, parts);
        self.outgoing.extend(parts);
        self.flush()?;
        loop {
            self.receive()?;
            if let Some(event) = self.events.pop() {
                let Event::Reply(reply) = event else {
                    bail!("something that is no reply");
                };
                let content = reply.result.context("the server answered with an error")?;
                let Content::Data(bytes) = content else {
                    bail!("a read was answered without bytes");
                };
                return Ok(bytes);
            }
        }
    }

    /// Writes every block of the first `range` bytes once, so that all of it is allocated.
    pub fn fill(&mut self, range: u64) -> anyhow::Result<()> {
        const PIECE: u32 = 256 << 10;
        self.next = 0;
        let fill = Workload {
            depth: 8,
            seconds: 0.0,
            warm: 0.0,
            block: PIECE,
            range: Some(range),
            reads: 0,
            sync: false,
            fua: false,
            sequential: true,
            rate: None,
        };
        let pieces = range.min(self.size) / u64::from(PIECE);
        let (mut sent, mut done) = (0, 0);
        while done < pieces {
            interrupt::check()?;
            while sent < pieces && self.begun.len() < fill.depth {
                self.submit(&fill, Instant::now());
                sent += 1;
            }
            self.flush()?;
            self.replies(None, |_| done += 1)?;
        }
        self.next = 0;
        Ok(())
    }

    /// Drives the workload; processor time is that of `pids`.
    pub fn drive(&mut self, workload: &Workload, pids: &[u32]) -> anyhow::Result<Report> {
        Ok(self.measure(workload, pids, || false)?.report(workload))
    }

    /// Drives the workload until its time is up or `over` says so.
    pub fn measure(
        &mut self,
        workload: &Workload,
        pids: &[u32],
        mut over: impl FnMut() -> bool,
    ) -> anyhow::Result<Driven> {
        workload.check()?;
        let start = Instant::now();
        let warm = Duration::from_secs_f64(workload.warm);
        let end = warm + Duration::from_secs_f64(workload.seconds);
        let mut samples = Vec::new();
        let mut before = None;
        let mut measured_from = start;
        let mut sent = 0u64;
        loop {
            let now = start.elapsed();
            if now >= end || over() {
                break;
            }
            interrupt::check()?;
            if before.is_none() && now >= warm {
                before = Some(used_by(pids)?);
                measured_from = Instant::now();
                samples.clear();
            }
            let mut until = None;
            while self.begun.len() < workload.depth {
                let due = workload.due(sent, start);
                if due > Instant::now() {
                    until = Some(due);
                    break;
                }
                self.submit(workload, due);
                sent += 1;
            }
            self.flush()?;
            self.replies(until, |nanos| samples.push(nanos))?;
        }
        let time = measured_from.elapsed();
        let after = used_by(pids)?;
        let before = before.unwrap_or(after);
        self.drain()?;
        Ok(Driven {
            samples,
            time,
            cpu_nanos: after.0 - before.0,
            written: after.1 - before.1,
        })
    }

    /// Drives the workload until `over` says so, and tells when each request completed, in nanoseconds
    /// since `start`.
    pub fn complete(
        &mut self,
        workload: &Workload,
        start: Instant,
        over: impl Fn() -> bool,
    ) -> anyhow::Result<Vec<u64>> {
        workload.check()?;
        let mut completed = Vec::new();
        while !over() {
            interrupt::check()?;
            while self.begun.len() < workload.depth {
                self.submit(workload, Instant::now());
            }
            self.flush()?;
            self.replies(None, |_| completed.push(start.elapsed().as_nanos() as u64))?;
        }
        self.drain()?;
        Ok(completed)
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        while !self.begun.is_empty() {
            self.flush()?;
            self.replies(None, |_| ())?;
        }
        Ok(())
    }

    /// `due` is when it should have gone.
    fn submit(&mut self, workload: &Workload, due: Instant) {
        let places = workload.range.unwrap_or(self.size).min(self.size) / u64::from(workload.block);
        let place = if workload.sequential {
            self.next += 1;
            (self.next - 1) % places
        } else {
            ((u128::from(self.roll()) * u128::from(places)) >> 64) as u64
        };
        // Bits that the place, drawn from the high ones, does not show.
        let reads = workload.reads == 100
            || (workload.reads > 0 && self.roll() % 100 < u64::from(workload.reads));
        let (op, payload) = if reads {
            (Op::Read, Payload::new())
        } else {
            let from = (self.dice as usize) & (content::SPREAD - 1);
            let bytes = self.content.slice(from..from + workload.block as usize);
            (Op::Write, Payload::from(bytes))
        };
        let begun = Begun {
            at: due,
            then_flush: workload.sync && op == Op::Write,
        };
        let offset = place * u64::from(workload.block);
        let flags = Flags {
            fua: workload.fua && op == Op::Write && self.offers_fua(),
            ..Flags::default()
        };
        self.send(op, offset, workload.block, flags, payload, begun);
    }

    fn send(
        &mut self,
        op: Op,
        offset: u64,
        length: u32,
        flags: Flags,
        payload: Payload,
        begun: Begun,
    ) {
        let (cookie, parts) = self.connection.submit(op, offset, length, flags, payload);
        self.begun.insert(cookie, begun);
        self.outgoing.extend(parts);
    }

    /// xorshift64*
    fn roll(&mut self) -> u64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        self.dice.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Waits for bytes, or until then, and tells the latency of every request they answer.
    fn replies(&mut self, until: Option<Instant>, mut each: impl FnMut(u64)) -> anyhow::Result<()> {
        if !self.is_readable_before(until)? {
            return Ok(());
        }
        self.receive()?;
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            let Event::Reply(reply) = event else {
                bail!("something that is no reply");
            };
            reply.result.context("the server answered with an error")?;
            let begun = self.begun.remove(&reply.cookie);
            let begun = begun.context("a reply to nothing that was asked")?;
            if begun.then_flush {
                let then_flush = false;
                let flush = Begun {
                    then_flush,
                    ..begun
                };
                self.send(Op::Flush, 0, 0, Flags::default(), Payload::new(), flush);
            } else {
                each(begun.at.elapsed().as_nanos() as u64);
            }
        }
        self.events = events;
        Ok(())
    }

    /// False when the time comes first.
    fn is_readable_before(&self, until: Option<Instant>) -> anyhow::Result<bool> {
        let Some(until) = until else {
            return Ok(true);
        };
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("a rate of one request in centuries")?;
        let mut polled = [PollFd::new(&self.stream, PollFlags::IN)];
        match poll(&mut polled, Some(&left)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        self.buffer.resize(CHUNK, 0);
        let begin = Instant::now();
        let got = loop {
            match self.stream.read(&mut self.buffer) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    interrupt::check()?;
                    ensure!(
                        begin.elapsed() < PATIENCE,
                        "the server has not answered for {PATIENCE:?}"
                    );
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => (),
                got => break got?,
            }
        };
        ensure!(got > 0, "the server closed the connection");
        let bytes = self.buffer.split_to(got).freeze();
        self.connection.receive(bytes, &mut self.events)?;
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let parts = std::mem::take(&mut self.outgoing);
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            let most = left.len().min(1024);
            let sent = self.stream.write_vectored(&left[..most])?;
            ensure!(sent > 0, "the server takes nothing more");
            IoSlice::advance_slices(&mut left, sent);
        }
        self.outgoing = parts;
        self.outgoing.clear();
        Ok(())
    }
}

impl Workload {
    /// When the request after so many is to go.
    fn due(&self, sent: u64, start: Instant) -> Instant {
        match self.rate {
            Some(rate) => start + Duration::from_secs_f64(sent as f64 / rate),
            None => Instant::now(),
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.depth > 0 && self.block > 0 && self.block.is_multiple_of(4096),
            "the depth is at least 1, a request a multiple of 4096 bytes"
        );
        ensure!(
            self.rate.is_none_or(|rate| rate > 0.0 && rate.is_finite()),
            "a rate is more than 0"
        );
        Ok(())
    }
}

impl Driven {
    /// As figures.
    pub fn report(self, workload: &Workload) -> Report {
        let run = Run {
            what: describe(workload),
            depth: workload.depth,
            time: self.time,
            bytes: workload.block as usize,
            files: 1,
            cpu_nanos: self.cpu_nanos,
            written: self.written,
            cpu_of: "all daemons; not the client",
            pinned: Vec::new(),
        };
        Report::new(run, &Samples::new(self.samples))
    }
}

/// Bytes that do not compress, from which every request takes a window. All connections share them.
fn content() -> Bytes {
    static ONCE: OnceLock<Bytes> = OnceLock::new();
    ONCE.get_or_init(make_content).clone()
}

fn make_content() -> Bytes {
    let mut state = 1u64;
    let words = (4 << 20) / 8 + content::SPREAD / 8;
    let bytes = (0..words).flat_map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state ^ (state >> 29)).to_le_bytes()
    });
    bytes.collect::<Vec<u8>>().into()
}

mod content {
    /// Where a window may begin.
    pub const SPREAD: usize = 64 << 10;
}

/// Processor time in nanoseconds and bytes written.
pub fn used_by(pids: &[u32]) -> anyhow::Result<(u64, u64)> {
    let mut sums = (0, 0);
    for pid in pids {
        sums.0 += cpu::used_by(*pid).with_context(|| format!("process {pid} is gone"))?;
        sums.1 += disk::written_by(*pid)?;
    }
    Ok(sums)
}

fn describe(workload: &Workload) -> String {
    let order = if workload.sequential {
        "sequential"
    } else {
        "random"
    };
    let action = match (workload.reads, workload.sync) {
        (100, _) => "read".to_owned(),
        (0, false) => "durable write".to_owned(),
        (0, true) => "write and flush".to_owned(),
        (reads, _) => format!("{reads} % reads, the rest durable writes"),
    };
    format!("NBD {} B {order} {action}", workload.block)
}
