//! A file on ext4 on a block device, against a copy in memory: reads, writes, truncations, holes, zeroes, direct I/O, and
//! caches dropped in between, as `fsx` does it, while the daemon behind the device is killed now and then.
//!
//! `LOCKSTEP_EXERCISE`: for so many seconds, 20 by default. `LOCKSTEP_SEED`: with these dice.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use e2e::Cluster;
use e2e::device::{Mounted, possible, run, text};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};

/// O_DIRECT.
const DIRECT: i32 = 0o40000;
/// Bytes of the longest file.
const LONGEST: u64 = 8 << 20;
/// Bytes of the longest operation.
const STRETCH: u64 = 256 << 10;
const BLOCK: usize = 4096;
/// Between two kills of the daemon.
const KILL: Duration = Duration::from_secs(7);
/// Operations between two looks at the whole file.
const LOOK: u64 = 2000;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// The file, and what it must be.
struct Exercise {
    cached: File,
    direct: File,
    model: Vec<u8>,
    dice: Dice,
    done: u64,
    last: String,
}

impl Exercise {
    fn new(path: &Path, seed: u64) -> Self {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let cached = options.open(path).expect("a file");
        let direct = options.custom_flags(DIRECT).open(path).expect("a file");
        Self {
            cached,
            direct,
            model: Vec::new(),
            dice: Dice(seed),
            done: 0,
            last: String::new(),
        }
    }

    fn step(&mut self) {
        let at = self.dice.roll(LONGEST - STRETCH);
        let length = 1 + self.dice.roll(STRETCH);
        let which = self.dice.roll(100);
        self.last = format!("operation {} ({which}) at {at}, {length} bytes", self.done);
        self.done += 1;
        match which {
            0..30 => self.write(at, length),
            30..45 => self.write_directly(at, length),
            45..65 => self.read(at, length),
            65..75 => self.read_directly(at, length),
            75..82 => self.punch(at, length),
            82..88 => self.zero(at, length),
            88..93 => self.truncate(at),
            93..96 => self.cached.sync_data().expect("synced"),
            96..98 => self.drop_cache(),
            _ => self.allocate(at, length),
        }
        if self.done.is_multiple_of(LOOK) {
            self.look_at_all();
        }
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        let (mut byte, step) = (self.dice.roll(256) as u8, self.dice.roll(256) as u8 | 1);
        let next = |_| {
            byte = byte.wrapping_mul(5).wrapping_add(step);
            byte
        };
        (0..length).map(next).collect()
    }

    /// The range in the model, which grows to hold it, with zeroes.
    fn range(&mut self, at: u64, length: u64) -> &mut [u8] {
        let end = (at + length) as usize;
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        &mut self.model[at as usize..end]
    }

    fn write(&mut self, at: u64, length: u64) {
        let bytes = self.bytes(length);
        self.cached.write_all_at(&bytes, at).expect("written");
        self.range(at, length).copy_from_slice(&bytes);
    }

    fn write_directly(&mut self, at: u64, length: u64) {
        let (at, length) = aligned(at, length);
        let bytes = self.bytes(length);
        with_aligned(length as usize, |buffer| {
            buffer.copy_from_slice(&bytes);
            self.direct.write_all_at(buffer, at).expect("written");
        });
        self.range(at, length).copy_from_slice(&bytes);
    }

    fn read(&mut self, at: u64, length: u64) {
        let length = length.min((self.model.len() as u64).saturating_sub(at));
        let mut found = vec![0; length as usize];
        self.cached.read_exact_at(&mut found, at).expect("read");
        self.compare(at, &found);
    }

    fn read_directly(&mut self, at: u64, length: u64) {
        let (at, length) = aligned(at, length);
        let there = (self.model.len() as u64).saturating_sub(at).min(length);
        let found = with_aligned(length as usize, |buffer| {
            let read = self.direct.read_at(buffer, at).expect("read");
            assert_eq!(read as u64, there, "{}", self.last);
            buffer[..read].to_vec()
        });
        self.compare(at, &found);
    }

    fn punch(&mut self, at: u64, length: u64) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.cached, flags, at, length).expect("punched");
        let there = (self.model.len() as u64).saturating_sub(at).min(length);
        if there > 0 {
            self.range(at, there).fill(0);
        }
    }

    fn zero(&mut self, at: u64, length: u64) {
        fallocate(&self.cached, FallocateFlags::ZERO_RANGE, at, length).expect("zeroed");
        self.range(at, length).fill(0);
    }

    fn truncate(&mut self, length: u64) {
        self.cached.set_len(length).expect("truncated");
        self.model.resize(length as usize, 0);
    }

    fn allocate(&mut self, at: u64, length: u64) {
        fallocate(&self.cached, FallocateFlags::empty(), at, length).expect("allocated");
        self.range(at, length);
    }

    fn drop_cache(&mut self) {
        self.cached.sync_data().expect("synced");
        fadvise(&self.cached, 0, None, Advice::DontNeed).expect("dropped");
    }

    fn look_at_all(&mut self) {
        self.drop_cache();
        let size = self.cached.metadata().expect("metadata").len();
        assert_eq!(size, self.model.len() as u64, "{}", self.last);
        let mut found = vec![0; self.model.len()];
        self.cached.read_exact_at(&mut found, 0).expect("read");
        self.compare(0, &found);
    }

    fn compare(&self, at: u64, found: &[u8]) {
        let wanted = self.model.get(at as usize..).unwrap_or_default();
        if let Some(first) = found
            .iter()
            .zip(wanted)
            .position(|(found, wanted)| found != wanted)
        {
            panic!(
                "{}: byte {} is {}, and not {}",
                self.last,
                at as usize + first,
                found[first],
                wanted[first]
            );
        }
    }
}

/// Whole blocks, at least one.
fn aligned(at: u64, length: u64) -> (u64, u64) {
    let block = BLOCK as u64;
    (at / block * block, length.next_multiple_of(block))
}

/// A buffer that direct I/O takes.
fn with_aligned<T>(length: usize, run: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut buffer = vec![0; length + BLOCK];
    let skip = buffer.as_ptr().align_offset(BLOCK);
    run(&mut buffer[skip..skip + length])
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn a_file_is_what_was_written_to_it_whatever_happens_to_the_daemon() {
    if !possible() {
        return;
    }
    let (seconds, seed) = (number("LOCKSTEP_EXERCISE", 20), number("LOCKSTEP_SEED", 1));
    let cluster = Cluster::up(1);
    cluster.good(&[
        "volume", "create", "file", "--size", "128MiB", "--copies", "*=1",
    ]);
    let device = cluster.attach_device("file", "a1");
    run("mkfs.ext4", &["-q", &text(&device)]);
    let mounted = Mounted::new(&device, "discard,errors=remount-ro");
    let mut exercise = Exercise::new(&mounted.path().join("file"), seed);
    let (begin, mut killed) = (Instant::now(), Instant::now());
    let (mut kills, mut daemons) = (0, Vec::<Child>::new());
    while begin.elapsed() < Duration::from_secs(seconds) {
        exercise.step();
        if killed.elapsed() > KILL {
            cluster.kill("a1");
            daemons.push(cluster.restart("a1"));
            daemons.retain_mut(|daemon| daemon.try_wait().expect("asked").is_none());
            (killed, kills) = (Instant::now(), kills + 1);
        }
    }
    exercise.look_at_all();
    println!(
        "seed {seed}: {} operations in {seconds} s, the daemon killed {kills} times, 0 errors, 0 wrong bytes",
        exercise.done
    );
    drop(exercise);
    mounted.unmount();
    run("e2fsck", &["-fn", &text(&device)]);
    cluster.good(&["volume", "detach", "file"]);
    cluster.down();
}
