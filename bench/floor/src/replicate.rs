//! The client: starts the three nodes, drives them at a depth, measures.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lockstep_floor::{cpu, disk};

use crate::Common;
use crate::files::{Aligned, BLOCK, Scatter, prepare};
use crate::node::{BUFFER, START, dial};
use crate::tls::{Socket, make_certificate};
use lockstep_floor::report::{Report, Run, Samples};

/// Options of `lockstep-floor replicate`.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Checksum payloads at the client and check them at every node.
    #[arg(long)]
    checksums: bool,
    /// The client comes over a Unix socket, as over a front-end, instead of TCP.
    #[arg(long)]
    unix: bool,
    /// Encrypt the links between primary and replicas as Lockstep does (TLS 1.3, AES-128-GCM).
    #[arg(long)]
    tls: bool,
    /// Network namespaces of primary, first and second replica, each with its address, e.g.
    /// a1=10.1.0.1,a2=10.1.0.2,b1=10.2.0.1. The client must come over a Unix socket then.
    #[arg(long, value_delimiter = ',', requires = "unix")]
    inside: Vec<Place>,
    /// CPUs for client, primary, first and second replica, e.g. 0,1,0,1.
    #[arg(long, value_delimiter = ',')]
    pin: Vec<usize>,
}

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// A network namespace, and the address that others reach it by.
#[derive(Clone, Debug)]
struct Place {
    namespace: String,
    address: IpAddr,
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=');
        let (namespace, address) = parts.ok_or("a place is NAMESPACE=ADDRESS")?;
        Ok(Self {
            namespace: namespace.into(),
            address: address
                .parse()
                .map_err(|error| format!("{address}: {error}"))?,
        })
    }
}

/// A child process that is ended when dropped.
struct Node {
    child: Child,
    address: SocketAddr,
}

/// A directory for one measurement's socket and certificate, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(common: &Common) -> anyhow::Result<Self> {
        let name = format!("lockstep-floor-{}", std::process::id());
        let path = std::path::absolute(common.dir.join(name))?;
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Measures and prints.
pub fn run(options: &Options) -> anyhow::Result<()> {
    measure(options)?.print(options.common.json)
}

fn measure(options: &Options) -> anyhow::Result<Report> {
    let common = &options.common;
    ensure!(
        common.depth > 0 && common.size > 0,
        "depth and size are at least 1"
    );
    ensure!(
        matches!(options.inside.len(), 0 | 3),
        "a place for each of the three nodes, or for none"
    );
    let paths = (0..3)
        .map(|index| prepare(&common.dir, index, common.size))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let scratch = Scratch::new(common)?;
    if options.tls {
        make_certificate(&scratch.0)?;
    }
    let unix = options.unix.then(|| scratch.0.join("primary.sock"));
    let [primary, first, second] = start(options, &paths, &scratch.0, unix.as_deref())?;
    if let Some(cpu) = options.pin.first().copied() {
        cpu::pin(cpu).with_context(|| format!("cannot run on CPU {cpu}"))?;
    }
    let nodes = [&primary, &first, &second];
    let phase = AtomicU8::new(WARMING);
    let blocks = common.size * (1 << 20) / BLOCK as u64;
    let (samples, time, used) = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..common.depth)
            .map(|lane| {
                let (phase, primary) = (&phase, &primary);
                let unix = unix.as_deref();
                scope.spawn(move || {
                    let socket = match unix {
                        Some(path) => Socket::Unix(UnixStream::connect(path)?),
                        None => Socket::Tcp(dial(primary.address)?),
                    };
                    drive(socket, lane, blocks, options.checksums, phase)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(1));
        let before = used_by(&nodes);
        let begin = Instant::now();
        phase.store(MEASURING, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(common.seconds));
        phase.store(OVER, Ordering::Relaxed);
        let time = begin.elapsed();
        let after = used_by(&nodes);
        let mut samples = Vec::new();
        for lane in lanes {
            samples.extend(lane.join().expect("a lane does not panic")?);
        }
        let (before, after) = (before?, after?);
        let used = (after.0 - before.0, after.1 - before.1);
        anyhow::Ok((Samples::new(samples), time, used))
    })?;
    let run = Run {
        what: describe(options),
        depth: common.depth,
        time,
        bytes: BLOCK,
        files: 1,
        cpu_nanos: used.0,
        written: used.1,
        cpu_of: "primary and both replicas; not the client",
        pinned: options.pin.clone(),
    };
    Ok(Report::new(run, &samples))
}

/// The primary and its two replicas, as processes.
fn start(
    options: &Options,
    paths: &[PathBuf],
    scratch: &Path,
    unix: Option<&Path>,
) -> anyhow::Result<[Node; 3]> {
    let node = |process: usize, replicas: &[SocketAddr], unix: Option<&Path>| {
        let place = options.inside.get(process);
        let mut command = inside(place)?;
        command
            .arg("node")
            .arg("--file")
            .arg(&paths[process])
            .arg("--lanes")
            .arg(options.common.depth.to_string());
        if let Some(place) = place {
            command.arg("--listen").arg(place.address.to_string());
        }
        if !replicas.is_empty() {
            let addresses: Vec<String> = replicas.iter().map(SocketAddr::to_string).collect();
            command.arg("--replicas").arg(addresses.join(","));
        }
        if let Some(cpu) = options.pin.get(process + 1) {
            command.arg("--pin").arg(cpu.to_string());
        }
        for (option, path) in [("--unix", unix), ("--tls", options.tls.then_some(scratch))] {
            if let Some(path) = path {
                command.arg(option).arg(path);
            }
        }
        Node::start(command, place)
    };
    let (first, second) = (node(1, &[], None)?, node(2, &[], None)?);
    let primary = node(0, &[first.address, second.address], unix)?;
    Ok([primary, first, second])
}

/// This program, in a place if one is given: `ip netns exec` becomes it, under the same process id.
fn inside(place: Option<&Place>) -> std::io::Result<Command> {
    let own = std::env::current_exe()?;
    Ok(match place {
        None => Command::new(own),
        Some(place) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &place.namespace]).arg(own);
            command
        }
    })
}

fn describe(options: &Options) -> String {
    let mut what = "replicate 4 KiB durable on 3 of 3 over TCP".to_owned();
    for (set, words) in [
        (options.tls, " and TLS"),
        (options.checksums, ", with checksums"),
        (options.unix, ", the client over a Unix socket"),
    ] {
        what.push_str(if set { words } else { "" });
    }
    what
}

/// One lane: a request at a time until it is over. The latencies of those begun while measuring.
fn drive(
    mut stream: Socket,
    lane: usize,
    blocks: u64,
    checksums: bool,
    phase: &AtomicU8,
) -> anyhow::Result<Vec<u64>> {
    let mut buffer = Aligned::new(BUFFER, lane as u8);
    buffer[START..BLOCK].fill(0);
    let mut scatter = Scatter::new(lane as u64 + 1);
    let mut samples = Vec::new();
    loop {
        let now = phase.load(Ordering::Relaxed);
        if now == OVER {
            return Ok(samples);
        }
        let begin = Instant::now();
        let offset = scatter.below(blocks) * BLOCK as u64;
        buffer[START..START + 8].copy_from_slice(&offset.to_le_bytes());
        buffer[BLOCK..BLOCK + 8].copy_from_slice(&(samples.len() as u64).to_le_bytes());
        if checksums {
            let crc = crc32c::crc32c(&buffer[BLOCK..]);
            buffer[START + 8..START + 12].copy_from_slice(&crc.to_le_bytes());
        }
        stream.write_all(&buffer[START..])?;
        let mut answer = [0; 8];
        stream
            .read_exact(&mut answer)
            .context("a node ended before its time")?;
        ensure!(
            u64::from_le_bytes(answer) == offset,
            "an answer to something else"
        );
        if now == MEASURING && phase.load(Ordering::Relaxed) == MEASURING {
            samples.push(begin.elapsed().as_nanos() as u64);
        }
    }
}

/// Processor time in nanoseconds and bytes written.
fn used_by(nodes: &[&Node]) -> anyhow::Result<(u64, u64)> {
    let mut sums = (0, 0);
    for node in nodes {
        let pid = node.child.id();
        sums.0 += cpu::used_by(pid).context("a node ended before its time")?;
        sums.1 += disk::written_by(pid)?;
    }
    Ok(sums)
}

impl Node {
    fn start(mut command: Command, place: Option<&Place>) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().expect("it is piped");
        let ip = place.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |place| place.address);
        let mut node = Self {
            child,
            address: SocketAddr::new(ip, 0),
        };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let port = line.trim().parse();
        node.address
            .set_port(port.context("a node did not start; see above")?);
        Ok(node)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Closing its input ends it; the wait leaves no zombie.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
