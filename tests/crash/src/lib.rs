//! A workload on a real daemon whose disk is recorded, change by change, and what a client knew at
//! each of them: enough to say, for a power cut at any moment, what must be there afterwards.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use faultfs::{Cut, FaultFs, Recording};
use lockstep_load::{Action, Generator, Operation, Oracle, Profile};
use lockstep_nbd::Flags;
use lockstep_nbd::client::{Blocking, ClientError, Options};
use lockstep_types::{BLOCK, BlockRange, VolumeId};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// What was done to a volume while its disk was recorded.
#[derive(Debug)]
pub struct History {
    volume: VolumeId,
    blocks: u64,
    /// In order; the number is how many changes the disk had seen.
    events: Vec<(usize, Event)>,
}

#[derive(Clone, Debug)]
enum Event {
    Begun(Operation),
    Acknowledged(u64),
}

struct Shared<'a> {
    disk: &'a FaultFs,
    oracle: Oracle,
    generator: Generator,
    history: History,
    left: u32,
}

/// Runs `operations` writes, discards, zeroes and flushes on `lanes` connections while the disk is
/// recorded.
///
/// # Panics
/// If one fails: nothing is wrong with the disk.
pub fn run(
    socket: &Path,
    disk: &FaultFs,
    volume: VolumeId,
    blocks: u64,
    (lanes, operations, seed): (u32, u32, u64),
) -> (History, Recording) {
    let profile = Profile {
        longest: 24,
        weights: [0, 78, 8, 8, 6],
        ..Profile::new(blocks)
    };
    let shared = Mutex::new(Shared {
        disk,
        oracle: Oracle::new(volume, blocks),
        generator: Generator::new(seed, profile),
        history: History {
            volume,
            blocks,
            events: Vec::new(),
        },
        left: operations,
    });
    disk.record();
    std::thread::scope(|scope| {
        for number in 0..lanes {
            let shared = &shared;
            scope.spawn(move || lane(number, socket, volume, shared));
        }
    });
    let recording = disk.take_recording();
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    (shared.history, recording)
}

fn lane(number: u32, socket: &Path, volume: VolumeId, shared: &Mutex<Shared<'_>>) {
    let mut client = Blocking::connect_unix(socket, Options::new(""), ANSWER).expect("connected");
    loop {
        // Not in a `while let`, which would hold the lock for the whole turn.
        let next = lock(shared).begin(number);
        let Some(operation) = next else { return };
        let done = perform(&mut client, volume, &operation);
        done.expect("a sound disk's volume serves");
        lock(shared).acknowledge(operation);
    }
}

fn lock<'a, 'b>(shared: &'a Mutex<Shared<'b>>) -> MutexGuard<'a, Shared<'b>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared<'_> {
    fn begin(&mut self, client: u32) -> Option<Operation> {
        self.left = self.left.checked_sub(1)?;
        let action = self.generator.next(|_| false).expect("overlap is allowed");
        let operation = self.oracle.begin(client, action);
        // Before it is sent: a cut up to here cannot know of it.
        let event = (self.disk.recorded(), Event::Begun(operation.clone()));
        self.history.events.push(event);
        Some(operation)
    }

    fn acknowledge(&mut self, operation: Operation) {
        // After it was answered: a cut from here on must have it.
        let event = (self.disk.recorded(), Event::Acknowledged(operation.number));
        self.history.events.push(event);
        self.oracle.acknowledge(operation);
    }
}

impl History {
    /// The client's knowledge when the power went: what was acknowledged must be there, what was
    /// under way may be, what came later must not.
    pub fn oracle(&self, cut: Cut) -> Oracle {
        let mut oracle = Oracle::new(self.volume, self.blocks);
        let mut under_way = std::collections::BTreeMap::new();
        for (changes, event) in &self.events {
            if *changes > cut.returned() {
                break;
            }
            match event {
                Event::Begun(operation) => {
                    let again = oracle.begin(operation.client, operation.action);
                    assert_eq!(again.number, operation.number, "the same order");
                    under_way.insert(again.number, again);
                }
                Event::Acknowledged(number) => {
                    oracle.acknowledge(under_way.remove(number).expect("it has begun"));
                }
            }
        }
        for (_, operation) in under_way {
            oracle.fail(operation);
        }
        oracle
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }
}

/// Reads everything that was ever written, twice, and has it judged; then writes and reads once
/// more, for a volume that only reads has lost something too.
///
/// # Errors
/// What is wrong, in words.
pub fn examine(socket: &Path, history: &History, mut oracle: Oracle) -> Result<u64, String> {
    let words = |error: ClientError| format!("the volume does not serve: {error}");
    let mut client = Blocking::connect_unix(socket, Options::new(""), ANSWER).map_err(words)?;
    oracle.fence();
    for _ in 0..2 {
        for range in oracle.written(64) {
            let operation = oracle.begin(u32::MAX, Action::Read(range));
            let (offset, length) = place(range);
            let bytes = client.read(offset, length).map_err(words)?;
            let judged = oracle.verify_read(operation, &bytes);
            judged.map_err(|violation| violation.to_string())?;
        }
    }
    let range = BlockRange::new(0, 3);
    for action in [Action::Write(range), Action::Read(range)] {
        let operation = oracle.begin(u32::MAX, action);
        if let Action::Read(_) = action {
            let (offset, length) = place(range);
            let bytes = client.read(offset, length).map_err(words)?;
            let judged = oracle.verify_read(operation, &bytes);
            judged.map_err(|violation| violation.to_string())?;
        } else {
            perform(&mut client, history.volume(), &operation).map_err(words)?;
            oracle.acknowledge(operation);
        }
    }
    Ok(oracle.counts().verified_blocks)
}

fn place(range: BlockRange) -> (u64, u32) {
    (range.start * BLOCK as u64, range.bytes() as u32)
}

fn perform(
    client: &mut Blocking,
    volume: VolumeId,
    operation: &Operation,
) -> Result<(), ClientError> {
    match operation.action {
        Action::Read(_) => panic!("reads are judged where they are made"),
        Action::Write(range) => client.write(place(range).0, operation.payload(volume)),
        Action::Discard(range) => client.trim(place(range).0, place(range).1),
        Action::Zeroes(range) => {
            client.write_zeroes(place(range).0, place(range).1, Flags::default())
        }
        Action::Flush => client.flush(),
    }
}
