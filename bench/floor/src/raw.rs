//! What the disk itself gives: io_uring, registered buffers and file, one ring and thread a file.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use io_uring::{IoUring, opcode, squeue, types};
use lockstep_floor::{cpu, disk};

use crate::Common;
use crate::files::{Aligned, BLOCK, Scatter, prepare};
use lockstep_floor::report::{Report, Run, Samples};

/// Options of `lockstep-floor raw`.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Files used at once, each at `--depth`; throughput is given per file.
    #[arg(long, default_value_t = 1)]
    files: usize,
    /// Read instead of writing.
    #[arg(long)]
    read: bool,
    /// Bytes of a request, a multiple of 4096.
    #[arg(long, default_value_t = BLOCK)]
    block: usize,
    /// One request after the other instead of scattered.
    #[arg(long)]
    sequential: bool,
    /// Writes that are not durable when they return.
    #[arg(long)]
    no_sync: bool,
    /// The CPU to run on.
    #[arg(long)]
    pin: Option<usize>,
}

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// Measures and prints.
pub fn run(options: &Options) -> anyhow::Result<()> {
    measure(options)?.print(options.common.json)
}

fn measure(options: &Options) -> anyhow::Result<Report> {
    let common = &options.common;
    ensure!((1..=512).contains(&common.depth), "the depth is 1 to 512");
    ensure!(options.files > 0, "at least one file");
    let size = common.size * (1 << 20);
    ensure!(
        options.block > 0 && options.block.is_multiple_of(BLOCK) && options.block as u64 <= size,
        "a request is a multiple of 4096 bytes and at most the file"
    );
    if let Some(cpu) = options.pin {
        cpu::pin(cpu).with_context(|| format!("cannot run on CPU {cpu}"))?;
    }
    let paths = (0..options.files)
        .map(|index| prepare(&common.dir, index, common.size))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let phase = AtomicU8::new(WARMING);
    let (samples, time, cpu_nanos, written) = std::thread::scope(|scope| {
        let lanes: Vec<_> = paths
            .iter()
            .enumerate()
            .map(|(seed, path)| {
                let phase = &phase;
                scope.spawn(move || Lane::new(options, path, seed as u64 + 1)?.drive(phase))
            })
            .collect();
        let own = || cpu::used_by(std::process::id());
        std::thread::sleep(Duration::from_secs(1));
        let bytes = || disk::written_by(std::process::id());
        let (before, before_bytes, begin) = (own()?, bytes()?, Instant::now());
        phase.store(MEASURING, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(common.seconds));
        phase.store(OVER, Ordering::Relaxed);
        let (time, after, after_bytes) = (begin.elapsed(), own()?, bytes()?);
        let mut samples = Vec::new();
        for lane in lanes {
            samples.extend(lane.join().expect("a lane does not panic")?);
        }
        let written = after_bytes - before_bytes;
        anyhow::Ok((Samples::new(samples), time, after - before, written))
    })?;
    let run = Run {
        what: describe(options),
        depth: common.depth,
        time,
        bytes: options.block,
        files: options.files as u64,
        cpu_nanos,
        cpu_of: "this process",
        written,
        pinned: options.pin.into_iter().collect(),
    };
    Ok(Report::new(run, &samples))
}

fn describe(options: &Options) -> String {
    let order = if options.sequential {
        "sequential"
    } else {
        "random"
    };
    let action = match (options.read, options.no_sync) {
        (true, _) => "read",
        (false, true) => "write without sync",
        (false, false) => "durable write",
    };
    let files = match options.files {
        1 => "one file".to_owned(),
        n => format!("{n} files at once, per file"),
    };
    format!("raw {} B {order} {action}, {files}", options.block)
}

/// One file, one ring, `depth` buffers.
struct Lane<'a> {
    options: &'a Options,
    ring: IoUring,
    /// Behind slot 0 of the registered files.
    _file: File,
    buffers: Vec<Aligned>,
    scatter: Scatter,
    next: u64,
}

impl<'a> Lane<'a> {
    fn new(options: &'a Options, path: &Path, seed: u64) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .with_context(|| format!("cannot open {} for direct I/O", path.display()))?;
        let depth = options.common.depth;
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(depth.next_power_of_two() as u32)
            .context("io_uring with deferred task work needs Linux 6.1")?;
        let mut buffers: Vec<Aligned> = (0..depth)
            .map(|i| Aligned::new(options.block, i as u8))
            .collect();
        let iovecs: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|b| libc::iovec {
                iov_base: b.as_mut_ptr().cast(),
                iov_len: b.len(),
            })
            .collect();
        // SAFETY: the buffers are fields of the lane, beside the ring, and their memory is not
        // moved or freed before `drive` has seen every request complete.
        unsafe { ring.submitter().register_buffers(&iovecs) }
            .context("cannot register the buffers; raise the memlock limit (ulimit -l)")?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        let scatter = Scatter::new(seed);
        Ok(Self {
            options,
            ring,
            _file: file,
            buffers,
            scatter,
            next: 0,
        })
    }

    fn drive(mut self, phase: &AtomicU8) -> anyhow::Result<Vec<u64>> {
        let depth = self.options.common.depth;
        let mut begun = vec![(Instant::now(), WARMING); depth];
        let mut samples = Vec::new();
        let mut idle: Vec<usize> = (0..depth).collect();
        loop {
            let now = phase.load(Ordering::Relaxed);
            if now != OVER {
                for slot in idle.drain(..) {
                    let entry = self.request(slot);
                    // SAFETY: the request points into buffer `slot`, which is neither moved nor
                    // used before its completion makes the slot idle again.
                    unsafe { self.ring.submission().push(&entry) }.expect("an entry a slot");
                    begun[slot] = (Instant::now(), now);
                }
            } else if idle.len() == depth {
                return Ok(samples);
            }
            self.ring.submit_and_wait(1)?;
            for completion in self.ring.completion() {
                let slot = completion.user_data() as usize;
                let done = completion.result();
                ensure!(
                    done == self.options.block as i32,
                    "a request ended with {done}: {}",
                    std::io::Error::from_raw_os_error(-done.min(0))
                );
                let (begin, began_in) = begun[slot];
                if began_in == MEASURING && phase.load(Ordering::Relaxed) == MEASURING {
                    samples.push(begin.elapsed().as_nanos() as u64);
                }
                idle.push(slot);
            }
        }
    }

    fn request(&mut self, slot: usize) -> squeue::Entry {
        let options = self.options;
        let places = options.common.size * (1 << 20) / options.block as u64;
        let place = if options.sequential {
            self.next += 1;
            (self.next - 1) % places
        } else {
            self.scatter.below(places)
        };
        let offset = place * options.block as u64;
        let (file, length) = (types::Fixed(0), options.block as u32);
        let buffer = &mut self.buffers[slot];
        let entry = if options.read {
            opcode::ReadFixed::new(file, buffer.as_mut_ptr(), length, slot as u16)
                .offset(offset)
                .build()
        } else {
            let sync = if options.no_sync { 0 } else { libc::RWF_DSYNC };
            opcode::WriteFixed::new(file, buffer.as_ptr(), length, slot as u16)
                .offset(offset)
                .rw_flags(sync)
                .build()
        };
        entry.user_data(slot as u64)
    }
}

impl Drop for Lane<'_> {
    /// After a failure requests may be in flight, and their buffers must outlive them; the process
    /// ends soon after either way.
    fn drop(&mut self) {
        for buffer in self.buffers.drain(..) {
            std::mem::forget(buffer);
        }
    }
}
